//! Opening a log that was left behind: what of it counts, and making that durable.
//!
//! First everything is looked at and nothing is changed ([`survey`]): which segments there are, which
//! batches in them are whole, where the log ends, and whether that end is a torn tail or damage. Only
//! then, and only if nothing is wrong, the end is written anew ([`Survey::settle`]), because what can be
//! read after a kill or a failed flush need not be on the disk.
//!
//! See [`wal`](super) for the rules, and why they are what they are.

pub(super) mod inspect;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog::{ColdSegment, Place};
use super::format::{
    BLOCK_BYTES, BadHeader, MARK_BYTES, Mark, SEAL_BYTES, SEAL_RESERVE, SEGMENT_HEADER_BYTES, Salt,
    SegmentHeader, TRUNCATION_BYTES, VERSION, claimed_durable, decode_seal, decode_truncation,
    echo_at, encode_echo, encode_seal, fold, u32_at,
};
use super::pool::Shared;
use super::preparer::Files;
use super::rebuild::Rebuilt;
use super::{NEW_SUFFIX, Position, parse_segment_name};
use crate::error::{StorageError, StorageErrorKind};
use crate::record::{RECORD_ALIGN, Record};
use crate::storage::{OpenMode, StorageFile};
use crate::types::{EntryId, LogIndex};

/// How much of a segment is in memory at a time, unless one batch is larger.
const WINDOW_BYTES: usize = 1 << 20;

/// What there is in a log's directory.
#[derive(Debug)]
pub(super) struct Survey {
    /// The entries.
    pub(super) rebuilt: Rebuilt,
    /// The mark that the next one follows.
    pub(super) last_mark: Position,
    /// The sequence of the segment to append to, which has to be made.
    pub(super) active: u32,
    /// A sequence above that of every file.
    pub(super) next_sequence: u32,
    /// The segments that count, oldest first.
    chain: Vec<Scan>,
    /// The last segment that counts has no seal yet.
    unsealed: bool,
    /// Everything before this is on the disk.
    durable: Position,
    oldest: u32,
    /// Segments that were ready and never used.
    unused: Vec<SegmentFile>,
    /// Segments let go of.
    stale: Vec<SegmentFile>,
    /// Files that a crash left half made.
    temporaries: Vec<PathBuf>,
}

/// A segment file with a good header.
#[derive(Clone, Debug)]
struct SegmentFile {
    path: PathBuf,
    header: SegmentHeader,
}

/// What was found in one segment.
#[derive(Debug)]
struct Scan {
    file: SegmentFile,
    /// Where its last whole batch ends.
    end: usize,
    last_mark: Option<Mark>,
    durable: Position,
    successor: Option<u32>,
    /// Why the bytes from `end` on are no batch, unless a seal stands there.
    bad: Bad,
    /// The highest durable position that a mark or an echo after `end` names.
    later: Position,
}

/// A segment file, a part of it in memory.
struct Window<'a> {
    file: Arc<dyn StorageFile>,
    path: &'a Path,
    len: usize,
    start: usize,
    buffer: &'a mut Vec<u8>,
}

/// A whole batch.
struct Batch {
    mark: Mark,
    truncation: Option<EntryId>,
    records: Range<usize>,
    successor: Option<u32>,
    end: usize,
}

/// Why bytes are no batch.
#[derive(Clone, Debug)]
struct Bad {
    offset: usize,
    index: Option<LogIndex>,
    expected: String,
}

