//! What a simulated disk holds: files and directories, each live and durable, and what lies between.
//!
//! Pure data: a crash or a failed flush draws from the generator it is given what of the unflushed
//! reaches the durable side. Knows nothing of handles, locks and planned failures.

use std::collections::BTreeMap;

use fastrand::Rng;

pub(super) const SECTOR_BYTES: usize = 512;
pub(super) const PAGE_SECTORS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) u64);

#[derive(Clone, Default)]
pub(super) struct FileData {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// The sectors that a flush would write, each with what it held at some moment since the last flush,
    /// if that may have reached the disk.
    dirty: BTreeMap<usize, Option<Vec<u8>>>,
    /// Whether a flush would change the length.
    len_dirty: bool,
    /// How many handles are open: a deleted file lives on while there are any.
    pub(super) handles: usize,
}

#[derive(Clone, Default)]
pub(super) struct DirData {
    pub(super) live: BTreeMap<String, FileId>,
    pub(super) durable: BTreeMap<String, FileId>,
    /// What leads from `durable` to `live`, in order.
    pub(super) pending: Vec<Change>,
}

/// A change of a directory, which happens whole or not at all.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) unlink: Option<String>,
    pub(super) link: Option<(String, FileId)>,
}

/// What of the unflushed survives a crash.
#[derive(Clone, Copy)]
pub(super) enum Survival {
    Nothing,
    Drawn,
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        if let Some(name) = &self.unlink {
            names.remove(name);
        }
        if let Some((name, id)) = &self.link {
            names.insert(name.clone(), *id);
        }
    }
}

impl DirData {
    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub(super) fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for change in &pending {
            change.apply(&mut self.durable);
        }
    }

    /// Carries over what survives of the pending changes, and forgets the others.
    pub(super) fn reach_disk(&mut self, survival: Survival, rng: &mut Rng) {
        let pending = std::mem::take(&mut self.pending);
        if matches!(survival, Survival::Nothing) {
            return;
        }
        let as_with_a_journal = rng.bool();
        let prefix = rng.usize(..=pending.len());
        for (place, change) in pending.iter().enumerate() {
            let survives = if as_with_a_journal { place < prefix } else { rng.bool() };
            if survives {
                change.apply(&mut self.durable);
            }
        }
    }
}

impl FileData {
    pub(super) fn write(&mut self, bytes: &[u8], offset: usize, rng: &mut Rng) {
        let end = offset + bytes.len();
        if bytes.is_empty() {
            return;
        }
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let live = &self.live;
            self.dirty
                .entry(sector)
                // What is overwritten may have reached the disk before, unasked.
                .and_modify(|between| {
                    if rng.u8(..4) == 0 {
                        *between = Some(sector_of(live, sector).to_vec());
                    }
                })
                .or_insert(None);
        }
        if end > self.live.len() {
            self.set_len(end);
        }
        self.live[offset..end].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.live.resize(len, 0);
        self.len_dirty = true;
    }

    /// Whether a flush would write anything but the length.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn flush(&mut self) {
        for (sector, _) in std::mem::take(&mut self.dirty) {
            store_sector(&mut self.durable, sector, sector_of(&self.live, sector));
        }
        if std::mem::take(&mut self.len_dirty) {
            self.durable.resize(self.live.len(), 0);
        }
    }

    /// Carries over what survives of the dirty sectors; all of them are clean afterwards.
    pub(super) fn reach_disk(&mut self, survival: Survival, rng: &mut Rng) {
        let dirty = std::mem::take(&mut self.dirty);
        let len_dirty = std::mem::take(&mut self.len_dirty);
        if matches!(survival, Survival::Nothing) {
            return;
        }
        // In quarters, from nothing to everything.
        let chance = rng.u8(..=4);
        let mut page = None;
        let mut page_survives = false;
        let mut torn = false;
        for (sector, between) in dirty {
            if page != Some(sector / PAGE_SECTORS) {
                page = Some(sector / PAGE_SECTORS);
                page_survives = rng.u8(..4) < chance;
                torn = rng.u8(..4) == 0;
            }
            let survives = if torn { rng.u8(..4) < chance } else { page_survives };
            if !survives {
                continue;
            }
            let bytes = match &between {
                Some(bytes) if rng.u8(..3) == 0 => bytes,
                _ => sector_of(&self.live, sector),
            };
            store_sector(&mut self.durable, sector, bytes);
        }
        if len_dirty && rng.bool() {
            self.durable.resize(self.live.len().max(self.durable.len()), 0);
        }
    }
}

/// A sector's bytes; fewer at the end of the file, none past it.
fn sector_of(bytes: &[u8], sector: usize) -> &[u8] {
    let end = bytes.len().min((sector + 1) * SECTOR_BYTES);
    bytes.get(sector * SECTOR_BYTES..end).unwrap_or(&[])
}

fn store_sector(durable: &mut Vec<u8>, sector: usize, bytes: &[u8]) {
    let start = sector * SECTOR_BYTES;
    let end = start + bytes.len();
    if durable.len() < end {
        durable.resize(end, 0);
    }
    durable[start..end].copy_from_slice(bytes);
}
