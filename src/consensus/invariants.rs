//! What must hold after every step, whatever came in. A step that breaks one of these is a bug of this
//! library, and stops here with the values, in release builds too.
//!
//! The checks compare the state before and after a step and cost a few comparisons for each member at
//! most: nothing here grows with the log.

use super::core::{Core, RoleState};
use super::io::Generation;
use crate::types::{EntryId, HardState, LogIndex, NodeId, Role, Term};

/// The state before a step, as far as the checks need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    hard_state: HardState,
    role: Role,
    leader: Option<NodeId>,
    committed: LogIndex,
    last: EntryId,
    generation: Generation,
}

impl Before {
    pub(super) fn of(core: &Core) -> Self {
        Self {
            hard_state: core.hard_state,
            role: core.role(),
            leader: core.leader,
            committed: core.committed,
            last: core.last(),
            generation: core.generation(),
        }
    }

    pub(super) fn has_changed_role(&self, role: Role, term: Term, leader: Option<NodeId>) -> bool {
        (self.role, self.hard_state.term, self.leader) != (role, term, leader)
    }

    /// # Panics
    /// If the step has broken a rule.
    pub(super) fn check(&self, after: &Core) {
        self.check_hard_state(after);
        self.check_log(after);
        self.check_leadership(after);
    }

    /// Terms do not fall, and the vote is set at most once in each (Raft §5.1, §5.2).
    fn check_hard_state(&self, after: &Core) {
        let (was, is) = (self.hard_state, after.hard_state);
        assert!(is.term >= was.term, "the term fell from {} to {}", was.term, is.term);
        assert!(
            is.term > was.term || was.voted_for.is_none() || is.voted_for == was.voted_for,
            "the vote of term {} changed from {:?} to {:?}",
            is.term,
            was.voted_for,
            is.voted_for
        );
    }

    /// What is committed stays, and no index points past the log.
    fn check_log(&self, after: &Core) {
        let (committed, last) = (after.committed, after.last().index);
        let (persisted, verified) = (after.persisted(), after.verified);
        assert!(
            committed >= self.committed,
            "the commit index fell from {} to {committed}",
            self.committed
        );
        assert!(committed <= last, "committed {committed} > last {last}");
        assert!(persisted <= last, "persisted {persisted} > last {last}");
        assert!(
            committed <= verified && verified <= last,
            "verified {verified} is not between committed {committed} and last {last}"
        );
        assert!(
            after.last().index >= self.last.index || after.generation() > self.generation,
            "the log lost its end {} without a truncation",
            self.last
        );
    }

    /// Leaders have stored their vote, only append, and know nobody to be ahead of them.
    fn check_leadership(&self, after: &Core) {
        let RoleState::Leader(leader) = &after.role else {
            assert!(
                after.leader != Some(after.options.me.node),
                "a {} that follows itself",
                after.role()
            );
            return;
        };
        let me = after.options.me.node;
        assert!(after.leader == Some(me), "a leader that follows {:?}", after.leader);
        assert!(
            after.hard_state.voted_for == Some(me) && after.durable.covers(after.hard_state),
            "leads with {:?}, which is not on the disk",
            after.hard_state
        );
        let last = after.last();
        assert!(last.term == after.term(), "a leader of term {} with {last}", after.term());
        assert!(after.verified == last.index, "verified {} of {last}", after.verified);
        assert!(
            self.role != Role::Leader || after.generation() == self.generation,
            "a leader truncated its log"
        );
        for (node, progress) in &leader.progress {
            assert!(
                progress.matched() < progress.next() && progress.next() <= last.index.next(),
                "node {node}: matched {}, next {}, last {last}",
                progress.matched(),
                progress.next()
            );
        }
    }
}
