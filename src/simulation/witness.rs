//! What the simulator checks: promises, stated over everything that can be seen of all nodes at once.
//!
//! After every step of a node it is told what the step changed, and compares: with the same node before,
//! with all other nodes, with what disks hold, and with what callers were told. Nothing is looked at twice:
//! a check costs what has changed, not what there is.
//!
//! The names of the properties are those of Raft's figure 3.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::durable::Durable;
use super::machine::Machine;
use super::network::index;
use super::workload::{Line, Lines, Workload};
use crate::consensus::{Core, Generation, quorum};
use crate::message::{AppendOutcome, Envelope, Message};
use crate::state_machine::{Applied, StateMachine};
use crate::types::{EntryId, HardState, LogIndex, NodeId, Role, Term};

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    what: String,
    event: u64,
}

impl Broken {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), event: 0 }
    }

    pub(super) fn at(self, event: u64) -> Self {
        Self { event, ..self }
    }

    /// After how many events of the world.
    pub fn event(&self) -> u64 {
        self.event
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (event {})", self.what, self.event)
    }
}

impl std::error::Error for Broken {}

/// Returns the broken promise unless the condition holds.
macro_rules! keep {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(Broken::new(format!($($what)*)));
        }
    };
}

/// What was seen of one node after its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Seen {
    hard_state: HardState,
    role: Role,
    base: EntryId,
    last: EntryId,
    generation: Generation,
    committed: LogIndex,
    applied: LogIndex,
}

impl Seen {
    fn of(core: &Core, applied: LogIndex) -> Self {
        Self {
            hard_state: core.hard_state(),
            role: core.role(),
            base: core.base(),
            last: core.last(),
            generation: core.generation(),
            committed: core.committed(),
            applied,
        }
    }
}

/// The entries of one term: all were made by its leader, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TermEntries {
    leader: NodeId,
    first: LogIndex,
    /// The term of the entry before the first.
    prev: Term,
    /// The last one that the leader ever made.
    last: LogIndex,
}

/// A committed entry: its term, and the term in which it was first known to be committed.
#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    known_in: Term,
}

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

/// What a caller was told of its write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outcome {
    #[default]
    Open,
    Acknowledged,
    Refused,
    Unknown,
}

struct Write<R> {
    /// What was known to be applied when it was submitted: it can only come later.
    after: LogIndex,
    applied: Option<EntryId>,
    outcome: Outcome,
    /// Where its caller was told that it stands.
    told: Option<EntryId>,
    /// What applying it answers.
    response: Option<R>,
}

type Response<W> = <<W as Workload>::Machine as StateMachine>::Response;

/// Remembers what was promised, and compares. Nodes are counted from 0.
pub(super) struct Witness<W: Workload> {
    nodes: Vec<Seen>,
    /// How many of `ledger` each node's machine has applied.
    lines: Vec<usize>,
    leaders: BTreeMap<Term, NodeId>,
    terms: BTreeMap<Term, TermEntries>,
    /// Who voted for whom.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Who voted for itself, as it does to become a leader.
    candidates: BTreeSet<(NodeId, Term)>,
    committed: Vec<Committed>,
    /// Every command that was applied anywhere, in the order of the log.
    ledger: Vec<Told>,
    /// The last index in it.
    known: Arc<AtomicU64>,
    /// The machine that applies every command once.
    model: W::Machine,
    writes: Vec<Write<Response<W>>>,
    last_applied_write: Option<u64>,
    /// The last index that a caller knows to be applied: whatever begins now must see it.
    acknowledged: LogIndex,
}

impl<W: Workload> Witness<W> {
    pub(super) fn new(nodes: usize, model: W::Machine, known: Arc<AtomicU64>) -> Self {
        Self {
            nodes: vec![Seen::default(); nodes],
            lines: vec![0; nodes],
            leaders: BTreeMap::new(),
            terms: BTreeMap::new(),
            votes: BTreeMap::new(),
            candidates: BTreeSet::new(),
            committed: Vec::new(),
            ledger: Vec::new(),
            known,
            model,
            writes: Vec::new(),
            last_applied_write: None,
            acknowledged: LogIndex::ZERO,
        }
    }

