//! Many requests at once: what they wait for together, who is still there for the replies, and how much of
//! them may wait.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use redis::Commands;
use socket2::SockRef;

use super::local::{ENDLESS, Local, shared};
use super::servers::{PATIENCE, Raw, Setup};
use crate::commands::{Command, Step, command};
use crate::connection::Times;
use crate::pipeline::run_length;
use crate::resp::{Decoder, Found, Limits};

const LIMITS: Limits = Limits { args: 10, bulk_bytes: 100, request_bytes: 1000, line_bytes: 1000 };
/// Long enough to be noticed when it is waited for again and again, short enough to be waited for once.
const SHORT: Duration = Duration::from_secs(2);
const DOWN: &str = "-CLUSTERDOWN never applied: ";

fn impatient() -> Times {
    Times { leader: SHORT, ..ENDLESS }
}

#[test]
fn requests_sent_together_wait_for_a_leader_together() {
    let local = Local::start_alone(shared(10, impatient()));
    let begun = Instant::now();
    let line = |raw: &mut Raw| {
        assert!(begun.elapsed() < PATIENCE, "they wait one after the other");
        raw.line()
    };
    let mut raw = local.connect();
    let pairs = 100;
    raw.send(&b"INCR a\r\nPING\r\nGET a\r\n".repeat(pairs));
    for _ in 0..pairs {
        assert!(line(&mut raw).starts_with(DOWN));
        assert_eq!(line(&mut raw), "+PONG");
        assert!(line(&mut raw).starts_with("-CLUSTERDOWN "));
    }
    // Those that were there meanwhile have waited as well, however often the socket is read for them.
    let writes = 2000;
    raw.send(&format!("SET a {}\r\n", "x".repeat(1000)).repeat(writes).into_bytes());
    (0..writes).for_each(|_| assert!(line(&mut raw).starts_with(DOWN)));
}

#[test]
fn a_client_that_has_gone_is_not_waited_with() {
    // Its requests would wait for a leader for a day.
    let local = Local::start_alone(shared(10, ENDLESS));
    let mut raw = local.connect();
    raw.send(b"INCR gone\r\n");
    local.wait_for_clients(1);
    reset(raw);
    local.wait_for_clients(0);
    // An orderly end is noticed by the reply that nobody takes.
    let mut raw = local.connect();
    raw.send(b"PING\r\nINCR gone\r\nGET gone\r\n");
    local.wait_for_clients(1);
    drop(raw);
    local.wait_for_clients(0);
}

#[test]
fn nothing_more_is_done_for_a_client_that_has_gone() {
    let local = Local::start(shared(10, ENDLESS));
    let mut raw = local.connect();
    let turn = local.shared.scan.lock();
    raw.send(b"INCR before\r\nKEYS *\r\nINCR gone\r\n");
    while local.get("before").is_none() {}
    reset(raw);
    drop(turn);
    local.wait_for_clients(0);
    assert_eq!(local.get("gone"), None);
}

#[test]
fn a_client_that_closed_its_socket_is_found_out_by_the_first_reply() {
    let local = Local::start(shared(10, ENDLESS));
    let mut raw = local.connect();
    let turn = local.shared.scan.lock();
    let many = 200;
    let after = b"INCR gone\r\nGET gone\r\n".repeat(many);
    raw.send(&[&b"INCR before\r\nKEYS *\r\n"[..], &after].concat());
    while local.get("before").is_none() {}
    drop(raw);
    drop(turn);
    local.wait_for_clients(0);
    // How many depends on how soon its end of the connection says that nobody is there.
    let done = local
        .get("gone")
        .map_or(0, |done| String::from_utf8_lossy(&done).parse().expect("a number"));
    assert!(done < many, "all were done");
}

/// Ends a connection without a goodbye.
fn reset(raw: Raw) {
    SockRef::from(&raw.0).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(raw);
}

#[test]
fn a_client_that_sends_no_more_gets_all_its_replies() {
    let local = Local::start(shared(10, ENDLESS));
    let mut raw = local.connect();
    let value = "v".repeat(100_000);
    let gets = 100;
    raw.send(format!("SET a {}\r\n{}", &value[..50_000], "GET a\r\n".repeat(gets)).as_bytes());
    raw.0.shutdown(Shutdown::Write).expect("a socket");
    let expected = format!("+OK\r\n{}", format!("$50000\r\n{}\r\n", &value[..50_000]).repeat(gets));
    assert!(raw.rest() == expected);
}

