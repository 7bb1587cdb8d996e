//! One node whose loops are stepped by hand, in the orders that threads may run in: between any two
//! outputs of the core, after a stop, with a loop that is late.

mod limits;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::apply_loop::ApplyLoop;
use super::builder::{Assembled, NodeBuilder};
use super::core_loop::CoreLoop;
use super::group::Answer;
use super::inbox::Place;
use super::seg_loop::SegLoop;
use super::shared::{FetchJob, Loop, Shared, Wait, Wakeups};
use super::snap_loop::SnapLoop;
use super::stop::Phase;
use super::wal_loop::WalLoop;
use crate::clock::{Clock, SystemClock, Time};
use crate::config::Config;
use crate::consensus::Input;
use crate::error::{ApplyError, EncodeError, ProposeError, ReadError, StopCause, UnknownCause};
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
    /// The first that it was given since it was made.
    first: Option<EntryId>,
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
        self.first.get_or_insert(at.entry);
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

/// What followers' entries are full of.
const PAYLOAD: &[u8] = b"unlikely";

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

fn builder(
    disk: &Arc<SimDisk>,
    nodes: u64,
    config: Config,
    machine: Counter,
    tap: Tap,
) -> NodeBuilder<Counter> {
    NodeBuilder::new(NodeId(1), machine)
        .storage(Path::new("data"), Arc::clone(disk) as Arc<dyn Storage>)
        .clock(Arc::new(Still))
        .transport(tap)
        .members((1..=nodes).map(|id| (id, "")))
        .config(config)
}

impl Rig {
    fn new(nodes: u64, config: Config) -> Self {
        Self::on(&Arc::new(SimDisk::new(1)), nodes, config, Counter::default())
    }

    fn on(disk: &Arc<SimDisk>, nodes: u64, config: Config, machine: Counter) -> Self {
        let tap = Tap::default();
        Self::of(builder(disk, nodes, config, machine, tap.clone()), tap)
    }

