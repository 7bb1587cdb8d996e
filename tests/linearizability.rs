//! Histories of real processes under a nemesis, checked for linearizability.
//!
//! Clients of `examples/kv.rs` write, compare-and-set and read a few keys through any node, while nodes are
//! killed and paused, links are cut and slow, and disks are slow or stuck (`linearizability/nemesis.rs`). What they did and what they were told, with
//! the times of both, goes to a checker that nobody here wrote (`porcupine-rs`): is there an order of all
//! operations, each somewhere between its call and its return, in which a simple register would have given
//! the same answers? A write whose outcome is unknown may take effect at any time after its call, or never.
//!
//! A run does everything to the servers at least once. `OARLOCK_LIN_SECONDS`, `OARLOCK_LIN_SEED` and `OARLOCK_LIN_CLIENTS` make a longer run of it.
#![cfg(unix)]

#[path = "linearizability/nemesis.rs"]
mod nemesis;
#[path = "kv/servers.rs"]
mod servers;
#[path = "linearizability/slow_disks.rs"]
mod slow_disks;
// The harness finds the proxy's `free_address` here as well.
mod proxy;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nemesis::{Nemesis, Slow};
use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};
use proxy::Proxy;
use redis::{Connection, RedisResult};
use servers::{Addresses, Setup, code};
use slow_disks::SlowDisks;

const NODES: u64 = 3;
const KEYS: u64 = 6;
/// A checker that finds no answer in this time says so; that is not a pass.
const CHECK: Duration = Duration::from_secs(120);
/// Stands for the return of what never returned.
const NEVER: i64 = i64::MAX;

/// What a client did to a key, and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Set(u64),
    Get(Option<u64>),
    /// The outcome is `None` if it is unknown.
    Cas {
        old: u64,
        new: u64,
        done: Option<bool>,
    },
}

/// One key: a register. Keys are independent, so each has a history of its own.
#[derive(Clone, Debug)]
struct Register;

impl Model for Register {
    type State = Option<u64>;
    type Op = Op;
    type Metadata = ();

    fn init() -> Self::State {
        None
    }

    fn step(state: &Self::State, op: &Op) -> (bool, Self::State) {
        match *op {
            Op::Set(value) => (true, Some(value)),
            Op::Get(seen) => (seen == *state, *state),
            Op::Cas { old, new, done } => {
                let matches = *state == Some(old);
                let state = if matches { Some(new) } else { *state };
                (done.is_none_or(|done| done == matches), state)
            }
        }
    }
}

fn operation(client: u32, call: i64, end: i64, op: Op) -> Operation<Register> {
    Operation { client_id: Some(client), call_time: call, return_time: end, op, metadata: None }
}

fn check(history: &[Operation<Register>]) -> CheckResult {
    check_operations_timeout::<Register>(history, CHECK)
}

type History = BTreeMap<u64, Vec<Operation<Register>>>;

/// Everything that the clients of a run have in common.
struct Run {
    begun: Instant,
    over: AtomicBool,
    next: AtomicU64,
    nodes: Addresses,
    history: Mutex<History>,
    down: AtomicU64,
    unknown: AtomicU64,
    /// When the latest of the acknowledged writes was called.
    last_write: AtomicI64,
}

impl Run {
    fn now(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_nanos()).expect("a short run")
    }

    fn note(&self, key: u64, client: u32, call: i64, end: i64, op: Op) {
        let mut history = self.history.lock().expect("nobody panics with it");
        history.entry(key).or_default().push(operation(client, call, end, op));
    }
}

/// A connection whose server may be paused: it gives up sooner than a test does.
fn connect(address: SocketAddr) -> Option<Connection> {
    let client = redis::Client::open(format!("redis://{address}/")).ok()?;
    let patience = Duration::from_secs(3);
    let connection = client.get_connection_with_timeout(patience).ok()?;
    connection.set_read_timeout(Some(patience)).ok()?;
    Some(connection)
}

