//! Opening a log that was left behind: what of it counts, and making that durable.
//!
//! First everything is looked at and nothing is changed ([`survey`]): which segments there are, which
//! batches in them are whole, where the log ends, and whether that end is a torn tail or damage. Only
//! then, and only if nothing is wrong, the end is written anew ([`Survey::settle`]), because what can be
//! read after a kill or a failed flush need not be on the disk.
//!
//! See [`wal`](super) for the rules, and why they are what they are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog::{ColdSegment, Place};
use super::format::{
    BadHeader, MARK_BYTES, Mark, SEAL_BYTES, SEAL_RESERVE, SEGMENT_HEADER_BYTES, SegmentHeader,
    TRUNCATION_BYTES, VERSION, decode_seal, decode_truncation, encode_seal, fold, u32_at,
};
use super::pool::Shared;
use super::preparer::Files;
use super::rebuild::Rebuilt;
use super::{NEW_SUFFIX, Position, parse_segment_name};
use crate::error::{StorageError, StorageErrorKind};
use crate::record::{LOCAL_BIT, RECORD_ALIGN, Record, peek_length};
use crate::storage::OpenMode;
use crate::types::{EntryId, LogIndex};

/// Rewritten segments are this much or a multiple long.
const BLOCK_BYTES: usize = 4096;

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
    /// The highest durable position that a mark after `end` names.
    later: Position,
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
        read(files, file, &mut buffer)?;
        let scan = scan(file, &buffer, &mut Rebuilt::new(Arc::default()), None)?;
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
            read(files, file, buffer)?;
            let last_mark = (!self.chain.is_empty()).then_some(self.last_mark);
            let scan = scan(file, buffer, &mut self.rebuilt, last_mark)?;
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
                read(files, &scan.file, &mut buffer)?;
                self.rewrite(files, &mut scan, &buffer, last && self.unsealed)?;
            }
            self.rebuilt.shared.catalog.push(
                Place::Cold(Arc::new(ColdSegment {
                    storage: Arc::clone(&files.storage),
                    sequence,
                    path: scan.file.path,
                    end: scan.end,
                    file_bytes: scan.file.header.bytes as usize,
                })),
                None,
            );
        }
        Ok(self.stale.drain(..).map(SegmentFile::into_parts).collect())
    }

    /// Writes a segment anew up to its last whole batch, in a file of its own that then takes its place:
    /// whatever happens in between, one of the two is there. With `seal`, that is added once the rest is
    /// durable, and its mark says so.
    fn rewrite(
        &mut self,
        files: &Files,
        scan: &mut Scan,
        bytes: &[u8],
        seal: bool,
    ) -> Result<(), StorageError> {
        let sequence = scan.file.header.sequence;
        let reserve = if seal { SEAL_RESERVE } else { 0 };
        let length = (scan.end + reserve).next_multiple_of(BLOCK_BYTES);
        let (file, temporary) = files.create(sequence, length)?;
        let failed = |operation| {
            let temporary = temporary.clone();
            move |error| StorageError::io(temporary, operation, error)
        };
        scan.file.header.bytes = length as u64;
        file.write_at(&scan.file.header.encode(), 0).map_err(failed("write"))?;
        file.write_at(&bytes[SEGMENT_HEADER_BYTES..scan.end], SEGMENT_HEADER_BYTES as u64)
            .map_err(failed("write"))?;
        file.sync().map_err(failed("flush"))?;
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
            let batch = [&mark.encode()[..], &seal].concat();
            file.write_at(&batch, scan.end as u64).map_err(failed("write"))?;
            file.sync().map_err(failed("flush"))?;
            scan.end += SEAL_RESERVE;
            self.last_mark = position;
        }
        files
            .storage
            .rename(&temporary, &scan.file.path)
            .map_err(|error| StorageError::io(&temporary, "rename", error))?;
        files.sync_dir()
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
    let names = files.storage.list(&files.path);
    for name in names.map_err(|error| StorageError::io(&files.path, "list", error))? {
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
    } else {
        return Ok(header);
    };
    Err(StorageError::damaged(path, expected).at_offset(0))
}

fn read(files: &Files, file: &SegmentFile, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
    let failed = |operation| move |error| StorageError::io(&file.path, operation, error);
    let opened = files.storage.open(&file.path, OpenMode::Read).map_err(failed("open"))?;
    buffer.resize(file.header.bytes as usize, 0);
    opened.read_at(buffer, 0).map_err(failed("read"))
}

