//! The log on disk.

mod catalog;
mod disk;
mod flusher;
mod format;
mod identity;
mod log;
mod memory;
mod pool;
mod preparer;
mod reader;
mod rebuild;
mod recovery;
mod replace;
mod segment;
mod vote;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use self::catalog::Place;
use self::identity::Directory;
use self::log::Start;
use self::pool::Shared;
use self::preparer::{Files, Ground};
use self::rebuild::Rebuilt;
use self::vote::VoteFile;
use crate::config::Config;
use crate::error::StorageError;
use crate::membership::Membership;
use crate::message::Entries;
use crate::record::record_bytes;
use crate::storage::Storage;
use crate::types::{EntryId, HardState, NodeId, Sender};

pub use disk::Disk;
pub use flusher::Flusher;
pub use log::{Fetch, Log};
pub use memory::{Memory, open_in_memory};
pub use preparer::Preparer;
pub use reader::LogReader;

/// The log's directory within the data directory.
const LOG_DIR: &str = "log";
const SEGMENT_SUFFIX: &str = ".seg";
/// Ends the name of a file that is no segment yet.
const NEW_SUFFIX: &str = ".new";

/// A place in the log's bytes, on this node: a segment and an offset in it. It only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    fn new(sequence: u32, offset: usize) -> Self {
        Self(u64::from(sequence) << 32 | offset as u64)
    }

    /// As a number that grows with it, for an atomic word.
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// From such a number; 0 is before the beginning.
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    const fn sequence(self) -> u32 {
        (self.0 >> 32) as u32
    }

    const fn offset(self) -> usize {
        (self.0 & 0xFFFF_FFFF) as usize
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence(), self.offset())
    }
}

/// Sizes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The size of a segment in bytes: a multiple of 64 KiB, at most 1 GiB.
    pub segment_bytes: usize,
    /// How many empty segments are kept ready, at least one.
    pub ready_segments: usize,
    /// The largest payload of an entry, in bytes. Two records of it fit into a segment.
    pub max_entry_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self::from(&Config::default())
    }
}

impl From<&Config> for LogOptions {
    fn from(config: &Config) -> Self {
        Self {
            segment_bytes: config.segment_bytes,
            ready_segments: config.ready_segments,
            max_entry_bytes: config.max_entry_bytes,
        }
    }
}

impl LogOptions {
    fn check(&self) {
        assert!(
            self.segment_bytes.is_multiple_of(1 << 16)
                && (1 << 16..=1 << 30).contains(&self.segment_bytes),
            "segment_bytes is {}, no multiple of 64 KiB up to 1 GiB",
            self.segment_bytes
        );
        assert!(self.ready_segments > 0, "ready_segments is 0");
        let record = record_bytes(self.max_entry_bytes, true);
        assert!(
            2 * record <= self.segment_bytes,
            "two records of {record} bytes do not fit into a segment of {}",
            self.segment_bytes
        );
    }
}

/// An open log, in the parts that different threads own.
#[derive(Debug)]
pub struct Opened {
    /// For the core thread.
    pub log: Log,
    /// For the `wal` thread; `None` if the log is in memory.
    pub flusher: Option<Flusher>,
    /// For the `seg` thread.
    pub preparer: Preparer,
    /// What was found.
    pub recovered: Recovered,
}

/// What a log held when it was opened. All of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Who this is from now on.
    pub sender: Sender,
    /// Term and vote; the term is at least that of the last entry.
    pub hard_state: HardState,
    /// The last entry before the first one that is held.
    pub base: EntryId,
    /// The shape of the entries.
    pub entries: Entries,
    /// The members that were named at the first start.
    pub membership: Membership,
    /// The time stamp of the last entry; 0 if there is none.
    pub last_time: u64,
}

/// Who keeps a log from being opened twice.
#[derive(Debug)]
enum Owner {
    Directory(#[expect(dead_code, reason = "held, not looked at")] Arc<Directory>),
    Memory(#[expect(dead_code, reason = "held, not looked at")] memory::Lease),
}

/// Opens the log of `node` in `dir`, or creates it; `initial` are the members named at this start.
///
/// Returns after everything that was found is durable, and with a segment to append to.
///
/// # Errors
/// A directory of another node, cluster or format version, with other members, or in use: nothing has been
/// written. `Damaged`: the log has not been changed. `Io`.
///
/// # Panics
/// If the options do not fit together; see [`LogOptions`].
pub fn open(
    storage: Arc<dyn Storage>,
    dir: &Path,
    node: NodeId,
    cluster: &str,
    initial: &Membership,
    options: &LogOptions,
) -> Result<Opened, StorageError> {
    options.check();
    let mut directory = Directory::open(Arc::clone(&storage), dir, node, cluster, initial)?;
    let path = dir.join(LOG_DIR);
    storage.create_dir(&path).map_err(|error| StorageError::io(&path, "create", error))?;
    let sender = directory.sender();
    let files = Files { storage: Arc::clone(&storage), path: path.clone(), sender };
    let shared = Arc::new(Shared::default());

    let mut survey = recovery::survey(&files, directory.log_exists(), Arc::clone(&shared))?;
    let (vote, hard_state) = VoteFile::open(storage, dir)?;

    let ground = Ground::Files(files.clone());
    let mut preparer = Preparer::new(Arc::clone(&shared), ground, options, survey.active);
    for (path, bytes) in survey.clear(&files)? {
        preparer.adopt(path, bytes)?;
    }
    let ready = preparer.first_segment()?;
    preparer.continue_from(survey.next_sequence);
    let stale = survey.settle(&files)?;
    directory.set_log_exists()?;
    for (path, bytes) in stale {
        preparer.adopt(path, bytes)?;
    }

    let directory = Arc::new(directory);
    preparer.hold(Arc::clone(&directory));
    shared.catalog.push(Place::Mapped(Arc::clone(ready.writer.segment())), None);
    let start = Start::of(&survey.rebuilt, Vec::new(), survey.last_mark, sender.boot);
    let membership = directory.membership().clone();
    let recovered = recovered(survey.rebuilt, sender, hard_state, membership);
    let flusher = Flusher::new(Arc::clone(&shared), ready.write_back, vote, Arc::clone(&directory));
    let owner = Owner::Directory(directory);
    let log = Log::new(shared, owner, path, ready.writer, options, start);
    Ok(Opened { log, flusher: Some(flusher), preparer, recovered })
}

fn recovered(
    rebuilt: Rebuilt,
    sender: Sender,
    mut hard_state: HardState,
    membership: Membership,
) -> Recovered {
    // Entries of a term may be durable before the term is. Nobody got this node's vote in it: a vote is
    // durable before anybody hears of it.
    if rebuilt.last.term > hard_state.term {
        hard_state = HardState { term: rebuilt.last.term, voted_for: None };
    }
    Recovered {
        sender,
        hard_state,
        base: rebuilt.base,
        entries: rebuilt.entries,
        membership,
        last_time: rebuilt.last_time,
    }
}

fn segment_name(sequence: u32) -> String {
    format!("{sequence:010}{SEGMENT_SUFFIX}")
}

fn parse_segment_name(name: &str) -> Option<u32> {
    let sequence = name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok()?;
    (segment_name(sequence) == name).then_some(sequence)
}
