//! The vote file: the term a node has reached, and whom it voted for in it (Raft §5.2).
//!
//! A node that forgets a vote can vote twice in a term, and a term can then have two leaders. So the
//! state is kept twice, in two slots that share no block of the disk:
//!
//! ```text
//!  offset  bytes
//!       0      8  magic     "oarlvote"
//!       8      4  version   0
//!      12      4  crc       CRC32C of all other bytes of the slot
//!      16      4  slot      0 for the first, 1 for the second
//!      20      4  voted     1 if there is a vote, otherwise 0
//!      24      8  sequence  grows with every write of both slots
//!      32      8  term
//!      40      8  vote      the node that has the vote; 0 without one
//!      48   4048  zero
//!    4096   4096  the second slot, alike
//! ```
//!
//! All numbers are little-endian. Magic, version and checksum keep their places in every version, so
//! that a rotten version is not taken for a newer one.
//!
//! Both slots are written and flushed, one after the other, before a state counts as stored. A crash in
//! between leaves at least one whole slot, with the old state or the new; nobody has acted on the new
//! one. After both are flushed, one slot may rot or become unreadable and nothing is forgotten: the
//! other holds the same. Two bad slots are an error, as is a file that is missing, zeroed or of another
//! length. Of two good slots the one with the higher sequence counts, so a stale slot never does.
//!
//! *Readable is not durable*: after a kill, opening may read what was never flushed. So opening writes
//! both slots again, and flushes them, before anybody can act on what it read. The slot that does not
//! count is written first: the only good copy is never the one at risk.
//!
//! Whether there must be a vote file is not this module's to say: the identity does (see
//! [`identity`](super::identity)).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use super::replace::replace;
use crate::error::{StorageError, StorageErrorKind};
use crate::storage::{OpenMode, Storage, StorageFile};
use crate::types::{HardState, NodeId, Term};

/// The file's name in its directory.
pub(super) const VOTE_FILE: &str = "vote";

const MAGIC: &[u8; 8] = b"oarlvote";
const VERSION: u32 = 0;
/// As large as the largest unit that disks in use write at once.
const SLOT_BYTES: usize = 4096;
const FILE_BYTES: u64 = 2 * SLOT_BYTES as u64;
/// Where the checksum lies.
const CRC: std::ops::Range<usize> = 12..16;
/// The bytes in use; the rest of a slot is zero.
const USED_BYTES: usize = 48;

/// The open vote file. After an error it stores nothing any more.
#[derive(Debug)]
pub(crate) struct VoteFile {
    file: Arc<dyn StorageFile>,
    path: PathBuf,
    sequence: u64,
    state: HardState,
    poisoned: bool,
}

/// What one slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    sequence: u64,
    state: HardState,
}

/// Why a slot does not count.
#[derive(Debug)]
enum BadSlot {
    Unreadable(io::Error),
    Rotten(&'static str),
    UnknownVersion(u32),
}

impl VoteFile {
    /// Opens the vote file of `dir` and makes what it says durable again.
    ///
    /// # Errors
    /// `Damaged` if the file is missing or of another length, if both slots are bad, or if they
    /// contradict each other; `UnknownVersion`; `Io`.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        dir: &Path,
    ) -> Result<(Self, HardState), StorageError> {
        let path = dir.join(VOTE_FILE);
        let file = match storage.open(&path, OpenMode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StorageError::damaged(path, "a vote file: there was one"));
            }
            result => result.map_err(|error| StorageError::io(&path, "open", error))?,
        };
        let len = file.len().map_err(|error| StorageError::io(&path, "length", error))?;
        if len != FILE_BYTES {
            return Err(StorageError::damaged(path, format!("{FILE_BYTES} bytes, not {len}")));
        }
        let slots = [0, 1].map(|number| read_slot(&*file, number));
        let (winner, number) = choose(&path, slots)?;
        let Slot { sequence, state } = winner;
        let mut vote = Self { file, path, sequence, state, poisoned: false };
        vote.write(state, [1 - number, number])?;
        Ok((vote, state))
    }

    /// Makes `state` durable, in both slots. What depends on it may happen once this has returned.
    ///
    /// # Errors
    /// `Io`, after which nothing is known of what is on the disk; from then on `Poisoned`.
    ///
    /// # Panics
    /// If the term goes back, or a vote is changed within its term.
    pub(crate) fn store(&mut self, state: HardState) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::new(&self.path, StorageErrorKind::Poisoned));
        }
        let old = self.state;
        assert!(state.term >= old.term, "term {} after term {}", state.term, old.term);
        assert!(
            state.term > old.term || old.voted_for.is_none() || old.voted_for == state.voted_for,
            "vote for {:?} after one for {:?} in term {}",
            state.voted_for,
            old.voted_for,
            old.term
        );
        if state == old {
            return Ok(());
        }
        self.write(state, [0, 1])
    }

    /// Writes and flushes both slots, in this order.
    fn write(&mut self, state: HardState, order: [usize; 2]) -> Result<(), StorageError> {
        // Cleared at the end: whatever happens in between, nothing is stored after it.
        self.poisoned = true;
        let slot = Slot { sequence: self.sequence + 1, state };
        for number in order {
            let offset = (number * SLOT_BYTES) as u64;
            let path = &self.path;
            let failed =
                |operation| move |error| StorageError::io(path, operation, error).at_offset(offset);
            self.file.write_at(&slot.encode(number), offset).map_err(failed("write"))?;
            self.file.sync().map_err(failed("flush"))?;
        }
        self.sequence = slot.sequence;
        self.state = state;
        self.poisoned = false;
        Ok(())
    }
}

