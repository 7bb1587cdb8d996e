//! What the threads of one node, and the handles to it, have in common.
//!
//! Every lane here either holds a single value that grows or is replaced, or is bounded by the credits
//! that the inbox gives out; so no thread ever waits for another to make room.

use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::apply_loop::Applier;
use super::group::Pending;
use super::inbox::Inbox;
use super::reads::ReadInbox;
use super::status::Status;
use super::stop::{Phase, Stop};
use super::watch::{IndexWatch, LeadershipWatch};
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::error::StopCause;
use crate::message::Append;
use crate::slices::Slices;
use crate::state_machine::StateMachine;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::transport::Links;
use crate::types::{HardState, LogIndex, NodeId, Term};
use crate::wake::{Waker, Wakeup};
use crate::wal::Position;

/// What a loop waits for when it has done a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing: there is more to do.
    No,
    /// A wake.
    Wake,
    /// A wake, or this moment.
    Until(Time),
    /// The loop is done for good.
    Done,
}

/// One loop of a node: takes what has arrived, does a step, and says what to wait for. A thread drives
/// it, or the simulator.
pub(crate) trait Loop: Send {
    fn step(&mut self, now: Time) -> Wait;
}

macro_rules! wakers {
    ($($name:ident),*) => {
        /// One waker for each loop.
        #[derive(Clone, Debug)]
        pub(crate) struct Wakers { $(pub(crate) $name: Waker),* }

        /// What the loops' threads wait on.
        #[derive(Debug)]
        pub(crate) struct Wakeups { $(pub(crate) $name: Wakeup),* }

        impl Wakers {
            pub(crate) fn new() -> (Self, Wakeups) {
                $(let $name = Waker::new();)*
                (Self { $($name: $name.0),* }, Wakeups { $($name: $name.1),* })
            }

            pub(crate) fn wake_all(&self) {
                $(self.$name.wake();)*
            }
        }
    };
}
wakers!(core, wal, seg, apply, snap);

/// A moment since when a thread has been in one and the same piece of work; for the watchdog.
#[derive(Debug, Default)]
pub(crate) struct Busy(AtomicU64);

impl Busy {
    /// Work begins.
    pub(crate) fn begin(&self, now: Time) {
        self.0.store(now.0.max(1), Ordering::Relaxed);
    }

    /// Work ends.
    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// How long the current piece of work has taken.
    pub(crate) fn lasts(&self, now: Time) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => now.since(Time(since)),
        }
    }
}

/// Between the core and the `wal` loop: words that grow, and the latest term and vote.
#[derive(Debug, Default)]
pub(crate) struct WalLane {
    target: AtomicU64,
    flushed: AtomicU64,
    cover_wanted: AtomicBool,
    hard_state: Mutex<Option<HardState>>,
    hard_state_done: Mutex<Option<HardState>>,
    /// The core has asked for its last flush.
    closing: AtomicBool,
    pub(crate) busy: Busy,
}

impl WalLane {
    pub(crate) fn set_target(&self, target: Position) {
        self.target.store(target.to_word(), Ordering::Release);
    }

    pub(crate) fn target(&self) -> Position {
        Position::from_word(self.target.load(Ordering::Acquire))
    }

    pub(crate) fn set_flushed(&self, flushed: Position) {
        self.flushed.store(flushed.to_word(), Ordering::Release);
    }

    pub(crate) fn flushed(&self) -> Position {
        Position::from_word(self.flushed.load(Ordering::Acquire))
    }

    pub(crate) fn want_cover(&self) {
        self.cover_wanted.store(true, Ordering::Release);
    }

    pub(crate) fn take_cover_wanted(&self) -> bool {
        // Looking is cheap, swapping is not, and the core looks at every step.
        self.cover_wanted.load(Ordering::Relaxed)
            && self.cover_wanted.swap(false, Ordering::Acquire)
    }

    pub(crate) fn store_hard_state(&self, hard_state: HardState) {
        *self.hard_state.lock() = Some(hard_state);
    }

    pub(crate) fn take_hard_state(&self) -> Option<HardState> {
        self.hard_state.lock().take()
    }

    pub(crate) fn hard_state_stored(&self, hard_state: HardState) {
        *self.hard_state_done.lock() = Some(hard_state);
    }

    pub(crate) fn take_hard_state_stored(&self) -> Option<HardState> {
        self.hard_state_done.lock().take()
    }

    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// Between the core and the `apply` loop.
#[derive(Debug)]
pub(crate) struct ApplyLane<R> {
    committed: AtomicU64,
    persisted: AtomicU64,
    /// What a machine that keeps its own state has made durable.
    kept: AtomicU64,
    /// `None` once nobody takes them any more.
    pending: Mutex<Option<Vec<Pending<R>>>>,
    pub(crate) busy: Busy,
}

impl<R> Default for ApplyLane<R> {
    fn default() -> Self {
        Self {
            committed: AtomicU64::new(0),
            persisted: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            pending: Mutex::new(Some(Vec::new())),
            busy: Busy::default(),
        }
    }
}

impl<R> ApplyLane<R> {
    pub(crate) fn set_committed(&self, index: LogIndex) {
        self.committed.store(index.0, Ordering::SeqCst);
    }

