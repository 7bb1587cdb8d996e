//! The log as its owner sees it: appending, publishing, flushing, slices, truncation, rolling, letting go.

mod wal_rig;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use oarlock::error::StorageErrorKind;
use oarlock::record::{EntryKind, Origin, RecordHeader, record_bytes};
use oarlock::simulation::{Fault, FaultError, Operation, SimDisk};
use oarlock::slices::Slices;
use oarlock::storage::Storage;
use oarlock::wal::{self, Disk, Fetch, Memory, Position};
use oarlock::{BootCount, EntryId, HardState, Incarnation, LogIndex, NodeId, Term};
use wal_rig::{Rig, decode, header, hot, members, options, read_all, segment, try_open};

fn ids(rig: &Rig) -> Vec<(u64, u64)> {
    rig.entries().iter().map(|(id, _)| (id.term.0, id.index.0)).collect()
}

fn disk_is_gone(rig: &Rig, operation: Operation) {
    rig.disk.fail(Fault {
        operation: Some(operation),
        after: 0,
        error: FaultError::Io,
        lasting: false,
    });
}

#[test]
fn what_was_flushed_is_there_after_a_crash() {
    let mut rig = Rig::new();
    rig.append(1, b"one");
    rig.append(2, b"");
    assert_eq!(rig.commit(), Some((0, LogIndex(2))));
    rig.append(2, b"three");
    rig.log().publish();
    let entries = rig.entries();
    let rig = rig.crash();
    assert_eq!(rig.entries(), entries[..2]);
    assert_eq!(rig.opened.recovered.entries.last, LogIndex(2));
    assert_eq!(rig.opened.recovered.hard_state.term, Term(2));
    assert_eq!(rig.opened.recovered.last_time, 20);
}

#[test]
fn nothing_is_reported_durable_before_its_flush() {
    // known bugs 7 and 8: entries counted before this node's own disk had them.
    let mut rig = Rig::new();
    rig.append(1, b"one");
    let first = rig.log().publish();
    rig.append(1, b"two");
    let second = rig.log().publish();
    assert!(second > first);
    assert_eq!(rig.flush(first), Some((0, LogIndex(1))), "the second was not asked for");
    assert_eq!(rig.log().persisted(first), None, "said already");
    assert_eq!(rig.flush(second), Some((0, LogIndex(2))));
    assert_eq!(rig.crash().entries().len(), 2);
}

#[test]
fn one_flush_takes_all_batches_that_wait() {
    let mut rig = Rig::new();
    let mut target = Position::default();
    for _ in 0..100 {
        rig.append(1, b"x");
        target = rig.log().publish();
    }
    let before = rig.disk.operations();
    assert_eq!(rig.flush(target), Some((0, LogIndex(100))));
    assert_eq!(rig.disk.operations() - before, 3, "one write, its echo, one flush");
}

#[test]
fn an_append_costs_no_operation_on_the_disk_and_a_roll_does_not_either() {
    let mut rig = Rig::new();
    rig.prepare();
    let before = rig.disk.operations();
    for _ in 0..100 {
        rig.append(1, &[7; 1000]);
        rig.log().publish();
    }
    assert_eq!(rig.disk.operations(), before);
    let first = rig.log().slices(LogIndex(0), usize::MAX);
    assert!(hot(first).len() > 60, "the sealed segment is still mapped");
}

#[test]
fn slices_hold_whole_records_at_least_one_and_otherwise_no_more_than_asked_for() {
    let mut rig = Rig::new();
    for batch in [1, 3, 2] {
        for _ in 0..batch {
            rig.append(1, &[1; 60]);
        }
        rig.log().publish();
    }
    let one = record_bytes(60, false);
    for prev in 0..6 {
        for (bytes, most) in
            [(0, 1), (one - 1, 1), (one, 1), (2 * one, 2), (3 * one + 7, 3), (usize::MAX, 6)]
        {
            let found = hot(rig.log().slices(LogIndex(prev), bytes));
            let rest = 6 - prev;
            assert_eq!(found.first(), Some(&(prev + 1)));
            assert!(found.len() as u64 <= most.min(rest), "{found:?}, at most {most}");
            let reader = rig.log().reader();
            let (slices, last) = reader.read(LogIndex(prev), LogIndex(6), bytes).expect("mapped");
            assert_eq!(last.0, (prev + most).min(6), "a reader takes all that fits");
            assert_eq!(decode(&slices).len() as u64, last.0 - prev);
        }
    }
    assert_eq!(hot(rig.log().slices(LogIndex(6), usize::MAX)), [0; 0]);
}

