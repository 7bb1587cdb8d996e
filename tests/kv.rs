//! `examples/kv.rs`: its protocol and its commands, and whole clusters of it as processes of their own.
//!
//! What needs a program that is not there (`redis-cli`, `redis-benchmark`, `ip`) is skipped aloud.
#![cfg(unix)]

#[path = "../examples/kv/commands.rs"]
mod commands;
#[path = "../examples/kv/glob.rs"]
mod glob;
#[path = "../examples/kv/resp.rs"]
mod resp;
#[path = "../examples/kv/store.rs"]
mod store;

mod kv {
    mod clients;
    mod input;
    mod meaning;
    mod parser;
    mod servers;
}
