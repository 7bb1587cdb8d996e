//! Damage to anything that was once durable: it is a typed error that says where, and nothing is written; or
//! no acknowledged entry is missing.
//!
//! The one exemption is the very last flush, when neither another flush, nor idleness (a cover), nor a close
//! (a cover) has followed it: there damage may pass for a torn tail. [`Log::may_lose`] is the only place
//! where it is granted.
//!
//! What is damaged is a log of three segments whose payloads are zeros and copies of the log's own bytes, in
//! files that were used before. `OARLOCK_TEST_FLIPS=all` flips every byte of it, and not only one in eleven.

mod crash_rig;
mod wal_rig;

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crash_rig::disk::{Content, CrashDisk, PAGE_BYTES};
use crash_rig::driver::{Driver, Outcome, open};
use crash_rig::promise::{Entry, Promise};
use oarlock::error::{StorageError, StorageErrorKind};
use oarlock::{EntryId, HardState, LogIndex, Term};
use wal_rig::{DIR, Rig, header, segment};

/// A log that was left behind, and what it has promised.
struct Log {
    content: Content,
    /// Every file as it was at some moment, the last one included.
    history: Vec<Content>,
    promise: Arc<Promise>,
    entries: Arc<Vec<Entry>>,
    hard_state: HardState,
    /// The entries in the last flush.
    last_flush: usize,
    closed: bool,
}

/// A log of three segments, in files that were used before; two entries in its last flush.
fn build(driver: &mut Driver<CrashDisk>) -> Outcome {
    driver.open()?;
    // Whatever is used here is used again below.
    for _ in 0..3 {
        driver.entries([2500; 5])?;
        let last = driver.last();
        driver.release(last - 1);
        driver.entries([10])?;
        driver.prepare()?;
    }
    driver.vote()?;
    driver.restart()?;
    driver.prepare()?;
    let base = driver.base();
    driver.entries([3000, 100, 0, 500, 3000, 1, 60, 60, 60, 4000])?;
    driver.truncate(driver.last() - 2)?;
    driver.vote()?;
    driver.entries([3000, 2000, 900, 200, 200, 200, 900, 2500, 1300])?;
    driver.entries([900, 40, 40, 40, 40])?;
    assert_eq!(driver.base(), base);
    for _ in 0..2 {
        driver.append(40)?;
    }
    driver.commit()
}

/// How a start ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Everything,
    AllButTheLastFlush,
}

impl Log {
    fn new(closed: bool) -> Self {
        Self::named(closed, 0)
    }

    fn named(closed: bool, name: u64) -> Self {
        let mut driver = Driver::new(CrashDisk::recording(Promise::none(), name), 7 + name);
        build(&mut driver).expect("a good disk");
        if closed {
            driver.cover().expect("a good disk");
        }
        let history = driver.ground.moments().into_iter().map(|moment| moment.content).collect();
        driver.ground.kill();
        Self {
            content: driver.ground.content().flushed(),
            history,
            entries: Arc::clone(&driver.promise.contents[0]),
            hard_state: driver.promise.hard_states[0],
            promise: Arc::new(driver.promise),
            last_flush: 2,
            closed,
        }
    }

    /// How many entries damage anywhere may take: the last flush, if nothing has followed it.
    fn may_lose(&self) -> usize {
        if self.closed { 0 } else { self.last_flush }
    }

    /// Starts on a damaged copy.
    fn start(&self, damaged: &Content, what: &str) -> Result<Found, StorageError> {
        let disk = CrashDisk::of(damaged.clone(), Arc::clone(&self.promise));
        disk.record();
        let (opened, found) = match open(&disk) {
            Ok(opened) => opened,
            Err(error) => {
                let changes = disk.moments();
                let first = changes.first().map(|change| &change.after);
                assert!(changes.is_empty(), "{what}: {error}, and then {first:?}");
                assert_typed(&error, what);
                return Err(error);
            }
        };
        let base = opened.recovered.base.index.0 as usize;
        assert!(base <= self.promise.released, "{what}: entries up to {base} are gone");
        let held = base + found.len();
        assert!(
            held + self.may_lose() >= self.entries.len(),
            "{what}: {held} entries of {} that were acknowledged",
            self.entries.len()
        );
        assert!(found == self.entries[base..held], "{what}: other entries");
        assert_eq!(opened.recovered.hard_state, self.hard_state, "{what}");
        let all = held == self.entries.len();
        Ok(if all { Found::Everything } else { Found::AllButTheLastFlush })
    }

    fn segments(&self) -> Vec<PathBuf> {
        let segments = self.content.paths().into_iter();
        segments.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect()
    }

