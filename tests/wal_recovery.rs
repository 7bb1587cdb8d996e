//! Opening a log that was left behind: torn tails, damage, and what is made durable again.

mod wal_rig;

use std::path::Path;
use std::sync::Arc;

use oarlock::error::{StorageError, StorageErrorKind};
use oarlock::simulation::{Fault, FaultError, Operation, SimDisk};
use oarlock::storage::{OpenMode, Storage};
use oarlock::wal::{self, LogOptions};
use oarlock::{EntryId, HardState, LogIndex, NodeId, Term};
use wal_rig::{DIR, Rig, members, options, read_all, segment, try_open};

/// Where the first batch of a segment stands.
const FIRST: usize = 64;
const MARK: usize = 80;

type Damage = fn(&mut Vec<u8>);

fn open_error(disk: &Arc<SimDisk>) -> StorageError {
    match Rig::try_on(Arc::clone(disk)) {
        Ok(rig) => panic!("opened, with {} entries", rig.entries().len()),
        Err(error) => error,
    }
}

/// Asserts that the directory is refused as damaged, and that the log's files are left as they were.
fn damaged(disk: &Arc<SimDisk>) -> StorageError {
    let log = Path::new(DIR).join("log");
    let content = |disk: &SimDisk| -> Vec<_> {
        let names = disk.list(&log).expect("a directory");
        names.into_iter().map(|name| (disk.live_bytes(&log.join(&name)), name)).collect()
    };
    let before = content(disk);
    let error = open_error(disk);
    assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
    assert!(content(disk) == before, "files were changed");
    error
}

fn lasting(operation: Operation) -> Fault {
    Fault { operation: Some(operation), after: 0, error: FaultError::Io, lasting: true }
}

/// Five entries, each a batch of its own, and where their batches begin.
fn five(covered: bool) -> (Rig, Vec<usize>) {
    let mut rig = Rig::new();
    let mut starts = Vec::new();
    let mut at = FIRST;
    for index in 1..=5_u8 {
        starts.push(at);
        rig.append(1, &[index; 100]);
        at = (rig.log().publish().to_word() & 0xFFFF_FFFF) as usize;
        rig.commit();
    }
    starts.push(at);
    if covered {
        assert!(rig.cover());
    }
    (rig, starts)
}

#[test]
fn a_torn_tail_is_dropped_and_the_log_goes_on() {
    for cut in 1..300 {
        let mut rig = Rig::new();
        rig.append(1, b"kept");
        rig.commit();
        rig.append(1, &[1; 100]);
        let target = rig.log().publish();
        let end = (target.to_word() & 0xFFFF_FFFF) as usize;
        rig.flush(target);
        let disk = rig.kill();
        // The last bytes of the last batch never came to the disk, and nothing says that they did.
        if cut > end - (FIRST + MARK + 48) {
            break;
        }
        disk.rot(&segment(1), |bytes| bytes[end - cut..end].fill(0));
        let mut rig = Rig::on(disk);
        let kept = rig.entries().len();
        // Zeros that were zeros before are no loss.
        assert_eq!(kept, if cut <= 4 { 2 } else { 1 }, "{cut} bytes cut");
        rig.append(3, b"after");
        rig.commit();
        assert_eq!(rig.crash().entries().len(), kept + 1);
    }
}

#[test]
fn one_flipped_bit_below_a_durable_position_is_an_error_that_says_where() {
    let (rig, starts) = five(true);
    let disk = rig.kill();
    for at in (FIRST..starts[5]).step_by(7) {
        let disk = Arc::new((*disk).clone());
        disk.rot(&segment(1), |bytes| bytes[at] ^= 0x10);
        let error = damaged(&disk);
        assert_eq!(error.path, segment(1));
        let batch = starts.iter().rposition(|&start| start <= at).expect("one of them");
        let offset = error.offset.expect("an offset") as usize;
        assert!(starts[batch] <= offset && offset <= at, "{offset} for {at}");
        let mark_itself = at < starts[batch] + MARK && offset == starts[batch];
        let index = LogIndex(batch as u64 + 1);
        assert!(error.index == Some(index) || mark_itself, "{error:?} for entry {index}");
    }
}

