//! The quorum rules, for every configuration of some nodes.
//!
//! A set of nodes is a bit pattern. What is asked of [`quorum::reached`] is compared with counting by
//! hand, and with what joint consensus needs of it (Raft §6): whoever decides before a change, during it
//! and after it must have a voter in common with whoever decided before that.

use oarlock::consensus::quorum;
use oarlock::{Member, Membership, NodeId};

type Nodes = u32;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) configurations: u64,
    /// Changes through a joint configuration, whose quorums all meet.
    pub(crate) changes: u64,
    /// Changes of which a direct step would let two quorums miss each other.
    pub(crate) unsafe_steps: u64,
    /// Assignments of log positions to nodes, for each configuration.
    pub(crate) commits: u64,
}

fn contains(nodes: Nodes, node: NodeId) -> bool {
    nodes & 1 << node.0 != 0
}

/// Nodes are numbered from 0 here.
fn membership(voters: Nodes, outgoing: Nodes) -> Membership {
    let half = |nodes| {
        let nodes = (0..Nodes::BITS.into()).map(NodeId).filter(move |node| contains(nodes, *node));
        nodes.map(|node| (node, Member::default()))
    };
    Membership { outgoing: half(outgoing).collect(), ..Membership::of_voters(half(voters)) }
}

fn is_majority(yes: Nodes, of: Nodes) -> bool {
    2 * (yes & of).count_ones() > of.count_ones()
}

fn decides(yes: Nodes, voters: Nodes, outgoing: Nodes) -> bool {
    is_majority(yes, voters) && (outgoing == 0 || is_majority(yes, outgoing))
}

/// All sets of `nodes` nodes that decide, as a list of answers by set.
fn deciding(voters: Nodes, outgoing: Nodes, nodes: u32) -> Vec<bool> {
    let membership = membership(voters, outgoing);
    let answers: Vec<bool> = (0..1 << nodes)
        .map(|yes| quorum::reached(&membership, false, |node, _| contains(yes, node)))
        .collect();
    for (yes, decides_here) in (0..).zip(&answers) {
        assert_eq!(
            *decides_here,
            decides(yes, voters, outgoing),
            "{yes:b} of {voters:b} and {outgoing:b}"
        );
    }
    answers
}

/// Whether every set of one list meets every set of the other. More voters never decide less, so it is
/// enough to look at the complement of each set.
fn all_meet(one: &[bool], other: &[bool]) -> bool {
    (0..one.len()).all(|yes| !one[yes] || !other[one.len() - 1 - yes])
}

/// Every change from one set of voters among `nodes` nodes to another, by a joint configuration.
fn check_changes(nodes: u32, counts: &mut Counts) {
    let all = 1 << nodes;
    let simple: Vec<Vec<bool>> = (0..all).map(|voters| deciding(voters, 0, nodes)).collect();
    counts.configurations += u64::from(all) - 1;
    for outgoing in 1..all {
        for voters in 1..all {
            let (before, after) = (&simple[outgoing as usize], &simple[voters as usize]);
            let during = deciding(voters, outgoing, nodes);
            for (one, other) in [(before, &during), (&during, &during), (&during, after)] {
                assert!(
                    all_meet(one, other),
                    "quorums miss each other between {outgoing:b} and {voters:b}"
                );
            }
            counts.configurations += 1;
            counts.changes += 1;
            counts.unsafe_steps += u64::from(!all_meet(before, after));
        }
    }
}

/// Every assignment of positions up to `highest` to `nodes` nodes, in every configuration.
fn check_commits(nodes: u32, highest: u32, counts: &mut Counts) {
    let positions = highest + 1;
    for voters in 1..1 << nodes {
        for outgoing in 0..1 << nodes {
            let membership = membership(voters, outgoing);
            for assignment in 0..positions.pow(nodes) {
                let position = |node: u32| assignment / positions.pow(node) % positions;
                let reached = quorum::reached(&membership, 0, |node, _| position(node.0 as u32));
                let holders = |level: u32| {
                    (0..nodes)
                        .filter(|node| position(*node) >= level)
                        .fold(0, |set, node| set | 1 << node)
                };
                let expected =
                    (1..=highest).rev().find(|level| decides(holders(*level), voters, outgoing));
                assert_eq!(
                    reached,
                    expected.unwrap_or(0),
                    "{assignment} in {voters:b} and {outgoing:b}"
                );
                counts.commits += 1;
            }
        }
    }
}

/// Goes through all configurations of `changing` nodes, and through all positions of `committing` nodes.
///
/// # Panics
/// If a rule is broken, with the configuration.
pub(crate) fn check(changing: u32, committing: u32) -> Counts {
    let mut counts = Counts::default();
    check_changes(changing, &mut counts);
    check_commits(committing, 3, &mut counts);
    assert!(counts.unsafe_steps > 0, "no change needs a joint configuration: nothing was checked");
    counts
}
