//! The numbers Raft is made of: nodes, terms, indexes and the pairs they form.
//!
//! Each is a type of its own, so that a term is never taken for an index.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The name of a node within its cluster. Any number; chosen once, never reused for another node.
    NodeId
}

number! {
    /// An election epoch (Raft §5.1). It only grows; 0 is before the first election.
    Term
}

number! {
    /// A place in the replicated log (Raft §5.3). The first entry has index 1; 0 means "none".
    LogIndex
}

number! {
    /// How often a data directory has been opened. Messages carry it, so that one from before a
    /// restart, or from a directory rolled back to an older copy, is told from a current one.
    BootCount
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// "None": the place before the first entry.
    pub const ZERO: Self = Self(0);

    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; `ZERO` has none and stays.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The index `count` places further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

/// One entry of the log, named without doubt: two logs that hold the same `EntryId` are equal up to
/// and including it (the log matching property, Raft §5.3).
///
/// Ordered by term, then index: the order in which logs are compared in elections (Raft §5.4.1).
/// Shown as `term.index`: `3.17` is the entry with index 17, of term 3.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EntryId {
    /// The term in which a leader created the entry.
    pub term: Term,
    /// Where it stands in the log.
    pub index: LogIndex,
}

impl EntryId {
    /// The place before the first entry, which every log holds.
    pub const ZERO: Self = Self { term: Term(0), index: LogIndex::ZERO };

    /// An entry's name from its two numbers.
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// The random name of one data directory. A wiped directory comes back as another incarnation: a
/// membership that names the one that counts does not mistake a node which forgot its promises for the
/// one that made them. The members of [`NodeBuilder::members`](crate::NodeBuilder::members) name none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Who sent a message: the node, the directory it runs on, and how often that was opened.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Sender {
    /// The node.
    pub node: NodeId,
    /// Its data directory.
    pub incarnation: Incarnation,
    /// How often that directory had been opened when the message was sent.
    pub boot: BootCount,
}

/// What a node must not forget across a restart: its term, and whom it voted for in it (Raft §5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term the node has seen.
    pub term: Term,
    /// The candidate that got this node's vote in `term`, if any.
    pub voted_for: Option<NodeId>,
}

/// What a node currently is (Raft §5.1, figure 4; pre-candidates from the thesis §9.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Answers leaders and candidates; starts an election when it hears from no leader.
    #[default]
    Follower,
    /// Asks whether it could win an election, without disturbing anybody's term.
    PreCandidate,
    /// Asks for votes in a term of its own.
    Candidate,
    /// Takes proposals and replicates its log.
    Leader,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}
