//! Looking at a data directory from outside: what it holds, and whether a node could start on it.
//!
//! Makes every check that opening makes, by the same code, and nothing else: no lock is taken, nothing is
//! written, created or mapped. So it may be done while a node runs, and then what it reads may change under
//! it: a file is gone that was listed, or a flush stands behind one that was not there a moment ago. Such a
//! finding does not come again, and damage does. Nothing is called damage that was not found twice, at the
//! same place.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::catalog::{ColdSegment, Place};
use super::super::format::{MARK_BYTES, Mark, SEAL_RESERVE, SEGMENT_HEADER_BYTES};
use super::super::identity::{self, Identity};
use super::super::pool::Shared;
use super::super::preparer::Files;
use super::super::reader::LogReader;
use super::super::rebuild::Rebuilt;
use super::super::{LOG_DIR, NEW_SUFFIX, Position, parse_segment_name};
use super::{
    Batch, Scan, SegmentFile, Survey, WINDOW_BYTES, Window, check_batch, mark_of, read_header,
    scan, survey,
};
use crate::error::{StorageError, StorageErrorKind};
use crate::membership::Membership;
use crate::message::TermRun;
use crate::record::RECORD_ALIGN;
use crate::slices::Slices;
use crate::storage::{OpenMode, Storage};
use crate::types::{BootCount, EntryId, HardState, LogIndex, Sender};

/// How often a directory that changes is looked at before giving up.
const ATTEMPTS: usize = 20;

/// What a data directory holds; see [`inspect`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// Whose it is, and how often it has been opened.
    pub sender: Sender,
    /// The cluster's name.
    pub cluster: String,
    /// The members that were named at the first start.
    pub members: Membership,
    /// The vote file's term and vote; `None` if there is no such file yet, or it is damaged.
    pub hard_state: Option<HardState>,
    /// The last entry before the first one that is held.
    pub base: EntryId,
    /// The last entry; `base` if there is none. If there is damage, the last one before it; what the damage
    /// hides may have truncated it.
    pub last: EntryId,
    /// The terms of the entries after `base`.
    pub terms: Vec<TermRun>,
    /// Everything before this is known to have been on the disk.
    pub durable: Position,
    /// The last entry before `durable`. Later ones may be durable as well, and only no mark says so.
    pub durable_index: LogIndex,
    /// Where the last batch ends.
    pub end: Position,
    /// Whether a mark says of the whole log that it is durable. If not, damage to the last flush could pass
    /// for a torn tail.
    pub covered: bool,
    /// What follows the end of the log, and would be dropped by a start.
    pub torn: Option<Torn>,
    /// Every file of the log, by name.
    pub segments: Vec<SegmentReport>,
    /// The names of the files in `DIR/snapshot`, and their bytes.
    pub snapshots: Vec<(String, u64)>,
    /// What is not as it should be, and does no harm.
    pub notes: Vec<String>,
    /// Why a node would not start: the first damage in the log, and that in the vote file.
    pub damage: Vec<StorageError>,
    reader: LogReader,
}

/// Bytes behind the end of the log that were to become part of it: a torn tail, if no node runs, and
/// otherwise a flush that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Where the first thing stands that is not whole.
    pub offset: u64,
    /// What was expected there.
    pub expected: String,
}

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentReport {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// What it is for.
    pub usage: SegmentUse,
    /// Which opening of the directory made it a segment; `None` if it is none.
    pub boot: Option<BootCount>,
    /// The first entry in it that counts; 0 if there is none.
    pub first: LogIndex,
    /// The last entry in it that counts; 0 if there is none.
    pub last: LogIndex,
    /// Where its last batch ends.
    pub end: u64,
}

/// What a file of the log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentUse {
    /// It holds a part of the log, and the next part follows in another.
    Sealed,
    /// The log goes on in it.
    Open,
    /// It is empty and will be used.
    Ready,
    /// Its entries are not needed any more: it will be deleted or used again.
    Released,
    /// It is being made, or was when a node was stopped.
    Unfinished,
    /// Damage keeps that from being known.
    Unknown,
}

