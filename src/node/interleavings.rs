//! One node whose loops are stepped by hand, in the orders that threads may run in: between any two
//! outputs of the core, after a stop, with a loop that is late.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::apply_loop::ApplyLoop;
use super::builder::{Assembled, NodeBuilder};
use super::core_loop::CoreLoop;
use super::group::Answer;
use super::inbox::Place;
use super::seg_loop::SegLoop;
use super::shared::{Loop, Shared, Wait, Wakeups};
use super::snap_loop::SnapLoop;
use super::stop::Phase;
use super::wal_loop::WalLoop;
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::error::{ApplyError, EncodeError, StopCause};
use crate::message::{
    Append, AppendOutcome, AppendReply, Envelope, Heartbeat, Message, ReadRound, VoteReply,
};
use crate::record::{EntryKind, RecordHeader, Records};
use crate::simulation::SimDisk;
use crate::slices::Slices;
use crate::state_machine::{Applied, StateMachine};
use crate::storage::Storage;
use crate::transport::{Dropped, Inbound, Transport};
use crate::types::{BootCount, EntryId, Incarnation, LogIndex, NodeId, Role, Sender, Term};

/// Counts commands; keeps its own state, if it says so.
#[derive(Debug, Default)]
struct Counter {
    keeps_state: bool,
    last: EntryId,
}

impl StateMachine for Counter {
    type Command = Vec<u8>;
    type Response = EntryId;

    fn encode(command: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(command);
        Ok(())
    }

    fn apply_entry(&mut self, _bytes: &[u8], at: &Applied) -> Result<EntryId, ApplyError> {
        self.last = at.entry;
        Ok(at.entry)
    }

    fn last_applied(&self) -> Option<EntryId> {
        self.keeps_state.then_some(self.last)
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Time {
        Time::default()
    }
}

type Hook = Box<dyn FnMut() + Send>;

/// Keeps what is sent, and runs something in the middle of the core's step.
#[derive(Clone, Default)]
struct Tap {
    inbound: Arc<Mutex<Option<Inbound>>>,
    sent: Arc<Mutex<Vec<Envelope>>>,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl Transport for Tap {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        *self.inbound.lock() = Some(inbound);
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        self.sent.lock().push(envelope);
        if let Some(hook) = &mut *self.hook.lock() {
            hook();
        }
        Ok(())
    }
}

/// Node 1 of three, or of one.
struct Rig {
    tap: Tap,
    shared: Arc<Shared<Counter>>,
    core: CoreLoop<Counter>,
    wal: WalLoop<Counter>,
    seg: SegLoop<Counter>,
    apply: Arc<Mutex<ApplyLoop<Counter>>>,
    snap: SnapLoop<Counter>,
    now: Time,
    _wakeups: Wakeups,
}

fn config() -> Config {
    Config {
        segment_bytes: 1 << 16,
        max_entry_bytes: 8 << 10,
        max_batch_bytes: 16 << 10,
        max_append_bytes: 16 << 10,
        max_inflight_bytes: 1 << 20,
        max_unapplied_bytes: 64 << 10,
        ready_segments: 1,
        ..Config::small()
    }
}

impl Rig {
    fn new(nodes: u64, config: Config) -> Self {
        Self::on(&Arc::new(SimDisk::new(1)), nodes, config, Counter::default())
    }

    fn on(disk: &Arc<SimDisk>, nodes: u64, config: Config, machine: Counter) -> Self {
        let tap = Tap::default();
        let Assembled { shared, wakeups, core, wal, seg, apply, snap } =
            NodeBuilder::new(NodeId(1), machine)
                .storage(Path::new("data"), Arc::clone(disk) as Arc<dyn Storage>)
                .clock(Arc::new(Still))
                .transport(tap.clone())
                .members((1..=nodes).map(|id| (id, "")))
                .config(config)
                .assemble()
                .expect("starts");
        let (wal, apply) = (wal.expect("a log on a disk"), Arc::new(Mutex::new(apply)));
        let now = Time::default();
        Self { tap, shared, core, wal, seg, apply, snap, now, _wakeups: wakeups }
    }

    fn seg(&mut self) {
        while self.seg.step(self.now) == Wait::No {}
    }

    /// Everything but the seg loop, until nothing changes.
    fn turn(&mut self) {
        for _ in 0..4 {
            self.core.step(self.now);
            while self.wal.step(self.now) == Wait::No {}
            while self.apply.lock().step(self.now) == Wait::No {}
            while self.snap.step(self.now) == Wait::No {}
        }
        assert!(self.shared.stop.cause().is_none(), "{:?}", self.shared.stop.cause());
    }

    fn tick(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now = self.now.after(self.shared.config.tick);
            self.turn();
        }
    }

    fn receive(&self, from: u64, message: Message, records: Vec<u8>) {
        let sender = Sender {
            node: NodeId(from),
            incarnation: Incarnation(from.into()),
            boot: BootCount(1),
        };
        self.receive_from(sender, message, records);
    }

    fn receive_from(&self, from: Sender, message: Message, records: Vec<u8>) {
        let records = Slices::from(records);
        let envelope = Envelope { from, to: NodeId(1), message, records };
        self.tap.inbound.lock().as_ref().expect("started").deliver(envelope).expect("room");
    }

    fn heartbeat(&self, term: u64, committed: u64) {
        let heartbeat = Heartbeat {
            term: Term(term),
            committed: LogIndex(committed),
            round: ReadRound(0),
            replicated: LogIndex(committed),
        };
        self.receive(2, Message::Heartbeat(heartbeat), Vec::new());
    }

