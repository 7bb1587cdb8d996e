//! What has a quorum reached? Raft §5.2 and §5.4.2 for one majority, §6 for two.
//!
//! Pure: asks each voter's value through a closure and answers with one value. It is computed anew
//! each time and expects no order: a quorum read off a list that somebody else keeps sorted is wrong
//! as soon as that list is not.

use std::collections::BTreeMap;

use crate::membership::{Member, Membership};
use crate::types::{Incarnation, NodeId};

/// How many of `count` voters are a majority.
pub const fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// The highest value that a quorum has reached, or `lowest` if there is no quorum for anything more.
///
/// With log indexes this is the commit rule's median, with booleans "does a quorum say yes". In a
/// joint configuration each half has to reach it. Without voters nothing is ever reached.
///
/// ```
/// use oarlock::consensus::quorum::reached;
/// use oarlock::{Member, Membership, NodeId};
///
/// let three = Membership::of_voters([1, 2, 3].map(|id| (NodeId(id), Member::default())));
/// // Persisted up to 7, 3 and 5: two of three hold 5.
/// assert_eq!(reached(&three, 0, |node, _| [7, 3, 5][node.0 as usize - 1]), 5);
/// ```
pub fn reached<T: Copy + Ord>(
    membership: &Membership,
    lowest: T,
    value: impl Fn(NodeId, &Member) -> T,
) -> T {
    let incoming = reached_by_majority(&membership.voters, lowest, &value);
    if membership.is_joint() {
        incoming.min(reached_by_majority(&membership.outgoing, lowest, &value))
    } else {
        incoming
    }
}

/// Clusters are small: up to this many voters are looked at without allocating.
const USUAL_VOTERS: usize = 16;

fn reached_by_majority<T: Copy + Ord>(
    voters: &BTreeMap<NodeId, Member>,
    lowest: T,
    value: impl Fn(NodeId, &Member) -> T,
) -> T {
    if voters.is_empty() {
        return lowest;
    }
    let mut usual = [lowest; USUAL_VOTERS];
    let mut many;
    let values = if voters.len() <= USUAL_VOTERS {
        &mut usual[..voters.len()]
    } else {
        many = vec![lowest; voters.len()];
        &mut many[..]
    };
    for (slot, (&node, member)) in values.iter_mut().zip(voters) {
        *slot = value(node, member);
    }
    // In descending order, the majority-th value is held or exceeded by a majority.
    let place = majority(values.len()) - 1;
    *values.select_nth_unstable_by(place, |a, b| b.cmp(a)).1
}

/// Whether what `incarnation` says counts for `member`: a wiped directory is another incarnation and
/// has forgotten what the named one promised.
pub fn counts(member: &Member, incarnation: Incarnation) -> bool {
    member.incarnation.is_none_or(|named| named == incarnation)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(voters: &BTreeMap<NodeId, Member>, value: impl Fn(NodeId) -> u64) -> u64 {
        (0..=10)
            .rev()
            .find(|&level| {
                let holders = voters.keys().filter(|&&node| value(node) >= level).count();
                !voters.is_empty() && 2 * holders > voters.len()
            })
            .unwrap_or(0)
    }

    fn voters() -> impl Strategy<Value = BTreeMap<NodeId, Member>> {
        proptest::collection::btree_set(0..20_u64, 0..20)
            .prop_map(|ids| ids.into_iter().map(|id| (NodeId(id), Member::default())).collect())
    }

    proptest! {
        #[test]
        fn a_quorum_reaches_what_counting_each_level_says(
            incoming in voters(),
            outgoing in voters(),
            values in proptest::collection::vec(0..=10_u64, 20),
        ) {
            let value = |node: NodeId| values[node.0 as usize];
            let membership = Membership { voters: incoming, outgoing, ..Membership::default() };
            let mut expected = naive(&membership.voters, value);
            if membership.is_joint() {
                expected = expected.min(naive(&membership.outgoing, value));
            }
            prop_assert_eq!(reached(&membership, 0, |node, _| value(node)), expected);
            for level in 1..=10 {
                let yes = reached(&membership, false, |node, _| value(node) >= level);
                prop_assert_eq!(yes, expected >= level, "as a yes or no at {}", level);
            }
        }
    }

    #[test]
    fn nobody_decides_for_an_empty_membership() {
        assert!(!reached(&Membership::default(), false, |_, _| true));
    }

    #[test]
    fn only_the_named_directory_counts() {
        let named = Member { incarnation: Some(Incarnation(7)), ..Member::default() };
        assert!(counts(&named, Incarnation(7)) && !counts(&named, Incarnation(8)));
        assert!(counts(&Member::default(), Incarnation(8)));
    }
}
