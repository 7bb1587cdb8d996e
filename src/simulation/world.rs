//! A cluster of real nodes in one thread, under one seed.
//!
//! The nodes' own loops run: the consensus core, the log over a [`SimDisk`], the `wal`, `seg`, `apply` and
//! `snap` loops. What is replaced is what drives them. Where a thread would run, the world picks one of
//! the loops that have something to do, at random; where time would pass, it jumps to the next moment at
//! which anything happens. Messages are lost, repeated, delayed and reordered; nodes crash, lose what
//! they had not flushed, and start again.
//!
//! After every step the [`Witness`] looks at all of it, and the caller learns of the first promise that
//! was broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;

use super::witness::{Broken, Ledger, Witness};
use super::{Fault, FaultError, Operation, SimDisk, durable};
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::error::{ProposeError, StopCause};
use crate::membership::{Member, Membership};
use crate::message::Envelope;
use crate::node::simulated::{Confirmation, PendingRead, Simulated};
use crate::node::{Node, Ticket};
use crate::transport::{Dropped, Inbound, Transport};
use crate::types::{EntryId, LogIndex, NodeId};
use crate::wal::{LogOptions, Recovered};

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything that is drawn is drawn from this.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: u64,
    /// Messages in a thousand that are lost.
    pub loss: u32,
    /// Messages in a thousand that arrive twice.
    pub repeat: u32,
    /// The longest that a message may take; each takes a time of its own, so they overtake each other.
    pub max_delay: Duration,
    /// Steps in ten thousand at which a node crashes.
    pub crash: u32,
    /// Steps in ten thousand at which a node is cut off, or all are connected again.
    pub partition: u32,
    /// Steps in ten thousand at which one loop of a node is not scheduled for up to three seconds.
    pub slow: u32,
    /// Steps in ten thousand at which a failure of one node's disk is planned.
    pub fault: u32,
    /// The state machines keep their own state, so the log lets go of its beginning.
    pub keeps_state: bool,
    /// The nodes' limits and intervals.
    pub config: Config,
}

impl Options {
    /// Some of everything, drawn from the seed: one world loses many messages, another crashes often.
    pub fn swarm(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let config = Config {
            propose_timeout: Duration::from_secs(3600),
            segment_bytes: 1 << 16,
            max_entry_bytes: 1 << 10,
            max_batch_bytes: 1 << 12,
            max_append_bytes: 1 << 12,
            max_inflight_bytes: 1 << 14,
            max_inflight_appends: rng.usize(1..16),
            max_unapplied_bytes: [1 << 12, 1 << 14, 1 << 20][rng.usize(..3)],
            ready_segments: 1,
            ..Config::small()
        };
        Self {
            seed,
            nodes: [1, 3, 3, 3, 4, 5][rng.usize(..6)],
            loss: [0, 10, 100, 300][rng.usize(..4)],
            repeat: [0, 10, 100][rng.usize(..3)],
            max_delay: Duration::from_millis([0, 5, 50, 200][rng.usize(..4)]),
            crash: [0, 5, 20, 50][rng.usize(..4)],
            partition: [0, 5, 20][rng.usize(..3)],
            slow: [0, 5, 20][rng.usize(..3)],
            fault: [0, 0, 10][rng.usize(..3)],
            keeps_state: rng.bool(),
            config,
        }
    }
}

/// What happened in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Steps of loops.
    pub steps: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Messages that were lost, by chance or by a partition.
    pub lost: u64,
    /// Messages that arrived twice.
    pub repeated: u64,
    /// Crashes.
    pub crashes: u64,
    /// Changes of the links between nodes.
    pub partitions: u64,
    /// Nodes that stopped because their disk failed.
    pub faults: u64,
    /// Terms that had a leader.
    pub leaders: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes that were told that they never happened.
    pub refused: u64,
    /// Writes whose outcome stayed unknown to their caller.
    pub unknown: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Entries that were applied somewhere.
    pub entries: u64,
    /// A number that two runs share only if everything in them was the same.
    pub trace: u64,
}

