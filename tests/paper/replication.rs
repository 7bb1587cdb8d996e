//! §5.3: how the log is replicated, rule by rule, with figures 6 and 7.

use oarlock::consensus::{Core, Input, Mode, NewEntries, Options, Output};
use oarlock::message::Message;
use oarlock::{EntryId, LogIndex, NodeId, Role, Term};

use super::*;
use crate::support::network::{Network, Payload};

/// §5.3: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in
/// parallel to each of the other servers." An entry "stores a state machine command along with the term
/// number".
#[test]
fn a_leader_appends_and_sends_to_all_followers_at_once() {
    let mut node = leader();
    node.receive(2, accepted(1, 1));
    node.receive(3, accepted(1, 1));
    let out = node.core.step(Input::Propose { count: 3 });
    let first = Output::Append { first: entry(1, 2), count: 3, entries: NewEntries::Commands };
    assert_eq!(out[0], first, "its own log comes first");
    let orders = ordered_appends(&out);
    assert_eq!(orders.iter().map(|(to, _)| to.0).collect::<Vec<_>>(), [2, 3]);
    for (_, append) in orders {
        assert_eq!((append.term, append.prev), (Term(1), entry(1, 1)));
    }
    assert_eq!(out.len(), 3);
}

/// §5.3: only leaders take commands.
#[test]
fn only_a_leader_takes_proposals_and_reads() {
    let mut follower = Quick::of_three(1, 1, &[]);
    assert_eq!(follower.step(Input::Propose { count: 1 }), [Output::ProposeRefused]);
    assert_eq!(follower.step(Input::Read), [Output::ReadRefused]);
    follower.step(Input::Campaign);
    assert_eq!(follower.step(Input::Propose { count: 1 }), [Output::ProposeRefused]);
    assert_eq!(follower.step(Input::Read), [Output::ReadRefused]);
}

/// §5.3: "A log entry is committed once the leader that created the entry has replicated it on a
/// majority of the servers." Figure 6 is such a log.
#[test]
fn figure_6_what_a_majority_holds_is_committed() {
    let five = disk(2, &[1, 1, 1, 2], voters([1, 2, 3, 4, 5]));
    let mut node = Quick::new(Core::new(Options { pre_vote: false, ..options(1) }, five));
    node.step(Input::Campaign);
    node.receive(2, vote_reply(3, true));
    node.receive(3, vote_reply(3, true));
    node.step(Input::Propose { count: 3 });
    assert_eq!(terms_of(&node.core), [1, 1, 1, 2, 3, 3, 3, 3]);
    // The followers' logs as in the figure: 5, 8, 2 and 7 entries.
    for (follower, matched) in [(2, 5), (3, 8), (4, 2)] {
        node.receive(follower, accepted(3, matched));
    }
    assert_eq!(node.core.committed(), LogIndex(5));
    node.receive(5, accepted(3, 7));
    assert_eq!(node.core.committed(), LogIndex(7));
}

/// §5.3: committing an entry "also commits all preceding entries in the leader's log, including entries
/// created by previous leaders".
#[test]
fn an_entry_commits_all_before_it() {
    let mut node = Quick::of_three(1, 2, &[1, 2, 2]);
    node.lead();
    assert_eq!(node.core.committed(), LogIndex::ZERO);
    let out = node.receive(2, accepted(3, 4));
    assert!(out.contains(&Output::Committed(LogIndex(4))));
}

/// §5.3: the leader "includes that index in future AppendEntries RPCs (including heartbeats) so that the
/// other servers eventually find out".
#[test]
fn followers_learn_the_commit_index_from_appends_and_heartbeats() {
    let mut node = leader();
    node.receive(2, accepted(1, 1));
    node.receive(3, accepted(1, 1));
    let (_, append) = ordered_appends(&node.core.step(Input::Propose { count: 1 }))[0].clone();
    assert_eq!(append.committed, LogIndex(1));
    let out = node.ticks(HEARTBEAT_TICKS);
    assert!(sent_to(&out, 2).iter().any(
        |message| matches!(message, Message::Heartbeat(beat) if beat.committed == LogIndex(1))
    ));

    let mut follower = Quick::of_three(2, 1, &[]);
    let out = follower.receive(1, support::append(1, EntryId::ZERO, &[1, 1], 1));
    assert!(out.contains(&Output::Committed(LogIndex(1))));
    let out = follower.receive(1, heartbeat(1, 2));
    assert!(out.contains(&Output::Committed(LogIndex(2))));
}

