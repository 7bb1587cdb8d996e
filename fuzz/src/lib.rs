//! Bytes and messages that nobody sane would send, and what Oarlock has to do with them: answer with an
//! error or with something sound, and never panic.
//!
//! Each target takes any bytes. Most of what a fuzzer makes up would end at a checksum, so targets also look
//! at the same bytes with a checksum that is right.

pub mod bytes;
pub mod command;
pub mod core;
pub mod envelope;
pub mod record;
pub mod recovery;

/// Something that takes any bytes, and panics if the library did something wrong with them.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 5] = [
    ("record", record::run),
    ("envelope", envelope::run),
    ("command", command::run),
    ("recovery", recovery::run),
    ("core", core::run),
];
