//! Latest values that somebody waits for: the applied index, and who leads.
//!
//! Writers never wait for readers; readers who are slow miss values in between, never the latest.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};
use crate::types::{LogIndex, NodeId, Role, Term};

/// An index that only grows.
#[derive(Debug, Default)]
pub(crate) struct IndexWatch {
    value: AtomicU64,
    waiting: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl IndexWatch {
    pub(crate) fn get(&self) -> LogIndex {
        LogIndex(self.value.load(Ordering::Acquire))
    }

    pub(crate) fn set(&self, index: LogIndex) {
        self.value.store(index.0, Ordering::Release);
        self.notify();
    }

    /// Wakes everybody who waits, for whatever reason.
    pub(crate) fn notify(&self) {
        // Whoever changes something does so before it looks for waiters, and a waiter counts itself before
        // it looks for a change. With a fence between each two, one of them sees the other.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            drop(self.lock.lock());
            self.changed.notify_all();
        }
    }

    /// Waits until `index` is reached, `give_up` says so, or `deadline`. True if it is reached.
    pub(crate) fn wait(
        &self,
        index: LogIndex,
        deadline: Instant,
        give_up: impl Fn() -> bool,
    ) -> bool {
        if self.get() >= index {
            return true;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut guard = self.lock.lock();
        while self.get() < index && !give_up() {
            if self.changed.wait_until(&mut guard, deadline).timed_out() {
                break;
            }
        }
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.get() >= index
    }
}

/// Who leads, as one node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leadership {
    /// What this node is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads in that term, if this node knows.
    pub leader: Option<NodeId>,
    /// The node has stopped; nothing changes any more.
    pub stopped: bool,
}

impl fmt::Display for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "role={} term={} leader=", self.role, self.term)?;
        match self.leader {
            Some(leader) => write!(f, "{leader}")?,
            None => f.write_str("none")?,
        }
        if self.stopped { f.write_str(" stopped") } else { Ok(()) }
    }
}

#[derive(Debug, Default)]
pub(crate) struct LeadershipWatch {
    leads: AtomicBool,
    latest: Mutex<(u64, Leadership)>,
    changed: Condvar,
}

impl LeadershipWatch {
    pub(crate) fn set(&self, leadership: Leadership) {
        let mut latest = self.latest.lock();
        // After the last word of a node that has stopped there is no other.
        if latest.1 != leadership && !latest.1.stopped {
            *latest = (latest.0 + 1, leadership);
            self.leads.store(leadership.role == Role::Leader, Ordering::Release);
            self.changed.notify_all();
        }
    }

    pub(crate) fn get(&self) -> Leadership {
        self.latest.lock().1
    }

    /// Whether the node leads, without a lock.
    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }
}

/// One subscription to who leads, from [`Node::leadership`](crate::Node::leadership).
///
/// It always has the latest value, and remembers which one its owner has seen. Each subscription is
/// independent; one that nobody looks at costs nothing and holds nothing up.
#[derive(Clone, Debug)]
pub struct LeadershipSubscription {
    watch: Arc<LeadershipWatch>,
    seen: u64,
}

impl LeadershipSubscription {
    pub(crate) fn new(watch: Arc<LeadershipWatch>) -> Self {
        Self { watch, seen: 0 }
    }

    /// The latest value; it then counts as seen.
    pub fn latest(&mut self) -> Leadership {
        let latest = self.watch.latest.lock();
        self.seen = latest.0;
        latest.1
    }

    /// Waits until there is a value that has not been seen, at most for `timeout`, and returns it.
    pub fn changed(&mut self, timeout: Duration) -> Option<Leadership> {
        self.wait_until(timeout, |_| true)
    }

    /// Waits until the latest value satisfies `wanted`, seen or not, at most for `timeout`.
    pub fn wait_for(
        &mut self,
        timeout: Duration,
        wanted: impl FnMut(&Leadership) -> bool,
    ) -> Option<Leadership> {
        self.seen = u64::MAX;
        self.wait_until(timeout, wanted)
    }

    fn wait_until(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&Leadership) -> bool,
    ) -> Option<Leadership> {
        let deadline = deadline_after(timeout);
        let mut latest = self.watch.latest.lock();
        loop {
            if latest.0 != self.seen {
                self.seen = latest.0;
                let leadership = latest.1;
                // The caller's code runs without the lock: it must not hold up the node.
                if MutexGuard::unlocked(&mut latest, || wanted(&leadership)) {
                    return Some(leadership);
                }
                continue;
            }
            if self.watch.changed.wait_until(&mut latest, deadline).timed_out() {
                return None;
            }
        }
    }
}

/// The moment `timeout` from now; far away if there is no such moment.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(timeout.min(FAR)).unwrap_or(now)
}

#[cfg(test)]
mod tests;
