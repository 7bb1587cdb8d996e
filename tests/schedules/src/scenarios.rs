//! The scenarios, and how a checker goes through the schedules of one.

use std::env;
use std::sync::Arc;

pub use crate::node::schedules::ALL;

/// What some threads do together, and what must be true of it in every schedule.
pub struct Scenario {
    /// A sentence, as of a test.
    pub name: &'static str,
    /// Goes through the schedules, and returns how many there were.
    pub run: fn() -> u64,
}

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        &[$($crate::schedules::Scenario { name: stringify!($name), run: $name }),*]
    };
}
pub(crate) use scenarios;

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Goes through every schedule in which at most `preemptions` threads are interrupted where they would
/// not wait, with every value that each load may see. `OARLOCK_PREEMPTIONS` adds to them.
#[cfg(oarlock_loom)]
pub(crate) fn explore(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};

    let mut builder = loom::model::Builder::new();
    let more = setting("OARLOCK_PREEMPTIONS").unwrap_or(0) as usize;
    builder.preemption_bound = Some(preemptions + more);
    builder.max_branches = 100_000;
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    count.load(Ordering::Relaxed)
}

/// Runs `schedules` schedules that are drawn at random, and as many in which a few threads are slower than
/// all others (PCT); half of each are hasty. `OARLOCK_SCHEDULES` is a factor, `OARLOCK_SEED` other draws.
#[cfg(oarlock_shuttle)]
pub(crate) fn explore(schedules: usize, scenario: impl Fn() + Send + Sync + 'static) -> u64 {
    use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
    use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

    let schedules = schedules * setting("OARLOCK_SCHEDULES").unwrap_or(1) as usize;
    let seed = setting("OARLOCK_SEED").unwrap_or(0);
    let scenario = Arc::new(scenario);
    let mut config = Config::default();
    config.stack_size = 256 << 10;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(1_000_000);
    config.silence_warnings = true;
    let run = |scheduler: Box<dyn Scheduler + Send>, hasty: bool| {
        let scenario = Arc::clone(&scenario);
        Runner::new(scheduler, config.clone()).run(move || {
            crate::sync::start(hasty);
            scenario();
        }) as u64
    };
    let mut count = 0;
    for hasty in [false, true] {
        count += run(Box::new(RandomScheduler::new_from_seed(seed, schedules)), hasty);
        count += run(Box::new(PctScheduler::new_from_seed(seed, 4, schedules)), hasty);
    }
    count
}