    /// A node has started, with what its disk held.
    pub(super) fn started(
        &mut self,
        node: usize,
        core: &Core,
        applied: LogIndex,
        durable: &Durable,
        machines: &[Machine<W>],
    ) -> Result<(), Broken> {
        let id = core.options().me.node;
        keep!(
            durable.last() == core.last(),
            "node {id} starts with a log up to {} and {} on its disk",
            core.last(),
            durable.last()
        );
        let (stored, known) = (durable.hard_state, core.hard_state());
        keep!(stored == known, "node {id} starts with {known:?} and {stored:?} on its disk");
        let committed = core.committed();
        keep!(
            committed.0 <= self.committed.len() as u64,
            "node {id} starts with {committed} committed, of {}",
            self.committed.len()
        );
        let seen = Seen::of(core, applied);
        self.nodes[node] = Seen { committed: core.base().index, ..seen };
        self.lines[node] = self.ledger.partition_point(|told| told.entry.index <= applied);
        self.check_terms(core)?;
        self.check_committed(core, &self.nodes[node].clone(), machines)?;
        self.nodes[node] = seen;
        Ok(())
    }

    /// A node has made a step.
    pub(super) fn stepped(
        &mut self,
        node: usize,
        core: &Core,
        applied: LogIndex,
        machines: &[Machine<W>],
    ) -> Result<(), Broken> {
        let (was, is) = (self.nodes[node], Seen::of(core, applied));
        if was == is {
            return Ok(());
        }
        let id = core.options().me.node;
        check_hard_state(id, was.hard_state, is.hard_state)?;
        if was.hard_state != is.hard_state && is.hard_state.voted_for == Some(id) {
            self.candidates.insert((id, is.hard_state.term));
        }
        keep!(
            is.committed >= was.committed,
            "node {id} took its commit index back from {} to {}",
            was.committed,
            is.committed
        );
        keep!(
            was.applied <= is.applied && is.applied <= is.committed,
            "node {id} went from {} to {} applied, with {} committed",
            was.applied,
            is.applied,
            is.committed
        );
        if is.role == Role::Leader {
            self.check_leader(core, &was, &is)?;
        }
        let was_log = (was.base, was.last.term, was.generation);
        if was_log != (is.base, is.last.term, is.generation) {
            self.check_terms(core)?;
        }
        if was.last != is.last {
            self.check_last(id, is.last)?;
        }
        if was.committed != is.committed {
            self.check_committed(core, &was, machines)?;
        }
        self.nodes[node] = is;
        Ok(())
    }

    /// Election safety, and leader completeness.
    fn check_leader(&mut self, core: &Core, was: &Seen, is: &Seen) -> Result<(), Broken> {
        let (id, term) = (core.options().me.node, is.hard_state.term);
        let leads_already = was.role == Role::Leader && was.hard_state.term == term;
        if leads_already {
            keep!(
                was.generation == is.generation,
                "node {id} truncated its log while it led term {term}"
            );
        } else {
            self.leads(id, term)?;
            // A leader holds what was committed in earlier terms (Raft §5.4.3); a late winner of an old
            // term knows nothing of later ones.
            let earlier = self.committed.partition_point(|entry| entry.known_in < term);
            if let Some(last) = earlier.checked_sub(1) {
                let entry = EntryId::new(self.committed[last].term, LogIndex(earlier as u64));
                let holds =
                    entry.index < is.base.index || core.term_at(entry.index) == Some(entry.term);
                keep!(holds, "node {id} leads term {term} without {entry}, which is committed");
            }
        }
        if is.last.term == term {
            match self.terms.get_mut(&term) {
                Some(entries) => entries.last = entries.last.max(is.last.index),
                None => self.first_of_term(core, term)?,
            }
        }
        Ok(())
    }

    fn leads(&mut self, id: NodeId, term: Term) -> Result<(), Broken> {
        let leader = *self.leaders.entry(term).or_insert(id);
        keep!(leader == id, "nodes {leader} and {id} both lead in term {term}");
        Ok(())
    }

    fn first_of_term(&mut self, core: &Core, term: Term) -> Result<(), Broken> {
        let id = core.options().me.node;
        let last = core.last().index;
        let shape = core.shape(LogIndex::ZERO, last);
        let run = shape.runs.last().filter(|run| run.term == term);
        let Some(run) = run else {
            return Err(Broken::new(format!("node {id} has no entry of its term {term}")));
        };
        let prev = core.term_at(run.first.prev()).unwrap_or_default();
        self.terms.insert(term, TermEntries { leader: id, first: run.first, prev, last });
        Ok(())
    }

