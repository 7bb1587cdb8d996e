//! A disk in memory that loses what a real one may lose.
//!
//! Every file and directory exists twice: *live*, as running programs see it, and *durable*, as it is
//! after a power cut. Writing changes the live side; a flush carries it over. In a crash each change in
//! between may have reached the disk or not, as drawn from the seed:
//!
//! - **Bytes** reach the disk in any order, by pages of 4096 bytes, torn at sectors of 512. Bytes that
//!   were written twice may be there as they were in between. A length may be there without its bytes,
//!   which are then zeros.
//! - **Names** (creations, renames, deletions) stand in their directory when it is flushed; flushing the
//!   file itself does nothing for them. In a crash a prefix of a directory's changes survives, as on a
//!   file system with a journal, or any subset, as POSIX allows. A rename survives whole or not at all.
//! - **A failed flush** leaves the pages clean and undurable, as Linux does: programs still read the new
//!   bytes, and later flushes succeed without writing them. Flushing a directory fails alike.
//! - **A failed write** may have written the beginning.
//!
//! Never simulated: rot (see [`SimDisk::rot`] for doing it by hand), torn sectors, a full disk but by
//! [`Fault`], and time. Paths are
//! compared as they are written. Directories themselves are durable at once, as
//! [`Storage::create_dir`] promises.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use self::content::{Change, DirData, FileData, FileId, Survival};
use super::trouble::Trouble;
use super::workload::mix;
use crate::storage::{OpenMode, Storage, StorageFile, StorageLock};

/// A call on the disk, for choosing which of them fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named after the call")]
pub enum Operation {
    CreateDir,
    List,
    Open,
    Rename,
    Remove,
    SyncDir,
    Lock,
    Len,
    Read,
    Write,
    Allocate,
    Sync,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// `EIO`: the device is broken.
    Io,
    /// `ENOSPC`: the disk is full.
    NoSpace,
    /// `EROFS`: the file system has become read-only.
    ReadOnly,
    /// `EMFILE`: the process has too many files open.
    TooManyFiles,
    /// `ENOMEM`: the machine has no memory left for it.
    NoMemory,
}

/// A failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which operations count; `None`: all.
    pub operation: Option<Operation>,
    /// How many of them still succeed.
    pub after: u64,
    /// How the next one fails.
    pub error: FaultError,
    /// Whether all later ones fail as well, until [`SimDisk::clear_faults`].
    pub lasting: bool,
}

/// A simulated disk. Files opened on it, and locks, belong to the life of a machine that ends with
/// [`crash`](Self::crash) or [`kill`](Self::kill): those from before are dead and only give errors.
///
/// A clone is another disk, with the same content and the same future, but no open files and no locks.
///
/// ```
/// # use std::path::Path;
/// use oarlock::simulation::SimDisk;
/// use oarlock::storage::{OpenMode, Storage};
///
/// # fn main() -> std::io::Result<()> {
/// let disk = SimDisk::new(42);
/// let dir = Path::new("data");
/// disk.create_dir(dir)?;
/// let file = disk.open(&dir.join("greeting"), OpenMode::Create)?;
/// file.write_at(b"hello", 0)?;
/// file.sync()?;
/// disk.crash_losing_all();
/// assert!(disk.list(dir)?.is_empty(), "the bytes were flushed, and the name was not");
/// # Ok(())
/// # }
/// ```
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// A failure to come, and whose it is.
#[derive(Clone)]
struct Planned {
    fault: Fault,
    trouble: Option<Trouble>,
    has_struck: bool,
}

#[derive(Clone)]
struct State {
    rng: Rng,
    /// Grows with every crash and kill; what was opened in an earlier life is dead.
    life: u64,
    operations: u64,
    /// Files that were flushed, and were so without a failure.
    flushes: u64,
    /// Files that the power cut met with something written and not flushed.
    dirty: u64,
    faults: Vec<Planned>,
    /// The troubles whose failures have come, each with the call that was first to fail.
    strikes: Vec<(Trouble, Operation)>,
    files: BTreeMap<FileId, FileData>,
    dirs: BTreeMap<PathBuf, DirData>,
    /// Who holds which lock: path, and a number that no other holder gets.
    locks: BTreeMap<PathBuf, u64>,
    /// The last number that was given to a file or a lock.
    last_id: u64,
}

