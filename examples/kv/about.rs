//! What a node says of itself: `INFO`, `RAFT STATUS` and `RAFT LEADER`.

use std::fmt::{Display, Write};

use oarlock::transport::Direction;
use oarlock::{EntryId, Node, Role, Status};

use crate::commands::{self, Question};
use crate::places::Places;
use crate::replies::Replies;
use crate::resp;
use crate::store::Store;

/// The version of Redis whose ways clients may expect.
const REDIS_VERSION: &str = "6.2.0";

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) id: u64,
}

pub(crate) fn answer(
    question: Question,
    asker: Asker,
    node: &Node<Store>,
    places: &Places,
    replies: &mut Replies,
) {
    let out = replies.short();
    match question {
        Question::Info => resp::bulk(out, info(&node.status(), places).as_bytes()),
        Question::Status => resp::bulk(out, json(&node.status()).as_bytes()),
        Question::Leader => match node.status().leader {
            Some(leader) => resp::integer(out, leader),
            None => resp::nil(out),
        },
        Question::ClientId => resp::integer(out, asker.id),
        Question::Clients => {
            let mut list = Vec::new();
            resp::bulk(&mut list, places.list().as_bytes());
            replies.ready(&list);
        }
        Question::Commands => commands::describe_all(out),
        Question::CommandNames => commands::name_all(out),
    }
}

/// In the form that programs which look at Redis servers know.
fn info(status: &Status, places: &Places) -> String {
    let role = if status.role == Role::Leader { "master" } else { "slave" };
    let leader = status.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    format!(
        "# Server\r\n\
         redis_version:{REDIS_VERSION}\r\n\
         redis_mode:standalone\r\n\
         oarlock_version:{}\r\n\
         process_id:{}\r\n\
         \r\n\
         # Clients\r\n\
         connected_clients:{}\r\n\
         \r\n\
         # Persistence\r\n\
         loading:0\r\n\
         \r\n\
         # Stats\r\n\
         total_connections_received:{}\r\n\
         rejected_connections:{}\r\n\
         pushed_out_connections:{}\r\n\
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
        places.count(),
        places.come(),
        places.rejected(),
        places.pushed_out(),
        status.id,
        status.role,
        status.term,
        status.committed,
        status.applied,
    )
}

/// The whole status on one line.
pub(crate) fn json(status: &Status) -> String {
    let peers = status.peers.iter().map(|peer| {
        Object::new()
            .value("id", Some(peer.id))
            .value("matched", Some(peer.matched))
            .value("next", Some(peer.next))
            .text("mode", Some(format!("{:?}", peer.mode).to_lowercase()))
            .end()
    });
    let links = status.links.iter().map(|link| {
        Object::new()
            .value("id", Some(link.id))
            .text("address", Some(&link.address))
            .value("outgoing", Some(direction(&link.outgoing)))
            .value("incoming", Some(direction(&link.incoming)))
            .value("dropped_messages", Some(link.dropped_messages))
            .value("round_trip_us", link.round_trip.map(|time| time.as_micros()))
            .end()
    });
    let listener = status.listener.as_ref().map(|listener| {
        Object::new()
            .text("address", Some(listener.address))
            .value("accepted", Some(listener.accepted))
            .value("turned_away", Some(listener.turned_away))
            .text("last_error", listener.last_error.as_ref())
            .end()
    });
    Object::new()
        .value("id", Some(status.id))
        .text("incarnation", Some(status.incarnation))
        .value("boot", Some(status.boot))
        .text("role", Some(status.role))
        .value("term", Some(status.term))
        .value("leader", status.leader)
        .value("first", Some(status.first))
        .value("last", Some(entry(status.last)))
        .value("log_segments", Some(status.log_segments))
        .value("log_bytes", Some(status.log_bytes))
        .value("persisted", Some(status.persisted))
        .value("committed", Some(status.committed))
        .value("applied", Some(status.applied))
        .value("pending", Some(status.pending))
        .value("dropped_messages", Some(status.dropped_messages))
        .value("refused_messages", Some(status.refused_messages))
        .value("stuck", Some(status.stuck))
        .value("peers", Some(array(peers)))
        .value("links", Some(array(links)))
        .value("listener", listener)
        .text("stopped", status.stopped.as_ref())
        .end()
}

fn entry(entry: EntryId) -> String {
    Object::new().value("term", Some(entry.term)).value("index", Some(entry.index)).end()
}

fn direction(direction: &Direction) -> String {
    Object::new()
        .value("connected", Some(direction.connected))
        .value("connections", Some(direction.connections))
        .value("messages", Some(direction.messages))
        .value("bytes", Some(direction.bytes))
        .text("last_error", direction.last_error.as_ref())
        .end()
}

fn array(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

/// A JSON object under way.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self(String::new())
    }

    /// A value that shows itself as JSON does: a number, a truth value, JSON.
    fn value(mut self, name: &str, value: Option<impl Display>) -> Self {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        let written = match value {
            Some(value) => write!(self.0, "\"{name}\":{value}"),
            None => write!(self.0, "\"{name}\":null"),
        };
        written.expect("a string takes what it is given");
        self
    }

    fn text(self, name: &str, value: Option<impl Display>) -> Self {
        self.value(name, value.map(|value| quoted(&value.to_string())))
    }

    fn end(self) -> String {
        self.0 + "}"
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            _ if char.is_control() => {
                let code = u32::from(char);
                write!(quoted, "\\u{code:04x}").expect("a string takes what it is given");
            }
            _ => quoted.push(char),
        }
    }
    quoted + "\""
}
