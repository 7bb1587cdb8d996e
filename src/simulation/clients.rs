//! What clients do: they write, read, wait, lose patience, withdraw, and try elsewhere.
//!
//! A client makes one call at a time, of a read or of a few writes, at any node, whether that leads or not.
//! Whatever it is told is held against the truth.

use std::time::Duration;

use super::machine::NEVER;
use super::witness::Broken;
use super::workload::{Numbered, Observed, Workload};
use super::world::{Phase, World};
use crate::clock::Time;
use crate::error::ProposeError;
use crate::node::simulated::{Confirmation, PendingRead};
use crate::node::{Consistency, Reply, Ticket};
use crate::types::{EntryId, LogIndex};

/// The most writes in one call.
const MAX_WRITES: usize = 8;

/// How long a client waits once a majority is sound. Whoever waits at one of the others must come to it
/// before the world is found stuck.
const CALM_PATIENCE: Duration = Duration::from_secs(2);

type Machine<W> = Observed<<W as Workload>::Machine>;

/// One client.
pub(super) struct Client<W: Workload> {
    /// The node that it talks to.
    at: usize,
    calls: Vec<Call<W>>,
    /// When it loses patience, or calls again.
    next: Time,
}

/// What a client waits for.
enum Call<W: Workload> {
    Write { write: u64, ticket: Ticket<Machine<W>> },
    Read(Read),
}

