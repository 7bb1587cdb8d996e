//! What the simulator checks of nodes: the promises of Raft, stated over all of them at once.
//!
//! After every step of a node it is told what the step changed, and compares: with the same node before, with
//! all other nodes, and with what disks hold. Nothing is looked at twice: a check costs what has changed, not
//! what there is. What callers are told is the business of [`super::outcomes`].
//!
//! The names of the properties are those of Raft's figure 3.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::durable::Durable;
use super::machine::Machine;
use super::network::index;
use super::workload::Workload;
use crate::consensus::{Core, Generation};
use crate::membership::{Member, Membership};
use crate::message::{Append, AppendOutcome, Envelope, Message};
use crate::node::simulated::Simulated;
use crate::record::Records;
use crate::slices::Slices;
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

pub(super) use keep;

/// What was seen of one node after its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Seen {
    hard_state: HardState,
    role: Role,
    base: EntryId,
    last: EntryId,
    generation: Generation,
    verified: LogIndex,
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
            verified: core.verified(),
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

/// Remembers what nodes have shown, and compares. Nodes are counted from 0.
pub(super) struct Witness {
    nodes: Vec<Seen>,
    leaders: BTreeMap<Term, NodeId>,
    terms: BTreeMap<Term, TermEntries>,
    /// Who voted for whom.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Who voted for itself, as it does to become a leader.
    candidates: BTreeSet<(NodeId, Term)>,
    committed: Vec<Committed>,
    truncations: u64,
}

impl Witness {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes: vec![Seen::default(); nodes],
            leaders: BTreeMap::new(),
            terms: BTreeMap::new(),
            votes: BTreeMap::new(),
            candidates: BTreeSet::new(),
            committed: Vec::new(),
            truncations: 0,
        }
    }

    /// A node has started, with what its disk held.
    pub(super) fn started<W: Workload>(
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
        self.check_terms(core)?;
        self.check_committed(core, &self.nodes[node].clone(), machines)?;
        self.nodes[node] = seen;
        Ok(())
    }

    /// A node has made a step.
    pub(super) fn stepped<W: Workload>(
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
        self.truncations += is.generation.0 - was.generation.0;
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
        if was.verified != is.verified {
            self.check_verified(core, machines)?;
        }
        self.nodes[node] = is;
        Ok(())
    }

    /// What a follower takes for equal to its leader's log is: of a term that nobody led nothing is.
    fn check_verified<W: Workload>(
        &self,
        core: &Core,
        machines: &[Machine<W>],
    ) -> Result<(), Broken> {
        let (id, term, verified) = (core.options().me.node, core.term(), core.verified());
        if verified <= core.committed() {
            return Ok(());
        }
        let Some(leader) = self.leaders.get(&term) else {
            return Err(Broken::new(format!(
                "node {id} verified {verified} in {term}, which none led"
            )));
        };
        // The leader itself may know no more: it has crashed, or gone on to another term.
        let leads = machines[index(leader.0)].node.as_ref().map(Simulated::core);
        if let Some(leads) = leads.filter(|core| (core.role(), core.term()) == (Role::Leader, term))
            && verified >= leads.base().index
        {
            let (theirs, ours) = (leads.term_at(verified), core.term_at(verified));
            keep!(
                theirs == ours,
                "node {id} verified {verified}, of term {ours:?}, and the leader has {theirs:?} there"
            );
        }
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

    /// A leader may have lost its term, and the entries it made, to a message that came in the step that made
    /// it one. What it has sent is all that there will ever be of them elsewhere.
    fn take_sent(&mut self, from: NodeId, append: &Append, records: &Slices) {
        let seen = &self.nodes[index(from.0)];
        if (seen.role, seen.hard_state.term) == (Role::Leader, append.term) {
            return;
        }
        let mut prev = append.prev;
        for record in Records::trusted(records) {
            let id = record.expect("a record of ours").header.id;
            match self.terms.get_mut(&id.term) {
                Some(made) if made.leader == from => made.last = made.last.max(id.index),
                None if id.term == append.term => {
                    let (leader, first, last) = (from, id.index, id.index);
                    let made = TermEntries { leader, first, prev: prev.term, last };
                    self.terms.insert(id.term, made);
                }
                Some(_) | None => {}
            }
            prev = id;
        }
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
    fn check_committed<W: Workload>(
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
            has_majorities(core.membership(), holds),
            "node {id} has {entry} committed, and no quorum of disks holds it"
        );
        Ok(())
    }

    /// Holds what a node says against what its own disk has for good.
    pub(super) fn said<W: Workload>(
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
        if let Message::Append(append) = message {
            self.leads(from, append.term)?;
            self.take_sent(from, append, &envelope.records);
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

    /// Terms that had a leader.
    pub(super) fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Whether an entry is the first that the leader of its term made.
    pub(super) fn is_first_of_term(&self, entry: EntryId) -> bool {
        self.terms.get(&entry.term).is_some_and(|made| made.first == entry.index)
    }

    /// Truncations of logs.
    pub(super) fn truncations(&self) -> u64 {
        self.truncations
    }

    /// The last entry that is committed.
    pub(super) fn committed(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }
}

/// Whether more than half of the voters hold something; in a joint configuration, more than half of each set.
fn has_majorities(membership: &Membership, holds: impl Fn(NodeId) -> bool) -> bool {
    let is_majority = |voters: &BTreeMap<NodeId, Member>| {
        2 * voters.keys().filter(|&&node| holds(node)).count() > voters.len()
    };
    is_majority(&membership.voters)
        && (membership.outgoing.is_empty() || is_majority(&membership.outgoing))
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