    /// The number of the segment that holds the last entry: the one before those that are only ready.
    fn active(&self) -> usize {
        let holds = |path: &PathBuf| self.content.bytes(path)[64..][..8] != [0; 8];
        self.segments().iter().rposition(holds).expect("there are entries")
    }
}

/// Asserts that an error says where and what.
fn assert_typed(error: &StorageError, what: &str) {
    match &error.kind {
        StorageErrorKind::Damaged { expected } => assert!(!expected.is_empty(), "{what}"),
        StorageErrorKind::AnotherNode { .. } => {}
        other => panic!("{what}: {other:?}"),
    }
    assert!(error.path.starts_with(DIR), "{what}: {error}");
}

fn both() -> [Log; 2] {
    [Log::new(false), Log::new(true)]
}

#[test]
fn undamaged_it_opens_and_holds_everything() {
    for log in both() {
        assert_eq!(log.start(&log.content, "nothing").expect("good"), Found::Everything);
        let used = log.active() + 1;
        assert!(used >= 3, "{used} segments");
    }
}

#[test]
fn every_flipped_byte() {
    let step =
        if env::var_os("OARLOCK_TEST_FLIPS").is_some_and(|all| all == "all") { 1 } else { 11 };
    for log in both() {
        let (mut refused, mut harmless, mut torn) = (0, 0, 0);
        for path in log.content.paths() {
            let good = log.content.bytes(&path);
            for at in (0..good.len()).step_by(step) {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << (at % 8);
                let what = format!("{} at {at}", path.display());
                match log.start(&log.content.with(&path, &bytes), &what) {
                    Err(error) => {
                        refused += 1;
                        assert_eq!(error.path, path, "{what}: {error}");
                        if at >= 64 && path.starts_with(Path::new(DIR).join("log")) {
                            let offset = error.offset.expect("an offset") as usize;
                            assert!(offset <= at, "{what}: {error}");
                            assert!(error.index.is_some(), "{what}: {error}");
                        }
                    }
                    Ok(Found::Everything) => harmless += 1,
                    Ok(Found::AllButTheLastFlush) => torn += 1,
                }
            }
        }
        println!("closed {}: {refused} refused, {harmless} harmless, {torn} torn", log.closed);
        assert!(refused * step > 20_000, "{refused} flips were noticed");
        assert_eq!(torn == 0, log.closed);
    }
}

/// A page: a file, and where in it.
type Page = (PathBuf, usize);

fn pages(content: &Content) -> Vec<Page> {
    let of = |path: PathBuf| -> Vec<Page> {
        let count = content.bytes(&path).len().div_ceil(PAGE_BYTES);
        (0..count).map(|page| (path.clone(), page)).collect()
    };
    content.paths().into_iter().flat_map(of).collect()
}

fn page_of(bytes: &[u8], page: usize) -> &[u8] {
    let end = bytes.len().min((page + 1) * PAGE_BYTES);
    bytes.get(page * PAGE_BYTES..end).unwrap_or(&[])
}

/// The same with other bytes in a page, as far as the file goes.
fn with_page(content: &Content, (path, page): &Page, other: &[u8]) -> Content {
    let mut bytes = content.bytes(path);
    let start = page * PAGE_BYTES;
    let len = other.len().min(bytes.len() - start);
    bytes[start..start + len].copy_from_slice(&other[..len]);
    content.with(path, &bytes)
}

#[test]
fn every_page_zeroed_or_overwritten_with_ones() {
    for log in both() {
        for page in pages(&log.content) {
            for fill in [0, 0xFF] {
                let damaged = with_page(&log.content, &page, &[fill; PAGE_BYTES]);
                let _ = log.start(&damaged, &format!("{page:?} full of {fill}"));
            }
        }
    }
}

#[test]
fn every_page_swapped_with_every_other_or_copied_over_it() {
    for log in both() {
        let pages = pages(&log.content);
        for one in &pages {
            for other in &pages {
                let bytes = |(path, page): &Page| page_of(&log.content.bytes(path), *page).to_vec();
                let copied = with_page(&log.content, one, &bytes(other));
                let _ = log.start(&copied, &format!("{other:?} copied over {one:?}"));
                if one < other {
                    let swapped = with_page(&copied, other, &bytes(one));
                    let _ = log.start(&swapped, &format!("{one:?} swapped with {other:?}"));
                }
            }
        }
    }
}

#[test]
fn every_page_as_it_was_at_any_earlier_moment() {
    for log in both() {
        let mut count = 0;
        for page in pages(&log.content) {
            let (path, number) = &page;
            let mut seen = BTreeSet::new();
            for moment in &log.history {
                if !moment.paths().contains(path) {
                    continue;
                }
                let old = page_of(&moment.bytes(path), *number).to_vec();
                if seen.insert(old.clone()) {
                    count += 1;
                    let damaged = with_page(&log.content, &page, &old);
                    let _ = log.start(&damaged, &format!("{page:?} as it was {}", seen.len()));
                }
            }
        }
        assert!(count > 60, "{count} stale pages");
    }
}