#[test]
fn the_last_flush_is_told_from_a_torn_tail_only_once_it_is_covered() {
    let (rig, starts) = five(false);
    let disk = rig.kill();
    disk.rot(&segment(1), |bytes| bytes[starts[4] + MARK + 50] ^= 1);
    assert_eq!(Rig::on(disk).entries().len(), 4, "nothing says that the fifth was durable");

    let (rig, starts) = five(true);
    let disk = rig.kill();
    disk.rot(&segment(1), |bytes| bytes[starts[4] + MARK + 50] ^= 1);
    damaged(&disk);
}

#[test]
fn opening_covers_what_it_found() {
    let (rig, starts) = five(false);
    let disk = rig.restart().kill();
    disk.rot(&segment(1), |bytes| bytes[starts[4] + MARK + 50] ^= 1);
    damaged(&disk);
}

#[test]
fn a_gap_in_the_middle_of_unflushed_batches_ends_the_log_there() {
    // A later page can reach the disk before an earlier one.
    let mut rig = Rig::new();
    rig.append(1, b"durable");
    rig.commit();
    let mut starts = Vec::new();
    let mut target = rig.log().publish();
    for _ in 0..3 {
        starts.push((target.to_word() & 0xFFFF_FFFF) as usize);
        rig.append(1, &[9; 600]);
        target = rig.log().publish();
    }
    rig.flush(target);
    let disk = rig.kill();
    disk.rot(&segment(1), |bytes| bytes[starts[1]..starts[2]].fill(0));
    let rig = Rig::on(disk);
    assert_eq!(rig.entries().len(), 2, "the third batch is whole, and follows nothing");
}

#[test]
fn a_segment_that_is_missing_empty_short_or_zeroed_is_an_error() {
    let build = || {
        let mut rig = Rig::new();
        for _ in 0..3 {
            rig.roll(1);
        }
        rig.kill()
    };
    for sequence in 1..=4 {
        let disk = build();
        disk.remove(&segment(sequence)).expect("removed");
        let error = damaged(&disk);
        assert_eq!(error.path, segment(sequence));
    }
    let damages: [Damage; 4] = [
        Vec::clear,
        |bytes| bytes.truncate(32 << 10),
        |bytes| bytes.fill(0),
        |bytes| bytes.extend_from_slice(&[0; 4096]),
    ];
    for damage in damages {
        for sequence in 1..=4 {
            let disk = build();
            disk.rot(&segment(sequence), damage);
            assert_eq!(damaged(&disk).path, segment(sequence));
        }
    }
}

#[test]
fn a_log_whose_directory_was_emptied_is_an_error() {
    let (rig, _) = five(true);
    let disk = rig.kill();
    for name in disk.list(&Path::new(DIR).join("log")).expect("a directory") {
        disk.remove(&Path::new(DIR).join("log").join(name)).expect("removed");
    }
    damaged(&disk);
}

#[test]
fn content_that_was_zeroed_behind_a_good_header_is_an_error() {
    let mut rig = Rig::new();
    for _ in 0..2 {
        rig.roll(1);
    }
    rig.append(1, b"in the third");
    rig.commit();
    rig.cover();
    let disk = rig.kill();
    for sequence in 1..=3 {
        let disk = Arc::new((*disk).clone());
        // A cover is left in the third: without one, its only flush is not known to be durable.
        let end = if sequence == 3 { FIRST + MARK + 56 } else { 1 << 16 };
        disk.rot(&segment(sequence), |bytes| bytes[FIRST..end].fill(0));
        assert_eq!(damaged(&disk).path, segment(sequence));
    }
}

