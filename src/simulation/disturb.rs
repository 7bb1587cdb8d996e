//! What the kinds of [`Trouble`] do.

use std::time::Duration;

use super::disk::{Fault, FaultError, Operation};
use super::durable::{self, VOTE_SLOT_BYTES};
use super::trouble::Trouble;
use super::witness::Broken;
use super::workload::Workload;
use super::world::World;
use crate::clock::Time;
use crate::node::simulated::{APPLY, CORE, LOOPS, WAL};
use crate::types::Role;

/// Every loop of a node.
const ALL_LOOPS: std::ops::Range<usize> = 0..LOOPS;

impl<W: Workload> World<W> {
    /// Makes one trouble happen, to whom it may.
    pub(super) fn disturb(&mut self, trouble: Trouble) -> Result<(), Broken> {
        let Some(at) = self.victim() else { return Ok(()) };
        self.report.troubles[trouble as usize] += 1;
        self.trace.note(self.now, [8, trouble as u64, at as u64], || {
            format!("{trouble}, node {}", at + 1)
        });
        match trouble {
            Trouble::Loss
            | Trouble::Repeat
            | Trouble::Delay
            | Trouble::Skew
            | Trouble::SlowDisk
            | Trouble::SlowApply => unreachable!("{trouble} is a condition, not an event"),
            Trouble::Crash => return self.crash(at),
            Trouble::Shutdown => self.shut_down(at),
            Trouble::Blackout => return self.black_out(),
            Trouble::PowerCut => return self.cut_power_at_work(at),
            Trouble::Isolate => self.reshape(|from, to| from == at || to == at),
            Trouble::OneWay => {
                let deaf = self.dice.troubles.bool();
                self.reshape(|from, to| if deaf { to == at } else { from == at });
            }
            Trouble::Split => {
                let side = self.two_sides();
                self.reshape(|from, to| side >> from & 1 != side >> to & 1);
            }
            Trouble::Bridge => {
                let side = self.two_sides();
                self.reshape(|from, to| {
                    from != at && to != at && side >> from & 1 != side >> to & 1
                });
            }
            Trouble::Ring => {
                let nodes = self.machines.len();
                self.reshape(|from, to| (from + 1) % nodes != to && (to + 1) % nodes != from);
            }
            Trouble::Tangle => {
                let mut rng = self.dice.troubles.fork();
                let nodes = self.machines.len();
                let cut: Vec<bool> = (0..nodes * nodes).map(|_| rng.u8(..3) == 0).collect();
                self.reshape(|from, to| cut[from * nodes + to]);
            }
            Trouble::Mend => self.network.shape(|_, _| false),
            Trouble::Clog => {
                let to = self.dice.troubles.usize(..self.machines.len());
                if !(self.is_calm(at) && self.is_calm(to)) {
                    let until = self.soon(2000);
                    self.network.clog(at, to, until);
                }
            }
            Trouble::Pause => {
                let until = self.soon(3000);
                ALL_LOOPS.for_each(|which| self.machines[at].hold(which, until));
                // A machine that sleeps hears nothing when it wakes either, until its network is up.
                if self.dice.troubles.bool() {
                    self.reshape(|from, to| from == at || to == at);
                }
            }
            Trouble::Stall => self.stall(at),
            Trouble::ClockJump => {
                let ahead = self.dice.troubles.u64(..5000);
                self.machines[at].jump(Duration::from_millis(ahead));
            }
            Trouble::Campaign => return self.campaign(at),
            Trouble::DiskError => {
                let calls = [None, Some(Operation::Write), Some(Operation::Sync)];
                let call = calls[self.dice.troubles.usize(..calls.len())];
                self.fail(at, call, FaultError::Io);
            }
            Trouble::DiskFull => {
                let calls = [Operation::Write, Operation::Allocate, Operation::Open];
                let call = calls[self.dice.troubles.usize(..calls.len())];
                self.fail(at, Some(call), FaultError::NoSpace);
            }
            Trouble::ReadError => self.fail(at, Some(Operation::Read), FaultError::Io),
            Trouble::Rot => self.rot(at),
        }
        Ok(())
    }

    /// A machine that trouble may reach. Leaders have the worst luck: their uncommitted tails are where it
    /// gets difficult.
    fn victim(&mut self) -> Option<usize> {
        let leader = self.a_leader().filter(|&at| !self.is_calm(at));
        if leader.is_some() && self.dice.troubles.bool() {
            return leader;
        }
        let reached = (0..self.machines.len()).filter(|&at| !self.is_calm(at));
        let reached: Vec<usize> = reached.collect();
        self.dice.troubles.choice(reached)
    }

