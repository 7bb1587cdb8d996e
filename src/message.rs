//! What nodes say to each other, and the envelope it travels in.
//!
//! The consensus core reads and writes [`Message`]s, which never hold a payload: an [`Append`] names
//! the *shape* of its entries (which terms, which memberships), and the entries' bytes travel beside
//! it in the [`Envelope`] as the log's own records.

use serde::{Deserialize, Serialize};

use crate::membership::Membership;
use crate::slices::Slices;
use crate::types::{EntryId, LogIndex, NodeId, Sender, Term};

/// Numbers the rounds in which a leader confirms that it still leads; grows within a term, never
/// reused in it, and never chosen by a caller (a reused one lets an old round's late answers confirm a
/// deposed leader's read).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ReadRound(pub u64);

/// Part of the log with one term throughout: it begins at `first` and ends where the next run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TermRun {
    /// Index of the run's first entry.
    pub first: LogIndex,
    /// The term of all its entries.
    pub term: Term,
}

/// The shape of consecutive log entries: everything about them but their payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entries {
    /// Runs of equal term, ascending and without gaps; empty if there are no entries.
    pub runs: Vec<TermRun>,
    /// Index of the last entry; meaningless without runs.
    pub last: LogIndex,
    /// The entries among them that set a membership.
    pub memberships: Vec<(LogIndex, Membership)>,
}

impl Entries {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Index of the first entry, if there is one.
    pub fn first(&self) -> Option<LogIndex> {
        self.runs.first().map(|run| run.first)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.first().map_or(0, |first| self.last.0 + 1 - first.0)
    }

    /// Adds the entry after the last one.
    pub fn push(&mut self, id: EntryId) {
        if self.runs.last().is_none_or(|run| run.term != id.term) {
            self.runs.push(TermRun { first: id.index, term: id.term });
        }
        self.last = id.index;
    }
}

/// A leader's entries for a follower (`AppendEntries`, Raft §5.3). Heartbeats are [`Heartbeat`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// The entry right before the first one sent.
    pub prev: EntryId,
    /// The leader's commit index.
    pub committed: LogIndex,
    /// The shape of the entries. Not encoded: a receiver derives it from the records it has checked.
    #[serde(skip)]
    pub entries: Entries,
}

/// The answer to an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppendReply {
    /// The follower's term.
    pub term: Term,
    /// What became of it.
    pub outcome: AppendOutcome,
}

/// What a follower made of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// The follower's log equals the leader's up to `matched`, and that much of it is on its disk.
    Accepted {
        /// The last such index.
        matched: LogIndex,
    },
    /// The follower does not hold `prev`.
    Rejected {
        /// The index of the `prev` that was refused.
        prev: LogIndex,
        /// The last entry of the follower's log that could be shared with the leader's, judged by
        /// index and term: a hint that lets the leader skip whole terms (Raft §5.3, end).
        hint: EntryId,
    },
}

/// A leader's sign of life. Carries no log position: the follower's own knowledge of what it has
/// verified bounds the commit index it takes from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// The leader's commit index.
    pub committed: LogIndex,
    /// The latest round of reads that waits for confirmation.
    pub round: ReadRound,
    /// Every member's disk holds the log up to here: none will ask for these entries again.
    pub replicated: LogIndex,
}

/// The answer to a [`Heartbeat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The follower's term.
    pub term: Term,
    /// The heartbeat's round.
    pub round: ReadRound,
    /// As in [`AppendOutcome::Accepted`]: repeats an acknowledgement that may have been lost.
    pub matched: LogIndex,
    /// The follower's log has no room for a batch of entries, and has had none for a while.
    pub full: bool,
}

/// A candidate's request (`RequestVote`, Raft §5.2, §5.4.1), or the question whether it would be
/// granted (pre-vote, thesis §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vote {
    /// The term the candidate stands in; with `pre`, the one it would stand in.
    pub term: Term,
    /// The last entry of the candidate's log.
    pub last: EntryId,
    /// Only asking: nobody's term or vote changes.
    pub pre: bool,
    /// The current leader asked for this election: a voter does not defend it.
    pub transfer: bool,
}

