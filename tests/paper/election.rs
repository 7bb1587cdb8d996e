//! §5.1 and §5.2: terms, and how a leader is elected.

use std::collections::BTreeSet;

use oarlock::consensus::{Core, Input, Options, Output, Restored};
use oarlock::message::Message;
use oarlock::{EntryId, HardState, NodeId, Role, Term};

use super::*;

/// §5.1: "If one server's current term is smaller than the other's, then it updates its current term to
/// the larger value."
#[test]
fn a_server_that_hears_of_a_later_term_enters_it() {
    for message in [heartbeat(5, 0), append(5, EntryId::ZERO, &[], 0), vote(5, EntryId::ZERO)] {
        let mut node = Quick::of_three(1, 2, &[]);
        node.receive(2, message);
        assert_eq!(node.core.term(), Term(5));
    }
    let mut leader = leader();
    leader.receive(2, heartbeat_reply(5, 0, 0));
    assert_eq!(leader.core.term(), Term(5));
}

/// §5.1: "If a candidate or leader discovers that its term is out of date, it immediately reverts to
/// follower state."
#[test]
fn candidates_and_leaders_revert_to_follower_in_a_later_term() {
    for reply in [accepted(9, 0), rejected(9, 1, EntryId::ZERO), heartbeat_reply(9, 0, 0)] {
        let mut node = leader();
        node.receive(3, reply);
        assert_eq!((node.core.role(), node.core.term()), (Role::Follower, Term(9)));
        assert_eq!(node.core.leader(), None);
    }
    let mut candidate = Quick::of_three(1, 2, &[]);
    candidate.step(Input::Campaign);
    candidate.receive(2, pre_vote_reply(3, true));
    assert_eq!(candidate.core.role(), Role::Candidate);
    candidate.receive(3, vote_reply(9, false));
    assert_eq!((candidate.core.role(), candidate.core.term()), (Role::Follower, Term(9)));
}

/// §5.1: "If a server receives a request with a stale term number, it rejects the request." The answer
/// carries the server's own term, so that the sender learns it is out of date.
#[test]
fn a_request_with_a_stale_term_is_rejected_with_the_current_one() {
    let stale = [
        heartbeat(2, 0),
        append(2, EntryId::ZERO, &[1], 0),
        vote(2, entry(1, 1)),
        pre_vote(2, entry(1, 1)),
    ];
    for request in stale {
        let mut node = Quick::of_three(1, 3, &[]);
        let out = node.receive(2, request);
        let answers = sent_to(&out, 2);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].term(), Term(3));
        assert!(!is_vote_reply(true)(&answers[0]));
        assert_eq!((node.core.leader(), node.core.last()), (None, EntryId::ZERO));
    }
}

/// Figure 2: term and vote are "updated on stable storage before responding to RPCs". Known bug 30.
#[test]
fn no_answer_leaves_before_the_term_it_speaks_of_is_stored() {
    let restored = disk(0, &[], voters([1, 2, 3]));
    for request in [vote(4, EntryId::ZERO), append(4, EntryId::ZERO, &[4], 0), heartbeat(4, 0)] {
        let mut core = Core::new(options(1), restored.clone());
        let out = core.step(Input::Message { from: sender(2), message: request.clone() });
        let persist = out.iter().find_map(|output| match output {
            Output::PersistHardState(state) => Some(*state),
            _ => None,
        });
        let state = persist.expect("the term has changed");
        assert_eq!(state.term, Term(4));
        assert_eq!(sent_to(&out, 2), [], "{request:?}");
        let out = core.step(Input::HardStatePersisted(state));
        let answers = sent_to(&out, 2);
        assert!(!matches!(request, Message::Vote(_)) || is_vote_reply(true)(&answers[0]));
        assert!(matches!(request, Message::Append(_)) || answers.len() == 1);
    }
}

/// §5.1 with §3.8 of the thesis: a server restarts with the term and the vote it had.
#[test]
fn a_vote_is_remembered_across_a_restart() {
    let hard_state = HardState { term: Term(4), voted_for: Some(NodeId(2)) };
    let restored = Restored { hard_state, ..disk(4, &[], voters([1, 2, 3])) };
    let mut node = Quick::new(Core::new(options(1), restored));
    let out = node.receive(3, vote(4, EntryId::ZERO));
    assert!(is_vote_reply(false)(&sent_to(&out, 3)[0]));
    let out = node.receive(2, vote(4, EntryId::ZERO));
    assert!(is_vote_reply(true)(&sent_to(&out, 2)[0]));
}

