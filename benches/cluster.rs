//! Three nodes in one process: proposals in flight, blocking callers, linearizable reads.
//!
//! `cargo bench --bench cluster` runs everything; add a filter such as `-- 'disk/window/256B/4096'`.
//! Throughput is in operations a second. All three nodes and the load share the machine.
//!
//! The machine here is in bytes and says that it keeps its own state, so the nodes let go of log that all
//! of them have; without that, and without snapshots, a benchmark would measure how fast memory can be
//! had.

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oarlock::error::{ApplyError, EncodeError};
use oarlock::{Applied, Cluster, Config, EntryId, Machine, Node, Role, StateMachine};
use serde::{Deserialize, Serialize};

const PATIENCE: Duration = Duration::from_secs(60);

/// Folds every command into one number.
#[derive(Default)]
struct Fold<const SHORT: bool> {
    sum: u64,
    applied: EntryId,
}

impl<const SHORT: bool> StateMachine for Fold<SHORT> {
    type Command = Arc<[u8]>;
    type Response = u64;

    const APPLY_IS_SHORT: bool = SHORT;

    fn encode(command: &Arc<[u8]>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(command);
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], at: &Applied) -> Result<u64, ApplyError> {
        self.sum = self.sum.wrapping_add(bytes.len() as u64 + u64::from(bytes[0]));
        self.applied = at.entry;
        Ok(self.sum)
    }

    fn last_applied(&self) -> Option<EntryId> {
        Some(self.applied)
    }
}

/// The same as a typed machine: commands travel as bincode.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Typed {
    sum: u64,
}

#[derive(Serialize, Deserialize)]
struct Add {
    bytes: Vec<u8>,
}

impl Machine for Typed {
    type Command = Add;
    type Response = u64;

    fn apply(&mut self, add: Add) -> u64 {
        self.sum = self.sum.wrapping_add(add.bytes.len() as u64 + u64::from(add.bytes[0]));
        self.sum
    }
}

#[derive(Clone, Copy)]
enum Place {
    Memory,
    Disk,
}

impl Place {
    const ALL: [Self; 2] = [Self::Memory, Self::Disk];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    fn cluster<S: StateMachine>(self, machine: fn() -> S) -> (Cluster<S>, Node<S>) {
        let builder = Cluster::builder(3).config(Config::default());
        let cluster = match self {
            Self::Memory => builder.memory(machine),
            Self::Disk => builder.temp(machine),
        };
        let cluster = cluster.expect("starts");
        let leader = cluster.wait_leader(PATIENCE).expect("a leader");
        (cluster, leader)
    }
}

/// One thread keeps `window` proposals in flight until `count` are done.
fn window<S: StateMachine>(
    node: &Node<S>,
    command: impl Fn() -> S::Command,
    window: usize,
    count: u64,
) -> Duration {
    let mut tickets = VecDeque::with_capacity(window);
    let begun = Instant::now();
    for _ in 0..count {
        if tickets.len() == window {
            let ticket: oarlock::Ticket<S> = tickets.pop_front().expect("full");
            black_box(ticket.wait().expect("applied"));
        }
        tickets.push_back(node.submit(command()).expect("taken"));
    }
    for ticket in tickets {
        black_box(ticket.wait().expect("applied"));
    }
    begun.elapsed()
}

/// `threads` threads call `operation` until `count` calls are done.
fn blocking(threads: u64, count: u64, operation: impl Fn() + Sync) -> Duration {
    let left = AtomicU64::new(count);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let take = || {
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                };
                while take().is_ok() {
                    operation();
                }
            });
        }
    });
    begun.elapsed()
}

fn proposals(c: &mut Criterion) {
    proposals_to::<false>(c, "");
    proposals_to::<true>(c, "-short-apply");
}

/// `SHORT`: the machine declares that applying is short, so no other thread has to be woken for it.
fn proposals_to<const SHORT: bool>(c: &mut Criterion, suffix: &str) {
    for place in Place::ALL {
        let (_cluster, leader) = place.cluster(Fold::<SHORT>::default);
        let place = format!("{}{suffix}", place.name());
        for bytes in [16, 256] {
            let command: Arc<[u8]> = vec![1; bytes].into();
            let mut group = c.benchmark_group(format!("{place}/window/{bytes}B"));
            group.throughput(Throughput::Elements(1));
            for in_flight in [1, 16, 256, 4096] {
                group.bench_function(BenchmarkId::from_parameter(in_flight), |b| {
                    b.iter_custom(|count| {
                        window(&leader, || Arc::clone(&command), in_flight, count)
                    });
                });
            }
            group.finish();
            let mut group = c.benchmark_group(format!("{place}/blocking/{bytes}B"));
            group.throughput(Throughput::Elements(1));
            for threads in [1, 16, 256] {
                group.bench_function(BenchmarkId::from_parameter(threads), |b| {
                    b.iter_custom(|count| {
                        blocking(threads, count, || {
                            black_box(leader.propose(Arc::clone(&command)).expect("applied"));
                        })
                    });
                });
            }
            group.finish();
        }
    }
}

