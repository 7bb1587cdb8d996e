//! Nodes that reach each other over TCP, on loopback: what they promise, and what they survive.

mod journal;
mod proxy;

#[path = "tcp/certificates.rs"]
mod certificates;
#[path = "tcp/cluster.rs"]
mod cluster;
#[path = "tcp/rig.rs"]
mod rig;