/// The world's clock.
#[derive(Debug, Default)]
struct SimClock(AtomicU64);

impl Clock for SimClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::Relaxed))
    }
}

/// What nodes have sent and the world has not seen yet.
type Outbox = Arc<Mutex<Vec<Envelope>>>;

struct SimTransport {
    outbox: Outbox,
    inbound: Arc<Mutex<Option<Inbound>>>,
}

impl Transport for SimTransport {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        *self.inbound.lock() = Some(inbound);
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        self.outbox.lock().push(envelope);
        Ok(())
    }
}

struct Machine {
    disk: Arc<SimDisk>,
    inbound: Arc<Mutex<Option<Inbound>>>,
    /// `None` while the node is down.
    running: Option<Simulated<Ledger>>,
    /// What the state machine begins with at the next start.
    ledger: Ledger,
    /// A failure of the disk has been planned since the last start.
    is_faulty: bool,
    /// Loops that are not scheduled before these moments.
    held: BTreeMap<usize, Time>,
}

/// A cluster, its network and its clients.
pub struct World {
    options: Options,
    rng: Rng,
    clock: Arc<SimClock>,
    machines: BTreeMap<NodeId, Machine>,
    outbox: Outbox,
    /// Links that carry nothing, by sender and receiver.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Messages under way, by the moment of their arrival and the order of their sending.
    under_way: BTreeMap<(Time, u64), Envelope>,
    sent: u64,
    writes: Vec<(u64, Ticket<Ledger>)>,
    reads: Vec<(LogIndex, NodeId, PendingRead)>,
    next_write: u64,
    witness: Witness,
    report: Report,
    calm: bool,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("report", &self.report).finish_non_exhaustive()
    }
}

/// How many loops a node has.
const LOOPS: usize = 5;
/// Which of them is the core's.
const CORE: usize = 0;
/// Which of them flushes.
const WAL: usize = 4;
/// Clients do not wait for more writes than this at once.
const MAX_WRITES: usize = 64;

impl World {
    /// A world whose nodes have just been started for the first time.
    ///
    /// # Errors
    /// A promise that is broken already.
    pub fn new(options: Options) -> Result<Self, Broken> {
        let mut rng = Rng::with_seed(options.seed);
        let machines = (1..=options.nodes).map(|id| {
            let disk = Arc::new(SimDisk::new(rng.u64(..)));
            let machine = Machine {
                disk,
                inbound: Arc::default(),
                running: None,
                ledger: Ledger::new(options.keeps_state),
                is_faulty: false,
                held: BTreeMap::new(),
            };
            (NodeId(id), machine)
        });
        let machines = machines.collect();
        let mut world = Self {
            rng,
            clock: Arc::default(),
            machines,
            outbox: Arc::default(),
            cut: BTreeSet::new(),
            under_way: BTreeMap::new(),
            sent: 0,
            writes: Vec::new(),
            reads: Vec::new(),
            next_write: 1,
            witness: Witness::default(),
            report: Report::default(),
            calm: false,
            options,
        };
        for id in world.ids() {
            world.start(id)?;
        }
        Ok(world)
    }

