//! Small files that are only ever written as a whole.
//!
//! A file is written beside its place under another name, flushed, renamed into place, and the directory
//! flushed: a crash at any point leaves the old file or the new one, whole. What a crash leaves under
//! the other name is never read. Never changes a file in place.

use std::io;
use std::path::Path;

use crate::error::StorageError;
use crate::storage::{OpenMode, Storage};

/// Puts `bytes` into the file `name` of `dir`, durably.
///
/// # Errors
/// The first operation that failed. The file is then the old one or the new one, and which of them is
/// not known before the directory is opened anew.
pub(super) fn replace(
    storage: &dyn Storage,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<(), StorageError> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}.tmp"));
    let failed = |operation| {
        let temporary = temporary.clone();
        move |error| StorageError::io(temporary, operation, error)
    };
    match storage.remove(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.map_err(failed("remove"))?,
    }
    let file = storage.open(&temporary, OpenMode::Create).map_err(failed("create"))?;
    file.write_at(bytes, 0).map_err(failed("write"))?;
    file.sync().map_err(failed("flush"))?;
    storage.rename(&temporary, &path).map_err(failed("rename"))?;
    storage.sync_dir(dir).map_err(|error| StorageError::io(dir, "flush", error))
}

/// The bytes of a file, or `None` if there is no such file.
///
/// # Errors
/// A failed operation, or a file of more than `max` bytes, which is not read.
pub(super) fn read(
    storage: &dyn Storage,
    path: &Path,
    max: usize,
) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match storage.open(path, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(|error| StorageError::io(path, "open", error))?,
    };
    let len = file.len().map_err(|error| StorageError::io(path, "length", error))?;
    if len > max as u64 {
        return Err(StorageError::damaged(path, format!("at most {max} bytes, not {len}")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).map_err(|error| StorageError::io(path, "read", error))?;
    Ok(Some(bytes))
}
