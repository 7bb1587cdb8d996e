//! What happens to log that nobody needs: how much of it stays, that the rest really goes, and that
//! nothing goes too early, in a crash least of all.

mod journal;
mod wal_rig;

use std::path::Path;
use std::sync::Arc;

use journal::{leader_of, member, until};
use oarlock::error::{ApplyError, EncodeError};
use oarlock::simulation::{Fault, FaultError, SimDisk};
use oarlock::slices::Slices;
use oarlock::storage::{OpenMode, Storage};
use oarlock::transport::memory::Network;
use oarlock::wal::{Disk, Fetch, Opened};
use oarlock::{Applied, Config, EntryId, LogIndex, Node, StateMachine, Status};
use wal_rig::{DIR, Rig, decode, header, options, read_all, segment, try_open};

const SEGMENT: u64 = 1 << 16;

/// The lengths of all files in a directory.
fn bytes_in(storage: &dyn Storage, dir: &Path) -> u64 {
    let length = |name: String| storage.open(&dir.join(name), OpenMode::Read)?.len();
    let names = storage.list(dir).expect("a directory");
    names.into_iter().map(|name| length(name).expect("a file")).sum()
}

fn bytes_on_disk(rig: &Rig) -> u64 {
    bytes_in(&*rig.disk, &Path::new(DIR).join("log"))
}

/// Lets go as far as the limit asks for, and has a mark say so.
fn release(rig: &mut Rig, max_bytes: u64, up_to: LogIndex) {
    if rig.log().release_beyond(max_bytes, up_to) {
        rig.cover();
    }
    rig.prepare();
}

#[test]
fn log_that_nobody_needs_stays_within_the_limit_and_the_oldest_of_it_goes() {
    for limit in [0, 1, 3, 5] {
        let mut rig = Rig::new();
        for round in 1..=12 {
            rig.roll(1);
            let last = rig.log().last().index;
            release(&mut rig, limit * SEGMENT, last);
            let segments = rig.log().segments() as u64;
            assert_eq!(segments, limit.clamp(1, round + 1), "limit {limit}, round {round}");
            assert_eq!(rig.entries().first().map(|(id, _)| id.index), Some(rig.log().first()));
        }
        let kept = rig.entries();
        let rig = rig.crash();
        assert_eq!(rig.entries(), kept, "limit {limit}");
    }
}

#[test]
fn what_is_needed_stays_however_much_it_is() {
    let mut rig = Rig::new();
    let mut needed = LogIndex::ZERO;
    for round in 0..8 {
        if round == 3 {
            needed = rig.log().last().index;
        }
        rig.roll(1);
    }
    release(&mut rig, 0, LogIndex::ZERO);
    assert_eq!(rig.log().base(), EntryId::ZERO);
    release(&mut rig, 0, needed);
    assert!(rig.log().base().index > LogIndex::ZERO, "the first segments are not needed");
    assert!(rig.log().base().index <= needed, "{needed} is");
    assert!(rig.log().segments() as u64 * SEGMENT > 4 * SEGMENT);
}

#[test]
fn the_bytes_of_a_log_are_those_of_its_files_whatever_happens_to_it() {
    let mut rig = Rig::new();
    let check = |rig: &Rig, what: &str| {
        assert_eq!(rig.log_ref().bytes(), bytes_on_disk(rig), "after {what}");
    };
    let mut held: Vec<Slices> = Vec::new();
    for round in 0..40_u64 {
        rig.roll(1);
        check(&rig, "a roll");
        if round % 5 == 0 {
            let prev = rig.log().last().index.prev();
            let Fetch::Hot(slices, _) = rig.log().slices(prev, 1) else { panic!("not mapped") };
            held.push(slices);
        }
        let last = rig.log().last().index;
        release(&mut rig, (round % 7) * SEGMENT, last);
        check(&rig, "a release");
        if round % 9 == 8 {
            held.clear();
            rig.prepare();
            check(&rig, "the slices are gone");
            rig = rig.restart();
            check(&rig, "a restart");
            rig.prepare();
            check(&rig, "a restart and its preparations");
        }
    }
}

#[test]
fn segments_that_nobody_needs_are_deleted_but_for_the_pool() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        rig.roll(1);
        rig.prepare();
    }
    assert!(rig.files().len() >= 21);
    let last = rig.log().last().index;
    release(&mut rig, 4 * SEGMENT, last);
    let ready = options().ready_segments;
    assert_eq!(rig.log().segments(), 4);
    assert!(rig.files().len() <= 4 + 2 * ready, "{:?}", rig.files());
    assert!(rig.log().bytes() <= (4 + 2 * ready as u64) * SEGMENT);
}

