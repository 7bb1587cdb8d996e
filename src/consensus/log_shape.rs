//! The log as the core sees it: which entry is of which term, and which entries set a membership.
//!
//! Terms never fall along a log, so it is a few runs of equal term (Raft §5.3); a question about any
//! entry is a binary search over them, and appending costs nothing for each entry. The memberships
//! are all kept, oldest first: when an uncommitted tail goes, the membership before it is in force
//! again, however many changes that tail held (Raft §6).

use crate::membership::Membership;
use crate::message::{Entries, TermRun};
use crate::types::{EntryId, LogIndex, Term};

/// The shape of a log that begins after `base`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LogShape {
    base: EntryId,
    /// Runs of equal term after the base, with terms that rise from run to run.
    runs: Vec<TermRun>,
    last: LogIndex,
    /// Every membership in the log by its index, after the one that is in force at the base.
    memberships: Vec<(LogIndex, Membership)>,
}

impl LogShape {
    /// A log that holds nothing after `base`, with `membership` in force there.
    pub(super) fn new(base: EntryId, membership: Membership) -> Self {
        Self {
            base,
            runs: Vec::new(),
            last: base.index,
            memberships: vec![(base.index, membership)],
        }
    }

    /// The entry before the first.
    pub(super) fn base(&self) -> EntryId {
        self.base
    }

    /// The last entry, or the base.
    pub(super) fn last(&self) -> EntryId {
        EntryId::new(self.runs.last().map_or(self.base.term, |run| run.term), self.last)
    }

    /// The membership in force: the latest in the log, committed or not.
    pub(super) fn membership(&self) -> &Membership {
        &self.memberships.last().expect("the base's membership always stays").1
    }

