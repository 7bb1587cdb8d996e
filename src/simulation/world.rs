//! A cluster of real nodes in one thread, under one seed.
//!
//! The nodes' own loops run: the consensus core, the log over a [`SimDisk`](super::SimDisk), the `wal`, `seg`,
//! `apply` and `snap` loops. What is replaced is what drives them. Where a thread would run, the world picks
//! one of the loops that have something to do, at random; where time would pass, it jumps to the next moment
//! at which anything happens. Work takes no time, unless a trouble says so.
//!
//! A run has three parts: *faults* everywhere; then they *end for a majority*, which must get on although they
//! go on elsewhere; then *everything heals*, and all that was promised must be there.
//!
//! After every step of a node the [`Witness`] and the [`Outcomes`] look at what the step has changed, and the
//! run ends with the first promise that was broken.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fastrand::Rng;

use super::bounds::Before;
use super::clients::Client;
use super::machine::{Machine, NEVER, Outbox};
use super::network::{Arrival, Network, index};
use super::options::Options;
use super::outcomes::Outcomes;
use super::probes::Probe;
use super::report::Report;
use super::trace::{self, Trace};
use super::trouble::Trouble;
use super::witness::{Broken, Witness};
use super::workload::{Line, Lines, Workload};
use crate::clock::Time;
use crate::config::ElectionPriority;
use crate::message::Envelope;
use crate::node::simulated::{APPLY, CORE, LOOP_NAMES, WAL};
use crate::state_machine::StateMachine;
use crate::types::{NodeId, Role};

/// How long a majority without faults may take to get a write through, and a cluster in peace to settle:
/// hundreds of election timeouts.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// How often a majority without faults has to, with the others about their business in between.
const MAJORITY_ROUNDS: u32 = 3;
/// Events in which that much time must pass; more is a loop that never rests.
const MAX_SETTLING: u64 = 2_000_000;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Faults,
    MajorityHealed,
    AllHealed,
}

/// Generators for separate uses, so that leaving out one trouble does not change what else is drawn.
pub(super) struct Dice {
    pub(super) schedule: Rng,
    pub(super) network: Rng,
    pub(super) troubles: Rng,
    pub(super) clients: Rng,
}

/// A cluster, its network and its clients. See the [module](super) for what it does.
pub struct World<W: Workload> {
    pub(super) options: Options,
    pub(super) workload: W,
    pub(super) now: Time,
    pub(super) dice: Dice,
    pub(super) machines: Vec<Machine<W>>,
    pub(super) network: Network,
    pub(super) outbox: Outbox,
    pub(super) clients: Vec<Client<W>>,
    /// When the next client does something by itself.
    pub(super) next_client: Time,
    pub(super) witness: Witness,
    pub(super) outcomes: Outcomes<W>,
    pub(super) report: Report,
    pub(super) trace: Trace,
    /// How eager each node is to lead.
    pub(super) priorities: Vec<ElectionPriority>,
    /// After how many events the next trouble happens.
    next_trouble: u64,
    pub(super) phase: Phase,
    /// Callers that each ask one node.
    pub(super) probes: Vec<Probe<W>>,
    /// How long a call may keep its room at the door of a node.
    pub(super) deadline: Duration,
    /// The clients make no calls.
    pub(super) are_clients_quiet: bool,
    /// Machines that no trouble reaches, as bits.
    pub(super) calm: u64,
    /// Buffers that are used again.
    sent: Vec<Envelope>,
    lines: Vec<Line>,
    bytes: Vec<u8>,
}

impl<W: Workload> fmt::Debug for World<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("report", &self.report).finish_non_exhaustive()
    }
}

impl<W: Workload> World<W> {
    /// Runs a world of this kind from its first start to its end.
    ///
    /// # Errors
    /// The first promise that was broken, a panic in the library included.
    ///
    /// # Panics
    /// If the options make no sense: no nodes, more than 64, no clients, or a configuration that no node
    /// accepts.
    pub fn run(options: Options, workload: W) -> Result<Report, Broken> {
        Self::new(options, workload, None).live().0
    }