#[test]
fn entries_of_an_open_batch_are_not_handed_out() {
    let mut rig = Rig::new();
    rig.append(1, b"one");
    rig.log().publish();
    rig.append(1, b"two");
    assert_eq!(hot(rig.log().slices(LogIndex(0), usize::MAX)), [1]);
    assert_eq!(hot(rig.log().slices(LogIndex(1), usize::MAX)), [0; 0]);
    rig.log().publish();
    assert_eq!(hot(rig.log().slices(LogIndex(0), usize::MAX)), [1, 2]);
}

#[test]
fn what_one_log_hands_out_another_one_takes_in() {
    let mut leader = Rig::new();
    let payload = |index: u64| vec![index as u8; (index as usize * 37) % 3000];
    for index in 1..=200 {
        leader.append(1 + index / 50, &payload(index));
        if index % 7 == 0 {
            leader.commit();
        }
    }
    leader.commit();
    let mut follower = Rig::new();
    let mut prev = LogIndex(0);
    while prev < LogIndex(200) {
        let (slices, last) = leader.log().reader().read(prev, LogIndex(200), 9000).expect("there");
        while follower.log().room() < slices.len() {
            follower.prepare();
        }
        follower.log().append_slices(&slices, prev.next(), last);
        follower.commit();
        prev = last;
    }
    assert_eq!(follower.entries(), leader.entries());
    assert_eq!(follower.restart().entries(), leader.entries());
}

#[test]
fn of_slices_that_overlap_the_log_only_what_follows_is_taken() {
    let mut leader = Rig::new();
    for _ in 0..10 {
        leader.append(1, b"payload");
        leader.log().publish();
    }
    let Fetch::Hot(slices, _) = leader.log().slices(LogIndex(0), usize::MAX) else {
        panic!("not mapped")
    };
    let mut follower = Rig::new();
    follower.log().append_slices(&slices, LogIndex(1), LogIndex(4));
    follower.log().append_slices(&slices, LogIndex(5), LogIndex(9));
    follower.commit();
    assert_eq!(follower.entries(), leader.entries()[..9]);
    let missing = catch_unwind(AssertUnwindSafe(|| {
        follower.log().append_slices(&slices, LogIndex(10), LogIndex(11));
    }));
    assert!(missing.is_err(), "there is no entry 11 among them");
}

#[test]
fn a_record_keeps_its_origin_its_time_and_its_kind() {
    let mut rig = Rig::new();
    let origin = Origin { incarnation: Incarnation(2), boot: BootCount(3), sequence: 4 };
    let wanted = RecordHeader {
        id: EntryId::new(Term(5), LogIndex(1)),
        time: 99,
        kind: EntryKind::Command,
        origin: Some(origin),
    };
    rig.log().append(&wanted, b"abc");
    rig.commit();
    let rig = rig.restart();
    let (slices, _) = rig.opened.log.reader().read(LogIndex(0), LogIndex(1), 0).expect("readable");
    let records: Vec<_> = oarlock::record::Records::checked(&slices).collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].as_ref().expect("good").header, wanted);
}

#[test]
fn an_entry_out_of_order_or_of_a_lower_term_is_a_bug_of_the_caller() {
    // known bug 17: a gap in the log.
    let mut rig = Rig::new();
    rig.append(2, b"one");
    for (term, index) in [(2, 1), (2, 3), (1, 2)] {
        let refused = catch_unwind(AssertUnwindSafe(|| {
            rig.log().append(&header(term, LogIndex(index)), b"");
        }));
        assert!(refused.is_err(), "{term}.{index} after 2.1");
    }
}