#[test]
fn every_file_removed_or_cut_or_grown() {
    for log in both() {
        for path in log.content.paths() {
            let what = path.display().to_string();
            let removed = log.start(&log.content.without(&path), &format!("{what} removed"));
            let index = log.segments().iter().position(|segment| *segment == path);
            let is_needed = match index {
                Some(index) => index <= log.active(),
                None => !path.ends_with("lock"),
            };
            assert_eq!(removed.is_err(), is_needed, "{what} removed: {removed:?}");
            if path.ends_with("lock") {
                continue;
            }
            let bytes = log.content.bytes(&path);
            let pages = (0..bytes.len()).step_by(PAGE_BYTES);
            for len in pages.chain([1, 63, 64, 100, bytes.len() - 1]) {
                let cut = log.content.with(&path, &bytes[..len]);
                let started = log.start(&cut, &format!("{what} cut to {len}"));
                assert!(started.is_err(), "{what} cut to {len}");
            }
            let grown = log.content.with(&path, &[&bytes[..], &[0; PAGE_BYTES]].concat());
            log.start(&grown, &format!("{what} grown")).expect_err("another length");
        }
    }
}

#[test]
fn every_file_exchanged_with_that_of_another_directory_or_with_another_file() {
    for log in both() {
        let foreign = Log::named(log.closed, 1);
        assert_eq!(foreign.content.paths(), log.content.paths());
        for path in log.content.paths().iter().filter(|path| !path.ends_with("lock")) {
            let exchanged = log.content.with(path, &foreign.content.bytes(path));
            let started =
                log.start(&exchanged, &format!("{} of another directory", path.display()));
            started.expect_err("another directory's");
            for other in log.content.paths().iter().filter(|other| *other > path) {
                let swapped = log.content.with(path, &log.content.bytes(other));
                let swapped = swapped.with(other, &log.content.bytes(path));
                let what = format!("{} and {} swapped", path.display(), other.display());
                log.start(&swapped, &what).expect_err("the wrong file");
            }
        }
    }
}

#[test]
fn every_page_exchanged_with_that_of_another_directory() {
    for log in both() {
        let foreign = Log::named(log.closed, 1);
        for page in pages(&log.content) {
            let other = page_of(&foreign.content.bytes(&page.0), page.1).to_vec();
            let exchanged = with_page(&log.content, &page, &other);
            let _ = log.start(&exchanged, &format!("{page:?} of another directory"));
        }
    }
}

/// A mark as it would be if checksums were over the bytes alone, which is all that an author of payloads
/// can know.
fn forged(position: u64, durable: u64) -> [u8; 80] {
    let mut mark = [0; 80];
    mark[4..8].copy_from_slice(&(0x50 | 1_u32 << 31).to_le_bytes());
    mark[8] = 1; // kind
    mark[12..16].copy_from_slice(&80_u32.to_le_bytes());
    mark[16..24].copy_from_slice(&position.to_le_bytes());
    mark[24..32].copy_from_slice(&(1_u64 << 32 | 64).to_le_bytes()); // predecessor
    mark[32..40].copy_from_slice(&durable.to_le_bytes());
    mark[40..48].copy_from_slice(&1_u64.to_le_bytes()); // boot
    mark[48..52].copy_from_slice(&1_u32.to_le_bytes()); // oldest
    mark[56..64].copy_from_slice(&7_u64.to_le_bytes()); // term before
    mark[64..72].copy_from_slice(&1_u64.to_le_bytes()); // index before
    let crc = crc32c::crc32c(&mark[4..]);
    mark[..4].copy_from_slice(&crc.to_le_bytes());
    mark
}

#[test]
fn a_payload_that_was_made_to_look_like_a_mark_neither_ends_nor_begins_anything() {
    let first = 1 << 32 | 64;
    let mut rig = Rig::new();
    rig.append(7, b"durable");
    rig.commit();
    let end = rig.log().publish().to_word();
    // Wherever it comes to stand, it says that more was durable than there is.
    let payload: Vec<u8> = (0..40).flat_map(|at| forged(end + 120 + at * 80, end + 4000)).collect();
    rig.append(7, &payload);
    rig.commit();
    let disk = rig.kill();
    let torn = Arc::new((*disk).clone());
    torn.rot(&segment(1), |bytes| bytes[(end - first) as usize + 64..][..80].fill(0));
    assert_eq!(Rig::on(torn).entries().len(), 1, "the payload says nothing of its own loss");
    disk.rot(&segment(1), |bytes| {
        bytes[(end - first) as usize + 64..][..80].copy_from_slice(&forged(end, end));
    });
    let rig = Rig::on(disk);
    assert_eq!(rig.entries().len(), 1);
    assert_eq!(rig.log_ref().last(), EntryId::new(Term(7), LogIndex(1)));
}

