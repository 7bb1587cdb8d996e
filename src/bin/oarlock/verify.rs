//! `oarlock log verify`: could a node start on this directory? If not, where is the damage?

use std::path::Path;

use oarlock::error::{StorageError, StorageErrorKind};
use oarlock::wal::{Inspection, SegmentUse};

use super::json::Object;
use super::{Failure, Output, Verdict, inspect};

pub(super) fn run(dir: &Path, out: &mut Output<'_>) -> Result<Verdict, Failure> {
    let inspection = match inspect(dir)? {
        Ok(inspection) => inspection,
        Err(damage) => {
            show_damage(&damage, out)?;
            return verdict(None, out);
        }
    };
    for damage in &inspection.damage {
        show_damage(damage, out)?;
    }
    show_notes(&inspection, out)?;
    verdict(Some(&inspection), out)
}

fn verdict(inspection: Option<&Inspection>, out: &mut Output<'_>) -> Result<Verdict, Failure> {
    let sound = inspection.is_some_and(|inspection| inspection.damage.is_empty());
    if out.json {
        let mut object = Object::new("verdict").flag("sound", sound);
        if let Some(inspection) = inspection {
            object = object
                .number("entries", inspection.last.index.0 - inspection.base.index.0)
                .number("last", inspection.last.index)
                .number("durable_index", inspection.durable_index)
                .flag("covered", inspection.covered);
        }
        out.line(&object.finish())?;
    } else if let Some(inspection) = inspection.filter(|_| sound) {
        let holds = [SegmentUse::Sealed, SegmentUse::Open];
        let count = inspection.segments.iter().filter(|part| holds.contains(&part.usage)).count();
        out.pair("sound", &format!("{}, in {count} segments", entries(inspection)))?;
    }
    Ok(if sound { Verdict::Sound } else { Verdict::Damaged })
}

/// Which entries there are, in words.
pub(super) fn entries(inspection: &Inspection) -> String {
    let (first, last) = (inspection.base.index.next(), inspection.last.index);
    if last < first {
        return format!("no entries after {}", inspection.base);
    }
    format!("{} entries, {first} to {last}", last.0 - inspection.base.index.0)
}

/// What is not as it should be, and no damage.
pub(super) fn show_notes(inspection: &Inspection, out: &mut Output<'_>) -> Result<(), Failure> {
    if let Some(torn) = &inspection.torn {
        let (path, expected) = (torn.path.display().to_string(), &torn.expected);
        if out.json {
            let object = Object::new("torn").text("file", &path).number("offset", torn.offset);
            out.line(&object.text("expected", expected).finish())?;
        } else {
            let what = "a torn tail, which a start drops, or a flush under way";
            out.pair("note", &format!("{path} at byte {}: {what}: no {expected}", torn.offset))?;
        }
    }
    let uncovered = (!inspection.covered && inspection.damage.is_empty()).then(|| {
        let durable = inspection.durable_index;
        format!("no mark says yet that what follows index {durable} is durable")
    });
    for note in inspection.notes.iter().chain(&uncovered) {
        if out.json {
            out.line(&Object::new("note").text("text", note).finish())?;
        } else {
            out.pair("note", note)?;
        }
    }
    Ok(())
}

pub(super) fn show_damage(damage: &StorageError, out: &mut Output<'_>) -> Result<(), Failure> {
    if !out.json {
        let text = damage.to_string();
        return out.pair("damaged", &text.replacen("damaged: ", "", 1));
    }
    let expected = match &damage.kind {
        StorageErrorKind::Damaged { expected } => expected.clone(),
        other => format!("{other:?}"),
    };
    let object = Object::new("damage")
        .text("file", &damage.path.display().to_string())
        .number_if_any("offset", damage.offset)
        .number_if_any("index", damage.index)
        .text("expected", &expected);
    out.line(&object.finish())
}
