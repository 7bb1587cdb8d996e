//! Every call on the disk fails, at every position of everything that a log does, once and from then on.
//!
//! The error is typed. What was acknowledged before it, or is acknowledged after it, survives a power cut.
//! What the log holds stays readable if the disk can be read. And the directory opens again, without relying
//! on what only the page cache holds: what such a start finds survives another power cut.
//!
//! `OARLOCK_TEST_ERRORS=all` lets every call fail with every error; by default each fails with EIO and one of
//! the others.

mod crash_rig;
mod journal;
mod wal_rig;

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crash_rig::driver::{Driver, Outcome};
use crash_rig::workloads;
use journal::{Journal, PATIENCE, member, until};
use oarlock::error::{StorageError, StorageErrorKind};
use oarlock::simulation::{Fault, FaultError, Operation, SimDisk};
use oarlock::storage::{OpenMode, Storage, StorageFile, StorageLock};
use oarlock::transport::memory::Network;
use oarlock::wal::Disk;
use oarlock::{Config, ProposeError, Role, StartError, StopCause};
use wal_rig::{Rig, try_open_with, try_read_all};

type Work = fn(&mut Driver<Arc<SimDisk>>) -> Outcome;

const OTHERS: [FaultError; 4] =
    [FaultError::NoSpace, FaultError::ReadOnly, FaultError::TooManyFiles, FaultError::NoMemory];

/// Runs a workload once for every operation and error; returns how many failures were met.
fn fails_well(work: Work) {
    let all = env::var_os("OARLOCK_TEST_ERRORS").is_some_and(|all| all == "all");
    let mut met = 0;
    for after in 0.. {
        let chosen = after as usize % OTHERS.len();
        let others = if all { &OTHERS[..] } else { &OTHERS[chosen..=chosen] };
        let mut reached = false;
        for &error in [FaultError::Io].iter().chain(others) {
            for lasting in [false, true] {
                let fault = Fault { operation: None, after, error, lasting };
                reached |= fails_well_at(work, fault);
                met += 1;
            }
        }
        if !reached {
            break;
        }
    }
    assert!(met > 200, "{met} failures");
}

/// Returns whether the workload came so far.
fn fails_well_at(work: Work, fault: Fault) -> bool {
    let place = format!("{fault:?}");
    let disk = Arc::new(SimDisk::new(fault.after));
    let mut driver = Driver::new(Arc::clone(&disk), 5);
    disk.fail(fault);
    let outcome = work(&mut driver);
    let reached = disk.operations() > fault.after;
    if let Err(error) = &outcome {
        assert_typed(error, &place);
        // Whatever this is, an acknowledgement is believed.
        if driver.opened.is_some() && driver.commit().is_ok() {
            disk.clear_faults();
        }
    }
    if !fault.lasting {
        disk.clear_faults();
    }
    if let Some(opened) = driver.opened.as_mut() {
        opened.log.publish();
        match try_read_all(&opened.log) {
            Ok(held) => assert_eq!(held, driver.held(), "{place}"),
            Err(error) => {
                assert!(fault.lasting, "{place}: {error}");
                assert_typed(&error, &place);
            }
        }
    }
    disk.clear_faults();

    let boot = driver.promise.boot;
    driver.opened = None;
    if fault.after.is_multiple_of(2) {
        disk.kill();
    } else {
        disk.crash();
    }
    driver.open().unwrap_or_else(|error| panic!("{place}: it does not open again: {error}"));
    assert!(driver.promise.boot > boot, "{place}");
    // The driver checks that all of this is still there.
    driver.opened = None;
    disk.crash_losing_all();
    driver.open().unwrap_or_else(|error| panic!("{place}: no second start: {error}"));
    driver.entries([100]).unwrap_or_else(|error| panic!("{place}: it does not go on: {error}"));
    reached
}

fn assert_typed(error: &StorageError, place: &str) {
    match &error.kind {
        StorageErrorKind::Io { operation, .. } => assert!(!operation.is_empty(), "{place}"),
        StorageErrorKind::Poisoned => {}
        // A vote file of which neither slot can be read.
        StorageErrorKind::Damaged { .. } => {
            assert!(error.path.ends_with("vote"), "{place}: {error}");
        }
        other => panic!("{place}: {other:?}"),
    }
    assert!(error.path.starts_with(wal_rig::DIR), "{place}: {error}");
}

