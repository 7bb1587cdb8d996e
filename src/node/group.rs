//! The answers to proposals that enter the log together.
//!
//! All proposals that enter the inbox between two visits of the core form a *group*: one allocation, one
//! vector of answers, one wake for everybody who waits. A group may be answered in parts, for part of it
//! may commit before the rest, or be superseded; answers are given in the order of the slots.

use std::sync::Arc;

use super::stop::Stop;
use crate::clock::Time;
use crate::error::StopCause;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Instant, Mutex};
use crate::types::{EntryId, NodeId, Term};
use crate::wake::wait_for;

/// What became of one proposal.
#[derive(Clone, Debug)]
pub(crate) enum Answer<R> {
    /// Applied.
    Response(R),
    /// Never applied: this node did not lead.
    NotLeader(Option<NodeId>),
    /// Never applied: another entry stands in its place.
    Superseded,
    /// Never applied: the node stopped first.
    Stopped(StopCause),
    /// In the log when the node stopped.
    Unknown(StopCause),
    /// In the log when its deadline passed.
    Expired,
}

/// The answer to all slots that have none of their own.
#[derive(Clone, Debug)]
enum Fate {
    NotLeader(Option<NodeId>),
    Superseded,
    Stopped(StopCause),
    Unknown(StopCause),
    Expired,
}

impl Fate {
    fn answer<R>(&self) -> Answer<R> {
        match self {
            Self::NotLeader(leader) => Answer::NotLeader(*leader),
            Self::Superseded => Answer::Superseded,
            Self::Stopped(cause) => Answer::Stopped(cause.clone()),
            Self::Unknown(cause) => Answer::Unknown(cause.clone()),
            Self::Expired => Answer::Expired,
        }
    }
}

/// Consecutive slots whose entries are consecutive in the log.
#[derive(Clone, Copy, Debug)]
struct Run {
    slot: usize,
    count: usize,
    first: EntryId,
}

#[derive(Debug)]
struct State<R> {
    /// The answers of the first slots; `None` where it was fetched, or nobody waits.
    answers: Vec<Option<Answer<R>>>,
    /// The answer to all other slots, once there is one.
    fate: Option<Fate>,
    /// Where the slots' entries are.
    runs: Vec<Run>,
    /// How many wait to learn where their entry is.
    waiting_for_place: usize,
}

/// The answers to a group of proposals.
#[derive(Debug)]
pub(crate) struct Group<R> {
    /// Slots below this have an answer; `usize::MAX` once all have.
    answered: AtomicUsize,
    state: Mutex<State<R>>,
    changed: Condvar,
    stop: Arc<Stop>,
}

impl<R> Group<R> {
    pub(crate) fn new(stop: Arc<Stop>) -> Self {
        let state =
            State { answers: Vec::new(), fate: None, runs: Vec::new(), waiting_for_place: 0 };
        Self {
            answered: AtomicUsize::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
            stop,
        }
    }

    /// Says that `count` slots from `slot` on stand in the log from `first` on. Said twice, it counts once.
    pub(crate) fn placed(&self, slot: usize, count: usize, first: EntryId) {
        let mut state = self.state.lock();
        if Self::place_in(&state, slot).is_some() {
            return;
        }
        state.runs.push(Run { slot, count, first });
        if state.waiting_for_place > 0 {
            self.changed.notify_all();
        }
    }

    /// Answers the slots from `slot` on with `responses`; slots before it that have no answer get none.
    pub(crate) fn respond(&self, slot: usize, responses: impl Iterator<Item = R>) {
        let mut state = self.state.lock();
        debug_assert!(state.answers.len() <= slot, "answers come in the order of the slots");
        state.answers.resize_with(slot, || None);
        state.answers.extend(responses.map(|response| Some(Answer::Response(response))));
        self.answered_to(&state);
    }

    /// Answers every slot that has no answer.
    fn close(&self, fate: Fate) {
        let mut state = self.state.lock();
        state.fate.get_or_insert(fate);
        self.answered_to(&state);
    }

    fn answered_to(&self, state: &State<R>) {
        let answered = if state.fate.is_some() { usize::MAX } else { state.answers.len() };
        self.answered.store(answered, Ordering::Release);
        self.changed.notify_all();
    }

    /// Where the slot's entry is, if it is in the log.
    pub(crate) fn place(&self, slot: usize) -> Option<EntryId> {
        Self::place_in(&self.state.lock(), slot)
    }

    fn place_in(state: &State<R>, slot: usize) -> Option<EntryId> {
        let run = state.runs.iter().find(|run| (run.slot..run.slot + run.count).contains(&slot))?;
        let index = run.first.index.plus((slot - run.slot) as u64);
        Some(EntryId::new(run.first.term, index))
    }

    /// Waits until the slot's entry is in the log, or it has an answer without that.
    pub(crate) fn wait_placed(&self, slot: usize, deadline: Instant) -> Option<EntryId> {
        let mut state = self.state.lock();
        state.waiting_for_place += 1;
        let place = loop {
            let place = Self::place_in(&state, slot);
            if place.is_some() || self.answered.load(Ordering::Relaxed) > slot {
                break place;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break Self::place_in(&state, slot);
            }
        };
        state.waiting_for_place -= 1;
        place
    }

