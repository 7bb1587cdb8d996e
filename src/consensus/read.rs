//! Reads that need no entry in the log (`ReadIndex`, thesis §6.4).
//!
//! A leader that was deposed may not know it, so a read waits until a quorum has confirmed that the
//! node still led after the read came in. The commit index is noted when a round begins, and the round
//! is confirmed by answers to heartbeats sent after that: in this order, or an entry committed by a
//! successor in between would be missed. One round serves all reads that waited when it began; those
//! that come while it runs wait for the next, so two rounds are all there is to remember.
//!
//! Before an entry of its own term is committed a leader does not know the commit index, and no round
//! begins. The numbers are the leader's own and never come again: an answer to an older round, however
//! late, says nothing about a newer one.

use super::core::{Core, RoleState};
use super::io::Output;
use super::quorum::{self, counts};
use crate::message::ReadRound;
use crate::types::LogIndex;

/// The reads of one leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reads {
    /// The round that is being confirmed, and the commit index at its beginning.
    running: Option<(ReadRound, LogIndex)>,
    /// Whether reads wait for the round after that.
    next_is_wanted: bool,
}

impl Reads {
    /// Whether any read waits.
    pub(super) fn are_waiting(&self) -> bool {
        self.running.is_some() || self.next_is_wanted
    }
}

impl Core {
    pub(super) fn read(&mut self) {
        match &mut self.role {
            RoleState::Leader(leader) => {
                leader.reads.next_is_wanted = true;
                self.out.push(Output::ReadQueued(ReadRound(self.round.0 + 1)));
                self.confirm_reads();
            }
            RoleState::Follower | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.out.push(Output::ReadRefused);
            }
        }
    }

    /// Ends the running round if a quorum has answered it, and begins the next if reads wait for it.
    pub(super) fn confirm_reads(&mut self) {
        self.end_round();
        if self.begin_round() {
            // A leader that is a quorum by itself needs no answers.
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some((round, index)) = leader.reads.running else { return };
        let me = self.options.me;
        let progress = &leader.progress;
        let confirmed = quorum::reached(self.log.membership(), false, |node, member| {
            if node == me.node {
                return counts(member, me.incarnation);
            }
            progress.get(&node).is_some_and(|progress| {
                progress.round() >= round
                    && progress.incarnation().is_some_and(|who| counts(member, who))
            })
        });
        if confirmed {
            leader.reads.running = None;
            self.out.push(Output::ReadConfirmed { round, index });
        }
    }

    fn begin_round(&mut self) -> bool {
        if !self.has_committed_in_own_term() {
            return false;
        }
        let RoleState::Leader(leader) = &mut self.role else { return false };
        if leader.reads.running.is_some() || !leader.reads.next_is_wanted {
            return false;
        }
        self.round.0 += 1;
        leader.reads = Reads { running: Some((self.round, self.committed)), next_is_wanted: false };
        for node in self.log.membership().nodes() {
            if node != self.options.me.node && self.log.membership().is_voter(node) {
                self.send_heartbeat(node);
            }
        }
        true
    }
}
