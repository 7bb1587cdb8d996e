//! A disk that fails, is full, hangs or has rotted.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use oarlock::error::StorageErrorKind;
use oarlock::simulation::{Fault, FaultError, Operation, SimDisk};
use oarlock::transport::memory::Network;
use oarlock::wal::Disk;
use oarlock::{
    Cluster, ClusterError, Config, Consistency, EntryId, LogIndex, Node, NodeId, ProposeError,
    ReadError, Role, StartError, StopCause, UnknownCause,
};

use super::gates::{TroubledDisk, Troubles};
use crate::journal::{Journal, PATIENCE, leader_of, member, until};

/// Small segments: they fill, cool and are asked for soon.
fn narrow() -> Config {
    Config {
        segment_bytes: 1 << 16,
        ready_segments: 1,
        max_entry_bytes: 4 << 10,
        max_batch_bytes: 8 << 10,
        max_append_bytes: 8 << 10,
        ..Config::small()
    }
}

/// Why the operating system refused what `cause` is about.
fn refusal(cause: &StopCause) -> std::io::ErrorKind {
    match cause {
        StopCause::Storage(failure) => match &failure.kind {
            StorageErrorKind::Io { error, .. } => error.kind(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other}"),
    }
}

/// Whether an outcome is one that a node with a broken disk may give; true for an acknowledgement.
fn is_acknowledged(outcome: Result<u64, ProposeError<u64>>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(
            ProposeError::Unknown { cause: UnknownCause::Stopped(cause), .. }
            | ProposeError::Stopped { cause, .. },
        ) => {
            refusal(&cause);
            false
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn values(node: &Node<Journal>, entry: EntryId) -> Vec<u64> {
    node.read_with_timeout(Consistency::AtLeast(entry), PATIENCE, |journal| journal.values.clone())
        .expect("the node catches up")
}

/// Writes one value through whoever leads, and says where it is.
fn write(nodes: &[Node<Journal>], value: u64) -> EntryId {
    loop {
        let ticket = leader_of(nodes, 3).submit(value);
        let Ok(ticket) = ticket else { continue };
        let entry = ticket.wait_appended(PATIENCE);
        match ticket.wait() {
            Ok(_) => return entry.expect("applied, so appended"),
            Err(ProposeError::Unknown { .. }) => panic!("a healthy leader lost a write"),
            Err(_) => {}
        }
    }
}

#[test]
fn nothing_is_acknowledged_after_a_failed_flush_and_nothing_acknowledged_is_lost() {
    // known bugs 7 and 9: the flush after the failed one succeeds, and proves nothing.
    for flushes in 0..12 {
        let disk = Arc::new(SimDisk::new(flushes));
        let start = || {
            let storage = Arc::<SimDisk>::clone(&disk);
            let network = Network::new();
            member(&network, 1, 1, Journal::default()).storage("data", storage).start()
        };
        let node = start().expect("starts");
        until(|| node.status().role == Role::Leader);
        disk.fail(Fault {
            operation: Some(Operation::Sync),
            after: flushes,
            error: FaultError::Io,
            lasting: false,
        });
        let mut acknowledged = 0;
        for value in 0.. {
            assert!(value < 1000, "it went on after a failed flush");
            if !is_acknowledged(node.propose(value)) {
                break;
            }
            acknowledged = value + 1;
        }
        refusal(&node.status().stopped.expect("it has stopped"));
        node.shutdown(PATIENCE).expect("its threads have ended");
        drop(node);

        disk.clear_faults();
        disk.crash_losing_all();
        let node = start().expect("starts again");
        until(|| node.status().role == Role::Leader);
        let values = node.read(|journal| journal.values.clone()).expect("read");
        let whole: Vec<u64> = (0..values.len() as u64).collect();
        assert_eq!(values, whole, "after {flushes} flushes");
        assert!(values.len() as u64 >= acknowledged, "{acknowledged} acknowledged: {values:?}");
    }
}

#[test]
fn a_leader_whose_flush_fails_stops_and_the_others_go_on() {
    // known bug 9
    let network = Network::new();
    let disks: Vec<Arc<SimDisk>> = (1..=3).map(|seed| Arc::new(SimDisk::new(seed))).collect();
    let start = |id: u64| {
        let disk = Arc::<SimDisk>::clone(&disks[id as usize - 1]);
        member(&network, id, 3, Journal::default()).storage("data", disk).start().expect("starts")
    };
    let mut nodes: Vec<Node<Journal>> = (1..=3).map(start).collect();
    let old = leader_of(&nodes, 3);
    let disk = &disks[old.id().0 as usize - 1];
    let mut acknowledged: Vec<u64> = Vec::new();
    for (at, outcome) in old.submit_many(0..100).expect("taken").wait_all().iter().enumerate() {
        outcome.as_ref().expect("applied");
        acknowledged.push(at as u64);
    }
    disk.fail(Fault {
        operation: Some(Operation::Sync),
        after: 0,
        error: FaultError::Io,
        lasting: false,
    });
    // The other two are a quorum, so some of these may be acknowledged before the leader is gone.
    for value in 100.. {
        assert!(value < 10_000, "it went on after a failed flush");
        if !is_acknowledged(old.propose(value)) {
            break;
        }
        acknowledged.push(value);
    }
    refusal(&old.status().stopped.expect("it has stopped"));
    assert!(matches!(old.propose(0), Err(ProposeError::Stopped { command: 0, .. })));
    let next = leader_of(&nodes, 3);
    assert_ne!(next.id(), old.id());
    acknowledged.push(1 << 20);
    write(&nodes, 1 << 20);

    disk.clear_faults();
    disk.crash();
    let at = old.id().0 as usize - 1;
    drop(old);
    nodes[at] = start(at as u64 + 1);
    acknowledged.push(1 << 21);
    let last = write(&nodes, 1 << 21);
    for node in &nodes {
        let mut held = values(node, last);
        // The write that was in doubt is there or not, on all alike.
        held.retain(|value| acknowledged.contains(value));
        assert_eq!(held, acknowledged);
    }
    let all: Vec<Vec<u64>> = nodes.iter().map(|node| values(node, last)).collect();
    assert!(all.iter().all(|held| *held == all[0]));
}

/// Three nodes on real disks, with mappings, that can be filled.
struct Filling {
    nodes: Vec<Node<Journal>>,
    troubles: Vec<Arc<Troubles>>,
    acknowledged: Vec<u64>,
    next: u64,
    _dir: tempfile::TempDir,
}

impl Filling {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let network = Network::new();
        let start = |id: u64| {
            let (disk, troubles) = TroubledDisk::new(Disk);
            let node = member(&network, id, 3, Journal::default())
                .storage(dir.path().join(id.to_string()), disk)
                .config(Config { stuck_after: Duration::from_millis(300), ..narrow() })
                .start();
            (node.expect("starts"), troubles)
        };
        let (nodes, troubles) = (1..=3).map(start).unzip();
        Self { nodes, troubles, acknowledged: Vec::new(), next: 0, _dir: dir }
    }

    fn set_full(&self, id: NodeId, full: bool) {
        self.troubles[id.0 as usize - 1].full.store(full, Ordering::SeqCst);
    }

    fn leader(&self) -> Node<Journal> {
        leader_of(&self.nodes, 3)
    }

    /// Writes through `node` what it takes.
    fn write_some(&mut self, node: &Node<Journal>) {
        let values = self.next..self.next + 500;
        self.next += 500;
        let mut patience = Duration::from_secs(1);
        for (value, ticket) in values.clone().zip(node.submit_many(values).into_iter().flatten()) {
            match ticket.wait_timeout(patience) {
                Ok(_) => self.acknowledged.push(value),
                Err(ProposeError::Stopped { cause, .. }) => panic!("{cause}"),
                // Those behind it wait for the same.
                Err(_) => patience = Duration::ZERO,
            }
        }
    }

    fn assert_nothing_is_missing(&self) {
        let last = write(&self.nodes, 1 << 41);
        for node in &self.nodes {
            let held = values(node, last);
            let mut missing = self.acknowledged.clone();
            missing.retain(|value| !held.contains(value));
            assert_eq!(missing, [], "node {}", node.id());
            let mut once = held.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), held.len(), "node {} has a value twice", node.id());
        }
    }
}