#[test]
fn a_client_that_sends_no_more_is_served_until_the_deadline() {
    let local = Local::start_alone(shared(10, impatient()));
    let mut raw = local.connect();
    raw.send(b"INCR a\r\nECHO b\r\n");
    raw.0.shutdown(Shutdown::Write).expect("a socket");
    let replies = raw.rest();
    assert!(replies.starts_with(DOWN) && replies.ends_with("\r\n$1\r\nb\r\n"), "{replies}");
}

#[test]
fn a_pipeline_may_be_written_whole_before_a_reply_is_read() {
    let local = Local::start(shared(10, ENDLESS));
    let mut raw = local.connect();
    let value = "v".repeat(1000);
    raw.send(format!("SET a {value}\r\n").as_bytes());
    assert_eq!(raw.line(), "+OK");
    // More than sockets hold, in both directions.
    let gets = 20_000;
    raw.send(&format!("GET a{}\r\n", " ".repeat(500)).repeat(gets).into_bytes());
    raw.0.shutdown(Shutdown::Write).expect("a socket");
    assert!(raw.rest() == format!("$1000\r\n{value}\r\n").repeat(gets));
}

#[test]
fn replies_that_nobody_fetches_have_an_end() {
    let times = Times { replies: SHORT, ..ENDLESS };
    let local = Local::start(shared(10, times));
    let mut raw = local.connect();
    raw.send(format!("SET a {}\r\n", "v".repeat(60_000)).as_bytes());
    assert_eq!(raw.line(), "+OK");
    // Written without regard to whether it is taken; it ends when the server does not read any more.
    let gets = b"GET a\r\n".repeat(10_000);
    while raw.0.write_all(&gets).is_ok() {}
    local.wait_for_clients(0);
}

/// How long the first run of these requests is.
fn first_run(lines: &[&str]) -> usize {
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    let steps = lines.iter().map(|line| {
        let Ok(Some((Found::Request(request), _))) = Decoder::new(LIMITS).next(line.as_bytes())
        else {
            panic!("{line} is no request");
        };
        let Command::Step(step) = command(request) else { panic!("{line} ends the connection") };
        step
    });
    run_length(&steps.collect::<Vec<Step<'_>>>())
}

#[test]
fn only_reads_end_a_run_of_writes_and_only_writes_one_of_reads() {
    assert_eq!(first_run(&["INCR a", "PING", "INCR a", "ECHO x", "nonsense", "SET a b"]), 6);
    assert_eq!(first_run(&["PING", "INFO", "INCR a", "PING", "GET a", "INCR a"]), 4);
    assert_eq!(first_run(&["GET a", "PING", "KEYS *", "COMMAND", "SET a b", "GET a"]), 4);
    assert_eq!(first_run(&["PING", "PING"]), 2);
}

#[test]
fn every_request_sees_what_those_before_it_did_and_no_more() {
    let local = Local::start(shared(10, ENDLESS));
    let mut raw = local.connect();
    let rounds = 200;
    raw.send(
        &b"INCR n\r\nPING\r\nGET n\r\nECHO e\r\nGET n\r\nnonsense\r\nINCR n\r\n".repeat(rounds),
    );
    for round in 0..rounds {
        let odd = 2 * round + 1;
        let text = odd.to_string();
        assert_eq!([raw.line(), raw.line()], [format!(":{odd}"), "+PONG".to_owned()]);
        assert_eq!([raw.line(), raw.line()], [format!("${}", text.len()), text.clone()]);
        assert_eq!([raw.line(), raw.line()], ["$1", "e"]);
        assert_eq!([raw.line(), raw.line()], [format!("${}", text.len()), text]);
        assert!(raw.line().starts_with("-ERR unknown command 'nonsense'"));
        assert_eq!(raw.line(), format!(":{}", odd + 1));
    }
}

#[test]
fn reads_of_a_pipeline_see_what_was_acknowledged_anywhere_before_it() {
    let servers = Setup::of(3).start();
    let leader = servers.leader();
    let follower = servers.ids().into_iter().find(|id| *id != leader).expect("there are three");
    let mut writer = servers.client(leader);
    let mut raw = Raw::connect(servers.address(follower));
    for round in 0..300_u32 {
        let () = writer.set("there", round).expect("set");
        // A read that comes first, and one behind a write.
        let requests: &[u8] =
            if round % 2 == 0 { b"GET there\r\n" } else { b"INCR here\r\nGET there\r\n" };
        raw.send(requests);
        if round % 2 == 1 {
            assert_eq!(raw.line(), format!(":{}", round.div_ceil(2)));
        }
        let text = round.to_string();
        assert_eq!([raw.line(), raw.line()], [format!("${}", text.len()), text]);
    }
}