/// No promise is left after damage in many places, but this: nothing panics, what opens holds nothing that was
/// not written, and goes on; what does not open is left as it is.
#[test]
fn damage_in_many_places_makes_nothing_up() {
    let runs =
        env::var("OARLOCK_TEST_DAMAGES").map_or(1500, |text| text.parse().expect("a number"));
    let logs = both();
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..runs {
        let mut rng = fastrand::Rng::with_seed(seed);
        let log = rng.choice(&logs).expect("two");
        let mut content = log.content.clone();
        for _ in 0..rng.usize(1..6) {
            let path = rng.choice(content.paths()).expect("some");
            let mut bytes = content.bytes(&path);
            damage(&mut bytes, &mut rng);
            content = content.with(&path, &bytes);
        }
        let disk = CrashDisk::of(content, Arc::clone(&log.promise));
        disk.record();
        match open(&disk) {
            Err(error) => {
                refused += 1;
                assert!(disk.moments().is_empty(), "seed {seed}: {error}");
                assert_typed(&error, &format!("seed {seed}"));
            }
            Ok((mut found, entries)) => {
                opened += 1;
                let is_written =
                    |entry: &Entry| log.entries.get(entry.0.index.0 as usize - 1) == Some(entry);
                assert!(entries.iter().all(is_written), "seed {seed}");
                let next = found.log.last().index.next();
                let term = found.recovered.hard_state.term.0 + 1;
                while found.log.room() < 100 {
                    found.preparer.step().expect("a good disk");
                }
                found.log.append(&header(term, next), b"more");
                let target = found.log.publish();
                found.flusher.as_mut().expect("on disk").flush(target).expect("a good disk");
                drop(found);
                let (again, _) = open(&disk).unwrap_or_else(|error| panic!("{seed}: {error}"));
                assert_eq!(again.log.last().index, next, "seed {seed}");
            }
        }
    }
    assert!(opened > runs / 50 && refused > runs / 4, "{opened} opened, {refused} refused");
}

/// Some damage: bytes changed, moved, zeroed, cut off or added.
fn damage(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.usize(..bytes.len());
    let len = rng.usize(1..200).min(bytes.len() - at);
    match rng.u8(..12) {
        0..4 => bytes[at] ^= 1 << rng.u8(..8),
        4..6 => bytes[at..at + len].fill(0),
        6 => rng.fill(&mut bytes[at..at + len]),
        7..10 => {
            let from = rng.usize(..=bytes.len() - len) & !7;
            bytes.copy_within(from..from + len, at & !7);
        }
        10 => bytes.truncate(at),
        _ => bytes.extend_from_within(at..at + len),
    }
}

/// An older copy of the last segment, or of the whole directory, is another matter: nothing in the
/// directory can tell. Peers can, by the boot count.
#[test]
fn every_file_but_the_last_segment_as_it_was_at_any_earlier_moment() {
    for log in both() {
        let active = log.segments()[log.active()].clone();
        for path in log.content.paths().iter().filter(|path| **path != active) {
            let mut seen = BTreeSet::from([log.content.bytes(path)]);
            for moment in &log.history {
                if !moment.paths().contains(path) {
                    continue;
                }
                let old = moment.bytes(path);
                if seen.insert(old.clone()) {
                    let damaged = log.content.with(path, &old);
                    let what = format!("{} as it was {}", path.display(), seen.len());
                    let started = log.start(&damaged, &what);
                    if path.ends_with("identity") {
                        started.expect_err("an old identity");
                    }
                }
            }
        }
    }
}

#[test]
fn the_last_flush_alone_is_exempt_and_only_until_something_follows_it() {
    // Each flush begins a page, so what is lost is known.
    let left = |follow: fn(&mut Driver<CrashDisk>) -> Outcome| {
        let mut driver = Driver::new(CrashDisk::recording(Promise::none(), 0), 3);
        driver.open().expect("a good disk");
        driver.entries([3912, 3900]).expect("a good disk");
        follow(&mut driver).expect("a good disk");
        driver.ground.kill();
        let damaged = with_page(&driver.ground.content(), &(segment(1), 1), &[0; PAGE_BYTES]);
        let disk = CrashDisk::of(damaged, Arc::new(driver.promise));
        open(&disk).map(|(_, found)| found.len()).map_err(|error| error.offset)
    };
    assert_eq!(left(|_| Ok(())), Ok(1));
    let second = Err(Some(4096));
    assert_eq!(left(Driver::cover), second);
    assert_eq!(left(|driver| driver.entries([10])), second);
    assert_eq!(left(Driver::restart), second);
}
