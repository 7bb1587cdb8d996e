//! What the simulated disk keeps, and what it loses.

use super::content::{PAGE_SECTORS, SECTOR_BYTES};
use super::*;

const SEEDS: u64 = 200;
const PAGE_BYTES: usize = PAGE_SECTORS * SECTOR_BYTES;

fn dir() -> &'static Path {
    Path::new("data")
}

fn path() -> PathBuf {
    dir().join("file")
}

/// A disk with a file whose `bytes` and name are flushed.
fn disk_with(seed: u64, bytes: &[u8]) -> (SimDisk, Arc<dyn StorageFile>) {
    let disk = SimDisk::new(seed);
    disk.create_dir(dir()).expect("created");
    let file = disk.open(&path(), OpenMode::Create).expect("created");
    file.write_at(bytes, 0).expect("written");
    file.sync().expect("flushed");
    disk.sync_dir(dir()).expect("flushed");
    (disk, file)
}

fn once(operation: Operation, error: FaultError) -> Fault {
    Fault { operation: Some(operation), after: 0, error, lasting: false }
}

#[test]
fn flushed_bytes_and_names_survive_every_crash() {
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, &[1; 5000]);
        file.write_at(&[2; 100], 600).expect("written");
        file.sync().expect("flushed");
        disk.crash();
        let bytes = disk.live_bytes(&path()).expect("the file");
        assert_eq!(bytes.len(), 5000);
        assert!(bytes[600..700].iter().all(|&byte| byte == 2), "seed {seed}");
    }
}

#[test]
fn unflushed_pages_reach_the_disk_wholly_torn_or_not_at_all_each_on_its_own() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, &vec![1; 16 * PAGE_BYTES]);
        file.write_at(&vec![2; 16 * PAGE_BYTES], 0).expect("written");
        disk.crash();
        let bytes = disk.live_bytes(&path()).expect("the file");
        let mut pages = BTreeSet::new();
        for page in bytes.chunks(PAGE_BYTES) {
            let sectors: BTreeSet<_> = page.chunks(SECTOR_BYTES).map(BTreeSet::from_iter).collect();
            assert!(sectors.iter().all(|sector| sector.len() == 1), "seed {seed}: a torn sector");
            pages.insert(match (sectors.len(), page[0]) {
                (1, 1) => "lost",
                (1, _) => "whole",
                _ => "torn",
            });
        }
        seen.insert(pages);
    }
    for pages in [&["lost"][..], &["whole"], &["lost", "whole"], &["lost", "torn", "whole"]] {
        assert!(seen.contains(&pages.iter().copied().collect()), "{pages:?} not in {seen:?}");
    }
}

#[test]
fn a_flushed_length_survives_without_a_single_byte_written() {
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, b"");
        file.allocate(1000).expect("allocated");
        file.sync().expect("flushed");
        disk.crash();
        assert_eq!(disk.live_bytes(&path()).expect("the file"), [0; 1000]);
    }
}

#[test]
fn a_later_page_can_reach_the_disk_without_an_earlier_one() {
    let later_only = (0..SEEDS).any(|seed| {
        let (disk, file) = disk_with(seed, &[1; 8 << 10]);
        file.write_at(&[2; 4 << 10], 0).expect("written");
        file.write_at(&[3; 4 << 10], 4 << 10).expect("written");
        disk.crash();
        let bytes = disk.live_bytes(&path()).expect("the file");
        bytes[0] == 1 && bytes[4 << 10] == 3
    });
    assert!(later_only);
}

#[test]
fn bytes_written_twice_may_be_on_the_disk_as_they_were_in_between() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, &[1; 10]);
        file.write_at(&[2; 10], 0).expect("written");
        file.write_at(&[3; 10], 0).expect("written");
        disk.crash();
        seen.insert(disk.live_bytes(&path()).expect("the file")[0]);
    }
    assert_eq!(seen, [1, 2, 3].into());
}

#[test]
fn a_length_may_be_on_the_disk_without_its_bytes() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, &[1; 100]);
        file.write_at(&[2; 100], 100).expect("written");
        disk.crash();
        let bytes = disk.live_bytes(&path()).expect("the file");
        assert!(bytes[..100] == [1; 100], "seed {seed}: flushed bytes changed");
        seen.insert(bytes.get(199).copied());
    }
    assert_eq!(seen, [None, Some(0), Some(2)].into());
}