#[test]
fn truncation_supersedes_and_survives_a_restart() {
    // known bug 19: what is kept and what goes is exactly what was asked for.
    let mut rig = Rig::new();
    for _ in 0..10 {
        rig.append(1, b"old");
    }
    rig.commit();
    rig.truncate_from(6);
    assert_eq!(rig.log().last(), EntryId::new(Term(1), LogIndex(5)));
    assert_eq!(hot(rig.log().slices(LogIndex(0), usize::MAX)), [1, 2, 3, 4, 5]);
    rig.append(3, b"new");
    rig.commit();
    let wanted = [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (3, 6)];
    assert_eq!(ids(&rig), wanted);
    let rig = rig.crash();
    assert_eq!(ids(&rig), wanted);
    assert_eq!(rig.entries()[5].1, b"new");
    assert_eq!(rig.opened.recovered.entries.runs.len(), 2);
}

#[test]
fn a_truncation_may_end_a_log_and_may_empty_it() {
    let mut rig = Rig::new();
    rig.append(1, b"one");
    rig.append(1, b"two");
    rig.commit();
    rig.truncate_from(2);
    rig.commit();
    let mut rig = rig.crash();
    assert_eq!(ids(&rig), [(1, 1)]);
    rig.generation = 0;
    rig.truncate_from(1);
    rig.commit();
    let mut rig = rig.crash();
    assert_eq!(ids(&rig), []);
    assert_eq!(rig.log().last(), EntryId::ZERO);
    assert_eq!(rig.append(7, b"again"), LogIndex(1));
    rig.commit();
    assert_eq!(ids(&rig.crash()), [(7, 1)]);
}

#[test]
fn truncation_after_truncation_leaves_what_the_last_ones_left() {
    let mut rig = Rig::new();
    for _ in 0..8 {
        rig.append(1, b"a");
    }
    rig.commit();
    rig.truncate_from(5);
    rig.append(2, b"b");
    rig.append(2, b"b");
    rig.truncate_from(6);
    rig.truncate_from(3);
    rig.append(3, b"c");
    rig.commit();
    assert_eq!(ids(&rig), [(1, 1), (1, 2), (3, 3)]);
    assert_eq!(ids(&rig.crash()), [(1, 1), (1, 2), (3, 3)]);
}

#[test]
fn a_slice_taken_before_a_truncation_keeps_its_bytes() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.append(1, b"old");
    }
    rig.log().publish();
    let Fetch::Hot(slices, _) = rig.log().slices(LogIndex(0), usize::MAX) else {
        panic!("not mapped")
    };
    let before = decode(&slices);
    rig.truncate_from(2);
    for _ in 0..5 {
        rig.append(2, b"new");
    }
    rig.commit();
    assert_eq!(decode(&slices), before);
}

#[test]
fn a_flush_from_before_a_truncation_is_reported_in_its_own_generation() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.append(1, b"old");
    }
    let before = rig.log().publish();
    rig.truncate_from(3);
    rig.append(2, b"new");
    let after = rig.log().publish();
    assert_eq!(rig.flush(before), Some((0, LogIndex(5))), "index 3 of generation 0 is another");
    assert_eq!(rig.flush(after), Some((1, LogIndex(3))));
}

#[test]
fn the_same_entry_appended_again_is_durable_by_its_own_flush_only() {
    let mut rig = Rig::new();
    rig.append(1, b"a");
    let first = rig.log().publish();
    rig.truncate_from(1);
    rig.append(1, b"a");
    let second = rig.log().publish();
    let report = rig.flush(first).expect("a batch ends there");
    assert_eq!(report, (0, LogIndex(1)));
    assert_eq!(ids(&rig.crash()), [(1, 1)], "here it is the first copy that survived");
    assert!(second > first);
}

#[test]
fn more_batches_than_are_remembered_are_reported_late_and_never_early() {
    let mut rig = Rig::new();
    let mut targets = Vec::new();
    for _ in 0..3000 {
        rig.append(1, b"");
        let target = rig.log().publish();
        targets.push((target, rig.log().last().index));
    }
    let mut reported = LogIndex(0);
    for (target, last) in targets {
        if let Some((0, index)) = rig.flush(target) {
            assert!(index <= last, "{index} reported, flushed up to {last}");
            assert!(index > reported);
            reported = index;
        }
    }
    assert_eq!(reported, LogIndex(3000), "in the end nothing is missing");
}

#[test]
fn the_log_goes_on_in_the_next_segment_and_is_read_across_it() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.roll(1);
    }
    let entries = rig.entries();
    assert!(entries.len() > 150);
    assert_eq!(rig.crash().entries(), entries);
}

