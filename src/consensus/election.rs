//! Elections: when to stand, whom to vote for, who has won. Raft §5.2 and §5.4.1; pre-vote from the
//! thesis §9.6, the defence of a leader that lives from §4.2.3.
//!
//! Safety rests on two rules here: a node votes once in a term, and only for a log at least as up to
//! date as its own. Everything else is about disturbing as little as possible. A pre-vote asks the
//! real vote's question, by the same predicate, and changes nobody's term; a node that heard its
//! leader within an election timeout refuses both, so a node that cannot hear the leader cannot
//! depose it.
//!
//! The defence belongs to check-quorum, and is switched with it: a leader that is defended must also
//! resign when it loses its quorum, or nodes that still hear it would keep a majority from electing
//! another.

use std::collections::BTreeMap;

use super::core::{Core, RoleState};
use super::plausible::LAST_TERM;
use super::progress::Progress;
use super::quorum::{self, counts};
use crate::config::ElectionPriority;
use crate::membership::Member;
use crate::message::{Message, Vote, VoteReply};
use crate::types::{HardState, Incarnation, NodeId, Sender};

/// So many times as long as others a node waits whose log is full.
const FULL_PATIENCE: u32 = 4;

/// The answers to a candidate, one for each voter. A grant stands, whatever else arrives: a refusal may
/// be the late answer to an earlier question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Votes(BTreeMap<NodeId, (Incarnation, bool)>);

impl Votes {
    fn record(&mut self, from: &Sender, granted: bool) {
        let answer = self.0.entry(from.node).or_insert((from.incarnation, granted));
        if granted {
            *answer = (from.incarnation, true);
        }
    }

    fn is_granted(&self, node: NodeId, member: &Member) -> bool {
        self.0.get(&node).is_some_and(|(who, granted)| *granted && counts(member, *who))
    }

    fn is_denied(&self, node: NodeId, member: &Member) -> bool {
        self.0.get(&node).is_some_and(|(who, granted)| !*granted && counts(member, *who))
    }
}

impl Core {
    /// A tick of a node that does not lead.
    pub(super) fn tick_without_leading(&mut self) {
        self.leader_elapsed = self.leader_elapsed.saturating_add(1);
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        self.tick_asking();
        let campaigns_by_itself =
            self.options.priority != ElectionPriority::Never && self.may_campaign();
        // A sole voter has nobody to wait for.
        let waits = !(campaigns_by_itself
            && matches!(self.role, RoleState::Follower)
            && self.is_quorum_alone());
        // A full node lets those with room go first.
        let patience = if self.full { FULL_PATIENCE } else { 1 };
        if waits && self.election_elapsed < self.timeout.saturating_mul(patience) {
            return;
        }
        if campaigns_by_itself {
            self.campaign();
        } else {
            // Somebody else will have to; but whoever led is not heard any more.
            self.become_follower();
            self.restart_timer();
        }
    }

