//! `oarlock disk`: is this disk fit for a log, and how short may an election timeout be on it?
//!
//! Measured is what a node does: a log of its own in a directory of its own, one small record and one
//! flush at a time, by the same code.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock::record::{EntryKind, RecordHeader};
use oarlock::wal::{self, Disk, LogOptions, Opened};
use oarlock::{Config, EntryId, LogIndex, Member, Membership, NodeId, Term};

use super::json::{Object, array, quoted};
use super::{DEFAULT_FLUSHES, Failure, Output};

/// Not longer than this, unless more flushes were asked for than there are by default.
const MAX_TIME: Duration = Duration::from_secs(3);
/// A payload of ordinary size.
const PAYLOAD: [u8; 256] = [0xA5; 256];
/// A disk that is as fast as this has not written anything.
const TOO_FAST: Duration = Duration::from_micros(10);
/// An election stores a vote twice on the candidate and then twice on the voter.
const FLUSHES_OF_AN_ELECTION: u32 = 4;
/// The election timeout is to be so much longer than an election (Raft §5.6: by an order of magnitude).
const MARGIN: u32 = 10;
const BAR: usize = 40;

pub(super) fn run(dir: &Path, count: usize, out: &mut Output<'_>) -> Result<(), Failure> {
    let refused =
        |error: &dyn std::fmt::Display| Failure::Refused(format!("{}: {error}", dir.display()));
    // Removed when it is dropped, also after an error.
    let aside = tempfile::Builder::new().prefix("oarlock-disk-").tempdir_in(dir);
    let aside = aside.map_err(|error| refused(&error))?;
    let begun = Instant::now();
    let mut took = measure(&aside.path().join("data"), count)?;
    let whole = begun.elapsed();
    aside.close().map_err(|error| refused(&error))?;
    took.sort_unstable();
    let report = Report::new(dir, &took, whole);
    if out.json { report.show_as_json(out) } else { report.show_as_text(out) }
}

/// How long each flush took.
fn measure(dir: &Path, count: usize) -> Result<Vec<Duration>, Failure> {
    let options =
        LogOptions { segment_bytes: 1 << 20, ready_segments: 2, max_entry_bytes: PAYLOAD.len() };
    let members = Membership::of_voters([(NodeId(1), Member::default())]);
    let opened = wal::open(Arc::new(Disk), dir, NodeId(1), "disk", &members, &options)?;
    let Opened { mut log, flusher, mut preparer, .. } = opened;
    let mut flusher = flusher.expect("a log on disk has one");
    let mut took = Vec::new();
    let begun = Instant::now();
    while took.len() < count && (count > DEFAULT_FLUSHES || begun.elapsed() < MAX_TIME) {
        let index = log.last().index.next();
        let header = RecordHeader {
            id: EntryId::new(Term(1), index),
            time: 0,
            kind: EntryKind::Command,
            origin: None,
        };
        // A node does this on another thread. It is not measured here, and keeps nothing.
        log.release(LogIndex(index.0.saturating_sub(2)));
        while preparer.step()? || log.room() < header.record_bytes(PAYLOAD.len()) {}
        log.append(&header, &PAYLOAD);
        let target = log.publish();
        let begun = Instant::now();
        let flushed = flusher.flush(target)?;
        took.push(begun.elapsed());
        log.persisted(flushed);
    }
    Ok(took)
}

struct Report {
    count: usize,
    whole: Duration,
    filesystem: Option<&'static str>,
    p50: Duration,
    p99: Duration,
    p999: Duration,
    max: Duration,
    /// Upper bounds, each twice the one before, and how many flushes lie below it and not below that.
    histogram: Vec<(Duration, usize)>,
    election_timeout: Duration,
    election_ticks: u32,
    warnings: Vec<String>,
}

impl Report {
    /// `took` is sorted and not empty.
    fn new(dir: &Path, took: &[Duration], whole: Duration) -> Self {
        let share = |per_mille: usize| took[(took.len() - 1) * per_mille / 1000];
        let (p50, p99, p999) = (share(500), share(990), share(999));
        let max = took[took.len() - 1];
        let election_ticks = advised_ticks(p999);
        let filesystem = filesystem(dir);
        Self {
            count: took.len(),
            whole,
            filesystem,
            p50,
            p99,
            p999,
            max,
            histogram: histogram(took),
            election_timeout: Config::default().tick * election_ticks,
            election_ticks,
            warnings: warnings(filesystem, p50, max),
        }
    }

    fn show_as_text(&self, out: &mut Output<'_>) -> Result<(), Failure> {
        let on = self.filesystem.map(|name| format!(", {name}")).unwrap_or_default();
        out.pair("flushes", &format!("{} in {:.1?}{on}", self.count, self.whole))?;
        for (key, value) in
            [("p50", self.p50), ("p99", self.p99), ("p99.9", self.p999), ("max", self.max)]
        {
            out.pair(key, &format!("{value:.1?}"))?;
        }
        let most = self.histogram.iter().map(|(_, count)| *count).max().unwrap_or(1);
        for (below, count) in &self.histogram {
            let bar = "#".repeat((count * BAR).div_ceil(most));
            out.line(&format!("  below {:>9} {count:>7} {bar}", format!("{below:?}")))?;
        }
        let Config { tick, heartbeat_ticks, election_ticks, .. } = Config::default();
        out.pair(
            "advised",
            &format!(
                "an election timeout of {:?}: Config {{ election_ticks: {}, .. }}, with the default \
                 tick of {tick:?}",
                self.election_timeout, self.election_ticks
            ),
        )?;
        out.pair(
            "rule",
            &format!(
                "{MARGIN} times the {FLUSHES_OF_AN_ELECTION} flushes of an election at their p99.9, \
                 and a heartbeat interval ({:?}); at least the default ({:?})",
                tick * heartbeat_ticks,
                tick * election_ticks
            ),
        )?;
        self.warnings.iter().try_for_each(|warning| out.pair("warning", warning))
    }

