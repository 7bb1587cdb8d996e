//! What is on this node's disk, and which messages wait for it.
//!
//! Two rules of Raft hang on the disk: an entry counts only when it is stored (§5.3, thesis §3.8), and
//! a vote or a term is told to others only when a crash can no longer undo it (§5.1, figure 2:
//! "updated on stable storage before responding"). Reports come late and may speak of entries that
//! were truncated since; what to believe of them is decided here.

use std::collections::VecDeque;

use super::io::Generation;
use crate::message::Message;
use crate::types::{HardState, LogIndex, NodeId};

/// Up to where the log is on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PersistedLog {
    index: LogIndex,
    generation: Generation,
    /// The newest generation that was reported on; positions on the disk only grow, so reports of
    /// older ones bring nothing.
    reported: Generation,
    /// Truncations after `reported`: the generation that began, and the first index that went. Kept
    /// so that both rise: a truncation makes an earlier one of a higher or equal index irrelevant.
    truncations: Vec<(Generation, LogIndex)>,
}

/// So many truncations are told apart between two flushes; beyond it two are taken as one, which can
/// only make a report count for less.
const MAX_TRUNCATIONS: usize = 16;

impl PersistedLog {
    /// Everything up to `index` is on the disk.
    pub(super) fn new(index: LogIndex) -> Self {
        Self { index, generation: Generation(0), reported: Generation(0), truncations: Vec::new() }
    }

    pub(super) fn index(&self) -> LogIndex {
        self.index
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// The log was cut: the entries from `from` on are gone, and a new generation begins.
    pub(super) fn truncate(&mut self, from: LogIndex) -> Generation {
        self.index = self.index.min(from.prev());
        self.generation.0 += 1;
        while self.truncations.last().is_some_and(|(_, earlier)| *earlier >= from) {
            self.truncations.pop();
        }
        if self.truncations.len() == MAX_TRUNCATIONS {
            let (_, lower) = self.truncations.remove(0);
            self.truncations[0].1 = lower;
        }
        self.truncations.push((self.generation, from));
        self.generation
    }

    /// A flush that was asked for in `generation` has reached `index`, with the log ending at `last`.
    pub(super) fn report(&mut self, generation: Generation, index: LogIndex, last: LogIndex) {
        assert!(
            generation <= self.generation,
            "a report of generation {}, now {}",
            generation.0,
            self.generation.0
        );
        if generation < self.reported {
            return;
        }
        self.reported = generation;
        let told = self.truncations.partition_point(|(began, _)| *began <= generation);
        self.truncations.drain(..told);
        // An entry that was flushed and truncated is gone; one that took its place, even with the
        // same index and term, is not on the disk yet.
        let lowest = self.truncations.first().map_or(index, |(_, from)| index.min(from.prev()));
        assert!(lowest <= last, "persisted up to {lowest}, but the log ends at {last}");
        self.index = self.index.max(lowest);
    }
}

/// So many messages wait for term and vote to be stored.
const MAX_HELD: usize = 256;

/// Term and vote: what they are, what the disk holds, and the messages that wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DurableHardState {
    stored: HardState,
    ordered: HardState,
    /// Each with the state it depends on; these only grow from front to back.
    held: VecDeque<(HardState, NodeId, Message)>,
}

/// Whether a disk that holds `stored` keeps every promise made under `needed`: a later term ends all
/// promises of earlier ones, for no vote will be given in them any more.
fn covers(stored: HardState, needed: HardState) -> bool {
    stored.term > needed.term
        || (stored.term == needed.term
            && (needed.voted_for.is_none() || needed.voted_for == stored.voted_for))
}

impl DurableHardState {
    /// `stored` is on the disk.
    pub(super) fn new(stored: HardState) -> Self {
        Self { stored, ordered: stored, held: VecDeque::new() }
    }

    /// Whether the disk holds this state, or a later one.
    pub(super) fn covers(&self, needed: HardState) -> bool {
        covers(self.stored, needed)
    }

    /// Whether the driver has to be told to store `current`; says so once.
    pub(super) fn must_order(&mut self, current: HardState) -> bool {
        let must = self.ordered != current;
        self.ordered = current;
        must
    }

    /// How many messages are kept.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Keeps a message that depends on `needed`.
    pub(super) fn hold(&mut self, needed: HardState, to: NodeId, message: Message) {
        if self.held.len() == MAX_HELD {
            // Raft survives the loss of any message. Votes go last: losing one can cost an election.
            let expendable = self.held.iter().position(|(_, _, message)| match message {
                Message::Append(_)
                | Message::AppendReply(_)
                | Message::Heartbeat(_)
                | Message::HeartbeatReply(_)
                | Message::Forward(_)
                | Message::ForwardReply(_)
                | Message::ReadIndex(_)
                | Message::ReadIndexReply(_) => true,
                Message::Vote(_) | Message::VoteReply(_) => false,
            });
            self.held.remove(expendable.unwrap_or(0));
        }
        self.held.push_back((needed, to, message));
    }

    /// The disk holds `stored`.
    pub(super) fn store(&mut self, stored: HardState) {
        assert!(
            covers(self.ordered, stored),
            "{stored:?} reported as stored, but only {:?} was asked for",
            self.ordered
        );
        if covers(stored, self.stored) {
            self.stored = stored;
        }
    }