#[test]
fn a_segment_of_another_directory_is_an_error() {
    let (rig, _) = five(true);
    let disk = rig.kill();
    let other = Arc::new(SimDisk::new(2));
    let mut foreign = Rig::on(Arc::clone(&other));
    foreign.append(1, b"foreign");
    foreign.commit();
    let bytes = foreign.disk.live_bytes(&segment(1)).expect("a segment");
    disk.rot(&segment(1), |own| own.clone_from(&bytes));
    assert_eq!(damaged(&disk).path, segment(1));
}

#[test]
fn a_segment_in_anothers_place_is_an_error() {
    let mut rig = Rig::new();
    rig.roll(1);
    let disk = rig.kill();
    let second = disk.live_bytes(&segment(2)).expect("a segment");
    disk.rot(&segment(1), |own| own.clone_from(&second));
    assert_eq!(damaged(&disk).path, segment(1));
}

#[test]
fn a_segment_of_a_version_to_come_is_refused_by_name() {
    let (rig, _) = five(true);
    let disk = rig.kill();
    disk.rot(&segment(1), |bytes| {
        bytes[8] = 1;
        let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
        bytes[60..64].copy_from_slice(&crc);
    });
    let error = open_error(&disk);
    assert!(
        matches!(error.kind, StorageErrorKind::UnknownVersion { supported: 0, found: 1 }),
        "{error}"
    );
}

#[test]
fn a_misdirected_block_is_noticed() {
    // One batch of the segment written over another one: good bytes in the wrong place.
    let (rig, starts) = five(true);
    let disk = rig.kill();
    let length = starts[1] - starts[0];
    disk.rot(&segment(1), |bytes| {
        bytes.copy_within(starts[1]..starts[1] + length, starts[3]);
    });
    let error = damaged(&disk);
    assert_eq!(error.offset, Some(starts[3] as u64));
}

/// What the checksums of the directory's marks begin with.
fn secret(disk: &SimDisk) -> [u8; 8] {
    let identity = disk.live_bytes(&Path::new(DIR).join("identity")).expect("an identity");
    *identity[88..].first_chunk().expect("eight bytes")
}

