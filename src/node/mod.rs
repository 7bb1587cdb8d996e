//! One node: the handle that callers hold, and behind it the threads that do the work.
//!
//! | thread | owns | woken by |
//! |---|---|---|
//! | `n{id}-core` | the consensus core, appending to the log, sending | inbox, messages, ticks, reports |
//! | `n{id}-wal` | writing back and flushing | a flush target |
//! | `n{id}-seg` | preparing, recycling and deleting segments | the pool's level |
//! | `n{id}-apply` | writing the state, answering tickets | the commit index |
//! | `n{id}-snap` | reading old entries for followers that lag | jobs |
//!
//! A node with its log in memory has no `wal` thread. Each thread drives a [`shared::Loop`]; the
//! simulator drives the same loops without threads. No thread of a node ever waits for another: room is
//! given out at the door ([`inbox`]), and every lane behind it holds one value that is replaced, or no
//! more than the door let in ([`shared`]).

mod apply_loop;
mod backlog;
mod builder;
mod core_loop;
mod forwards;
mod group;
mod inbox;
mod inside;
#[cfg(test)]
mod interleavings;
mod orders;
mod reads;
mod received;
#[cfg(oarlock_loom)]
#[path = "../../tests/schedules/src/loom/mod.rs"]
pub(crate) mod schedules;
#[cfg(oarlock_shuttle)]
#[path = "../../tests/schedules/src/shuttle/mod.rs"]
pub(crate) mod schedules;
mod seg_loop;
mod shared;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod simulated;
mod snap_loop;
mod status;
mod stop;
mod threads;
mod ticket;
mod wal_loop;
mod watch;

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use inbox::{Place, Refused};
use inside::Inside;
use reads::Confirmation;
use shared::Shared;
use stop::Phase;
pub(crate) use watch::deadline_after;

pub use builder::NodeBuilder;
pub use status::{PeerStatus, Status};
pub use ticket::{Ticket, Tickets};
pub use watch::{Leadership, LeadershipSubscription};

use crate::error::{ProposeError, ReadError, ShutdownError, StopCause};
use crate::state_machine::StateMachine;
use crate::sync::Instant;
use crate::threads::Running;
use crate::types::{EntryId, LogIndex, NodeId, Role};

/// What a proposal comes to.
pub type Reply<S> =
    Result<<S as StateMachine>::Response, ProposeError<<S as StateMachine>::Command>>;

/// What a read may miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// Nothing that was answered before the read began, anywhere in the cluster. The leader asks a quorum
    /// whether it still leads (`ReadIndex`, thesis §6.4), a follower asks the leader; one question serves all
    /// reads that wait.
    #[default]
    Linearizable,
    /// Nothing up to this entry, which must be known to be committed: that of an answered proposal, from
    /// [`Ticket::wait_appended`], which has an example. Works on every node; asks nobody.
    AtLeast(EntryId),
    /// Whatever has not been applied on this node yet. Asks nobody, and waits only for the state's lock.
    Stale,
}

/// How long the drop of the last handle waits for the threads.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
/// Encoding buffers above this are not kept for the next command.
const MAX_KEPT_BUFFER: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A node of a cluster. Clones are handles to the same node; when the last is dropped, the node stops.
///
/// Every method may be called from any thread, but not from inside the node itself: a call from `apply`,
/// or from a closure that reads the state of this node, is refused with `Reentrant`.
pub struct Node<S: StateMachine> {
    handle: Arc<Handle<S>>,
}

struct Handle<S: StateMachine> {
    shared: Arc<Shared<S>>,
    running: Arc<Running>,
}

impl<S: StateMachine> Clone for Node<S> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<S: StateMachine> fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl<S: StateMachine> Node<S> {
    /// Begins to put a node together: its id in the cluster, and its state machine as it is before the
    /// first entry.
    pub fn builder(id: impl Into<NodeId>, machine: S) -> NodeBuilder<S> {
        NodeBuilder::new(id.into(), machine)
    }

    fn shared(&self) -> &Arc<Shared<S>> {
        &self.handle.shared
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.shared().id
    }

    /// Replicates a command, and blocks until it is applied here; at most for
    /// [`Config::propose_timeout`](crate::Config::propose_timeout). On a follower the command goes to the
    /// leader, once: it is never sent a second time.
    ///
    /// # Errors
    /// Every error but [`ProposeError::Unknown`] says that the command was not applied and never will
    /// be, and hands it back.
    pub fn propose(&self, command: S::Command) -> Reply<S> {
        self.propose_timeout(command, self.shared().config.propose_timeout)
    }

