//! Three nodes over TCP, each behind a proxy if asked for, in the clear or with TLS.

use std::net::SocketAddr;

use oarlock::transport::tcp::Tcp;
use oarlock::transport::{LinkError, LinkStatus};
use oarlock::wal::Memory;
use oarlock::{Config, Consistency, Machine, Node, NodeBuilder, NodeId};
use serde::{Deserialize, Serialize};

use crate::certificates::Authority;
use crate::journal::{Journal, PATIENCE, leader_of, until};
use crate::proxy::{Proxy, free_address};

/// Whether connections are encrypted.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Plain,
    Tls,
}

/// Nodes 1 to 3, with logs that outlive them.
pub(crate) struct Trio<S: Machine = Journal> {
    pub(crate) nodes: Vec<Node<S>>,
    proxies: Vec<Proxy>,
    listen: Vec<SocketAddr>,
    members: Vec<(u64, String)>,
    memories: Vec<Memory>,
    authority: Option<Authority>,
    config: Config,
}

impl<S: Machine + Default> Trio<S> {
    /// Nodes that connect to each other directly.
    pub(crate) fn start(kind: Kind) -> Self {
        let listen: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
        Self::with(kind, &listen, &listen, Vec::new(), Config::small())
    }

    /// Nodes that connect to each other's proxies.
    pub(crate) fn behind_proxies(kind: Kind, config: Config) -> Self {
        let listen: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
        let proxies: Vec<Proxy> = listen.iter().map(|target| Proxy::before(*target)).collect();
        let addresses: Vec<SocketAddr> = proxies.iter().map(Proxy::address).collect();
        Self::with(kind, &listen, &addresses, proxies, config)
    }

    fn with(
        kind: Kind,
        listen: &[SocketAddr],
        addresses: &[SocketAddr],
        proxies: Vec<Proxy>,
        config: Config,
    ) -> Self {
        let mut trio = Self {
            nodes: Vec::new(),
            proxies,
            listen: listen.to_vec(),
            members: (1..).zip(addresses.iter().map(SocketAddr::to_string)).collect(),
            memories: listen.iter().map(|_| Memory::default()).collect(),
            authority: (kind == Kind::Tls).then(Authority::new),
            config,
        };
        for id in 1..=3 {
            trio.nodes.push(trio.builder(id).start().expect("starts"));
        }
        trio
    }

    fn builder(&self, id: u64) -> NodeBuilder<S> {
        let at = id as usize - 1;
        let mut tcp = Tcp::listen(self.listen[at].to_string());
        if let Some(authority) = &self.authority {
            tcp = tcp.tls(authority.tls(&format!("node-{id}.trio")).expect("good"));
        }
        Node::builder(id, S::default())
            .cluster_name("trio")
            .memory(&self.memories[at])
            .transport(tcp)
            .members(self.members.clone())
            .config(self.config.clone())
    }

    pub(crate) fn node(&self, id: u64) -> &Node<S> {
        &self.nodes[id as usize - 1]
    }

    pub(crate) fn proxy(&self, id: u64) -> &Proxy {
        &self.proxies[id as usize - 1]
    }

    /// Where node `id` listens, proxy or not.
    pub(crate) fn listens_at(&self, id: u64) -> SocketAddr {
        self.listen[id as usize - 1]
    }

    pub(crate) fn members(&self) -> &[(u64, String)] {
        &self.members
    }

    pub(crate) fn leader(&self) -> Node<S> {
        leader_of(&self.nodes, 3)
    }

    /// A node that does not lead, and goes on not leading as long as the leader is well.
    pub(crate) fn follower(&self) -> u64 {
        let leader = self.leader().id();
        (1..=3).find(|id| NodeId(*id) != leader).expect("there are two")
    }

    pub(crate) fn stop(&self, id: u64) {
        self.node(id).shutdown(PATIENCE).expect("stops");
    }

    pub(crate) fn restart(&mut self, id: u64) {
        let at = id as usize - 1;
        self.nodes[at] = self.builder(id).start().expect("starts again");
    }
}

impl Trio {
    /// Proposes values from `next` on, each once, until `count` of them are applied; returns those. The
    /// outcome of others is open.
    pub(crate) fn write(&self, next: &mut u64, count: usize) -> Vec<u64> {
        let mut applied = Vec::new();
        while applied.len() < count {
            *next += 1;
            if self.leader().propose(*next).is_ok() {
                applied.push(*next);
            }
        }
        applied
    }

    /// Waits until all nodes have applied what the leader has, and returns it.
    pub(crate) fn settled(&self) -> Vec<u64> {
        let mut values = Vec::new();
        until(|| {
            let read = self.leader().read(|journal| journal.values.clone());
            read.map(|read| values = read).is_ok()
        });
        for node in &self.nodes {
            until(|| values_of(node).starts_with(&values));
        }
        values
    }

    /// Waits until all nodes agree, and looks whether each of `applied` is there once and nothing twice.
    pub(crate) fn holds_once(&self, applied: &[u64]) {
        let mut values = self.settled();
        values.sort_unstable();
        for pair in values.windows(2) {
            assert!(pair[0] < pair[1], "{} was applied twice", pair[0]);
        }
        for value in applied {
            assert!(values.binary_search(value).is_ok(), "{value} was answered and is lost");
        }
    }
}

pub(crate) fn values_of(node: &Node<Journal>) -> Vec<u64> {
    node.read_with(Consistency::Stale, |journal| journal.values.clone()).expect("runs")
}

/// What `node` knows of its link to `peer`.
pub(crate) fn link<S: Machine>(node: &Node<S>, peer: u64) -> LinkStatus {
    let links = node.status().links;
    links.into_iter().find(|link| link.id == NodeId(peer)).expect("a member")
}

/// Waits until `node` has last failed to reach `peer` as `expected` says, and returns the error.
pub(crate) fn outgoing_error<S: Machine>(
    node: &Node<S>,
    peer: u64,
    expected: impl Fn(&LinkError) -> bool,
) -> LinkError {
    wait_for(|| link(node, peer).outgoing.last_error, expected)
}

/// Waits until something that came from `peer` has last failed as `expected` says.
pub(crate) fn incoming_error<S: Machine>(
    node: &Node<S>,
    peer: u64,
    expected: impl Fn(&LinkError) -> bool,
) -> LinkError {
    wait_for(|| link(node, peer).incoming.last_error, expected)
}

/// Waits until somebody was turned away from `node` as `expected` says.
pub(crate) fn door_error<S: Machine>(
    node: &Node<S>,
    expected: impl Fn(&LinkError) -> bool,
) -> LinkError {
    wait_for(|| node.status().listener.and_then(|listener| listener.last_error), expected)
}

fn wait_for(
    look: impl Fn() -> Option<LinkError>,
    expected: impl Fn(&LinkError) -> bool,
) -> LinkError {
    let begun = std::time::Instant::now();
    loop {
        let found = look();
        if let Some(found) = found.as_ref().filter(|found| expected(found)) {
            return found.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "the last error is {found:?}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Folds texts of any size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Texts {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

impl Machine for Texts {
    type Command = String;
    type Response = u64;

    fn apply(&mut self, text: String) -> u64 {
        self.count += 1;
        self.bytes += text.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, text.as_bytes());
        self.count
    }
}
