//! The log alone: appending, group commit beside what the bare system calls give, rolling, recovery.
//!
//! `cargo bench --bench wal`. The disk is the one under `TMPDIR`. The log that is recovered has
//! `OARLOCK_BENCH_RECOVERY_MIB` mebibytes (64 if unset; the project's figures are for 1024).
#![allow(missing_docs, reason = "criterion_group makes a public function")]
#![allow(unsafe_code, reason = "the raw shared mapping to compare with")]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use oarlock::record::{EntryKind, RecordHeader, record_bytes};
use oarlock::wal::{self, Disk, Flusher, Log, LogOptions, Memory, Opened, Preparer};
use oarlock::{EntryId, LogIndex, Member, Membership, NodeId, Term};

const PAYLOAD: usize = 256;
const BATCHES: [usize; 4] = [1, 16, 256, 4096];
/// What the raw loops write round and round.
const RAW_BYTES: usize = 64 << 20;

fn members() -> Membership {
    Membership::of_voters([(NodeId(1), Member::default())])
}

fn open(dir: &Path, options: &LogOptions) -> Opened {
    wal::open(Arc::new(Disk), dir, NodeId(1), "bench", &members(), options).expect("a good disk")
}

/// A log whose old segments come back as soon as they are full.
struct Bench {
    log: Log,
    flusher: Option<Flusher>,
    preparer: Preparer,
    payload: Vec<u8>,
}

impl Bench {
    fn new(opened: Opened, payload: usize) -> Self {
        let Opened { log, flusher, preparer, .. } = opened;
        Self { log, flusher, preparer, payload: vec![7; payload] }
    }

    fn append(&mut self, count: usize) {
        for _ in 0..count {
            let index = self.log.last().index.next();
            let header = RecordHeader {
                id: EntryId::new(Term(1), index),
                time: 0,
                kind: EntryKind::Command,
                origin: None,
            };
            self.log.append(&header, &self.payload);
        }
    }

    fn commit(&mut self) {
        let target = self.log.publish();
        let flushed = match &mut self.flusher {
            Some(flusher) => flusher.flush(target).expect("a good disk"),
            None => target,
        };
        black_box(self.log.persisted(flushed));
    }

    /// What other threads and other moments do: not measured.
    fn make_room(&mut self, count: usize) {
        while self.log.room() < count * record_bytes(self.payload.len(), false) {
            self.log.release(LogIndex(self.log.last().index.0.saturating_sub(1)));
            if !self.preparer.step().expect("a good disk") {
                self.append(1);
                self.commit();
            }
        }
    }

    /// The time that `work` takes, `times` times, without what makes room for it.
    fn time(&mut self, times: u64, count: usize, mut work: impl FnMut(&mut Self)) -> Duration {
        let mut total = Duration::ZERO;
        for _ in 0..times {
            self.make_room(count);
            let start = Instant::now();
            work(self);
            total += start.elapsed();
        }
        total
    }
}

fn append(c: &mut Criterion) {
    const COUNT: usize = 1000;
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(COUNT as u64));
    for payload in [16, 256] {
        let memory = Memory::default();
        let opened = wal::open_in_memory(&memory, NodeId(1), &members(), &LogOptions::default());
        let mut bench = Bench::new(opened.expect("memory"), payload);
        // Every segment has been used before, as in a log that has run for a while.
        for _ in 0..300 {
            bench.make_room(COUNT);
            bench.append(COUNT);
            bench.commit();
        }
        group.bench_function(BenchmarkId::from_parameter(payload), |b| {
            b.iter_custom(|times| {
                bench.time(times, COUNT, |bench| {
                    bench.append(COUNT);
                    bench.commit();
                })
            });
        });
    }
    group.finish();
}

fn group_commit(c: &mut Criterion) {
    for batch in BATCHES {
        let mut group = c.benchmark_group(format!("commit of {batch}"));
        group.throughput(Throughput::Elements(batch as u64));
        group.measurement_time(Duration::from_secs(3));
        log_commit(&mut group, batch);
        raw_pwrite(&mut group, batch * record_bytes(PAYLOAD, false));
        raw_mapping(&mut group, batch * record_bytes(PAYLOAD, false));
        group.finish();
    }
}

fn log_commit(group: &mut BenchmarkGroup<'_, WallTime>, batch: usize) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut bench = Bench::new(open(temp.path(), &LogOptions::default()), PAYLOAD);
    group.bench_function("oarlock", |b| {
        b.iter_custom(|times| {
            bench.time(times, batch, |bench| {
                bench.append(batch);
                bench.commit();
            })
        });
    });
}