#[test]
fn unflushed_names_survive_as_a_prefix_or_a_subset() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        disk.create_dir(dir()).expect("created");
        for name in ["a", "b"] {
            let file = disk.open(&dir().join(name), OpenMode::Create).expect("created");
            file.sync().expect("flushed");
        }
        disk.crash();
        seen.insert(disk.list(dir()).expect("listed").concat());
    }
    assert_eq!(seen, ["", "a", "ab", "b"].map(String::from).into());
}

#[test]
fn a_rename_survives_whole_or_not_at_all() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, _) = disk_with(seed, b"old");
        let other = dir().join("new");
        let file = disk.open(&other, OpenMode::Create).expect("created");
        file.write_at(b"new", 0).expect("written");
        file.sync().expect("flushed");
        disk.sync_dir(dir()).expect("flushed");
        disk.rename(&other, &path()).expect("renamed");
        disk.crash();
        let bytes = disk.live_bytes(&path()).expect("the old or the new file");
        let names = disk.list(dir()).expect("listed");
        assert_eq!(names.len(), if bytes == b"new" { 1 } else { 2 }, "seed {seed}");
        seen.insert(bytes);
    }
    assert_eq!(seen, [b"new".to_vec(), b"old".to_vec()].into());
}

#[test]
fn losing_all_keeps_exactly_what_was_flushed() {
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, b"flushed");
        file.write_at(b"written", 0).expect("written");
        disk.open(&dir().join("other"), OpenMode::Create).expect("created");
        let copy = disk.durable_copy();
        disk.crash_losing_all();
        for disk in [disk, copy] {
            assert_eq!(disk.list(dir()).expect("listed"), ["file"]);
            assert_eq!(disk.live_bytes(&path()).expect("the file"), b"flushed");
        }
    }
}

#[test]
fn a_killed_program_leaves_its_writes_readable_and_undurable() {
    let (disk, file) = disk_with(0, b"flushed");
    file.write_at(b"written", 0).expect("written");
    disk.kill();
    assert_eq!(disk.live_bytes(&path()).expect("the file"), b"written");
    disk.crash_losing_all();
    assert_eq!(disk.live_bytes(&path()).expect("the file"), b"flushed");
}

#[test]
fn after_a_failed_flush_the_next_one_succeeds_and_saves_nothing() {
    let mut saved = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, b"flushed");
        file.write_at(b"written", 0).expect("written");
        disk.fail(once(Operation::Sync, FaultError::Io));
        let error = file.sync().expect_err("planned");
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
        file.sync().expect("as Linux does");
        assert_eq!(disk.live_bytes(&path()).expect("the file"), b"written");
        disk.crash();
        saved.insert(disk.live_bytes(&path()).expect("the file"));
    }
    assert_eq!(saved, [b"flushed".to_vec(), b"written".to_vec()].into());
}

#[test]
fn after_a_failed_directory_flush_the_next_one_succeeds_and_saves_nothing() {
    let mut saved = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, _) = disk_with(seed, b"");
        disk.remove(&path()).expect("removed");
        disk.fail(once(Operation::SyncDir, FaultError::Io));
        disk.sync_dir(dir()).expect_err("planned");
        disk.sync_dir(dir()).expect("as Linux does");
        disk.crash();
        saved.insert(disk.list(dir()).expect("listed").len());
    }
    assert_eq!(saved, [0, 1].into());
}

#[test]
fn a_failed_write_may_have_written_the_beginning() {
    let mut lengths = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, b"");
        disk.fail(once(Operation::Write, FaultError::NoSpace));
        let error = file.write_at(b"abc", 0).expect_err("planned");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let bytes = disk.live_bytes(&path()).expect("the file");
        assert!(b"abc".starts_with(&bytes));
        lengths.insert(bytes.len());
    }
    assert_eq!(lengths, [0, 1, 2, 3].into());
}

