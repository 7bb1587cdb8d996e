//! Oarlock as a contestant: what a program that embeds it would write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use oarlock::{Cluster, Config, Node, Ticket};
use parking_lot::Mutex;

use crate::fold::{Fold, Mirror};
use crate::load::{Client, Contestant};
use crate::{ELECTION_TICKS, HEARTBEAT_TICKS, NODES, Place, TICK};

/// Three nodes with a leader.
pub(crate) struct Oarlock {
    leader: Node<Fold>,
    mirrors: Vec<Arc<Mirror>>,
    _cluster: Cluster<Fold>,
}

impl Oarlock {
    /// Starts them.
    pub(crate) fn start(place: Place) -> Self {
        let config = Config {
            tick: TICK,
            heartbeat_ticks: HEARTBEAT_TICKS,
            election_ticks: ELECTION_TICKS,
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

impl Contestant for Oarlock {
    type Client = OarlockClient;

    fn client(&self) -> OarlockClient {
        OarlockClient { leader: self.leader.clone(), tickets: VecDeque::new() }
    }

    fn mirrors(&self) -> &[Arc<Mirror>] {
        &self.mirrors
    }
}

/// A handle to the leader and the tickets of what is in flight.
pub(crate) struct OarlockClient {
    leader: Node<Fold>,
    tickets: VecDeque<Ticket<Fold>>,
}

impl Client for OarlockClient {
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
