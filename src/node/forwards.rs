//! Proposals on their way from one node into another's log: both ends of it.
//!
//! The origin numbers its commands as it sends them, and knows them again when it applies entries that
//! carry its tag; what is kept here is only which of them the leader has not answered for yet, so that
//! they stay within bounds and their tickets can say where they are. The leader keeps what there is no
//! room for in its log; each origin sends no more than its share of that before it hears of it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::group::Group;
use crate::clock::Time;
use crate::message::Forward;
use crate::slices::Slices;
use crate::types::{EntryId, Sender};

/// One message's commands: the slots of a group, as runs of (first slot, count).
#[derive(Debug)]
pub(crate) struct Sent<R> {
    pub(crate) sequence: u64,
    pub(crate) bytes: usize,
    pub(crate) group: Arc<Group<R>>,
    pub(crate) runs: Vec<(usize, usize)>,
    pub(crate) expires: Time,
}

impl<R> Sent<R> {
    fn is_answered(&self) -> bool {
        self.runs.last().is_none_or(|&(slot, count)| self.group.is_answered(slot + count - 1))
    }
}

/// The origin's end.
#[derive(Debug)]
pub(crate) struct Outgoing<R> {
    next_sequence: u64,
    /// What the leader has not answered for, in the order of the sequences.
    sent: VecDeque<Sent<R>>,
    bytes: usize,
}

impl<R> Default for Outgoing<R> {
    fn default() -> Self {
        Self { next_sequence: 1, sent: VecDeque::new(), bytes: 0 }
    }
}

impl<R> Outgoing<R> {
    /// The sequence of the next command. One that was not sent after all may be given again.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Whether a message of so many bytes may be sent: whatever is alone may.
    pub(crate) fn has_room(&self, bytes: usize, max_bytes: usize) -> bool {
        self.sent.is_empty() || self.bytes + bytes <= max_bytes
    }

    /// A message is on its way.
    pub(crate) fn sent(&mut self, sent: Sent<R>) {
        let count: usize = sent.runs.iter().map(|&(_, count)| count).sum();
        self.next_sequence = sent.sequence + count as u64;
        self.bytes += sent.bytes;
        self.sent.push_back(sent);
    }

    /// The leader has put the message that begins with `sequence` into its log. It will take none of those
    /// before it any more.
    pub(crate) fn placed(&mut self, sequence: u64, first: EntryId) {
        while let Some(front) = self.sent.front() {
            if front.sequence > sequence {
                return;
            }
            let front = self.sent.pop_front().expect("just seen");
            self.bytes -= front.bytes;
            if front.sequence == sequence {
                let mut first = first;
                for (slot, count) in front.runs {
                    front.group.placed(slot, count, first);
                    first.index = first.index.plus(count as u64);
                }
            }
        }
    }

    /// Forgets what has its outcome, or nobody waits for: the leader's answer was lost.
    pub(crate) fn forget_settled(&mut self, now: Time) {
        self.sent.retain(|sent| sent.expires > now && !sent.is_answered());
        self.bytes = self.sent.iter().map(|sent| sent.bytes).sum();
    }

    /// The bytes of what the leader has not answered for.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets everything: the leader it was sent to is not followed any more.
    pub(crate) fn clear(&mut self) {
        self.sent.clear();
        self.bytes = 0;
    }
}

/// A message of another node that has arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) from: Sender,
    pub(crate) forward: Forward,
    pub(crate) records: Slices,
}

/// The leader's end.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    waiting: VecDeque<Arrived>,
    bytes: usize,
}

impl Incoming {
    /// Keeps a message until the log has room; false if so much waits that it is lost.
    pub(crate) fn push(&mut self, arrived: Arrived, max_bytes: usize) -> bool {
        let bytes = arrived.records.len();
        if !self.waiting.is_empty() && self.bytes + bytes > max_bytes {
            return false;
        }
        self.bytes += bytes;
        self.waiting.push_back(arrived);
        true
    }

    /// The bytes of the message that is next.
    pub(crate) fn next_bytes(&self) -> Option<usize> {
        self.waiting.front().map(|next| next.records.len())
    }

    /// The message that is next.
    pub(crate) fn pop(&mut self) -> Option<Arrived> {
        let next = self.waiting.pop_front()?;
        self.bytes -= next.records.len();
        Some(next)
    }

    /// The bytes of all that waits.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops what waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogIndex, Term};

    fn outgoing(messages: &[(u64, usize)]) -> (Outgoing<()>, Vec<Arc<Group<()>>>) {
        let mut outgoing = Outgoing::default();
        let groups: Vec<_> =
            messages.iter().map(|_| Arc::new(Group::new(Arc::default()))).collect();
        for (&(sequence, count), group) in messages.iter().zip(&groups) {
            assert_eq!(outgoing.next_sequence(), sequence);
            let (group, runs) = (Arc::clone(group), vec![(0, 1), (2, count - 1)]);
            outgoing.sent(Sent { sequence, bytes: 10, group, runs, expires: Time(100) });
        }
        (outgoing, groups)
    }

    #[test]
    fn an_answer_says_where_its_commands_are_and_ends_the_wait_for_those_before() {
        let (mut outgoing, groups) = outgoing(&[(1, 3), (4, 2), (6, 2)]);
        assert!(!outgoing.has_room(1, 30));
        outgoing.placed(4, EntryId::new(Term(2), LogIndex(9)));
        assert!(outgoing.has_room(20, 30) && !outgoing.has_room(21, 30));
        assert_eq!(groups[0].place(0), None);
        assert_eq!(groups[1].place(0), Some(EntryId::new(Term(2), LogIndex(9))));
        assert_eq!(groups[1].place(1), None, "a withdrawn slot is nowhere");
        assert_eq!(groups[1].place(2), Some(EntryId::new(Term(2), LogIndex(10))));
        assert_eq!(groups[2].place(0), None);
    }

    #[test]
    fn what_the_leader_never_answers_does_not_hold_up_the_rest_for_ever() {
        let (mut outgoing, _groups) = outgoing(&[(1, 3), (4, 2)]);
        outgoing.forget_settled(Time(99));
        assert!(!outgoing.has_room(1, 20));
        outgoing.forget_settled(Time(100));
        assert!(outgoing.has_room(20, 20));
    }

    #[test]
    fn what_waits_for_the_log_is_bounded_but_for_a_single_message() {
        let arrived = |bytes| Arrived {
            from: Sender::default(),
            forward: Forward { term: Term(1), sequence: 1, count: 1 },
            records: Slices::from(vec![0; bytes]),
        };
        let mut incoming = Incoming::default();
        assert!(incoming.push(arrived(50), 10));
        assert!(!incoming.push(arrived(1), 10));
        assert_eq!(incoming.next_bytes(), Some(50));
        assert!(incoming.pop().is_some() && incoming.pop().is_none());
        assert!(incoming.push(arrived(4), 10) && incoming.push(arrived(6), 10));
        assert!(!incoming.push(arrived(1), 10));
    }
}