    /// Whether the slot has an answer.
    pub(crate) fn is_answered(&self, slot: usize) -> bool {
        self.answered.load(Ordering::Acquire) > slot
    }

    /// The slot's answer, if it has one. An answer is given once.
    pub(crate) fn try_take(&self, slot: usize) -> Option<Answer<R>> {
        self.is_answered(slot).then(|| self.take_from(&mut self.state.lock(), slot))
    }

    fn take_from(&self, state: &mut State<R>, slot: usize) -> Answer<R> {
        match (state.answers.get_mut(slot), &state.fate) {
            (Some(answer), _) if answer.is_some() => answer.take().expect("just seen"),
            (_, Some(fate)) => fate.answer(),
            // Fetched before, by a caller that asks twice.
            (_, None) => Answer::Unknown(self.stop.cause_or_shutdown()),
        }
    }

    /// Waits for the slot's answer until `deadline`.
    pub(crate) fn take_until(&self, slot: usize, deadline: Instant) -> Option<Answer<R>> {
        wait_for(
            || self.is_answered(slot),
            || {
                let mut state = self.state.lock();
                while !self.is_answered(slot) {
                    if self.changed.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
            },
        );
        self.try_take(slot)
    }
}

/// By what a proposal is known in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// It is this entry.
    Entry(EntryId),
    /// It was sent to the leader of this term, with this sequence in its tag.
    Tag(Term, u64),
}

impl Awaited {
    /// The only term in which it can be in the log.
    pub(crate) fn term(&self) -> Term {
        match self {
            Self::Entry(id) => id.term,
            Self::Tag(term, _) => *term,
        }
    }

    pub(crate) fn plus(&self, count: u64) -> Self {
        match *self {
            Self::Entry(id) => Self::Entry(EntryId::new(id.term, id.index.plus(count))),
            Self::Tag(term, sequence) => Self::Tag(term, sequence + count),
        }
    }
}

/// Slots of a group whose entries are in a log, or on their way into one, and then to being applied.
/// Dropped unanswered, it answers that their outcome is unknown.
#[derive(Debug)]
pub(crate) struct Pending<R> {
    group: Arc<Group<R>>,
    slot: usize,
    /// What `slot` waits for; those after it wait for what follows.
    next: Awaited,
    count: usize,
    /// Bytes of the commands; returned to the door as they are answered.
    bytes: usize,
    /// Nobody waits after this.
    pub(crate) expires: Time,
}

impl<R> Pending<R> {
    /// `count` slots from `slot` on, of `bytes` bytes, the first of which waits for `next`.
    pub(crate) fn new(
        group: Arc<Group<R>>,
        slot: usize,
        count: usize,
        next: Awaited,
        bytes: usize,
        expires: Time,
    ) -> Self {
        if let Awaited::Entry(first) = next {
            group.placed(slot, count, first);
        }
        Self { group, slot, next, count, bytes, expires }
    }

    /// What the first slot without an answer waits for.
    pub(crate) fn next(&self) -> Awaited {
        self.next
    }

    /// How many have no answer.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Answers the first `responses.len()` slots, whose entries begin with `first`; returns the bytes that
    /// are free now.
    pub(crate) fn respond(
        &mut self,
        first: EntryId,
        responses: impl ExactSizeIterator<Item = R>,
    ) -> usize {
        let answered = responses.len();
        assert!(answered <= self.count, "{answered} responses for {} proposals", self.count);
        if let Awaited::Tag(..) = self.next {
            self.group.placed(self.slot, answered, first);
        }
        self.group.respond(self.slot, responses);
        self.slot += answered;
        self.next = self.next.plus(answered as u64);
        self.count -= answered;
        let bytes = if self.count == 0 {
            self.bytes
        } else {
            self.bytes / (self.count + answered) * answered
        };
        self.bytes -= bytes;
        bytes
    }

    /// Answers the rest: they are not in the log, and can never get there. Returns the bytes that are free now.
    pub(crate) fn supersede(mut self) -> usize {
        self.finish(Fate::Superseded)
    }

    /// Answers the rest: nobody waits any more. Returns the bytes that are free now.
    pub(crate) fn expire(mut self) -> usize {
        self.finish(Fate::Expired)
    }

    fn finish(&mut self, fate: Fate) -> usize {
        self.count = 0;
        self.group.close(fate);
        self.bytes
    }
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        if self.count > 0 {
            let cause = self.group.stop.cause_or_shutdown();
            self.finish(Fate::Unknown(cause));
        }
    }
}

/// A group whose slots are not in the log. Dropped, it answers that they never will be.
#[derive(Debug)]
pub(crate) struct Unplaced<R>(Option<Arc<Group<R>>>);

impl<R> Unplaced<R> {
    pub(crate) fn new(group: Arc<Group<R>>) -> Self {
        Self(Some(group))
    }

    /// The group, for somebody who will wait for a slot.
    pub(crate) fn share(&self) -> Arc<Group<R>> {
        Arc::clone(self.0.as_ref().expect("taken only by the methods that consume it"))
    }

