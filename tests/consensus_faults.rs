//! What other Raft systems got wrong, and what members that forgot, lie or come back must not do.
//!
//! `known bug N` names the row of `known_bugs.md` that the test stands for: 1, 3, 12, 16 and 17
//! here; 2, 4 to 8, 19 and 30 in `paper`, 33 with the bookkeeping of what is in flight.

#![allow(clippy::wildcard_imports, reason = "the support module is the language of these tests")]

mod support;

use oarlock::consensus::{Core, Input, Mode, Options, Output, Restored};
use oarlock::message::{Entries, HeartbeatReply, Message, ReadRound};
use oarlock::{
    BootCount, ElectionPriority, EntryId, HardState, Incarnation, LogIndex, Member, Membership,
    NodeId, Role, Sender, Term,
};
use support::network::{Disk, Entry, Network, Payload};
use support::*;

const FLAGS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn with_flags((pre_vote, check_quorum): (bool, bool)) -> impl Fn(u64) -> Options {
    move |node| Options { pre_vote, check_quorum, ..options(node) }
}

fn disk_of(term: u64, terms: &[u64]) -> Disk {
    let log = terms
        .iter()
        .zip(1..)
        .map(|(&term, index)| Entry { id: entry(term, index), payload: Payload::Noop })
        .collect();
    Disk { hard_state: HardState { term: Term(term), voted_for: None }, log, boots: 0 }
}

/// A network of three with these disks, and node 3 down.
fn two_of_three(flags: (bool, bool), first: Disk, second: Disk) -> Network {
    let mut network = Network::new(&voters([1, 2, 3]), with_flags(flags));
    for (node, disk) in [(1, first), (2, second)] {
        network.crash(node, 0, 0);
        network.add(with_flags(flags)(node), disk);
    }
    network.crash(3, 0, 0);
    network
}

/// Known bug 1: the node with the best log has the lower term. The other must tell it the term, or
/// nobody is ever elected.
#[test]
fn the_best_log_is_elected_though_its_term_is_behind() {
    for flags in FLAGS {
        let mut network = two_of_three(flags, disk_of(1, &[1, 1]), disk_of(5, &[1]));
        assert_eq!(network.wait_for_leader(20 * ELECTION_TICKS), Some(1), "{flags:?}");
        assert!(network.core(1).term() > Term(5));
    }
}

/// Known bug 1: a node whose term is ahead, and whose log is behind, comes back to a leader with a
/// quorum. It has to be led again, by whomever.
#[test]
fn a_node_whose_term_is_ahead_is_led_again() {
    for flags in FLAGS {
        let mut network = Network::new(&voters([1, 2, 3]), with_flags(flags));
        network.elect(1);
        network.crash(3, 0, 0);
        network.add(with_flags(flags)(3), disk_of(9, &[]));
        network.step(1, Input::Propose { count: 1 });
        network.settle();
        for _ in 0..10 * ELECTION_TICKS {
            network.tick_all();
        }
        let leader = network.leader().expect("somebody leads");
        assert!(leader != 3 && network.core(leader).term() > Term(9), "{flags:?}");
        for node in 1..=3 {
            assert_eq!(network.core(node).leader(), Some(NodeId(leader)), "{flags:?}");
        }
    }
}

/// Known bug 1: a node that asks for pre-votes has given up its leader, and does not defend it against
/// another that asks.
#[test]
fn a_pre_candidate_has_no_leader_to_defend() {
    let mut node = Quick::of_three(1, 1, &[]);
    node.receive(2, heartbeat(1, 0));
    let out = node.receive(3, pre_vote(2, EntryId::ZERO));
    assert_eq!(sent_to(&out, 3), [pre_vote_reply(1, false)]);
    node.step(Input::Campaign);
    assert_eq!(node.core.leader(), None);
    let out = node.receive(3, pre_vote(2, EntryId::ZERO));
    assert_eq!(sent_to(&out, 3), [pre_vote_reply(2, true)]);
}

/// Known bug 1: when a leader dies, the others elect one of them, whatever is switched on.
#[test]
fn a_dead_leader_is_replaced_with_any_flags() {
    for flags in FLAGS {
        let mut network = Network::new(&voters([1, 2, 3]), with_flags(flags));
        network.elect(1);
        network.crash(1, 0, 0);
        let leader = network.wait_for_leader(20 * ELECTION_TICKS);
        assert!(leader.is_some(), "{flags:?}");
    }
}

