//! What follows the greetings on a connection: frames, one after the other.
//!
//! ```text
//!  offset  bytes
//!       0      4  crc      CRC32C of everything from offset 4 to the end of the message
//!       4      2  version  the one that the greetings agreed on: 0
//!       6      1  kind     1 message, 2 ping, 3 pong
//!       7      1  zero
//!       8      4  m        bytes of the message
//!      12      4  r        bytes of the records; zero but in messages
//!      16      m  message  kind 1: bincode, fixed-width little-endian; ping and pong: a number, 8 bytes
//!       …      r  records  as in [`crate::record`]
//! ```
//!
//! All numbers are little-endian. Sender and receiver are those of the greetings. The checksum leaves the
//! records out: each record has its own, which the node checks before it believes any of it, and a second
//! pass over the same bytes would be the most expensive thing a frame costs.
//!
//! Pure: bytes in, frames out. Looks at version, kind and lengths before anything else, at the checksum
//! before the message, and allocates nothing.

use std::fmt;
use std::ops::Range;

use crate::codec::{self, MAX_MESSAGE_BYTES};
use crate::error::EncodeError;
use crate::message::Message;

/// The version of frames and greetings that this library speaks.
pub const VERSION: u16 = 0;
/// Bytes of a frame before its message.
pub const FRAME_HEADER_BYTES: usize = 16;

const MESSAGE: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;

/// A frame's contents, in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, and the place of its records among the bytes that were looked at.
    Message(Message, Range<usize>),
    /// Asks for a sign of life.
    Ping(u64),
    /// The answer to the ping of this number.
    Pong(u64),
}

/// What the beginning of some bytes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole frame, of so many bytes.
    Frame(Frame, usize),
    /// A good beginning; so many bytes are needed before more can be said.
    Needs(usize),
}

/// Why bytes are no frame. There is no way to find the next one after that.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// A version that was not agreed on.
    Version(u16),
    /// An unknown kind, or one that does not belong where it stood.
    Kind(u8),
    /// A reserved byte is not zero, or a ping has not the size of one.
    Malformed,
    /// More bytes are announced than are accepted.
    TooLarge {
        /// The bytes of the part that is too large.
        announced: usize,
        /// The limit.
        limit: usize,
    },
    /// The checksum is another.
    Checksum,
    /// The checksum holds, and the message cannot be decoded: a newer kind of message, for example.
    Message(String),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "a frame of version {version}"),
            Self::Kind(kind) => write!(f, "a frame of kind {kind}"),
            Self::Malformed => f.write_str("a malformed frame"),
            Self::TooLarge { announced, limit } => {
                write!(f, "a frame announces {announced} bytes, and {limit} are the limit")
            }
            Self::Checksum => f.write_str("a frame with a wrong checksum"),
            Self::Message(error) => write!(f, "the message {error}"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Frame {
    /// Looks at the beginning of `bytes`. Records may take `max_records` bytes.
    ///
    /// # Errors
    /// [`FrameError`], as soon as the bytes cannot become a frame any more.
    pub fn decode(bytes: &[u8], max_records: usize) -> Result<Decoded, FrameError> {
        let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(Decoded::Needs(FRAME_HEADER_BYTES));
        };
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        let (version, kind) = (u16::from_le_bytes([header[4], header[5]]), header[6]);
        let (message, records) = (u32_at(8) as usize, u32_at(12) as usize);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if !(MESSAGE..=PONG).contains(&kind) {
            return Err(FrameError::Kind(kind));
        }
        if header[7] != 0 || (kind != MESSAGE && (message, records) != (8, 0)) {
            return Err(FrameError::Malformed);
        }
        for (announced, limit) in [(message, MAX_MESSAGE_BYTES), (records, max_records)] {
            if announced > limit {
                return Err(FrameError::TooLarge { announced, limit });
            }
        }
        let head = FRAME_HEADER_BYTES + message;
        let Some(checked) = bytes.get(4..head) else { return Ok(Decoded::Needs(head)) };
        if crc32c::crc32c(checked) != u32_at(0) {
            return Err(FrameError::Checksum);
        }
        if bytes.len() < head + records {
            return Ok(Decoded::Needs(head + records));
        }
        let message = &bytes[FRAME_HEADER_BYTES..head];
        let frame = if kind == MESSAGE {
            let message = codec::decode_message(message)
                .map_err(|error| FrameError::Message(error.to_string()))?;
            Self::Message(message, head..head + records)
        } else {
            let number = message.first_chunk().ok_or(FrameError::Malformed)?;
            let number = u64::from_le_bytes(*number);
            if kind == PING { Self::Ping(number) } else { Self::Pong(number) }
        };
        Ok(Decoded::Frame(frame, head + records))
    }
}

/// Appends a message's frame to `out`, up to its records, which take `records` bytes and follow it.
///
/// # Errors
/// A message beyond the codec's limit, or records beyond 4 GiB; `out` is as it was.
pub fn encode_message(
    message: &Message,
    records: usize,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let records = u32::try_from(records).map_err(EncodeError::new)?;
    let start = begin(MESSAGE, records, out);
    if let Err(error) = codec::encode_message(message, out) {
        out.truncate(start);
        return Err(error);
    }
    finish(start, out);
    Ok(())
}

