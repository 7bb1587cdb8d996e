//! Proposals that reach the leader by way of a follower.
//!
//! The follower completes them by itself, when it applies entries that carry its tag, so nothing here has
//! to be remembered after a leadership. What must hold is that no proposal enters the log twice, though
//! the network repeats and reorders: a forward names the term in which it may be taken, and within that
//! term the leader takes only sequences above the last it took from the same boot of the same directory.
//! A forward that another overtook is never taken; the follower learns of it from the log, where sequences
//! of one term only grow.

use std::collections::BTreeMap;

use super::core::{Core, RoleState};
use super::io::{NewEntries, Output};
use crate::message::{Forward, ForwardReply, Message};
use crate::types::{BootCount, EntryId, Incarnation, LogIndex, NodeId, Sender};

/// So many directories of one node can forward in one term.
const MAX_DIRECTORIES: usize = 4;

/// What a leader has taken in its term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Taken(BTreeMap<(NodeId, Incarnation), Last>);

/// The last that was taken from one directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Last {
    boot: BootCount,
    sequence: u64,
    index: LogIndex,
    /// The commit index that the node was last told for the sake of its proposals.
    told: LogIndex,
}

impl Taken {
    /// Notes a forward whose entries begin at `first`; false if it must not be taken.
    fn take(&mut self, from: &Sender, forward: Forward, first: LogIndex) -> bool {
        let key = (from.node, from.incarnation);
        let directories = self.0.range((from.node, Incarnation(0))..).take(MAX_DIRECTORIES);
        let is_full = directories.filter(|((node, _), _)| *node == from.node).count();
        if is_full == MAX_DIRECTORIES && !self.0.contains_key(&key) {
            return false;
        }
        let last = self.0.entry(key).or_default();
        if (from.boot, forward.sequence) <= (last.boot, last.sequence) {
            return false;
        }
        last.boot = from.boot;
        last.sequence = forward.sequence + (forward.count - 1);
        last.index = first.plus(forward.count - 1);
        true
    }

    /// The nodes with proposals in the log that they could apply if they knew of `committed`.
    fn untold(&mut self, committed: LogIndex) -> Vec<NodeId> {
        let mut nodes = Vec::new();
        for ((node, _), last) in &mut self.0 {
            if last.told < last.index && last.told < committed {
                last.told = committed;
                nodes.push(*node);
            }
        }
        nodes
    }
}

impl Core {
    /// Takes a follower's proposals into the log, once.
    pub(super) fn on_forward(&mut self, from: &Sender, forward: Forward) {
        let first = self.log.last().index.next();
        let RoleState::Leader(leader) = &mut self.role else { return };
        if !leader.taken.take(from, forward, first) {
            return;
        }
        self.append_new(forward.count, NewEntries::Forwarded);
        let reply =
            ForwardReply { term: self.term(), asker: *from, sequence: forward.sequence, first };
        self.send(from.node, Message::ForwardReply(reply));
        self.replicate_to_all();
    }

    /// The leader has taken this node's proposals.
    pub(super) fn on_forward_reply(&mut self, from: NodeId, reply: ForwardReply) {
        if self.leader == Some(from) && reply.asker == self.options.me {
            let first = EntryId::new(reply.term, reply.first);
            self.out.push(Output::ForwardPlaced { sequence: reply.sequence, first });
        }
    }

    /// Tells those who wait for what was committed, and would else learn of it from the next heartbeat.
    pub(super) fn tell_origins(&mut self) {
        let committed = self.committed;
        let RoleState::Leader(leader) = &mut self.role else { return };
        for node in leader.taken.untold(committed) {
            self.send_heartbeat(node);
        }
    }
}
