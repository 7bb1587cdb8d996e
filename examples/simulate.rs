//! Runs many simulated worlds.
use oarlock::simulation::{Options, Report, Swaps, World};
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let (first, runs, steps) = (args[0], args[1], args[2]);
    let begun = std::time::Instant::now();
    let mut sum = Report::default();
    let mut bad = 0;
    if runs > 1 {
        std::panic::set_hook(Box::new(|_| {}));
    }
    for seed in first..first + runs {
        let options = Options { steps, ..Options::swarm(seed) };
        if args.len() > 3 {
            let (r, text) = World::run_traced(options, Swaps::new(seed % 2 == 0), args[3] as usize);
            println!("{text}{r:?}");
            continue;
        }
        match World::run(options, Swaps::new(seed % 2 == 0)) {
            Ok(report) => sum.add(&report),
            Err(broken) => {
                bad += 1;
                println!("seed {seed}: {broken}");
            }
        }
    }
    let secs = begun.elapsed().as_secs_f64();
    println!("{sum}\n{bad} bad, {:.0} events/s", sum.events as f64 / secs);
}
