//! The log on disk.

mod disk;

pub use disk::Disk;
