//! The log's parts on threads of their own, as a node drives them: one appends, one flushes, one prepares,
//! and several read, some of them slowly.

mod wal_rig;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use oarlock::record::{Record, Records, record_bytes};
use oarlock::simulation::SimDisk;
use oarlock::slices::Slices;
use oarlock::storage::Storage;
use oarlock::wal::{
    self, Disk, Fetch, Flusher, Log, LogReader, Memory, Opened, Position, Preparer,
};
use oarlock::{LogIndex, NodeId};
use wal_rig::{DIR, header, members, options, read_all, try_open};

const ENTRIES: u64 = 20_000;

/// What the threads tell each other.
#[derive(Default)]
struct Board {
    target: AtomicU64,
    flushed: AtomicU64,
    /// The last index that is on the disk and may be read.
    committed: AtomicU64,
    /// Every reader has got this far.
    read: [AtomicU64; 2],
    done: AtomicBool,
    failed: AtomicBool,
}

impl Board {
    fn is_over(&self) -> bool {
        self.done.load(Ordering::Acquire) || self.failed.load(Ordering::Acquire)
    }
}

/// Ends the others if this thread panics.
struct Alarm<'a>(&'a Board);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::Release);
        }
    }
}

fn payload(index: u64) -> Vec<u8> {
    let len = (index * 7919 % 600) as usize;
    index.to_le_bytes().iter().copied().cycle().take(len).collect()
}

fn verify(slices: &Slices, prev: LogIndex, last: LogIndex) {
    let mut index = prev;
    for record in Records::checked(slices) {
        let Record { header, payload: found, .. } = record.expect("a good record");
        index = index.next();
        assert_eq!(header.id.index, index);
        assert!(found == payload(index.0), "the payload of {index}");
    }
    assert_eq!(index, last);
}

fn append(board: &Board, mut log: Log, in_memory: bool) -> Log {
    let _alarm = Alarm(board);
    let mut held: Vec<(Slices, LogIndex, LogIndex)> = Vec::new();
    let (mut next, mut released) = (1, 0);
    while next <= ENTRIES || board.committed.load(Ordering::Acquire) < ENTRIES {
        assert!(!board.failed.load(Ordering::Acquire), "another thread failed");
        let mut count = 0;
        while next <= ENTRIES && count < 37 && log.room() >= record_bytes(600, false) {
            log.append(&header(1 + next / 5000, LogIndex(next)), &payload(next));
            next += 1;
            count += 1;
        }
        let prev = LogIndex(log.last().index.0 - count);
        let target = log.publish();
        if count > 0 {
            if let Fetch::Hot(slices, last) = log.slices(prev, 8000) {
                held.push((slices, prev, last));
            }
            board.target.store(target.to_word(), Ordering::Release);
        }
        let flushed = if in_memory {
            target
        } else {
            Position::from_word(board.flushed.load(Ordering::Acquire))
        };
        if let Some((_, index)) = log.persisted(flushed) {
            board.committed.store(index.0, Ordering::Release);
        }
        let read = board.read.iter().map(|read| read.load(Ordering::Acquire)).min();
        let read = read.expect("two readers");
        if read >= released + 500 {
            released = read;
            log.release(LogIndex(read));
        }
        if held.len() > 50 {
            for (slices, prev, last) in held.drain(..) {
                verify(&slices, prev, last);
            }
        }
        if count == 0 {
            if let Some(target) = log.cover() {
                board.target.store(target.to_word(), Ordering::Release);
            }
            thread::yield_now();
        }
    }
    log
}

fn flush(board: &Board, mut flusher: Flusher) {
    let _alarm = Alarm(board);
    while !board.is_over() {
        let target = Position::from_word(board.target.load(Ordering::Acquire));
        let done = flusher.flush(target).expect("a good disk");
        board.flushed.store(done.to_word(), Ordering::Release);
        thread::yield_now();
    }
}

fn prepare(board: &Board, mut preparer: Preparer) {
    let _alarm = Alarm(board);
    while !board.is_over() {
        if !preparer.step().expect("a good disk") {
            thread::yield_now();
        }
    }
}

/// Reads what is committed, in steps of at most `bytes`.
fn read(board: &Board, number: usize, reader: &LogReader, bytes: usize) {
    let _alarm = Alarm(board);
    let mut prev = LogIndex(0);
    while prev.0 < ENTRIES && !board.failed.load(Ordering::Acquire) {
        let committed = LogIndex(board.committed.load(Ordering::Acquire));
        if committed == prev {
            thread::yield_now();
            continue;
        }
        let (slices, last) = reader.read(prev, committed, bytes).expect("there");
        verify(&slices, prev, last);
        prev = last;
        board.read[number].store(last.0, Ordering::Release);
    }
}