/// Looks at the log in the directory of `files`, and changes nothing. `exists`: whether the identity says
/// that there is one.
///
/// # Errors
/// `Damaged`, `UnknownVersion` and `Io`.
pub(super) fn survey(
    files: &Files,
    exists: bool,
    shared: Arc<Shared>,
) -> Result<Survey, StorageError> {
    let (segments, temporaries) = list(files)?;
    let highest = segments.keys().next_back().copied().unwrap_or(0);
    let mut survey = Survey {
        rebuilt: Rebuilt::new(shared),
        last_mark: Position::default(),
        active: 1,
        next_sequence: highest + 1,
        chain: Vec::new(),
        unsealed: false,
        durable: Position::default(),
        oldest: 1,
        unused: Vec::new(),
        stale: Vec::new(),
        temporaries,
    };
    let mut buffer = Vec::new();
    // The highest durable position named beyond the end of the log.
    let mut later = Position::default();
    let mut newest = None;
    for (&sequence, file) in segments.iter().rev() {
        let mut window = Window::open(files, file, &mut buffer)?;
        let mut aside = Rebuilt::new(Arc::default());
        let scan = scan(file, &mut window, files.salt(), &mut aside, None)?;
        if let Some(mark) = scan.last_mark {
            newest = Some((sequence, mark));
            break;
        }
        later = later.max(scan.later);
    }
    let Some((newest, newest_mark)) = newest else {
        return survey.finish_empty(files, exists, segments, later);
    };
    if !exists {
        return Err(StorageError::damaged(&files.path, "no log: the identity knows of none"));
    }
    survey.oldest = newest_mark.oldest;
    survey.follow_chain(files, &segments, newest, &mut buffer)?;
    survey.find_end(files, &segments, later)?;
    for (sequence, file) in segments {
        if sequence < survey.oldest {
            survey.stale.push(file);
        } else if sequence != survey.active
            && survey.chain.iter().all(|scan| scan.file.header.sequence != sequence)
        {
            survey.unused.push(file);
        }
    }
    Ok(survey)
}

impl Survey {
    /// A log in which nothing counts.
    fn finish_empty(
        mut self,
        files: &Files,
        exists: bool,
        segments: BTreeMap<u32, SegmentFile>,
        later: Position,
    ) -> Result<Self, StorageError> {
        if exists && !segments.contains_key(&self.active) {
            return Err(missing(files, self.active));
        }
        let end = Position::new(self.active, SEGMENT_HEADER_BYTES);
        if later > end {
            return Err(StorageError::damaged(files.segment(self.active), "a mark")
                .at_offset(SEGMENT_HEADER_BYTES as u64)
                .at_index(LogIndex(1)));
        }
        self.next_sequence = self.next_sequence.max(self.active + 1);
        self.unused =
            segments.into_values().filter(|file| file.header.sequence != self.active).collect();
        Ok(self)
    }

    /// Goes through the segments from the oldest that is needed to the newest with anything in it.
    fn follow_chain(
        &mut self,
        files: &Files,
        segments: &BTreeMap<u32, SegmentFile>,
        newest: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StorageError> {
        let mut sequence = self.oldest;
        loop {
            let file = segments.get(&sequence).ok_or_else(|| missing(files, sequence))?;
            let mut window = Window::open(files, file, buffer)?;
            let last_mark = (!self.chain.is_empty()).then_some(self.last_mark);
            let scan = scan(file, &mut window, files.salt(), &mut self.rebuilt, last_mark)?;
            let successor = scan.successor;
            let Some(mark) = scan.last_mark else {
                return Err(scan.damage());
            };
            self.last_mark = mark.position;
            self.durable = self.durable.max(scan.durable);
            if sequence == newest {
                self.chain.push(scan);
                return Ok(());
            }
            match successor {
                Some(next) if sequence < next && next <= newest => sequence = next,
                Some(next) => {
                    let expected = format!("a seal that leads to segment {newest}, not {next}");
                    return Err(StorageError::damaged(&file.path, expected));
                }
                // The segment after this one has batches: its end was once durable.
                None => return Err(scan.damage()),
            }
            self.chain.push(scan);
        }
    }

    /// Decides where to go on, and whether what follows the end of the log may be dropped.
    fn find_end(
        &mut self,
        files: &Files,
        segments: &BTreeMap<u32, SegmentFile>,
        mut later: Position,
    ) -> Result<(), StorageError> {
        let last = self.chain.last().expect("there is a newest segment");
        later = later.max(last.later);
        let next = self.rebuilt.last.index.next();
        let (end, damage) = if let Some(successor) = last.successor {
            // Nothing in the successor counts. It is made anew, under the name that the seal knows.
            self.active = successor;
            let file = segments.get(&successor).ok_or_else(|| missing(files, successor))?;
            let damage = StorageError::damaged(&file.path, "a mark")
                .at_offset(SEGMENT_HEADER_BYTES as u64)
                .at_index(next);
            (Position::new(successor, SEGMENT_HEADER_BYTES), damage)
        } else {
            self.active = self.next_sequence;
            self.next_sequence += 1;
            self.unsealed = true;
            (Position::new(last.file.header.sequence, last.end), last.damage())
        };
        if later > end { Err(damage) } else { Ok(()) }
    }

    /// Deletes what a crash left half made; returns files that can be used again at once, with their
    /// lengths.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn clear(&mut self, files: &Files) -> Result<Vec<(PathBuf, usize)>, StorageError> {
        for path in self.temporaries.drain(..) {
            let removed = files.storage.remove(&path);
            removed.map_err(|error| StorageError::io(path, "remove", error))?;
        }
        Ok(self.unused.drain(..).map(SegmentFile::into_parts).collect())
    }