    /// The term of the entry at `index`; `None` before the base and after the end.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.base.index || index > self.last {
            None
        } else if index == self.base.index {
            Some(self.base.term)
        } else {
            Some(self.runs[self.run_of(index)].term)
        }
    }

    /// Whether the log holds this very entry.
    pub(super) fn holds(&self, entry: EntryId) -> bool {
        self.term_at(entry.index) == Some(entry.term)
    }

    /// Which run the entry at `index` lies in; it must lie after the base.
    fn run_of(&self, index: LogIndex) -> usize {
        self.runs.partition_point(|run| run.first <= index) - 1
    }

    /// Index of the last entry of a run.
    fn last_of_run(&self, run: usize) -> LogIndex {
        self.runs.get(run + 1).map_or(self.last, |next| next.first.prev())
    }

    /// Adds `count` entries of `term` at the end.
    pub(super) fn append(&mut self, term: Term, count: u64) {
        let last = self.last();
        assert!(term >= last.term, "an entry of term {term} after {last}");
        if count > 0 {
            self.extend_run(term, self.last.plus(count));
        }
    }

    fn extend_run(&mut self, term: Term, to: LogIndex) {
        if self.runs.last().is_none_or(|run| run.term != term) {
            self.runs.push(TermRun { first: self.last.next(), term });
        }
        self.last = to;
    }

    /// Adds those of `entries` that come after the end; the others must be held already.
    pub(super) fn extend(&mut self, entries: &Entries) {
        let known = self.last;
        for (at, run) in entries.runs.iter().enumerate() {
            let to = entries.runs.get(at + 1).map_or(entries.last, |next| next.first.prev());
            if to > self.last {
                assert!(run.first <= self.last.next(), "a gap between {} and {run:?}", self.last);
                self.extend_run(run.term, to);
            }
        }
        let fresh = entries.memberships.iter().filter(|(index, _)| *index > known);
        self.memberships.extend(fresh.cloned());
    }

    /// Forgets the entries from `from` on.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.base.index, "truncation from {from}, base {}", self.base);
        self.runs.truncate(self.runs.partition_point(|run| run.first < from));
        self.last = self.last.min(from.prev());
        let kept = self.memberships.partition_point(|(index, _)| *index < from);
        self.memberships.truncate(kept);
    }

    /// The first of `entries` that this log does not hold, none if it holds them all. Their places up
    /// to `entries.last` must follow each other, and the first must not lie more than one past the
    /// end. Entries up to the base are taken as held.
    pub(super) fn first_missing(&self, entries: &Entries) -> Option<LogIndex> {
        for (at, run) in entries.runs.iter().enumerate() {
            let to = entries.runs.get(at + 1).map_or(entries.last, |next| next.first.prev());
            let mut index = run.first.max(self.base.index.next());
            while index <= to {
                if self.term_at(index) != Some(run.term) {
                    return Some(index);
                }
                index = self.last_of_run(self.run_of(index)).next();
            }
        }
        None
    }

    /// The last entry at or before `index` whose term is at most `term`, or the base.
    ///
    /// If another log has `term` at `index`, or before, nothing after this entry can be common to
    /// both: the step by which leader and follower find each other without trying every index
    /// (Raft §5.3, end).
    pub(super) fn last_possible_match(&self, index: LogIndex, term: Term) -> EntryId {
        let candidates = self.runs.partition_point(|run| run.term <= term && run.first <= index);
        match candidates.checked_sub(1) {
            Some(run) => EntryId::new(self.runs[run].term, self.last_of_run(run).min(index)),
            None => self.base,
        }
    }

    /// The shape of the entries after `after` up to `last`, as far as the log holds them.
    pub(super) fn shape(&self, after: LogIndex, last: LogIndex) -> Entries {
        let first = after.max(self.base.index).next();
        let last = last.min(self.last);
        let mut entries = Entries { last, ..Entries::default() };
        if first > last {
            return entries;
        }
        for run in &self.runs[self.run_of(first)..] {
            if run.first > last {
                break;
            }
            entries.runs.push(TermRun { first: run.first.max(first), term: run.term });
        }
        let within = |index: LogIndex| first <= index && index <= last;
        entries.memberships =
            self.memberships.iter().filter(|(index, _)| within(*index)).cloned().collect();
        entries
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::membership::Member;
    use crate::types::NodeId;

    fn membership(id: u64) -> Membership {
        Membership::of_voters([(NodeId(id), Member::default())])
    }

    /// A log the naive way: the base, then one term and perhaps a membership for each entry.
    #[derive(Clone, Debug)]
    struct Naive {
        base: EntryId,
        entries: Vec<(u64, bool)>,
    }

    impl Naive {
        fn last(&self) -> u64 {
            self.base.index.0 + self.entries.len() as u64
        }

        fn term_at(&self, index: u64) -> Option<u64> {
            if index == self.base.index.0 {
                return Some(self.base.term.0);
            }
            let place = index.checked_sub(self.base.index.0 + 1)?;
            self.entries.get(place as usize).map(|entry| entry.0)
        }

        fn entries_after(&self, after: u64) -> Entries {
            let mut shape = Entries { last: LogIndex(self.last()), ..Entries::default() };
            for (place, &(term, changes)) in self.entries.iter().enumerate() {
                let index = LogIndex(self.base.index.0 + 1 + place as u64);
                if index.0 > after {
                    shape.push(EntryId::new(Term(term), index));
                    if changes {
                        shape.memberships.push((index, membership(index.0)));
                    }
                }
            }
            shape
        }

        fn shape(&self) -> LogShape {
            let mut shape = LogShape::new(self.base, membership(0));
            shape.extend(&self.entries_after(0));
            shape
        }
    }

    fn naive() -> impl Strategy<Value = Naive> {
        let entries = proptest::collection::vec((0..=1_u64, any::<bool>()), 0..12);
        (0..4_u64, 0..3_u64, entries).prop_map(|(index, term, steps)| {
            let mut term = if index == 0 { 0 } else { term };
            let base = EntryId::new(Term(term), LogIndex(index));
            let entries = steps
                .into_iter()
                .map(|(rise, changes)| {
                    term += rise;
                    (term, changes)
                })
                .collect();
            Naive { base, entries }
        })
    }

    proptest! {
        #[test]
        fn the_shape_answers_as_a_list_of_terms_does(
            log in naive(), index in 0..20_u64, term in 0..12_u64,
        ) {
            let shape = log.shape();
            prop_assert_eq!(shape.last().index.0, log.last());
            prop_assert_eq!(shape.term_at(LogIndex(index)).map(|term| term.0), log.term_at(index));

            let possible = (log.base.index.0 + 1..=log.last().min(index))
                .rev()
                .find(|&at| log.term_at(at).is_some_and(|held| held <= term))
                .unwrap_or(log.base.index.0);
            let found = shape.last_possible_match(LogIndex(index), Term(term));
            prop_assert_eq!(found.index.0, possible);
            prop_assert!(shape.holds(found));

            let expected = log.entries_after(index);
            let found = shape.shape(LogIndex(index), LogIndex(u64::MAX));
            prop_assert_eq!(&found.runs, &expected.runs);
            prop_assert_eq!(&found.memberships, &expected.memberships);
            prop_assert_eq!(found.len(), expected.len());
        }

        #[test]
        fn truncating_leaves_the_log_that_never_had_the_tail(log in naive(), cut in 1..20_u64) {
            let from = log.base.index.0 + cut;
            let mut shape = log.shape();
            shape.truncate(LogIndex(from));
            let mut shorter = log.clone();
            shorter.entries.truncate(cut as usize - 1);
            prop_assert_eq!(&shape, &shorter.shape());

            // Growing again entry by entry gives the same as growing at once.
            let mut again = shape.clone();
            again.extend(&log.entries_after(shorter.last()));
            prop_assert_eq!(&again, &log.shape());
        }

        #[test]
        fn the_first_missing_entry_is_the_first_whose_term_differs(
            mine in naive(), theirs in naive(), after in 0..20_u64,
        ) {
            let shape = mine.shape();
            let entries = theirs.entries_after(after);
            prop_assume!(!entries.is_empty());
            prop_assume!(entries.first().is_some_and(|first| first.0 <= mine.last() + 1));
            let expected = (entries.first().expect("not empty").0..=theirs.last())
                .find(|&index| index > mine.base.index.0 && mine.term_at(index) != theirs.term_at(index));
            prop_assert_eq!(shape.first_missing(&entries).map(|index| index.0), expected);
        }
    }

    #[test]
    fn every_membership_of_a_truncated_tail_is_rolled_back() {
        let mut log = LogShape::new(EntryId::ZERO, membership(0));
        let mut entries = Entries::default();
        for index in 1..=4 {
            entries.push(EntryId::new(Term(1), LogIndex(index)));
            entries.memberships.push((LogIndex(index), membership(index)));
        }
        log.extend(&entries);
        assert_eq!(log.membership(), &membership(4));
        log.truncate(LogIndex(3));
        assert_eq!(log.membership(), &membership(2));
        log.truncate(LogIndex(1));
        assert_eq!(log.membership(), &membership(0));
    }

    #[test]
    #[should_panic(expected = "an entry of term 1 after 2.1")]
    fn terms_never_fall_along_a_log() {
        let mut log = LogShape::new(EntryId::ZERO, membership(0));
        log.append(Term(2), 1);
        log.append(Term(1), 1);
    }
}
