//! What the tests of the consensus core share: cores with a given log, and a network of them.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

pub mod network;
pub mod show;

use oarlock::consensus::{Core, Input, Options, Output, Restored};
use oarlock::message::{
    Append, AppendOutcome, AppendReply, Entries, Heartbeat, HeartbeatReply, Message, ReadRound,
    Vote, VoteReply,
};
use oarlock::{
    BootCount, ElectionPriority, EntryId, HardState, Incarnation, LogIndex, Member, Membership,
    NodeId, Sender, Term,
};

pub const HEARTBEAT_TICKS: u32 = 2;
pub const ELECTION_TICKS: u32 = 10;

pub fn sender(node: u64) -> Sender {
    Sender { node: NodeId(node), incarnation: Incarnation(node.into()), boot: BootCount(1) }
}

pub fn options(node: u64) -> Options {
    Options {
        me: sender(node),
        heartbeat_ticks: HEARTBEAT_TICKS,
        election_ticks: ELECTION_TICKS,
        priority: ElectionPriority::Normal,
        pre_vote: true,
        check_quorum: true,
        max_append_bytes: 100,
        max_inflight_appends: 4,
        max_inflight_bytes: 200,
        seed: node,
    }
}

pub fn members(nodes: impl IntoIterator<Item = u64>) -> Vec<(NodeId, Member)> {
    nodes.into_iter().map(|node| (NodeId(node), Member::default())).collect()
}

pub fn voters(nodes: impl IntoIterator<Item = u64>) -> Membership {
    Membership::of_voters(members(nodes))
}

pub fn joint(
    incoming: impl IntoIterator<Item = u64>,
    outgoing: impl IntoIterator<Item = u64>,
) -> Membership {
    Membership { outgoing: members(outgoing).into_iter().collect(), ..voters(incoming) }
}

/// The entry `term.index`.
pub fn entry(term: u64, index: u64) -> EntryId {
    EntryId::new(Term(term), LogIndex(index))
}

/// Entries of these terms, the first right after `prev`.
pub fn entries_after(prev: u64, terms: &[u64]) -> Entries {
    let mut entries = Entries::default();
    for (place, &term) in terms.iter().enumerate() {
        entries.push(entry(term, prev + 1 + place as u64));
    }
    entries
}

/// A disk that holds entries of these terms from index 1 on, and `term` without a vote.
pub fn disk(term: u64, terms: &[u64], membership: Membership) -> Restored {
    Restored {
        hard_state: HardState { term: Term(term), voted_for: None },
        entries: entries_after(0, terms),
        membership,
        ..Restored::default()
    }
}

/// One core whose disk and network are quick: every order to store or to send is carried out before the
/// next input.
pub struct Quick {
    pub core: Core,
}

impl Quick {
    pub fn new(core: Core) -> Self {
        Self { core }
    }

    /// Node `node` of three voters, in `term`, with entries of these terms.
    pub fn of_three(node: u64, term: u64, terms: &[u64]) -> Self {
        Self::new(Core::new(options(node), disk(term, terms, voters([1, 2, 3]))))
    }

