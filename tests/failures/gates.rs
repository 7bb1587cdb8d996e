//! Gates that hold up whoever passes, and a disk with a gate in it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oarlock::storage::{OpenMode, Storage, StorageFile, StorageLock};
use parking_lot::{Condvar, Mutex};

use crate::journal::PATIENCE;

/// Open at first. While it is closed, whoever passes waits in it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Whether it is closed, and how many wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.state.lock().0 = true;
    }

    pub(crate) fn open(&self) {
        self.state.lock().0 = false;
        self.changed.notify_all();
    }

    pub(crate) fn pass(&self) {
        let mut state = self.state.lock();
        if !state.0 {
            return;
        }
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            self.changed.wait(&mut state);
        }
        state.1 -= 1;
    }

    /// Waits until somebody waits in it.
    pub(crate) fn until_held(&self) {
        let mut state = self.state.lock();
        while state.1 == 0 {
            assert!(
                !self.changed.wait_for(&mut state, PATIENCE).timed_out(),
                "nobody came to the gate"
            );
        }
    }
}

/// Opens a gate however a test ends, so that no thread stays behind.
pub(crate) struct Opener<'a>(pub(crate) &'a Gate);

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// What can be done to a disk.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// Flushes pass through it.
    pub(crate) flush: Gate,
    /// No space is left for anything new.
    pub(crate) full: AtomicBool,
}

/// The disk below, with troubles.
#[derive(Debug)]
pub(crate) struct TroubledDisk<D> {
    disk: D,
    troubles: Arc<Troubles>,
}

impl<D: Storage> TroubledDisk<D> {
    pub(crate) fn new(disk: D) -> (Arc<Self>, Arc<Troubles>) {
        let troubles = Arc::<Troubles>::default();
        (Arc::new(Self { disk, troubles: Arc::clone(&troubles) }), troubles)
    }
}

impl<D: Storage> Storage for TroubledDisk<D> {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(TroubledFile { file, troubles: Arc::clone(&self.troubles) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.troubles.flush.pass();
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn StorageLock>>> {
        self.disk.lock(path)
    }

    fn random(&self) -> io::Result<u128> {
        self.disk.random()
    }
}

#[derive(Debug)]
struct TroubledFile {
    file: Arc<dyn StorageFile>,
    troubles: Arc<Troubles>,
}

impl StorageFile for TroubledFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.troubles.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.allocate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.troubles.flush.pass();
        self.file.sync()
    }

    fn file(&self) -> Option<&File> {
        self.file.file()
    }
}
