//! Three nodes over TCP are a cluster like any other.

use std::time::Duration;

use oarlock::transport::LinkError;

use crate::journal::until;
use crate::rig::{Trio, link};

#[test]
fn three_nodes_agree_and_count_what_they_send() {
    let trio = Trio::start();
    for value in 1..=100 {
        trio.write(value);
    }
    assert_eq!(trio.settled(), (1..=100).collect::<Vec<u64>>());
    let leader = trio.leader().id().0;
    for id in 1..=3 {
        for peer in (1..=3).filter(|peer| *peer != id) {
            until(|| {
                let link = link(trio.node(id), peer);
                link.round_trip.is_some_and(|time| time < Duration::from_secs(60))
                    && [link.outgoing, link.incoming].iter().all(|direction| {
                        let has_messages = direction.messages > 0 || ![id, peer].contains(&leader);
                        direction.connected && has_messages && direction.bytes > 0
                    })
            });
        }
    }
}

#[test]
fn a_stopped_leader_is_replaced_and_comes_back_on_the_same_port() {
    let mut trio = Trio::start();
    for round in 0..3 {
        trio.write(round);
        let leader = trio.leader().id().0;
        trio.stop(leader);
        trio.write(100 + round);
        trio.restart(leader);
        let peer = if leader == 1 { 2 } else { 1 };
        until(|| link(trio.node(leader), peer).incoming.connected);
    }
    assert_eq!(trio.settled(), [0, 100, 1, 101, 2, 102]);
}

#[test]
fn a_peer_that_went_away_is_seen_to_have_closed() {
    let trio = Trio::start();
    trio.write(1);
    trio.stop(3);
    until(|| {
        let link = link(trio.node(1), 3);
        !link.outgoing.connected && !link.incoming.connected
    });
    assert_eq!(link(trio.node(1), 3).incoming.last_error, Some(LinkError::Closed));
    trio.write(2);
}
