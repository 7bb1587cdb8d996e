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
//!
//! A follower asks its leader for the index. Its question counts as a read at the leader, from the moment
//! it arrives; the answer serves every read that had begun when the question was sent. Questions are
//! numbered as rounds are, and an answer names the boot that asked. What is lost is asked again.

use std::collections::BTreeMap;

use super::core::{Core, RoleState};
use super::io::Output;
use super::quorum::{self, counts};
use crate::message::{Message, ReadIndex, ReadIndexReply, ReadRound};
use crate::types::{LogIndex, NodeId, Sender};

/// The last question of each follower that waits.
type Questions = BTreeMap<NodeId, (Sender, ReadRound)>;

/// The reads of one leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reads {
    running: Option<Round>,
    /// Whether reads wait for the round after that.
    next_is_wanted: bool,
    /// Who asked for it.
    questions: Questions,
}

/// A round that is being confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    number: ReadRound,
    /// The commit index at its beginning.
    index: LogIndex,
    questions: Questions,
}

/// What a follower has asked its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// The last question.
    round: ReadRound,
    /// Ticks since the first that has no answer.
    waited: u32,
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
                self.read_from_leader();
            }
        }
    }

    fn read_from_leader(&mut self) {
        let Some(leader) = self.leader else { return self.out.push(Output::ReadRefused) };
        self.round.0 += 1;
        let waited = self.asked.map_or(0, |asked| asked.waited);
        self.asked = Some(Asked { round: self.round, waited });
        self.out.push(Output::ReadQueued(self.round));
        self.send_question(leader);
    }

    fn send_question(&mut self, leader: NodeId) {
        if let Some(Asked { round, .. }) = self.asked {
            self.send(leader, Message::ReadIndex(ReadIndex { term: self.term(), round }));
        }
    }

    /// Asks again, for the question or the answer may be lost; but not for ever.
    pub(super) fn tick_asking(&mut self) {
        let (Some(asked), Some(leader)) = (&mut self.asked, self.leader) else { return };
        asked.waited += 1;
        if asked.waited >= self.options.election_ticks {
            self.asked = None;
            self.out.push(Output::ReadsLost);
        } else if asked.waited.is_multiple_of(self.options.heartbeat_ticks) {
            self.send_question(leader);
        }
    }

    pub(super) fn on_read_index(&mut self, from: &Sender, asked: ReadIndex) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        leader.reads.next_is_wanted = true;
        let question = leader.reads.questions.entry(from.node).or_default();
        // A question that was overtaken is served by the answer to the later one.
        let later = if question.0 == *from { question.1.max(asked.round) } else { asked.round };
        *question = (*from, later);
        self.confirm_reads();
    }

    pub(super) fn on_read_index_reply(&mut self, from: NodeId, reply: ReadIndexReply) {
        let Some(asked) = self.asked else { return };
        if self.leader != Some(from) || reply.asker != self.options.me || reply.round > asked.round
        {
            return;
        }
        if reply.round == asked.round {
            self.asked = None;
        } else {
            self.asked = Some(Asked { waited: 0, ..asked });
        }
        self.out.push(Output::ReadConfirmed { round: reply.round, index: reply.index });
        // The reader waits for this, and the next heartbeat may be far.
        self.commit_up_to(reply.index);
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
        let Some(Round { number: round, index, .. }) = leader.reads.running else { return };
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
        if confirmed && let Some(Round { questions, .. }) = leader.reads.running.take() {
            self.out.push(Output::ReadConfirmed { round, index });
            let term = self.term();
            for (node, (asker, round)) in questions {
                let reply = ReadIndexReply { term, asker, round, index };
                self.send(node, Message::ReadIndexReply(reply));
            }
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
        let questions = std::mem::take(&mut leader.reads.questions);
        leader.reads.running = Some(Round { number: self.round, index: self.committed, questions });
        leader.reads.next_is_wanted = false;
        for node in self.log.membership().nodes() {
            if node != self.options.me.node && self.log.membership().is_voter(node) {
                self.send_heartbeat(node);
            }
        }
        true
    }
}
