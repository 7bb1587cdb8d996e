//! §5.4 and §5.5: why nothing that is committed is lost, with figure 8; and what counts as stored, from
//! the thesis.

use oarlock::consensus::{Core, Input, Options, Output};
use oarlock::{EntryId, HardState, LogIndex, NodeId, Role, Term};

use super::*;
use crate::support::network::{Network, Payload};

/// §5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate": the
/// later term of the last entries, then the longer log. Known bug 2: a pre-vote asks the same question.
#[test]
fn votes_go_only_to_logs_that_are_at_least_as_up_to_date() {
    for (last, granted) in [
        (entry(2, 3), true),  // the same
        (entry(2, 4), true),  // longer
        (entry(2, 2), false), // shorter
        (entry(3, 1), true),  // a later term, shorter
        (entry(1, 9), false), // an earlier term, longer
        (EntryId::ZERO, false),
    ] {
        for request in [vote(4, last), pre_vote(4, last)] {
            let mut node = Quick::of_three(1, 3, &[1, 1, 2]);
            let out = node.receive(2, request.clone());
            let answer = &sent_to(&out, 2)[0];
            assert!(is_vote_reply(granted)(answer), "{request:?} has the answer {answer:?}");
        }
    }
}

/// §5.4.2 and figure 8: "Raft never commits log entries from previous terms by counting replicas."
#[test]
fn figure_8_an_old_entry_is_not_committed_by_counting() {
    let five = disk(3, &[1, 2], voters([1, 2, 3, 4, 5]));
    let mut s1 = Quick::new(Core::new(Options { pre_vote: false, ..options(1) }, five));
    s1.step(Input::Campaign);
    s1.receive(2, vote_reply(4, true));
    s1.receive(3, vote_reply(4, true));
    // (c): the entry of term 2 is on S1, S2 and S3, a majority.
    s1.receive(2, accepted(4, 2));
    s1.receive(3, accepted(4, 2));
    assert_eq!(s1.core.committed(), LogIndex::ZERO);
    // (e): an entry of its own term on a majority commits both.
    s1.receive(2, accepted(4, 3));
    s1.receive(3, accepted(4, 3));
    assert_eq!(s1.core.committed(), LogIndex(3));
}

/// Figure 8, (d) and (e): what was only counted may be replaced, what was committed cannot.
#[test]
fn figure_8_the_rival_wins_before_the_commit_and_loses_after() {
    for (first_three, s5_wins) in [(&[1, 2][..], true), (&[1, 2, 4], false)] {
        let mut network = Network::new(&voters([]), options);
        for node in 1..=5 {
            let terms = match node {
                1..=3 => first_three,
                4 => &[1],
                _ => &[1, 3],
            };
            let mut disk = seven(terms);
            disk.hard_state.term = Term(4);
            disk.log[0].payload = Payload::Membership(voters(1..=5));
            network.add(options(node), disk);
        }
        network.crash(1, 0, 0);
        network.step(5, Input::Campaign);
        network.settle();
        assert_eq!(network.core(5).role() == Role::Leader, s5_wins);
        if s5_wins {
            assert_eq!(terms_of(network.core(3))[..2], [1, 3], "(d): replaced");
        }
    }
}

/// §5.4.3, leader completeness: whatever has been committed is in the log of every later leader.
#[test]
fn a_committed_entry_is_in_the_next_leaders_log() {
    let mut network = Network::new(&voters([1, 2, 3]), options);
    network.elect(1);
    network.isolate(3);
    network.step(1, Input::Propose { count: 5 });
    network.settle();
    network.tick_all();
    assert_eq!(network.core(1).committed(), LogIndex(6));
    network.heal();
    network.crash(1, 0, 0);
    // Node 3, which lacks them, cannot win; node 2 can.
    network.step(3, Input::Campaign);
    network.settle();
    assert_ne!(network.core(3).role(), Role::Leader);
    let leader = network.wait_for_leader(20 * ELECTION_TICKS);
    assert_eq!(leader, Some(2));
    assert_eq!(network.core(2).committed(), LogIndex(7));
}

/// §5.5: "Raft RPCs are idempotent": one that arrives twice does no harm.
#[test]
fn messages_may_arrive_twice() {
    let mut node = Quick::of_three(1, 1, &[]);
    let first = node.receive(2, append(1, EntryId::ZERO, &[1, 1], 1));
    let log = node.core.shape(LogIndex::ZERO, LogIndex(9));
    let second = node.receive(2, append(1, EntryId::ZERO, &[1, 1], 1));
    assert_eq!(append_outcome(&first, 2), append_outcome(&second, 2));
    assert_eq!(node.core.shape(LogIndex::ZERO, LogIndex(9)), log);
}

/// §5.5: a server that crashed is brought up to date after its restart.
#[test]
fn a_restarted_server_gets_what_it_missed() {
    let mut network = Network::new(&voters([1, 2, 3]), options);
    network.elect(1);
    network.crash(3, 0, 0);
    network.step(1, Input::Propose { count: 30 });
    network.settle();
    network.restart(3);
    for _ in 0..3 * HEARTBEAT_TICKS {
        network.tick_all();
    }
    assert_eq!(network.nodes[&NodeId(3)].log, network.nodes[&NodeId(1)].log);
    assert_eq!(network.core(3).committed(), LogIndex(31));
}

/// Thesis §3.8, §10.2.1: an entry counts where it is on the disk; the leader may send it before it is on
/// its own. Known bugs 7 and 8.
#[test]
fn only_disks_count_the_leaders_own_among_them() {
    let mut network = Network::new(&voters([1, 2, 3]), options);
    network.elect(1);
    network.step(1, Input::Propose { count: 1 });
    while !network.packets.is_empty() {
        network.deliver(0);
    }
    assert_eq!(network.core(2).last(), entry(1, 2), "sent before any disk has it");
    network.flush(2);
    while !network.packets.is_empty() {
        network.deliver(0);
    }
    assert_eq!(network.core(1).committed(), LogIndex(1), "one disk of three");
    network.flush(1);
    assert_eq!(network.core(1).committed(), LogIndex(2));
}

/// Thesis §3.8, for a cluster of one. Known bug 7.
#[test]
fn a_single_server_commits_when_its_own_disk_has_the_entry() {
    let mut core = Core::new(options(1), disk(0, &[], voters([1])));
    let out = core.step(Input::Tick);
    let state = HardState { term: Term(1), voted_for: Some(NodeId(1)) };
    assert!(out.contains(&Output::PersistHardState(state)), "at its first tick");
    assert_eq!(core.role(), Role::Candidate, "its own vote is not on the disk yet");
    core.step(Input::HardStatePersisted(state));
    assert_eq!(core.role(), Role::Leader);
    core.step(Input::Propose { count: 1 });
    assert_eq!(core.committed(), LogIndex::ZERO);
    let generation = core.generation();
    core.step(Input::Persisted { generation, index: LogIndex(1) });
    assert_eq!(core.committed(), LogIndex(1));
    let out = core.step(Input::Persisted { generation, index: LogIndex(2) });
    assert_eq!(out, [Output::Committed(LogIndex(2))]);
}