/// Goes through the batches of a segment and adds them to `rebuilt`. `last_mark`: where the mark before
/// its first one stands, if that is known.
///
/// # Errors
/// `Damaged`, if a whole batch cannot be what comes next. Where no whole batch follows, the scan ends.
fn scan(
    file: &SegmentFile,
    bytes: &[u8],
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
        let batch = match check_batch(bytes, scan.end, &file.header) {
            Ok(batch) => batch,
            Err(bad) => {
                scan.bad = bad;
                scan.later = later_durable(bytes, scan.end, &file.header);
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
            let record = Record::read(&bytes[at..]).expect("checked with its batch");
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

/// The batch at `at`, if a whole one of this segment stands there.
fn check_batch(bytes: &[u8], at: usize, header: &SegmentHeader) -> Result<Batch, Bad> {
    let bad = |offset, index, expected: &str| Bad { offset, index, expected: expected.to_owned() };
    let mark = bytes
        .get(at..)
        .and_then(|bytes| mark_of(bytes, at, header))
        .ok_or_else(|| bad(at, None, "a mark"))?;
    let mut next = mark.prev.index.next();
    let end = at + mark.batch_bytes as usize;
    let rest = bytes.get(..end).ok_or_else(|| bad(at, Some(next), "a whole batch"))?;
    let mut digest = 0;
    let mut offset = at + MARK_BYTES;
    let truncation = rest.get(offset..).and_then(decode_truncation);
    if let Some(stays) = truncation {
        next = stays.index.next();
        digest = fold(digest, u32_at(rest, offset));
        offset += TRUNCATION_BYTES;
    }
    let records = offset..offset + mark.record_bytes as usize;
    if records.end > end {
        return Err(bad(at, Some(next), "a whole batch"));
    }
    let mut count = 0;
    while offset < records.end {
        let record = Record::check(&rest[offset..records.end])
            .map_err(|error| bad(offset, Some(next), &format!("a record: {error}")))?;
        digest = fold(digest, u32_at(record.bytes, 0));
        offset += record.bytes.len();
        next = record.header.id.index.next();
        count += 1;
    }
    let mut successor = None;
    if end - offset == SEAL_BYTES {
        successor = decode_seal(&rest[offset..], header.sequence);
        digest = fold(digest, u32_at(rest, offset));
        offset += SEAL_BYTES;
        if successor.is_none() {
            return Err(bad(offset, None, "a seal"));
        }
    }
    if offset != end || count != mark.count || digest != mark.digest {
        return Err(bad(at, Some(mark.prev.index.next()), "the batch that its mark describes"));
    }
    Ok(Batch { mark, truncation, records, successor, end })
}

/// The mark at the start of `bytes`, which are those at `at` of a segment, if it belongs there.
fn mark_of(bytes: &[u8], at: usize, header: &SegmentHeader) -> Option<Mark> {
    Mark::decode(bytes).filter(|mark| {
        mark.position == Position::new(header.sequence, at) && mark.boot == header.boot
    })
}

/// The highest durable position that a mark from `from` on names. Batches after one that is not whole
/// cannot be found by their lengths, so every place is tried where a mark may stand.
fn later_durable(bytes: &[u8], from: usize, header: &SegmentHeader) -> Position {
    (from..bytes.len())
        .step_by(RECORD_ALIGN)
        .filter(|&at| peek_length(&bytes[at..]) == Some(MARK_BYTES as u32 | LOCAL_BIT))
        .filter_map(|at| mark_of(&bytes[at..], at, header))
        .map(|mark| mark.durable)
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BootCount, Incarnation, NodeId};

    #[test]
    fn a_mark_of_another_boot_sequence_or_place_counts_for_nothing() {
        let header = SegmentHeader {
            sequence: 3,
            node: NodeId(1),
            incarnation: Incarnation(5),
            boot: BootCount(7),
            bytes: 1 << 16,
        };
        let mark = Mark {
            batch_bytes: MARK_BYTES as u32,
            position: Position::new(3, 128),
            durable: Position::new(3, 64),
            boot: BootCount(7),
            ..Mark::default()
        };
        let found = |mark: Mark| {
            let mut bytes = vec![0; 256];
            bytes[128..128 + MARK_BYTES].copy_from_slice(&mark.encode());
            let later = later_durable(&bytes, SEGMENT_HEADER_BYTES, &header) != Position::default();
            assert_eq!(check_batch(&bytes, 128, &header).is_ok(), later);
            later
        };
        assert!(found(mark));
        assert!(!found(Mark { boot: BootCount(6), ..mark }));
        assert!(!found(Mark { position: Position::new(2, 128), ..mark }));
        assert!(!found(Mark { position: Position::new(3, 136), ..mark }));
    }
}
