//! The bytes of a segment file, one by one: a change of the format shows here, and so does a file written
//! by an earlier version that cannot be read any more.

mod wal_rig;

use oarlock::{EntryId, LogIndex, Term};
use wal_rig::{Rig, segment};

const INCARNATION: std::ops::Range<usize> = 24..40;
const CRC: std::ops::Range<usize> = 60..64;
const FILE_BYTES: usize = 4096;

fn golden() -> Vec<u8> {
    let text = include_str!("golden_wal/segment.txt");
    let mut bytes: Vec<u8> = text
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).expect("two digits"))
        .collect();
    bytes.resize(FILE_BYTES, 0);
    bytes
}

/// Puts another incarnation, which is drawn anew for each directory, into a segment's header.
fn with_incarnation_of(bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[INCARNATION].copy_from_slice(&other[INCARNATION]);
    let crc = crc32c::crc32c(&bytes[..CRC.start]).to_le_bytes();
    bytes[CRC].copy_from_slice(&crc);
    bytes
}

/// A log with all that a segment can hold: records, a truncation, an empty batch, a seal.
fn log() -> Rig {
    let mut rig = Rig::new();
    rig.append(1, b"first");
    rig.append(1, b"superseded");
    rig.commit();
    rig.truncate_from(2);
    rig.append(2, b"second");
    rig.commit();
    assert!(rig.cover());
    rig.restart()
}

#[test]
fn a_segment_files_bytes_are_the_golden_ones() {
    let golden = golden();
    let bytes = log().disk.live_bytes(&segment(1)).expect("a segment");
    let bytes = with_incarnation_of(&bytes, &golden);
    assert_eq!(bytes.len(), golden.len());
    for (at, (found, wanted)) in bytes.chunks(8).zip(golden.chunks(8)).enumerate() {
        assert_eq!(found, wanted, "at byte {}", at * 8);
    }
}

#[test]
fn the_golden_bytes_are_read_as_the_log_they_are() {
    let disk = log().kill();
    disk.rot(&segment(1), |bytes| *bytes = with_incarnation_of(&golden(), bytes));
    let wanted = [
        (EntryId::new(Term(1), LogIndex(1)), b"first".to_vec()),
        (EntryId::new(Term(2), LogIndex(2)), b"second".to_vec()),
    ];
    assert_eq!(Rig::on(disk).entries(), wanted);
}