/// Known bug 3: the old leader reaches only one node, which reaches everybody. A majority is connected
/// without it, and must not be kept from electing by the heartbeats that one still gets.
#[test]
fn heartbeats_over_a_bridge_do_not_keep_a_majority_from_electing() {
    for flags in FLAGS {
        let mut network = Network::new(&voters([1, 2, 3, 4, 5]), with_flags(flags));
        network.elect(1);
        // Without node 2, the bridge, there is no majority on the other side.
        network.crash(5, 0, 0);
        network.partition(&[1], &[3, 4]);
        for _ in 0..20 * ELECTION_TICKS {
            network.tick_all();
        }
        let leader = network.leader().expect("a leader");
        network.step(leader, Input::Propose { count: 1 });
        network.settle();
        assert_ne!(leader, 1, "{flags:?}");
        let committed = network.core(leader).committed();
        assert_eq!(committed, network.core(leader).last().index, "{flags:?}");
    }
}

/// Known bug 12: a node that does not know yet that it may vote is asked for its vote all the same, and
/// gives it: a learner, or one outside the membership as it knows it. It never stands itself.
#[test]
fn learners_and_strangers_vote_when_asked_and_never_stand() {
    let learner = Membership { learners: members([3]).into_iter().collect(), ..voters([1, 2]) };
    for membership in [learner, voters([1, 2]), Membership::default()] {
        let mut node = Quick::new(Core::new(options(3), disk(1, &[], membership)));
        assert!(asked_for_votes(&node.ticks(10 * ELECTION_TICKS)).is_empty());
        assert_eq!(node.step(Input::Campaign), []);
        let out = node.receive(1, pre_vote(2, EntryId::ZERO));
        assert_eq!(sent_to(&out, 1), [pre_vote_reply(2, true)]);
        let out = node.receive(1, vote(2, EntryId::ZERO));
        assert_eq!(sent_to(&out, 1), [vote_reply(2, true)]);
    }
}

/// Known bug 16: acknowledgements in any order give the same commit index, that of the median.
#[test]
fn acknowledgements_commit_the_median_in_whatever_order_they_come() {
    let matched = [(2, 2), (3, 5), (4, 3), (5, 4)];
    for first in 0..4 {
        for second in 0..4 {
            let five = disk(0, &[], voters([1, 2, 3, 4, 5]));
            let mut node = Quick::new(Core::new(Options { pre_vote: false, ..options(1) }, five));
            node.step(Input::Campaign);
            node.receive(2, vote_reply(1, true));
            node.receive(3, vote_reply(1, true));
            node.step(Input::Propose { count: 4 });
            let mut order = matched.to_vec();
            order.swap(0, first);
            order.swap(1, second);
            for (follower, matched) in order {
                node.receive(follower, accepted(1, matched));
            }
            // The disks hold 5 (its own), 2, 5, 3 and 4.
            assert_eq!(node.core.committed(), LogIndex(4));
        }
    }
}

/// Known bug 17: a member that lacks entries from before the log's beginning is never sent what follows
/// a made-up entry, and asking it does not go round for ever.
#[test]
fn nothing_is_sent_after_an_entry_that_the_log_does_not_have() {
    let restored = Restored {
        hard_state: HardState { term: Term(3), voted_for: None },
        base: entry(2, 10),
        entries: entries_after(10, &[3, 3]),
        membership: voters([1, 2, 3]),
        committed: LogIndex(10),
    };
    let mut node = Quick::new(Core::new(options(1), restored));
    let mut orders = ordered_appends(&node.lead());
    // Node 2's log ends at 4.
    let mut refusals = 0;
    while let Some((_, append)) = orders.iter().find(|(to, _)| *to == NodeId(2)).cloned() {
        assert!(append.prev.index >= LogIndex(10), "after {}", append.prev);
        assert_eq!(node.core.term_at(append.prev.index), Some(append.prev.term));
        refusals += 1;
        assert!(refusals < 10, "it goes round for ever");
        let out = node.receive(2, rejected(4, append.prev.index.0, entry(1, 4)));
        orders = ordered_appends(&out);
    }
    assert_eq!(refusals, 2, "after the last entry, and after the base");
    let out = node.ticks(HEARTBEAT_TICKS);
    let tried_again = ordered_appends(&out).into_iter().filter(|(to, _)| *to == NodeId(2));
    assert_eq!(tried_again.map(|(_, append)| append.prev).collect::<Vec<_>>(), [entry(2, 10)]);
    // Node 3 has acknowledged nothing at all, and what was on its way is lost.
    node.step(Input::Dropped { to: NodeId(3) });
    let out = node.ticks(HEARTBEAT_TICKS);
    let to_third = ordered_appends(&out).into_iter().find(|(to, _)| *to == NodeId(3));
    assert_eq!(to_third.map(|(_, append)| append.prev), Some(entry(2, 10)));
}