#[test]
fn a_fault_gives_the_error_that_it_names() {
    let errors = [
        (FaultError::Io, Errno::IO),
        (FaultError::NoSpace, Errno::NOSPC),
        (FaultError::ReadOnly, Errno::ROFS),
        (FaultError::TooManyFiles, Errno::MFILE),
        (FaultError::NoMemory, Errno::NOMEM),
    ];
    for (error, errno) in errors {
        let disk = SimDisk::new(0);
        disk.fail(once(Operation::CreateDir, error));
        let found = disk.create_dir(dir()).expect_err("planned").raw_os_error();
        assert_eq!(found, Some(errno.raw_os_error()));
        disk.create_dir(dir()).expect("once");
    }
}

#[test]
fn faults_hit_the_operation_they_name_once_or_for_good() {
    let (disk, file) = disk_with(0, b"abc");
    let before = disk.operations();
    disk.fail(Fault { after: 1, ..once(Operation::Read, FaultError::Io) });
    let read = || file.read_at(&mut [0], 0);
    assert!(read().is_ok());
    assert_eq!(file.len().expect("not a read"), 3);
    assert!(read().is_err());
    assert!(read().is_ok());
    assert_eq!(disk.operations() - before, 4);

    let any = Fault { operation: None, after: 1, error: FaultError::Io, lasting: true };
    disk.fail(any);
    assert!(disk.list(dir()).is_ok());
    assert!(disk.list(dir()).is_err());
    assert!(file.sync().is_err());
    disk.clear_faults();
    assert!(file.sync().is_ok());
}

#[test]
fn what_was_opened_before_a_crash_is_dead() {
    let (disk, file) = disk_with(0, b"abc");
    let lock_path = dir().join("lock");
    let old_lock = disk.lock(&lock_path).expect("no I/O error").expect("free");
    assert!(disk.lock(&lock_path).expect("no I/O error").is_none());
    disk.crash();
    assert!(file.write_at(b"x", 0).is_err() && file.sync().is_err() && file.len().is_err());
    let new_lock = disk.lock(&lock_path).expect("no I/O error").expect("the holder is dead");
    drop(old_lock);
    assert!(disk.lock(&lock_path).expect("no I/O error").is_none(), "held by the new life");
    drop(new_lock);
    assert!(disk.lock(&lock_path).expect("no I/O error").is_some());
}

#[test]
fn a_deleted_file_lives_on_for_those_who_have_it_open() {
    let (disk, file) = disk_with(0, b"abc");
    disk.remove(&path()).expect("removed");
    disk.sync_dir(dir()).expect("flushed");
    let mut bytes = [0; 3];
    file.read_at(&mut bytes, 0).expect("still open");
    assert_eq!(&bytes, b"abc");
    drop(file);
    disk.sync_dir(dir()).expect("flushed");
    assert!(disk.state.lock().files.is_empty(), "and then it is forgotten");
}

#[test]
fn the_same_seed_gives_the_same_disk_and_a_clone_the_same_future() {
    let run = |seed| {
        let (disk, file) = disk_with(seed, &[1; 8 << 10]);
        for round in 0..20 {
            file.write_at(&[round; 700], usize::from(round) as u64 * 300).expect("written");
        }
        let clone = disk.clone();
        disk.crash();
        clone.crash();
        let bytes = disk.live_bytes(&path()).expect("the file");
        assert_eq!(bytes, clone.live_bytes(&path()).expect("the file"));
        assert_eq!(disk.random().expect("random"), clone.random().expect("random"));
        bytes
    };
    assert_eq!(run(7), run(7));
    assert!((8..20).any(|seed| run(seed) != run(7)), "seeds make a difference");
}

#[test]
fn modes_are_checked_as_on_a_real_disk() {
    let (disk, _) = disk_with(0, b"abc");
    let kind = |result: io::Result<Arc<dyn StorageFile>>| result.expect_err("refused").kind();
    assert_eq!(kind(disk.open(&path(), OpenMode::Create)), io::ErrorKind::AlreadyExists);
    let missing = dir().join("missing");
    assert_eq!(kind(disk.open(&missing, OpenMode::Write)), io::ErrorKind::NotFound);
    let nowhere = Path::new("nowhere/file");
    assert_eq!(kind(disk.open(nowhere, OpenMode::Create)), io::ErrorKind::NotFound);
    let reader = disk.open(&path(), OpenMode::Read).expect("there");
    assert!(reader.write_at(b"x", 0).is_err());
    let error = reader.read_at(&mut [0; 4], 0).expect_err("three bytes");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(disk.create_dir(&path()).is_err(), "a file is there");
}
