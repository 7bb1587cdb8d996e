//! Who is really speaking? A node id names a member; the directory it runs on, and how often that was
//! opened, tell whether the message still comes from the member that made the promises.
//!
//! A message of an older boot than one already seen is ignored: it was sent before a restart, or by a
//! directory that was rolled back to an older copy. If the membership names the directory that counts,
//! that is all; others are heard but not counted (see [`quorum::counts`](super::quorum::counts)). If
//! it names none, the latest directory to appear is the member's, and those it replaced are heard
//! again only after another restart of theirs: so late messages of a wiped directory do not pass for
//! messages of its successor.
//!
//! Only members are remembered, and a few directories for each: the memory is bounded by the
//! membership.

use std::collections::BTreeMap;

use crate::membership::Membership;
use crate::types::{BootCount, Incarnation, NodeId, Sender};

/// So many directories are remembered for each member, besides its latest.
const MAX_RETIRED: usize = 3;

/// The latest boots of all members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Senders {
    latest: BTreeMap<NodeId, Directories>,
}

/// The directories of one member, the latest last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Directories(Vec<(Incarnation, BootCount)>);

impl Senders {
    /// Notes who sent a message. Returns false if it must be ignored.
    pub(super) fn accept(&mut self, from: &Sender, membership: &Membership) -> bool {
        let Some(member) = membership.member(from.node) else {
            return true;
        };
        let directories =
            self.latest.entry(from.node).or_insert_with(|| Directories(Vec::with_capacity(1)));
        directories.accept(from, member.incarnation.is_some())
    }

    /// Forgets who is no member any more.
    pub(super) fn retain_members(&mut self, membership: &Membership) {
        self.latest.retain(|&node, _| membership.member(node).is_some());
    }
}

impl Directories {
    fn accept(&mut self, from: &Sender, one_is_named: bool) -> bool {
        let current = (from.incarnation, from.boot);
        let place = self.0.iter().position(|(incarnation, _)| *incarnation == from.incarnation);
        if let Some(place) = place {
            let (_, seen) = self.0[place];
            let is_latest = place + 1 == self.0.len();
            if from.boot < seen || (from.boot == seen && !is_latest && !one_is_named) {
                return false;
            }
            self.0.remove(place);
        } else if self.0.len() > MAX_RETIRED {
            self.0.remove(0);
        }
        self.0.push(current);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Member;

    fn from(incarnation: u128, boot: u64) -> Sender {
        Sender { node: NodeId(1), incarnation: Incarnation(incarnation), boot: BootCount(boot) }
    }

    fn membership(named: Option<u128>) -> Membership {
        let member = Member { incarnation: named.map(Incarnation), ..Member::default() };
        Membership::of_voters([(NodeId(1), member)])
    }

    #[test]
    fn an_older_boot_of_a_directory_is_ignored() {
        for named in [None, Some(7), Some(8)] {
            let mut senders = Senders::default();
            assert!(senders.accept(&from(7, 2), &membership(named)));
            assert!(!senders.accept(&from(7, 1), &membership(named)));
            assert!(senders.accept(&from(7, 2), &membership(named)));
            assert!(senders.accept(&from(7, 3), &membership(named)));
            assert!(!senders.accept(&from(7, 2), &membership(named)));
        }
    }

    #[test]
    fn a_replaced_directory_is_heard_again_only_after_a_restart() {
        let mut senders = Senders::default();
        let any = membership(None);
        assert!(senders.accept(&from(7, 5), &any));
        assert!(senders.accept(&from(8, 1), &any));
        assert!(!senders.accept(&from(7, 5), &any), "a late message of the wiped directory");
        assert!(senders.accept(&from(8, 1), &any));
        assert!(senders.accept(&from(7, 6), &any), "somebody brought it back");
        assert!(!senders.accept(&from(8, 1), &any));
    }

    #[test]
    fn a_named_directory_cannot_be_pushed_aside_by_another() {
        let mut senders = Senders::default();
        let named = membership(Some(7));
        assert!(senders.accept(&from(7, 5), &named));
        assert!(senders.accept(&from(8, 1), &named), "heard, though not counted");
        assert!(senders.accept(&from(7, 5), &named));
        assert!(senders.accept(&from(8, 1), &named));
    }

    #[test]
    fn memory_is_bounded_by_the_membership() {
        let mut senders = Senders::default();
        let any = membership(None);
        for incarnation in 0..100 {
            assert!(senders.accept(&from(incarnation, 1), &any));
        }
        assert_eq!(senders.latest[&NodeId(1)].0.len(), MAX_RETIRED + 1);
        let stranger = Sender { node: NodeId(9), ..Sender::default() };
        assert!(senders.accept(&stranger, &any));
        assert_eq!(senders.latest.len(), 1);
        senders.retain_members(&Membership::default());
        assert_eq!(senders.latest.len(), 0);
    }
}