/// An acknowledgement that was lost is repeated by the answer to the next heartbeat.
#[test]
fn a_lost_acknowledgement_is_made_up_for_by_a_heartbeat() {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    let out = node.receive(2, heartbeat_reply(1, 0, 1));
    assert!(out.contains(&Output::Committed(LogIndex(1))));
    assert_eq!(node.core.committed(), LogIndex(1));
}

/// What is reported as dropped is sent again with the next heartbeat, long before a silent loss is noticed.
#[test]
fn what_was_dropped_is_sent_again_with_the_next_heartbeat() {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    node.receive(2, accepted(1, 1));
    let out = node.step(Input::Propose { count: 5 });
    assert_eq!(ordered_appends(&out)[0].1.prev, entry(1, 1));
    assert!(ordered_appends(&node.ticks(HEARTBEAT_TICKS)).iter().all(|(to, _)| *to != NodeId(2)));
    assert_eq!(node.step(Input::Dropped { to: NodeId(2) }), []);
    let out = node.ticks(HEARTBEAT_TICKS);
    let again = ordered_appends(&out).into_iter().find(|(to, _)| *to == NodeId(2));
    assert_eq!(again.map(|(_, append)| append.prev), Some(entry(1, 1)));
}

/// CCF: a rejection that arrives late, or twice, after what it refused was acknowledged, takes nothing
/// back.
#[test]
fn a_stale_rejection_takes_back_neither_commit_nor_progress() {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    node.step(Input::Propose { count: 5 });
    node.receive(2, accepted(1, 6));
    assert_eq!(node.core.committed(), LogIndex(6));
    for prev in 0..=8 {
        node.receive(2, rejected(1, prev, EntryId::ZERO));
        node.receive(3, rejected(1, prev, EntryId::ZERO));
    }
    assert_eq!(node.core.committed(), LogIndex(6));
    let (_, progress) = node.core.progress().next().expect("node 2");
    assert_eq!((progress.matched(), progress.next()), (LogIndex(6), LogIndex(7)));
    assert_eq!(progress.mode(), Mode::Replicate);
}

/// Votes that nobody can have asked for do not make a leader before its own is stored.
#[test]
fn nobody_leads_before_its_own_vote_is_stored() {
    let options = Options { pre_vote: false, ..options(1) };
    let mut core = Core::new(options, disk(0, &[], voters([1, 2, 3])));
    core.step(Input::Campaign);
    for voter in [2, 3] {
        core.step(Input::Message { from: sender(voter), message: vote_reply(1, true) });
    }
    assert_eq!(core.role(), Role::Candidate);
    core.step(Input::HardStatePersisted(core.hard_state()));
    assert_eq!(core.role(), Role::Leader);
}

/// Leadership that was won on votes of directories that forgot them would be no leadership.
#[test]
fn votes_and_acknowledgements_of_another_directory_do_not_count() {
    let named =
        |node: u64| Member { incarnation: Some(Incarnation(node.into())), ..Member::default() };
    let membership = Membership::of_voters([1, 2, 3].map(|node| (NodeId(node), named(node))));
    let wiped = Sender { incarnation: Incarnation(99), ..sender(2) };
    let mut node =
        Quick::new(Core::new(Options { pre_vote: false, ..options(1) }, disk(0, &[], membership)));
    node.step(Input::Campaign);
    node.receive_as(wiped, vote_reply(1, true));
    assert_eq!(node.core.role(), Role::Candidate);
    node.receive(2, vote_reply(1, true));
    assert_eq!(node.core.role(), Role::Leader);

    node.receive_as(wiped, accepted(1, 1));
    assert_eq!(node.core.committed(), LogIndex::ZERO);
    node.receive(3, accepted(1, 1));
    assert_eq!(node.core.committed(), LogIndex(1));

    node.step(Input::Read);
    node.receive_as(wiped, heartbeat_reply(1, 1, 1));
    let out = node.receive(3, heartbeat_reply(1, 1, 1));
    assert!(out.contains(&Output::ReadConfirmed { round: ReadRound(1), index: LogIndex(1) }));

    // Nor does it keep a leader in office.
    for _ in 0..=ELECTION_TICKS {
        node.receive_as(wiped, heartbeat_reply(1, 1, 1));
        node.step(Input::Tick);
    }
    assert_eq!(node.core.role(), Role::Follower);
}

