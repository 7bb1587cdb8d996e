//! What simulated disks hold for good: the side of every promise that nobody else can see.
//!
//! Everything here works on a copy of a disk as it would be after a power cut that loses all that was not
//! flushed, so looking changes nothing.

use std::path::Path;
use std::sync::Arc;

use super::SimDisk;
use super::witness::Broken;
use crate::membership::Membership;
use crate::message::{AppendOutcome, Envelope, Message};
use crate::types::{EntryId, LogIndex, NodeId, Term};
use crate::wal::{self, LogOptions, Recovered};

/// Where simulated nodes keep their data.
pub(super) const DIR: &str = "data";
/// The cluster's name in it.
const CLUSTER: &str = "";

/// Where the two slots of the vote file begin, and where in them term and vote stand.
const SLOTS: [usize; 2] = [0, 4096];
const HAS_VOTE_AT: usize = 20;
const TERM_AT: usize = 32;
const VOTE_AT: usize = 40;

/// Checks that what a message promises is on its sender's disk: the term, and the vote that it gives or
/// that a candidate gives itself, in both slots.
pub(super) fn check_term_and_vote(disk: &SimDisk, envelope: &Envelope) -> Result<(), Broken> {
    let from = envelope.from.node;
    let (term, vote) = match &envelope.message {
        // These promise nothing.
        Message::Vote(vote) if vote.pre => return Ok(()),
        Message::VoteReply(reply) if reply.pre => return Ok(()),
        Message::Forward(_) | Message::ReadIndex(_) => return Ok(()),
        Message::Vote(vote) => (vote.term, Some(from)),
        Message::VoteReply(reply) => (reply.term, reply.granted.then_some(envelope.to)),
        message => (message.term(), None),
    };
    let bytes = disk.durable_bytes(&Path::new(DIR).join("vote")).unwrap_or_default();
    for slot in SLOTS {
        let u64_at = |at: usize| {
            let field = bytes.get(slot + at..).and_then(|rest| rest.first_chunk());
            field.map_or(0, |field| u64::from_le_bytes(*field))
        };
        let has_vote = bytes.get(slot + HAS_VOTE_AT) == Some(&1);
        let stored = (Term(u64_at(TERM_AT)), has_vote.then_some(NodeId(u64_at(VOTE_AT))));
        let kept = stored.0 > term || stored.0 == term && (vote.is_none() || stored.1 == vote);
        if !kept {
            let said = &envelope.message;
            return Err(Broken::new(format!("node {from} says {said:?} with {stored:?} stored")));
        }
    }
    Ok(())
}

/// The last entry that a message says is on its sender's disk.
pub(super) fn acknowledged_by(message: &Message) -> Option<LogIndex> {
    match message {
        Message::AppendReply(reply) => match reply.outcome {
            AppendOutcome::Accepted { matched } => Some(matched),
            AppendOutcome::Rejected { .. } => None,
        },
        Message::HeartbeatReply(reply) => Some(reply.matched),
        Message::Vote(_)
        | Message::VoteReply(_)
        | Message::Append(_)
        | Message::Heartbeat(_)
        | Message::Forward(_)
        | Message::ForwardReply(_)
        | Message::ReadIndex(_)
        | Message::ReadIndexReply(_) => None,
    }
}

/// What the node would find on its disk if the power failed at this moment.
pub(super) fn recover(
    disk: &SimDisk,
    id: NodeId,
    members: &Membership,
    options: &LogOptions,
) -> Result<Recovered, Broken> {
    let copy = Arc::new(disk.durable_copy());
    copy.clear_faults();
    let opened = wal::open(copy, Path::new(DIR), id, CLUSTER, members, options);
    let opened = opened.map_err(|error| {
        Broken::new(format!("node {id} would not start after a power cut: {error}"))
    })?;
    Ok(opened.recovered)
}

/// Whether what was recovered holds this entry, or once held and applied it.
pub(super) fn holds(recovered: &Recovered, entry: EntryId) -> bool {
    let runs = recovered.entries.runs.iter().rev();
    let run = runs.into_iter().find(|run| run.first <= entry.index);
    entry.index <= recovered.base.index
        || run.is_some_and(|run| run.term == entry.term && entry.index <= recovered.entries.last)
}

/// The last index that was recovered.
pub(super) fn last(recovered: &Recovered) -> LogIndex {
    let entries = &recovered.entries;
    if entries.is_empty() { recovered.base.index } else { entries.last }
}
