//! What comes out of a connection: frames, one after the other.

use oarlock::transport::tcp::frame::{self, Decoded, Frame};

use crate::bytes::Bytes;

/// Reads `data` as a connection's bytes, as they are and with a first checksum that is right.
///
/// # Panics
/// If a frame that is taken is not what it would be sent as, or if the beginning of a frame is taken for
/// something else.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let max_records = bytes.short() as usize;
    let stream = bytes.take(data.len());
    look_at(stream, max_records);
    if let Some(length) = stream.get(8..12) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
        if let Some(covered) = stream.get(4..(length as usize).saturating_add(16)) {
            let mut signed = stream.to_vec();
            signed[..4].copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
            look_at(&signed, max_records);
        }
    }
}

fn look_at(mut stream: &[u8], max_records: usize) {
    loop {
        match Frame::decode(stream, max_records) {
            Err(_) => return,
            Ok(Decoded::Needs(needs)) => {
                assert!(needs > stream.len(), "{needs} bytes are needed of {}", stream.len());
                let most = oarlock::codec::MAX_MESSAGE_BYTES + max_records;
                assert!(needs <= frame::FRAME_HEADER_BYTES + most, "{needs} bytes are needed");
                return;
            }
            Ok(Decoded::Frame(frame, length)) => {
                let (whole, rest) = stream.split_at(length);
                check(&frame, whole);
                for cut in [0, length / 2, length - 1] {
                    let decoded = Frame::decode(&whole[..cut], max_records);
                    assert!(
                        matches!(decoded, Ok(Decoded::Needs(_))),
                        "{cut} bytes are {decoded:?}"
                    );
                }
                stream = rest;
            }
        }
    }
}

fn check(frame: &Frame, bytes: &[u8]) {
    let mut sent = Vec::new();
    match frame {
        Frame::Message(message, records) => {
            assert_eq!(records.end, bytes.len(), "the records do not end with the frame");
            frame::encode_message(message, records.len(), &mut sent).expect("it was decoded");
            sent.extend_from_slice(&bytes[records.clone()]);
        }
        Frame::Ping(number) => frame::encode_ping(*number, &mut sent),
        Frame::Pong(number) => frame::encode_pong(*number, &mut sent),
    }
    assert_eq!(sent, bytes, "{frame:?} is sent otherwise than it came");
}