/// Gives the batch at `at` good checksums again.
fn mend(bytes: &mut [u8], at: usize, secret: [u8; 8]) {
    let u32_at = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    let end = at + u32_at(bytes, at + 12) as usize;
    let (mut offset, mut digest) = (at + MARK, 0_u32);
    while offset < end {
        let length = (u32_at(bytes, offset + 4) & !(1 << 31)) as usize;
        let whole = length.next_multiple_of(8);
        let crc = crc32c::crc32c(&bytes[offset + 4..offset + whole]);
        bytes[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
        digest = (digest.rotate_left(7) ^ crc).wrapping_mul(0x9E37_79B1);
        offset += whole;
    }
    bytes[at + 52..at + 56].copy_from_slice(&digest.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&secret), &bytes[at + 4..at + MARK]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_lower_index_without_a_truncation_is_damage_wherever_it_stands() {
    let (rig, starts) = five(false);
    let disk = rig.kill();
    let secret = secret(&disk);
    let untouched = Arc::new((*disk).clone());
    untouched.rot(&segment(1), |bytes| mend(bytes, starts[4], secret));
    assert_eq!(Rig::on(untouched).entries().len(), 5, "mending changes nothing that is good");
    for index in [1_u64, 4, 6] {
        let disk = Arc::new((*disk).clone());
        disk.rot(&segment(1), |bytes| {
            let record = starts[4] + MARK;
            bytes[record + 8..record + 16].copy_from_slice(&index.to_le_bytes());
            mend(bytes, starts[4], secret);
        });
        let error = damaged(&disk);
        assert_eq!(error.offset, Some((starts[4] + MARK) as u64), "index {index}");
    }
}

#[test]
fn a_lower_term_and_a_batch_that_follows_another_entry_or_mark_are_damage() {
    let (rig, starts) = five(false);
    let disk = rig.kill();
    let secret = secret(&disk);
    let other_mark = 1 << 32 | starts[2] as u64;
    let changes: [(usize, u64); 4] = [(MARK + 16, 0), (64, 3), (56, 2), (24, other_mark)];
    for (offset, value) in changes {
        let disk = Arc::new((*disk).clone());
        disk.rot(&segment(1), |bytes| {
            let at = starts[4] + offset;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            mend(bytes, starts[4], secret);
        });
        damaged(&disk);
    }
}

#[test]
fn what_an_earlier_use_of_the_file_left_behind_counts_for_nothing() {
    let mut rig = Rig::new();
    // The first segments are used up and used again.
    for _ in 0..6 {
        rig.roll(1);
        let last = rig.log().last().index;
        rig.log().release(last.prev());
        rig.append(1, b"a batch that says so");
        rig.commit();
        rig.prepare();
    }
    let entries = rig.entries();
    let active =
        *rig.log().publish().to_word().to_be_bytes()[..4].first_chunk::<4>().expect("four bytes");
    let bytes = rig.disk.live_bytes(&segment(u32::from_be_bytes(active))).expect("a segment");
    let old: Vec<_> = bytes.windows(1000).filter(|bytes| *bytes == [0xAB; 1000]).collect();
    assert!(old.len() > 40, "{} old records behind the end", old.len());
    assert_eq!(rig.restart().entries(), entries);
}

#[test]
fn an_old_record_in_the_place_of_a_lost_one_does_not_complete_a_batch() {
    // The mark is there and a page of its batch is not, and what the file held before has a good
    // checksum, the right index and a term that would do: the digest tells.
    let mut rig = Rig::new();
    rig.append(1, b"durable");
    rig.commit();
    let start = (rig.log().publish().to_word() & 0xFFFF_FFFF) as usize;
    rig.append(3, &[1; 200]);
    rig.append(3, &[2; 200]);
    rig.commit();
    let disk = rig.kill();
    disk.rot(&segment(1), |bytes| {
        let record = start + MARK + 240;
        bytes[record + 40..record + 240].fill(7);
        let crc = crc32c::crc32c(&bytes[record + 4..record + 240]).to_le_bytes();
        bytes[record..record + 4].copy_from_slice(&crc);
    });
    assert_eq!(Rig::on(disk).entries().len(), 1);
}

#[test]
fn what_is_readable_and_not_durable_is_made_durable_before_it_counts() {
    let mut rig = Rig::new();
    rig.append(1, b"durable");
    rig.commit();
    rig.append(2, b"readable");
    let target = rig.log().publish();
    rig.disk.fail(lasting(Operation::Sync));
    rig.try_flush(target).expect_err("the disk failed");
    rig.disk.clear_faults();
    // After the failed flush the page is clean, and no later flush writes it.
    let lost = Rig::on(Arc::new(rig.disk.durable_copy()));
    assert_eq!(lost.entries().len(), 1);
    let rig = rig.restart();
    let entries = rig.entries();
    assert_eq!(entries.len(), 2);
    assert_eq!(rig.crash().entries(), entries);
}

/// Where the batches of a segment begin, and where the last one ends.
fn batches(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![FIRST];
    loop {
        let at = starts[starts.len() - 1];
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes"));
        if length != MARK as u32 | 1 << 31 {
            return starts;
        }
        let batch = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("four bytes"));
        starts.push(at + batch as usize);
    }
}

#[test]
fn every_segment_with_bytes_behind_the_last_durable_position_is_made_durable() {
    // The flusher has a sealed segment on the disk before it writes to the next one, so this takes some
    // forgery: marks that claim less, and the end of the first segment written and not flushed.
    let mut rig = Rig::new();
    rig.roll(1);
    let entries = rig.entries();
    let disk = rig.kill();
    let secret = secret(&disk);
    let first = disk.live_bytes(&segment(1)).expect("a segment");
    let starts = batches(&first);
    let cut = starts[starts.len() - 4];
    let claim_less = |bytes: &mut Vec<u8>, from: usize| {
        let starts = batches(bytes);
        for &at in starts[..starts.len() - 1].iter().filter(|&&at| at >= from) {
            bytes[at + 32..at + 40].copy_from_slice(&(1 << 32 | cut as u64).to_le_bytes());
            mend(bytes, at, secret);
        }
    };
    disk.rot(&segment(1), |bytes| claim_less(bytes, cut));
    disk.rot(&segment(2), |bytes| claim_less(bytes, FIRST));
    let end = disk.live_bytes(&segment(1)).expect("a segment")[cut..].to_vec();
    disk.rot(&segment(1), |bytes| bytes[cut..].fill(0));
    let file = disk.open(&segment(1), OpenMode::Write).expect("a segment");
    file.write_at(&end, cut as u64).expect("written");

    let rig = Rig::on(disk);
    assert_eq!(rig.entries(), entries);
    assert_eq!(rig.crash().entries(), entries);
}

#[test]
fn a_crash_at_any_operation_of_opening_is_harmless() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.roll(1);
    }
    let last = rig.log().last().index;
    rig.log().release(LogIndex(100));
    rig.truncate_from(last.0 - 2);
    rig.append(4, b"new");
    rig.append(4, b"newer");
    let target = rig.log().publish();
    rig.flush(target);
    let (base, entries) = (rig.log().base(), rig.entries());
    let disk = rig.kill();
    for after in 0.. {
        let disk = Arc::new((*disk).clone());
        disk.fail(Fault { operation: None, after, error: FaultError::Io, lasting: true });
        if Rig::try_on(Arc::clone(&disk)).is_ok() {
            assert!(after > 30, "{after} operations");
            break;
        }
        disk.clear_faults();
        for power in [false, true] {
            let disk = Arc::new((*disk).clone());
            if power {
                disk.crash();
            } else {
                disk.kill();
            }
            let mut rig = Rig::on(disk);
            assert_eq!(rig.log_ref().base(), base, "after {after} operations");
            assert_eq!(rig.entries(), entries, "after {after} operations");
            rig.append(9, b"acknowledged");
            rig.commit();
            let rig = rig.crash();
            assert_eq!(rig.entries()[..entries.len()], entries, "after {after} operations");
            assert_eq!(rig.entries().len(), entries.len() + 1, "after {after} operations");
        }
    }
}