impl SimDisk {
    /// An empty disk whose accidents are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::with_seed(seed),
            life: 0,
            operations: 0,
            flushes: 0,
            dirty: 0,
            faults: Vec::new(),
            strikes: Vec::new(),
            files: BTreeMap::new(),
            dirs: BTreeMap::new(),
            locks: BTreeMap::new(),
            last_id: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Cuts the power: of what was not flushed, whatever the seed says is lost.
    pub fn crash(&self) {
        self.lock_state().crash(Survival::Drawn);
    }

    /// Cuts the power, and loses everything that was not flushed.
    pub fn crash_losing_all(&self) {
        self.lock_state().crash(Survival::Nothing);
    }

    /// Kills the program. The machine goes on: nothing is lost, and what was not flushed still is not.
    pub fn kill(&self) {
        self.lock_state().end_life();
    }

    /// Another disk, as this one would be after [`crash_losing_all`](Self::crash_losing_all).
    #[must_use]
    pub fn durable_copy(&self) -> Self {
        let copy = self.clone();
        copy.crash_losing_all();
        copy
    }

    /// How many operations there have been, failed ones included. A simulated run counts the same every
    /// time, so that a test can let each of them fail in turn.
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// Plans a failure.
    pub fn fail(&self, fault: Fault) {
        self.plan(fault, None);
    }

    /// As [`fail`](Self::fail), because of `trouble`.
    pub(super) fn fail_by(&self, trouble: Trouble, fault: Fault) {
        self.plan(fault, Some(trouble));
    }

    fn plan(&self, fault: Fault, trouble: Option<Trouble>) {
        self.lock_state().faults.push(Planned { fault, trouble, has_struck: false });
    }

    /// Cancels the failures that are there because of `trouble`.
    pub(super) fn clear_faults_by(&self, trouble: Trouble) {
        self.lock_state().faults.retain(|planned| planned.trouble != Some(trouble));
    }

    /// The troubles whose failures have come, each with the call that was first to fail.
    pub(super) fn strikes(&self) -> Vec<(Trouble, Operation)> {
        self.lock_state().strikes.clone()
    }

    /// Cancels all failures that are planned or last.
    pub fn clear_faults(&self) {
        self.lock_state().faults.clear();
    }

    /// What programs read in a file; `None` if there is no such file.
    pub fn live_bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock_state();
        let id = state.find(path).ok()?;
        Some(state.files[&id].live.clone())
    }

    /// What was flushed of the file whose name was flushed; `None` if there is no such name.
    pub fn durable_bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock_state();
        let (dir, name) = split(path).ok()?;
        let id = state.dirs.get(&dir)?.durable.get(&name)?;
        Some(state.files[id].durable.clone())
    }

    /// Looks at what [`durable_bytes`](Self::durable_bytes) copies.
    pub(super) fn durable_bytes_in<T>(
        &self,
        path: &Path,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let state = self.lock_state();
        let (dir, name) = split(path).ok()?;
        let id = state.dirs.get(&dir)?.durable.get(&name)?;
        Some(look(&state.files[id].durable))
    }

    /// The names in a directory that were flushed, sorted.
    pub(super) fn durable_names(&self, dir: &Path) -> Vec<String> {
        let state = self.lock_state();
        state.dirs.get(dir).map_or_else(Vec::new, |dir| dir.durable.keys().cloned().collect())
    }

    /// A number for all that is durable.
    pub(super) fn fingerprint(&self) -> u64 {
        let state = self.lock_state();
        let names = state.dirs.values().flat_map(|dir| &dir.durable);
        names.fold(0, |number, (name, id)| {
            let crc =
                crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), &state.files[id].durable);
            mix(number, u64::from(crc))
        })
    }

    /// How often a file was flushed.
    pub(super) fn flushes(&self) -> u64 {
        self.lock_state().flushes
    }

    /// How many files a power cut has met with something in them that was written and not flushed.
    pub(super) fn cut_while_dirty(&self) -> u64 {
        self.lock_state().dirty
    }

    /// Damages a file behind everybody's back, both its live and its durable bytes.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn rot(&self, path: &Path, mut damage: impl FnMut(&mut Vec<u8>)) {
        let mut state = self.lock_state();
        let id = state.find(path).expect("a file to damage");
        let file = state.file(id);
        damage(&mut file.live);
        damage(&mut file.durable);
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Clone for SimDisk {
    fn clone(&self) -> Self {
        let mut state = self.lock_state().clone();
        for file in state.files.values_mut() {
            file.handles = 0;
        }
        state.locks.clear();
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock_state();
        f.debug_struct("SimDisk")
            .field("operations", &state.operations)
            .field("files", &state.files.len())
            .finish_non_exhaustive()
    }
}

