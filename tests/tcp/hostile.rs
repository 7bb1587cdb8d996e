//! Whatever strangers and broken peers send, the node closes the connection, counts it, and serves.

use std::io::Write;
use std::net::Shutdown;

use oarlock::message::{Append, Message};
use oarlock::transport::LinkError;
use oarlock::transport::tcp::frame::{self, FrameError};
use oarlock::transport::tcp::greeting::{Greeting, GreetingError};

use crate::journal::{Journal, until};
use crate::raw::{Raw, greeting};
use crate::rig::{Kind, Trio, door_error, incoming_error, link};

/// Nodes 1 and 2 serve; whoever likes may be node 3.
fn without_3() -> Trio<Journal> {
    let trio = Trio::start(Kind::Plain);
    trio.stop(3);
    trio.write(&mut 0, 1);
    trio
}

/// A connection on which node 1 takes us for node 3.
fn as_3(trio: &Trio<Journal>) -> Raw {
    let mut raw = Raw::connect(trio.listens_at(1));
    let ours = greeting(trio.members(), 3, 1);
    let answer = raw.greet(&ours);
    assert_eq!(ours.outcome(&answer, None), Ok(0));
    raw
}

fn append(records: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = Message::Append(Append::default());
    frame::encode_message(&message, records.len(), &mut bytes).expect("small");
    bytes.extend_from_slice(records);
    bytes
}

#[test]
fn bytes_that_are_no_greeting_are_turned_away() {
    let trio = without_3();
    let good = greeting(trio.members(), 3, 1).encode();
    let mut damaged = good.clone();
    damaged[30] ^= 1;
    let mut long = good.clone();
    long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let verdict = Greeting { verdict: Some(Ok(0)), ..greeting(trio.members(), 3, 1) }.encode();
    let cases = [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], GreetingError::Magic),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", GreetingError::Magic),
        (&damaged, GreetingError::Checksum),
        (&long, GreetingError::Length(20 + u32::MAX as usize)),
        (&verdict, GreetingError::Verdict),
    ];
    let before = trio.node(1).status().listener.expect("listens");
    for (bytes, expected) in cases {
        let mut raw = Raw::connect(trio.listens_at(1));
        raw.send(bytes);
        raw.is_closed();
        let expected = LinkError::Greeting(expected);
        door_error(trio.node(1), |error| *error == expected);
    }
    // Half a greeting, and no more to come.
    let mut raw = Raw::connect(trio.listens_at(1));
    raw.send(&good[..50]);
    raw.stream.shutdown(Shutdown::Write).expect("connected");
    raw.is_closed();
    door_error(trio.node(1), |error| *error == LinkError::Closed);
    // Half a greeting, and then silence.
    let mut raw = Raw::connect(trio.listens_at(1));
    raw.send(&good[..50]);
    raw.is_closed();
    let late = LinkError::Greeting(GreetingError::Late);
    door_error(trio.node(1), |error| *error == late);
    let after = trio.node(1).status().listener.expect("listens");
    assert_eq!(after.turned_away - before.turned_away, 7);
    trio.write(&mut 1, 1);
}

type IsExpected = fn(&FrameError) -> bool;

#[test]
fn bytes_that_are_no_frame_end_the_connection() {
    let trio = without_3();
    let good = append(&[]);
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let mut unknown_message = good.clone();
    unknown_message[16..20].copy_from_slice(&999_u32.to_le_bytes());
    let crc = crc32c::crc32c(&unknown_message[4..]);
    unknown_message[..4].copy_from_slice(&crc.to_le_bytes());
    let mut pong = Vec::new();
    frame::encode_pong(1, &mut pong);
    let four_gib = u32::MAX as usize;
    let cases: [(Vec<u8>, IsExpected); 9] = [
        (vec![0xAA; 1000], |error| matches!(error, FrameError::Version(0xAAAA))),
        (with(4, &[1]), |error| matches!(error, FrameError::Version(1))),
        (with(6, &[9]), |error| matches!(error, FrameError::Kind(9))),
        (with(7, &[1]), |error| matches!(error, FrameError::Malformed)),
        (with(8, &[0xFF; 4]), |error| matches!(error, FrameError::TooLarge { .. })),
        (with(12, &[0xFF; 4]), |error| matches!(error, FrameError::TooLarge { .. })),
        (with(0, &[1]), |error| matches!(error, FrameError::Checksum)),
        (unknown_message, |error| matches!(error, FrameError::Message(_))),
        (pong, |error| matches!(error, FrameError::Kind(3))),
    ];
    for (bytes, expected) in cases {
        let mut raw = as_3(&trio);
        until(|| link(trio.node(1), 3).incoming.connected);
        raw.send(&bytes);
        raw.is_closed();
        let is_it = |error: &LinkError| matches!(error, LinkError::Frame(frame) if expected(frame));
        let error = incoming_error(trio.node(1), 3, is_it);
        if let LinkError::Frame(FrameError::TooLarge { announced, limit }) = error {
            assert!(announced == four_gib && limit < 1 << 30, "{announced} {limit}");
        }
    }
    // Half a frame, of a size that is allowed, and no more.
    let mut raw = as_3(&trio);
    let whole = append(&vec![0; 100_000]);
    raw.send(&whole[..70_000]);
    until(|| link(trio.node(1), 3).incoming.connected);
    drop(raw);
    incoming_error(trio.node(1), 3, |error| *error == LinkError::Closed);
    trio.write(&mut 1, 1);
}

#[test]
fn a_peer_that_says_nothing_more_is_given_up() {
    let trio = without_3();
    let mut raw = as_3(&trio);
    raw.is_closed();
    incoming_error(trio.node(1), 3, |error| matches!(error, LinkError::Silent(_)));
}

#[test]
fn a_peer_that_asks_and_never_listens_is_given_up() {
    let trio = without_3();
    let mut raw = as_3(&trio);
    let mut pings = Vec::new();
    for number in 0..4096 {
        frame::encode_ping(number, &mut pings);
    }
    // Until nothing goes any more in either direction, and the node has had enough.
    while raw.stream.write_all(&pings).is_ok() {}
    incoming_error(trio.node(1), 3, |error| {
        matches!(error, LinkError::Silent(_) | LinkError::Closed)
    });
    trio.write(&mut 1, 1);
}

#[test]
fn records_that_are_damaged_are_refused_and_the_connection_goes_on() {
    let trio = without_3();
    let mut raw = as_3(&trio);
    let before = trio.node(1).status().refused_messages;
    raw.send(&append(&[0x55; 200]));
    until(|| trio.node(1).status().refused_messages == before + 1);
    assert!(link(trio.node(1), 3).incoming.connected);
    trio.write(&mut 1, 1);
}
