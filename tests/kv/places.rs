//! Who is served when there are more clients than places.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use oarlock::StopCause;
use redis::Commands;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::local::{ENDLESS, Local, shared};
use super::servers::{PATIENCE, Raw, Setup, resident_bytes, threads, until};

/// Whether it still is.
fn is_served(raw: &mut Raw) -> bool {
    raw.0.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut said = [0; 7];
    raw.0.write_all(b"PING\r\n").is_ok()
        && raw.0.read_exact(&mut said).is_ok()
        && said == *b"+PONG\r\n"
}

#[test]
fn who_comes_pushes_out_the_silent_then_the_idle_and_never_the_busy() {
    let local = Local::start(shared(3, ENDLESS));
    let connect = || {
        let come = local.shared.places.come();
        let raw = local.connect();
        until("it has a place", || local.shared.places.come() > come);
        raw
    };
    let mut asked_first = connect();
    assert!(is_served(&mut asked_first));
    let (mut silent_longest, mut silent) = (connect(), connect());
    let mut come = connect();
    assert_eq!(silent_longest.rest(), "", "it never sent a request");
    // Whoever is served now has asked later than the first.
    assert!(is_served(&mut silent) && is_served(&mut come));
    let last = connect();
    assert_eq!(asked_first.rest(), "", "it has been idle longest");
    assert_eq!((local.shared.places.pushed_out(), local.shared.places.rejected()), (2, 0));

    let turn = local.shared.scan.lock();
    let mut busy = [silent, come, last];
    for raw in &mut busy {
        raw.send(b"INCR begun\r\nKEYS nothing\r\n");
    }
    until("all are at it", || local.get("begun").as_deref() == Some(b"3"));
    let mut refused = local.connect();
    assert_eq!(refused.rest(), "-ERR max number of clients reached\r\n");
    drop(turn);
    for raw in &mut busy {
        assert!(raw.line().starts_with(':'));
        assert_eq!(raw.line(), "*0");
    }
    assert_eq!((local.shared.places.pushed_out(), local.shared.places.rejected()), (2, 1));
}

#[test]
fn a_server_whose_node_stops_answers_those_who_wait_and_ends() {
    let local = Local::start_alone(shared(10, ENDLESS));
    let mut waiting = local.connect();
    waiting.send(b"PING\r\nINCR a\r\nGET a\r\n");
    assert_eq!(waiting.line(), "+PONG");
    assert!(matches!(local.stop(), StopCause::Shutdown));
    assert_eq!(waiting.line(), "-CLUSTERDOWN never applied: the node was shut down");
    assert_eq!(waiting.line(), "-CLUSTERDOWN the node was shut down");
}

#[test]
fn a_server_does_not_end_before_the_last_is_told() {
    let local = Local::start_alone(shared(10, ENDLESS));
    let (node, places) = (local.node.clone(), Arc::clone(&local.shared.places));
    let stream = Arc::new(TcpStream::connect(local.address).expect("it listens"));
    let place = places.take(stream, local.address).expect("nobody is there");
    assert!(place.begin());
    let told = Arc::new(AtomicBool::new(false));
    let tells = Arc::clone(&told);
    let slow = thread::spawn(move || {
        until("the node stops", || node.status().stopped.is_some());
        thread::sleep(Duration::from_millis(100));
        tells.store(true, Ordering::SeqCst);
        place.rest(true);
    });
    local.stop();
    assert!(told.load(Ordering::SeqCst), "it ended before");
    slow.join().expect("no panic");
}

/// Lets this process have so many files open, or as many as it may.
fn allow_files(files: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let files = limit.maximum.map_or(files, |maximum| maximum.min(files));
    if limit.current.is_some_and(|current| current < files) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..limit });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(files)
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    const MANY: usize = 10_000;
    let most = allow_files(MANY as u64 + 1000).saturating_sub(1000) as usize;
    if most < MANY {
        eprintln!("SKIPPED: {MANY} connections; this process may have {most}");
    }
    let mut setup = Setup::of(1);
    setup.args.insert(1, ["--max-clients", "200"].map(str::to_owned).to_vec());
    let servers = setup.start();
    let address: SocketAddr = servers.address(1);
    let mut worker = servers.client(1);
    let () = worker.set("a", 1).expect("set");
    let (before, of_node) = (resident_bytes(servers.pid(1)), threads(servers.pid(1)));
    let idle: Vec<TcpStream> = (0..most.min(MANY))
        .map(|_| TcpStream::connect_timeout(&address, PATIENCE).expect("it listens"))
        .collect();
    let mut client = servers.client(1);
    assert_eq!(client.incr::<_, _, i64>("a", 1).expect("it serves"), 2);
    // One that works is not the one that has been idle longest.
    assert_eq!(worker.incr::<_, _, i64>("a", 1).expect("it still serves"), 3);
    assert!(threads(servers.pid(1)) <= of_node + 200, "{} threads", threads(servers.pid(1)));
    let grown = resident_bytes(servers.pid(1)).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more in memory for {} connections", idle.len());
}
