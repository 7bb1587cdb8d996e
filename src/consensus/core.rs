//! The state of one node, and the one function that changes it.
//!
//! `step` takes a fact, lets the rules of the other files decide, and hands out the orders that follow.
//! Here are the things all rules share: entering a term, changing role, sending what must wait for the
//! disk. What the rules say is in `election` (Raft §5.2, §5.4.1), `replication` and `follower` (§5.3),
//! `commit` (§5.4.2) and `read` (thesis §6.4).

use std::collections::BTreeMap;

use super::durable::{DurableHardState, PersistedLog};
use super::election::Votes;
use super::forward::Taken;
use super::invariants::Before;
use super::io::{Generation, Input, Options, Output};
use super::log_shape::LogShape;
use super::plausible;
use super::progress::Progress;
use super::read::{Asked, Reads};
use super::senders::Senders;
use super::timeouts::Timeouts;
use crate::membership::Membership;
use crate::message::{Entries, Message, ReadRound};
use crate::types::{EntryId, HardState, LogIndex, NodeId, Role, Sender, Term};

/// What a node finds on its disk when it starts. All of it counts as persisted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// The entry before the first that the log holds.
    pub base: EntryId,
    /// The shape of what the log holds after `base`, memberships included.
    pub entries: Entries,
    /// The membership in force at `base`.
    pub membership: Membership,
    /// Known to be committed: at least `base.index`, at most the end of the log.
    pub committed: LogIndex,
}

/// What a node is, with what only a node in that role knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum RoleState {
    Follower,
    PreCandidate(Votes),
    Candidate(Votes),
    Leader(Leader),
}

/// What a leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    /// Of every other member, learners included.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    pub(super) reads: Reads,
    pub(super) taken: Taken,
    /// Ticks since the last regular heartbeat.
    pub(super) heartbeat_elapsed: u32,
}

/// The consensus of one node, without its disk, its network and its clock.
///
/// See the [module](super) for what it does and how to drive it. Equal cores given equal inputs stay
/// equal, and a clone goes its own way from there: a model checker can walk through all their states.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    pub(super) options: Options,
    pub(super) hard_state: HardState,
    pub(super) durable: DurableHardState,
    pub(super) role: RoleState,
    pub(super) leader: Option<NodeId>,
    pub(super) log: LogShape,
    pub(super) persisted: PersistedLog,
    /// The last index shown to be equal to the log of this term's leader.
    pub(super) verified: LogIndex,
    pub(super) committed: LogIndex,
    /// What a leader said is on every member's disk.
    pub(super) replicated: LogIndex,
    pub(super) senders: Senders,
    /// Which directory and boot of the candidate got this term's vote; not known after a restart.
    pub(super) voted_as: Option<Sender>,
    pub(super) timeouts: Timeouts,
    /// The timeout that is running, in ticks.
    pub(super) timeout: u32,
    /// Ticks since it began.
    pub(super) election_elapsed: u32,
    /// Ticks since the leader was heard.
    pub(super) leader_elapsed: u32,
    /// The last read round that was begun, or asked for, in whatever term.
    pub(super) round: ReadRound,
    /// What a follower has asked its leader.
    pub(super) asked: Option<Asked>,
    pub(super) fit: bool,
    pub(super) full: bool,
    /// The orders of the step that is being made; empty between steps.
    pub(super) out: Vec<Output>,
}

impl Core {
    /// A follower that has heard of no leader, with what its disk holds.
    ///
    /// # Panics
    /// If what was restored contradicts itself: `committed` outside the log, or entries that do not
    /// follow `base`.
    pub fn new(options: Options, restored: Restored) -> Self {
        let Restored { mut hard_state, base, entries, membership, committed } = restored;
        let mut log = LogShape::new(base, membership);
        if let Some(first) = entries.first() {
            assert!(first == base.index.next(), "the log begins with {first} after {base}");
            log.extend(&entries);
        }
        let last = log.last();
        assert!(
            base.index <= committed && committed <= last.index,
            "committed up to {committed}, but the log reaches from {base} to {last}"
        );
        let durable = DurableHardState::new(hard_state);
        if last.term > hard_state.term {
            // The entry came with its leader's term, and the crash with the flush of the term.
            hard_state = HardState { term: last.term, voted_for: None };
        }
        let mut timeouts = Timeouts::new(options.seed, options.election_ticks, options.priority);
        let timeout = timeouts.draw();
        Self {
            hard_state,
            durable,
            role: RoleState::Follower,
            leader: None,
            persisted: PersistedLog::new(last.index),
            log,
            verified: committed,
            committed,
            replicated: LogIndex::ZERO,
            senders: Senders::default(),
            voted_as: None,
            timeouts,
            timeout,
            election_elapsed: 0,
            leader_elapsed: 0,
            round: ReadRound::default(),
            asked: None,
            fit: true,
            full: false,
            out: Vec::new(),
            options,
        }
    }