/// Figure 2, AppendEntries rule 5: the commit index is at most "the index of last new entry": beyond what
/// this leader has sent, the follower's log may be somebody else's.
#[test]
fn a_commit_index_reaches_only_as_far_as_the_log_is_known_to_match() {
    let mut node = Quick::of_three(1, 2, &[1, 1, 2, 2]);
    node.receive(2, heartbeat(3, 4));
    assert_eq!(node.core.committed(), LogIndex::ZERO, "nothing was compared in this term");
    node.receive(2, append(3, entry(1, 1), &[1], 4));
    assert_eq!(node.core.committed(), LogIndex(2));
    node.receive(2, heartbeat(3, 4));
    assert_eq!(node.core.committed(), LogIndex(2));
}

/// §5.3: "the leader retries AppendEntries RPCs indefinitely ... until all followers eventually store all
/// log entries."
#[test]
fn a_leader_tries_again_until_a_follower_has_everything() {
    let mut network = Network::new(&voters([1, 2, 3]), options);
    network.elect(1);
    network.isolate(3);
    network.step(1, Input::Propose { count: 20 });
    for _ in 0..10 * ELECTION_TICKS {
        network.tick_all();
    }
    assert_eq!(network.core(2).last(), entry(1, 21));
    assert_eq!(network.core(3).last(), entry(1, 1));
    network.heal();
    for _ in 0..4 * HEARTBEAT_TICKS {
        network.tick_all();
    }
    assert_eq!(network.core(3).last(), entry(1, 21));
}

/// §5.3: "If the follower does not find an entry in its log with the same index and term, then it refuses
/// the new entries."
#[test]
fn a_follower_refuses_entries_that_do_not_follow_what_it_holds() {
    for (prev, hint) in [
        (entry(1, 4), entry(1, 3)), // past the end
        (entry(2, 3), entry(1, 2)), // another term
        (entry(2, 9), entry(1, 3)),
    ] {
        let mut node = Quick::of_three(1, 2, &[1, 1, 1]);
        let out = node.receive(2, append(2, prev, &[2], 0));
        assert_eq!(append_outcome(&out, 2), rejected(2, prev.index.0, hint));
        assert_eq!(node.core.last(), entry(1, 3));
    }
}

/// §5.3: "To bring a follower's log into consistency with its own, the leader must find the latest log
/// entry where the two logs agree, delete any entries in the follower's log after that point, and send
/// the follower all of the leader's entries after that point." Figure 7: each of the logs (a) to (f).
#[test]
fn figure_7_every_log_is_brought_into_line() {
    let logs: [&[u64]; 7] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut network = Network::new(&voters([]), options);
    for (place, terms) in logs.iter().enumerate() {
        network.add(options(1 + place as u64), seven(terms));
    }
    network.elect(1);
    assert_eq!(network.core(1).term(), Term(8));
    for _ in 0..2 * HEARTBEAT_TICKS {
        network.tick_all();
    }
    let leaders = network.nodes[&NodeId(1)].log.clone();
    assert_eq!(terms_of(network.core(1)), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]);
    for (id, node) in &network.nodes {
        assert_eq!(node.log, leaders, "node {id}");
        assert_eq!(node.core().committed(), LogIndex(11));
    }
}

/// §5.3, end: "the follower can include the term of the conflicting entry ...; one AppendEntries RPC will
/// be required for each term with conflicting entries, rather than one RPC per entry."
#[test]
fn conflicts_are_found_by_term_not_by_entry() {
    let long = |own: u64| -> Vec<u64> {
        let (middle, end) = (vec![own; 200], vec![own + 2; 200]);
        [1].into_iter().chain(middle).chain(end).collect()
    };
    let mut network = Network::new(&voters([]), options);
    let with_membership = |terms: &[u64]| {
        let mut disk = seven(terms);
        disk.log[0].payload = Payload::Membership(voters([1, 2]));
        disk
    };
    network.add(options(1), with_membership(&long(3)));
    network.add(options(2), with_membership(&long(2)));
    network.trace = Some(Vec::new());
    network.elect(1);
    let trace = network.trace.take().expect("traced");
    let rejections =
        trace.iter().filter(|line| line.starts_with("2 >") && line.contains("rejected"));
    assert!(rejections.count() <= 3, "two terms differ");
    assert_eq!(network.nodes[&NodeId(2)].log, network.nodes[&NodeId(1)].log);
}

