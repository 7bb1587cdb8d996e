//! Proposals and reads on nodes that do not lead: they go to the leader, and end as if made there.

mod journal;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use journal::{Journal, PATIENCE, leader_of, member, until};
use oarlock::message::{Envelope, Message};
use oarlock::transport::memory::{MemoryTransport, Network};
use oarlock::transport::{Dropped, Inbound, Transport};
use oarlock::wal::Memory;
use oarlock::{Cluster, Config, Consistency, Node, ProposeError, ReadError};

fn followers(cluster: &Cluster<Journal>) -> Vec<Node<Journal>> {
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let others: Vec<_> =
        cluster.nodes().into_iter().filter(|node| node.id() != leader.id()).collect();
    for follower in &others {
        until(|| follower.status().leader == Some(leader.id()));
    }
    others
}

#[test]
fn every_node_takes_proposals_and_reads_what_it_has_proposed() {
    for cluster in [Cluster::temp(3, Journal::default), Cluster::memory(3, Journal::default)] {
        let cluster = cluster.expect("starts");
        let nodes = followers(&cluster);
        for value in 0..20 {
            let node = &nodes[value as usize % 2];
            assert_eq!(node.propose(value).expect("applied"), value + 1);
            // On this node, without asking anybody.
            let seen = node.read_with(Consistency::Stale, |journal| journal.values.len());
            assert_eq!(seen.expect("read"), value as usize + 1);
            // And on the other follower, linearizably.
            let seen = nodes[1 - value as usize % 2].read(|journal| journal.values.len());
            assert_eq!(seen.expect("read"), value as usize + 1);
        }
    }
}

#[test]
fn the_response_on_a_follower_is_its_own_states() {
    let cluster = Cluster::memory(5, Journal::default).expect("starts");
    let nodes = followers(&cluster);
    let threads: Vec<_> = (0..4)
        .map(|at| {
            let node = nodes[at as usize].clone();
            thread::spawn(move || {
                (0..50).map(|value| node.propose(at * 100 + value).expect("applied")).collect()
            })
        })
        .collect();
    let mut places: Vec<u64> = Vec::new();
    for thread in threads {
        let mine: Vec<u64> = thread.join().expect("no panic");
        assert!(mine.is_sorted(), "{mine:?}");
        places.extend(mine);
    }
    places.sort_unstable();
    assert_eq!(places, (1..=200).collect::<Vec<u64>>());
}

#[test]
fn commands_of_one_thread_keep_their_order() {
    let cluster = Cluster::temp(3, Journal::default).expect("starts");
    let node = followers(&cluster).remove(0);
    let many = node.submit_many(0..500).expect("taken");
    let singles: Vec<_> = (500..600).map(|value| node.submit(value).expect("taken")).collect();
    let places = many.wait_all().into_iter().chain(singles.into_iter().map(oarlock::Ticket::wait));
    let places: Vec<u64> = places.map(|place| place.expect("applied")).collect();
    assert_eq!(places, (1..=600).collect::<Vec<u64>>());
    assert_eq!(
        node.read(|journal| journal.values.clone()).expect("read"),
        (0..600).collect::<Vec<u64>>()
    );
}

#[test]
fn a_ticket_says_where_its_command_is_before_it_is_applied() {
    let network = Network::new();
    let nodes: Vec<_> = (1..=3)
        .map(|id| member(&network, id, 3, Journal::default()).in_memory().start().expect("starts"))
        .collect();
    let leader = leader_of(&nodes, 3);
    leader.propose(1).expect("applied");
    let node = nodes.iter().find(|node| node.id() != leader.id()).expect("three nodes");
    until(|| node.status().leader == Some(leader.id()));
    let ticket = node.submit(2).expect("taken");
    let entry = ticket.wait_appended(PATIENCE).expect("in the leader's log");
    assert_eq!(ticket.entry_id(), Some(entry));
    assert_eq!(ticket.wait().expect("applied"), 2);
    let seen = leader.read_with(Consistency::AtLeast(entry), |journal| journal.values.clone());
    assert_eq!(seen.expect("read"), [1, 2]);
}

