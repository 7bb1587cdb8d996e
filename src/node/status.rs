//! How a node is doing: a copy, taken without holding anything up.

use crate::consensus::Mode;
use crate::error::StopCause;
use crate::transport::{LinkStatus, ListenerStatus};
use crate::types::{BootCount, EntryId, Incarnation, LogIndex, NodeId, Role, Term};

/// A node's state at one moment, from [`Node::status`](crate::Node::status). Role, term, leader, commit
/// and applied index are current; the rest is at most a tick old, so the commit index may be ahead of the
/// last entry that is named here.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// Its data directory.
    pub incarnation: Incarnation,
    /// How often that was opened.
    pub boot: BootCount,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads in that term, if it knows.
    pub leader: Option<NodeId>,
    /// The first index its log holds.
    pub first: LogIndex,
    /// The last entry of its log.
    pub last: EntryId,
    /// How many segments hold its log.
    pub log_segments: usize,
    /// The bytes that its log takes on its disk, or in memory: segments that hold it, that are ready, and
    /// that it has let go of while somebody still reads them.
    pub log_bytes: u64,
    /// How far its log is on its disk.
    pub persisted: LogIndex,
    /// How far the log is committed, as far as it knows.
    pub committed: LogIndex,
    /// How far its state machine is.
    pub applied: LogIndex,
    /// Proposals inside its door that have no answer.
    pub pending: usize,
    /// Messages from other nodes that were dropped for want of room.
    pub dropped_messages: u64,
    /// Messages from other nodes that were refused because their entries were not what they claimed.
    pub refused_messages: u64,
    /// Its disk or its state machine has been stuck for longer than an election timeout allows; it does
    /// not lead meanwhile.
    pub stuck: bool,
    /// Its log has had no room for a batch of entries for longer than `Config::stuck_after`: the disk is
    /// full, or too slow at making segments. It is tried again each second. Meanwhile what does not fit waits
    /// and is then refused as `Busy`, reads go on, and the node leads only where nobody else has room.
    pub full: bool,
    /// On a leader: what it knows of the other members.
    pub peers: Vec<PeerStatus>,
    /// The links to the other members, if the transport shows them: that over TCP does.
    pub links: Vec<LinkStatus>,
    /// Where other members connect, likewise.
    pub listener: Option<ListenerStatus>,
    /// Why it has stopped; `None` while it runs.
    pub stopped: Option<StopCause>,
}

/// What a leader knows of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// How far its disk is known to hold the leader's log.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// How entries are sent to it.
    pub mode: Mode,
}

impl PeerStatus {
    pub(crate) fn new(id: NodeId, matched: LogIndex, next: LogIndex, mode: Mode) -> Self {
        Self { id, matched, next, mode }
    }
}