/// §5.2: "When servers start up, they begin as followers."
#[test]
fn servers_start_as_followers() {
    let node = Quick::of_three(1, 7, &[1, 2]);
    assert_eq!((node.core.role(), node.core.leader()), (Role::Follower, None));
}

/// §5.2: "A server remains in follower state as long as it receives valid RPCs from a leader or
/// candidate."
#[test]
fn a_follower_that_hears_its_leader_does_not_stand() {
    let mut node = Quick::of_three(1, 1, &[]);
    for round in 0..20 {
        let out = if round % 2 == 0 {
            node.receive(2, heartbeat(1, 0))
        } else {
            node.receive(2, append(1, EntryId::ZERO, &[1], 0))
        };
        assert!(asked_for_votes(&out).is_empty());
        assert!(asked_for_votes(&node.ticks(ELECTION_TICKS - 1)).is_empty());
    }
    assert_eq!(node.core.role(), Role::Follower);
}

/// §5.2: "Leaders send periodic heartbeats to all followers in order to maintain their authority."
#[test]
fn a_leader_sends_heartbeats_to_all() {
    let mut node = leader();
    let out = node.ticks(HEARTBEAT_TICKS);
    for follower in [2, 3] {
        assert!(matches!(sent_to(&out, follower)[..], [Message::Heartbeat(_)]));
    }
}

/// §5.2: "If a follower receives no communication over a period of time called the election timeout,
/// then it assumes there is no viable leader and begins an election": it "increments its current term",
/// "votes for itself and issues RequestVote RPCs in parallel to each of the other servers".
#[test]
fn a_follower_without_a_leader_stands_in_the_next_term() {
    let options = Options { pre_vote: false, ..options(1) };
    let mut node = Quick::new(Core::new(options, disk(3, &[1, 2], voters([1, 2, 3]))));
    let out = node.wait_for_timeout();
    assert_eq!(node.core.role(), Role::Candidate);
    assert_eq!(node.core.hard_state(), HardState { term: Term(4), voted_for: Some(NodeId(1)) });
    let asked = asked_for_votes(&out);
    assert_eq!(asked.iter().map(|(to, _)| to.0).collect::<Vec<_>>(), [2, 3]);
    for (_, request) in asked {
        assert_eq!((request.term, request.last), (Term(4), entry(2, 2)));
        assert!(!request.pre);
    }
}

/// §5.2: "A candidate wins an election if it receives votes from a majority of the servers in the full
/// cluster for the same term."
#[test]
fn a_candidate_wins_with_a_majority_and_not_before() {
    let five = disk(0, &[], voters([1, 2, 3, 4, 5]));
    let mut node = Quick::new(Core::new(Options { pre_vote: false, ..options(1) }, five));
    node.step(Input::Campaign);
    node.receive(2, vote_reply(1, true));
    assert_eq!(node.core.role(), Role::Candidate, "two of five");
    // Another term's vote, a refusal and a stranger's vote are none.
    node.receive(3, vote_reply(0, true));
    node.receive(4, vote_reply(1, false));
    node.receive(9, vote_reply(1, true));
    assert_eq!(node.core.role(), Role::Candidate);
    node.receive(5, vote_reply(1, true));
    assert_eq!(node.core.role(), Role::Leader, "three of five");
}

/// §5.2, and a bug of other systems: a vote that arrives twice, or the own vote, counted twice.
#[test]
fn a_vote_counts_once_however_often_it_arrives() {
    let five = disk(0, &[], voters([1, 2, 3, 4, 5]));
    let mut node = Quick::new(Core::new(Options { pre_vote: false, ..options(1) }, five));
    node.step(Input::Campaign);
    let state = node.core.hard_state();
    for _ in 0..3 {
        node.receive(2, vote_reply(1, true));
        node.receive(1, vote_reply(1, true));
        node.step(Input::HardStatePersisted(state));
    }
    assert_eq!(node.core.role(), Role::Candidate);
}

/// §5.2: "Each server will vote for at most one candidate in a given term, on a first-come-first-served
/// basis."
#[test]
fn a_server_votes_once_in_a_term() {
    let mut node = Quick::of_three(1, 0, &[]);
    assert!(is_vote_reply(true)(&sent_to(&node.receive(2, vote(1, EntryId::ZERO)), 2)[0]));
    assert!(is_vote_reply(false)(&sent_to(&node.receive(3, vote(1, EntryId::ZERO)), 3)[0]));
    // The same candidate asks twice: its request, or the answer, was doubled or lost.
    assert!(is_vote_reply(true)(&sent_to(&node.receive(2, vote(1, EntryId::ZERO)), 2)[0]));
    // And again in the next term.
    assert!(is_vote_reply(true)(&sent_to(&node.receive(3, vote(2, EntryId::ZERO)), 3)[0]));
}

