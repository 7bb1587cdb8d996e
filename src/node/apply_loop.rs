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

use super::group::{Awaited, Pending};
use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use crate::clock::Time;
use crate::error::StopCause;
use crate::record::{EntryKind, Record, Records};
use crate::slices::Slices;
use crate::state_machine::{Applied, StateMachine};
use crate::sync::RwLockWriteGuard;
use crate::types::{EntryId, LogIndex, Sender};
use crate::wal::LogReader;

/// How often proposals are looked through for those that nobody waits for any more.
const SWEEP: Duration = Duration::from_millis(100);

/// What applying an entry came to, for whoever waits for it.
struct Outcome<R> {
    id: EntryId,
    /// This node forwarded it, with this number.
    sequence: Option<u64>,
    /// Entries that hold no command have none.
    response: Option<R>,
}

/// How far the state is, and who waits for it.
pub(crate) struct Applier<S: StateMachine> {
    me: Sender,
    applied: LogIndex,
    /// The machine keeps its own state, so it may only see what this node's disk holds as well.
    keeps_state: bool,
    /// Proposals whose entries this node wrote, in the order of their entries.
    pending: VecDeque<Pending<S::Response>>,
    /// Proposals that were sent to a leader, in the order of their sequences, which is that of their
    /// entries, if they have any: later ones were sent in the same term or a later one, and within its
    /// term a leader takes sequences in ascending order only.
    forwarded: VecDeque<Pending<S::Response>>,
    arrived: Vec<Pending<S::Response>>,
    sweep_at: Time,
    /// What a batch came to, until the state's lock is let go.
    outcomes: Vec<Outcome<S::Response>>,
}

impl<S: StateMachine> Applier<S> {
    /// Goes on after `applied`.
    pub(crate) fn new(me: Sender, applied: LogIndex, keeps_state: bool) -> Self {
        Self {
            me,
            applied,
            keeps_state,
            pending: VecDeque::new(),
            forwarded: VecDeque::new(),
            arrived: Vec::new(),
            sweep_at: Time::default(),
            outcomes: Vec::new(),
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
        for arrived in self.arrived.drain(..) {
            match arrived.next() {
                Awaited::Entry(_) => self.pending.push_back(arrived),
                Awaited::Tag(..) => self.forwarded.push_back(arrived),
            }
        }
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
        let somebody_waits = !self.nobody_waits();
        let outcomes = &mut self.outcomes;
        outcomes.clear();
        let me = self.me;
        let own_sequence = |record: &Record<'_>| {
            let own = record.header.origin.filter(|origin| origin.is_of(&me));
            own.map(|origin| origin.sequence)
        };
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
                    outcomes.push(Outcome { id, sequence: own_sequence(&record), response });
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

    /// Gives the batch's responses to those who wait, and tells those whose proposals can never be applied.
    fn answer(&mut self, shared: &Shared<S>) {
        let mut freed = Freed::default();
        let mut outcomes = self.outcomes.drain(..);
        while let Some(&Outcome { id, sequence, .. }) = outcomes.as_slice().first() {
            // Terms never fall along a log: nothing of an older term can follow this entry.
            freed.supersede_while(&mut self.pending, |front| front.next().term() < id.term);
            freed.supersede_while(&mut self.forwarded, |front| front.next().term() < id.term);
            let (waiting, awaited) = match sequence {
                Some(sequence) => {
                    // Nor can what the leader was to take before this, in the same term.
                    freed.supersede_while(
                        &mut self.forwarded,
                        |front| matches!(front.next(), Awaited::Tag(_, first) if first < sequence),
                    );
                    (&mut self.forwarded, Awaited::Tag(id.term, sequence))
                }
                None => (&mut self.pending, Awaited::Entry(id)),
            };
            let Some(front) = waiting.front_mut().filter(|front| front.next() == awaited) else {
                outcomes.next();
                continue;
            };
            let is_next = |(at, outcome): &(usize, &Outcome<_>)| {
                outcome.id == EntryId::new(id.term, id.index.plus(*at as u64))
                    && outcome.response.is_some()
                    && outcome.sequence == sequence.map(|sequence| sequence + *at as u64)
            };
            let ahead = outcomes.as_slice().iter().take(front.count()).enumerate();
            let answered = ahead.take_while(is_next).count();
            assert!(answered > 0, "entry {id} holds no command, and a proposal waits for it");
            let responses = outcomes.by_ref().take(answered);
            let responses = responses.map(|outcome| outcome.response.expect("just seen"));
            freed.bytes += front.respond(id, responses);
            freed.count += answered;
            if front.count() == 0 {
                waiting.pop_front();
            }
        }
        drop(outcomes);
        shared.inbox.give_back(freed.count, freed.bytes);
    }

    /// Lets go of proposals whose deadline has passed.
    fn sweep(&mut self, shared: &Shared<S>, now: Time) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.after(SWEEP);
        let mut freed = Freed::default();
        for waiting in [&mut self.pending, &mut self.forwarded] {
            for _ in 0..waiting.len() {
                let pending = waiting.pop_front().expect("as many as there are");
                if pending.expires <= now {
                    freed.count += pending.count();
                    freed.bytes += pending.expire();
                } else {
                    waiting.push_back(pending);
                }
            }
        }
        shared.inbox.give_back(freed.count, freed.bytes);
    }

    fn nobody_waits(&self) -> bool {
        self.pending.is_empty() && self.forwarded.is_empty()
    }
}

/// Room that comes back to the inbox.
#[derive(Default)]
struct Freed {
    count: usize,
    bytes: usize,
}

impl Freed {
    fn supersede_while<R>(
        &mut self,
        waiting: &mut VecDeque<Pending<R>>,
        is_lost: impl Fn(&Pending<R>) -> bool,
    ) {
        while waiting.front().is_some_and(&is_lost)
            && let Some(lost) = waiting.pop_front()
        {
            self.count += lost.count();
            self.bytes += lost.supersede();
        }
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
        if applier.nobody_waits() { Wait::Wake } else { Wait::Until(applier.sweep_at) }
    }
}

impl<S: StateMachine> Drop for ApplyLoop<S> {
    /// However the loop ends, whoever still waits is told that the outcome is unknown.
    fn drop(&mut self) {
        let mut applier = self.shared.applier.lock();
        applier.take_arrived(&self.shared);
        // What comes after this is answered where it is handed on.
        self.shared.apply.close();
        let count = applier.pending.iter().chain(&applier.forwarded).map(Pending::count).sum();
        applier.pending.clear();
        applier.forwarded.clear();
        self.shared.inbox.give_back(count, 0);
    }
}

/// What a panic says, as far as it says anything.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
