//! What clients do: they write, read, wait, lose patience, withdraw, and try elsewhere.
//!
//! Most clients make one call at a time, of a read or of a few writes, at any node, whether that leads or not.
//! One of them may be another kind: it writes hundreds at once, and again without waiting for answers, until
//! the node's door is shut. Whatever a client is told is held against the truth.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use super::machine::NEVER;
use super::witness::{Broken, keep};
use super::workload::{Numbered, Observed, Workload};
use super::world::{Phase, World};
use crate::clock::Time;
use crate::error::{ProposeError, ReadError};
use crate::node::simulated::{Confirmation, PendingRead};
use crate::node::{Consistency, Reply, Ticket};
use crate::types::{EntryId, LogIndex, NodeId};

/// The most writes in one call.
const MAX_WRITES: usize = 8;

/// How many clients turn to a leader that is about to lose its place.
const MAX_RUSH: usize = 3;

/// How long a client waits once a majority is sound. Whoever waits at one of the others must come to it
/// before the world is found stuck.
const CALM_PATIENCE: Duration = Duration::from_secs(2);

/// What the client that writes many at once draws its pauses from, at least, and how long it waits, at least:
/// to have hundreds taken back many times in a second is slow and shows nothing.
const BURST_PAUSE: Duration = Duration::from_millis(200);
const BURST_PATIENCE: Duration = Duration::from_secs(1);

type Machine<W> = Observed<<W as Workload>::Machine>;

/// One client.
pub(super) struct Client<W: Workload> {
    /// The node that it talks to.
    at: usize,
    calls: Vec<Call<W>>,
    /// When it loses patience, or calls again.
    next: Time,
}

/// What a client waits for, and until when.
struct Call<W: Workload> {
    asked: Asked<W>,
    until: Time,
}

pub(super) enum Asked<W: Workload> {
    /// Writes that were submitted together; the first ones are answered first.
    Writes(VecDeque<(u64, Ticket<Machine<W>>)>),
    Read(Read),
}

/// In how many election timeouts of a node that runs a reader learns how far the state must be, or that it has
/// to ask again.
const MAX_ROUNDS: u64 = 40;

/// A linearizable read under way.
pub(super) struct Read {
    /// How often the node had looked at its clock when it began.
    begun: u64,
    /// What it must see.
    after: LogIndex,
    pending: PendingRead,
    /// What the state must have applied, once that is known.
    index: Option<LogIndex>,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was done.
    Done,
    /// The node does not lead, and takes nothing for the one that does.
    NotLeader(Option<NodeId>),
    /// Anything else.
    Failed,
}

impl<W: Workload> Default for Client<W> {
    fn default() -> Self {
        Self { at: 0, calls: Vec::new(), next: Time(0) }
    }
}

impl<W: Workload> Client<W> {
    pub(super) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }
}

impl<W: Workload> World<W> {
    /// Lets those clients act whose moment has come.
    pub(super) fn act(&mut self) -> Result<(), Broken> {
        for which in 0..self.clients.len() {
            if self.clients[which].next <= self.now {
                self.give_up(which)?;
                if self.clients[which].is_idle() || self.bursts(which) {
                    self.call(which)?;
                }
                let turned_away = self.clients[which].is_idle();
                self.plan(which, turned_away);
            }
        }
        let next = self.clients.iter().map(|client| client.next).min().unwrap_or(NEVER);
        self.next_client = next.min(self.act_probes()?);
        Ok(())
    }

    /// Whether a client writes many at once, and does not wait.
    fn bursts(&self, which: usize) -> bool {
        which == 0 && self.options.burst > 0
    }

    /// Lets no client wait for long any more.
    pub(super) fn grow_impatient(&mut self) {
        self.options.patience = self.options.patience.min(CALM_PATIENCE);
        let latest = self.now.after(self.options.patience);
        for client in &mut self.clients {
            client.next = client.next.min(latest);
            for call in &mut client.calls {
                call.until = call.until.min(latest);
            }
        }
        self.next_client = self.next_client.min(latest);
    }

