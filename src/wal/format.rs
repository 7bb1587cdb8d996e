//! The bytes of a segment file that are not records: its header, marks, truncations, seals and echoes.
//!
//! They belong to one node's log and never travel; [`wal`](super) draws them. Everything here turns
//! values into bytes and back, and knows nothing of files, mappings or threads.

use crate::record::LOCAL_BIT;
use crate::types::{BootCount, EntryId, Incarnation, LogIndex, NodeId, Term};

use super::Position;

/// Bytes of a segment file before its first batch.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a mark, which begins every batch.
pub(super) const MARK_BYTES: usize = 80;
/// Bytes of a truncation.
pub(super) const TRUNCATION_BYTES: usize = 32;
/// Bytes of a seal.
pub(super) const SEAL_BYTES: usize = 24;
/// What every segment keeps free behind its records: a batch of nothing but a seal.
pub(super) const SEAL_RESERVE: usize = MARK_BYTES + SEAL_BYTES;
/// Bytes of an echo, which stands alone in the block behind the last batch.
pub(super) const ECHO_BYTES: usize = 24;
/// What a disk or a file system loses, mixes up or brings back as a whole. Segments are multiples of it.
pub(super) const BLOCK_BYTES: usize = 4096;

/// The version of everything in a segment file.
pub(super) const VERSION: u32 = 0;

const MAGIC: &[u8; 8] = b"oarlkseg";
const HEADER_CRC: usize = 60;

const KIND_MARK: u8 = 1;
const KIND_TRUNCATION: u8 = 2;
const KIND_SEAL: u8 = 3;
const KIND_ECHO: u8 = 4;

/// Where the kind of local bytes stands; record headers have other bytes there.
pub(super) const KIND_AT: usize = 8;
/// Where a mark says how many bytes its batch has.
pub(super) const BATCH_BYTES_AT: usize = 12;
/// Where a mark holds the durable position.
pub(super) const DURABLE_AT: usize = 32;
/// Where a mark holds the term of the entry before its batch.
pub(super) const PREV_TERM_AT: usize = 56;
/// Where a mark holds the index of the entry before its batch.
pub(super) const PREV_INDEX_AT: usize = 64;
/// Where a mark says how many records its batch has.
pub(super) const COUNT_AT: usize = 72;
/// Where a mark says how many bytes these records have.
pub(super) const RECORD_BYTES_AT: usize = 76;

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What the checksums of marks and echoes begin with. It is drawn with the directory, so the bytes of another
/// one are none of ours; and it never leaves the directory, so whoever writes payloads does not know it, and
/// cannot make one pass for a mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn of(secret: u64) -> Self {
        Self(crc32c::crc32c(&secret.to_le_bytes()))
    }

    pub(super) fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// Says whose a segment file is and which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) sequence: u32,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// The boot that prepared the segment. Its marks repeat it, so a batch that was left behind by an
    /// earlier use of the same sequence counts for nothing.
    pub(super) boot: BootCount,
    /// The file's length.
    pub(super) bytes: u64,
}

/// Why bytes are no segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged,
    UnknownVersion(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.node.0.to_le_bytes());
        out[24..40].copy_from_slice(&self.incarnation.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.boot.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_CRC]);
        out[HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        if &bytes[..8] != MAGIC || u32_at(bytes, HEADER_CRC) != crc32c::crc32c(&bytes[..HEADER_CRC])
        {
            return Err(BadHeader::Damaged);
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            version => return Err(BadHeader::UnknownVersion(version)),
        }
        Ok(Self {
            sequence: u32_at(bytes, 12),
            node: NodeId(u64_at(bytes, 16)),
            incarnation: Incarnation(u128::from_le_bytes(
                bytes[24..40].try_into().expect("sixteen bytes"),
            )),
            boot: BootCount(u64_at(bytes, 40)),
            bytes: u64_at(bytes, 48),
        })
    }
}

