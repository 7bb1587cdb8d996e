//! Puts a node together: checks what was asked for, opens the log, and starts the threads.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::apply_loop::{Applier, ApplyLoop};
use super::core_loop::{CoreLoop, Parts};
use super::inbox::Inbox;
use super::reads::ReadInbox;
use super::seg_loop::SegLoop;
use super::shared::{ApplyLane, Loop, Shared, SnapLane, Wakers, Wakeups, WalLane};
use super::snap_loop::SnapLoop;
use super::status::Status;
use super::stop::{Phase, Stop};
use super::threads;
use super::wal_loop::WalLoop;
use super::watch::{IndexWatch, LeadershipWatch};
use super::{DROP_TIMEOUT, Handle, Node, deadline_after};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::consensus::{Core, Options, Restored};
use crate::error::{StartError, StopCause};
use crate::membership::{Member, Membership};
use crate::state_machine::StateMachine;
use crate::storage::Storage;
use crate::sync::{Mutex, RwLock};
use crate::threads::Running;
use crate::transport::tcp::Tcp;
use crate::transport::{Inbound, Local, NoTransport, PeerLane, Transport};
use crate::types::{EntryId, LogIndex, NodeId, Sender};
use crate::wal::{self, Disk, LogOptions, Memory, Opened, Recovered};

/// Where the log lives.
enum Place {
    Directory(PathBuf, Arc<dyn Storage>),
    Memory(Memory),
}

/// A node that is being put together; see [`Node::builder`].
#[must_use = "a builder does nothing until `start`"]
pub struct NodeBuilder<S: StateMachine> {
    id: NodeId,
    machine: S,
    place: Option<Place>,
    cluster_name: String,
    transport: Option<Box<dyn Transport>>,
    members: Vec<(NodeId, Member)>,
    config: Config,
    clock: Arc<dyn Clock>,
}

impl<S: StateMachine> fmt::Debug for NodeBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("id", &self.id)
            .field("cluster_name", &self.cluster_name)
            .field("members", &self.members)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A node whose loops nobody drives yet.
pub(crate) struct Assembled<S: StateMachine> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) running: Arc<Running>,
    pub(crate) wakeups: Wakeups,
    pub(crate) core: CoreLoop<S>,
    pub(crate) wal: Option<WalLoop<S>>,
    pub(crate) seg: SegLoop<S>,
    pub(crate) apply: ApplyLoop<S>,
    pub(crate) snap: SnapLoop<S>,
}

impl<S: StateMachine> NodeBuilder<S> {
    pub(super) fn new(id: NodeId, machine: S) -> Self {
        Self {
            id,
            machine,
            place: None,
            cluster_name: String::new(),
            transport: None,
            members: Vec::new(),
            config: Config::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Keeps the log, term and vote in this directory, created if missing. One directory belongs to one
    /// node of one cluster for good, and to one process at a time.
    pub fn data_dir(self, dir: impl AsRef<Path>) -> Self {
        self.storage(dir, Arc::new(Disk))
    }

    /// As [`data_dir`](Self::data_dir), on storage of your own: a disk that fails, for tests.
    pub fn storage(mut self, dir: impl AsRef<Path>, storage: Arc<dyn Storage>) -> Self {
        self.place = Some(Place::Directory(dir.as_ref().to_owned(), storage));
        self
    }

    /// Keeps everything in memory: what a majority of such nodes forgets at once is lost.
    pub fn in_memory(self) -> Self {
        self.memory(&Memory::default())
    }

    /// As [`in_memory`](Self::in_memory), in memory that outlives the node: another node started with it
    /// goes on where this one stopped.
    pub fn memory(mut self, memory: &Memory) -> Self {
        self.place = Some(Place::Memory(memory.clone()));
        self
    }

    /// The cluster's name, empty by default: a directory remembers it, and is refused under another.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = name.into();
        self
    }

    /// Reaches the other nodes over TCP, and listens for them on this address, as `host:port`: see
    /// [`transport::tcp`](crate::transport::tcp). Without TLS, whoever can reach it can claim to be a
    /// member.
    ///
    /// ```no_run
    /// # use oarlock::Node;
    /// let node = Node::builder(1, ())
    ///     .data_dir("data/n1")
    ///     .listen("10.0.0.1:7000")
    ///     .members([(1, "10.0.0.1:7000"), (2, "10.0.0.2:7000"), (3, "10.0.0.3:7000")])
    ///     .start()?;
    /// # Ok::<(), oarlock::StartError>(())
    /// ```
    pub fn listen(self, address: impl Into<String>) -> Self {
        self.transport(Tcp::listen(address))
    }

    /// As [`listen`](Self::listen), encrypted, and with nodes that prove who they are.
    #[cfg(feature = "tls")]
    pub fn listen_tls(self, address: impl Into<String>, tls: crate::transport::tcp::Tls) -> Self {
        self.transport(Tcp::listen(address).tls(tls))
    }

    /// Another way to the other nodes.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// All members of the cluster at its beginning, this node among them, with the addresses where the
    /// transport finds them. Must be the same list on all of them, and at every start.
    pub fn members<I, N, A>(mut self, members: I) -> Self
    where
        I: IntoIterator<Item = (N, A)>,
        N: Into<NodeId>,
        A: Into<String>,
    {
        self.members.clear();
        self.members.extend(members.into_iter().map(|(id, at)| (id.into(), Member::at(at))));
        self
    }

    /// Limits and intervals.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// A clock of your own, for tests. Deadlines of callers are kept by the system's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the log and starts the node's threads.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn start(self) -> Result<Node<S>, StartError> {
        let Assembled { shared, running, wakeups, core, wal, seg, apply, snap } =
            self.assemble()?;
        // From here on a failure stops what was started.
        let node = Node { handle: Arc::new(Handle { shared, running }) };
        let start = || {
            node.spawn("apply", apply, wakeups.apply)?;
            node.spawn("snap", snap, wakeups.snap)?;
            node.spawn("seg", seg, wakeups.seg)?;
            if let Some(wal) = wal {
                node.spawn("wal", wal, wakeups.wal)?;
            }
            node.spawn("core", core, wakeups.core)
        };
        let started = start();
        if let Err(error) = started {
            node.handle.shared.stop(Phase::Halted, StopCause::Shutdown);
            return Err(StartError::Thread(error));
        }
        Ok(node)
    }

