//! An envelope's bytes, for transports that need bytes.
//!
//! ```text
//!  offset  bytes
//!       0      2  version  0
//!       2      2  zero
//!       4      4  crc      CRC32C of everything from offset 8
//!       8      8  node     the sender ...
//!      16     16  incarnation
//!      32      8  boot
//!      40      8  to       the receiver
//!      48      4  length   of the message
//!      52      4  records  their length
//!      56      …  message  (bincode, fixed-width little-endian)
//!       …      …  records  as in `record`
//! ```

use crate::codec;
use crate::error::{DecodeError, EncodeError};
use crate::message::Envelope;
use crate::slices::Slices;
use crate::types::{BootCount, Incarnation, NodeId, Sender};

const VERSION: u16 = 0;
const HEADER_BYTES: usize = 56;

impl Envelope {
    /// The bytes of everything, as far as they are known without encoding: what queues count.
    pub fn weight(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// Appends the envelope's bytes to `out`.
    ///
    /// # Errors
    /// A message beyond the codec's limit, which the library itself never sends.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&self.from.node.0.to_le_bytes());
        out.extend_from_slice(&self.from.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.from.boot.0.to_le_bytes());
        out.extend_from_slice(&self.to.0.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        codec::encode_message(&self.message, out)?;
        let message = (out.len() - start - HEADER_BYTES) as u32;
        let records = u32::try_from(self.records.len()).map_err(EncodeError::new)?;
        for part in self.records.parts() {
            out.extend_from_slice(part.as_bytes());
        }
        out[start + 48..start + 52].copy_from_slice(&message.to_le_bytes());
        out[start + 52..start + 56].copy_from_slice(&records.to_le_bytes());
        let crc = crc32c::crc32c(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// Reads an envelope that takes all of `bytes`. The records' own checksums are checked by the node.
    ///
    /// # Errors
    /// Bytes that are no envelope of this version; nothing is allocated for them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let u64_at = |at| bytes_at(bytes, at).map(u64::from_le_bytes);
        let u32_at = |at| bytes_at(bytes, at).map(u32::from_le_bytes);
        if u32_at(0)? != u32::from(VERSION) {
            return Err(DecodeError::new("another version"));
        }
        let (message_len, records_len) = (u32_at(48)? as usize, u32_at(52)? as usize);
        if bytes.len() - HEADER_BYTES != message_len + records_len {
            return Err(DecodeError::new("another length"));
        }
        if crc32c::crc32c(&bytes[8..]) != u32_at(4)? {
            return Err(DecodeError::new("wrong checksum"));
        }
        Ok(Self {
            from: Sender {
                node: NodeId(u64_at(8)?),
                incarnation: Incarnation(bytes_at(bytes, 16).map(u128::from_le_bytes)?),
                boot: BootCount(u64_at(32)?),
            },
            to: NodeId(u64_at(40)?),
            message: codec::decode_message(&bytes[HEADER_BYTES..HEADER_BYTES + message_len])?,
            records: Slices::from(bytes[HEADER_BYTES + message_len..].to_vec()),
        })
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], DecodeError> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().ok_or_else(|| DecodeError::new("too short"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Heartbeat, Message, ReadRound};
    use crate::types::{LogIndex, Term};

    fn envelope() -> Envelope {
        let heartbeat = Heartbeat {
            term: Term(5),
            committed: LogIndex(6),
            round: ReadRound(7),
            replicated: LogIndex(8),
        };
        Envelope {
            from: Sender { node: NodeId(1), incarnation: Incarnation(2), boot: BootCount(3) },
            to: NodeId(4),
            message: Message::Heartbeat(heartbeat),
            records: Slices::from(vec![9, 9]),
        }
    }

    #[test]
    fn envelope_bytes_are_the_golden_ones() {
        let mut out = Vec::new();
        envelope().encode(&mut out).expect("small");
        let u64s = |numbers: &[u64]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
        assert_eq!(out[..4], [0; 4]);
        assert_eq!(out[8..48], u64s(&[1, 2, 0, 3, 4]));
        assert_eq!(out[48..56], [36, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(out[56..60], [4, 0, 0, 0], "heartbeats are variant 4");
        assert_eq!(out[60..92], u64s(&[5, 6, 7, 8]));
        assert_eq!(out[92..], [9, 9]);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let mut out = Vec::new();
        envelope().encode(&mut out).expect("small");
        let back = Envelope::decode(&out).expect("just encoded");
        assert_eq!(
            (back.from, back.to, &back.message),
            (envelope().from, envelope().to, &envelope().message)
        );
        assert_eq!(back.records.parts()[0].as_bytes(), [9, 9]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let mut out = Vec::new();
        envelope().encode(&mut out).expect("small");
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..out.len() {
            assert!(Envelope::decode(&out[..len]).is_err(), "{len} bytes");
        }
    }
}