/// Begins a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bytes of the batch, this mark included.
    pub(super) batch_bytes: u32,
    /// Where the mark stands.
    pub(super) position: Position,
    /// Where the mark before stands.
    pub(super) predecessor: Position,
    /// Everything before this was on the disk when the mark was written back.
    pub(super) durable: Position,
    /// As in the segment's header.
    pub(super) boot: BootCount,
    /// The lowest segment that is still needed.
    pub(super) oldest: u32,
    /// Of the checksums in the batch; see [`fold`].
    pub(super) digest: u32,
    /// The log's last entry before the batch.
    pub(super) prev: EntryId,
    /// Records in the batch.
    pub(super) count: u32,
    /// Bytes of these records.
    pub(super) record_bytes: u32,
}

impl Mark {
    /// The mark as the core leaves it: without a durable position and without a checksum, which are
    /// the flusher's to fill in.
    pub(super) fn encode_open(&self) -> [u8; MARK_BYTES] {
        let mut out = [0; MARK_BYTES];
        out[4..8].copy_from_slice(&(MARK_BYTES as u32 | LOCAL_BIT).to_le_bytes());
        out[KIND_AT] = KIND_MARK;
        out[BATCH_BYTES_AT..16].copy_from_slice(&self.batch_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.position.to_word().to_le_bytes());
        out[24..32].copy_from_slice(&self.predecessor.to_word().to_le_bytes());
        out[40..48].copy_from_slice(&self.boot.0.to_le_bytes());
        out[48..52].copy_from_slice(&self.oldest.to_le_bytes());
        out[52..56].copy_from_slice(&self.digest.to_le_bytes());
        out[PREV_TERM_AT..64].copy_from_slice(&self.prev.term.0.to_le_bytes());
        out[PREV_INDEX_AT..72].copy_from_slice(&self.prev.index.0.to_le_bytes());
        out[COUNT_AT..76].copy_from_slice(&self.count.to_le_bytes());
        out[RECORD_BYTES_AT..80].copy_from_slice(&self.record_bytes.to_le_bytes());
        out
    }