    /// As [`run`](Self::run), and tells what happened, in text: the last `keep` events.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_traced(
        options: Options,
        workload: W,
        keep: usize,
    ) -> (Result<Report, Broken>, String) {
        Self::new(options, workload, Some(keep)).live()
    }

    fn new(options: Options, workload: W, keep: Option<usize>) -> Self {
        assert!((1..=64).contains(&options.nodes), "{} nodes", options.nodes);
        assert!(options.clients > 0, "no clients");
        options.config.validate().expect("options with a configuration that nodes accept");
        let mut rng = Rng::with_seed(options.seed ^ 0x5EED);
        let nodes = options.nodes as usize;
        let known = Arc::<AtomicU64>::default();
        let skew = i64::from(options.troubles.get(Trouble::Skew));
        let mut machine = |id| {
            let (disk, ahead) = (rng.u64(..), Duration::from_millis(rng.u64(..10_000)));
            let gain = rng.i64(-skew..=skew) * 1024 / 1000;
            Machine::new(NodeId(id), disk, ahead, gain, Lines::sharing(&known))
        };
        let machines = (1..=options.nodes).map(&mut machine).collect();
        let priorities = [ElectionPriority::High, ElectionPriority::Normal, ElectionPriority::Low];
        let differ = rng.bool();
        let priorities = (0..nodes).map(|_| priorities[if differ { rng.usize(..3) } else { 1 }]);
        let priorities = priorities.collect();
        let mut report = Report { worlds: 1, ..Report::default() };
        for kind in options.troubles.kinds().filter(|kind| kind.is_condition()) {
            report.troubles[kind as usize] += 1;
        }
        Self {
            now: Time(0),
            machines,
            network: Network::new(nodes),
            outbox: Outbox::default(),
            clients: (0..options.clients).map(|_| Client::default()).collect(),
            next_client: Time(0),
            witness: Witness::new(nodes),
            outcomes: Outcomes::new(nodes, workload.machine(), Arc::clone(&known)),
            report,
            trace: Trace::keeping(keep),
            priorities,
            next_trouble: 0,
            phase: Phase::Faults,
            probes: Vec::new(),
            deadline: options.patience.max(Duration::from_secs(1)),
            are_clients_quiet: false,
            calm: 0,
            sent: Vec::new(),
            lines: Vec::new(),
            bytes: Vec::new(),
            dice: Dice {
                schedule: rng.fork(),
                network: rng.fork(),
                troubles: rng.fork(),
                clients: rng.fork(),
            },
            options,
            workload,
        }
    }

    /// Runs from here to the end.
    fn live(mut self) -> (Result<Report, Broken>, String) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.go_through_phases()));
        let outcome = outcome.unwrap_or_else(|panic| Err(Broken::new(panic_message(&*panic))));
        let report = &mut self.report;
        report.time = Duration::from_nanos(self.now.0);
        report.leaders = self.witness.leaders();
        report.truncations = self.witness.truncations();
        report.commands = self.outcomes.entries();
        for (trouble, operation) in self.machines.iter().flat_map(|m| m.disk.strikes()) {
            report.count_strike(trouble, operation);
        }
        report.dirty_files = self.machines.iter().map(|m| m.disk.cut_while_dirty()).sum();
        for machine in &self.machines {
            self.trace.fold([machine.disk.fingerprint()]);
        }
        report.trace = self.trace.number();
        let text = self.trace.text();
        let outcome = outcome.map_err(|broken| broken.at(self.report.events));
        (outcome.map(|()| std::mem::take(&mut self.report)), text)
    }

    fn go_through_phases(&mut self) -> Result<(), Broken> {
        self.plan_trouble();
        while self.report.events < self.options.steps {
            self.step()?;
        }
        self.heal_majority();
        self.probe_alone()?;
        for _ in 0..MAJORITY_ROUNDS {
            let written = self.outcomes.writes();
            self.run_until("a majority without faults gets no write through", PATIENCE, |world| {
                world.outcomes.last_applied_write().is_some_and(|write| write >= written)
            })?;
            let until = self.report.events + self.options.steps / 50;
            self.run_until("events", PATIENCE, |world| world.report.events >= until)?;
        }
        self.heal_all();
        let served: Vec<usize> =
            (0..self.machines.len()).filter(|&at| !self.machines[at].is_lost).collect();
        self.probe(served.into_iter())?;
        self.run_until("no rest in peace", PATIENCE, Self::is_settled)?;
        self.check_end()
    }

    /// Asks the nodes that no trouble reaches, while they are cut off from the others: a leader among those
    /// may serve some of them only.
    fn probe_alone(&mut self) -> Result<(), Broken> {
        let calm = self.calm;
        let links = self.network.links();
        self.network.cut(|from, to| (calm >> from ^ calm >> to) & 1 == 1);
        self.next_trouble = u64::MAX;
        self.probe((0..self.machines.len()).filter(|at| calm >> at & 1 == 1))?;
        self.network.set_links(links);
        self.plan_trouble();
        Ok(())
    }

    /// Does one thing, and looks whether every promise still holds.
    fn step(&mut self) -> Result<(), Broken> {
        if self.report.events >= self.next_trouble {
            self.plan_trouble();
            if let Some(trouble) = self.options.troubles.draw(&mut self.dice.troubles) {
                self.disturb(trouble)?;
            }
        }
        loop {
            if self.next_client <= self.now {
                self.act()?;
            }
            for at in 0..self.machines.len() {
                while self.machines[at].wakes_at <= self.now {
                    self.wake(at)?;
                }
            }
            let runnable: u32 = self.machines.iter().map(|m| m.runnable().count_ones()).sum();
            // Messages weigh as much as two loops, so that they do not pile up.
            let arrived = self.network.next_arrival().is_some_and(|at| at <= self.now);
            let choices = runnable + if arrived { 2 } else { 0 };
            if choices > 0 {
                self.report.events += 1;
                let choice = self.dice.schedule.u32(..choices);
                if let Some((at, which)) = self.pick(choice) {
                    return self.run_loop(at, which);
                }
                self.deliver();
                return Ok(());
            }
            self.pass_time();
        }
    }

    /// The loop that is the `choice`th of those that may run; none if they are fewer.
    fn pick(&self, mut choice: u32) -> Option<(usize, usize)> {
        for (at, machine) in self.machines.iter().enumerate() {
            let mut loops = machine.runnable();
            while loops != 0 {
                if choice == 0 {
                    return Some((at, loops.trailing_zeros() as usize));
                }
                choice -= 1;
                loops &= loops - 1;
            }
        }
        None
    }

    fn pass_time(&mut self) {
        let machines = self.machines.iter().map(|machine| machine.wakes_at);
        let others = [self.next_client, self.network.next_arrival().unwrap_or(NEVER)];
        let next = machines.chain(others).min().unwrap_or(NEVER);
        assert!(self.now < next && next < NEVER, "time stands still at {:?}", self.now);
        self.now = next;
    }

    /// Something may have changed in a machine: its node may start again, or a loop may run.
    fn wake(&mut self, at: usize) -> Result<(), Broken> {
        let machine = &mut self.machines[at];
        if machine.full_until <= self.now {
            machine.has_space();
        }
        if machine.node.is_none() {
            if machine.is_lost {
                machine.wakes_at = NEVER;
                return Ok(());
            }
            if machine.down_until > self.now {
                machine.wakes_at = machine.down_until;
                return Ok(());
            }
            // A disk that fails may fail the next start as well.
            if self.dice.troubles.bool() {
                machine.is_repaired();
            }
            return self.start(at);
        }
        let fresh = machine.look_at_loops(self.now);
        if fresh != 0 && !self.is_calm(at) {
            for (which, trouble) in [(WAL, Trouble::SlowDisk), (APPLY, Trouble::SlowApply)] {
                let millis = self.options.troubles.get(trouble);
                if millis > 0 && fresh & 1 << which != 0 {
                    let takes = self.dice.schedule.u64(..=u64::from(millis) * 1_000_000);
                    let until = self.now.after(Duration::from_nanos(takes));
                    self.machines[at].work_slowly(which, self.now, until);
                }
            }
        }
        Ok(())
    }

    fn run_loop(&mut self, at: usize, which: usize) -> Result<(), Broken> {
        let before = if which == CORE { Before::of(&mut self.machines[at]) } else { None };
        self.machines[at].step(which, self.now);
        self.trace.note(self.now, [2, at as u64, which as u64], || {
            format!("node {} {}", at + 1, LOOP_NAMES[which])
        });
        self.stepped(at, which)?;
        before.map_or(Ok(()), |before| self.check_bounds(at, &before))
    }

    /// A loop of a node has made a step: looks at what came of it.
    pub(super) fn stepped(&mut self, at: usize, which: usize) -> Result<(), Broken> {
        if which == WAL {
            let machine = &mut self.machines[at];
            self.report.late_flushes += u64::from(machine.has_flushed_late());
            if machine.is_ambushed() && self.dice.troubles.bool() {
                return self.ambush(at);
            }
            // After a failure nobody knows what is there until the next start has looked.
            if machine.node.as_ref().is_some_and(|node| node.failed().is_none()) {
                machine.durable.read_on(&machine.disk);
            }
        }
        let machine = &self.machines[at];
        let Some(node) = &machine.node else { return Ok(()) };
        if which == CORE || which == APPLY {
            self.witness.stepped(at, node.core(), node.applied(), &self.machines)?;
            if which == CORE {
                self.send_out()?;
            }
            self.take_lines(at)?;
            self.hear_answers(at)?;
        }
        let machine = &mut self.machines[at];
        let Some(node) = &machine.node else { return Ok(()) };
        if let Some(cause) = node.failed() {
            return self.stopped(at, &cause);
        }
        if node.has_ended() {
            return self.ended(at);
        }
        machine.wakes_at = Time(0);
        Ok(())
    }

    /// Holds what a node has applied against the ledger, and its state against the model's.
    fn take_lines(&mut self, at: usize) -> Result<(), Broken> {
        let machine = &self.machines[at];
        machine.lines.take(&mut self.lines);
        if self.lines.is_empty() {
            return Ok(());
        }
        for line in &self.lines {
            self.trace.fold([
                line.entry.term.0,
                line.entry.index.0,
                line.time,
                u64::from(line.crc),
            ]);
        }
        self.outcomes.applied(at, machine.id, &mut self.lines, &mut self.workload)?;
        if let Some(node) = &machine.node {
            let (digest, kept) = node
                .look(|state| (self.workload.digest(&state.machine), state.machine.last_applied()));
            self.outcomes.check_state(at, machine.id, digest)?;
            // What a machine keeps must not be ahead of its node's disk, or the two part in a crash.
            if let Some(kept) = kept
                && !machine.durable.holds(kept)
            {
                let (id, last) = (machine.id, machine.durable.last());
                return Err(Broken::new(format!(
                    "node {id}: the machine keeps {kept}, and the disk holds a log up to {last}"
                )));
            }
        }
        Ok(())
    }

    fn send_out(&mut self) -> Result<(), Broken> {
        std::mem::swap(&mut *self.outbox.lock(), &mut self.sent);
        let mut sent = std::mem::take(&mut self.sent);
        for mut envelope in sent.drain(..) {
            self.report.messages += 1;
            if self.dice.network.u8(..16) == 0 {
                envelope = self.as_bytes(&envelope)?;
            }
            let (from, to) = (index(envelope.from.node.0), index(envelope.to.0));
            self.witness.said(&envelope, &self.machines)?;
            let calm = self.is_calm(from) && self.is_calm(to);
            if !calm && (self.network.is_cut(from, to) || self.draw(Trouble::Loss)) {
                self.report.lost += 1;
                // Sometimes the transport learns of it.
                if self.dice.network.u8(..8) == 0
                    && let Some(inbound) = &*self.machines[from].inbound.lock()
                {
                    inbound.dropped(envelope.to);
                }
                continue;
            }
            let repeats = !calm && self.draw(Trouble::Repeat);
            let max_delay = if calm { 0 } else { self.options.troubles.get(Trouble::Delay) };
            let max_delay = u64::from(max_delay) * 1_000_000;
            if repeats {
                self.report.repeated += 1;
                // It may come when nobody remembers the first.
                let delay = self.dice.network.u64(..=20 * max_delay + 1_000_000);
                self.network.send(envelope.clone(), Time(self.now.0 + delay));
            }
            let delay = if max_delay > 0 { self.dice.network.u64(..=max_delay) } else { 0 };
            self.network.send(envelope, Time(self.now.0 + delay));
        }
        self.sent = sent;
        Ok(())
    }

    /// What comes of a message that travels as its bytes.
    fn as_bytes(&mut self, envelope: &Envelope) -> Result<Envelope, Broken> {
        self.bytes.clear();
        envelope.encode(&mut self.bytes).map_err(|error| Broken::new(format!("{error}")))?;
        let read = Envelope::decode(&self.bytes);
        read.map_err(|error| Broken::new(format!("{:?}: {error}", envelope.message)))
    }

    /// Whether a condition that is told in thousandths strikes now.
    fn draw(&mut self, condition: Trouble) -> bool {
        let amount = self.options.troubles.get(condition);
        amount > 0 && self.dice.network.u32(..1000) < amount
    }

    fn deliver(&mut self) {
        match self.network.receive(self.now) {
            // What was due is kept by a clogged link.
            None => {}
            Some(Arrival::Lost) => self.report.lost += 1,
            Some(Arrival::Message(envelope)) => {
                let to = index(envelope.to.0);
                let machine = &mut self.machines[to];
                let (from, message) = (envelope.from.node, &envelope.message);
                let (term, [what, more]) = (message.term().0, trace::words(message));
                let bytes = envelope.records.len() as u64;
                self.trace.note(
                    self.now,
                    [4, from.0, envelope.to.0, term, what, more, bytes],
                    || format!("node {from} to node {}: {:?}", to + 1, envelope.message),
                );
                if let Some(node) = &machine.node
                    && let Some(inbound) = &*machine.inbound.lock()
                {
                    self.report.coverage.count(envelope.message.kind(), node.core().role());
                    // A full inbox loses messages; the sender is not told.
                    let _ = inbound.deliver(envelope);
                    machine.wakes_at = Time(0);
                } else {
                    self.report.lost += 1;
                }
            }
        }
    }

    /// Whether no trouble reaches this machine.
    pub(super) fn is_calm(&self, at: usize) -> bool {
        self.calm >> at & 1 == 1
    }

    /// Draws after how many events the next trouble comes.
    fn plan_trouble(&mut self) {
        let rate = u64::from(self.options.troubles.rate());
        self.next_trouble = if rate == 0 || self.phase == Phase::AllHealed {
            u64::MAX
        } else {
            self.report.events + 1 + self.dice.troubles.u64(..2 * (100_000 / rate).max(1))
        };
    }

    /// Runs until `done`, which must be so in bounded time.
    pub(super) fn run_until(
        &mut self,
        what: &str,
        patience: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), Broken> {
        let (until, last) = (self.now.after(patience), self.report.events + MAX_SETTLING);
        while !done(self) {
            if self.now > until || self.report.events > last {
                let nodes = self.machines.iter().map(Machine::describe);
                let nodes: Vec<_> = nodes.collect();
                return Err(Broken::new(format!("{what}: {}", nodes.join("; "))));
            }
            self.step()?;
        }
        Ok(())
    }

    /// Everybody has an answer, and every node has applied the same whole log.
    fn is_settled(&self) -> bool {
        let committed = self.witness.committed();
        self.clients.iter().all(Client::is_idle)
            && self.are_probes_idle()
            && self.machines.iter().filter(|machine| !machine.is_lost).all(|machine| {
                machine.node.as_ref().is_some_and(|node| {
                    node.applied() == committed
                        && node.core().last().index == committed
                        && node.pending() == 0
                })
            })
    }

    fn check_end(&mut self) -> Result<(), Broken> {
        for at in 0..self.machines.len() {
            let machine = &self.machines[at];
            if let Some(node) = &machine.node {
                if !node.door_is_empty() {
                    let id = machine.id;
                    return Err(Broken::new(format!("node {id}: not all room has come back")));
                }
                let digest = node.look(|state| self.workload.digest(&state.machine));
                self.outcomes.check_state(at, machine.id, digest)?;
            }
        }
        let machines = self.machines.iter().enumerate();
        self.outcomes.finish(machines.filter(|(_, m)| !m.is_lost).map(|(at, _)| at))
    }

    /// A node that leads, as far as it knows.
    pub(super) fn a_leader(&self) -> Option<usize> {
        self.machines.iter().position(|machine| {
            machine.node.as_ref().is_some_and(|node| node.core().role() == Role::Leader)
        })
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_else(|| "no message".into()))
}