    /// As [`propose`](Self::propose), with another timeout.
    ///
    /// # Errors
    /// As [`propose`](Self::propose).
    pub fn propose_timeout(&self, command: S::Command, timeout: Duration) -> Reply<S> {
        self.submit_timeout(command, timeout)?.wait()
    }

    /// Begins to replicate a command, and returns a ticket to wait with. Blocks only while the node holds
    /// as many proposals as it may. The deadline of the ticket is
    /// [`Config::propose_timeout`](crate::Config::propose_timeout) from now.
    ///
    /// Commands submitted by one thread enter the log in that order.
    ///
    /// # Errors
    /// What is known at once; the command is handed back.
    pub fn submit(&self, command: S::Command) -> Result<Ticket<S>, ProposeError<S::Command>> {
        self.submit_timeout(command, self.shared().config.propose_timeout)
    }

    fn submit_timeout(
        &self,
        command: S::Command,
        timeout: Duration,
    ) -> Result<Ticket<S>, ProposeError<S::Command>> {
        let deadline = deadline_after(timeout);
        self.submit_by(command, Waits { timeout, door: deadline, deadline })
    }

    fn submit_by(
        &self,
        command: S::Command,
        Waits { timeout, door, deadline }: Waits,
    ) -> Result<Ticket<S>, ProposeError<S::Command>> {
        let shared = self.shared();
        if let Err(error) = self.check_door() {
            return Err(error.map(|()| command));
        }
        let placed = with_buffer(|buffer| {
            self.encode(&command, buffer)?;
            shared.inbox.put(buffer, door, timeout).map_err(|refused| self.refused(&refused))
        });
        match placed {
            Ok(place) => Ok(Ticket::new(Arc::clone(shared), command, place, deadline)),
            Err(error) => Err(error.map(|()| command)),
        }
    }

    /// Begins to replicate many commands at once; they enter the log in this order, and share a deadline.
    ///
    /// # Errors
    /// Only if none of them got in, with all of them; otherwise every ticket tells its own outcome.
    pub fn submit_many(
        &self,
        commands: impl IntoIterator<Item = S::Command>,
    ) -> Result<Tickets<S>, ProposeError<Vec<S::Command>>> {
        let timeout = self.shared().config.propose_timeout;
        let deadline = deadline_after(timeout);
        let commands = commands.into_iter().collect();
        self.submit_many_by(commands, Waits { timeout, door: deadline, deadline })
    }

    fn submit_many_by(
        &self,
        mut commands: Vec<S::Command>,
        waits: Waits,
    ) -> Result<Tickets<S>, ProposeError<Vec<S::Command>>> {
        if commands.len() == 1
            && let Some(command) = commands.pop()
        {
            // By itself it needs no second buffer, which is dear for a long one.
            let submitted = self.submit_by(command, waits);
            return submitted
                .map(|ticket| Tickets(vec![ticket]))
                .map_err(|error| error.map(|command| vec![command]));
        }
        let Waits { timeout, door, deadline } = waits;
        if let Err(error) = self.check_door() {
            return Err(error.map(|()| commands));
        }
        let mut places = with_buffer(|buffer| self.place_all(&commands, buffer, door, timeout));
        let nothing_queued = !places.is_empty() && places.iter().all(Result::is_err);
        if nothing_queued && let Err(error) = places.swap_remove(0) {
            return Err(error.map(|()| commands));
        }
        let tickets = commands.into_iter().zip(places).map(|(command, place)| {
            let shared = Arc::clone(self.shared());
            match place {
                Ok(place) => Ticket::new(shared, command, place, deadline),
                Err(why) => Ticket::refused(shared, command, why, deadline),
            }
        });
        Ok(Tickets(tickets.collect()))
    }

    /// A place for each command, or why there is none.
    fn place_all(
        &self,
        commands: &[S::Command],
        buffer: &mut Vec<u8>,
        deadline: Instant,
        timeout: Duration,
    ) -> Vec<Result<Place<S::Response>, ProposeError<()>>> {
        let mut places = Vec::with_capacity(commands.len());
        let mut bytes: Vec<(usize, Range<usize>)> = Vec::with_capacity(commands.len());
        // Each is encoded by itself: an encoder that replaces its buffer would spoil those before.
        let mut own = Vec::new();
        for (at, command) in commands.iter().enumerate() {
            own.clear();
            match self.encode(command, &mut own) {
                Ok(()) => {
                    let start = buffer.len();
                    buffer.extend_from_slice(&own);
                    bytes.push((at, start..buffer.len()));
                    places.push(Err(ProposeError::Busy(())));
                }
                Err(error) => places.push(Err(error)),
            }
        }
        let inbox = &self.shared().inbox;
        let mut next = 0;
        while next < bytes.len() {
            let mut last = next;
            let rest = bytes[next..].iter().map(|(_, range)| &buffer[range.clone()]);
            let outcome = inbox.put_some(rest, timeout, |place| {
                places[bytes[last].0] = Ok(place);
                last += 1;
            });
            next = last;
            if outcome == Ok(()) {
                break;
            }
            // The next one waits its turn; those behind it follow as far as there is room.
            let (at, range) = bytes[next].clone();
            match inbox.put(&buffer[range], deadline, timeout) {
                Ok(place) => places[at] = Ok(place),
                Err(refused) => {
                    for (at, _) in &bytes[next..] {
                        places[*at] = Err(self.refused(&refused));
                    }
                    break;
                }
            }
            next += 1;
        }
        places
    }