    /// An append of node 2: entries of its term after `prev`, each of `payload` bytes.
    fn append(&self, term: u64, prev: EntryId, count: u64, payload: usize, committed: u64) {
        let mut records = Vec::new();
        for index in prev.index.0 + 1..=prev.index.0 + count {
            let id = EntryId::new(Term(term), LogIndex(index));
            let header = RecordHeader { id, time: 0, kind: EntryKind::Command, origin: None };
            header.write(&vec![0; payload], &mut records);
        }
        let committed = LogIndex(committed);
        let append = Append { term: Term(term), prev, committed, ..Append::default() };
        self.receive(2, Message::Append(append), records);
    }

    fn last(&self) -> EntryId {
        self.core.core.last()
    }

    /// Lets time pass, and has node 2 grant every vote, until the node leads.
    fn elect(&mut self) {
        for _ in 0..100 {
            self.tick(1);
            self.vote();
            if self.core.core.role() == Role::Leader {
                return;
            }
        }
        panic!("not elected");
    }

    fn vote(&mut self) {
        let sent: Vec<_> = self.tap.sent.lock().drain(..).collect();
        for envelope in sent {
            if let (NodeId(2), Message::Vote(vote)) = (envelope.to, envelope.message) {
                let reply = VoteReply { term: vote.term, granted: true, pre: vote.pre };
                self.receive(2, Message::VoteReply(reply), Vec::new());
            }
        }
        self.turn();
    }

    fn propose(&self, bytes: usize) -> Place<EntryId> {
        let wait = Duration::from_secs(3600);
        self.shared.inbox.put(&vec![0; bytes], Instant::now(), wait).expect("room at the door")
    }

    /// Every append is answered as accepted, but those to `wiped`: that node has lost its directory.
    fn answer_appends(&mut self, wiped: Option<NodeId>) {
        let sent: Vec<_> = self.tap.sent.lock().drain(..).collect();
        for Envelope { to, message, records, .. } in sent {
            let Message::Append(append) = message else { continue };
            let (incarnation, outcome) = if Some(to) == wiped {
                let (prev, hint) = (append.prev.index, EntryId::ZERO);
                (99, AppendOutcome::Rejected { prev, hint })
            } else {
                let count = Records::checked(&records).count() as u64;
                (to.0.into(), AppendOutcome::Accepted { matched: append.prev.index.plus(count) })
            };
            let from =
                Sender { node: to, incarnation: Incarnation(incarnation), boot: BootCount(1) };
            let reply = AppendReply { term: append.term, outcome };
            self.receive_from(from, Message::AppendReply(reply), Vec::new());
        }
        self.turn();
    }
}

#[test]
fn nobody_is_told_of_a_committed_entry_before_it_can_be_read() {
    let mut rig = Rig::new(3, config());
    rig.heartbeat(1, 0);
    rig.turn();
    // The `apply` thread looks in the middle of a step that stores what is committed already.
    let apply = Arc::clone(&rig.apply);
    rig.tap.hook.lock().replace(Box::new(move || drop(apply.lock().step(Time::default()))));
    rig.append(1, EntryId::ZERO, 2, 8, 2);
    rig.heartbeat(1, 2);
    rig.core.step(rig.now);
    assert!(rig.shared.stop.cause().is_none(), "{:?}", rig.shared.stop.cause());
    rig.turn();
    assert_eq!(rig.shared.applied.get(), LogIndex(2));
}

#[test]
fn many_empty_commands_at_once_enter_the_log() {
    let mut rig = Rig::new(1, Config { max_batch_bytes: 64 << 10, ..config() });
    rig.seg();
    rig.elect();
    let places: Vec<_> = (0..5_000).map(|_| rig.propose(0)).collect();
    for _ in 0..20 {
        rig.seg();
        rig.turn();
    }
    assert!(places.iter().all(|place| place.group.is_answered(place.slot)));
    assert_eq!(rig.shared.inbox.pending(), 0);
}

#[test]
fn a_node_without_room_for_a_single_entry_does_not_stand() {
    let mut rig = Rig::new(3, config());
    rig.seg();
    // A leader fills the log to the last record that fits; no segment is made ready meanwhile.
    for _ in 0..3_000 {
        let before = rig.last();
        rig.append(1, before, 1, 100, before.index.0);
        rig.turn();
        if rig.last() == before {
            break;
        }
    }
    rig.append(1, rig.last(), 1, 0, rig.last().index.0);
    rig.turn();
    for _ in 0..200 {
        rig.tick(1);
        rig.vote();
    }
    assert_eq!(rig.core.core.role(), Role::Follower);
    rig.seg();
    rig.elect();
}

#[test]
fn a_follower_whose_directory_was_wiped_does_no_harm_to_a_leader_that_let_go_of_its_log() {
    let machine = Counter { keeps_state: true, ..Counter::default() };
    let mut rig = Rig::on(&Arc::new(SimDisk::new(1)), 3, config(), machine);
    rig.seg();
    rig.elect();
    while rig.core.log.first() == LogIndex(1) {
        rig.propose(8 << 10);
        rig.turn();
        rig.answer_appends(None);
        rig.seg();
        rig.tick(1);
    }
    for _ in 0..50 {
        rig.propose(0);
        rig.tick(1);
        rig.answer_appends(Some(NodeId(2)));
    }
    assert_eq!(rig.core.core.role(), Role::Leader);
}
