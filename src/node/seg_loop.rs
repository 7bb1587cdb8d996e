//! The `seg` loop: prepares segments ahead, recycles and deletes old ones, one small step at a time.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use crate::clock::Time;
use crate::error::{StopCause, StorageError, StorageErrorKind};
use crate::state_machine::StateMachine;
use crate::wal::Preparer;

/// How long a full disk is left alone.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct SegLoop<S: StateMachine> {
    shared: Arc<Shared<S>>,
    preparer: Preparer,
    /// The disk was full: until this moment nothing is tried.
    pause: Option<Time>,
}

impl<S: StateMachine> SegLoop<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, preparer: Preparer) -> Self {
        Self { shared, preparer, pause: None }
    }

    /// A full disk is not the end: the log goes on in the segments it has, and what is there can be read.
    fn is_full_disk(&self, error: &StorageError) -> bool {
        let StorageErrorKind::Io { error, .. } = &error.kind else { return false };
        !self.preparer.is_poisoned()
            && matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }
}

impl<S: StateMachine> Loop for SegLoop<S> {
    fn step(&mut self, now: Time) -> Wait {
        if self.shared.stop.phase() >= Phase::Closing {
            return Wait::Done;
        }
        if let Some(until) = self.pause.filter(|until| now < *until) {
            return Wait::Until(until);
        }
        match self.preparer.step() {
            Ok(true) => Wait::No,
            Ok(false) => {
                self.pause = None;
                // The core may have been out of room.
                self.shared.wakers.core.wake();
                Wait::Wake
            }
            Err(error) if self.is_full_disk(&error) => {
                let until = now.after(FULL_DISK_PAUSE);
                if self.pause.replace(until).is_none() {
                    log::warn!("node={} disk is full: {error}", self.shared.id);
                }
                Wait::Until(until)
            }
            Err(error) => {
                self.shared.stop(Phase::Halted, StopCause::from(error));
                Wait::Done
            }
        }
    }
}
