//! The loops of one node themselves, two at a time, over the real log on a simulated disk: what one
//! publishes, the other may read.
//!
//! Every load and store of a segment's bytes is known to the checker, so a byte that is read without
//! being published, or changed after, is a race.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::apply_loop::ApplyLoop;
use super::super::builder::{Assembled, NodeBuilder};
use super::super::core_loop::CoreLoop;
use super::super::group::Answer;
use super::super::inbox::Place;
use super::super::seg_loop::SegLoop;
use super::super::shared::{Loop, Shared, Wait, Wakeups};
use super::super::wal_loop::WalLoop;
use super::far;
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::error::{ApplyError, EncodeError};
use crate::message::{Append, Envelope, Heartbeat, Message, ReadRound};
use crate::record::{EntryKind, RecordHeader};
use crate::schedules::{Scenario, explore, scenarios};
use crate::simulation::SimDisk;
use crate::slices::Slices;
use crate::state_machine::{Applied, StateMachine};
use crate::storage::Storage;
use crate::sync::thread::{Builder, JoinHandle};
use crate::transport::{Dropped, Inbound, Transport};
use crate::types::{BootCount, EntryId, Incarnation, LogIndex, NodeId, Role, Sender, Term};

pub(super) const ALL: &[Scenario] = scenarios![
    what_the_core_commits_can_be_applied,
    what_the_core_writes_can_be_flushed,
    what_is_flushed_is_applied_while_more_is_written,
    what_is_stored_and_committed_at_once_can_be_applied,
];

/// What a whole node needs of a stack, in words.
const STACK: usize = 1 << 16;

fn roomy<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().stack_size(STACK).spawn(f).expect("a thread")
}

/// Goes through a scenario that begins with a whole node.
fn explore_node(preemptions: usize, scenario: fn()) -> u64 {
    explore(preemptions, move || roomy(scenario).join().expect("no panic"))
}

/// Sums its commands, each of them many bytes.
#[derive(Debug, Default)]
struct Sum(u64);

impl StateMachine for Sum {
    type Command = u8;
    type Response = u64;

    fn encode(command: &u8, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&[*command; 20]);
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], _at: &Applied) -> Result<u64, ApplyError> {
        assert_eq!(bytes, [bytes[0]; 20]);
        self.0 += u64::from(bytes[0]);
        Ok(self.0)
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Time {
        Time::default()
    }
}

/// Keeps the way in, and loses what is sent.
#[derive(Clone, Default)]
struct Tap(Arc<std::sync::Mutex<Option<Inbound>>>);

impl Transport for Tap {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        *self.0.lock().expect("no panic") = Some(inbound);
        Ok(())
    }

    fn send(&mut self, _envelope: Envelope) -> Result<(), Dropped> {
        Ok(())
    }
}

impl Tap {
    fn receive(&self, message: Message, records: Vec<u8>) {
        let boot = BootCount(1);
        let from = Sender { node: NodeId(2), incarnation: Incarnation(2), boot };
        let envelope = Envelope { from, to: NodeId(1), message, records: Slices::from(records) };
        let inbound = self.0.lock().expect("no panic");
        inbound.as_ref().expect("started").deliver(envelope).expect("room");
    }
}

/// A node with nothing left to do.
struct Rig {
    shared: Arc<Shared<Sum>>,
    core: CoreLoop<Sum>,
    wal: WalLoop<Sum>,
    apply: ApplyLoop<Sum>,
    now: Time,
    _wakeups: Wakeups,
    _seg: SegLoop<Sum>,
}

impl Rig {
    /// Leads alone.
    fn leader() -> Self {
        let mut rig = Self::new(1).0;
        while rig.core.core.role() != Role::Leader || rig.shared.applied.get() < LogIndex(1) {
            rig.now = rig.now.after(rig.shared.config.tick);
            rig.turn();
        }
        rig
    }

    fn new(members: u64) -> (Self, Tap) {
        let config = Config {
            segment_bytes: 1 << 16,
            max_entry_bytes: 256,
            max_batch_bytes: 1 << 10,
            max_append_bytes: 1 << 10,
            max_inflight_bytes: 1 << 20,
            ready_segments: 1,
            ..Config::small()
        };
        let (disk, tap): (Arc<dyn Storage>, _) = (Arc::new(SimDisk::new(1)), Tap::default());
        let builder = NodeBuilder::new(NodeId(1), Sum::default())
            .storage(Path::new("data"), disk)
            .clock(Arc::new(Still))
            .transport(tap.clone())
            .members((1..=members).map(|id| (id, "")))
            .config(config);
        let Assembled { shared, wakeups, core, wal, mut seg, apply, .. } =
            builder.assemble().expect("starts");
        while seg.step(Time::default()) == Wait::No {}
        let wal = wal.expect("a log on a disk");
        let now = Time::default();
        (Self { shared, core, wal, apply, now, _wakeups: wakeups, _seg: seg }, tap)
    }