    /// Makes everything that counts durable, oldest first, and leads the log to its active segment, which
    /// must be there. Returns files that are not needed any more, with their lengths.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn settle(&mut self, files: &Files) -> Result<Vec<(PathBuf, usize)>, StorageError> {
        let mut buffer = Vec::new();
        let count = self.chain.len();
        for (at, mut scan) in std::mem::take(&mut self.chain).into_iter().enumerate() {
            let sequence = scan.file.header.sequence;
            // The last one is written anew in any case. It gets a seal, or it has one that an earlier start
            // gave it, and the name of that file may be as little durable as a tail.
            let last = at + 1 == count;
            if last || Position::new(sequence, scan.end) > self.durable {
                self.rewrite(files, &mut scan, &mut buffer, last && self.unsealed)?;
            }
            self.rebuilt.shared.catalog.push(
                Place::Cold(Arc::new(ColdSegment {
                    storage: Arc::clone(&files.storage),
                    sequence,
                    path: scan.file.path,
                    salt: files.salt(),
                    end: scan.end,
                    file_bytes: scan.file.header.bytes as usize,
                })),
                None,
            );
        }
        Ok(self.stale.drain(..).map(SegmentFile::into_parts).collect())
    }

    /// Writes a segment anew up to its last whole batch, in a file of its own that then takes its place:
    /// whatever happens in between, one of the two is there. The file gets its name when all of it is
    /// durable, so what it says of that, in the mark of its `seal` and in its echo, is true from the start.
    fn rewrite(
        &mut self,
        files: &Files,
        scan: &mut Scan,
        buffer: &mut Vec<u8>,
        seal: bool,
    ) -> Result<(), StorageError> {
        let sequence = scan.file.header.sequence;
        let reserve = if seal { SEAL_RESERVE } else { 0 };
        let length = echo_at(scan.end + reserve) + BLOCK_BYTES;
        let source = scan.file.clone();
        let mut window = Window::open(files, &source, buffer)?;
        let (file, temporary) = files.create(sequence, length)?;
        let failed = |operation| {
            let temporary = temporary.clone();
            move |error| StorageError::io(temporary, operation, error)
        };
        scan.file.header.bytes = length as u64;
        file.write_at(&scan.file.header.encode(), 0).map_err(failed("write"))?;
        for at in (SEGMENT_HEADER_BYTES..scan.end).step_by(WINDOW_BYTES) {
            let bytes = window.at(at, WINDOW_BYTES.min(scan.end - at))?;
            file.write_at(bytes, at as u64).map_err(failed("write"))?;
        }
        if seal {
            let position = Position::new(sequence, scan.end);
            let seal = encode_seal(sequence, self.active);
            let mark = Mark {
                batch_bytes: SEAL_RESERVE as u32,
                position,
                predecessor: self.last_mark,
                durable: position,
                boot: scan.file.header.boot,
                oldest: self.oldest,
                digest: fold(0, u32_at(&seal, 0)),
                prev: self.rebuilt.last,
                count: 0,
                record_bytes: 0,
            };
            let batch = [&mark.encode(files.salt())[..], &seal].concat();
            file.write_at(&batch, scan.end as u64).map_err(failed("write"))?;
            scan.end += SEAL_RESERVE;
            self.last_mark = position;
        }
        let echo = encode_echo(Position::new(sequence, scan.end), files.salt());
        file.write_at(&echo, echo_at(scan.end) as u64).map_err(failed("write"))?;
        file.sync().map_err(failed("flush"))?;
        files
            .storage
            .rename(&temporary, &scan.file.path)
            .map_err(|error| StorageError::io(&temporary, "rename", error))?;
        files.sync_dir()
    }
}