/// Runs all of it, and returns the log as it is in the end.
fn run(opened: Opened) -> Log {
    let board = Board::default();
    let in_memory = opened.flusher.is_none();
    let Opened { log, flusher, preparer, .. } = opened;
    let (first, second) = (log.reader(), log.reader());
    thread::scope(|scope| {
        let board = &board;
        let core = scope.spawn(move || append(board, log, in_memory));
        if let Some(flusher) = flusher {
            scope.spawn(move || flush(board, flusher));
        }
        scope.spawn(move || prepare(board, preparer));
        let first = scope.spawn(move || read(board, 0, &first, 100_000));
        let second = scope.spawn(move || read(board, 1, &second, 700));
        let log = core.join();
        for reader in [first, second] {
            reader.join().expect("a reader");
        }
        board.done.store(true, Ordering::Release);
        log.expect("the core")
    })
}

/// Appends, and truncates again and again what was never committed; every payload names the generation in
/// which it was appended, and `truncations` what each of them began with.
fn waver(log: &mut Log, preparer: &mut Preparer, board: &Board, truncations: &Mutex<Vec<u64>>) {
    let mut rng = 12_345_u64;
    let mut draw = |below: u64| {
        rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (rng >> 33) % below
    };
    for generation in 0..10_000_u64 {
        for _ in 0..=draw(3) {
            while log.room() < 20 * record_bytes(1000, false) {
                preparer.step().expect("memory");
            }
            for _ in 0..=draw(20) {
                let index = log.last().index.next();
                let payload = generation.to_le_bytes().repeat(1 + draw(100) as usize);
                log.append(&header(generation + 1, index), &payload);
            }
            log.publish();
            board.committed.store(log.last().index.0, Ordering::Release);
        }
        let rest = log.last().index.0 - log.base().index.0;
        let from = log.last().index.0 - draw(rest.min(120));
        truncations.lock().expect("no panic").push(from);
        log.truncate_from(LogIndex(from), generation + 1);
        if draw(10) == 0 {
            log.release(LogIndex(log.last().index.0.saturating_sub(500)));
        }
    }
}

#[test]
fn readers_see_entries_of_one_log_while_it_is_truncated() {
    let memory = Memory::default();
    let opened = wal::open_in_memory(&memory, NodeId(1), &members(), &options()).expect("memory");
    let Opened { mut log, mut preparer, .. } = opened;
    let reader = log.reader();
    let board = Board::default();
    let truncations = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let (board, truncations) = (&board, &truncations);
        scope.spawn(move || {
            let _alarm = Alarm(board);
            waver(&mut log, &mut preparer, board, truncations);
            board.done.store(true, Ordering::Release);
        });
        let (mut reads, mut most) = (0_u64, 0);
        while !board.is_over() {
            let last = board.committed.load(Ordering::Acquire);
            let prev = LogIndex(last.saturating_sub(150));
            let Ok((slices, _)) = reader.read(prev, LogIndex(last), usize::MAX) else {
                continue;
            };
            let found: Vec<(u64, u64)> = Records::checked(&slices)
                .map(|record| record.expect("a good record"))
                .map(|record| {
                    let generation = record.payload[..8].try_into().expect("eight bytes");
                    (record.header.id.index.0, u64::from_le_bytes(generation))
                })
                .collect();
            for (at, (index, _)) in found.iter().enumerate() {
                assert_eq!(*index, prev.0 + 1 + at as u64);
            }
            // Whatever came after a truncation comes with all that it left, and nothing it did not.
            let newest = found.iter().map(|(_, generation)| *generation).max().unwrap_or(0);
            let truncations = truncations.lock().expect("no panic");
            for (generation, from) in truncations.iter().enumerate().take(newest as usize) {
                for (index, appended) in &found {
                    assert!(
                        index < from || *appended > generation as u64,
                        "{index} of generation {appended}, truncated from {from} by {}, with {found:?}",
                        generation + 1
                    );
                }
            }
            reads += 1;
            most = most.max(found.len());
        }
        assert!(reads > 0 && most > 0, "{reads} reads, at most {most} entries");
    });
    assert!(!board.failed.load(Ordering::Acquire));
}

#[test]
fn on_a_real_disk_all_threads_see_one_log() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let open = || try_open(Arc::new(Disk), temp.path()).expect("a good directory");
    let log = run(open());
    assert!(log.base().index.0 > 0, "something was released");
    let entries = read_all(&log);
    drop(log);
    let opened = open();
    let rest = read_all(&opened.log);
    assert!(rest.ends_with(&entries), "{} entries of {}", rest.len(), entries.len());
    assert_eq!(opened.log.last().index, LogIndex(ENTRIES));
}

#[test]
fn on_a_simulated_disk_all_threads_see_one_log() {
    let disk = Arc::new(SimDisk::new(3));
    let log = run(try_open(Arc::clone(&disk) as Arc<dyn Storage>, Path::new(DIR)).expect("good"));
    disk.crash();
    drop(log);
    let opened = try_open(disk as Arc<dyn Storage>, Path::new(DIR)).expect("good");
    assert_eq!(opened.log.last().index, LogIndex(ENTRIES));
}

#[test]
fn in_memory_all_threads_see_one_log() {
    let memory = Memory::default();
    let open = || wal::open_in_memory(&memory, NodeId(1), &members(), &options()).expect("memory");
    let log = run(open());
    let entries = read_all(&log);
    drop(log);
    assert_eq!(read_all(&open().log), entries);
}
