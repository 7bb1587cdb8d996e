//! What goes into the core and what comes out of it.
//!
//! Inputs are facts (a message came, a tick passed, so much is on the disk). Outputs are orders to the
//! driver, to be carried out in the order given; what may only be sent after something is durable is
//! held back inside the core and put out later.

use crate::membership::Membership;
use crate::message::{Append, Message, ReadRound};
use crate::types::{EntryId, HardState, LogIndex, NodeId, Role, Sender, Term};

/// Counts the truncations of a log in one run of a node. A report of what is on the disk names the
/// generation in which it was asked for, so that the flush of an entry that was truncated since does not
/// pass for the flush of its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// A fact for the core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A tick of the clock passed.
    Tick,
    /// A message came. An append's shape must have been derived from records whose checksums and
    /// sequence were checked; the records of a forward must be as many as it says, and its sender's.
    Message {
        /// Who sent it.
        from: Sender,
        /// What it says.
        message: Message,
    },
    /// `count` commands want to enter the log. Answered by [`Output::Append`] or
    /// [`Output::ProposeRefused`].
    Propose {
        /// How many, at least one.
        count: u64,
    },
    /// Somebody wants to read. Answered by [`Output::ReadQueued`] or [`Output::ReadRefused`].
    Read,
    /// Campaign now, without waiting for a timeout (a manual campaign). Others that hear a leader still
    /// refuse their votes.
    Campaign,
    /// What really became of an [`Output::SendAppend`]: entries up to `last` went out. Due before any
    /// other input, unless the range has to be fetched first. An order ends with the leadership that gave
    /// it and then needs no answer; a late one does no harm.
    Sent {
        /// To whom.
        to: NodeId,
        /// The last entry that was sent; the `prev` of the order if none was.
        last: LogIndex,
        /// The bytes of these entries.
        bytes: usize,
    },
    /// Something that was to go to this node was dropped on the way: its lane was full, or its connection
    /// broke.
    Dropped {
        /// Whom it was for.
        to: NodeId,
    },
    /// The log is on this node's disk up to `index`.
    Persisted {
        /// The generation in which the flush was asked for.
        generation: Generation,
        /// The last entry.
        index: LogIndex,
    },
    /// Term and vote are on this node's disk.
    HardStatePersisted(HardState),
    /// Whether this node's disk and state machine keep up. A node that does not gives up leadership and
    /// does not campaign.
    Fit(bool),
    /// Whether this node's log has been without room for a batch of entries for a while: its disk is full. A
    /// full leader gives way to a voter that has room; where nobody has, it leads on, for reads.
    Full(bool),
}

/// What kind of entries a leader creates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NewEntries {
    /// The no-op that begins a term (Raft §8).
    Noop,
    /// The commands of an [`Input::Propose`], in order.
    Commands,
    /// A membership.
    Membership(Membership),
    /// The commands of the [`Message::Forward`] that is being handled, in order, with their tags.
    Forwarded,
}

/// An order to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Write new entries with consecutive indexes from `first`, all of its term, to the end of the log.
    Append {
        /// The first of them.
        first: EntryId,
        /// How many.
        count: u64,
        /// What they are.
        entries: NewEntries,
    },
    /// Forget the entries from `from` on. None of them is committed.
    Truncate {
        /// The first to go.
        from: LogIndex,
        /// The generation that begins with this.
        generation: Generation,
    },
    /// Copy the entries `first..=last` of the append that is being handled to the end of the log.
    Store {
        /// The first of them.
        first: LogIndex,
        /// The last.
        last: LogIndex,
    },
    /// Make term and vote durable, then say [`Input::HardStatePersisted`]. Supersedes earlier ones.
    PersistHardState(HardState),
    /// Send a message.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Send the entries after `append.prev`, whole ones, at least one, and otherwise no more than
    /// `max_bytes` (0 asks for one entry); then say [`Input::Sent`]. At most one is outstanding for each
    /// node.
    SendAppend {
        /// To whom.
        to: NodeId,
        /// The message; its shape is empty, for the driver decides where to cut.
        append: Append,
        /// How much, in bytes of records.
        max_bytes: usize,
    },
    /// Entries up to here are committed: they may be applied.
    Committed(LogIndex),
    /// Role, term or leader changed. The first output of a step in which any of them did, with what they
    /// are at its end.
    RoleChanged {
        /// What the node is.
        role: Role,
        /// Its term.
        term: Term,
        /// Who leads in that term, as far as it knows.
        leader: Option<NodeId>,
    },
    /// The commands of the [`Input::Propose`] were not taken: this node does not lead. It may send them to
    /// its leader as a [`Message::Forward`].
    ProposeRefused,
    /// The leader has taken the forward that begins with this sequence.
    ForwardPlaced {
        /// The sequence of its first command.
        sequence: u64,
        /// That command's entry; the others follow.
        first: EntryId,
    },
    /// The read waits for this round; a later [`Output::ReadConfirmed`] of this round or a higher one
    /// serves it.
    ReadQueued(ReadRound),
    /// This node neither leads nor knows who does.
    ReadRefused,
    /// Reads of this round and of those before it may be answered from a state that has applied `index`.
    ReadConfirmed {
        /// The round.
        round: ReadRound,
        /// The read index (thesis §6.4).
        index: LogIndex,
    },
    /// This node's leadership is lost, or the leader it asked: reads that wait have no answer here.
    ReadsLost,
}

/// How a core behaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// The node, its incarnation and boot count.
    pub me: Sender,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// The election timeout in ticks; see [`Config`](crate::Config).
    pub election_ticks: u32,
    /// How eager the node is to lead.
    pub priority: crate::config::ElectionPriority,
    /// Ask before campaigning, so that a node that cannot win disturbs nobody (thesis §9.6).
    pub pre_vote: bool,
    /// Step down without a quorum, and defend a leader that lives (thesis §6.2, §4.2.3).
    pub check_quorum: bool,
    /// See [`Config::max_append_bytes`](crate::Config::max_append_bytes).
    pub max_append_bytes: usize,
    /// See [`Config::max_inflight_appends`](crate::Config::max_inflight_appends).
    pub max_inflight_appends: usize,
    /// See [`Config::max_inflight_bytes`](crate::Config::max_inflight_bytes).
    pub max_inflight_bytes: usize,
    /// Where the timeouts' randomness comes from; give each node and boot another.
    pub seed: u64,
}
