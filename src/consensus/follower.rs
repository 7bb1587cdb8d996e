//! The follower's side of replication: what to store, what to refuse, what to acknowledge. Raft §5.3.
//!
//! Two indexes keep a follower honest. *Verified* is the last one shown equal to this leader's log: an
//! accepted append raises it to that append's end, a change of term lowers it to the commit index. What
//! lies beyond may be some older leader's, so neither a commit index nor an acknowledgement reaches
//! past it. *Persisted* is the last one on this node's disk: an entry that a crash can still take is
//! not acknowledged (thesis §3.8).
//!
//! A leader never asks for what it already has shown to be taken back. An append that contradicts the
//! verified or the committed part of the log comes from no correct leader, and is ignored.

use super::core::Core;
use super::io::Output;
use crate::message::{
    Append, AppendOutcome, AppendReply, Entries, Heartbeat, HeartbeatReply, Message, ReadRound,
};
use crate::types::{EntryId, LogIndex, NodeId};

impl Core {
    /// How much of this term's leader's log is on this node's disk.
    pub(super) fn acknowledged(&self) -> LogIndex {
        self.persisted.index().min(self.verified)
    }

    /// Takes an append of the leader that is followed.
    pub(super) fn on_append(&mut self, leader: NodeId, append: &Append) {
        let prev = append.prev;
        let last = append.entries.runs.last().map_or(prev.index, |_| append.entries.last);
        if prev.index >= self.log.base().index {
            if !self.log.holds(prev) {
                return self.reject(leader, prev);
            }
        } else if !self.continues_from_base(&append.entries, last) {
            return;
        }
        if let Some(first) = self.log.first_missing(&append.entries) {
            if first <= self.committed.max(self.verified) {
                return;
            }
            self.store(first, &append.entries);
        }
        // Entries that are held already stay, and so does what follows them: an append that comes
        // late or twice must not take back what a newer one brought (Raft §5.3).
        self.verified = self.verified.max(last);
        self.commit_up_to(append.committed);
        if self.acknowledged() >= last {
            self.acknowledge();
        }
    }

    /// Whether an append that begins before this log leads into it. What lies at and before the base
    /// is committed, so that every leader has it.
    fn continues_from_base(&self, entries: &Entries, last: LogIndex) -> bool {
        let base = self.log.base();
        let at_base = entries.runs.iter().rev().find(|run| run.first <= base.index);
        last <= base.index || at_base.is_some_and(|run| run.term == base.term)
    }

    fn reject(&mut self, leader: NodeId, prev: EntryId) {
        if prev.index <= self.committed.max(self.verified) {
            return;
        }
        let possible = self.log.last_possible_match(prev.index.prev(), prev.term);
        let hint = if possible.index >= self.committed {
            possible
        } else {
            let term = self.log.term_at(self.committed).expect("the log holds what is committed");
            EntryId::new(term, self.committed)
        };
        let outcome = AppendOutcome::Rejected { prev: prev.index, hint };
        self.send(leader, Message::AppendReply(AppendReply { term: self.term(), outcome }));
    }

    /// Puts the entries from `first` on at the end of the log, in the place of whatever conflicts.
    fn store(&mut self, first: LogIndex, entries: &Entries) {
        if first <= self.log.last().index {
            self.truncate(first);
        }
        self.log.extend(entries);
        self.out.push(Output::Store { first, last: entries.last });
        self.senders.retain_members(self.log.membership());
    }

    fn truncate(&mut self, from: LogIndex) {
        assert!(
            from > self.committed,
            "truncation from {from}, but {} is committed",
            self.committed
        );
        self.log.truncate(from);
        self.verified = self.verified.min(from.prev());
        let generation = self.persisted.truncate(from);
        self.out.push(Output::Truncate { from, generation });
    }

    /// Takes a sign of life of the leader that is followed.
    pub(super) fn on_heartbeat(&mut self, leader: NodeId, heartbeat: Heartbeat) {
        self.commit_up_to(heartbeat.committed);
        self.replicated = heartbeat.replicated.min(self.acknowledged());
        self.answer_heartbeat(leader, heartbeat.round, self.acknowledged());
    }

    /// Tells the leader what this node's disk holds of its log.
    pub(super) fn acknowledge(&mut self) {
        if let Some(leader) = self.leader {
            let outcome = AppendOutcome::Accepted { matched: self.acknowledged() };
            self.send(leader, Message::AppendReply(AppendReply { term: self.term(), outcome }));
        }
    }

    /// Tells the leader of an earlier term that it leads no more. Silence would leave it in office,
    /// and a node whose term is ahead would never be led again.
    pub(super) fn refuse_outdated_leader(&mut self, to: NodeId, message: &Message) {
        match message {
            Message::Append(append) => {
                let outcome =
                    AppendOutcome::Rejected { prev: append.prev.index, hint: EntryId::ZERO };
                self.send(to, Message::AppendReply(AppendReply { term: self.term(), outcome }));
            }
            Message::Heartbeat(heartbeat) => {
                self.answer_heartbeat(to, heartbeat.round, LogIndex::ZERO);
            }
            Message::Vote(_)
            | Message::VoteReply(_)
            | Message::AppendReply(_)
            | Message::HeartbeatReply(_)
            | Message::Forward(_)
            | Message::ForwardReply(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_) => {}
        }
    }

    fn answer_heartbeat(&mut self, to: NodeId, round: ReadRound, matched: LogIndex) {
        let reply = HeartbeatReply { term: self.term(), round, matched, full: self.full };
        self.send(to, Message::HeartbeatReply(reply));
    }
}
