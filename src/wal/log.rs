//! The end of the log that grows: appending, truncating, cutting batches, rolling, letting go.
//!
//! Owned by the core thread. Nothing here makes a system call or waits for another thread's I/O; the two
//! locks it takes, the catalog's and the pool's, are short, and it takes them once for many records.
//!
//! The bytes of a record are written once, here, and never again. What is behind the published offset is
//! everybody's to read, and what follows it only this thread knows of.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::catalog::{Place, WAYPOINT_BYTES};
use super::format::{
    BLOCK_BYTES, MARK_BYTES, Mark, SEAL_RESERVE, SEGMENT_HEADER_BYTES, TRUNCATION_BYTES,
    encode_seal, encode_truncation, fold, u32_at, u64_at,
};
use super::pool::{Ready, Shared};
use super::reader::{Cut, LogReader};
use super::rebuild::Rebuilt;
use super::segment::{Segment, Writer};
use super::{LogOptions, Owner, Position};
use crate::message::TermRun;
use crate::record::{RecordHeader, align, peek_length, record_bytes};
use crate::slices::Slices;
use crate::types::{BootCount, EntryId, LogIndex, Term};

/// Batches whose place the core knows by heart.
const RECENT_BATCHES: usize = 256;
/// Batches whose end is remembered until it is durable; beyond, neighbours are taken together.
const MAX_BATCH_ENDS: usize = 1024;
/// What entries leave free, so that the last flush of a segment can be covered without another one.
const COVER_RESERVE: usize = MARK_BYTES;

/// What [`Log::slices`] found.
#[derive(Debug)]
pub enum Fetch {
    /// The entries, out of a mapping, and the index of the last of them (`prev` if there are none).
    Hot(Slices, LogIndex),
    /// They are in a segment that is not mapped: a [`LogReader`] gets them, on a thread that may wait.
    Cold,
}

/// The log as the core thread has it; see [`wal`](super).
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    /// Keeps the directory from being opened twice.
    _owner: Owner,
    path: PathBuf,
    boot: BootCount,
    segment_bytes: usize,
    /// Sealed segments that stay mapped: for followers that are a little behind, and because one that is
    /// let go of while it is mapped can be used again as it is.
    hot_segments: usize,
    max_record_bytes: usize,

    writer: Writer,
    batch: Option<Batch>,
    /// Where the mark before the open batch's stands.
    last_mark: Position,
    /// Distance from here to the tail is what decides on a waypoint.
    waypoint: usize,

    base: EntryId,
    last: EntryId,
    /// The last entry that readers may see.
    published: LogIndex,
    /// The terms of the entries after `base`.
    terms: VecDeque<TermRun>,
    generation: u64,

    /// All segments, oldest first.
    segments: VecDeque<SegmentBase>,
    /// Those of them that this thread reads from, the active one last.
    hot: VecDeque<Arc<Segment>>,
    /// Batches in `hot`, with consecutive indexes.
    recent: VecDeque<Run>,

    ends: VecDeque<BatchEnd>,
    flushed: Position,
    /// Nothing that matters was flushed since the last mark.
    covered: bool,
    /// Segments let go of, and the flush after which they may really go: of a mark that says so.
    releasing: VecDeque<(Place, Option<Position>)>,
    /// What the last mark says is the oldest segment needed.
    marked_oldest: u32,
}

/// The entry before the first one of a segment that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentBase {
    pub(super) sequence: u32,
    pub(super) base: EntryId,
}

/// A batch that is being written.
#[derive(Clone, Copy, Debug)]
struct Batch {
    /// Where its mark will stand.
    mark: usize,
    /// The last entry before it.
    prev: EntryId,
    /// Its first record, if it gets one.
    first: LogIndex,
    /// Where its records begin.
    records: usize,
    count: u32,
    digest: u32,
    /// Whether its loss would lose something.
    matters: bool,
}

/// The records of a batch that has been published.
#[derive(Clone, Copy, Debug)]
struct Run {
    sequence: u32,
    start: usize,
    end: usize,
    first: LogIndex,
    last: LogIndex,
}

