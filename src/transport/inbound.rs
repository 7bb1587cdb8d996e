//! Where a transport puts what arrives: a lane of its own into the node, bounded in messages and bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::Dropped;
use crate::message::Envelope;
use crate::types::NodeId;
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

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// The transport's end of the lane. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Inbound {
    node: NodeId,
    events: Sender<PeerEvent>,
    counters: Arc<Counters>,
    max_bytes: usize,
    core: Waker,
}

impl Inbound {
    /// The node that listens here.
    pub fn node(&self) -> NodeId {
        self.node
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
        let fits = envelope.records.is_empty() || bytes <= self.max_bytes || bytes == weight;
        if envelope.to == self.node && fits && self.push(PeerEvent::Message(envelope)).is_ok() {
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
    /// Both ends of a lane into `node`.
    pub(crate) fn new(node: NodeId, max_bytes: usize, core: Waker) -> (Inbound, Self) {
        let (sender, events) = bounded(max_messages(max_bytes));
        let counters = Arc::<Counters>::default();
        let lane = Self { events, counters: Arc::clone(&counters) };
        (Inbound { node, events: sender, counters, max_bytes, core }, lane)
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
        let (inbound, lane) = PeerLane::new(NodeId(1), 100, waker);
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
