//! One segment in memory: a private, copy-on-write mapping of its file, or anonymous memory.
//!
//! This is the only file with `unsafe` in it. Three parties touch the bytes of a mapping, and the types
//! keep them apart:
//!
//! - The [`Writer`], owned by the core thread, stores above the *published* offset, where nobody else
//!   looks, and moves that offset forward.
//! - Readers look below it. They get `&[u8]` over records only, never over a mark.
//! - The [`WriteBack`], owned by the flusher, fills in two fields of the marks below it (checksum and
//!   durable position), which no reader looks at, and lends the bytes to be written to the file.
//!
//! There is one `Writer` and one `WriteBack` for each use of a segment: [`Segment::split`] takes the
//! segment by value, and it is only had by value again once nobody else holds it. Bytes below the
//! published offset do not change until then, those two fields excepted, and no `&mut [u8]` over a
//! mapping ever exists.
//!
//! Assumed of the world outside: nobody shortens a segment file while it is mapped. A load from a page
//! that was never populated would then be SIGBUS. The directory's lock keeps other nodes away, and every
//! page of a mapping is populated, and so a private copy, before the segment is used.
#![allow(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::Position;
use super::format::{
    BATCH_BYTES_AT, BLOCK_BYTES, COUNT_AT, DURABLE_AT, LocalKind, MARK_BYTES, PREV_INDEX_AT,
    PREV_TERM_AT, RECORD_BYTES_AT, SEGMENT_HEADER_BYTES, Salt,
};
use crate::record::{LOCAL_BIT, RECORD_ALIGN, align};
use crate::slices::{SharedBytes, Slice};
use crate::storage::StorageFile;
use crate::sync::Accesses;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::types::{EntryId, LogIndex, Term};

/// The unit in which pages are populated where the system cannot do it by itself. No machine has smaller
/// pages.
const SMALLEST_PAGE: usize = 4096;

/// The file behind a mapping.
#[derive(Clone, Debug)]
pub(super) struct Backing {
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) path: PathBuf,
    pub(super) salt: Salt,
}

/// A mapped segment.
#[derive(Debug)]
pub(super) struct Segment {
    sequence: u32,
    memory: MmapRaw,
    accesses: Accesses,
    /// Everything below has been written for good.
    published: AtomicUsize,
    backing: Option<Backing>,
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Record { index: LogIndex, bytes: usize },
    Mark { batch_bytes: usize, count: u64, record_bytes: usize },
    Truncation,
    Seal,
}

impl Segment {
    /// A segment in anonymous memory, for a log without files.
    pub(super) fn anonymous(sequence: u32, bytes: usize) -> io::Result<Self> {
        let memory = MmapOptions::new().len(bytes).map_anon()?;
        Ok(Self::new(sequence, memory, None))
    }

