//! A deterministic simulator: real code, simulated machines. Feature `simulation`.
//!
//! A run is drawn from one seed, and the same seed gives the same run again, byte by byte. Nothing here
//! reads a clock, starts a thread or touches a file, so a failure that takes a lost packet and two
//! crashes in the wrong moment is replayed by a number.
//!
//! [`SimDisk`] is a disk that keeps apart what was written and what was flushed, and loses between the
//! two whatever a real one may lose. A [`World`] is a cluster of whole nodes on such disks, over a
//! network that misbehaves, and looks after every step whether every promise still holds:
//!
//! ```no_run
//! use oarlock::simulation::{Options, World};
//!
//! for seed in 0..100 {
//!     World::run(Options::swarm(seed), 20_000).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
//! }
//! ```

mod disk;
mod durable;
mod witness;
mod world;

pub use disk::{Fault, FaultError, Operation, SimDisk};
pub use witness::{Broken, Ledger};
pub use world::{Options, Report, World};
