//! Bytes and messages that nobody sane would send, and what Oarlock has to do with them: answer with an
//! error or with something sound, and never panic.
//!
//! Each target takes any bytes. Most of what a fuzzer makes up would end at a checksum, so targets also look
//! at the same bytes with a checksum that is right.

pub mod bytes;
pub mod command;
pub mod core;
pub mod envelope;
pub mod frame;
pub mod greeting;
pub mod record;
pub mod recovery;
pub mod resp;

/// Something that takes any bytes, and panics if the library did something wrong with them.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("record", record::run),
    ("envelope", envelope::run),
    ("frame", frame::run),
    ("greeting", greeting::run),
    ("command", command::run),
    ("resp", resp::run),
    ("recovery", recovery::run),
    ("core", core::run),
];