#[test]
fn a_leader_with_a_full_disk_gives_way_to_one_with_room_and_takes_part_again_once_it_has_space() {
    // known bug 35
    let mut filling = Filling::start();
    let old = filling.leader();
    filling.set_full(old.id(), true);
    until(|| {
        filling.write_some(&old);
        old.status().full
    });
    assert!(!filling.acknowledged.is_empty(), "there was room in the segments that were ready");

    until(|| filling.leader().id() != old.id());
    write(&filling.nodes, 1 << 40);
    filling.acknowledged.push(1 << 40);
    let status = old.status();
    assert!(status.full && status.stopped.is_none(), "{status:?}");
    assert!(values(&old, EntryId::ZERO).len() > 1, "what is there can be read");

    filling.set_full(old.id(), false);
    filling.assert_nothing_is_missing();
    until(|| !old.status().full);
}

#[test]
fn where_all_disks_are_full_writes_are_refused_and_reads_go_on_until_there_is_space() {
    let mut filling = Filling::start();
    for id in 1..=3 {
        filling.set_full(NodeId(id), true);
    }
    // Whoever has room left leads.
    until(|| {
        let leader = filling.leader();
        filling.write_some(&leader);
        filling.nodes.iter().all(|node| node.status().full)
    });
    // Some may still fit, into the leader's log at least.
    until(|| {
        let leader = filling.leader();
        filling.write_some(&leader);
        let value = filling.next;
        filling.next += 1;
        match leader.propose_timeout(value, Duration::from_millis(200)) {
            Ok(_) => filling.acknowledged.push(value),
            Err(ProposeError::Busy(refused)) => return refused == value,
            Err(ProposeError::NotLeader { .. } | ProposeError::Unknown { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        false
    });
    let acknowledged = filling.acknowledged.len();
    let leader = filling.leader();
    let term = leader.status().term;
    for _ in 0..100 {
        let held = leader.read_timeout(PATIENCE, |journal| journal.values.len());
        assert!(held.expect("readable") >= acknowledged);
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(leader.status().term, term, "nobody else has room, so it leads on");

    for id in 1..=3 {
        filling.set_full(NodeId(id), false);
    }
    filling.assert_nothing_is_missing();
}

/// Nodes on disks that can be made to hang.
struct Hanging {
    nodes: Vec<Node<Journal>>,
    troubles: Vec<Arc<Troubles>>,
    network: Network,
}

impl Hanging {
    fn start(of: u64, config: &Config) -> Self {
        let network = Network::new();
        let (nodes, troubles) = (1..=of)
            .map(|id| {
                let (disk, troubles) = TroubledDisk::new(SimDisk::new(id));
                let node = member(&network, id, of, Journal::default())
                    .storage("data", disk)
                    .config(config.clone())
                    .start()
                    .expect("starts");
                (node, troubles)
            })
            .unzip();
        Self { nodes, troubles, network }
    }

    fn leader(&self) -> Node<Journal> {
        leader_of(&self.nodes, self.nodes.len())
    }

    fn troubles(&self, node: &Node<Journal>) -> &Troubles {
        &self.troubles[node.id().0 as usize - 1]
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        for troubles in &self.troubles {
            troubles.flush.open();
        }
    }
}

#[test]
fn a_leader_does_not_count_itself_before_its_own_disk_has_the_entry() {
    // known bugs 7 and 8
    for of in [1, 2] {
        let config = Config { stuck_after: PATIENCE, ..Config::small() };
        let group = Hanging::start(of, &config);
        let leader = group.leader();
        assert_eq!(leader.propose(1).expect("applied"), 1);
        group.troubles(&leader).flush.close();
        let ticket = leader.submit(2).expect("taken");
        let entry = ticket.wait_appended(PATIENCE).expect("in the log");
        group.troubles(&leader).flush.until_held();
        for node in &group.nodes {
            until(|| node.status().last == entry);
        }
        // Everybody else's disk has it, and says so.
        until(|| {
            let peers = leader.status().peers;
            peers.iter().filter(|peer| peer.matched == entry.index).count() as u64 == of - 1
        });
        match ticket.wait_timeout(Duration::from_millis(200)) {
            Err(ProposeError::Unknown { entry: Some(named), .. }) if named == entry => {}
            other => panic!("{of} nodes: {other:?}"),
        }
        for status in group.nodes.iter().map(Node::status) {
            assert!(status.committed < entry.index && status.applied < entry.index, "{status:?}");
        }
        assert!(leader.status().persisted < entry.index);
        group.troubles(&leader).flush.open();
        until(|| leader.status().applied >= entry.index);
    }
}

#[test]
fn a_quorum_of_followers_is_enough_while_the_leader_waits_for_its_disk() {
    // Thesis §10.2.1: the leader's own disk need not be among the quorum.
    let config = Config { stuck_after: PATIENCE, ..Config::small() };
    let group = Hanging::start(3, &config);
    let leader = group.leader();
    let term = leader.status().term;
    group.troubles(&leader).flush.close();
    let ticket = leader.submit(1).expect("taken");
    let entry = ticket.wait_appended(PATIENCE).expect("in the log");
    assert_eq!(ticket.wait().expect("applied"), 1);
    assert!(leader.status().persisted < entry.index);
    // A disk that hangs for a moment costs nobody an election.
    thread::sleep(config.tick * config.election_ticks * 4);
    for status in group.nodes.iter().map(Node::status) {
        assert_eq!((status.term, status.leader), (term, Some(leader.id())));
    }
}

#[test]
fn a_leader_whose_disk_is_stuck_gives_up_and_comes_back() {
    // known bug 24
    let config = Config { stuck_after: Duration::from_millis(100), ..Config::small() };
    let group = Hanging::start(3, &config);
    let old = group.leader();
    let mut leadership = old.leadership();
    let term = leadership.latest().term;
    group.troubles(&old).flush.close();
    let held = old.submit(1).expect("taken");
    held.wait_appended(PATIENCE).expect("in the log");
    leadership.wait_for(PATIENCE, |now| now.role != Role::Leader).expect("it gives up");
    until(|| old.status().stuck);
    let next = group.leader();
    assert_ne!(next.id(), old.id());
    assert!(next.status().term > term);
    // Nobody else's write may have to wait for the hanging disk.
    next.propose(2).expect("applied");
    // It does not stand while its disk hangs, even if it hears nobody.
    group.network.isolate(old.id());
    thread::sleep(config.tick * config.election_ticks * 4);
    assert_eq!(old.status().role, Role::Follower);
    group.network.heal();
    group.troubles(&old).flush.open();
    until(|| !old.status().stuck);
    assert!(matches!(held.wait(), Ok(_) | Err(ProposeError::Superseded(1))));
    until(|| old.status().applied >= next.status().committed);
    let journal = |node: &Node<Journal>| {
        node.read_with(Consistency::Stale, |journal| journal.values.clone()).expect("it runs")
    };
    assert_eq!(journal(&old), journal(&next));
}

#[test]
fn a_shutdown_names_the_thread_that_waits_for_the_disk() {
    let config = Config { stuck_after: Duration::from_millis(100), ..Config::small() };
    let group = Hanging::start(1, &config);
    let leader = group.leader();
    group.troubles(&leader).flush.close();
    let held = leader.submit(1).expect("taken");
    // What is held first may be the flush of a cover.
    assert!(held.wait_appended(PATIENCE).is_some());
    group.troubles(&leader).flush.until_held();
    let error = leader.shutdown(Duration::from_millis(1500)).expect_err("a thread is stuck");
    assert!(error.threads.contains(&"n1-wal".to_owned()), "{error}");
    for other in ["n1-apply", "n1-snap"] {
        assert!(!error.threads.contains(&other.to_owned()), "{error}");
    }
    match held.wait() {
        Err(ProposeError::Unknown {
            cause: UnknownCause::Stopped(StopCause::Shutdown), ..
        }) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(leader.read(|_| ()), Err(ReadError::Stopped(StopCause::Shutdown))));
    group.troubles(&leader).flush.open();
    leader.shutdown(PATIENCE).expect("it ends by itself");
}

fn is_mapped(file: &Path) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").expect("this process's mappings");
    let file = file.to_str().expect("a plain path");
    maps.lines().any(|line| line.ends_with(file))
}

#[test]
fn a_leader_that_finds_its_log_damaged_stops_instead_of_sending_a_shorter_one() {
    // known bug 17
    let cluster = Cluster::builder(3).config(narrow()).temp(Journal::default).expect("starts");
    let old = cluster.wait_leader(PATIENCE).expect("a leader");
    let lagging = cluster.nodes().into_iter().find(|node| node.id() != old.id());
    let lagging = lagging.expect("three nodes");
    cluster.isolate(lagging.id()).expect("isolates");
    let mut written = Vec::new();
    for round in 0..16 {
        let many = round * 500..(round + 1) * 500;
        written.extend(many.clone());
        let outcomes = old.submit_many(many).expect("taken").wait_all();
        assert!(outcomes.iter().all(Result::is_ok));
    }

    let log = cluster.data_dir().expect("on disk").join(format!("n{}", old.id())).join("log");
    let mut segments: Vec<_> = fs::read_dir(&log)
        .expect("the log's directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    assert!(segments.len() > 4, "{segments:?}");
    let damaged = &segments[1];
    until(|| !is_mapped(damaged));
    let mut bytes = fs::read(damaged).expect("a segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(damaged, bytes).expect("written");

    cluster.heal();
    until(|| old.status().stopped.is_some());
    match old.status().stopped {
        Some(StopCause::Storage(error)) => {
            assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
            assert_eq!(&error.path, damaged);
            assert!(error.offset.is_some() && error.index > Some(LogIndex(1)), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // Whoever has a good log serves the one that lagged.
    let next = cluster.wait_leader(PATIENCE).expect("another leader");
    assert_ne!(next.id(), old.id());
    let ticket = next.submit(1 << 40).expect("taken");
    let last = ticket.wait_appended(PATIENCE).expect("in the log");
    ticket.wait().expect("applied");
    written.push(1 << 40);
    assert_eq!(values(&lagging, last), written);
    // And it does not come back with a shorter log either.
    old.shutdown(PATIENCE).expect("its threads have ended");
    match cluster.restart(old.id()) {
        Err(ClusterError::Start(StartError::Storage(error))) => {
            assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
