//! How a thread of the raft-rs side waits before it sleeps.

use std::thread;

/// The most times a thread gives way to others before it sleeps.
const MAX_YIELDS: u32 = 32;

/// Gives way to other threads as often as has paid lately. Being woken from sleep is the largest cost of a
/// message where cores are few, and giving way costs a fraction of it; but not where answers take as long
/// as a disk, and hundreds give way to each other.
#[derive(Debug)]
pub(crate) struct Patience {
    yields: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { yields: MAX_YIELDS }
    }
}

impl Patience {
    /// Asks again and again whether there is `something`, for a short while.
    pub(crate) fn ask<T>(&mut self, mut something: impl FnMut() -> Option<T>) -> Option<T> {
        for _ in 0..self.yields {
            if let Some(found) = something() {
                self.yields = MAX_YIELDS.min(self.yields * 2);
                return Some(found);
            }
            thread::yield_now();
        }
        self.yields = (self.yields / 2).max(1);
        None
    }
}
