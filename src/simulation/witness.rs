//! What the simulator checks: promises, stated over everything that can be seen of all nodes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::error::{ApplyError, EncodeError};
use crate::node::Status;
use crate::state_machine::{Applied, StateMachine};
use crate::types::{EntryId, LogIndex, NodeId, Role, Term};

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Broken(String);

impl Broken {
    pub(super) fn new(what: String) -> Self {
        Self(what)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// The state machine of simulated nodes: it keeps every command with its entry, and answers with the
/// entry.
#[derive(Debug, Default)]
pub struct Ledger {
    lines: Vec<(EntryId, u64)>,
    /// Every line is durable as soon as it is written.
    keeps_state: bool,
}

impl Ledger {
    pub(super) fn new(keeps_state: bool) -> Self {
        Self { lines: Vec::new(), keeps_state }
    }

    /// What is left of it after a crash.
    pub(super) fn survivor(&self) -> Self {
        let lines = if self.keeps_state { self.lines.clone() } else { Vec::new() };
        Self { lines, keeps_state: self.keeps_state }
    }
}

/// Commands are of different sizes, up to this.
const MAX_PADDING: u64 = 900;

impl StateMachine for Ledger {
    type Command = u64;
    type Response = EntryId;

    fn encode(command: &u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&command.to_le_bytes());
        // Some are small, and some fill segments.
        let padding = if command.is_multiple_of(4) { command * 37 % MAX_PADDING } else { 0 };
        out.resize(out.len() + padding as usize, 0);
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], at: &Applied) -> Result<EntryId, ApplyError> {
        let command = bytes.first_chunk().ok_or_else(|| ApplyError::new("too short"))?;
        self.lines.push((at.entry, u64::from_le_bytes(*command)));
        Ok(at.entry)
    }

    fn last_applied(&self) -> Option<EntryId> {
        let last = self.lines.last().map_or(EntryId::ZERO, |(entry, _)| *entry);
        self.keeps_state.then_some(last)
    }
}

/// What was seen of one node.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    term: Term,
    committed: LogIndex,
    /// Lines of its ledger that were compared.
    lines: usize,
}

/// Remembers what was promised, and compares.
#[derive(Debug, Default)]
pub(super) struct Witness {
    nodes: BTreeMap<NodeId, Seen>,
    leaders: BTreeMap<Term, NodeId>,
    /// Every command that was applied anywhere, in the order of the log.
    ledger: Vec<(EntryId, u64)>,
    /// Where each write was applied.
    applied: BTreeMap<u64, EntryId>,
    acknowledged: BTreeMap<u64, EntryId>,
    refused: BTreeSet<u64>,
    last_acknowledged: LogIndex,
}

impl Witness {
    pub(super) fn look(
        &mut self,
        id: NodeId,
        status: &Status,
        state: &Ledger,
    ) -> Result<(), Broken> {
        let seen = self.nodes.entry(id).or_default();
        if status.term < seen.term {
            return broken(format!(
                "node {id} went back from term {} to {}",
                seen.term, status.term
            ));
        }
        if status.committed < seen.committed {
            let (was, is) = (seen.committed, status.committed);
            return broken(format!("node {id} took its commit index back from {was} to {is}"));
        }
        if status.applied > status.committed {
            let (applied, committed) = (status.applied, status.committed);
            return broken(format!("node {id} applied {applied} with {committed} committed"));
        }
        seen.term = status.term;
        seen.committed = status.committed;
        // Election safety (Raft figure 3).
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(id);
            if leader != id {
                return broken(format!(
                    "nodes {leader} and {id} both lead in term {}",
                    status.term
                ));
            }
        }
        // State machine safety: the same commands at the same places.
        let first = seen.lines;
        seen.lines = state.lines.len();
        for at in first..state.lines.len() {
            self.compare(id, at, state.lines[at])?;
        }
        Ok(())
    }

    fn compare(&mut self, id: NodeId, at: usize, line: (EntryId, u64)) -> Result<(), Broken> {
        if let Some(known) = self.ledger.get(at) {
            return if *known == line {
                Ok(())
            } else {
                broken(format!("node {id} applied {line:?} where another applied {known:?}"))
            };
        }
        self.ledger.push(line);
        let (entry, write) = line;
        if let Some(before) = self.applied.insert(write, entry) {
            return broken(format!("write {write} was applied at {before} and at {entry}"));
        }
        if self.refused.contains(&write) {
            return broken(format!("write {write} was applied at {entry} after it was refused"));
        }
        Ok(())
    }

    /// The node forgot what it had not flushed.
    pub(super) fn crashed(&mut self, id: NodeId) {
        let seen = self.nodes.entry(id).or_default();
        seen.committed = LogIndex::ZERO;
        seen.lines = 0;
        // The term may fall too: one that no message has carried need not be durable.
        seen.term = Term(0);
    }

    /// A caller was told that its write was applied there.
    pub(super) fn acknowledge(&mut self, write: u64, entry: EntryId) -> Result<(), Broken> {
        self.acknowledged.insert(write, entry);
        self.last_acknowledged = self.last_acknowledged.max(entry.index);
        match self.applied.get(&write) {
            Some(applied) if *applied == entry => Ok(()),
            applied => {
                broken(format!("write {write} was acknowledged at {entry}, and is at {applied:?}"))
            }
        }
    }

    /// A caller was told that its write never happened and never will.
    pub(super) fn refused(&mut self, write: u64) {
        self.refused.insert(write);
    }

    /// The last index of which a caller knows that it was applied: every read that begins now must see it.
    pub(super) fn acknowledged(&self) -> LogIndex {
        self.last_acknowledged
    }

    pub(super) fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }

    pub(super) fn entries(&self) -> u64 {
        self.ledger.len() as u64
    }

    /// All nodes have applied everything: is it all there?
    pub(super) fn finish(&self) -> Result<(), Broken> {
        for (write, entry) in &self.acknowledged {
            if self.applied.get(write) != Some(entry) {
                return broken(format!("write {write}, acknowledged at {entry}, is lost"));
            }
        }
        for write in &self.refused {
            if let Some(entry) = self.applied.get(write) {
                return broken(format!("write {write} was refused, and applied at {entry}"));
            }
        }
        for (id, seen) in &self.nodes {
            if seen.lines != self.ledger.len() {
                let (lines, all) = (seen.lines, self.ledger.len());
                return broken(format!("node {id} has {lines} of {all} commands"));
            }
        }
        Ok(())
    }
}

fn broken(what: String) -> Result<(), Broken> {
    Err(Broken(what))
}
