//! Looking into a directory from outside: it agrees with a start, changes nothing, and is not confused by
//! a log that moves.

mod wal_rig;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use oarlock::error::{StorageError, StorageErrorKind};
use oarlock::simulation::{Fault, FaultError, Operation, SimDisk};
use oarlock::storage::Storage;
use oarlock::wal::{Disk, Inspection, SegmentUse, inspect};
use oarlock::{EntryId, HardState, LogIndex, NodeId, Term};
use wal_rig::{DIR, Rig, decode, header, segment, try_open};

fn look(disk: &Arc<SimDisk>) -> Result<Option<Inspection>, StorageError> {
    let storage: Arc<dyn Storage> = disk.clone();
    inspect(&storage, Path::new(DIR))
}

fn sound(disk: &Arc<SimDisk>) -> Inspection {
    let inspection = look(disk).expect("readable").expect("a node's directory");
    assert!(inspection.damage.is_empty(), "{:?}", inspection.damage);
    inspection
}

/// What is wrong first, in the words of the error.
fn trouble(disk: &Arc<SimDisk>) -> Option<String> {
    match look(disk) {
        Ok(inspection) => {
            let damage = inspection.expect("a node's directory").damage;
            damage.first().map(ToString::to_string)
        }
        Err(error) => Some(error.to_string()),
    }
}

/// What a start would say.
fn refusal(disk: &SimDisk) -> Option<String> {
    Rig::try_on(Arc::new(disk.clone())).err().map(|error| error.to_string())
}

fn entries(inspection: &Inspection) -> Vec<(EntryId, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut prev = inspection.base.index;
    while prev < inspection.last.index {
        let (slices, last) = inspection.read(prev, 3000).expect("readable");
        entries.extend(decode(&slices));
        prev = last;
    }
    entries
}

/// Three segments with a truncation across two of them, a vote, and a mark that covers it all.
fn three_segments() -> Rig {
    let mut rig = Rig::new();
    rig.roll(1);
    let last = rig.log().last().index.0;
    rig.truncate_from(last - 3);
    rig.roll(2);
    for _ in 0..5 {
        rig.append(3, b"at the end");
        rig.commit();
    }
    let state = HardState { term: Term(4), voted_for: Some(NodeId(2)) };
    let flusher = rig.opened.flusher.as_mut().expect("a log on disk");
    flusher.store_hard_state(state).expect("a good disk");
    rig.cover();
    rig
}

#[test]
fn what_is_found_is_what_the_log_holds() {
    let mut rig = three_segments();
    rig.prepare();
    let seen = sound(&rig.disk);
    assert_eq!((seen.sender.node, seen.cluster.as_str()), (NodeId(1), "test"));
    assert_eq!(seen.sender, rig.opened.recovered.sender);
    assert_eq!(seen.members, wal_rig::members());
    assert_eq!(seen.hard_state, Some(HardState { term: Term(4), voted_for: Some(NodeId(2)) }));
    assert_eq!((seen.base, seen.last), (rig.log().base(), rig.log().last()));
    assert_eq!(seen.terms.iter().map(|run| run.term.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(seen.durable_index, rig.log().last().index);
    assert!(seen.covered && seen.torn.is_none() && seen.notes.is_empty(), "{seen:?}");
    assert_eq!(entries(&seen), rig.entries());
    let uses: Vec<_> = seen.segments.iter().map(|segment| segment.usage).collect();
    let (sealed, ready) = (SegmentUse::Sealed, SegmentUse::Ready);
    assert_eq!(uses, [sealed, sealed, SegmentUse::Open, ready, ready]);
    let ranges: Vec<_> = seen.segments.iter().map(|part| (part.first.0, part.last.0)).collect();
    for pair in ranges[..3].windows(2) {
        assert_eq!(pair[0].1 + 1, pair[1].0, "{ranges:?}");
    }
    assert_eq!((ranges[0].0, ranges[2].1), (1, seen.last.index.0));
    let bytes: u64 = seen.segments.iter().map(|segment| segment.bytes).sum();
    assert_eq!(bytes, rig.log().bytes());
}

#[test]
fn what_was_let_go_of_is_not_counted_and_its_files_are_named() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.roll(1);
    }
    let last = rig.log().last().index;
    rig.log().release(last.prev());
    rig.cover();
    let seen = sound(&rig.disk);
    assert_eq!(seen.base, rig.log().base());
    assert!(seen.base.index > LogIndex(100));
    assert_eq!(entries(&seen), rig.entries());
    let released = seen.segments.iter().filter(|part| part.usage == SegmentUse::Released).count();
    assert_eq!(released, 4);
    rig.prepare();
    assert_eq!(entries(&sound(&rig.disk)), rig.entries());
}

