//! One simulated machine: a disk, a clock, and the node that runs on them while it does.
//!
//! Knows which of its node's loops may be run now. Which of those is run, and what happens to the machine, is
//! the world's to decide.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::SimDisk;
use super::durable::{self, Durable};
use super::lives::MustHave;
use super::trouble::Trouble;
use super::workload::{Lines, Observed, Workload};
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::consensus::Generation;
use crate::error::{StartError, StopCause};
use crate::message::Envelope;
use crate::node::Node;
use crate::node::simulated::{CORE, LOOPS, Simulated};
use crate::transport::{Dropped, Inbound, Transport};
use crate::types::NodeId;

/// The end of time: nothing is waited for.
pub(super) const NEVER: Time = Time(u64::MAX);

/// A machine's own clock, set by hand before anything looks at it.
#[derive(Debug, Default)]
struct SimClock(AtomicU64);

impl Clock for SimClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::Relaxed))
    }
}

/// What nodes have sent and the world has not seen yet.
pub(super) type Outbox = Arc<Mutex<Vec<Envelope>>>;

struct SimTransport {
    outbox: Outbox,
    inbound: Arc<Mutex<Option<Inbound>>>,
}

impl Transport for SimTransport {
    fn start(&mut self, inbound: Inbound) -> std::io::Result<()> {
        *self.inbound.lock() = Some(inbound);
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        self.outbox.lock().push(envelope);
        Ok(())
    }
}

/// How a machine's time follows from the world's: it is ahead, and goes at a rate of its own.
#[derive(Clone, Copy, Debug)]
struct Rate {
    ahead: u64,
    /// Nanoseconds that the clock gains in 1024 of the world's; fewer than it may lose.
    gain: i64,
}

impl Rate {
    fn local(self, now: Time) -> Time {
        // In whole units and the rest, so that nothing overflows.
        let (whole, rest) = ((now.0 >> 10).cast_signed(), (now.0 & 1023).cast_signed());
        let gained = whole * self.gain + ((rest * self.gain) >> 10);
        Time((now.0 + self.ahead).wrapping_add_signed(gained))
    }

    /// The first moment of the world at which the clock shows `local` or more; never, if that is too far.
    fn world(self, local: Time) -> Time {
        let elapsed = local.0.saturating_sub(self.ahead);
        if elapsed > u64::MAX >> 11 {
            return NEVER;
        }
        let guess = (elapsed << 10) / 1024_u64.wrapping_add_signed(self.gain);
        let mut now = Time(guess);
        while now.0 > 0 && self.local(Time(now.0 - 1)) >= local {
            now.0 -= 1;
        }
        while self.local(now) < local {
            now.0 += 1;
        }
        now
    }
}

/// What may happen to a node without being a bug, by what was done to its disk.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state in disguise")]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excuses {
    /// A call on the disk fails.
    pub(super) failing: bool,
    /// The power goes when it does.
    pub(super) power: bool,
    /// It is full: no reason to stop, but one not to start.
    pub(super) full: bool,
    /// Durable bytes have rotted. Stays, whatever restarts.
    pub(super) rotten: bool,
}

impl Excuses {
    /// Whether a node may stop by itself.
    pub(super) fn may_stop(self) -> bool {
        self.failing || self.rotten
    }

    /// Whether a node may refuse to start, until later or for good.
    pub(super) fn may_not_start(self) -> bool {
        self.may_stop() || self.full
    }
}

/// What waits for a node to have written something, and not flushed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ambush {
    /// The power goes, and comes back after so long.
    PowerCut(Duration),
    /// The flush takes so long.
    Stall(Duration),
}