    /// Takes a fact and answers with orders, to be carried out in the order given. The only function
    /// that changes anything.
    ///
    /// # Panics
    /// If the driver reports what cannot be: entries or a vote persisted that were never ordered, a
    /// proposal of nothing. Never because of what a peer sends.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        let before = Before::of(self);
        match input {
            Input::Tick => self.tick(),
            Input::Message { from, message } => self.receive(from, message),
            Input::Propose { count } => self.propose(count),
            Input::Read => self.read(),
            Input::Campaign => self.campaign_by_hand(),
            Input::Sent { to, last, bytes } => self.sent(to, last, bytes),
            Input::Dropped { to } => self.dropped(to),
            Input::Persisted { generation, index } => self.log_persisted(generation, index),
            Input::HardStatePersisted(state) => self.hard_state_persisted(state),
            Input::Fit(fit) => self.set_fit(fit),
            Input::Full(full) => self.set_full(full),
        }
        if self.durable.must_order(self.hard_state) {
            self.out.push(Output::PersistHardState(self.hard_state));
        }
        let (role, term, leader) = (self.role(), self.term(), self.leader);
        if before.has_changed_role(role, term, leader) {
            self.out.insert(0, Output::RoleChanged { role, term, leader });
        }
        before.check(self);
        std::mem::take(&mut self.out)
    }

    fn tick(&mut self) {
        match self.role {
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.tick_without_leading();
            }
            RoleState::Leader(_) => self.tick_leading(),
        }
    }

    /// Every message has its answer in every role. Who may speak at all comes first, then the term
    /// (Raft §5.1), then role and message together.
    #[expect(clippy::match_same_arms, reason = "each arm that does nothing says why")]
    fn receive(&mut self, from: Sender, message: Message) {
        let is_from_member = self.log.membership().member(from.node).is_some();
        if from.node == self.options.me.node
            || !plausible::is_plausible(&message)
            || !self.senders.accept(&from, self.log.membership())
            || !self.meet_term(&from, &message, is_from_member)
        {
            return;
        }
        match (self.role(), message) {
            (
                Role::Follower | Role::PreCandidate | Role::Candidate | Role::Leader,
                Message::Vote(vote),
            ) => self.on_vote(&from, vote),

            (Role::PreCandidate | Role::Candidate, Message::VoteReply(reply)) => {
                self.on_vote_reply(&from, reply);
            }
            // An election that is over.
            (Role::Follower | Role::Leader, Message::VoteReply(_)) => {}

            // Somebody else won the term: a candidate becomes its follower, and takes what it sends
            // (Raft §5.2).
            (Role::Follower | Role::PreCandidate | Role::Candidate, Message::Append(append)) => {
                if self.follow(from.node) {
                    self.on_append(from.node, &append);
                }
            }
            (Role::Follower | Role::PreCandidate | Role::Candidate, Message::Heartbeat(beat)) => {
                if self.follow(from.node) {
                    self.on_heartbeat(from.node, beat);
                }
            }
            // A term has one leader (Raft §5.2), and this is it: the sender errs.
            (Role::Leader, Message::Append(_) | Message::Heartbeat(_)) => {}

            (Role::Leader, Message::AppendReply(reply)) => self.on_append_reply(&from, reply),
            (Role::Leader, Message::HeartbeatReply(reply)) => {
                self.on_heartbeat_reply(&from, reply);
            }
            // A leadership that is over.
            (
                Role::Follower | Role::PreCandidate | Role::Candidate,
                Message::AppendReply(_) | Message::HeartbeatReply(_),
            ) => {}

            (Role::Leader, Message::Forward(forward)) => self.on_forward(&from, forward),
            (Role::Leader, Message::ReadIndex(asked)) => self.on_read_index(&from, asked),
            // Only the leader of the term could have taken or answered it.
            (
                Role::Follower | Role::PreCandidate | Role::Candidate,
                Message::Forward(_) | Message::ReadIndex(_),
            ) => {}

            (Role::Follower, Message::ForwardReply(reply)) => {
                self.on_forward_reply(from.node, reply);
            }
            (Role::Follower, Message::ReadIndexReply(reply)) => {
                self.on_read_index_reply(from.node, reply);
            }
            // The leader that was asked is not followed any more.
            (
                Role::PreCandidate | Role::Candidate | Role::Leader,
                Message::ForwardReply(_) | Message::ReadIndexReply(_),
            ) => {}
        }
    }

    /// Brings the message's term and the node's together (Raft §5.1). Returns whether the message is
    /// still to be looked at.
    fn meet_term(&mut self, from: &Sender, message: &Message, is_from_member: bool) -> bool {
        let (theirs, ours) = (message.term(), self.term());
        match message {
            // Whether a vote's term is entered depends on whether a leader is defended; an outdated
            // request is answered like any other that is refused, for a sender that learns nothing
            // would ask for ever.
            Message::Vote(_) => true,
            Message::Append(_) | Message::Heartbeat(_) => {
                if theirs < ours {
                    self.refuse_outdated_leader(from.node, message);
                    return false;
                }
                self.enter_term_if_later(theirs);
                true
            }
            // A granted pre-vote names the term that was asked about; nobody is in it.
            Message::VoteReply(reply) if reply.pre && reply.granted => is_from_member,
            Message::VoteReply(reply) if reply.pre => {
                if is_from_member {
                    self.enter_term_if_later(theirs);
                }
                is_from_member
            }
            // Nobody but members was asked. One that was removed since may have a term of its own,
            // and must not depose anybody with it (Raft §6).
            Message::VoteReply(_) | Message::AppendReply(_) | Message::HeartbeatReply(_) => {
                if !is_from_member || theirs < ours {
                    return false;
                }
                self.enter_term_if_later(theirs);
                true
            }
            // Between a leader and its follower, in one term, or not at all.
            Message::Forward(_)
            | Message::ForwardReply(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_) => is_from_member && theirs == ours,
        }
    }

    fn enter_term_if_later(&mut self, term: Term) {
        if term > self.term() {
            self.enter_term(term);
        }
    }

    /// Enters a later term as a follower that has voted for nobody and knows of no leader.
    pub(super) fn enter_term(&mut self, term: Term) {
        self.set_hard_state(HardState { term, voted_for: None }, None);
        self.become_follower();
    }

    /// Changes term or vote. What depends on it waits for the disk from here on.
    pub(super) fn set_hard_state(&mut self, state: HardState, voted_as: Option<Sender>) {
        if state.term > self.hard_state.term {
            // Nothing has been compared with the log of the term's leader yet, but what is committed
            // is in it (leader completeness, Raft §5.4.3).
            self.verified = self.committed;
        }
        self.hard_state = state;
        self.voted_as = voted_as;
    }

    /// Follows whoever leads this term. Returns false if that is somebody else.
    fn follow(&mut self, leader: NodeId) -> bool {
        if self.leader.is_some_and(|known| known != leader) {
            return false;
        }
        if self.leader.is_none() {
            self.become_follower();
            self.leader = Some(leader);
            self.timeout = self.timeouts.draw();
        }
        self.election_elapsed = 0;
        self.leader_elapsed = 0;
        true
    }

    /// Becomes a follower of nobody. The election timer runs on: only a leader or a vote that was
    /// given restart it (Raft §5.2), or whoever changes terms fastest would keep all others waiting.
    pub(super) fn become_follower(&mut self) {
        if matches!(self.role, RoleState::Leader(_)) {
            self.restart_timer();
        }
        self.set_role(RoleState::Follower);
        self.leader = None;
    }

    pub(super) fn restart_timer(&mut self) {
        self.election_elapsed = 0;
        self.timeout = self.timeouts.draw();
    }

    /// All changes of role pass here, so that no reader is forgotten when leadership ends, or a leader
    /// is not followed any more.
    pub(super) fn set_role(&mut self, role: RoleState) {
        let readers_wait = match &self.role {
            RoleState::Leader(leader) => leader.reads.are_waiting(),
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.asked.is_some()
            }
        };
        if readers_wait {
            self.out.push(Output::ReadsLost);
        }
        self.asked = None;
        self.role = role;
    }

    /// Sends, or keeps until the disk holds what the message promises.
    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        let promises = match &message {
            // Asking and answering about a term that nobody is in promises nothing.
            Message::Vote(vote) => !vote.pre,
            Message::VoteReply(reply) => !reply.pre,
            Message::Forward(_) | Message::ReadIndex(_) => false,
            Message::ForwardReply(_)
            | Message::ReadIndexReply(_)
            | Message::Append(_)
            | Message::AppendReply(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatReply(_) => true,
        };
        if promises && !self.durable.covers(self.hard_state) {
            self.durable.hold(self.hard_state, to, message);
        } else {
            self.out.push(Output::Send { to, message });
        }
    }

    fn hard_state_persisted(&mut self, state: HardState) {
        self.durable.store(state);
        while let Some((to, message)) = self.durable.release() {
            self.out.push(Output::Send { to, message });
        }
        if self.durable.covers(self.hard_state) {
            self.count_own_vote();
        }
    }

    fn log_persisted(&mut self, generation: Generation, index: LogIndex) {
        let acknowledged = self.acknowledged();
        self.persisted.report(generation, index, self.log.last().index);
        match &self.role {
            RoleState::Leader(_) => self.advance_commit(),
            RoleState::Follower => {
                if self.acknowledged() > acknowledged {
                    self.acknowledge();
                }
            }
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => {}
        }
    }

    fn set_fit(&mut self, fit: bool) {
        self.fit = fit;
        if !fit && !matches!(self.role, RoleState::Follower) {
            self.become_follower();
        }
    }

    fn set_full(&mut self, full: bool) {
        self.full = full;
        self.give_way();
    }
}