    /// The whole mark.
    pub(super) fn encode(&self, salt: Salt) -> [u8; MARK_BYTES] {
        let mut out = self.encode_open();
        out[DURABLE_AT..40].copy_from_slice(&self.durable.to_word().to_le_bytes());
        let crc = salt.checksum(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The mark at the start of `bytes`, if there is a good one.
    pub(super) fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        let bytes = bytes.get(..MARK_BYTES)?;
        if u32_at(bytes, 4) != MARK_BYTES as u32 | LOCAL_BIT
            || bytes[KIND_AT..BATCH_BYTES_AT] != [KIND_MARK, 0, 0, 0]
            || u32_at(bytes, 0) != salt.checksum(&bytes[4..])
        {
            return None;
        }
        Some(Self {
            batch_bytes: u32_at(bytes, BATCH_BYTES_AT),
            position: Position::from_word(u64_at(bytes, 16)),
            predecessor: Position::from_word(u64_at(bytes, 24)),
            durable: Position::from_word(u64_at(bytes, DURABLE_AT)),
            boot: BootCount(u64_at(bytes, 40)),
            oldest: u32_at(bytes, 48),
            digest: u32_at(bytes, 52),
            prev: EntryId::new(
                Term(u64_at(bytes, PREV_TERM_AT)),
                LogIndex(u64_at(bytes, PREV_INDEX_AT)),
            ),
            count: u32_at(bytes, COUNT_AT),
            record_bytes: u32_at(bytes, RECORD_BYTES_AT),
        })
    }
}

/// Adds one checksum to a batch's digest. Order counts, and every checksum does: without it a record
/// that an earlier use of the file left behind could stand in for one that never reached the disk.
pub(super) fn fold(digest: u32, crc: u32) -> u32 {
    (digest.rotate_left(7) ^ crc).wrapping_mul(0x9E37_79B1)
}

/// The bytes of a truncation: the log ends with `last` again, and its next entry follows.
pub(super) fn encode_truncation(last: EntryId) -> [u8; TRUNCATION_BYTES] {
    let mut out = [0; TRUNCATION_BYTES];
    out[KIND_AT] = KIND_TRUNCATION;
    out[16..24].copy_from_slice(&last.term.0.to_le_bytes());
    out[24..32].copy_from_slice(&last.index.0.to_le_bytes());
    finish_local(&mut out);
    out
}

/// The last entry that stays, if a good truncation stands at the start of `bytes`.
pub(super) fn decode_truncation(bytes: &[u8]) -> Option<EntryId> {
    let bytes = check_local(bytes, TRUNCATION_BYTES, KIND_TRUNCATION)?;
    if bytes[9..16] != [0; 7] {
        return None;
    }
    Some(EntryId::new(Term(u64_at(bytes, 16)), LogIndex(u64_at(bytes, 24))))
}

/// The bytes of a seal: segment `sequence` ends here, and the log goes on in `successor`.
pub(super) fn encode_seal(sequence: u32, successor: u32) -> [u8; SEAL_BYTES] {
    let mut out = [0; SEAL_BYTES];
    out[KIND_AT] = KIND_SEAL;
    out[12..16].copy_from_slice(&successor.to_le_bytes());
    out[16..20].copy_from_slice(&sequence.to_le_bytes());
    finish_local(&mut out);
    out
}

/// The successor, if a good seal of segment `sequence` stands at the start of `bytes`.
pub(super) fn decode_seal(bytes: &[u8], sequence: u32) -> Option<u32> {
    let bytes = check_local(bytes, SEAL_BYTES, KIND_SEAL)?;
    if bytes[9..12] != [0; 3] || u32_at(bytes, 16) != sequence || bytes[20..24] != [0; 4] {
        return None;
    }
    Some(u32_at(bytes, 12))
}

/// The bytes of an echo: everything before `durable` was on the disk.
pub(super) fn encode_echo(durable: Position, salt: Salt) -> [u8; ECHO_BYTES] {
    let mut out = [0; ECHO_BYTES];
    out[4..8].copy_from_slice(&(ECHO_BYTES as u32 | LOCAL_BIT).to_le_bytes());
    out[KIND_AT] = KIND_ECHO;
    out[16..24].copy_from_slice(&durable.to_word().to_le_bytes());
    let crc = salt.checksum(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The durable position that a mark or an echo at the start of `bytes` names, if a good one stands there.
pub(super) fn claimed_durable(bytes: &[u8], salt: Salt) -> Option<Position> {
    match (u32_at(bytes.get(..ECHO_BYTES)?, 4) & !LOCAL_BIT) as usize {
        MARK_BYTES => Some(Mark::decode(bytes, salt)?.durable),
        ECHO_BYTES => {
            let bytes = &bytes[..ECHO_BYTES];
            let good = u32_at(bytes, 4) & LOCAL_BIT != 0
                && bytes[KIND_AT..16] == [KIND_ECHO, 0, 0, 0, 0, 0, 0, 0]
                && u32_at(bytes, 0) == salt.checksum(&bytes[4..]);
            good.then(|| Position::from_word(u64_at(bytes, 16)))
        }
        _ => None,
    }
}

/// Where the echo of bytes that end at `end` stands: in a block with none of them.
pub(super) const fn echo_at(end: usize) -> usize {
    end.next_multiple_of(BLOCK_BYTES)
}

fn finish_local(out: &mut [u8]) {
    let length = out.len() as u32 | LOCAL_BIT;
    out[4..8].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
}

fn check_local(bytes: &[u8], length: usize, kind: u8) -> Option<&[u8]> {
    let bytes = bytes.get(..length)?;
    (u32_at(bytes, 4) == length as u32 | LOCAL_BIT
        && bytes[KIND_AT] == kind
        && u32_at(bytes, 0) == crc32c::crc32c(&bytes[4..]))
    .then_some(bytes)
}

/// What local bytes are, by their length alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LocalKind {
    Mark,
    Truncation,
    Seal,
}

impl LocalKind {
    /// From the length field of local bytes, its top bit included; `None` if nothing local has that length.
    pub(super) fn of_length(length: u32) -> Option<Self> {
        match (length & !LOCAL_BIT) as usize {
            MARK_BYTES => Some(Self::Mark),
            TRUNCATION_BYTES => Some(Self::Truncation),
            SEAL_BYTES => Some(Self::Seal),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncation_and_a_seal_are_not_taken_for_each_other_or_for_another_segments() {
        let last = EntryId::new(Term(2), LogIndex(9));
        let truncation = encode_truncation(last);
        let seal = encode_seal(4, 5);
        assert_eq!(decode_truncation(&truncation), Some(last));
        assert_eq!(decode_seal(&seal, 4), Some(5));
        assert_eq!(decode_seal(&truncation, 4), None);
        assert_eq!(decode_truncation(&seal), None);
        assert_eq!(decode_seal(&seal, 3), None);
    }

    #[test]
    fn every_flipped_bit_of_local_bytes_is_noticed() {
        type Holds = fn(&[u8]) -> bool;
        let mark = Mark { batch_bytes: 80, position: Position::new(3, 64), ..Mark::default() };
        let echo = encode_echo(Position::new(3, 64), Salt(5));
        let all: [(&[u8], Holds); 5] = [
            (&mark.encode(Salt(5)), |bytes| Mark::decode(bytes, Salt(5)).is_some()),
            (&echo, |bytes| claimed_durable(bytes, Salt(5)).is_some()),
            (&encode_truncation(EntryId::ZERO), |bytes| decode_truncation(bytes).is_some()),
            (&encode_seal(4, 5), |bytes| decode_seal(bytes, 4).is_some()),
            (&header().encode(), |bytes| SegmentHeader::decode(bytes).is_ok()),
        ];
        for (good, holds) in all {
            assert!(holds(good));
            assert!(!holds(&good[..good.len() - 1]));
            for bit in 0..good.len() * 8 {
                let mut bad = good.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(!holds(&bad), "bit {bit} of {} bytes", good.len());
            }
        }
    }

    #[test]
    fn a_digest_tells_order_and_every_checksum() {
        let digest = |crcs: &[u32]| crcs.iter().fold(0, |digest, &crc| fold(digest, crc));
        assert_ne!(digest(&[1, 2]), digest(&[2, 1]));
        assert_ne!(digest(&[1, 2, 3]), digest(&[1, 4, 3]));
        assert_ne!(digest(&[1]), digest(&[0, 1, 0]));
    }

    #[test]
    fn a_mark_and_an_echo_of_another_directory_are_none() {
        let mark = Mark { durable: Position::new(3, 64), ..Mark::default() };
        for bytes in [&mark.encode(Salt(5))[..], &encode_echo(mark.durable, Salt(5))] {
            assert_eq!(claimed_durable(bytes, Salt(5)), Some(mark.durable));
            assert_eq!(claimed_durable(bytes, Salt(6)), None);
        }
        assert_eq!(Mark::decode(&mark.encode(Salt(5)), Salt(6)), None);
    }

    #[test]
    fn an_echo_shares_no_block_with_what_it_speaks_of() {
        assert_eq!(echo_at(65), BLOCK_BYTES);
        assert_eq!(echo_at(BLOCK_BYTES), BLOCK_BYTES);
        assert_eq!(echo_at(BLOCK_BYTES + 8), 2 * BLOCK_BYTES);
    }

    fn header() -> SegmentHeader {
        SegmentHeader {
            sequence: 7,
            node: NodeId(1),
            incarnation: Incarnation(0x0102_0304),
            boot: BootCount(3),
            bytes: 1 << 20,
        }
    }
}
