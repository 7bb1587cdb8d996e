//! Proposals and reads that reach the leader by way of a follower, on single cores: what is taken once,
//! what is never taken, and which answers count.

mod support;

use oarlock::consensus::{Core, Input, NewEntries, Options, Output, Restored};
use oarlock::message::{Forward, ForwardReply, Message, ReadIndex, ReadIndexReply, ReadRound};
use oarlock::{BootCount, Incarnation, LogIndex, Role, Sender, Term};
use support::*;

fn forward(term: u64, sequence: u64, count: u64) -> Message {
    Message::Forward(Forward { term: Term(term), sequence, count })
}

fn read_index(term: u64, round: u64) -> Message {
    Message::ReadIndex(ReadIndex { term: Term(term), round: ReadRound(round) })
}

fn read_index_reply(term: u64, asker: Sender, round: u64, index: u64) -> Message {
    let (term, round, index) = (Term(term), ReadRound(round), LogIndex(index));
    Message::ReadIndexReply(ReadIndexReply { term, asker, round, index })
}

/// How many entries a core takes of what it is sent.
fn taken(out: &[Output]) -> u64 {
    let counts = out.iter().filter_map(|output| match output {
        Output::Append { count, entries: NewEntries::Forwarded, .. } => Some(*count),
        _ => None,
    });
    counts.sum()
}

/// The leader of term 1 among three.
fn leader() -> Quick {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    assert_eq!((node.core.role(), node.core.term()), (Role::Leader, Term(1)));
    node
}

/// Node 2, following node 1 in term 1, with one committed entry.
fn follower() -> Quick {
    let mut node = Quick::of_three(2, 1, &[1]);
    node.receive(1, heartbeat(1, 1));
    assert_eq!(node.core.leader(), Some(oarlock::NodeId(1)));
    node
}

#[test]
fn a_forward_is_taken_once_though_it_comes_twice() {
    let mut node = leader();
    let out = node.receive(2, forward(1, 1, 3));
    assert_eq!(taken(&out), 3);
    let first = LogIndex(2);
    let reply = ForwardReply { term: Term(1), asker: sender(2), sequence: 1, first };
    assert!(sent_to(&out, 2).contains(&Message::ForwardReply(reply)));
    for late in [forward(1, 1, 3), forward(1, 3, 1), forward(1, 2, 9)] {
        assert_eq!(taken(&node.receive(2, late)), 0);
    }
    assert_eq!(taken(&node.receive(2, forward(1, 9, 1))), 1, "gaps are allowed");
    assert_eq!(taken(&node.receive(2, forward(1, 8, 1))), 0, "it was overtaken");
    assert_eq!(taken(&node.receive(3, forward(1, 1, 1))), 1, "another node has its own numbers");
}

#[test]
fn a_forward_is_taken_only_by_the_leader_of_the_term_it_names() {
    let mut node = leader();
    for other in [0, 2, 3] {
        assert_eq!(taken(&node.receive(2, forward(other, 1, 1))), 0);
    }
    assert_eq!(node.core.term(), Term(1), "a forward brings nobody into its term");
    let mut node = follower();
    assert_eq!(taken(&node.receive(3, forward(1, 1, 1))), 0);
    let mut node = leader();
    node.receive(3, heartbeat(2, 0));
    assert_eq!(taken(&node.receive(2, forward(1, 1, 1))), 0, "it has stepped down");
}

#[test]
fn strangers_cannot_forward_nor_ask() {
    let mut node = leader();
    assert_eq!(taken(&node.receive(9, forward(1, 1, 1))), 0);
    node.receive(2, accepted(1, 1));
    assert!(node.receive(9, read_index(1, 1)).is_empty());
}

#[test]
fn each_directory_of_a_node_has_its_own_numbers_and_few_are_remembered() {
    let mut node = leader();
    let wiped = |life: u128, boot: u64| Sender {
        incarnation: Incarnation(life),
        boot: BootCount(boot),
        ..sender(2)
    };
    assert_eq!(taken(&node.receive_as(wiped(71, 1), forward(1, 5, 1))), 1);
    assert_eq!(taken(&node.receive_as(wiped(72, 1), forward(1, 1, 1))), 1, "a new directory");
    assert_eq!(taken(&node.receive_as(wiped(72, 2), forward(1, 1, 1))), 1, "a restart");
    assert_eq!(taken(&node.receive_as(wiped(72, 1), forward(1, 9, 1))), 0, "before the restart");
    for life in 80..200 {
        node.receive_as(wiped(life, 1), forward(1, 1, 1));
    }
    let last = node.core.last().index;
    assert!(last.0 < 12, "{last} entries: a term has room for a few directories of a node only");
}

