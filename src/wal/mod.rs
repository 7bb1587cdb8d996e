//! The log: bytes that are written once, made durable together, and found again.
//!
//! A log lives in a directory, as a chain of *segment* files. The core thread appends records to the
//! active segment with plain stores into a mapping of it; the `wal` thread writes what has gathered back
//! to the file and flushes it, once for all; the `seg` thread has the next segments ready. The same bytes
//! are sent to other nodes and applied, as [slices](crate::slices) of the mapping. [`open`] gives the three
//! parts, for three threads: [`Log`], [`Flusher`], [`Preparer`]; a [`LogReader`] is for any thread.
//! [`open_in_memory`] gives the same log without files.
//!
//! ```
//! use std::sync::Arc;
//! use oarlock::record::{EntryKind, RecordHeader, Records};
//! use oarlock::wal::{self, Disk, LogOptions};
//! use oarlock::{EntryId, LogIndex, Member, Membership, NodeId, Term};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temp = tempfile::tempdir()?;
//! # let dir = temp.path();
//! let options = LogOptions { segment_bytes: 1 << 16, ready_segments: 1, max_entry_bytes: 1 << 10 };
//! let members = Membership::of_voters([(NodeId(1), Member::default())]);
//! let mut opened = wal::open(Arc::new(Disk), dir, NodeId(1), "docs", &members, &options)?;
//! let (mut log, mut flusher) = (opened.log, opened.flusher.expect("a log on disk"));
//!
//! let header = RecordHeader {
//!     id: EntryId::new(Term(1), LogIndex(1)),
//!     time: 0,
//!     kind: EntryKind::Command,
//!     origin: None,
//! };
//! while log.room() < header.record_bytes(5) {
//!     opened.preparer.step()?; // elsewhere, and before it is needed
//! }
//! log.append(&header, b"hello");
//! let target = log.publish(); // readers see it,
//! let flushed = flusher.flush(target)?; // and now it is durable
//! assert_eq!(log.persisted(flushed), Some((0, LogIndex(1))));
//!
//! let (slices, last) = log.reader().read(LogIndex(0), LogIndex(1), 1 << 20)?;
//! assert_eq!(last, LogIndex(1));
//! let record = Records::trusted(&slices).next().expect("one record")?;
//! assert_eq!(record.payload, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! ```text
//! DIR/identity             whose directory this is
//! DIR/lock                 held while it is open
//! DIR/vote                 term and vote
//! DIR/log/0000000001.seg   segments; the number is the sequence
//! DIR/log/0000000002.seg.new   no segment (yet): counts for nothing
//! ```
//!
//! A segment is a header and *batches*; a batch is a mark, perhaps a truncation, records, perhaps a seal.
//! Records are the bytes that travel ([`record`](crate::record)); everything else is this node's own. Where a
//! record has its length, such *local* bytes have theirs with the top bit set. All numbers are
//! little-endian, and everything begins at a multiple of 8.
//!
//! ```text
//! segment header
//!  offset  bytes
//!       0      8  magic "oarlkseg"
//!       8      4  version 0
//!      12      4  sequence
//!      16      8  node
//!      24     16  incarnation
//!      40      8  boot: which opening of the directory made this a segment
//!      48      8  bytes of the file
//!      56      4  zero
//!      60      4  crc: CRC32C of bytes 0 to 59
//!
//! mark: begins every batch
//!       0      4  crc: of bytes 4 to 79, salted
//!       4      4  length: 80, and the top bit
//!       8      1  kind: 1
//!       9      3  zero
//!      12      4  bytes of the batch, mark included
//!      16      8  position of this mark
//!      24      8  predecessor: position of the mark before; 0 if there is none
//!      32      8  durable: everything before this position was on the disk
//!      40      8  boot, as in the header
//!      48      4  oldest: the lowest segment that is needed
//!      52      4  digest of the checksums in the batch
//!      56      8  term of the entry before the batch
//!      64      8  index of the entry before the batch
//!      72      4  how many records
//!      76      4  bytes of the records
//!
//! truncation: the log ends earlier; stands right behind its mark
//!       0      4  crc: CRC32C of bytes 4 to 31
//!       4      4  length: 32, and the top bit
//!       8      1  kind: 2
//!       9      7  zero
//!      16      8  term of the last entry that stays
//!      24      8  its index
//!
//! seal: ends a segment
//!       0      4  crc: CRC32C of bytes 4 to 23
//!       4      4  length: 24, and the top bit
//!       8      1  kind: 3
//!       9      3  zero
//!      12      4  successor: the sequence of the next segment
//!      16      4  sequence of this one
//!      20      4  zero
//!
//! echo: stands at the first multiple of 4096 behind the last batch
//!       0      4  crc: of bytes 4 to 23, salted
//!       4      4  length: 24, and the top bit
//!       8      1  kind: 4
//!       9      7  zero
//!      16      8  durable: everything before this position was on the disk
//!
//! position
//!    bits 63-32   segment sequence; the first is 1
//!    bits 31-0    offset in the segment
//! ```
//!
//! A salted checksum is the CRC32C of 8 bytes that are drawn with the directory, stand in its identity and are
//! never sent or shown, and of what is named. So another node's marks, and payloads that were made to look like
//! marks, are none.
//!
//! The digest starts as 0, and each checksum of truncation, records and seal, in order, makes it
//! `(rotate_left(digest, 7) ^ crc) * 0x9E3779B1`. What follows the last batch of a segment is its echo, and
//! otherwise zeros, or what an earlier use of the file left behind.
//!
//! # Rules
//!
//! - **Written bytes are never overwritten** while their segment lives. A truncation is a batch of its own,
//!   which supersedes what came before; slices that are being sent or applied stay true. The exception are
//!   two fields of a mark, its checksum and its durable position: the core leaves them empty, and the
//!   flusher fills them in just before it writes the batch back. Marks are in no slice.
//! - **A batch counts as a whole or not at all.** Its mark names its place, its length and a digest of every
//!   checksum in it. A page that never reached the disk, or one that reached the wrong place, leaves bytes
//!   behind that may be good records of an earlier use of the file, of a term and an index that would do: the
//!   digest is what tells.
//! - **A mark says how far the log was durable** when it was written back. That is what tells damage from a
//!   torn tail. The last flush has no mark after it yet; [`Log::cover`] adds an empty batch in an idle
//!   moment.
//! - **An echo says it once more**, in a block of its own. Many small flushes share a block, and a disk that
//!   loses it, or brings back what it held before, takes all their marks along. Each flush writes an echo
//!   behind its bytes, into the file alone; the flush that comes to its place writes over it.
//! - **A segment ends with a seal** that names its successor, and is durable before a byte of that is written
//!   to its file. A batch never crosses the end: it is split.
//! - **A prefix goes by whole segments**, and only after a mark that names the higher oldest segment is
//!   durable: a deleted prefix is never mistaken for a lost one.
//! - **A file's name and header agree, always.** A file is a segment once header and name are durable, in
//!   this order. To be used again it first loses its name, durably.
//! - **After a failed flush nothing is written any more**, whatever the kernel says to the next one.
//!
//! # Recovery
//!
//! [`open`] looks at everything before it changes anything. The newest segment that holds a whole batch
//! names, in its last mark, the oldest segment that is needed; from there on every segment must be there,
//! of this node, of the length its header names, and sealed with its successor's name. In the last one the
//! batches end where the next bytes are no whole batch. If a mark or an echo anywhere behind that place says
//! that it was durable, those bytes are damage: a typed error with file, offset and index, and nothing is
//! touched. If none does, they are a torn tail, of something that nobody was told of. What a mark says of
//! durability stays true for ever; but it begins a batch only in its own place, sequence and boot.
//!
//! What can be read need not be durable: after a kill nothing has been flushed, and after a failed flush the
//! kernel shows clean pages that never reached the disk. So every segment with bytes behind the last durable
//! position is written anew, whole, oldest first: a new file with an echo, flushed, renamed over the old one,
//! the directory flushed. So is the last one in any case, and it gets a seal on the way, which leads to a
//! fresh segment. Only then does `open` return. A crash in between leaves the old file or the new one.
//!
//! Truncations, memberships and terms are gathered on the way, so a start reads every byte of the log once,
//! a mebibyte or a batch at a time, and keeps none of them: recovered segments are read from their files when
//! they are needed.
//!
//! [`inspect`] makes the same checks from outside, and writes nothing.
//!
//! # Threads and locks
//!
//! | part | thread | does I/O |
//! |---|---|---|
//! | [`Log`] | core | never |
//! | [`Flusher`] | `wal` | writes and flushes |
//! | [`Preparer`] | `seg` | creates, fills, maps, unmaps, renames, deletes |
//! | [`LogReader`] | any | reads files that are not mapped |
//!
//! Two locks, and no I/O under either. The *catalog* (where an index stands): taken by the core once for
//! every 16 KiB appended, for the entries it does not know by heart, and at rolls, truncations and
//! releases; by readers once a stretch; by the flusher once a segment; by the preparer when it unmaps one.
//! The *pool* (segments on their way between core and preparer): taken by the core at rolls and
//! releases, by the preparer once a step. What was published is shown by one atomic offset in each segment.
//!
//! # Memory
//!
//! Mapped are the active segment and `ready_segments` that are ready; as many that are sealed, once there
//! are; and as many that wait to be used again, once some were let go of: from `segment_bytes` ×
//! (`ready_segments` + 1) to `segment_bytes` × (3 × `ready_segments` + 1). The mappings are private (copy-on-write) and their pages populated in advance, so this is memory beside the page cache; a
//! store neither faults, nor dirties the page cache, nor meets a full disk. A log in memory has all its
//! segments mapped until they are released.
//!
//! # What is assumed
//!
//! - A flush that succeeds is true, and so is a `rename` after its directory is flushed.
//! - Writing a sector again whose beginning does not change does not harm that beginning: batches follow
//!   each other without gaps, so the end of one flush and the start of the next may share a sector.
//! - Nobody else writes to the directory. A segment file that is shortened under its mapping is a SIGBUS on
//!   pages that are not yet populated; the lock and the preallocation make that somebody's deliberate act.
//! - A host that calls `fork`: the mappings are left out of the child (`MADV_DONTFORK`), which must not touch
//!   them; without that every store after the fork would fault.
//! - Rot in the bytes of the very last flush, before another flush or a cover has followed it, cannot be told
//!   from a torn tail. Rot is taken to spoil one block, or swap two: with a block and its echo both gone, what
//!   the last marks in it say is gone as well.

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
#[cfg(oarlock_loom)]
#[path = "../../tests/schedules/src/loom/segments.rs"]
pub(crate) mod schedules;
mod segment;
mod vote;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use self::catalog::Place;
use self::format::BLOCK_BYTES;
use self::identity::Directory;
use self::log::Start;
use self::pool::Shared;
use self::preparer::{Files, Ground};
use self::rebuild::Rebuilt;
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
pub use recovery::inspect::{Inspection, SegmentReport, SegmentUse, Torn, inspect};

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
    /// The size of a segment in bytes: a multiple of 4 KiB, from 16 KiB to 1 GiB.
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
            self.segment_bytes.is_multiple_of(BLOCK_BYTES)
                && (4 * BLOCK_BYTES..=1 << 30).contains(&self.segment_bytes),
            "segment_bytes is {}, no multiple of 4 KiB from 16 KiB to 1 GiB",
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
    /// No entry has a later time stamp; 0 if there is none.
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
/// A directory of another node, cluster or format version, with other members, or in use, and `Damaged`:
/// nothing has been written. `Io`.
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
    let (sender, secret) = (directory.sender(), directory.secret());
    let mut files = Files { storage, path: path.clone(), sender, secret };
    let shared = Arc::new(Shared::default());

    // Everything is looked at before anything is written.
    let mut survey = recovery::survey(&files, directory.log_exists(), Arc::clone(&shared))?;
    let vote = directory.vote()?;

    let mut vote = directory.start(vote)?;
    let sender = directory.sender();
    files.sender = sender;
    let created = files.storage.create_dir(&path);
    created.map_err(|error| StorageError::io(&path, "create", error))?;
    let ground = Ground::Files(files.clone());
    let mut preparer = Preparer::new(Arc::clone(&shared), ground, options, survey.active);
    for (path, bytes) in survey.clear(&files)? {
        preparer.adopt(path, bytes)?;
    }
    let ready = preparer.first_segment()?;
    preparer.continue_from(survey.next_sequence);
    let stale = survey.settle(&files)?;
    shared.add_bytes(shared.catalog.bytes());
    directory.set_log_exists()?;
    for (path, bytes) in stale {
        preparer.adopt(path, bytes)?;
    }

    let directory = Arc::new(directory);
    preparer.hold(Arc::clone(&directory));
    shared.catalog.push(Place::Mapped(Arc::clone(ready.writer.segment())), None);
    let start = Start::of(&survey.rebuilt, Vec::new(), survey.last_mark, sender.boot);
    let membership = directory.membership().clone();
    let recovered = recovered(survey.rebuilt, sender, vote.state(), membership);
    // The term may have come with an entry. Whoever acts in it counts on its being stored.
    vote.store(recovered.hard_state)?;
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
