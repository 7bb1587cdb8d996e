//! Waking a thread that waits for work: a token in a channel of one.
//!
//! Whoever leaves work for a thread puts it where the thread looks, then leaves the token. A thread that
//! takes the token looks everywhere before it waits again, so no work is missed, and a thousand wakes of
//! a busy thread cost one token.

use std::cell::Cell;
use std::time::Duration;

use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::{self, Instant, MAX_YIELDS, thread};

/// Wakes one thread.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Sender<()>);

/// What that thread waits on.
#[derive(Debug)]
pub(crate) struct Wakeup {
    token: Receiver<()>,
    patience: Patience,
}

/// How often to give way to other threads before sleeping; follows what has paid lately.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    yields: u32,
}

/// A sleep that is over so soon was not worth its cost.
const SHORT_SLEEP: Duration = Duration::from_micros(100);

impl Waker {
    /// A waker and what it wakes.
    pub(crate) fn new() -> (Self, Wakeup) {
        let (sender, token) = bounded(1);
        (Self(sender), Wakeup { token, patience: Patience::new() })
    }

    /// Leaves the token; if it is there already, the thread has yet to look.
    pub(crate) fn wake(&self) {
        let _ = self.0.try_send(());
    }
}

impl Wakeup {
    /// Takes the token if it is there.
    pub(crate) fn taken(&self) -> bool {
        self.token.try_recv().is_ok()
    }

    /// Waits for the token, at most for `timeout` (for ever without one).
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) {
        if self.patience.wait(|| self.taken()) {
            return;
        }
        self.patience.sleep(|| match timeout {
            // Disconnected: every waker is gone, and so is the node; the caller sees that it stops.
            Some(timeout) => drop(self.token.recv_timeout(timeout)),
            None => drop(self.token.recv()),
        });
    }
}

impl Patience {
    pub(crate) const fn new() -> Self {
        Self { yields: MAX_YIELDS }
    }

    /// Gives way until `done`, a few times at most; true if it is.
    pub(crate) fn wait(self, mut done: impl FnMut() -> bool) -> bool {
        for _ in 0..self.yields {
            if done() {
                return true;
            }
            thread::yield_now();
        }
        done()
    }

    /// Sleeps, and learns from how long that lasted whether giving way a little longer had saved it. Never
    /// stops trying, nor tries for ever.
    pub(crate) fn sleep<T>(&mut self, sleep: impl FnOnce() -> T) -> T {
        let asleep = Instant::now();
        let result = sleep();
        self.yields = if asleep.elapsed() < SHORT_SLEEP {
            MAX_YIELDS.min(self.yields * 2)
        } else {
            (self.yields / 2).max(1)
        };
        result
    }
}

sync::thread_local! {
    static PATIENCE: Cell<Patience> = const { Cell::new(Patience::new()) };
}

/// Gives way until `done`, and otherwise calls `sleep`, with what the current thread has learnt of its
/// waits. For callers, who have no [`Wakeup`] of their own.
pub(crate) fn wait_for(done: impl FnMut() -> bool, sleep: impl FnOnce()) {
    let mut patience = PATIENCE.with(Cell::get);
    if !patience.wait(done) {
        patience.sleep(sleep);
        PATIENCE.with(|kept| kept.set(patience));
    }
}
