//! Nodes in one process: messages change hands, entries are shared, nothing is copied on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::{Dropped, Inbound, Transport};
use crate::message::Envelope;
use crate::sync::RwLock;
use crate::types::NodeId;

/// A network within the process. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct Network {
    links: Arc<RwLock<Links>>,
}

#[derive(Debug, Default)]
struct Links {
    nodes: BTreeMap<NodeId, Inbound>,
    isolated: BTreeSet<NodeId>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Links {
    fn carries(&self, from: NodeId, to: NodeId) -> bool {
        !self.isolated.contains(&from)
            && !self.isolated.contains(&to)
            && !self.cut.contains(&(from, to))
    }
}

impl Network {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A node's way into the network, for [`NodeBuilder::transport`](crate::NodeBuilder::transport).
    pub fn transport(&self) -> MemoryTransport {
        MemoryTransport { network: self.clone() }
    }

    /// Loses everything to and from `node`, until [`heal`](Self::heal).
    pub fn isolate(&self, node: impl Into<NodeId>) {
        self.links.write().isolated.insert(node.into());
    }

    /// Loses everything from `from` to `to`; the other direction is left alone.
    pub fn cut(&self, from: impl Into<NodeId>, to: impl Into<NodeId>) {
        self.links.write().cut.insert((from.into(), to.into()));
    }

    /// Makes everything reachable again.
    pub fn heal(&self) {
        let mut links = self.links.write();
        links.isolated.clear();
        links.cut.clear();
    }
}

/// A node's end of a [`Network`].
#[derive(Debug)]
pub struct MemoryTransport {
    network: Network,
}

impl Transport for MemoryTransport {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        self.network.links.write().nodes.insert(inbound.node(), inbound);
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        let links = self.network.links.read();
        if !links.carries(envelope.from.node, envelope.to) {
            return Err(Dropped);
        }
        links.nodes.get(&envelope.to).ok_or(Dropped)?.deliver(envelope)
    }
}
