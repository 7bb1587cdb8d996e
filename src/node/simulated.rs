//! A node whose loops the simulator drives, one step at a time.

use std::sync::Arc;

use parking_lot::RwLockReadGuard;

use super::builder::{Assembled, NodeBuilder};
pub(crate) use super::reads::Confirmation;
use super::reads::ReadGroup;
use super::shared::{Loop, Shared, Wait};
use super::stop::Phase;
use super::{Handle, Node, Status};
use crate::clock::Time;
use crate::error::{StartError, StopCause};
use crate::state_machine::StateMachine;
use crate::wake::Wakeup;

/// One loop, and what it waits for.
struct Driven {
    looping: Box<dyn Loop>,
    wakeup: Wakeup,
    wait: Wait,
}

impl Driven {
    fn new(looping: impl Loop + 'static, wakeup: Wakeup) -> Self {
        Self { looping: Box::new(looping), wakeup, wait: Wait::No }
    }

    /// Whether it has something to do. A token that is taken is remembered.
    fn is_runnable(&mut self, now: Time) -> bool {
        match self.wait {
            Wait::No => true,
            Wait::Done => false,
            Wait::Until(moment) if moment <= now => true,
            Wait::Wake | Wait::Until(_) => {
                let woken = self.wakeup.taken();
                if woken {
                    self.wait = Wait::No;
                }
                woken
            }
        }
    }
}

/// A node without threads.
pub(crate) struct Simulated<S: StateMachine> {
    loops: Vec<Driven>,
    node: Node<S>,
}

impl<S: StateMachine> Simulated<S> {
    /// As [`NodeBuilder::start`], without starting threads.
    pub(crate) fn start(builder: NodeBuilder<S>) -> Result<Self, StartError> {
        let Assembled { shared, running, wakeups, core, wal, seg, apply, snap } =
            builder.assemble()?;
        let mut loops = vec![
            Driven::new(core, wakeups.core),
            Driven::new(seg, wakeups.seg),
            Driven::new(apply, wakeups.apply),
            Driven::new(snap, wakeups.snap),
        ];
        loops.extend(wal.map(|wal| Driven::new(wal, wakeups.wal)));
        let node = Node { handle: Arc::new(Handle { shared, running }) };
        Ok(Self { loops, node })
    }

    /// The loops that have something to do.
    pub(crate) fn runnable(&mut self, now: Time) -> impl Iterator<Item = usize> {
        let loops = self.loops.iter_mut().enumerate();
        loops.filter_map(move |(which, driven)| driven.is_runnable(now).then_some(which))
    }

    /// Lets one loop do a step.
    pub(crate) fn step(&mut self, which: usize, now: Time) {
        let driven = &mut self.loops[which];
        driven.wait = driven.looping.step(now);
    }

    /// The next moment that a loop waits for.
    pub(crate) fn next_moment(&self) -> Option<Time> {
        let moments = self.loops.iter().filter_map(|driven| match driven.wait {
            Wait::Until(moment) => Some(moment),
            Wait::No | Wait::Wake | Wait::Done => None,
        });
        moments.min()
    }

    /// The handle that clients use. Only calls that do not wait may be made.
    pub(crate) fn node(&self) -> &Node<S> {
        &self.node
    }

    pub(crate) fn status(&self) -> Status {
        self.node.status()
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, S> {
        self.shared().state.read()
    }

    fn shared(&self) -> &Arc<Shared<S>> {
        &self.node.handle.shared
    }

    /// Begins a linearizable read; `None` if the node has stopped.
    pub(crate) fn begin_read(&self) -> Option<PendingRead> {
        self.shared().reads.join().map(PendingRead)
    }

    /// Ends the node without letting any loop do anything more.
    pub(crate) fn crash(self, cause: StopCause) {
        self.shared().stop(Phase::Halted, cause);
        drop(self.loops);
    }
}

/// A linearizable read under way.
pub(crate) struct PendingRead(Arc<ReadGroup>);

impl PendingRead {
    /// What the reader was told, once it was.
    pub(crate) fn poll(&self) -> Option<Confirmation> {
        self.0.told()
    }
}