    /// Everything that `start` does but the threads.
    pub(crate) fn assemble(self) -> Result<Assembled<S>, StartError> {
        self.config.validate()?;
        let initial = self.check_members()?;
        if initial.voters.len() > 1 && self.transport.is_none() {
            return Err(StartError::NoTransport);
        }
        let Self { id, machine, place, cluster_name, transport, config, clock, .. } = self;
        let mut transport = transport.unwrap_or_else(|| Box::new(NoTransport));
        // Before the directory remembers members that cannot be meant.
        transport.prepare(id, &cluster_name, &initial).map_err(StartError::Transport)?;
        let options = LogOptions::from(&config);
        let (opened, memory) = match place.ok_or(StartError::NoStorage)? {
            Place::Directory(dir, storage) => {
                let opened = wal::open(storage, &dir, id, &cluster_name, &initial, &options);
                (opened?, None)
            }
            Place::Memory(memory) => {
                let opened = wal::open_in_memory(&memory, id, &initial, &options);
                (opened?, Some(memory))
            }
        };
        let Opened { log, flusher, preparer, recovered } = opened;
        let kept = machine.last_applied();
        let applied = check_applied(kept, &recovered)?;
        let me = recovered.sender;

        let (wakers, wakeups) = Wakers::new();
        let running = Arc::<Running>::default();
        let local = Local { sender: me, cluster_name, members: initial, config: config.clone() };
        let applier = Applier::new(me, applied, kept.is_some());
        let shared = Arc::new(shared(id, config, clock, wakers, machine, applier));
        shared.applied.set(applied);
        shared.apply.set_kept(kept.map_or(LogIndex::ZERO, |kept| kept.index));
        let reader = log.reader();
        let last_time = recovered.last_time;
        let core = core(&shared.config, recovered, applied);

        let (inbound, peers) = inbound(&shared, local, &running);
        if let Err(error) = transport.start(inbound) {
            drop(transport);
            // What it may have started holds the port for a moment.
            running.wait(deadline_after(DROP_TIMEOUT));
            return Err(StartError::Transport(error));
        }
        if let Some(links) = transport.links() {
            // Set once: there is one transport.
            let _ = shared.links.set(links);
        }
        log::info!(
            "node={id} started incarnation={} boot={} last={}",
            me.incarnation,
            me.boot,
            core.last()
        );

        let parts = Parts { core, log, me, peers, transport, memory, last_time };
        Ok(Assembled {
            running,
            wakeups,
            core: CoreLoop::new(Arc::clone(&shared), parts),
            wal: flusher.map(|flusher| WalLoop::new(Arc::clone(&shared), flusher)),
            seg: SegLoop::new(Arc::clone(&shared), preparer),
            apply: ApplyLoop::new(Arc::clone(&shared), reader.clone()),
            snap: SnapLoop::new(Arc::clone(&shared), reader),
            shared,
        })
    }

