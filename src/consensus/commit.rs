//! When is an entry committed? Raft §5.3, §5.4.2 and figure 8.
//!
//! A leader counts the disks that hold an entry, its own among them and by the same rule, and only
//! entries of its own term: one of an earlier term may be on a majority and still be replaced. A
//! follower believes its leader, as far as their logs are known to be equal. The commit index never
//! goes back.

use super::core::{Core, RoleState};
use super::io::Output;
use super::quorum::{self, counts};
use crate::types::LogIndex;

impl Core {
    /// Commits what a quorum of disks holds, if this node leads.
    pub(super) fn advance_commit(&mut self) {
        let RoleState::Leader(leader) = &self.role else { return };
        let me = self.options.me;
        let own = self.persisted.index();
        let index = quorum::reached(self.log.membership(), LogIndex::ZERO, |node, member| {
            let (matched, who) = if node == me.node {
                (own, Some(me.incarnation))
            } else {
                match leader.progress.get(&node) {
                    Some(progress) => (progress.matched(), progress.incarnation()),
                    None => (LogIndex::ZERO, None),
                }
            };
            if who.is_some_and(|who| counts(member, who)) { matched } else { LogIndex::ZERO }
        });
        if index > self.committed && self.log.term_at(index) == Some(self.term()) {
            self.commit(index);
            self.tell_origins();
            self.confirm_reads();
        }
    }

    /// Commits what a leader has committed, as far as this log is known to be the same.
    pub(super) fn commit_up_to(&mut self, leaders: LogIndex) {
        let index = leaders.min(self.verified);
        if index > self.committed {
            self.commit(index);
        }
    }

    fn commit(&mut self, index: LogIndex) {
        self.committed = index;
        self.out.push(Output::Committed(index));
    }

    /// Whether the leader's own term has a committed entry: only then does it know all that is
    /// committed (Raft §8).
    pub(super) fn has_committed_in_own_term(&self) -> bool {
        self.log.term_at(self.committed) == Some(self.term())
    }
}
