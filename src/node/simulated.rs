//! A node whose loops the simulator drives, one step at a time.
//!
//! Holds the very loops that threads would drive, and shows the simulator what no handle shows: the
//! consensus core as it is between two steps. Decides nothing: which loop runs when is the simulator's.

use std::sync::Arc;
use std::time::Duration;

use super::apply_loop::ApplyLoop;
use super::builder::{Assembled, NodeBuilder};
use super::core_loop::CoreLoop;
pub(crate) use super::reads::Confirmation;
use super::reads::ReadGroup;
use super::seg_loop::SegLoop;
use super::shared::{Loop, Shared, Wait};
use super::snap_loop::SnapLoop;
use super::stop::Phase;
use super::wal_loop::WalLoop;
use super::{Handle, Node, Ticket, Tickets, Waits};
use crate::clock::Time;
use crate::consensus::Core;
use crate::error::{ProposeError, ReadError, StartError, StopCause};
use crate::state_machine::StateMachine;
use crate::sync::Instant;
use crate::types::LogIndex;
use crate::wake::Wakeup;

/// How many loops a node has. They are named by number, so that sets of them are bits of a byte.
pub(crate) const LOOPS: usize = 5;
pub(crate) const CORE: usize = 0;
pub(crate) const WAL: usize = 1;
pub(crate) const SEG: usize = 2;
pub(crate) const APPLY: usize = 3;
pub(crate) const SNAP: usize = 4;
/// What their threads are called.
pub(crate) const LOOP_NAMES: [&str; LOOPS] = ["core", "wal", "seg", "apply", "snap"];

/// A node without threads.
pub(crate) struct Simulated<S: StateMachine> {
    core: CoreLoop<S>,
    wal: Option<WalLoop<S>>,
    seg: SegLoop<S>,
    apply: ApplyLoop<S>,
    snap: SnapLoop<S>,
    wakeups: [Wakeup; LOOPS],
    waits: [Wait; LOOPS],
    node: Node<S>,
}

/// How much waits where in a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queues {
    /// Inside the door, without an answer.
    pub(crate) proposals: usize,
    pub(crate) proposal_bytes: usize,
    /// Sent to a follower, and not acknowledged by it; the most of all followers.
    pub(crate) appends: usize,
    pub(crate) append_bytes: usize,
    /// Messages that the core has not looked at.
    pub(crate) arrived_bytes: usize,
    /// Proposals for the leader that it has not answered for.
    pub(crate) outgoing_bytes: usize,
    /// Proposals of followers that wait for room in the log.
    pub(crate) incoming_bytes: usize,
    /// Messages that wait for term and vote to be stored.
    pub(crate) held: usize,
    /// Bytes of entries that are in the log and not applied.
    pub(crate) unapplied: usize,
    /// Those of them that are committed.
    pub(crate) due: usize,
}

/// Which loops have something to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// One bit for each.
    pub(crate) loops: u8,
    /// The next moment that one of the others waits for.
    pub(crate) next: Option<Time>,
}

impl<S: StateMachine> Simulated<S> {
    /// As [`NodeBuilder::start`], without starting threads. `apply_on_core` stands for
    /// [`StateMachine::APPLY_IS_SHORT`].
    pub(crate) fn start(builder: NodeBuilder<S>, apply_on_core: bool) -> Result<Self, StartError> {
        let Assembled { shared, running, wakeups, mut core, wal, seg, apply, snap } =
            builder.assemble()?;
        core.applies_here = apply_on_core;
        let node = Node { handle: Arc::new(Handle { shared, running }) };
        let wakeups = [wakeups.core, wakeups.wal, wakeups.seg, wakeups.apply, wakeups.snap];
        let mut waits = [Wait::No; LOOPS];
        if wal.is_none() {
            waits[WAL] = Wait::Done;
        }
        Ok(Self { core, wal, seg, apply, snap, wakeups, waits, node })
    }

    /// The loops that have something to do. A token that is taken is remembered.
    pub(crate) fn ready(&mut self, now: Time) -> Ready {
        let mut ready = Ready { loops: 0, next: None };
        for (which, wait) in self.waits.iter_mut().enumerate() {
            if matches!(wait, Wait::Wake | Wait::Until(_)) && self.wakeups[which].taken() {
                *wait = Wait::No;
            }
            match *wait {
                Wait::Until(moment) if moment > now => {
                    ready.next = Some(ready.next.map_or(moment, |next| next.min(moment)));
                }
                Wait::No | Wait::Until(_) => ready.loops |= 1 << which,
                Wait::Wake | Wait::Done => {}
            }
        }
        ready
    }

    /// Lets one loop do a step.
    pub(crate) fn step(&mut self, which: usize, now: Time) {
        self.waits[which] = match which {
            CORE => self.core.step(now),
            WAL => {
                let wait = self.wal.as_mut().map_or(Wait::Done, |wal| wal.step(now));
                // It may have had nothing to do when `begin_work` said that it had begun.
                if wait != Wait::No {
                    self.shared().wal.busy.end();
                }
                wait
            }
            SEG => self.seg.step(now),
            APPLY => {
                let wait = self.apply.step(now);
                // As above.
                self.shared().apply.busy.end();
                wait
            }
            SNAP => self.snap.step(now),
            _ => unreachable!("loop {which} of {LOOPS}"),
        };
    }

