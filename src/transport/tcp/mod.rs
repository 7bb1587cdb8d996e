//! Nodes on separate machines: a transport over TCP, with blocking threads.
//!
//! There is one connection a direction: each node connects to each other one and only sends there, but for
//! answers to pings. On a connection the two nodes first exchange [greetings](greeting), which say who they
//! are and what cluster they belong to; what follows are [frames](frame). Both formats are drawn byte by
//! byte in these modules.
//!
//! | thread | does |
//! |---|---|
//! | `n{id}-accept` | takes connections in, and exchanges greetings |
//! | `n{id}-tx{peer}` | connects to one node, and sends what is queued for it |
//! | `n{id}-rx{peer}` | reads what one node sends |
//!
//! **Nothing waits for a peer.** What is sent goes into a queue, bounded by bytes
//! ([`Config::max_peer_queue_bytes`](crate::Config::max_peer_queue_bytes)). What does not fit, and what is
//! queued when a connection breaks, is dropped, and the node is told. Messages without entries go ahead of
//! those with entries; before them go only what has been taken from the queue, at most 256 KiB or one
//! message, and what the system has and has not sent, at most 256 KiB.
//!
//! **Entries are not copied on their way out**: they are written from the log's own memory, and the records'
//! own checksums protect them. On their way in they are read once, into memory that is used again and again.
//!
//! **Silence is noticed.** A ping goes out several times in the time after which a connection counts as
//! dead: ten election timeouts, at least three seconds and at most thirty. Both ends keep to it, for
//! reading and for writing. A connection that is gone is made anew after a pause that grows to a second and
//! is never quite the same. The name of the other node is looked up each time, and all its addresses are
//! tried.
//!
//! **Without TLS there is no authentication**: whoever can reach the port and knows the cluster's name can
//! claim to be any member. A listener without TLS on an address that is not loopback logs a warning. With
//! the feature `tls`, [`Tls`] has each node show a certificate that names it.
//!
//! ```
//! use oarlock::transport::tcp::Tcp;
//! # use oarlock::{Machine, Node};
//! # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
//! # struct Counter(u64);
//! # impl Machine for Counter {
//! #     type Command = u64;
//! #     type Response = u64;
//! #     fn apply(&mut self, add: u64) -> u64 { self.0 += add; self.0 }
//! # }
//! let node = Node::builder(1, Counter::default())
//!     .in_memory()
//!     .transport(Tcp::listen("127.0.0.1:0"))   // the same as `.listen("127.0.0.1:0")`
//!     .members([(1, "127.0.0.1:7001"), (2, "127.0.0.1:7002"), (3, "db3.example:7000")])
//!     .start()?;
//! for link in node.status().links {
//!     println!("{} {:?} {:?}", link.id, link.outgoing.connected, link.round_trip);
//! }
//! # Ok::<(), oarlock::StartError>(())
//! ```

mod accept;
mod address;
mod batch;
mod bell;
mod dial;
mod exchange;
pub mod frame;
pub mod greeting;
mod intake;
mod link;
mod outbox;
mod receiver;
#[cfg(oarlock_loom)]
#[path = "../../../tests/schedules/src/loom/senders.rs"]
pub(crate) mod schedules;
mod sender;
#[cfg(test)]
mod tests;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use accept::Door;
use bell::Bell;
use greeting::{Greeting, MAX_CLUSTER_NAME_BYTES, VERSIONS};
use link::Link;
use wire::Wire;

use super::{Dropped, Inbound, LinkError, LinkStatus, Links, ListenerStatus, Local, Transport};
use crate::config::Config;
use crate::membership::Membership;
use crate::message::Envelope;
use crate::types::NodeId;

#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError};

/// A transport over TCP: see the [module](self).
#[derive(Debug)]
pub struct Tcp {
    listen: String,
    tls: Option<tls::Tls>,
    prepared: Option<Prepared>,
    net: Option<Arc<Net>>,
}

/// What a node has of its own before it starts.
#[derive(Debug)]
struct Prepared {
    listener: TcpListener,
    tls: Option<tls::Sessions>,
}

impl Tcp {
    /// Listens on `address`, as `host:port`, when the node starts. The other nodes need not know it by this
    /// address: theirs is the one among the members.
    pub fn listen(address: impl Into<String>) -> Self {
        Self { listen: address.into(), tls: None, prepared: None, net: None }
    }

    /// Encrypts, and has nodes prove who they are. All nodes of a cluster do, or none.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }
}