#[test]
fn names_that_a_failed_start_could_not_flush_are_not_relied_upon() {
    let mut rig = Rig::new();
    rig.roll(1);
    rig.append(2, b"readable");
    rig.commit();
    let entries = rig.entries();
    let disk = rig.kill();
    for after in 0.. {
        let mut opened = false;
        for variation in 0..8 {
            let disk = Arc::new((*disk).clone());
            for _ in 0..variation {
                disk.random().expect("a number");
            }
            let operation = Some(Operation::SyncDir);
            disk.fail(Fault { operation, after, error: FaultError::Io, lasting: false });
            opened = Rig::try_on(Arc::clone(&disk)).is_ok();
            disk.clear_faults();
            disk.kill();
            let mut rig = Rig::on(disk);
            rig.append(9, b"acknowledged");
            rig.commit();
            let rig = rig.crash();
            assert_eq!(rig.entries()[..entries.len()], entries, "{after}, {variation}");
            assert_eq!(rig.entries().len(), entries.len() + 1, "{after}, {variation}");
        }
        if opened {
            assert!(after > 2, "{after} directory flushes");
            return;
        }
    }
}

#[test]
fn nothing_is_deleted_before_the_mark_that_says_so_is_durable() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.roll(1);
    }
    let last = rig.log().last().index;
    rig.log().release(last.prev());
    rig.append(1, b"");
    let target = rig.log().publish();
    rig.prepare();
    let disk = Arc::new(rig.disk.durable_copy());
    let before = Rig::on(disk);
    assert_eq!(before.opened.recovered.base, EntryId::ZERO);
    assert_eq!(before.entries().len() as u64, last.0);
    rig.flush(target);
    rig.prepare();
    rig.roll(1);
    rig.prepare();
    let after = rig.crash();
    assert!(after.opened.recovered.base.index > LogIndex(100));
}

