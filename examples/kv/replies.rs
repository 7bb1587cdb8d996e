//! Replies on their way to one client, and what those of all clients may take together.
//!
//! A client that does not read keeps its replies in our memory. Each has a little room of its own; what goes
//! beyond it comes out of one budget, and who finds none there gets an error in place of the reply. So a
//! thousand clients that never read cost what the budget says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::resp;

/// The longest reply; whoever asks for more gets an error.
pub(crate) const MAX_REPLY_BYTES: usize = 4 << 20;
/// Each connection's own room. Once it is full, replies are written before more are made.
pub(crate) const OWN_BYTES: usize = 256 << 10;
/// What the replies of all connections may take beyond their own room.
pub(crate) const MAX_SHARED_BYTES: usize = 256 << 20;

/// What is left of the bytes that all connections share.
#[derive(Debug)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Whether so many bytes were there; if so they are taken.
    fn take(&self, bytes: usize) -> bool {
        let rest = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }
}

/// Bytes out of the budget, which go back to it in the end.
#[derive(Debug)]
struct Taken {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Taken {
    /// Whether there are so many now.
    fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let taken = self.budget.take(more);
        if taken {
            self.bytes += more;
        }
        taken
    }

    fn give_back(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Replies that were made and not written yet.
#[derive(Debug)]
pub(crate) struct Replies {
    bytes: Vec<u8>,
    taken: Taken,
}

impl Replies {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { bytes: Vec::new(), taken: Taken { budget, bytes: 0 } }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For replies that are short whatever the client asks.
    pub(crate) fn short(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// For a reply that takes no more than so many bytes. If it may not, an error stands in its place.
    pub(crate) fn room(&mut self, bytes: usize) -> Option<&mut Vec<u8>> {
        if bytes > MAX_REPLY_BYTES {
            resp::error(
                &mut self.bytes,
                &format!("ERR the reply would exceed {MAX_REPLY_BYTES} bytes"),
            );
            return None;
        }
        if !self.taken.grow_to((self.bytes.len() + bytes).saturating_sub(OWN_BYTES)) {
            resp::error(&mut self.bytes, "ERR too many replies wait for clients that do not read");
            return None;
        }
        if self.bytes.len() + bytes > OWN_BYTES {
            self.bytes.reserve_exact(bytes);
        }
        Some(&mut self.bytes)
    }

    /// Whether they are to be written before more are made.
    pub(crate) fn are_many(&self) -> bool {
        self.bytes.len() >= OWN_BYTES
    }

    /// They are written.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(OWN_BYTES);
        self.taken.give_back();
    }
}
