//! What is asked of nodes without trouble: each of them serves its own callers, and soon.
//!
//! That a cluster gets on is not enough: a node that nobody happens to ask may have forgotten its readers, or
//! be ignored by its leader. So each node is asked for a write and for a linearizable read, by a caller that
//! tries again. One that forwards nothing may name the leader instead.

use std::time::Duration;

use super::clients::{Asked, Outcome};
use super::machine::NEVER;
use super::network::index;
use super::witness::Broken;
use super::workload::Workload;
use super::world::{PATIENCE, World};
use crate::clock::Time;
use crate::types::Role;

/// How long the last node may take to serve its caller, once the first one has.
const PROMPT: Duration = Duration::from_secs(5);
/// How long a caller waits for one answer.
const ATTEMPT: Duration = Duration::from_secs(1);
/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(20);

/// A caller of one node.
pub(super) struct Probe<W: Workload> {
    at: usize,
    has_written: bool,
    has_read: bool,
    asked: Option<Asked<W>>,
    /// When it loses patience, or tries again.
    next: Time,
}

impl<W: Workload> Probe<W> {
    fn is_done(&self) -> bool {
        self.has_written && self.has_read
    }
}

impl<W: Workload> World<W> {
    /// Asks each of these nodes for a write and a read, while no client asks for anything.
    pub(super) fn probe(&mut self, nodes: impl Iterator<Item = usize>) -> Result<(), Broken> {
        self.are_clients_quiet = true;
        let probe =
            |at| Probe { at, has_written: false, has_read: false, asked: None, next: Time(0) };
        self.probes = nodes.map(probe).collect();
        self.next_client = self.now;
        self.run_until("nobody is served", PATIENCE, |world| {
            world.probes.iter().any(Probe::is_done)
        })?;
        // Whoever left something with a node, and waits no longer, leaves the room to others that late, by the
        // node's own clock, which may be slow.
        let most = PROMPT + 2 * self.deadline;
        self.run_until("not everybody is served", most, |world| {
            world.probes.iter().all(|probe| probe.is_done() || world.machines[probe.at].is_lost)
        })?;
        self.probes.clear();
        self.are_clients_quiet = false;
        Ok(())
    }

    /// Lets those callers act whose moment has come; when the next one's comes.
    pub(super) fn act_probes(&mut self) -> Result<Time, Broken> {
        let mut probes = std::mem::take(&mut self.probes);
        let now = self.now;
        for probe in probes.iter_mut().filter(|probe| probe.next <= now) {
            let at = probe.at;
            if let Some(asked) = probe.asked.take() {
                self.leave(asked)?;
            }
            self.machines[at].set_clock(self.now);
            self.machines[at].wakes_at = Time(0);
            if !probe.has_written {
                match self.write(at, 1)? {
                    Ok(asked) => probe.asked = Some(asked),
                    Err(outcome) => probe.has_written = self.is_served(outcome),
                }
            } else if !probe.has_read {
                probe.asked = self.begin_read(at).map(Asked::Read);
            }
            probe.next = match probe.asked {
                _ if probe.is_done() => NEVER,
                Some(_) => self.now.after(ATTEMPT),
                None => self.now.after(PAUSE),
            };
        }
        let next = probes.iter().map(|probe| probe.next).min().unwrap_or(NEVER);
        self.probes = probes;
        Ok(next)
    }

    /// Hears the answers that a node has given to its caller.
    pub(super) fn hear_probes(&mut self, at: usize) -> Result<(), Broken> {
        let mut probes = std::mem::take(&mut self.probes);
        for probe in probes.iter_mut().filter(|probe| probe.at == at) {
            let Some(asked) = &mut probe.asked else { continue };
            let Some(outcome) = self.hear(at, asked)? else { continue };
            let is_write = matches!(asked, Asked::Writes(_));
            let is_served = self.is_served(outcome);
            *(if is_write { &mut probe.has_written } else { &mut probe.has_read }) |= is_served;
            probe.asked = None;
            probe.next = self.now.after(if is_served { Duration::ZERO } else { PAUSE });
            self.next_client = self.next_client.min(probe.next);
        }
        self.probes = probes;
        Ok(())
    }

    /// Whether a caller got what it may expect: of a node that forwards nothing, the leader's name.
    fn is_served(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Done => true,
            Outcome::NotLeader(Some(leader)) => {
                let node = &self.machines[index(leader.0)].node;
                let leads = node.as_ref().is_some_and(|node| node.core().role() == Role::Leader);
                !self.options.config.forward && leads
            }
            Outcome::NotLeader(None) | Outcome::Failed => false,
        }
    }

    /// Whether nobody waits for anything.
    pub(super) fn are_probes_idle(&self) -> bool {
        self.probes.iter().all(|probe| probe.asked.is_none())
    }
}
