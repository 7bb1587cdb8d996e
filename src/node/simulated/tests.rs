//! Steps in orders that threads seldom take.

use std::path::Path;

use parking_lot::Mutex;

use super::*;
use crate::config::Config;
use crate::error::{ApplyError, EncodeError};
use crate::message::{
    Append, AppendOutcome, AppendReply, Envelope, HeartbeatReply, Message, ReadRound, VoteReply,
};
use crate::record::{EntryKind, RecordHeader, Records};
use crate::simulation::SimDisk;
use crate::slices::Slices;
use crate::state_machine::Applied;
use crate::transport::{Dropped, Inbound, Transport};
use crate::types::{BootCount, EntryId, Incarnation, NodeId, Sender, Term};

/// Keeps its own state: the last entry.
struct Keeper(EntryId);

impl StateMachine for Keeper {
    type Command = ();
    type Response = ();

    fn encode((): &(), out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.resize(1000, 0);
        Ok(())
    }

    fn apply_entry(&mut self, _bytes: &[u8], at: &Applied) -> Result<(), ApplyError> {
        self.0 = at.entry;
        Ok(())
    }

    fn last_applied(&self) -> Option<EntryId> {
        Some(self.0)
    }
}

/// Hands over its inbound, and keeps what it is to send.
#[derive(Clone, Default)]
struct Wire {
    inbound: Arc<Mutex<Option<Inbound>>>,
    sent: Arc<Mutex<Vec<Envelope>>>,
}

impl Wire {
    fn inbound(&self) -> Inbound {
        self.inbound.lock().clone().expect("the node has started")
    }
}

impl Transport for Wire {
    fn start(&mut self, inbound: Inbound) -> std::io::Result<()> {
        *self.inbound.lock() = Some(inbound);
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        self.sent.lock().push(envelope);
        Ok(())
    }
}

fn entry(term: u64, index: u64) -> EntryId {
    EntryId::new(Term(term), LogIndex(index))
}

/// An append of a leader, with commands at these places.
fn append(leader: u64, prev: EntryId, entries: &[EntryId], committed: u64) -> Envelope {
    let mut records = Vec::new();
    for &id in entries {
        let header = RecordHeader { id, time: 0, kind: EntryKind::Command, origin: None };
        header.write(b"x", &mut records);
    }
    let term = entries.last().map_or(prev.term, |last| last.term);
    let append = Append { term, prev, committed: LogIndex(committed), ..Append::default() };
    Envelope {
        from: Sender { node: NodeId(leader), ..Sender::default() },
        to: NodeId(1),
        message: Message::Append(append),
        records: Slices::from(records),
    }
}

#[test]
fn a_machine_that_keeps_its_state_gets_nothing_that_took_the_place_of_what_the_disk_holds() {
    let wire = Wire::default();
    let builder = Node::builder(1, Keeper(EntryId::ZERO))
        .storage(Path::new("data"), Arc::new(SimDisk::new(1)))
        .transport(wire.clone())
        .members([(1, ""), (2, ""), (3, "")])
        .config(Config::small());
    let mut node = Simulated::start(builder, false).expect("starts");
    let inbound = wire.inbound();
    let now = Time(0);
    let mut step = |envelope: Option<Envelope>, loops: &[usize]| {
        if let Some(envelope) = envelope {
            inbound.deliver(envelope).expect("room");
        }
        for _ in 0..10 {
            for &which in loops {
                node.step(which, now);
            }
        }
        node.look(|keeper| keeper.0)
    };
    // Three entries of one leader are on the disk, ...
    let first = append(2, EntryId::ZERO, &[entry(1, 1), entry(1, 2), entry(1, 3)], 1);
    assert_eq!(step(Some(first), &[CORE, WAL, APPLY]), entry(1, 1));
    // ... and the next leader replaces two of them, and has committed its own.
    let second = append(3, entry(1, 1), &[entry(2, 2), entry(2, 3)], 3);
    assert_eq!(step(Some(second), &[CORE, APPLY]), entry(1, 1), "nothing was flushed");
    assert_eq!(step(None, &[CORE, WAL, APPLY]), entry(2, 3));
}