    /// Maps a file of at least `bytes` bytes. A file that cannot be mapped gets anonymous memory, into
    /// which [`populate`](Self::populate) reads its bytes.
    pub(super) fn of_file(sequence: u32, backing: Backing, bytes: usize) -> io::Result<Self> {
        let len = backing.file.len()?;
        if len < bytes as u64 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{len} bytes of {bytes}"),
            ));
        }
        let memory = match backing.file.file() {
            // SAFETY: the mapping is private, so nobody else's stores into the file reach pages that have
            // been populated, and all are populated before the segment is used. The directory is locked,
            // and the file is as long as the mapping and not shortened by us.
            Some(file) => unsafe { MmapOptions::new().len(bytes).map_copy(file)? },
            None => MmapOptions::new().len(bytes).map_anon()?,
        };
        Ok(Self::new(sequence, memory, Some(backing)))
    }

    fn new(sequence: u32, memory: MmapMut, backing: Option<Backing>) -> Self {
        // A child of `fork` would share the pages copy-on-write, and every store of ours would fault
        // again. A kernel that does not know the advice costs speed, nothing else.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::DontFork);
        let published = AtomicUsize::new(SEGMENT_HEADER_BYTES);
        let (memory, accesses) = (MmapRaw::from(memory), Accesses::new());
        Self { sequence, memory, accesses, published, backing }
    }

    /// Makes `len` bytes from `at` memory of our own, so that no store there faults. Both are multiples
    /// of the page size.
    pub(super) fn populate(&mut self, at: usize, len: usize) -> io::Result<()> {
        assert!(at + len <= self.capacity(), "populate {at}+{len} of {}", self.capacity());
        if let Some(Backing { file, .. }) = &self.backing
            && file.file().is_none()
        {
            let mut bytes = vec![0; len];
            file.read_at(&mut bytes, at as u64)?;
            // SAFETY: `at + len` lies within the mapping (asserted), and `&mut self` proves that nobody
            // else looks at it.
            unsafe {
                ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.as_mut_ptr().add(at), len);
            };
            return Ok(());
        }
        self.fault_in(at, len)
    }

    fn fault_in(&mut self, at: usize, len: usize) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        match self.memory.advise_range(memmap2::Advice::PopulateWrite, at, len) {
            // A kernel before 5.14 does not know this advice.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            result => return result,
        }
        for page in (at..at + len).step_by(SMALLEST_PAGE) {
            // SAFETY: `page` lies within the mapping (asserted by `populate`), and `&mut self` proves that
            // nobody else looks at it. Volatile, or the compiler would drop a store of what was just loaded.
            unsafe {
                let byte = self.memory.as_mut_ptr().add(page);
                ptr::write_volatile(byte, ptr::read_volatile(byte));
            }
        }
        Ok(())
    }

    /// Gives an unused segment a new sequence, and a new file name if it has a file.
    pub(super) fn reuse(&mut self, sequence: u32, path: Option<PathBuf>) {
        self.sequence = sequence;
        self.published = AtomicUsize::new(SEGMENT_HEADER_BYTES);
        if let (Some(backing), Some(path)) = (&mut self.backing, path) {
            backing.path = path;
        }
    }

    /// Hands the segment to those who use it.
    pub(super) fn split(self) -> (Writer, WriteBack) {
        let published = self.published.load(Ordering::Relaxed);
        let segment = Arc::new(self);
        let writer = Writer { segment: Arc::clone(&segment), tail: published, published };
        (writer, WriteBack { segment })
    }

    pub(super) fn sequence(&self) -> u32 {
        self.sequence
    }

    pub(super) fn capacity(&self) -> usize {
        self.memory.len()
    }

    pub(super) fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }

    /// Where the written bytes end.
    pub(super) fn published(&self) -> usize {
        self.published.load(Ordering::Acquire)
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        Position::new(self.sequence, offset)
    }

    /// What stands at `at`, which is the start of something below the published offset.
    pub(super) fn item(&self, at: usize) -> Item {
        let length = self.load_u32(at + 4);
        if length & LOCAL_BIT == 0 {
            let index = LogIndex(self.load_u64(at + 8));
            return Item::Record { index, bytes: align(length as usize) };
        }
        match LocalKind::of_length(length).expect("bytes that were checked when they came in") {
            LocalKind::Mark => Item::Mark {
                batch_bytes: self.load_u32(at + BATCH_BYTES_AT) as usize,
                count: u64::from(self.load_u32(at + COUNT_AT)),
                record_bytes: self.load_u32(at + RECORD_BYTES_AT) as usize,
            },
            LocalKind::Truncation => Item::Truncation,
            LocalKind::Seal => Item::Seal,
        }
    }

    /// The last entry before the batch at `at`.
    pub(super) fn mark_prev(&self, at: usize) -> EntryId {
        assert!(matches!(self.item(at), Item::Mark { .. }), "a mark at {}", self.position(at));
        let term = self.load_u64(at + PREV_TERM_AT);
        EntryId::new(Term(term), LogIndex(self.load_u64(at + PREV_INDEX_AT)))
    }

    /// Where the byte at `at` is, for somebody who loads it and those after it, `len` in all.
    ///
    /// # Safety
    /// They lie within the mapping.
    unsafe fn source(&self, at: usize, len: usize) -> *const u8 {
        self.accesses.load(at, len);
        // SAFETY: within the mapping, as the caller has promised.
        unsafe { self.memory.as_ptr().add(at) }
    }

    /// Where the byte at `at` is, for somebody who stores it and those after it, `len` in all.
    ///
    /// # Safety
    /// They lie within the mapping.
    unsafe fn target(&self, at: usize, len: usize) -> *mut u8 {
        self.accesses.store(at, len);
        // SAFETY: within the mapping, as the caller has promised.
        unsafe { self.memory.as_mut_ptr().add(at) }
    }

    fn load_u64(&self, at: usize) -> u64 {
        u64::from(self.load_u32(at + 4)) << 32 | u64::from(self.load_u32(at))
    }

    fn load_u32(&self, at: usize) -> u32 {
        let published = self.published();
        assert!(at + 4 <= published, "load at {at}, published {published}");
        // SAFETY: below the published offset, hence initialised and within the mapping. Written before the
        // release store of that offset, which `published` has acquired; the flusher changes a mark's
        // checksum and durable position only, and nothing loads those (see the callers).
        u32::from_le(unsafe { self.source(at, 4).cast::<u32>().read_unaligned() })
    }
}