#[test]
fn whoever_forwarded_hears_of_the_commit_without_waiting_for_a_heartbeat() {
    let mut node = leader();
    node.receive(2, accepted(1, 1));
    node.receive(2, forward(1, 1, 1));
    let is_told = |out: &[Output], node| {
        sent_to(out, node).iter().any(
            |message| matches!(message, Message::Heartbeat(beat) if beat.committed == LogIndex(2)),
        )
    };
    let out = node.receive(3, accepted(1, 2));
    assert!(out.contains(&Output::Committed(LogIndex(2))));
    assert!(is_told(&out, 2) && !is_told(&out, 3));
    // Nothing of node 2 is in what comes after.
    node.step(Input::Propose { count: 1 });
    let out = node.receive(3, accepted(1, 3));
    assert!(out.contains(&Output::Committed(LogIndex(3))));
    assert!(sent_to(&out, 2).iter().all(|message| !matches!(message, Message::Heartbeat(_))));
}

#[test]
fn only_the_leaders_answer_to_this_boot_says_where_a_forward_is() {
    let mut node = follower();
    let reply = |term: u64, asker| {
        let (term, first) = (Term(term), LogIndex(2));
        Message::ForwardReply(ForwardReply { term, asker, sequence: 1, first })
    };
    let me = sender(2);
    let restarted = Sender { boot: BootCount(me.boot.0 + 1), ..me };
    let wiped = Sender { incarnation: Incarnation(me.incarnation.0 + 1), ..me };
    assert!(node.receive(1, reply(1, restarted)).is_empty());
    assert!(node.receive(1, reply(1, wiped)).is_empty());
    assert!(node.receive(3, reply(1, me)).is_empty());
    assert!(node.receive(1, reply(2, me)).is_empty());
    let placed = Output::ForwardPlaced { sequence: 1, first: entry(1, 2) };
    assert_eq!(node.receive(1, reply(1, me)), [placed]);
}

/// Thesis §6.4, end: followers ask the leader for a read index, and answer from their own state.
#[test]
fn a_follower_asks_its_leader_for_the_read_index() {
    let mut node = follower();
    let out = node.step(Input::Read);
    assert_eq!(out[0], Output::ReadQueued(ReadRound(1)));
    assert_eq!(sent_to(&out, 1), [read_index(1, 1)]);
    let out = node.step(Input::Read);
    assert_eq!(out[0], Output::ReadQueued(ReadRound(2)));
    // An answer serves what began before its question was sent, and no more.
    let out = node.receive(1, read_index_reply(1, sender(2), 1, 1));
    let confirmed = |round, index| Output::ReadConfirmed { round: ReadRound(round), index };
    assert_eq!(out, [confirmed(1, LogIndex(1))]);
    let out = node.receive(1, read_index_reply(1, sender(2), 2, 1));
    assert_eq!(out, [confirmed(2, LogIndex(1))]);
    // A late one finds nobody.
    assert!(node.receive(1, read_index_reply(1, sender(2), 2, 1)).is_empty());
}

#[test]
fn no_other_answer_confirms_a_followers_read() {
    let me = sender(2);
    let restarted = Sender { boot: BootCount(me.boot.0 + 1), ..me };
    let wiped = Sender { incarnation: Incarnation(me.incarnation.0 + 1), ..me };
    let mut node = follower();
    node.step(Input::Read);
    assert!(node.receive(1, read_index_reply(1, restarted, 1, 1)).is_empty(), "another boot's");
    assert!(node.receive(1, read_index_reply(1, wiped, 1, 1)).is_empty(), "another life's");
    assert!(node.receive(1, read_index_reply(1, me, 2, 1)).is_empty(), "never asked");
    assert!(node.receive(3, read_index_reply(1, me, 1, 1)).is_empty(), "not the leader");
    assert!(node.receive(1, read_index_reply(0, me, 1, 1)).is_empty(), "of another term");
    assert_eq!(node.receive(1, read_index_reply(1, me, 1, 1)).len(), 1);
}