    /// Those clients who wait for nothing turn to this node, and soon.
    pub(super) fn rush(&mut self, at: usize) {
        for client in self.clients.iter_mut().filter(|client| client.is_idle()).take(MAX_RUSH) {
            client.at = at;
            client.next = self.now.after(Duration::from_millis(self.dice.clients.u64(..100)));
            self.next_client = self.next_client.min(client.next);
        }
    }

    /// Draws when a client acts next.
    fn plan(&mut self, which: usize, turned_away: bool) {
        let goes_on = self.bursts(which);
        let think = if goes_on { self.options.think.max(BURST_PAUSE) } else { self.options.think };
        let think = think.as_nanos() as u64;
        let client = &mut self.clients[which];
        let patience = client.calls.iter().map(|call| call.until).min();
        client.next = match (self.phase, patience) {
            // In peace there is an answer to everything, and nothing more to ask.
            (Phase::AllHealed, _) => NEVER,
            (Phase::Faults | Phase::MajorityHealed, Some(until)) if !goes_on => until,
            (Phase::Faults | Phase::MajorityHealed, until) => {
                // Whoever was turned away does not come back at once.
                let most = if turned_away { 8 * think } else { think };
                let next =
                    self.now.after(Duration::from_nanos(self.dice.clients.u64(1..=most.max(1))));
                next.min(until.unwrap_or(NEVER))
            }
        };
    }

    /// A client makes a call, at a node that is up.
    fn call(&mut self, which: usize) -> Result<(), Broken> {
        if self.phase == Phase::AllHealed || self.are_clients_quiet {
            return Ok(());
        }
        let rng = &mut self.dice.clients;
        let at = match rng.u8(..4) {
            // It stays where it is, as it must while it waits, ...
            0 | 1 => self.clients[which].at,
            _ if !self.clients[which].is_idle() => self.clients[which].at,
            // ... has heard who leads, ...
            2 => self.a_leader().unwrap_or(0),
            // ... or tries anybody.
            _ => rng.usize(..self.machines.len()),
        };
        self.clients[which].at = at;
        if self.machines[at].node.is_none() {
            return Ok(());
        }
        self.report.calls += 1;
        self.machines[at].set_clock(self.now);
        self.machines[at].wakes_at = Time(0);
        let asked = match self.dice.clients.u8(..8) {
            _ if self.bursts(which) => {
                let writes = self.dice.clients.usize(1..=self.options.burst);
                self.write(at, writes)?.ok()
            }
            0..4 => self.write(at, 1)?.ok(),
            4 => {
                let writes = self.dice.clients.usize(2..=MAX_WRITES);
                self.write(at, writes)?.ok()
            }
            5 | 6 => self.begin_read(at).map(Asked::Read),
            _ => return self.read_weakly(at),
        };
        if let Some(asked) = asked {
            let patience = self.options.patience;
            let patience = if self.bursts(which) { patience.max(BURST_PATIENCE) } else { patience };
            let until = self.now.after(patience);
            self.clients[which].calls.push(Call { asked, until });
        }
        Ok(())
    }

    /// Submits writes at a node; of none that is under way there is an outcome.
    pub(super) fn write(
        &mut self,
        at: usize,
        writes: usize,
    ) -> Result<Result<Asked<W>, Outcome>, Broken> {
        let mut commands = Vec::with_capacity(writes);
        for _ in 0..writes {
            let command = self.workload.command(&mut self.dice.clients);
            commands.push(Numbered { write: self.outcomes.submitted(), command });
        }
        let numbers: Vec<u64> = commands.iter().map(|command| command.write).collect();
        let Some(node) = &self.machines[at].node else { return Ok(Err(Outcome::Failed)) };
        let patience = self.deadline;
        let tickets: Vec<_> = if let [_] = numbers[..] {
            let command = commands.pop().expect("there is one");
            match node.submit(command, patience) {
                Ok(ticket) => vec![ticket],
                Err(error) => return Ok(Err(self.told_never(numbers[0], &error)?)),
            }
        } else {
            match node.submit_many(commands, patience) {
                Ok(tickets) => tickets.into_iter().collect(),
                Err(error) => {
                    let mut outcome = Outcome::Failed;
                    for write in numbers {
                        outcome = self.told_never(write, &error)?;
                    }
                    return Ok(Err(outcome));
                }
            }
        };
        let mut writes: VecDeque<_> = numbers.into_iter().zip(tickets).collect();
        // Those for which there was no room have their answer.
        let placed = writes.iter().take_while(|(_, ticket)| !ticket.is_answered()).count();
        let mut outcome = Outcome::Failed;
        for (write, mut ticket) in writes.split_off(placed) {
            outcome = self.hear_write(write, &mut ticket)?;
        }
        Ok(if writes.is_empty() { Err(outcome) } else { Ok(Asked::Writes(writes)) })
    }

