//! What the core thread and the preparer hand to each other: segments that are ready, and segments that
//! the core is done with.
//!
//! One short lock, taken by the core at rolls and releases only, and by the preparer once a step. Nothing
//! is created, deleted, mapped or unmapped under it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Position;
use super::catalog::{Catalog, Place};
use super::segment::{Segment, WriteBack, Writer};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// An empty segment, in place under its name and mapped.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) writer: Writer,
    pub(super) write_back: WriteBack,
}

/// What the core is done with.
#[derive(Debug, Default)]
pub(super) struct Returned {
    /// Sealed segments whose mappings are to go once they are flushed.
    pub(super) cooling: Vec<Arc<Segment>>,
    /// Segments whose entries are not needed any more.
    pub(super) retired: Vec<Place>,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    inner: Mutex<Inner>,
    /// How many are ready; changed under the lock, looked at without it.
    count: AtomicUsize,
    wanted: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    ready: VecDeque<Ready>,
    returned: Returned,
}

impl Pool {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn add(&self, ready: Ready) {
        let mut inner = self.inner.lock();
        inner.ready.push_back(ready);
        self.count.store(inner.ready.len(), Ordering::Release);
    }

    /// Takes the segment that was ready first.
    pub(super) fn take(&self) -> Option<Ready> {
        let mut inner = self.inner.lock();
        let ready = inner.ready.pop_front();
        self.count.store(inner.ready.len(), Ordering::Release);
        self.wake();
        ready
    }

    pub(super) fn cool(&self, segment: Arc<Segment>) {
        self.inner.lock().returned.cooling.push(segment);
        self.wake();
    }

    pub(super) fn retire(&self, place: Place) {
        self.inner.lock().returned.retired.push(place);
        self.wake();
    }

    /// What was given back since the last call.
    pub(super) fn collect(&self) -> Returned {
        std::mem::take(&mut self.inner.lock().returned)
    }

    /// Whether something happened since the last [`listen`](Self::listen).
    pub(super) fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    pub(super) fn listen(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    fn wake(&self) {
        self.wanted.store(true, Ordering::Release);
    }
}

/// Everything that the parts of one open log share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) catalog: Catalog,
    pub(super) pool: Pool,
    /// The flusher's last completed flush, as a word.
    flushed: AtomicU64,
    /// Bytes of all files of the log, or of all its memory.
    bytes: AtomicU64,
}

impl Shared {
    pub(super) fn flushed(&self) -> Position {
        Position::from_word(self.flushed.load(Ordering::Acquire))
    }

    pub(super) fn set_flushed(&self, position: Position) {
        self.flushed.store(position.to_word(), Ordering::Release);
    }

    /// What the log takes: its segments, those that are ready or being made, and those that are let go of
    /// and not gone.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn take_bytes(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "{bytes} bytes of {before} are gone");
    }
}
