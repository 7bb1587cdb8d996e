//! How a transport's links are doing, as `status` shows it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::tcp::frame::FrameError;
use super::tcp::greeting::{GreetingError, Refusal};
use crate::types::NodeId;

/// Looks at a transport's links from any thread, without holding anything up.
pub trait Links: Send + Sync {
    /// The links, in the order of their nodes.
    fn links(&self) -> Vec<LinkStatus>;

    /// The place where other nodes connect, if there is one.
    fn listener(&self) -> Option<ListenerStatus>;
}

/// The link to one other node, since this node started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LinkStatus {
    /// The other node.
    pub id: NodeId,
    /// Where it is looked for.
    pub address: String,
    /// The connection on which this node sends.
    pub outgoing: Direction,
    /// The connection on which it receives.
    pub incoming: Direction,
    /// Messages to the other node that were lost: not taken for want of a connection or of room, or
    /// waiting when the connection broke. What the network may have swallowed is not known here.
    pub dropped_messages: u64,
    /// The time from a sign of life on the outgoing connection to its answer, at the latest one.
    pub round_trip: Option<Duration>,
}

/// One direction of a link.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Direction {
    /// There is a connection, and both ends have agreed to it.
    pub connected: bool,
    /// How many connections there have been: all but the first are reconnections.
    pub connections: u64,
    /// Messages that went this way.
    pub messages: u64,
    /// Bytes that went this way, everything around the messages included.
    pub bytes: u64,
    /// Why the latest connection ended, or could not be had. Stays when there is a connection again.
    pub last_error: Option<LinkError>,
}

/// The place where other nodes connect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections that came in.
    pub accepted: u64,
    /// Those among them that came to nothing: refused, no greeting of ours, too slow with it, or in the
    /// way of others.
    pub turned_away: u64,
    /// Why, the last time.
    pub last_error: Option<LinkError>,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// One of the two nodes will not talk to the other.
    Refused(Refusal),
    /// The other side does not speak this protocol.
    Greeting(GreetingError),
    /// The other side sent bytes that make no sense where they stood.
    Frame(FrameError),
    /// The address has no meaning at present.
    Unresolved {
        /// The address.
        address: String,
        /// What the resolver said.
        error: String,
    },
    /// The operating system ended it, or could not begin it.
    Io {
        /// The address, if this side connected.
        address: Option<SocketAddr>,
        /// What kind of failure it was.
        kind: std::io::ErrorKind,
        /// What the operating system said.
        error: String,
    },
    /// TLS failed: one side does not accept the other's certificate, for example.
    Tls(String),
    /// The other side closed it.
    Closed,
    /// Nothing was heard, or nothing could be written, for this long.
    Silent(Duration),
    /// A newer connection of the same node took its place, or of other nodes, which had none yet.
    Replaced,
    /// This node stops.
    Stopped,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Greeting(error) => write!(f, "no greeting: {error}"),
            Self::Frame(error) => write!(f, "broken: {error}"),
            Self::Unresolved { address, error } => write!(f, "{address:?} is nowhere: {error}"),
            Self::Io { address: Some(address), error, .. } => write!(f, "{address}: {error}"),
            Self::Io { address: None, error, .. } => f.write_str(error),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Closed => f.write_str("the other side closed it"),
            Self::Silent(duration) => write!(f, "silent for {duration:?}"),
            Self::Replaced => f.write_str("replaced by a newer one of the same node; if that comes again and again, two processes run as it"),
            Self::Stopped => f.write_str("this node stops"),
        }
    }
}

impl std::error::Error for LinkError {}