/// A file of zeros that were written, and flushed.
fn zero_filled() -> File {
    let file = tempfile::tempfile().expect("a temporary file");
    let zeros = vec![0; 1 << 20];
    for at in (0..RAW_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at as u64).expect("a good disk");
    }
    file.sync_all().expect("a good disk");
    file
}

fn raw_pwrite(group: &mut BenchmarkGroup<'_, WallTime>, bytes: usize) {
    let (file, data, mut at) = (zero_filled(), vec![7; bytes], 0);
    group.bench_function("pwrite and fdatasync", |b| {
        b.iter(|| {
            file.write_all_at(&data, at as u64).expect("a good disk");
            file.sync_data().expect("a good disk");
            at = if at + 2 * bytes > RAW_BYTES { 0 } else { at + bytes };
        });
    });
}

fn raw_mapping(group: &mut BenchmarkGroup<'_, WallTime>, bytes: usize) {
    let (file, data, mut at) = (zero_filled(), vec![7; bytes], 0);
    // SAFETY: the file is temporary and has no name, so nobody else changes it or its length.
    let mut mapping = unsafe { memmap2::MmapMut::map_mut(&file).expect("mapped") };
    group.bench_function("shared mapping and msync", |b| {
        b.iter(|| {
            mapping[at..at + bytes].copy_from_slice(&data);
            mapping.flush_range(at, bytes).expect("a good disk");
            at = if at + 2 * bytes > RAW_BYTES { 0 } else { at + bytes };
        });
    });
}

/// What a leader cuts out for its followers after each batch.
fn slices(c: &mut Criterion) {
    let memory = Memory::default();
    let opened = wal::open_in_memory(&memory, NodeId(1), &members(), &LogOptions::default());
    let mut bench = Bench::new(opened.expect("memory"), PAYLOAD);
    for _ in 0..500 {
        bench.make_room(16);
        bench.append(16);
        bench.commit();
    }
    let last = bench.log.last().index.0;
    let mut group = c.benchmark_group("slices");
    for (name, behind) in [("last batch", 16), ("last 16 batches", 256), ("lagging, 1 MiB", 6000)] {
        group.bench_function(name, |b| {
            b.iter(|| black_box(bench.log.slices(LogIndex(last - behind), 1 << 20)));
        });
    }
    group.finish();
}

/// The append that goes on in another segment, which was used before and has kept its mapping.
fn roll(c: &mut Criterion) {
    let options =
        LogOptions { segment_bytes: 1 << 20, ready_segments: 2, max_entry_bytes: 1 << 18 };
    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut bench = Bench::new(open(temp.path(), &options), PAYLOAD);
    let per_segment = (1 << 20) / record_bytes(PAYLOAD, false);
    c.bench_function("roll", |b| {
        b.iter_custom(|times| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                let before = bench.log.publish().to_word() >> 32;
                loop {
                    bench.make_room(2 * per_segment);
                    let start = Instant::now();
                    bench.append(1);
                    let took = start.elapsed();
                    if bench.log.publish().to_word() >> 32 != before {
                        total += took;
                        break;
                    }
                }
                bench.commit();
            }
            total
        });
    });
}

fn recovery(c: &mut Criterion) {
    let mebibytes = std::env::var("OARLOCK_BENCH_RECOVERY_MIB")
        .map_or(64, |text| text.parse().expect("OARLOCK_BENCH_RECOVERY_MIB is a number"));
    let temp = tempfile::tempdir().expect("a temporary directory");
    let options = LogOptions::default();
    let Opened { mut log, flusher, mut preparer, .. } = open(temp.path(), &options);
    let mut flusher = flusher.expect("a log on disk");
    let payload = [7; PAYLOAD];
    let records = (mebibytes << 20) / record_bytes(PAYLOAD, false) as u64;
    for index in 1..=records {
        while log.room() < record_bytes(PAYLOAD, false) {
            preparer.step().expect("a good disk");
        }
        let header = RecordHeader {
            id: EntryId::new(Term(1), LogIndex(index)),
            time: index,
            kind: EntryKind::Command,
            origin: None,
        };
        log.append(&header, &payload);
        if index % 1000 == 0 || index == records {
            let target = log.publish();
            log.persisted(flusher.flush(target).expect("a good disk"));
        }
    }
    let target = log.cover().expect("something to cover");
    flusher.flush(target).expect("a good disk");
    drop((log, flusher, preparer));

    let mut group = c.benchmark_group("recovery");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(mebibytes << 20));
    group.bench_function(format!("{mebibytes} MiB"), |b| {
        b.iter(|| {
            let opened = open(temp.path(), &options);
            assert_eq!(opened.recovered.entries.last, LogIndex(records));
        });
    });
    group.finish();
}

criterion_group!(benches, append, slices, roll, group_commit, recovery);
criterion_main!(benches);
