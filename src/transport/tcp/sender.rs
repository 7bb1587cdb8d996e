//! The thread `n{id}-tx{peer}`: connects to one node, and sends what is queued for it.
//!
//! It waits for the queue and the socket at once. What it takes from the queue it writes with as few
//! system calls as the socket allows, straight from the log's memory. A ping now and then shows that the
//! other side still reads, and how long that takes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::Net;
use super::batch::{Batch, MAX_PARTS};
use super::bell::Sleeper;
use super::dial::dial;
use super::frame::FrameError;
use super::intake::{Incoming, Intake};
use super::link::Link;
use super::wire::{Wire, link_error, would_block};
use crate::message::Envelope;
use crate::sync::Instant;
use crate::transport::LinkError;

/// Records that are taken from the queue at once, unless a single message has more: what comes later and
/// is urgent waits for no more than that.
const BATCH_BYTES: usize = 256 << 10;
/// How long to wait before the first attempts to connect again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Connects and sends until the transport stops.
pub(super) fn run(net: &Net, link: &Arc<Link>, mut sleeper: Sleeper) {
    let mut pause = FIRST_PAUSE;
    while !net.is_stopping() {
        let error = match dial(net, link, &mut sleeper) {
            Ok(wire) => {
                let begun = Instant::now();
                let error = send(net, link, wire, &mut sleeper);
                if begun.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                error
            }
            Err(error) => error,
        };
        link.outgoing.failed(if net.is_stopping() { LinkError::Stopped } else { error });
        let until = Instant::now() + jittered(pause);
        sleeper.pause(until, || net.is_stopping() || link.is_hurried());
        pause = LONGEST_PAUSE.min(pause * 2);
        if link.is_hurried() {
            // Not at once, or two nodes whose connections break could keep each other busy with that.
            link.calm_down();
            pause = FIRST_PAUSE;
            sleeper.pause(Instant::now() + jittered(pause), || net.is_stopping());
        }
    }
}

/// Sends on this connection until it ends, and says why it did.
fn send(net: &Net, link: &Link, wire: Wire, sleeper: &mut Sleeper) -> LinkError {
    link.calm_down();
    link.outgoing.connected();
    link.outbox.open();
    let error = Connection::new(net, link, wire).serve(sleeper);
    let dropped = link.outbox.close();
    link.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
    // What was written may be lost as well: the node has to ask what arrived.
    net.inbound.dropped(link.id);
    error
}

/// Between half of `pause` and one and a half of it, so that nodes do not connect in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause / 2 + pause * (random % 1024) as u32 / 1024
}

/// A connection that messages go out on.
struct Connection<'a> {
    net: &'a Net,
    link: &'a Link,
    wire: Wire,
    batch: Batch,
    taken: Vec<Envelope>,
    answers: Intake,
    next_ping: Instant,
    /// The ping that has no answer, and when it was written.
    ping: Option<(u64, Instant)>,
    /// It is in the batch, and may not be written yet.
    ping_waits: bool,
    pings: u64,
    /// When the socket last took something, or there was nothing to take.
    moved: Instant,
}

impl<'a> Connection<'a> {
    fn new(net: &'a Net, link: &'a Link, wire: Wire) -> Self {
        let now = Instant::now();
        Self {
            net,
            link,
            wire,
            batch: Batch::default(),
            taken: Vec::new(),
            answers: Intake::new(0, 0),
            next_ping: now,
            ping: None,
            ping_waits: false,
            pings: 0,
            moved: now,
        }
    }

    /// Sends until the connection ends, and says why it did.
    fn serve(mut self, sleeper: &mut Sleeper) -> LinkError {
        loop {
            match self.step(sleeper) {
                Ok(()) => {}
                Err(error) => return error,
            }
        }
    }

