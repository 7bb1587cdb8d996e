//! Links that are slow, cut, half-open or damage what they carry: nobody else notices, and nothing is lost.

use std::time::Duration;

use oarlock::transport::LinkError;
use oarlock::{Config, NodeId};

use crate::journal::{Journal, until};
use crate::proxy::Rules;
use crate::rig::{Kind, Texts, Trio, link, outgoing_error};

/// Elections that a busy machine alone does not bring about: these tests say that there are none.
fn calm() -> Config {
    Config { heartbeat_ticks: 6, election_ticks: 60, ..Config::small() }
}

/// One follower's link misbehaves so that its connections must be given up, and no new ones are to be had;
/// the other two nodes go on.
fn others_go_on(rules: Rules) {
    let trio = Trio::<Journal>::behind_proxies(Kind::Plain, calm());
    let (mut next, mut applied) = (0, Vec::new());
    applied.extend(trio.write(&mut next, 10));
    let (bad, leader) = (trio.follower(), trio.leader());
    until(|| link(&leader, bad).outgoing.connected);
    let before = link(&leader, bad).outgoing.connections;
    let term = leader.status().term;
    trio.proxy(bad).set(rules);
    until(|| {
        applied.extend(trio.write(&mut next, 20));
        !link(&leader, bad).outgoing.connected
    });
    assert_eq!(leader.status().term, term, "the leader lost its majority");
    trio.proxy(bad).heal();
    until(|| link(&leader, bad).outgoing.connected);
    assert!(link(&leader, bad).outgoing.connections > before);
    applied.extend(trio.write(&mut next, 10));
    trio.holds_once(&applied);
}

#[test]
fn a_peer_that_never_reads_holds_nobody_up() {
    others_go_on(Rules { stalled: true, ..Rules::default() });
}

#[test]
fn a_half_open_connection_is_found_and_replaced() {
    others_go_on(Rules { loses_requests: true, ..Rules::default() });
}

#[test]
fn a_connection_whose_answers_are_lost_is_found_and_replaced() {
    others_go_on(Rules { loses_replies: true, ..Rules::default() });
}

#[test]
fn a_node_that_hears_nobody_and_is_heard_disturbs_nobody() {
    let trio = Trio::<Journal>::behind_proxies(Kind::Plain, calm());
    let (mut next, mut applied) = (0, trio.write(&mut 0, 10));
    next += 10;
    let (deaf, leader) = (trio.follower(), trio.leader());
    let term = leader.status().term;
    trio.proxy(deaf).set(Rules { cut: true, ..Rules::default() });
    until(|| !link(&leader, deaf).outgoing.connected);
    assert!(link(&leader, deaf).incoming.connected);
    // It stands for election without end, and is told each time that there is a leader.
    until(|| trio.node(deaf).status().leader.is_none());
    applied.extend(trio.write(&mut next, 100));
    assert!(link(&leader, deaf).dropped_messages > 0);
    assert_eq!(leader.status().term, term);
    assert_eq!(trio.leader().id(), leader.id());
    trio.proxy(deaf).heal();
    until(|| trio.node(deaf).status().leader == Some(leader.id()));
    trio.holds_once(&applied);
}

#[test]
fn a_link_between_two_nodes_alone_may_be_cut() {
    let trio = Trio::<Journal>::behind_proxies(Kind::Plain, calm());
    let (mut next, mut applied) = (0, trio.write(&mut 0, 10));
    next += 10;
    let leader = trio.leader().id();
    let followers: Vec<u64> = (1..=3).filter(|id| NodeId(*id) != leader).collect();
    let cut = Rules { cut: true, ..Rules::default() };
    trio.proxy(followers[0]).set_from(followers[1], cut.clone());
    trio.proxy(followers[1]).set_from(followers[0], cut);
    until(|| !link(trio.node(followers[0]), followers[1]).outgoing.connected);
    applied.extend(trio.write(&mut next, 50));
    assert_eq!(trio.leader().id(), leader);
    trio.holds_once(&applied);
}

#[test]
fn slow_links_carry_everything() {
    let trio = Trio::<Journal>::behind_proxies(Kind::Plain, Config::default());
    for id in 1..=3 {
        let delay = Duration::from_millis(10);
        trio.proxy(id).set(Rules { delay, ..Rules::default() });
    }
    let applied = trio.write(&mut 0, 30);
    trio.holds_once(&applied);
    let leader = trio.leader();
    until(|| {
        let peer = trio.follower();
        // There and back.
        link(&leader, peer).round_trip.is_some_and(|time| time >= Duration::from_millis(20))
    });
}

#[test]
fn damage_on_the_way_costs_connections_and_no_data() {
    let trio = Trio::<Journal>::behind_proxies(Kind::Plain, Config::small());
    let (mut next, mut applied) = (0, Vec::new());
    for id in 1..=3 {
        trio.proxy(id).set(Rules { damage_every: Some(4000), ..Rules::default() });
    }
    until(|| {
        applied.extend(trio.write(&mut next, 20));
        (1..=3).map(|id| trio.proxy(id).damaged()).sum::<u64>() > 30
    });
    for id in 1..=3 {
        trio.proxy(id).heal();
    }
    applied.extend(trio.write(&mut next, 10));
    trio.holds_once(&applied);
}

#[test]
fn connections_that_break_all_the_time_lose_nothing() {
    for kind in [Kind::Plain, Kind::Tls] {
        let trio = Trio::<Journal>::behind_proxies(kind, Config::small());
        let (mut next, mut applied) = (0, Vec::new());
        for round in 0..20 {
            trio.proxy(round % 3 + 1).drop_connections();
            applied.extend(trio.write(&mut next, 10));
        }
        trio.holds_once(&applied);
    }
}

#[test]
fn a_link_that_is_slow_and_full_is_not_taken_for_a_dead_one() {
    // What is under way takes twice as long as a connection may be silent.
    let config = Config { max_inflight_bytes: 4 << 20, ..Config::small() };
    let trio = Trio::<Texts>::behind_proxies(Kind::Plain, config);
    let (slow, leader) = (trio.follower(), trio.leader());
    trio.proxy(slow).set(Rules { pace: Some(600 << 10), ..Rules::default() });
    trio.proxy(slow).drop_connections();
    until(|| link(&leader, slow).outgoing.connections == 2);
    let text = "x".repeat(64 << 10);
    let texts = std::iter::repeat_n(text, 62);
    let tickets = leader.submit_many(texts).expect("taken");
    assert!(tickets.wait_all().iter().all(Result::is_ok));
    until(|| trio.node(slow).status().applied == leader.status().applied);
    assert_eq!(link(&leader, slow).outgoing.connections, 2);
}

#[test]
fn a_peer_that_is_nowhere_is_looked_for_again_and_again() {
    let trio = Trio::<Journal>::start(Kind::Plain);
    let members = [(1, "127.0.0.1:9".to_owned()), (2, "no-such-host.invalid:7000".to_owned())];
    let node = oarlock::Node::builder(1, Journal::default())
        .in_memory()
        .listen("127.0.0.1:0")
        .members(members)
        .config(Config::small())
        .start()
        .expect("starts: names may come to mean something later");
    let error = outgoing_error(&node, 2, |error| matches!(error, LinkError::Unresolved { .. }));
    assert!(error.to_string().contains("no-such-host.invalid:7000"), "{error}");
    drop(trio);
}