pub(super) struct Machine<W: Workload> {
    pub(super) id: NodeId,
    pub(super) disk: Arc<SimDisk>,
    clock: Arc<SimClock>,
    rate: Rate,
    pub(super) inbound: Arc<Mutex<Option<Inbound>>>,
    /// `None` while the node is down.
    pub(super) node: Option<Simulated<Observed<W::Machine>>>,
    /// What the state machine begins with at the next start.
    pub(super) state: Option<W::Machine>,
    pub(super) lines: Lines,
    /// Loops that have something to do, as bits.
    ready: u8,
    /// Loops that are not scheduled, as bits, and until when.
    held: u8,
    held_until: [Time; LOOPS],
    /// The next moment at which any of this changes by itself.
    pub(super) wakes_at: Time,
    /// When it starts again, if it is down.
    pub(super) down_until: Time,
    pub(super) excuses: Excuses,
    /// How many ticks its node's core has had time for, and when the last of them was.
    pub(super) ticks: u64,
    ticked: Time,
    tick: Duration,
    /// Until when its disk is full.
    pub(super) full_until: Time,
    pub(super) ambush: Option<Ambush>,
    /// The log's generation when records were written that are not flushed.
    written_in: Option<Generation>,
    /// What its disk held when the node went down.
    pub(super) must_have: MustHave,
    /// It refuses to start, rightly, and for good.
    pub(super) is_lost: bool,
    /// What its disk holds for good.
    pub(super) durable: Durable,
}

impl<W: Workload> Machine<W> {
    pub(super) fn new(id: NodeId, seed: u64, ahead: Duration, gain: i64, lines: Lines) -> Self {
        Self {
            id,
            disk: Arc::new(SimDisk::new(seed)),
            clock: Arc::default(),
            rate: Rate { ahead: ahead.as_nanos() as u64, gain },
            inbound: Arc::default(),
            node: None,
            state: None,
            lines,
            ready: 0,
            held: 0,
            held_until: [Time(0); LOOPS],
            wakes_at: Time(0),
            down_until: Time(0),
            excuses: Excuses::default(),
            ticks: 0,
            ticked: Time(0),
            tick: Duration::ZERO,
            full_until: NEVER,
            ambush: None,
            written_in: None,
            must_have: MustHave::default(),
            is_lost: false,
            durable: Durable::default(),
        }
    }

    /// What the machine's clock shows; from here on its node sees that, too.
    pub(super) fn set_clock(&self, now: Time) -> Time {
        let local = self.rate.local(now);
        self.clock.0.store(local.0, Ordering::Relaxed);
        local
    }

    /// The clock jumps ahead.
    pub(super) fn jump(&mut self, ahead: Duration) {
        self.rate.ahead += ahead.as_nanos() as u64;
        self.wakes_at = Time(0);
    }

    /// Starts the node.
    ///
    /// # Errors
    /// As [`NodeBuilder::start`](crate::NodeBuilder::start).
    pub(super) fn start(
        &mut self,
        now: Time,
        outbox: &Outbox,
        members: impl IntoIterator<Item = NodeId>,
        config: Config,
        apply_on_core: bool,
        state: W::Machine,
    ) -> Result<(), StartError> {
        self.set_clock(now);
        self.tick = config.tick;
        let transport =
            SimTransport { outbox: Arc::clone(outbox), inbound: Arc::clone(&self.inbound) };
        let builder = Node::builder(self.id, Observed::new(state, self.lines.clone()))
            .storage(Path::new(durable::DIR), Arc::clone(&self.disk) as _)
            .clock(Arc::clone(&self.clock) as _)
            .transport(transport)
            .members(members.into_iter().map(|id| (id, format!("sim:{id}"))))
            .config(config);
        let node = Simulated::start(builder, apply_on_core)?;
        self.node = Some(node);
        self.ready = 0;
        self.held = 0;
        self.wakes_at = now;
        self.durable = Durable::read(&self.disk);
        Ok(())
    }

    /// The node is gone, with everything it had in memory. The disk is as it was.
    pub(super) fn crash(&mut self) {
        self.ready = 0;
        self.held = 0;
        self.written_in = None;
        self.ambush = None;
        self.wakes_at = self.down_until;
        *self.inbound.lock() = None;
        if let Some(node) = self.node.take() {
            node.crash(StopCause::Crash);
        }
    }

    /// How it is doing, in a line.
    pub(super) fn describe(&self) -> String {
        let id = self.id;
        match &self.node {
            None if self.is_lost => format!("node {id} is lost"),
            None => format!("node {id} is down"),
            Some(node) => {
                let core = node.core();
                let peers: Vec<_> = core.progress().collect();
                format!(
                    "node {id} is {} of {:?} in {}, base {}, last {}, committed {}, applied {} {peers:?}",
                    core.role(),
                    core.leader(),
                    core.term(),
                    core.base(),
                    core.last(),
                    core.committed(),
                    node.applied()
                )
            }
        }
    }