    /// The slots go into the log.
    pub(crate) fn take(mut self) -> Arc<Group<R>> {
        self.0.take().expect("taken once")
    }

    /// Answers all slots: this node does not lead.
    pub(crate) fn refuse(self, leader: Option<NodeId>) {
        self.take().close(Fate::NotLeader(leader));
    }
}

impl<R> Drop for Unplaced<R> {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let cause = group.stop.cause_or_shutdown();
            group.close(Fate::Stopped(cause));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::types::{LogIndex, Term};

    fn group() -> Arc<Group<u32>> {
        Arc::new(Group::new(Arc::<Stop>::default()))
    }

    fn at(index: u64) -> EntryId {
        EntryId::new(Term(2), LogIndex(index))
    }

    fn pending(group: &Arc<Group<u32>>, slot: usize, count: usize, index: u64) -> Pending<u32> {
        let first = Awaited::Entry(at(index));
        Pending::new(Arc::clone(group), slot, count, first, 10 * count, Time::default())
    }

    #[test]
    fn a_group_is_answered_in_parts() {
        let group = group();
        let mut pending = pending(&group, 0, 3, 7);
        assert!(group.try_take(0).is_none());
        let freed = pending.respond(at(7), [40, 41].into_iter());
        assert_eq!(freed, 20);
        assert!(matches!(group.try_take(1), Some(Answer::Response(41))));
        assert!(matches!(group.try_take(0), Some(Answer::Response(40))));
        assert!(group.try_take(2).is_none());
        assert_eq!(pending.next(), Awaited::Entry(at(9)));
        assert_eq!(pending.respond(at(0), [42].into_iter()), 10);
        assert!(matches!(group.try_take(2), Some(Answer::Response(42))));
    }

    #[test]
    fn the_part_that_was_applied_keeps_its_responses_when_the_rest_is_superseded() {
        let group = group();
        let mut pending = pending(&group, 0, 2, 7);
        pending.respond(at(0), [40].into_iter());
        assert_eq!(pending.supersede(), 10);
        assert!(matches!(group.try_take(0), Some(Answer::Response(40))));
        assert!(matches!(group.try_take(1), Some(Answer::Superseded)));
    }

    #[test]
    fn withdrawn_slots_part_the_entries_of_a_group() {
        let group = group();
        let mut first = pending(&group, 0, 1, 7);
        let mut second = pending(&group, 2, 1, 8);
        assert_eq!(group.place(2), Some(EntryId::new(Term(2), LogIndex(8))));
        assert_eq!(group.place(1), None);
        first.respond(at(0), [40].into_iter());
        second.respond(at(0), [42].into_iter());
        assert!(matches!(group.try_take(2), Some(Answer::Response(42))));
        assert!(matches!(group.try_take(0), Some(Answer::Response(40))));
    }

    #[test]
    fn what_is_dropped_unanswered_answers_by_itself() {
        let unplaced = Unplaced::new(group());
        let never = unplaced.share();
        drop(unplaced);
        assert!(matches!(never.try_take(0), Some(Answer::Stopped(_))));

        let maybe = group();
        drop(pending(&maybe, 0, 1, 7));
        assert!(matches!(maybe.try_take(0), Some(Answer::Unknown(_))));
    }

    #[test]
    fn a_proposal_that_is_known_by_its_tag_is_placed_when_it_is_applied() {
        let group = group();
        let next = Awaited::Tag(Term(2), 5);
        let mut pending = Pending::new(Arc::clone(&group), 1, 3, next, 30, Time::default());
        assert_eq!(group.place(1), None);
        pending.respond(at(9), [40, 41].into_iter());
        assert_eq!((group.place(1), group.place(2)), (Some(at(9)), Some(at(10))));
        assert_eq!((group.place(3), pending.next()), (None, Awaited::Tag(Term(2), 7)));
        // The leader's answer comes late.
        group.placed(1, 3, at(9));
        pending.respond(at(11), [42].into_iter());
        assert_eq!((group.place(1), group.place(3)), (Some(at(9)), Some(at(11))));
    }

    #[test]
    fn whoever_waits_is_woken() {
        let group = group();
        let far = Instant::now() + std::time::Duration::from_secs(60);
        let waiting: Vec<_> = (0..8)
            .map(|slot| {
                let group = Arc::clone(&group);
                thread::spawn(move || (group.wait_placed(slot, far), group.take_until(slot, far)))
            })
            .collect();
        let mut pending = pending(&group, 0, 8, 1);
        pending.respond(at(0), [0, 1, 2].into_iter());
        pending.respond(at(0), [3, 4, 5, 6, 7].into_iter());
        for (slot, thread) in waiting.into_iter().enumerate() {
            let (place, answer) = thread.join().expect("no panic");
            assert_eq!(place.expect("placed").index, LogIndex(1 + slot as u64));
            match answer {
                Some(Answer::Response(response)) => assert_eq!(response as usize, slot),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let group = group();
        assert!(group.take_until(0, Instant::now()).is_none());
        assert!(group.wait_placed(0, Instant::now()).is_none());
    }
}