#[test]
fn a_batch_larger_than_what_is_left_is_split_at_the_segments_end() {
    let mut rig = Rig::new();
    rig.prepare();
    for _ in 0..100 {
        rig.append(1, &[3; 1000]);
    }
    let target = rig.log().publish();
    assert_eq!(target.to_word() >> 32, 2);
    assert_eq!(rig.flush(target), Some((0, LogIndex(100))));
    assert_eq!(rig.entries().len(), 100);
    assert_eq!(rig.crash().entries().len(), 100);
}

#[test]
fn room_is_never_promised_in_vain() {
    for payload in [0, 1, 500, 5000, 16 << 10] {
        for steps in [0, 6, 100] {
            let mut rig = Rig::new();
            for _ in 0..steps {
                rig.opened.preparer.step().expect("a good disk");
            }
            rig.append(1, b"something to truncate");
            let room = rig.log().room();
            rig.truncate_from(1);
            let record = record_bytes(payload, false);
            for index in 1..=(room / record) as u64 {
                rig.log().append(&header(1, LogIndex(index)), &vec![0; payload]);
            }
            rig.log().publish();
        }
    }
}

#[test]
fn without_a_segment_to_go_on_in_there_is_no_room_and_then_an_append_is_a_bug() {
    let mut rig = Rig::new();
    let record = record_bytes(1000, false);
    while rig.log().room() >= record {
        let index = rig.log().last().index.next();
        rig.log().append(&header(1, index), &[0; 1000]);
    }
    assert!(rig.log().wants_preparing());
    let refused = catch_unwind(AssertUnwindSafe(|| {
        let index = rig.log().last().index.next();
        rig.log().append(&header(1, index), &[0; 1000]);
    }));
    assert!(refused.is_err());
}

#[test]
fn entries_in_segments_that_are_not_mapped_are_read_from_their_files() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.roll(1);
    }
    rig.prepare();
    let first = rig.log().slices(LogIndex(0), usize::MAX);
    assert!(matches!(first, Fetch::Cold), "{first:?}");
    let last = rig.log().last().index;
    assert!(matches!(rig.log().slices(last.prev(), usize::MAX), Fetch::Hot(..)));
    let entries = rig.entries();
    assert_eq!(entries.len() as u64, last.0);
    for (at, (id, payload)) in entries.iter().enumerate() {
        assert_eq!((id.index.0, payload.len()), (at as u64 + 1, 1000));
    }
}

#[test]
fn what_is_not_flushed_yet_is_not_read_from_its_file() {
    let mut rig = Rig::new();
    rig.prepare();
    while rig.log().room() > 20_000 {
        let index = rig.log().last().index.next();
        rig.log().append(&header(1, index), &[3; 1000]);
        rig.log().publish();
    }
    rig.prepare();
    let entries = rig.entries();
    assert!(entries.len() > 120, "{} entries in three segments", entries.len());
    assert_eq!(entries.len() as u64, rig.log().last().index.0);
    rig.commit();
    rig.prepare();
    assert_eq!(rig.entries(), entries);
}

#[test]
fn a_log_that_was_opened_again_is_read_from_its_files() {
    let mut rig = Rig::new();
    rig.append(1, b"one");
    rig.commit();
    let mut rig = rig.restart();
    assert!(matches!(rig.log().slices(LogIndex(0), usize::MAX), Fetch::Cold));
    rig.append(1, b"two");
    rig.log().publish();
    assert_eq!(hot(rig.log().slices(LogIndex(1), usize::MAX)), [2]);
    assert_eq!(ids(&rig), [(1, 1), (1, 2)]);
}