    pub(crate) fn committed(&self) -> LogIndex {
        LogIndex(self.committed.load(Ordering::SeqCst))
    }

    pub(crate) fn set_persisted(&self, index: LogIndex) {
        self.persisted.store(index.0, Ordering::Release);
    }

    pub(crate) fn persisted(&self) -> LogIndex {
        LogIndex(self.persisted.load(Ordering::Acquire))
    }

    pub(crate) fn set_kept(&self, index: LogIndex) {
        self.kept.store(index.0, Ordering::Release);
    }

    pub(crate) fn kept(&self) -> LogIndex {
        LogIndex(self.kept.load(Ordering::Acquire))
    }

    /// Hands on a proposal; dropped, and so answered, if nobody takes it any more.
    pub(crate) fn push(&self, pending: Pending<R>) {
        if let Some(list) = &mut *self.pending.lock() {
            list.push(pending);
        }
    }

    pub(crate) fn take(&self, into: &mut Vec<Pending<R>>) {
        debug_assert!(into.is_empty());
        if let Some(list) = &mut *self.pending.lock() {
            mem::swap(list, into);
        }
    }

    /// Drops, and so answers, what was handed on and what will be.
    pub(crate) fn close(&self) {
        let pending = self.pending.lock().take();
        drop(pending);
    }
}

/// Entries that have to be read from the disk before they can be sent.
#[derive(Debug)]
pub(crate) struct FetchJob {
    pub(crate) term: Term,
    pub(crate) to: NodeId,
    pub(crate) append: Append,
    /// The last entry of the log.
    pub(crate) last: LogIndex,
    pub(crate) max_bytes: usize,
}

/// Such entries, read.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) job: FetchJob,
    pub(crate) records: Slices,
    pub(crate) last: LogIndex,
}

/// Between the core and the `snap` loop. One job for each peer at most, so neither side fills.
#[derive(Debug, Default)]
pub(crate) struct SnapLane {
    jobs: Mutex<Vec<FetchJob>>,
    fetched: Mutex<Vec<Fetched>>,
}

impl SnapLane {
    pub(crate) fn ask(&self, job: FetchJob) {
        let mut jobs = self.jobs.lock();
        // A job of an earlier term is of no use to anybody.
        jobs.retain(|other| other.to != job.to);
        jobs.push(job);
    }

    pub(crate) fn take_job(&self) -> Option<FetchJob> {
        // First come, first served, or one that lags far would keep others waiting.
        let mut jobs = self.jobs.lock();
        (!jobs.is_empty()).then(|| jobs.remove(0))
    }

    pub(crate) fn answer(&self, fetched: Fetched) {
        let mut answers = self.fetched.lock();
        answers.retain(|other| other.job.to != fetched.job.to);
        answers.push(fetched);
    }

    pub(crate) fn take_fetched(&self) -> Vec<Fetched> {
        mem::take(&mut *self.fetched.lock())
    }
}

/// One node's shared part.
pub(crate) struct Shared<S: StateMachine> {
    pub(crate) id: NodeId,
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) wakers: Wakers,
    pub(crate) inbox: Inbox<S::Response>,
    pub(crate) reads: ReadInbox,
    pub(crate) wal: WalLane,
    pub(crate) apply: ApplyLane<S::Response>,
    pub(crate) snap: SnapLane,
    pub(crate) state: RwLock<S>,
    /// Held by the `apply` loop; the core only ever tries.
    pub(crate) applier: Mutex<Applier<S>>,
    pub(crate) applied: IndexWatch,
    pub(crate) leadership: Arc<LeadershipWatch>,
    pub(crate) status: Mutex<Status>,
    /// Where the transport's links are looked at, if it shows them.
    pub(crate) links: OnceLock<Arc<dyn Links>>,
}

impl<S: StateMachine> Shared<S> {
    /// Brings the node to `phase` because of `cause`, unless it is there already.
    pub(crate) fn stop(&self, phase: Phase, cause: StopCause) {
        if phase > self.stop.phase() {
            match &cause {
                StopCause::Shutdown | StopCause::Crash => {
                    log::debug!("node={} stopping phase={phase:?} cause={cause}", self.id);
                }
                _ => log::error!("node={} stopping cause={cause}", self.id),
            }
        }
        self.stop.advance(phase, cause);
        self.inbox.close();
        self.reads.close();
        self.applied.notify();
        self.wakers.wake_all();
    }
}
