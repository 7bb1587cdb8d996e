//! Whole nodes under the simulator: seeds that gate, and what the simulator promises of itself.

use oarlock::simulation::{Options, Report, Swaps, World};

fn run(seed: u64, steps: u64) -> Report {
    let options = Options { steps, ..Options::swarm(seed) };
    World::run(options, Swaps::new(seed.is_multiple_of(2)))
        .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"))
}

#[test]
fn many_worlds_keep_every_promise() {
    let mut sum = Report::default();
    for seed in 0..60 {
        sum.add(&run(seed, 5000));
    }
    println!("{sum}");
}
