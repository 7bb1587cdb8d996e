//! Starting and stopping: ports, addresses, threads.

use std::io;
use std::net::{Ipv6Addr, TcpListener};
use std::sync::Mutex;
use std::time::Duration;

use crossbeam_channel::bounded;
use oarlock::message::Envelope;
use oarlock::transport::{Dropped, Inbound, Transport};
use oarlock::{Config, Node, NodeBuilder, NodeId, StartError};

use crate::certificates::Authority;
use crate::journal::{Journal, PATIENCE, until};
use crate::proxy::free_address;
use crate::rig::{Kind, Trio};

fn node(id: u64, listen: &str, members: &[(u64, &str)]) -> NodeBuilder<Journal> {
    Node::builder(id, Journal::default())
        .in_memory()
        .listen(listen)
        .members(members.iter().copied())
        .config(Config::small())
}

fn start_error(builder: NodeBuilder<Journal>) -> String {
    match builder.start() {
        Err(error @ StartError::Transport(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind(free_address()).expect("free");
    let address = taken.local_addr().expect("bound").to_string();
    let error = start_error(node(1, &address, &[(1, &address)]));
    assert!(error.contains(&address), "{error}");
}

#[test]
fn an_address_that_means_nothing_is_named() {
    for listen in ["127.0.0.1", "no-such-host.invalid:7000"] {
        let error = start_error(node(1, listen, &[(1, "127.0.0.1:7000")]));
        assert!(error.contains(listen), "{error}");
    }
    for peer in ["127.0.0.2", "127.0.0.2:", ":7000", "::1:7000", "host:0", ""] {
        let error = start_error(node(1, "127.0.0.1:0", &[(1, "127.0.0.1:7000"), (2, peer)]));
        assert!(error.contains("node 2") && error.contains(peer), "{error}");
    }
}

#[test]
fn two_members_with_one_address_are_refused() {
    let error =
        start_error(node(1, "127.0.0.1:0", &[(1, "127.0.0.1:7000"), (2, "127.0.0.1:7000")]));
    assert!(error.contains("nodes 1 and 2"), "{error}");
}

#[test]
fn a_start_that_was_refused_leaves_nothing_that_keeps_a_corrected_one_from_succeeding() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind(free_address()).expect("free");
    let in_use = taken.local_addr().expect("bound").to_string();
    let start = |listen: &str, members: &[(u64, &str)]| {
        node(1, listen, members).data_dir(dir.path().join("n1")).start()
    };
    let (own, other) = (free_address().to_string(), free_address().to_string());
    start(&in_use, &[(1, &own), (2, &other)]).expect_err("in use");
    start(&own, &[(1, &own), (2, "127.0.0.1")]).expect_err("no port");
    start(&own, &[(1, &own), (2, &own)]).expect_err("one address");
    start("127.0.0.1", &[(1, &own), (2, &other)]).expect_err("listens nowhere");
    assert!(!dir.path().join("n1").exists(), "a directory keeps its first members for good");
    start(&own, &[(1, &own), (2, &other)]).expect("starts");
}

#[test]
fn a_cluster_name_that_fits_into_no_greeting_is_refused() {
    let builder = node(1, "127.0.0.1:0", &[(1, "127.0.0.1:7000")]).cluster_name("x".repeat(1025));
    assert!(start_error(builder).contains("1025"));
}

#[test]
fn a_stopped_node_gives_its_port_and_threads_back() {
    let address = free_address().to_string();
    let members = [(801, &address[..]), (802, "127.0.0.1:9"), (803, "192.0.2.1:9")];
    for _ in 0..5 {
        let node = node(801, &address, &members).start().expect("starts");
        #[cfg(target_os = "linux")]
        until(|| threads_of(801) == EXPECTED);
        node.shutdown(PATIENCE).expect("stops");
        // At once: nothing is left that would hold the port.
        drop(TcpListener::bind(&address).expect("free"));
        #[cfg(target_os = "linux")]
        until(|| threads_of(801).is_empty());
    }
}

/// A transport that carries nothing, and does this on a thread of its own.
struct Threaded<F>(Option<F>);

impl<F: FnOnce() + Send + 'static> Transport for Threaded<F> {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        inbound.spawn("own", Some(NodeId(2)), self.0.take().expect("started once"))
    }

    fn send(&mut self, _: Envelope) -> Result<(), Dropped> {
        Err(Dropped)
    }
}

