//! What several tests need: a machine whose state tells everything, nodes that are put together by hand,
//! and waiting with a generous bound.

#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use std::thread;
use std::time::{Duration, Instant};

use oarlock::transport::memory::Network;
use oarlock::{Config, Machine, Node, NodeBuilder, Role, StateMachine};
use serde::{Deserialize, Serialize};

/// An upper bound for anything that should happen soon; no test passes by waiting it out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps every value in the order in which it was applied; answers how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) values: Vec<u64>,
}

impl Machine for Journal {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, value: u64) -> u64 {
        self.values.push(value);
        self.values.len() as u64
    }
}

/// Waits until `holds` does.
///
/// # Panics
/// After [`PATIENCE`].
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it never came to hold");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Node `id` of `of`, on `network`; where its log lies is still to be said.
pub fn member<S: StateMachine>(network: &Network, id: u64, of: u64, machine: S) -> NodeBuilder<S> {
    Node::builder(id, machine)
        .transport(network.transport())
        .members((1..=of).map(|id| (id, format!("memory:{id}"))))
        .config(Config::small())
}

/// Waits until more than half of `of` nodes agree on who leads, and returns the leader.
pub fn leader_of<S: StateMachine>(nodes: &[Node<S>], of: usize) -> Node<S> {
    let mut found = None;
    until(|| {
        let statuses: Vec<_> = nodes.iter().map(Node::status).collect();
        found = nodes.iter().zip(&statuses).find_map(|(node, status)| {
            let follows = |other: &&oarlock::Status| {
                other.stopped.is_none()
                    && other.term == status.term
                    && other.leader == Some(node.id())
            };
            let leads = status.role == Role::Leader && status.stopped.is_none();
            (leads && 2 * statuses.iter().filter(follows).count() > of).then(|| node.clone())
        });
        found.is_some()
    });
    found.expect("just seen")
}
