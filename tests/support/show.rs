//! Inputs, outputs and messages in one short line each, for golden scripts and traces.

use std::collections::BTreeMap;

use oarlock::consensus::{Core, Input, NewEntries, Output};
use oarlock::message::{AppendOutcome, Entries, Message};
use oarlock::{Member, Membership, NodeId};

pub fn node(node: Option<NodeId>) -> String {
    node.map_or_else(|| "-".to_owned(), |node| node.to_string())
}

pub fn entries(entries: &Entries) -> String {
    if entries.is_empty() {
        return "none".to_owned();
    }
    let runs: Vec<String> =
        entries.runs.iter().map(|run| format!("{}.{}", run.term, run.first)).collect();
    format!("{}..{}", runs.join(" "), entries.last)
}

pub fn membership(membership: &Membership) -> String {
    let part = |name: &str, nodes: &BTreeMap<NodeId, Member>| {
        let nodes: Vec<String> = nodes.keys().map(NodeId::to_string).collect();
        (!nodes.is_empty()).then(|| format!("{name}={}", nodes.join(",")))
    };
    let parts = [
        part("voters", &membership.voters),
        part("outgoing", &membership.outgoing),
        part("learners", &membership.learners),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

pub fn message(message: &Message) -> String {
    match message {
        Message::Vote(m) => {
            let kind = if m.pre { "pre-vote" } else { "vote" };
            let transfer = if m.transfer { " transfer" } else { "" };
            format!("{kind} term={} last={}{transfer}", m.term, m.last)
        }
        Message::VoteReply(m) => {
            let kind = if m.pre { "pre-vote" } else { "vote" };
            format!("{kind}-reply term={} {}", m.term, if m.granted { "yes" } else { "no" })
        }
        Message::Append(m) => format!(
            "append term={} prev={} entries={} committed={}",
            m.term,
            m.prev,
            entries(&m.entries),
            m.committed
        ),
        Message::AppendReply(m) => match m.outcome {
            AppendOutcome::Accepted { matched } => {
                format!("append-reply term={} accepted matched={matched}", m.term)
            }
            AppendOutcome::Rejected { prev, hint } => {
                format!("append-reply term={} rejected prev={prev} hint={hint}", m.term)
            }
        },
        Message::Heartbeat(m) => format!(
            "heartbeat term={} committed={} round={} replicated={}",
            m.term, m.committed, m.round.0, m.replicated
        ),
        Message::HeartbeatReply(m) => {
            let full = if m.full { " full" } else { "" };
            format!(
                "heartbeat-reply term={} round={} matched={}{full}",
                m.term, m.round.0, m.matched
            )
        }
        Message::Forward(m) => {
            format!("forward term={} sequence={} count={}", m.term, m.sequence, m.count)
        }
        Message::ForwardReply(m) => {
            format!("forward-reply term={} sequence={} first={}", m.term, m.sequence, m.first)
        }
        Message::ReadIndex(m) => format!("read-index term={} round={}", m.term, m.round.0),
        Message::ReadIndexReply(m) => {
            format!("read-index-reply term={} round={} index={}", m.term, m.round.0, m.index)
        }
    }
}

pub fn input(input: &Input) -> String {
    match input {
        Input::Tick => "tick".to_owned(),
        Input::Message { from, message: m } => format!("from {}: {}", from.node, message(m)),
        Input::Propose { count } => format!("propose {count}"),
        Input::Read => "read".to_owned(),
        Input::Campaign => "campaign".to_owned(),
        Input::Sent { to, last, bytes } => format!("sent to {to} up to {last}, {bytes} bytes"),
        Input::Dropped { to } => format!("dropped to {to}"),
        Input::Persisted { generation, index } => {
            format!("persisted up to {index}, generation {}", generation.0)
        }
        Input::HardStatePersisted(state) => {
            format!("persisted term={} vote={}", state.term, node(state.voted_for))
        }
        Input::Fit(fit) => format!("fit {}", if *fit { "yes" } else { "no" }),
        Input::Full(full) => format!("full {}", if *full { "yes" } else { "no" }),
    }
}

pub fn output(output: &Output) -> String {
    match output {
        Output::Append { first, count, entries } => {
            let what = match entries {
                NewEntries::Noop => "no-op".to_owned(),
                NewEntries::Commands => format!("{count} commands"),
                NewEntries::Membership(m) => membership(m),
                NewEntries::Forwarded => format!("{count} forwarded commands"),
            };
            format!("append {first}: {what}")
        }
        Output::Truncate { from, generation } => {
            format!("truncate from {from}, generation {}", generation.0)
        }
        Output::Store { first, last } => format!("store {first}..{last}"),
        Output::PersistHardState(state) => {
            format!("persist term={} vote={}", state.term, node(state.voted_for))
        }
        Output::Send { to, message: m } => format!("to {to}: {}", message(m)),
        Output::SendAppend { to, append, max_bytes } => format!(
            "order to {to}: append term={} prev={} committed={}, at most {max_bytes} bytes",
            append.term, append.prev, append.committed
        ),
        Output::Committed(index) => format!("committed {index}"),
        Output::RoleChanged { role, term, leader } => {
            format!("{role} term={term} leader={}", node(*leader))
        }
        Output::ProposeRefused => "propose refused".to_owned(),
        Output::ForwardPlaced { sequence, first } => format!("forward {sequence} is {first}"),
        Output::ReadQueued(round) => format!("read queued for round {}", round.0),
        Output::ReadRefused => "read refused".to_owned(),
        Output::ReadConfirmed { round, index } => {
            format!("read round {} confirmed at {index}", round.0)
        }
        Output::ReadsLost => "reads lost".to_owned(),
    }
}

/// All that a golden script wants to know of a core.
pub fn state(core: &Core) -> Vec<String> {
    let hard_state = core.hard_state();
    let mut lines = vec![
        format!(
            "{} term={} vote={} leader={}",
            core.role(),
            hard_state.term,
            node(hard_state.voted_for),
            node(core.leader())
        ),
        format!(
            "log={} verified={} persisted={} committed={} replicated={} generation={}",
            entries(&core.shape(core.base().index, core.last().index)),
            core.verified(),
            core.persisted(),
            core.committed(),
            core.replicated(),
            core.generation().0
        ),
        membership(core.membership()),
    ];
    for (node, progress) in core.progress() {
        lines.push(format!(
            "of {node}: {:?} matched={} next={} in flight={}",
            progress.mode(),
            progress.matched(),
            progress.next(),
            progress.inflights().len()
        ));
    }
    lines
}