    fn step(&mut self, sleeper: &mut Sleeper) -> Result<(), LinkError> {
        if self.net.is_stopping() {
            return Err(LinkError::Stopped);
        }
        let now = Instant::now();
        if self.batch.is_done() {
            self.fill(now);
        }
        let blocked = self.write(now)?;
        if self.ping.is_some() {
            self.read()?;
        }
        let silence = self.net.timing.silence;
        let unanswered = !self.ping_waits
            && self.ping.is_some_and(|(_, written)| now.duration_since(written) > silence);
        if unanswered || now.duration_since(self.moved) > silence {
            return Err(LinkError::Silent(silence));
        }
        if blocked || self.link.outbox.is_empty() {
            self.wait(sleeper, now, blocked)?;
        }
        Ok(())
    }

    /// Takes what is queued, and adds a ping if it is time.
    fn fill(&mut self, now: Instant) {
        self.batch.clear();
        if self.ping.is_none() && now >= self.next_ping {
            self.pings += 1;
            self.batch.push_ping(self.pings);
            self.ping = Some((self.pings, now));
            self.ping_waits = true;
            self.next_ping = now + self.net.timing.ping;
        }
        self.link.outbox.take(&mut self.taken, BATCH_BYTES);
        let mut lost = 0;
        let count = self.taken.len() as u64;
        for envelope in self.taken.drain(..) {
            if let Err(error) = self.batch.push(&envelope) {
                lost += 1;
                log::warn!("node={} peer={} not sent: {error}", self.net.me(), self.link.id);
            }
        }
        if lost > 0 {
            self.link.dropped.fetch_add(lost, Ordering::Relaxed);
            self.net.inbound.dropped(self.link.id);
        }
        self.link.outgoing.count(count - lost, 0);
    }

    /// Writes as much as the socket takes; true if that was not all.
    fn write(&mut self, now: Instant) -> Result<bool, LinkError> {
        let result = loop {
            if self.batch.is_done() {
                break self.wire.flush();
            }
            let mut slices = [IoSlice::new(&[]); MAX_PARTS];
            match self.wire.write(self.batch.next(&mut slices)) {
                Ok(bytes) => {
                    self.batch.advance(bytes);
                    self.link.outgoing.count(0, bytes);
                    self.moved = now;
                }
                Err(error) => break Err(error),
            }
        };
        match result {
            Ok(()) => {
                self.moved = now;
                if std::mem::take(&mut self.ping_waits)
                    && let Some((_, written)) = &mut self.ping
                {
                    *written = now;
                }
                Ok(false)
            }
            Err(error) if would_block(&error) => Ok(true),
            Err(error) => Err(link_error(&error)),
        }
    }

    /// Reads answers to pings; there is nothing else to read.
    fn read(&mut self) -> Result<(), LinkError> {
        loop {
            let bytes = match self.wire.read(self.answers.space()) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(bytes) => bytes,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(link_error(&error)),
            };
            let (ping, link) = (&mut self.ping, self.link);
            let taken = self.answers.frames(bytes, |incoming| match (incoming, *ping) {
                (Incoming::Pong(number), Some((sent, written))) if number == sent => {
                    link.set_round_trip(written.elapsed());
                    *ping = None;
                    Ok(())
                }
                _ => Err(FrameError::Malformed),
            });
            taken.map_err(LinkError::Frame)?;
        }
    }

    /// Waits until there is something to send, room to send it, or something to read.
    fn wait(
        &mut self,
        sleeper: &mut Sleeper,
        now: Instant,
        blocked: bool,
    ) -> Result<(), LinkError> {
        let silence = self.net.timing.silence;
        let until = match self.ping {
            _ if blocked => self.moved + silence,
            Some((_, written)) => written + silence,
            None => self.next_ping,
        };
        let until = until.max(now) + Duration::from_millis(1);
        let ready = {
            let mut fds = vec![PollFd::new(self.wire.stream(), self.wire.interest(blocked))];
            // While the socket is full, what is queued has to wait; it rings all the same.
            let work = || self.net.is_stopping() || (!blocked && !self.link.outbox.is_empty());
            sleeper.wait(&mut fds, until, work).map_err(|error| link_error(&error))?;
            fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
        };
        if ready { self.read() } else { Ok(()) }
    }
}
