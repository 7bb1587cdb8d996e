//! Real nodes in one process: failover, restarts, isolation, and what their callers are told.

mod journal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use journal::{Journal, PATIENCE, until};
use oarlock::{
    Cluster, Config, Consistency, EntryId, Node, NodeId, ProposeError, ReadError, Role, StopCause,
    Term, UnknownCause,
};

/// Proposes until it is acknowledged, wherever the leader is; every value at most once in flight.
fn write(cluster: &Cluster<Journal>, value: u64) -> EntryId {
    loop {
        let leader = cluster.wait_leader(PATIENCE).expect("a leader");
        match leader.submit(value) {
            Ok(ticket) => {
                let entry = ticket.wait_appended(PATIENCE);
                if ticket.wait().is_ok() {
                    return entry.expect("applied, so appended");
                }
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// What a node has applied, once it has applied `entry`.
fn values(node: &Node<Journal>, entry: EntryId) -> Vec<u64> {
    node.read_with_timeout(Consistency::AtLeast(entry), PATIENCE, |journal| journal.values.clone())
        .expect("the node catches up")
}

fn follower(cluster: &Cluster<Journal>, leader: &Node<Journal>) -> Node<Journal> {
    cluster.nodes().into_iter().find(|node| node.id() != leader.id()).expect("more than one node")
}

#[test]
fn a_write_is_applied_on_every_node() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    let entry = write(&cluster, 7);
    for node in cluster.nodes() {
        assert_eq!(values(&node, entry), [7]);
    }
}

#[test]
fn a_cluster_of_one_needs_nobody() {
    for cluster in [Cluster::temp(1, Journal::default), Cluster::memory(1, Journal::default)] {
        let cluster = cluster.expect("starts");
        let leader = cluster.wait_leader(PATIENCE).expect("a leader");
        assert_eq!(leader.propose(1).expect("applied"), 1);
        assert_eq!(leader.read(|journal| journal.values.clone()).expect("read"), [1]);
        cluster.crash(1).expect("crashes");
        cluster.restart(1).expect("restarts");
        let leader = cluster.wait_leader(PATIENCE).expect("a leader");
        assert_eq!(leader.read(|journal| journal.values.clone()).expect("read"), [1]);
    }
}

#[test]
fn acknowledged_writes_outlive_their_leader() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    let mut expected = Vec::new();
    let mut last = EntryId::ZERO;
    for round in 0..3 {
        for value in 0..50 {
            expected.push(round * 50 + value);
            last = write(&cluster, round * 50 + value);
        }
        let leader = cluster.wait_leader(PATIENCE).expect("a leader");
        cluster.crash(leader.id()).expect("crashes");
        let next = cluster.wait_leader(PATIENCE).expect("another leader");
        assert_ne!(next.id(), leader.id());
        assert_eq!(values(&next, last), expected);
        cluster.restart(leader.id()).expect("restarts");
    }
    for node in cluster.nodes() {
        assert_eq!(values(&node, last), expected);
    }
}

#[test]
fn acknowledged_writes_outlive_a_crash_of_all_nodes() {
    for cluster in [Cluster::temp(3, Journal::default), Cluster::memory(3, Journal::default)] {
        let cluster = cluster.expect("starts");
        let leader = cluster.wait_leader(PATIENCE).expect("a leader");
        let tickets = leader.submit_many(0..500).expect("taken");
        assert!(tickets.wait_all().iter().all(Result::is_ok));
        for id in 1..=3 {
            cluster.crash(id).expect("crashes");
        }
        for id in 1..=3 {
            cluster.restart(id).expect("restarts");
        }
        let last = write(&cluster, 500);
        for node in cluster.nodes() {
            assert_eq!(values(&node, last), (0..=500).collect::<Vec<_>>());
        }
    }
}

#[test]
fn acknowledged_writes_outlive_an_orderly_stop_of_all_nodes() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    write(&cluster, 1);
    for id in 1..=3 {
        cluster.stop(id).expect("stops");
    }
    for id in 1..=3 {
        cluster.restart(id).expect("restarts");
    }
    let last = write(&cluster, 2);
    for node in cluster.nodes() {
        assert_eq!(values(&node, last), [1, 2]);
    }
}

#[test]
fn a_minority_that_is_cut_off_changes_nothing_for_the_others() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    write(&cluster, 1);
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let lonely = follower(&cluster, &leader);
    let term = leader.status().term;
    cluster.isolate(lonely.id()).expect("isolates");
    // Long enough for the lonely node to try to become leader, many times over.
    until(|| lonely.status().role == Role::PreCandidate);
    let last = write(&cluster, 2);
    cluster.heal();
    assert_eq!(values(&lonely, last), [1, 2]);
    // Pre-vote (thesis §9.6): its return disturbs nobody's term.
    assert_eq!(cluster.wait_leader(PATIENCE).expect("a leader").status().term, term);
}