#[test]
fn a_rotten_record_is_an_error_that_says_where_and_is_never_handed_out() {
    // known bug 17: a failed read is an error, not an empty answer.
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.roll(1);
    }
    rig.prepare();
    let offset = 30_000;
    rig.disk.rot(&segment(1), |bytes| bytes[offset] ^= 1);
    let reader = rig.log().reader();
    let mut prev = LogIndex(0);
    let error = loop {
        match reader.read(prev, LogIndex(50), 1) {
            Ok((_, last)) if last > prev => prev = last,
            Ok(_) => panic!("all of it was handed out"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
    assert_eq!(error.path, segment(1));
    assert_eq!(error.index, Some(prev.next()));
    let found = error.offset.expect("an offset") as usize;
    assert!(found < offset && offset < found + 1100, "{found} for {offset}");
}

#[test]
fn term_and_vote_are_there_after_a_crash() {
    // known bug 30: a term forgotten.
    let mut rig = Rig::new();
    let state = HardState { term: Term(4), voted_for: Some(NodeId(2)) };
    let flusher = rig.opened.flusher.as_mut().expect("a log on disk");
    flusher.store_hard_state(state).expect("stored");
    assert_eq!(rig.crash().opened.recovered.hard_state, state);
}

#[test]
fn an_entrys_term_is_never_forgotten_even_if_the_term_itself_was_not_stored() {
    let mut rig = Rig::new();
    let state = HardState { term: Term(4), voted_for: Some(NodeId(2)) };
    rig.opened.flusher.as_mut().expect("a log on disk").store_hard_state(state).expect("stored");
    rig.append(6, b"");
    rig.commit();
    let found = rig.crash().opened.recovered.hard_state;
    assert_eq!(found, HardState { term: Term(6), voted_for: None });
}

#[test]
fn a_failed_flush_poisons_for_good() {
    // known bug 9: the flush after a failed one says that all is well.
    for operation in [Operation::Write, Operation::Sync] {
        let mut rig = Rig::new();
        rig.append(1, b"one");
        rig.commit();
        rig.append(1, b"two");
        let target = rig.log().publish();
        disk_is_gone(&rig, operation);
        let error = rig.try_flush(target).expect_err("the disk failed");
        assert!(matches!(error.kind, StorageErrorKind::Io { .. }), "{error}");
        let before = rig.disk.operations();
        for _ in 0..3 {
            let error = rig.try_flush(target).expect_err("poisoned");
            assert!(matches!(error.kind, StorageErrorKind::Poisoned), "{error}");
            let flusher = rig.opened.flusher.as_mut().expect("a log on disk");
            let error = flusher.store_hard_state(HardState::default()).expect_err("poisoned");
            assert!(matches!(error.kind, StorageErrorKind::Poisoned), "{error}");
        }
        assert_eq!(rig.disk.operations(), before, "the disk was not touched again");
        assert_eq!(rig.entries().len(), 2, "reading goes on");
    }
}

#[test]
fn a_failed_vote_poisons_the_log_as_well() {
    let mut rig = Rig::new();
    disk_is_gone(&rig, Operation::Sync);
    let flusher = rig.opened.flusher.as_mut().expect("a log on disk");
    let state = HardState { term: Term(1), voted_for: None };
    flusher.store_hard_state(state).expect_err("the disk failed");
    rig.append(1, b"");
    let target = rig.log().publish();
    let error = rig.try_flush(target).expect_err("poisoned");
    assert!(matches!(error.kind, StorageErrorKind::Poisoned), "{error}");
}

#[test]
fn a_full_disk_is_an_error_when_a_segment_is_prepared_and_the_log_goes_on_once_there_is_space() {
    // known bug 35: a store to a mapping of a full disk is a SIGBUS.
    let mut rig = Rig::new();
    rig.disk.fail(Fault {
        operation: Some(Operation::Allocate),
        after: 0,
        error: FaultError::NoSpace,
        lasting: true,
    });
    for _ in 0..2 {
        let error = rig.opened.preparer.step().expect_err("a full disk");
        let StorageErrorKind::Io { error, .. } = &error.kind else { panic!("{error}") };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
    rig.append(1, b"what fits into the segment at hand");
    rig.commit();
    rig.disk.clear_faults();
    rig.roll(1);
    let entries = rig.entries();
    assert_eq!(rig.crash().entries(), entries);
}

#[test]
fn a_preparer_that_failed_for_good_says_so_and_the_log_keeps_what_it_has() {
    let mut rig = Rig::new();
    disk_is_gone(&rig, Operation::SyncDir);
    let error = loop {
        match rig.opened.preparer.step() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind, StorageErrorKind::Io { .. }), "{error}");
    let error = rig.opened.preparer.step().expect_err("poisoned");
    assert!(matches!(error.kind, StorageErrorKind::Poisoned), "{error}");
    rig.append(1, b"");
    assert_eq!(rig.commit(), Some((0, LogIndex(1))));
}

#[test]
fn an_idle_log_is_covered_once() {
    let mut rig = Rig::new();
    assert!(!rig.cover(), "nothing to cover");
    rig.append(1, b"one");
    assert!(rig.log().cover().is_none(), "the batch is open");
    let target = rig.log().publish();
    assert!(rig.log().cover().is_none(), "not flushed yet");
    rig.flush(target);
    assert!(rig.cover());
    assert!(!rig.cover(), "a mark says so");
    rig.append(1, b"two");
    rig.commit();
    assert!(rig.cover());
}

#[test]
fn the_last_flush_of_a_segment_can_be_covered_however_full_that_is() {
    for last in (0..500).step_by(8) {
        let mut rig = Rig::new();
        // No other segment is ready.
        while rig.log_ref().room() > 1100 {
            rig.append(1, &[1; 1000]);
        }
        while rig.log_ref().room() >= record_bytes(last, false) {
            rig.append(1, &vec![1; last]);
            rig.commit();
        }
        rig.commit();
        assert!(rig.cover(), "entries of {last} bytes at the end");
        let entries = rig.entries();
        assert_eq!(rig.restart().entries(), entries);
    }
}

#[test]
fn a_half_made_segment_that_could_not_be_deleted_is_not_in_the_way_of_the_next_one() {
    let mut rig = Rig::new();
    for operation in [Operation::Allocate, Operation::Remove] {
        let error = FaultError::NoSpace;
        rig.disk.fail(Fault { operation: Some(operation), after: 0, error, lasting: false });
    }
    rig.opened.preparer.step().expect_err("a full disk");
    rig.disk.clear_faults();
    rig.prepare();
    rig.roll(1);
}

#[test]
fn released_segments_go_after_a_mark_that_says_so_is_durable() {
    let mut rig = Rig::new();
    for _ in 0..6 {
        rig.roll(1);
    }
    rig.prepare();
    let last = rig.log().last().index;
    let entries = rig.entries();
    rig.log().release(last);
    let base = rig.log().base();
    assert!(base.index > LogIndex(200) && base.index < last, "{base}");
    assert_eq!(rig.log().first(), base.index.next());
    rig.prepare();
    let segments = |rig: &Rig| rig.files().len();
    assert_eq!(segments(&rig), 9, "seven in use, two ready: no mark says so yet");
    assert!(rig.cover(), "there is something to say");
    rig.prepare();
    assert_eq!(segments(&rig), 5, "one in use, two ready, two to be used again");

    let error = rig.log().reader().read(LogIndex(0), last, 1).expect_err("released");
    assert!(matches!(error.kind, StorageErrorKind::Released), "{error}");
    assert_eq!(rig.entries(), entries[base.index.0 as usize..]);
    let rig = rig.crash();
    assert_eq!(rig.opened.recovered.base, base);
    assert_eq!(rig.entries(), entries[base.index.0 as usize..]);
}

#[test]
fn nothing_is_released_that_is_asked_for_later() {
    // known bug 34: whole segments go, and nothing else is written for it.
    let mut rig = Rig::new();
    rig.roll(1);
    let first_of_second = rig.log().last().index;
    rig.roll(1);
    let last_of_first = first_of_second.prev();
    rig.log().release(last_of_first.prev());
    assert_eq!(rig.log().base(), EntryId::ZERO);
    rig.log().release(last_of_first);
    assert_eq!(rig.log().first(), first_of_second);
    assert_eq!(rig.entries()[0].0.index, first_of_second);
}

#[test]
fn a_segment_is_used_again_with_its_mapping_and_without_new_space() {
    let mut rig = Rig::new();
    rig.prepare();
    for round in 0..20 {
        if round == 4 {
            rig.disk.fail(Fault {
                operation: Some(Operation::Allocate),
                after: 0,
                error: FaultError::NoSpace,
                lasting: true,
            });
        }
        rig.roll(1);
        let last = rig.log().last().index;
        rig.log().release(last.prev());
        rig.append(1, b"a batch that says so");
        rig.commit();
        rig.prepare();
    }
    assert!(rig.files().len() <= 5, "{:?}", rig.files());
    rig.disk.clear_faults();
    let (base, entries) = (rig.log().base(), rig.entries());
    assert!(base.index > LogIndex(1000));
    let rig = rig.crash();
    assert_eq!((rig.opened.recovered.base, rig.entries()), (base, entries));
}

#[test]
fn a_segment_that_somebody_holds_is_neither_deleted_nor_used_again() {
    let mut rig = Rig::new();
    rig.append(1, b"held");
    rig.log().publish();
    let Fetch::Hot(held, _) = rig.log().slices(LogIndex(0), usize::MAX) else {
        panic!("not mapped")
    };
    let before = decode(&held);
    for _ in 0..6 {
        rig.roll(1);
        let last = rig.log().last().index;
        rig.log().release(last.prev());
        rig.append(1, b"a batch that says so");
        rig.commit();
        rig.prepare();
        assert_eq!(decode(&held), before);
        assert!(rig.disk.live_bytes(&segment(1)).is_some(), "{:?}", rig.files());
    }
    drop(held);
    for _ in 0..3 {
        rig.roll(1);
        rig.prepare();
    }
    assert!(rig.disk.live_bytes(&segment(1)).is_none(), "{:?}", rig.files());
}

#[test]
fn a_truncation_into_an_earlier_segment_lets_both_be_released_later() {
    let mut rig = Rig::new();
    rig.roll(1);
    let last = rig.log().last().index;
    rig.truncate_from(last.0 - 10);
    for _ in 0..20 {
        rig.append(2, b"new");
    }
    rig.commit();
    let entries = rig.entries();
    rig.log().release(LogIndex(last.0 - 12));
    assert_eq!(rig.log().base(), EntryId::ZERO, "the first segment holds one that is needed");
    rig.log().release(LogIndex(last.0 - 11));
    assert_eq!(rig.log().base(), EntryId::new(Term(1), LogIndex(last.0 - 11)));
    rig.cover();
    rig.prepare();
    let wanted = &entries[last.0 as usize - 11..];
    assert_eq!(rig.entries(), wanted);
    let rig = rig.crash();
    assert_eq!(rig.entries(), wanted);
    assert_eq!(rig.opened.recovered.base.index.0, last.0 - 11);
}

#[test]
fn memory_outlives_its_log() {
    let memory = Memory::default();
    let open = || wal::open_in_memory(&memory, NodeId(1), &members(), &options());
    let mut opened = open().expect("memory");
    assert!(opened.flusher.is_none());
    let error = open().expect_err("in use");
    assert!(matches!(error.kind, StorageErrorKind::InUse), "{error}");
    let log = &mut opened.log;
    for index in 1..=300 {
        while log.room() < record_bytes(1000, false) {
            opened.preparer.step().expect("memory");
        }
        log.append(&header(1 + index / 100, LogIndex(index)), &[index as u8; 1000]);
        let position = log.publish();
        assert_eq!(log.persisted(position), Some((0, LogIndex(index))));
    }
    log.truncate_from(LogIndex(290), 1);
    log.append(&header(9, LogIndex(290)), b"new");
    log.publish();
    log.append(&header(9, LogIndex(291)), b"never published");
    let entries = read_all_up_to(log, 290);
    let state = HardState { term: Term(9), voted_for: Some(NodeId(1)) };
    memory.store_hard_state(state);
    let sender = opened.recovered.sender;
    drop(opened);

    let mut opened = open().expect("memory");
    assert_eq!(opened.recovered.hard_state, state);
    assert_eq!(opened.recovered.sender.incarnation, sender.incarnation);
    assert_eq!(opened.recovered.sender.boot.0, 2);
    assert_eq!(opened.recovered.entries.last, LogIndex(290));
    assert_eq!(read_all(&opened.log), entries);
    assert_eq!(hot(opened.log.slices(LogIndex(285), usize::MAX)), [286, 287, 288, 289, 290]);
    opened.log.release(LogIndex(200));
    assert!(opened.log.base().index > LogIndex(60));
    let base = opened.log.base();
    while opened.preparer.step().expect("memory") {}
    drop(opened);
    let opened = open().expect("memory");
    assert_eq!(opened.recovered.base, base);
    assert_eq!(read_all(&opened.log), entries[base.index.0 as usize..]);
}

fn read_all_up_to(log: &oarlock::wal::Log, last: u64) -> Vec<(EntryId, Vec<u8>)> {
    let (slices, _): (Slices, _) =
        log.reader().read(LogIndex(0), LogIndex(last), usize::MAX).expect("memory");
    decode(&slices)
}

#[test]
fn memory_of_another_node_or_with_other_members_is_refused() {
    let memory = Memory::default();
    drop(wal::open_in_memory(&memory, NodeId(1), &members(), &options()).expect("memory"));
    let error = wal::open_in_memory(&memory, NodeId(2), &members(), &options()).expect_err("other");
    assert!(matches!(error.kind, StorageErrorKind::AnotherNode { .. }), "{error}");
    let others = oarlock::Membership::default();
    let error = wal::open_in_memory(&memory, NodeId(1), &others, &options()).expect_err("other");
    assert!(matches!(error.kind, StorageErrorKind::OtherMembers { .. }), "{error}");
}

#[test]
fn a_log_on_a_real_disk_is_mapped_rolled_recycled_and_found_again() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let open = || try_open(Arc::new(Disk), temp.path());
    let mut opened = open().expect("a good directory");
    let mut flusher = opened.flusher.take().expect("a log on disk");
    let error = open().expect_err("in use");
    assert!(matches!(error.kind, StorageErrorKind::InUse), "{error}");
    for index in 1..=1000 {
        let log = &mut opened.log;
        while log.room() < record_bytes(2000, false) {
            opened.preparer.step().expect("a good disk");
        }
        log.append(&header(1, LogIndex(index)), &[index as u8; 2000]);
        if index % 50 == 0 {
            let target = log.publish();
            assert_eq!(
                log.persisted(flusher.flush(target).expect("a good disk")),
                Some((0, LogIndex(index)))
            );
            log.release(LogIndex(index.saturating_sub(200)));
            while opened.preparer.step().expect("a good disk") {}
        }
    }
    let base = opened.log.base();
    assert!(base.index >= LogIndex(700), "{base}");
    let target = opened.log.cover().expect("something to cover");
    flusher.flush(target).expect("a good disk");
    let entries = read_all(&opened.log);
    drop((opened, flusher));

    let opened = open().expect("a good directory");
    assert_eq!(opened.recovered.base, base);
    assert_eq!(read_all(&opened.log), entries);
    assert_eq!(entries.last().expect("some").1, vec![232; 2000]);
    let files = Disk.list(&temp.path().join("log")).expect("listed");
    assert!(files.len() < 20, "{files:?}");
}

#[test]
fn a_directory_stays_locked_until_the_last_part_of_the_log_is_gone() {
    let disk = Arc::new(SimDisk::new(1));
    let open = || try_open(Arc::clone(&disk) as Arc<dyn Storage>, Path::new(wal_rig::DIR));
    let in_use = || {
        let error = open().expect_err("in use");
        assert!(matches!(error.kind, StorageErrorKind::InUse), "{error}");
    };
    let opened = open().expect("a good directory");
    let reader = opened.log.reader();
    let (log, flusher, preparer) = (opened.log, opened.flusher, opened.preparer);
    in_use();
    drop(log);
    in_use();
    drop(flusher);
    in_use();
    drop(preparer);
    drop(open().expect("free: a reader changes nothing"));
    drop(reader);
}

#[test]
fn a_segment_that_was_never_flushed_is_not_let_go_of() {
    let mut rig = Rig::new();
    rig.append(1, b"kept");
    rig.commit();
    // Two rolls' worth of entries wait for the flusher, and are superseded meanwhile.
    let started = rig.log().publish().to_word() >> 32;
    let mut position = rig.log().publish();
    while position.to_word() >> 32 < started + 2 {
        rig.append(1, &[0xAB; 1000]);
        position = rig.log().publish();
    }
    rig.truncate_from(2);
    rig.append(2, b"instead");
    let target = rig.log().publish();
    rig.log().release(LogIndex(1));
    rig.flush(target);
    let rig = rig.restart();
    assert_eq!(rig.log_ref().last(), EntryId::new(Term(2), LogIndex(2)));
}

#[test]
fn a_recovered_term_is_on_the_disk_before_it_is_acted_on() {
    let mut rig = Rig::new();
    rig.append(7, b"an entry whose term was not stored");
    rig.commit();
    let rig = rig.restart();
    assert_eq!(rig.opened.recovered.hard_state.term, Term(7));
    let vote = rig.disk.durable_bytes(&Path::new(wal_rig::DIR).join("vote")).expect("a vote file");
    for slot in [0, 4096] {
        assert_eq!(vote[slot + 32..slot + 40], 7_u64.to_le_bytes());
    }
}
