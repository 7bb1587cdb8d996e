//! What the kinds of [`Trouble`] do.

use std::time::Duration;

use super::disk::{Fault, FaultError, Operation};
use super::durable::{self, VOTE_SLOT_BYTES};
use super::machine::Ambush;
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
    /// Makes one trouble happen, to whom it may. It counts if it strikes; what a disk is to refuse counts once
    /// that has refused it.
    pub(super) fn disturb(&mut self, trouble: Trouble) -> Result<(), Broken> {
        let Some(at) = self.victim(trouble) else { return Ok(()) };
        self.trace.note(self.now, [8, trouble as u64, at as u64], || {
            format!("{trouble}, node {}", at + 1)
        });
        let strikes = match trouble {
            Trouble::Loss
            | Trouble::Repeat
            | Trouble::Delay
            | Trouble::Skew
            | Trouble::SlowDisk
            | Trouble::SlowApply => unreachable!("{trouble} is a condition, not an event"),
            Trouble::Crash => return self.crash(at),
            Trouble::Shutdown => self.shut_down(at),
            Trouble::Blackout => {
                self.strike(trouble);
                return self.black_out();
            }
            Trouble::PowerCut => return self.cut_power_at_work(at),
            Trouble::Isolate => self.reshape(|from, to| from == at || to == at),
            Trouble::OneWay => {
                let deaf = self.dice.troubles.bool();
                self.reshape(|from, to| if deaf { to == at } else { from == at })
            }
            Trouble::Split => {
                let side = self.two_sides();
                self.reshape(|from, to| side >> from & 1 != side >> to & 1)
            }
            Trouble::Bridge => {
                let side = self.two_sides();
                self.reshape(|from, to| {
                    from != at && to != at && side >> from & 1 != side >> to & 1
                })
            }
            Trouble::Ring => {
                let nodes = self.machines.len();
                self.reshape(|from, to| (from + 1) % nodes != to && (to + 1) % nodes != from)
            }
            Trouble::Tangle => {
                let mut rng = self.dice.troubles.fork();
                let nodes = self.machines.len();
                let cut: Vec<bool> = (0..nodes * nodes).map(|_| rng.u8(..3) == 0).collect();
                self.reshape(|from, to| cut[from * nodes + to])
            }
            Trouble::Mend => self.network.shape(|_, _| false),
            Trouble::Clog => self.clog(at),
            Trouble::Pause => {
                let until = self.soon(3000);
                ALL_LOOPS.for_each(|which| self.machines[at].hold(which, until));
                // A machine that sleeps hears nothing when it wakes either, until its network is up.
                if self.dice.troubles.bool() {
                    self.reshape(|from, to| from == at || to == at);
                }
                true
            }
            Trouble::Stall => self.stall(at),
            Trouble::ClockJump => {
                let ahead = self.dice.troubles.u64(..5000);
                self.machines[at].jump(Duration::from_millis(ahead));
                true
            }
            Trouble::Campaign => {
                self.strike(trouble);
                return self.campaign(at);
            }
            Trouble::DiskError => {
                let calls = [None, Some(Operation::Write), Some(Operation::Sync)];
                let call = calls[self.dice.troubles.usize(..calls.len())];
                self.fail(at, trouble, call);
                false
            }
            Trouble::DiskFull => {
                self.fill(at);
                false
            }
            Trouble::ReadError => {
                self.fail(at, trouble, Some(Operation::Read));
                false
            }
            Trouble::Rot => self.rot(at),
        };
        if strikes {
            self.strike(trouble);
            let parts = trouble >= Trouble::Isolate && trouble <= Trouble::Tangle;
            if parts && self.a_leader() == Some(at) {
                // What it takes now may never be committed.
                self.rush(at);
            }
        }
        Ok(())
    }

    fn strike(&mut self, trouble: Trouble) {
        self.report.troubles[trouble as usize] += 1;
    }

    /// A machine that this trouble may reach. Leaders have the worst luck: their uncommitted tails are where
    /// it gets difficult.
    fn victim(&mut self, trouble: Trouble) -> Option<usize> {
        let nodes = self.machines.len();
        let leader = self.a_leader().filter(|&at| self.is_victim(at, trouble));
        if leader.is_some() && self.dice.troubles.bool() {
            return leader;
        }
        let reached: Vec<usize> = (0..nodes).filter(|&at| self.is_victim(at, trouble)).collect();
        self.dice.troubles.choice(reached)
    }

    fn is_victim(&self, at: usize, trouble: Trouble) -> bool {
        let machine = &self.machines[at];
        let is_up = machine.node.is_some();
        !self.is_calm(at)
            && match trouble {
                Trouble::Crash
                | Trouble::Shutdown
                | Trouble::Pause
                | Trouble::Stall
                | Trouble::ClockJump => is_up,
                Trouble::Blackout => {
                    let mut all = self.machines.iter().enumerate();
                    all.any(|(at, machine)| machine.node.is_some() && !self.is_calm(at))
                }
                Trouble::Campaign => {
                    let node = machine.node.as_ref();
                    node.is_some_and(|node| node.core().role() != Role::Leader)
                }
                Trouble::PowerCut | Trouble::DiskError | Trouble::DiskFull | Trouble::ReadError => {
                    !machine.is_lost
                }
                Trouble::Rot => !machine.is_lost && self.may_rot(at),
                Trouble::Ring => self.machines.len() > 3,
                Trouble::Loss
                | Trouble::Repeat
                | Trouble::Delay
                | Trouble::Skew
                | Trouble::SlowDisk
                | Trouble::SlowApply
                | Trouble::Isolate
                | Trouble::OneWay
                | Trouble::Split
                | Trouble::Bridge
                | Trouble::Tangle
                | Trouble::Mend
                | Trouble::Clog => self.machines.len() > 1,
            }
    }

    /// A moment within so many milliseconds, more often a near one.
    fn soon(&mut self, millis: u64) -> Time {
        let most = [millis / 50, millis / 5, millis][self.dice.troubles.usize(..3)];
        self.now.after(Duration::from_millis(self.dice.troubles.u64(..=most)))
    }

    /// Takes a node down: at once, or when it has written something and not flushed it.
    fn crash(&mut self, at: usize) -> Result<(), Broken> {
        let until = self.soon(3000);
        let machine = &mut self.machines[at];
        if self.dice.troubles.bool() {
            machine.ambush = Some(Ambush::PowerCut(until.since(self.now)));
            return Ok(());
        }
        machine.down_until = until;
        self.strike(Trouble::Crash);
        self.take_down(at, false)
    }

    /// What has waited for a node to write and not to flush happens.
    pub(super) fn ambush(&mut self, at: usize) -> Result<(), Broken> {
        let Some(ambush) = self.machines[at].ambush.take() else { return Ok(()) };
        self.trace.note(self.now, [10, at as u64], || format!("node {}: {ambush:?}", at + 1));
        match ambush {
            Ambush::PowerCut(lasts) => {
                self.machines[at].down_until = self.now.after(lasts);
                self.strike(Trouble::Crash);
                self.take_down(at, true)
            }
            Ambush::Stall(lasts) => {
                let until = self.now.after(lasts);
                self.strike(Trouble::Stall);
                self.machines[at].work_slowly(WAL, self.now, until);
                self.rush(at);
                // What is written here, and elsewhere comes late, is what others may truncate meanwhile.
                if self.dice.troubles.u8(..4) > 0 {
                    let until = self.now.after(lasts / 2);
                    for other in (0..self.machines.len()).filter(|&other| other != at) {
                        self.network.clog(at, other, until);
                        self.network.clog(other, at, until);
                    }
                }
                self.machines[at].wakes_at = Time(0);
                Ok(())
            }
        }
    }

    fn shut_down(&mut self, at: usize) -> bool {
        let machine = &mut self.machines[at];
        let Some(node) = machine.node.as_ref().filter(|node| !node.is_stopping()) else {
            return false;
        };
        // Nothing runs on threads, so there is nothing to wait for.
        let ended = node.node().shutdown(Duration::ZERO);
        ended.expect("a node without threads");
        machine.wakes_at = Time(0);
        true
    }

    fn black_out(&mut self) -> Result<(), Broken> {
        for at in 0..self.machines.len() {
            if self.machines[at].node.is_some() && !self.is_calm(at) {
                self.machines[at].down_until = self.soon(3000);
                self.take_down(at, false)?;
            }
        }
        Ok(())
    }

    /// From some call on its disk on, nothing works, until the power is gone: in the middle of a flush, of a
    /// roll, or of a recovery.
    fn cut_power_at_work(&mut self, at: usize) -> Result<(), Broken> {
        let machine = &mut self.machines[at];
        let is_up = machine.node.is_some();
        machine.excuses.failing = true;
        machine.excuses.power = true;
        let after = self.dice.troubles.u64(..if is_up { 20 } else { 80 });
        let fault = Fault { operation: None, after, error: FaultError::Io, lasting: true };
        machine.disk.fail_by(Trouble::PowerCut, fault);
        if is_up { Ok(()) } else { self.start(at) }
    }

    /// A call on a disk will fail, once or from then on.
    fn fail(&mut self, at: usize, trouble: Trouble, operation: Option<Operation>) {
        // Reading is rare.
        let seldom = operation == Some(Operation::Read);
        let after = self.dice.troubles.u64(..if seldom { 3 } else { 20 });
        let lasting = self.dice.troubles.bool();
        let machine = &mut self.machines[at];
        let fault = Fault { operation, after, error: FaultError::Io, lasting };
        machine.disk.fail_by(trouble, fault);
        machine.excuses.failing = true;
    }

    /// A disk is full for a while: it takes no more files, and those that are there do not grow. In rare cases
    /// a write fails as well, which is the end of its node.
    fn fill(&mut self, at: usize) {
        let until = self.soon(10_000);
        let machine = &mut self.machines[at];
        let fail = |operation, lasting| {
            let fault =
                Fault { operation: Some(operation), after: 0, error: FaultError::NoSpace, lasting };
            machine.disk.fail_by(Trouble::DiskFull, fault);
        };
        match self.dice.troubles.u8(..5) {
            0 => {
                fail(Operation::Write, false);
                machine.excuses.failing = true;
            }
            1 | 2 => fail(Operation::Open, true),
            _ => fail(Operation::Allocate, true),
        }
        machine.is_full_until(until);
    }

    /// Cuts links of which `is_cut` says so, instead of those that are cut or besides them. Those between
    /// machines that no trouble reaches stay. Whether that changes anything.
    fn reshape(&mut self, is_cut: impl Fn(usize, usize) -> bool) -> bool {
        let calm: Vec<bool> = (0..self.machines.len()).map(|at| self.is_calm(at)).collect();
        let is_cut = |from: usize, to: usize| !(calm[from] && calm[to]) && is_cut(from, to);
        if self.dice.troubles.u8(..4) > 0 {
            self.network.shape(is_cut)
        } else {
            self.network.cut(is_cut)
        }
    }

    /// A link between this machine and another, either way, carries nothing for a while.
    fn clog(&mut self, at: usize) -> bool {
        let nodes = self.machines.len();
        let other = (at + self.dice.troubles.usize(1..nodes)) % nodes;
        let until = self.soon(2000);
        let (from, to) = if self.dice.troubles.bool() { (at, other) } else { (other, at) };
        self.network.clog(from, to, until);
        true
    }

    /// A side for each node, as bits.
    fn two_sides(&mut self) -> u64 {
        self.dice.troubles.u64(..)
    }

    /// One loop does nothing for a while: the `wal` loop, when it has written and not flushed.
    fn stall(&mut self, at: usize) -> bool {
        let which = match self.dice.troubles.u8(..8) {
            0 => CORE,
            1..5 => WAL,
            5 | 6 => APPLY,
            _ => self.dice.troubles.usize(..LOOPS),
        };
        if which == WAL {
            // Long enough for the others to find a leader.
            let lasts = Duration::from_millis(self.dice.troubles.u64(300..4000));
            self.machines[at].ambush = Some(Ambush::Stall(lasts));
            return false;
        }
        let until = self.soon(4000);
        let machine = &mut self.machines[at];
        if machine.runnable() & 1 << which != 0 {
            machine.work_slowly(which, self.now, until);
        } else {
            machine.hold(which, until);
        }
        true
    }

    fn campaign(&mut self, at: usize) -> Result<(), Broken> {
        let local = self.machines[at].set_clock(self.now);
        if let Some(node) = &mut self.machines[at].node {
            node.campaign(local);
        }
        self.stepped(at, CORE)
    }

    /// Whether a machine's disk may rot: a minority's at most.
    fn may_rot(&self, at: usize) -> bool {
        let rotten = self.machines.iter().filter(|machine| machine.excuses.rotten).count();
        self.machines[at].excuses.rotten || 2 * (rotten + 1) < self.machines.len()
    }

    /// Flips a bit of a slot of the vote, or of the log where a mark calls it durable.
    fn rot(&mut self, at: usize) -> bool {
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
            return false;
        }
        machine.disk.rot(&path, |bytes| {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << bit;
            }
        });
        machine.excuses.rotten = true;
        true
    }
}
