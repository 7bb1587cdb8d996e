//! How the raft-rs side answers a client: raft-rs leaves that to the program.
//!
//! One mailbox a client. The node leaves the answers of a whole batch under one hold of the lock, and
//! the client fetches all that there are at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::patience::Patience;

/// An answer that takes longer is one that was lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers on their way to one client, in the order of its proposals.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    answers: Mutex<VecDeque<u64>>,
    arrived: Condvar,
    filled: AtomicBool,
}

impl Mailbox {
    /// Leaves answers. There must be some.
    pub(crate) fn put(&self, answers: &[u64]) {
        let mut waiting = self.answers.lock();
        waiting.extend(answers);
        self.filled.store(true, Ordering::Release);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until there are answers, and swaps them for the empty `taken`.
    pub(crate) fn take(&self, taken: &mut VecDeque<u64>, patience: &mut Patience) {
        patience.ask(|| self.filled.load(Ordering::Acquire).then_some(()));
        let mut answers = self.answers.lock();
        while answers.is_empty() {
            let waited = self.arrived.wait_for(&mut answers, PATIENCE);
            assert!(!waited.timed_out() || !answers.is_empty(), "a proposal without an answer");
        }
        self.filled.store(false, Ordering::Relaxed);
        std::mem::swap(&mut *answers, taken);
    }
}
