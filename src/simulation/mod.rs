//! A deterministic simulator: real code, simulated machines. Feature `simulation`.
//!
//! A run is drawn from one seed, and the same seed gives the same run again, byte by byte. Nothing here
//! reads a clock, starts a thread or touches a file, so a failure that takes a lost packet and two
//! crashes in the wrong moment is replayed by a number.
//!
//! [`SimDisk`] is a disk that keeps apart what was written and what was flushed, and loses between the
//! two whatever a real one may lose.

mod disk;

pub use disk::{Fault, FaultError, Operation, SimDisk};