    /// A moment within so many milliseconds, more often a near one.
    fn soon(&mut self, millis: u64) -> Time {
        let most = [millis / 50, millis / 5, millis][self.dice.troubles.usize(..3)];
        self.now.after(Duration::from_millis(self.dice.troubles.u64(..=most)))
    }

    fn crash(&mut self, at: usize) -> Result<(), Broken> {
        if self.machines[at].node.is_none() {
            return Ok(());
        }
        self.machines[at].down_until = self.soon(3000);
        self.take_down(at, false)
    }

    fn shut_down(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if let Some(node) = &machine.node {
            // Nothing runs on threads, so there is nothing to wait for.
            let ended = node.node().shutdown(Duration::ZERO);
            ended.expect("a node without threads");
            machine.wakes_at = Time(0);
        }
    }

    fn black_out(&mut self) -> Result<(), Broken> {
        for at in 0..self.machines.len() {
            if !self.is_calm(at) {
                self.crash(at)?;
            }
        }
        Ok(())
    }

    /// From some call on its disk on, nothing works, until the power is gone: in the middle of a flush, of a
    /// roll, or of a recovery.
    fn cut_power_at_work(&mut self, at: usize) -> Result<(), Broken> {
        let machine = &mut self.machines[at];
        if machine.is_lost {
            return Ok(());
        }
        let is_up = machine.node.is_some();
        machine.excuses.failing = true;
        machine.excuses.power = true;
        let after = self.dice.troubles.u64(..if is_up { 20 } else { 80 });
        let error = FaultError::Io;
        machine.disk.fail(Fault { operation: None, after, error, lasting: true });
        if is_up { Ok(()) } else { self.start(at) }
    }

    fn fail(&mut self, at: usize, operation: Option<Operation>, error: FaultError) {
        let after = self.dice.troubles.u64(..20);
        let lasting = self.dice.troubles.bool();
        let machine = &mut self.machines[at];
        machine.disk.fail(Fault { operation, after, error, lasting });
        machine.excuses.failing = true;
    }

    /// Cuts links of which `is_cut` says so, instead of those that are cut or besides them. Those between
    /// machines that no trouble reaches stay.
    fn reshape(&mut self, is_cut: impl Fn(usize, usize) -> bool) {
        let calm: Vec<bool> = (0..self.machines.len()).map(|at| self.is_calm(at)).collect();
        let is_cut = |from: usize, to: usize| !(calm[from] && calm[to]) && is_cut(from, to);
        if self.dice.troubles.u8(..4) > 0 {
            self.network.shape(is_cut);
        } else {
            self.network.cut(is_cut);
        }
    }

    /// A side for each node, as bits.
    fn two_sides(&mut self) -> u64 {
        self.dice.troubles.u64(..)
    }

    fn stall(&mut self, at: usize) {
        let until = self.soon(4000);
        let which = match self.dice.troubles.u8(..4) {
            0 => CORE,
            1 => WAL,
            2 => APPLY,
            _ => self.dice.troubles.usize(..LOOPS),
        };
        let machine = &mut self.machines[at];
        if machine.runnable() & 1 << which != 0 {
            machine.work_slowly(which, self.now, until);
        } else {
            machine.hold(which, until);
        }
    }

    fn campaign(&mut self, at: usize) -> Result<(), Broken> {
        let local = self.machines[at].set_clock(self.now);
        match &mut self.machines[at].node {
            Some(node) if node.core().role() != Role::Leader => node.campaign(local),
            _ => return Ok(()),
        }
        self.stepped(at, CORE)
    }

    /// Flips a bit of a slot of the vote, or of the log where a mark calls it durable, on a minority.
    fn rot(&mut self, at: usize) {
        let rotten = self.machines.iter().filter(|machine| machine.excuses.rotten).count();
        let is_rotten = self.machines[at].excuses.rotten;
        if !is_rotten && 2 * (rotten + 1) >= self.machines.len() {
            return;
        }
        let slot = VOTE_SLOT_BYTES * self.dice.troubles.usize(..2);
        let vote = (durable::vote_path(), slot..slot + VOTE_SLOT_BYTES);
        let machine = &mut self.machines[at];
        let place = match machine.durable.covered() {
            Some(place) if self.dice.troubles.u8(..4) > 0 => place,
            _ => vote,
        };
        let (path, range) = place;
        let (offset, bit) = (self.dice.troubles.usize(range), self.dice.troubles.u8(..8));
        if machine.disk.live_bytes(&path).is_none() {
            return;
        }
        machine.disk.rot(&path, |bytes| {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << bit;
            }
        });
        machine.excuses.rotten = true;
    }
}
