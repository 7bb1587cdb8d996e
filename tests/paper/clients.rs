//! §8: the no-op and reads, with `ReadIndex` from the thesis (§6.4).

use oarlock::consensus::{Core, Input, NewEntries, Output};
use oarlock::message::{Heartbeat, Message, ReadRound};
use oarlock::{LogIndex, Role};

use super::*;
use crate::support::network::Network;

/// §8: "each leader commits a blank no-op entry into the log at the start of its term."
#[test]
fn a_leader_begins_its_term_with_a_no_op() {
    let mut node = Quick::of_three(1, 1, &[1]);
    let out = node.lead();
    let no_op = Output::Append { first: entry(2, 2), count: 1, entries: NewEntries::Noop };
    assert!(out.contains(&no_op));
}

/// §8, thesis §6.4 step 1: before its own first commit a leader does not know what is committed; reads
/// wait. Known bug 4.
#[test]
fn reads_wait_for_the_leaders_first_commit() {
    let mut node = Quick::of_three(1, 1, &[1]);
    node.lead();
    let out = node.step(Input::Read);
    assert_eq!(out, [Output::ReadQueued(ReadRound(1))]);
    // Even an answer that could confirm it comes too early.
    let out = node.receive(2, heartbeat_reply(2, 0, 1));
    assert!(!out.iter().any(|o| matches!(o, Output::ReadConfirmed { .. })));
    let out = node.receive(2, accepted(2, 2));
    assert!(out.contains(&Output::Committed(LogIndex(2))));
    let rounds = sent_to(&out, 2);
    assert!(
        matches!(rounds[..], [Message::Heartbeat(Heartbeat { round: ReadRound(1), .. })]),
        "the round begins with the commit"
    );
    let out = node.receive(2, heartbeat_reply(2, 1, 2));
    let confirmed = Output::ReadConfirmed { round: ReadRound(1), index: LogIndex(2) };
    assert_eq!(out, [confirmed]);
}

/// Leader of term 1 with its no-op committed on 1 and 2.
fn leader_that_committed() -> Quick {
    let mut node = leader();
    node.receive(2, accepted(1, 1));
    assert_eq!(node.core.committed(), LogIndex(1));
    node
}

/// Thesis §6.4 steps 2 and 3: the index is noted first, then the leader makes sure by a round of
/// heartbeats that it has not been deposed. Known bug 6: never the other way round.
#[test]
fn a_read_is_answered_after_a_quorum_confirmed_the_leader() {
    let mut node = leader_that_committed();
    let out = node.step(Input::Read);
    assert_eq!(out[0], Output::ReadQueued(ReadRound(1)));
    assert!(!out.iter().any(|o| matches!(o, Output::ReadConfirmed { .. })));
    // What commits meanwhile does not change the index that was noted.
    node.step(Input::Propose { count: 1 });
    node.receive(2, accepted(1, 2));
    assert_eq!(node.core.committed(), LogIndex(2));
    let out = node.receive(3, heartbeat_reply(1, 1, 0));
    assert!(out.contains(&Output::ReadConfirmed { round: ReadRound(1), index: LogIndex(1) }));
}

/// Thesis §6.4: one round of heartbeats serves all reads that wait; those that come while it runs need
/// the next.
#[test]
fn one_round_serves_all_reads_that_waited_for_it() {
    let mut node = leader_that_committed();
    node.step(Input::Read);
    let second = node.step(Input::Read);
    let third = node.step(Input::Read);
    assert_eq!(second, [Output::ReadQueued(ReadRound(2))]);
    assert_eq!(third, second);
    let out = node.receive(2, heartbeat_reply(1, 1, 1));
    assert!(out.contains(&Output::ReadConfirmed { round: ReadRound(1), index: LogIndex(1) }));
    assert_eq!(sent_to(&out, 3).len(), 1, "the second round begins");
    let out = node.receive(2, heartbeat_reply(1, 2, 1));
    assert_eq!(out, [Output::ReadConfirmed { round: ReadRound(2), index: LogIndex(1) }]);
}

/// Thesis §6.4. Known bug 5: answers to an older round, however many, confirm nothing newer.
#[test]
fn late_answers_to_an_older_round_confirm_nothing() {
    let mut node = leader_that_committed();
    node.step(Input::Read);
    node.receive(2, heartbeat_reply(1, 1, 1));
    node.step(Input::Read);
    for follower in [2, 3, 2, 3] {
        let out = node.receive(follower, heartbeat_reply(1, 1, 1));
        assert!(!out.iter().any(|o| matches!(o, Output::ReadConfirmed { .. })));
        // Nor does an answer to a round that never was.
        let out = node.receive(follower, heartbeat_reply(1, 3, 1));
        assert!(!out.iter().any(|o| matches!(o, Output::ReadConfirmed { .. })));
    }
    let out = node.receive(3, heartbeat_reply(1, 2, 1));
    assert!(out.contains(&Output::ReadConfirmed { round: ReadRound(2), index: LogIndex(1) }));
}

/// Thesis §6.4: a leader that was deposed, and may not know it, answers no read.
#[test]
fn a_deposed_leader_answers_no_read() {
    let mut network = Network::new(&voters([1, 2, 3]), options);
    network.elect(1);
    network.partition(&[1], &[2, 3]);
    network.step(1, Input::Read);
    for _ in 0..2 * ELECTION_TICKS {
        network.step(2, Input::Tick);
        network.step(3, Input::Tick);
        network.settle();
    }
    let new_leader = network.leader().expect("2 or 3 leads");
    assert_ne!(new_leader, 1);
    network.step(new_leader, Input::Propose { count: 1 });
    network.settle();
    assert_eq!(network.core(1).role(), Role::Leader, "it does not know yet");
    network.heal();
    network.step(1, Input::Tick);
    network.trace = Some(Vec::new());
    network.tick_all();
    assert_eq!(network.core(1).role(), Role::Follower);
    assert!(network.trace.iter().flatten().any(|line| line == "1 > reads lost"));
    assert_eq!(network.onlooker.confirmed_reads, 0);
}

/// Thesis §6.4: a server that is a quorum by itself needs to ask nobody.
#[test]
fn a_single_server_answers_reads_at_once() {
    let mut node = Quick::new(Core::new(options(1), disk(0, &[], voters([1]))));
    node.step(Input::Tick);
    assert_eq!(node.core.committed(), LogIndex(1));
    let confirmed = Output::ReadConfirmed { round: ReadRound(1), index: LogIndex(1) };
    assert_eq!(node.step(Input::Read), [Output::ReadQueued(ReadRound(1)), confirmed]);
}
