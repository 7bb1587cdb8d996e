//! What a node says of itself: `INFO`, `RAFT STATUS` and `RAFT LEADER`.

use std::fmt::Write;

use oarlock::{Node, Role, Status};

use crate::commands::Question;
use crate::resp;
use crate::store::Store;

pub(crate) fn answer(question: Question, node: &Node<Store>, out: &mut Vec<u8>) {
    let status = node.status();
    match question {
        Question::Info => resp::bulk(out, info(&status).as_bytes()),
        Question::Status => resp::bulk(out, json(&status).as_bytes()),
        Question::Leader => match status.leader {
            Some(leader) => resp::integer(out, leader),
            None => resp::nil(out),
        },
    }
}

/// In the form that programs which look at Redis servers know.
fn info(status: &Status) -> String {
    let role = if status.role == Role::Leader { "master" } else { "slave" };
    let leader = status.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    format!(
        "# Server\r\n\
         oarlock_version:{}\r\n\
         process_id:{}\r\n\
         \r\n\
         # Replication\r\n\
         role:{role}\r\n\
         raft_id:{}\r\n\
         raft_role:{}\r\n\
         raft_term:{}\r\n\
         raft_leader:{leader}\r\n\
         raft_committed:{}\r\n\
         raft_applied:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        status.id,
        status.role,
        status.term,
        status.committed,
        status.applied,
    )
}

/// The whole status on one line.
fn json(status: &Status) -> String {
    let mut json = String::from("{");
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        let comma = if json.len() > 1 { "," } else { "" };
        write!(json, "{comma}\"{name}\":{value}").expect("a string takes what it is given");
    };
    let leader = status.leader.map_or_else(|| "null".to_owned(), |leader| leader.to_string());
    let stopped = status.stopped.as_ref().map_or_else(|| "null".to_owned(), quoted);
    let peers: Vec<String> = status
        .peers
        .iter()
        .map(|peer| {
            let mode = quoted(&format!("{:?}", peer.mode).to_lowercase());
            let (id, matched, next) = (peer.id, peer.matched, peer.next);
            format!("{{\"id\":{id},\"matched\":{matched},\"next\":{next},\"mode\":{mode}}}")
        })
        .collect();
    field("id", &status.id);
    field("incarnation", &quoted(&status.incarnation));
    field("boot", &status.boot);
    field("role", &quoted(&status.role));
    field("term", &status.term);
    field("leader", &leader);
    field("first", &status.first);
    field("last", &quoted(&status.last));
    field("persisted", &status.persisted);
    field("committed", &status.committed);
    field("applied", &status.applied);
    field("pending", &status.pending);
    field("dropped_messages", &status.dropped_messages);
    field("refused_messages", &status.refused_messages);
    field("stuck", &status.stuck);
    field("stopped", &stopped);
    field("peers", &format_args!("[{}]", peers.join(",")));
    json + "}"
}

/// A JSON string.
fn quoted(text: &(impl std::fmt::Display + ?Sized)) -> String {
    let mut quoted = String::from("\"");
    for char in text.to_string().chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            _ if char.is_control() => {
                write!(quoted, "\\u{:04x}", u32::from(char))
                    .expect("a string takes what it is given");
            }
            _ => quoted.push(char),
        }
    }
    quoted + "\""
}
