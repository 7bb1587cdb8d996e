//! One other node: what is queued for it, how the connections to and from it are doing, and the handover
//! of connections from the thread that accepts them to the one that reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::bell::Bell;
use super::outbox::Outbox;
use super::wire::{Socket, Wire};
use crate::transport::{Direction, LinkError, LinkStatus};
use crate::types::{NodeId, Sender};

/// The same trouble is logged no more often than this.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Other trouble no more often than this: strangers can make as much of it as they like.
const LOG_NEWS_EVERY: Duration = Duration::from_secs(1);

/// Everything about one other node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: NodeId,
    pub(super) address: String,
    pub(super) outbox: Outbox,
    /// Wakes the thread that sends.
    pub(super) bell: Arc<Bell>,
    pub(super) outgoing: Track,
    pub(super) incoming: Track,
    /// Connections that came in, for the thread that reads.
    pub(super) arrivals: Arrivals,
    pub(super) dropped: AtomicU64,
    round_trip: AtomicU64,
    /// The other node's latest boot that has been heard of.
    seen: Mutex<Option<Sender>>,
    /// The other node has just shown itself: connecting is worth an attempt.
    hurry: AtomicBool,
}

impl Link {
    pub(super) fn new(
        local: NodeId,
        id: NodeId,
        address: String,
        max_bytes: usize,
        bell: Arc<Bell>,
    ) -> Self {
        Self {
            id,
            address,
            outbox: Outbox::new(max_bytes, Arc::clone(&bell)),
            bell,
            outgoing: Track::new(local, id, "outgoing"),
            incoming: Track::new(local, id, "incoming"),
            arrivals: Arrivals::default(),
            dropped: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            seen: Mutex::new(None),
            hurry: AtomicBool::new(false),
        }
    }

    /// The other node's latest boot that has been heard of.
    pub(super) fn seen(&self) -> Option<Sender> {
        *self.seen.lock()
    }

    /// The other node has greeted as this.
    pub(super) fn saw(&self, sender: Sender) {
        let mut seen = self.seen.lock();
        // It may greet on two connections at once, on which two threads look at what has been seen.
        let is_older =
            |seen: &Sender| seen.incarnation == sender.incarnation && seen.boot > sender.boot;
        if !seen.as_ref().is_some_and(is_older) {
            *seen = Some(sender);
        }
    }

    /// Has the next attempt to connect begin soon.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Whether the next attempt to connect should begin soon.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurry.load(Ordering::SeqCst)
    }

    /// There is no hurry any more.
    pub(super) fn calm_down(&self) {
        self.hurry.store(false, Ordering::SeqCst);
    }

    pub(super) fn set_round_trip(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.round_trip.store(nanos, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> LinkStatus {
        let round_trip = self.round_trip.load(Ordering::Relaxed);
        LinkStatus {
            id: self.id,
            address: self.address.clone(),
            outgoing: self.outgoing.status(),
            incoming: self.incoming.status(),
            dropped_messages: self.dropped.load(Ordering::Relaxed),
            round_trip: (round_trip > 0).then(|| Duration::from_nanos(round_trip)),
        }
    }
}

/// What is counted and told of one direction.
#[derive(Debug)]
pub(super) struct Track {
    local: NodeId,
    peer: NodeId,
    name: &'static str,
    messages: AtomicU64,
    bytes: AtomicU64,
    state: Mutex<TrackState>,
}

#[derive(Debug, Default)]
struct TrackState {
    connected: bool,
    connections: u64,
    last_error: Option<LinkError>,
    /// What was logged last, and when.
    logged: Option<(LinkError, Instant)>,
}

impl Track {
    fn new(local: NodeId, peer: NodeId, name: &'static str) -> Self {
        let (messages, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { local, peer, name, messages, bytes, state: Mutex::default() }
    }

    /// So much went this way.
    pub(super) fn count(&self, messages: u64, bytes: usize) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Both sides have agreed to a connection.
    pub(super) fn connected(&self) {
        let mut state = self.state.lock();
        state.connected = true;
        state.connections += 1;
        drop(state);
        log::info!("node={} peer={} {} connected", self.local, self.peer, self.name);
    }

    /// The connection has ended, or could not be had.
    pub(super) fn failed(&self, error: LinkError) {
        let had = std::mem::replace(&mut self.state.lock().connected, false);
        self.tell(if had { "disconnected" } else { "not connected" }, error);
    }

    /// A connection came to nothing, in the name of the other node; there may be a good one beside it.
    pub(super) fn turned_away(&self, error: LinkError) {
        self.tell("turned away", error);
    }

    fn tell(&self, what: &str, error: LinkError) {
        let mut state = self.state.lock();
        let is_due = state.logged.as_ref().is_none_or(|(logged, at)| {
            at.elapsed() >= if *logged == error { LOG_EVERY } else { LOG_NEWS_EVERY }
        });
        if error != LinkError::Stopped && is_due {
            state.logged = Some((error.clone(), Instant::now()));
            log::warn!("node={} peer={} {} {what}: {error}", self.local, self.peer, self.name);
        }
        state.last_error = Some(error);
    }

    fn status(&self) -> Direction {
        let state = self.state.lock();
        Direction {
            connected: state.connected,
            connections: state.connections,
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
        }
    }
}

/// Hands connections over, the newest in place of older ones.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    state: Mutex<ArrivalsState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ArrivalsState {
    next: Option<(Wire, Sender)>,
    /// The one that is being read.
    current: Option<Socket>,
    closed: bool,
}

impl Arrivals {
    /// Leaves a connection, and ends the one that is being read.
    pub(super) fn leave(&self, wire: Wire, from: Sender) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if let Some(current) = &state.current {
            current.shut_down();
        }
        state.next = Some((wire, from));
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for a connection; `None` when there will be no more.
    pub(super) fn wait(&self) -> Option<(Wire, Sender)> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some((wire, from)) = state.next.take() {
                state.current = Some(wire.socket().clone());
                return Some((wire, from));
            }
            state.current = None;
            self.changed.wait(&mut state);
        }
    }

    /// Whether another connection waits to take the place of the one that is being read.
    pub(super) fn has_next(&self) -> bool {
        self.state.lock().next.is_some()
    }

    /// Ends everything.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.next = None;
        if let Some(current) = state.current.take() {
            current.shut_down();
        }
        drop(state);
        self.changed.notify_all();
    }
}
