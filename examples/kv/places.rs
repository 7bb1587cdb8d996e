//! Who is served: as many clients as may be, and who has to go when another comes.
//!
//! Idle clients hold places that others need, by mistake or on purpose. When all are taken, a client that
//! comes pushes out the one that has been idle longest: first those that never sent a request, then those
//! that have. One with a request under way is never pushed out; where all have one, who comes is sent away.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long one that was pushed out may take to be gone; it has nothing to do but to notice.
const LEAVING: Duration = Duration::from_secs(1);

/// What a client is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// It never sent a whole request.
    Silent,
    /// It has all its replies.
    Idle,
    /// It waits for a reply, or is about to finish a request that is not its first.
    Busy,
    PushedOut,
}

struct Taken {
    id: u64,
    address: SocketAddr,
    stream: Arc<TcpStream>,
    come: Instant,
    /// And since when.
    state: Mutex<(State, Instant)>,
}

/// The places of a server, and who has them.
pub(crate) struct Places {
    limit: usize,
    taken: Mutex<BTreeMap<u64, Arc<Taken>>>,
    /// Somebody left.
    left: Condvar,
    come: AtomicU64,
    rejected: AtomicU64,
    pushed_out: AtomicU64,
}

/// One of them, until it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    taken: Arc<Taken>,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
            left: Condvar::new(),
            come: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            pushed_out: AtomicU64::new(0),
        }
    }

    /// A place for a client, if need be that of another; `None` if nobody can be pushed out.
    pub(crate) fn take(
        self: &Arc<Self>,
        stream: Arc<TcpStream>,
        address: SocketAddr,
    ) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.len() >= self.limit {
            // Files and threads are as few as places: it must be gone before another takes its place.
            let gone = push_one_out(&taken, address).is_some_and(|id| {
                self.pushed_out.fetch_add(1, Ordering::Relaxed);
                let is_there = |taken: &mut BTreeMap<u64, _>| taken.contains_key(&id);
                !self.left.wait_while_for(&mut taken, is_there, LEAVING).timed_out()
            });
            if !gone {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        }
        let id = 1 + self.come.fetch_add(1, Ordering::Relaxed);
        let come = Instant::now();
        let state = Mutex::new((State::Silent, come));
        let place = Arc::new(Taken { id, address, stream, come, state });
        taken.insert(id, Arc::clone(&place));
        Some(Place { places: Arc::clone(self), taken: place })
    }

    /// Clients that came and got a place.
    pub(crate) fn come(&self) -> u64 {
        self.come.load(Ordering::Relaxed)
    }

    /// Clients that were sent away, since there was no place.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Clients that had to leave for others.
    pub(crate) fn pushed_out(&self) -> u64 {
        self.pushed_out.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.taken.lock().len()
    }

    /// Waits until nobody waits for a reply, at most for `timeout`.
    pub(crate) fn wait_quiet(&self, timeout: Duration) {
        const PAUSE: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + timeout;
        let is_busy = |taken: &Arc<Taken>| taken.state.lock().0 == State::Busy;
        while self.taken.lock().values().any(is_busy) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
    }

    /// A line for each client, as `CLIENT LIST` has it.
    pub(crate) fn list(&self) -> String {
        let mut list = String::new();
        for taken in self.taken.lock().values() {
            let Taken { id, address, come, .. } = &**taken;
            let (age, idle) = (come.elapsed().as_secs(), taken.state.lock().1.elapsed().as_secs());
            writeln!(list, "id={id} addr={address} name= age={age} idle={idle} flags=N db=0")
                .expect("a string takes what it is given");
        }
        list
    }
}

/// Makes the client leave that can best be done without; returns its number.
fn push_one_out(taken: &BTreeMap<u64, Arc<Taken>>, comes: SocketAddr) -> Option<u64> {
    // Whoever sends a request meanwhile stays, and another is looked for.
    loop {
        let may_go = taken.values().filter_map(|taken| {
            let state = *taken.state.lock();
            matches!(state.0, State::Silent | State::Idle).then_some((state, taken))
        });
        let (seen, goes) = may_go.min_by_key(|(state, _)| *state)?;
        let mut state = goes.state.lock();
        if *state != seen {
            continue;
        }
        let why = if seen.0 == State::Silent { "never sent a request" } else { "is idle" };
        log::info!(
            "client={} pushed out by client={comes}: all places={} are taken, and of those that can \
             go it {why} for the longest time idle_ms={}",
            goes.address,
            taken.len(),
            seen.1.elapsed().as_millis(),
        );
        *state = (State::PushedOut, Instant::now());
        // Ends its wait for requests.
        let _ = goes.stream.shutdown(Shutdown::Both);
        return Some(goes.id);
    }
}

impl Place {
    pub(crate) fn id(&self) -> u64 {
        self.taken.id
    }

    /// Something came from the client. False if it was pushed out, so that nothing may be done for it.
    pub(crate) fn begin(&self) -> bool {
        let mut state = self.taken.state.lock();
        if state.0 == State::PushedOut {
            return false;
        }
        *state = (State::Busy, Instant::now());
        true
    }

    /// It has all its replies, if it ever asked for one.
    pub(crate) fn rest(&self, ever_asked: bool) {
        let state = if ever_asked { State::Idle } else { State::Silent };
        *self.taken.state.lock() = (state, Instant::now());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().remove(&self.taken.id);
        self.places.left.notify_all();
    }
}