    /// Begins a read at a node, if that is up.
    pub(super) fn begin_read(&mut self, at: usize) -> Option<Read> {
        let after = self.outcomes.floor();
        let pending = self.machines[at].node.as_ref()?.begin_read();
        if pending.is_none() {
            self.report.failed_reads += 1;
        }
        Some(Read { begun: self.machines[at].ticks, after, pending: pending?, index: None })
    }

    /// Reads that ask nobody: whatever there is, or what some entry has made of it.
    fn read_weakly(&mut self, at: usize) -> Result<(), Broken> {
        let machine = &self.machines[at];
        let Some(node) = &machine.node else { return Ok(()) };
        let floor = self.outcomes.floor();
        let at_least = self.dice.clients.bool();
        let (consistency, after) = if at_least {
            (Consistency::AtLeast(EntryId { index: floor, ..EntryId::ZERO }), floor)
        } else {
            (Consistency::Stale, LogIndex::ZERO)
        };
        let digest = |state: &Machine<W>| self.workload.digest(&state.machine);
        if let Ok(digest) = node.node().read_with_timeout(consistency, Duration::ZERO, digest) {
            self.report.weak_reads += 1;
            self.outcomes.read(at, machine.id, after, digest, false)
        } else {
            self.report.failed_reads += 1;
            Ok(())
        }
    }

    /// A client waits no longer for what it has waited for long enough.
    fn give_up(&mut self, which: usize) -> Result<(), Broken> {
        let at = self.clients[which].at;
        let now = self.now;
        let mut calls = mem::take(&mut self.clients[which].calls);
        for call in calls.extract_if(.., |call| call.until <= now) {
            self.machines[at].wakes_at = Time(0);
            self.leave(call.asked)?;
        }
        self.clients[which].calls = calls;
        Ok(())
    }

    /// Nobody waits for a call any longer.
    pub(super) fn leave(&mut self, asked: Asked<W>) -> Result<(), Broken> {
        match asked {
            Asked::Writes(writes) => {
                for (write, ticket) in writes {
                    let entry = ticket.entry_id();
                    let reply = ticket.give_up();
                    if matches!(reply, Err(ProposeError::Busy(_))) {
                        self.report.withdrawn += 1;
                    }
                    self.told(write, entry, reply)?;
                }
            }
            Asked::Read(_) => self.report.failed_reads += 1,
        }
        Ok(())
    }

    /// Hears the answers that a node has given.
    pub(super) fn hear_answers(&mut self, at: usize) -> Result<(), Broken> {
        if !self.probes.is_empty() {
            self.hear_probes(at)?;
        }
        for which in 0..self.clients.len() {
            let client = &mut self.clients[which];
            if client.at != at || client.is_idle() {
                continue;
            }
            let mut calls = mem::take(&mut client.calls);
            let mut place = 0;
            while place < calls.len() {
                if self.hear(at, &mut calls[place].asked)?.is_some() {
                    calls.swap_remove(place);
                } else {
                    place += 1;
                }
            }
            self.clients[which].calls = calls;
            if self.clients[which].is_idle() {
                self.plan(which, false);
                self.next_client = self.next_client.min(self.clients[which].next);
            }
        }
        Ok(())
    }

