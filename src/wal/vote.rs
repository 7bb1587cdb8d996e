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
//!      48     16  incarnation  of the directory
//!      64      8  boot         the opening of the directory that wrote it
//!      72   4024  zero
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
//! *Readable is not durable*: after a kill, opening may read what was never flushed. So a start writes both
//! slots again, and flushes them, before anybody can act on what it read. The slot that does not count is
//! written first: the only good copy is never the one at risk.
//!
//! A whole file may be wrong, too: another directory's, or an older one of this. So a slot names the
//! directory by its incarnation, and the start that wrote it. A start writes its number here first and into
//! the identity then, so the identity is never ahead, unless an old vote file was put back. (An old identity
//! shows by the segments, which are written last.)
//!
//! Whether there must be a vote file is not this module's to say: the identity does (see
//! [`identity`](super::identity)).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use super::replace::replace;
use crate::error::{StorageError, StorageErrorKind};
use crate::storage::{OpenMode, Storage, StorageFile};
use crate::types::{BootCount, HardState, Incarnation, NodeId, Sender, Term};

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
const USED_BYTES: usize = 72;

/// The open vote file. After an error it stores nothing any more.
#[derive(Debug)]
pub(crate) struct VoteFile {
    file: Arc<dyn StorageFile>,
    path: PathBuf,
    /// What counts.
    slot: Slot,
    /// The number of the slot that counts; the other one is written first.
    number: usize,
    storing: Option<Storing>,
    poisoned: bool,
}

/// What is to take the place of both slots, and how far that is.
#[derive(Clone, Copy, Debug)]
struct Storing {
    slot: Slot,
    /// The slot that is next: the one that does not count, and then the other.
    number: usize,
    /// It was written, and is to be flushed.
    is_written: bool,
}

/// What one slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    sequence: u64,
    state: HardState,
    incarnation: Incarnation,
    boot: BootCount,
}

/// Why a slot does not count.
#[derive(Debug)]
enum BadSlot {
    Unreadable(io::Error),
    Rotten(&'static str),
    UnknownVersion(u32),
}

impl VoteFile {
    /// Opens the vote file of `dir`, whose identity says that `last` was its last run. Writes nothing: what
    /// the file says may be acted on after [`renew`](Self::renew).
    ///
    /// # Errors
    /// `Damaged` if the file is missing, of another length, of another directory or of another time, if both
    /// slots are bad, or if they contradict each other; `UnknownVersion`; `Io`.
    pub(crate) fn open(
        storage: &dyn Storage,
        dir: &Path,
        last: Sender,
    ) -> Result<Self, StorageError> {
        let vote = Self::read(storage, dir, OpenMode::Write)?.ok_or_else(|| {
            StorageError::damaged(dir.join(VOTE_FILE), "a vote file: there was one")
        })?;
        vote.check(last)?;
        Ok(vote)
    }