    /// What forbids a proposal before anything is done for it.
    fn check_door(&self) -> Result<(), ProposeError<()>> {
        let shared = self.shared();
        if self.is_inside() {
            return Err(ProposeError::Reentrant(()));
        }
        if shared.stop.is_stopping() {
            return Err(self.refused(&Refused::Stopped));
        }
        if !shared.leadership.leads() {
            let leader = shared.leadership.get().leader;
            if leader.is_none() || !shared.config.forward {
                return Err(ProposeError::NotLeader { leader, command: () });
            }
        }
        Ok(())
    }

    fn refused(&self, refused: &Refused) -> ProposeError<()> {
        match refused {
            Refused::Busy => ProposeError::Busy(()),
            Refused::Stopped => {
                let cause = self.shared().stop.cause_or_shutdown();
                ProposeError::Stopped { cause, command: () }
            }
        }
    }

    /// Fills the empty `buffer` with the command's bytes, within the limit.
    fn encode(&self, command: &S::Command, buffer: &mut Vec<u8>) -> Result<(), ProposeError<()>> {
        S::encode(command, buffer)
            .map_err(|error| ProposeError::NotEncodable { error, command: () })?;
        let limit = self.shared().config.max_entry_bytes;
        if buffer.len() > limit {
            return Err(ProposeError::TooLarge { limit, command: () });
        }
        Ok(())
    }

    /// Reads the state, linearizably: everything that was answered before this call is in it. The closure
    /// runs on this thread, beside other readers, and applying waits for it: keep it short. Waits at most
    /// for [`Config::read_timeout`](crate::Config::read_timeout).
    ///
    /// ```
    /// # use oarlock::{Cluster, Machine};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Counter(u64);
    /// # impl Machine for Counter {
    /// #     type Command = u64;
    /// #     type Response = u64;
    /// #     fn apply(&mut self, add: u64) -> u64 { self.0 += add; self.0 }
    /// # }
    /// # let cluster = Cluster::memory(1, Counter::default)?;
    /// # let node = cluster.wait_leader(std::time::Duration::from_secs(60))?;
    /// node.propose(3)?;
    /// assert_eq!(node.read(|counter| counter.0)?, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ReadError`]; the closure did not run, and the read may be tried again.
    ///
    /// # Panics
    /// If the closure does; the node goes on.
    pub fn read<T>(&self, look: impl FnOnce(&S) -> T) -> Result<T, ReadError> {
        self.read_timeout(self.shared().config.read_timeout, look)
    }

    /// As [`read`](Self::read), with another timeout.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If the closure does; the node goes on.
    pub fn read_timeout<T>(
        &self,
        timeout: Duration,
        look: impl FnOnce(&S) -> T,
    ) -> Result<T, ReadError> {
        self.read_with_timeout(Consistency::Linearizable, timeout, look)
    }

    /// Reads the state with the guarantee that is asked for; see [`Consistency`].
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If the closure does; the node goes on.
    pub fn read_with<T>(
        &self,
        consistency: Consistency,
        look: impl FnOnce(&S) -> T,
    ) -> Result<T, ReadError> {
        self.read_with_timeout(consistency, self.shared().config.read_timeout, look)
    }

    /// As [`read_with`](Self::read_with), with another timeout.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If the closure does; the node goes on.
    pub fn read_with_timeout<T>(
        &self,
        consistency: Consistency,
        timeout: Duration,
        look: impl FnOnce(&S) -> T,
    ) -> Result<T, ReadError> {
        if self.is_inside() {
            return Err(ReadError::Reentrant);
        }
        let shared = self.shared();
        let deadline = deadline_after(timeout);
        let stopped = || ReadError::Stopped(shared.stop.cause_or_shutdown());
        let index = match consistency {
            Consistency::Linearizable => self.read_index(deadline)?,
            Consistency::AtLeast(entry) => entry.index,
            Consistency::Stale => LogIndex::ZERO,
        };
        let reached = shared.applied.wait(index, deadline, || shared.stop.is_stopping());
        if !reached {
            return Err(if shared.stop.is_stopping() { stopped() } else { ReadError::Timeout });
        }
        self.look_by(deadline, look)
    }

