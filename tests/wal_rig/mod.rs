//! What the tests of the log share: a log that is driven by hand on one thread.

#![allow(dead_code, reason = "every test file uses its own part of this")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oarlock::error::StorageError;
use oarlock::record::{EntryKind, RecordHeader, Records, record_bytes};
use oarlock::simulation::SimDisk;
use oarlock::slices::Slices;
use oarlock::storage::Storage;
use oarlock::wal::{self, Fetch, Log, LogOptions, Opened, Position};
use oarlock::{EntryId, LogIndex, Member, Membership, NodeId, Term};

pub const DIR: &str = "data";

/// The smallest segments there are.
pub fn options() -> LogOptions {
    LogOptions { segment_bytes: 1 << 16, ready_segments: 2, max_entry_bytes: 16 << 10 }
}

pub fn members() -> Membership {
    Membership::of_voters([1, 2, 3].map(|id| (NodeId(id), Member::default())))
}

pub fn try_open(storage: Arc<dyn Storage>, dir: &Path) -> Result<Opened, StorageError> {
    try_open_with(storage, dir, &options())
}

pub fn try_open_with(
    storage: Arc<dyn Storage>,
    dir: &Path,
    options: &LogOptions,
) -> Result<Opened, StorageError> {
    wal::open(storage, dir, NodeId(1), "test", &members(), options)
}

pub fn segment(sequence: u32) -> PathBuf {
    Path::new(DIR).join("log").join(format!("{sequence:010}.seg"))
}

/// An open log and everything around it.
pub struct Rig {
    pub disk: Arc<SimDisk>,
    pub opened: Opened,
    pub generation: u64,
    options: LogOptions,
}

impl Rig {
    pub fn new() -> Self {
        Self::on(Arc::new(SimDisk::new(1)))
    }

    pub fn on_with(disk: Arc<SimDisk>, options: LogOptions) -> Self {
        Self::try_on_with(disk, options).expect("a good directory")
    }

    pub fn on(disk: Arc<SimDisk>) -> Self {
        Self::try_on(disk).expect("a good directory")
    }

    pub fn try_on(disk: Arc<SimDisk>) -> Result<Self, StorageError> {
        Self::try_on_with(disk, options())
    }

    pub fn try_on_with(disk: Arc<SimDisk>, options: LogOptions) -> Result<Self, StorageError> {
        let storage = Arc::clone(&disk) as Arc<dyn Storage>;
        let opened = try_open_with(storage, Path::new(DIR), &options)?;
        Ok(Self { disk, opened, generation: 0, options })
    }

    /// Kills the program and starts it again.
    pub fn restart(self) -> Self {
        self.try_restart().expect("a good directory")
    }

    pub fn try_restart(self) -> Result<Self, StorageError> {
        let options = self.options;
        Self::try_on_with(self.kill(), options)
    }

    pub fn kill(self) -> Arc<SimDisk> {
        self.disk.kill();
        self.disk
    }

    /// Cuts the power, losing everything that was not flushed, and starts again.
    pub fn crash(self) -> Self {
        self.disk.crash_losing_all();
        let (disk, options) = (self.disk, self.options);
        drop(self.opened);
        Self::on_with(disk, options)
    }

    pub fn log(&mut self) -> &mut Log {
        &mut self.opened.log
    }

    pub fn log_ref(&self) -> &Log {
        &self.opened.log
    }

    /// Appends an entry, and does not end the batch.
    pub fn append(&mut self, term: u64, payload: &[u8]) -> LogIndex {
        while self.opened.log.room() < record_bytes(payload.len(), false) {
            assert!(self.opened.preparer.step().expect("a good disk"), "no segment to be had");
        }
        let log = &mut self.opened.log;
        let header = header(term, log.last().index.next());
        log.append(&header, payload);
        header.id.index
    }

    pub fn truncate_from(&mut self, from: u64) {
        self.generation += 1;
        let generation = self.generation;
        self.log().truncate_from(LogIndex(from), generation);
    }

    /// Ends the batch and flushes it.
    pub fn commit(&mut self) -> Option<(u64, LogIndex)> {
        let target = self.log().publish();
        self.flush(target)
    }

    pub fn flush(&mut self, target: Position) -> Option<(u64, LogIndex)> {
        let flushed = self.try_flush(target).expect("a good disk");
        self.log().persisted(flushed)
    }

    pub fn try_flush(&mut self, target: Position) -> Result<Position, StorageError> {
        self.opened.flusher.as_mut().expect("a log on disk").flush(target)
    }

    /// Adds an empty batch that covers the last flush, and flushes it.
    pub fn cover(&mut self) -> bool {
        match self.log().cover() {
            Some(target) => {
                self.flush(target);
                true
            }
            None => false,
        }
    }

    /// Lets the preparer do everything it can.
    pub fn prepare(&mut self) {
        while self.opened.preparer.step().expect("a good disk") {}
    }

    /// Appends entries until the log goes on in another segment; they are flushed.
    pub fn roll(&mut self, term: u64) {
        let before = self.log().publish();
        loop {
            self.append(term, &[0xAB; 1000]);
            let after = self.log().publish();
            self.flush(after);
            if after.to_word() >> 32 != before.to_word() >> 32 {
                return;
            }
        }
    }

    /// All entries, as terms and payloads, through a reader.
    pub fn entries(&self) -> Vec<(EntryId, Vec<u8>)> {
        read_all(&self.opened.log)
    }

    pub fn files(&self) -> Vec<String> {
        self.disk.list(&Path::new(DIR).join("log")).expect("a directory")
    }
}

pub fn header(term: u64, index: LogIndex) -> RecordHeader {
    RecordHeader {
        id: EntryId::new(Term(term), index),
        time: index.0 * 10,
        kind: EntryKind::Command,
        origin: None,
    }
}

pub fn read_all(log: &Log) -> Vec<(EntryId, Vec<u8>)> {
    try_read_all(log).expect("readable")
}

pub fn try_read_all(log: &Log) -> Result<Vec<(EntryId, Vec<u8>)>, StorageError> {
    let reader = log.reader();
    let mut entries = Vec::new();
    let mut prev = log.base().index;
    while prev < log.last().index {
        let (slices, last) = reader.read(prev, log.last().index, 5000)?;
        assert!(last > prev, "at least one entry");
        entries.extend(decode(&slices));
        prev = last;
    }
    Ok(entries)
}

pub fn decode(slices: &Slices) -> Vec<(EntryId, Vec<u8>)> {
    Records::checked(slices)
        .map(|record| record.expect("a good record"))
        .map(|record| (record.header.id, record.payload.to_vec()))
        .collect()
}

/// The indexes in what [`Log::slices`] returned from a mapping.
pub fn hot(fetch: Fetch) -> Vec<u64> {
    match fetch {
        Fetch::Hot(slices, last) => {
            let indexes: Vec<u64> = decode(&slices).iter().map(|(id, _)| id.index.0).collect();
            assert!(indexes.last().is_none_or(|&index| index == last.0), "{indexes:?} to {last}");
            indexes
        }
        Fetch::Cold => panic!("not mapped"),
    }
}