/// §5.3: "A leader never overwrites or deletes entries in its own log" (leader append-only, figure 3).
#[test]
fn a_leader_never_changes_its_own_log() {
    let mut node = leader();
    node.step(Input::Propose { count: 3 });
    // Another claims to lead the same term: it cannot, and nothing it sends is believed.
    let out = node.receive(2, append(1, EntryId::ZERO, &[1], 1));
    assert_eq!((out.len(), node.core.last(), node.core.role()), (0, entry(1, 4), Role::Leader));
    assert_eq!(node.core.committed(), LogIndex::ZERO);
}

/// §5.3: a new leader "initializes all nextIndex values to the index just after the last one in its log",
/// and steps back when refused.
#[test]
fn a_new_leader_begins_after_its_last_entry_and_steps_back() {
    let mut node = Quick::of_three(1, 1, &[1, 1, 1]);
    let out = node.lead();
    assert_eq!(ordered_appends(&out)[0].1.prev, entry(1, 3));
    let out = node.receive(2, rejected(2, 3, entry(1, 1)));
    assert_eq!(ordered_appends(&out)[0].1.prev, entry(1, 1));
    // The logs meet; what follows is sent in one stream.
    let out = node.receive(2, accepted(2, 2));
    assert_eq!(ordered_appends(&out)[0].1.prev, entry(1, 2));
    let (_, progress) = node.core.progress().next().expect("node 2");
    assert_eq!(progress.mode(), Mode::Replicate);
}

fn append_to(terms: &[u64], prev: EntryId, new: &[u64]) -> (Quick, Vec<Output>) {
    let mut node = Quick::of_three(1, 5, terms);
    let out = node.receive(2, append(5, prev, new, 0));
    (node, out)
}

/// Rule 1: an empty log takes entries from the beginning.
#[test]
fn entries_are_appended_to_an_empty_log() {
    let (node, out) = append_to(&[], EntryId::ZERO, &[1, 2]);
    assert_eq!(terms_of(&node.core), [1, 2]);
    assert_eq!(append_outcome(&out, 2), accepted(5, 2));
}

/// Rule 2: no holes.
#[test]
fn entries_that_would_leave_a_hole_are_refused() {
    let (node, out) = append_to(&[1], entry(1, 2), &[1]);
    assert_eq!(terms_of(&node.core), [1]);
    assert_eq!(append_outcome(&out, 2), rejected(5, 2, entry(1, 1)));
}

/// Rule 3: the entry before must be the same.
#[test]
fn entries_after_another_entry_than_the_held_one_are_refused() {
    let (node, out) = append_to(&[1, 1], entry(2, 2), &[2]);
    assert_eq!(terms_of(&node.core), [1, 1]);
    assert_eq!(append_outcome(&out, 2), rejected(5, 2, entry(1, 1)));
}

/// Rule 4: the same entries again change nothing, and what follows them stays. Known bug 19.
#[test]
fn equal_entries_change_nothing_and_keep_the_tail() {
    let (node, out) = append_to(&[1, 1, 2, 2], entry(1, 1), &[1, 2]);
    assert_eq!(terms_of(&node.core), [1, 1, 2, 2]);
    assert!(!out.iter().any(|o| matches!(o, Output::Truncate { .. } | Output::Store { .. })));
    assert_eq!(append_outcome(&out, 2), accepted(5, 3), "the tail is not this leader's yet");
}

/// Rule 5: a conflicting entry goes, with all that follow it, and nothing before it. Known bug 19.
#[test]
fn the_log_is_cut_at_the_first_real_conflict() {
    let (node, out) = append_to(&[1, 1, 2, 2], entry(1, 1), &[1, 3]);
    assert_eq!(terms_of(&node.core), [1, 1, 3]);
    let changes: Vec<&Output> = out
        .iter()
        .filter(|o| matches!(o, Output::Truncate { .. } | Output::Store { .. }))
        .collect();
    assert!(matches!(changes[0], Output::Truncate { from: LogIndex(3), .. }));
    assert_eq!(*changes[1], Output::Store { first: LogIndex(3), last: LogIndex(3) });
}

/// Rule 6: an append without entries still compares the entry before.
#[test]
fn an_empty_append_confirms_the_entry_before() {
    let (node, out) = append_to(&[1, 2, 2], entry(2, 2), &[]);
    assert_eq!(terms_of(&node.core), [1, 2, 2]);
    assert_eq!(append_outcome(&out, 2), accepted(5, 2));
}

/// Rule 7: an append without entries is refused if the entry before is another.
#[test]
fn an_empty_append_after_another_entry_is_refused() {
    let (node, out) = append_to(&[1, 2, 2], entry(3, 2), &[]);
    assert_eq!(terms_of(&node.core), [1, 2, 2]);
    assert_eq!(append_outcome(&out, 2), rejected(5, 2, entry(1, 1)));
}
