//! The log's shape, built up again from its records: runs of terms, memberships, waypoints, and where
//! each segment begins.
//!
//! Fed in the order of the log by [`recovery`](super::recovery) from files and by
//! [`memory`](super::memory) from mappings. Reads no files and changes nothing but the catalog.

use std::sync::Arc;

use super::Position;
use super::catalog::WAYPOINT_BYTES;
use super::format::SEGMENT_HEADER_BYTES;
use super::log::SegmentBase;
use super::pool::Shared;
use crate::codec;
use crate::message::Entries;
use crate::record::{EntryKind, Record};
use crate::types::{EntryId, LogIndex, Term};

/// What the records so far amount to.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) shared: Arc<Shared>,
    pub(super) base: EntryId,
    pub(super) last: EntryId,
    pub(super) entries: Entries,
    pub(super) last_time: u64,
    pub(super) segments: Vec<SegmentBase>,
    /// The last waypoint in the current segment.
    waypoint: usize,
}

impl Rebuilt {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            base: EntryId::ZERO,
            last: EntryId::ZERO,
            entries: Entries::default(),
            last_time: 0,
            segments: Vec::new(),
            waypoint: 0,
        }
    }

    /// Goes on in another segment. Before the first one the log is empty after `prev`.
    pub(super) fn enter_segment(&mut self, sequence: u32, prev: EntryId) {
        if self.segments.is_empty() {
            (self.base, self.last) = (prev, prev);
        }
        self.segments.push(SegmentBase { sequence, base: self.last });
        self.waypoint = SEGMENT_HEADER_BYTES;
        let start = Position::new(sequence, SEGMENT_HEADER_BYTES);
        self.shared.catalog.add_waypoint(self.last.index.next(), start);
    }

    /// Adds the next record, which stands at `position`.
    ///
    /// # Errors
    /// What was expected there instead.
    pub(super) fn record(
        &mut self,
        record: &Record<'_>,
        position: Position,
    ) -> Result<(), &'static str> {
        let id = record.header.id;
        if id.index != self.last.index.next() {
            return Err("the next index");
        }
        if id.term < self.last.term {
            return Err("a term no lower than the one before");
        }
        if record.header.kind == EntryKind::Membership {
            let membership =
                codec::decode_message(record.payload).map_err(|_| "a membership's bytes")?;
            self.entries.memberships.push((id.index, membership));
        }
        self.entries.push(id);
        self.last = id;
        self.last_time = self.last_time.max(record.header.time);
        if position.offset() - self.waypoint >= WAYPOINT_BYTES {
            self.waypoint = position.offset();
            self.shared.catalog.add_waypoint(id.index, position);
        }
        Ok(())
    }

    /// Takes out what comes after `stays`; the batch that says so stands at `mark`.
    ///
    /// # Errors
    /// What was expected there instead.
    pub(super) fn truncate(&mut self, stays: EntryId, mark: Position) -> Result<(), &'static str> {
        if stays.index >= self.last.index {
            return Err("a truncation of entries there are");
        }
        let from = stays.index.next();
        while self.entries.runs.last().is_some_and(|run| run.first >= from) {
            self.entries.runs.pop();
        }
        self.entries.memberships.retain(|(index, _)| *index < from);
        self.entries.last = stays.index;
        if stays.index < self.base.index {
            // What was superseded is all that was left of the log's old beginning.
            self.base = stays;
        } else if self.term_at(stays.index) != stays.term {
            return Err("a truncation that names the entry it keeps");
        }
        for segment in self.segments.iter_mut().rev() {
            if segment.base.index < from {
                break;
            }
            segment.base = stays;
        }
        self.last = stays;
        self.waypoint = mark.offset();
        self.shared.catalog.truncate(from, mark);
        Ok(())
    }

    fn term_at(&self, index: LogIndex) -> Term {
        let after = self.entries.runs.partition_point(|run| run.first <= index);
        after.checked_sub(1).map_or(self.base.term, |run| self.entries.runs[run].term)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogOptions, Memory, open_in_memory};
    use crate::codec;
    use crate::membership::{Member, Membership};
    use crate::record::{EntryKind, RecordHeader};
    use crate::types::{EntryId, LogIndex, NodeId, Term};

    fn members(node: u64) -> Membership {
        Membership::of_voters([(NodeId(node), Member::at("somewhere"))])
    }

    #[test]
    fn memberships_are_found_and_those_that_were_truncated_are_not() {
        let memory = Memory::default();
        let options =
            LogOptions { segment_bytes: 1 << 16, ready_segments: 1, max_entry_bytes: 1 << 10 };
        let open = || open_in_memory(&memory, NodeId(1), &members(9), &options).expect("memory");
        let mut log = open().log;
        let mut append = |term: u64, index: u64, truncate: bool| {
            if truncate {
                log.truncate_from(LogIndex(index), 1);
            }
            let membership = members(term);
            let mut payload = Vec::new();
            codec::encode_message(&membership, &mut payload).expect("encodable");
            let id = EntryId::new(Term(term), LogIndex(index));
            let header = RecordHeader { id, time: 0, kind: EntryKind::Membership, origin: None };
            log.append(&header, &payload);
            log.publish();
            (id.index, membership)
        };
        let first = append(1, 1, false);
        append(2, 2, false);
        append(3, 3, false);
        let second = append(4, 2, true);
        drop(log);
        let recovered = open().recovered;
        assert_eq!(recovered.entries.memberships, [first, second]);
        assert_eq!(recovered.membership, members(9));
    }
}
