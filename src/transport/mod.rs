//! How messages get from node to node: a trait, an implementation over TCP ([`tcp`]), and one within a
//! process ([`memory`]).
//!
//! A transport may lose, delay, repeat and reorder messages; it must not change them, and it must never
//! make the node wait. What it cannot take at once it drops and says so: the node sends again.
//!
//! A transport of your own hands [`Envelope`]s over as they are (within a process they are cheap: the
//! entries are slices of the sender's log), or as bytes ([`Envelope::encode`], [`Envelope::decode`]).
//! Here is one over crossbeam channels, as bytes:
//!
//! ```
//! use std::collections::HashMap;
//! use std::io;
//! use crossbeam_channel::{Sender, bounded};
//! use oarlock::message::Envelope;
//! use oarlock::transport::{Dropped, Inbound, Transport};
//! use oarlock::{Config, Machine, Node, NodeId};
//! use serde::{Deserialize, Serialize};
//! # #[derive(Clone, Default, Serialize, Deserialize)]
//! # struct Counter(u64);
//! # impl Machine for Counter {
//! #     type Command = u64;
//! #     type Response = u64;
//! #     fn apply(&mut self, add: u64) -> u64 { self.0 += add; self.0 }
//! # }
//!
//! struct Channels {
//!     peers: HashMap<NodeId, Sender<Vec<u8>>>,
//!     mine: Option<crossbeam_channel::Receiver<Vec<u8>>>,
//! }
//!
//! impl Transport for Channels {
//!     fn start(&mut self, inbound: Inbound) -> io::Result<()> {
//!         let mine = self.mine.take().expect("started once");
//!         // Ends when the other nodes have dropped their senders.
//!         std::thread::spawn(move || {
//!             for bytes in mine {
//!                 if let Ok(envelope) = Envelope::decode(&bytes) {
//!                     let _ = inbound.deliver(envelope); // a full inbox loses messages, as a network does
//!                 }
//!             }
//!         });
//!         Ok(())
//!     }
//!
//!     fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
//!         let peer = self.peers.get(&envelope.to).ok_or(Dropped)?;
//!         let mut bytes = Vec::new();
//!         envelope.encode(&mut bytes).map_err(|_| Dropped)?;
//!         peer.try_send(bytes).map_err(|_| Dropped)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (to, from): (Vec<_>, Vec<_>) = (0..3).map(|_| bounded(1024)).unzip();
//! let mut nodes = Vec::new();
//! for (id, mine) in (1..=3).zip(from) {
//!     let peers = (1..=3).map(NodeId).zip(to.clone()).collect();
//!     let node = Node::builder(id, Counter::default())
//!         .in_memory()
//!         .transport(Channels { peers, mine: Some(mine) })
//!         .members([(1, ""), (2, ""), (3, "")])
//!         .config(Config::small())
//!         .start()?;
//!     nodes.push(node);
//! }
//! drop(to);
//! let answer = loop {
//!     // Any node may have become the leader.
//!     if let Some(answer) = nodes.iter().find_map(|node| node.propose(7).ok()) {
//!         break answer;
//!     }
//! };
//! assert_eq!(answer, 7);
//! # Ok(())
//! # }
//! ```

mod envelope;
mod inbound;
mod links;
pub mod memory;
pub mod tcp;

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::membership::Membership;
use crate::message::Envelope;
use crate::types::NodeId;

pub use inbound::{Inbound, Local};
pub(crate) use inbound::{PeerEvent, PeerLane};
pub use links::{Direction, LinkError, LinkStatus, Links, ListenerStatus};

/// A way to the other nodes.
pub trait Transport: Send + 'static {
    /// Looks whether this node can be reached and reach the others, as far as that can be known, and takes
    /// what it needs for that, such as a port. Called once, before anything is opened or written for the
    /// node: what is refused here may be corrected, and a data directory keeps its first members for good.
    ///
    /// # Errors
    /// Stops the start of the node with [`StartError::Transport`](crate::StartError::Transport).
    fn prepare(
        &mut self,
        _node: NodeId,
        _cluster_name: &str,
        _members: &Membership,
    ) -> io::Result<()> {
        Ok(())
    }

    /// Begins to receive for this node: every message that arrives from now on is given to `inbound`,
    /// from whatever thread. Called once, before any `send`, when the node starts; the transport is
    /// dropped when the node has stopped, and [`Inbound::deliver`] fails from then on.
    ///
    /// # Errors
    /// Stops the start of the node with [`StartError::Transport`](crate::StartError::Transport).
    fn start(&mut self, inbound: Inbound) -> io::Result<()>;

    /// Takes a message for `envelope.to`. Called on the consensus thread: it must not block.
    ///
    /// # Errors
    /// [`Dropped`] if the message will not be sent. One that is lost later is no error, but may be
    /// reported with [`Inbound::dropped`], so that the node need not find out by waiting.
    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped>;

    /// Where [`Node::status`](crate::Node::status) finds how the links to other nodes are doing; asked for
    /// once, after `start`. `None` says that there is nothing to tell.
    fn links(&self) -> Option<Arc<dyn Links>> {
        None
    }
}

/// A message was not taken: no such peer, no connection, or no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message was dropped")
    }
}

impl std::error::Error for Dropped {}

/// For a cluster of one: there is nobody to send to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoTransport;

impl Transport for NoTransport {
    fn start(&mut self, _inbound: Inbound) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, _envelope: Envelope) -> Result<(), Dropped> {
        Err(Dropped)
    }
}
