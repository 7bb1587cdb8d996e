//! Makes the log durable: the only writer of segment files in use.
//!
//! A flush completes the marks in its range, writes exactly that range back with `pwrite`, adds an echo in
//! the block behind it, and flushes the file. Whatever has gathered since the last flush goes at once (group
//! commit). Across a segment's
//! end the sealed segment is durable before a byte of its successor is written, so a successor never has
//! anything in it that its predecessor does not lead to.
//!
//! Each call on the disk that a power cut may come between is a step of its own for who wants that: the
//! `wal` loop takes them one by one, so that the simulator can crash, and the core truncate, in between. What
//! a flush proves is what was written back before it, whatever the target is by then.
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
    /// Up to where `current` was written back, if that is further than it was flushed.
    written: Option<usize>,
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
        Self { shared, current, flushed, written: None, vote, poisoned: false, directory }
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
        while self.flushed < target {
            self.write_back(target)?;
            self.sync()?;
        }
        Ok(self.flushed)
    }

    /// Writes back what lies before `target`, but not beyond the end of a segment, to be made durable by
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    ///
    /// # Panics
    /// As [`flush`](Self::flush), and if something was written back already and not made durable.
    pub(crate) fn write_back(&mut self, target: Position) -> Result<(), StorageError> {
        self.check()?;
        assert_eq!(self.written, None, "written back, and not flushed, in {}", self.flushed);
        if target <= self.flushed {
            return Ok(());
        }
        // Cleared at the end: whatever happens in between, nothing is written after it.
        self.poisoned = true;
        let mut from = self.flushed;
        while from.sequence() < target.sequence() {
            // The core left this segment before it published the target, so its end is final.
            let end = self.current.segment().published();
            if from.offset() < end {
                break;
            }
            self.current = self.shared.catalog.take_write_back(from.sequence());
            from = self.current.segment().position(SEGMENT_HEADER_BYTES);
        }
        self.flushed = from;
        let is_last = from.sequence() == target.sequence();
        let to = if is_last { target.offset() } else { self.current.segment().published() };
        if from.offset() < to {
            self.write_current(to)?;
            self.written = Some(to);
        }
        self.poisoned = false;
        Ok(())
    }

    /// Makes durable what was written back; returns how far the log is durable.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub(crate) fn sync(&mut self) -> Result<Position, StorageError> {
        self.check()?;
        if let Some(to) = self.written {
            self.poisoned = true;
            let Backing { file, path, .. } = self.backing();
            file.sync().map_err(|error| {
                StorageError::io(path, "flush", error).at_offset(self.flushed.offset() as u64)
            })?;
            self.written = None;
            self.flushed = self.current.segment().position(to);
            self.shared.set_flushed(self.flushed);
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
        self.begin_hard_state(state)?;
        while !self.step_hard_state()? {}
        Ok(())
    }

    /// Begins to make term and vote durable, for [`step_hard_state`](Self::step_hard_state) to go on with.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    ///
    /// # Panics
    /// As [`store_hard_state`](Self::store_hard_state), and if that is under way for another state.
    pub(crate) fn begin_hard_state(&mut self, state: HardState) -> Result<(), StorageError> {
        self.check()?;
        self.vote.begin(state)
    }

    /// Does the next write or flush for the term and vote that are being stored; returns whether they are
    /// durable.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub(crate) fn step_hard_state(&mut self) -> Result<bool, StorageError> {
        self.check()?;
        self.poisoned = true;
        let stored = self.vote.step()?;
        self.poisoned = false;
        Ok(stored)
    }

    fn write_current(&mut self, to: usize) -> Result<(), StorageError> {
        let from = self.flushed.offset();
        self.current.complete_marks(from, to, self.flushed);
        let Backing { file, path, salt } = self.backing();
        let failed = |error| StorageError::io(path, "write", error).at_offset(from as u64);
        file.write_at(self.current.bytes(from, to), from as u64).map_err(failed)?;
        // A block that is lost later takes the marks of all flushes in it along; this one stays to tell. It
        // is in the file alone, and the flush that comes to its place writes over it.
        let echo = encode_echo(self.flushed, *salt);
        file.write_at(&echo, echo_at(to) as u64).map_err(failed)
    }

    fn backing(&self) -> &Backing {
        self.current.segment().backing().expect("a log with a flusher has files")
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::new(self.directory.path(), StorageErrorKind::Poisoned));
        }
        Ok(())
    }
}
