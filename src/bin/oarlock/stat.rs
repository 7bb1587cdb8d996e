//! `oarlock log stat`: whose directory it is, and what is in it.

use std::path::Path;

use oarlock::message::TermRun;
use oarlock::wal::{Inspection, SegmentReport, SegmentUse};

use super::json::{Object, array};
use super::verify::{entries, show_damage, show_notes};
use super::{Failure, Output, Verdict, inspect};

/// So many terms are named in a text; JSON names all.
const MAX_TERMS: usize = 8;

pub(super) fn run(dir: &Path, out: &mut Output<'_>) -> Result<Verdict, Failure> {
    let inspection = match inspect(dir)? {
        Ok(inspection) => inspection,
        Err(damage) => {
            show_damage(&damage, out)?;
            return Ok(Verdict::Damaged);
        }
    };
    if out.json {
        show_as_json(&inspection, out)?;
    } else {
        show_as_text(&inspection, out)?;
    }
    show_notes(&inspection, out)?;
    for damage in &inspection.damage {
        show_damage(damage, out)?;
    }
    Ok(if inspection.damage.is_empty() { Verdict::Sound } else { Verdict::Damaged })
}

fn show_as_text(inspection: &Inspection, out: &mut Output<'_>) -> Result<(), Failure> {
    out.pair("node", &inspection.sender.node.to_string())?;
    out.pair("cluster", &format!("{:?}", inspection.cluster))?;
    out.pair("incarnation", &inspection.sender.incarnation.to_string())?;
    out.pair("boot", &inspection.sender.boot.to_string())?;
    let members = inspection.members.voters.iter();
    let members: Vec<_> =
        members.map(|(id, member)| format!("{id} {:?}", member.address)).collect();
    out.pair("members", &format!("{} at the first start", members.join(", ")))?;
    match inspection.hard_state {
        Some(state) => {
            let vote = state.voted_for.map_or("nobody".to_owned(), |node| format!("node {node}"));
            out.pair("vote", &format!("for {vote} in term {}", state.term))?;
        }
        None => out.pair("vote", "unknown")?,
    }
    out.pair("log", &entries(inspection))?;
    out.pair("terms", &terms(&inspection.terms))?;
    let durable = format!("up to index {}, {}", inspection.durable_index, inspection.durable);
    out.pair("durable", &durable)?;
    out.pair("end", &inspection.end.to_string())?;
    let bytes: u64 = inspection.segments.iter().map(|segment| segment.bytes).sum();
    out.pair("files", &format!("{}, {bytes} bytes", inspection.segments.len()))?;
    for segment in &inspection.segments {
        out.line(&format!("  {}", describe(segment)))?;
    }
    for (name, bytes) in &inspection.snapshots {
        out.pair("snapshot", &format!("{name}, {bytes} bytes"))?;
    }
    if inspection.snapshots.is_empty() {
        out.pair("snapshots", "none")?;
    }
    Ok(())
}

fn terms(runs: &[TermRun]) -> String {
    if runs.is_empty() {
        return "none".to_owned();
    }
    let left_out = runs.len().saturating_sub(MAX_TERMS);
    let shown = runs[left_out..].iter().map(|run| format!("{} from {}", run.term, run.first));
    let shown = shown.collect::<Vec<_>>().join(", ");
    if left_out == 0 { shown } else { format!("{left_out} earlier, {shown}") }
}

fn describe(segment: &SegmentReport) -> String {
    let mut parts = vec![format!("{} {}", name(segment), usage(segment.usage))];
    if segment.first.0 > 0 {
        parts.push(format!("{} to {}", segment.first, segment.last));
    }
    let used = if segment.end > 0 { format!("{} of ", segment.end) } else { String::new() };
    parts.push(format!("{used}{} bytes", segment.bytes));
    parts.extend(segment.boot.map(|boot| format!("boot {boot}")));
    parts.join(", ")
}

fn name(segment: &SegmentReport) -> String {
    segment.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn usage(usage: SegmentUse) -> &'static str {
    match usage {
        SegmentUse::Sealed => "sealed",
        SegmentUse::Open => "open",
        SegmentUse::Ready => "ready",
        SegmentUse::Released => "released",
        SegmentUse::Unfinished => "unfinished",
        // The list may grow with the library.
        _ => "unknown",
    }
}

fn show_as_json(inspection: &Inspection, out: &mut Output<'_>) -> Result<(), Failure> {
    let members = inspection.members.voters.iter().map(|(id, member)| {
        Object::inner().number("node", *id).text("address", &member.address).finish()
    });
    let identity = Object::new("identity")
        .number("node", inspection.sender.node)
        .text("cluster", &inspection.cluster)
        .text("incarnation", &inspection.sender.incarnation.to_string())
        .number("boot", inspection.sender.boot)
        .raw("members", &array(members));
    out.line(&identity.finish())?;
    if let Some(state) = inspection.hard_state {
        let vote = Object::new("vote").number("term", state.term);
        out.line(&vote.number_if_any("voted_for", state.voted_for).finish())?;
    }
    let bytes: u64 = inspection.segments.iter().map(|segment| segment.bytes).sum();
    let log = Object::new("log")
        .number("entries", inspection.last.index.0 - inspection.base.index.0)
        .number("base", inspection.base.index)
        .number("base_term", inspection.base.term)
        .number("last", inspection.last.index)
        .number("last_term", inspection.last.term)
        .number("durable_index", inspection.durable_index)
        .text("durable", &inspection.durable.to_string())
        .text("end", &inspection.end.to_string())
        .flag("covered", inspection.covered)
        .number("bytes", bytes);
    out.line(&log.finish())?;
    for run in &inspection.terms {
        let term = Object::new("term").number("term", run.term).number("first", run.first);
        out.line(&term.finish())?;
    }
    for segment in &inspection.segments {
        let object = Object::new("segment")
            .text("file", &name(segment))
            .text("usage", usage(segment.usage))
            .number("first", segment.first)
            .number("last", segment.last)
            .number("end", segment.end)
            .number("bytes", segment.bytes)
            .number_if_any("boot", segment.boot);
        out.line(&object.finish())?;
    }
    for (file, bytes) in &inspection.snapshots {
        let object = Object::new("snapshot").text("file", file).number("bytes", *bytes);
        out.line(&object.finish())?;
    }
    Ok(())
}
