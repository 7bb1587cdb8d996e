//! Cutting records out of the log: from mappings where there are any, from files otherwise.
//!
//! Bytes from a mapping are handed out as they lie, unchecked, for they were checked when they came into
//! this process. Bytes from a file are read into buffers of bounded size and checked, every record and
//! every mark of them. Never writes, and never holds the catalog's lock while it walks or reads.

use std::path::PathBuf;
use std::sync::Arc;

use super::Position;
use super::catalog::{ColdSegment, Found, Place, WAYPOINT_BYTES};
use super::format::{
    LocalKind, MARK_BYTES, Mark, Salt, TRUNCATION_BYTES, decode_seal, decode_truncation,
};
use super::log::Fetch;
use super::pool::Shared;
use super::segment::{Item, Segment, slice};
use crate::error::{StorageError, StorageErrorKind};
use crate::record::{LOCAL_BIT, Record, align, peek_length};
use crate::slices::{Slice, Slices};
use crate::storage::OpenMode;
use crate::types::LogIndex;

/// The most that is read from a file at once, unless one record is larger.
const CHUNK_BYTES: usize = 1 << 20;

/// Reads the log on any thread, while the core thread appends to it.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
    /// The log's directory, for errors.
    path: PathBuf,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>, path: PathBuf) -> Self {
        Self { shared, path }
    }

    /// The entries after `prev` up to `last`: whole records, at least one if there is one in the range,
    /// and otherwise no more than `max_bytes` of them. Returns them with the index of the last one, which
    /// is `prev` if there are none.
    ///
    /// What is returned stood in the log together, at some moment since the call began. Committed entries
    /// are never truncated. Others may be, at any time, so whoever asks for them must check afterwards that
    /// the log is still in the generation in which they were asked for.
    ///
    /// # Errors
    /// `Released` if the entry after `prev` is not in the log: let go of, truncated, or not
    /// [published](super::Log::publish). `Damaged` and `Io` if it has to be read from a file.
    pub fn read(
        &self,
        prev: LogIndex,
        last: LogIndex,
        max_bytes: usize,
    ) -> Result<(Slices, LogIndex), StorageError> {
        let mut cut = Cut::new(prev, last, max_bytes);
        let mut truncations = None;
        while !cut.is_done() {
            let next = cut.next;
            if let Some(found) = self.shared.catalog.find(next)
                && *truncations.get_or_insert(found.truncations) == found.truncations
            {
                match &found.place {
                    Place::Mapped(segment) => cut.take_mapped(segment, &found),
                    Place::Cold(segment) => cut.take_cold(segment, &found)?,
                }
            }
            if cut.next == next && !cut.is_done() {
                if cut.is_empty() {
                    let gone = StorageError::new(&self.path, StorageErrorKind::Released);
                    return Err(gone.at_index(next));
                }
                break;
            }
        }
        Ok(cut.finish())
    }
}

/// Records being gathered.
#[derive(Debug)]
pub(super) struct Cut {
    next: LogIndex,
    last: LogIndex,
    /// Bytes that may still be taken.
    room: usize,
    /// The next record does not fit.
    full: bool,
    slices: Slices,
}

/// Records that lie next to each other.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: usize,
    end: usize,
}

impl Cut {
    pub(super) fn new(prev: LogIndex, last: LogIndex, max_bytes: usize) -> Self {
        Self { next: prev.next(), last, room: max_bytes, full: false, slices: Slices::new() }
    }

    pub(super) fn next(&self) -> LogIndex {
        self.next
    }

    pub(super) fn is_done(&self) -> bool {
        self.full || self.next > self.last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    pub(super) fn into_fetch(self) -> Fetch {
        let (slices, last) = self.finish();
        Fetch::Hot(slices, last)
    }

    /// What was taken, and the last index of it.
    fn finish(self) -> (Slices, LogIndex) {
        (self.slices, self.next.prev())
    }

    /// Whether `bytes` more bytes may be taken; if not, nothing more may. `first`: nothing was taken yet.
    fn may_take(&mut self, bytes: usize, first: bool) -> bool {
        self.full = bytes > self.room && !(first && self.slices.is_empty());
        !self.full
    }

    fn count(&mut self, count: u64, bytes: usize) {
        self.room = self.room.saturating_sub(bytes);
        self.next = self.next.plus(count);
    }

    /// Takes a run that the caller knows and that fits: `count` records from `next` on.
    pub(super) fn take_run(
        &mut self,
        segment: &Arc<Segment>,
        start: usize,
        end: usize,
        count: u64,
    ) {
        self.count(count, end - start);
        self.slices.push(slice(segment, start, end - start));
    }

    /// Whether the next `bytes` bytes would fit.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.room
    }

