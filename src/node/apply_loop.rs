//! Applies what is committed, in order, and answers whoever waits for it.
//!
//! The only place that runs the user's `apply`, and the only writer of the state. After an error or a
//! panic in it nobody reads the half-applied state: the node is marked as stopped before the state's
//! lock is let go, and readers look under the lock.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLockWriteGuard;

use super::group::Pending;
use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use crate::clock::Time;
use crate::error::StopCause;
use crate::record::{EntryKind, Records};
use crate::slices::Slices;
use crate::state_machine::{Applied, StateMachine};
use crate::types::{EntryId, LogIndex};
use crate::wal::LogReader;

/// How often proposals are looked through for those that nobody waits for any more.
const SWEEP: Duration = Duration::from_millis(100);

/// How far the state is, and who waits for it.
pub(crate) struct Applier<S: StateMachine> {
    applied: LogIndex,
    /// The machine keeps its own state, so it may only see what this node's disk holds as well.
    keeps_state: bool,
    /// Proposals whose entries are in the log, in the order of their entries.
    pending: VecDeque<Pending<S::Response>>,
    arrived: Vec<Pending<S::Response>>,
    sweep_at: Time,
    /// What a batch answered, until the state's lock is let go; no-ops answer nothing.
    responses: Vec<(EntryId, Option<S::Response>)>,
}

impl<S: StateMachine> Applier<S> {
    /// Goes on after `applied`.
    pub(crate) fn new(applied: LogIndex, keeps_state: bool) -> Self {
        Self {
            applied,
            keeps_state,
            pending: VecDeque::new(),
            arrived: Vec::new(),
            sweep_at: Time::default(),
            responses: Vec::new(),
        }
    }

    /// The last entry that was applied.
    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The last entry that may be applied.
    pub(crate) fn target(&self, shared: &Shared<S>) -> LogIndex {
        let committed = shared.apply.committed();
        if self.keeps_state { committed.min(shared.apply.persisted()) } else { committed }
    }

    fn take_arrived(&mut self, shared: &Shared<S>) {
        shared.apply.take(&mut self.arrived);
        self.pending.extend(self.arrived.drain(..));
    }

    /// Applies the entries of `slices` up to `last`, and answers those who wait for them. On an error the
    /// node has been stopped.
    pub(crate) fn apply(
        &mut self,
        shared: &Shared<S>,
        mut state: RwLockWriteGuard<'_, S>,
        slices: &Slices,
        last: LogIndex,
    ) -> Result<(), StopCause> {
        // The target was read before this: whoever proposed an entry up to it has arrived.
        self.take_arrived(shared);
        match self.apply_to(&mut state, slices, last) {
            Ok(()) => {
                if let Some(kept) = state.last_applied() {
                    shared.apply.set_kept(kept.index);
                }
                drop(state);
                self.applied = last;
                shared.applied.set(last);
                self.answer(shared);
                Ok(())
            }
            Err(cause) => {
                // Before the lock is let go, so that no reader sees a half-applied state.
                shared.stop(Phase::Halted, cause.clone());
                drop(state);
                Err(cause)
            }
        }
    }