    /// Runs a world of this kind: `steps` steps under its faults, then in peace until everything that was
    /// promised is seen to be kept.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(options: Options, steps: u64) -> Result<Report, Broken> {
        let mut world = Self::new(options)?;
        for _ in 0..steps {
            world.step()?;
        }
        world.settle()
    }

    /// What happened so far.
    pub fn report(&self) -> Report {
        self.report
    }

    fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    fn start(&mut self, id: NodeId) -> Result<(), Broken> {
        let members = self.ids().into_iter().map(|id| (id, format!("sim:{id}")));
        let machine = self.machines.get_mut(&id).expect("ids are those of machines");
        let transport = SimTransport {
            outbox: Arc::clone(&self.outbox),
            inbound: Arc::clone(&machine.inbound),
        };
        machine.disk.clear_faults();
        machine.is_faulty = false;
        let builder = Node::builder(id, machine.ledger.survivor())
            .storage(Path::new(durable::DIR), Arc::clone(&machine.disk) as _)
            .clock(Arc::clone(&self.clock) as _)
            .transport(transport)
            .members(members)
            .config(self.options.config.clone());
        let running = Simulated::start(builder)
            .map_err(|error| Broken::new(format!("node {id} does not start again: {error}")))?;
        self.machines.get_mut(&id).expect("just seen").running = Some(running);
        Ok(())
    }

    /// Does one thing, and looks whether every promise still holds.
    ///
    /// # Errors
    /// The promise that does not.
    pub fn step(&mut self) -> Result<(), Broken> {
        self.report.steps += 1;
        if !self.calm {
            self.disturb()?;
            self.act();
        }
        self.run_something()?;
        self.send_out()?;
        self.watch()
    }

    /// One loop that has something to do, one message that arrives, or the next moment.
    fn run_something(&mut self) -> Result<(), Broken> {
        let now = self.clock.now();
        let arrived = self.under_way.first_key_value().is_some_and(|((at, _), _)| *at <= now);
        let mut runnable: Vec<(NodeId, usize)> = Vec::new();
        for (id, machine) in &mut self.machines {
            machine.held.retain(|_, until| *until > now);
            if let Some(node) = &mut machine.running {
                let free = node.runnable(now).filter(|which| !machine.held.contains_key(which));
                runnable.extend(free.map(|which| (*id, which)));
            }
        }
        let choices = runnable.len() + usize::from(arrived);
        if choices == 0 {
            self.pass_time();
        } else {
            let choice = self.rng.usize(..choices);
            match runnable.get(choice) {
                Some(&(id, which)) => self.run_loop(id, which, now)?,
                None => self.deliver(),
            }
        }
        Ok(())
    }

    fn run_loop(&mut self, id: NodeId, which: usize, now: Time) -> Result<(), Broken> {
        let machine = self.machines.get_mut(&id).expect("it is running");
        let node = machine.running.as_mut().expect("it is running");
        node.step(which, now);
        self.report.trace = mix(self.report.trace, id.0 << 8 | which as u64);
        match node.status().stopped {
            None => Ok(()),
            Some(StopCause::Storage(_)) if machine.is_faulty => {
                self.report.faults += 1;
                self.crash(id);
                Ok(())
            }
            Some(cause) => Err(Broken::new(format!("node {id} stopped by itself: {cause}"))),
        }
    }

    fn pass_time(&mut self) {
        let machines = self.machines.values().filter_map(|machine| machine.running.as_ref());
        let next_loop = machines.filter_map(Simulated::next_moment);
        let next_message = self.under_way.first_key_value().map(|((at, _), _)| *at);
        let held = self.machines.values().flat_map(|machine| machine.held.values().copied());
        // What is held may have been due for long.
        let now = self.clock.now();
        let moments = next_loop.chain(next_message).chain(held);
        let next = moments.filter(|moment| *moment > now).min();
        // With every node down there is nothing to wait for but a restart.
        let next = next.unwrap_or_else(|| now.after(self.options.config.tick));
        self.clock.0.fetch_max(next.0, Ordering::Relaxed);
    }

    fn deliver(&mut self) {
        let (_, envelope) = self.under_way.pop_first().expect("one has arrived");
        self.report.trace = mix(self.report.trace, envelope.message.term().0);
        let machine = &self.machines[&envelope.to];
        if machine.running.is_some()
            && let Some(inbound) = &*machine.inbound.lock()
        {
            // A full inbox loses messages; the sender is not told.
            let _ = inbound.deliver(envelope);
        }
    }

    fn send_out(&mut self) -> Result<(), Broken> {
        let sent = std::mem::take(&mut *self.outbox.lock());
        for envelope in sent {
            self.report.messages += 1;
            self.check_what_is_said(&envelope)?;
            let cut = self.cut.contains(&(envelope.from.node, envelope.to));
            if !self.calm && (cut || self.chance(self.options.loss, 1000)) {
                self.report.lost += 1;
                continue;
            }
            let copies = if !self.calm && self.chance(self.options.repeat, 1000) { 2 } else { 1 };
            self.report.repeated += copies - 1;
            for copy in 0..copies {
                // The second one may come when nobody remembers the first.
                let max_delay = self.options.max_delay.as_nanos() as u64 * (1 + 20 * copy);
                let delay = if self.calm { 0 } else { self.rng.u64(..=max_delay) };
                self.sent += 1;
                let at = Time(self.clock.now().0 + delay);
                self.under_way.insert((at, self.sent), envelope.clone());
            }
        }
        Ok(())
    }

    /// Holds what a node says against what its disk has for good.
    fn check_what_is_said(&mut self, envelope: &Envelope) -> Result<(), Broken> {
        let from = envelope.from.node;
        // A node that has just crashed may have sent something before.
        if self.machines[&from].running.is_none() {
            return Ok(());
        }
        durable::check_term_and_vote(&self.machines[&from].disk, envelope)?;
        if let Some(acknowledged) = durable::acknowledged_by(&envelope.message)
            && self.chance(if self.machines[&from].held.contains_key(&WAL) { 64 } else { 1 }, 512)
        {
            let recovered = self.recover(from)?;
            let last = durable::last(&recovered);
            // What was acknowledged in an earlier term may have been truncated in a later one.
            let is_current = envelope.message.term() >= recovered.hard_state.term;
            if is_current && last < acknowledged {
                let why =
                    format!("node {from} acknowledges {acknowledged} with {last} on its disk");
                return Err(Broken::new(why));
            }
        }
        Ok(())
    }

    fn recover(&self, id: NodeId) -> Result<Recovered, Broken> {
        let members = self.ids().into_iter().map(|id| (id, Member::at(format!("sim:{id}"))));
        let members = Membership::of_voters(members);
        let options = LogOptions::from(&self.options.config);
        durable::recover(&self.machines[&id].disk, id, &members, &options)
    }

    /// Looks whether a majority of disks has what a caller was told is applied.
    fn check_durable(&self, entry: EntryId) -> Result<(), Broken> {
        let mut holders = 0;
        for id in self.ids() {
            holders += usize::from(durable::holds(&self.recover(id)?, entry));
        }
        if 2 * holders > self.machines.len() {
            Ok(())
        } else {
            let all = self.machines.len();
            let why = format!("{entry} is acknowledged, and {holders} disks of {all} hold it");
            Err(Broken::new(why))
        }
    }

    fn chance(&mut self, of: u32, among: u32) -> bool {
        self.rng.u32(..among) < of
    }

    fn disturb(&mut self) -> Result<(), Broken> {
        let ids = self.ids();
        let mut id = ids[self.rng.usize(..ids.len())];
        // Leaders have the worst luck: their uncommitted tails are where it gets difficult.
        if self.rng.bool()
            && let Some(leader) = self.a_leader()
        {
            id = leader;
        }
        if self.chance(self.options.crash, 10_000) {
            // Now and then the lights go out everywhere.
            let all = self.chance(1, 8);
            for id in if all { ids } else { vec![id] } {
                self.crash(id);
            }
        }
        // Whoever is down comes back after a while.
        if self.machines[&id].running.is_none() && self.chance(1, 50) {
            self.start(id)?;
        }
        if self.chance(self.options.partition, 10_000) {
            self.report.partitions += 1;
            self.cut_links(id);
        }
        if self.chance(self.options.slow, 10_000) {
            let until = self.clock.now().after(Duration::from_millis(self.rng.u64(..3000)));
            let which = [CORE, WAL, self.rng.usize(..LOOPS)][self.rng.usize(..3)];
            self.machines.get_mut(&id).expect("drawn").held.insert(which, until);
            // A machine that sleeps hears nothing when it wakes either, until its network is up.
            if which == CORE && self.rng.bool() {
                self.cut_off(id);
            }
        }
        if self.chance(self.options.fault, 10_000) {
            let operation = [None, Some(Operation::Write), Some(Operation::Sync)];
            let fault = Fault {
                operation: operation[self.rng.usize(..operation.len())],
                after: self.rng.u64(..20),
                error: [FaultError::Io, FaultError::NoSpace][self.rng.usize(..2)],
                lasting: self.rng.bool(),
            };
            let machine = self.machines.get_mut(&id).expect("drawn");
            machine.disk.fail(fault);
            machine.is_faulty = true;
        }
        Ok(())
    }

    fn a_leader(&self) -> Option<NodeId> {
        let mut running =
            self.machines.iter().filter_map(|(id, m)| Some((*id, m.running.as_ref()?)));
        running.find(|(_, node)| node.node().leads()).map(|(id, _)| id)
    }

    fn cut_off(&mut self, id: NodeId) {
        for other in self.ids() {
            self.cut.extend([(id, other), (other, id)]);
        }
        // What was under way is lost with the link.
        self.under_way.retain(|_, envelope| envelope.to != id && envelope.from.node != id);
    }

    /// Connects everything, or cuts off `id` in one direction or both, or parts the nodes in two.
    fn cut_links(&mut self, id: NodeId) {
        self.cut.clear();
        let shape = self.rng.u32(..6);
        let parting = self.rng.u64(..1 << self.machines.len());
        let side = |id: NodeId| parting >> (id.0 - 1) & 1;
        for from in self.ids() {
            for to in self.ids() {
                let is_cut = match shape {
                    0 => from == id || to == id,
                    1 => from == id,
                    2 => to == id,
                    3 => side(from) != side(to),
                    _ => false,
                };
                if is_cut {
                    self.cut.insert((from, to));
                }
            }
        }
    }

    fn crash(&mut self, id: NodeId) {
        let machine = self.machines.get_mut(&id).expect("drawn from those there are");
        if let Some(node) = machine.running.take() {
            self.report.crashes += 1;
            self.witness.crashed(id);
            machine.ledger = node.state().survivor();
            machine.held.clear();
            node.crash(StopCause::Crash);
            *machine.inbound.lock() = None;
            if self.rng.bool() {
                machine.disk.crash();
            } else {
                machine.disk.kill();
            }
        }
    }

    /// What clients do.
    fn act(&mut self) {
        let ids = self.ids();
        let id = ids[self.rng.usize(..ids.len())];
        let Some(node) = &self.machines[&id].running else { return };
        if self.writes.len() < MAX_WRITES && self.rng.u32(..4) == 0 {
            let write = self.next_write;
            self.next_write += 1;
            if let Ok(ticket) = node.node().submit(write) {
                self.writes.push((write, ticket));
            } else {
                self.report.refused += 1;
                self.witness.refused(write);
            }
        }
        if self.reads.len() < MAX_WRITES && self.rng.u32(..8) == 0 {
            let at_least = self.witness.acknowledged();
            if let Some(read) = node.begin_read() {
                self.reads.push((at_least, id, read));
            }
        }
    }

    /// Looks at everything.
    fn watch(&mut self) -> Result<(), Broken> {
        for (id, machine) in &self.machines {
            if let Some(node) = &machine.running {
                self.witness.look(*id, &node.status(), &node.state())?;
            }
        }
        self.report.leaders = self.witness.leaders();
        self.report.entries = self.witness.entries();
        self.watch_writes()?;
        self.watch_reads()
    }

    fn watch_writes(&mut self) -> Result<(), Broken> {
        let mut waiting = Vec::with_capacity(self.writes.len());
        for (write, mut ticket) in std::mem::take(&mut self.writes) {
            match ticket.try_wait() {
                None => waiting.push((write, ticket)),
                Some(Ok(place)) => {
                    self.report.acknowledged += 1;
                    self.witness.acknowledge(write, place)?;
                    if self.chance(1, 64) {
                        self.check_durable(place)?;
                    }
                }
                Some(Err(ProposeError::Unknown { .. })) => self.report.unknown += 1,
                Some(Err(_)) => {
                    self.report.refused += 1;
                    self.witness.refused(write);
                }
            }
        }
        self.writes = waiting;
        Ok(())
    }

    fn watch_reads(&mut self) -> Result<(), Broken> {
        let mut waiting = Vec::with_capacity(self.reads.len());
        for (at_least, id, read) in self.reads.drain(..) {
            match read.poll() {
                None => waiting.push((at_least, id, read)),
                Some(Confirmation::Confirmed(index)) => {
                    self.report.reads += 1;
                    if index < at_least {
                        let why =
                            format!("node {id} may read at {index} what was written at {at_least}");
                        return Err(Broken::new(why));
                    }
                }
                // It may be tried again.
                Some(Confirmation::NotLeader(_) | Confirmation::Stopped(_)) => {}
            }
        }
        self.reads = waiting;
        Ok(())
    }

    /// How far all nodes have applied, if all run and are equally far.
    fn all_applied(&self) -> Option<LogIndex> {
        let mut all = self.machines.values().map(|machine| {
            let status = machine.running.as_ref()?.status();
            (status.applied == status.committed).then_some(status.applied)
        });
        let first = all.next()?;
        let level = all.all(|applied| applied == first);
        if level { first } else { None }
    }

    /// Ends all faults and waits until everything that was promised is seen on every node.
    ///
    /// # Errors
    /// A promise that is not kept, or nodes that make no progress in peace.
    pub fn settle(mut self) -> Result<Report, Broken> {
        self.calm = true;
        for machine in self.machines.values_mut() {
            machine.disk.clear_faults();
            machine.held.clear();
        }
        for id in self.ids() {
            if self.machines[&id].running.is_none() {
                self.start(id)?;
            }
        }
        // One more write, to see that they can.
        let write = self.next_write;
        let mut last: Option<Ticket<Ledger>> = None;
        let mut place = None;
        for _ in 0..2_000_000 {
            self.step()?;
            match &mut last {
                None if place.is_none() => {
                    let nodes =
                        self.machines.values().filter_map(|machine| machine.running.as_ref());
                    last = nodes.map(Simulated::node).find_map(|node| node.submit(write).ok());
                }
                Some(ticket) => match ticket.try_wait() {
                    Some(Ok(applied)) => {
                        place = Some(applied);
                        last = None;
                        // What was lost on the way to a leader is known to be when a later write of
                        // the same node is applied.
                        let nodes = self.machines.values().filter_map(|m| m.running.as_ref());
                        for (node, write) in nodes.map(Simulated::node).zip(write + 1..) {
                            drop(node.submit(write));
                        }
                    }
                    Some(Err(_)) => last = None,
                    None => {}
                },
                None => {}
            }
            if let Some(place) = place
                && self.all_applied().is_some_and(|applied| applied >= place.index)
                && self.is_quiet()
            {
                self.witness.finish()?;
                return Ok(self.report);
            }
        }
        let states: Vec<_> = self.machines.values().filter_map(|m| m.running.as_ref()).collect();
        let states: Vec<_> = states.iter().map(|node| node.status()).collect();
        let (writes, reads) = (self.writes.len(), self.reads.len());
        Err(Broken::new(format!(
            "no progress in peace: {writes} writes and {reads} reads wait, {states:#?}"
        )))
    }

    /// Everybody has an answer, and all room at the doors has come back.
    fn is_quiet(&self) -> bool {
        let mut nodes = self.machines.values().filter_map(|machine| machine.running.as_ref());
        self.writes.is_empty()
            && self.reads.is_empty()
            && nodes.all(|node| node.status().pending == 0)
    }
}

/// Folds a number into a trace.
fn mix(trace: u64, number: u64) -> u64 {
    (trace ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}