    /// The next message whose wait is over.
    pub(super) fn release(&mut self) -> Option<(NodeId, Message)> {
        let &(needed, ..) = self.held.front()?;
        if !self.covers(needed) {
            return None;
        }
        self.held.pop_front().map(|(_, to, message)| (to, message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{HeartbeatReply, VoteReply};
    use crate::types::Term;

    #[test]
    fn the_flush_of_a_truncated_entry_is_not_the_flush_of_its_successor() {
        let mut log = PersistedLog::new(LogIndex(5));
        let old = log.generation();
        // 6 and 7 are stored, and cut from 6 before their flush is reported; then stored again.
        let new = log.truncate(LogIndex(6));
        log.report(old, LogIndex(7), LogIndex(7));
        assert_eq!(log.index(), LogIndex(5));
        log.report(new, LogIndex(7), LogIndex(7));
        assert_eq!(log.index(), LogIndex(7));
    }

    #[test]
    fn a_truncation_takes_back_what_was_persisted() {
        let mut log = PersistedLog::new(LogIndex(9));
        log.truncate(LogIndex(4));
        assert_eq!(log.index(), LogIndex(3));
    }

    #[test]
    fn of_more_truncations_than_are_remembered_the_lowest_still_counts() {
        let mut log = PersistedLog::new(LogIndex(100));
        let old = log.generation();
        for from in 50..=50 + 2 * MAX_TRUNCATIONS as u64 {
            log.truncate(LogIndex(from));
        }
        log.report(old, LogIndex(90), LogIndex(100));
        assert_eq!(log.index(), LogIndex(49));
    }

    /// What happens to a log: a report of an index and of a generation so many truncations ago, a
    /// truncation from an index, or from the one after the last such index.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Report(u64, u64),
        Truncate(u64),
        TruncateHigher,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..=LAST, 0..40_u64).prop_map(|(index, age)| Step::Report(index, age)),
            1 => (1..=LAST).prop_map(Step::Truncate),
            6 => Just(Step::TruncateHigher),
        ]
    }

    const LAST: u64 = 60;

    proptest! {
        /// The model keeps every truncation, and the index each generation was cut at.
        #[test]
        fn a_report_counts_up_to_the_lowest_truncation_since(
            steps in proptest::collection::vec(step(), 1..120),
        ) {
            let mut log = PersistedLog::new(LogIndex(LAST));
            let mut cuts: Vec<u64> = Vec::new();
            let (mut persisted, mut reported) = (LAST, 0);
            for step in steps {
                let index = match step {
                    Step::Report(index, age) => {
                        let generation = (cuts.len() as u64).saturating_sub(age);
                        log.report(Generation(generation), LogIndex(index), LogIndex(LAST));
                        if generation >= reported {
                            reported = generation;
                            let since = cuts[generation as usize..].iter().min();
                            let counts = since.map_or(index, |cut| index.min(cut - 1));
                            persisted = persisted.max(counts);
                        }
                        None
                    }
                    Step::Truncate(index) => Some(index),
                    Step::TruncateHigher => Some(cuts.last().map_or(1, |cut| cut % LAST + 1)),
                };
                if let Some(index) = index {
                    log.truncate(LogIndex(index));
                    cuts.push(index);
                    persisted = persisted.min(index - 1);
                }
                // Taking two truncations for one may only lower what counts.
                if cuts.len() <= MAX_TRUNCATIONS {
                    prop_assert_eq!(log.index().0, persisted);
                } else {
                    prop_assert!(log.index().0 <= persisted, "{} > {}", log.index(), persisted);
                }
            }
        }
    }

    fn state(term: u64, voted_for: Option<u64>) -> HardState {
        HardState { term: Term(term), voted_for: voted_for.map(NodeId) }
    }

    #[test]
    fn a_stored_state_covers_itself_and_what_came_before() {
        assert!(covers(state(2, Some(1)), state(2, Some(1))));
        assert!(covers(state(2, Some(1)), state(2, None)));
        assert!(covers(state(3, None), state(2, Some(1))));
        assert!(!covers(state(2, None), state(2, Some(1))));
        assert!(!covers(state(2, Some(2)), state(2, Some(1))));
        assert!(!covers(state(1, Some(1)), state(2, None)));
    }

    #[test]
    fn held_messages_are_bounded_and_votes_are_the_last_to_go() {
        let mut durable = DurableHardState::new(state(0, None));
        assert!(durable.must_order(state(1, Some(2))));
        assert!(!durable.must_order(state(1, Some(2))));
        let vote = Message::VoteReply(VoteReply { term: Term(1), granted: true, pre: false });
        let reply = |matched| {
            Message::HeartbeatReply(HeartbeatReply {
                term: Term(1),
                round: crate::message::ReadRound(0),
                matched: LogIndex(matched),
                full: false,
            })
        };
        durable.hold(state(1, Some(2)), NodeId(2), vote.clone());
        for matched in 0..2 * MAX_HELD as u64 {
            durable.hold(state(1, Some(2)), NodeId(2), reply(matched));
        }
        assert_eq!(durable.release(), None);
        durable.store(state(1, Some(2)));
        assert_eq!(durable.release(), Some((NodeId(2), vote)));
        let first_kept = 2 * MAX_HELD as u64 - (MAX_HELD as u64 - 1);
        assert_eq!(durable.release(), Some((NodeId(2), reply(first_kept))));
    }
}