/// A wiped directory is brought up to date all the same, or it could never be taken in again.
#[test]
fn another_directory_is_replicated_to_though_it_does_not_count() {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    node.step(Input::Propose { count: 3 });
    node.receive(2, accepted(1, 4));
    assert_eq!(node.core.committed(), LogIndex(4));
    let wiped = Sender { incarnation: Incarnation(99), ..sender(2) };
    let out = node.receive_as(wiped, heartbeat_reply(1, 0, 0));
    let prev = ordered_appends(&out)[0].1.prev;
    let out = node.receive_as(wiped, rejected(1, prev.index.0, EntryId::ZERO));
    assert_eq!(ordered_appends(&out)[0].1.prev, EntryId::ZERO);
    let out = node.receive_as(wiped, accepted(1, 1));
    assert_eq!(ordered_appends(&out)[0].1.prev, entry(1, 1));
    assert_eq!(node.core.committed(), LogIndex(4));
}

/// A node that runs on another directory than the membership names does not stand: its own vote would
/// not count.
#[test]
fn a_wiped_node_does_not_stand() {
    let named = Member { incarnation: Some(Incarnation(99)), ..Member::default() };
    let membership = Membership::of_voters([(NodeId(1), named)]);
    let mut node = Quick::new(Core::new(options(1), disk(0, &[], membership)));
    node.ticks(5 * ELECTION_TICKS);
    assert_eq!(node.step(Input::Campaign), []);
    assert_eq!(node.core.role(), Role::Follower);
}

/// Messages from before a restart are ignored once the restarted node was heard.
#[test]
fn messages_of_an_older_boot_are_ignored() {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    let restarted = Sender { boot: BootCount(2), ..sender(2) };
    node.receive_as(restarted, heartbeat_reply(1, 0, 0));
    assert_eq!(node.receive(2, accepted(1, 1)), []);
    assert_eq!(node.core.committed(), LogIndex::ZERO);
    node.receive_as(restarted, accepted(1, 1));
    assert_eq!(node.core.committed(), LogIndex(1));
}

/// A vote given to one directory is not given again to its successor of the same name.
#[test]
fn a_wiped_candidate_does_not_inherit_its_predecessors_vote() {
    let mut node = Quick::of_three(1, 0, &[]);
    let out = node.receive(2, vote(1, EntryId::ZERO));
    assert_eq!(sent_to(&out, 2), [vote_reply(1, true)]);
    let wiped = Sender { incarnation: Incarnation(99), ..sender(2) };
    let out = node.receive_as(wiped, vote(1, EntryId::ZERO));
    assert_eq!(sent_to(&out, 2), [vote_reply(1, false)]);
}

fn with_membership(mut entries: Entries, index: u64, membership: Membership) -> Entries {
    entries.memberships.push((LogIndex(index), membership));
    entries
}

fn append_entries(term: u64, prev: EntryId, entries: Entries) -> Message {
    let Message::Append(append) = append(term, prev, &[], 0) else { unreachable!("an append") };
    Message::Append(oarlock::message::Append { entries, ..append })
}

/// Raft §6: a server uses "the latest configuration in its log, regardless of whether the entry is
/// committed".
#[test]
fn a_membership_is_in_force_from_its_arrival_until_its_entry_goes() {
    let mut node = Quick::of_three(1, 1, &[1]);
    let change = joint([1, 2, 3], [3, 4, 5]);
    let entries = with_membership(entries_after(1, &[2, 2]), 2, change.clone());
    node.receive(2, append_entries(2, entry(1, 1), entries));
    assert_eq!(*node.core.membership(), change);
    let later = with_membership(entries_after(3, &[2]), 4, voters([4]));
    node.receive(2, append_entries(2, entry(2, 3), later));
    assert_eq!(*node.core.membership(), voters([4]));
    // A new leader replaces everything after the first entry: both changes are taken back.
    node.receive(3, append(3, entry(1, 1), &[3], 0));
    assert_eq!(*node.core.membership(), voters([1, 2, 3]));
}

