//! More proposals on a follower than its leader can take.

use std::sync::Arc;

use oarlock::transport::memory::Network;
use oarlock::{Config, Node};

use super::fragile::{Fragile, Order};
use super::gates::{Gate, Opener};
use crate::journal::{PATIENCE, leader_of, member, until};

const FLOOD: u64 = 5000;
/// What one of the small orders below takes in the log, with its tag.
const RECORD_BYTES: u64 = 88;

#[test]
fn a_flood_on_a_follower_waits_at_its_door_while_the_leader_has_no_room() {
    let config = Config {
        max_entry_bytes: 256,
        max_batch_bytes: 1 << 12,
        max_append_bytes: 1 << 12,
        max_unapplied_bytes: 1 << 12,
        max_peer_queue_bytes: 12 << 10,
        propose_timeout: PATIENCE,
        stuck_after: PATIENCE,
        ..Config::small()
    };
    let network = Network::new();
    let gates: Vec<Arc<Gate>> = (0..3).map(|_| Arc::default()).collect();
    let nodes: Vec<Node<Fragile>> = (1..=3)
        .map(|id| {
            let machine = Fragile::behind(&gates[id as usize - 1]);
            let node = member(&network, id, 3, machine).in_memory().config(config.clone());
            node.start().expect("starts")
        })
        .collect();
    let leader = leader_of(&nodes, 3);
    let follower = nodes.iter().find(|node| node.id() != leader.id()).expect("three nodes");
    until(|| follower.status().leader == Some(leader.id()));
    let gate = &gates[leader.id().0 as usize - 1];
    gate.close();
    let _opener = Opener(gate);
    let stuck = leader.submit(Order::Pass).expect("taken");
    gate.until_held();
    let applied = leader.status().applied;
    let flood = follower.submit_many((0..FLOOD).map(|_| Order::Add(1))).expect("taken");
    // The leader has taken what it may, and takes no more.
    let most = applied.0 + 3 * (1 << 12) / RECORD_BYTES;
    until(|| leader.status().last.index.0 > applied.0 + 20);
    std::thread::sleep(config.tick * 50);
    let last = leader.status().last.index;
    assert!(last.0 <= most, "{last} entries, and {most} fit");
    assert!(follower.status().pending as u64 > FLOOD / 2);
    gate.open();
    assert_eq!(stuck.wait().expect("applied"), 1);
    for (outcome, sum) in flood.wait_all().into_iter().zip(2..) {
        assert_eq!(outcome.expect("nothing was lost"), sum);
    }
    assert_eq!(leader.status().refused_messages, 0);
}
