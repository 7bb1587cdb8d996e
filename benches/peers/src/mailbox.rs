//! How the raft-rs side answers a client: raft-rs leaves that to the program.
//!
//! One mailbox a client. The node leaves the answers of a whole batch under one hold of the lock, and
//! the client fetches all that there are at once. A client gives way a few times before it sleeps, which
//! doubles what blocking clients reach: waking a sleeper is the largest cost of an answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};

const MAX_YIELDS: u32 = 32;

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
    pub(crate) fn take(&self, taken: &mut VecDeque<u64>) {
        for _ in 0..MAX_YIELDS {
            if self.filled.load(Ordering::Acquire) {
                break;
            }
            thread::yield_now();
        }
        let mut answers = self.answers.lock();
        while answers.is_empty() {
            self.arrived.wait(&mut answers);
        }
        self.filled.store(false, Ordering::Relaxed);
        std::mem::swap(&mut *answers, taken);
    }
}
