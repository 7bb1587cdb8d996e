//! What `loom` lacks, or calls otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;

use loom::cell::UnsafeCell;

use super::{Instant, MutexGuard, WaitTimeoutResult};

/// Giving way only adds schedules that are like others.
pub(crate) const MAX_YIELDS: u32 = 0;

/// Time stands still.
pub(super) fn now() -> u64 {
    0
}

pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use loom::thread::{Builder, JoinHandle, Thread, current, spawn, yield_now};

    pub(crate) fn park_timeout(_timeout: Duration) {
        loom::thread::park();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        if deadline <= Instant::now() {
            MutexGuard::unlocked(guard, || {});
            return WaitTimeoutResult(true);
        }
        let locked = guard.guard.take().expect("locked");
        guard.guard = Some(self.0.wait(locked).expect("loom does not poison"));
        WaitTimeoutResult(false)
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Which bytes of a mapping were loaded and stored by whom: a cell for each four of them.
#[derive(Default)]
pub(crate) struct Accesses(std::sync::Mutex<BTreeMap<usize, UnsafeCell<()>>>);

impl Accesses {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn load(&self, at: usize, len: usize) {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for place in at / 4..(at + len).div_ceil(4) {
            cells.entry(place).or_insert_with(|| UnsafeCell::new(())).with(|_| {});
        }
    }

    pub(crate) fn store(&self, at: usize, len: usize) {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for place in at / 4..(at + len).div_ceil(4) {
            cells.entry(place).or_insert_with(|| UnsafeCell::new(())).with_mut(|_| {});
        }
    }
}

impl fmt::Debug for Accesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accesses")
    }
}
