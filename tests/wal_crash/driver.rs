//! A log that is driven by hand on one thread, and says at every moment what it has promised.

use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use oarlock::error::StorageError;
use oarlock::record::record_bytes;
use oarlock::storage::{OpenMode, Storage};
use oarlock::wal::{LogOptions, Opened, Position};
use oarlock::{EntryId, HardState, LogIndex, NodeId, Term};

use super::disk::{CrashDisk, Fate};
use super::promise::{Entry, Promise};
use crate::wal_rig::{DIR, header, read_all, try_open_with};

/// Segments of four blocks: there are many ends in little log.
pub(crate) const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 16 << 10, ready_segments: 1, max_entry_bytes: 4 << 10 };

/// Opens the log on `disk`, and reads all of it.
pub(crate) fn open(disk: &CrashDisk) -> Result<(Opened, Vec<Entry>), StorageError> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let opened = try_open_with(storage, Path::new(DIR), &OPTIONS)?;
    let entries = read_all(&opened.log);
    Ok((opened, entries))
}

pub(crate) struct Driver {
    pub(crate) disk: CrashDisk,
    opened: Option<Opened>,
    promise: Promise,
    /// Every entry there is, the released ones included.
    entries: Vec<Entry>,
    pub(crate) rng: Rng,
    pub(crate) term: u64,
    generation: u64,
    vote: HardState,
}

impl Driver {
    pub(crate) fn new(seed: u64) -> Self {
        let promise = Promise::none();
        Self {
            disk: CrashDisk::recording(promise.clone()),
            opened: None,
            promise,
            entries: Vec::new(),
            rng: Rng::with_seed(seed),
            term: 1,
            generation: 0,
            vote: HardState::default(),
        }
    }

    pub(crate) fn last(&self) -> usize {
        self.entries.len()
    }

    /// The acknowledged entries.
    pub(crate) fn acknowledged(&self) -> usize {
        let common = |(one, other): &(&Entry, &Entry)| one == other;
        self.promise.contents[0].iter().zip(&self.entries).take_while(common).count()
    }

    pub(crate) fn base(&self) -> usize {
        self.opened.as_ref().map_or(0, |opened| opened.log.base().index.0 as usize)
    }

    fn log(&mut self) -> &mut oarlock::wal::Log {
        &mut self.opened.as_mut().expect("open").log
    }

    fn say(&self) {
        self.disk.promise(self.promise.clone());
    }

    /// Opens the log. What it has found is durable, and promised.
    pub(crate) fn open(&mut self) {
        let (opened, found) = open(&self.disk).expect("a good disk");
        let recovered = &opened.recovered;
        self.promise.check(recovered, &found).expect("what was promised");
        self.generation = 0;
        let base = recovered.base.index.0 as usize;
        let fits = |content: &&Arc<Vec<Entry>>| content[base.min(content.len())..] == found[..];
        let content = self.promise.contents.iter().find(fits).expect("just checked");
        self.entries = content.to_vec();
        self.vote = recovered.hard_state;
        self.term = self.vote.term.0.max(self.term) + 1;
        self.promise.contents = vec![Arc::new(self.entries.clone())];
        self.promise.hard_states = vec![self.vote];
        self.promise.incarnation = Some(recovered.sender.incarnation);
        self.promise.boot = recovered.sender.boot.0;
        self.opened = Some(opened);
        self.say();
    }

    /// The program is killed and started again.
    pub(crate) fn restart(&mut self) {
        self.disk.kill();
        self.opened = None;
        self.open();
    }

    /// The power is cut, and the program started again. What of the unflushed is lost is drawn.
    pub(crate) fn cut_power(&mut self) {
        self.disk.kill();
        self.opened = None;
        let content = self.disk.content();
        let fates: Vec<Fate> = content
            .pieces()
            .iter()
            .map(|_| if self.rng.bool() { Fate::Kept } else { Fate::Lost })
            .collect();
        let image = content.image(&fates);
        self.disk.hold(image);
        self.open();
    }

