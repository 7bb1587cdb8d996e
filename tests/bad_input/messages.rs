//! Messages that no correct node sends.

use std::io;
use std::sync::Arc;

use oarlock::message::{
    Append, AppendOutcome, AppendReply, Envelope, Forward, ForwardReply, Heartbeat, HeartbeatReply,
    Message, ReadIndex, ReadIndexReply, ReadRound, TermRun, Vote, VoteReply,
};
use oarlock::record::{EntryKind, Origin, RecordHeader};
use oarlock::slices::Slices;
use oarlock::transport::memory::{MemoryTransport, Network};
use oarlock::transport::{Dropped, Inbound, Transport};
use oarlock::{
    BootCount, EntryId, Incarnation, LogIndex, Node, NodeId, Role, Sender, Status, Term,
};
use parking_lot::Mutex;

use crate::journal::{Journal, leader_of, member, until};

/// Lets others speak to the node as well.
struct Tap {
    network: MemoryTransport,
    tapped: Arc<Mutex<Option<Inbound>>>,
}

impl Transport for Tap {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        *self.tapped.lock() = Some(inbound.clone());
        self.network.start(inbound)
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        self.network.send(envelope)
    }
}

/// Three nodes that anybody can speak to.
struct Tapped {
    nodes: Vec<Node<Journal>>,
    inbounds: Vec<Inbound>,
    leader: Node<Journal>,
}

impl Tapped {
    fn start() -> Self {
        let network = Network::new();
        let (nodes, inbounds): (Vec<_>, _) = (1..=3)
            .map(|id| {
                let tapped = Arc::<Mutex<Option<Inbound>>>::default();
                let tap = Tap { network: network.transport(), tapped: Arc::clone(&tapped) };
                let node = member(&network, id, 3, Journal::default()).in_memory().transport(tap);
                let node = node.start().expect("starts");
                let inbound = tapped.lock().take().expect("started");
                (node, inbound)
            })
            .unzip();
        let leader = leader_of(&nodes, 3);
        leader.propose(1).expect("applied");
        // Until what each says of itself is up to date.
        until(|| {
            let statuses: Vec<Status> = nodes.iter().map(Node::status).collect();
            statuses.iter().all(|status| {
                status.last == statuses[0].last
                    && status.applied == status.last.index
                    && status.applied > LogIndex(1)
            })
        });
        Self { nodes, inbounds, leader }
    }

    fn follower(&self) -> &Node<Journal> {
        self.nodes.iter().find(|node| node.id() != self.leader.id()).expect("three nodes")
    }

    fn say(&self, to: &Node<Journal>, from: Sender, message: Message, records: Vec<u8>) {
        let records = if records.is_empty() { Slices::new() } else { Slices::from(records) };
        let envelope = Envelope { from, to: to.id(), message, records };
        self.inbounds[to.id().0 as usize - 1].deliver(envelope).expect("there is room");
    }

    /// Whatever was said, all of them run, the same one leads, and writes are applied.
    fn assert_unharmed(&self, term: Term) {
        for node in &self.nodes {
            let applied = self.leader.propose(7).expect("applied");
            until(|| {
                node.read_with(oarlock::Consistency::Stale, |journal| journal.values.len())
                    .expect("it runs") as u64
                    >= applied
            });
            let status = node.status();
            assert!(status.stopped.is_none(), "{status:?}");
            assert_eq!((status.term, status.leader), (term, Some(self.leader.id())));
        }
        assert_eq!(self.leader.status().role, Role::Leader);
    }
}

fn sender(status: &Status) -> Sender {
    Sender { node: status.id, incarnation: status.incarnation, boot: status.boot }
}

fn record(term: u64, index: u64, kind: EntryKind, payload: &[u8]) -> Vec<u8> {
    let id = EntryId::new(Term(term), LogIndex(index));
    let mut bytes = Vec::new();
    RecordHeader { id, time: 0, kind, origin: None }.write(payload, &mut bytes);
    bytes
}

