//! What a server must bear from its clients: nonsense, halves, silence, greed, and too many of them.

use std::io::{ErrorKind, Read, Write};
use std::process::Command;
use std::thread;
use std::time::Duration;

use redis::Commands;

use super::local::{ENDLESS, Local, shared, with_budget};
use super::servers::{PATIENCE, Raw, Setup, program, resident_bytes, until};

use crate::connection::Times;

/// What a node may take for its log meanwhile, in bytes: the segments that it keeps ready.
const ITS_OWN: usize = 32 << 20;

#[test]
fn nonsense_ends_its_connection_with_an_error_and_touches_nothing_else() {
    let servers = Setup::of(1).start();
    let mut other = servers.client(1);
    let () = other.set("a", 1).expect("set");
    let endless = vec![b'x'; 100 << 10];
    let nonsense: [(&[u8], &str); 5] = [
        (b"*1\r\n$4294967296\r\n", "-ERR Protocol error: invalid bulk length"),
        (b"*2147483647\r\n", "-ERR Protocol error: invalid multibulk length"),
        (b"*3\r\n$3\r\nSET\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'"),
        (b"set a \"\n", "-ERR Protocol error: unbalanced quotes in request"),
        (&endless, "-ERR Protocol error: too big inline request"),
    ];
    for (bytes, error) in nonsense {
        let mut raw = Raw::connect(servers.address(1));
        // What came before is still done, and what comes after is not.
        raw.send(b"INCR a\r\n");
        raw.send(bytes);
        raw.send(&b"\r\nSET a never\r\n".repeat(20_000));
        assert!(raw.line().starts_with(':'));
        assert_eq!(raw.rest(), format!("{error}\r\n"));
    }
    assert_eq!(other.get::<_, usize>("a").expect("get"), 1 + nonsense.len());
}

#[test]
fn requests_may_come_in_halves_and_many_at_once() {
    let servers = Setup::of(1).start();
    let mut raw = Raw::connect(servers.address(1));
    for byte in b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\nxy\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n" {
        raw.send(&[*byte]);
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!([raw.line(), raw.line(), raw.line()], ["+OK", "$2", "xy"]);

    // A half one that is never finished holds up nobody.
    let mut half = Raw::connect(servers.address(1));
    half.send(b"*2\r\n$3\r\nGET\r\n$1\r\n");
    let many = 2_000;
    raw.send(&b"INCR n\r\nGET n\r\n".repeat(many));
    for count in 1..=many {
        let count = count.to_string();
        assert_eq!(raw.line(), format!(":{count}"));
        assert_eq!([raw.line(), raw.line()], [format!("${}", count.len()), count]);
    }
    half.send(b"n\r\n");
    assert_eq!([half.line(), half.line()], ["$4".to_owned(), many.to_string()]);
}

#[test]
fn large_values_pass_and_larger_ones_are_refused() {
    let servers = Setup::of(1).start();
    let mut client = servers.client(1);
    let value = vec![b'v'; (1 << 20) - 100];
    let () = client.set("a", &value).expect("set");
    assert_eq!(client.get::<_, Vec<u8>>("a").expect("get"), value);
    let too_long = client.set::<_, _, ()>("b", vec![b'v'; 1 << 20]).expect_err("refused");
    assert!(too_long.to_string().contains("the command exceeds 1048576 bytes"), "{too_long}");
    // It was understood, so the connection goes on.
    assert!(!client.exists::<_, bool>("b").expect("exists"));
    let copies = client.mget::<_, Vec<Vec<u8>>>(vec!["a"; 4]).expect("4 MB");
    assert!(copies.len() == 4 && copies.iter().all(|copy| *copy == value));
    let too_much = client.mget::<_, Vec<Vec<u8>>>(vec!["a"; 5]).expect_err("5 MB");
    assert!(too_much.to_string().contains("the reply would exceed"), "{too_much}");
}

#[test]
fn room_for_long_replies_comes_back_once_they_are_fetched() {
    let servers = Setup::of(1).start();
    let mut client = servers.client(1);
    let () = client.set("a", vec![b'v'; 1_000_000]).expect("set");
    // More than there is room for at once, each by a client that then stays.
    let mut clients: Vec<_> = (0..75).map(|_| servers.client(1)).collect();
    for client in &mut clients {
        let copies = client.mget::<_, Vec<redis::Value>>(vec!["a"; 4]).expect("4 MB");
        assert_eq!(copies.len(), 4);
    }
}

