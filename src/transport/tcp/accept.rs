//! The thread `n{id}-accept`: takes connections in, and finds out who is there.
//!
//! It drives all greetings itself, so strangers cost no thread each. There is room for a few that have not
//! greeted; one more pushes the oldest out. So ten thousand idle connections hold no more memory and
//! file descriptors than a few, and a node that belongs here gets in between them.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};

use super::Net;
use super::bell::Sleeper;
use super::exchange::Exchange;
use super::greeting::{GreetingError, Refusal};
use super::wire;
use crate::sync::Instant;
use crate::transport::{LinkError, ListenerStatus};
use crate::types::Sender;

/// Connections that may be without a greeting at once.
const MAX_WAITING: usize = 64;
/// How long to leave the door alone when the system has no file descriptor or memory for a connection.
const BREATHER: Duration = Duration::from_millis(50);
/// How long to wait when there is nothing to wait for.
const IDLE: Duration = Duration::from_secs(3600);
/// Trouble at the door is logged no more often than this.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A connection whose greetings are not through.
struct Waiting {
    exchange: Exchange,
    address: SocketAddr,
    until: Instant,
    /// What was made of its greeting, once that is there.
    verdict: Option<(Sender, Result<u16, Refusal>)>,
}

/// Takes connections until the transport stops.
pub(super) fn run(net: &Net, listener: &TcpListener, mut sleeper: Sleeper) {
    let mut waiting: VecDeque<Waiting> = VecDeque::with_capacity(MAX_WAITING);
    let mut closed_until = None;
    while !net.is_stopping() {
        let now = Instant::now();
        closed_until = closed_until.filter(|until| *until > now);
        let ready = wait(net, listener, &waiting, closed_until, &mut sleeper);
        for ready in ready.iter().take(waiting.len()) {
            let next = waiting.pop_front().expect("as many as were waited for");
            waiting.extend(attend(net, next, *ready));
        }
        if ready.last() == Some(&true)
            && closed_until.is_none()
            && let Err(error) = let_in(net, listener, &mut waiting)
        {
            // Whoever waits longest gives up a file descriptor, so that this gets better by itself.
            waiting.pop_front();
            net.door.turned_away(net, wire::link_error(&error));
            closed_until = Some(Instant::now() + BREATHER);
        }
    }
}

/// Waits until somebody knocks, or one of those who wait can go on or has waited too long. Tells of each
/// whether it can go on, and last whether somebody knocks.
fn wait(
    net: &Net,
    listener: &TcpListener,
    waiting: &VecDeque<Waiting>,
    closed_until: Option<Instant>,
    sleeper: &mut Sleeper,
) -> Vec<bool> {
    let deadlines = waiting.iter().map(|waiting| waiting.until).chain(closed_until);
    let until = deadlines.min().unwrap_or_else(|| Instant::now() + IDLE);
    let mut fds: Vec<PollFd<'_>> =
        waiting.iter().map(|waiting| waiting.exchange.poll_fd()).collect();
    if closed_until.is_none() {
        fds.push(PollFd::new(listener, PollFlags::IN));
    }
    if let Err(error) = sleeper.wait(&mut fds, until, || net.is_stopping()) {
        net.door.turned_away(net, wire::link_error(&error));
    }
    fds.iter().map(|fd| !fd.revents().is_empty()).collect()
}

/// Accepts those who knock.
fn let_in(net: &Net, listener: &TcpListener, waiting: &mut VecDeque<Waiting>) -> io::Result<()> {
    // No more than there is room for, so that each is looked at before it is pushed out.
    for _ in 0..MAX_WAITING {
        let (stream, address) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(()),
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                _ => return Err(error),
            },
        };
        net.door.accepted.fetch_add(1, Ordering::Relaxed);
        let options = wire::set_options(&stream).map_err(|error| wire::link_error(&error));
        match options.and_then(|()| net.wire_from(stream)) {
            Ok(wire) => {
                if waiting.len() == MAX_WAITING {
                    waiting.pop_front();
                    net.door.turned_away(net, LinkError::Replaced);
                }
                let until = Instant::now() + net.timing.greeting;
                let exchange = Exchange::new(wire);
                waiting.push_back(Waiting { exchange, address, until, verdict: None });
            }
            Err(error) => net.door.turned_away(net, error),
        }
    }
    Ok(())
}

/// Goes on with one connection; returned if it has to wait again.
fn attend(net: &Net, mut waiting: Waiting, ready: bool) -> Option<Waiting> {
    if ready {
        match advance(net, &mut waiting) {
            Ok(false) => {}
            Ok(true) => {
                finish(net, waiting);
                return None;
            }
            Err(error) => {
                log::debug!("node={} from={} {error}", net.me(), waiting.address);
                net.door.turned_away(net, error);
                return None;
            }
        }
    }
    if Instant::now() >= waiting.until {
        net.door.turned_away(net, Exchange::late());
        return None;
    }
    Some(waiting)
}

/// Reads the greeting and writes the answer, as far as the socket allows; true if that is done.
fn advance(net: &Net, waiting: &mut Waiting) -> Result<bool, LinkError> {
    if waiting.verdict.is_none()
        && let Some(theirs) = waiting.exchange.read()?
    {
        if theirs.verdict.is_some() {
            return Err(LinkError::Greeting(GreetingError::Verdict));
        }
        let link = net.links.get(&theirs.from.node);
        let wire = waiting.exchange.wire();
        let (answer, verdict) = net.greeting.answer(
            &theirs,
            |id| net.links.contains_key(&id),
            link.and_then(|link| link.seen()),
            |name| wire.is_certified(name),
        );
        waiting.exchange.say(&answer);
        waiting.verdict = Some((theirs.from, verdict));
    }
    Ok(waiting.exchange.write()? && waiting.verdict.is_some())
}

/// Hands a welcome connection over, and remembers why another was refused.
fn finish(net: &Net, waiting: Waiting) {
    let (from, verdict) = waiting.verdict.expect("there is one when it is written");
    let link = net.links.get(&from.node);
    match (verdict, link) {
        (Ok(_), Some(link)) => {
            link.saw(from);
            link.arrivals.leave(waiting.exchange.into_wire(), from);
            link.hurry();
        }
        (Ok(_), None) => unreachable!("node {} is not among the members", from.node),
        (Err(refusal), link) => {
            let error = LinkError::Refused(refusal);
            if let Some(link) = link {
                link.incoming.turned_away(error.clone());
            }
            net.door.turned_away(net, error);
        }
    }
}

/// What is counted and told of the place where others connect.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    accepted: AtomicU64,
    turned_away: AtomicU64,
    state: Mutex<DoorState>,
}

#[derive(Debug, Default)]
struct DoorState {
    last_error: Option<LinkError>,
    logged: Option<Instant>,
}

impl Door {
    pub(super) fn new(address: SocketAddr) -> Self {
        let (accepted, turned_away) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { address, accepted, turned_away, state: Mutex::default() }
    }

    fn turned_away(&self, net: &Net, error: LinkError) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            state.logged = Some(Instant::now());
            log::warn!("node={} turned a connection away: {error}", net.me());
        }
        state.last_error = Some(error);
    }

    pub(super) fn status(&self) -> ListenerStatus {
        ListenerStatus {
            address: self.address,
            accepted: self.accepted.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
            last_error: self.state.lock().last_error.clone(),
        }
    }
}
