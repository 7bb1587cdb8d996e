//! What the commands mean: each request with the reply that Redis would give, against one state.

use std::sync::Arc;

use oarlock::{
    Applied, EntryId, LogIndex, ProposeError, StateMachine, Status, StopCause, Term, UnknownCause,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::json::is_json;
use crate::about::json;
use crate::budget::{Budget, MAX_SHARED_BYTES};
use crate::commands::{Command, MAX_KEY_BYTES, MAX_PATTERN_BYTES, Question, Step, command};
use crate::glob;
use crate::pipeline::{reply, settled};
use crate::replies::{MAX_REPLY_BYTES, MAX_WAITING_BYTES, OWN_BYTES, Replies};
use crate::resp::{Decoder, Found, Limits};
use crate::store::{MAX_WRITE_BYTES, Op, Outcome, Store, Write};

const LIMITS: Limits =
    Limits { args: 100, bulk_bytes: 2 << 20, request_bytes: 8 << 20, line_bytes: 8 << 20 };

fn at(index: u64) -> Applied {
    Applied::new(EntryId::new(Term(1), LogIndex(index)), 0)
}

/// A state, and what it has answered.
#[derive(Default)]
struct Server {
    store: Store,
    applied: u64,
}

impl Server {
    /// The reply to one line, as it goes to the client.
    fn reply(&mut self, line: &str) -> String {
        let mut replies = Replies::new(Arc::new(Budget::new(MAX_SHARED_BYTES)));
        self.reply_into(line, &mut replies)
    }

    /// The same, behind replies that wait already.
    fn reply_into(&mut self, line: &str, replies: &mut Replies) -> String {
        let line = format!("{line}\n");
        let mut decoder = Decoder::new(LIMITS);
        let decoded = decoder.next(line.as_bytes()).expect("a line");
        let Some((Found::Request(request), _)) = decoded else { panic!("not whole: {line}") };
        let before = replies.len();
        match command(request) {
            Command::Step(Step::Write(write)) => self.write(&write).reply(replies.short()),
            Command::Step(Step::Read(read)) => read.reply(&self.store, replies),
            Command::Step(Step::Reply(ready)) => replies.ready(&ready),
            Command::Step(Step::Ask(question)) => return format!("{question:?}"),
            other => return format!("{other:?}"),
        }
        let reply = replies.bytes().skip(before).collect::<Vec<u8>>();
        String::from_utf8_lossy(&reply).into_owned()
    }

    fn write(&mut self, write: &Write) -> Outcome {
        let mut bytes = Vec::new();
        Store::encode(write, &mut bytes).expect("bytes");
        self.applied += 1;
        self.store.apply_entry(&bytes, &at(self.applied)).expect("a write")
    }

    fn expect(&mut self, dialogue: &[(&str, &str)]) {
        for (line, reply) in dialogue {
            assert_eq!(self.reply(line), *reply, "{line}");
        }
    }
}

const OK: &str = "+OK\r\n";
const NIL: &str = "$-1\r\n";
const NO_NUMBER: &str = "-ERR value is not an integer or out of range\r\n";

#[test]
fn values_are_set_read_and_deleted() {
    Server::default().expect(&[
        ("GET a", NIL),
        ("SET a 1", OK),
        ("get a", "$1\r\n1\r\n"),
        ("SET a \"\\x00\\r\\n\"", OK),
        ("GET a", "$3\r\n\0\r\n\r\n"),
        ("STRLEN a", ":3\r\n"),
        ("STRLEN b", ":0\r\n"),
        ("MSET b 2 c 3 b 4", OK),
        ("MGET a b nothing c", "*4\r\n$3\r\n\0\r\n\r\n$1\r\n4\r\n$-1\r\n$1\r\n3\r\n"),
        ("EXISTS a a nothing c", ":3\r\n"),
        ("DBSIZE", ":3\r\n"),
        ("DEL a a b nothing", ":2\r\n"),
        ("KEYS *", "*1\r\n$1\r\nc\r\n"),
        ("FLUSHALL", OK),
        ("FLUSHALL async", OK),
        ("DBSIZE", ":0\r\n"),
        ("KEYS *", "*0\r\n"),
    ]);
}

#[test]
fn conditions_are_decided_when_the_write_is_applied() {
    Server::default().expect(&[
        ("SET a 1 XX", NIL),
        ("SET a 1 nx", OK),
        ("SET a 2 NX", NIL),
        ("SET a 3 XX", OK),
        ("GET a", "$1\r\n3\r\n"),
        ("SET a 3 NX nx NX", NIL),
        ("SET a 3 XX xx", OK),
        ("CAS a 2 4", ":0\r\n"),
        ("CAS a 3 4", ":1\r\n"),
        ("GET a", "$1\r\n4\r\n"),
        // A key that is not there has no value to compare with, not even an empty one.
        ("CAS b \"\" 1", ":0\r\n"),
        ("EXISTS b", ":0\r\n"),
    ]);
}

#[test]
fn numbers_are_counted_as_redis_counts() {
    Server::default().expect(&[
        ("INCR a", ":1\r\n"),
        ("INCRBY a 41", ":42\r\n"),
        ("DECR a", ":41\r\n"),
        ("DECRBY a 50", ":-9\r\n"),
        ("GET a", "$2\r\n-9\r\n"),
        ("INCRBY a 1.5", NO_NUMBER),
        ("INCRBY a 9223372036854775808", NO_NUMBER),
        ("DECRBY a -9223372036854775808", "-ERR decrement would overflow\r\n"),
        ("SET a 9223372036854775807", OK),
        ("INCR a", "-ERR increment or decrement would overflow\r\n"),
        ("SET a \" 1\"", OK),
        ("INCR a", NO_NUMBER),
        ("GET a", "$2\r\n 1\r\n"),
    ]);
}

#[test]
fn appending_has_an_end() {
    let mut server = Server::default();
    server.expect(&[
        ("APPEND a xy", ":2\r\n"),
        ("APPEND a z", ":3\r\n"),
        ("GET a", "$3\r\nxyz\r\n"),
    ]);
    let much = format!("APPEND a {}", "x".repeat(MAX_WRITE_BYTES - 100));
    assert_eq!(server.reply(&much), format!(":{}\r\n", 3 + MAX_WRITE_BYTES - 100));
    server.expect(&[
        (&format!("APPEND a {}", "x".repeat(98)), "-ERR string exceeds maximum allowed size\r\n"),
        (&format!("APPEND a {}", "x".repeat(97)), &format!(":{MAX_WRITE_BYTES}\r\n")),
    ]);
}

#[test]
fn a_write_that_is_too_long_for_the_log_is_refused_at_once() {
    let mut server = Server::default();
    let refused = format!("-ERR the command exceeds {MAX_WRITE_BYTES} bytes\r\n");
    // One byte for the kind of write, and four before each argument.
    let longest = MAX_WRITE_BYTES - 1 - 4 - 1 - 4;
    server.expect(&[
        (&format!("SET a {}", "x".repeat(longest + 1)), &refused),
        ("EXISTS a", ":0\r\n"),
        (&format!("SET a {}", "x".repeat(longest)), OK),
        ("STRLEN a", &format!(":{longest}\r\n")),
    ]);
}

#[test]
fn a_key_that_is_too_long_is_refused_by_every_command_that_names_one() {
    let mut server = Server::default();
    let (longest, long) = ("k".repeat(MAX_KEY_BYTES), "k".repeat(MAX_KEY_BYTES + 1));
    let lines = [
        "GET K",
        "SET K v",
        "SET K v NX",
        "SET K v XX",
        "INCR K",
        "INCRBY K 2",
        "DECR K",
        "DECRBY K 2",
        "MGET a K",
        "MSET a 1 K 2",
        "DEL a K",
        "EXISTS a K",
        "APPEND K v",
        "STRLEN K",
        "CAS K 1 2",
    ];
    for line in lines {
        let reply = server.reply(&line.replace('K', &long));
        assert_eq!(reply, format!("-ERR a key exceeds {MAX_KEY_BYTES} bytes\r\n"), "{line}");
        let reply = server.reply(&line.replace('K', &longest));
        assert!(!reply.contains("exceeds"), "{line}: {reply}");
    }
    // Values may be longer.
    server.expect(&[
        (&format!("MSET a {long} b {long}"), OK),
        (&format!("CAS a {long} {long}"), ":1\r\n"),
    ]);
}

#[test]
fn a_pattern_that_is_too_long_is_refused() {
    let pattern = "*".repeat(MAX_PATTERN_BYTES);
    Server::default().expect(&[
        (&format!("KEYS {pattern}"), "*0\r\n"),
        (&format!("KEYS {pattern}*"), "-ERR the pattern exceeds 1024 bytes\r\n"),
    ]);
}

#[test]
fn keys_that_would_take_too_long_is_refused_instead() {
    let mut server = Server::default();
    let cheap = "*a";
    let dear = format!("*{}b", "a".repeat(MAX_PATTERN_BYTES - 2));
    server.expect(&[(&format!("SET {} v", "a".repeat(MAX_KEY_BYTES)), OK)]);
    assert!(server.reply(&format!("KEYS {cheap}")).starts_with("*1\r\n"));
    let reply = server.reply(&format!("KEYS {dear}"));
    assert!(reply.starts_with("-ERR KEYS would take too long"), "{reply}");
}

#[test]
fn a_match_takes_no_more_steps_than_it_is_given() {
    // A class is as much work as it is long.
    let class = format!("*[{}]b", "x".repeat(1000));
    let text = [b'y'; 100];
    assert_eq!(glob::matches(class.as_bytes(), &text, &mut 50_000), None);
    let mut steps = 200_000;
    assert_eq!(glob::matches(class.as_bytes(), &text, &mut steps), Some(false));
    assert!(steps < 100_000, "{steps} steps are left");
}

#[test]
fn a_reply_has_a_longest_length() {
    let mut server = Server::default();
    let value = "v".repeat((1 << 20) - 100);
    server.expect(&[(&format!("SET a {value}"), OK)]);
    assert!(server.reply("MGET a a a").starts_with("*3\r\n"));
    let refused = format!("-ERR the reply would exceed {MAX_REPLY_BYTES} bytes\r\n");
    server.expect(&[("MGET a a a a a", &refused), ("FLUSHALL", OK)]);
    for key in 0..80 {
        server.expect(&[(&format!("SET {key}{} v", "k".repeat(60_000)), OK)]);
    }
    server.expect(&[("KEYS *", &refused)]);
    assert!(server.reply("KEYS 1*").starts_with("*11\r\n"));
}

#[test]
fn a_long_reply_that_finds_no_room_beside_those_of_others_is_an_error() {
    let mut server = Server::default();
    server.expect(&[(&format!("SET a {}", "v".repeat(OWN_BYTES)), OK), ("SET b v", OK)]);
    // Room for one such reply, with its header.
    let budget = Arc::new(Budget::new(OWN_BYTES + 100));
    let connections = || (0..2).map(|_| Replies::new(Arc::clone(&budget)));
    let no_room = "-ERR too many replies wait for clients that do not read\r\n";
    for turn in 0..2 {
        let [mut first, mut second] = connections().collect::<Vec<_>>().try_into().expect("two");
        let long = server.reply("GET a");
        for _ in 0..2 {
            assert!(server.reply_into("GET a", &mut first) == long, "turn {turn}");
        }
        // What is in a connection's own room needs no other.
        assert_eq!(server.reply_into("MGET a a", &mut second), no_room);
        assert_eq!(server.reply_into("GET b", &mut second), "$1\r\nv\r\n");
        // What was written makes room; so does a connection that ends, at the end of the turn.
        while !first.are_none() {
            let bytes = first.first().len();
            first.wrote(bytes);
        }
        assert!(server.reply_into("GET a", &mut second).starts_with('$'));
    }
}

#[test]
fn what_is_asked_wrongly_is_refused_in_the_words_of_redis() {
    let expiry = "-ERR keys do not expire here: SET takes no EX, PX, EXAT, PXAT and KEEPTTL\r\n";
    let syntax = "-ERR syntax error\r\n";
    let arity = |name| format!("-ERR wrong number of arguments for '{name}' command\r\n");
    Server::default().expect(&[
        ("nosuch", "-ERR unknown command 'nosuch', with args beginning with: \r\n"),
        ("LPUSH a b", "-ERR unknown command 'LPUSH', with args beginning with: 'a' 'b' \r\n"),
        ("GET", &arity("get")),
        ("GET a b", &arity("get")),
        ("SET a", &arity("set")),
        ("MSET a 1 b", &arity("mset")),
        ("PING a b", &arity("ping")),
        ("SET a 1 EX 10", expiry),
        ("SET a 1 NX keepttl", expiry),
        ("SET a 1 NX XX", syntax),
        ("SET a 1 what", syntax),
        ("SET a 1 GET", "-ERR SET with GET is not supported\r\n"),
        ("FLUSHALL now", syntax),
        ("SELECT 1", "-ERR DB index is out of range\r\n"),
        ("SELECT x", NO_NUMBER),
        ("RAFT TRANSFER 2", "-ERR the library cannot do this yet\r\n"),
        ("DBSIZE", ":0\r\n"),
    ]);
}

#[test]
fn what_clients_say_when_they_connect_is_understood() {
    let mut server = Server::default();
    server.expect(&[
        ("PING", "+PONG\r\n"),
        ("PING hello", "$5\r\nhello\r\n"),
        ("ECHO hello", "$5\r\nhello\r\n"),
        ("SELECT 0", OK),
        ("CLIENT SETNAME me", OK),
        ("CLIENT SETINFO LIB-NAME redis-rs", OK),
        ("CLIENT GETNAME", NIL),
        ("HELLO 3", "-NOPROTO unsupported protocol version\r\n"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
        ("HELLO 2 AUTH a b", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("HELLO 2 AUTH default", "-ERR syntax error in HELLO\r\n"),
        ("HELLO 2 SETNAME", "-ERR syntax error in HELLO\r\n"),
        ("AUTH default anything", OK),
        ("AUTH a b", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("AUTH a b c", "-ERR syntax error\r\n"),
        ("CLIENT ID", "ClientId"),
        ("CLIENT LIST", "Clients"),
        ("COMMAND", "Commands"),
        ("COMMAND INFO", "Commands"),
        ("COMMAND LIST", "CommandNames"),
        ("COMMAND INFO nosuch", "*1\r\n*-1\r\n"),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("CONFIG GET nothing", "*0\r\n"),
        ("COMMAND DOCS", "*0\r\n"),
        ("POST / HTTP/1.1", "Leave"),
        ("QUIT", "Quit"),
    ]);
    let get = "*6\r\n$3\r\nget\r\n:2\r\n*0\r\n:0\r\n:0\r\n:0\r\n";
    assert_eq!(server.reply("COMMAND INFO GET nosuch"), format!("*2\r\n{get}*-1\r\n"));
    for hello in ["HELLO 2", "HELLO 2 AUTH default x SETNAME me"] {
        assert!(server.reply(hello).contains("$5\r\nproto\r\n:2\r\n"), "{hello}");
    }
    let refused = server.reply("AUTH password");
    assert!(refused.starts_with("-ERR AUTH <password> called without any password"), "{refused}");
    assert_eq!(server.reply("RAFT leader"), format!("{:?}", Question::Leader));
}

#[test]
fn why_a_node_stopped_is_told_in_json() {
    let mut status = Status::default();
    assert!(is_json(&json(&status)), "{}", json(&status));
    let message = "a \"b\"\\\n".to_owned();
    status.stopped = Some(StopCause::ApplyPanicked { entry: EntryId::ZERO, message });
    let told = json(&status);
    assert!(is_json(&told), "{told}");
    assert!(
        told.ends_with(r#""stopped":"the state machine panicked on entry 0.0: a \"b\"\\\u000a"}"#),
        "{told}"
    );
}

#[test]
fn where_the_log_ends_is_told_in_numbers() {
    let mut status = Status::default();
    status.last = EntryId::new(Term(1), LogIndex(19));
    let told = json(&status);
    assert!(is_json(&told) && told.contains(r#""last":{"term":1,"index":19},"#), "{told}");
}

#[test]
fn a_refusal_says_once_that_the_write_was_never_applied() {
    let write = || Write::new(Op::Clear, std::iter::empty());
    let stopped = StopCause::Shutdown;
    let refusals = [
        (
            ProposeError::NotLeader { leader: None, command: write() },
            "this node knows of no leader",
        ),
        (ProposeError::Superseded(write()), "another leader's entry took its place"),
        (ProposeError::Busy(write()), "the node had no room before the deadline"),
        (ProposeError::Stopped { cause: stopped, command: write() }, "the node was shut down"),
    ];
    for (error, why) in refusals {
        let mut out = Vec::new();
        reply(&Err(error), &mut out);
        let said = String::from_utf8_lossy(&out).into_owned();
        assert_eq!(said, format!("-CLUSTERDOWN never applied: {why}\r\n"));
    }
}

#[test]
fn replies_wait_up_to_a_limit_and_leave_others_half_of_the_room() {
    let fill = |replies: &mut Replies| {
        while !replies.are_many() {
            replies.ready(&[b'x'; 1000]);
        }
    };
    let plenty = Arc::new(Budget::new(MAX_SHARED_BYTES));
    let mut replies = Replies::new(Arc::clone(&plenty));
    fill(&mut replies);
    let most = MAX_WAITING_BYTES..MAX_WAITING_BYTES + 1000;
    assert!(most.contains(&replies.len()), "{} bytes", replies.len());

    let little = Arc::new(Budget::new(8 * OWN_BYTES));
    let mut replies: Vec<_> = (0..3).map(|_| Replies::new(Arc::clone(&little))).collect();
    replies.iter_mut().for_each(fill);
    let waiting: usize = replies.iter().map(Replies::len).sum();
    let most = (3 + 4) * OWN_BYTES;
    assert!((most - 7 * 5000..=most).contains(&waiting), "{waiting} bytes");
    // One long reply for each of the others is still to be had.
    let mut others: Vec<_> = (0..5).map(|_| Replies::new(Arc::clone(&little))).collect();
    let served = others.iter_mut().filter_map(|other| other.room(2 * OWN_BYTES)).count();
    assert_eq!(served, 4);
}

#[test]
fn what_a_client_sent_is_repeated_to_it_on_one_line_and_not_at_length() {
    let mut server = Server::default();
    let reply = server.reply(&format!("{} \"a\\r\\nb\" {}", "x".repeat(1000), "y".repeat(1000)));
    assert!(reply.starts_with("-ERR unknown command 'xxx"), "{reply}");
    assert!(reply.contains(" 'a  b' 'yyy"), "{reply}");
    assert!(reply.len() < 400 && reply.matches("\r\n").count() == 1, "{reply}");
}

#[test]
fn a_write_is_not_tried_again_once_a_later_one_may_be_applied() {
    let write = || Write::new(Op::Clear, std::iter::empty());
    let outcome = |letter| match letter {
        'd' => Ok(Outcome::Done),
        'n' => Err(ProposeError::NotLeader { leader: None, command: write() }),
        's' => Err(ProposeError::Superseded(write())),
        'b' => Err(ProposeError::Busy(write())),
        'x' => Err(ProposeError::Stopped { cause: StopCause::Shutdown, command: write() }),
        _ => Err(ProposeError::Unknown { entry: None, cause: UnknownCause::Deadline }),
    };
    let cases =
        [("", 0), ("d", 1), ("nsb", 0), ("ddns", 2), ("dndn", 3), ("n?s", 2), ("nx", 2), ("?", 1)];
    for (outcomes, expected) in cases {
        let outcomes: Vec<_> = outcomes.chars().map(outcome).collect();
        assert_eq!(settled(&outcomes), expected, "{outcomes:?}");
    }
}

#[test]
fn the_bytes_of_writes_in_the_log_stay_what_they_are() {
    let encoded = |op, args: &[&[u8]]| {
        let mut bytes = vec![0xff];
        Store::encode(&Write::new(op, args.iter().copied()), &mut bytes).expect("bytes");
        bytes
    };
    assert_eq!(encoded(Op::Set, &[b"ab", b""]), b"\xff\x01\x02\0\0\0ab\0\0\0\0");
    let numbers = [
        (Op::Set, 1),
        (Op::SetNew, 2),
        (Op::SetOld, 3),
        (Op::SetAll, 4),
        (Op::Delete, 5),
        (Op::Add, 6),
        (Op::Append, 7),
        (Op::CompareAndSet, 8),
        (Op::Clear, 9),
    ];
    for (op, number) in numbers {
        assert_eq!(encoded(op, &[]), [0xff, number]);
    }
}

#[test]
fn bytes_that_are_no_write_are_an_error() {
    let mut store = Store::default();
    let set = b"\x01\x01\0\0\0a\x01\0\0\0b";
    for end in 0..set.len() {
        assert!(store.apply_entry(&set[..end], &at(1)).is_err(), "{end} bytes");
    }
    for bytes in [&[0][..], &[10], &[1, 255, 255, 255, 255], b"\x06\x01\0\0\0a\x01\0\0\0b"] {
        assert!(store.apply_entry(bytes, &at(1)).is_err(), "{bytes:?}");
    }
    let too_many = [&set[..], b"\0\0\0\0"].concat();
    assert!(store.apply_entry(&too_many, &at(1)).is_err());
}

#[test]
fn patterns_are_those_of_redis() {
    let cases = [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abbd", false),
        ("*a*b*", "xaybz", true),
        ("?", "", false),
        ("h?llo", "hello", true),
        ("h[ae]llo", "hallo", true),
        ("h[ae]llo", "hillo", false),
        ("h[^e]llo", "hello", false),
        ("h[^e]llo", "hallo", true),
        ("h[a-c]llo", "hbllo", true),
        ("h[c-a]llo", "hbllo", true),
        ("h\\*llo", "h*llo", true),
        ("h\\*llo", "hello", false),
        ("[\\]]", "]", true),
        ("[a", "a", true),
        ("a\\", "a\\", true),
    ];
    for (pattern, text, expected) in cases {
        let found = glob::matches(pattern.as_bytes(), text.as_bytes(), &mut 1000);
        assert_eq!(found, Some(expected), "{pattern} {text}");
    }
}

/// The definition, without regard to time.
fn matches_simply(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], _) => text.is_empty(),
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|at| matches_simply(rest, &text[at..])),
        ([wanted, pattern @ ..], [byte, text @ ..]) => {
            (*wanted == b'?' || wanted == byte) && matches_simply(pattern, text)
        }
        (_, []) => false,
    }
}

proptest! {
    #[test]
    fn stars_match_what_they_are_defined_to(
        pattern in vec(prop_oneof![Just(b'*'), Just(b'?'), Just(b'a'), Just(b'b')], 0..8),
        text in vec(prop_oneof![Just(b'a'), Just(b'b')], 0..10),
    ) {
        let found = glob::matches(&pattern, &text, &mut 1000);
        prop_assert_eq!(found, Some(matches_simply(&pattern, &text)));
    }
}
