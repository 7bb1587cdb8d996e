//! What a simulated disk holds for good: the side of every promise that nobody else can see.
//!
//! Reads the durable bytes of the vote file and of the log by the layout that [`wal`](crate::wal) documents,
//! with none of its code, and keeps what it found up to date flush by flush. So whether an acknowledged entry
//! is on a disk is not asked of the node that acknowledged it.

use std::path::{Path, PathBuf};

use super::SimDisk;
use crate::consensus::Core;
use crate::types::{EntryId, HardState, LogIndex, NodeId, Term};

/// Where simulated nodes keep their data.
pub(super) const DIR: &str = "data";

/// Where the two slots of the vote file begin, and where in them term and vote stand.
const SLOTS: [usize; 2] = [0, VOTE_SLOT_BYTES];
pub(super) const VOTE_SLOT_BYTES: usize = 4096;
const CRC_AT: usize = 12;
const HAS_VOTE_AT: usize = 20;
const TERM_AT: usize = 32;
const VOTE_AT: usize = 40;

const SEGMENT_HEADER_BYTES: usize = 64;
const SEQUENCE_AT: usize = 12;
/// In the identity: what the checksum of every mark begins with.
const SECRET: std::ops::Range<usize> = 88..96;
/// In headers and in marks.
const BOOT_AT: usize = 40;
const LOCAL_BIT: u32 = 1 << 31;
const MARK_BYTES: usize = 80;
const TRUNCATION_BYTES: usize = 32;
const SEAL_BYTES: usize = 24;

/// A place in the log's bytes: segment and offset.
type Place = (u32, usize);

/// What one disk holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Durable {
    /// Term and vote, as far as both slots say it.
    pub(super) hard_state: HardState,
    /// The entry before the first.
    base: EntryId,
    /// The terms of the entries after it.
    terms: Vec<Term>,
    /// Behind the last whole batch.
    end: Place,
    /// Everything before it is known to be durable by a mark that is durable itself.
    covered: Place,
    /// The lowest segment that is needed.
    oldest: u32,
    /// Whether `base` is known.
    begun: bool,
    /// How often the disk had been flushed when this was read.
    flushes: u64,
}

impl Durable {
    /// Reads everything.
    pub(super) fn read(disk: &SimDisk) -> Self {
        let mut durable = Self { flushes: disk.flushes(), end: (1, 0), ..Self::default() };
        durable.read_vote(disk);
        let names = disk.durable_names(&log_dir());
        let numbers = names.iter().filter_map(|name| name.strip_suffix(".seg")?.parse().ok());
        let mut segments: Vec<u32> = numbers.collect();
        segments.sort_unstable();
        // The newest that holds a batch names the oldest that counts.
        for &segment in segments.iter().rev() {
            let mut last = Self { end: (segment, 0), ..Self::default() };
            last.read_segment(disk);
            if last.oldest > 0 {
                durable.oldest = last.oldest;
                durable.end = (last.oldest, 0);
                break;
            }
        }
        durable.read_log(disk);
        durable
    }

    /// Reads what was flushed since.
    pub(super) fn read_on(&mut self, disk: &SimDisk) {
        let flushes = disk.flushes();
        if flushes != self.flushes {
            self.flushes = flushes;
            self.read_vote(disk);
            self.read_log(disk);
        }
    }

    fn read_vote(&mut self, disk: &SimDisk) {
        let found = disk.durable_bytes_in(&vote_path(), |bytes| {
            let [first, second] = SLOTS.map(|slot| vote_at(bytes, slot));
            let [is_good, is_good_too] = if first == second {
                [true, true]
            } else {
                SLOTS.map(|slot| is_good_slot(bytes, slot))
            };
            match (is_good, is_good_too) {
                // What only one slot says is forgotten if that slot rots.
                (true, true) if first.term < second.term => first,
                (false, _) | (true, true) => second,
                (true, false) => first,
            }
        });
        self.hard_state = found.unwrap_or_default();
    }

    fn read_log(&mut self, disk: &SimDisk) {
        while let Some(successor) = self.read_segment(disk) {
            self.end = (successor, 0);
        }
    }

    /// Reads the rest of the segment at `end`; returns its successor if it is sealed.
    fn read_segment(&mut self, disk: &SimDisk) -> Option<u32> {
        let path = segment_path(self.end.0);
        let identity = Path::new(DIR).join("identity");
        let salt = disk.durable_bytes_in(&identity, |bytes| bytes.get(SECRET).map(crc32c::crc32c));
        let salt = salt.flatten()?;
        disk.durable_bytes_in(&path, |bytes| self.read_batches(bytes, salt)).flatten()
    }

    fn read_batches(&mut self, bytes: &[u8], salt: u32) -> Option<u32> {
        let (segment, offset) = self.end;
        if u32_at(bytes, SEQUENCE_AT) != segment {
            return None;
        }
        let mut at = offset.max(SEGMENT_HEADER_BYTES);
        while let Some(mark) = Mark::at(bytes, segment, at, salt) {
            if !self.begun {
                self.begun = true;
                self.base = mark.prev;
            }
            let successor = self.read_batch(&bytes[at..at + mark.bytes]);
            self.covered = self.covered.max(mark.durable);
            self.oldest = self.oldest.max(mark.oldest);
            at += mark.bytes;
            self.end = (segment, at);
            if successor.is_some() {
                return successor;
            }
        }
        None
    }