/// One client: one operation after the other, on a node of its own choice.
fn client(run: &Run, me: u32, seed: u64) {
    let mut dice = Rng::with_seed(seed);
    let mut connection: Option<Connection> = None;
    // What it last saw of each key, to compare with.
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    while !run.over.load(Ordering::SeqCst) {
        // A pause now and then keeps histories short enough to be checked.
        thread::sleep(Duration::from_micros(dice.u64(..4000)));
        if dice.u8(..20) == 0 {
            connection = None;
        }
        if connection.is_none() {
            let node = 1 + dice.u64(..NODES);
            let address = run.nodes.lock().expect("no panic").get(&node).copied();
            connection = address.and_then(connect);
        }
        let Some(open) = &mut connection else { continue };
        let key = dice.u64(..KEYS);
        let name = format!("k{key}");
        let new = run.next.fetch_add(1, Ordering::SeqCst);
        let call = run.now();
        let (reply, op): (RedisResult<Option<u64>>, Op) = match (dice.u8(..10), seen.get(&key)) {
            (0..=3, _) => (
                redis::cmd("SET").arg(&name).arg(new).query::<()>(open).map(|()| None),
                Op::Set(new),
            ),
            (4..=5, Some(&old)) => {
                let reply = redis::cmd("CAS").arg(&name).arg(old).arg(new).query::<u64>(open);
                let done = reply.as_ref().ok().map(|done| *done == 1);
                (reply.map(Some), Op::Cas { old, new, done })
            }
            _ => match redis::cmd("GET").arg(&name).query::<Option<u64>>(open) {
                Ok(value) => {
                    seen.extend(value.map(|value| (key, value)));
                    (Ok(value), Op::Get(value))
                }
                Err(error) => (Err(error), Op::Get(None)),
            },
        };
        let end = run.now();
        match reply {
            Ok(_) => {
                if matches!(op, Op::Set(_)) {
                    run.last_write.fetch_max(call, Ordering::SeqCst);
                }
                run.note(key, me, call, end, op);
            }
            Err(error) if code(&error) == Some("CLUSTERDOWN") => {
                // Never applied: as if it had not been.
                run.down.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) if code(&error) == Some("TIMEOUT") || error.is_io_error() => {
                run.unknown.fetch_add(1, Ordering::SeqCst);
                if !matches!(op, Op::Get(_)) {
                    run.note(key, me, call, NEVER, op);
                }
                connection = None;
            }
            Err(error) => panic!("no reply that an operation can have: {error}"),
        }
    }
}

/// Ends the clients, also when the nemesis panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn histories_of_real_processes_under_a_nemesis_are_linearizable() {
    let seed = setting("OARLOCK_LIN_SEED", 1);
    let length = Duration::from_secs(setting("OARLOCK_LIN_SECONDS", 8));
    let clients = setting("OARLOCK_LIN_CLIENTS", 6);
    let mut setup = Setup::of(NODES);
    let disks = SlowDisks::build();
    let mut proxies = BTreeMap::new();
    for (id, member) in &mut setup.members {
        let proxy = Proxy::before(member.parse().expect("an address"));
        setup.args.insert(*id, vec!["--listen".to_owned(), member.clone()]);
        *member = proxy.address().to_string();
        proxies.insert(*id, proxy);
        setup.starters.extend(disks.iter().map(|disks| (*id, disks.starter(*id))));
    }
    let mut servers = setup.start();
    servers.leader();
    let run = Run {
        begun: Instant::now(),
        over: AtomicBool::new(false),
        next: AtomicU64::new(1),
        nodes: servers.addresses(),
        history: Mutex::default(),
        down: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        last_write: AtomicI64::new(0),
    };
    let (done, slow) = thread::scope(|scope| {
        for me in 0..clients {
            let (run, seed) = (&run, seed.wrapping_mul(1000) + me);
            scope.spawn(move || client(run, me as u32, seed));
        }
        let over = Over(&run.over);
        let mut nemesis = Nemesis {
            run: &run,
            servers: &mut servers,
            proxies: &proxies,
            disks: disks.as_ref(),
            dice: Rng::with_seed(seed),
            done: BTreeMap::new(),
            slow: Vec::new(),
        };
        nemesis.rage(length);
        let Nemesis { done, slow, .. } = nemesis;
        // What was in flight ends, and a last read of every key is part of its history.
        servers.leader();
        thread::sleep(Duration::from_millis(500));
        drop(over);
        (done, slow)
    });
    for id in servers.ids() {
        let mut connection = servers.client(id);
        for key in 0..KEYS {
            let call = run.now();
            let value: Option<u64> = redis::cmd("GET")
                .arg(format!("k{key}"))
                .query(&mut connection)
                .expect("all is well");
            run.note(key, 1000 + id as u32, call, run.now(), Op::Get(value));
        }
    }
    let history = run.history.into_inner().expect("nobody panicked");
    let operations: usize = history.values().map(Vec::len).sum();
    println!(
        "seed {seed}: {operations} operations, {} writes on slow disks, {:?} never applied, \
         {:?} unknown, nemesis {done:?}",
        writes_on_slow_disks(&history, &slow),
        run.down,
        run.unknown
    );
    for (key, operations) in &history {
        let result = check(operations);
        if result != CheckResult::Ok {
            let mut operations = operations.clone();
            operations.sort_by_key(|operation| operation.call_time);
            for Operation { client_id, call_time, return_time, op, .. } in &operations {
                println!("{call_time} {return_time} {client_id:?} {op:?}");
            }
            panic!("the history of k{key} above is {result:?}; seed {seed}");
        }
    }
    assert!(operations > 300, "too little happened to show anything");
}