    /// Log matching: the entries of a term are those of its leader and follow what its leader had before
    /// them, in every log. So two logs with an entry in common are equal up to it.
    fn check_terms(&mut self, core: &Core) -> Result<(), Broken> {
        let id = core.options().me.node;
        let base = core.base();
        let shape = core.shape(base.index, core.last().index);
        let mut prev = base.term;
        for (at, run) in shape.runs.iter().enumerate() {
            let last = shape.runs.get(at + 1).map_or(shape.last, |next| next.first.prev());
            // A leader may lose its term to a message that came right behind the vote that made it one.
            let ran = self.candidates.contains(&(id, run.term));
            if !self.terms.contains_key(&run.term) && ran {
                self.leads(id, run.term)?;
                self.terms
                    .insert(run.term, TermEntries { leader: id, first: run.first, prev, last });
            }
            let Some(made) = self.terms.get(&run.term) else {
                let term = run.term;
                return Err(Broken::new(format!(
                    "node {id} has entries of {term}, which none led"
                )));
            };
            let goes_on = at == 0 && run.term == base.term && base.index > LogIndex::ZERO;
            let fits = if goes_on {
                made.first <= run.first
            } else {
                (made.first, made.prev) == (run.first, prev)
            };
            keep!(
                fits && last <= made.last,
                "node {id} has {run:?} to {last} after term {prev}, and the leader made {made:?}"
            );
            prev = run.term;
        }
        Ok(())
    }

    fn check_last(&self, id: NodeId, last: EntryId) -> Result<(), Broken> {
        let made = self.terms.get(&last.term).map_or(LogIndex::ZERO, |entries| entries.last);
        keep!(last.index <= made, "node {id} has {last}, and the leader made entries up to {made}");
        Ok(())
    }

    /// What is committed stays, and is the same everywhere. What is committed first is of the leader's own
    /// term (Raft §5.4.2), and on the disks of a quorum, whatever anybody says.
    fn check_committed(
        &mut self,
        core: &Core,
        was: &Seen,
        machines: &[Machine<W>],
    ) -> Result<(), Broken> {
        let id = core.options().me.node;
        let from = was.committed.max(core.base().index);
        let to = core.committed();
        let entry = EntryId::new(core.term_at(to).unwrap_or_default(), to);
        let known = self.committed.len() as u64;
        for place in from.0 + 1..=to.0 {
            let Some(term) = core.term_at(LogIndex(place)) else {
                return Err(Broken::new(format!(
                    "node {id} has committed {place} and no such entry"
                )));
            };
            if let Some(entry) = self.committed.get(place as usize - 1) {
                let entry = entry.term;
                keep!(
                    entry == term,
                    "node {id} has {term}.{place} committed, where {entry}.{place} was"
                );
            } else {
                self.committed.push(Committed { term, known_in: entry.term });
            }
        }
        if to.0 <= known {
            return Ok(());
        }
        // It may have lost its leadership in the same step, to a message that came right after.
        let leads = core.role() == Role::Leader && core.term() == entry.term;
        let led = was.role == Role::Leader && was.hard_state.term == entry.term;
        keep!(
            leads || led,
            "node {id}, a {} of term {}, is the first to have {entry} committed",
            core.role(),
            core.term()
        );
        let holds = |node: NodeId| {
            machines.get(index(node.0)).is_some_and(|machine| machine.durable.holds(entry))
        };
        keep!(
            quorum::reached(core.membership(), false, |node, _| holds(node)),
            "node {id} has {entry} committed, and no quorum of disks holds it"
        );
        Ok(())
    }