    /// Takes records of a mapped segment until it, the stretch, the range or the room ends.
    pub(super) fn take_mapped(&mut self, segment: &Arc<Segment>, found: &Found) {
        let last = self.last.min(found.limit);
        let end = segment.published();
        let (mut at, mut index) = (found.offset, found.index);
        let mut run: Option<Run> = None;
        while at < end && self.next <= last && !self.full {
            match segment.item(at) {
                Item::Record { index: stored, bytes } => {
                    assert_eq!(stored, index, "at {}", segment.position(at));
                    if index == self.next {
                        if !self.may_take(bytes, run.is_none()) {
                            break;
                        }
                        self.count(1, bytes);
                        run.get_or_insert(Run { start: at, end: at }).end = at + bytes;
                    }
                    index = index.next();
                    at += bytes;
                }
                Item::Mark { batch_bytes, count, record_bytes } => {
                    self.push_run(segment, run.take());
                    if at != found.offset && has_truncation(segment, at, batch_bytes) {
                        // After this was looked up the core has truncated something. What follows
                        // supersedes what was asked for.
                        break;
                    }
                    if index.plus(count) <= self.next {
                        // Nothing of this batch is wanted.
                        index = index.plus(count);
                        at += batch_bytes;
                    } else if index == self.next
                        && index.plus(count).prev() <= last
                        && self.fits(record_bytes)
                    {
                        let truncation = has_truncation(segment, at, batch_bytes);
                        let start = at + MARK_BYTES + if truncation { TRUNCATION_BYTES } else { 0 };
                        self.take_run(segment, start, start + record_bytes, count);
                        index = index.plus(count);
                        at += batch_bytes;
                    } else {
                        at += MARK_BYTES;
                    }
                }
                Item::Truncation => at += TRUNCATION_BYTES,
                Item::Seal => break,
            }
        }
        self.push_run(segment, run);
    }

    fn push_run(&mut self, segment: &Arc<Segment>, run: Option<Run>) {
        if let Some(Run { start, end }) = run {
            self.slices.push(slice(segment, start, end - start));
        }
    }

    /// Takes records out of a file, as [`take_mapped`](Self::take_mapped) does out of a mapping, at most
    /// a chunk of them.
    fn take_cold(&mut self, segment: &ColdSegment, found: &Found) -> Result<(), StorageError> {
        let file = segment
            .storage
            .open(&segment.path, OpenMode::Read)
            .map_err(|error| StorageError::io(&segment.path, "open", error))?;
        let rest = segment.end - found.offset;
        let mut want = self.room.min(CHUNK_BYTES).saturating_add(WAYPOINT_BYTES).min(rest);
        loop {
            let mut buffer = vec![0; want];
            file.read_at(&mut buffer, found.offset as u64).map_err(|error| {
                StorageError::io(&segment.path, "read", error)
                    .at_offset(found.offset as u64)
                    .at_index(self.next)
            })?;
            match self.take_buffer(segment, found, &buffer)? {
                Walk::Took(runs) => {
                    let buffer = Arc::new(buffer);
                    for Run { start, end } in runs {
                        let owner = Arc::<Vec<u8>>::clone(&buffer);
                        self.slices.push(Slice::new(owner, start, end - start));
                    }
                    return Ok(());
                }
                Walk::Short(needed) if needed > want && needed <= rest => want = needed,
                Walk::Short(needed) => {
                    let message = format!("a record, not the end after {rest} bytes of {needed}");
                    return Err(StorageError::damaged(&segment.path, message)
                        .at_offset(found.offset as u64)
                        .at_index(self.next));
                }
            }
        }
    }

    /// Walks over bytes of a file; says how many it needs if they do not hold the first record wanted.
    fn take_buffer(
        &mut self,
        segment: &ColdSegment,
        found: &Found,
        buffer: &[u8],
    ) -> Result<Walk, StorageError> {
        let last = self.last.min(found.limit);
        let (mut at, mut index) = (0, found.index);
        let mut runs: Vec<Run> = Vec::new();
        let mut open = false;
        while self.next <= last && !self.full {
            let damaged = |expected: &str| {
                StorageError::damaged(&segment.path, expected)
                    .at_offset((found.offset + at) as u64)
                    .at_index(index)
            };
            let rest = &buffer[at..];
            let Some(length) = peek_length(rest) else {
                return Ok(Walk::ended(runs, at + MARK_BYTES));
            };
            let bytes = align((length & !LOCAL_BIT) as usize);
            if bytes > rest.len() {
                return Ok(Walk::ended(runs, at + bytes));
            }
            if length & LOCAL_BIT != 0 {
                let position = Position::new(segment.sequence, found.offset + at);
                if !is_local(rest, length, position, segment.salt) {
                    return Err(damaged("a mark, a truncation or a seal"));
                }
                open = false;
            } else {
                if index == self.next && !self.may_take(bytes, runs.is_empty()) {
                    break;
                }
                let record =
                    Record::check(rest).map_err(|why| damaged(&format!("a record: {why}")))?;
                if record.header.id.index != index {
                    return Err(damaged(&format!("not index {}", record.header.id.index)));
                }
                if index == self.next {
                    self.count(1, bytes);
                    match runs.last_mut() {
                        Some(run) if open => run.end = at + bytes,
                        _ => runs.push(Run { start: at, end: at + bytes }),
                    }
                    open = true;
                }
                index = index.next();
            }
            at += bytes;
        }
        Ok(Walk::Took(runs))
    }
}