#[test]
fn a_leader_answers_a_follower_after_a_round_that_began_with_its_question() {
    let mut node = leader();
    node.receive(2, read_index(1, 7));
    assert!(node.receive(3, heartbeat_reply(1, 0, 1)).is_empty() || node.core.committed().0 == 1);
    // Known bug 4: not before the term's first commit, and known bug 5: not by an older round.
    let out = node.receive(3, heartbeat_reply(1, 0, 1));
    assert!(sent_to(&out, 2).iter().all(|message| !matches!(message, Message::ReadIndexReply(_))));
    let out = node.receive(3, heartbeat_reply(1, 1, 1));
    assert_eq!(sent_to(&out, 2), [read_index_reply(1, sender(2), 7, 1)]);
    let out = node.receive(3, heartbeat_reply(1, 1, 1));
    assert!(sent_to(&out, 2).is_empty(), "a question is answered once");
}

#[test]
fn a_question_that_comes_while_a_round_runs_is_answered_by_the_next() {
    let mut node = leader();
    node.receive(2, accepted(1, 1));
    node.step(Input::Read);
    // Who asks may know of an entry that was committed since the round began.
    node.step(Input::Propose { count: 1 });
    node.receive(2, accepted(1, 2));
    node.receive(3, read_index(1, 7));
    let is_answer = |message: &Message| matches!(message, Message::ReadIndexReply(_));
    let out = node.receive(2, heartbeat_reply(1, 1, 2));
    assert!(out.contains(&Output::ReadConfirmed { round: ReadRound(1), index: LogIndex(1) }));
    assert!(!sent_to(&out, 3).iter().any(is_answer));
    let out = node.receive(2, heartbeat_reply(1, 2, 2));
    assert!(sent_to(&out, 3).contains(&read_index_reply(1, sender(3), 7, 2)));
}

#[test]
fn a_leader_that_is_deposed_answers_nobody() {
    let mut node = leader();
    node.receive(2, accepted(1, 1));
    node.receive(2, read_index(1, 1));
    node.receive(3, heartbeat(2, 1));
    let out = node.receive(2, heartbeat_reply(1, 1, 1));
    assert!(sent_to(&out, 2).is_empty());
}

#[test]
fn a_followers_readers_are_sent_away_when_it_loses_its_leader() {
    let mut node = follower();
    node.step(Input::Read);
    let out = node.wait_for_timeout();
    assert!(out.contains(&Output::ReadsLost));
    assert_eq!(node.step(Input::Read), [Output::ReadRefused]);
}

#[test]
fn a_question_is_asked_again_and_given_up_while_the_leader_still_speaks() {
    let mut node = follower();
    node.step(Input::Read);
    let (mut asked, mut lost) = (0, 0);
    for _ in 0..3 * ELECTION_TICKS {
        let out = node.step(Input::Tick);
        asked += sent_to(&out, 1).iter().filter(|m| matches!(m, Message::ReadIndex(_))).count();
        lost += out.iter().filter(|output| **output == Output::ReadsLost).count();
        node.receive(1, heartbeat(1, 1));
    }
    assert!(asked > 1, "asked again {asked} times");
    assert_eq!(lost, 1);
    assert_eq!(node.core.role(), Role::Follower);
}

#[test]
fn an_answer_brings_the_commit_index_that_the_reader_waits_for() {
    let mut node = follower();
    node.receive(1, append(1, entry(1, 1), &[1, 1], 1));
    node.step(Input::Read);
    let out = node.receive(1, read_index_reply(1, sender(2), 1, 3));
    assert!(out.contains(&Output::Committed(LogIndex(3))));
    // But no further than what was compared with the leader's log.
    node.step(Input::Read);
    let out = node.receive(1, read_index_reply(1, sender(2), 2, 9));
    assert!(!out.iter().any(|output| matches!(output, Output::Committed(_))));
}

#[test]
fn a_read_of_another_boot_cannot_be_confirmed_by_counting_from_one_again() {
    // A question of the first boot, answered after the restart.
    let options = Options { me: Sender { boot: BootCount(2), ..sender(2) }, ..options(2) };
    let core = Core::new(options, Restored { ..disk(1, &[1], voters([1, 2, 3])) });
    let mut node = Quick::new(core);
    node.receive(1, heartbeat(1, 1));
    node.step(Input::Read);
    let first_boot = Sender { boot: BootCount(1), ..sender(2) };
    assert!(node.receive(1, read_index_reply(1, first_boot, 1, 1)).is_empty());
}
