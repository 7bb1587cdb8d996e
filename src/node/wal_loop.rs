//! The `wal` loop: writes back and flushes whatever has gathered, once, and says how far it got.
//!
//! It is the only one that flushes: records, term and vote. An error stops the node for good.
//!
//! Writing and flushing are steps of their own. In between the core goes on: it may truncate, ask for more, or
//! vote again. So a flush is told as what it is, of the bytes, the term and the vote that were written before
//! it; what has come since is the next one's.

use std::sync::Arc;
use std::time::Duration;

use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use crate::clock::Time;
use crate::error::{StopCause, StorageError};
use crate::state_machine::StateMachine;
use crate::types::HardState;
use crate::wal::{Flusher, Position};

/// After so long without work the last flush is covered by a mark, so that it is known to have been
/// durable.
const IDLE: Duration = Duration::from_millis(10);

/// What was begun and is not durable yet.
#[derive(Clone, Copy, Debug)]
enum UnderWay {
    Nothing,
    HardState(HardState),
    Log,
}

pub(crate) struct WalLoop<S: StateMachine> {
    shared: Arc<Shared<S>>,
    flusher: Flusher,
    flushed: Position,
    under_way: UnderWay,
    /// When to ask for a mark that covers the last flush.
    cover_at: Option<Time>,
}

impl<S: StateMachine> WalLoop<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, flusher: Flusher) -> Self {
        Self {
            shared,
            flusher,
            flushed: Position::default(),
            under_way: UnderWay::Nothing,
            cover_at: None,
        }
    }

    /// Whether records were written and are not flushed.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn has_written(&self) -> bool {
        matches!(self.under_way, UnderWay::Log)
    }

    /// Whether anything was begun and is not durable.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn is_under_way(&self) -> bool {
        !matches!(self.under_way, UnderWay::Nothing)
    }

    /// Does the next write or flush; false if there is nothing to do.
    fn work(&mut self, now: Time) -> Result<bool, StorageError> {
        match self.under_way {
            UnderWay::Nothing => return self.begin(now),
            UnderWay::HardState(hard_state) => {
                if !self.flusher.step_hard_state()? {
                    return Ok(true);
                }
                self.shared.wal.hard_state_stored(hard_state);
            }
            UnderWay::Log => {
                self.flushed = self.flusher.sync()?;
                self.shared.wal.set_flushed(self.flushed);
            }
        }
        self.under_way = UnderWay::Nothing;
        self.shared.wal.busy.end();
        self.shared.wakers.core.wake();
        self.cover_at = Some(now.after(IDLE));
        Ok(true)
    }

    fn begin(&mut self, now: Time) -> Result<bool, StorageError> {
        let lane = &self.shared.wal;
        if let Some(hard_state) = lane.take_hard_state() {
            lane.busy.begin(now);
            self.flusher.begin_hard_state(hard_state)?;
            self.under_way = UnderWay::HardState(hard_state);
            return self.work(now);
        }
        let target = lane.target();
        if target > self.flushed {
            lane.busy.begin(now);
            self.flusher.write_back(target)?;
            self.under_way = UnderWay::Log;
            return Ok(true);
        }
        Ok(false)
    }
}

impl<S: StateMachine> Loop for WalLoop<S> {
    fn step(&mut self, now: Time) -> Wait {
        if self.shared.stop.is_halted() {
            return Wait::Done;
        }
        // Seen before the target is read: the core sets its last target first.
        let closing = self.shared.wal.is_closing();
        match self.work(now) {
            Ok(true) => Wait::No,
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

#[cfg(all(test, feature = "simulation"))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::node::builder::Assembled;
    use crate::node::core_loop::CoreLoop;
    use crate::node::{Node, NodeBuilder};
    use crate::record::{EntryKind, RecordHeader};
    use crate::simulation::SimDisk;
    use crate::types::{EntryId, LogIndex, NodeId, Term};

    /// A node's `wal` loop, and the core that it works for, which takes no steps.
    struct Rig {
        disk: Arc<SimDisk>,
        core: CoreLoop<()>,
        wal: WalLoop<()>,
    }

    impl Rig {
        fn new() -> Self {
            let disk = Arc::new(SimDisk::new(1));
            let builder: NodeBuilder<()> = Node::builder(1, ());
            let builder = builder
                .storage(Path::new("data"), Arc::clone(&disk) as _)
                .members([(1, "")])
                .config(Config::small());
            let Assembled { core, wal, mut seg, .. } = builder.assemble().expect("starts");
            while seg.step(Time(0)) == Wait::No {}
            Self { disk, core, wal: wal.expect("a log on disk") }
        }

        /// Writes an entry of term 1, and asks for its flush.
        fn append(&mut self, index: u64) -> Position {
            let id = EntryId::new(Term(1), LogIndex(index));
            let header = RecordHeader { id, time: 0, kind: EntryKind::Noop, origin: None };
            self.core.log.append(&header, &[]);
            let target = self.core.log.publish();
            self.core.shared.wal.set_target(target);
            target
        }

        /// Lets the loop do one step; whether that touched the disk.
        fn step(&mut self) -> bool {
            let before = self.disk.operations();
            self.wal.step(Time(0));
            self.disk.operations() > before
        }

        fn flushed(&self) -> Position {
            self.core.shared.wal.flushed()
        }
    }

    #[test]
    fn a_flush_counts_for_what_was_written_before_it_and_not_for_what_was_asked_for_since() {
        let mut rig = Rig::new();
        let first = rig.append(1);
        assert!(rig.step());
        assert_eq!(rig.flushed(), Position::default(), "written, and not flushed");
        let second = rig.append(2);
        assert!(rig.step());
        assert_eq!(rig.flushed(), first);
        assert!(rig.step() && rig.step());
        assert_eq!(rig.flushed(), second);
        assert!(!rig.step());
    }

    #[test]
    fn a_vote_is_told_once_both_slots_are_flushed_and_a_later_one_waits_for_its_turn() {
        let mut rig = Rig::new();
        let state = |term| HardState { term: Term(term), voted_for: Some(NodeId(1)) };
        let lane = Arc::clone(&rig.core.shared);
        lane.wal.store_hard_state(state(1));
        for write_or_flush in 0..4 {
            assert_eq!(lane.wal.take_hard_state_stored(), None, "after {write_or_flush}");
            assert!(rig.step());
            lane.wal.store_hard_state(state(2));
        }
        assert_eq!(lane.wal.take_hard_state_stored(), Some(state(1)));
        while rig.step() {}
        assert_eq!(lane.wal.take_hard_state_stored(), Some(state(2)));
    }

    #[test]
    fn a_node_is_busy_from_the_write_to_the_end_of_the_flush() {
        let mut rig = Rig::new();
        rig.append(1);
        let begun = Time(1_000);
        rig.wal.step(begun);
        let later = begun.after(Duration::from_secs(3));
        assert_eq!(rig.core.shared.wal.busy.lasts(later), Duration::from_secs(3));
        rig.wal.step(later);
        assert_eq!(rig.core.shared.wal.busy.lasts(later), Duration::ZERO);
    }
}