#[derive(Clone, Copy, Debug)]
struct BatchEnd {
    position: Position,
    generation: u64,
    last: LogIndex,
}

/// What a log begins with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) base: EntryId,
    pub(super) last: EntryId,
    pub(super) terms: Vec<TermRun>,
    /// All segments but the one to append to.
    pub(super) segments: Vec<SegmentBase>,
    /// Those of them that are mapped.
    pub(super) hot: Vec<Arc<Segment>>,
    pub(super) last_mark: Position,
    pub(super) boot: BootCount,
}

impl Start {
    /// After what was rebuilt.
    pub(super) fn of(
        rebuilt: &Rebuilt,
        hot: Vec<Arc<Segment>>,
        last_mark: Position,
        boot: BootCount,
    ) -> Self {
        Self {
            base: rebuilt.base,
            last: rebuilt.last,
            terms: rebuilt.entries.runs.clone(),
            segments: rebuilt.segments.clone(),
            hot,
            last_mark,
            boot,
        }
    }
}

impl Log {
    pub(super) fn new(
        shared: Arc<Shared>,
        owner: Owner,
        path: PathBuf,
        writer: Writer,
        options: &LogOptions,
        start: Start,
    ) -> Self {
        let mut log = Self {
            shared,
            _owner: owner,
            path,
            boot: start.boot,
            segment_bytes: options.segment_bytes,
            hot_segments: options.ready_segments,
            max_record_bytes: record_bytes(options.max_entry_bytes, true),
            batch: None,
            last_mark: start.last_mark,
            waypoint: SEGMENT_HEADER_BYTES,
            base: start.base,
            last: start.last,
            published: start.last.index,
            terms: start.terms.into(),
            generation: 0,
            segments: start.segments.into(),
            hot: start.hot.into(),
            recent: VecDeque::with_capacity(RECENT_BATCHES),
            ends: VecDeque::new(),
            flushed: writer.position(),
            covered: true,
            releasing: VecDeque::new(),
            marked_oldest: 0,
            writer,
        };
        log.enter_segment();
        log
    }

    /// The last entry before the first one that the log still holds.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// The first index that the log still holds, if it holds any.
    pub fn first(&self) -> LogIndex {
        self.base.index.next()
    }

    /// The last entry; [`base`](Self::base) if there is none.
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// The most bytes that one record may have. Larger ones from another node must be refused: they are
    /// not counted with in [`room`](Self::room).
    pub fn max_record_bytes(&self) -> usize {
        self.max_record_bytes
    }