#[test]
fn a_held_slice_keeps_its_segment_and_nothing_else() {
    let mut rig = Rig::new();
    rig.append(1, b"held");
    rig.commit();
    for _ in 0..6 {
        rig.roll(1);
        rig.prepare();
    }
    // The first segment is unmapped by now: one slice is of its file, the other of a mapping.
    let (cold, _) = rig.log().reader().read(LogIndex(0), LogIndex(1), 1).expect("readable");
    let last = rig.log().last().index;
    let Fetch::Hot(hot, _) = rig.log().slices(last.prev(), 1) else { panic!("not mapped") };
    let pinned = (rig.log().publish().to_word() >> 32) as u32;
    let before = (decode(&cold), decode(&hot));
    for _ in 0..4 {
        rig.roll(1);
        let last = rig.log().last().index;
        release(&mut rig, 0, last);
        assert_eq!((decode(&cold), decode(&hot)), before);
    }
    // Bytes out of a file were copied, and pin nothing. There are one in use, those that are ready, those
    // that wait to be used again, and the one that is held.
    let most = 1 + 2 * options().ready_segments as u64;
    assert!(rig.disk.live_bytes(&segment(1)).is_none(), "{:?}", rig.files());
    assert!(rig.disk.live_bytes(&segment(pinned)).is_some(), "{:?}", rig.files());
    assert!(rig.log().bytes() <= (most + 1) * SEGMENT, "{:?}", rig.files());
    drop(hot);
    for _ in 0..3 {
        rig.roll(1);
        let last = rig.log().last().index;
        release(&mut rig, 0, last);
    }
    assert!(rig.disk.live_bytes(&segment(pinned)).is_none(), "{:?}", rig.files());
    assert!(rig.log().bytes() <= most * SEGMENT, "{:?}", rig.files());
}

#[test]
fn a_segment_that_is_let_go_of_while_it_waits_to_be_unmapped_is_used_again() {
    let mut rig = Rig::new();
    for _ in 0..6 {
        // The preparer does nothing meanwhile but make room.
        rig.roll(1);
    }
    let last = rig.log().last().index;
    assert!(rig.log().release_beyond(0, last));
    rig.prepare();
    assert!(rig.cover());
    rig.prepare();
    let ready = options().ready_segments as u64;
    assert_eq!(rig.log().bytes(), (1 + 2 * ready) * SEGMENT, "{:?}", rig.files());
}

