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

#[cfg(test)]
mod tests {
    use super::super::shared::FetchJob;
    use super::*;
    use crate::config::Config;
    use crate::error::{ApplyError, EncodeError};
    use crate::message::Append;
    use crate::node::builder::Assembled;
    use crate::node::{Node, NodeBuilder};
    use crate::state_machine::Applied;
    use crate::types::{EntryId, LogIndex, NodeId, Term};

    /// Keeps its own state, so that the log may be let go of.
    struct Keeper(EntryId);

    impl StateMachine for Keeper {
        type Command = ();
        type Response = ();

        fn encode((): &(), out: &mut Vec<u8>) -> Result<(), EncodeError> {
            out.extend_from_slice(&[0; 4096]);
            Ok(())
        }

        fn apply_entry(&mut self, _bytes: &[u8], at: &Applied) -> Result<(), ApplyError> {
            self.0 = at.entry;
            Ok(())
        }

        fn last_applied(&self) -> Option<EntryId> {
            Some(self.0)
        }
    }

    #[test]
    fn a_job_for_entries_that_its_member_has_meanwhile_is_answered_with_none() {
        let config = Config {
            segment_bytes: 1 << 16,
            max_entry_bytes: 4 << 10,
            max_batch_bytes: 8 << 10,
            max_append_bytes: 8 << 10,
            ..Config::small()
        };
        let builder: NodeBuilder<Keeper> = Node::builder(1, Keeper(EntryId::ZERO));
        let builder = builder.in_memory().members([(1, "")]).config(config);
        let Assembled { shared, mut core, mut seg, mut apply, mut snap, .. } =
            builder.assemble().expect("starts");
        let mut now = shared.clock.now();
        let mut released = false;
        for _ in 0..1000 {
            now = now.after(shared.config.tick);
            while seg.step(now) == Wait::No {}
            if shared.leadership.leads() {
                let deadline = std::time::Instant::now();
                let bytes = [0; 4096];
                let _ = shared.inbox.put(&bytes, deadline, shared.config.propose_timeout);
            }
            while core.step(now) == Wait::No {}
            while apply.step(now) == Wait::No {}
            released = shared.status.lock().first > LogIndex(1);
            if released {
                break;
            }
        }
        assert!(released, "the log was to be let go of");

        shared.snap.ask(FetchJob {
            term: Term(1),
            to: NodeId(2),
            append: Append::default(),
            last: shared.applied.get(),
            max_bytes: 8 << 10,
        });
        assert_eq!(snap.step(now), Wait::No);
        let fetched = shared.snap.take_fetched();
        assert_eq!(fetched.len(), 1);
        assert_eq!((fetched[0].records.len(), fetched[0].last), (0, LogIndex::ZERO));
        assert!(!shared.stop.is_stopping());
    }
}