/// The answer to a [`Vote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VoteReply {
    /// The voter's term; for a granted pre-vote, the term that was asked about.
    pub term: Term,
    /// Whether it votes for the candidate.
    pub granted: bool,
    /// Answers a pre-vote.
    pub pre: bool,
}

/// A follower's proposals for its leader. Their commands travel as records beside it, each with the tag
/// ([`Origin`](crate::record::Origin)) by which the follower will know it again; index and term are still
/// to be given.
///
/// Sent once and never again: silence leaves the outcome open until the log decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forward {
    /// The term whose leader may take them; nobody else may.
    pub term: Term,
    /// The sequence of the first; the others follow without a gap.
    pub sequence: u64,
    /// How many.
    pub count: u64,
}

/// The answer to a [`Forward`] that was taken: where in the leader's log its entries are. It promises
/// nothing about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ForwardReply {
    /// The leader's term, and that of the entries.
    pub term: Term,
    /// Who sent the proposals: an answer to another boot of that node means other proposals.
    pub asker: Sender,
    /// The sequence of the first.
    pub sequence: u64,
    /// The index of the first.
    pub first: LogIndex,
}

/// A follower's question how far its state must be for reads that wait there (`ReadIndex`, thesis §6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReadIndex {
    /// The term of the leader that is asked.
    pub term: Term,
    /// Numbers the questions of the follower's boot, ascending.
    pub round: ReadRound,
}

/// The answer to a [`ReadIndex`], after a quorum has confirmed the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReadIndexReply {
    /// The leader's term.
    pub term: Term,
    /// Who asked: an answer to another boot of that node must confirm no read of this one.
    pub asker: Sender,
    /// The question; the answer serves all before it as well.
    pub round: ReadRound,
    /// The leader's commit index when it began to confirm.
    pub index: LogIndex,
}

/// Everything the consensus core sends and receives. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Asks for a vote or a pre-vote.
    Vote(Vote),
    /// Answers it.
    VoteReply(VoteReply),
    /// Sends entries.
    Append(Append),
    /// Answers it.
    AppendReply(AppendReply),
    /// Says that the leader lives.
    Heartbeat(Heartbeat),
    /// Answers it.
    HeartbeatReply(HeartbeatReply),
    /// Hands proposals to the leader.
    Forward(Forward),
    /// Answers it.
    ForwardReply(ForwardReply),
    /// Asks the leader for a read index.
    ReadIndex(ReadIndex),
    /// Answers it.
    ReadIndexReply(ReadIndexReply),
}

impl Message {
    /// What kind of message it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Vote(m) if m.pre => "pre-vote",
            Self::Vote(_) => "vote",
            Self::VoteReply(m) if m.pre => "pre-vote-reply",
            Self::VoteReply(_) => "vote-reply",
            Self::Append(_) => "append",
            Self::AppendReply(_) => "append-reply",
            Self::Heartbeat(_) => "heartbeat",
            Self::HeartbeatReply(_) => "heartbeat-reply",
            Self::Forward(_) => "forward",
            Self::ForwardReply(_) => "forward-reply",
            Self::ReadIndex(_) => "read-index",
            Self::ReadIndexReply(_) => "read-index-reply",
        }
    }

    /// The term the message speaks of.
    pub fn term(&self) -> Term {
        match self {
            Self::Vote(m) => m.term,
            Self::VoteReply(m) => m.term,
            Self::Append(m) => m.term,
            Self::AppendReply(m) => m.term,
            Self::Heartbeat(m) => m.term,
            Self::HeartbeatReply(m) => m.term,
            Self::Forward(m) => m.term,
            Self::ForwardReply(m) => m.term,
            Self::ReadIndex(m) => m.term,
            Self::ReadIndexReply(m) => m.term,
        }
    }
}

/// A message on its way: who sends it to whom, and the records that go with it.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Who sends it.
    pub from: Sender,
    /// Whom it is for.
    pub to: NodeId,
    /// What is said.
    pub message: Message,
    /// The entries of an [`Append`] or a [`Forward`], as records (see [`crate::record`]); empty otherwise.
    pub records: Slices,
}
