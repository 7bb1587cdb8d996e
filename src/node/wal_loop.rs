//! The `wal` loop: writes back and flushes whatever has gathered, once, and says how far it got.
//!
//! It is the only one that flushes: records, term and vote. An error stops the node for good.

use std::sync::Arc;
use std::time::Duration;

use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use crate::clock::Time;
use crate::error::{StopCause, StorageError};
use crate::state_machine::StateMachine;
use crate::wal::{Flusher, Position};

/// After so long without work the last flush is covered by a mark, so that it is known to have been
/// durable.
const IDLE: Duration = Duration::from_millis(10);

pub(crate) struct WalLoop<S: StateMachine> {
    shared: Arc<Shared<S>>,
    flusher: Flusher,
    flushed: Position,
    /// When to ask for a mark that covers the last flush.
    cover_at: Option<Time>,
}

impl<S: StateMachine> WalLoop<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, flusher: Flusher) -> Self {
        Self { shared, flusher, flushed: Position::default(), cover_at: None }
    }

    fn flush(&mut self, now: Time) -> Result<bool, StorageError> {
        let mut worked = false;
        let shared = Arc::clone(&self.shared);
        let lane = &shared.wal;
        if let Some(hard_state) = lane.take_hard_state() {
            lane.busy.begin(now);
            self.flusher.store_hard_state(hard_state)?;
            lane.hard_state_stored(hard_state);
            worked = true;
        }
        let target = lane.target();
        if target > self.flushed {
            lane.busy.begin(now);
            self.flushed = self.flusher.flush(target)?;
            lane.set_flushed(self.flushed);
            worked = true;
        }
        lane.busy.end();
        Ok(worked)
    }
}

impl<S: StateMachine> Loop for WalLoop<S> {
    fn step(&mut self, now: Time) -> Wait {
        if self.shared.stop.is_halted() {
            return Wait::Done;
        }
        // Seen before the target is read: the core sets its last target first.
        let closing = self.shared.wal.is_closing();
        match self.flush(now) {
            Ok(true) => {
                self.cover_at = Some(now.after(IDLE));
                self.shared.wakers.core.wake();
                Wait::No
            }
            Ok(false) if closing => Wait::Done,
            Ok(false) => match self.cover_at {
                Some(at) if now >= at => {
                    // Covering is a flush as well; the core sees that there is nothing more to cover.
                    self.cover_at = None;
                    self.shared.wal.want_cover();
                    self.shared.wakers.core.wake();
                    Wait::Wake
                }
                Some(at) => Wait::Until(at),
                None => Wait::Wake,
            },
            Err(error) => {
                self.shared.stop(Phase::Halted, StopCause::from(error));
                Wait::Done
            }
        }
    }
}
