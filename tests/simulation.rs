//! Whole nodes under loss, delay, reordering and crashes, each run drawn from one seed.

use oarlock::simulation::{Options, Report, World};

fn run(seed: u64, steps: u64) -> Report {
    World::run(Options::swarm(seed), steps).unwrap_or_else(|broken| {
        panic!(
            "{broken}\nto see it again: OARLOCK_SEED={seed} OARLOCK_SEEDS=1 OARLOCK_STEPS={steps} \
             cargo test --test simulation many_worlds"
        )
    })
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn many_worlds_keep_every_promise() {
    let first = setting("OARLOCK_SEED", 0);
    let steps = setting("OARLOCK_STEPS", 5_000);
    let mut sum = Report::default();
    for seed in first..first + setting("OARLOCK_SEEDS", 60) {
        let report = run(seed, steps);
        sum.crashes += report.crashes;
        sum.faults += report.faults;
        sum.repeated += report.repeated;
        sum.lost += report.lost;
        sum.leaders += report.leaders;
        sum.acknowledged += report.acknowledged;
        sum.refused += report.refused;
        sum.unknown += report.unknown;
        sum.reads += report.reads;
    }
    println!("{sum:?}");
    // A world in which nothing happens shows nothing.
    if setting("OARLOCK_SEEDS", 60) >= 60 {
        let happened = [
            sum.crashes,
            sum.lost,
            sum.leaders,
            sum.acknowledged,
            sum.refused,
            sum.unknown,
            sum.reads,
        ];
        assert!(sum.faults > 10, "{sum:?}");
        assert!(happened.iter().all(|&count| count > 100), "{sum:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1000..1005 {
        assert_eq!(run(seed, 3_000), run(seed, 3_000), "seed {seed}");
    }
}
