//! The consensus core, with messages and facts in any order.
//!
//! What comes from peers may be anything. What a driver reports is what a driver may report: it stores what
//! it is told to, sooner or later, and carries out orders, or forgets to.

use oarlock::consensus::{Core, Input, NewEntries, Options, Output, Restored};
use oarlock::message::{
    Append, AppendOutcome, AppendReply, Entries, Envelope, Forward, ForwardReply, Heartbeat,
    HeartbeatReply, Message, ReadIndex, ReadIndexReply, ReadRound, TermRun, Vote, VoteReply,
};
use oarlock::slices::Slices;
use oarlock::{
    BootCount, ElectionPriority, EntryId, HardState, Incarnation, LogIndex, Member, Membership,
    NodeId, Role, Sender, Term,
};

use crate::bytes::Bytes;

const ME: Sender = Sender { node: NodeId(1), incarnation: Incarnation(1), boot: BootCount(1) };
/// So many inputs at most: a run is to take a fraction of a millisecond.
const MAX_INPUTS: usize = 400;

/// A core, and its log as its orders have made it.
struct Node {
    core: Core,
    base: EntryId,
    terms: Vec<Term>,
    committed: LogIndex,
    orders: Vec<(NodeId, LogIndex)>,
    /// The last term and vote that were ordered to be stored, and are not.
    hard_state: Option<HardState>,
}

/// Drives a core by the choices that `data` makes.
///
/// # Panics
/// If the core does, or gives an order that makes no sense.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut node = Node::new(&mut bytes);
    for _ in 0..MAX_INPUTS {
        if bytes.are_empty() {
            break;
        }
        node.act(&mut bytes);
    }
}