/// Looks at the data directory `dir` without changing anything, also while a node runs on it. `None`: no
/// node has ever been started there.
///
/// ```
/// use std::sync::Arc;
/// use oarlock::storage::Storage;
/// use oarlock::wal::{self, Disk};
///
/// # fn main() -> Result<(), oarlock::error::StorageError> {
/// # let temp = tempfile::tempdir().expect("a directory");
/// # let dir = temp.path();
/// let storage: Arc<dyn Storage> = Arc::new(Disk);
/// match wal::inspect(&storage, dir)? {
///     None => println!("nobody has been here"),
///     Some(found) if found.damage.is_empty() => println!("sound up to {}", found.last),
///     Some(found) => println!("{}", found.damage[0]),
/// }
/// # Ok(())
/// # }
/// ```
///
/// Damage is no error, but in [`Inspection::damage`], unless it is in the identity, without which
/// nothing else can be told.
///
/// # Errors
/// `Damaged` and `UnknownVersion` as said, and `Io`, also if everything changes faster than it can be read.
pub fn inspect(storage: &Arc<dyn Storage>, dir: &Path) -> Result<Option<Inspection>, StorageError> {
    let mut before = None;
    for _ in 0..ATTEMPTS {
        let found = look(storage, dir);
        let trouble = match &found {
            Ok(None) => String::new(),
            Ok(Some(inspection)) => format!("{:?}", inspection.damage),
            Err(error) => error.to_string(),
        };
        let is_sound = matches!(&found, Ok(Some(inspection)) if inspection.damage.is_empty());
        if is_sound || before.as_ref() == Some(&trouble) {
            return found;
        }
        before = Some(trouble);
    }
    let error = io::Error::other("it changes faster than it can be read");
    Err(StorageError::io(dir, "inspect", error))
}

impl Inspection {
    /// The entries after `prev`, as [`LogReader::read`] gives them, up to the last one here.
    ///
    /// # Errors
    /// As [`LogReader::read`]. A node that runs may let go of entries or truncate them: then `Released`,
    /// `Io` or `Damaged` only say that it is time for another look.
    pub fn read(
        &self,
        prev: LogIndex,
        max_bytes: usize,
    ) -> Result<(Slices, LogIndex), StorageError> {
        self.reader.read(prev, self.last.index, max_bytes)
    }
}

/// One look, which need not be at one moment.
fn look(storage: &Arc<dyn Storage>, dir: &Path) -> Result<Option<Inspection>, StorageError> {
    let Some(identity) = identity::look(&**storage, dir)? else {
        return Ok(None);
    };
    let path = dir.join(LOG_DIR);
    let shared = Arc::<Shared>::default();
    let mut inspection = Inspection {
        sender: identity.sender,
        cluster: identity.cluster.clone(),
        members: identity.membership.clone(),
        hard_state: None,
        base: EntryId::ZERO,
        last: EntryId::ZERO,
        terms: Vec::new(),
        durable: Position::default(),
        durable_index: LogIndex::ZERO,
        end: Position::default(),
        covered: false,
        torn: None,
        segments: Vec::new(),
        snapshots: snapshots(&**storage, dir)?,
        notes: Vec::new(),
        damage: Vec::new(),
        reader: LogReader::new(Arc::clone(&shared), path.clone()),
    };
    let (sender, secret) = (identity.sender, identity.secret);
    let files = Files { storage: Arc::clone(storage), path, sender, secret };
    inspection.look_at_log(&files, identity.log_exists, shared)?;
    inspection.look_at_vote(&**storage, dir, &identity)?;
    Ok(Some(inspection))
}

impl Inspection {
    fn look_at_vote(
        &mut self,
        storage: &dyn Storage,
        dir: &Path,
        identity: &Identity,
    ) -> Result<(), StorageError> {
        match identity.vote(storage, dir, OpenMode::Read) {
            Ok(Some(vote)) => {
                self.hard_state = Some(vote.state());
                self.notes.extend(vote.note());
                Ok(())
            }
            Ok(None) => {
                self.notes.push("the first start was cut short: nobody has voted".to_owned());
                Ok(())
            }
            Err(error) => self.take_damage(error),
        }
    }

    fn look_at_log(
        &mut self,
        files: &Files,
        exists: bool,
        shared: Arc<Shared>,
    ) -> Result<(), StorageError> {
        match survey(files, exists, shared) {
            Ok(survey) => self.take_survey(files, survey),
            Err(error) => {
                self.take_damage(error)?;
                self.salvage(files)
            }
        }
    }

