//! What happened in a world, as one number and, if wanted, as text.
//!
//! Two runs have the same number only if everything in them was the same. The text is made only while
//! somebody wants it: it costs more than the run.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::workload::mix;
use crate::clock::Time;
use crate::message::{AppendOutcome, Message};

/// What tells messages of a kind and a term apart, besides their entries.
pub(super) fn words(message: &Message) -> [u64; 2] {
    match message {
        Message::Append(append) => [append.prev.index.0, append.committed.0],
        Message::AppendReply(reply) => match reply.outcome {
            AppendOutcome::Accepted { matched } => [1, matched.0],
            AppendOutcome::Rejected { prev, hint } => [prev.0 << 1, hint.index.0],
        },
        Message::Heartbeat(heartbeat) => [heartbeat.committed.0, heartbeat.round.0],
        Message::HeartbeatReply(reply) => [reply.matched.0, reply.round.0],
        Message::Vote(vote) => [vote.last.index.0, u64::from(vote.pre)],
        Message::VoteReply(reply) => [u64::from(reply.granted), u64::from(reply.pre)],
        Message::Forward(forward) => [forward.sequence, forward.count],
        Message::ForwardReply(reply) => [reply.sequence, reply.first.0],
        Message::ReadIndex(question) => [question.round.0, 0],
        Message::ReadIndexReply(reply) => [reply.round.0, reply.index.0],
    }
}

/// The trace of one run.
#[derive(Debug, Default)]
pub(super) struct Trace {
    number: u64,
    /// The last lines, at most so many.
    lines: Option<(VecDeque<String>, usize)>,
}

impl Trace {
    /// A trace that keeps the last `keep` lines of text.
    pub(super) fn keeping(keep: Option<usize>) -> Self {
        Self { number: 0, lines: keep.map(|keep| (VecDeque::new(), keep)) }
    }

    /// The number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// These numbers count, and are not told in text.
    pub(super) fn fold<const N: usize>(&mut self, words: [u64; N]) {
        self.number = words.into_iter().fold(self.number, mix);
    }

    /// Something happened that is told by these words, and in text.
    pub(super) fn note<const N: usize>(
        &mut self,
        now: Time,
        words: [u64; N],
        text: impl FnOnce() -> String,
    ) {
        self.number = words.into_iter().fold(mix(self.number, now.0), mix);
        if let Some((lines, keep)) = &mut self.lines {
            if lines.len() == *keep {
                lines.pop_front();
            }
            let (seconds, rest) = (now.0 / 1_000_000_000, now.0 / 1000 % 1_000_000);
            lines.push_back(format!("{seconds}.{rest:06} {}", text()));
        }
    }

    /// The lines that were kept, one below the other.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for line in self.lines.iter().flat_map(|(lines, _)| lines) {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "trace {:016x}", self.number);
        text
    }
}
