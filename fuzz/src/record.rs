//! Records: of a log, or of a peer.

use oarlock::record::{Record, Records, peek_length};
use oarlock::slices::{Slice, Slices};
use std::sync::Arc;

/// Reads `data` as records, as they are and with a first checksum that is right.
///
/// # Panics
/// If a record that is taken is not what it would be written as.
pub fn run(data: &[u8]) {
    look_at(data);
    let mut signed = data.to_vec();
    if let Some(length) = peek_length(data) {
        let end = (length as usize).next_multiple_of(8);
        if let Some(covered) = data.get(4..end.max(4)) {
            signed[..4].copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
            look_at(&signed);
        }
    }
}

fn look_at(bytes: &[u8]) {
    if let Ok(record) = Record::check(bytes) {
        assert_eq!(Record::read(bytes), Ok(record), "checked, and then read otherwise");
        let mut written = Vec::new();
        record.header.write(record.payload, &mut written);
        assert_eq!(
            written, record.bytes,
            "{:?} is written otherwise than it was read",
            record.header
        );
    }
    let whole = Slices::from(bytes.to_vec());
    let mut parts = Slices::new();
    let owner = Arc::new(bytes.to_vec());
    for (start, len) in [(0, bytes.len() / 2), (bytes.len() / 2, bytes.len().div_ceil(2))] {
        parts.push(Slice::new(owner.clone(), start, len));
    }
    for slices in [whole, parts] {
        let mut taken = 0;
        for record in Records::checked(&slices) {
            let Ok(record) = record else { break };
            taken += record.bytes.len();
        }
        assert!(taken <= bytes.len(), "{taken} bytes of records out of {}", bytes.len());
    }
}