    /// Goes on after damage, and not after anything else.
    fn take_damage(&mut self, error: StorageError) -> Result<(), StorageError> {
        match error.kind {
            StorageErrorKind::Damaged { .. } => {
                self.damage.push(error);
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn take_survey(&mut self, files: &Files, survey: Survey) -> Result<(), StorageError> {
        self.durable = survey.durable;
        for scan in &survey.chain {
            self.take_scan(files, &survey.rebuilt, scan);
        }
        self.take_rebuilt(&survey.rebuilt);
        if let Some(scan) = survey.chain.last() {
            self.end = scan.position();
            self.look_behind(files, scan)?;
            self.durable_index = durable_index(files, &survey)?.min(self.last.index);
            self.covered = scan.last_mark.is_some_and(|mark| covers(&mark));
        } else {
            self.end = Position::new(survey.active, SEGMENT_HEADER_BYTES);
            self.covered = true;
        }
        for file in survey.stale {
            self.segments.push(SegmentReport::of_file(file, SegmentUse::Released));
        }
        for file in survey.unused {
            self.segments.push(SegmentReport::of_file(file, SegmentUse::Ready));
        }
        self.take_rest(files)
    }

    /// Adds a segment that holds a part of the log.
    fn take_scan(&mut self, files: &Files, rebuilt: &Rebuilt, scan: &Scan) {
        let header = scan.file.header;
        rebuilt.shared.catalog.push(
            Place::Cold(Arc::new(ColdSegment {
                storage: Arc::clone(&files.storage),
                sequence: header.sequence,
                path: scan.file.path.clone(),
                salt: files.salt(),
                end: scan.end,
                file_bytes: header.bytes as usize,
            })),
            None,
        );
        let sealed = scan.successor.is_some();
        let usage = if sealed { SegmentUse::Sealed } else { SegmentUse::Open };
        let mut report = SegmentReport::of_file(scan.file.clone(), usage);
        report.end = scan.end as u64;
        let at = rebuilt.segments.iter().position(|base| base.sequence == header.sequence);
        if let Some(at) = at {
            let first = rebuilt.segments[at].base.index.next();
            let next = rebuilt.segments.get(at + 1).map_or(rebuilt.last, |next| next.base);
            if first <= next.index {
                (report.first, report.last) = (first, next.index);
            }
        }
        self.segments.push(report);
    }

    fn take_rebuilt(&mut self, rebuilt: &Rebuilt) {
        self.base = rebuilt.base;
        self.last = rebuilt.last;
        self.terms.clone_from(&rebuilt.entries.runs);
    }

    /// Looks for something behind the last whole batch that was to be one.
    fn look_behind(&mut self, files: &Files, scan: &Scan) -> Result<(), StorageError> {
        let mut buffer = Vec::new();
        let mut window = Window::open(files, &scan.file, &mut buffer)?;
        let mut at = scan.end;
        while scan.successor.is_none() && at < window.len {
            let bytes = window.at(at, WINDOW_BYTES)?;
            // What reaches beyond this window is looked at in the next one.
            let places = bytes.len().saturating_sub(MARK_BYTES - 1);
            let is_mark = |place: usize| {
                mark_of(&bytes[place..], at + place, &scan.file.header, files.salt()).is_some()
            };
            if (0..places).step_by(RECORD_ALIGN).any(is_mark) {
                self.torn = Some(Torn {
                    path: scan.file.path.clone(),
                    offset: scan.bad.offset as u64,
                    expected: scan.bad.expected.clone(),
                });
                break;
            }
            at += places.next_multiple_of(RECORD_ALIGN).max(RECORD_ALIGN);
        }
        Ok(())
    }

    /// Adds the files that are not named yet, and sorts all of them.
    fn take_rest(&mut self, files: &Files) -> Result<(), StorageError> {
        for name in list(&*files.storage, &files.path)? {
            let path = files.path.join(&name);
            if self.segments.iter().any(|segment| segment.path == path) {
                continue;
            }
            let usage = if name.ends_with(NEW_SUFFIX) {
                SegmentUse::Unfinished
            } else if parse_segment_name(&name).is_none() {
                self.notes.push(format!("{} is no file of a log", path.display()));
                continue;
            } else if self.damage.is_empty() {
                // The one segment that is neither in the chain nor beside it: where it goes on.
                SegmentUse::Open
            } else {
                SegmentUse::Unknown
            };
            if let Some(bytes) = length(&*files.storage, &path)? {
                self.segments.push(SegmentReport::new(path, bytes, usage));
            }
        }
        self.segments.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    /// Gathers what stands before the damage.
    fn salvage(&mut self, files: &Files) -> Result<(), StorageError> {
        let mut buffer = Vec::new();
        let mut segments = BTreeMap::new();
        for name in list(&*files.storage, &files.path)? {
            let Some(sequence) = parse_segment_name(&name) else { continue };
            let path = files.path.join(&name);
            if let Ok(header) = read_header(files, &path, sequence) {
                segments.insert(sequence, SegmentFile { path, header });
            }
        }
        let newest = segments.values().rev().find_map(|file| {
            let mut window = Window::open(files, file, &mut buffer).ok()?;
            let mut aside = Rebuilt::new(Arc::default());
            scan(file, &mut window, files.salt(), &mut aside, None).ok()?.last_mark
        });
        let shared = Arc::<Shared>::default();
        self.reader = LogReader::new(Arc::clone(&shared), files.path.clone());
        let mut rebuilt = Rebuilt::new(shared);
        let mut scans = Vec::new();
        let mut next = newest.map(|mark| mark.oldest);
        let mut last_mark = None;
        while let Some(file) = next.take().and_then(|sequence| segments.get(&sequence)) {
            let mut window = Window::open(files, file, &mut buffer)?;
            let found = scan(file, &mut window, files.salt(), &mut rebuilt, last_mark);
            let Ok(scan) = found else { break };
            let Some(mark) = scan.last_mark else { break };
            last_mark = Some(mark.position);
            self.durable = self.durable.max(scan.durable);
            next = scan.successor.filter(|&next| next > scan.file.header.sequence);
            scans.push(scan);
        }
        for scan in &scans {
            self.take_scan(files, &rebuilt, scan);
            self.end = scan.position();
        }
        // A segment whose beginning is good and whose end is not has added entries, and no place.
        self.take_rebuilt(&rebuilt);
        if let Some(scan) = scans.last()
            && rebuilt.segments.last().is_some_and(|base| base.sequence > scan.file.header.sequence)
        {
            self.last = rebuilt.segments.last().expect("just seen").base;
        }
        self.take_rest(files)
    }
}

impl Scan {
    /// Where its last whole batch ends.
    fn position(&self) -> Position {
        Position::new(self.file.header.sequence, self.end)
    }
}

impl SegmentReport {
    fn new(path: PathBuf, bytes: u64, usage: SegmentUse) -> Self {
        let (first, last) = (LogIndex::ZERO, LogIndex::ZERO);
        Self { path, bytes, usage, boot: None, first, last, end: 0 }
    }

    fn of_file(file: SegmentFile, usage: SegmentUse) -> Self {
        let boot = Some(file.header.boot);
        Self { boot, ..Self::new(file.path, file.header.bytes, usage) }
    }
}

/// Whether a mark begins a batch of nothing that matters, and everything before it was durable.
fn covers(mark: &Mark) -> bool {
    let bytes = mark.batch_bytes as usize;
    mark.durable == mark.position && (bytes == MARK_BYTES || bytes == SEAL_RESERVE)
}

/// The last entry before the durable position.
fn durable_index(files: &Files, survey: &Survey) -> Result<LogIndex, StorageError> {
    let rebuilt = &survey.rebuilt;
    let sequence = survey.durable.sequence();
    let Some(scan) = survey.chain.iter().find(|scan| scan.file.header.sequence == sequence) else {
        // In front of the first segment that counts, or behind the last one.
        let is_behind = sequence > survey.oldest;
        return Ok(if is_behind { rebuilt.last.index } else { rebuilt.base.index });
    };
    let mut buffer = Vec::new();
    let mut window = Window::open(files, &scan.file, &mut buffer)?;
    let header = &scan.file.header;
    let mut at = SEGMENT_HEADER_BYTES;
    let mut index = rebuilt.base.index;
    while at < scan.end {
        let mark = mark_of(window.at(at, MARK_BYTES)?, at, header, files.salt());
        let bytes = window.at(at, mark.map_or(0, |mark| mark.batch_bytes as usize))?;
        let Ok(Batch { mark, truncation, end, .. }) = check_batch(mark, bytes, at, header) else {
            break;
        };
        index = mark.prev.index;
        if end > survey.durable.offset() {
            break;
        }
        index = truncation.unwrap_or(mark.prev).index.plus(u64::from(mark.count));
        at = end;
    }
    Ok(index)
}

fn snapshots(storage: &dyn Storage, dir: &Path) -> Result<Vec<(String, u64)>, StorageError> {
    let dir = dir.join("snapshot");
    let mut found = Vec::new();
    for name in list(storage, &dir)? {
        if let Some(bytes) = length(storage, &dir.join(&name))? {
            found.push((name, bytes));
        }
    }
    Ok(found)
}

/// The files of a directory that need not be there.
fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<String>, StorageError> {
    match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|error| StorageError::io(dir, "list", error)),
    }
}

/// The length of a file, if it is still there.
fn length(storage: &dyn Storage, path: &Path) -> Result<Option<u64>, StorageError> {
    let length = storage.open(path, OpenMode::Read).and_then(|file| file.len());
    match length {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some).map_err(|error| StorageError::io(path, "length", error)),
    }
}