    /// A write, a flush or a batch of entries has begun, and takes until the loop is stepped.
    pub(crate) fn begin_work(&self, which: usize, now: Time) {
        let busy = match which {
            WAL => &self.shared().wal.busy,
            APPLY => &self.shared().apply.busy,
            _ => return,
        };
        // A flush is the same piece of work as the write before it.
        if busy.lasts(now).is_zero() {
            busy.begin(now);
        }
    }

    /// Whether records were written to the disk and are not flushed.
    pub(crate) fn has_written(&self) -> bool {
        self.wal.as_ref().is_some_and(WalLoop::has_written)
    }

    /// Whether records, term or vote are being made durable.
    pub(crate) fn is_flushing(&self) -> bool {
        self.wal.as_ref().is_some_and(WalLoop::is_under_way)
    }

    /// The consensus core, as its last step left it.
    pub(crate) fn core(&self) -> &Core {
        &self.core.core
    }

    /// Tells the core to campaign.
    pub(crate) fn campaign(&mut self, now: Time) {
        self.core.campaign(now);
    }

    /// How far the state is.
    pub(crate) fn applied(&self) -> LogIndex {
        self.shared().applied.get()
    }

    /// Proposals inside the door.
    pub(crate) fn pending(&self) -> usize {
        self.shared().inbox.pending()
    }

    /// Whether readers wait for a confirmation.
    pub(crate) fn readers_wait(&self) -> bool {
        !self.core.readers.is_empty()
    }

    /// How much waits where.
    pub(crate) fn queues(&mut self) -> Queues {
        let (applied, inbox) = (self.applied(), &self.node.handle.shared.inbox);
        let (proposals, proposal_bytes) = (inbox.pending(), inbox.pending_bytes());
        let core = &mut self.core;
        let inflights = core.core.progress().map(|(_, progress)| progress.inflights());
        let (appends, append_bytes) = inflights
            .fold((0, 0), |(len, bytes), next| (len.max(next.len()), bytes.max(next.bytes())));
        Queues {
            proposals,
            proposal_bytes,
            appends,
            append_bytes,
            arrived_bytes: core.peers.bytes(),
            outgoing_bytes: core.outgoing.bytes(),
            incoming_bytes: core.incoming.bytes(),
            held: core.core.held(),
            unapplied: core.backlog.bytes(applied),
            due: core.backlog.due(applied, core.core.committed()),
        }
    }

    /// Whether all room at the door has come back.
    pub(crate) fn door_is_empty(&self) -> bool {
        self.shared().inbox.is_empty()
    }

    /// Whether the node takes nothing new any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared().stop.is_stopping()
    }

    /// Why the node stopped at once, if it did.
    pub(crate) fn failed(&self) -> Option<StopCause> {
        self.shared().stop.is_halted().then(|| self.shared().stop.cause_or_shutdown())
    }

    /// Whether every loop is done.
    pub(crate) fn has_ended(&self) -> bool {
        self.waits.iter().all(|wait| *wait == Wait::Done)
    }

    /// The handle that clients use. Only calls that do not wait may be made.
    pub(crate) fn node(&self) -> &Node<S> {
        &self.node
    }

    /// Looks at the state, whatever it is.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(&self.shared().state.read())
    }

    fn shared(&self) -> &Arc<Shared<S>> {
        &self.node.handle.shared
    }

    /// As [`Node::submit`], with a deadline by the node's own clock, and without waiting at the door.
    pub(crate) fn submit(
        &self,
        command: S::Command,
        patience: Duration,
    ) -> Result<Ticket<S>, ProposeError<S::Command>> {
        self.node.submit_by(command, no_wait(patience))
    }

    /// As [`Node::submit_many`], alike.
    pub(crate) fn submit_many(
        &self,
        commands: Vec<S::Command>,
        patience: Duration,
    ) -> Result<Tickets<S>, ProposeError<Vec<S::Command>>> {
        self.node.submit_many_by(commands, no_wait(patience))
    }

    /// Begins a linearizable read; `None` if the node has stopped.
    pub(crate) fn begin_read(&self) -> Option<PendingRead> {
        self.shared().reads.join().map(PendingRead)
    }

    /// Looks at the state for a reader, once it has applied `index`; `None` as long as it has not.
    pub(crate) fn read_at<T>(
        &self,
        index: LogIndex,
        look: impl FnOnce(&S) -> T,
    ) -> Option<Result<T, ReadError>> {
        let waits = self.applied() < index && !self.is_stopping();
        (!waits).then(|| self.node.look_by(Instant::now(), look))
    }

    /// Ends the node without letting any loop do anything more.
    pub(crate) fn crash(self, cause: StopCause) {
        self.shared().stop(Phase::Halted, cause);
    }
}

/// Nobody waits in the simulator, neither at the door nor for an answer: the world goes on instead.
fn no_wait(patience: Duration) -> Waits {
    let deadline = super::deadline_after(Duration::MAX);
    Waits { timeout: patience, door: Instant::now(), deadline }
}

/// A linearizable read under way.
pub(crate) struct PendingRead(Arc<ReadGroup>);

impl PendingRead {
    /// What the reader was told, once it was.
    pub(crate) fn poll(&self) -> Option<Confirmation> {
        self.0.told()
    }
}

#[cfg(test)]
mod tests;