/// Creates the vote file of a node that has not voted, durably, replacing one that is there.
///
/// # Errors
/// `Io`.
pub(super) fn create(storage: &dyn Storage, dir: &Path) -> Result<(), StorageError> {
    let slot = Slot { sequence: 1, state: HardState::default() };
    replace(storage, dir, VOTE_FILE, &[slot.encode(0), slot.encode(1)].concat())
}

/// The slot that counts, and its number.
fn choose(path: &Path, slots: [Result<Slot, BadSlot>; 2]) -> Result<(Slot, usize), StorageError> {
    for slot in &slots {
        if let Err(BadSlot::UnknownVersion(found)) = *slot {
            let kind = StorageErrorKind::UnknownVersion { supported: VERSION, found };
            return Err(StorageError::new(path, kind));
        }
    }
    match slots {
        [Ok(first), Ok(second)] if first.sequence == second.sequence && first != second => {
            Err(StorageError::damaged(path, "two slots that agree"))
        }
        [Ok(first), Ok(second)] if second.sequence > first.sequence => Ok((second, 1)),
        [Ok(first), Ok(_)] => Ok((first, 0)),
        [Ok(good), Err(bad)] => {
            log::warn!("{}: second slot {bad}; the first one has it all", path.display());
            Ok((good, 0))
        }
        [Err(bad), Ok(good)] => {
            log::warn!("{}: first slot {bad}; the second one has it all", path.display());
            Ok((good, 1))
        }
        [Err(first), Err(second)] => Err(StorageError::damaged(
            path,
            format!("a good slot of two, but the first {first} and the second {second}"),
        )),
    }
}

fn read_slot(file: &dyn StorageFile, number: usize) -> Result<Slot, BadSlot> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_at(&mut bytes, (number * SLOT_BYTES) as u64).map_err(BadSlot::Unreadable)?;
    Slot::decode(&bytes, number)
}

impl Slot {
    fn encode(self, number: usize) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..20].copy_from_slice(&(number as u32).to_le_bytes());
        bytes[20..24].copy_from_slice(&u32::from(self.state.voted_for.is_some()).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.state.term.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.state.voted_for.map_or(0, u64::from).to_le_bytes());
        let crc = checksum(&bytes);
        bytes[CRC].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT_BYTES], number: usize) -> Result<Self, BadSlot> {
        let u32_at = |at| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if &bytes[..8] != MAGIC {
            return Err(BadSlot::Rotten("does not begin as one"));
        }
        if bytes[CRC] != checksum(bytes).to_le_bytes() {
            return Err(BadSlot::Rotten("has a wrong checksum"));
        }
        if u32_at(8) != VERSION {
            return Err(BadSlot::UnknownVersion(u32_at(8)));
        }
        if u32_at(16) != number as u32 {
            return Err(BadSlot::Rotten("is the other one"));
        }
        let voted_for = match (u32_at(20), u64_at(40)) {
            (0, 0) => None,
            (1, node) => Some(NodeId(node)),
            _ => return Err(BadSlot::Rotten("has no sensible vote")),
        };
        if bytes[USED_BYTES..].iter().any(|&byte| byte != 0) {
            return Err(BadSlot::Rotten("does not end in zeros"));
        }
        let state = HardState { term: Term(u64_at(32)), voted_for };
        Ok(Self { sequence: u64_at(24), state })
    }
}

/// CRC32C of a slot without its own four bytes.
fn checksum(bytes: &[u8; SLOT_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC.start]), &bytes[CRC.end..])
}

impl fmt::Display for BadSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read ({error})"),
            Self::Rotten(how) => f.write_str(how),
            Self::UnknownVersion(found) => write!(f, "has version {found}"),
        }
    }
}
