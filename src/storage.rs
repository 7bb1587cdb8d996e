//! The seam between the log and the disk: files as the log needs them, and nothing more.
//!
//! The real implementation is [`wal::Disk`](crate::wal::Disk); the simulator has one that keeps live and
//! durable bytes apart and loses what a crash may lose.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; it must not exist.
    Create,
}

/// Directories and files.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Creates a directory and its parents, durably; an existing one is left alone.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>>;
    /// Renames a file, replacing one that is there. Durable after [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file. Durable after [`sync_dir`](Self::sync_dir).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and deletions in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock file at `path` (created if missing) for as long as the answer lives; `None` if
    /// another process, or another lock of this one, has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn StorageLock>>>;
    /// A number that nobody else draws, to name a new directory by: the operating system's randomness,
    /// which differs on machines that start at the same instant. A simulated disk draws it from its
    /// seed, so that a run repeats byte by byte.
    fn random(&self) -> io::Result<u128> {
        os_random()
    }
}

/// 128 bits of the operating system's randomness.
pub(crate) fn os_random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // Waits until the system has gathered entropy, early in a boot; so few bytes are never cut short.
        let flags = rustix::rand::GetRandomFlags::empty();
        let filled = rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes, flags))?;
        assert_eq!(filled, bytes.len(), "getrandom filled {filled} bytes");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

/// A lock file that is held; dropping it lets go.
pub trait StorageLock: fmt::Debug + Send + Sync {}

/// An open file.
pub trait StorageFile: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; a file that ends before is `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`. Durable after [`sync`](Self::sync).
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reserves space for `len` bytes, so that writing below never meets a full disk, and makes the file
    /// that long.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes everything written durable. After an error nothing may be assumed of what was written since
    /// the last success, and another attempt proves nothing.
    fn sync(&self) -> io::Result<()>;
    /// The file to map; `None` if it lives somewhere that cannot be mapped, and its bytes are read into
    /// anonymous memory instead.
    fn file(&self) -> Option<&File>;
}
