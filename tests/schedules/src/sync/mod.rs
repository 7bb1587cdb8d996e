//! What `oarlock::sync` is made of here: the same names and methods, over a checker's types.
//!
//! Two things are not as outside. *Time* stands still: under `loom` for good, so that a wait ends by a
//! wake or not at all; under `shuttle` until nobody can do anything, or where a schedule says otherwise.
//! *Channels* are a lock and a condition variable.

#[cfg(oarlock_loom)]
mod over_loom;
#[cfg(oarlock_shuttle)]
mod over_shuttle;

pub(crate) mod channel;

use std::fmt;
use std::ops::{Add, Deref, DerefMut, Sub};
use std::sync::PoisonError;
use std::time::Duration;

#[cfg(oarlock_loom)]
use loom as checker;
#[cfg(oarlock_shuttle)]
use shuttle as checker;

pub(crate) use checker::sync::atomic;
pub(crate) use checker::sync::{RwLockReadGuard, RwLockWriteGuard};

#[cfg(oarlock_loom)]
pub(crate) use over_loom::{Accesses, Condvar, MAX_YIELDS, pipe, thread};
#[cfg(oarlock_shuttle)]
pub(crate) use over_shuttle::{Accesses, Condvar, MAX_YIELDS, pipe, thread};

#[cfg(oarlock_loom)]
use over_loom::now;
#[cfg(oarlock_shuttle)]
pub(crate) use over_shuttle::{now, start, world};

/// As the standard library's, of which the checkers know the other form.
macro_rules! local {
    ($(#[$meta:meta])* static $name:ident: $type:ty = const { $init:expr };) => {
        $(#[$meta])*
        #[cfg(oarlock_loom)]
        loom::thread_local! { static $name: $type = $init; }
        #[cfg(oarlock_shuttle)]
        shuttle::thread_local! { static $name: $type = $init; }
    };
}
pub(crate) use local as thread_local;

/// Longer than any schedule lasts.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// A moment: nanoseconds since the schedule began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now() - self
    }

    pub(crate) fn duration_since(self, earlier: Self) -> Duration {
        self - earlier
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self - earlier
    }

    pub(crate) fn checked_add(self, later: Duration) -> Option<Self> {
        self.0.checked_add(u64::try_from(later.as_nanos()).ok()?).map(Self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        self.checked_add(later).expect("a moment of this schedule")
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// How a wait with a deadline ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(self) -> bool {
        self.0
    }
}

pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` while the lock is let go of.
    guard: Option<checker::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(checker::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, guard: Some(self.acquire()) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.0.try_lock().ok()?;
        Some(MutexGuard { mutex: self, guard: Some(guard) })
    }

    fn acquire(&self) -> checker::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a, T> MutexGuard<'a, T> {
    pub(crate) fn unlocked<U>(this: &mut Self, f: impl FnOnce() -> U) -> U {
        this.guard = None;
        let result = f();
        this.guard = Some(this.mutex.acquire());
        result
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("locked")
    }
}

pub(crate) struct RwLock<T>(checker::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(checker::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time does not pass for somebody who waits for a lock.
    pub(crate) fn try_read_until(&self, _deadline: Instant) -> Option<RwLockReadGuard<'_, T>> {
        Some(self.read())
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.0.try_write().ok()
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}
