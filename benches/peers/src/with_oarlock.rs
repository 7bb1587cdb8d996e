//! Oarlock as a contestant: what a program that embeds it would write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use oarlock::{Cluster, Config, Node, Ticket};
use parking_lot::Mutex;

use crate::fold::{Fold, Mirror};
use crate::load::{Client, Contestant};
use crate::{ELECTION_TICKS, HEARTBEAT_TICKS, NODES, Place, TICK};

/// Three nodes with a leader. They apply on a thread of its own, or, if the state machine says that this is
/// `SHORT`, on the one that runs consensus.
pub(crate) struct Oarlock<const SHORT: bool> {
    leader: Node<Fold<SHORT>>,
    mirrors: Vec<Arc<Mirror>>,
    _cluster: Cluster<Fold<SHORT>>,
}

impl<const SHORT: bool> Oarlock<SHORT> {
    /// Starts them.
    pub(crate) fn start(place: Place) -> Self {
        let config = Config {
            tick: TICK,
            heartbeat_ticks: HEARTBEAT_TICKS,
            election_ticks: ELECTION_TICKS,
            // raft-rs does not look whether its disk is stuck.
            stuck_after: Duration::from_secs(60),
            propose_timeout: Duration::from_secs(60),
            ..Config::default()
        };
        let mirrors = Arc::<Mutex<Vec<Arc<Mirror>>>>::default();
        let machine = {
            let mirrors = Arc::clone(&mirrors);
            move || {
                let mirror = Arc::<Mirror>::default();
                mirrors.lock().push(Arc::clone(&mirror));
                Fold::mirrored_by(mirror)
            }
        };
        let builder = Cluster::builder(NODES).config(config);
        let cluster = match place {
            Place::Memory => builder.memory(machine),
            Place::Disk => builder.temp(machine),
        };
        let cluster = cluster.expect("starts");
        let leader = cluster.wait_leader(Duration::from_secs(60)).expect("a leader");
        let mirrors = mirrors.lock().clone();
        Self { leader, mirrors, _cluster: cluster }
    }
}

impl<const SHORT: bool> Contestant for Oarlock<SHORT> {
    type Client = OarlockClient<SHORT>;

    fn client(&self) -> OarlockClient<SHORT> {
        OarlockClient { leader: self.leader.clone(), tickets: VecDeque::new() }
    }

    fn mirrors(&self) -> &[Arc<Mirror>] {
        &self.mirrors
    }
}

/// A handle to the leader and the tickets of what is in flight.
pub(crate) struct OarlockClient<const SHORT: bool> {
    leader: Node<Fold<SHORT>>,
    tickets: VecDeque<Ticket<Fold<SHORT>>>,
}

impl<const SHORT: bool> Client for OarlockClient<SHORT> {
    fn submit(&mut self, command: &Arc<[u8]>) {
        self.tickets.push_back(self.leader.submit(Arc::clone(command)).expect("taken"));
    }

    fn wait(&mut self) -> u64 {
        self.tickets.pop_front().expect("something in flight").wait().expect("applied")
    }

    fn call(&mut self, command: &Arc<[u8]>) -> u64 {
        self.leader.propose(Arc::clone(command)).expect("applied")
    }
}