    /// What came of a call, once nothing of it is open; of many writes, of the last.
    pub(super) fn hear(
        &mut self,
        at: usize,
        asked: &mut Asked<W>,
    ) -> Result<Option<Outcome>, Broken> {
        match asked {
            Asked::Writes(writes) => {
                let mut outcome = None;
                while let Some((write, ticket)) = writes.front_mut()
                    && ticket.is_answered()
                {
                    outcome = Some(self.hear_write(*write, ticket)?);
                    writes.pop_front();
                }
                Ok(outcome.filter(|_| writes.is_empty()))
            }
            Asked::Read(read) => self.hear_read(at, read),
        }
    }

    fn hear_write(
        &mut self,
        write: u64,
        ticket: &mut Ticket<Machine<W>>,
    ) -> Result<Outcome, Broken> {
        let entry = ticket.entry_id();
        let reply = ticket.try_wait();
        self.told(write, entry, reply.expect("it is answered, and was not heard"))
    }

    fn hear_read(&mut self, at: usize, read: &mut Read) -> Result<Option<Outcome>, Broken> {
        let (id, after) = (self.machines[at].id, read.after);
        if read.index.is_none() {
            match read.pending.poll() {
                None => {
                    let most = MAX_ROUNDS * u64::from(self.options.config.election_ticks);
                    let ticks = self.machines[at].ticks - read.begun;
                    keep!(ticks <= most, "node {id} has kept a reader waiting for {ticks} ticks");
                    return Ok(None);
                }
                Some(Confirmation::Confirmed(index)) if index < after => {
                    return Err(Broken::new(format!(
                        "node {id} may read at {index}, and {after} was known before that began"
                    )));
                }
                Some(Confirmation::Confirmed(index)) => read.index = Some(index),
                // It may be tried again.
                Some(Confirmation::NotLeader(leader)) => {
                    self.report.failed_reads += 1;
                    return Ok(Some(Outcome::NotLeader(leader)));
                }
                Some(Confirmation::Stopped(_)) => {
                    self.report.failed_reads += 1;
                    return Ok(Some(Outcome::Failed));
                }
            }
        }
        let machine = &self.machines[at];
        let digest = |state: &Machine<W>| self.workload.digest(&state.machine);
        let seen = match (&machine.node, read.index) {
            (Some(node), Some(index)) => node.read_at(index, digest),
            _ => Some(Err(ReadError::Timeout)),
        };
        match seen {
            None => Ok(None),
            Some(Ok(digest)) => {
                self.report.reads += 1;
                self.outcomes.read(at, id, after, digest, true)?;
                Ok(Some(Outcome::Done))
            }
            Some(Err(_)) => {
                self.report.failed_reads += 1;
                Ok(Some(Outcome::Failed))
            }
        }
    }

    /// A client learns what became of its write.
    fn told(
        &mut self,
        write: u64,
        entry: Option<EntryId>,
        reply: Reply<Machine<W>>,
    ) -> Result<Outcome, Broken> {
        match reply {
            Ok(response) => {
                self.trace.note(self.now, [7, write, 0], || {
                    format!("write {write} at {entry:?}: {response:?}")
                });
                self.report.acknowledged += 1;
                self.outcomes.acknowledged(write, entry, &response)?;
                Ok(Outcome::Done)
            }
            Err(ProposeError::Unknown { entry: told, cause }) => {
                self.trace.note(self.now, [7, write, 1], || {
                    format!("write {write} at {entry:?}: unknown, {cause}")
                });
                self.report.unknown += 1;
                self.outcomes.unknown(write, told.or(entry))?;
                Ok(Outcome::Failed)
            }
            Err(error) => self.told_never(write, &error),
        }
    }

    /// A client learns that its write never happened and never will.
    fn told_never<C>(&mut self, write: u64, error: &ProposeError<C>) -> Result<Outcome, Broken> {
        self.trace.note(self.now, [7, write, 2], || format!("write {write}: {error}"));
        self.report.refused += 1;
        self.outcomes.refused(write)?;
        Ok(match error {
            ProposeError::NotLeader { leader, .. } => Outcome::NotLeader(*leader),
            _ => Outcome::Failed,
        })
    }
}