/// What can be known of a core.
impl Core {
    /// Its options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What the node is.
    pub fn role(&self) -> Role {
        match self.role {
            RoleState::Follower => Role::Follower,
            RoleState::PreCandidate(_) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    /// The latest term it has seen.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Who leads that term, as far as the node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Term and vote, whether or not the disk has them.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The last entry known to be committed.
    pub fn committed(&self) -> LogIndex {
        self.committed
    }

    /// The last entry of the log, or the base if it holds none.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// The entry before the first that the log holds.
    pub fn base(&self) -> EntryId {
        self.log.base()
    }

    /// The membership in force: the latest in the log, committed or not.
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// How many truncations there were.
    pub fn generation(&self) -> Generation {
        self.persisted.generation()
    }

    /// How many messages wait for term and vote to be stored.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn held(&self) -> usize {
        self.durable.held()
    }

    /// The last index shown to be equal to the log of this term's leader; a leader's own last.
    pub fn verified(&self) -> LogIndex {
        self.verified
    }

    /// The last entry on this node's disk.
    pub fn persisted(&self) -> LogIndex {
        self.persisted.index()
    }

    /// The last index that every member's disk holds: counted by a leader, and by a follower as its
    /// leader last said.
    pub fn replicated(&self) -> LogIndex {
        match &self.role {
            RoleState::Leader(leader) => leader
                .progress
                .values()
                .map(Progress::matched)
                .fold(self.persisted.index(), LogIndex::min),
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.replicated
            }
        }
    }

    /// What a leader knows of every other member, in the order of their ids; nothing in other roles.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        let progress = match &self.role {
            RoleState::Leader(leader) => Some(&leader.progress),
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        };
        progress.into_iter().flatten().map(|(&node, progress)| (node, progress))
    }

    /// The term of the entry at `index`; `None` before the base and after the end.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The shape of the entries after `after` up to `last`, as far as the log holds them: what an
    /// [`Append`](crate::message::Append) needs where no records travel with it.
    pub fn shape(&self, after: LogIndex, last: LogIndex) -> Entries {
        self.log.shape(after, last)
    }
}