    fn read_batch(&mut self, batch: &[u8]) -> Option<u32> {
        let mut at = MARK_BYTES;
        while at < batch.len() {
            let length = u32_at(batch, at + 4);
            match (length & LOCAL_BIT != 0, (length & !LOCAL_BIT) as usize) {
                (true, TRUNCATION_BYTES) => {
                    let stays = u64_at(batch, at + 24);
                    if let Some(kept) = stays.checked_sub(self.base.index.0) {
                        self.terms.truncate(kept as usize);
                    } else {
                        // It reaches into segments that have been let go of since.
                        self.terms.clear();
                        self.base = EntryId::new(Term(u64_at(batch, at + 16)), LogIndex(stays));
                    }
                    at += TRUNCATION_BYTES;
                }
                (true, SEAL_BYTES) => return Some(u32_at(batch, at + 12)),
                (true, _) | (false, 0) => return None,
                (false, length) => {
                    self.terms.push(Term(u64_at(batch, at + 16)));
                    at += length.next_multiple_of(8);
                }
            }
        }
        None
    }

    /// The last entry.
    pub(super) fn last(&self) -> EntryId {
        let index = LogIndex(self.base.index.0 + self.terms.len() as u64);
        EntryId::new(self.terms.last().copied().unwrap_or(self.base.term), index)
    }

    /// The term of an entry, if it is there.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let place = index.0.checked_sub(self.base.index.0 + 1)?;
        self.terms.get(place as usize).copied()
    }

    /// Whether the entry is there, or was and has been let go of.
    pub(super) fn holds(&self, entry: EntryId) -> bool {
        entry.index < self.base.index || self.term_at(entry.index) == Some(entry.term)
    }

    /// The last entry that is here, and in the node's log, and counted by the node as persisted: what a crash
    /// must not take. One that was truncated and stored again may be here without being counted, and a crash
    /// may leave the truncation and nothing after it.
    pub(super) fn agrees_to(&self, core: &Core) -> EntryId {
        let mut index = self.last().index.min(core.persisted());
        loop {
            match self.term_at(index) {
                Some(term) if core.term_at(index) == Some(term) => {
                    return EntryId::new(term, index);
                }
                Some(_) if index > self.base.index => index = index.prev(),
                _ => return EntryId::ZERO,
            }
        }
    }

    /// Where bytes of the log may rot without passing for a torn tail: a segment, and the range in it that
    /// a mark calls durable.
    pub(super) fn covered(&self) -> Option<(PathBuf, std::ops::Range<usize>)> {
        let (segment, end) = self.covered;
        let range = SEGMENT_HEADER_BYTES..end;
        (!range.is_empty()).then(|| (segment_path(segment), range))
    }
}

/// What a mark says.
struct Mark {
    bytes: usize,
    durable: Place,
    oldest: u32,
    prev: EntryId,
}

impl Mark {
    /// The mark at a place, if one stands there that was made for it.
    fn at(bytes: &[u8], segment: u32, at: usize, salt: u32) -> Option<Self> {
        let mark = bytes.get(at..at + MARK_BYTES)?;
        let batch = u32_at(mark, 12) as usize;
        let place = u64_at(mark, 16);
        let whole = u32_at(mark, 0) == crc32c::crc32c_append(salt, &mark[4..])
            && u32_at(mark, 4) == LOCAL_BIT | MARK_BYTES as u32
            && place == u64::from(segment) << 32 | at as u64
            && u64_at(mark, BOOT_AT) == u64_at(bytes, BOOT_AT)
            && at + batch <= bytes.len();
        let durable = u64_at(mark, 32);
        whole.then(|| Self {
            bytes: batch,
            durable: ((durable >> 32) as u32, (durable & 0xFFFF_FFFF) as usize),
            oldest: u32_at(mark, 48),
            prev: EntryId::new(Term(u64_at(mark, 56)), LogIndex(u64_at(mark, 64))),
        })
    }
}

fn vote_at(bytes: &[u8], slot: usize) -> HardState {
    let has_vote = bytes.get(slot + HAS_VOTE_AT) == Some(&1);
    let voted_for = has_vote.then(|| NodeId(u64_at(bytes, slot + VOTE_AT)));
    HardState { term: Term(u64_at(bytes, slot + TERM_AT)), voted_for }
}

fn is_good_slot(bytes: &[u8], slot: usize) -> bool {
    bytes.get(slot..slot + VOTE_SLOT_BYTES).is_some_and(|slot| {
        let crc = crc32c::crc32c(&slot[..CRC_AT]);
        u32_at(slot, CRC_AT) == crc32c::crc32c_append(crc, &slot[CRC_AT + 4..])
    })
}

/// Where the vote is.
pub(super) fn vote_path() -> PathBuf {
    Path::new(DIR).join("vote")
}

fn log_dir() -> PathBuf {
    Path::new(DIR).join("log")
}

fn segment_path(segment: u32) -> PathBuf {
    log_dir().join(format!("{segment:010}.seg"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}