#[test]
fn the_tail_of_a_deposed_leader_is_replaced_and_its_callers_are_told_the_truth() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    write(&cluster, 1);
    let old = cluster.wait_leader(PATIENCE).expect("a leader");
    cluster.isolate(old.id()).expect("isolates");
    let lost = old.submit(666).expect("it does not know yet");
    assert!(lost.wait_appended(PATIENCE).is_some());

    until(|| {
        cluster
            .nodes()
            .iter()
            .any(|node| node.id() != old.id() && node.status().role == Role::Leader)
    });
    let next = cluster
        .nodes()
        .into_iter()
        .find(|node| node.id() != old.id() && node.status().role == Role::Leader);
    let next = next.expect("just seen");
    until(|| next.propose(2).is_ok());

    // Check-quorum (thesis §6.2): a leader that nobody answers steps down, and sends its callers away.
    until(|| old.status().role != Role::Leader);
    assert!(matches!(old.propose(3), Err(ProposeError::NotLeader { command: 3, .. })));

    cluster.heal();
    match lost.wait() {
        Err(ProposeError::Superseded(666)) => {}
        other => panic!("the lost write ended in {other:?}"),
    }
    let last = write(&cluster, 4);
    for node in cluster.nodes() {
        assert_eq!(values(&node, last), [1, 2, 4]);
    }
}

#[test]
fn an_isolated_leader_confirms_no_read() {
    // known bugs 4 and 6
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    write(&cluster, 1);
    let old = cluster.wait_leader(PATIENCE).expect("a leader");
    cluster.isolate(old.id()).expect("isolates");
    match old.read(|journal| journal.values.clone()) {
        Err(ReadError::NotLeader { .. } | ReadError::Timeout) => {}
        other => panic!("an isolated leader answered {other:?}"),
    }
    // Whoever accepts what is old can have it.
    assert_eq!(
        old.read_with(Consistency::Stale, |journal| journal.values.clone()).expect("stale"),
        [1]
    );
}