/// A leader that is driven by hand, and the one other member, which answers everything.
struct Pair {
    leader: Simulated<Keeper>,
    wire: Wire,
    now: Time,
    /// The other member, in its current boot.
    other: Sender,
    /// What the other member has of the leader's log.
    matched: LogIndex,
}

impl Pair {
    fn start() -> Self {
        let wire = Wire::default();
        let config = Config {
            segment_bytes: 1 << 16,
            max_entry_bytes: 1 << 10,
            max_batch_bytes: 1 << 12,
            max_append_bytes: 1 << 14,
            ..Config::small()
        };
        let builder = Node::builder(1, Keeper(EntryId::ZERO))
            .storage(Path::new("data"), Arc::new(SimDisk::new(1)))
            .transport(wire.clone())
            .members([(1, ""), (2, "")])
            .config(config);
        let leader = Simulated::start(builder, false).expect("starts");
        let (now, matched) = (leader.shared().clock.now(), LogIndex::ZERO);
        let other = Sender { node: NodeId(2), incarnation: Incarnation(7), boot: BootCount(1) };
        Self { leader, wire, now, other, matched }
    }

    fn deliver(&self, message: Message) {
        let (from, to, records) = (self.other, NodeId(1), Slices::new());
        self.wire.inbound().deliver(Envelope { from, to, message, records }).expect("room");
    }

    /// A tick passes, and all loops do what they can. Returns what the leader says.
    fn tick(&mut self) -> Vec<Envelope> {
        self.now = self.now.after(Config::small().tick);
        for _ in 0..10 {
            (0..LOOPS).for_each(|which| self.leader.step(which, self.now));
        }
        std::mem::take(&mut *self.wire.sent.lock())
    }

    /// A tick passes, and the other member answers as one that stores everything at once.
    fn tick_and_answer(&mut self) {
        for Envelope { message, records, .. } in self.tick() {
            let term = message.term();
            match message {
                Message::Vote(vote) => {
                    let reply = VoteReply { term, granted: true, pre: vote.pre };
                    self.deliver(Message::VoteReply(reply));
                }
                Message::Append(append) => {
                    let count = Records::checked(&records).count() as u64;
                    self.matched = self.matched.max(append.prev.index.plus(count));
                    let outcome = AppendOutcome::Accepted { matched: self.matched };
                    self.deliver(Message::AppendReply(AppendReply { term, outcome }));
                }
                Message::Heartbeat(heartbeat) => {
                    let (round, matched) = (heartbeat.round, self.matched);
                    let reply = HeartbeatReply { term, round, matched, full: false };
                    self.deliver(Message::HeartbeatReply(reply));
                }
                other => panic!("a leader without other members says {other:?}"),
            }
        }
    }
}

#[test]
fn a_member_that_restarts_twice_in_a_row_is_asked_about_entries_that_it_has() {
    let mut pair = Pair::start();
    for _ in 0..2000 {
        pair.tick_and_answer();
        let _ = pair.leader.submit((), Duration::from_secs(60));
        if pair.leader.node().status().first > LogIndex(1) {
            break;
        }
    }
    let first = pair.leader.node().status().first;
    assert!(first > LogIndex(2), "the log was to be let go of, and begins with {first}");
    // It comes back and knows for sure of the first entry only, and so it does once more: the leader has
    // nothing of what comes after that entry.
    let term = pair.leader.core().term();
    for boot in [2, 3] {
        pair.other.boot = BootCount(boot);
        let reply =
            HeartbeatReply { term, round: ReadRound::default(), matched: LogIndex(1), full: false };
        pair.deliver(Message::HeartbeatReply(reply));
        pair.tick();
    }
    let asked = (0..20).flat_map(|_| pair.tick()).find_map(|envelope| match envelope.message {
        Message::Append(append) => Some(append.prev.index),
        _ => None,
    });
    assert_eq!(asked, Some(first.prev()), "the last entry that the other member must have");
}