    fn apply_to(
        &mut self,
        state: &mut S,
        slices: &Slices,
        last: LogIndex,
    ) -> Result<(), StopCause> {
        let responses = &mut self.responses;
        responses.clear();
        let somebody_waits = !self.pending.is_empty();
        let at = Cell::new(EntryId::ZERO);
        let mut reached = self.applied;
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            let mut records = Records::trusted(slices);
            while reached < last {
                let record = records.next().expect("as many records as were asked for");
                let record = record.expect("records that the log itself checked");
                let id = record.header.id;
                assert!(id.index == reached.next(), "entry {id} follows index {reached}");
                at.set(id);
                let response = match record.header.kind {
                    EntryKind::Command => {
                        let place = Applied { entry: id, time: record.header.time };
                        let response = state.apply_entry(record.payload, &place);
                        Some(response.map_err(|error| StopCause::Apply { entry: id, error })?)
                    }
                    EntryKind::Noop | EntryKind::Membership => None,
                };
                if somebody_waits {
                    responses.push((id, response));
                }
                reached = id.index;
            }
            Ok(())
        }));
        outcome.unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(StopCause::ApplyPanicked { entry: at.get(), message })
        })
    }

    /// Gives the batch's responses to those who wait, and tells those whose place another entry took.
    fn answer(&mut self, shared: &Shared<S>) {
        let (mut count, mut bytes) = (0, 0);
        let mut responses = self.responses.drain(..);
        while let Some(&(id, _)) = responses.as_slice().first() {
            let Some(front) = self.pending.front_mut() else { break };
            let next = front.next();
            if next.term < id.term {
                // Terms never fall along a log: nothing of an older term can follow this entry.
                let front = self.pending.pop_front().expect("just seen");
                count += front.count();
                bytes += front.supersede();
            } else if next == id {
                let mine = |(id, response): &&(EntryId, Option<_>)| {
                    id.term == next.term && response.is_some()
                };
                let answered =
                    responses.as_slice().iter().take(front.count()).take_while(mine).count();
                assert!(answered > 0, "entry {id} holds no command, and a proposal waits for it");
                let batch = responses.by_ref().take(answered);
                bytes += front.respond(batch.map(|(_, response)| response.expect("just seen")));
                count += answered;
                if front.count() == 0 {
                    self.pending.pop_front();
                }
            } else {
                responses.next();
            }
        }
        drop(responses);
        shared.inbox.give_back(count, bytes);
    }

    /// Lets go of proposals whose deadline has passed.
    fn sweep(&mut self, shared: &Shared<S>, now: Time) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.after(SWEEP);
        let (mut count, mut bytes) = (0, 0);
        for _ in 0..self.pending.len() {
            let pending = self.pending.pop_front().expect("as many as there are");
            if pending.expires <= now {
                count += pending.count();
                bytes += pending.expire();
            } else {
                self.pending.push_back(pending);
            }
        }
        shared.inbox.give_back(count, bytes);
    }
}

/// The `apply` loop.
pub(crate) struct ApplyLoop<S: StateMachine> {
    shared: Arc<Shared<S>>,
    reader: LogReader,
}

impl<S: StateMachine> ApplyLoop<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, reader: LogReader) -> Self {
        Self { shared, reader }
    }

    /// Reads and applies the next entries, at most as many as fit under one hold of the lock.
    fn apply_some(
        &self,
        applier: &mut Applier<S>,
        target: LogIndex,
        now: Time,
    ) -> Result<(), StopCause> {
        let max_bytes = self.shared.config.max_apply_bytes;
        let (slices, last) = self.reader.read(applier.applied, target, max_bytes)?;
        self.shared.apply.busy.begin(now);
        let state = self.shared.state.write();
        let result = applier.apply(&self.shared, state, &slices, last);
        self.shared.apply.busy.end();
        result
    }
}

impl<S: StateMachine> Loop for ApplyLoop<S> {
    fn step(&mut self, now: Time) -> Wait {
        let mut applier = self.shared.applier.lock();
        if self.shared.stop.phase() >= Phase::Closing {
            return Wait::Done;
        }
        let target = applier.target(&self.shared);
        if target > applier.applied {
            if let Err(cause) = self.apply_some(&mut applier, target, now) {
                self.shared.stop(Phase::Halted, cause);
            }
            return Wait::No;
        }
        applier.take_arrived(&self.shared);
        applier.sweep(&self.shared, now);
        if applier.pending.is_empty() { Wait::Wake } else { Wait::Until(applier.sweep_at) }
    }
}

impl<S: StateMachine> Drop for ApplyLoop<S> {
    /// However the loop ends, whoever still waits is told that the outcome is unknown.
    fn drop(&mut self) {
        let mut applier = self.shared.applier.lock();
        applier.take_arrived(&self.shared);
        // What comes after this is answered where it is handed on.
        self.shared.apply.close();
        let count = applier.pending.iter().map(Pending::count).sum();
        applier.pending.clear();
        self.shared.inbox.give_back(count, 0);
    }
}

/// What a panic says, as far as it says anything.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