#[test]
fn values_beyond_the_limit_are_skipped_and_the_connection_goes_on() {
    // Of the 40 MB the server keeps nothing: there is no room for them.
    let local = Local::start(with_budget(0));
    let mut raw = local.connect();
    raw.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$40000000\r\n");
    raw.send(&b"v".repeat(40_000_000));
    raw.send(b"\r\nPING\r\n");
    assert_eq!([raw.line(), raw.line()], ["-ERR an argument exceeds 1048576 bytes", "+PONG"]);
    raw.send(b"*2\r\n$3\r\nGET\r\n$536870913\r\n");
    assert_eq!(raw.rest(), "-ERR Protocol error: invalid bulk length\r\n");
}

#[test]
fn a_request_may_have_as_many_arguments_as_fit_into_its_bytes() {
    let local = Local::start(shared(10, ENDLESS));
    let mut raw = local.connect();
    let keys = 250_000;
    raw.send(format!("*{}\r\n$6\r\nEXISTS\r\n", keys + 1).as_bytes());
    raw.send(&b"$1\r\na\r\n".repeat(keys));
    assert_eq!(raw.line(), ":0");
}

#[test]
fn halves_of_requests_take_their_room_out_of_the_budget_of_all() {
    // Room for one half, which doubles the buffer four times.
    let local = Local::start(with_budget(1_000_000));
    let value = b"v".repeat(700_000);
    let whole = [&b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$700000\r\n"[..], &value, b"\r\n"].concat();
    let (half, rest) = whole.split_at(600_000);
    for _ in 0..3 {
        let (mut first, mut second) = (local.connect(), local.connect());
        first.send(half);
        until("it has come", || local.shared.budget.left() < 300_000);
        second.send(half);
        assert_eq!(second.rest(), "-ERR too many requests that are not whole\r\n");
        // Others need none of it.
        let mut third = local.connect();
        third.send(b"STRLEN b\r\n");
        assert_eq!(third.line(), ":0");
        first.send(rest);
        assert_eq!(first.line(), "+OK");
        until("the room is there again", || local.shared.budget.left() == 1_000_000);
    }
}

#[test]
fn a_request_that_is_not_whole_in_time_ends_its_connection() {
    let times = Times { request: Duration::from_millis(300), ..ENDLESS };
    let local = Local::start(shared(10, times));
    let mut patient = local.connect();
    for half in [&b"*2\r\n$3\r\nGET\r\n$1\r\n"[..], b"GET a", b"*1\r\n$2000000\r\nxxx"] {
        let mut raw = local.connect();
        raw.send(b"PING\r\n");
        raw.send(half);
        assert_eq!(raw.rest(), "+PONG\r\n-ERR the request was not whole after 300ms\r\n");
    }
    // One that is idle may stay so for longer.
    patient.send(b"PING\r\n");
    assert_eq!(patient.line(), "+PONG");
}

#[test]
fn idle_clients_keep_no_long_buffers() {
    const MANY: usize = 300;
    let servers = Setup::of(1).start();
    // It passes through a buffer of requests, one of the log's encoding, and one of replies.
    let value = vec![b'v'; 200_000];
    let set = [&b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$200000\r\n"[..], &value, b"\r\n"].concat();
    let set_one = |mut raw: Raw| {
        raw.send(&set);
        assert_eq!(raw.line(), "+OK");
        raw.send(b"GET a\r\n");
        assert_eq!(raw.line(), "$200000");
        raw.0.read_exact(&mut vec![0; value.len() + 2]).expect("the value");
        raw
    };
    let connect = || Raw::connect(servers.address(1));
    // Until the log has all the memory that it takes.
    let first = (0..400).fold(connect(), |raw, _| set_one(raw));
    let before = resident_bytes(servers.pid(1));
    let idle: Vec<Raw> = (0..MANY).map(|_| set_one(connect())).collect();
    let each = resident_bytes(servers.pid(1)).saturating_sub(before) / MANY;
    // Twice what its buffers may be: a thread and its stack take something as well.
    assert!(each < 128 << 10, "{each} bytes for each idle client");
    drop((first, idle));
}

#[test]
fn clients_without_a_place_are_counted() {
    let local = Local::start(shared(1, ENDLESS));
    let places = &local.shared.places;
    let mut first = local.connect();
    let turn = local.shared.scan.lock();
    first.send(b"INCR begun\r\nKEYS nothing\r\n");
    until("it is busy", || local.get("begun").is_some());
    for _ in 0..3 {
        local.connect().rest();
    }
    drop(turn);
    assert_eq!([first.line(), first.line()], [":1", "*0"]);
    places.wait_quiet(PATIENCE);
    let mut second = local.connect();
    second.send(b"INFO\r\n");
    for expected in [
        "connected_clients:1",
        "total_connections_received:2",
        "rejected_connections:3",
        "pushed_out_connections:1",
    ] {
        let (name, _) = expected.split_once(':').expect("a number");
        let mut line = second.line();
        while !line.starts_with(name) {
            line = second.line();
        }
        assert_eq!(line, expected);
    }
}

#[test]
fn a_client_that_never_reads_costs_a_bounded_amount_and_is_given_up() {
    let servers = Setup::of(1).start();
    let mut client = servers.client(1);
    let () = client.set("a", vec![b'v'; 1 << 19]).expect("set");
    let before = resident_bytes(servers.pid(1));
    let mut greedy = Raw::connect(servers.address(1)).0;
    greedy.set_write_timeout(Some(Duration::from_millis(100))).expect("a socket");
    let requests = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".repeat(1000);
    let (mut most, mut sent) = (0, 0);
    // It asks for more and more, 500 MB each time, until it is cut off.
    until("the connection ends", || {
        most = most.max(resident_bytes(servers.pid(1)));
        match greedy.write(&requests[sent..]) {
            Ok(written) => {
                sent = (sent + written) % requests.len();
                false
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    });
    let grown = most.saturating_sub(before);
    assert!(grown < ITS_OWN + (32 << 20), "{grown} bytes more in memory");
    assert_eq!(client.strlen::<_, usize>("a").expect("others are served"), 1 << 19);
}

#[test]
fn clients_never_take_the_files_that_the_node_needs() {
    let mut setup = Setup::of(1);
    let starter = ["sh", "-c", "ulimit -n 80 && exec \"$0\" \"$@\""];
    setup.starters.insert(1, starter.map(str::to_owned).to_vec());
    let servers = setup.start();
    let clients: Vec<Raw> = (0..100).map(|_| Raw::connect(servers.address(1))).collect();
    let mut client = servers.client(1);
    let info: String = redis::cmd("INFO").query(&mut client).expect("info");
    assert!(info.contains("connected_clients:16\r\n"), "{} came: {info}", clients.len());
    // Enough for new segments of the log, each of which is a file.
    for _ in 0..40 {
        let () = client.set("a", vec![b'v'; 1 << 19]).expect("the node goes on");
    }
}

#[test]
fn hundreds_of_idle_clients_cost_little() {
    let servers = Setup::of(1).start();
    let mut client = servers.client(1);
    let () = client.set("a", 1).expect("set");
    let before = resident_bytes(servers.pid(1));
    let mut idle: Vec<Raw> = (0..900).map(|_| Raw::connect(servers.address(1))).collect();
    for raw in &mut idle {
        raw.send(b"GET a\r\n");
        assert_eq!([raw.line(), raw.line()], ["$1", "1"]);
    }
    let each = resident_bytes(servers.pid(1)).saturating_sub(before) / idle.len();
    assert!(each < (ITS_OWN / idle.len()) + (128 << 10), "{each} bytes for each idle client");
    assert_eq!(client.get::<_, i64>("a").expect("it still serves"), 1);
}

#[test]
fn a_command_line_that_is_wrong_is_explained() {
    let start = |args: &[&str]| {
        let output = Command::new(program()).args(args).output().expect("it can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let whole = ["--id", "1", "--members", "1=127.0.0.1:7101", "--redis", "127.0.0.1:0"];
    let with = |more: &[&'static str]| [&whole[..], more].concat();
    let wrong: [(Vec<&str>, &str); 8] = [
        (vec![], "--id is missing"),
        (with(&[]), "either --data or --memory"),
        (with(&["--memory", "--data", "d"]), "either --data or --memory"),
        (with(&["--memory", "--what"]), "unknown argument --what"),
        (with(&["--memory", "--listen"]), "--listen needs a value"),
        (with(&["--memory", "--id", "2"]), "node 2 is not among --members"),
        (with(&["--memory", "--max-clients", "x"]), "--max-clients x: not a number"),
        (with(&["--memory", "--members", "1=a,1=b"]), "node 1 is there twice"),
    ];
    for (args, expected) in wrong {
        let (code, said) = start(&args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains(expected) && said.contains("usage: kv"), "{args:?}: {said}");
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = Command::new(program())
        .args(["--id", "1", "--members", "1=127.0.0.1:7101", "--memory", "--redis", &address])
        .output()
        .expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&address) && !said.contains("usage"), "{said}");
}