    /// Opens the vote file of `dir` in `mode`, if there is one, whoever wrote it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn read(
        storage: &dyn Storage,
        dir: &Path,
        mode: OpenMode,
    ) -> Result<Option<Self>, StorageError> {
        let path = dir.join(VOTE_FILE);
        let file = match storage.open(&path, mode) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(|error| StorageError::io(&path, "open", error))?,
        };
        let len = file.len().map_err(|error| StorageError::io(&path, "length", error))?;
        if len != FILE_BYTES {
            return Err(StorageError::damaged(path, format!("{FILE_BYTES} bytes, not {len}")));
        }
        let slots = [0, 1].map(|number| read_slot(&*file, number));
        let (slot, number) = choose(&path, slots)?;
        Ok(Some(Self { file, path, slot, number, storing: None, poisoned: false }))
    }

    /// Checks that the file belongs to the directory whose identity says that `last` was its last run.
    ///
    /// # Errors
    /// `Damaged`.
    pub(super) fn check(&self, last: Sender) -> Result<(), StorageError> {
        self.slot.check(&self.path, last)
    }

    /// What is to be said of a slot that does not count, though nothing is forgotten.
    pub(super) fn note(&self) -> Option<String> {
        [(0, "first"), (1, "second")].into_iter().find_map(|(number, name)| {
            let bad = read_slot(&*self.file, number).err()?;
            Some(format!(
                "{}: the {name} slot {bad}; the other one has it all",
                self.path.display()
            ))
        })
    }

    /// What the file says.
    pub(crate) fn state(&self) -> HardState {
        self.slot.state
    }

    /// Makes what the file says durable again, as of the start `boot`.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub(crate) fn renew(&mut self, boot: BootCount) -> Result<(), StorageError> {
        self.replace_by(Slot { boot, ..self.slot });
        while !self.step()? {}
        Ok(())
    }

    /// Makes `state` durable, in both slots. What depends on it may happen once this has returned.
    ///
    /// # Errors
    /// `Io`, after which nothing is known of what is on the disk; from then on `Poisoned`.
    ///
    /// # Panics
    /// If the term goes back, or a vote is changed within its term.
    pub(crate) fn store(&mut self, state: HardState) -> Result<(), StorageError> {
        self.begin(state)?;
        while !self.step()? {}
        Ok(())
    }

    /// Begins to make `state` durable, in both slots, which [`step`](Self::step) goes on with.
    ///
    /// # Errors
    /// `Poisoned` after an error.
    ///
    /// # Panics
    /// If the term goes back, a vote is changed within its term, or another state is being stored.
    pub(crate) fn begin(&mut self, state: HardState) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::new(&self.path, StorageErrorKind::Poisoned));
        }
        let old = self.slot.state;
        assert!(self.storing.is_none(), "{state:?} while {:?} is being stored", self.storing);
        assert!(state.term >= old.term, "term {} after term {}", state.term, old.term);
        assert!(
            state.term > old.term || old.voted_for.is_none() || old.voted_for == state.voted_for,
            "vote for {:?} after one for {:?} in term {}",
            state.voted_for,
            old.voted_for,
            old.term
        );
        if state != old {
            self.replace_by(Slot { state, ..self.slot });
        }
        Ok(())
    }

    fn replace_by(&mut self, slot: Slot) {
        let slot = Slot { sequence: slot.sequence + 1, ..slot };
        self.storing = Some(Storing { slot, number: 1 - self.number, is_written: false });
    }

    /// Writes or flushes a slot of what is being stored; returns whether all is done. What depends on the
    /// state may happen once it is.
    ///
    /// # Errors
    /// `Io`, after which nothing is known of what is on the disk; from then on `Poisoned`.
    pub(crate) fn step(&mut self) -> Result<bool, StorageError> {
        if self.poisoned {
            return Err(StorageError::new(&self.path, StorageErrorKind::Poisoned));
        }
        let Some(storing) = &mut self.storing else { return Ok(true) };
        // Cleared at the end: whatever happens in between, nothing is stored after it.
        self.poisoned = true;
        let offset = (storing.number * SLOT_BYTES) as u64;
        let path = &self.path;
        let failed =
            |operation| move |error| StorageError::io(path, operation, error).at_offset(offset);
        if storing.is_written {
            self.file.sync().map_err(failed("flush"))?;
            if storing.number == self.number {
                self.slot = storing.slot;
                self.storing = None;
            } else {
                storing.number = self.number;
                storing.is_written = false;
            }
        } else {
            let bytes = storing.slot.encode(storing.number);
            self.file.write_at(&bytes, offset).map_err(failed("write"))?;
            storing.is_written = true;
        }
        self.poisoned = false;
        Ok(self.storing.is_none())
    }
}