#[test]
fn in_a_first_start() {
    fails_well(workloads::first_start);
}

#[test]
fn in_rolls() {
    fails_well(workloads::rolls);
}

#[test]
fn in_truncations() {
    fails_well(workloads::truncations);
}

#[test]
fn in_releases() {
    fails_well(workloads::releases);
}

#[test]
fn in_votes() {
    fails_well(workloads::votes);
}

#[test]
fn in_starts() {
    fails_well(workloads::starts);
}

/// A node whose disk fails at some call: it does not start, or stops, and says why; what it acknowledged
/// outlives a power cut. A node that never notices goes on. Known bugs 7 and 9.
#[test]
fn a_node_stops_with_the_cause_and_has_lost_nothing() {
    let mut stopped = 0;
    for after in (0..240).step_by(3) {
        let errors = [FaultError::Io].iter().chain(&OTHERS);
        let error = *errors.cycle().nth(after as usize / 3).expect("endless");
        let disk = Arc::new(SimDisk::new(after));
        let start = || {
            let storage = Arc::<SimDisk>::clone(&disk);
            let config = Config {
                segment_bytes: 1 << 16,
                ready_segments: 1,
                max_entry_bytes: 16 << 10,
                max_batch_bytes: 32 << 10,
                max_append_bytes: 32 << 10,
                ..Config::small()
            };
            member(&Network::new(), 1, 1, Journal::default())
                .storage("data", storage)
                .config(config)
                .start()
        };
        disk.fail(Fault { operation: None, after, error, lasting: after % 2 == 0 });
        let mut acknowledged = Vec::new();
        match start() {
            Err(StartError::Storage(error)) => assert_typed(&error, "start"),
            Err(other) => panic!("{other:?}"),
            Ok(node) => {
                for value in 0..40 {
                    match node.propose_timeout(value, PATIENCE) {
                        Ok(_) => acknowledged.push(value),
                        Err(ProposeError::NotLeader { .. }) => {
                            until(|| {
                                node.status().role == Role::Leader
                                    || node.status().stopped.is_some()
                            });
                        }
                        Err(_) => break,
                    }
                }
                match node.status().stopped {
                    Some(StopCause::Storage(error)) => {
                        assert_typed(&error, "stop");
                        stopped += 1;
                    }
                    Some(other) => panic!("{other}"),
                    None => {}
                }
                node.shutdown(PATIENCE).expect("its threads end");
            }
        }
        disk.clear_faults();
        disk.crash_losing_all();
        let node = start().unwrap_or_else(|error| panic!("after {after}: {error}"));
        until(|| node.status().role == Role::Leader);
        let held = node.read(|journal| journal.values.clone()).expect("it leads");
        let lost: Vec<u64> =
            acknowledged.into_iter().filter(|value| !held.contains(value)).collect();
        assert_eq!(lost, [], "after {after}");
    }
    assert!(stopped > 10, "{stopped} nodes were stopped");
}

/// After a failed flush the kernel may call the next one a success, so none is tried: known bug 9.
#[test]
fn after_a_failed_write_or_flush_nothing_is_written_any_more() {
    for operation in [Operation::Write, Operation::Sync] {
        // A flush writes records and their echo, and flushes once.
        for after in 0..if operation == Operation::Write { 2 } else { 1 } {
            let mut rig = Rig::new();
            rig.append(1, b"kept");
            rig.commit();
            rig.append(1, b"in doubt");
            let target = rig.log().publish();
            let fault =
                Fault { operation: Some(operation), after, error: FaultError::Io, lasting: false };
            rig.disk.fail(fault);
            let error = rig.try_flush(target).expect_err("planned");
            assert!(matches!(error.kind, StorageErrorKind::Io { .. }), "{error}");
            let operations = rig.disk.operations();
            for _ in 0..3 {
                let error = rig.try_flush(target).expect_err("poisoned");
                assert!(matches!(error.kind, StorageErrorKind::Poisoned), "{error}");
            }
            assert_eq!(rig.disk.operations(), operations, "the disk is left alone");
            assert_eq!(rig.entries().len(), 2, "what is there can be read");
            assert_eq!(rig.crash().entries()[0].1, b"kept");
        }
    }
}

