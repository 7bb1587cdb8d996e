#![doc = include_str!("../README.md")]

pub mod clock;
pub mod codec;
mod config;
pub mod consensus;
pub mod error;
pub mod membership;
pub mod message;
pub mod record;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod slices;
mod state_machine;
pub mod storage;
mod types;
pub mod wal;

pub use config::{Config, ElectionPriority};
pub use error::{ProposeError, ReadError, ShutdownError, StartError, StopCause, UnknownCause};
pub use membership::{Member, Membership};
pub use state_machine::{Applied, Machine, StateMachine};
pub use types::{
    BootCount, EntryId, HardState, Incarnation, LogIndex, NodeId, Role, Sender, Term,
};