/// Creates the vote file of a node that has not voted, durably, replacing one that is there.
///
/// # Errors
/// `Io`.
pub(super) fn create(
    storage: &dyn Storage,
    dir: &Path,
    sender: Sender,
) -> Result<(), StorageError> {
    let Sender { incarnation, boot, .. } = sender;
    let slot = Slot { sequence: 1, state: HardState::default(), incarnation, boot };
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
        bytes[48..64].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.boot.0.to_le_bytes());
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
        let incarnation = u128::from_le_bytes(bytes[48..64].try_into().expect("sixteen bytes"));
        Ok(Self {
            sequence: u64_at(24),
            state: HardState { term: Term(u64_at(32)), voted_for },
            incarnation: Incarnation(incarnation),
            boot: BootCount(u64_at(64)),
        })
    }

    /// Checks that the slot belongs to the directory whose identity says that `last` was its last run.
    fn check(&self, path: &Path, last: Sender) -> Result<(), StorageError> {
        let expected = if self.incarnation != last.incarnation {
            format!("a vote file of incarnation {}, not {}", last.incarnation, self.incarnation)
        } else if self.boot < last.boot {
            format!("a vote file of start {} or later, not {}", last.boot, self.boot)
        } else {
            return Ok(());
        };
        Err(StorageError::damaged(path, expected))
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

#[cfg(all(test, feature = "simulation"))]
mod tests {
    use super::*;
    use crate::simulation::{Fault, FaultError, Operation, SimDisk};

    const SEEDS: u64 = 30;

    fn dir() -> &'static Path {
        Path::new("data")
    }

    fn path() -> PathBuf {
        dir().join(VOTE_FILE)
    }

    fn state(term: u64, vote: Option<u64>) -> HardState {
        HardState { term: Term(term), voted_for: vote.map(NodeId) }
    }

    const SENDER: Sender =
        Sender { node: NodeId(1), incarnation: Incarnation(6), boot: BootCount(8) };

    /// As a start does it.
    fn open(disk: &SimDisk) -> Result<(VoteFile, HardState), StorageError> {
        let mut vote = VoteFile::open(disk, dir(), SENDER)?;
        vote.renew(SENDER.boot)?;
        let state = vote.state();
        Ok((vote, state))
    }

    fn slot(sequence: u64, state: HardState) -> Slot {
        Slot { sequence, state, incarnation: SENDER.incarnation, boot: SENDER.boot }
    }

    /// A disk with the vote file of a node that has stored `state`.
    fn disk_with(seed: u64, state: HardState) -> Arc<SimDisk> {
        let disk = Arc::new(SimDisk::new(seed));
        disk.create_dir(dir()).expect("created");
        create(&*disk, dir(), SENDER).expect("created");
        let (mut vote, _) = open(&disk).expect("opened");
        vote.store(state).expect("stored");
        disk
    }

    /// From its `after`-th operation on, the disk is gone.
    fn gone(after: u64) -> Fault {
        Fault { operation: None, after, error: FaultError::Io, lasting: true }
    }

    fn is_damaged(result: Result<(VoteFile, HardState), StorageError>) -> bool {
        matches!(result.expect_err("an error").kind, StorageErrorKind::Damaged { .. })
    }

    #[test]
    fn slot_bytes_are_the_golden_ones() {
        let slot = slot(7, state(3, Some(5)));
        let bytes = slot.encode(1);
        let golden: [u8; USED_BYTES] = [
            b'o', b'a', b'r', b'l', b'v', b'o', b't', b'e', // magic
            0, 0, 0, 0, // version
            0xFD, 0xCE, 0x0C, 0x35, // crc
            1, 0, 0, 0, // slot
            1, 0, 0, 0, // voted
            7, 0, 0, 0, 0, 0, 0, 0, // sequence
            3, 0, 0, 0, 0, 0, 0, 0, // term
            5, 0, 0, 0, 0, 0, 0, 0, // vote
            6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // incarnation
            8, 0, 0, 0, 0, 0, 0, 0, // boot
        ];
        assert_eq!(bytes[..USED_BYTES], golden);
        assert!(bytes[USED_BYTES..].iter().all(|&byte| byte == 0));
        assert_eq!(Slot::decode(&bytes, 1).expect("just encoded"), slot);
    }

    #[test]
    fn a_new_vote_file_has_no_term_and_no_vote() {
        let disk = Arc::new(SimDisk::new(0));
        disk.create_dir(dir()).expect("created");
        create(&*disk, dir(), SENDER).expect("created");
        disk.crash_losing_all();
        assert_eq!(open(&disk).expect("opened").1, HardState::default());
    }

    #[test]
    fn what_was_stored_survives_and_a_vote_for_node_zero_is_a_vote() {
        for stored in [state(1, None), state(1, Some(0)), state(u64::MAX, Some(u64::MAX))] {
            let disk = disk_with(0, stored);
            disk.crash_losing_all();
            assert_eq!(open(&disk).expect("opened").1, stored);
        }
    }

    #[test]
    fn a_crash_while_storing_leaves_the_old_state_or_the_new() {
        let (old, new) = (state(4, Some(1)), state(5, Some(2)));
        let mut seen = [false, false];
        for seed in 0..SEEDS {
            for after in 0..4 {
                let disk = disk_with(seed, old);
                let (mut vote, _) = open(&disk).expect("opened");
                disk.fail(gone(after));
                vote.store(new).expect_err("the disk is gone");
                disk.clear_faults();
                disk.crash();
                let (_, found) = open(&disk).expect("one slot is whole");
                assert!(found == old || found == new, "seed {seed}, {after}: {found:?}");
                seen[usize::from(found == new)] = true;
            }
        }
        assert_eq!(seen, [true, true]);
    }

    #[test]
    fn what_opening_has_read_is_durable() {
        let (old, new) = (state(4, Some(1)), state(5, Some(2)));
        for failing in [0, 1] {
            let disk = disk_with(0, old);
            let (mut vote, _) = open(&disk).expect("opened");
            // A failed flush leaves clean pages, which a restarted program reads.
            disk.fail(Fault { operation: Some(Operation::Sync), lasting: false, ..gone(failing) });
            vote.store(new).expect_err("planned");
            disk.kill();
            assert_eq!(open(&disk).expect("opened").1, new);
            disk.crash_losing_all();
            assert_eq!(open(&disk).expect("opened").1, new, "somebody may have acted on it");
        }
    }

    #[test]
    fn one_rotten_slot_forgets_nothing_and_opening_repairs_it() {
        let stored = state(5, Some(2));
        let damages: [fn(&mut [u8]); 3] =
            [|slot| slot.fill(0), |slot| slot[35] ^= 1, |slot| slot[SLOT_BYTES - 1] ^= 128];
        for damage in damages {
            for number in [0, 1, 0] {
                let disk = disk_with(0, stored);
                for number in [number, 1 - number] {
                    disk.rot(&path(), |file| {
                        damage(&mut file[number * SLOT_BYTES..][..SLOT_BYTES]);
                    });
                    assert_eq!(open(&disk).expect("the other slot has it").1, stored);
                }
            }
        }
    }

    #[test]
    fn an_unreadable_slot_counts_as_rotten() {
        let stored = state(5, Some(2));
        for after in [0, 1] {
            let disk = disk_with(0, stored);
            disk.fail(Fault { operation: Some(Operation::Read), lasting: false, ..gone(after) });
            assert_eq!(open(&disk).expect("the other slot has it").1, stored);
        }
        let disk = disk_with(0, stored);
        disk.fail(Fault { operation: Some(Operation::Read), ..gone(0) });
        assert!(is_damaged(open(&disk)));
    }

    #[test]
    fn repairing_a_rotten_slot_never_risks_the_good_one() {
        let stored = state(5, Some(2));
        for seed in 0..SEEDS {
            for number in [0, 1] {
                for after in 0..8 {
                    let disk = disk_with(seed, stored);
                    disk.rot(&path(), |file| file[number * SLOT_BYTES + 35] ^= 1);
                    disk.fail(gone(after));
                    drop(open(&disk));
                    disk.clear_faults();
                    disk.crash();
                    let found = open(&disk).expect("one slot is whole").1;
                    assert_eq!(found, stored, "seed {seed}, slot {number}, operation {after}");
                }
            }
        }
    }

    #[test]
    fn two_rotten_slots_are_an_error_and_nothing_is_written() {
        let disk = disk_with(0, state(5, Some(2)));
        disk.rot(&path(), |file| {
            file[35] ^= 1;
            file[SLOT_BYTES + 35] ^= 1;
        });
        let before = disk.live_bytes(&path());
        assert!(is_damaged(open(&disk)));
        assert_eq!(disk.live_bytes(&path()), before);
    }

    #[test]
    fn a_missing_zeroed_shortened_or_longer_file_is_an_error_and_never_a_fresh_start() {
        let damages: [fn(&mut Vec<u8>); 5] = [
            |file| file.fill(0),
            |file| file.truncate(SLOT_BYTES),
            Vec::clear,
            |file| file.push(0),
            |file| file.rotate_left(SLOT_BYTES),
        ];
        for damage in damages {
            let disk = disk_with(0, state(5, Some(2)));
            disk.rot(&path(), damage);
            let before = disk.live_bytes(&path());
            assert!(is_damaged(open(&disk)));
            assert_eq!(disk.live_bytes(&path()), before, "nothing is written");
        }
        let disk = disk_with(0, state(5, Some(2)));
        disk.remove(&path()).expect("removed");
        assert!(is_damaged(open(&disk)));
    }

    #[test]
    fn a_stale_slot_never_wins() {
        for number in [0, 1] {
            let disk = disk_with(0, state(4, Some(1)));
            let old = disk.live_bytes(&path()).expect("the file");
            let (mut vote, _) = open(&disk).expect("opened");
            vote.store(state(5, Some(2))).expect("stored");
            let slot = number * SLOT_BYTES..(number + 1) * SLOT_BYTES;
            disk.rot(&path(), |file| file[slot.clone()].copy_from_slice(&old[slot.clone()]));
            assert_eq!(open(&disk).expect("opened").1, state(5, Some(2)));
        }
    }

    #[test]
    fn a_file_of_another_directory_or_another_start_is_refused_and_left_as_it_is() {
        let disk = disk_with(0, state(5, Some(2)));
        let before = disk.live_bytes(&path());
        let next = |boot| Sender { boot: BootCount(boot), ..SENDER };
        let other = Sender { incarnation: Incarnation(7), ..SENDER };
        for (last, is_expected) in
            [(SENDER, true), (next(7), true), (next(9), false), (other, false)]
        {
            match VoteFile::open(&*disk, dir(), last) {
                Ok(vote) => assert!(is_expected, "{last:?}: {vote:?}"),
                Err(error) => {
                    assert!(!is_expected, "{last:?}: {error}");
                    assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
                }
            }
            assert_eq!(disk.live_bytes(&path()), before);
        }
    }

    #[test]
    fn slots_of_the_same_sequence_that_differ_are_an_error() {
        let disk = disk_with(0, state(5, Some(2)));
        let good = Slot::decode(
            disk.live_bytes(&path()).expect("the file")[..SLOT_BYTES].try_into().expect("a slot"),
            0,
        );
        let other = Slot { state: state(5, Some(3)), ..good.expect("a good slot") };
        disk.rot(&path(), |file| file[..SLOT_BYTES].copy_from_slice(&other.encode(0)));
        assert!(is_damaged(open(&disk)));
    }

    #[test]
    fn a_newer_version_is_named_even_beside_a_slot_of_ours() {
        for number in [0, 1] {
            let disk = disk_with(0, state(5, Some(2)));
            disk.rot(&path(), |file| {
                let slot = &mut file[number * SLOT_BYTES..][..SLOT_BYTES];
                slot[8] = 9;
                let crc = checksum((&*slot).try_into().expect("a slot"));
                slot[CRC].copy_from_slice(&crc.to_le_bytes());
            });
            let error = open(&disk).expect_err("a newer version");
            let StorageErrorKind::UnknownVersion { supported: 0, found: 9 } = error.kind else {
                panic!("{error}");
            };
        }
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_noticed() {
        let bytes = slot(7, state(3, Some(5))).encode(0);
        for bit in 0..SLOT_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Slot::decode(&bad, 0), Err(BadSlot::Rotten(_))), "bit {bit}");
        }
    }

    #[test]
    fn after_a_failure_nothing_is_stored_any_more() {
        for operation in [Operation::Write, Operation::Sync] {
            let disk = disk_with(0, state(4, None));
            let (mut vote, _) = open(&disk).expect("opened");
            disk.fail(Fault { operation: Some(operation), lasting: false, ..gone(0) });
            vote.store(state(5, None)).expect_err("planned");
            let operations = disk.operations();
            let error = vote.store(state(6, None)).expect_err("poisoned");
            assert!(matches!(error.kind, StorageErrorKind::Poisoned), "{error}");
            assert_eq!(disk.operations(), operations, "the disk is left alone");
        }
    }

    #[test]
    #[should_panic(expected = "term 4 after term 5")]
    fn a_term_never_goes_back() {
        let disk = disk_with(0, state(5, None));
        let (mut vote, _) = open(&disk).expect("opened");
        drop(vote.store(state(4, None)));
    }

    #[test]
    #[should_panic(expected = "in term 5")]
    fn a_vote_is_never_changed_within_its_term() {
        let disk = disk_with(0, state(5, Some(1)));
        let (mut vote, _) = open(&disk).expect("opened");
        drop(vote.store(state(5, Some(2))));
    }
}