    /// A campaign that was asked for.
    pub(super) fn campaign_by_hand(&mut self) {
        match self.role {
            RoleState::Leader(_) => {}
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                if self.may_campaign() {
                    self.campaign();
                }
            }
        }
    }

    /// A full leader leaves its office to a voter that could win it at once and take entries. One that
    /// lags is brought up to date first, or nobody might win, again and again.
    pub(super) fn give_way(&mut self) {
        let last = self.log.last().index;
        let RoleState::Leader(leader) = &self.role else { return };
        let membership = self.log.membership();
        let can_follow = |node: &NodeId, progress: &Progress| {
            membership.voters.contains_key(node)
                && progress.has_room()
                && progress.matched() == last
        };
        if self.full && leader.progress.iter().any(|(node, progress)| can_follow(node, progress)) {
            self.become_follower();
        }
    }

    /// Learners and nodes outside the membership never stand, nor does a directory that the
    /// membership does not mean: it could not even count its own vote.
    fn may_campaign(&self) -> bool {
        self.fit && self.is_voter(&self.options.me) && self.term() < LAST_TERM
    }

    /// Whether this node, as this directory, votes in either half of the membership.
    fn is_voter(&self, sender: &Sender) -> bool {
        let membership = self.log.membership();
        [&membership.voters, &membership.outgoing]
            .into_iter()
            .filter_map(|half| half.get(&sender.node))
            .any(|member| counts(member, sender.incarnation))
    }

    fn is_quorum_alone(&self) -> bool {
        let me = self.options.me;
        quorum::reached(self.log.membership(), false, |node, member| {
            node == me.node && counts(member, me.incarnation)
        })
    }

    fn campaign(&mut self) {
        // Whoever led is not heard: a node that still named it would defend it against others, and
        // against the candidates it could help.
        self.leader = None;
        self.restart_timer();
        if self.options.pre_vote {
            let mut votes = Votes::default();
            votes.record(&self.options.me, true);
            self.set_role(RoleState::PreCandidate(votes));
            self.ask_for_votes(true);
            self.count_votes();
        } else {
            self.stand();
        }
    }

    /// Enters a term of its own and asks for votes in it. The requests wait until term and own vote are
    /// on the disk, and the own vote is counted only then.
    fn stand(&mut self) {
        let me = self.options.me;
        let state = HardState { term: self.term().next(), voted_for: Some(me.node) };
        self.set_hard_state(state, Some(me));
        self.leader = None;
        self.restart_timer();
        self.set_role(RoleState::Candidate(Votes::default()));
        self.ask_for_votes(false);
    }

    fn ask_for_votes(&mut self, pre: bool) {
        let term = if pre { self.term().next() } else { self.term() };
        let vote = Vote { term, last: self.log.last(), pre, transfer: false };
        for node in self.log.membership().nodes() {
            if node != self.options.me.node && self.log.membership().is_voter(node) {
                self.send(node, Message::Vote(vote));
            }
        }
    }

    /// Term and vote are on the disk: what a candidate promised itself may count.
    pub(super) fn count_own_vote(&mut self) {
        match &mut self.role {
            RoleState::Candidate(votes) => {
                votes.record(&self.options.me, true);
                self.count_votes();
            }
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Leader(_) => {}
        }
    }

    pub(super) fn on_vote(&mut self, from: &Sender, vote: Vote) {
        if vote.pre {
            let granted = self.would_vote_for(from, vote);
            // A refusal names the own term, so that whoever asks out of date learns of it; without
            // that, a node with an old term and the best log is never elected, and never learns why.
            let term = if granted { vote.term } else { self.term() };
            let reply = VoteReply { term, granted, pre: true };
            return self.send(from.node, Message::VoteReply(reply));
        }
        if vote.term > self.term() && !self.defends_leader_against(vote) {
            self.enter_term(vote.term);
        }
        let granted = self.would_vote_for(from, vote);
        if granted {
            let voted_for = Some(from.node);
            self.set_hard_state(HardState { term: vote.term, voted_for }, Some(*from));
            self.election_elapsed = 0;
        }
        let reply = VoteReply { term: self.term(), granted, pre: false };
        self.send(from.node, Message::VoteReply(reply));
    }

    /// Whether this node votes, or would vote, for `from`.
    fn would_vote_for(&self, from: &Sender, vote: Vote) -> bool {
        let is_free = if vote.term == self.term() {
            // One vote in a term. It was given to one directory in one boot: after a restart or a
            // wipe there is no candidate any more who could need it twice.
            self.leader.is_none()
                && self.hard_state.voted_for.is_none_or(|node| node == from.node)
                && self.voted_as.is_none_or(|voted_as| voted_as == *from)
        } else {
            vote.term > self.term()
        };
        is_free && vote.last >= self.log.last() && !self.defends_leader_against(vote)
    }

    /// Whether a leader is known to live, so that nobody needs another (thesis §4.2.3). A leader
    /// itself knows: without a quorum it would have resigned.
    fn defends_leader_against(&self, vote: Vote) -> bool {
        let is_led = match self.role {
            RoleState::Leader(_) => true,
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.leader.is_some() && self.leader_elapsed < self.options.election_ticks
            }
        };
        self.options.check_quorum && !vote.transfer && is_led
    }

    pub(super) fn on_vote_reply(&mut self, from: &Sender, reply: VoteReply) {
        if !self.is_voter(from) {
            return;
        }
        let (ours, asked) = (self.term(), self.term().next());
        let votes = match &mut self.role {
            RoleState::PreCandidate(votes) if reply.pre => {
                if reply.granted && reply.term != asked {
                    return;
                }
                votes
            }
            RoleState::Candidate(votes) if !reply.pre && reply.term == ours => votes,
            // The answer to an earlier question.
            RoleState::Follower
            | RoleState::PreCandidate(_)
            | RoleState::Candidate(_)
            | RoleState::Leader(_) => return,
        };
        votes.record(from, reply.granted);
        self.count_votes();
    }

    fn count_votes(&mut self) {
        let (votes, is_real) = match &self.role {
            RoleState::PreCandidate(votes) => (votes, false),
            // Nobody was asked before the own vote is stored; who answers all the same has to wait.
            RoleState::Candidate(votes) if self.durable.covers(self.hard_state) => (votes, true),
            RoleState::Candidate(_) | RoleState::Follower | RoleState::Leader(_) => return,
        };
        let membership = self.log.membership();
        let won = quorum::reached(membership, false, |node, m| votes.is_granted(node, m));
        let can_win = quorum::reached(membership, false, |node, m| !votes.is_denied(node, m));
        if won && is_real {
            self.become_leader();
        } else if won {
            self.stand();
        } else if !can_win {
            self.become_follower();
        }
    }
}
