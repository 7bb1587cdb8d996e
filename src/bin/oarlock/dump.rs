//! `oarlock log dump`: the entries, one on a line.

use std::path::Path;

use oarlock::error::StorageError;
use oarlock::record::{EntryKind, Record, Records};
use oarlock::wal::Inspection;
use oarlock::{LogIndex, Membership, NodeId};

use super::json::{Object, array, hex};
use super::verify::show_damage;
use super::{Failure, Output, Verdict, complain, inspect};

/// How much is read at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// A text shows so much of a payload; JSON shows all.
const MAX_SHOWN: usize = 64;

pub(super) fn run(
    dir: &Path,
    from: LogIndex,
    to: LogIndex,
    out: &mut Output<'_>,
) -> Result<Verdict, Failure> {
    let mut inspection = match inspect(dir)? {
        Ok(inspection) => inspection,
        Err(damage) => {
            show_damage(&damage, out)?;
            return Ok(Verdict::Damaged);
        }
    };
    // Later entries, of a node that runs, are left out, or it would never end.
    let to = to.min(inspection.last.index);
    let mut prev = from.prev().max(inspection.base.index);
    let mut failed: Option<String> = None;
    loop {
        if prev < inspection.base.index {
            let gone = format!("{} to {}", prev.next(), inspection.base.index);
            complain(&format!("the node let go of {gone} meanwhile"));
            prev = inspection.base.index;
        }
        if prev >= to.min(inspection.last.index) {
            break;
        }
        match show(&inspection, prev, to, out)? {
            Ok(last) => {
                prev = last;
                failed = None;
            }
            Err(error) => {
                // A node that runs has moved on, and this look is out of date; or it cannot be read.
                let text = error.to_string();
                if failed.as_ref() == Some(&text) {
                    return Err(error.into());
                }
                failed = Some(text);
                if let Ok(again) = inspect(dir)? {
                    inspection = again;
                }
            }
        }
    }
    for damage in &inspection.damage {
        show_damage(damage, out)?;
    }
    Ok(if inspection.damage.is_empty() { Verdict::Sound } else { Verdict::Damaged })
}

/// Shows some entries after `prev`, and returns the last of them.
fn show(
    inspection: &Inspection,
    prev: LogIndex,
    to: LogIndex,
    out: &mut Output<'_>,
) -> Result<Result<LogIndex, StorageError>, Failure> {
    let (slices, last) = match inspection.read(prev, CHUNK_BYTES) {
        Ok(read) => read,
        Err(error) => return Ok(Err(error)),
    };
    for record in Records::trusted(&slices) {
        let record = record.expect("records that were checked when they were read");
        if record.header.id.index > to {
            break;
        }
        let line = if out.json { as_json(&record) } else { as_text(&record) };
        out.line(&line)?;
    }
    Ok(Ok(last))
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Noop => "noop",
        EntryKind::Command => "command",
        EntryKind::Membership => "membership",
    }
}

fn as_text(record: &Record<'_>) -> String {
    let (header, payload) = (&record.header, record.payload);
    let origin = header.origin.map_or("-".to_owned(), |origin| {
        format!("{}.{}.{}", origin.incarnation, origin.boot, origin.sequence)
    });
    let shown = &payload[..payload.len().min(MAX_SHOWN)];
    let rest = if shown.len() < payload.len() { "..." } else { "" };
    let members = match membership(record) {
        Some(membership) => {
            let list = |part: Vec<NodeId>| {
                part.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            };
            let [voters, outgoing, learners] = parts(&membership).map(list);
            format!(" voters={voters} outgoing={outgoing} learners={learners}")
        }
        None => String::new(),
    };
    format!(
        "{} term={} kind={} time={} origin={origin} length={} payload=\"{}\"{rest}{members}",
        header.id.index,
        header.id.term,
        kind(header.kind),
        header.time,
        payload.len(),
        shown.escape_ascii()
    )
}

fn as_json(record: &Record<'_>) -> String {
    let header = &record.header;
    let object = Object::new("entry")
        .number("index", header.id.index)
        .number("term", header.id.term)
        .text("kind", kind(header.kind))
        .number("time", header.time);
    let object = match header.origin {
        Some(origin) => object.raw(
            "origin",
            &Object::inner()
                .text("incarnation", &origin.incarnation.to_string())
                .number("boot", origin.boot)
                .number("sequence", origin.sequence)
                .finish(),
        ),
        None => object.raw("origin", "null"),
    };
    let length = record.payload.len() as u64;
    let mut object = object.number("length", length).text("payload", &hex(record.payload));
    if let Some(membership) = membership(record) {
        for (name, part) in ["voters", "outgoing", "learners"].into_iter().zip(parts(&membership)) {
            object = object.raw(name, &array(part.iter().map(ToString::to_string)));
        }
    }
    object.finish()
}

/// What an entry that sets the membership sets it to.
fn membership(record: &Record<'_>) -> Option<Membership> {
    match record.header.kind {
        EntryKind::Membership => Membership::from_payload(record.payload).ok(),
        EntryKind::Noop | EntryKind::Command => None,
    }
}

/// Voters, outgoing voters, learners.
fn parts(membership: &Membership) -> [Vec<NodeId>; 3] {
    [&membership.voters, &membership.outgoing, &membership.learners]
        .map(|part| part.keys().copied().collect())
}