impl<'a> Window<'a> {
    fn open(
        files: &Files,
        segment: &'a SegmentFile,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Self, StorageError> {
        let opened = files.storage.open(&segment.path, OpenMode::Read);
        let file = opened.map_err(|error| StorageError::io(&segment.path, "open", error))?;
        buffer.clear();
        let len = segment.header.bytes as usize;
        Ok(Self { file, path: &segment.path, len, start: 0, buffer })
    }

    /// The `len` bytes from `at`, or as many as there are.
    fn at(&mut self, at: usize, len: usize) -> Result<&[u8], StorageError> {
        let at = at.min(self.len);
        let len = len.min(self.len - at);
        if at < self.start || at + len > self.start + self.buffer.len() {
            self.buffer.resize(len.max(WINDOW_BYTES).min(self.len - at), 0);
            self.start = at;
            self.file
                .read_at(self.buffer, at as u64)
                .map_err(|error| StorageError::io(self.path, "read", error).at_offset(at as u64))?;
        }
        Ok(&self.buffer[at - self.start..][..len])
    }
}

impl SegmentFile {
    fn into_parts(self) -> (PathBuf, usize) {
        (self.path, self.header.bytes as usize)
    }
}

impl Scan {
    /// The error that the first bytes that are no batch amount to, if they should be one.
    fn damage(&self) -> StorageError {
        self.bad.clone().into_error(&self.file.path)
    }
}

impl Bad {
    fn into_error(self, path: &Path) -> StorageError {
        let error = StorageError::damaged(path, self.expected).at_offset(self.offset as u64);
        match self.index {
            Some(index) => error.at_index(index),
            None => error,
        }
    }
}

fn missing(files: &Files, sequence: u32) -> StorageError {
    StorageError::damaged(files.segment(sequence), "a segment: there was one")
}

/// All segments, by sequence, and all files that are none yet.
fn list(files: &Files) -> Result<(BTreeMap<u32, SegmentFile>, Vec<PathBuf>), StorageError> {
    let mut segments = BTreeMap::new();
    let mut temporaries = Vec::new();
    let names = match files.storage.list(&files.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        result => result.map_err(|error| StorageError::io(&files.path, "list", error))?,
    };
    for name in names {
        let path = files.path.join(&name);
        if name.ends_with(NEW_SUFFIX) {
            temporaries.push(path);
        } else if let Some(sequence) = parse_segment_name(&name) {
            let header = read_header(files, &path, sequence)?;
            segments.insert(sequence, SegmentFile { path, header });
        }
    }
    Ok((segments, temporaries))
}

fn read_header(files: &Files, path: &Path, sequence: u32) -> Result<SegmentHeader, StorageError> {
    let failed = |operation| move |error| StorageError::io(path, operation, error);
    let file = files.storage.open(path, OpenMode::Read).map_err(failed("open"))?;
    let length = file.len().map_err(failed("length"))?;
    if length < SEGMENT_HEADER_BYTES as u64 {
        return Err(StorageError::damaged(path, format!("a segment header, not {length} bytes")));
    }
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    file.read_at(&mut bytes, 0).map_err(failed("read"))?;
    let header = SegmentHeader::decode(&bytes).map_err(|bad| match bad {
        BadHeader::Damaged => StorageError::damaged(path, "a segment header").at_offset(0),
        BadHeader::UnknownVersion(found) => {
            let kind = StorageErrorKind::UnknownVersion { supported: VERSION, found };
            StorageError::new(path, kind)
        }
    })?;
    let expected = if header.sequence != sequence {
        format!("segment {sequence}, not {}", header.sequence)
    } else if header.node != files.sender.node {
        format!("a segment of node {}, not {}", files.sender.node, header.node)
    } else if header.incarnation != files.sender.incarnation {
        format!("a segment of incarnation {}, not {}", files.sender.incarnation, header.incarnation)
    } else if header.bytes != length {
        format!("{} bytes, not {length}", header.bytes)
    } else if header.boot > files.sender.boot {
        format!("a segment of boot {} or before, not {}", files.sender.boot, header.boot)
    } else {
        return Ok(header);
    };
    Err(StorageError::damaged(path, expected).at_offset(0))
}

