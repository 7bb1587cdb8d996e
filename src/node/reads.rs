//! Readers that wait to be told how far the state must be: one group for each round.

use std::sync::Arc;

use super::stop::Stop;
use crate::error::StopCause;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Instant, Mutex};
use crate::types::{LogIndex, NodeId};
use crate::wake::{Waker, wait_for};

/// What a group of readers is told.
#[derive(Clone, Debug)]
pub(crate) enum Confirmation {
    /// Read once the state has applied this index.
    Confirmed(LogIndex),
    /// This node does not lead.
    NotLeader(Option<NodeId>),
    /// The node stopped.
    Stopped(StopCause),
}

/// Readers that are answered together.
#[derive(Debug, Default)]
pub(crate) struct ReadGroup {
    done: AtomicBool,
    confirmation: Mutex<Option<Confirmation>>,
    changed: Condvar,
}

impl ReadGroup {
    /// Tells the group; only the first word counts.
    pub(crate) fn tell(&self, confirmation: Confirmation) {
        self.confirmation.lock().get_or_insert(confirmation);
        self.done.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// The word, if there is one.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn told(&self) -> Option<Confirmation> {
        if !self.done.load(Ordering::Acquire) {
            return None;
        }
        self.confirmation.lock().clone()
    }

    /// Waits for the word until `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<Confirmation> {
        wait_for(
            || self.done.load(Ordering::Acquire),
            || {
                let mut confirmation = self.confirmation.lock();
                while confirmation.is_none() {
                    if self.changed.wait_until(&mut confirmation, deadline).timed_out() {
                        break;
                    }
                }
            },
        );
        self.confirmation.lock().clone()
    }
}

/// Where readers wait for the core's next visit.
#[derive(Debug)]
pub(crate) struct ReadInbox {
    waiting: Mutex<Option<Arc<ReadGroup>>>,
    core: Waker,
    stop: Arc<Stop>,
}

impl ReadInbox {
    pub(crate) fn new(core: Waker, stop: Arc<Stop>) -> Self {
        Self { waiting: Mutex::new(None), core, stop }
    }

    /// Joins the group that the core takes next; `None` if the node has stopped.
    pub(crate) fn join(&self) -> Option<Arc<ReadGroup>> {
        let mut waiting = self.waiting.lock();
        // Looked at under the lock, so nobody comes after the last were told.
        if self.stop.is_stopping() {
            return None;
        }
        if let Some(group) = &*waiting {
            return Some(Arc::clone(group));
        }
        let group = Arc::<ReadGroup>::default();
        *waiting = Some(Arc::clone(&group));
        drop(waiting);
        self.core.wake();
        Some(group)
    }

    /// Takes the readers that wait.
    pub(crate) fn take(&self) -> Option<Arc<ReadGroup>> {
        self.waiting.lock().take()
    }

    /// Tells those that wait that the node stops.
    pub(crate) fn close(&self) {
        if let Some(group) = self.take() {
            group.tell(Confirmation::Stopped(self.stop.cause_or_shutdown()));
        }
    }
}
