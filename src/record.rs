//! An entry's bytes: the same on the leader's disk, on the wire, and on a follower's disk.
//!
//! ```text
//!  offset  bytes
//!       0      4  crc      CRC32C of everything from offset 4 to the end of the padding
//!       4      4  length   header, origin and payload, without padding; below 2^31
//!       8      8  index
//!      16      8  term
//!      24      8  time     the leader's clock in nanoseconds, never less than the record before
//!      32      1  kind     1 no-op, 2 command, 3 membership
//!      33      1  flags    bit 0: an origin follows the header
//!      34      6  zero
//!      40     32  origin   incarnation (16 bytes), boot, sequence (8 bytes each), only with flag bit 0
//!       …      …  payload
//!       …    0-7  zero, up to a multiple of 8
//! ```
//!
//! All numbers are little-endian. A length with its top bit set marks bytes that belong to one
//! node's log and never travel (see [`crate::wal`]). The checksum stands before the length, so that
//! it covers the length as well.

use std::fmt;

use crate::slices::Slices;
use crate::types::{BootCount, EntryId, Incarnation, LogIndex, Sender, Term};

/// Bytes of a record before its origin or payload.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Bytes of an origin.
pub const ORIGIN_BYTES: usize = 32;
/// Records begin at multiples of this.
pub const RECORD_ALIGN: usize = 8;
/// Set in a length: these bytes are no record, but the log's own.
pub const LOCAL_BIT: u32 = 1 << 31;

const FLAG_ORIGIN: u8 = 1;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// Begins a leader's term (Raft §8); the state machine never sees it.
    Noop = 1,
    /// A command for the state machine.
    Command = 2,
    /// Sets the membership.
    Membership = 3,
}

impl TryFrom<u8> for EntryKind {
    type Error = RecordError;

    fn try_from(kind: u8) -> Result<Self, RecordError> {
        match kind {
            1 => Ok(Self::Noop),
            2 => Ok(Self::Command),
            3 => Ok(Self::Membership),
            _ => Err(RecordError::Malformed("kind")),
        }
    }
}

/// Which proposal a record answers to, for the node that made it.
///
/// Names the directory rather than the node: a node whose directory was wiped counts its boots from one
/// again, and finds the entries of its former life in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The directory of the node that made the proposal.
    pub incarnation: Incarnation,
    /// How often that had been opened.
    pub boot: BootCount,
    /// Numbers the proposals of that boot.
    pub sequence: u64,
}

impl Origin {
    /// Whether `sender`, as it runs, made the proposal.
    pub fn is_of(&self, sender: &Sender) -> bool {
        self.incarnation == sender.incarnation && self.boot == sender.boot
    }
}

/// Everything in a record but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordHeader {
    /// Term and index.
    pub id: EntryId,
    /// The leader's clock in nanoseconds when it took the entry; never less than the entry before.
    pub time: u64,
    /// What the entry is for.
    pub kind: EntryKind,
    /// The proposal it answers to, if a follower forwarded it.
    pub origin: Option<Origin>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// There are fewer bytes than the header or the length asks for.
    Short,
    /// The checksum is another.
    Checksum,
    /// The checksum holds, and this field makes no sense: written by a newer version, or never by us.
    Malformed(&'static str),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("fewer bytes than its length says"),
            Self::Checksum => f.write_str("wrong checksum"),
            Self::Malformed(field) => write!(f, "unknown {field}"),
        }
    }
}

impl std::error::Error for RecordError {}

/// Rounds up to where the next record begins.
pub const fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(RECORD_ALIGN)
}

/// The bytes a record takes, padding included.
pub const fn record_bytes(payload: usize, origin: bool) -> usize {
    align(RECORD_HEADER_BYTES + if origin { ORIGIN_BYTES } else { 0 } + payload)
}

impl RecordHeader {
    /// The bytes that the record takes with a payload of `payload` bytes, padding included.
    pub const fn record_bytes(&self, payload: usize) -> usize {
        record_bytes(payload, self.origin.is_some())
    }

