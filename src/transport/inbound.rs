//! Where a transport puts what arrives: a lane of its own into the node, bounded in messages and bytes.
//! And what else a transport gets from its node: who that is, and threads that count as the node's.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use super::Dropped;
use crate::config::Config;
use crate::membership::Membership;
use crate::message::Envelope;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::channel::{Receiver, Sender, TrySendError, bounded};
use crate::threads::{Running, thread_name};
use crate::types::{NodeId, Sender as Signature};
use crate::wake::Waker;

/// Messages that may wait, whatever their size.
const MAX_QUEUED_MESSAGES: usize = 8192;

/// How many messages may wait where messages with entries may take `max_bytes`. The lane takes 200 bytes for
/// each from the start, so that a node with small limits is small.
fn max_messages(max_bytes: usize) -> usize {
    (max_bytes / 32).clamp(64, MAX_QUEUED_MESSAGES)
}

/// What a transport says to its node.
#[derive(Debug)]
pub(crate) enum PeerEvent {
    /// A message came.
    Message(Envelope),
    /// Something for this node was dropped on the way.
    Dropped(NodeId),
}

/// The node that a transport carries messages for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Local {
    /// How it signs its messages.
    pub sender: Signature,
    /// The cluster it belongs to.
    pub cluster_name: String,
    /// The members of the cluster at its beginning, with their addresses.
    pub members: Membership,
    /// Its limits and intervals.
    pub config: Config,
}

/// What a panic on a transport's thread comes to: the thread's name, and what it panicked with.
pub(crate) type OnPanic = Box<dyn Fn(&str, &(dyn Any + Send)) + Send + Sync>;

/// What is the same for all clones.
struct Host {
    local: Local,
    running: Arc<Running>,
    on_panic: OnPanic,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.local.sender.fmt(f)
    }
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// The transport's end of the lane. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Inbound {
    host: Arc<Host>,
    events: Sender<PeerEvent>,
    counters: Arc<Counters>,
    core: Waker,
}

impl Inbound {
    /// The node that listens here.
    pub fn node(&self) -> NodeId {
        self.host.local.sender.node
    }

    /// What a transport may tell others about that node.
    pub fn local(&self) -> &Local {
        &self.host.local
    }

    /// Starts a thread of the transport, named `n{id}-{role}{peer}` and counted as the node's: a shutdown
    /// waits for it, within its time, and names it if it has not ended. `work` must return soon after the
    /// transport is dropped. If it panics, the node stops.
    ///
    /// # Errors
    /// That of the operating system, which has no thread to give.
    ///
    /// # Panics
    /// If `role` is longer than six bytes: Linux keeps 15 of the whole name.
    pub fn spawn(
        &self,
        role: &str,
        peer: Option<NodeId>,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        assert!(role.len() <= 6, "a role named {role:?}");
        let name = thread_name(self.node(), role, peer);
        let host = Arc::clone(&self.host);
        self.host.running.spawn(name.clone(), move || {
            if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(work)) {
                (host.on_panic)(&name, &*panic);
            }
        })
    }

    /// Hands over a message that has arrived. Messages with entries are dropped when too many bytes
    /// wait; small ones only when thousands wait.
    ///
    /// # Errors
    /// [`Dropped`] if there was no room, the message is for another node, or the node has stopped.
    pub fn deliver(&self, envelope: Envelope) -> Result<(), Dropped> {
        let weight = envelope.weight();
        let bytes = self.counters.bytes.fetch_add(weight, Ordering::Relaxed) + weight;
        // Whatever is alone fits: one large entry must get through, with what surrounds it.
        let fits = envelope.records.is_empty()
            || bytes <= self.host.local.config.max_peer_queue_bytes
            || bytes == weight;
        if envelope.to == self.node() && fits && self.push(PeerEvent::Message(envelope)).is_ok() {
            return Ok(());
        }
        self.counters.bytes.fetch_sub(weight, Ordering::Relaxed);
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        Err(Dropped)
    }

    /// Says that something sent to `to` was lost on the way, a broken connection for example. The node
    /// then asks `to` what it has, instead of waiting to find out.
    pub fn dropped(&self, to: NodeId) {
        // Without room the loss shows by itself, when nothing is acknowledged.
        let _ = self.push(PeerEvent::Dropped(to));
    }

    fn push(&self, event: PeerEvent) -> Result<(), Dropped> {
        match self.events.try_send(event) {
            Ok(()) => {
                self.core.wake();
                Ok(())
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Dropped),
        }
    }
}

/// The node's end of the lane.
#[derive(Debug)]
pub(crate) struct PeerLane {
    events: Receiver<PeerEvent>,
    counters: Arc<Counters>,
}

impl PeerLane {
    /// Both ends of a lane into the node `local`, and the threads that the transport's are counted with.
    pub(crate) fn new(
        local: Local,
        core: Waker,
        running: Arc<Running>,
        on_panic: OnPanic,
    ) -> (Inbound, Self) {
        let (sender, events) = bounded(max_messages(local.config.max_peer_queue_bytes));
        let counters = Arc::<Counters>::default();
        let lane = Self { events, counters: Arc::clone(&counters) };
        let host = Arc::new(Host { local, running, on_panic });
        (Inbound { host, events: sender, counters, core }, lane)
    }

    /// The next thing that has arrived.
    pub(crate) fn take(&self) -> Option<PeerEvent> {
        let event = self.events.try_recv().ok()?;
        if let PeerEvent::Message(envelope) = &event {
            self.counters.bytes.fetch_sub(envelope.weight(), Ordering::Relaxed);
        }
        Some(event)
    }

    /// Whether something waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The bytes of what waits.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn bytes(&self) -> usize {
        self.counters.bytes.load(Ordering::Relaxed)
    }

    /// How many messages were dropped for want of room.
    pub(crate) fn dropped(&self) -> u64 {
        self.counters.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Append, Message};
    use crate::slices::Slices;
    use crate::types::Sender as From;

    #[test]
    fn one_message_always_fits_and_a_second_one_waits_for_room() {
        let (waker, _wakeup) = Waker::new();
        let local = Local {
            sender: From { node: NodeId(1), ..From::default() },
            config: Config { max_peer_queue_bytes: 100, ..Config::default() },
            ..Local::default()
        };
        let (inbound, lane) = PeerLane::new(local, waker, Arc::default(), Box::new(|_, _| {}));
        let deliver = || {
            let message = Message::Append(Append::default());
            let records = Slices::from(vec![0; 100]);
            inbound.deliver(Envelope { from: From::default(), to: NodeId(1), message, records })
        };
        assert_eq!(deliver(), Ok(()));
        assert_eq!(deliver(), Err(Dropped));
        assert!(lane.take().is_some());
        assert_eq!(deliver(), Ok(()));
        assert_eq!(lane.dropped(), 1);
    }
}
