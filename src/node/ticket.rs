//! A proposal under way: what its caller holds while the cluster works on it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Reply;
use super::group::Answer;
use super::inbox::Place;
use super::inside;
use super::shared::Shared;
use super::watch::deadline_after;
use crate::error::{ProposeError, UnknownCause};
use crate::state_machine::StateMachine;
use crate::sync::Instant;
use crate::types::EntryId;

/// A proposal under way, from [`Node::submit`](crate::Node::submit).
///
/// Its deadline was fixed when it was submitted; waiting does not extend it. Dropping the ticket does
/// not take the proposal back.
#[must_use = "a ticket that nobody waits for never tells the outcome"]
pub struct Ticket<S: StateMachine> {
    shared: Arc<Shared<S>>,
    /// `None` once the outcome has been told.
    command: Option<S::Command>,
    place: Result<Place<S::Response>, Option<ProposeError<()>>>,
    deadline: Instant,
}

impl<S: StateMachine> Ticket<S> {
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        command: S::Command,
        place: Place<S::Response>,
        deadline: Instant,
    ) -> Self {
        Self { shared, command: Some(command), place: Ok(place), deadline }
    }

    /// A ticket of one of many, which did not get in.
    pub(super) fn refused(
        shared: Arc<Shared<S>>,
        command: S::Command,
        why: ProposeError<()>,
        deadline: Instant,
    ) -> Self {
        Self { shared, command: Some(command), place: Err(Some(why)), deadline }
    }

    /// Waits for the outcome, until the proposal's deadline at most.
    ///
    /// # Errors
    /// Any [`ProposeError`] but `NotEncodable` and `TooLarge`, which only the tickets of
    /// [`Node::submit_many`](crate::Node::submit_many) tell.
    pub fn wait(mut self) -> Reply<S> {
        let deadline = self.deadline;
        self.outcome(Some(deadline))
    }

    /// Waits for the outcome, for `timeout` and until the proposal's deadline at most. A proposal that
    /// is not in the log by then is taken back.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(mut self, timeout: Duration) -> Reply<S> {
        let deadline = self.deadline.min(deadline_after(timeout));
        self.outcome(Some(deadline))
    }

    /// The outcome if there is one, without waiting. It is told once; `None` before and afterwards.
    pub fn try_wait(&mut self) -> Option<Reply<S>> {
        self.command.as_ref()?;
        let answered = match &self.place {
            Ok(place) => place.group.is_answered(place.slot) || Instant::now() >= self.deadline,
            Err(_) => true,
        };
        let deadline = self.deadline;
        answered.then(|| self.outcome(Some(deadline)))
    }

    /// Whether there is an outcome, or it has been told.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn is_answered(&self) -> bool {
        self.place.as_ref().map_or(true, |place| place.group.is_answered(place.slot))
    }

    /// Waits until the proposal is in the leader's log, at most for `timeout` and until its deadline, and
    /// says where. `None` if it is not: yet, or ever; or if the leader's answer to this node was lost.
    ///
    /// Being in one log is no promise: only the outcome tells whether the command is applied. Once it is,
    /// this is the entry from which on other nodes show it:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use oarlock::{Cluster, Machine};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Counter(u64);
    /// # impl Machine for Counter {
    /// #     type Command = u64;
    /// #     type Response = u64;
    /// #     fn apply(&mut self, add: u64) -> u64 { self.0 += add; self.0 }
    /// # }
    /// use oarlock::Consistency;
    ///
    /// # let cluster = Cluster::memory(3, Counter::default)?;
    /// # let minute = Duration::from_secs(60);
    /// # let leader = cluster.wait_leader(minute)?;
    /// let ticket = leader.submit(3)?;
    /// let entry = ticket.wait_appended(minute);
    /// assert_eq!(ticket.wait()?, 3);
    /// let entry = entry.expect("applied, so it is in the log");
    /// for node in cluster.nodes() {
    ///     let seen = node.read_with_timeout(Consistency::AtLeast(entry), minute, |counter| counter.0)?;
    ///     assert_eq!(seen, 3);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_appended(&self, timeout: Duration) -> Option<EntryId> {
        let place = self.place.as_ref().ok()?;
        place.group.wait_placed(place.slot, self.deadline.min(deadline_after(timeout)))
    }

    /// Where in the leader's log the proposal is, as far as this node knows.
    pub fn entry_id(&self) -> Option<EntryId> {
        let place = self.place.as_ref().ok()?;
        place.group.place(place.slot)
    }

    /// As [`wait_timeout`](Self::wait_timeout) with no time at all.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn give_up(mut self) -> Reply<S> {
        self.outcome(None)
    }

    /// The outcome, which is waited for until `deadline` if there is one.
    fn outcome(&mut self, deadline: Option<Instant>) -> Reply<S> {
        let command = self.command.take().expect("told once: by value, or after a look");
        if let Err(why) = &mut self.place {
            let why = why.take().expect("told once");
            return Err(why.map(|()| command));
        }
        let place = self.place.as_ref().expect("just seen");
        // Inside this node there is nothing to wait for: the thread that answers is this one, or waits
        // for this one.
        let inside = inside::is_inside(Arc::as_ptr(&self.shared) as usize);
        let answer = match deadline.filter(|_| !inside) {
            Some(deadline) => place.group.take_until(place.slot, deadline),
            None => place.group.try_take(place.slot),
        };
        if let Some(answer) = answer {
            return self.resolve(command, answer);
        }
        if self.shared.inbox.withdraw(place.generation, place.slot) {
            let error = if inside { ProposeError::Reentrant } else { ProposeError::Busy };
            return Err(error(command));
        }
        // Too late to take it back; it may have been answered just now.
        match place.group.try_take(place.slot) {
            Some(answer) => self.resolve(command, answer),
            None => Err(ProposeError::Unknown {
                entry: place.group.place(place.slot),
                cause: UnknownCause::Deadline,
            }),
        }
    }

    fn resolve(&self, command: S::Command, answer: Answer<S::Response>) -> Reply<S> {
        let entry = || self.entry_id();
        Err(match answer {
            Answer::Response(response) => return Ok(response),
            Answer::NotLeader(leader) => ProposeError::NotLeader { leader, command },
            Answer::Superseded => ProposeError::Superseded(command),
            Answer::Stopped(cause) => ProposeError::Stopped { cause, command },
            Answer::Unknown(cause) => {
                ProposeError::Unknown { entry: entry(), cause: UnknownCause::Stopped(cause) }
            }
            Answer::Expired => {
                ProposeError::Unknown { entry: entry(), cause: UnknownCause::Deadline }
            }
        })
    }
}

impl<S: StateMachine> fmt::Debug for Ticket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("entry_id", &self.entry_id()).finish_non_exhaustive()
    }
}

/// The tickets of [`Node::submit_many`](crate::Node::submit_many), in the order of the commands.
#[must_use = "tickets that nobody waits for never tell the outcome"]
pub struct Tickets<S: StateMachine>(pub(super) Vec<Ticket<S>>);

impl<S: StateMachine> Tickets<S> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for every outcome; they come in the order of the commands.
    pub fn wait_all(self) -> Vec<Reply<S>> {
        self.0.into_iter().map(Ticket::wait).collect()
    }
}

impl<S: StateMachine> IntoIterator for Tickets<S> {
    type Item = Ticket<S>;
    type IntoIter = std::vec::IntoIter<Ticket<S>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<S: StateMachine> fmt::Debug for Tickets<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}
