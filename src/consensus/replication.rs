//! The leader's side of replication: proposals, appends, heartbeats, and what the answers say.
//! Raft §5.3.
//!
//! The core orders an append by where it begins and how large it may be; the driver cuts it at whole
//! records and says how far it came. So the core knows what is in flight without ever seeing a payload.
//! At most one order for each member is outstanding, and what follows depends on how it was carried out.

use std::collections::BTreeMap;

use super::core::{Core, Leader, RoleState};
use super::forward::Taken;
use super::io::{NewEntries, Options, Output};
use super::log_shape::LogShape;
use super::progress::{Inflights, Progress};
use super::quorum::{self, counts};
use super::read::Reads;
use crate::message::{
    Append, AppendOutcome, AppendReply, Entries, Heartbeat, HeartbeatReply, Message,
};
use crate::types::{EntryId, LogIndex, NodeId, Sender, Term};

impl Core {
    /// Begins to lead the term that was won.
    pub(super) fn become_leader(&mut self) {
        assert!(
            self.durable.covers(self.hard_state),
            "leads with {:?} before that is on the disk",
            self.hard_state
        );
        let me = self.options.me.node;
        let Options { max_inflight_appends, max_inflight_bytes, .. } = self.options;
        let next = self.log.last().index.next();
        let fresh =
            || Progress::new(next, Inflights::new(max_inflight_appends, max_inflight_bytes));
        let progress: BTreeMap<NodeId, Progress> = self
            .log
            .membership()
            .nodes()
            .into_iter()
            .filter(|&node| node != me)
            .map(|node| (node, fresh()))
            .collect();
        self.set_role(RoleState::Leader(Leader {
            progress,
            reads: Reads::default(),
            taken: Taken::default(),
            heartbeat_elapsed: 0,
        }));
        self.leader = Some(me);
        // A term's first entry tells the leader what is committed: earlier terms' entries commit with
        // it and never by themselves (Raft §5.4.2, §8).
        self.append_new(1, NewEntries::Noop);
        self.send_heartbeats();
        self.replicate_to_all();
    }

    /// Adds entries of the leader's own term at the end of its log (leaders only append, Raft §5.3).
    pub(super) fn append_new(&mut self, count: u64, entries: NewEntries) {
        let term = self.term();
        let first = EntryId::new(term, self.log.last().index.next());
        self.log.append(term, count);
        self.verified = self.log.last().index;
        self.out.push(Output::Append { first, count, entries });
    }