/// Goes through the batches of a segment and adds them to `rebuilt`. `last_mark`: where the mark before
/// its first one stands, if that is known.
///
/// # Errors
/// `Damaged`, if a whole batch cannot be what comes next; `Io`. Where no whole batch follows, the scan ends.
fn scan(
    file: &SegmentFile,
    window: &mut Window<'_>,
    salt: Salt,
    rebuilt: &mut Rebuilt,
    mut last_mark: Option<Position>,
) -> Result<Scan, StorageError> {
    let sequence = file.header.sequence;
    let mut scan = Scan {
        file: file.clone(),
        end: SEGMENT_HEADER_BYTES,
        last_mark: None,
        durable: Position::default(),
        successor: None,
        bad: Bad { offset: 0, index: None, expected: String::new() },
        later: Position::default(),
    };
    while scan.successor.is_none() {
        let mark = mark_of(window.at(scan.end, MARK_BYTES)?, scan.end, &file.header, salt);
        let batch_bytes = mark.map_or(0, |mark| mark.batch_bytes as usize);
        let bytes = window.at(scan.end, batch_bytes)?;
        let batch = match check_batch(mark, bytes, scan.end, &file.header) {
            Ok(batch) => batch,
            Err(bad) => {
                let next = rebuilt.last.index.next();
                scan.bad = Bad { index: bad.index.or(Some(next)), ..bad };
                scan.later = later_durable(window, scan.end, salt)?;
                break;
            }
        };
        let misplaced = |offset: usize, index: LogIndex, expected: &str| {
            StorageError::damaged(&file.path, expected).at_offset(offset as u64).at_index(index)
        };
        if scan.last_mark.is_none() {
            rebuilt.enter_segment(sequence, batch.mark.prev);
        }
        let next = batch.mark.prev.index.next();
        if batch.mark.prev != rebuilt.last {
            let expected = format!("a batch after {}, not {}", rebuilt.last, batch.mark.prev);
            return Err(misplaced(scan.end, next, &expected));
        }
        if last_mark.is_some_and(|position| position != batch.mark.predecessor) {
            return Err(misplaced(scan.end, next, "a mark that follows the one before"));
        }
        if let Some(stays) = batch.truncation {
            rebuilt
                .truncate(stays, batch.mark.position)
                .map_err(|expected| misplaced(scan.end, stays.index.next(), expected))?;
        }
        let mut at = batch.records.start;
        while at < batch.records.end {
            let record = Record::read(&bytes[at - scan.end..]).expect("checked with its batch");
            let index = record.header.id.index;
            rebuilt
                .record(&record, Position::new(sequence, at))
                .map_err(|expected| misplaced(at, index, expected))?;
            at += record.bytes.len();
        }
        last_mark = Some(batch.mark.position);
        scan.durable = scan.durable.max(batch.mark.durable);
        scan.last_mark = Some(batch.mark);
        scan.successor = batch.successor;
        scan.end = batch.end;
    }
    Ok(scan)
}

/// The batch at `at` of a segment, if `mark` stands there and `bytes` from there on are what it describes.
fn check_batch(
    mark: Option<Mark>,
    bytes: &[u8],
    at: usize,
    header: &SegmentHeader,
) -> Result<Batch, Bad> {
    let bad = |offset: usize, index, expected: &str| {
        Err(Bad { offset: at + offset, index, expected: expected.to_owned() })
    };
    let Some(mark) = mark else { return bad(0, None, "a mark") };
    let mut next = mark.prev.index.next();
    let end = mark.batch_bytes as usize;
    if bytes.len() < end || end < MARK_BYTES {
        return bad(0, Some(next), "a whole batch");
    }
    let mut digest = 0;
    let mut offset = MARK_BYTES;
    let truncation = decode_truncation(&bytes[offset..]);
    if let Some(stays) = truncation {
        next = stays.index.next();
        digest = fold(digest, u32_at(bytes, offset));
        offset += TRUNCATION_BYTES;
    }
    let records = offset..offset + mark.record_bytes as usize;
    if records.end > end {
        return bad(0, Some(next), "a whole batch");
    }
    let mut count = 0;
    while offset < records.end {
        let record = match Record::check(&bytes[offset..records.end]) {
            Ok(record) => record,
            Err(error) => return bad(offset, Some(next), &format!("a record: {error}")),
        };
        digest = fold(digest, u32_at(record.bytes, 0));
        offset += record.bytes.len();
        next = record.header.id.index.next();
        count += 1;
    }
    let mut successor = None;
    if end - offset == SEAL_BYTES {
        successor = decode_seal(&bytes[offset..], header.sequence);
        if successor.is_none() {
            return bad(offset, None, "a seal");
        }
        digest = fold(digest, u32_at(bytes, offset));
        offset += SEAL_BYTES;
    }
    if offset != end || count != mark.count || digest != mark.digest {
        return bad(0, Some(mark.prev.index.next()), "the batch that its mark describes");
    }
    let records = at + records.start..at + records.end;
    Ok(Batch { mark, truncation, records, successor, end: at + end })
}