#[test]
fn a_new_directory_and_one_that_was_just_made_and_one_in_the_middle_of_a_start_are_no_damage() {
    let disk = Arc::new(SimDisk::new(1));
    assert!(look(&disk).expect("readable").is_none());
    let whole = {
        let disk = Arc::new(disk.as_ref().clone());
        let before = disk.operations();
        drop(Rig::on(Arc::clone(&disk)));
        let whole = disk.operations() - before;
        let seen = sound(&disk);
        assert_eq!((seen.base, seen.last, seen.covered), (EntryId::ZERO, EntryId::ZERO, true));
        whole
    };
    for after in 0..whole {
        let disk = Arc::new(disk.as_ref().clone());
        disk.fail(Fault { operation: None, after, error: FaultError::Io, lasting: true });
        assert!(Rig::try_on(Arc::clone(&disk)).is_err(), "the disk failed");
        disk.clear_faults();
        if let Some(seen) = look(&disk).expect("readable") {
            assert!(seen.damage.is_empty(), "after {after} operations: {:?}", seen.damage);
            assert_eq!(seen.last, EntryId::ZERO);
        }
    }
}

#[test]
fn every_flipped_byte_is_called_what_a_start_would_call_it() {
    let rig = three_segments();
    let disk = rig.kill();
    let files = [
        ("identity", 5, 0..139),
        ("vote", 97, 0..8192),
        ("log/0000000001.seg", 401, 0..65_536),
        ("log/0000000003.seg", 7, 0..1024),
    ];
    let mut damaged = 0;
    for (file, step, range) in files {
        let path = Path::new(DIR).join(file);
        for at in range.step_by(step) {
            let disk = Arc::new(disk.as_ref().clone());
            disk.rot(&path, |bytes| bytes[at] ^= 0x40);
            let found = trouble(&disk);
            assert_eq!(found, refusal(&disk), "{file} at byte {at}");
            damaged += u32::from(found.is_some());
        }
    }
    assert!(damaged > 200, "{damaged} flips were noticed");
}

type Damage<'a> = &'a dyn Fn(&SimDisk);