    pub(super) fn propose(&mut self, count: u64) {
        assert!(count > 0, "a proposal of no commands");
        match self.role {
            RoleState::Leader(_) => {
                self.append_new(count, NewEntries::Commands);
                self.replicate_to_all();
            }
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.out.push(Output::ProposeRefused);
            }
        }
    }

    pub(super) fn tick_leading(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        for progress in leader.progress.values_mut() {
            progress.tick(self.options.election_ticks);
        }
        leader.heartbeat_elapsed += 1;
        let is_time = leader.heartbeat_elapsed >= self.options.heartbeat_ticks;
        if is_time {
            leader.heartbeat_elapsed = 0;
            leader.progress.values_mut().for_each(Progress::rearm);
        }
        if self.options.check_quorum && !self.hears_quorum() {
            // A leader that cannot commit must not keep others from electing one that can: it sends
            // no heartbeats any more, or nodes that hear both sides would go on defending it.
            return self.become_follower();
        }
        if is_time {
            self.send_heartbeats();
        }
        self.replicate_to_all();
    }

    /// Whether a quorum has answered within an election timeout (thesis §6.2).
    fn hears_quorum(&self) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let me = self.options.me;
        quorum::reached(self.log.membership(), false, |node, member| {
            if node == me.node {
                return counts(member, me.incarnation);
            }
            leader.progress.get(&node).is_some_and(|progress| {
                // Who has not answered yet is given the time to.
                let is_meant = progress.incarnation().is_none_or(|who| counts(member, who));
                is_meant && progress.silent_ticks() < self.options.election_ticks
            })
        })
    }

    fn send_heartbeats(&mut self) {
        for node in self.log.membership().nodes() {
            if node != self.options.me.node {
                self.send_heartbeat(node);
            }
        }
    }

    pub(super) fn send_heartbeat(&mut self, to: NodeId) {
        let heartbeat = Heartbeat {
            term: self.term(),
            committed: self.committed,
            round: self.round,
            replicated: self.replicated(),
        };
        self.send(to, Message::Heartbeat(heartbeat));
    }

    pub(super) fn replicate_to_all(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let appends = Appends::of(&self.log, &self.options, self.committed, self.hard_state.term);
        for (&to, progress) in &mut leader.progress {
            self.out.extend(appends.order(to, progress));
        }
    }

    fn replicate_to(&mut self, to: NodeId) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let appends = Appends::of(&self.log, &self.options, self.committed, self.hard_state.term);
        if let Some(progress) = leader.progress.get_mut(&to) {
            self.out.extend(appends.order(to, progress));
        }
    }

    pub(super) fn sent(&mut self, to: NodeId, last: LogIndex, bytes: usize) {
        // A range that had to be fetched may be answered after the leadership that ordered it, and
        // then for a log that has changed.
        let last = last.min(self.log.last().index);
        if let Some(progress) = self.progress_of(to) {
            progress.sent(last, bytes);
            self.replicate_to(to);
        }
    }

    pub(super) fn dropped(&mut self, to: NodeId) {
        if let Some(progress) = self.progress_of(to) {
            progress.dropped();
        }
    }

    fn progress_of(&mut self, node: NodeId) -> Option<&mut Progress> {
        match &mut self.role {
            RoleState::Leader(leader) => leader.progress.get_mut(&node),
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        }
    }

    pub(super) fn on_append_reply(&mut self, from: &Sender, reply: AppendReply) {
        let last = self.log.last().index;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from.node) else { return };
        progress.heard_from(from, last);
        match reply.outcome {
            // Nobody can hold more of this leader's log than there is.
            AppendOutcome::Accepted { matched } if matched > last => return,
            AppendOutcome::Accepted { matched } => {
                if progress.accepted(matched) {
                    self.advance_commit();
                }
            }
            AppendOutcome::Rejected { prev, hint } => {
                if !progress.is_current_rejection(prev) {
                    return;
                }
                // Both sides skip what cannot match, by term: one question for each term that
                // differs, not for each entry (Raft §5.3, end).
                let before = hint.index.min(prev.prev());
                progress.rejected(self.log.last_possible_match(before, hint.term).index);
            }
        }
        self.replicate_to(from.node);
    }

    pub(super) fn on_heartbeat_reply(&mut self, from: &Sender, reply: HeartbeatReply) {
        let last = self.log.last().index;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from.node) else { return };
        if reply.round > self.round || reply.matched > last {
            return;
        }
        progress.heard_from(from, last);
        progress.answered(reply.round, reply.full);
        if progress.acknowledge(reply.matched) {
            self.advance_commit();
        }
        self.confirm_reads();
        self.replicate_to(from.node);
        self.give_way();
    }
}

/// What every append of a moment has in common.
struct Appends<'a> {
    log: &'a LogShape,
    max_append_bytes: usize,
    committed: LogIndex,
    term: Term,
}

impl<'a> Appends<'a> {
    fn of(log: &'a LogShape, options: &Options, committed: LogIndex, term: Term) -> Self {
        Self { log, max_append_bytes: options.max_append_bytes, committed, term }
    }

    /// The next append for a member, if it can take one.
    fn order(&self, to: NodeId, progress: &mut Progress) -> Option<Output> {
        // A member that needs earlier entries than the log has is asked about the entry before the
        // first, and will refuse. To leave that entry out, or to make one up, would corrupt its log.
        progress.begin_at(self.log.base().index.next());
        let order = progress.order(self.log.last().index, self.max_append_bytes)?;
        let term = self.log.term_at(order.prev).expect("the log reaches from its base to its last");
        let prev = EntryId::new(term, order.prev);
        let append = Append {
            term: self.term,
            prev,
            committed: self.committed,
            entries: Entries::default(),
        };
        Some(Output::SendAppend { to, append, max_bytes: order.max_bytes })
    }
}
