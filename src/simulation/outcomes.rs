//! What the simulator checks of answers: that what callers are told is true, and that all machines agree.
//!
//! Every command that is applied anywhere is applied once more, to a machine that meets no trouble. What nodes
//! make of it, what writers are answered and what readers see is held against that machine. So a history is
//! linearizable if it fits the order of the log: a write comes after everything that was known when it was
//! submitted, and a read shows everything that was known when it began.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::witness::{Broken, keep};
use super::workload::{Line, Workload};
use crate::state_machine::{Applied, StateMachine};
use crate::types::{EntryId, LogIndex, NodeId};

/// A command that was applied, somewhere, first.
#[derive(Clone, Copy, Debug)]
struct Told {
    entry: EntryId,
    time: u64,
    write: u64,
    crc: u32,
    /// Of the state after it.
    digest: u64,
}

struct Write<R> {
    /// What was known to be applied when it was submitted: it can only come later.
    after: LogIndex,
    applied: Option<EntryId>,
    /// Its caller was told that it never happened, and never will.
    refused: bool,
    /// Where its caller was told that it stands.
    told: Option<EntryId>,
    /// What applying it answers.
    response: Option<R>,
}

type Response<W> = <<W as Workload>::Machine as StateMachine>::Response;

/// Remembers what was told, and compares. Nodes are counted from 0.
pub(super) struct Outcomes<W: Workload> {
    /// Every command that was applied anywhere, in the order of the log.
    ledger: Vec<Told>,
    /// The last index in it, for the nodes' machines.
    known: Arc<AtomicU64>,
    /// How many of the ledger's commands each node's machine has applied.
    lines: Vec<usize>,
    /// The machine that applies every command once.
    model: W::Machine,
    writes: Vec<Write<Response<W>>>,
    last_applied_write: Option<u64>,
    /// The last index that a caller knows to be applied: whatever begins now must see it.
    acknowledged: LogIndex,
}

impl<W: Workload> Outcomes<W> {
    pub(super) fn new(nodes: usize, model: W::Machine, known: Arc<AtomicU64>) -> Self {
        Self {
            ledger: Vec::new(),
            known,
            lines: vec![0; nodes],
            model,
            writes: Vec::new(),
            last_applied_write: None,
            acknowledged: LogIndex::ZERO,
        }
    }

    /// A node has started, with a machine that is so far.
    pub(super) fn started(&mut self, node: usize, applied: LogIndex) {
        self.lines[node] = self.ledger.partition_point(|told| told.entry.index <= applied);
    }

    /// A node has applied these commands.
    pub(super) fn applied(
        &mut self,
        node: usize,
        id: NodeId,
        lines: &mut Vec<Line>,
        workload: &mut W,
    ) -> Result<(), Broken> {
        for line in lines.drain(..) {
            let at = self.lines[node];
            self.lines[node] += 1;
            if let Some(told) = self.ledger.get(at) {
                let same = (told.entry, told.time, told.write, told.crc)
                    == (line.entry, line.time, line.write, line.crc);
                keep!(
                    same,
                    "node {id} applied write {} at {} where write {} was applied at {}",
                    line.write,
                    line.entry,
                    told.write,
                    told.entry
                );
            } else {
                self.applied_first(id, &line, workload)?;
            }
        }
        Ok(())
    }

    /// State machine safety, at the first node that applies an entry: each write is applied once, after
    /// everything that was known before it was submitted, and never after it was refused.
    fn applied_first(&mut self, id: NodeId, line: &Line, workload: &mut W) -> Result<(), Broken> {
        let Line { entry, time, write, crc, bytes } = line;
        let before = self.ledger.last().map_or((EntryId::ZERO, 0), |told| (told.entry, told.time));
        keep!(
            before.0.index < entry.index && before.0.term <= entry.term && before.1 <= *time,
            "node {id} applied {entry} at {time} after {} at {}",
            before.0,
            before.1
        );
        let Some(bytes) = bytes else {
            return Err(Broken::new(format!("node {id} skipped entries before {entry}")));
        };
        let Some(state) = self.writes.get_mut(*write as usize) else {
            return Err(Broken::new(format!("node {id} applied write {write}, which nobody made")));
        };
        keep!(
            state.applied.is_none(),
            "write {write} was applied at {entry} and at {}",
            place(state.applied)
        );
        keep!(!state.refused, "write {write} was applied at {entry} after it was refused");
        keep!(
            state.told.is_none_or(|told| told == *entry),
            "write {write} was applied at {entry}, and its caller was told {}",
            place(state.told)
        );
        keep!(
            state.after < entry.index,
            "write {write} was applied at {entry}, and {} was known when it was submitted",
            state.after
        );
        state.applied = Some(*entry);
        self.last_applied_write = self.last_applied_write.max(Some(*write));
        let response = self.model.apply_entry(bytes, &Applied::new(*entry, *time));
        let response = response.map_err(|error| Broken::new(format!("write {write}: {error}")))?;
        state.response = Some(response);
        workload.check(&self.model).map_err(Broken::new)?;
        let digest = workload.digest(&self.model);
        self.ledger.push(Told { entry: *entry, time: *time, write: *write, crc: *crc, digest });
        self.known.store(entry.index.0, Ordering::Relaxed);
        Ok(())
    }