/// Raft §6: in a joint configuration, "agreement (for elections and entry commitment) requires separate
/// majorities from both".
#[test]
fn a_joint_configuration_elects_and_commits_with_both_majorities() {
    let membership = joint([1, 2, 3], [1, 4, 5]);
    let mut node = Quick::new(Core::new(options(1), disk(0, &[], membership)));
    node.step(Input::Campaign);
    node.receive(2, pre_vote_reply(1, true));
    assert_eq!(node.core.role(), Role::PreCandidate);
    node.receive(4, pre_vote_reply(1, true));
    assert_eq!(node.core.role(), Role::Candidate);
    node.receive(2, vote_reply(1, true));
    node.receive(3, vote_reply(1, true));
    assert_eq!(node.core.role(), Role::Candidate);
    node.receive(5, vote_reply(1, true));
    assert_eq!(node.core.role(), Role::Leader);
    node.receive(2, accepted(1, 1));
    node.receive(3, accepted(1, 1));
    assert_eq!(node.core.committed(), LogIndex::ZERO);
    node.receive(4, accepted(1, 1));
    assert_eq!(node.core.committed(), LogIndex(1));
    node.step(Input::Read);
    let out = node.receive(3, heartbeat_reply(1, 1, 1));
    assert!(!out.iter().any(|output| matches!(output, Output::ReadConfirmed { .. })));
    let out = node.receive(4, heartbeat_reply(1, 1, 1));
    assert!(out.iter().any(|output| matches!(output, Output::ReadConfirmed { .. })));
}

/// A pre-candidate that cannot win any more waits for its next timeout as a follower.
#[test]
fn a_candidate_that_a_majority_refused_gives_up() {
    let mut node = Quick::of_three(1, 1, &[]);
    node.step(Input::Campaign);
    node.receive(2, pre_vote_reply(1, false));
    assert_eq!(node.core.role(), Role::PreCandidate);
    node.receive(3, pre_vote_reply(1, false));
    assert_eq!(node.core.role(), Role::Follower);
}

/// An append that contradicts what is committed comes from no correct leader. It changes nothing, and
/// stops nobody.
#[test]
fn an_append_that_contradicts_committed_entries_is_ignored() {
    let mut node = Quick::of_three(1, 1, &[]);
    node.receive(2, append(1, EntryId::ZERO, &[1, 1, 1], 2));
    assert_eq!(node.core.committed(), LogIndex(2));
    let before = node.core.shape(LogIndex::ZERO, LogIndex(9));
    for (prev, terms) in [(EntryId::ZERO, &[2, 2][..]), (entry(1, 1), &[2]), (entry(2, 2), &[2])] {
        let out = node.receive(3, append(2, prev, terms, 3));
        assert!(sent_to(&out, 3).is_empty(), "{out:?}");
        assert_eq!(node.core.shape(LogIndex::ZERO, LogIndex(9)), before);
    }
}

/// What a leader has shown to match is not taken back by the same leader.
#[test]
fn an_append_that_contradicts_its_own_leader_is_ignored() {
    let mut node = Quick::of_three(1, 1, &[]);
    node.receive(2, append(5, EntryId::ZERO, &[1, 1, 3], 0));
    node.receive(2, append(5, entry(1, 2), &[4], 0));
    assert_eq!(terms_of(&node.core), [1, 1, 3]);
    node.receive(3, append(5, EntryId::ZERO, &[1, 1, 3, 5], 0));
    assert_eq!(node.core.last(), entry(3, 3), "nor does anybody else lead that term");
}

/// An append from before the log's beginning leads into it where both are known to be equal.
#[test]
fn an_append_that_begins_before_the_log_is_taken_from_there_on() {
    let restored = Restored {
        hard_state: HardState { term: Term(3), voted_for: None },
        base: entry(2, 4),
        entries: entries_after(4, &[2]),
        membership: voters([1, 2, 3]),
        committed: LogIndex(4),
    };
    let fresh = || Quick::new(Core::new(options(1), restored.clone()));
    let mut node = fresh();
    let out = node.receive(2, append(3, entry(1, 2), &[2, 2, 2, 3], 0));
    assert_eq!(terms_of(&node.core), [2, 3]);
    assert_eq!(sent_to(&out, 2), [accepted(3, 6)]);
    // All of it lies before: nothing is learnt but that it is there.
    let out = fresh().receive(2, append(3, entry(1, 1), &[2], 0));
    assert_eq!(sent_to(&out, 2), [accepted(3, 4)]);
    // It leads into another log than this one: no correct leader.
    let mut node = fresh();
    let out = node.receive(2, append(3, entry(1, 2), &[3, 3, 3], 0));
    assert!(sent_to(&out, 2).is_empty());
    assert_eq!(node.core.last(), entry(2, 5));
}

