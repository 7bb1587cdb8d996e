//! Envelopes: what comes from a peer.

use oarlock::message::Envelope;
use oarlock::record::Records;

/// Reads `data` as an envelope, as it is and with a checksum that is right.
///
/// # Panics
/// If an envelope that is taken is not what it would be sent as.
pub fn run(data: &[u8]) {
    look_at(data);
    if let Some(covered) = data.get(8..) {
        let mut signed = data.to_vec();
        signed[4..8].copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
        look_at(&signed);
    }
}

fn look_at(bytes: &[u8]) {
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    let mut sent = Vec::new();
    envelope.encode(&mut sent).expect("it was decoded");
    assert_eq!(sent, bytes, "{envelope:?} is sent otherwise than it came");
    assert!(envelope.weight() <= bytes.len(), "queues count more than there is");
    for record in Records::checked(&envelope.records) {
        if record.is_err() {
            break;
        }
    }
}