#[test]
fn a_lost_forward_is_superseded_by_what_the_next_leader_begins_with() {
    let network = Network::new();
    let nodes: Vec<_> = (1..=3)
        .map(|id| {
            let config = Config { propose_timeout: PATIENCE, ..Config::small() };
            let node = member(&network, id, 3, Journal::default()).in_memory().config(config);
            node.start().expect("starts")
        })
        .collect();
    let leader = leader_of(&nodes, 3);
    let node = nodes.iter().find(|node| node.id() != leader.id()).expect("three nodes");
    until(|| node.status().leader == Some(leader.id()));
    node.propose(1).expect("applied");
    // The leader writes it into its log, and nobody will ever see it there.
    for other in &nodes {
        network.cut(leader.id(), other.id());
    }
    let last = leader.status().last;
    let ticket = node.submit(666).expect("taken");
    until(|| leader.status().last > last);
    until(|| leader_of(&nodes, 3).id() != leader.id());
    match ticket.wait() {
        Err(ProposeError::Superseded(666)) => {}
        other => panic!("{other:?}"),
    }
    network.heal();
    until(|| leader.propose(2).is_ok());
    assert_eq!(leader.read(|journal| journal.values.clone()).expect("read"), [1, 2]);
}

#[test]
fn what_cannot_be_sent_waits_and_goes_when_it_can() {
    let network = Network::new();
    let nodes: Vec<_> = (1..=3)
        .map(|id| member(&network, id, 3, Journal::default()).in_memory().start().expect("starts"))
        .collect();
    let leader = leader_of(&nodes, 3);
    let node = nodes.iter().find(|node| node.id() != leader.id()).expect("three nodes");
    until(|| node.status().leader == Some(leader.id()));
    node.propose(1).expect("applied");
    // The others are a quorum, so the leader goes on, and this node hears it.
    network.cut(node.id(), leader.id());
    let withdrawn = node.submit(2).expect("taken");
    let waits = node.submit(3).expect("taken");
    match withdrawn.wait_timeout(Duration::from_millis(50)) {
        Err(ProposeError::Busy(2)) => {}
        other => panic!("{other:?}"),
    }
    network.heal();
    assert_eq!(waits.wait().expect("applied"), 2);
    assert_eq!(node.read(|journal| journal.values.clone()).expect("read"), [1, 3]);
}

#[test]
fn without_a_leader_calls_are_refused_and_nothing_is_lost() {
    let network = Network::new();
    let alone = member(&network, 1, 3, Journal::default()).in_memory().start().expect("starts");
    match alone.propose(5) {
        Err(ProposeError::NotLeader { leader: None, command: 5 }) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(alone.read(|_| ()), Err(ReadError::NotLeader { leader: None })));
}

/// Repeats, delays, overtakes and loses what followers and leaders say to each other about forwarding.
struct Gossip {
    network: MemoryTransport,
    dice: fastrand::Rng,
    late: Vec<Envelope>,
}

impl Transport for Gossip {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        self.network.start(inbound)
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        let is_gossip = matches!(
            envelope.message,
            Message::Forward(_)
                | Message::ForwardReply(_)
                | Message::ReadIndex(_)
                | Message::ReadIndexReply(_)
        );
        if !is_gossip {
            if !self.late.is_empty() && self.dice.u8(..4) == 0 {
                let late = self.late.swap_remove(self.dice.usize(..self.late.len()));
                let _ = self.network.send(late);
            }
            return self.network.send(envelope);
        }
        match self.dice.u8(..10) {
            0 => Ok(()),
            1 => Err(Dropped),
            2 | 3 => {
                self.late.push(envelope);
                Ok(())
            }
            4 | 5 => {
                self.late.push(envelope.clone());
                self.network.send(envelope)
            }
            _ => self.network.send(envelope),
        }
    }
}

/// What a client was told of each of its values.
#[derive(Default)]
struct Told {
    applied: BTreeMap<u64, u64>,
    refused: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
}

impl Told {
    fn hear(&mut self, value: u64, outcome: Result<u64, ProposeError<u64>>) {
        match outcome {
            Ok(place) => drop(self.applied.insert(value, place)),
            Err(ProposeError::Unknown { .. }) => drop(self.unknown.insert(value)),
            Err(error) => {
                assert_eq!(error.into_command(), Some(value), "the command comes back");
                self.refused.insert(value);
            }
        }
    }
}

/// Writes through one node after the other, some values at a time, reading now and then what it wrote.
fn client(first: u64, nodes: &[Node<Journal>], stop: &AtomicBool) -> Told {
    let mut told = Told::default();
    let mut dice = fastrand::Rng::with_seed(first);
    let mut next = first;
    while !stop.load(Ordering::SeqCst) {
        let node = &nodes[dice.usize(..nodes.len())];
        let values = next..next + dice.u64(1..8);
        next = values.end;
        if let Ok(tickets) = node.submit_many(values.clone()) {
            for (value, outcome) in values.zip(tickets.wait_all()) {
                told.hear(value, outcome);
            }
        } else {
            told.refused.extend(values);
            thread::sleep(Duration::from_millis(1));
        }
        // Whatever this client was told is applied, a linearizable read on any node shows.
        if let Some((&value, &place)) = told.applied.last_key_value() {
            let node = &nodes[dice.usize(..nodes.len())];
            if let Ok(seen) = node.read(|journal| journal.values.get(place as usize - 1).copied()) {
                assert_eq!(seen, Some(value), "a stale read on node {}", node.id());
            }
        }
    }
    told
}