impl Node {
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let options = Options {
            me: ME,
            heartbeat_ticks: 1 + bytes.below(3) as u32,
            election_ticks: 3 + bytes.below(8) as u32,
            priority: ElectionPriority::Normal,
            pre_vote: bytes.flag(),
            check_quorum: bytes.flag(),
            max_append_bytes: 100,
            max_inflight_appends: 1 + bytes.below(4) as usize,
            max_inflight_bytes: 200,
            seed: bytes.below(4),
        };
        let base = EntryId::new(Term(0), LogIndex::ZERO);
        let base = if bytes.flag() { base } else { EntryId::new(Term(1), LogIndex(3)) };
        let mut entries = Entries::default();
        let (mut terms, mut term) = (Vec::new(), Term(1));
        for place in 0..bytes.below(6) {
            term.0 += bytes.below(2);
            terms.push(term);
            entries.push(EntryId::new(term, base.index.plus(1 + place)));
        }
        let restored = Restored {
            hard_state: HardState { term: Term(bytes.below(8)), voted_for: None },
            base,
            entries,
            membership: if bytes.flag() { any_membership(bytes) } else { three() },
            committed: base.index,
        };
        let core = Core::new(options, restored);
        let (committed, orders) = (base.index, Vec::new());
        Self { core, base, terms, committed, orders, hard_state: None }
    }

    fn act(&mut self, bytes: &mut Bytes<'_>) {
        let input = match bytes.below(20) {
            0..=1 => Input::Tick,
            2 => Input::Campaign,
            3 => Input::Propose { count: 1 + bytes.below(4) },
            4 => Input::Read,
            5 => Input::Dropped { to: any_node(bytes) },
            6 if bytes.flag() => Input::Fit(bytes.flag()),
            6 => Input::Full(bytes.flag()),
            7 => return self.store_hard_state(),
            8 => Input::Persisted {
                generation: self.core.generation(),
                index: LogIndex(self.core.last().index.0.saturating_sub(bytes.below(3))),
            },
            // Late, or to nobody.
            9 => Input::Sent {
                to: any_node(bytes),
                last: LogIndex(bytes.number()),
                bytes: bytes.below(100) as usize,
            },
            10 => {
                let Some((to, prev)) = self.orders.pop() else { return };
                let last = prev.plus(bytes.below(4)).min(self.core.last().index).max(prev);
                Input::Sent { to, last, bytes: bytes.below(100) as usize }
            }
            11 => return self.win(),
            _ => {
                let from = any_sender(bytes);
                Input::Message { from, message: any_message(bytes) }
            }
        };
        self.step(input);
    }

    /// What it takes to lead, from whoever may help.
    fn win(&mut self) {
        self.step(Input::Campaign);
        for pre in [true, false] {
            let asked = if pre { self.core.term().next() } else { self.core.term() };
            for node in self.core.membership().nodes() {
                let from = Sender { node, ..ME };
                let reply = VoteReply { term: asked, granted: true, pre };
                self.step(Input::Message { from, message: Message::VoteReply(reply) });
            }
            self.store_hard_state();
        }
    }

    fn store_hard_state(&mut self) {
        if let Some(state) = self.hard_state.take() {
            self.step(Input::HardStatePersisted(state));
        }
    }

    fn step(&mut self, input: Input) {
        let arrived = match &input {
            Input::Message { message: Message::Append(append), .. } => append.entries.clone(),
            _ => Entries::default(),
        };
        for output in self.core.step(input) {
            self.perform(output, &arrived);
        }
        assert_eq!(self.last(), self.core.last(), "the core takes its log for another");
        assert_eq!(self.committed, self.core.committed(), "a commit that was not announced");
    }

    fn last(&self) -> EntryId {
        let index = self.base.index.plus(self.terms.len() as u64);
        EntryId::new(self.terms.last().copied().unwrap_or(self.base.term), index)
    }

    fn perform(&mut self, output: Output, arrived: &Entries) {
        match output {
            Output::Append { first, count, entries } => {
                assert_eq!(first.index, self.last().index.next(), "a gap before {first}");
                assert!(count > 0 && entries != NewEntries::Membership(Membership::default()));
                self.terms.extend((0..count).map(|_| first.term));
            }
            Output::Truncate { from, .. } => {
                assert!(from > self.committed, "cut from {from}, committed {}", self.committed);
                assert!(from <= self.last().index, "cut from {from}, last {}", self.last());
                self.terms.truncate((from.0 - self.base.index.0 - 1) as usize);
            }
            Output::Store { first, last } => {
                assert_eq!(first, self.last().index.next(), "a gap before {first}");
                for index in first.0..=last.0 {
                    let run = arrived.runs.partition_point(|run| run.first.0 <= index);
                    self.terms.push(arrived.runs[run - 1].term);
                }
            }
            Output::Committed(index) => {
                assert!(index > self.committed && index <= self.last().index, "commits {index}");
                self.committed = index;
            }
            Output::Send { to, message } => check_message(to, message),
            Output::SendAppend { to, append, .. } => {
                let held = self.core.term_at(append.prev.index);
                // The order may be taken back within the step that gave it.
                assert!(held == Some(append.prev.term) || self.core.role() != Role::Leader);
                self.orders.push((to, append.prev.index));
            }
            Output::PersistHardState(state) => self.hard_state = Some(state),
            Output::ReadConfirmed { .. }
            | Output::RoleChanged { .. }
            | Output::ProposeRefused
            | Output::ForwardPlaced { .. }
            | Output::ReadQueued(_)
            | Output::ReadRefused
            | Output::ReadsLost => {}
        }
    }
}

/// What a core says can be sent, and comes out as it went in.
fn check_message(to: NodeId, message: Message) {
    let records = Slices::new();
    let envelope = Envelope { from: ME, to, message, records };
    let mut sent = Vec::new();
    envelope.encode(&mut sent).expect("a core says nothing that is too large");
    let came = Envelope::decode(&sent).expect("just encoded");
    assert_eq!(came.message, envelope.message);
}

fn three() -> Membership {
    Membership::of_voters([1, 2, 3].map(|node| (NodeId(node), Member::default())))
}

fn any_node(bytes: &mut Bytes<'_>) -> NodeId {
    NodeId(bytes.below(6))
}

fn any_sender(bytes: &mut Bytes<'_>) -> Sender {
    let choice = bytes.byte();
    // Mostly a member as it has always been.
    let wild = u64::from(choice / 24);
    Sender {
        node: NodeId(u64::from(choice % 6)),
        incarnation: Incarnation(if wild > 7 { u128::from(wild) } else { 1 }),
        boot: BootCount(if wild > 5 { wild } else { 1 }),
    }
}