    fn show_as_json(&self, out: &mut Output<'_>) -> Result<(), Failure> {
        let buckets = self.histogram.iter().map(|(below, count)| {
            let bucket = Object::inner().number("below_ns", nanos(*below));
            bucket.number("count", *count as u64).finish()
        });
        let object = Object::new("disk")
            .number("flushes", self.count as u64)
            .number("p50_ns", nanos(self.p50))
            .number("p99_ns", nanos(self.p99))
            .number("p999_ns", nanos(self.p999))
            .number("max_ns", nanos(self.max))
            .raw("histogram", &array(buckets))
            .raw("filesystem", &self.filesystem.map_or("null".to_owned(), quoted))
            .number("election_timeout_ms", self.election_timeout.as_millis() as u64)
            .number("election_ticks", self.election_ticks)
            .raw("warnings", &array(self.warnings.iter().map(|warning| quoted(warning))));
        out.line(&object.finish())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The election timeout in ticks, of the default length, for a disk with such flushes.
fn advised_ticks(p999: Duration) -> u32 {
    let config = Config::default();
    let election = p999.saturating_mul(FLUSHES_OF_AN_ELECTION * MARGIN);
    let wanted = election.saturating_add(config.tick * config.heartbeat_ticks);
    let ticks = wanted.as_nanos().div_ceil(config.tick.as_nanos());
    u32::try_from(ticks).unwrap_or(u32::MAX).max(config.election_ticks)
}

/// `took` is sorted.
fn histogram(took: &[Duration]) -> Vec<(Duration, usize)> {
    let mut buckets = Vec::new();
    let mut rest = took;
    let mut below = Duration::from_micros(1);
    while !rest.is_empty() {
        let count = rest.partition_point(|&one| one < below);
        if count > 0 || !buckets.is_empty() {
            buckets.push((below, count));
        }
        rest = &rest[count..];
        below = below.saturating_mul(2);
    }
    buckets
}

fn warnings(filesystem: Option<&'static str>, p50: Duration, max: Duration) -> Vec<String> {
    let mut warnings = Vec::new();
    match filesystem {
        Some(name @ ("tmpfs" | "ramfs")) => {
            warnings.push(format!("{name} is memory: nothing on it survives the machine"));
        }
        Some(name @ ("nfs" | "cifs")) => {
            warnings.push(format!("{name}: locks and flushes are only as good as the server's"));
        }
        _ if p50 < TOO_FAST => {
            let text = format!(
                "half of all flushes took less than {TOO_FAST:?}: no disk is so fast, so \
                 something keeps the bytes in memory and says that they are durable"
            );
            warnings.push(text);
        }
        _ => {}
    }
    let stuck_after = Config::default().stuck_after;
    if max > stuck_after {
        warnings.push(format!("a flush took longer than {stuck_after:?} (Config::stuck_after)"));
    }
    warnings
}

/// The name of the file system that a directory is on, if it is a known one.
#[cfg(target_os = "linux")]
fn filesystem(dir: &Path) -> Option<&'static str> {
    let number = rustix::fs::statfs(dir).ok()?.f_type;
    // The numbers of statfs(2), which have 32 bits; some systems extend their sign.
    Some(match number & 0xFFFF_FFFF {
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x2FC1_2FC1 => "zfs",
        0x794C_7630 => "overlayfs",
        0x0102_1994 => "tmpfs",
        0x8584_58F6 => "ramfs",
        0x6969 => "nfs",
        0xFF53_4D42 | 0xFE53_4D42 => "cifs",
        _ => return None,
    })
}

#[cfg(not(target_os = "linux"))]
fn filesystem(_dir: &Path) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advised_timeout_follows_the_rule_and_is_never_below_the_default() {
        let ticks = |millis| advised_ticks(Duration::from_millis(millis));
        assert_eq!(ticks(0), 30);
        assert_eq!(ticks(6), 30, "240 ms and 50 ms");
        assert_eq!(ticks(20), 85, "800 ms and 50 ms");
        assert_eq!(advised_ticks(Duration::MAX), u32::MAX);
    }

    #[test]
    fn every_flush_is_in_the_histogram_once() {
        let took = [3, 3, 5, 40, 41, 900].map(Duration::from_micros);
        let found: Vec<_> =
            histogram(&took).iter().map(|(below, count)| (below.as_micros(), *count)).collect();
        let wanted =
            [(4, 2), (8, 1), (16, 0), (32, 0), (64, 2), (128, 0), (256, 0), (512, 0), (1024, 1)];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_disk_that_cannot_be_one_is_warned_of() {
        let (fast, slow) = (Duration::from_micros(3), Duration::from_secs(3));
        assert!(warnings(Some("tmpfs"), fast, fast)[0].contains("memory"));
        assert!(warnings(Some("ext4"), fast, fast)[0].contains("durable"));
        assert!(warnings(None, slow, slow)[0].contains("stuck_after"));
        assert!(warnings(Some("ext4"), 30 * fast, 30 * fast).is_empty());
    }
}