/// Appends a ping to `out`.
pub fn encode_ping(number: u64, out: &mut Vec<u8>) {
    let start = begin(PING, 0, out);
    out.extend_from_slice(&number.to_le_bytes());
    finish(start, out);
}

/// Appends the answer to the ping of this number to `out`.
pub fn encode_pong(number: u64, out: &mut Vec<u8>) {
    let start = begin(PONG, 0, out);
    out.extend_from_slice(&number.to_le_bytes());
    finish(start, out);
}

fn begin(kind: u8, records: u32, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&records.to_le_bytes());
    start
}

fn finish(start: usize, out: &mut [u8]) {
    let message = (out.len() - start - FRAME_HEADER_BYTES) as u32;
    out[start + 8..start + 12].copy_from_slice(&message.to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Append, Heartbeat, ReadRound};
    use crate::types::{LogIndex, Term};

    fn heartbeat() -> Message {
        Message::Heartbeat(Heartbeat {
            term: Term(5),
            committed: LogIndex(6),
            round: ReadRound(7),
            replicated: LogIndex(8),
        })
    }

    fn with_records(records: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_message(&Message::Append(Append::default()), records.len(), &mut out)
            .expect("small");
        out.extend_from_slice(records);
        out
    }

    #[test]
    fn frame_bytes_are_the_golden_ones() {
        let mut out = Vec::new();
        encode_message(&heartbeat(), 0, &mut out).expect("small");
        assert_eq!(out[4..20], [0, 0, 1, 0, 36, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]);
        let numbers: Vec<u8> = [5_u64, 6, 7, 8].into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(out[20..], numbers);
        assert_eq!(out[..4], 0xDE_9E_F7_14_u32.to_le_bytes(), "the checksum is golden too");

        out.clear();
        encode_ping(9, &mut out);
        encode_pong(9, &mut out);
        assert_eq!(out[4..24], [0, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out[28..48], [0, 0, 3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);

        let out = with_records(b"twelve bytes");
        assert_eq!(out[12..16], [12, 0, 0, 0]);
        assert_eq!(out[out.len() - 12..], *b"twelve bytes");
    }

    #[test]
    fn what_was_encoded_is_decoded_and_the_rest_is_left() {
        let mut out = with_records(b"12345678");
        let len = out.len();
        encode_ping(7, &mut out);
        let decoded = Frame::decode(&out, 8).expect("good");
        let expected = Frame::Message(Message::Append(Append::default()), len - 8..len);
        assert_eq!(decoded, Decoded::Frame(expected, len));
        assert_eq!(Frame::decode(&out[len..], 8), Ok(Decoded::Frame(Frame::Ping(7), 24)));
    }

    #[test]
    fn every_prefix_says_how_much_is_needed_next() {
        let out = with_records(b"12345678");
        for len in 0..out.len() {
            let needs = match Frame::decode(&out[..len], 8) {
                Ok(Decoded::Needs(needs)) => needs,
                other => panic!("{len} bytes: {other:?}"),
            };
            assert!(len < needs && needs <= out.len(), "{len} bytes need {needs}");
        }
    }

    #[test]
    fn every_flipped_bit_before_the_records_is_noticed() {
        let out = with_records(b"12345678");
        for bit in 0..(out.len() - 8) * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A length that has grown may still wait for the bytes it announces.
            match Frame::decode(&bad, 1 << 20) {
                Err(_) => {}
                Ok(Decoded::Needs(needs)) if needs > bad.len() => {
                    bad.resize(needs, 0);
                    assert!(Frame::decode(&bad, 1 << 20).is_err(), "bit {bit}");
                }
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }

    #[test]
    fn lengths_are_refused_before_their_bytes_are_there() {
        let mut out = with_records(&[]);
        out[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let too_large = |announced, limit| Err(FrameError::TooLarge { announced, limit });
        assert_eq!(Frame::decode(&out, 8), too_large(u32::MAX as usize, MAX_MESSAGE_BYTES));
        let mut out = with_records(&[]);
        out[12..16].copy_from_slice(&9_u32.to_le_bytes());
        assert_eq!(Frame::decode(&out, 8), too_large(9, 8));
    }

    #[test]
    fn versions_and_kinds_that_nobody_agreed_on_are_refused() {
        let out = with_records(&[]);
        for (at, value, error) in [
            (4, 1, FrameError::Version(1)),
            (5, 1, FrameError::Version(256)),
            (6, 0, FrameError::Kind(0)),
            (6, 4, FrameError::Kind(4)),
            (6, 2, FrameError::Malformed),
            (7, 1, FrameError::Malformed),
        ] {
            let mut bad = out.clone();
            bad[at] = value;
            assert_eq!(Frame::decode(&bad, 8), Err(error));
        }
    }

    #[test]
    fn a_message_that_is_too_large_leaves_the_buffer_as_it_was() {
        let mut out = vec![1];
        assert!(encode_message(&heartbeat(), usize::MAX, &mut out).is_err());
        assert_eq!(out, [1]);
    }
}
