//! Commands that do not fit, and state machines that encode badly.

#![allow(clippy::result_large_err, reason = "outcomes carry the command")]

use std::panic::{self, AssertUnwindSafe};

use oarlock::error::{ApplyError, EncodeError};
use oarlock::{Applied, Cluster, Config, Node, ProposeError, StateMachine};

use crate::journal::PATIENCE;

/// Keeps every command's bytes. How a command is encoded depends on its first letter.
#[derive(Default)]
struct Scribe {
    written: Vec<Vec<u8>>,
}

impl StateMachine for Scribe {
    type Command = Vec<u8>;
    type Response = usize;

    fn encode(command: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match command.first() {
            Some(b'!') => {
                out.extend_from_slice(command);
                return Err(EncodeError::new("it begins with an exclamation mark"));
            }
            Some(b'?') => panic!("what is this?"),
            // Replaces the buffer instead of appending to it.
            Some(b'=') => out.clone_from(command),
            Some(b'-') => out.clear(),
            _ => out.extend_from_slice(command),
        }
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], _at: &Applied) -> Result<usize, ApplyError> {
        self.written.push(bytes.to_vec());
        Ok(self.written.len())
    }
}

const LIMIT: usize = 1000;

fn scribe() -> (Cluster<Scribe>, Node<Scribe>) {
    let config = Config { max_entry_bytes: LIMIT, ..Config::small() };
    let cluster = Cluster::builder(1).config(config).memory(Scribe::default).expect("starts");
    let node = cluster.wait_leader(PATIENCE).expect("a leader");
    (cluster, node)
}

fn written(node: &Node<Scribe>) -> Vec<Vec<u8>> {
    node.read(|scribe| scribe.written.clone()).expect("read")
}

#[test]
fn a_command_over_the_limit_comes_back() {
    let (_cluster, node) = scribe();
    let too_large = vec![b'x'; LIMIT + 1];
    match node.propose(too_large.clone()) {
        Err(ProposeError::TooLarge { limit: LIMIT, command }) => assert_eq!(command, too_large),
        other => panic!("{other:?}"),
    }
    node.propose(vec![b'x'; LIMIT]).expect("at the limit");
    assert_eq!(written(&node), [vec![b'x'; LIMIT]]);
}

#[test]
fn a_command_that_cannot_be_encoded_comes_back() {
    let (_cluster, node) = scribe();
    match node.propose(b"!no".to_vec()) {
        Err(ProposeError::NotEncodable { error, command }) => {
            assert_eq!(command, b"!no");
            assert!(error.to_string().contains("exclamation mark"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(written(&node), [] as [Vec<u8>; 0]);
}

#[test]
fn commands_of_no_bytes_are_commands() {
    let (_cluster, node) = scribe();
    assert_eq!(node.propose(Vec::new()).expect("applied"), 1);
    assert_eq!(node.submit_many([vec![], vec![]]).expect("taken").wait_all().len(), 2);
    assert_eq!(written(&node), [vec![], vec![], vec![]] as [Vec<u8>; 3]);

    let cluster = Cluster::temp(3, || ()).expect("starts");
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    for _ in 0..10 {
        leader.propose(()).expect("applied");
    }
}

#[test]
fn of_many_commands_each_has_its_own_outcome() {
    let (_cluster, node) = scribe();
    let commands = [
        b"one".to_vec(),
        vec![b'x'; LIMIT + 1],
        b"two".to_vec(),
        b"!no".to_vec(),
        Vec::new(),
        b"three".to_vec(),
    ];
    let outcomes = node.submit_many(commands.clone()).expect("some are good").wait_all();
    let mut next = 0;
    for (outcome, given) in outcomes.into_iter().zip(&commands) {
        match outcome {
            Ok(place) => {
                next += 1;
                assert_eq!(place, next);
            }
            Err(ProposeError::TooLarge { limit: LIMIT, command }) => {
                assert_eq!((&command, command.len()), (given, LIMIT + 1));
            }
            Err(ProposeError::NotEncodable { command, .. }) => {
                assert_eq!((&command[..], &given[..]), (&b"!no"[..], &b"!no"[..]));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(written(&node), [&b"one"[..], b"two", b"", b"three"]);
}

#[test]
fn many_commands_of_which_none_is_good_come_back_together() {
    let (_cluster, node) = scribe();
    let bad = [b"!no".to_vec(), vec![b'x'; LIMIT + 1]];
    match node.submit_many(bad.clone()) {
        Err(ProposeError::NotEncodable { command, .. }) => assert_eq!(command, bad),
        other => panic!("{other:?}"),
    }
    assert!(node.submit_many([]).expect("nothing is wrong with nothing").is_empty());
    assert_eq!(written(&node), [] as [Vec<u8>; 0]);
    assert_eq!(node.status().pending, 0);
}

#[test]
fn an_encoder_that_cuts_or_replaces_its_buffer_spoils_no_other_command() {
    let (_cluster, node) = scribe();
    let commands = [&b"first"[..], b"=second", b"-", b"=third", b"fourth"];
    let outcomes = node.submit_many(commands.map(<[u8]>::to_vec)).expect("taken").wait_all();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    for command in commands {
        node.propose(command.to_vec()).expect("applied");
    }
    let expected = [&b"first"[..], b"=second", b"", b"=third", b"fourth"];
    assert_eq!(written(&node), [expected, expected].concat());
}

#[test]
fn an_encoder_that_panics_harms_nobody_but_its_caller() {
    let (_cluster, node) = scribe();
    let many = [b"one".to_vec(), b"?".to_vec()];
    let submitted = panic::catch_unwind(AssertUnwindSafe(|| node.submit_many(many).map(drop)));
    assert!(submitted.is_err());
    let proposed = panic::catch_unwind(AssertUnwindSafe(|| node.propose(b"?".to_vec())));
    assert!(proposed.is_err());
    assert_eq!(node.propose(b"two".to_vec()).expect("applied"), 1);
    assert_eq!(written(&node), [b"two"]);
    assert_eq!(node.status().pending, 0);
}