/// A tail that some older leader left on the disk is not acknowledged to a newer one.
#[test]
fn only_what_was_compared_with_this_leader_is_acknowledged() {
    let mut node = Quick::of_three(1, 2, &[1, 1, 2, 2]);
    let out = node.receive(2, heartbeat(3, 0));
    assert_eq!(sent_to(&out, 2), [heartbeat_reply(3, 0, 0)]);
    let out = node.receive(2, append(3, EntryId::ZERO, &[1, 1], 0));
    assert_eq!(sent_to(&out, 2), [accepted(3, 2)]);
    let out = node.receive(3, heartbeat(4, 0));
    assert_eq!(sent_to(&out, 3), [heartbeat_reply(4, 0, 0)], "another leader begins anew");
}

/// A leader whose disk or state machine hangs gives way, and does not come back before it is over.
#[test]
fn an_unfit_node_gives_up_leadership_and_does_not_campaign() {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    node.receive(2, accepted(1, 1));
    node.step(Input::Read);
    let out = node.step(Input::Fit(false));
    assert!(out.contains(&Output::ReadsLost));
    assert_eq!((node.core.role(), node.core.leader()), (Role::Follower, None));
    assert!(asked_for_votes(&node.ticks(10 * ELECTION_TICKS)).is_empty());
    assert_eq!(node.step(Input::Campaign), []);
    let out = node.receive(3, vote(2, entry(1, 1)));
    assert_eq!(sent_to(&out, 3), [vote_reply(2, true)], "it still votes");
    node.step(Input::Fit(true));
    assert!(!asked_for_votes(&node.wait_for_timeout()).is_empty());
}

/// A leader whose disk is full gives way to whoever could lead and has room. Where nobody has, it leads on,
/// for reads.
#[test]
fn a_full_leader_gives_way_to_a_voter_that_has_room_and_its_whole_log() {
    let full = |term, matched| match heartbeat_reply(term, 0, matched) {
        Message::HeartbeatReply(reply) => {
            Message::HeartbeatReply(HeartbeatReply { full: true, ..reply })
        }
        other => panic!("{other:?}"),
    };
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    node.receive(2, accepted(1, 1));
    node.receive(3, heartbeat_reply(1, 0, 0));
    node.receive(2, full(1, 1));
    node.step(Input::Full(true));
    assert_eq!(node.core.role(), Role::Leader, "one has room and lags, the other is full as well");
    node.receive(3, full(1, 1));
    assert_eq!(node.core.role(), Role::Leader, "nobody has room");
    assert!(!sent_to(&node.ticks(ELECTION_TICKS / 2), 2).is_empty(), "it leads");
    node.receive(3, heartbeat_reply(1, 0, 1));
    assert_eq!((node.core.role(), node.core.leader()), (Role::Follower, None));

    // It stands where nobody else does.
    assert!(asked_for_votes(&node.ticks(2 * ELECTION_TICKS)).is_empty());
    assert!(!asked_for_votes(&node.ticks(7 * ELECTION_TICKS)).is_empty());
    node.receive(2, vote(9, entry(1, 1)));
    node.receive(2, heartbeat(9, 1));
    assert_eq!(node.core.role(), Role::Follower);
    node.step(Input::Full(false));
    assert!(!asked_for_votes(&node.wait_for_timeout()).is_empty(), "and now like others");
}

/// A follower says with every answer whether its log is full.
#[test]
fn a_follower_says_whether_it_has_room() {
    let mut node = Quick::of_three(2, 0, &[]);
    let says = |out: &[Output]| match &sent_to(out, 1)[..] {
        [Message::HeartbeatReply(reply)] => reply.full,
        other => panic!("{other:?}"),
    };
    assert!(!says(&node.receive(1, heartbeat(1, 0))));
    node.step(Input::Full(true));
    assert!(says(&node.receive(1, heartbeat(1, 0))));
}