#[test]
fn files_that_are_missing_short_foreign_or_exchanged_are_called_what_a_start_would_call_them() {
    let disk = three_segments().kill();
    let other = Rig::new();
    let foreign = other.disk.live_bytes(&segment(1)).expect("a file");
    let first = disk.live_bytes(&segment(1)).expect("a file");
    let cut = |disk: &SimDisk| disk.rot(&segment(2), |bytes| bytes.truncate(4096));
    let zeroed = |disk: &SimDisk| disk.rot(&segment(2), |bytes| bytes[8192..12_288].fill(0));
    let exchanged = |disk: &SimDisk| disk.rot(&segment(2), |bytes| bytes.clone_from(&first));
    let foreign = |disk: &SimDisk| disk.rot(&segment(1), |bytes| bytes.clone_from(&foreign));
    let gone = |disk: &SimDisk| disk.remove(&segment(2)).expect("removed");
    let last_gone = |disk: &SimDisk| disk.remove(&segment(3)).expect("removed");
    let no_vote = |disk: &SimDisk| disk.remove(&Path::new(DIR).join("vote")).expect("removed");
    let no_identity =
        |disk: &SimDisk| disk.remove(&Path::new(DIR).join("identity")).expect("removed");
    let all: [Damage<'_>; 8] =
        [&cut, &zeroed, &exchanged, &foreign, &gone, &last_gone, &no_vote, &no_identity];
    for (number, damage) in all.into_iter().enumerate() {
        let disk = Arc::new(disk.as_ref().clone());
        damage(&disk);
        let found = trouble(&disk);
        assert!(found.is_some(), "damage {number} was not noticed");
        assert_eq!(found, refusal(&disk), "damage {number}");
    }
}

#[test]
fn what_stands_before_damage_can_still_be_read() {
    let mut rig = three_segments();
    let all = rig.entries();
    let last_of_first = sound(&rig.disk).segments[0].last;
    rig.disk.rot(&segment(2), |bytes| bytes[20_000] ^= 1);
    let seen = look(&rig.disk).expect("readable").expect("a node's directory");
    let error = &seen.damage[0];
    assert_eq!(error.path, segment(2));
    let index = error.index.expect("an index").0;
    assert!(error.offset.expect("an offset") <= 20_000 && index > last_of_first.0, "{error}");
    let found = entries(&seen);
    assert_eq!(found, all[..found.len()], "what is there is true");
    assert_eq!(found.len() as u64, index - 1, "all of it up to the damage");
    assert!(seen.hard_state.is_some());
    assert_eq!(rig.log().last().index.0, all.len() as u64);

    // A header that cannot be read hides its own segment and what follows.
    rig.disk.rot(&segment(2), |bytes| bytes[0] ^= 1);
    let seen = look(&rig.disk).expect("readable").expect("a node's directory");
    assert_eq!(seen.damage[0].offset, Some(0));
    let found = entries(&seen);
    let kept = last_of_first.0 as usize;
    assert_eq!(found[..kept], all[..kept], "what follows was truncated by the next segment");
    assert_eq!(seen.segments[1].usage, SegmentUse::Unknown);
}

#[test]
fn a_torn_tail_is_no_damage_and_its_place_is_named() {
    let mut rig = three_segments();
    let last = rig.log().last().index;
    rig.append(3, &[1; 9000]);
    rig.commit();
    assert!(!sound(&rig.disk).covered);
    rig.disk.rot(&segment(3), |bytes| {
        let at = bytes.iter().rposition(|&byte| byte == 1).expect("the payload");
        bytes[at - 5000..at].fill(0);
    });
    let seen = sound(&rig.disk);
    let torn = seen.torn.clone().expect("a torn tail");
    assert_eq!(torn.path, segment(3));
    assert!(torn.expected.contains("record"), "{torn:?}");
    assert_eq!((seen.last.index, seen.durable_index), (last, last));
    assert_eq!(refusal(&rig.disk), None);
}

#[test]
fn one_bad_slot_of_the_vote_file_is_a_note() {
    let disk = three_segments().kill();
    disk.rot(&Path::new(DIR).join("vote"), |bytes| bytes[4096 + 40] ^= 1);
    let seen = sound(&disk);
    assert_eq!(seen.hard_state.map(|state| state.term), Some(Term(4)));
    assert_eq!(seen.notes.len(), 1);
    assert!(seen.notes[0].contains("second slot"), "{:?}", seen.notes);
}

#[test]
fn looking_writes_nothing_and_takes_no_lock() {
    let rig = three_segments();
    for operation in [
        Operation::CreateDir,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDir,
        Operation::Lock,
        Operation::Write,
        Operation::Allocate,
        Operation::Sync,
    ] {
        let operation = Some(operation);
        rig.disk.fail(Fault { operation, after: 0, error: FaultError::Io, lasting: true });
    }
    // The lock is held meanwhile.
    assert_eq!(entries(&sound(&rig.disk)), rig.entries());
}

#[test]
fn an_unreadable_file_is_an_error_and_no_damage() {
    let disk = three_segments().kill();
    disk.fail(Fault {
        operation: Some(Operation::Read),
        after: 3,
        error: FaultError::Io,
        lasting: true,
    });
    let error = look(&disk).expect_err("unreadable");
    assert!(matches!(error.kind, StorageErrorKind::Io { .. }), "{error}");
}

/// Appends in batches of several sizes, truncates, lets go of what is old, and starts anew, without pause.
fn write_on(storage: &Arc<dyn Storage>, dir: &Path, stop: &AtomicBool) {
    let open = || try_open(Arc::clone(storage), dir).expect("a good disk");
    let mut opened = open();
    let (mut round, mut generation) = (0_u64, 0);
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        if round.is_multiple_of(301) {
            drop(opened);
            opened = open();
            generation = 0;
        }
        let log = &mut opened.log;
        if round.is_multiple_of(50) && log.last().index > log.base().index {
            generation += 1;
            log.truncate_from(log.last().index, generation);
        }
        for _ in 0..round % 9 {
            while log.room() < 2100 {
                opened.preparer.step().expect("a good disk");
            }
            let next = log.last().index.next();
            log.append(
                &header(1 + round / 1000, next),
                &vec![round as u8; (round % 2000) as usize],
            );
        }
        let target = log.publish();
        let flusher = opened.flusher.as_mut().expect("a log on disk");
        log.persisted(flusher.flush(target).expect("a good disk"));
        if round.is_multiple_of(10) {
            let last = log.last().index;
            log.release_beyond(5 << 16, last.prev());
        }
        while opened.preparer.step().expect("a good disk") {}
    }
}

/// Ends the writer however the test ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_log_that_is_written_truncated_recycled_and_restarted_meanwhile_is_never_called_damaged() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let storage: Arc<dyn Storage> = Arc::new(Disk);
    drop(try_open(Arc::clone(&storage), &dir).expect("a good disk"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| write_on(&storage, &dir, &stop));
        let (mut last, mut moved, mut looks) = (LogIndex::ZERO, 0, 0);
        while moved < 60 {
            looks += 1;
            assert!(looks < 100_000, "the log does not move");
            let seen = inspect(&storage, &dir).expect("readable").expect("a node's directory");
            assert!(seen.damage.is_empty(), "look {looks}: {:?}", seen.damage);
            moved += u32::from(seen.base.index > LogIndex::ZERO && seen.last.index > last);
            last = seen.last.index;
        }
    });
}