/// A record with one byte of its header changed, and a checksum that fits.
fn forged(mut record: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    record[at] = byte;
    let crc = crc32c::crc32c(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    record
}

#[test]
fn appends_whose_entries_are_not_what_they_claim_are_refused_and_counted() {
    let group = Tapped::start();
    let leader = group.leader.status();
    let follower = group.follower();
    let (term, last) = (leader.term.0, leader.last.index.0);
    let append = Append {
        term: leader.term,
        prev: leader.last,
        committed: LogIndex(u64::MAX),
        ..Append::default()
    };
    let good = record(term, last + 1, EntryKind::Command, &[0; 8]);
    let mut flipped = good.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let bad: [(&str, Vec<u8>); 13] = [
        ("a wrong checksum", flipped),
        ("half a record", good[..good.len() / 2].to_vec()),
        ("noise", (0..=255).collect()),
        ("a gap", record(term, last + 2, EntryKind::Command, b"")),
        ("an entry that is there", record(term, last, EntryKind::Command, b"")),
        ("the last index there is", record(term, u64::MAX, EntryKind::Command, b"")),
        ("an earlier term", record(term - 1, last + 1, EntryKind::Command, b"")),
        ("a later term", record(term + 1, last + 1, EntryKind::Command, b"")),
        ("the last term there is", record(u64::MAX, last + 1, EntryKind::Command, b"")),
        ("no kind", forged(good.clone(), 32, 0)),
        ("an unknown kind", forged(good.clone(), 32, 9)),
        ("unknown flags", forged(good.clone(), 33, 0x80)),
        ("no membership", record(term, last + 1, EntryKind::Membership, &[0xff; 24])),
    ];
    let refused = follower.status().refused_messages;
    for (said, (what, records)) in (1..).zip(bad) {
        group.say(follower, sender(&leader), Message::Append(append.clone()), records);
        until(|| follower.status().refused_messages >= refused + said);
        assert_eq!(follower.status().last, leader.last, "{what}");
    }
    // Beside a good message as well.
    let heartbeat = Heartbeat {
        term: leader.term,
        committed: LogIndex::ZERO,
        round: ReadRound(0),
        replicated: LogIndex::ZERO,
    };
    group.say(follower, sender(&leader), Message::Heartbeat(heartbeat), good);
    group.say(follower, sender(&follower.status()), Message::Heartbeat(heartbeat), vec![]);
    until(|| follower.status().refused_messages >= refused + 15);
    group.assert_unharmed(leader.term);
    assert_eq!(follower.status().refused_messages, refused + 15);
}

#[test]
fn forwards_whose_commands_are_not_what_they_claim_are_refused_and_counted() {
    let group = Tapped::start();
    let (leader, follower) = (group.leader.status(), group.follower().status());
    let (me, term) = (sender(&follower), leader.term);
    let proposal = |who: Sender, sequence, kind, payload: &[u8]| {
        let Sender { incarnation, boot, .. } = who;
        let origin = Some(Origin { incarnation, boot, sequence });
        let mut bytes = Vec::new();
        RecordHeader { id: EntryId::ZERO, time: 0, kind, origin }.write(payload, &mut bytes);
        bytes
    };
    let good = |sequence| proposal(me, sequence, EntryKind::Command, &7_u64.to_le_bytes());
    let mut flipped = good(1);
    *flipped.last_mut().expect("not empty") ^= 1;
    let restarted = Sender { boot: BootCount(me.boot.0 + 1), ..me };
    let bad: [(&str, u64, Vec<u8>); 11] = [
        ("none at all", 1, Vec::new()),
        ("a wrong checksum", 1, flipped),
        ("half a record", 1, good(1)[..40].to_vec()),
        ("no tag", 1, record(1, 1, EntryKind::Command, &[0; 8])),
        ("another node's tag", 1, proposal(sender(&leader), 1, EntryKind::Command, &[0; 8])),
        ("another boot's tag", 1, proposal(restarted, 1, EntryKind::Command, &[0; 8])),
        ("another number", 1, good(2)),
        ("a gap", 2, [good(1), good(3)].concat()),
        ("fewer than announced", 2, good(1)),
        ("more than announced", 1, [good(1), good(2)].concat()),
        ("a membership", 1, proposal(me, 1, EntryKind::Membership, &[0; 8])),
    ];
    let refused = leader.refused_messages;
    for (said, (what, count, records)) in (1..).zip(bad) {
        let message = Message::Forward(Forward { term, sequence: 1, count });
        group.say(&group.leader, me, message, records);
        until(|| group.leader.status().refused_messages >= refused + said);
        assert_eq!(group.leader.status().last, leader.last, "{what}");
    }
    // More than a log's segment could ever take.
    let huge = proposal(me, 1, EntryKind::Command, &vec![0; 900 << 10]);
    let message = Message::Forward(Forward { term, sequence: 1, count: 1 });
    group.say(&group.leader, me, message, huge);
    until(|| group.leader.status().refused_messages >= refused + 12);
    // A good one, to a node that does not lead and in a term that is over: nobody takes it.
    group.say(group.follower(), me, message_of(term), good(1));
    group.say(&group.leader, me, message_of(Term(0)), good(1));
    group.assert_unharmed(term);
    let values = group.leader.read(|journal| journal.values.clone()).expect("read");
    assert_eq!(values, [1, 7, 7, 7], "only what was proposed");
    // And where it belongs.
    group.say(&group.leader, me, message_of(term), good(1));
    until(|| group.leader.read(|journal| journal.values.len()).expect("read") == 5);
}

fn message_of(term: Term) -> Message {
    Message::Forward(Forward { term, sequence: 1, count: 1 })
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let group = Tapped::start();
    let leader = group.leader.status();
    for node in &group.nodes {
        let asker = sender(&node.status());
        let (term, index, round) = (leader.term, LogIndex(1 << 40), ReadRound(1 << 40));
        let placed = ForwardReply { term, asker, sequence: 1, first: index };
        let read = ReadIndexReply { term, asker, round, index };
        group.say(node, sender(&leader), Message::ForwardReply(placed), vec![]);
        group.say(node, sender(&leader), Message::ReadIndexReply(read), vec![]);
        let question = ReadIndex { term, round: ReadRound(u64::MAX) };
        group.say(&group.leader, asker, Message::ReadIndex(question), vec![]);
        group.say(&group.leader, asker, Message::ReadIndex(question), vec![1, 2, 3]);
    }
    group.assert_unharmed(leader.term);
}

#[test]
fn what_an_append_says_of_its_own_entries_is_not_believed() {
    let group = Tapped::start();
    let leader = group.leader.status();
    let follower = group.follower();
    // Over a network the shape does not travel; within a process anybody can make one up.
    let mut append = Append { term: leader.term, prev: leader.last, ..Append::default() };
    append.entries.runs.push(TermRun { first: leader.last.index.next(), term: leader.term });
    append.entries.last = leader.last.index.plus(1000);
    group.say(follower, sender(&leader), Message::Append(append.clone()), vec![]);
    let next = leader.last.index.next().0;
    let one = record(leader.term.0, next, EntryKind::Noop, b"");
    append.prev = EntryId::ZERO;
    group.say(follower, sender(&leader), Message::Append(append), one);
    group.assert_unharmed(leader.term);
}

/// Messages that make no sense in any term, or claim more than there is.
fn absurd(term: Term) -> Vec<Message> {
    let huge = [Term(u64::MAX), Term(u64::MAX - 1), Term(1 << 62)];
    let far = EntryId::new(Term(u64::MAX), LogIndex(u64::MAX));
    let mut messages = Vec::new();
    for term in huge {
        for pre in [false, true] {
            messages.push(Message::Vote(Vote { term, last: far, pre, transfer: true }));
            messages.push(Message::VoteReply(VoteReply { term, granted: true, pre }));
            messages.push(Message::VoteReply(VoteReply { term, granted: false, pre }));
        }
        messages.push(Message::Append(Append { term, prev: far, ..Append::default() }));
        messages.push(Message::AppendReply(AppendReply {
            term,
            outcome: AppendOutcome::Accepted { matched: LogIndex(u64::MAX) },
        }));
        messages.push(Message::Heartbeat(Heartbeat {
            term,
            committed: LogIndex(u64::MAX),
            round: ReadRound(u64::MAX),
            replicated: LogIndex(u64::MAX),
        }));
        let (round, matched) = (ReadRound(u64::MAX), LogIndex(u64::MAX));
        messages.push(Message::HeartbeatReply(HeartbeatReply {
            term,
            round,
            matched,
            full: false,
        }));
    }
    for matched in [LogIndex(u64::MAX), LogIndex(1 << 40)] {
        let outcome = AppendOutcome::Accepted { matched };
        messages.push(Message::AppendReply(AppendReply { term, outcome }));
        let outcome = AppendOutcome::Rejected { prev: matched, hint: far };
        messages.push(Message::AppendReply(AppendReply { term, outcome }));
        let round = ReadRound(u64::MAX);
        messages.push(Message::HeartbeatReply(HeartbeatReply {
            term,
            round,
            matched,
            full: false,
        }));
    }
    let zero = Term(0);
    messages.push(Message::Append(Append::default()));
    messages.push(Message::Vote(Vote {
        term: zero,
        last: EntryId::ZERO,
        pre: false,
        transfer: true,
    }));
    messages
}

#[test]
fn absurd_messages_change_nothing_whoever_sends_them() {
    let group = Tapped::start();
    let leader = group.leader.status();
    let stranger =
        Sender { node: NodeId(99), incarnation: Incarnation(99), boot: BootCount(u64::MAX) };
    for to in &group.nodes {
        let other = group.nodes.iter().find(|node| node.id() != to.id()).expect("three nodes");
        for from in [stranger, sender(&other.status())] {
            for message in absurd(leader.term) {
                group.say(to, from, message, vec![]);
            }
        }
    }
    group.assert_unharmed(leader.term);
}

#[test]
fn a_stranger_is_no_voter_and_acknowledges_nothing() {
    let group = Tapped::start();
    let leader = group.leader.status();
    let stranger = Sender { node: NodeId(99), incarnation: Incarnation(99), boot: BootCount(1) };
    let later = leader.term.next();
    for to in &group.nodes {
        for pre in [false, true] {
            let granted = VoteReply { term: later, granted: true, pre };
            group.say(to, stranger, Message::VoteReply(granted), vec![]);
            let refused = VoteReply { term: later, granted: false, pre };
            group.say(to, stranger, Message::VoteReply(refused), vec![]);
        }
        let outcome = AppendOutcome::Accepted { matched: leader.last.index };
        group.say(to, stranger, Message::AppendReply(AppendReply { term: later, outcome }), vec![]);
        let reply = HeartbeatReply {
            term: later,
            round: ReadRound(0),
            matched: LogIndex::ZERO,
            full: false,
        };
        group.say(to, stranger, Message::HeartbeatReply(reply), vec![]);
    }
    group.assert_unharmed(leader.term);
    assert_eq!(group.leader.status().peers.len(), 2);
}

#[test]
fn a_message_for_another_node_is_not_taken() {
    let group = Tapped::start();
    let from = sender(&group.nodes[1].status());
    let vote = Vote { term: Term(9), last: EntryId::ZERO, pre: true, transfer: false };
    let message = Message::Vote(vote);
    let astray = Envelope { from, to: NodeId(2), message, records: Slices::new() };
    let dropped = group.nodes[0].status().dropped_messages;
    assert_eq!(group.inbounds[0].deliver(astray), Err(Dropped));
    until(|| group.nodes[0].status().dropped_messages == dropped + 1);
}