    /// Holds what a node says against what its own disk has for good.
    pub(super) fn said(
        &mut self,
        envelope: &Envelope,
        machines: &[Machine<W>],
    ) -> Result<(), Broken> {
        let from = envelope.from.node;
        let message = &envelope.message;
        let disk = &machines[index(from.0)].durable;
        let (term, vote) = match message {
            // These promise nothing.
            Message::Vote(vote) if vote.pre => return Ok(()),
            Message::VoteReply(reply) if reply.pre => return Ok(()),
            Message::Forward(_) | Message::ReadIndex(_) => return Ok(()),
            Message::Vote(vote) => (vote.term, Some(from)),
            Message::VoteReply(reply) => (reply.term, reply.granted.then_some(envelope.to)),
            Message::Append(_)
            | Message::AppendReply(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatReply(_)
            | Message::ForwardReply(_)
            | Message::ReadIndexReply(_) => (message.term(), None),
        };
        let stored = disk.hard_state;
        keep!(
            stored.term > term
                || stored.term == term && (vote.is_none() || stored.voted_for == vote),
            "node {from} says {message:?} with {stored:?} on its disk"
        );
        if let Some(vote) = vote {
            let first = *self.votes.entry((from, term)).or_insert(vote);
            keep!(first == vote, "node {from} votes for {first} and {vote} in term {term}");
        }
        let node = index(from.0);
        let acknowledged = match message {
            Message::AppendReply(reply) => match reply.outcome {
                AppendOutcome::Accepted { matched } => matched,
                AppendOutcome::Rejected { .. } => LogIndex::ZERO,
            },
            Message::HeartbeatReply(reply) => reply.matched,
            Message::Vote(_)
            | Message::VoteReply(_)
            | Message::Append(_)
            | Message::Heartbeat(_)
            | Message::Forward(_)
            | Message::ForwardReply(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_) => LogIndex::ZERO,
        };
        // What was acknowledged in an earlier term may have been truncated in a later one.
        let is_current = self.nodes[node].hard_state.term == term;
        keep!(
            !is_current || acknowledged <= disk.last().index,
            "node {from} acknowledges {acknowledged} with {} on its disk",
            disk.last()
        );
        // What is acknowledged is equal to the leader's log, not only as long.
        if let Some(node) = &machines[index(envelope.to.0)].node
            && let core = node.core()
            && is_current
            && (core.role(), core.term()) == (Role::Leader, term)
            && let (Some(stored), Some(right)) =
                (disk.term_at(acknowledged), core.term_at(acknowledged))
        {
            keep!(
                stored == right,
                "node {from} acknowledges {acknowledged}, of term {right}, with {stored}.{acknowledged} on its disk"
            );
        }
        Ok(())
    }

    /// A node has applied these commands. Returns whether there were any.
    pub(super) fn applied(
        &mut self,
        node: usize,
        id: NodeId,
        lines: &mut Vec<Line>,
        workload: &mut W,
    ) -> Result<bool, Broken> {
        let any = !lines.is_empty();
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
        Ok(any)
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
        keep!(
            state.outcome != Outcome::Refused,
            "write {write} was applied at {entry} after it was refused"
        );
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
            outcome: Outcome::Open,
            told: None,
            response: None,
        });
        self.writes.len() as u64 - 1
    }

    fn decide(&mut self, write: u64, outcome: Outcome) -> Result<&mut Write<Response<W>>, Broken> {
        let state = &mut self.writes[write as usize];
        keep!(
            state.outcome == Outcome::Open,
            "write {write} is {outcome:?} after it was {:?}",
            state.outcome
        );
        state.outcome = outcome;
        Ok(state)
    }

    /// A caller was told that its write was applied there, and what that answered.
    pub(super) fn acknowledged(
        &mut self,
        write: u64,
        entry: Option<EntryId>,
        response: &Response<W>,
    ) -> Result<(), Broken> {
        let state = self.decide(write, Outcome::Acknowledged)?;
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
        let state = self.decide(write, Outcome::Refused)?;
        let applied = state.applied;
        keep!(applied.is_none(), "write {write} was refused and applied at {}", place(applied));
        Ok(())
    }

    /// A caller was told that nobody knows whether its write will be applied; if so, then there.
    pub(super) fn unknown(&mut self, write: u64, entry: Option<EntryId>) -> Result<(), Broken> {
        let state = self.decide(write, Outcome::Unknown)?;
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

    /// Terms that had a leader.
    pub(super) fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Commands that were applied.
    pub(super) fn entries(&self) -> u64 {
        self.ledger.len() as u64
    }

    /// The last entry that is committed.
    pub(super) fn committed(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// Everything has healed, and every node named has applied everything: is it all there?
    pub(super) fn finish(&self, nodes: impl Iterator<Item = usize>) -> Result<(), Broken> {
        for (write, state) in self.writes.iter().enumerate() {
            keep!(
                state.outcome != Outcome::Acknowledged || state.applied.is_some(),
                "write {write} was acknowledged and is lost"
            );
            keep!(state.outcome != Outcome::Open, "write {write} was never answered");
        }
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

/// Terms grow, and a vote stays for its term (Raft §5.2).
fn check_hard_state(id: NodeId, was: HardState, is: HardState) -> Result<(), Broken> {
    keep!(
        is.term > was.term
            || is.term == was.term && (was.voted_for.is_none() || was.voted_for == is.voted_for),
        "node {id} went from {was:?} to {is:?}"
    );
    Ok(())
}

/// Where the nodes' machines say what they apply.
pub(super) fn lines(known: &Arc<AtomicU64>) -> Lines {
    Lines::sharing(known)
}