/// A log that has let go of segments and could not flush the mark that says so.
fn released_in_vain(seed: u64) -> (Arc<SimDisk>, LogIndex) {
    let mut rig = Rig::on(Arc::new(SimDisk::new(seed)));
    for _ in 0..5 {
        rig.roll(1);
    }
    let last = rig.log().last().index;
    rig.log().release(last.prev());
    rig.append(1, b"");
    let target = rig.log().publish();
    rig.disk.fail(lasting(Operation::Sync));
    rig.try_flush(target).expect_err("the disk failed");
    rig.disk.clear_faults();
    (rig.kill(), last)
}

#[test]
fn a_mark_that_is_readable_and_not_durable_deletes_nothing() {
    // The power is cut during recovery, and the mark is gone.
    let mut runs_without = 0;
    for seed in 0..6 {
        let (disk, last) = released_in_vain(seed);
        let base_after_crash = Rig::on(Arc::new(disk.durable_copy())).opened.recovered.base;
        runs_without += u64::from(base_after_crash == EntryId::ZERO);
        let copy = Arc::new((*disk).clone());
        assert!(Rig::on(copy).opened.recovered.base.index > LogIndex(100), "the mark is readable");
        for after in 0.. {
            let disk = Arc::new((*disk).clone());
            disk.fail(Fault { operation: None, after, error: FaultError::Io, lasting: true });
            let opened = Rig::try_on(Arc::clone(&disk)).is_ok();
            disk.clear_faults();
            disk.crash_losing_all();
            let found = Rig::on(disk).log_ref().last().index;
            assert!(found >= last, "{found} after {after} operations, {last} was durable");
            if opened {
                break;
            }
        }
    }
    assert!(runs_without > 0, "in no run was the mark lost");
}

#[test]
fn a_crash_at_any_operation_of_reusing_a_segment_is_harmless() {
    for after in 0.. {
        let mut rig = Rig::new();
        rig.roll(1);
        let last = rig.log().last().index;
        rig.log().release(last.prev());
        rig.cover();
        let (base, entries) = (rig.log().base(), rig.entries());
        let disk = Arc::clone(&rig.disk);
        disk.fail(Fault { operation: None, after, error: FaultError::Io, lasting: true });
        let mut reused = true;
        while rig.opened.preparer.step().unwrap_or_else(|_| {
            reused = false;
            false
        }) {}
        disk.clear_faults();
        for power in [SimDisk::kill, SimDisk::crash, SimDisk::crash_losing_all] {
            let disk = Arc::new((*disk).clone());
            power(&disk);
            let rig = Rig::on(disk);
            assert_eq!(rig.log_ref().base(), base, "after {after} operations");
            assert_eq!(rig.entries(), entries, "after {after} operations");
        }
        if reused {
            assert!(disk.live_bytes(&segment(1)).is_none(), "{:?}", rig.files());
            assert!(after > 4, "{after} operations");
            return;
        }
    }
}

#[test]
fn many_restarts_leave_few_files() {
    let mut rig = Rig::new();
    rig.append(1, b"one");
    rig.commit();
    for _ in 0..20 {
        rig = rig.restart();
        assert!(rig.files().len() <= 5, "{:?}", rig.files());
    }
    assert_eq!(rig.entries().len(), 1);
    let mut rig = Rig::new();
    for _ in 0..20 {
        rig = rig.restart();
        rig.prepare();
        assert!(rig.files().len() <= 5, "{:?}", rig.files());
    }
    rig.append(1, b"one");
    rig.commit();
    assert_eq!(rig.restart().entries().len(), 1);
}

