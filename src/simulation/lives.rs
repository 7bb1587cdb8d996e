//! How nodes come and go: starts, ends, crashes, and faults that end.
//!
//! A node may refuse to start, or stop by itself, only for what was done to its disk. Whatever ended it, what
//! it had counted as persisted must be there when it starts again.

use std::time::Duration;

use super::machine::NEVER;
use super::witness::Broken;
use super::workload::Workload;
use super::world::{Phase, World};
use crate::config::Config;
use crate::error::{StartError, StopCause};
use crate::types::{EntryId, HardState, NodeId};

/// What a disk must still hold after a crash: an entry, with all before it, and term and vote.
pub(super) type MustHave = (EntryId, HardState);

impl<W: Workload> World<W> {
    /// Starts a node that is down. A start that fails for a reason that is known leaves it down.
    pub(super) fn start(&mut self, at: usize) -> Result<(), Broken> {
        let machine = &mut self.machines[at];
        let state = match &machine.state {
            Some(crashed) => self.workload.survivor(crashed),
            None => self.workload.machine(),
        };
        let members = (1..=self.options.nodes).map(NodeId);
        let election_priority = self.priorities[at];
        let config = Config { election_priority, ..self.options.config.clone() };
        let on_core = self.options.apply_on_core;
        let must_have = std::mem::take(&mut machine.must_have);
        let started = machine.start(self.now, &self.outbox, members, config, on_core, state);
        self.trace.note(self.now, [1, at as u64, u64::from(started.is_ok())], || {
            format!("node {} starts: {:?}", at + 1, started.as_ref().map_err(ToString::to_string))
        });
        let id = machine.id;
        match started {
            Ok(()) => {}
            Err(StartError::Storage(error)) if machine.excuses.may_not_start() => {
                self.report.failed_starts += 1;
                // What fails may work the next time, and a full disk has space again; a rotten one stays.
                if machine.excuses.failing || machine.excuses.full {
                    machine.must_have = must_have;
                    machine.down_until = self.now.after(Duration::from_millis(100));
                    return self.take_down(at, false);
                }
                log::debug!("node={id} stays down error={error}");
                machine.is_lost = true;
                machine.wakes_at = NEVER;
                self.report.lost_nodes += 1;
                return Ok(());
            }
            Err(error) => {
                return Err(Broken::new(format!("node {id} does not start again: {error}")));
            }
        }
        self.report.starts += 1;
        self.check_start(at, must_have)
    }

    /// A node that has started has what its disk held, and that is all there.
    fn check_start(&mut self, at: usize, must_have: MustHave) -> Result<(), Broken> {
        let machine = &self.machines[at];
        let Some(node) = &machine.node else { return Ok(()) };
        let (id, (entry, hard_state)) = (machine.id, must_have);
        if !machine.durable.holds(entry) {
            return Err(Broken::new(format!("node {id} had {entry} on its disk and lost it")));
        }
        let stored = machine.durable.hard_state;
        if stored.term < hard_state.term
            || stored.term == hard_state.term
                && hard_state.voted_for.is_some()
                && stored.voted_for != hard_state.voted_for
        {
            return Err(Broken::new(format!(
                "node {id} had {hard_state:?} on its disk and found {stored:?}"
            )));
        }
        self.outcomes.started(at, node.applied());
        self.witness.started(at, node.core(), node.applied(), &machine.durable, &self.machines)
    }

    /// A node has stopped by itself.
    pub(super) fn stopped(&mut self, at: usize, cause: &StopCause) -> Result<(), Broken> {
        let id = self.machines[at].id;
        match cause {
            // A node that is being shut down names that as its cause, whatever ends it.
            StopCause::Storage(_) | StopCause::Shutdown if self.machines[at].excuses.may_stop() => {
                self.report.failures += 1;
                self.trace.note(self.now, [3, at as u64], || format!("node {id} stops: {cause}"));
                let down = self.dice.troubles.u64(..500);
                self.machines[at].down_until = self.now.after(Duration::from_millis(down));
                self.take_down(at, false)
            }
            _ => Err(Broken::new(format!("node {id} stopped by itself: {cause}"))),
        }
    }

    /// A node has ended in an orderly way: nobody waits for anything, and the disk has everything.
    pub(super) fn ended(&mut self, at: usize) -> Result<(), Broken> {
        let machine = &self.machines[at];
        if let Some(node) = &machine.node {
            let (id, last) = (machine.id, node.core().last());
            if machine.durable.last() != last {
                let durable = machine.durable.last();
                return Err(Broken::new(format!(
                    "node {id} ends at {last} with {durable} on disk"
                )));
            }
        }
        self.trace.note(self.now, [9, at as u64], || format!("node {} has ended", at + 1));
        self.machines[at].down_until = self.now.after(Duration::from_millis(100));
        self.take_down(at, false)
    }

    /// Ends a node at once. Its disk loses what was not flushed if the power goes, or if dice say so.
    pub(super) fn take_down(&mut self, at: usize, power: bool) -> Result<(), Broken> {
        let machine = &mut self.machines[at];
        if let Some(node) = &machine.node {
            self.report.crashes += 1;
            machine.must_have =
                (machine.durable.agrees_to(node.core()), machine.durable.hard_state);
            machine.state = Some(node.look(|state| self.workload.survivor(&state.machine)));
        }
        machine.crash();
        let power = power || machine.excuses.power || self.dice.troubles.bool();
        if machine.excuses.power {
            machine.is_repaired();
        }
        if power {
            machine.disk.crash();
        } else {
            machine.disk.kill();
        }
        self.outbox.lock().clear();
        self.hear_answers(at)
    }

    /// Ends the faults for a majority of those whose disks are sound.
    pub(super) fn heal_majority(&mut self) {
        let mut sound: Vec<usize> =
            (0..self.machines.len()).filter(|&at| !self.machines[at].excuses.rotten).collect();
        self.dice.troubles.shuffle(&mut sound);
        sound.truncate(self.machines.len() / 2 + 1);
        self.trace.note(self.now, [5, sound.len() as u64], || format!("healed: {sound:?} from 0"));
        self.phase = Phase::MajorityHealed;
        self.heal(&sound);
        self.grow_impatient();
    }

    /// Ends all faults.
    pub(super) fn heal_all(&mut self) {
        self.trace.note(self.now, [6], || "everything has healed".to_owned());
        self.phase = Phase::AllHealed;
        let all: Vec<usize> = (0..self.machines.len()).collect();
        self.heal(&all);
    }

    fn heal(&mut self, machines: &[usize]) {
        for &at in machines {
            self.calm |= 1 << at;
            let machine = &mut self.machines[at];
            machine.is_repaired();
            machine.has_space();
            machine.ambush = None;
            machine.down_until = self.now;
            machine.release_all();
        }
        let calm = self.calm;
        self.network.heal(|from, to| calm >> from & calm >> to & 1 == 1);
    }
}
