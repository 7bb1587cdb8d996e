//! The `apply` loop: applies what is committed, in order, and answers whoever waits for it.
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

pub(crate) struct ApplyLoop<S: StateMachine> {
    shared: Arc<Shared<S>>,
    reader: LogReader,
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

impl<S: StateMachine> ApplyLoop<S> {
    /// A loop that goes on after `applied`.
    pub(crate) fn new(
        shared: Arc<Shared<S>>,
        reader: LogReader,
        applied: LogIndex,
        keeps_state: bool,
    ) -> Self {
        Self {
            shared,
            reader,
            applied,
            keeps_state,
            pending: VecDeque::new(),
            arrived: Vec::new(),
            sweep_at: Time::default(),
            responses: Vec::new(),
        }
    }

    fn target(&self) -> LogIndex {
        let committed = self.shared.apply.committed();
        if self.keeps_state { committed.min(self.shared.apply.persisted()) } else { committed }
    }

    /// Reads and applies the next entries, at most as many as fit under one hold of the lock.
    fn apply_some(&mut self, target: LogIndex, now: Time) -> Result<(), StopCause> {
        let max_bytes = self.shared.config.max_apply_bytes;
        let (slices, last) =
            self.reader.read(self.applied, target, max_bytes).map_err(StopCause::from)?;
        // Taken after the target was read: whoever proposed an entry up to it is among them.
        self.take_arrived();
        self.shared.apply.busy.begin(now);
        let result = self.apply_batch(&slices, last);
        self.shared.apply.busy.end();
        result?;
        self.applied = last;
        self.shared.applied.set(last);
        self.answer();
        Ok(())
    }

    fn take_arrived(&mut self) {
        self.shared.apply.take(&mut self.arrived);
        self.pending.extend(self.arrived.drain(..));
    }

    fn apply_batch(&mut self, slices: &Slices, last: LogIndex) -> Result<(), StopCause> {
        let responses = &mut self.responses;
        responses.clear();
        let somebody_waits = !self.pending.is_empty();
        let mut state = self.shared.state.write();
        let at = Cell::new(EntryId::ZERO);
        let applied = self.applied;
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| -> Result<LogIndex, StopCause> {
            let mut reached = applied;
            for record in Records::trusted(slices) {
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
            Ok(reached)
        }));
        let outcome = outcome.unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(StopCause::ApplyPanicked { entry: at.get(), message })
        });
        match outcome {
            Ok(reached) => {
                assert!(reached == last, "read up to {last}, applied up to {reached}");
                if let Some(kept) = state.last_applied() {
                    self.shared.apply.set_kept(kept.index);
                }
                Ok(())
            }
            Err(cause) => {
                // Before the lock is let go, so that no reader sees a half-applied state.
                self.shared.stop(Phase::Halted, cause.clone());
                drop(state);
                Err(cause)
            }
        }
    }

    /// Gives the batch's responses to those who wait, and tells those whose place another entry took.
    fn answer(&mut self) {
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
        self.shared.inbox.give_back(count, bytes);
    }

    /// Lets go of proposals whose deadline has passed.
    fn sweep(&mut self, now: Time) {
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
        self.shared.inbox.give_back(count, bytes);
    }
}

impl<S: StateMachine> Loop for ApplyLoop<S> {
    fn step(&mut self, now: Time) -> Wait {
        if self.shared.stop.phase() >= Phase::Closing {
            // Whoever still waits is told that the outcome is unknown.
            self.take_arrived();
            self.pending.clear();
            return Wait::Done;
        }
        let target = self.target();
        if target > self.applied {
            return match self.apply_some(target, now) {
                Ok(()) => Wait::No,
                Err(cause) => {
                    self.shared.stop(Phase::Halted, cause);
                    Wait::No
                }
            };
        }
        self.take_arrived();
        self.sweep(now);
        if self.pending.is_empty() { Wait::Wake } else { Wait::Until(self.sweep_at) }
    }
}

/// What a panic says, as far as it says anything.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
