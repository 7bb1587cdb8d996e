//! Three nodes over TCP are a cluster like any other.

use std::time::Duration;

use oarlock::transport::LinkError;
use oarlock::{Config, Consistency};

use crate::journal::until;
use crate::rig::{Kind, Texts, Trio, link};

/// The same tests in the clear and with TLS.
macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod plain {
            $(#[test] fn $name() { super::$name(super::Kind::Plain); })*
        }
        mod tls {
            $(#[test] fn $name() { super::$name(super::Kind::Tls); })*
        }
    };
}

both! {
    three_nodes_agree_and_count_what_they_send,
    a_stopped_leader_is_replaced_and_comes_back_on_the_same_port,
    a_peer_that_went_away_is_seen_to_have_closed,
    a_follower_that_was_away_gets_a_long_log_of_large_entries,
}

fn three_nodes_agree_and_count_what_they_send(kind: Kind) {
    let trio = Trio::start(kind);
    let applied = trio.write(&mut 0, 100);
    trio.holds_once(&applied);
    let leader = trio.leader().id().0;
    for id in 1..=3 {
        for peer in (1..=3).filter(|peer| *peer != id) {
            until(|| {
                let link = link(trio.node(id), peer);
                let round_trip = link.round_trip;
                round_trip.is_some_and(|time| time > Duration::ZERO)
                    && [link.outgoing, link.incoming].iter().all(|direction| {
                        let has_messages = direction.messages > 0 || ![id, peer].contains(&leader);
                        direction.connected && has_messages && direction.bytes > 0
                    })
            });
        }
    }
}

fn a_stopped_leader_is_replaced_and_comes_back_on_the_same_port(kind: Kind) {
    let mut trio = Trio::start(kind);
    let (mut next, mut applied) = (0, Vec::new());
    for _ in 0..3 {
        applied.extend(trio.write(&mut next, 10));
        let leader = trio.leader().id().0;
        trio.stop(leader);
        applied.extend(trio.write(&mut next, 10));
        trio.restart(leader);
        let peer = if leader == 1 { 2 } else { 1 };
        until(|| link(trio.node(leader), peer).incoming.connected);
    }
    trio.holds_once(&applied);
}

fn a_peer_that_went_away_is_seen_to_have_closed(kind: Kind) {
    let trio = Trio::start(kind);
    trio.write(&mut 0, 1);
    let gone = trio.follower();
    let stays = trio.leader();
    trio.stop(gone);
    until(|| {
        let link = link(&stays, gone);
        !link.outgoing.connected && !link.incoming.connected
    });
    assert_eq!(link(&stays, gone).incoming.last_error, Some(LinkError::Closed));
    trio.write(&mut 1, 1);
}

fn a_follower_that_was_away_gets_a_long_log_of_large_entries(kind: Kind) {
    let mut trio = Trio::<Texts>::start(kind);
    let away = trio.follower();
    trio.stop(away);
    let leader = trio.leader();
    let largest = Config::small().max_entry_bytes - 8;
    let mut expected = Texts::default();
    for round in 0..6 {
        let texts: Vec<String> =
            (0..20).map(|n| format!("{round}.{n} ").repeat(largest / 10 * (n + 1) / 20)).collect();
        for text in &texts {
            oarlock::Machine::apply(&mut expected, text.clone());
        }
        let tickets = leader.submit_many(texts).expect("taken");
        assert!(tickets.wait_all().iter().all(Result::is_ok));
    }
    trio.restart(away);
    for node in &trio.nodes {
        let state = || node.read_with(Consistency::Stale, Clone::clone).expect("runs");
        until(|| state().count == expected.count);
        assert_eq!(state(), expected);
    }
}