/// §5.2: a winner "sends heartbeat messages to all of the other servers to establish its authority and
/// prevent new elections".
#[test]
fn a_new_leader_announces_itself_at_once() {
    let mut node = Quick::of_three(1, 0, &[]);
    let out = node.lead();
    for follower in [2, 3] {
        assert!(sent_to(&out, follower).iter().any(|m| matches!(m, Message::Heartbeat(_))));
    }
}

/// §5.2: "If the leader's term is at least as large as the candidate's current term, then the candidate
/// recognizes the leader as legitimate and returns to follower state." What that leader sent is not
/// lost on the way.
#[test]
fn a_candidate_follows_a_leader_of_its_term_and_takes_its_entries() {
    for pre_vote in [false, true] {
        let restored = disk(1, &[], voters([1, 2, 3]));
        let mut node = Quick::new(Core::new(Options { pre_vote, ..options(1) }, restored));
        node.step(Input::Campaign);
        let term = node.core.term().0;
        let out = node.receive(2, append(term, EntryId::ZERO, &[term, term], 0));
        assert_eq!((node.core.role(), node.core.leader()), (Role::Follower, Some(NodeId(2))));
        assert_eq!(node.core.last(), entry(term, 2));
        assert_eq!(append_outcome(&out, 2), accepted(term, 2));
    }
}

/// §5.2: "If the term in the RPC is smaller than the candidate's current term, then the candidate
/// rejects the RPC and continues in candidate state."
#[test]
fn a_candidate_refuses_a_leader_of_an_earlier_term() {
    let restored = disk(4, &[], voters([1, 2, 3]));
    let mut node = Quick::new(Core::new(Options { pre_vote: false, ..options(1) }, restored));
    node.step(Input::Campaign);
    node.receive(2, append(4, EntryId::ZERO, &[4], 0));
    assert_eq!((node.core.role(), node.core.last()), (Role::Candidate, EntryId::ZERO));
}

/// §5.2: with split votes "each candidate will time out and start a new election by incrementing its
/// term and initiating another round of RequestVote RPCs".
#[test]
fn a_candidate_without_a_majority_stands_again_in_a_new_term() {
    let restored = disk(0, &[], voters([1, 2, 3]));
    let mut node = Quick::new(Core::new(Options { pre_vote: false, ..options(1) }, restored));
    node.step(Input::Campaign);
    let out = node.wait_for_timeout();
    assert_eq!((node.core.role(), node.core.term()), (Role::Candidate, Term(2)));
    assert_eq!(asked_for_votes(&out).len(), 2);
}

/// §5.2: "election timeouts are chosen randomly from a fixed interval", anew for each election.
#[test]
fn election_timeouts_are_random_within_the_interval() {
    let restored = disk(0, &[], voters([1, 2, 3]));
    let options = Options { pre_vote: false, ..options(1) };
    let mut node = Quick::new(Core::new(options, restored));
    let mut timeouts = BTreeSet::new();
    for _ in 0..100 {
        let term = node.core.term();
        let mut ticks = 0;
        while node.core.term() == term {
            node.step(Input::Tick);
            ticks += 1;
        }
        timeouts.insert(ticks);
    }
    assert!(timeouts.iter().all(|ticks| (ELECTION_TICKS..=2 * ELECTION_TICKS).contains(ticks)));
    assert_eq!(timeouts.len() as u32, ELECTION_TICKS + 1, "every one of them comes up");
}

/// Figure 2, rules for followers: only an append of the current leader or a vote that was granted
/// restarts the election timer; a refused candidate cannot keep others waiting.
#[test]
fn a_refused_vote_does_not_restart_the_election_timer() {
    let mut node = Quick::of_three(1, 2, &[1, 2]);
    let mut term = 10;
    let mut stood = false;
    for _ in 0..=2 * ELECTION_TICKS {
        stood |= !asked_for_votes(&node.step(Input::Tick)).is_empty();
        term += 1;
        node.receive(2, vote(term, entry(1, 1)));
    }
    assert!(stood);
}