    /// The bytes before a payload of `payload` bytes, with a zero for the checksum, which is over them and
    /// what follows them; returns how many of the array count.
    ///
    /// # Panics
    /// If the record would reach 2 GiB: limits are checked long before.
    pub fn head(&self, payload: usize) -> ([u8; RECORD_HEADER_BYTES + ORIGIN_BYTES], usize) {
        let mut head = [0; RECORD_HEADER_BYTES + ORIGIN_BYTES];
        let head_len = RECORD_HEADER_BYTES + if self.origin.is_some() { ORIGIN_BYTES } else { 0 };
        let length = head_len + payload;
        assert!(length < LOCAL_BIT as usize, "a record of {length} bytes");
        head[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        head[8..16].copy_from_slice(&self.id.index.0.to_le_bytes());
        head[16..24].copy_from_slice(&self.id.term.0.to_le_bytes());
        head[24..32].copy_from_slice(&self.time.to_le_bytes());
        head[32] = self.kind as u8;
        if let Some(origin) = self.origin {
            head[33] = FLAG_ORIGIN;
            head[40..56].copy_from_slice(&origin.incarnation.0.to_le_bytes());
            head[56..64].copy_from_slice(&origin.boot.0.to_le_bytes());
            head[64..72].copy_from_slice(&origin.sequence.to_le_bytes());
        }
        (head, head_len)
    }

    /// The bytes before the payload, ready to be stored, checksum included; returns how many of the
    /// array count.
    ///
    /// # Panics
    /// As [`head`](Self::head).
    pub fn encode(&self, payload: &[u8]) -> ([u8; RECORD_HEADER_BYTES + ORIGIN_BYTES], usize) {
        let (mut head, head_len) = self.head(payload.len());
        let length = head_len + payload.len();
        let mut crc = crc32c::crc32c(&head[4..head_len]);
        crc = crc32c::crc32c_append(crc, payload);
        crc = crc32c::crc32c_append(crc, &[0; RECORD_ALIGN][..align(length) - length]);
        head[..4].copy_from_slice(&crc.to_le_bytes());
        (head, head_len)
    }

    /// Appends the whole record to `out`, padding included.
    pub fn write(&self, payload: &[u8], out: &mut Vec<u8>) {
        let (head, head_len) = self.encode(payload);
        out.extend_from_slice(&head[..head_len]);
        out.extend_from_slice(payload);
        out.resize(out.len().next_multiple_of(RECORD_ALIGN), 0);
    }
}

/// A record in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// Its payload.
    pub payload: &'a [u8],
    /// All its bytes, padding included.
    pub bytes: &'a [u8],
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The length field of the record, or of the log's own bytes, at the start of `bytes`.
pub fn peek_length(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(4..8)?.first_chunk()?))
}

impl<'a> Record<'a> {
    /// Reads the record at the start of `bytes`, trusting its checksum: for bytes that were checked
    /// when they entered this process.
    ///
    /// # Errors
    /// [`RecordError::Short`] and [`RecordError::Malformed`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.len() < RECORD_HEADER_BYTES {
            return Err(RecordError::Short);
        }
        let length = peek_length(bytes).ok_or(RecordError::Short)?;
        if length & LOCAL_BIT != 0 || (length as usize) < RECORD_HEADER_BYTES {
            return Err(RecordError::Malformed("length"));
        }
        let length = length as usize;
        let bytes = bytes.get(..align(length)).ok_or(RecordError::Short)?;
        let flags = bytes[33];
        if flags & !FLAG_ORIGIN != 0 {
            return Err(RecordError::Malformed("flags"));
        }
        if bytes[34..40] != [0; 6] {
            return Err(RecordError::Malformed("reserved bytes"));
        }
        let (origin, head_len) = if flags & FLAG_ORIGIN == 0 {
            (None, RECORD_HEADER_BYTES)
        } else if length >= RECORD_HEADER_BYTES + ORIGIN_BYTES {
            let incarnation = u128::from(u64_at(bytes, 40)) | u128::from(u64_at(bytes, 48)) << 64;
            let origin = Origin {
                incarnation: Incarnation(incarnation),
                boot: BootCount(u64_at(bytes, 56)),
                sequence: u64_at(bytes, 64),
            };
            (Some(origin), RECORD_HEADER_BYTES + ORIGIN_BYTES)
        } else {
            return Err(RecordError::Malformed("origin"));
        };
        let kind = EntryKind::try_from(bytes[32])?;
        if origin.is_some() && kind != EntryKind::Command {
            // Only proposals have somebody who waits for them.
            return Err(RecordError::Malformed("origin"));
        }
        let header = RecordHeader {
            id: EntryId::new(Term(u64_at(bytes, 16)), LogIndex(u64_at(bytes, 8))),
            time: u64_at(bytes, 24),
            kind,
            origin,
        };
        Ok(Self { header, payload: &bytes[head_len..length], bytes })
    }

    /// Reads the record at the start of `bytes` and checks its checksum first.
    ///
    /// # Errors
    /// Any [`RecordError`].
    pub fn check(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let length = peek_length(bytes).ok_or(RecordError::Short)?;
        if length & LOCAL_BIT != 0 || (length as usize) < RECORD_HEADER_BYTES {
            return Err(RecordError::Malformed("length"));
        }
        let whole = bytes.get(..align(length as usize)).ok_or(RecordError::Short)?;
        if whole[..4] != crc32c::crc32c(&whole[4..]).to_le_bytes() {
            return Err(RecordError::Checksum);
        }
        if whole[length as usize..].iter().any(|byte| *byte != 0) {
            return Err(RecordError::Malformed("padding"));
        }
        Self::read(whole)
    }
}

/// The records of some slices, in order. After an error it ends.
#[derive(Debug)]
pub struct Records<'a> {
    slices: &'a Slices,
    part: usize,
    offset: usize,
    checked: bool,
}