/// Rolls and lets go, again and again; returns the first index that had to stay, and the last that was
/// durable, when the disk failed or the work was done.
fn work(rig: &mut Rig) -> (LogIndex, LogIndex) {
    let mut needed = LogIndex::ZERO;
    let mut durable = LogIndex::ZERO;
    let mut round = || -> Result<(), oarlock::error::StorageError> {
        for _ in 0..4 {
            for _ in 0..70 {
                while rig.opened.log.room() < 1100 {
                    rig.opened.preparer.step()?;
                }
                let next = rig.opened.log.last().index.next();
                rig.opened.log.append(&header(1, next), &[7; 1000]);
            }
            let target = rig.opened.log.publish();
            rig.try_flush(target).map(|flushed| rig.opened.log.persisted(flushed))?;
            durable = rig.opened.log.last().index;
            needed = LogIndex(durable.0.saturating_sub(30));
            if rig.opened.log.release_beyond(2 * SEGMENT, needed.prev())
                && let Some(target) = rig.opened.log.cover()
            {
                rig.try_flush(target).map(|flushed| rig.opened.log.persisted(flushed))?;
            }
            while rig.opened.preparer.step()? {}
        }
        Ok(())
    };
    // Whether the disk failed is for the caller to see.
    let _ = round();
    (needed, durable)
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_is_needed_and_leaves_no_file_behind() {
    let mut rig = Rig::new();
    let begun = rig.disk.operations();
    work(&mut rig);
    let whole = rig.disk.operations() - begun;
    assert!(rig.log().base().index.0 > 50 && whole > 60, "{whole} operations");
    let powers = [SimDisk::kill, SimDisk::crash, SimDisk::crash_losing_all];
    for after in 0..whole {
        let mut rig = Rig::new();
        let disk = Arc::clone(&rig.disk);
        disk.fail(Fault { operation: None, after, error: FaultError::Io, lasting: true });
        let (needed, durable) = work(&mut rig);
        disk.clear_faults();
        drop(rig);
        for power in powers {
            let disk = Arc::new((*disk).clone());
            power(&disk);
            let mut rig = Rig::on(disk);
            let (first, last) = (rig.log().first(), rig.log().last().index);
            assert!(first <= needed.max(LogIndex(1)), "{needed} is needed, {first} is there");
            assert!(durable <= last, "{durable} was durable, {last} is there");
            assert_eq!(rig.entries().len() as u64, last.0 + 1 - first.0, "after {after}");
            rig.prepare();
            let files = rig.files().len();
            let most = rig.log().segments() + 2 * options().ready_segments;
            assert!(files <= most, "{files} files, at most {most}: {:?}", rig.files());
            assert_eq!(rig.log().bytes(), bytes_on_disk(&rig), "after {after} operations");
        }
    }
}

#[test]
fn on_a_real_disk_the_files_are_as_many_and_as_large_as_the_log_says() {
    let temp = tempfile::tempdir().expect("a directory");
    let (dir, log_dir) = (temp.path().join("data"), temp.path().join("data/log"));
    let open = || try_open(Arc::new(Disk), &dir).expect("a good disk");
    let Opened { mut log, mut preparer, flusher, .. } = open();
    let mut flusher = flusher.expect("a log on disk");
    for index in 1..=2000 {
        while log.room() < 1100 {
            preparer.step().expect("a good disk");
        }
        log.append(&header(1, LogIndex(index)), &[7; 1000]);
        if index % 10 == 0 {
            let target = log.publish();
            log.persisted(flusher.flush(target).expect("a good disk"));
            log.release_beyond(6 * SEGMENT, LogIndex(index));
            while preparer.step().expect("a good disk") {}
            assert_eq!(log.bytes(), bytes_in(&Disk, &log_dir), "at {index}");
            // One more segment goes with the next flush only.
            let ready = options().ready_segments as u64;
            assert!(log.bytes() <= (6 + 1 + 2 * ready) * SEGMENT, "{} at {index}", log.bytes());
        }
    }
    let entries = read_all(&log);
    assert!(entries.len() < 500, "{} entries are kept", entries.len());
    drop((log, preparer, flusher));
    let Opened { log, .. } = open();
    assert_eq!(read_all(&log), entries);
    assert_eq!(log.bytes(), bytes_in(&Disk, &log_dir));
}

/// Says that it keeps what it is given.
#[derive(Default)]
struct Keeper(EntryId);

impl StateMachine for Keeper {
    type Command = Vec<u8>;
    type Response = ();

    fn encode(command: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(command);
        Ok(())
    }

    fn apply_entry(&mut self, _bytes: &[u8], at: &Applied) -> Result<(), ApplyError> {
        self.0 = at.entry;
        Ok(())
    }

    fn last_applied(&self) -> Option<EntryId> {
        Some(self.0)
    }
}

fn write(nodes: &[Node<Keeper>], kibibytes: usize) {
    let mut written = 0;
    while written < kibibytes {
        let leader = leader_of(nodes, 3);
        let Ok(tickets) = leader.submit_many((0..64).map(|_| vec![7; 1024])) else { continue };
        written += tickets.wait_all().iter().filter(|reply| reply.is_ok()).count();
    }
}

#[test]
fn a_node_keeps_to_its_limit_and_lets_go_of_log_even_if_nothing_is_written_any_more() {
    let temp = tempfile::tempdir().expect("a directory");
    let config = Config {
        segment_bytes: 1 << 18,
        ready_segments: 1,
        max_entry_bytes: 32 << 10,
        max_batch_bytes: 64 << 10,
        max_append_bytes: 64 << 10,
        max_kept_log_bytes: 1 << 20,
        ..Config::small()
    };
    let network = Network::new();
    let log_dir = |id: u64| temp.path().join(format!("n{id}/log"));
    let start = |id: u64| {
        let dir = temp.path().join(format!("n{id}"));
        let node = member(&network, id, 3, Keeper::default()).data_dir(dir).config(config.clone());
        node.start().expect("starts")
    };
    let mut nodes = vec![start(1), start(2)];
    write(&nodes, 5 << 10);
    for node in &nodes {
        let Status { first, log_bytes, .. } = node.status();
        assert_eq!(first, LogIndex(1), "one member has nothing of it yet");
        assert!(log_bytes >= 5 << 20, "{log_bytes} bytes hold five mebibytes");
    }

    nodes.push(start(3));
    // Within the limit there are four segments; another is ready, and one waits to be used again.
    let most = 6 * config.segment_bytes as u64;
    for node in &nodes {
        until(|| {
            let Status { first, log_segments, log_bytes, .. } = node.status();
            first > LogIndex(1) && log_segments <= 4 && log_bytes <= most
        });
        assert!(node.status().log_segments >= 3, "as much as the limit allows stays");
    }
    for node in nodes {
        let id = node.id().0;
        until(|| node.status().log_bytes == bytes_in(&Disk, &log_dir(id)));
        node.shutdown(journal::PATIENCE).expect("stops");
    }
}
