//! A deterministic simulator: real code, simulated machines. Feature `simulation`.
//!
//! A [`World`] is a cluster of whole nodes on simulated disks, clocks and links, with clients that write and
//! read, in one thread. What happens is drawn from one seed, and the same seed gives the same run again, byte
//! by byte. Nothing here reads a clock, starts a thread or touches a file, so a failure that takes a lost
//! packet and two crashes in the wrong moment is replayed by a number.
//!
//! What is simulated is the machine: [`SimDisk`] keeps apart what was written and what was flushed, and loses
//! between the two whatever a real disk may lose. What runs on it is the library as it is, the loops that
//! threads drive elsewhere included. What can go wrong is the list of [`Trouble`]s; [`Options`] say how much of
//! each there is.
//!
//! ```
//! use oarlock::simulation::{Options, Swaps, World};
//!
//! for seed in 0..3 {
//!     let options = Options { steps: 5_000, ..Options::swarm(seed) };
//!     World::run(options, Swaps::new(seed % 2 == 0))
//!         .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
//! }
//! ```
//!
//! A state machine of your own is put under all of this by a [`Workload`]; its documentation has an example.
//! What goes wrong in a world and what is checked is listed in
//! [`docs/simulation.md`](https://github.com/oarlock-raft/oarlock/blob/main/docs/simulation.md).

#[cfg(doctest)]
#[doc = include_str!("../../docs/simulation.md")]
struct Documentation;

mod bounds;
mod clients;
mod disk;
mod disturb;
mod durable;
mod lives;
mod machine;
mod network;
mod options;
mod outcomes;
mod probes;
mod report;
mod shrink;
mod trace;
mod trouble;
mod witness;
mod workload;
mod world;

pub use disk::{Fault, FaultError, Operation, SimDisk};
pub use options::{Options, Profile};
pub use report::{Coverage, Report};
pub use shrink::{Shrunk, shrink};
pub use trouble::{Trouble, Troubles};
pub use witness::Broken;
pub use workload::{Registers, Swap, Swaps, Workload, digest};
pub use world::World;
