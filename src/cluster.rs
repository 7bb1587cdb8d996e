//! Several real nodes in one process: for tests, for trying things out, and for the first ten minutes.
//!
//! The nodes are the same as on separate machines, threads and files included; only the network is a
//! [`Network`] within the process, which can be told to misbehave.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::config::Config;
use crate::error::{ShutdownError, StartError};
use crate::node::{Node, deadline_after};
use crate::state_machine::StateMachine;
use crate::sync::Instant;
use crate::transport::memory::Network;
use crate::types::NodeId;
use crate::wal::Memory;

/// How long an orderly stop, or a crash, may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the nodes are asked who leads.
const POLL: Duration = Duration::from_millis(1);

/// Several nodes in one process, with ids from 1. They stop when it is dropped.
///
/// ```
/// use std::time::Duration;
/// use oarlock::{Cluster, Machine};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Counter(u64);
///
/// impl Machine for Counter {
///     type Command = u64;
///     type Response = u64;
///     fn apply(&mut self, add: u64) -> u64 {
///         self.0 += add;
///         self.0
///     }
/// }
///
/// let cluster = Cluster::memory(3, Counter::default)?;
/// let leader = cluster.wait_leader(Duration::from_secs(60))?;
/// assert_eq!(leader.propose(5)?, 5);
///
/// cluster.crash(leader.id())?;
/// let leader = cluster.wait_leader(Duration::from_secs(60))?;
/// assert_eq!(leader.read(|counter| counter.0)?, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Cluster<S: StateMachine> {
    size: u64,
    config: Config,
    machine: Box<dyn Fn() -> S + Send + Sync>,
    network: Network,
    home: Home,
    nodes: Mutex<BTreeMap<NodeId, Node<S>>>,
}

/// Where the nodes keep their logs.
enum Home {
    Memory(BTreeMap<NodeId, Memory>),
    Temporary(TempDir),
    Kept(PathBuf),
}

/// A cluster that is being put together.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `temp`, `dir` or `memory`"]
pub struct ClusterBuilder {
    size: u64,
    config: Config,
}

impl ClusterBuilder {
    /// Limits and intervals of every node; [`Config::small`] by default.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Starts the nodes with their logs in a temporary directory, which goes with the cluster. Each node,
    /// and each restart of one, begins with a state machine from `machine`.
    ///
    /// # Errors
    /// [`ClusterError::Io`] for the directory, [`ClusterError::Start`] for the nodes.
    pub fn temp<S, F>(self, machine: F) -> Result<Cluster<S>, ClusterError>
    where
        S: StateMachine,
        F: Fn() -> S + Send + Sync + 'static,
    {
        let dir =
            tempfile::Builder::new().prefix("oarlock-").tempdir().map_err(ClusterError::Io)?;
        self.start(machine, Home::Temporary(dir))
    }

    /// As [`temp`](Self::temp), in a directory that stays.
    ///
    /// # Errors
    /// [`ClusterError::Start`].
    pub fn dir<S, F>(self, dir: impl AsRef<Path>, machine: F) -> Result<Cluster<S>, ClusterError>
    where
        S: StateMachine,
        F: Fn() -> S + Send + Sync + 'static,
    {
        self.start(machine, Home::Kept(dir.as_ref().to_owned()))
    }

    /// As [`temp`](Self::temp), with the logs in memory. They outlive a crash or a stop of their node,
    /// not the cluster.
    ///
    /// # Errors
    /// [`ClusterError::Start`].
    pub fn memory<S, F>(self, machine: F) -> Result<Cluster<S>, ClusterError>
    where
        S: StateMachine,
        F: Fn() -> S + Send + Sync + 'static,
    {
        let memories = (1..=self.size).map(|id| (NodeId(id), Memory::default())).collect();
        self.start(machine, Home::Memory(memories))
    }

    fn start<S, F>(self, machine: F, home: Home) -> Result<Cluster<S>, ClusterError>
    where
        S: StateMachine,
        F: Fn() -> S + Send + Sync + 'static,
    {
        let cluster = Cluster {
            size: self.size,
            config: self.config,
            machine: Box::new(machine),
            network: Network::new(),
            home,
            nodes: Mutex::default(),
        };
        if cluster.size == 0 {
            return Err(ClusterError::Start(StartError::NoMembers));
        }
        for id in 1..=cluster.size {
            cluster.start_node(NodeId(id))?;
        }
        Ok(cluster)
    }
}

impl<S: StateMachine> Cluster<S> {
    /// Starts `size` nodes with durable logs in a temporary directory; see [`ClusterBuilder::temp`].
    ///
    /// # Errors
    /// As [`ClusterBuilder::temp`].
    pub fn temp<F>(size: u64, machine: F) -> Result<Self, ClusterError>
    where
        F: Fn() -> S + Send + Sync + 'static,
    {
        Cluster::builder(size).temp(machine)
    }

    /// Starts `size` nodes with logs in memory; see [`ClusterBuilder::memory`].
    ///
    /// # Errors
    /// As [`ClusterBuilder::memory`].
    pub fn memory<F>(size: u64, machine: F) -> Result<Self, ClusterError>
    where
        F: Fn() -> S + Send + Sync + 'static,
    {
        Cluster::builder(size).memory(machine)
    }

    fn start_node(&self, id: NodeId) -> Result<(), ClusterError> {
        let members = (1..=self.size).map(|id| (NodeId(id), format!("memory:{id}")));
        let builder = Node::builder(id, (self.machine)())
            .cluster_name("cluster")
            .transport(self.network.transport())
            .members(members)
            .config(self.config.clone());
        let builder = match &self.home {
            Home::Memory(memories) => builder.memory(&memories[&id]),
            Home::Temporary(dir) => builder.data_dir(node_dir(dir.path(), id)),
            Home::Kept(dir) => builder.data_dir(node_dir(dir, id)),
        };
        let node = builder.start().map_err(ClusterError::Start)?;
        self.nodes.lock().insert(id, node);
        Ok(())
    }