impl SharedBytes for Segment {
    fn bytes(&self, start: usize, len: usize) -> &[u8] {
        let published = self.published();
        assert!(
            start >= SEGMENT_HEADER_BYTES && start + len <= published,
            "bytes {start}+{len}, published {published}"
        );
        // SAFETY: below the published offset, hence initialised and within the mapping, and never written
        // again while `self` is shared. Only marks are, and slices are cut between them.
        unsafe { std::slice::from_raw_parts(self.source(start, len), len) }
    }
}

/// The `len` bytes of records from `start`.
pub(super) fn slice(segment: &Arc<Segment>, start: usize, len: usize) -> Slice {
    let owner: Arc<dyn SharedBytes> = Arc::<Segment>::clone(segment);
    Slice::new(owner, start, len)
}

/// Stores at the end of a segment. There is one for each segment in use.
#[derive(Debug)]
pub(super) struct Writer {
    segment: Arc<Segment>,
    /// Where the next byte goes.
    tail: usize,
    /// What `segment.published` says; only this writer changes that.
    published: usize,
}

impl Writer {
    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    pub(super) fn tail(&self) -> usize {
        self.tail
    }

    pub(super) fn position(&self) -> Position {
        self.segment.position(self.tail)
    }

    /// Bytes between the tail and the last block of the segment, which is kept for an echo.
    pub(super) fn free(&self) -> usize {
        self.segment.capacity() - BLOCK_BYTES - self.tail
    }

    /// Stores `bytes` at the tail; returns where they stand.
    pub(super) fn put(&mut self, bytes: &[u8]) -> usize {
        let at = self.reserve(bytes.len());
        self.store(at, bytes);
        at
    }

    /// Stores a record at the tail, padding and checksum included; returns where it stands, and its
    /// checksum. `head` has a zero for that.
    pub(super) fn put_record(&mut self, head: &[u8], payload: &[u8]) -> (usize, u32) {
        let length = head.len() + payload.len();
        let whole = align(length);
        let at = self.reserve(whole);
        self.store(at, head);
        self.store(at + head.len(), payload);
        self.store(at + length, &[0; RECORD_ALIGN][..whole - length]);
        // One pass over bytes in one piece, in the cache: three times as fast as over the parts.
        // SAFETY: these bytes have just been written, and nobody else knows of them.
        let covered = unsafe {
            std::slice::from_raw_parts(self.segment.source(at + 4, whole - 4), whole - 4)
        };
        let crc = crc32c::crc32c(covered);
        self.store(at, &crc.to_le_bytes());
        (at, crc)
    }

    /// Leaves `len` bytes at the tail for [`fill`](Self::fill); returns where they stand.
    pub(super) fn reserve(&mut self, len: usize) -> usize {
        assert!(len <= self.free(), "{len} bytes into {} at {}", self.free(), self.position());
        let at = self.tail;
        self.tail += len;
        at
    }