/// Priorities: who prefers not to lead waits longer, or for ever.
#[test]
fn a_node_that_never_leads_campaigns_only_when_told() {
    let options = Options { priority: ElectionPriority::Never, ..options(1) };
    let mut node = Quick::new(Core::new(options, disk(1, &[], voters([1, 2, 3]))));
    node.receive(2, heartbeat(1, 0));
    assert!(asked_for_votes(&node.ticks(10 * ELECTION_TICKS)).is_empty());
    assert_eq!(node.core.leader(), None, "a leader that is silent is forgotten");
    assert_eq!(asked_for_votes(&node.step(Input::Campaign)).len(), 2);
    assert!(asked_for_votes(&node.ticks(10 * ELECTION_TICKS)).is_empty());
    assert_eq!(node.core.role(), Role::Follower);
}

/// The last entry's term is a term this node was in, even if the crash came before its term was stored:
/// it is stored before anything is said in it.
#[test]
fn a_term_known_only_from_the_log_is_stored_before_it_is_used() {
    let mut core = Core::new(options(1), disk(2, &[1, 4], voters([1, 2, 3])));
    assert_eq!(core.term(), Term(4));
    let out = core.step(Input::Message { from: sender(2), message: heartbeat(4, 0) });
    let state = HardState { term: Term(4), voted_for: None };
    assert!(out.contains(&Output::PersistHardState(state)));
    assert!(sent_to(&out, 2).is_empty());
    let out = core.step(Input::HardStatePersisted(state));
    assert_eq!(sent_to(&out, 2), [heartbeat_reply(4, 0, 0)]);
}

/// A report that term and vote of before are stored does not let out what depends on those of now.
#[test]
fn an_older_report_releases_only_what_it_covers() {
    let mut core = Core::new(options(1), disk(0, &[], voters([1, 2, 3])));
    core.step(Input::Message { from: sender(2), message: heartbeat(1, 0) });
    core.step(Input::Message { from: sender(3), message: vote(2, EntryId::ZERO) });
    for _ in 0..ELECTION_TICKS {
        core.step(Input::Tick);
    }
    core.step(Input::Message { from: sender(3), message: vote(2, EntryId::ZERO) });
    assert_eq!(core.hard_state(), HardState { term: Term(2), voted_for: Some(NodeId(3)) });
    let first = HardState { term: Term(1), voted_for: None };
    let out = core.step(Input::HardStatePersisted(first));
    assert_eq!(sent_to(&out, 2), [heartbeat_reply(1, 0, 0)]);
    assert!(!sent_to(&out, 3).contains(&vote_reply(2, true)));
    let out = core.step(Input::HardStatePersisted(core.hard_state()));
    assert!(sent_to(&out, 3).contains(&vote_reply(2, true)));
}

/// A restart of a follower loses what was on its way to it; the leader notices and asks anew.
#[test]
fn a_follower_that_restarted_is_probed() {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    node.receive(2, accepted(1, 1));
    node.step(Input::Propose { count: 3 });
    let restarted = Sender { boot: BootCount(2), ..sender(2) };
    let out = node.receive_as(restarted, heartbeat_reply(1, 0, 0));
    let (to, append) = ordered_appends(&out)[0].clone();
    assert_eq!((to, append.prev), (NodeId(2), entry(1, 1)));
    let (_, progress) = node.core.progress().next().expect("node 2");
    assert_eq!((progress.mode(), progress.matched()), (Mode::Probe, LogIndex::ZERO));
}

/// Nobody else's business: what a node seems to say to itself, and answers of strangers.
#[test]
fn messages_from_itself_and_answers_of_strangers_are_ignored() {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    let before = node.core.clone();
    for message in [vote(9, entry(8, 9)), heartbeat(9, 0), heartbeat_reply(9, 0, 0)] {
        assert_eq!(node.receive(1, message), []);
    }
    for message in [heartbeat_reply(9, 0, 0), accepted(9, 1), vote_reply(9, true)] {
        assert_eq!(node.receive(7, message), []);
    }
    assert_eq!(node.core, before);
}

/// What comes from a driver that lost count is a bug of ours, and stops here.
#[test]
#[should_panic(expected = "persisted up to 5, but the log ends at 1")]
fn a_report_beyond_the_log_is_a_bug() {
    let mut core = Core::new(options(1), disk(1, &[1], voters([1, 2, 3])));
    let generation = core.generation();
    core.step(Input::Persisted { generation, index: LogIndex(5) });
}