    fn changed(&mut self) {
        self.promise.contents.push(Arc::new(self.entries.clone()));
        self.say();
    }

    /// Appends an entry of `bytes` bytes, of a kind that is meant to confuse.
    pub(crate) fn append(&mut self, bytes: usize) {
        while self.log().room() < record_bytes(bytes, false) {
            self.prepare_one();
        }
        let payload = match self.rng.u8(..4) {
            0 => vec![0; bytes],
            1 => self.looks_like_log(bytes),
            _ => vec![self.rng.u8(..); bytes],
        };
        let id = EntryId::new(Term(self.term), LogIndex(self.entries.len() as u64 + 1));
        self.entries.push((id, payload.clone()));
        // What is in the log may reach the disk at any time once it is told to be flushed.
        let term = self.term;
        self.log().append(&header(term, id.index), &payload);
        self.changed();
    }

    /// Bytes of a segment of this very log: records, marks and all.
    fn looks_like_log(&self, bytes: usize) -> Vec<u8> {
        let log = Path::new(DIR).join("log");
        let names = self.disk.list(&log).expect("a good disk");
        let last = names.last().expect("there is always a segment");
        let file = self.disk.open(&log.join(last), OpenMode::Read).expect("a good disk");
        let mut payload = vec![0; bytes];
        file.read_at(&mut payload, 64).expect("a good disk");
        payload
    }

    pub(crate) fn publish(&mut self) -> Position {
        self.log().publish()
    }

    /// Ends the batch, flushes everything, and acknowledges it.
    pub(crate) fn commit(&mut self) {
        let target = self.publish();
        self.flush(target);
        self.promise.contents = vec![Arc::new(self.entries.clone())];
        self.say();
    }

    fn flush(&mut self, target: Position) {
        let opened = self.opened.as_mut().expect("open");
        let flushed = opened.flusher.as_mut().expect("on disk").flush(target).expect("a good disk");
        opened.log.persisted(flushed);
    }

    pub(crate) fn cover(&mut self) {
        if let Some(target) = self.log().cover() {
            self.flush(target);
        }
    }

    /// Keeps the first `keep` entries.
    pub(crate) fn truncate(&mut self, keep: usize) {
        let keep = keep.max(self.base()).max(self.promise.released);
        if keep >= self.last() {
            return;
        }
        while self.log().room() == 0 {
            self.prepare_one();
        }
        self.generation += 1;
        self.term += 1;
        let generation = self.generation;
        self.entries.truncate(keep);
        self.log().truncate_from(LogIndex(keep as u64 + 1), generation);
        self.changed();
    }

    /// Lets go of acknowledged entries.
    pub(crate) fn release(&mut self, up_to: usize) {
        let up_to = up_to.min(self.acknowledged());
        self.promise.released = self.promise.released.max(up_to);
        self.say();
        self.log().release(LogIndex(up_to as u64));
    }

    pub(crate) fn prepare_one(&mut self) -> bool {
        self.opened.as_mut().expect("open").preparer.step().expect("a good disk")
    }

    pub(crate) fn prepare(&mut self) {
        while self.prepare_one() {}
    }

    /// Stores a higher term, with a vote or without.
    pub(crate) fn vote(&mut self) {
        let next = HardState {
            term: Term(self.vote.term.0.max(self.term) + 1),
            voted_for: self.rng.bool().then(|| NodeId(self.rng.u64(1..4))),
        };
        self.term = next.term.0;
        self.promise.hard_states.push(next);
        self.say();
        let opened = self.opened.as_mut().expect("open");
        opened.flusher.as_mut().expect("on disk").store_hard_state(next).expect("a good disk");
        self.vote = next;
        self.promise.hard_states = vec![next];
        self.say();
    }

    /// Entries of these sizes, a flush for each.
    pub(crate) fn entries(&mut self, sizes: impl IntoIterator<Item = usize>) {
        for size in sizes {
            self.append(size);
            self.commit();
        }
    }
}