    fn of(builder: NodeBuilder<Counter>, tap: Tap) -> Self {
        let Assembled { shared, wakeups, core, wal, seg, apply, snap, .. } =
            builder.assemble().expect("starts");
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
            let payload: Vec<u8> = PAYLOAD.iter().copied().cycle().take(payload).collect();
            header.write(&payload, &mut records);
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

    /// Proposes until the log lets go of its beginning.
    fn let_go(&mut self) {
        while self.core.log.first() == LogIndex(1) {
            self.propose(8 << 10);
            self.turn();
            self.answer_appends(None);
            self.seg();
            self.tick(1);
        }
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
    rig.tap.hook.lock().replace(Box::new(move || {
        apply.lock().step(Time::default());
    }));
    rig.append(1, EntryId::ZERO, 2, 8, 2);
    rig.heartbeat(1, 2);
    rig.core.step(rig.now);
    assert!(rig.shared.stop.cause().is_none(), "{:?}", rig.shared.stop.cause());
    rig.turn();
    assert_eq!(rig.shared.applied.get(), LogIndex(2));
}

#[test]
fn many_empty_commands_at_once_enter_the_log() {
    let mut rig = Rig::new(1, Config { max_batch_bytes: 32 << 10, ..config() });
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
    rig.let_go();
    for _ in 0..50 {
        rig.propose(0);
        rig.tick(1);
        rig.answer_appends(Some(NodeId(2)));
    }
    assert_eq!(rig.core.core.role(), Role::Leader);
}

#[test]
fn a_proposal_that_enters_the_log_while_the_node_stops_is_answered() {
    let mut rig = Rig::new(1, config());
    rig.seg();
    rig.elect();
    let place = rig.propose(8);
    // The core has just seen that the node runs; then it stops, and the `apply` loop ends first.
    rig.shared.stop(Phase::Halted, StopCause::Crash);
    assert_eq!(rig.apply.lock().step(rig.now), Wait::Done);
    rig.core.proposals = rig.shared.inbox.take();
    rig.core.feed(Input::Propose { count: 1 });
    assert!(place.group.place(place.slot).is_some());
    assert_eq!(rig.core.step(rig.now), Wait::Done);
    match place.group.try_take(place.slot) {
        Some(Answer::Unknown(StopCause::Crash)) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_that_were_let_go_of_before_they_were_fetched_are_not_sent_and_do_no_harm() {
    let machine = Counter { keeps_state: true, ..Counter::default() };
    let mut rig = Rig::on(&Arc::new(SimDisk::new(1)), 3, config(), machine);
    rig.seg();
    rig.elect();
    rig.let_go();
    let (term, last) = (rig.last().term, rig.last().index);
    let append = Append { term, ..Append::default() };
    rig.shared.snap.ask(FetchJob { term, to: NodeId(2), append, last, max_bytes: 1000 });
    rig.tap.sent.lock().clear();
    rig.turn();
    let sent = rig.tap.sent.lock();
    assert!(
        !sent.iter().any(|envelope| matches!(envelope.message, Message::Append(_))),
        "{sent:?}"
    );
}

#[test]
fn a_follower_full_of_entries_that_never_commit_still_takes_those_that_replace_them() {
    let mut rig = Rig::new(3, config());
    rig.heartbeat(1, 0);
    rig.turn();
    // More than `max_unapplied_bytes`, and none of it can be applied.
    for _ in 0..20 {
        rig.seg();
        rig.append(1, rig.last(), 2, 4 << 10, 0);
        rig.turn();
    }
    rig.append(2, EntryId::ZERO, 1, 8, 0);
    rig.turn();
    rig.seg();
    rig.append(2, EntryId::ZERO, 1, 8, 0);
    rig.turn();
    assert_eq!(rig.last(), EntryId::new(Term(2), LogIndex(1)));
}

#[test]
fn a_record_above_the_limit_of_this_node_is_refused() {
    let mut rig = Rig::new(3, config());
    rig.seg();
    rig.append(1, EntryId::ZERO, 1, 9 << 10, 0);
    rig.append(1, EntryId::ZERO, 1, 70 << 10, 0);
    rig.turn();
    assert_eq!(rig.last(), EntryId::ZERO);
    rig.append(1, EntryId::ZERO, 1, 8 << 10, 0);
    rig.turn();
    assert_eq!(rig.last().index, LogIndex(1));
}

#[test]
fn an_orderly_stop_leaves_a_mark_that_covers_the_last_flush() {
    let disk = Arc::new(SimDisk::new(1));
    let mut rig = Rig::on(&disk, 3, config(), Counter::default());
    rig.seg();
    rig.append(1, EntryId::ZERO, 3, 8, 0);
    rig.core.step(rig.now);
    // The last flush is still to come when the core has nothing more to wait for.
    rig.shared.stop(Phase::Draining, StopCause::Shutdown);
    while rig.core.step(rig.now) != Wait::Done {
        rig.wal.step(rig.now);
    }
    while rig.wal.step(rig.now) != Wait::Done {}
    drop(rig);
    let segment = Path::new("data/log/0000000001.seg");
    disk.rot(segment, |bytes| {
        let last = bytes.windows(8).rposition(|bytes| bytes == PAYLOAD).expect("a payload");
        bytes[last] ^= 1;
    });
    // With the mark, this is damage; without, it would pass for a torn tail and be dropped.
    let error = builder(&disk, 3, config(), Counter::default(), Tap::default()).assemble();
    assert!(error.is_err_and(|error| error.to_string().contains("damaged")));
}

#[test]
fn a_panic_on_the_consensus_thread_is_the_cause_that_everybody_is_told() {
    let tap = Tap::default();
    let armed = Arc::new(AtomicBool::new(false));
    let disk = Arc::new(SimDisk::new(1));
    let node = builder(&disk, 3, config(), Counter::default(), tap.clone())
        .clock(Arc::new(SystemClock))
        .start()
        .expect("starts");
    {
        let (tap, armed) = (tap.clone(), Arc::clone(&armed));
        tap.clone().hook.lock().replace(Box::new(move || {
            assert!(!armed.load(Ordering::SeqCst), "planted");
            for envelope in tap.sent.lock().drain(..) {
                if let (NodeId(2), Message::Vote(vote)) = (envelope.to, envelope.message) {
                    let reply = VoteReply { term: vote.term, granted: true, pre: vote.pre };
                    let from = Sender { node: NodeId(2), ..Sender::default() };
                    let message = Message::VoteReply(reply);
                    let envelope =
                        Envelope { from, to: NodeId(1), message, records: Slices::new() };
                    let inbound = tap.inbound.lock();
                    inbound.as_ref().expect("started").deliver(envelope).expect("room");
                }
            }
        }));
    }
    // In the log before the panic; a proposal that is still at the door would be told that it never was.
    let ticket = loop {
        match node.submit(vec![1]) {
            Ok(ticket) if ticket.wait_appended(Duration::from_secs(60)).is_some() => break ticket,
            _ => thread::yield_now(),
        }
    };
    armed.store(true, Ordering::SeqCst);
    // Without a quorum it may have stepped down before it sends anything more.
    let read = loop {
        match node.read(|_| ()) {
            Err(ReadError::NotLeader { .. }) => thread::yield_now(),
            read => break read,
        }
    };
    assert!(matches!(read, Err(ReadError::Stopped(StopCause::Panicked { .. }))), "{read:?}");
    match ticket.wait() {
        Err(ProposeError::Unknown {
            cause: UnknownCause::Stopped(StopCause::Panicked { .. }),
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}
