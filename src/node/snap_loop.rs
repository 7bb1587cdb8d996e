//! The `snap` loop: reads entries from the disk that are no longer in memory, for followers that lag.

use std::sync::Arc;

use super::shared::{Fetched, Loop, Shared, Wait};
use super::stop::Phase;
use crate::clock::Time;
use crate::error::{StopCause, StorageErrorKind};
use crate::slices::Slices;
use crate::state_machine::StateMachine;
use crate::wal::LogReader;

pub(crate) struct SnapLoop<S: StateMachine> {
    shared: Arc<Shared<S>>,
    reader: LogReader,
}

impl<S: StateMachine> SnapLoop<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, reader: LogReader) -> Self {
        Self { shared, reader }
    }
}

impl<S: StateMachine> Loop for SnapLoop<S> {
    fn step(&mut self, _now: Time) -> Wait {
        if self.shared.stop.phase() >= Phase::Closing {
            return Wait::Done;
        }
        let Some(job) = self.shared.snap.take_job() else {
            return Wait::Wake;
        };
        match self.reader.read(job.append.prev.index, job.last, job.max_bytes) {
            Ok((records, last)) => {
                self.shared.snap.answer(Fetched { job, records, last });
                self.shared.wakers.core.wake();
                Wait::No
            }
            // Truncated since it was asked for, or let go of: there is nothing to send.
            Err(error) if matches!(error.kind, StorageErrorKind::Released) => {
                let last = job.append.prev.index;
                self.shared.snap.answer(Fetched { job, records: Slices::new(), last });
                self.shared.wakers.core.wake();
                Wait::No
            }
            // A log that cannot be read is never passed off as a shorter one.
            Err(error) => {
                self.shared.stop(Phase::Halted, StopCause::from(error));
                Wait::Done
            }
        }
    }
}