    /// A state of a node is what the same commands make of a machine that meets no trouble.
    pub(super) fn check_state(&self, node: usize, id: NodeId, digest: u64) -> Result<(), Broken> {
        let Some(last) = self.lines[node].checked_sub(1) else { return Ok(()) };
        let told = &self.ledger[last];
        keep!(
            told.digest == digest,
            "node {id}: the state after {} is another than that of the same commands",
            told.entry
        );
        Ok(())
    }

    /// A caller submits a write, which gets the returned number.
    pub(super) fn submitted(&mut self) -> u64 {
        self.writes.push(Write {
            after: self.acknowledged,
            applied: None,
            refused: false,
            told: None,
            response: None,
        });
        self.writes.len() as u64 - 1
    }

    /// A caller was told that its write was applied there, and what that answered.
    pub(super) fn acknowledged(
        &mut self,
        write: u64,
        entry: Option<EntryId>,
        response: &Response<W>,
    ) -> Result<(), Broken> {
        let state = &mut self.writes[write as usize];
        let Some(applied) = state.applied else {
            return Err(Broken::new(format!("write {write} was acknowledged and not applied")));
        };
        keep!(
            entry.is_none_or(|entry| entry == applied),
            "write {write} was acknowledged at {} and is at {applied}",
            place(entry)
        );
        let right = state.response.take();
        keep!(
            right.as_ref() == Some(response),
            "write {write} at {applied} was answered with {response:?} and not with {right:?}"
        );
        self.acknowledged = self.acknowledged.max(applied.index);
        Ok(())
    }

    /// A caller was told that its write never happened and never will.
    pub(super) fn refused(&mut self, write: u64) -> Result<(), Broken> {
        let state = &mut self.writes[write as usize];
        state.refused = true;
        let applied = state.applied;
        keep!(applied.is_none(), "write {write} was refused and applied at {}", place(applied));
        Ok(())
    }

    /// A caller was told that nobody knows whether its write will be applied; if so, then there.
    pub(super) fn unknown(&mut self, write: u64, entry: Option<EntryId>) -> Result<(), Broken> {
        let state = &mut self.writes[write as usize];
        state.told = entry;
        let applied = state.applied;
        keep!(
            applied.is_none() || entry.is_none() || applied == entry,
            "write {write} was applied at {}, and its caller was told {}",
            place(applied),
            place(entry)
        );
        Ok(())
    }

    /// What a read that begins now must see.
    pub(super) fn floor(&self) -> LogIndex {
        self.acknowledged
    }

    /// A reader sees the state of a node; `after` is what it must see. With `counts`, whoever begins after
    /// it must see as much.
    pub(super) fn read(
        &mut self,
        node: usize,
        id: NodeId,
        after: LogIndex,
        digest: u64,
        counts: bool,
    ) -> Result<(), Broken> {
        let last = self.lines[node].checked_sub(1).map(|last| self.ledger[last].entry.index);
        let last = last.unwrap_or(LogIndex::ZERO);
        // What was acknowledged are commands, and so is what is counted here.
        keep!(
            after <= last,
            "a read on node {id} shows {last}, and {after} was known before it began"
        );
        self.check_state(node, id, digest)?;
        if counts {
            self.acknowledged = self.acknowledged.max(last);
        }
        Ok(())
    }

    /// How many writes were submitted.
    pub(super) fn writes(&self) -> u64 {
        self.writes.len() as u64
    }

    /// The latest write that was applied anywhere.
    pub(super) fn last_applied_write(&self) -> Option<u64> {
        self.last_applied_write
    }

    /// Commands that were applied.
    pub(super) fn entries(&self) -> u64 {
        self.ledger.len() as u64
    }

    /// Everything has healed: every node named has applied everything that any has.
    pub(super) fn finish(&self, nodes: impl Iterator<Item = usize>) -> Result<(), Broken> {
        for node in nodes {
            let (lines, all) = (self.lines[node], self.ledger.len());
            keep!(lines == all, "node {} has {lines} of {all} commands", node + 1);
        }
        Ok(())
    }
}

/// Where something is, if it is anywhere.
fn place(entry: Option<EntryId>) -> String {
    entry.map_or_else(|| "no place".to_owned(), |entry| entry.to_string())
}
