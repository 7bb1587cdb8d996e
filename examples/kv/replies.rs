//! Replies on their way to one client.
//!
//! A client that does not read keeps its replies in our memory. Each has a little room of its own; what goes
//! beyond it comes out of the budget that all share. Who needs it for one long reply and finds nothing there
//! gets an error in its place. Who sends many requests before it reads a reply gets room for these too, up
//! to a limit and as long as there is plenty: it may be unable to read before it has sent everything.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::budget::{Budget, Share};
use crate::resp;

/// The longest reply; whoever asks for more gets an error.
pub(crate) const MAX_REPLY_BYTES: usize = 4 << 20;
/// Each connection's own room.
pub(crate) const OWN_BYTES: usize = 256 << 10;
/// What may wait for one client before no more is done for it, but for the last reply.
pub(crate) const MAX_WAITING_BYTES: usize = 32 << 20;
/// What is kept for a client for which nothing waits.
const KEPT_BYTES: usize = 16 << 10;
/// Room that is there for a reply which is short whatever the client asks.
const SHORT_BYTES: usize = 4 << 10;

/// Replies that were made and not written yet.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Never none. Each is given its room when it is begun, so that nothing is moved when there are more.
    parts: VecDeque<Vec<u8>>,
    /// How much of the first is written.
    written: usize,
    share: Share,
}

impl Replies {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { parts: [Vec::new()].into(), written: 0, share: Share::of(budget) }
    }

    pub(crate) fn are_none(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum::<usize>() - self.written
    }

    /// All that waits.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> {
        self.parts.iter().flatten().copied().skip(self.written)
    }

    fn last(&mut self) -> &mut Vec<u8> {
        self.parts.back_mut().expect("never without one")
    }

    /// Whether some are to be written before more are made. If not, there is room for a short one.
    pub(crate) fn are_many(&mut self) -> bool {
        if self.last().len() + SHORT_BYTES <= OWN_BYTES {
            return self.len() >= MAX_WAITING_BYTES;
        }
        self.len() >= MAX_WAITING_BYTES || !self.begin(OWN_BYTES, Share::grow_if_plenty_to)
    }

    /// For replies that are short whatever the client asks.
    pub(crate) fn short(&mut self) -> &mut Vec<u8> {
        self.last()
    }

    /// For a reply that takes no more than so many bytes. If it may not, an error stands in its place.
    pub(crate) fn room(&mut self, bytes: usize) -> Option<&mut Vec<u8>> {
        if bytes > MAX_REPLY_BYTES {
            let error = format!("ERR the reply would exceed {MAX_REPLY_BYTES} bytes");
            resp::error(self.short(), &error);
            return None;
        }
        let last = self.last();
        let wanted = last.len() + bytes;
        if wanted <= OWN_BYTES {
            let capacity = wanted.max(2 * last.capacity()).min(OWN_BYTES);
            if wanted > last.capacity() {
                last.reserve_exact(capacity - last.len());
            }
        } else if !self.begin(bytes.max(OWN_BYTES), Share::grow_to) {
            resp::error(self.short(), "ERR too many replies wait for clients that do not read");
            return None;
        }
        Some(self.last())
    }

    /// A reply that is there already.
    pub(crate) fn ready(&mut self, reply: &[u8]) {
        if let Some(out) = self.room(reply.len()) {
            out.extend_from_slice(reply);
        }
    }

    /// Whether there is a new part for so many bytes.
    fn begin(&mut self, bytes: usize, pay: impl FnOnce(&mut Share, usize) -> bool) -> bool {
        let beyond = (self.capacity() + bytes).saturating_sub(OWN_BYTES);
        let paid = pay(&mut self.share, beyond);
        if paid {
            self.parts.push_back(Vec::with_capacity(bytes));
        }
        paid
    }

    fn capacity(&self) -> usize {
        self.parts.iter().map(Vec::capacity).sum()
    }

    /// What is to be written first; nothing if there is nothing.
    pub(crate) fn first(&mut self) -> &[u8] {
        while self.parts.len() > 1 && self.parts[0].len() == self.written {
            self.written = 0;
            self.parts.pop_front();
            self.share.shrink_to(self.capacity().saturating_sub(OWN_BYTES));
        }
        &self.parts[0][self.written..]
    }

    /// So many bytes of the first are written.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.first().is_empty() {
            self.written = 0;
            let only = self.last();
            only.clear();
            if only.capacity() > KEPT_BYTES {
                *only = Vec::new();
            }
            self.share.shrink_to(0);
        }
    }
}
