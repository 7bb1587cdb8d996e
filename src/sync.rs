//! Everything by which threads notice each other: locks, condition variables, words, tokens, parking, and
//! the time that waits are measured in.
//!
//! For users these are the types of `parking_lot`, `crossbeam-channel` and the standard library, under
//! other names. They have one place so that another can be taken: `tests/schedules` compiles these same
//! sources with the types of a checker, which then decides who runs when, and what a load sees.
//!
//! The threads of `transport::tcp` meet in the kernel as well, at sockets; of them only what wakes a sender
//! is part of this.

#[cfg(any(oarlock_loom, oarlock_shuttle))]
#[path = "../tests/schedules/src/sync/mod.rs"]
mod types;

#[cfg(not(any(oarlock_loom, oarlock_shuttle)))]
mod types {
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;
    pub(crate) use std::thread_local;
    pub(crate) use std::time::Instant;

    pub(crate) use crossbeam_channel as channel;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard};

    /// What wakes a thread that waits for sockets as well.
    pub(crate) mod pipe {
        pub(crate) use std::io::{PipeReader, PipeWriter, pipe};

        pub(crate) use rustix::event::poll;
    }

    /// The most times a thread gives way before it sleeps. Sleeping and being woken costs some 25 µs of
    /// latency and 7 µs of CPU where cores are few; giving way costs a fraction of a microsecond.
    pub(crate) const MAX_YIELDS: u32 = 32;

    /// Hears of every access to shared memory that is not a word, and does nothing. A checker looks
    /// whether two of them could happen at once.
    #[derive(Debug)]
    pub(crate) struct Accesses;

    #[expect(clippy::unused_self, reason = "a checker's has something to remember")]
    impl Accesses {
        pub(crate) const fn new() -> Self {
            Self
        }

        pub(crate) const fn load(&self, _at: usize, _len: usize) {}

        pub(crate) const fn store(&self, _at: usize, _len: usize) {}
    }
}

pub(crate) use types::*;
