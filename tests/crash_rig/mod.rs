//! What the tests of crashes and of damage share: a disk whose every state can be had, and a log on it that
//! says what it has promised.

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod disk;
pub(crate) mod driver;
pub(crate) mod promise;
pub(crate) mod workloads;