#[test]
fn proposals_without_a_quorum_end_as_unknown_at_their_deadline() {
    // known bugs 27 and 28
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    write(&cluster, 1);
    cluster.isolate(leader.id()).expect("isolates");
    match leader.propose_timeout(2, Duration::from_millis(50)) {
        Err(ProposeError::Unknown { entry: Some(_), cause: UnknownCause::Deadline }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn followers_that_do_not_forward_name_the_leader() {
    let config = Config { forward: false, ..Config::small() };
    let cluster = Cluster::builder(3).config(config).memory(Journal::default).expect("starts");
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let follower = follower(&cluster, &leader);
    until(|| follower.status().leader == Some(leader.id()));
    match follower.propose(9) {
        Err(ProposeError::NotLeader { leader: Some(named), command: 9 })
            if named == leader.id() => {}
        other => panic!("{other:?}"),
    }
    match follower.read(|_| ()) {
        Err(ReadError::NotLeader { leader: Some(named) }) if named == leader.id() => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn after_a_shutdown_every_call_answers_stopped_with_its_input() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    leader.shutdown(PATIENCE).expect("stops");
    assert!(matches!(
        leader.propose(3),
        Err(ProposeError::Stopped { cause: StopCause::Shutdown, command: 3 })
    ));
    assert!(matches!(leader.submit(4), Err(ProposeError::Stopped { command: 4, .. })));
    match leader.submit_many([5, 6]) {
        Err(ProposeError::Stopped { command, .. }) => assert_eq!(command, [5, 6]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(leader.read(|_| ()), Err(ReadError::Stopped(StopCause::Shutdown))));
    assert!(matches!(leader.read_with(Consistency::Stale, |_| ()), Err(ReadError::Stopped(_))));
    assert!(matches!(leader.status().stopped, Some(StopCause::Shutdown)));
    assert!(leader.leadership().latest().stopped);
    leader.shutdown(PATIENCE).expect("it has stopped already");
}

#[test]
fn proposals_that_wait_when_the_node_crashes_are_answered() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    write(&cluster, 0);
    cluster.isolate(leader.id()).expect("isolates");
    let tickets = leader.submit_many(1..100).expect("taken");
    let waiting = {
        let leader = leader.clone();
        thread::spawn(move || leader.propose(100))
    };
    until(|| leader.status().pending == 100);
    cluster.crash(leader.id()).expect("crashes");
    let outcomes = tickets.wait_all().into_iter().chain([waiting.join().expect("no panic")]);
    for outcome in outcomes {
        match outcome {
            Err(
                ProposeError::Unknown { cause: UnknownCause::Stopped(StopCause::Crash), .. }
                | ProposeError::Stopped { cause: StopCause::Crash, .. },
            ) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_last_handle_stops_the_node() {
    let memory = oarlock::wal::Memory::default();
    let start = || Node::builder(1, Journal::default()).memory(&memory).members([(1, "")]).start();
    let node = start().expect("starts");
    let other_handle = node.clone();
    drop(node);
    until(|| other_handle.propose(1).is_ok());
    drop(other_handle);
    // The memory is free again only once the node has let go of it.
    let node = start().expect("starts again");
    until(|| node.read(|journal| journal.values.clone()).is_ok_and(|values| values == [1]));
}

#[test]
fn a_full_door_makes_callers_wait_and_then_says_busy() {
    let config = Config { max_pending_proposals: 4, ..Config::small() };
    let cluster = Cluster::builder(3).config(config).temp(Journal::default).expect("starts");
    write(&cluster, 0);
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    cluster.isolate(leader.id()).expect("isolates");
    let held: Vec<_> = (1..=4).map(|value| leader.submit(value).expect("room")).collect();
    match leader.propose_timeout(5, Duration::from_millis(20)) {
        Err(ProposeError::Busy(5)) => {}
        other => panic!("{other:?}"),
    }
    // With the quorum back there is room again, for whoever waits.
    let waiting = {
        let leader = leader.clone();
        thread::spawn(move || leader.propose(6))
    };
    cluster.heal();
    for ticket in held {
        assert!(matches!(ticket.wait(), Ok(_) | Err(ProposeError::Superseded(_))));
    }
    match waiting.join().expect("no panic") {
        Ok(_) | Err(ProposeError::NotLeader { command: 6, .. } | ProposeError::Superseded(6)) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_callers_get_each_their_own_answer() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let leader = leader.clone();
            thread::spawn(move || {
                (0..50)
                    .map(|n| {
                        (caller * 1000 + n, leader.propose(caller * 1000 + n).expect("applied"))
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let answers: Vec<(u64, u64)> =
        callers.into_iter().flat_map(|caller| caller.join().expect("no panic")).collect();
    // The response of a write is the number of values after it: so it names its place.
    let journal = leader.read(|journal| journal.values.clone()).expect("read");
    for (value, place) in answers {
        assert_eq!(journal[place as usize - 1], value);
    }
    assert_eq!(journal.len(), 800);
}

#[test]
fn subscribers_see_the_latest_leadership_and_hold_nobody_up() {
    // known bug 31
    let cluster = Cluster::memory(3, Journal::default).expect("starts");
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let mut attentive = leader.leadership();
    let mut idle = leader.leadership();
    assert_eq!(attentive.latest().role, Role::Leader);
    cluster.isolate(leader.id()).expect("isolates");
    let lost = attentive.wait_for(PATIENCE, |leadership| leadership.role != Role::Leader);
    assert_eq!(lost.expect("it steps down").leader, None);
    cluster.heal();
    write(&cluster, 1);
    attentive.wait_for(PATIENCE, |leadership| leadership.leader.is_some()).expect("a leader again");
    // Whoever did not look sees the latest only.
    assert!(idle.latest().term > Term(0));
    assert_eq!(idle.changed(Duration::ZERO), None);
}

#[test]
fn a_held_status_or_a_slow_reader_does_not_stop_the_node_from_leading() {
    // known bug 32
    let cluster = Cluster::memory(3, Journal::default).expect("starts");
    write(&cluster, 1);
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let term = leader.status().term;
    let release = Arc::new(AtomicBool::new(false));
    let (entered, has_entered) = crossbeam_channel::bounded(1);
    let reader = {
        let (leader, release) = (leader.clone(), Arc::clone(&release));
        thread::spawn(move || {
            leader.read(|_| {
                entered.send(()).expect("somebody listens");
                until(|| release.load(Ordering::SeqCst));
            })
        })
    };
    has_entered.recv_timeout(PATIENCE).expect("the reader is inside");
    // It commits while the state is locked, and answers once it is free.
    let ticket = leader.submit(2).expect("taken");
    until(|| {
        leader.status().committed
            >= ticket.entry_id().map_or(oarlock::LogIndex(u64::MAX), |id| id.index)
    });
    assert_eq!(leader.status().term, term);
    release.store(true, Ordering::SeqCst);
    assert_eq!(ticket.wait().expect("applied"), 2);
    reader.join().expect("no panic").expect("read");
}

#[test]
fn a_call_from_inside_the_node_is_refused_instead_of_waiting_for_itself() {
    let cluster = Cluster::memory(3, Journal::default).expect("starts");
    write(&cluster, 1);
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let (inside, inner) = (leader.clone(), leader.clone());
    let (proposed, read) =
        leader.read(move |_| (inside.propose(2), inner.read(|_| ()))).expect("the outer read");
    assert!(matches!(proposed, Err(ProposeError::Reentrant(2))));
    assert!(matches!(read, Err(ReadError::Reentrant)));
}

#[test]
fn unknown_nodes_are_named() {
    let cluster = Cluster::memory(1, Journal::default).expect("starts");
    for error in [
        cluster.node(9).map(drop),
        cluster.crash(9),
        cluster.stop(9),
        cluster.restart(9),
        cluster.isolate(9),
    ] {
        assert!(matches!(error, Err(oarlock::ClusterError::NoSuchNode(NodeId(9)))));
    }
    assert!(matches!(cluster.restart(1), Err(oarlock::ClusterError::StillRunning(NodeId(1)))));
}