    /// Stores `bytes` where they were reserved.
    pub(super) fn fill(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.tail, "fill {at}+{} of {}", bytes.len(), self.tail);
        self.store(at, bytes);
    }

    /// Shows everything before the tail to readers. From here on it does not change.
    pub(super) fn publish(&mut self) {
        self.published = self.tail;
        self.segment.published.store(self.tail, Ordering::Release);
    }

    fn store(&mut self, at: usize, bytes: &[u8]) {
        assert!(at >= self.published, "store at {at}, published {}", self.published);
        // SAFETY: `at + bytes.len()` is at most the tail, which `reserve` keeps within the mapping. At or
        // above the published offset nobody else loads or stores, and `&mut self` is the only writer. The
        // source is a reference to other memory, or to bytes of this mapping below the published offset.
        unsafe {
            let to = self.segment.target(at, bytes.len());
            ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

/// Completes the marks of a segment and lends its bytes to be written to the file. There is one for each
/// segment in use.
#[derive(Debug)]
pub(super) struct WriteBack {
    segment: Arc<Segment>,
}

impl WriteBack {
    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Completes all marks of the batches between `from` and `to`, which are ends of batches below the
    /// published offset.
    pub(super) fn complete_marks(&mut self, from: usize, to: usize, durable: Position) {
        let salt = self.segment.backing().map(|backing| backing.salt).unwrap_or_default();
        let mut at = from;
        while at < to {
            let Item::Mark { batch_bytes, .. } = self.segment.item(at) else {
                panic!("no mark begins the batch at {}", self.segment.position(at));
            };
            self.complete_mark(at, durable, salt);
            at += batch_bytes;
        }
        assert_eq!(at, to, "a batch ends behind the flush target");
    }

    fn complete_mark(&mut self, at: usize, durable: Position, salt: Salt) {
        assert!(at + MARK_BYTES <= self.segment.published(), "mark at {at}");
        // SAFETY: the mark lies below the published offset, so the writer is done with it. Its checksum and
        // durable position are stored by this `WriteBack` alone, which `&mut self` makes exclusive, and
        // loaded by nobody else; the other fields are only loaded. No `&[u8]` lent by `bytes` lives.
        unsafe {
            let durable = durable.to_word().to_le_bytes();
            let to = self.segment.target(at + DURABLE_AT, durable.len());
            ptr::copy_nonoverlapping(durable.as_ptr(), to, durable.len());
            let (from, len) = (at + 4, MARK_BYTES - 4);
            let covered = std::slice::from_raw_parts(self.segment.source(from, len), len);
            let crc = salt.checksum(covered).to_le_bytes();
            let to = self.segment.target(at, crc.len());
            ptr::copy_nonoverlapping(crc.as_ptr(), to, crc.len());
        }
    }

    /// The bytes between two offsets, marks included, to be written to the file.
    pub(super) fn bytes(&self, from: usize, to: usize) -> &[u8] {
        let published = self.segment.published();
        assert!(from <= to && to <= published, "bytes {from}..{to}, published {published}");
        // SAFETY: below the published offset, hence initialised and within the mapping. What may still
        // change there are the marks, and only `complete_mark` changes them, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.segment.source(from, to - from), to - from) }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn segment() -> Segment {
        let mut segment = Segment::anonymous(3, 1 << 16).expect("memory");
        segment.populate(0, 1 << 16).expect("memory");
        segment
    }

    #[test]
    fn readers_see_what_was_published_and_nothing_after_it() {
        let (mut writer, _write_back) = segment().split();
        let at = writer.put(b"12345678");
        let reader = Arc::clone(writer.segment());
        let look = AssertUnwindSafe(|| reader.bytes(at, 8).to_vec());
        let unpublished = catch_unwind(look);
        assert!(unpublished.is_err(), "{unpublished:?} was not published");
        writer.publish();
        assert_eq!(reader.bytes(at, 8), b"12345678");
    }

    #[test]
    #[should_panic(expected = "store at 64, published 72")]
    fn published_bytes_are_never_written_again() {
        let (mut writer, _write_back) = segment().split();
        let at = writer.put(b"12345678");
        writer.publish();
        writer.fill(at, b"x");
    }

    #[test]
    #[should_panic(expected = "bytes into")]
    fn a_segment_takes_no_more_than_it_has_room_for() {
        let (mut writer, _write_back) = segment().split();
        writer.reserve(writer.free() + 1);
    }
}
