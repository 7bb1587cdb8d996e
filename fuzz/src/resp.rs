//! What a client of the key-value example sends.

use crate::bytes::Bytes;

#[path = "../../examples/kv/resp.rs"]
#[expect(dead_code, reason = "only its decoder is looked at")]
mod parser;

use parser::{Decoder, Found, Limits};

const LIMITS: Limits = Limits { args: 64, bulk_bytes: 512, request_bytes: 2048, line_bytes: 512 };

/// A request's arguments.
type Request = Vec<Vec<u8>>;

/// Reads `data` as what a client sends, at once and in pieces.
///
/// # Panics
/// If it matters in which pieces it came, or if a request means something else when it is sent again.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let piece = 1 + bytes.below(64) as usize;
    let stream = bytes.take(data.len());
    let whole = read(stream, stream.len().max(1));
    assert_eq!(whole, read(stream, piece), "{piece} bytes at a time");
    let mut again = Vec::new();
    for request in &whole.0 {
        parser::array(&mut again, request.len());
        for arg in request {
            parser::bulk(&mut again, arg);
        }
    }
    let is_within = |request: &Request| {
        request.len() <= LIMITS.args && request.iter().all(|arg| arg.len() <= LIMITS.bulk_bytes)
    };
    if whole.0.iter().all(is_within) {
        assert_eq!((whole.0, false), read(&again, again.len().max(1)), "written and read again");
    }
}

/// The requests in a stream that comes so many bytes at a time, and whether it broke the protocol.
fn read(stream: &[u8], piece: usize) -> (Vec<Request>, bool) {
    let (mut decoder, mut buffer) = (Decoder::new(LIMITS), Vec::new());
    let mut requests = Vec::new();
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            let taken = match decoder.next(&buffer) {
                Err(_) => return (requests, true),
                Ok(None) => break,
                Ok(Some((Found::Request(request), taken))) => {
                    let args: Request = request.args().map(<[u8]>::to_vec).collect();
                    assert_eq!(args.len(), request.len(), "arguments that are not there");
                    requests.push(args);
                    taken
                }
                Ok(Some((Found::Skipped | Found::TooLong(_), taken))) => taken,
            };
            assert!(taken > 0 && taken <= buffer.len(), "{taken} bytes taken of {}", buffer.len());
            buffer.drain(..taken);
        }
    }
    (requests, false)
}
