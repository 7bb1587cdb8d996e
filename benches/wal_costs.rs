//! What the log costs beside the bare system calls, and what the end of a segment costs.
//!
//! `cargo bench --bench wal_costs`. The disk is the one under `TMPDIR`. Times that are not averages: a roll
//! hides in a mean, and shows in the slowest of a thousand appends.
#![allow(missing_docs, reason = "a program")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::record::{EntryKind, RecordHeader, record_bytes};
use oarlock::wal::{self, Disk, Flusher, Log, LogOptions, Opened};
use oarlock::{EntryId, Member, Membership, NodeId, Term};
use rustix::time::{ClockId, clock_gettime};

const PAYLOAD: usize = 256;
const BATCHES: [usize; 4] = [1, 16, 256, 4096];
/// How long each throughput is measured.
const MEASURED: Duration = Duration::from_secs(2);
/// What the raw loop writes round and round.
const RAW_BYTES: usize = 64 << 20;
/// Batches of appends of which the slowest are looked at.
const TIMED: usize = 40_000;
const TIMED_BATCH: usize = 16;

fn open(dir: &Path, options: &LogOptions) -> Opened {
    let members = Membership::of_voters([(NodeId(1), Member::default())]);
    wal::open(Arc::new(Disk), dir, NodeId(1), "bench", &members, options).expect("a good disk")
}

/// The processor time that all threads of this process have used.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(now).expect("it only grows")
}

fn append(log: &mut Log, count: usize) {
    for _ in 0..count {
        let id = EntryId::new(Term(1), log.last().index.next());
        let header = RecordHeader { id, time: 0, kind: EntryKind::Command, origin: None };
        log.append(&header, &[7; PAYLOAD]);
    }
}

fn flush(log: &mut Log, flusher: &mut Flusher) {
    let target = log.publish();
    log.persisted(flusher.flush(target).expect("a good disk"));
}

/// A log whose segments are prepared by a thread of its own, as a node's are.
fn with_log<T>(options: &LogOptions, work: impl FnOnce(&mut Log, &mut Flusher) -> T) -> T {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let Opened { mut log, flusher, mut preparer, .. } = open(temp.path(), options);
    let mut flusher = flusher.expect("on disk");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if !preparer.step().expect("a good disk") {
                    thread::park_timeout(Duration::from_micros(200));
                }
            }
        });
        let result = work(&mut log, &mut flusher);
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Waits until `count` records fit, letting go of all but the last if `release`.
fn make_room(log: &mut Log, flusher: &mut Flusher, count: usize, release: bool) {
    while log.room() < count * record_bytes(PAYLOAD, false) {
        if release {
            log.release(log.last().index.prev());
            if let Some(target) = log.cover() {
                log.persisted(flusher.flush(target).expect("a good disk"));
            }
        }
        thread::yield_now();
    }
}

/// Flushes in all, in which time, and the processor time of one.
fn rate(mut commit: impl FnMut()) -> (u32, Duration, Duration) {
    let (start, cpu_before, mut count) = (Instant::now(), cpu(), 0);
    while start.elapsed() < MEASURED {
        commit();
        count += 1;
    }
    (count, start.elapsed(), cpu().saturating_sub(cpu_before) / count)
}

fn throughput() {
    println!("records a second, and processor time for each flush; {PAYLOAD}-byte entries");
    println!("{:>6} {:>11} {:>9} {:>11} {:>9} {:>6}", "batch", "log", "cpu", "raw", "cpu", "ratio");
    for batch in BATCHES {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let Opened { mut log, flusher, mut preparer, .. } =
            open(temp.path(), &LogOptions::default());
        let mut flusher = flusher.expect("on disk");
        let of_log = rate(|| {
            while log.room() < batch * record_bytes(PAYLOAD, false) {
                log.release(log.last().index.prev());
                while preparer.step().expect("a good disk") {}
                append(&mut log, 1);
                flush(&mut log, &mut flusher);
            }
            append(&mut log, batch);
            flush(&mut log, &mut flusher);
        });
        let bytes = batch * record_bytes(PAYLOAD, false);
        let (file, data, mut at) = (zero_filled(), vec![7; bytes], 0);
        let of_raw = rate(|| {
            file.write_all_at(&data, at as u64).expect("a good disk");
            file.sync_data().expect("a good disk");
            at = if at + 2 * bytes > RAW_BYTES { 0 } else { at + bytes };
        });
        let a_second = |(count, time, _): (u32, Duration, Duration)| {
            f64::from(count) / time.as_secs_f64() * f64::from(batch as u32)
        };
        let (log_rate, raw_rate) = (a_second(of_log), a_second(of_raw));
        println!(
            "{batch:>6} {log_rate:>11.0} {:>9.1?} {raw_rate:>11.0} {:>9.1?} {:>6.2}",
            of_log.2,
            of_raw.2,
            log_rate / raw_rate
        );
    }
}

fn zero_filled() -> File {
    let file = tempfile::tempfile().expect("a temporary file");
    let zeros = vec![0; 1 << 20];
    for at in (0..RAW_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at as u64).expect("a good disk");
    }
    file.sync_all().expect("a good disk");
    file
}

/// How long it takes to append and publish a batch, rolls included, while all goes its usual way.
fn rolls() {
    println!();
    println!("appending and publishing {TIMED_BATCH} entries of {PAYLOAD} bytes, flushed each");
    println!("{:>34} {:>9} {:>9} {:>9} {:>9}", "", "p50", "p99", "p99.9", "worst");
    let small = LogOptions { segment_bytes: 1 << 20, ready_segments: 3, max_entry_bytes: 1 << 18 };
    let large = LogOptions { segment_bytes: 256 << 20, ready_segments: 1, ..small };
    for (name, options, release) in [
        ("no roll, one segment of 256 MiB", large, false),
        ("segments of 1 MiB, recycled", small, true),
        ("segments of 1 MiB, each a new file", small, false),
    ] {
        let mut times = with_log(&options, |log, flusher| {
            let mut times: Vec<Duration> = Vec::with_capacity(TIMED);
            for round in 0..TIMED {
                if release && round % 100 == 0 {
                    log.release(log.last().index.prev());
                }
                make_room(log, flusher, TIMED_BATCH, release);
                let start = Instant::now();
                append(log, TIMED_BATCH);
                log.publish();
                times.push(start.elapsed());
                flush(log, flusher);
            }
            // The first segments are new in any case.
            times.split_off(TIMED / 10)
        });
        times.sort_unstable();
        let [p50, p99, p999, worst] =
            [500, 990, 999, 1000].map(|share| times[(times.len() - 1) * share / 1000]);
        println!("{name:>34} {p50:>9.1?} {p99:>9.1?} {p999:>9.1?} {worst:>9.1?}");
    }
}

fn main() {
    throughput();
    rolls();
}