    /// The node with this id, also after it has stopped.
    ///
    /// # Errors
    /// [`ClusterError::NoSuchNode`].
    pub fn node(&self, id: impl Into<NodeId>) -> Result<Node<S>, ClusterError> {
        let id = id.into();
        self.nodes.lock().get(&id).cloned().ok_or(ClusterError::NoSuchNode(id))
    }

    /// All nodes, in the order of their ids, those that have stopped included.
    pub fn nodes(&self) -> Vec<Node<S>> {
        self.nodes.lock().values().cloned().collect()
    }

    /// The directory that holds the nodes' directories; `None` if the logs are in memory.
    pub fn data_dir(&self) -> Option<&Path> {
        match &self.home {
            Home::Memory(_) => None,
            Home::Temporary(dir) => Some(dir.path()),
            Home::Kept(dir) => Some(dir),
        }
    }

    /// Waits until a majority of the nodes follows one leader, and returns that leader.
    ///
    /// # Errors
    /// [`ClusterError::NoLeader`] after `timeout`.
    pub fn wait_leader(&self, timeout: Duration) -> Result<Node<S>, ClusterError> {
        let deadline = deadline_after(timeout);
        loop {
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::NoLeader { waited: timeout });
            }
            thread::sleep(POLL);
        }
    }

    /// The node that leads with the consent of a majority, if there is one.
    fn leader(&self) -> Option<Node<S>> {
        let nodes = self.nodes();
        let running: Vec<_> =
            nodes.iter().map(Node::status).filter(|s| s.stopped.is_none()).collect();
        nodes
            .iter()
            .find(|node| {
                let leads = running.iter().find(|status| status.id == node.id() && node.leads());
                leads.is_some_and(|leads| {
                    let follows = |status: &&crate::node::Status| {
                        status.term == leads.term && status.leader == Some(leads.id)
                    };
                    2 * running.iter().filter(follows).count() as u64 > self.size
                })
            })
            .cloned()
    }

    /// Stops a node in an orderly way.
    ///
    /// # Errors
    /// [`ClusterError::NoSuchNode`], [`ClusterError::Shutdown`].
    pub fn stop(&self, id: impl Into<NodeId>) -> Result<(), ClusterError> {
        self.node(id)?.shutdown(STOP_TIMEOUT).map_err(ClusterError::Shutdown)
    }

    /// Stops a node without a goodbye, as a kill would: what it has not written back is lost.
    ///
    /// # Errors
    /// [`ClusterError::NoSuchNode`], [`ClusterError::Shutdown`].
    pub fn crash(&self, id: impl Into<NodeId>) -> Result<(), ClusterError> {
        self.node(id)?.halt(STOP_TIMEOUT).map_err(ClusterError::Shutdown)
    }

    /// Starts a node again that has stopped or crashed, with a new state machine. [`node`](Self::node)
    /// then returns the new one.
    ///
    /// # Errors
    /// [`ClusterError::NoSuchNode`], [`ClusterError::StillRunning`], [`ClusterError::Start`].
    pub fn restart(&self, id: impl Into<NodeId>) -> Result<(), ClusterError> {
        let id = id.into();
        if self.node(id)?.status().stopped.is_none() {
            return Err(ClusterError::StillRunning(id));
        }
        self.start_node(id)
    }

    /// Cuts a node off from all others, until [`heal`](Self::heal).
    ///
    /// # Errors
    /// [`ClusterError::NoSuchNode`].
    pub fn isolate(&self, id: impl Into<NodeId>) -> Result<(), ClusterError> {
        let id = self.node(id)?.id();
        self.network.isolate(id);
        Ok(())
    }

    /// Connects all nodes again.
    pub fn heal(&self) {
        self.network.heal();
    }

    /// The network between the nodes, for partitions of other shapes.
    pub fn network(&self) -> &Network {
        &self.network
    }
}

impl Cluster<()> {
    /// Begins to put a cluster of `size` nodes together.
    pub fn builder(size: u64) -> ClusterBuilder {
        ClusterBuilder { size, config: Config::small() }
    }
}

fn node_dir(dir: &Path, id: NodeId) -> PathBuf {
    dir.join(format!("n{id}"))
}

impl<S: StateMachine> fmt::Debug for Cluster<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("size", &self.size).finish_non_exhaustive()
    }
}

/// What a [`Cluster`] could not do.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClusterError {
    /// No leader was found in time.
    NoLeader {
        /// How long was waited.
        waited: Duration,
    },
    /// There is no node with this id.
    NoSuchNode(NodeId),
    /// The node has not stopped.
    StillRunning(NodeId),
    /// A node did not start.
    Start(StartError),
    /// A node did not stop.
    Shutdown(ShutdownError),
    /// The temporary directory could not be created.
    Io(io::Error),
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader { waited } => write!(f, "no leader within {waited:?}"),
            Self::NoSuchNode(id) => write!(f, "there is no node {id}"),
            Self::StillRunning(id) => write!(f, "node {id} has not stopped"),
            Self::Start(error) => write!(f, "a node did not start: {error}"),
            Self::Shutdown(error) => write!(f, "a node did not stop: {error}"),
            Self::Io(error) => write!(f, "the temporary directory could not be created: {error}"),
        }
    }
}

impl std::error::Error for ClusterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(error) => Some(error),
            Self::Shutdown(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::NoLeader { .. } | Self::NoSuchNode(_) | Self::StillRunning(_) => None,
        }
    }
}
