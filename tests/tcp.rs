//! Nodes that reach each other over TCP, on loopback: what they promise, and what they survive.

mod journal;
mod proxy;

#[path = "tcp/certificates.rs"]
mod certificates;
#[path = "tcp/cluster.rs"]
mod cluster;
#[path = "tcp/faults.rs"]
mod faults;
#[path = "tcp/hostile.rs"]
mod hostile;
#[path = "tcp/raw.rs"]
mod raw;
#[path = "tcp/refusals.rs"]
mod refusals;
#[path = "tcp/rig.rs"]
mod rig;
#[path = "tcp/start.rs"]
mod start;
#[path = "tcp/tls.rs"]
mod tls;