fn reads(c: &mut Criterion) {
    let (_cluster, leader) = Place::Memory.cluster(Fold::<false>::default);
    leader.propose(vec![1].into()).expect("applied");
    let mut group = c.benchmark_group("memory/read");
    group.throughput(Throughput::Elements(1));
    for readers in [1, 256] {
        group.bench_function(BenchmarkId::from_parameter(readers), |b| {
            b.iter_custom(|count| {
                blocking(readers, count, || {
                    black_box(leader.read(|fold| fold.sum).expect("read"));
                })
            });
        });
    }
    group.finish();
}

/// The same calls on the leader and on a follower, which sends them on.
fn followers(c: &mut Criterion) {
    for place in Place::ALL {
        let (cluster, leader) = place.cluster(Fold::<false>::default);
        let nodes = cluster.nodes();
        let follower = nodes.iter().find(|node| node.id() != leader.id()).expect("three nodes");
        while follower.status().leader.is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        let command: Arc<[u8]> = vec![1; 256].into();
        for (name, node) in [("leader", &leader), ("follower", follower)] {
            let mut group = c.benchmark_group(format!("{}/{name}", place.name()));
            group.throughput(Throughput::Elements(1));
            for in_flight in [1, 256] {
                group.bench_function(BenchmarkId::new("window", in_flight), |b| {
                    b.iter_custom(|count| window(node, || Arc::clone(&command), in_flight, count));
                });
            }
            group.bench_function(BenchmarkId::new("read", 1), |b| {
                b.iter_custom(|count| {
                    blocking(1, count, || {
                        black_box(node.read(|fold| fold.sum).expect("read"));
                    })
                });
            });
            group.finish();
        }
    }
}

/// Bytes against bincode. The typed machine has the whole log kept, so the runs are short and alike.
fn typed(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory/machine/256B/256");
    group.throughput(Throughput::Elements(1));
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    group.bench_function("bytes", |b| {
        let (_cluster, leader) = Place::Memory.cluster(Fold::<false>::default);
        let command: Arc<[u8]> = vec![1; 256].into();
        b.iter_custom(|count| window(&leader, || Arc::clone(&command), 256, count));
    });
    group.bench_function("typed", |b| {
        let (_cluster, leader) = Place::Memory.cluster(Typed::default);
        b.iter_custom(|count| window(&leader, || Add { bytes: vec![1; 256] }, 256, count));
    });
    group.finish();
}

/// Nodes in one process against the same three over TCP on loopback, in one run: what the way through the
/// system costs. All threads of all nodes share the machine.
fn tcp(c: &mut Criterion) {
    let (_cluster, in_process) = Place::Memory.cluster(Fold::<false>::default);
    let nodes = nodes_over_tcp();
    let begun = Instant::now();
    let over_tcp = loop {
        // One that leads by its own account, and is followed: it can confirm a read.
        if let Some(node) = nodes
            .iter()
            .find(|node| node.status().role == Role::Leader && node.read(|_| ()).is_ok())
        {
            break node;
        }
        assert!(begun.elapsed() < PATIENCE, "no leader");
    };
    for bytes in [16, 256, 4096] {
        let command: Arc<[u8]> = vec![1; bytes].into();
        let mut group = c.benchmark_group(format!("transport/window/{bytes}B/256"));
        group.throughput(Throughput::Elements(1));
        for (name, leader) in [("in-process", &in_process), ("tcp", over_tcp)] {
            group.bench_function(name, |b| {
                b.iter_custom(|count| window(leader, || Arc::clone(&command), 256, count));
            });
        }
        group.finish();
    }
}

fn nodes_over_tcp() -> Vec<Node<Fold<false>>> {
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let members: Vec<(u64, String)> =
        (1..=3).map(|id| (id, free().expect("a free port").to_string())).collect();
    let node = |(id, address): &(u64, String)| {
        let builder = Node::builder(*id, Fold::default()).in_memory().listen(address);
        builder.members(members.clone()).start().expect("starts")
    };
    members.iter().map(node).collect()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500));
    targets = proposals, reads, followers, typed, tcp
}
criterion_main!(benches);