    /// Looks at the state as it is.
    fn look_by<T>(&self, deadline: Instant, look: impl FnOnce(&S) -> T) -> Result<T, ReadError> {
        let shared = self.shared();
        let state = shared.state.try_read_until(deadline).ok_or(ReadError::Timeout)?;
        // Under the lock: what stopped the node may have left the state half-applied.
        if shared.stop.is_stopping() {
            return Err(ReadError::Stopped(shared.stop.cause_or_shutdown()));
        }
        let _inside = Inside::enter(self.address());
        Ok(look(&state))
    }

    /// The index that the state must have applied for a linearizable read that begins now.
    fn read_index(&self, deadline: Instant) -> Result<LogIndex, ReadError> {
        let shared = self.shared();
        let stopped = || ReadError::Stopped(shared.stop.cause_or_shutdown());
        let group = shared.reads.join().ok_or_else(stopped)?;
        match group.wait(deadline).ok_or(ReadError::Timeout)? {
            Confirmation::Confirmed(index) => Ok(index),
            Confirmation::NotLeader(leader) => Err(ReadError::NotLeader { leader }),
            Confirmation::Stopped(cause) => Err(ReadError::Stopped(cause)),
        }
    }

    /// How the node is doing.
    pub fn status(&self) -> Status {
        let shared = self.shared();
        let leadership = shared.leadership.get();
        let mut status = shared.status.lock().clone();
        status.role = leadership.role;
        status.term = leadership.term;
        status.leader = leadership.leader;
        // In this order, so that what is applied never seems uncommitted.
        status.applied = shared.applied.get();
        status.committed = shared.apply.committed();
        status.pending = shared.inbox.pending();
        if let Some(links) = shared.links.get() {
            status.links = links.links();
            status.listener = links.listener();
        }
        status.stopped = shared.stop.cause();
        status
    }

    /// Subscribes to who leads. Each subscription has the latest value and is independent of others.
    pub fn leadership(&self) -> LeadershipSubscription {
        LeadershipSubscription::new(Arc::clone(&self.shared().leadership))
    }

    /// Stops the node in an orderly way: nothing new is taken, what is in the log is answered if it can be
    /// within half a second, the log is flushed, the threads end. Waits at most for `timeout`; calls that
    /// are waiting are answered. From inside the node, or on one of its threads, it only says that the node
    /// is to stop.
    ///
    /// # Errors
    /// The threads that had not ended in time. They end by themselves when what they are in returns.
    pub fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.shared().stop(Phase::Draining, StopCause::Shutdown);
        self.wait_stopped(timeout)
    }

    /// Stops the node at once, flushing nothing.
    pub(crate) fn halt(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.shared().stop(Phase::Halted, StopCause::Crash);
        self.wait_stopped(timeout)
    }

    fn wait_stopped(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let threads = if self.is_inside() {
            self.handle.running.names()
        } else {
            self.handle.running.wait(deadline_after(timeout))
        };
        let waited = timeout;
        if threads.is_empty() { Ok(()) } else { Err(ShutdownError { threads, waited }) }
    }

    /// Names this node among others of the process.
    fn address(&self) -> usize {
        Arc::as_ptr(self.shared()) as usize
    }

    fn is_inside(&self) -> bool {
        inside::is_inside(self.address())
    }

    /// Whether this node leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.shared().leadership.get().role == Role::Leader
    }
}

/// How long a proposal waits.
#[derive(Clone, Copy)]
struct Waits {
    /// For its answer, by the node's clock.
    timeout: Duration,
    /// At the door, until then.
    door: Instant,
    /// For its answer, until then, whoever holds the ticket.
    deadline: Instant,
}

/// Lends this thread's encoding buffer, empty. It is taken out meanwhile: user code that encodes may
/// itself propose, to another node.
fn with_buffer<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = BUFFER.take();
    buffer.clear();
    let result = f(&mut buffer);
    if buffer.capacity() <= MAX_KEPT_BUFFER {
        BUFFER.set(buffer);
    }
    result
}

impl<S: StateMachine> Drop for Handle<S> {
    fn drop(&mut self) {
        self.shared.stop(Phase::Draining, StopCause::Shutdown);
        if inside::is_inside(Arc::as_ptr(&self.shared) as usize) {
            // On one of the node's own threads, waiting would be waiting for oneself.
            return;
        }
        let left = self.running.wait(deadline_after(DROP_TIMEOUT));
        if !left.is_empty() {
            log::warn!("node={} still running after its drop threads={left:?}", self.shared.id);
        }
    }
}