/// The mark at the start of `bytes`, which are those at `at` of a segment, if it belongs there.
fn mark_of(bytes: &[u8], at: usize, header: &SegmentHeader, salt: Salt) -> Option<Mark> {
    Mark::decode(bytes, salt).filter(|mark| {
        mark.position == Position::new(header.sequence, at) && mark.boot == header.boot
    })
}

/// The highest durable position that anything from `from` on names. Every place is tried where a mark or an
/// echo may stand, for batches after one that is not whole cannot be found by their lengths. What they say
/// was true when they were written and stays so, wherever a disk has put them, or left them, since.
fn later_durable(
    window: &mut Window<'_>,
    from: usize,
    salt: Salt,
) -> Result<Position, StorageError> {
    let (mut at, mut highest) = (from, Position::default());
    while at < window.len {
        let last = at + WINDOW_BYTES >= window.len;
        let bytes = window.at(at, WINDOW_BYTES)?;
        // What reaches beyond this window is looked at in the next one.
        let places = if last { bytes.len() } else { bytes.len() - MARK_BYTES };
        highest = highest.max(highest_claim(bytes, places, salt));
        at += places;
    }
    Ok(highest)
}

/// The highest durable position that is named at one of the first `places` bytes.
fn highest_claim(bytes: &[u8], places: usize, salt: Salt) -> Position {
    (0..places)
        .step_by(RECORD_ALIGN)
        .filter_map(|at| claimed_durable(&bytes[at..], salt))
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BootCount, Incarnation, NodeId};

    fn salt() -> Salt {
        Salt::of(5)
    }

    fn header() -> SegmentHeader {
        SegmentHeader {
            sequence: 3,
            node: NodeId(1),
            incarnation: Incarnation(5),
            boot: BootCount(7),
            bytes: 1 << 16,
        }
    }

    fn mark() -> Mark {
        Mark {
            batch_bytes: MARK_BYTES as u32,
            position: Position::new(3, 128),
            durable: Position::new(3, 64),
            boot: BootCount(7),
            ..Mark::default()
        }
    }

    #[test]
    fn a_mark_of_another_boot_sequence_or_place_begins_no_batch() {
        let begins = |mark: Mark| {
            let bytes = mark.encode(salt());
            check_batch(mark_of(&bytes, 128, &header(), salt()), &bytes, 128, &header()).is_ok()
        };
        assert!(begins(mark()));
        assert!(!begins(Mark { boot: BootCount(6), ..mark() }));
        assert!(!begins(Mark { position: Position::new(2, 128), ..mark() }));
        assert!(!begins(Mark { position: Position::new(3, 136), ..mark() }));
    }

    #[test]
    fn a_mark_or_an_echo_says_what_was_durable_wherever_it_has_come_to_stand() {
        let durable = Position::new(3, 64);
        for claim in [&mark().encode(salt())[..], &encode_echo(durable, salt())] {
            for at in [0, 8, 4096, 8192 - claim.len()] {
                let mut bytes = vec![0; 8192];
                bytes[at..at + claim.len()].copy_from_slice(claim);
                assert_eq!(highest_claim(&bytes, bytes.len(), salt()), durable, "at {at}");
                assert_eq!(highest_claim(&bytes, bytes.len(), Salt::of(6)), Position::default());
            }
        }
    }
}
