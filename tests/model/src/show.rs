//! A counterexample as a story: what happened, and how the nodes stood in the end.

use std::fmt::Write as _;

use oarlock::NodeId;

use crate::rules::Rule;
use crate::state::{Entry, Node, State};
use crate::step::Action;

#[path = "../../support/show.rs"]
#[expect(dead_code, unreachable_pub, reason = "the golden scripts use the rest of it")]
mod support;

fn action(action: Action, state: &State) -> String {
    let id = |at: usize| state.nodes[at].id();
    let packet = |place: usize| {
        let packet = &state.packets[place];
        (packet.to, format!("from {}: {}", packet.from.node, support::message(&packet.message)))
    };
    match action {
        Action::Campaign(at) => format!("{} campaigns", id(at)),
        Action::LosePatience(at) => format!("{} has not heard its leader for a timeout", id(at)),
        Action::Tick(at) => format!("{}'s clock ticks", id(at)),
        Action::Propose(at) => format!("{} is given a command", id(at)),
        Action::Forward(at) => format!("{} forwards a proposal", id(at)),
        Action::Read(at) => format!("{} is asked to read", id(at)),
        Action::Fill(at) => format!("{}'s disk is full, or has room again", id(at)),
        Action::Drop(at, to) => format!("{} is told that something to {to} was lost", id(at)),
        Action::FlushHardState(at) => format!("{}'s disk stores term and vote", id(at)),
        Action::FlushLog(at, count) => {
            format!("{}'s disk stores {count} changes of the log", id(at))
        }
        Action::Restart { node, writes, hard_state } => format!(
            "{} restarts; of what was pending its disk has {writes} changes of the log and {}",
            id(node),
            if hard_state == 0 { "no state".to_owned() } else { format!("state {hard_state}") },
        ),
        Action::Deliver(place) => {
            let (to, packet) = packet(place);
            format!("{to} < {packet}")
        }
        Action::Repeat(place) => {
            let (to, packet) = packet(place);
            format!("{to} < {packet} (and will again)")
        }
    }
}

fn entries(entries: &[Entry]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|entry| format!("{} by {}{}", entry.id, entry.by.0, sets(entry)))
        .collect();
    format!("[{}]", entries.join(", "))
}

fn sets(entry: &Entry) -> String {
    entry.sets.map_or_else(String::new, |stage| format!(" sets {stage:?}"))
}

fn node(node: &Node) -> String {
    let core = &node.core;
    let hard_state = core.hard_state();
    format!(
        "{}: {} term={} vote={} committed={} log={} disk={}",
        node.id(),
        core.role(),
        hard_state.term,
        support::node(hard_state.voted_for),
        node.committed,
        entries(&node.log),
        entries(&node.disk.log)
    )
}

pub(crate) fn story(path: &[(State, Option<Action>)]) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "    {line}").expect("a string takes all");
    for (number, (state, taken)) in path.iter().enumerate() {
        if let Some(taken) = taken {
            line(format!("{:>3}. {}", number + 1, action(*taken, state)));
        }
    }
    if let Some((last, _)) = path.last() {
        last.nodes.iter().for_each(|last| line(node(last)));
        line(format!("committed: {}", entries(&last.onlooker.committed)));
        let leaders =
            last.onlooker.leaders.iter().map(|leader: &Option<NodeId>| support::node(*leader));
        line(format!(
            "leaders of terms 1 to {}: {}",
            last.onlooker.leaders.len(),
            leaders.collect::<Vec<_>>().join(", ")
        ));
        for rule in Rule::ALL.into_iter().filter(|rule| last.broken.has(*rule)) {
            line(format!("broken: {}", rule.says()));
        }
    }
    text
}
