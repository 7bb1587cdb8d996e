//! Shared bytes out of a log: what is sent, applied and copied without being copied first.
//!
//! A [`Slice`] keeps the memory it points into alive and unchanged: written bytes of a segment are
//! never overwritten while somebody holds it. A record never lies across two slices.

use std::fmt;
use std::sync::Arc;

/// Memory that slices are cut from.
pub trait SharedBytes: Send + Sync {
    /// The `len` bytes from `start`, which never change while `self` lives.
    ///
    /// # Panics
    /// If that reaches past what has been written.
    fn bytes(&self, start: usize, len: usize) -> &[u8];
}

impl SharedBytes for Vec<u8> {
    fn bytes(&self, start: usize, len: usize) -> &[u8] {
        &self[start..start + len]
    }
}

/// A piece of shared memory.
#[derive(Clone)]
pub struct Slice {
    owner: Arc<dyn SharedBytes>,
    start: usize,
    len: usize,
}

impl Slice {
    /// The `len` bytes of `owner` from `start`.
    pub fn new(owner: Arc<dyn SharedBytes>, start: usize, len: usize) -> Self {
        Self { owner, start, len }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.owner.bytes(self.start, self.len)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part from `from` on.
    ///
    /// # Panics
    /// If there are fewer bytes than that.
    #[must_use]
    pub fn skip(&self, from: usize) -> Self {
        assert!(from <= self.len, "skip {from} of a slice of {}", self.len);
        Self { owner: Arc::clone(&self.owner), start: self.start + from, len: self.len - from }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes)", self.len)
    }
}

/// Consecutive records in as many pieces as they happen to lie in.
#[derive(Clone, Debug, Default)]
pub struct Slices {
    parts: Vec<Slice>,
    bytes: usize,
}

impl Slices {
    /// No bytes.
    pub const fn new() -> Self {
        Self { parts: Vec::new(), bytes: 0 }
    }

    /// Adds a piece at the end; an empty one is left out.
    pub fn push(&mut self, slice: Slice) {
        if !slice.is_empty() {
            self.bytes += slice.len();
            self.parts.push(slice);
        }
    }

    /// The pieces in order.
    pub fn parts(&self) -> &[Slice] {
        &self.parts
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl From<Vec<u8>> for Slices {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        let mut slices = Self::new();
        slices.push(Slice::new(Arc::new(bytes), 0, len));
        slices
    }
}
