//! What the checker tells apart: three cores with their disks, everything on its way between them, and
//! what an onlooker remembers.
//!
//! A step changes one node, so nodes and packets are shared between states and carry their hashes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use oarlock::consensus::{Core, Generation};
use oarlock::message::{Append, Entries, Message, ReadRound};
use oarlock::{BootCount, EntryId, HardState, LogIndex, NodeId, Sender};

use crate::bounds::{Bounds, Stage};
use crate::rules::{Onlooker, Rules};

/// A value that does not change any more, with its hash.
#[derive(Debug)]
pub(crate) struct Frozen<T>(Arc<(u64, T)>);

impl<T: Hash> Frozen<T> {
    pub(crate) fn new(value: T) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self(Arc::new((hasher.finish(), value)))
    }
}

impl<T> Clone for Frozen<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> std::ops::Deref for Frozen<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> Hash for Frozen<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0);
    }
}

impl<T: PartialEq> PartialEq for Frozen<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T: Eq> Eq for Frozen<T> {}

/// An entry, and where it comes from: two entries of one name are told apart by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    /// The leader that created it, or the node that forwarded it.
    pub(crate) by: (NodeId, BootCount),
    /// Its number among those that were forwarded.
    pub(crate) sequence: Option<u64>,
    /// The membership that it sets.
    pub(crate) sets: Option<Stage>,
}

/// A message on its way, with the entries that an append carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Packet {
    pub(crate) from: Sender,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Truncate(LogIndex),
    Store(Vec<Entry>),
}

/// A change of the log that the disk does not have yet, and what its flush is reported as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Write {
    pub(crate) change: Change,
    pub(crate) generation: Generation,
    pub(crate) last: LogIndex,
}

/// What survives a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) log: Vec<Entry>,
}

impl Disk {
    pub(crate) fn store(&mut self, change: Change) {
        match change {
            Change::Truncate(from) => self.log.truncate(from.0 as usize - 1),
            Change::Store(entries) => self.log.extend(entries),
        }
    }
}

/// A node: the real core, and what a driver keeps for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) log: Vec<Entry>,
    pub(crate) disk: Disk,
    /// What the disk was told to store and has not, oldest first.
    pub(crate) writes: Vec<Write>,
    pub(crate) hard_states: Vec<HardState>,
    pub(crate) reads: Vec<Waiting>,
    /// So many proposals were forwarded since the start.
    pub(crate) forwarded: u64,
    /// Announced as committed since the start.
    pub(crate) committed: LogIndex,
    /// Whether its disk has no room.
    pub(crate) full: bool,
}

/// A read that waits, and how things were when it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Waiting {
    pub(crate) round: ReadRound,
    /// So much was committed anywhere.
    pub(crate) least: LogIndex,
    /// The nodes, as bits, that had not seen a later term.
    pub(crate) in_term: u8,
}

impl Node {
    pub(crate) fn id(&self) -> NodeId {
        self.core.options().me.node
    }

    /// The membership in force: the last in its log, committed or not.
    pub(crate) fn stage(&self, bounds: &Bounds) -> Stage {
        self.log.iter().rev().find_map(|entry| entry.sets).unwrap_or(bounds.stage)
    }
}

/// How much of each bound is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Spent {
    pub(crate) commands: u8,
    pub(crate) forwards: u8,
    pub(crate) reads: u8,
    pub(crate) ticks: u8,
    pub(crate) restarts: u8,
    pub(crate) drops: u8,
    pub(crate) repeats: u8,
    pub(crate) fills: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) nodes: Vec<Frozen<Node>>,
    pub(crate) packets: Vec<Frozen<Packet>>,
    pub(crate) onlooker: Onlooker,
    pub(crate) spent: Spent,
    pub(crate) broken: Rules,
}

/// The shape of entries, as a receiver derives it from records.
pub(crate) fn shape_of(entries: &[Entry]) -> Entries {
    let mut shape = Entries::default();
    for entry in entries {
        shape.push(entry.id);
        shape.memberships.extend(entry.sets.map(|stage| (entry.id.index, stage.membership())));
    }
    shape
}

/// An order to send, until it is carried out.
pub(crate) type Order = (NodeId, Append, usize);
