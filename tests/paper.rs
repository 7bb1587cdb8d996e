//! The claims of the Raft paper (Ongaro and Ousterhout, 2014), §5.1 to §5.5 and §8, and of the thesis
//! (Ongaro, 2014) on pre-vote, check-quorum and reads: one test for each, in the words of the source.

#![allow(clippy::doc_markdown, reason = "quotations stay as they are")]
#![allow(clippy::wildcard_imports, reason = "the support module is the language of these tests")]

mod support;

#[path = "paper/clients.rs"]
mod clients;
#[path = "paper/disruption.rs"]
mod disruption;
#[path = "paper/election.rs"]
mod election;
#[path = "paper/replication.rs"]
mod replication;
#[path = "paper/safety.rs"]
mod safety;

use oarlock::consensus::Output;
use oarlock::message::Message;
use oarlock::{HardState, Role, Term};
use support::network::{Disk, Entry, Payload};
use support::*;

fn is_vote_reply(granted: bool) -> impl Fn(&Message) -> bool {
    move |message| matches!(message, Message::VoteReply(reply) if reply.granted == granted)
}

fn append_outcome(out: &[Output], to: u64) -> Message {
    let replies: Vec<Message> = sent_to(out, to)
        .into_iter()
        .filter(|message| matches!(message, Message::AppendReply(_)))
        .collect();
    assert_eq!(replies.len(), 1, "one answer to an append, in {out:?}");
    replies[0].clone()
}

/// A node that leads term 1 of three, its no-op at index 1 on its own disk.
fn leader() -> Quick {
    let mut node = Quick::of_three(1, 0, &[]);
    node.lead();
    assert_eq!((node.core.role(), node.core.term()), (Role::Leader, Term(1)));
    node
}

/// A disk of figure 7: these terms, the membership in the first entry.
fn seven(terms: &[u64]) -> Disk {
    let log = terms
        .iter()
        .zip(1..)
        .map(|(&term, index)| {
            let payload = match index {
                1 => Payload::Membership(voters(1..=7)),
                _ => Payload::Command(100 * term + index),
            };
            Entry { id: entry(term, index), payload }
        })
        .collect();
    let hard_state = HardState { term: Term(7), voted_for: None };
    Disk { hard_state, log, boots: 0 }
}
