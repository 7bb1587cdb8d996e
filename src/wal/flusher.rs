//! Makes the log durable: the only writer of segment files in use.
//!
//! A flush completes the marks in its range, writes exactly that range back with `pwrite`, adds an echo in
//! the block behind it, and flushes the file. Whatever has gathered since the last flush goes at once (group
//! commit). Across a segment's
//! end the sealed segment is durable before a byte of its successor is written, so a successor never has
//! anything in it that its predecessor does not lead to.
//!
//! After any failure nothing is written any more: the kernel may call the next flush a success although
//! the bytes are gone, so another attempt would prove nothing.

use std::sync::Arc;

use super::Position;
use super::format::{SEGMENT_HEADER_BYTES, echo_at, encode_echo};
use super::identity::Directory;
use super::pool::Shared;
use super::segment::{Backing, WriteBack};
use super::vote::VoteFile;
use crate::error::{StorageError, StorageErrorKind};
use crate::types::HardState;

/// Owned by the `wal` thread; see [`wal`](super).
#[derive(Debug)]
pub struct Flusher {
    shared: Arc<Shared>,
    /// The segment that holds `flushed`.
    current: WriteBack,
    flushed: Position,
    vote: VoteFile,
    poisoned: bool,
    directory: Arc<Directory>,
}

impl Flusher {
    pub(super) fn new(
        shared: Arc<Shared>,
        current: WriteBack,
        vote: VoteFile,
        directory: Arc<Directory>,
    ) -> Self {
        let flushed = current.segment().position(SEGMENT_HEADER_BYTES);
        shared.set_flushed(flushed);
        Self { shared, current, flushed, vote, poisoned: false, directory }
    }

    /// Makes everything before `target` durable; returns how far it is, which is at least `target`.
    ///
    /// # Errors
    /// `Io`, after which nothing may be assumed of what was not durable before; from then on `Poisoned`.
    ///
    /// # Panics
    /// If `target` is no position that [`Log::publish`](super::Log::publish) or
    /// [`Log::cover`](super::Log::cover) returned.
    pub fn flush(&mut self, target: Position) -> Result<Position, StorageError> {
        self.check()?;
        if target > self.flushed {
            // Cleared at the end: whatever happens in between, nothing is written after it.
            self.poisoned = true;
            while self.flushed.sequence() < target.sequence() {
                // The core left this segment before it published the target, so its end is final.
                self.flush_current(self.current.segment().published())?;
                self.current = self.shared.catalog.take_write_back(self.flushed.sequence());
                self.flushed = self.current.segment().position(SEGMENT_HEADER_BYTES);
            }
            self.flush_current(target.offset())?;
            self.poisoned = false;
        }
        Ok(self.flushed)
    }

    /// Makes term and vote durable. What depends on them may be said once this has returned.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    ///
    /// # Panics
    /// If the term goes back, or a vote is changed within its term.
    pub fn store_hard_state(&mut self, state: HardState) -> Result<(), StorageError> {
        self.check()?;
        self.poisoned = true;
        self.vote.store(state)?;
        self.poisoned = false;
        Ok(())
    }

    fn flush_current(&mut self, to: usize) -> Result<(), StorageError> {
        let from = self.flushed.offset();
        if from == to {
            return Ok(());
        }
        self.current.complete_marks(from, to, self.flushed);
        let Backing { file, path, salt } =
            self.current.segment().backing().expect("a log with a flusher has files");
        let failed = |operation| {
            move |error| StorageError::io(path, operation, error).at_offset(from as u64)
        };
        file.write_at(self.current.bytes(from, to), from as u64).map_err(failed("write"))?;
        // A block that is lost later takes the marks of all flushes in it along; this one stays to tell. It
        // is in the file alone, and the flush that comes to its place writes over it.
        let echo = encode_echo(self.flushed, *salt);
        file.write_at(&echo, echo_at(to) as u64).map_err(failed("write"))?;
        file.sync().map_err(failed("flush"))?;
        self.flushed = self.current.segment().position(to);
        self.shared.set_flushed(self.flushed);
        Ok(())
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::new(self.directory.path(), StorageErrorKind::Poisoned));
        }
        Ok(())
    }
}