#[test]
fn files_that_a_crash_left_half_made_are_cleared_away() {
    let mut rig = Rig::new();
    rig.append(1, b"one");
    rig.commit();
    rig.opened.preparer.step().expect("a good disk");
    rig.opened.preparer.step().expect("a good disk");
    let unfinished = "0000000002.seg.new".to_owned();
    assert!(rig.files().contains(&unfinished), "{:?}", rig.files());
    let rig = rig.restart();
    assert!(!rig.files().contains(&unfinished), "{:?}", rig.files());
    assert_eq!(rig.entries().len(), 1);
}

#[test]
fn what_a_node_voted_is_durable_again_before_it_can_act_on_it() {
    let mut rig = Rig::new();
    let state = HardState { term: Term(3), voted_for: Some(NodeId(2)) };
    rig.disk.fail(lasting(Operation::Sync));
    rig.opened.flusher.as_mut().expect("a log on disk").store_hard_state(state).expect_err("EIO");
    rig.disk.clear_faults();
    let rig = rig.restart();
    let found = rig.opened.recovered.hard_state;
    assert_eq!(rig.crash().opened.recovered.hard_state, found);
}

#[test]
fn a_read_only_disk_is_an_error_at_the_start() {
    let (rig, _) = five(true);
    let disk = rig.kill();
    disk.fail(lasting(Operation::Write));
    let error = open_error(&disk);
    assert!(matches!(error.kind, StorageErrorKind::Io { .. }), "{error}");
    disk.clear_faults();
    assert_eq!(Rig::on(disk).entries().len(), 5);
}

#[test]
fn other_files_in_the_logs_directory_are_left_alone() {
    let (rig, _) = five(true);
    let disk = rig.kill();
    let note = Path::new(DIR).join("log").join("README");
    disk.open(&note, OpenMode::Create).expect("created");
    drop(
        try_open(Arc::clone(&disk) as Arc<dyn Storage>, Path::new(DIR)).expect("a good directory"),
    );
    assert!(disk.live_bytes(&note).is_some());
}

#[test]
fn a_crash_at_any_operation_of_the_first_start_is_harmless() {
    for after in 0.. {
        let disk = Arc::new(SimDisk::new(after));
        disk.fail(Fault { operation: None, after, error: FaultError::Io, lasting: true });
        let opened = Rig::try_on(Arc::clone(&disk)).is_ok();
        disk.clear_faults();
        disk.crash();
        let mut rig = Rig::on(disk);
        rig.append(1, b"first");
        rig.commit();
        assert_eq!(rig.crash().entries().len(), 1, "after {after} operations");
        if opened {
            assert!(after > 20, "{after} operations");
            break;
        }
    }
}

#[test]
fn segments_of_another_size_are_read_and_not_used_again() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.roll(1);
    }
    let entries = rig.entries();
    let disk = rig.kill();
    let larger = LogOptions { segment_bytes: 1 << 17, ..options() };
    let open = |options: &LogOptions| {
        let disk = Arc::clone(&disk) as Arc<dyn Storage>;
        wal::open(disk, Path::new(DIR), NodeId(1), "test", &members(), options).expect("good")
    };
    let mut opened = open(&larger);
    assert_eq!(read_all(&opened.log), entries);
    while opened.preparer.step().expect("a good disk") {}
    drop(opened);
    disk.kill();
    assert_eq!(read_all(&open(&options()).log), entries);
}