/// Counts the writes that began and ended while all disks were slow.
///
/// # Panics
/// If one of them was acknowledged before any disk can have had it.
fn writes_on_slow_disks(history: &History, slow: &[Slow]) -> usize {
    let count = |slow: &Slow| {
        let within = |operation: &&Operation<Register>| {
            matches!(operation.op, Op::Set(_))
                && slow.begin < operation.call_time
                && operation.return_time < slow.end
        };
        let took = history
            .values()
            .flatten()
            .filter(within)
            .map(|operation| operation.return_time - operation.call_time);
        let took: Vec<Duration> = took
            .map(|took| {
                Duration::from_nanos(u64::try_from(took).expect("no reply before its call"))
            })
            .collect();
        let quickest = took.iter().min().expect("the nemesis waited for one");
        assert!(
            *quickest >= slow.delay,
            "acknowledged after {quickest:?}, while every flush takes {:?}",
            slow.delay
        );
        took.len()
    };
    slow.iter().map(count).sum()
}

/// Calls and returns in the given order of time, for histories made by hand.
fn history(operations: &[(u32, i64, i64, Op)]) -> Vec<Operation<Register>> {
    operations.iter().map(|&(client, call, end, op)| operation(client, call, end, op)).collect()
}

#[test]
fn the_checker_passes_what_a_register_could_have_done() {
    use Op::{Cas, Get, Set};
    let cas = |old, new, done| Cas { old, new, done };
    for good in [
        // Two writes at the same time, read in either order.
        history(&[(1, 0, 10, Set(1)), (2, 0, 10, Set(2)), (3, 11, 12, Get(Some(1)))]),
        history(&[(1, 0, 10, Set(1)), (2, 0, 10, Set(2)), (3, 11, 12, Get(Some(2)))]),
        // A read at the same time as a write sees it or does not.
        history(&[(1, 0, 10, Set(1)), (2, 1, 2, Get(None)), (2, 3, 4, Get(Some(1)))]),
        // An unknown write shows late, or never.
        history(&[(1, 0, NEVER, Set(1)), (2, 5, 6, Get(None)), (2, 50, 60, Get(Some(1)))]),
        history(&[(1, 0, NEVER, Set(1)), (2, 5, 6, Get(None)), (2, 50, 60, Get(None))]),
        history(&[(1, 0, 1, Set(1)), (1, 2, NEVER, cas(1, 2, None)), (2, 3, 4, Get(Some(1)))]),
        history(&[(1, 0, 1, Set(1)), (1, 2, 3, cas(1, 2, Some(true))), (2, 4, 5, Get(Some(2)))]),
    ] {
        assert_eq!(check(&good), CheckResult::Ok, "{good:?}");
    }
}

#[test]
fn the_checker_finds_what_no_register_does() {
    use Op::{Cas, Get, Set};
    let cas = |old, new, done| Cas { old, new, done };
    for (why, bad) in [
        ("a stale read", history(&[(1, 0, 1, Set(1)), (1, 2, 3, Set(2)), (2, 4, 5, Get(Some(1)))])),
        ("a lost write", history(&[(1, 0, 1, Set(1)), (2, 2, 3, Get(None))])),
        ("a value from nowhere", history(&[(1, 0, 1, Set(1)), (2, 2, 3, Get(Some(9)))])),
        (
            "a write that came and went",
            history(&[(1, 0, NEVER, Set(1)), (2, 1, 2, Get(Some(1))), (2, 3, 4, Get(None))]),
        ),
        (
            "a write that was applied twice",
            history(&[
                (1, 0, 1, Set(1)),
                (2, 2, 3, Set(2)),
                (3, 4, 5, Get(Some(2))),
                (3, 6, 7, Get(Some(1))),
            ]),
        ),
        (
            "two who both won",
            history(&[
                (1, 0, 1, Set(1)),
                (1, 2, 9, cas(1, 2, Some(true))),
                (2, 2, 9, cas(1, 3, Some(true))),
            ]),
        ),
        (
            "one who lost without a reason",
            history(&[(1, 0, 1, Set(1)), (1, 2, 3, cas(1, 2, Some(false)))]),
        ),
        (
            "readers who disagree about the order of two writes",
            history(&[
                (1, 0, 100, Set(1)),
                (2, 0, 100, Set(2)),
                (3, 1, 2, Get(Some(1))),
                (3, 3, 4, Get(Some(2))),
                (4, 5, 6, Get(Some(1))),
            ]),
        ),
    ] {
        assert_eq!(check(&bad), CheckResult::Illegal, "{why}");
    }
}
