#![doc = include_str!("../README.md")]

pub mod clock;
mod cluster;
pub mod codec;
mod config;
pub mod consensus;
pub mod error;
pub mod membership;
pub mod message;
mod node;
pub mod record;
#[cfg(any(oarlock_loom, oarlock_shuttle))]
#[path = "../tests/schedules/src/scenarios.rs"]
pub mod schedules;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod slices;
mod state_machine;
pub mod storage;
mod sync;
mod threads;
pub mod transport;
mod types;
mod wake;
pub mod wal;

pub use cluster::{Cluster, ClusterBuilder, ClusterError};
pub use config::{Config, ElectionPriority};
pub use error::{ProposeError, ReadError, ShutdownError, StartError, StopCause, UnknownCause};
pub use membership::{Member, Membership};
pub use node::{
    Consistency, Leadership, LeadershipSubscription, Node, NodeBuilder, PeerStatus, Reply, Status,
    Ticket, Tickets,
};
pub use state_machine::{Applied, Machine, StateMachine};
pub use types::{BootCount, EntryId, HardState, Incarnation, LogIndex, NodeId, Role, Sender, Term};
