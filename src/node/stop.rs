//! Whether the node stops, and why: one word that every loop looks at, and the first cause.

use crate::error::StopCause;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, Ordering};

/// How far a node is in stopping. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// It serves.
    Running = 0,
    /// It takes nothing new, and finishes what it has taken while it can.
    Draining = 1,
    /// It flushes what it has written, and no more.
    Closing = 2,
    /// Every loop ends at once.
    Halted = 3,
}

/// The node's phase and the reason for it.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    phase: AtomicU8,
    cause: Mutex<Option<StopCause>>,
}

impl Stop {
    /// The current phase.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Running,
            1 => Phase::Draining,
            2 => Phase::Closing,
            _ => Phase::Halted,
        }
    }

    /// Goes on to `phase`, because of `cause` if there is no cause yet; an earlier phase changes nothing.
    pub(crate) fn advance(&self, phase: Phase, cause: StopCause) {
        // The cause is there before anybody can see that the node stops.
        self.cause.lock().get_or_insert(cause);
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }

    /// Whether nothing new is taken.
    pub(crate) fn is_stopping(&self) -> bool {
        self.phase() != Phase::Running
    }

    /// Whether every loop ends at once.
    pub(crate) fn is_halted(&self) -> bool {
        self.phase() == Phase::Halted
    }

    /// Why the node stops; `None` while it runs.
    pub(crate) fn cause(&self) -> Option<StopCause> {
        self.cause.lock().clone()
    }

    /// Why the node stops, for answers that are given because it does.
    pub(crate) fn cause_or_shutdown(&self) -> StopCause {
        self.cause().unwrap_or(StopCause::Shutdown)
    }
}