fn threaded(work: impl FnOnce() + Send + 'static) -> Node<Journal> {
    let builder = node(1, "127.0.0.1:0", &[(1, "127.0.0.1:9"), (2, "127.0.0.1:9")]);
    builder.transport(Threaded(Some(work))).start().expect("starts")
}

#[test]
fn a_panic_on_a_thread_of_the_transport_stops_the_node() {
    let node = threaded(|| panic!("on purpose"));
    until(|| node.status().stopped.is_some());
    let cause = node.status().stopped.expect("just seen").to_string();
    assert!(cause.contains("n1-own2") && cause.contains("on purpose"), "{cause}");
}

#[test]
fn a_shutdown_waits_for_the_threads_of_the_transport_and_names_them() {
    let (end, ended) = bounded::<()>(0);
    let node = threaded(move || assert!(ended.recv().is_err()));
    let error = node.shutdown(Duration::from_secs(1)).expect_err("one thread goes on");
    assert_eq!(error.threads, ["n1-own2"]);
    drop(end);
    node.shutdown(PATIENCE).expect("stops");
}

#[cfg(target_os = "linux")]
const EXPECTED: [&str; 9] = [
    "n801-accept",
    "n801-apply",
    "n801-core",
    "n801-rx802",
    "n801-rx803",
    "n801-seg",
    "n801-snap",
    "n801-tx802",
    "n801-tx803",
];

#[cfg(target_os = "linux")]
fn threads_of(id: u64) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .expect("this process's threads")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .filter(|name| name.starts_with(&format!("n{id}-")))
        .collect();
    names.sort();
    names
}

#[test]
fn nodes_meet_over_ipv6() {
    let Ok(probe) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        eprintln!("SKIPPED: there is no IPv6 on loopback");
        return;
    };
    let other = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("another port");
    let at = |listener: &TcpListener| listener.local_addr().expect("bound").to_string();
    let (a, b) = (at(&probe), at(&other));
    drop((probe, other));
    let members = [(1, &a[..]), (2, &b[..])];
    let nodes =
        [1, 2].map(|id| node(id, members[id as usize - 1].1, &members).start().expect("starts"));
    until(|| nodes.iter().any(|node| node.propose(7).is_ok()));
}

#[test]
fn members_may_have_names_for_addresses() {
    // On many machines `localhost` is ::1 as well as 127.0.0.1, and only one of them is listened on.
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let ports = [1, 2].map(|id| (id, format!("localhost:{}", free().expect("a port").port())));
    let members: Vec<(u64, &str)> = ports.iter().map(|(id, at)| (*id, &at[..])).collect();
    let nodes = [1_u64, 2].map(|id| {
        let listen = members[id as usize - 1].1.replace("localhost", "127.0.0.1");
        node(id, &listen, &members).start().expect("starts")
    });
    until(|| nodes.iter().any(|node| node.propose(7).is_ok()));
}

#[test]
fn an_orderly_stop_is_quick_even_if_nobody_answers() {
    let trio = Trio::<Journal>::start(Kind::Plain);
    trio.stop(1);
    trio.stop(2);
    let last = trio.node(3);
    last.shutdown(PATIENCE).expect("stops while it looks for the others");
}

/// Keeps what is logged as a warning.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Warn {
            self.0.lock().expect("nobody panics with it").push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_listener_that_others_can_reach_is_warned_of_unless_it_has_tls() {
    log::set_logger(&WARNINGS).expect("the only one");
    log::set_max_level(log::LevelFilter::Warn);
    let warned = |id: u64| {
        let warnings = WARNINGS.0.lock().expect("nobody panics with it");
        warnings
            .iter()
            .any(|text| text.contains("without TLS") && text.contains(&format!("={id} ")))
    };
    let members = |id| [(id, "127.0.0.1:7000")];
    drop(node(901, "0.0.0.0:0", &members(901)).start().expect("starts"));
    assert!(warned(901));
    drop(node(902, "127.0.0.1:0", &members(902)).start().expect("starts"));
    let tls = Authority::new().tls("node-903").expect("good");
    drop(node(903, "", &members(903)).listen_tls("0.0.0.0:0", tls).start().expect("starts"));
    assert!(!warned(902) && !warned(903));
}
