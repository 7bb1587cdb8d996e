//! A log that is driven by hand on one thread, and says at every moment what it has promised.

use std::io;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use oarlock::error::StorageError;
use oarlock::record::record_bytes;
use oarlock::simulation::SimDisk;
use oarlock::storage::{OpenMode, Storage};
use oarlock::wal::{LogOptions, Opened, Position};
use oarlock::{EntryId, HardState, LogIndex, NodeId, Term};

use super::disk::{CrashDisk, Fate, Piece};
use super::promise::{Entry, Promise};
use crate::wal_rig::{DIR, header, try_open_with, try_read_all};

/// Segments of four blocks: there are many ends in little log.
pub(crate) const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 16 << 10, ready_segments: 1, max_entry_bytes: 4 << 10 };

pub(crate) type Outcome = Result<(), StorageError>;

/// Opens the log on `disk`, and reads all of it.
pub(crate) fn open(disk: &CrashDisk) -> Result<(Opened, Vec<Entry>), StorageError> {
    open_in(disk.storage(), Path::new(DIR))
}

fn open_in(storage: Arc<dyn Storage>, dir: &Path) -> Result<(Opened, Vec<Entry>), StorageError> {
    let opened = try_open_with(storage, dir, &OPTIONS)?;
    let entries = try_read_all(&opened.log)?;
    Ok((opened, entries))
}

/// What a driven log stands on.
pub(crate) trait Ground {
    fn storage(&self) -> Arc<dyn Storage>;

    /// Told before anything is done that could break it.
    fn promise(&self, _promise: &Promise) {}

    /// The program that uses it dies.
    fn kill(&self);

    /// The machine dies. What of the unflushed is lost may be drawn.
    fn cut_power(&self, rng: &mut Rng);
}

impl Ground for CrashDisk {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    fn promise(&self, promise: &Promise) {
        CrashDisk::promise(self, promise.clone());
    }

    fn kill(&self) {
        CrashDisk::kill(self);
    }

    fn cut_power(&self, rng: &mut Rng) {
        let content = self.content();
        let drawn = |_: &Piece| if rng.bool() { Fate::Kept } else { Fate::Lost };
        let fates: Vec<Fate> = content.pieces().iter().map(drawn).collect();
        CrashDisk::kill(self);
        self.hold(content.image(&fates));
    }
}

impl Ground for Arc<SimDisk> {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::<SimDisk>::clone(self)
    }

    fn kill(&self) {
        SimDisk::kill(self);
    }

    fn cut_power(&self, _rng: &mut Rng) {
        self.crash();
    }
}

pub(crate) struct Driver<G> {
    pub(crate) ground: G,
    pub(crate) opened: Option<Opened>,
    pub(crate) promise: Promise,
    /// Every entry there is, the released ones included.
    entries: Vec<Entry>,
    pub(crate) rng: Rng,
    pub(crate) term: u64,
    generation: u64,
    flushed: Position,
    vote: HardState,
}

