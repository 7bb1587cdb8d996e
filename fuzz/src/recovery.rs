//! A directory of which any file was tampered with, and a start on it.
//!
//! What is left is an error, and then nothing has been written, or a log whose entries were once in it, one
//! after the other; all of them, if no more than one byte has changed. With checksums that were made to fit
//! anything may be in the log, and it still has to be one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use oarlock::EntryId;
use oarlock::simulation::SimDisk;
use oarlock::storage::Storage;

use crate::bytes::Bytes;

#[path = "../../tests/wal_rig/mod.rs"]
mod wal_rig;

use wal_rig::{DIR, Rig};

/// An entry, as the log gives it.
type Entry = (EntryId, Vec<u8>);

/// A directory, and what was ever in its log.
struct Original {
    disk: SimDisk,
    files: Vec<PathBuf>,
    /// What the log holds in the end, all of it known to be durable.
    last: Vec<Entry>,
    entries: Vec<Entry>,
}

/// Three segments, a truncation, and a restart; with entries of all sizes.
fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let mut rig = Rig::new();
        let mut entries = Vec::new();
        for payload in [0, 1, 100, 3000] {
            rig.append(1, &vec![payload as u8; payload]);
            rig.commit();
        }
        rig.roll(1);
        entries.extend(rig.entries());
        let cut = rig.log_ref().last().index;
        rig.truncate_from(cut.0);
        rig.append(2, b"instead");
        rig.commit();
        rig.cover();
        let mut rig = rig.restart();
        rig.roll(2);
        for _ in 0..3 {
            rig.append(3, b"the last ones");
        }
        rig.commit();
        rig.cover();
        let last = rig.entries();
        entries.extend(last.clone());
        let dir = Path::new(DIR);
        let mut files: Vec<PathBuf> =
            rig.files().iter().map(|name| dir.join("log").join(name)).collect();
        files.extend(["identity", "vote"].map(|name| dir.join(name)));
        let disk = SimDisk::clone(&rig.kill());
        Original { disk, files, last, entries }
    })
}

/// Changes the files as `data` says, and starts.
///
/// # Panics
/// If the start does, or if a log comes out that never was.
pub fn run(data: &[u8]) {
    let original = original();
    let mut bytes = Bytes::new(data);
    let disk = Arc::new(original.disk.clone());
    let is_forged = bytes.flag();
    let mut changed = 0;
    for _ in 0..16 {
        if bytes.are_empty() {
            break;
        }
        changed += tamper(&disk, &original.files, is_forged, &mut bytes);
    }
    let before = contents(&disk, &original.files);
    match Rig::try_on(Arc::clone(&disk)) {
        Ok(rig) => {
            let entries = check(&rig, original, is_forged);
            assert!(changed > 1 || entries == original.last, "one byte, and entries are gone");
        }
        Err(_) => assert!(
            contents(&disk, &original.files) == before,
            "a start that failed has written something"
        ),
    }
}

fn contents(disk: &SimDisk, files: &[PathBuf]) -> Vec<Option<Vec<u8>>> {
    files.iter().map(|file| disk.live_bytes(file)).collect()
}

/// The entries of the log, which is sound.
fn check(rig: &Rig, original: &Original, is_forged: bool) -> Vec<Entry> {
    let base = rig.log_ref().base();
    let entries = match wal_rig::try_read_all(rig.log_ref()) {
        Ok(entries) => entries,
        Err(error) => panic!("opened, and then not readable: {error}"),
    };
    let mut before = base;
    for entry in &entries {
        assert_eq!(entry.0.index, before.index.next(), "a gap after {before}");
        assert!(entry.0.term >= before.term, "{} after {before}", entry.0);
        assert!(is_forged || original.entries.contains(entry), "{} was never written", entry.0);
        before = entry.0;
    }
    assert_eq!(before, rig.log_ref().last(), "the log ends elsewhere than it says");
    entries
}

/// Returns how many bytes have changed, at most; many if that cannot be said.
fn tamper(disk: &SimDisk, files: &[PathBuf], is_forged: bool, bytes: &mut Bytes<'_>) -> usize {
    let file = &files[bytes.byte() as usize % files.len()];
    if disk.live_bytes(file).is_none() {
        return 0;
    }
    let kind = bytes.below(12);
    let (at, length) = (bytes.short() as usize, bytes.short() as usize % 4096);
    // One byte as often as not.
    let most = if length % 2 == 0 { 1 } else { 1 + length % 16 };
    let with = bytes.take(most).to_vec();
    match kind {
        0..=5 => disk.rot(file, |content| overwrite(content, at, &with)),
        6 => disk.rot(file, |content| content.truncate(at)),
        7 => disk.rot(file, |content| content.extend_from_slice(&with)),
        8 => disk.rot(file, |content| {
            let end = (at + length).min(content.len());
            content[at.min(end)..end].fill(0);
        }),
        9 => {
            // Bytes of another place, as a misdirected write leaves them.
            let other = disk.live_bytes(&files[length % files.len()]).unwrap_or_default();
            let from = (length * 16).min(other.len());
            let piece = other[from..(from + 512).min(other.len())].to_vec();
            disk.rot(file, |content| overwrite(content, at & !7, &piece));
        }
        10 => disk.remove(file).expect("it is there"),
        _ => {
            let other = &files[length % files.len()];
            // Out of its directory it cannot go.
            let _ = disk.rename(file, other);
        }
    }
    if is_forged && kind <= 5 && disk.live_bytes(file).is_some() {
        disk.rot(file, |content| forge(content, at));
    }
    if kind <= 5 && !is_forged { with.len() } else { usize::from(u16::MAX) }
}

fn overwrite(content: &mut [u8], at: usize, with: &[u8]) {
    let at = at.min(content.len());
    let end = (at + with.len()).min(content.len());
    content[at..end].copy_from_slice(&with[..end - at]);
}

/// Makes the checksum fit of whatever begins shortly before `at`.
fn forge(content: &mut [u8], at: usize) {
    for start in (at.saturating_sub(80)..=at).rev().filter(|start| start % 8 == 0) {
        let Some(field) = content.get(start + 4..start + 8) else { continue };
        let length = u32::from_le_bytes(field.try_into().expect("four bytes")) & !(1 << 31);
        let end = start + (length as usize).next_multiple_of(8);
        if (8..4096).contains(&length) && end <= content.len() && start + 4 < end {
            let crc = crc32c::crc32c(&content[start + 4..end]);
            content[start..start + 4].copy_from_slice(&crc.to_le_bytes());
            return;
        }
    }
}
