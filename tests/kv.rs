//! `examples/kv.rs`: its protocol and its commands, and whole clusters of it as processes of their own.
//!
//! What needs a program that is not there (`redis-cli`, `redis-benchmark`, `ip`) is skipped aloud.
#![cfg(unix)]

#[path = "../examples/kv/about.rs"]
#[allow(dead_code, reason = "asked by connections, which run in processes of their own here")]
mod about;
#[path = "../examples/kv/commands.rs"]
mod commands;
#[path = "../examples/kv/connection.rs"]
#[allow(dead_code, reason = "connections run in processes of their own here")]
mod connection;
#[path = "../examples/kv/glob.rs"]
mod glob;
mod proxy;
#[path = "../examples/kv/replies.rs"]
mod replies;
#[path = "../examples/kv/resp.rs"]
mod resp;
#[path = "../examples/kv/store.rs"]
mod store;

mod kv {
    mod clients;
    mod faults;
    mod hosts;
    mod input;
    mod json;
    mod load;
    mod meaning;
    mod parser;
    mod servers;
}