    /// How many bytes of records can certainly be appended in one batch, a truncation before them
    /// included, if none has more than [`max_record_bytes`](Self::max_record_bytes). Counts the segments
    /// that are ready.
    pub fn room(&self) -> usize {
        // A truncation ends the open batch and begins another.
        let local = COVER_RESERVE + SEAL_RESERVE + MARK_BYTES + TRUNCATION_BYTES;
        let open = self.writer.free().saturating_sub(local);
        let whole = self.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES + BLOCK_BYTES + local);
        // A segment is left when the next record does not fit.
        let waste = self.max_record_bytes.saturating_sub(1);
        match self.shared.pool.count() {
            0 => open,
            ready => open.saturating_sub(waste) + (ready - 1) * whole.saturating_sub(waste) + whole,
        }
    }

    /// Whether the [`Preparer`](super::Preparer) has something to do since its last step. Cheap.
    pub fn wants_preparing(&self) -> bool {
        self.shared.pool.wanted()
    }

    /// Writes the next entry to the end of the log. Others see it after [`publish`](Self::publish).
    ///
    /// # Panics
    /// If it is not the next entry, or its term is lower than the last one's, or there is no
    /// [`room`](Self::room).
    pub fn append(&mut self, header: &RecordHeader, payload: &[u8]) {
        self.make_room(header.record_bytes(payload.len()));
        let (head, head_bytes) = header.head(payload.len());
        let (at, crc) = self.writer.put_record(&head[..head_bytes], payload);
        self.note(header.id, crc, at);
    }

    /// Copies the records `first..=last` among `slices`, which have been checked, to the end of the log,
    /// with one copy for each contiguous run; returns their bytes. Others see them after
    /// [`publish`](Self::publish).
    ///
    /// # Panics
    /// If they are not all there, or are not the next entries, or there is no [`room`](Self::room).
    pub fn append_slices(&mut self, slices: &Slices, first: LogIndex, last: LogIndex) -> usize {
        let parts = slices.parts().iter();
        let appended = parts.map(|part| self.append_part(part.as_bytes(), first, last)).sum();
        assert_eq!(self.last.index, last, "entries {first}..={last} were to be appended");
        appended
    }

    fn append_part(&mut self, bytes: &[u8], first: LogIndex, last: LogIndex) -> usize {
        let (mut at, mut appended) = (0, 0);
        // Where the records that have been given their places begin, here and in the segment.
        let mut run: Option<(usize, usize)> = None;
        while at < bytes.len() {
            let record = &bytes[at..];
            let (id, record_bytes) = peek(record);
            if id.index > last {
                break;
            }
            if id.index >= first {
                if !self.fits(record_bytes) {
                    self.fill(bytes, run.take(), at);
                }
                self.make_room(record_bytes);
                let to = self.writer.reserve(record_bytes);
                run.get_or_insert((at, to));
                self.note(id, u32_at(record, 0), to);
                appended += record_bytes;
            }
            at += record_bytes;
        }
        self.fill(bytes, run, at);
        appended
    }

    fn fill(&mut self, bytes: &[u8], run: Option<(usize, usize)>, end: usize) {
        if let Some((start, to)) = run {
            self.writer.fill(to, &bytes[start..end]);
        }
    }

    /// Takes the entries from `from` on out of the log. Their bytes stay where they are, superseded by
    /// what follows. `generation` is the number of the log's new life, by which
    /// [`persisted`](Self::persisted) will tell flushes from before and after.
    ///
    /// # Panics
    /// If there is no entry `from`, or `generation` is not higher than the last one, or there is no
    /// [`room`](Self::room).
    pub fn truncate_from(&mut self, from: LogIndex, generation: u64) {
        assert!(
            self.base.index < from && from <= self.last.index,
            "truncate from {from}, with entries after {} up to {}",
            self.base,
            self.last
        );
        assert!(generation > self.generation, "generation {generation} after {}", self.generation);
        // A truncation stands at the start of its batch, so that readers can take batches whole.
        if self.batch.is_some() {
            self.close_batch(None);
        }
        self.make_room(TRUNCATION_BYTES);
        let stays = EntryId::new(self.term_at(from.prev()), from.prev());
        let bytes = encode_truncation(stays);
        self.writer.put(&bytes);
        let batch = self.batch.as_mut().expect("make_room opened one");
        batch.digest = fold(batch.digest, u32_at(&bytes, 0));
        batch.first = from;
        batch.records = self.writer.tail();
        batch.matters = true;
        let mark = batch.mark;

        self.shared.catalog.truncate(from, self.writer.segment().position(mark));
        self.waypoint = mark;
        self.recent.clear();
        while self.terms.back().is_some_and(|run| run.first >= from) {
            self.terms.pop_back();
        }
        for segment in self.segments.iter_mut().rev() {
            if segment.base.index < from {
                break;
            }
            segment.base = stays;
        }
        self.last = stays;
        self.published = stays.index;
        self.generation = generation;
    }

    /// Ends the batch: shows it to readers, and returns the position up to which the log has to be
    /// flushed to make it durable. Without a new entry that is the same as before.
    pub fn publish(&mut self) -> Position {
        if self.batch.is_some() {
            self.close_batch(None);
        }
        let position = self.writer.position();
        if position > self.flushed && self.ends.back().is_none_or(|end| end.position < position) {
            let end = BatchEnd { position, generation: self.generation, last: self.last.index };
            if self.ends.len() == MAX_BATCH_ENDS {
                // Reported later than it could be, and never before it is true.
                self.ends.pop_back();
            }
            self.ends.push_back(end);
        }
        if self.marked_oldest == self.oldest() {
            for (_, after) in self.releasing.iter_mut().rev() {
                if after.is_some() {
                    break;
                }
                *after = Some(position);
            }
        }
        position
    }

    /// Takes note of a flush up to `flushed`: which entries it made durable, as the generation in which
    /// the last of them was appended, and its index. In that generation the log up to that index is on
    /// this node's disk. `None` if no batch ends there that did not before.
    ///
    /// A log in memory is flushed as soon as it is published.
    ///
    /// # Panics
    /// If `flushed` lies beyond the end of the log.
    pub fn persisted(&mut self, flushed: Position) -> Option<(u64, LogIndex)> {
        assert!(
            flushed <= self.writer.position(),
            "flushed up to {flushed}, written up to {}",
            self.writer.position()
        );
        self.flushed = self.flushed.max(flushed);
        let mut report = None;
        while let Some(end) = self.ends.front()
            && end.position <= flushed
        {
            report = Some((end.generation, end.last));
            self.ends.pop_front();
        }
        while let Some((_, Some(after))) = self.releasing.front()
            && *after <= flushed
        {
            let (place, _) = self.releasing.pop_front().expect("just looked at");
            self.shared.pool.retire(place);
        }
        report
    }

    /// Adds an empty batch whose mark will say that everything before it is durable, so that a later
    /// start can tell damage there from a torn tail; returns the position to flush. For an idle moment
    /// and for the end. `None` if a mark says so already, or if something still waits to be flushed.
    pub fn cover(&mut self) -> Option<Position> {
        let releasing = self.releasing.back().is_some_and(|(_, after)| after.is_none());
        if self.is_in_memory()
            || self.batch.is_some()
            || self.flushed < self.writer.position()
            || (self.covered && !releasing)
            || MARK_BYTES + SEAL_RESERVE > self.writer.free()
        {
            return None;
        }
        self.open_batch();
        let position = self.publish();
        self.covered = true;
        Some(position)
    }

    /// The entries after `prev`: whole records, at least one if there is one, and otherwise no more than
    /// `max_bytes` of them. Only what has been [published](Self::publish).
    ///
    /// # Panics
    /// If `prev` is not in the log, [`base`](Self::base) included.
    pub fn slices(&self, prev: LogIndex, max_bytes: usize) -> Fetch {
        assert!(
            self.base.index <= prev && prev <= self.last.index,
            "entries after {prev}, with entries after {} up to {}",
            self.base,
            self.last
        );
        let mut cut = Cut::new(prev, self.published, max_bytes);
        self.cut_recent(&mut cut);
        if !cut.is_empty() {
            return cut.into_fetch();
        }
        while !cut.is_done() {
            let next = cut.next();
            let found =
                self.shared.catalog.find(next).expect("only what is below base is released");
            match &found.place {
                Place::Cold(_) if cut.is_empty() => return Fetch::Cold,
                Place::Cold(_) => break,
                Place::Mapped(segment) => cut.take_mapped(segment, &found),
            }
            assert!(cut.is_done() || cut.next() > next, "index {next} is published and not found");
        }
        cut.into_fetch()
    }

    /// Takes whole batches that the core knows by heart.
    fn cut_recent(&self, cut: &mut Cut) {
        let at = self.recent.partition_point(|run| run.first < cut.next());
        for run in self.recent.range(at..) {
            if run.first != cut.next() || !cut.fits(run.end - run.start) {
                break;
            }
            let segment = self.hot.iter().rev().find(|segment| segment.sequence() == run.sequence);
            let segment = segment.expect("recent batches are in hot segments");
            cut.take_run(segment, run.start, run.end, run.last.0 + 1 - run.first.0);
        }
    }

    /// Reads the log on other threads.
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared), self.path.clone())
    }

    /// Lets go of the entries up to `up_to`, which are committed and needed by nobody: of whole segments
    /// of them. They are deleted or used again off this thread, after a mark that says so is durable, and
    /// once nobody holds a slice of them. The last entry stays: no time stamp to come may be earlier than its
    /// own.
    ///
    /// # Panics
    /// If `up_to` lies beyond the end of the log.
    pub fn release(&mut self, up_to: LogIndex) {
        self.release_beyond(0, up_to);
    }

    /// As [`release`](Self::release), but only while the segments of the log have more than `max_bytes` in
    /// all; those that are [ready](LogOptions::ready_segments) do not count. Returns whether something is
    /// let go of that waits for a mark: a log to which nothing is appended needs a [`cover`](Self::cover)
    /// for that.
    ///
    /// # Panics
    /// If `up_to` lies beyond the end of the log.
    pub fn release_beyond(&mut self, max_bytes: u64, up_to: LogIndex) -> bool {
        assert!(up_to <= self.last.index, "release {up_to}, the log ends with {}", self.last);
        let up_to = up_to.min(self.last.index.prev());
        if self.may_release(up_to) {
            self.release_up_to(self.shared.catalog.beyond(max_bytes), up_to);
        }
        self.releasing.back().is_some_and(|(_, after)| after.is_none())
    }

    /// Whether the oldest segment may go. Entries that were superseded may not have been flushed, and a
    /// segment that the flusher has not entered is still its to write: the marks of its successors lead
    /// back to it.
    fn may_release(&self, up_to: LogIndex) -> bool {
        self.segments.len() > 1
            && self.segments[1].base.index <= up_to
            && self.segments[1].sequence <= self.flushed.sequence()
    }

    fn release_up_to(&mut self, max_segments: usize, up_to: LogIndex) {
        let before = self.segments.len();
        while before - self.segments.len() < max_segments && self.may_release(up_to) {
            self.segments.pop_front();
        }
        if self.segments.len() == before {
            return;
        }
        let oldest = self.oldest();
        self.base = self.segments[0].base;
        while self.terms.front().is_some_and(|run| run.first <= self.base.index) {
            self.terms.pop_front();
        }
        while self.recent.front().is_some_and(|run| run.sequence < oldest) {
            self.recent.pop_front();
        }
        while self.hot.front().is_some_and(|segment| segment.sequence() < oldest) {
            self.hot.pop_front();
        }
        for place in self.shared.catalog.release(oldest) {
            if self.is_in_memory() {
                self.shared.pool.retire(place);
            } else {
                self.releasing.push_back((place, None));
            }
        }
    }

    /// The bytes that the log takes on the disk, or in memory: its segments, those that are ready or being
    /// made, and those that were let go of and not deleted yet.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes()
    }

    /// How many segments hold the log, the one that is appended to included.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    fn oldest(&self) -> u32 {
        self.segments.front().expect("there is always an active segment").sequence
    }

    fn is_in_memory(&self) -> bool {
        self.writer.segment().backing().is_none()
    }

    fn term_at(&self, index: LogIndex) -> Term {
        let after = self.terms.partition_point(|run| run.first <= index);
        after.checked_sub(1).map_or(self.base.term, |run| self.terms[run].term)
    }

    /// Whether `bytes` more bytes fit into the active segment, with a mark if one is needed.
    fn fits(&self, bytes: usize) -> bool {
        let mark = if self.batch.is_some() { 0 } else { MARK_BYTES };
        bytes + mark + COVER_RESERVE + SEAL_RESERVE <= self.writer.free()
    }

    /// Makes sure that a batch is open and that `bytes` bytes fit into it.
    fn make_room(&mut self, bytes: usize) {
        if !self.fits(bytes) {
            self.roll();
            assert!(self.fits(bytes), "{bytes} bytes do not fit into an empty segment");
        }
        if self.batch.is_none() {
            self.open_batch();
        }
    }

    fn open_batch(&mut self) {
        let mark = self.writer.reserve(MARK_BYTES);
        self.batch = Some(Batch {
            mark,
            prev: self.last,
            first: self.last.index.next(),
            records: mark + MARK_BYTES,
            count: 0,
            digest: 0,
            matters: false,
        });
    }

    /// Takes note of a record that has its place.
    fn note(&mut self, id: EntryId, crc: u32, at: usize) {
        assert_eq!(id.index, self.last.index.next(), "entry {id} after {}", self.last);
        if id.term != self.last.term {
            assert!(id.term > self.last.term, "entry {id} after {}", self.last);
            self.terms.push_back(TermRun { first: id.index, term: id.term });
        }
        self.last = id;
        let batch = self.batch.as_mut().expect("make_room opened one");
        batch.count += 1;
        batch.digest = fold(batch.digest, crc);
        batch.matters = true;
        if at - self.waypoint >= WAYPOINT_BYTES {
            self.waypoint = at;
            self.shared.catalog.add_waypoint(id.index, self.writer.segment().position(at));
        }
    }

    /// Ends the open batch, and with a seal the segment, and shows it to readers.
    fn close_batch(&mut self, successor: Option<u32>) {
        let mut batch = self.batch.take().expect("a batch is open");
        let segment = self.writer.segment();
        let sequence = segment.sequence();
        let position = segment.position(batch.mark);
        let end = self.writer.tail();
        if let Some(successor) = successor {
            let seal = encode_seal(sequence, successor);
            self.writer.put(&seal);
            batch.digest = fold(batch.digest, u32_at(&seal, 0));
            batch.matters = true;
        }
        let mark = Mark {
            batch_bytes: (self.writer.tail() - batch.mark) as u32,
            position,
            predecessor: self.last_mark,
            durable: Position::default(),
            boot: self.boot,
            oldest: self.oldest(),
            digest: batch.digest,
            prev: batch.prev,
            count: batch.count,
            record_bytes: (end - batch.records) as u32,
        };
        self.writer.fill(batch.mark, &mark.encode_open());
        self.writer.publish();
        self.last_mark = position;
        self.marked_oldest = mark.oldest;
        self.published = self.last.index;
        self.covered &= !batch.matters;
        if batch.count > 0 {
            if self.recent.len() == RECENT_BATCHES {
                self.recent.pop_front();
            }
            let (first, last) = (batch.first, self.last.index);
            self.recent.push_back(Run { sequence, start: batch.records, end, first, last });
        }
    }

    /// Goes on in the next segment.
    fn roll(&mut self) {
        let Ready { writer, write_back } =
            self.shared.pool.take().expect("room counts the segments that are ready");
        if self.batch.is_none() {
            // Every segment keeps free what a batch of nothing but a seal takes.
            self.open_batch();
        }
        self.close_batch(Some(writer.segment().sequence()));
        self.shared.catalog.push(Place::Mapped(Arc::clone(writer.segment())), Some(write_back));
        self.writer = writer;
        self.enter_segment();
    }

    fn enter_segment(&mut self) {
        let segment = Arc::clone(self.writer.segment());
        self.segments.push_back(SegmentBase { sequence: segment.sequence(), base: self.last });
        self.waypoint = self.writer.tail();
        self.shared.catalog.add_waypoint(self.last.index.next(), self.writer.position());
        self.hot.push_back(segment);
        // Without files the mappings are the log.
        while !self.is_in_memory() && self.hot.len() > self.hot_segments + 1 {
            let sealed = self.hot.pop_front().expect("more than one");
            while self.recent.front().is_some_and(|run| run.sequence <= sealed.sequence()) {
                self.recent.pop_front();
            }
            self.shared.pool.cool(sealed);
        }
    }
}

/// Name and size of the record at the start of `bytes`, which has been checked.
fn peek(bytes: &[u8]) -> (EntryId, usize) {
    let length = peek_length(bytes).expect("a whole record") as usize;
    let id = EntryId::new(Term(u64_at(bytes, 16)), LogIndex(u64_at(bytes, 8)));
    (id, align(length))
}