    fn check_members(&self) -> Result<Membership, StartError> {
        if self.members.is_empty() {
            return Err(StartError::NoMembers);
        }
        let membership = Membership::of_voters(self.members.iter().cloned());
        if membership.voters.len() < self.members.len() {
            let mut ids: Vec<NodeId> = self.members.iter().map(|(id, _)| *id).collect();
            ids.sort_unstable();
            let twice =
                ids.windows(2).find(|pair| pair[0] == pair[1]).expect("some id is there twice");
            return Err(StartError::DuplicateMember(twice[0]));
        }
        if !membership.voters.contains_key(&self.id) {
            return Err(StartError::NotAMember(self.id));
        }
        Ok(membership)
    }
}

impl<S: StateMachine> Node<S> {
    fn spawn(
        &self,
        role: &str,
        driven: impl Loop + 'static,
        wakeup: crate::wake::Wakeup,
    ) -> std::io::Result<()> {
        threads::spawn(&self.handle.shared, &self.handle.running, role, driven, wakeup)
    }
}

/// The lane for what arrives, and its end for the transport. That end may outlive the node, which must not
/// live on in it.
fn inbound<S: StateMachine>(
    shared: &Arc<Shared<S>>,
    local: Local,
    running: &Arc<Running>,
) -> (Inbound, PeerLane) {
    let node = Arc::downgrade(shared);
    let on_panic = Box::new(move |thread: &str, panic: &(dyn Any + Send)| {
        if let Some(shared) = node.upgrade() {
            threads::panicked(&shared, thread, panic);
        }
    });
    PeerLane::new(local, shared.wakers.core.clone(), Arc::clone(running), on_panic)
}

fn shared<S: StateMachine>(
    id: NodeId,
    config: Config,
    clock: Arc<dyn Clock>,
    wakers: Wakers,
    machine: S,
    applier: Applier<S>,
) -> Shared<S> {
    let stop = Arc::<Stop>::default();
    let inbox = Inbox::new(
        config.max_pending_proposals,
        config.max_pending_bytes,
        config.max_batch_bytes,
        wakers.core.clone(),
        Arc::clone(&stop),
    );
    Shared {
        id,
        clock,
        inbox,
        reads: ReadInbox::new(wakers.core.clone(), Arc::clone(&stop)),
        wal: WalLane::default(),
        apply: ApplyLane::default(),
        snap: SnapLane::default(),
        state: RwLock::new(machine),
        applier: Mutex::new(applier),
        applied: IndexWatch::default(),
        leadership: Arc::<LeadershipWatch>::default(),
        status: Mutex::new(Status::default()),
        links: OnceLock::new(),
        config,
        stop,
        wakers,
    }
}

fn core(config: &Config, recovered: Recovered, applied: LogIndex) -> Core {
    let Recovered { sender, hard_state, base, entries, membership, .. } = recovered;
    let options = Options {
        me: sender,
        heartbeat_ticks: config.heartbeat_ticks,
        election_ticks: config.election_ticks,
        priority: config.election_priority,
        pre_vote: true,
        check_quorum: true,
        max_append_bytes: config.max_append_bytes,
        max_inflight_appends: config.max_inflight_appends,
        max_inflight_bytes: config.max_inflight_bytes,
        seed: seed(sender),
    };
    let committed = base.index.max(applied);
    Core::new(options, Restored { hard_state, base, entries, membership, committed })
}

/// Another seed for each node, directory and boot, and the same for the same.
fn seed(me: Sender) -> u64 {
    let incarnation = me.incarnation.0;
    (incarnation as u64) ^ ((incarnation >> 64) as u64) ^ me.node.0.rotate_left(32) ^ me.boot.0
}

/// Where applying begins; refused if the machine's own state is from another log.
fn check_applied(kept: Option<EntryId>, recovered: &Recovered) -> Result<LogIndex, StartError> {
    let (base, entries) = (recovered.base, &recovered.entries);
    let last = entries.runs.last().map_or(base, |run| EntryId::new(run.term, entries.last));
    let applied = kept.unwrap_or(EntryId::ZERO);
    let run = entries.runs.iter().rev().find(|run| run.first <= applied.index);
    let known_term = run.map_or(base.term, |run| run.term);
    let within = base.index <= applied.index && applied.index <= last.index;
    if within && known_term == applied.term {
        return Ok(applied.index);
    }
    Err(StartError::StateMismatch { applied, first: base.index.next(), last })
}