#[test]
fn a_segment_is_read_right_that_is_larger_than_what_is_held_in_memory_at_once() {
    const MIB: usize = 1 << 20;
    let options =
        LogOptions { segment_bytes: 8 * MIB, ready_segments: 1, max_entry_bytes: 3 * MIB };
    let mut rig = Rig::on_with(Arc::new(SimDisk::new(1)), options);
    let mut ends = Vec::new();
    // Batches that fit, batches that lie across the end of what was read, and one that is larger.
    for bytes in [300_000, 700_000, 500, 900_000, 3 * MIB - 8, 40, 400_000] {
        rig.append(1, &vec![bytes as u8; bytes]);
        let target = rig.log().publish();
        rig.flush(target);
        ends.push((target.to_word() & 0xFFFF_FFFF) as usize);
    }
    rig.cover();
    let entries = rig.entries();
    let disk = rig.kill();
    // Damage early in the segment, and the only thing that tells is mebibytes away.
    for (at, &end) in ends.iter().enumerate() {
        let disk = Arc::new((*disk).clone());
        disk.rot(&segment(1), |bytes| bytes[end - 9] ^= 1);
        let error = Rig::try_on_with(disk, options).map(drop).expect_err("damaged");
        assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
        assert_eq!(error.index, Some(LogIndex(at as u64 + 1)), "{error}");
    }
    let rig = Rig::on_with(disk, options);
    assert_eq!(rig.entries(), entries);
    assert_eq!(rig.restart().entries(), entries);
}

#[test]
fn truncated_terms_leave_nothing_of_their_shape() {
    let mut rig = Rig::new();
    for term in [1, 2, 3] {
        rig.append(term, b"");
        rig.append(term, b"");
    }
    rig.commit();
    rig.truncate_from(4);
    rig.append(5, b"");
    rig.commit();
    let rig = rig.restart();
    let runs: Vec<_> =
        rig.opened.recovered.entries.runs.iter().map(|run| (run.first.0, run.term.0)).collect();
    assert_eq!(runs, [(1, 1), (3, 2), (4, 5)]);
}

#[test]
fn a_log_that_needs_none_of_its_entries_still_knows_the_time_of_the_last() {
    let mut rig = Rig::new();
    rig.roll(1);
    for _ in 0..3 {
        let last = rig.log().last().index;
        rig.log().release(last);
        rig.cover();
        rig.prepare();
        rig = rig.restart();
        assert_eq!(rig.log().last().index, last);
        assert_eq!(rig.opened.recovered.last_time, last.0 * 10);
    }
}

#[test]
fn a_truncation_after_a_restart_knows_the_terms_from_before_it() {
    let mut rig = Rig::new();
    for term in [1, 2, 3] {
        rig.append(term, b"");
    }
    rig.commit();
    let mut rig = rig.restart();
    rig.truncate_from(3);
    assert_eq!(rig.log().last(), EntryId::new(Term(2), LogIndex(2)));
    rig.truncate_from(2);
    assert_eq!(rig.log().last(), EntryId::new(Term(1), LogIndex(1)));
    rig.append(4, b"");
    rig.commit();
    assert_eq!(rig.log().last(), EntryId::new(Term(4), LogIndex(2)));
    let entries = rig.entries();
    assert_eq!(rig.restart().entries(), entries);
}

/// What a client could put into a command that knows all that a node tells others of itself: an echo that
/// says a place far behind the log's end was durable.
fn forged_echoes(rig: &Rig) -> Vec<u8> {
    let known = rig.opened.recovered.sender.incarnation.0.to_le_bytes();
    let mut echo = [0; 24];
    echo[4..8].copy_from_slice(&0x8000_0018_u32.to_le_bytes());
    echo[8] = 4;
    echo[16..24].copy_from_slice(&(1_000_000_u64 << 32 | 64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&known), &echo[4..]);
    echo[..4].copy_from_slice(&crc.to_le_bytes());
    echo.repeat(500)
}

#[test]
fn a_payload_that_was_left_behind_in_a_recycled_segment_forges_no_claim() {
    let mut rig = Rig::new();
    let payload = forged_echoes(&rig);
    for _ in 0..6 {
        for _ in 0..6 {
            rig.append(1, &payload);
            rig.commit();
        }
        let last = rig.log().last().index;
        rig.log().release_beyond(0, last);
        rig.cover();
        rig.prepare();
    }
    rig.append(1, b"small");
    rig.commit();
    rig.cover();
    rig.try_restart().expect("a sound log opens");
}
