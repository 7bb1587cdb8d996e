//! The thesis on pre-vote (§9.6), check-quorum (§6.2) and the defence of a leader that lives (§4.2.3).

use oarlock::message::Message;
use oarlock::{EntryId, NodeId, Role, Term};

use super::*;
use crate::support::network::Network;

/// Thesis §9.6: "a candidate only increments its term if it first learns from a majority of the cluster
/// that they would be willing to grant the candidate their votes."
#[test]
fn a_pre_candidate_stands_only_when_a_majority_would_vote_for_it() {
    let mut node = Quick::of_three(1, 4, &[1]);
    let out = node.wait_for_timeout();
    assert_eq!((node.core.role(), node.core.term()), (Role::PreCandidate, Term(4)));
    let asked = asked_for_votes(&out);
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|(_, request)| request.pre && request.term == Term(5)));
    node.receive(2, pre_vote_reply(4, false));
    assert_eq!(node.core.term(), Term(4));
    let out = node.receive(3, pre_vote_reply(5, true));
    assert_eq!((node.core.role(), node.core.term()), (Role::Candidate, Term(5)));
    assert!(asked_for_votes(&out).iter().all(|(_, request)| !request.pre));
}

/// Thesis §9.6: asking changes nothing at the server that is asked: neither its term, nor its vote, nor
/// its timer.
#[test]
fn a_pre_vote_changes_nothing_at_the_voter() {
    let mut node = Quick::of_three(1, 4, &[1]);
    let before = node.core.clone();
    for asker in [2, 3] {
        let out = node.receive(asker, pre_vote(9, entry(1, 1)));
        assert_eq!(sent_to(&out, asker), [pre_vote_reply(9, true)]);
    }
    assert_eq!(node.core.hard_state(), before.hard_state());
    assert_eq!(node.core.role(), Role::Follower);
}

/// Thesis §9.6: a server that was partitioned off does not disturb the cluster when it returns: its term
/// has not grown.
#[test]
fn a_returning_server_does_not_disrupt_the_leader() {
    let mut network = Network::new(&voters([1, 2, 3]), options);
    network.elect(1);
    network.isolate(3);
    for _ in 0..20 * ELECTION_TICKS {
        network.tick_all();
    }
    assert_eq!(network.core(3).role(), Role::PreCandidate);
    network.heal();
    for _ in 0..2 * ELECTION_TICKS {
        network.tick_all();
    }
    assert_eq!((network.core(1).role(), network.core(1).term()), (Role::Leader, Term(1)));
    assert_eq!(network.core(3).leader(), Some(NodeId(1)));
}

/// Thesis §6.2: "a leader ... steps down if an election timeout elapses without a successful round of
/// heartbeats to a majority of its cluster."
#[test]
fn a_leader_without_a_quorum_steps_down() {
    let mut node = leader();
    let out = node.ticks(ELECTION_TICKS - 1);
    assert_eq!(node.core.role(), Role::Leader);
    assert!(!sent_to(&out, 2).is_empty());
    node.ticks(1);
    assert_eq!((node.core.role(), node.core.leader()), (Role::Follower, None));
    assert_eq!(node.core.term(), Term(1), "in its own term");
    let out = node.ticks(HEARTBEAT_TICKS);
    assert!(sent_to(&out, 2).is_empty(), "its heartbeats stop");
}

/// Thesis §6.2: as long as a majority answers, the leader stays.
#[test]
fn a_leader_with_a_quorum_stays() {
    let mut node = leader();
    for _ in 0..10 {
        node.ticks(ELECTION_TICKS - 1);
        node.receive(3, heartbeat_reply(1, 0, 0));
    }
    assert_eq!(node.core.role(), Role::Leader);
}

/// Thesis §4.2.3: "if a server receives a RequestVote request within the minimum election timeout of
/// hearing from a current leader, it does not update its term or grant its vote."
#[test]
fn a_server_that_hears_a_leader_votes_for_nobody_else() {
    for request in [vote(9, entry(9, 9)), pre_vote(9, entry(8, 9)), vote(9, entry(8, 9))] {
        let mut node = Quick::of_three(1, 1, &[]);
        node.receive(2, heartbeat(1, 0));
        node.ticks(ELECTION_TICKS - 1);
        let out = node.receive(3, request.clone());
        assert!(!sent_to(&out, 3).iter().any(is_vote_reply(true)), "{request:?}");
        assert_eq!((node.core.term(), node.core.leader()), (Term(1), Some(NodeId(2))));
    }
    // After an election timeout without the leader it votes.
    let mut node = Quick::of_three(1, 1, &[]);
    node.receive(2, heartbeat(1, 0));
    node.ticks(ELECTION_TICKS);
    let out = node.receive(3, vote(9, entry(8, 9)));
    assert!(sent_to(&out, 3).iter().any(is_vote_reply(true)));
}

/// Thesis §4.2.3: a leader that has a quorum is not deposed by a server that was removed.
#[test]
fn a_leader_with_a_quorum_defends_itself() {
    let mut node = leader();
    let out = node.receive(9, vote(7, entry(6, 9)));
    assert_eq!((node.core.role(), node.core.term()), (Role::Leader, Term(1)));
    assert_eq!(sent_to(&out, 9), [vote_reply(1, false)]);
}

/// Thesis §4.2.3, end: a leadership transfer is the exception, "marked with a special flag".
#[test]
fn a_transfer_overrides_the_defence() {
    let mut node = Quick::of_three(1, 1, &[]);
    node.receive(2, heartbeat(1, 0));
    let Message::Vote(request) = vote(2, EntryId::ZERO) else { unreachable!("a vote") };
    let out = node.receive(3, Message::Vote(oarlock::message::Vote { transfer: true, ..request }));
    assert_eq!(sent_to(&out, 3), [vote_reply(2, true)]);
}
