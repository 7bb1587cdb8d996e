//! The state machine that both contestants replicate, and a view of it from outside.
//!
//! Every command of a run is the same bytes, so the state says how many commands were applied, and
//! nothing but that number of them leads to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oarlock::error::{ApplyError, EncodeError};
use oarlock::{Applied, EntryId, StateMachine};

/// Folds every command into one number, which is the response.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    count: u64,
    sum: u64,
    applied: EntryId,
    mirror: Arc<Mirror>,
}

/// A node's state as others may see it while it runs.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    count: AtomicU64,
    sum: AtomicU64,
}

impl Mirror {
    /// How many commands were applied.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// What they were folded into. Says something only while nothing is being applied.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Acquire)
    }
}

impl Fold {
    pub(crate) fn mirrored_by(mirror: Arc<Mirror>) -> Self {
        Self { mirror, ..Self::default() }
    }

    /// Applies a command; returns the response.
    pub(crate) fn apply(&mut self, command: &[u8]) -> u64 {
        self.count += 1;
        self.sum = fold(self.sum, command);
        self.mirror.sum.store(self.sum, Ordering::Relaxed);
        self.mirror.count.store(self.count, Ordering::Release);
        self.sum
    }
}

/// What `sum` becomes by `command`.
pub(crate) fn fold(sum: u64, command: &[u8]) -> u64 {
    let head = command.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
    sum.wrapping_mul(31).wrapping_add(head).wrapping_add(command.len() as u64)
}

impl StateMachine for Fold {
    type Command = Arc<[u8]>;
    type Response = u64;

    fn encode(command: &Arc<[u8]>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(command);
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], at: &Applied) -> Result<u64, ApplyError> {
        self.applied = at.entry;
        Ok(self.apply(bytes))
    }

    // Lets the nodes drop log that all of them have applied; raft-rs compacts its log as well.
    fn last_applied(&self) -> Option<EntryId> {
        Some(self.applied)
    }
}