    pub fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = self.core.step(input);
        let mut at = 0;
        while at < out.len() {
            let fact = match &out[at] {
                Output::PersistHardState(state) => Some(Input::HardStatePersisted(*state)),
                Output::SendAppend { to, append, max_bytes } => {
                    let count = (max_bytes / network::ENTRY_BYTES).max(1);
                    let last = append.prev.index.plus(count as u64).min(self.core.last().index);
                    let count = last.0 - append.prev.index.0;
                    let bytes = count as usize * network::ENTRY_BYTES;
                    Some(Input::Sent { to: *to, last, bytes })
                }
                _ => None,
            };
            if let Some(fact) = fact {
                out.extend(self.core.step(fact));
            }
            at += 1;
        }
        if self.core.persisted() < self.core.last().index {
            let (generation, index) = (self.core.generation(), self.core.last().index);
            out.extend(self.core.step(Input::Persisted { generation, index }));
        }
        out
    }

    pub fn receive(&mut self, from: u64, message: Message) -> Vec<Output> {
        self.receive_as(sender(from), message)
    }

    pub fn receive_as(&mut self, from: Sender, message: Message) -> Vec<Output> {
        self.step(Input::Message { from, message })
    }

    pub fn ticks(&mut self, count: u32) -> Vec<Output> {
        (0..count).flat_map(|_| self.step(Input::Tick)).collect()
    }

    /// Ticks until it stands, or as long as the longest timeout lasts.
    pub fn wait_for_timeout(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        for _ in 0..3 * ELECTION_TICKS {
            out.extend(self.step(Input::Tick));
            if !asked_for_votes(&out).is_empty() {
                break;
            }
        }
        out
    }

    /// Makes it the leader of three (1, 2, 3) by the vote of another.
    pub fn lead(&mut self) -> Vec<Output> {
        let voter = if self.core.options().me.node == NodeId(2) { 3 } else { 2 };
        let mut out = self.step(Input::Campaign);
        if self.core.options().pre_vote {
            let term = self.core.term().next().0;
            out.extend(self.receive(voter, pre_vote_reply(term, true)));
        }
        out.extend(self.receive(voter, vote_reply(self.core.term().0, true)));
        out
    }
}

pub fn append(term: u64, prev: EntryId, terms: &[u64], committed: u64) -> Message {
    Message::Append(Append {
        term: Term(term),
        prev,
        committed: LogIndex(committed),
        entries: entries_after(prev.index.0, terms),
    })
}

pub fn heartbeat(term: u64, committed: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        term: Term(term),
        committed: LogIndex(committed),
        round: ReadRound(0),
        replicated: LogIndex::ZERO,
    })
}

pub fn vote(term: u64, last: EntryId) -> Message {
    Message::Vote(Vote { term: Term(term), last, pre: false, transfer: false })
}

pub fn pre_vote(term: u64, last: EntryId) -> Message {
    Message::Vote(Vote { term: Term(term), last, pre: true, transfer: false })
}

pub fn vote_reply(term: u64, granted: bool) -> Message {
    Message::VoteReply(VoteReply { term: Term(term), granted, pre: false })
}

pub fn pre_vote_reply(term: u64, granted: bool) -> Message {
    Message::VoteReply(VoteReply { term: Term(term), granted, pre: true })
}

pub fn accepted(term: u64, matched: u64) -> Message {
    let outcome = AppendOutcome::Accepted { matched: LogIndex(matched) };
    Message::AppendReply(AppendReply { term: Term(term), outcome })
}

pub fn rejected(term: u64, prev: u64, hint: EntryId) -> Message {
    let outcome = AppendOutcome::Rejected { prev: LogIndex(prev), hint };
    Message::AppendReply(AppendReply { term: Term(term), outcome })
}

pub fn heartbeat_reply(term: u64, round: u64, matched: u64) -> Message {
    Message::HeartbeatReply(HeartbeatReply {
        term: Term(term),
        round: ReadRound(round),
        matched: LogIndex(matched),
        full: false,
    })
}

/// What was sent to `to`, appends left out.
pub fn sent_to(out: &[Output], to: u64) -> Vec<Message> {
    out.iter()
        .filter_map(|output| match output {
            Output::Send { to: node, message } if *node == NodeId(to) => Some(message.clone()),
            _ => None,
        })
        .collect()
}

/// The requests for votes and pre-votes that were sent, with whom to.
pub fn asked_for_votes(out: &[Output]) -> Vec<(NodeId, Vote)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Send { to, message: Message::Vote(vote) } => Some((*to, *vote)),
            _ => None,
        })
        .collect()
}

/// The appends that were ordered, with whom for.
pub fn ordered_appends(out: &[Output]) -> Vec<(NodeId, Append)> {
    out.iter()
        .filter_map(|output| match output {
            Output::SendAppend { to, append, .. } => Some((*to, append.clone())),
            _ => None,
        })
        .collect()
}

/// The terms of the entries a core holds.
pub fn terms_of(core: &Core) -> Vec<u64> {
    (core.base().index.0 + 1..=core.last().index.0)
        .map(|index| core.term_at(LogIndex(index)).expect("within the log").0)
        .collect()
}