    /// Loops that may be run, as bits.
    pub(super) fn runnable(&self) -> u8 {
        self.ready & !self.held
    }

    /// Looks again which loops have something to do; returns those that did not before.
    pub(super) fn look_at_loops(&mut self, now: Time) -> u8 {
        let Some(node) = &mut self.node else { return 0 };
        let ready = node.ready(self.rate.local(now));
        let fresh = ready.loops & !self.ready;
        self.ready = ready.loops;
        let next = ready.next.map_or(NEVER, |local| self.rate.world(local));
        self.wakes_at = next.min(self.release(now)).min(self.full_until);
        fresh
    }

    /// Lets go of what was held long enough; returns the moment of the next.
    fn release(&mut self, now: Time) -> Time {
        let mut next = NEVER;
        for (which, until) in self.held_until.iter().enumerate() {
            if self.held & 1 << which != 0 {
                if *until <= now {
                    self.held &= !(1 << which);
                } else {
                    next = next.min(*until);
                }
            }
        }
        next
    }

    /// The `wal` loop has made a step: whether it was a flush that ended after a truncation which came after
    /// the write.
    pub(super) fn has_flushed_late(&mut self) -> bool {
        let Some(node) = &self.node else { return false };
        let generation = node.core().generation();
        if node.has_written() {
            self.written_in = Some(generation);
            return false;
        }
        self.written_in.take().is_some_and(|written_in| written_in < generation)
    }

    /// Whether something lies in wait for what was written and is not flushed, and there is such.
    pub(super) fn is_ambushed(&self) -> bool {
        let goes_on = |node: &Simulated<_>| node.failed().is_none() && node.is_flushing();
        self.ambush.is_some() && self.node.as_ref().is_some_and(goes_on)
    }

    /// Its disk is full until then.
    pub(super) fn is_full_until(&mut self, until: Time) {
        self.excuses.full = true;
        self.full_until = until;
        self.wakes_at = self.wakes_at.min(until);
    }

    /// Its disk has space again.
    pub(super) fn has_space(&mut self) {
        self.disk.clear_faults_by(Trouble::DiskFull);
        self.excuses.full = false;
        self.full_until = NEVER;
    }

    /// The calls on its disk do what they should, as far as there is space.
    pub(super) fn is_repaired(&mut self) {
        for trouble in [Trouble::DiskError, Trouble::ReadError, Trouble::PowerCut] {
            self.disk.clear_faults_by(trouble);
        }
        self.excuses.failing = false;
        self.excuses.power = false;
    }

    /// Does not schedule a loop before `until`.
    pub(super) fn hold(&mut self, which: usize, until: Time) {
        if self.held & 1 << which == 0 || self.held_until[which] < until {
            self.held_until[which] = until;
        }
        self.held |= 1 << which;
        self.wakes_at = self.wakes_at.min(until);
    }

    /// Lets every loop run again.
    pub(super) fn release_all(&mut self) {
        self.held = 0;
        self.wakes_at = Time(0);
    }

    /// A loop has something to do, and it takes until `until`.
    pub(super) fn work_slowly(&mut self, which: usize, now: Time, until: Time) {
        let local = self.rate.local(now);
        if let Some(node) = &self.node {
            node.begin_work(which, local);
        }
        self.hold(which, until);
    }

    /// Lets one loop do a step.
    pub(super) fn step(&mut self, which: usize, now: Time) {
        let local = self.set_clock(now);
        self.ready &= !(1 << which);
        if which == CORE && local.since(self.ticked) >= self.tick {
            self.ticks += 1;
            self.ticked = local;
        }
        if let Some(node) = &mut self.node {
            node.step(which, local);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_moment_at_which_a_clock_shows_a_time_is_found() {
        for gain in [-300, -1, 0, 1, 7, 300] {
            for ahead in [0, 1, 999_999_937] {
                let rate = Rate { ahead, gain };
                for now in [0, 1, 1023, 1024, 123_456_789, 1 << 45] {
                    let local = rate.local(Time(now));
                    let first = rate.world(local);
                    assert!(rate.local(first) >= local, "{rate:?} {now}");
                    assert!(
                        first.0 == 0 || rate.local(Time(first.0 - 1)) < local,
                        "{rate:?} {now}: {first:?} is not the first"
                    );
                }
            }
        }
    }
}