impl<G: Ground> Driver<G> {
    pub(crate) fn new(ground: G, seed: u64) -> Self {
        Self {
            ground,
            opened: None,
            promise: Promise::none(),
            entries: Vec::new(),
            rng: Rng::with_seed(seed),
            term: 1,
            generation: 0,
            flushed: Position::default(),
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

    /// The entries that were not let go of.
    pub(crate) fn held(&self) -> &[Entry] {
        &self.entries[self.base()..]
    }

    pub(crate) fn base(&self) -> usize {
        self.opened.as_ref().map_or(0, |opened| opened.log.base().index.0 as usize)
    }

    fn log(&mut self) -> &mut oarlock::wal::Log {
        &mut self.opened.as_mut().expect("open").log
    }

    fn say(&self) {
        self.ground.promise(&self.promise);
    }

    /// Opens the log. What it has found is durable, and promised.
    pub(crate) fn open(&mut self) -> Outcome {
        let (opened, found) = open_in(self.ground.storage(), Path::new(DIR))?;
        let recovered = &opened.recovered;
        self.promise.check(recovered, &found).expect("what was promised");
        self.generation = 0;
        self.flushed = Position::default();
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
        Ok(())
    }

    /// The program is killed and started again.
    pub(crate) fn restart(&mut self) -> Outcome {
        self.ground.kill();
        self.opened = None;
        self.open()
    }

    /// The power is cut, and the program started again.
    pub(crate) fn cut_power(&mut self) -> Outcome {
        self.opened = None;
        self.ground.cut_power(&mut self.rng);
        self.open()
    }

    fn changed(&mut self) {
        self.promise.contents.push(Arc::new(self.entries.clone()));
        self.say();
    }

    /// Appends an entry of `bytes` bytes, of a kind that is meant to confuse.
    pub(crate) fn append(&mut self, bytes: usize) -> Outcome {
        self.make_room(record_bytes(bytes, false))?;
        let payload = match self.rng.u8(..4) {
            0 => vec![0; bytes],
            1 => self.looks_like_log(bytes).unwrap_or_else(|_| vec![1; bytes]),
            _ => vec![self.rng.u8(..); bytes],
        };
        let id = EntryId::new(Term(self.term), LogIndex(self.entries.len() as u64 + 1));
        self.entries.push((id, payload.clone()));
        let header = header(self.term, id.index);
        self.log().append(&header, &payload);
        self.changed();
        Ok(())
    }

    /// Bytes of a segment of this very log: records, marks and all.
    fn looks_like_log(&self, bytes: usize) -> io::Result<Vec<u8>> {
        let storage = self.ground.storage();
        let log = Path::new(DIR).join("log");
        let names = storage.list(&log)?;
        let last = names.last().expect("there is always a segment");
        let mut payload = vec![0; bytes];
        storage.open(&log.join(last), OpenMode::Read)?.read_at(&mut payload, 64)?;
        Ok(payload)
    }

    fn make_room(&mut self, bytes: usize) -> Outcome {
        while self.log().room() < bytes {
            assert!(self.prepare_one()?, "no segment to be had");
        }
        Ok(())
    }

    /// Ends the batch. What the core hears of flushes meanwhile is old.
    pub(crate) fn publish(&mut self) {
        let flushed = self.flushed;
        self.log().publish();
        self.log().persisted(flushed);
    }

    /// Ends the batch, flushes everything, and acknowledges it.
    pub(crate) fn commit(&mut self) -> Outcome {
        let target = self.log().publish();
        self.flush(target)?;
        self.promise.contents = vec![Arc::new(self.entries.clone())];
        self.say();
        Ok(())
    }

    fn flush(&mut self, target: Position) -> Outcome {
        let opened = self.opened.as_mut().expect("open");
        let flushed = opened.flusher.as_mut().expect("on disk").flush(target)?;
        opened.log.persisted(flushed);
        self.flushed = flushed;
        Ok(())
    }

    pub(crate) fn cover(&mut self) -> Outcome {
        self.log().cover().map_or(Ok(()), |target| self.flush(target))
    }

    /// Keeps the first `keep` entries.
    pub(crate) fn truncate(&mut self, keep: usize) -> Outcome {
        let keep = keep.max(self.base()).max(self.promise.released);
        if keep >= self.last() {
            return Ok(());
        }
        self.make_room(1)?;
        self.generation += 1;
        self.term += 1;
        let generation = self.generation;
        self.entries.truncate(keep);
        self.log().truncate_from(LogIndex(keep as u64 + 1), generation);
        self.changed();
        Ok(())
    }

    /// Lets go of acknowledged entries.
    pub(crate) fn release(&mut self, up_to: usize) {
        let up_to = up_to.min(self.acknowledged());
        self.promise.released = self.promise.released.max(up_to);
        self.say();
        self.log().release(LogIndex(up_to as u64));
    }

    fn prepare_one(&mut self) -> Result<bool, StorageError> {
        self.opened.as_mut().expect("open").preparer.step()
    }

    pub(crate) fn prepare(&mut self) -> Outcome {
        while self.prepare_one()? {}
        Ok(())
    }

    /// Stores a higher term, with a vote or without.
    pub(crate) fn vote(&mut self) -> Outcome {
        let next = HardState {
            term: Term(self.vote.term.0.max(self.term) + 1),
            voted_for: self.rng.bool().then(|| NodeId(self.rng.u64(1..4))),
        };
        self.term = next.term.0;
        self.promise.hard_states.push(next);
        self.say();
        let opened = self.opened.as_mut().expect("open");
        opened.flusher.as_mut().expect("on disk").store_hard_state(next)?;
        self.vote = next;
        self.promise.hard_states = vec![next];
        self.say();
        Ok(())
    }

    /// Entries of these sizes, a flush for each.
    pub(crate) fn entries(&mut self, sizes: impl IntoIterator<Item = usize>) -> Outcome {
        for size in sizes {
            self.append(size)?;
            self.commit()?;
        }
        Ok(())
    }
}
