//! The real disk: [`Storage`] over the operating system's files.
//!
//! Every call is one or a few system calls and keeps nothing in memory, so what it reports is what the
//! kernel reported. A failed call is never tried again here: after a failed flush the kernel may call
//! the next one a success although the bytes are gone, and only the caller can stop for good.
//!
//! Linux is what is tested. `fdatasync` is used there, which also flushes a changed length; on Apple
//! systems the standard library asks for `F_FULLFSYNC`, because `fsync` stops at the drive's cache.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::storage::{OpenMode, Storage, StorageFile, StorageLock};

/// How many zeros are written at once where a file system cannot reserve space.
const FILL_BYTES: usize = 1 << 20;

/// The machine's file systems.
///
/// ```
/// use oarlock::storage::{OpenMode, Storage};
/// use oarlock::wal::Disk;
///
/// # fn main() -> std::io::Result<()> {
/// # let temp = tempfile::tempdir()?;
/// # let dir = temp.path().join("data");
/// Disk.create_dir(&dir)?;
/// let file = Disk.open(&dir.join("greeting"), OpenMode::Create)?;
/// file.write_at(b"hello", 0)?;
/// file.sync()?; // the bytes are durable,
/// Disk.sync_dir(&dir)?; // and so is the name
/// assert_eq!(Disk.list(&dir)?, ["greeting"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Storage for Disk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let chain: Vec<&Path> = dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()).collect();
        let missing = chain.iter().take_while(|dir| !dir.is_dir()).count();
        for dir in chain[..missing].iter().rev() {
            match fs::create_dir(dir) {
                // Somebody else made it in the meantime.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                result => result?,
            }
        }
        flush_entries(&chain, missing, |dir| self.sync_dir(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        match mode {
            OpenMode::Read => options.read(true),
            OpenMode::Write => options.read(true).write(true),
            OpenMode::Create => options.read(true).write(true).create_new(true),
        };
        Ok(Arc::new(DiskFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn StorageLock>>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(DiskLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Flushes the names of directories, each in its parent; `chain` leads from a directory upwards, and its
/// first `created` were created by us.
///
/// The others are flushed too: an earlier process may have created them and died before it flushed them,
/// and everything below would be lost with their names. A mount point ends this, for nothing of ours
/// created it.
fn flush_entries(
    chain: &[&Path],
    created: usize,
    mut flush: impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    for (depth, dir) in chain.iter().enumerate() {
        let parent = match dir.parent() {
            None => break,
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
        };
        if fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev() {
            break;
        }
        match flush(parent) {
            // A directory that this user may not read was set up by somebody else.
            Err(error) if depth >= created && error.kind() == io::ErrorKind::PermissionDenied => {}
            result => result?,
        }
    }
    Ok(())
}

/// An open file of the machine.
#[derive(Debug)]
struct DiskFile(File);

impl StorageFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let reserve = || rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len);
        match rustix::io::retry_on_intr(reserve) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(&self.0, len),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn file(&self) -> Option<&File> {
        Some(&self.0)
    }
}

/// Reserves space by writing zeros after the end, for file systems without `fallocate`. Flushed, because
/// such a file system (NFS, for one) may report a full disk only then.
fn fill(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES];
    let mut at = file.metadata()?.len();
    while at < len {
        let step = (len - at).min(FILL_BYTES as u64);
        file.write_all_at(&zeros[..step as usize], at)?;
        at += step;
    }
    file.sync_all()
}

/// A lock on an open file; the kernel lets go of it with the last copy of the descriptor, also when the
/// process is killed. A child that is forked without `exec` holds a copy.
#[derive(Debug)]
struct DiskLock {
    _file: File,
}

impl StorageLock for DiskLock {}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn a_second_lock_in_the_same_process_is_refused_until_the_first_is_dropped() {
        let temp = temp();
        let path = temp.path().join("lock");
        let first = Disk.lock(&path).expect("no I/O error").expect("free");
        assert!(Disk.lock(&path).expect("no I/O error").is_none());
        drop(first);
        assert!(Disk.lock(&path).expect("no I/O error").is_some());
    }

    #[test]
    fn directories_are_created_with_their_parents_and_left_alone_when_they_exist() {
        let temp = temp();
        let dir = temp.path().join("a/b/c");
        Disk.create_dir(&dir).expect("created");
        Disk.open(&dir.join("file"), OpenMode::Create).expect("created");
        Disk.create_dir(&dir).expect("already there");
        assert_eq!(Disk.list(&dir).expect("listed"), ["file"]);
    }

    #[test]
    fn a_directorys_name_is_flushed_in_its_parent_and_so_are_the_names_above_it() {
        let temp = temp();
        let dir = temp.path().join("a/b");
        Disk.create_dir(&dir).expect("created");
        let chain: Vec<&Path> = dir.ancestors().collect();
        let mut flushed = Vec::new();
        let flush = |dir: &Path| {
            flushed.push(dir.to_path_buf());
            Ok(())
        };
        flush_entries(&chain, 2, flush).expect("flushed");
        assert_eq!(flushed[..2], [temp.path().join("a"), temp.path().to_path_buf()]);
        // Up to where the file system is mounted, which nobody here has created.
        let device = |dir: &Path| fs::metadata(dir).expect("there").dev();
        let ends = flushed.last().expect("some").ancestors();
        let ends: Vec<_> = ends.take_while(|above| device(above) == device(&dir)).collect();
        assert_eq!(ends.len(), 1, "{flushed:?}");
    }

    #[test]
    fn a_name_that_cannot_be_flushed_is_an_error_unless_somebody_else_set_the_directory_up() {
        let temp = temp();
        let dir = temp.path().join("a");
        Disk.create_dir(&dir).expect("created");
        let chain: Vec<&Path> = dir.ancestors().collect();
        let refused = |kind: io::ErrorKind| move |_: &Path| Err(io::Error::from(kind));
        let denied = io::ErrorKind::PermissionDenied;
        assert!(flush_entries(&chain, 1, refused(denied)).is_err(), "we have created it");
        flush_entries(&chain, 0, refused(denied)).expect("it was there before");
        assert!(flush_entries(&chain, 0, refused(io::ErrorKind::Other)).is_err());
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_an_error() {
        let temp = temp();
        let path = temp.path().join("file");
        Disk.open(&path, OpenMode::Create).expect("created");
        assert!(Disk.create_dir(&path).is_err());
        assert!(Disk.create_dir(&path.join("below")).is_err());
    }

    #[test]
    fn listing_is_sorted_and_leaves_directories_out() {
        let temp = temp();
        for name in ["b", "a", "c"] {
            Disk.open(&temp.path().join(name), OpenMode::Create).expect("created");
        }
        Disk.create_dir(&temp.path().join("aa")).expect("created");
        assert_eq!(Disk.list(temp.path()).expect("listed"), ["a", "b", "c"]);
        let missing = Disk.list(&temp.path().join("missing")).expect_err("missing");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn each_mode_insists_on_what_it_says_about_the_file_being_there() {
        let temp = temp();
        let path = temp.path().join("file");
        for mode in [OpenMode::Read, OpenMode::Write] {
            let error = Disk.open(&path, mode).expect_err("missing");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        Disk.open(&path, OpenMode::Create).expect("created").write_at(b"x", 0).expect("written");
        let error = Disk.open(&path, OpenMode::Create).expect_err("there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let reader = Disk.open(&path, OpenMode::Read).expect("there");
        assert!(reader.write_at(b"y", 0).is_err(), "opened for reading only");
        Disk.open(&path, OpenMode::Write).expect("there").write_at(b"z", 0).expect("written");
        let mut byte = [0];
        reader.read_at(&mut byte, 0).expect("read");
        assert_eq!(&byte, b"z");
    }

    #[test]
    fn reading_past_the_end_is_an_unexpected_end() {
        let temp = temp();
        let file = Disk.open(&temp.path().join("file"), OpenMode::Create).expect("created");
        file.write_at(b"abc", 0).expect("written");
        let error = file.read_at(&mut [0; 4], 0).expect_err("too short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn allocating_makes_a_file_longer_never_shorter_and_backs_it_with_blocks() {
        let temp = temp();
        let path = temp.path().join("file");
        let file = Disk.open(&path, OpenMode::Create).expect("created");
        file.write_at(b"abc", 0).expect("written");
        file.allocate(1 << 20).expect("allocated");
        assert_eq!(file.len().expect("a length"), 1 << 20);
        let blocks = fs::metadata(&path).expect("there").blocks();
        assert!(blocks * 512 >= 1 << 20, "{blocks} blocks of 512 bytes for 1 MiB");
        file.allocate(4096).expect("allocated");
        assert_eq!(file.len().expect("a length"), 1 << 20);
        let mut head = [0; 4];
        file.read_at(&mut head, 0).expect("read");
        assert_eq!(&head, b"abc\0");
    }

    #[test]
    fn filling_with_zeros_reserves_space_as_well_and_keeps_what_is_there() {
        let temp = temp();
        let path = temp.path().join("file");
        let file = Disk.open(&path, OpenMode::Create).expect("created");
        file.write_at(b"abc", 0).expect("written");
        let len = FILL_BYTES as u64 + 4096;
        fill(file.file().expect("a real file"), len).expect("filled");
        assert_eq!(file.len().expect("a length"), len);
        assert!(fs::metadata(&path).expect("there").blocks() * 512 >= len);
        let mut head = [0; 4];
        file.read_at(&mut head, 0).expect("read");
        assert_eq!(&head, b"abc\0");
    }

    #[test]
    fn renaming_replaces_and_removing_removes() {
        let temp = temp();
        let (a, b) = (temp.path().join("a"), temp.path().join("b"));
        Disk.open(&a, OpenMode::Create).expect("created").write_at(b"new", 0).expect("written");
        Disk.open(&b, OpenMode::Create).expect("created").write_at(b"older", 0).expect("written");
        Disk.rename(&a, &b).expect("renamed");
        Disk.sync_dir(temp.path()).expect("flushed");
        assert_eq!(Disk.list(temp.path()).expect("listed"), ["b"]);
        assert_eq!(Disk.open(&b, OpenMode::Read).expect("there").len().expect("a length"), 3);
        Disk.remove(&b).expect("removed");
        assert_eq!(Disk.remove(&b).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }
}