    fn turn(&mut self) {
        for _ in 0..3 {
            self.core.step(self.now);
            while self.wal.step(self.now) == Wait::No {}
            while self.apply.step(self.now) == Wait::No {}
        }
    }

    fn propose(&self, command: u8) -> Place<u64> {
        let wait = std::time::Duration::from_secs(1);
        let mut bytes = Vec::new();
        Sum::encode(&command, &mut bytes).expect("encodes");
        self.shared.inbox.put(&bytes, far(), wait).expect("room")
    }
}

fn response(place: &Place<u64>) -> u64 {
    match place.group.try_take(place.slot) {
        Some(Answer::Response(sum)) => sum,
        other => panic!("{other:?}"),
    }
}

fn what_the_core_commits_can_be_applied() -> u64 {
    explore_node(1, || {
        let rig = Rig::leader();
        let first = rig.propose(3);
        let Rig { shared, mut core, mut wal, mut apply, now, .. } = rig;
        core.step(now);
        while wal.step(now) == Wait::No {}
        // It becomes committed in this step, and the `apply` loop looks meanwhile.
        let applying = roomy(move || {
            apply.step(now);
            apply
        });
        core.step(now);
        let mut apply = applying.join().expect("no panic");
        while apply.step(now) == Wait::No {}
        assert_eq!(response(&first), 3);
        assert!(shared.stop.cause().is_none(), "{:?}", shared.stop.cause());
    })
}

fn what_the_core_writes_can_be_flushed() -> u64 {
    explore_node(1, || {
        let rig = Rig::leader();
        let places = [rig.propose(3), rig.propose(4)];
        let Rig { shared, mut core, mut wal, mut apply, now, .. } = rig;
        let flushing = roomy(move || {
            wal.step(now);
            wal
        });
        core.step(now);
        let mut wal = flushing.join().expect("no panic");
        while wal.step(now) == Wait::No {}
        core.step(now);
        while apply.step(now) == Wait::No {}
        assert_eq!(places.each_ref().map(response), [3, 7]);
        assert!(shared.stop.cause().is_none(), "{:?}", shared.stop.cause());
    })
}

fn what_is_flushed_is_applied_while_more_is_written() -> u64 {
    explore_node(1, || {
        let rig = Rig::leader();
        let first = rig.propose(3);
        let Rig { shared, mut core, mut wal, mut apply, now, .. } = rig;
        core.step(now);
        while wal.step(now) == Wait::No {}
        core.step(now);
        // One entry is committed; another comes in.
        let second = {
            let mut bytes = Vec::new();
            Sum::encode(&4, &mut bytes).expect("encodes");
            shared.inbox.put(&bytes, far(), std::time::Duration::from_secs(1)).expect("room")
        };
        let applying = roomy(move || {
            apply.step(now);
            apply
        });
        let flushing = roomy(move || {
            wal.step(now);
            wal
        });
        core.step(now);
        let (mut apply, mut wal) =
            (applying.join().expect("no panic"), flushing.join().expect("no panic"));
        while wal.step(now) == Wait::No {}
        core.step(now);
        while apply.step(now) == Wait::No {}
        assert_eq!([response(&first), response(&second)], [3, 7]);
        assert!(shared.stop.cause().is_none(), "{:?}", shared.stop.cause());
    })
}

fn what_is_stored_and_committed_at_once_can_be_applied() -> u64 {
    explore_node(3, || {
        let (mut rig, tap) = Rig::new(3);
        let term = Term(1);
        let (committed, replicated) = (LogIndex(1), LogIndex(0));
        let heartbeat = |committed| {
            let round = ReadRound(0);
            Message::Heartbeat(Heartbeat { term, committed, round, replicated })
        };
        // It has heard of the term; its vote is stored.
        tap.receive(heartbeat(LogIndex(0)), Vec::new());
        rig.turn();
        let id = EntryId::new(term, LogIndex(1));
        let header = RecordHeader { id, time: 0, kind: EntryKind::Command, origin: None };
        let mut records = Vec::new();
        header.write(&[5; 20], &mut records);
        let append = Append { term, prev: EntryId::ZERO, committed, ..Append::default() };
        tap.receive(Message::Append(append), records);
        tap.receive(heartbeat(committed), Vec::new());
        let Rig { shared, mut core, mut apply, now, .. } = rig;
        let applying = roomy(move || {
            apply.step(now);
            apply
        });
        core.step(now);
        let mut apply = applying.join().expect("no panic");
        while apply.step(now) == Wait::No {}
        assert_eq!(shared.state.read().0, 5);
        assert!(shared.stop.cause().is_none(), "{:?}", shared.stop.cause());
    })
}
