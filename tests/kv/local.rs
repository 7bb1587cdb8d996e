//! A server of `examples/kv.rs` inside the test, so that it can be given other times and looked into.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use oarlock::{Node, StopCause};

use super::servers::{PATIENCE, Raw, until};
use crate::budget::Budget;
use crate::connection::{Shared, Times};
use crate::proxy::free_address;
use crate::server;
use crate::store::Store;

/// Times that no test lives to see the end of.
pub(crate) const ENDLESS: Times = {
    let day = Duration::from_secs(24 * 3600);
    Times { leader: day, request: day, replies: day }
};

pub(crate) struct Local {
    pub(crate) node: Node<Store>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    thread: JoinHandle<StopCause>,
}

impl Local {
    /// One that leads itself.
    pub(crate) fn start(shared: Shared) -> Self {
        let local = Self::start_with(shared, 1);
        until("it leads", || local.node.status().leader.is_some());
        local
    }

    /// One that waits for a leader in vain: the others of its cluster are not there.
    pub(crate) fn start_alone(shared: Shared) -> Self {
        Self::start_with(shared, 3)
    }

    fn start_with(shared: Shared, members: u64) -> Self {
        let addresses: Vec<_> = (0..members).map(|_| free_address().to_string()).collect();
        let node = Node::builder(1, Store::default())
            .in_memory()
            .listen(addresses[0].clone())
            .members((1..).zip(addresses))
            .start()
            .expect("a node");
        let listener = server::listen("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(shared);
        let (server, shares) = (node.clone(), Arc::clone(&shared));
        let thread = thread::spawn(move || {
            server::serve(listener, &server, &shares).expect("a thread for clients")
        });
        Self { node, shared, address, thread }
    }

    pub(crate) fn connect(&self) -> Raw {
        Raw::connect(self.address)
    }

    /// Waits until there are so many clients.
    pub(crate) fn wait_for_clients(&self, count: usize) {
        until("so many clients are there", || self.shared.places.count() == count);
    }

    /// What the node holds under a key.
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let get = |store: &Store| store.get(key.as_bytes()).map(<[u8]>::to_vec);
        self.node.read(get).expect("it leads")
    }

    /// Stops the node; returns why the server says that it ended.
    pub(crate) fn stop(self) -> StopCause {
        self.node.shutdown(PATIENCE).expect("nothing holds it up");
        self.thread.join().expect("no panic")
    }
}

/// What connections have in common, with these times and room for so many clients.
pub(crate) fn shared(max_clients: usize, times: Times) -> Shared {
    Shared::new(max_clients, times)
}

/// The same with a small budget.
pub(crate) fn with_budget(bytes: usize) -> Shared {
    Shared { budget: Arc::new(Budget::new(bytes)), ..Shared::new(100, ENDLESS) }
}
