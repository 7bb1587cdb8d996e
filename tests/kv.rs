//! `examples/kv.rs`: its protocol and its commands, and whole clusters of it as processes of their own.
//!
//! What needs a program that is not there (`redis-cli`, `redis-benchmark`, `ip`) is skipped aloud.
#![cfg(unix)]

#[path = "../examples/kv/about.rs"]
mod about;
#[path = "../examples/kv/budget.rs"]
mod budget;
#[path = "../examples/kv/client.rs"]
mod client;
#[path = "../examples/kv/commands.rs"]
mod commands;
#[path = "../examples/kv/connection.rs"]
mod connection;
#[path = "../examples/kv/glob.rs"]
mod glob;
#[path = "../examples/kv/pipeline.rs"]
mod pipeline;
#[path = "../examples/kv/places.rs"]
mod places;
mod proxy;
#[path = "../examples/kv/replies.rs"]
mod replies;
#[path = "../examples/kv/resp.rs"]
mod resp;
#[path = "../examples/kv/server.rs"]
#[allow(dead_code, reason = "files are counted by processes of their own here")]
mod server;
#[path = "../examples/kv/store.rs"]
mod store;

mod kv {
    mod clients;
    mod faults;
    mod hosts;
    mod input;
    mod json;
    mod load;
    mod local;
    mod meaning;
    mod parser;
    mod pipelines;
    mod places;
    mod servers;
}
