//! Memory that all connections share: long replies and long requests are paid for out of one budget.
//!
//! Each connection has a little room of its own. What goes beyond it comes from here, and who finds nothing
//! left is refused. So a thousand clients that never read, or never finish what they send, cost what the
//! budget says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all connections may take beyond the room of their own.
pub(crate) const MAX_SHARED_BYTES: usize = 256 << 20;

/// What is left of the bytes that all connections share.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
    /// What is for those who need it, not for those who would only be quicker with it.
    needed: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: AtomicUsize::new(bytes), needed: bytes / 2 }
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Whether so many bytes were there and so many others are left; if so they are taken.
    fn take(&self, bytes: usize, others: usize) -> bool {
        let rest = |left: usize| left.checked_sub(bytes).filter(|rest| *rest >= others);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }
}

/// Bytes out of the budget, which go back to it in the end.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Nothing yet.
    pub(crate) fn of(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Whether there are so many now.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        self.grow_leaving(bytes, 0)
    }

    /// The same for what could be done without, which leaves others half of the budget.
    pub(crate) fn grow_if_plenty_to(&mut self, bytes: usize) -> bool {
        self.grow_leaving(bytes, self.budget.needed)
    }

    fn grow_leaving(&mut self, bytes: usize, others: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let taken = more == 0 || self.budget.take(more, others);
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Gives back what is above so many.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.budget.left.fetch_add(less, Ordering::Relaxed);
        self.bytes -= less;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