impl Storage for SimDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.step(Operation::CreateDir)?;
        for dir in dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            if state.find(dir).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        for dir in dir.ancestors() {
            state.dirs.entry(dir.to_path_buf()).or_default();
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.lock_state();
        state.step(Operation::List)?;
        Ok(state.dir(dir)?.live.keys().cloned().collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.lock_state();
        // What is there takes no space.
        let never = (mode != OpenMode::Create).then_some(FaultError::NoSpace);
        state.step_unless(Operation::Open, never)?;
        let id = match (state.find(path), mode) {
            (Ok(_), OpenMode::Create) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(id), OpenMode::Read | OpenMode::Write) => id,
            (Err(_), OpenMode::Create) => state.create(path)?,
            (Err(error), OpenMode::Read | OpenMode::Write) => return Err(error),
        };
        state.file(id).handles += 1;
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { state: Arc::clone(&self.state), id, life: state.life, writable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.step(Operation::Rename)?;
        let id = state.find(from)?;
        let ((dir, from), (to_dir, to)) = (split(from)?, split(to)?);
        if dir != to_dir {
            let error = "renaming between directories is not simulated";
            return Err(io::Error::new(io::ErrorKind::Unsupported, error));
        }
        state.dir(&dir)?.change(Change { unlink: Some(from), link: Some((to, id)) });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.step(Operation::Remove)?;
        state.find(path)?;
        let (dir, name) = split(path)?;
        state.dir(&dir)?.change(Change { unlink: Some(name), link: None });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let failed = state.step(Operation::SyncDir);
        let mut rng = state.rng.fork();
        let dir = state.dir(dir)?;
        if failed.is_err() {
            dir.reach_disk(Survival::Drawn, &mut rng);
            return failed;
        }
        dir.flush();
        state.forget_deleted();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn StorageLock>>> {
        let mut state = self.lock_state();
        state.step(Operation::Lock)?;
        if state.find(path).is_err() {
            state.create(path)?;
        }
        if state.locks.contains_key(path) {
            return Ok(None);
        }
        let holder = state.next_id();
        state.locks.insert(path.to_path_buf(), holder);
        let path = path.to_path_buf();
        Ok(Some(Box::new(SimLock { state: Arc::clone(&self.state), path, holder })))
    }

    fn random(&self) -> io::Result<u128> {
        Ok(self.lock_state().rng.u128(..))
    }
}

/// The directory of a path and the name in it.
fn split(path: &Path) -> io::Result<(PathBuf, String)> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => Ok((dir.to_path_buf(), name.to_string_lossy().into_owned())),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

impl State {
    /// Counts an operation, and fails it if that was planned.
    fn step(&mut self, operation: Operation) -> io::Result<()> {
        self.step_unless(operation, None)
    }

    /// As [`step`](Self::step), for a call that cannot fail in the way of `never`.
    fn step_unless(&mut self, operation: Operation, never: Option<FaultError>) -> io::Result<()> {
        self.operations += 1;
        let mut error = None;
        let strikes = &mut self.strikes;
        self.faults.retain_mut(|Planned { fault, trouble, has_struck }| {
            if fault.operation.is_some_and(|only| only != operation) || never == Some(fault.error) {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            error = Some(fault.error);
            if !std::mem::replace(has_struck, true) {
                strikes.extend(trouble.map(|trouble| (trouble, operation)));
            }
            fault.lasting
        });
        match error {
            None => Ok(()),
            Some(FaultError::Io) => Err(Errno::IO.into()),
            Some(FaultError::NoSpace) => Err(Errno::NOSPC.into()),
            Some(FaultError::ReadOnly) => Err(Errno::ROFS.into()),
            Some(FaultError::TooManyFiles) => Err(Errno::MFILE.into()),
            Some(FaultError::NoMemory) => Err(Errno::NOMEM.into()),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn dir(&mut self, dir: &Path) -> io::Result<&mut DirData> {
        self.dirs.get_mut(dir).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn find(&self, path: &Path) -> io::Result<FileId> {
        let (dir, name) = split(path)?;
        let dir = self.dirs.get(&dir).ok_or(io::ErrorKind::NotFound)?;
        Ok(*dir.live.get(&name).ok_or(io::ErrorKind::NotFound)?)
    }

    fn create(&mut self, path: &Path) -> io::Result<FileId> {
        if self.dirs.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (dir, name) = split(path)?;
        let id = FileId(self.next_id());
        self.dir(&dir)?.change(Change { unlink: None, link: Some((name, id)) });
        self.files.insert(id, FileData::default());
        Ok(id)
    }

    fn file(&mut self, id: FileId) -> &mut FileData {
        self.files.get_mut(&id).expect("a file is kept while it has a name or a handle")
    }

    fn end_life(&mut self) {
        self.life += 1;
        self.locks.clear();
    }

    fn crash(&mut self, survival: Survival) {
        self.end_life();
        for dir in self.dirs.values_mut() {
            dir.reach_disk(survival, &mut self.rng);
            dir.live.clone_from(&dir.durable);
        }
        for file in self.files.values_mut() {
            self.dirty += u64::from(file.is_dirty());
            file.reach_disk(survival, &mut self.rng);
            file.live.clone_from(&file.durable);
        }
        self.forget_deleted();
    }

    /// Drops files that no directory names, live, durable or in between, and no handle holds.
    fn forget_deleted(&mut self) {
        let mut named: BTreeSet<FileId> = BTreeSet::new();
        for dir in self.dirs.values() {
            named.extend(dir.live.values().chain(dir.durable.values()));
            named.extend(dir.pending.iter().filter_map(|change| Some(change.link.as_ref()?.1)));
        }
        self.files.retain(|id, file| file.handles > 0 || named.contains(id));
    }
}

/// An open file of a [`SimDisk`].
struct SimFile {
    state: Arc<Mutex<State>>,
    id: FileId,
    life: u64,
    writable: bool,
}

impl SimFile {
    /// The disk, if the machine has not gone down since the file was opened.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.life == self.life {
            Ok(state)
        } else {
            Err(io::Error::other("the file was opened before the crash"))
        }
    }

    /// The disk, if the file may be changed as well.
    fn alive_for_writing(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.writable { self.alive() } else { Err(Errno::BADF.into()) }
    }
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.alive()?;
        state.step(Operation::Len)?;
        Ok(state.file(self.id).live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        state.step(Operation::Read)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let start = offset as usize;
        let bytes = state.file(self.id).live.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.alive_for_writing()?;
        let failed = state.step(Operation::Write);
        let mut rng = state.rng.fork();
        let written = if failed.is_err() { rng.usize(..=bytes.len()) } else { bytes.len() };
        state.file(self.id).write(&bytes[..written], offset as usize, &mut rng);
        failed
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.alive_for_writing()?;
        state.step(Operation::Allocate)?;
        let file = state.file(self.id);
        if len as usize > file.live.len() {
            file.set_len(len as usize);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        let failed = state.step(Operation::Sync);
        let mut rng = state.rng.fork();
        state.flushes += u64::from(failed.is_ok());
        let file = state.file(self.id);
        if failed.is_err() {
            file.reach_disk(Survival::Drawn, &mut rng);
        } else {
            file.flush();
        }
        failed
    }

    fn file(&self) -> Option<&File> {
        None
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some(file) = self.state.lock().files.get_mut(&self.id) {
            file.handles -= 1;
        }
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.id.0)
    }
}

/// A lock that is held on a [`SimDisk`].
struct SimLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    holder: u64,
}

impl StorageLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        // After a crash the lock may be another's.
        if state.locks.get(&self.path) == Some(&self.holder) {
            state.locks.remove(&self.path);
        }
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimLock({})", self.path.display())
    }
}

#[cfg(test)]
mod tests;
