//! What several tests need: a machine whose state tells everything, and waiting with a generous bound.

#![allow(dead_code, reason = "each test uses its own part")]

use std::thread;
use std::time::{Duration, Instant};

use oarlock::Machine;
use serde::{Deserialize, Serialize};

/// An upper bound for anything that should happen soon; no test passes by waiting it out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps every value in the order in which it was applied; answers how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) values: Vec<u64>,
}

impl Machine for Journal {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, value: u64) -> u64 {
        self.values.push(value);
        self.values.len() as u64
    }
}

/// Waits until `holds` does.
///
/// # Panics
/// After [`PATIENCE`].
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it never came to hold");
        thread::sleep(Duration::from_millis(1));
    }
}