#[test]
fn each_write_has_one_true_outcome_whatever_becomes_of_leaders_and_messages() {
    let network = Network::new();
    let memories: Vec<_> = (0..3).map(|_| Memory::default()).collect();
    let start = |id: u64, seed: u64| {
        let dice = fastrand::Rng::with_seed(seed);
        let gossip = Gossip { network: network.transport(), dice, late: Vec::new() };
        let config = Config {
            propose_timeout: Duration::from_millis(700),
            read_timeout: Duration::from_millis(300),
            ..Config::small()
        };
        member(&network, id, 3, Journal::default())
            .memory(&memories[id as usize - 1])
            .transport(gossip)
            .config(config)
            .start()
            .expect("starts")
    };
    let mut all = Told::default();
    let mut leaders = BTreeSet::new();
    let mut nodes: Vec<_> = (1..=3).map(|id| start(id, id)).collect();
    for round in 0..6 {
        let stop = AtomicBool::new(false);
        let tolds = thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|at| {
                    let (nodes, stop) = (&nodes, &stop);
                    scope.spawn(move || client(1 + (round * 4 + at) * 1_000_000, nodes, stop))
                })
                .collect();
            for _ in 0..3 {
                let leader = leader_of(&nodes, 3);
                leaders.insert(leader.status().term);
                thread::sleep(Duration::from_millis(100));
                network.isolate(leader.id());
                until(|| leader_of(&nodes, 3).id() != leader.id());
                network.heal();
            }
            stop.store(true, Ordering::SeqCst);
            clients.into_iter().map(|client| client.join().expect("no panic")).collect::<Vec<_>>()
        });
        for told in tolds {
            all.applied.extend(told.applied);
            all.refused.extend(told.refused);
            all.unknown.extend(told.unknown);
        }
        // One node begins another life: its log still holds what it proposed in the last one.
        let id = 1 + round % 3;
        let old = nodes.remove(id as usize - 1);
        old.shutdown(PATIENCE).expect("stops");
        drop(old);
        nodes.insert(id as usize - 1, start(id, 100 * (round + 1) + id));
    }
    let leader = leader_of(&nodes, 3);
    until(|| leader.propose(0).is_ok());
    let values = leader.read_timeout(PATIENCE, |journal| journal.values.clone()).expect("read");
    let length = values.len();
    for node in &nodes {
        until(|| {
            let same = node.read_with(Consistency::Stale, |journal| journal.values == values);
            same.expect("runs")
        });
    }
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for value in values.iter().filter(|&&value| value != 0) {
        *times.entry(*value).or_default() += 1;
    }
    for (value, count) in &times {
        assert_eq!(*count, 1, "{value} was applied {count} times");
        assert!(!all.refused.contains(value), "{value} was refused, and applied");
    }
    for (value, place) in &all.applied {
        assert_eq!(values[*place as usize - 1], *value, "{value} was said to be number {place}");
    }
    println!(
        "{length} values in {} terms: {} applied, {} refused, {} unknown",
        leaders.len(),
        all.applied.len(),
        all.refused.len(),
        all.unknown.len()
    );
    assert!(leaders.len() > 6 && all.applied.len() > 100, "too little happened to show anything");
}

#[test]
fn a_wiped_node_does_not_take_its_former_lifes_entries_for_its_own() {
    let network = Network::new();
    let start =
        |id: u64| member(&network, id, 3, Journal::default()).in_memory().start().expect("starts");
    let mut nodes: Vec<_> = (1..=3).map(start).collect();
    let leader = leader_of(&nodes, 3);
    let at = nodes.iter().position(|node| node.id() != leader.id()).expect("three nodes");
    let id = nodes[at].id().0;
    until(|| nodes[at].status().leader == Some(leader.id()));
    for value in 0..10 {
        assert_eq!(nodes[at].propose(value).expect("applied"), value + 1);
    }
    // The same node, the same boot count, the same sequences: another directory.
    drop(nodes.remove(at));
    nodes.insert(at, start(id));
    let node = &nodes[at];
    until(|| node.status().leader == Some(leader.id()));
    assert_eq!(node.propose(77).expect("applied"), 11);
}