/// A full disk is met where a segment is made, long before an entry needs it, and is no reason to lose one.
/// Known bug 35.
#[test]
fn a_full_disk_takes_no_new_segment_and_the_log_goes_on_in_those_it_has() {
    let mut rig = Rig::new();
    rig.prepare();
    let full = |operation| Fault {
        operation: Some(operation),
        after: 0,
        error: FaultError::NoSpace,
        lasting: true,
    };
    rig.disk.fail(full(Operation::Allocate));
    let mut count = 0;
    while rig.log_ref().room() > 1100 {
        rig.append(1, &[3; 1000]);
        assert!(rig.commit().is_some());
        count += 1;
        let error = rig.opened.preparer.step();
        assert!(!matches!(&error, Err(error) if !is_full(error)), "{error:?}");
    }
    assert!(count > 100, "{count} entries in the segments that were ready");
    assert!(rig.opened.preparer.step().is_err_and(|error| is_full(&error)));
    assert_eq!(rig.entries().len(), count);
    rig.cover();
    // Nothing more fits, and a start needs a segment of its own.
    let disk = rig.kill();
    let error = Rig::try_on(Arc::clone(&disk)).map(|_| ()).expect_err("a full disk");
    assert!(is_full(&error), "{error}");
    disk.clear_faults();
    disk.kill();
    let mut rig = Rig::on(disk);
    assert_eq!(rig.entries().len(), count);
    rig.append(1, b"more");
    assert!(rig.commit().is_some());
}

fn is_full(error: &StorageError) -> bool {
    matches!(&error.kind, StorageErrorKind::Io { error, .. }
        if error.kind() == io::ErrorKind::StorageFull)
}

/// What a real disk gives to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped {
    /// Something that cannot be mapped.
    Pipe,
    /// A file that is too short, which is what populating its pages finds out.
    Short,
}

/// The real disk, on which from the `after`-th segment on mapping or populating fails.
#[derive(Debug)]
struct Unmappable {
    how: Mapped,
    after: u64,
    asked: AtomicU64,
}

impl Storage for Unmappable {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let file = Disk.open(path, mode)?;
        let is_segment = path.to_string_lossy().contains(".seg.new");
        if !is_segment || self.asked.fetch_add(1, Ordering::Relaxed) < self.after {
            return Ok(file);
        }
        let other = match self.how {
            Mapped::Pipe => File::from(OwnedFd::from(io::pipe()?.0)),
            Mapped::Short => tempfile::tempfile()?,
        };
        Ok(Arc::new(Other { file, other }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn StorageLock>>> {
        Disk.lock(path)
    }
}

/// A file that gives another one to be mapped.
#[derive(Debug)]
struct Other {
    file: Arc<dyn StorageFile>,
    other: File,
}

impl StorageFile for Other {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn file(&self) -> Option<&File> {
        Some(&self.other)
    }
}

#[test]
fn a_segment_that_cannot_be_mapped_or_populated_is_an_error_and_what_is_there_goes_on() {
    let mut operations = BTreeMap::new();
    for how in [Mapped::Pipe, Mapped::Short] {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let open = |after| {
            let disk = Unmappable { how, after, asked: AtomicU64::new(0) };
            try_open_with(Arc::new(disk), temp.path(), &crash_rig::driver::OPTIONS)
        };
        open(0).map(drop).expect_err("no segment to begin with");
        let mut opened = open(1).expect("one segment");
        opened.log.append(&wal_rig::header(1, opened.log.last().index.next()), b"here");
        let target = opened.log.publish();
        let mut failed = None;
        while failed.is_none() {
            failed = opened.preparer.step().err();
        }
        let error = failed.expect("just seen");
        let StorageErrorKind::Io { operation, .. } = error.kind else { panic!("{error}") };
        operations.insert(operation, how);
        assert!(matches!(
            opened.preparer.step().expect_err("poisoned").kind,
            StorageErrorKind::Poisoned
        ));
        opened.flusher.as_mut().expect("on disk").flush(target).expect("a good disk");
        assert_eq!(try_read_all(&opened.log).expect("mapped").len(), 1);
        drop(opened);
        let opened = open(u64::MAX).expect("a good disk");
        assert_eq!(try_read_all(&opened.log).expect("in its file").len(), 1);
    }
    assert_eq!(operations, [("map", Mapped::Pipe), ("populate", Mapped::Short)].into());
}
