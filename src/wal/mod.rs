//! The log on disk.

mod disk;
mod identity;
mod replace;
mod vote;

pub use disk::Disk;