impl<'a> Records<'a> {
    /// Reads without looking at checksums: for bytes that were checked before.
    pub fn trusted(slices: &'a Slices) -> Self {
        Self { slices, part: 0, offset: 0, checked: false }
    }

    /// Checks every record's checksum.
    pub fn checked(slices: &'a Slices) -> Self {
        Self { slices, part: 0, offset: 0, checked: true }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let slice = self.slices.parts().get(self.part)?;
        let bytes = &slice.as_bytes()[self.offset..];
        let record = if self.checked { Record::check(bytes) } else { Record::read(bytes) };
        match &record {
            Ok(record) if record.bytes.len() == bytes.len() => {
                self.part += 1;
                self.offset = 0;
            }
            Ok(record) => self.offset += record.bytes.len(),
            Err(_) => self.part = self.slices.parts().len(),
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(origin: Option<Origin>) -> RecordHeader {
        RecordHeader {
            id: EntryId::new(Term(3), LogIndex(7)),
            time: 11,
            kind: EntryKind::Command,
            origin,
        }
    }

    #[test]
    fn record_bytes_are_the_golden_ones() {
        let mut out = Vec::new();
        header(None).write(b"abc", &mut out);
        let mut golden = Vec::new();
        golden.extend_from_slice(&crc32c::crc32c(&out[4..]).to_le_bytes());
        golden.extend_from_slice(&43_u32.to_le_bytes());
        golden.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[11, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(b"abc\0\0\0\0\0");
        assert_eq!(out, golden);
        assert_eq!(out[..4], 0x36_91_9A_78_u32.to_le_bytes(), "the checksum itself is golden too");
    }

    #[test]
    fn what_was_written_is_read_back() {
        let incarnation = Incarnation(1 | 2 << 64);
        let origin = Origin { incarnation, boot: BootCount(3), sequence: 4 };
        let mut out = Vec::new();
        header(Some(origin)).write(b"", &mut out);
        let tag: Vec<u8> = [1_u64, 2, 3, 4].iter().flat_map(|part| part.to_le_bytes()).collect();
        assert_eq!(out[32..40], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out[40..], tag);
        for origin in [None, Some(origin)] {
            for payload in [&b""[..], b"x", b"12345678", b"123456789"] {
                let mut out = Vec::new();
                header(origin).write(payload, &mut out);
                assert_eq!(out.len(), header(origin).record_bytes(payload.len()));
                let record = Record::check(&out).expect("just written");
                assert_eq!((record.header, record.payload), (header(origin), payload));
            }
        }
    }

    #[test]
    fn only_commands_have_a_tag() {
        let origin = Origin { incarnation: Incarnation(1), boot: BootCount(2), sequence: 3 };
        for kind in [EntryKind::Noop, EntryKind::Membership] {
            let mut out = Vec::new();
            RecordHeader { kind, ..header(Some(origin)) }.write(b"", &mut out);
            assert_eq!(Record::check(&out), Err(RecordError::Malformed("origin")));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut out = Vec::new();
        header(None).write(b"payload", &mut out);
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::check(&bad).is_err(), "bit {bit}");
        }
        for len in 0..out.len() {
            assert_eq!(Record::check(&out[..len]), Err(RecordError::Short), "{len} bytes");
        }
    }

    #[test]
    fn bytes_that_mean_nothing_are_zero_whatever_the_checksum_says() {
        let mut good = Vec::new();
        header(None).write(b"abc", &mut good);
        for (place, field) in [(33, "flags"), (34, "reserved bytes"), (39, "reserved bytes")]
            .into_iter()
            .chain((43..48).map(|place| (place, "padding")))
        {
            let mut bad = good.clone();
            bad[place] |= 2;
            let crc = crc32c::crc32c(&bad[4..]);
            bad[..4].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Record::check(&bad), Err(RecordError::Malformed(field)), "byte {place}");
        }
    }

    #[test]
    fn records_are_found_across_slices_and_end_at_the_first_bad_one() {
        let mut slices = Slices::new();
        for payloads in [&[&b"one"[..], b"two"][..], &[b"three"]] {
            let mut part = Vec::new();
            for payload in payloads {
                header(None).write(payload, &mut part);
            }
            slices.push(Slices::from(part).parts()[0].clone());
        }
        let payloads: Vec<&[u8]> =
            Records::checked(&slices).map(|record| record.expect("good").payload).collect();
        assert_eq!(payloads, [&b"one"[..], b"two", b"three"]);

        let mut bad = Vec::new();
        header(None).write(b"x", &mut bad);
        let good = bad.len();
        header(None).write(b"y", &mut bad);
        bad[good + 41] ^= 1;
        header(None).write(b"z", &mut bad);
        let bad = Slices::from(bad);
        let found: Vec<_> = Records::checked(&bad).map(|r| r.map(|r| r.payload)).collect();
        assert_eq!(found, [Ok(&b"x"[..]), Err(RecordError::Checksum)]);
    }
}