/// A linearizable read under way.
struct Read {
    /// What it must see.
    after: LogIndex,
    pending: PendingRead,
    /// What the state must have applied, once that is known.
    index: Option<LogIndex>,
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
                if !self.clients[which].is_idle() {
                    self.give_up(which)?;
                }
                self.call(which)?;
                self.plan(which, true);
            }
        }
        self.next_client = self.clients.iter().map(|client| client.next).min().unwrap_or(NEVER);
        Ok(())
    }

    /// Lets no client wait for long any more.
    pub(super) fn grow_impatient(&mut self) {
        self.options.patience = self.options.patience.min(CALM_PATIENCE);
        let latest = self.now.after(self.options.patience);
        for client in &mut self.clients {
            client.next = client.next.min(latest);
        }
        self.next_client = self.next_client.min(latest);
    }

    /// Draws when a client acts next.
    fn plan(&mut self, which: usize, turned_away: bool) {
        let think = self.options.think.as_nanos() as u64;
        let client = &mut self.clients[which];
        client.next = match (self.phase, client.is_idle()) {
            // In peace there is an answer to everything, and nothing more to ask.
            (Phase::AllHealed, _) => NEVER,
            (Phase::Faults | Phase::MajorityHealed, true) => {
                // Whoever was turned away does not come back at once.
                let most = if turned_away { 8 * think } else { think };
                self.now.after(Duration::from_nanos(self.dice.clients.u64(1..=most.max(1))))
            }
            (Phase::Faults | Phase::MajorityHealed, false) => self.now.after(self.options.patience),
        };
    }

    /// A client makes a call, at a node that is up.
    fn call(&mut self, which: usize) -> Result<(), Broken> {
        if self.phase == Phase::AllHealed {
            return Ok(());
        }
        let rng = &mut self.dice.clients;
        let at = match rng.u8(..4) {
            // It stays where it is, ...
            0 | 1 => self.clients[which].at,
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
        match self.dice.clients.u8(..8) {
            0..4 => self.write(which, at, 1),
            4 => {
                let writes = self.dice.clients.usize(2..=MAX_WRITES);
                self.write(which, at, writes)
            }
            5 | 6 => {
                self.begin_read(which, at);
                Ok(())
            }
            _ => self.read_weakly(at),
        }
    }

    fn write(&mut self, which: usize, at: usize, writes: usize) -> Result<(), Broken> {
        for _ in 0..writes {
            let command = self.workload.command(&mut self.dice.clients);
            let write = self.outcomes.submitted();
            let Some(node) = &self.machines[at].node else { return Ok(()) };
            match node.submit(Numbered { write, command }, self.options.patience) {
                Ok(ticket) => self.clients[which].calls.push(Call::Write { write, ticket }),
                Err(error) => self.told(write, None, Err(error))?,
            }
        }
        Ok(())
    }

    fn begin_read(&mut self, which: usize, at: usize) {
        let after = self.outcomes.floor();
        let Some(node) = &self.machines[at].node else { return };
        match node.begin_read() {
            Some(pending) => {
                let read = Read { after, pending, index: None };
                self.clients[which].calls.push(Call::Read(read));
            }
            None => self.report.failed_reads += 1,
        }
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

    /// A client waits no longer for anything.
    fn give_up(&mut self, which: usize) -> Result<(), Broken> {
        let at = self.clients[which].at;
        self.machines[at].wakes_at = Time(0);
        for call in std::mem::take(&mut self.clients[which].calls) {
            match call {
                Call::Write { write, ticket } => {
                    let entry = ticket.entry_id();
                    let reply = ticket.give_up();
                    if matches!(reply, Err(ProposeError::Busy(_))) {
                        self.report.withdrawn += 1;
                    }
                    self.told(write, entry, reply)?;
                }
                Call::Read(_) => self.report.failed_reads += 1,
            }
        }
        Ok(())
    }

    /// Hears the answers that a node has given.
    pub(super) fn hear_answers(&mut self, at: usize) -> Result<(), Broken> {
        for which in 0..self.clients.len() {
            let client = &self.clients[which];
            if client.at != at || client.calls.is_empty() {
                continue;
            }
            let mut place = 0;
            while place < self.clients[which].calls.len() {
                if self.is_answered(which, place, at)? {
                    self.clients[which].calls.swap_remove(place);
                } else {
                    place += 1;
                }
            }
            if self.clients[which].is_idle() {
                self.plan(which, false);
                self.next_client = self.next_client.min(self.clients[which].next);
            }
        }
        Ok(())
    }

    /// Whether a call is done with; then its outcome was looked at.
    fn is_answered(&mut self, which: usize, place: usize, at: usize) -> Result<bool, Broken> {
        match &mut self.clients[which].calls[place] {
            Call::Write { write, ticket } => {
                if !ticket.is_answered() {
                    return Ok(false);
                }
                let (write, entry) = (*write, ticket.entry_id());
                let Some(reply) = ticket.try_wait() else { return Ok(false) };
                self.told(write, entry, reply)?;
                Ok(true)
            }
            Call::Read(read) => {
                if read.index.is_none() {
                    match read.pending.poll() {
                        None => return Ok(false),
                        Some(Confirmation::Confirmed(index)) if index < read.after => {
                            let (id, after) = (self.machines[at].id, read.after);
                            return Err(Broken::new(format!(
                                "node {id} may read at {index}, and {after} was known before that began"
                            )));
                        }
                        Some(Confirmation::Confirmed(index)) => read.index = Some(index),
                        // It may be tried again.
                        Some(Confirmation::NotLeader(_) | Confirmation::Stopped(_)) => {
                            self.report.failed_reads += 1;
                            return Ok(true);
                        }
                    }
                }
                let machine = &self.machines[at];
                let Some(node) = &machine.node else {
                    self.report.failed_reads += 1;
                    return Ok(true);
                };
                if Some(node.applied()) < read.index || node.is_stopping() {
                    return Ok(false);
                }
                self.report.reads += 1;
                let after = read.after;
                let digest = node.look(|state| self.workload.digest(&state.machine));
                self.outcomes.read(at, machine.id, after, digest, true)?;
                Ok(true)
            }
        }
    }

    /// A client learns what became of its write.
    fn told(
        &mut self,
        write: u64,
        entry: Option<EntryId>,
        reply: Reply<Machine<W>>,
    ) -> Result<(), Broken> {
        let outcome = match &reply {
            Ok(_) => 0,
            Err(ProposeError::Unknown { .. }) => 1,
            Err(_) => 2,
        };
        self.trace.note(self.now, [7, write, outcome], || {
            let reply = reply.as_ref().map_err(ToString::to_string);
            format!("write {write} at {entry:?}: {reply:?}")
        });
        match reply {
            Ok(response) => {
                self.report.acknowledged += 1;
                self.outcomes.acknowledged(write, entry, &response)
            }
            Err(ProposeError::Unknown { entry: told, .. }) => {
                self.report.unknown += 1;
                self.outcomes.unknown(write, told.or(entry))
            }
            Err(_) => {
                self.report.refused += 1;
                self.outcomes.refused(write)
            }
        }
    }
}