/// How a walk over a buffer ended.
enum Walk {
    Took(Vec<Run>),
    Short(usize),
}

impl Walk {
    /// The buffer ended; `needed` bytes of it would have been enough to go on.
    fn ended(runs: Vec<Run>, needed: usize) -> Self {
        if runs.is_empty() { Self::Short(needed) } else { Self::Took(runs) }
    }
}

fn has_truncation(segment: &Segment, mark: usize, batch_bytes: usize) -> bool {
    batch_bytes > MARK_BYTES && segment.item(mark + MARK_BYTES) == Item::Truncation
}

/// Whether good local bytes stand at the start of `bytes`.
fn is_local(bytes: &[u8], length: u32, position: Position, salt: Salt) -> bool {
    match LocalKind::of_length(length) {
        Some(LocalKind::Mark) => {
            Mark::decode(bytes, salt).is_some_and(|mark| mark.position == position)
        }
        Some(LocalKind::Truncation) => decode_truncation(bytes).is_some(),
        Some(LocalKind::Seal) => decode_seal(bytes, position.sequence()).is_some(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogOptions, Memory, Opened, open_in_memory};
    use super::*;
    use crate::membership::Membership;
    use crate::record::{EntryKind, RecordHeader, Records};
    use crate::types::{EntryId, NodeId, Term};

    fn log() -> Opened {
        let options =
            LogOptions { segment_bytes: 1 << 16, ready_segments: 1, max_entry_bytes: 1 << 10 };
        let members = Membership::default();
        open_in_memory(&Memory::default(), NodeId(1), &members, &options).expect("memory")
    }

    fn append(opened: &mut Opened, term: u64, count: u64) {
        for _ in 0..count {
            let id = EntryId::new(Term(term), opened.log.last().index.next());
            let header = RecordHeader { id, time: 0, kind: EntryKind::Command, origin: None };
            opened.log.append(&header, b"payload");
        }
        opened.log.publish();
    }

    fn ids(slices: &Slices) -> Vec<(u64, u64)> {
        Records::checked(slices)
            .map(|record| record.expect("good").header.id)
            .map(|id| (id.term.0, id.index.0))
            .collect()
    }

    #[test]
    fn a_walk_that_meets_a_truncation_made_after_its_lookup_ends_there() {
        for (new, batch) in [(0, 1), (1, 1), (5, 1), (5, 5)] {
            let mut opened = log();
            append(&mut opened, 1, 3);
            append(&mut opened, 1, 3);
            let reader = opened.log.reader();
            let found = reader.shared.catalog.find(LogIndex(1)).expect("there");
            let Place::Mapped(segment) = &found.place else { panic!("not mapped") };
            opened.log.truncate_from(LogIndex(5), 1);
            for _ in 0..new / batch {
                append(&mut opened, 2, batch);
            }
            opened.log.publish();
            // Whoever asked does not know of the truncation yet.
            let mut cut = Cut::new(LogIndex(0), LogIndex(9), usize::MAX);
            cut.take_mapped(segment, &found);
            let old = (1..=6).map(|index| (1, index)).collect::<Vec<_>>();
            assert_eq!(ids(&cut.slices), old, "{new} entries after the truncation");
        }
    }

    #[test]
    fn an_entry_that_was_truncated_and_not_replaced_is_an_error() {
        let mut opened = log();
        append(&mut opened, 1, 6);
        let reader = opened.log.reader();
        opened.log.truncate_from(LogIndex(5), 1);
        for _ in 0..2 {
            let error = reader.read(LogIndex(5), LogIndex(6), 1).expect_err("truncated");
            assert!(matches!(error.kind, StorageErrorKind::Released), "{error}");
            let (slices, last) = reader.read(LogIndex(0), LogIndex(6), 1000).expect("some of it");
            assert_eq!((ids(&slices).len(), last), (4, LogIndex(4)));
            opened.log.publish();
        }
    }
}
