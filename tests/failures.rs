//! What a node does when something under it or above it fails: a state machine that panics, errs or hangs;
//! a disk that fails, is full, hangs or has rotted; a network that carries nothing. Every caller is told,
//! the other nodes go on, and the process lives.

mod journal;

#[path = "failures/apply.rs"]
mod apply;
#[path = "failures/deadlines.rs"]
mod deadlines;
#[path = "failures/disk.rs"]
mod disk;
#[path = "failures/flood.rs"]
mod flood;
#[path = "failures/fragile.rs"]
mod fragile;
#[path = "failures/gates.rs"]
mod gates;
#[path = "failures/promises.rs"]
mod promises;
