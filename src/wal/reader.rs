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
    LocalKind, MARK_BYTES, Mark, TRUNCATION_BYTES, decode_seal, decode_truncation,
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
    /// Entries that may still be truncated are read as they were or as they are. The committed ones
    /// cannot be, and are what they are.
    ///
    /// # Errors
    /// `Released` if the entry after `prev` is not in the log any more; `Damaged` and `Io` if it has to
    /// be read from a file.
    ///
    /// # Panics
    /// If `last` has not been [published](super::Log::publish).
    pub fn read(
        &self,
        prev: LogIndex,
        last: LogIndex,
        max_bytes: usize,
    ) -> Result<(Slices, LogIndex), StorageError> {
        let mut cut = Cut::new(prev, last, max_bytes);
        while !cut.is_done() {
            let next = cut.next;
            let Some(found) = self.shared.catalog.find(next) else {
                return Err(
                    StorageError::new(&self.path, StorageErrorKind::Released).at_index(next)
                );
            };
            match &found.place {
                Place::Mapped(segment) => cut.take_mapped(segment, &found),
                Place::Cold(segment) => cut.take_cold(segment, &found)?,
            }
            assert!(cut.is_done() || cut.next > next, "index {next} was not published");
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
                    if index.plus(count) <= self.next {
                        // Nothing of this batch is wanted.
                        index = index.plus(count);
                        at += batch_bytes;
                    } else if index == self.next
                        && index.plus(count).prev() <= last
                        && self.fits(record_bytes)
                    {
                        let start = records_start(segment, at);
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
                if !is_local(rest, length, position) {
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

/// Where the records of the batch at `mark` begin; it has some.
fn records_start(segment: &Segment, mark: usize) -> usize {
    match segment.item(mark + MARK_BYTES) {
        Item::Truncation => mark + MARK_BYTES + TRUNCATION_BYTES,
        _ => mark + MARK_BYTES,
    }
}

/// Whether good local bytes stand at the start of `bytes`.
fn is_local(bytes: &[u8], length: u32, position: Position) -> bool {
    match LocalKind::of_length(length) {
        Some(LocalKind::Mark) => Mark::decode(bytes).is_some_and(|mark| mark.position == position),
        Some(LocalKind::Truncation) => decode_truncation(bytes).is_some(),
        Some(LocalKind::Seal) => decode_seal(bytes, position.sequence()).is_some(),
        None => false,
    }
}
