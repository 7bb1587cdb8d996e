//! The bytes of a data directory, one by one: a change of a format shows here, and so does a directory
//! written by an earlier version that cannot be read any more.
//!
//! `golden_wal/version0` is a directory as a node leaves it, `golden_wal/segment.txt` its first segment with
//! every field named. After a change that is meant, `OARLOCK_TEST_BLESS=1 cargo test --test wal_golden`
//! writes the directory anew; the text is for a person to change.

mod wal_rig;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

use oarlock::simulation::SimDisk;
use oarlock::storage::{OpenMode, Storage};
use oarlock::wal::{Disk, LogOptions};
use oarlock::{BootCount, EntryId, HardState, Incarnation, LogIndex, NodeId, Term};
use wal_rig::{DIR, Rig, read_all, segment, try_open_with};

/// Everything in a data directory but the lock, which is empty.
const FILES: [&str; 4] = ["identity", "vote", "log/0000000001.seg", "log/0000000002.seg"];

fn options() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, ready_segments: 1, max_entry_bytes: 1 << 10 }
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_wal/version0")
}

/// A disk on which a first start was cut short after it had drawn a name for the directory, which is given
/// here and not drawn.
fn named() -> Arc<SimDisk> {
    let rig = Rig::on_with(Arc::new(SimDisk::new(1)), options());
    let mut identity = rig.disk.live_bytes(&Path::new(DIR).join("identity")).expect("there");
    identity[20..24].fill(0); // flags: neither vote nor log
    for (at, byte) in (1..).zip(&mut identity[32..48]) {
        *byte = at; // incarnation
    }
    identity[48..56].fill(0); // boot
    for (at, byte) in (1..).zip(&mut identity[88..96]) {
        *byte = at; // secret
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&identity[..12]), &identity[16..]);
    identity[12..16].copy_from_slice(&crc.to_le_bytes());
    let disk = Arc::new(SimDisk::new(1));
    write(&disk, "identity", &identity);
    disk
}

fn write(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let path = Path::new(DIR).join(name);
    disk.create_dir(path.parent().expect("a directory")).expect("created");
    let file = disk.open(&path, OpenMode::Create).expect("created");
    file.write_at(bytes, 0).expect("written");
}

/// A log with all that a segment can hold: records, a truncation, an empty batch, a seal.
fn written() -> Rig {
    let mut rig = Rig::on_with(named(), options());
    rig.append(1, b"first");
    rig.append(1, b"superseded");
    rig.commit();
    rig.truncate_from(2);
    rig.append(2, b"second");
    rig.commit();
    assert!(rig.cover());
    let vote = HardState { term: Term(3), voted_for: Some(NodeId(2)) };
    rig.opened.flusher.as_mut().expect("on disk").store_hard_state(vote).expect("a good disk");
    rig.restart()
}

fn entries() -> [(EntryId, Vec<u8>); 2] {
    [
        (EntryId::new(Term(1), LogIndex(1)), b"first".to_vec()),
        (EntryId::new(Term(2), LogIndex(2)), b"second".to_vec()),
    ]
}

fn compare(name: &str, found: &[u8], wanted: &[u8]) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    for (at, (found, wanted)) in found.chunks(8).zip(wanted.chunks(8)).enumerate() {
        assert_eq!(found, wanted, "{name} at byte {}", at * 8);
    }
}

#[test]
fn a_data_directorys_bytes_are_the_golden_ones() {
    let rig = written();
    for name in FILES {
        let found = rig.disk.live_bytes(&Path::new(DIR).join(name)).expect("written");
        let path = golden_dir().join(name);
        if env::var_os("OARLOCK_TEST_BLESS").is_some() {
            fs::create_dir_all(path.parent().expect("a directory")).expect("created");
            fs::write(&path, &found).expect("written");
        }
        compare(name, &found, &fs::read(&path).expect("checked in"));
    }
}

#[test]
fn a_segments_bytes_are_those_that_are_spelled_out() {
    let text = include_str!("golden_wal/segment.txt");
    let mut spelled: Vec<u8> = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().expect("a first part");
        if let Some(zeros) = line.strip_prefix("zeros up to ") {
            spelled.resize(zeros.trim().parse().expect("a number"), 0);
            continue;
        }
        let bytes = line.split_whitespace();
        spelled.extend(bytes.map(|byte| u8::from_str_radix(byte, 16).expect("two digits")));
    }
    let found = written().disk.live_bytes(&segment(1)).expect("a segment");
    compare("segment", &found, &spelled);
}

#[test]
fn a_directory_of_version_0_is_read_as_what_it_is() {
    let disk = Arc::new(SimDisk::new(2));
    for name in FILES {
        write(&disk, name, &fs::read(golden_dir().join(name)).expect("checked in"));
    }
    let rig = Rig::on_with(disk, options());
    assert_eq!(rig.entries(), entries());
    let recovered = &rig.opened.recovered;
    assert_eq!(recovered.hard_state, HardState { term: Term(3), voted_for: Some(NodeId(2)) });
    let incarnation = Incarnation(0x100F_0E0D_0C0B_0A09_0807_0605_0403_0201);
    assert_eq!((recovered.sender.incarnation, recovered.sender.boot), (incarnation, BootCount(3)));
}

#[test]
fn a_directory_of_version_0_opens_on_a_real_disk_too() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(temp.path().join("log")).expect("created");
    for name in FILES {
        fs::copy(golden_dir().join(name), temp.path().join(name)).expect("copied");
    }
    let opened = try_open_with(Arc::new(Disk), temp.path(), &options()).expect("a good directory");
    assert_eq!(read_all(&opened.log), entries());
}
