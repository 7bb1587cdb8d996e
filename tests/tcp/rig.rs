//! Three nodes over TCP, each behind a proxy if asked for.

use std::net::SocketAddr;

use oarlock::transport::LinkStatus;
use oarlock::wal::Memory;
use oarlock::{Config, Node, NodeBuilder, NodeId};

use crate::journal::{Journal, PATIENCE, leader_of, until};
use crate::proxy::{Proxy, free_address};

/// Nodes 1 to 3, with logs that outlive them.
pub(crate) struct Trio {
    pub(crate) nodes: Vec<Node<Journal>>,
    pub(crate) proxies: Vec<Proxy>,
    listen: Vec<SocketAddr>,
    members: Vec<(u64, String)>,
    memories: Vec<Memory>,
}

impl Trio {
    /// Nodes that connect to each other directly.
    pub(crate) fn start() -> Self {
        let listen: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
        Self::with(&listen, &listen, Vec::new())
    }

    /// Nodes that connect to each other's proxies.
    pub(crate) fn behind_proxies() -> Self {
        let listen: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
        let proxies: Vec<Proxy> = listen.iter().map(|target| Proxy::before(*target)).collect();
        let addresses: Vec<SocketAddr> = proxies.iter().map(Proxy::address).collect();
        Self::with(&listen, &addresses, proxies)
    }

    fn with(listen: &[SocketAddr], addresses: &[SocketAddr], proxies: Vec<Proxy>) -> Self {
        let members = (1..).zip(addresses.iter().map(SocketAddr::to_string)).collect();
        let memories = listen.iter().map(|_| Memory::default()).collect();
        let mut trio =
            Self { nodes: Vec::new(), proxies, listen: listen.to_vec(), members, memories };
        for id in 1..=3 {
            trio.nodes.push(trio.builder(id).start().expect("starts"));
        }
        trio
    }

    pub(crate) fn builder(&self, id: u64) -> NodeBuilder<Journal> {
        let at = id as usize - 1;
        Node::builder(id, Journal::default())
            .cluster_name("trio")
            .memory(&self.memories[at])
            .listen(self.listen[at].to_string())
            .members(self.members.clone())
            .config(Config::small())
    }

    pub(crate) fn node(&self, id: u64) -> &Node<Journal> {
        &self.nodes[id as usize - 1]
    }

    pub(crate) fn proxy(&self, id: u64) -> &Proxy {
        &self.proxies[id as usize - 1]
    }

    pub(crate) fn leader(&self) -> Node<Journal> {
        leader_of(&self.nodes, 3)
    }

    pub(crate) fn stop(&self, id: u64) {
        self.node(id).shutdown(PATIENCE).expect("stops");
    }

    pub(crate) fn restart(&mut self, id: u64) {
        let at = id as usize - 1;
        self.nodes[at] = self.builder(id).start().expect("starts again");
    }

    /// Proposes until it is applied, wherever the leader is.
    pub(crate) fn write(&self, value: u64) {
        until(|| self.leader().propose(value).is_ok());
    }

    /// Waits until all nodes have applied what the leader has, and returns it.
    pub(crate) fn settled(&self) -> Vec<u64> {
        let leader = self.leader();
        let values = leader.read(|journal| journal.values.clone()).expect("leads");
        for node in &self.nodes {
            until(|| node_values(node) == values);
        }
        values
    }
}

pub(crate) fn node_values(node: &Node<Journal>) -> Vec<u64> {
    node.read_with(oarlock::Consistency::Stale, |journal| journal.values.clone()).expect("runs")
}

/// What `node` knows of its link to `peer`.
pub(crate) fn link(node: &Node<Journal>, peer: u64) -> LinkStatus {
    let links = node.status().links;
    links.into_iter().find(|link| link.id == NodeId(peer)).expect("a member")
}
