//! The `seg` loop: prepares segments ahead, recycles and deletes old ones, one small step at a time.

use std::sync::Arc;

use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use crate::clock::Time;
use crate::error::StopCause;
use crate::state_machine::StateMachine;
use crate::wal::Preparer;

pub(crate) struct SegLoop<S: StateMachine> {
    shared: Arc<Shared<S>>,
    preparer: Preparer,
}

impl<S: StateMachine> SegLoop<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, preparer: Preparer) -> Self {
        Self { shared, preparer }
    }
}

impl<S: StateMachine> Loop for SegLoop<S> {
    fn step(&mut self, _now: Time) -> Wait {
        if self.shared.stop.phase() >= Phase::Closing {
            return Wait::Done;
        }
        match self.preparer.step() {
            Ok(true) => Wait::No,
            Ok(false) => {
                // The core may have been out of room.
                self.shared.wakers.core.wake();
                Wait::Wake
            }
            Err(error) => {
                self.shared.stop(Phase::Halted, StopCause::from(error));
                Wait::Done
            }
        }
    }
}