impl Transport for Tcp {
    /// Binds the address.
    ///
    /// # Errors
    /// An address that is in use or means nothing, named in the error; a member's address without a host
    /// or a port (one that cannot be resolved yet is looked up again and again), or that two members share;
    /// a name of the cluster that is too long, or no DNS name with TLS.
    fn prepare(
        &mut self,
        node: NodeId,
        cluster_name: &str,
        members: &Membership,
    ) -> io::Result<()> {
        let length = cluster_name.len();
        if length > MAX_CLUSTER_NAME_BYTES {
            let text =
                format!("a cluster's name of {length} bytes, above {MAX_CLUSTER_NAME_BYTES}");
            return Err(invalid(text));
        }
        check_addresses(node, members)?;
        let tls = self.tls.take().map(|tls| tls.of_node(cluster_name, node)).transpose();
        let tls = tls.map_err(io::Error::other)?;
        self.prepared = Some(Prepared { listener: address::bind(&self.listen)?, tls });
        Ok(())
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// No threads.
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        let local = inbound.local();
        if self.prepared.is_none() {
            self.prepare(local.sender.node, &local.cluster_name, &local.members)?;
        }
        let Prepared { listener, tls } = self.prepared.take().expect("just prepared");
        let greeting = greeting(local)?;
        let bound = listener.local_addr()?;
        if tls.is_none() && !bound.ip().is_loopback() {
            log::warn!(
                "node={} listens on {bound} without TLS: whoever reaches it can claim to be a member",
                local.sender.node
            );
        }
        let (bell, door_sleeper) = Bell::new()?;
        let mut links = BTreeMap::new();
        let mut sleepers = Vec::new();
        for (id, address) in addresses(&local.members) {
            if id == local.sender.node {
                continue;
            }
            let (bell, sleeper) = Bell::new()?;
            let max_bytes = local.config.max_peer_queue_bytes;
            let link =
                Arc::new(Link::new(local.sender.node, id, address.to_owned(), max_bytes, bell));
            links.insert(id, Arc::clone(&link));
            sleepers.push((link, sleeper));
        }
        let net = Arc::new(Net {
            greeting,
            links,
            timing: Timing::of(&local.config),
            stopping: AtomicBool::new(false),
            door: Door::new(bound),
            bell,
            tls,
            inbound: inbound.clone(),
        });
        // From here on a failure stops what was started, when the transport is dropped.
        self.net = Some(Arc::clone(&net));
        for (link, sleeper) in sleepers {
            let (net, sending) = (Arc::clone(&net), Arc::clone(&link));
            let reading = (Arc::clone(&net), Arc::clone(&link));
            inbound.spawn("tx", Some(link.id), move || sender::run(&net, &sending, sleeper))?;
            inbound.spawn("rx", Some(link.id), move || receiver::run(&reading.0, &reading.1))?;
        }
        inbound.spawn("accept", None, move || accept::run(&net, &listener, door_sleeper))
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        let link = self.net.as_ref().and_then(|net| net.links.get(&envelope.to)).ok_or(Dropped)?;
        link.outbox.put(envelope).inspect_err(|_| {
            link.dropped.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn links(&self) -> Option<Arc<dyn Links>> {
        self.net.clone().map(|net| net as _)
    }
}

impl Drop for Tcp {
    /// Ends the threads, soon; the port is free when they have ended.
    fn drop(&mut self) {
        if let Some(net) = &self.net {
            net.stop();
        }
    }
}

/// What the transport's threads have in common.
#[derive(Debug)]
struct Net {
    /// What this node says of itself; `to` is still to be filled in.
    greeting: Greeting,
    links: BTreeMap<NodeId, Arc<Link>>,
    timing: Timing,
    stopping: AtomicBool,
    door: Door,
    /// Wakes the thread that accepts.
    bell: Arc<Bell>,
    tls: Option<tls::Sessions>,
    inbound: Inbound,
}

impl Net {
    fn me(&self) -> NodeId {
        self.greeting.from.node
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.bell.ring();
        for link in self.links.values() {
            link.bell.ring();
            link.arrivals.close();
        }
    }

    /// A connection that this node began, to node `id`.
    fn wire_to(&self, stream: TcpStream, id: NodeId) -> Result<Wire, LinkError> {
        match &self.tls {
            Some(tls) => tls.begin(stream, id),
            None => Ok(Wire::new(stream, None)),
        }
    }

    /// A connection that somebody else began.
    fn wire_from(&self, stream: TcpStream) -> Result<Wire, LinkError> {
        match &self.tls {
            Some(tls) => tls.accept(stream),
            None => Ok(Wire::new(stream, None)),
        }
    }
}

impl Links for Net {
    fn links(&self) -> Vec<LinkStatus> {
        self.links.values().map(|link| link.status()).collect()
    }

    fn listener(&self) -> Option<ListenerStatus> {
        Some(self.door.status())
    }
}

/// How long things may take.
#[derive(Debug)]
struct Timing {
    /// A connection that is silent for so long, or takes nothing, is dead.
    silence: Duration,
    /// Between pings.
    ping: Duration,
    /// For the exchange of greetings.
    greeting: Duration,
}

impl Timing {
    fn of(config: &Config) -> Self {
        let election = config.tick.saturating_mul(config.election_ticks);
        let (least, most) = (Duration::from_secs(3), Duration::from_secs(30));
        let silence = election.saturating_mul(10).clamp(least, most);
        Self { silence, ping: silence / 6, greeting: least }
    }
}

/// What this node says of itself.
fn greeting(local: &Local) -> io::Result<Greeting> {
    let members = local.members.fingerprint().map_err(|error| invalid(error.to_string()))?;
    Ok(Greeting {
        versions: VERSIONS,
        from: local.sender,
        to: NodeId::default(),
        members,
        cluster_name: local.cluster_name.clone(),
        verdict: None,
    })
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// All members, with their addresses.
fn addresses(members: &Membership) -> impl Iterator<Item = (NodeId, &str)> {
    let nodes = members.nodes().into_iter();
    nodes.map(|id| (id, members.member(id).map_or("", |member| member.address.as_str())))
}

/// Looks whether the other members have addresses that could be theirs.
fn check_addresses(node: NodeId, members: &Membership) -> io::Result<()> {
    let mut seen = BTreeMap::new();
    for (id, address) in addresses(members) {
        if id != node {
            address::check(address).map_err(|problem| {
                invalid(format!("the address of node {id}, {address:?}, {problem}"))
            })?;
        }
        if let Some(other) = seen.insert(address, id) {
            return Err(invalid(format!("nodes {other} and {id} have one address, {address:?}")));
        }
    }
    Ok(())
}
