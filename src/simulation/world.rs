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

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;

use super::SimDisk;
use super::witness::{Broken, Ledger, Witness};
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::error::{ProposeError, StopCause};
use crate::message::Envelope;
use crate::node::simulated::{Confirmation, PendingRead, Simulated};
use crate::node::{Node, Ticket};
use crate::transport::{Dropped, Inbound, Transport};
use crate::types::{LogIndex, NodeId};

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
    /// Partitions.
    pub partitions: u64,
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
    isolated: bool,
}

/// A cluster, its network and its clients.
pub struct World {
    options: Options,
    rng: Rng,
    clock: Arc<SimClock>,
    machines: BTreeMap<NodeId, Machine>,
    outbox: Outbox,
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
            let machine = Machine { disk, inbound: Arc::default(), running: None, isolated: false };
            (NodeId(id), machine)
        });
        let machines = machines.collect();
        let mut world = Self {
            rng,
            clock: Arc::default(),
            machines,
            outbox: Arc::default(),
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
        let builder = Node::builder(id, Ledger::default())
            .storage(Path::new("data"), Arc::clone(&machine.disk) as _)
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
        self.send_out();
        self.watch()
    }

    /// One loop that has something to do, one message that arrives, or the next moment.
    fn run_something(&mut self) -> Result<(), Broken> {
        let now = self.clock.now();
        let arrived = self.under_way.first_key_value().is_some_and(|((at, _), _)| *at <= now);
        let mut runnable: Vec<(NodeId, usize)> = Vec::new();
        for (id, machine) in &mut self.machines {
            if let Some(node) = &mut machine.running {
                runnable.extend(node.runnable(now).map(|which| (*id, which)));
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
            Some(cause) => Err(Broken::new(format!("node {id} stopped by itself: {cause}"))),
        }
    }

    fn pass_time(&mut self) {
        let machines = self.machines.values().filter_map(|machine| machine.running.as_ref());
        let next_loop = machines.filter_map(Simulated::next_moment).min();
        let next_message = self.under_way.first_key_value().map(|((at, _), _)| *at);
        let next = next_loop.into_iter().chain(next_message).min();
        // With every node down there is nothing to wait for but a restart.
        let next = next.unwrap_or_else(|| self.clock.now().after(self.options.config.tick));
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

    fn send_out(&mut self) {
        let sent = std::mem::take(&mut *self.outbox.lock());
        for envelope in sent {
            self.report.messages += 1;
            let cut = |id| self.machines[&id].isolated;
            if !self.calm
                && (cut(envelope.from.node)
                    || cut(envelope.to)
                    || self.chance(self.options.loss, 1000))
            {
                self.report.lost += 1;
                continue;
            }
            let copies = if !self.calm && self.chance(self.options.repeat, 1000) { 2 } else { 1 };
            self.report.repeated += copies - 1;
            for _ in 0..copies {
                let max_delay = self.options.max_delay.as_nanos() as u64;
                let delay = if self.calm { 0 } else { self.rng.u64(..=max_delay) };
                self.sent += 1;
                let at = Time(self.clock.now().0 + delay);
                self.under_way.insert((at, self.sent), envelope.clone());
            }
        }
    }

    fn chance(&mut self, of: u32, among: u32) -> bool {
        self.rng.u32(..among) < of
    }

    fn disturb(&mut self) -> Result<(), Broken> {
        let ids = self.ids();
        let id = ids[self.rng.usize(..ids.len())];
        if self.chance(self.options.crash, 10_000) {
            self.crash(id);
        }
        // Whoever is down comes back after a while.
        if self.machines[&id].running.is_none() && self.chance(1, 50) {
            self.start(id)?;
        }
        if self.chance(self.options.partition, 10_000) {
            self.report.partitions += 1;
            let isolated = self.rng.bool();
            for machine in self.machines.values_mut() {
                machine.isolated = false;
            }
            self.machines.get_mut(&id).expect("drawn from those there are").isolated = isolated;
        }
        Ok(())
    }

    fn crash(&mut self, id: NodeId) {
        let machine = self.machines.get_mut(&id).expect("drawn from those there are");
        if let Some(node) = machine.running.take() {
            self.report.crashes += 1;
            self.witness.crashed(id);
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
        for (write, mut ticket) in self.writes.drain(..) {
            match ticket.try_wait() {
                None => waiting.push((write, ticket)),
                Some(Ok(place)) => {
                    self.report.acknowledged += 1;
                    self.witness.acknowledge(write, place)?;
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

    /// Ends all faults and waits until everything that was promised is seen on every node.
    ///
    /// # Errors
    /// A promise that is not kept, or nodes that make no progress in peace.
    pub fn settle(mut self) -> Result<Report, Broken> {
        self.calm = true;
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
                    }
                    Some(Err(_)) => last = None,
                    None => {}
                },
                None => {}
            }
            if let Some(place) = place
                && self.machines.values().all(|machine| {
                    machine
                        .running
                        .as_ref()
                        .is_some_and(|node| node.status().applied >= place.index)
                })
            {
                self.witness.finish()?;
                return Ok(self.report);
            }
        }
        Err(Broken::new("the nodes make no progress in peace".into()))
    }
}

/// Folds a number into a trace.
fn mix(trace: u64, number: u64) -> u64 {
    (trace ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}