fn any_membership(bytes: &mut Bytes<'_>) -> Membership {
    let mut part = |most| {
        let count = bytes.below(most);
        let member = |bytes: &mut Bytes<'_>| {
            let incarnation = (bytes.below(5) == 0).then_some(Incarnation(1));
            Member { incarnation, ..Member::default() }
        };
        (0..count).map(|_| (any_node(bytes), member(bytes))).collect()
    };
    Membership { voters: part(5), outgoing: part(3), learners: part(3) }
}

fn any_entry(bytes: &mut Bytes<'_>) -> EntryId {
    EntryId::new(Term(bytes.number()), LogIndex(bytes.number()))
}

/// Any shape; most of them cannot be.
fn wild_entries(bytes: &mut Bytes<'_>) -> Entries {
    let runs = (0..bytes.below(4))
        .map(|_| TermRun { first: LogIndex(bytes.number()), term: Term(bytes.number()) });
    let runs = runs.collect();
    let memberships =
        (0..bytes.below(2)).map(|_| (LogIndex(bytes.number()), any_membership(bytes)));
    let memberships = memberships.collect();
    Entries { runs, last: LogIndex(bytes.number()), memberships }
}

/// Rising terms, no gaps.
fn tame_append(bytes: &mut Bytes<'_>) -> Append {
    let index = bytes.below(10);
    let mut term = if index == 0 { 0 } else { 1 + bytes.below(5) };
    let prev = EntryId::new(Term(term), LogIndex(index));
    let mut entries = Entries::default();
    for place in 1..=bytes.below(5) {
        let choice = bytes.byte();
        term = (term + u64::from(choice & 1)).max(1);
        entries.push(EntryId::new(Term(term), LogIndex(index + place)));
        if choice > 200 {
            let membership = any_membership(bytes);
            if !membership.voters.is_empty() {
                entries.memberships.push((LogIndex(index + place), membership));
            }
        }
    }
    let term = Term((term + bytes.below(3)).max(1));
    Append { term, prev, committed: LogIndex(bytes.below(14)), entries }
}

fn any_message(bytes: &mut Bytes<'_>) -> Message {
    let kind = bytes.below(16);
    let term = Term(bytes.number());
    match kind {
        0..=1 => Message::Vote(Vote {
            term,
            last: any_entry(bytes),
            pre: bytes.flag(),
            transfer: bytes.below(8) == 0,
        }),
        2 => Message::VoteReply(VoteReply { term, granted: bytes.flag(), pre: bytes.flag() }),
        3 => Message::Append(Append {
            term,
            prev: any_entry(bytes),
            committed: LogIndex(bytes.number()),
            entries: wild_entries(bytes),
        }),
        4..=7 => Message::Append(tame_append(bytes)),
        8 => {
            let outcome = AppendOutcome::Accepted { matched: LogIndex(bytes.number()) };
            Message::AppendReply(AppendReply { term, outcome })
        }
        9 => {
            let (prev, hint) = (LogIndex(bytes.number()), any_entry(bytes));
            let outcome = AppendOutcome::Rejected { prev, hint };
            Message::AppendReply(AppendReply { term, outcome })
        }
        10 => Message::Heartbeat(Heartbeat {
            term,
            committed: LogIndex(bytes.number()),
            round: ReadRound(bytes.number()),
            replicated: LogIndex(bytes.number()),
        }),
        11 => Message::HeartbeatReply(HeartbeatReply {
            term,
            round: ReadRound(bytes.number()),
            matched: LogIndex(bytes.number()),
            full: bytes.flag(),
        }),
        // Records travel with a forward, and were counted when they came.
        12 => {
            let (sequence, count) = (bytes.number(), bytes.below(4));
            Message::Forward(Forward { term, sequence, count })
        }
        13 => Message::ForwardReply(ForwardReply {
            term,
            asker: any_sender(bytes),
            sequence: bytes.number(),
            first: LogIndex(bytes.number()),
        }),
        14 => Message::ReadIndex(ReadIndex { term, round: ReadRound(bytes.number()) }),
        _ => Message::ReadIndexReply(ReadIndexReply {
            term,
            asker: any_sender(bytes),
            round: ReadRound(bytes.number()),
            index: LogIndex(bytes.number()),
        }),
    }
}
