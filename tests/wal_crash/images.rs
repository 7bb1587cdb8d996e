//! Every image that a crash may leave after any operation of a workload, and what a start makes of it.

use std::collections::HashSet;
use std::env;
use std::sync::Arc;

use fastrand::Rng;
use oarlock::record::record_bytes;
use oarlock::{EntryId, HardState, NodeId, Term};

use crate::crash_rig::disk::{Content, CrashDisk, Fate, Moment, Piece};
use crate::crash_rig::driver::{Driver, Outcome, open};
use crate::crash_rig::promise::Promise;
use crate::wal_rig::{header, read_all};

/// How many images all workloads together look at.
const IMAGES: &str = "OARLOCK_TEST_CRASH_IMAGES";
/// Which run of the workloads is the first.
const SEED: &str = "OARLOCK_TEST_CRASH_SEED";
const DEFAULT_IMAGES: usize = 10_200;
/// Workloads that share the images.
pub(crate) const WORKLOADS: usize = 12;
/// Up to so many pieces every subset of them is looked at.
const EXHAUSTIVE: usize = 8;
/// Of more pieces, so many subsets.
const SAMPLES: usize = 64;
/// One image in so many is also cut off in the middle of recovery.
const SECOND: usize = 6;

fn number(variable: &str, default: usize) -> usize {
    let text = env::var(variable);
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// Runs a workload, and looks at what crashes leave of it: its share of the images.
pub(crate) fn survives(name: &str, work: fn(&mut Driver<CrashDisk>) -> Outcome) {
    let wanted = number(IMAGES, DEFAULT_IMAGES).div_ceil(WORKLOADS);
    let first = number(SEED, 0) as u64;
    let mut images = Images::default();
    let mut idle = 0;
    for seed in first.. {
        let mut driver = Driver::new(CrashDisk::recording(Promise::none(), 0), seed);
        work(&mut driver).expect("a good disk");
        let moments = driver.ground.moments();
        let before = images.count;
        images.look(&moments, wanted - before, seed).unwrap_or_else(|problem| {
            panic!("{name}, {SEED}={seed}, {problem}");
        });
        println!("{name}: seed {seed}, {} of {wanted} images", images.count);
        idle = if images.count == before { idle + 1 } else { 0 };
        // A short workload has only so many.
        if images.count >= wanted || idle == 3 {
            return;
        }
    }
}

#[derive(Default)]
struct Images {
    /// Which ones were seen, each with the promise it was held against.
    seen: HashSet<(u64, u64)>,
    count: usize,
}

/// What follows a moment.
enum Crash {
    /// The program dies, and the machine goes on.
    Kill,
    Power(Vec<Fate>),
}

impl Images {
    /// Looks at about `wanted` images of these moments, or at all there are.
    fn look(&mut self, moments: &[Moment], wanted: usize, seed: u64) -> Result<(), String> {
        let mut rng = Rng::with_seed(seed);
        let all: usize = moments.iter().map(|moment| crashes(moment, &mut rng).len()).sum();
        for (at, moment) in moments.iter().enumerate() {
            let promise = moment.promise.hash();
            for crash in crashes(moment, &mut rng) {
                if rng.usize(..all) >= wanted {
                    continue;
                }
                let image = match &crash {
                    Crash::Kill => moment.content.clone(),
                    Crash::Power(fates) => moment.content.image(fates),
                };
                if !self.seen.insert((image.hash(), promise)) {
                    continue;
                }
                self.count += 1;
                let second = self.count.is_multiple_of(SECOND);
                let looked = look(image, &moment.promise, second, &mut rng);
                self.count += looked.map_err(|problem| {
                    let crash = match crash {
                        Crash::Kill => "kill".to_owned(),
                        Crash::Power(fates) => format!("{fates:?}"),
                    };
                    format!("operation {at}, after {}, {crash}: {problem}", moment.after)
                })?;
            }
        }
        Ok(())
    }
}

/// What may happen at a moment: a kill, every subset of the unflushed pieces or a sample of them, and each of
/// these once more with pages that are torn, or as they were in between.
fn crashes(moment: &Moment, rng: &mut Rng) -> Vec<Crash> {
    let pieces = moment.content.pieces();
    let fate = |kept: bool| if kept { Fate::Kept } else { Fate::Lost };
    let mut subsets: Vec<Vec<Fate>> = Vec::new();
    if pieces.len() <= EXHAUSTIVE {
        for subset in 0_u32..1 << pieces.len() {
            subsets.push((0..pieces.len()).map(|at| fate(subset & 1 << at != 0)).collect());
        }
    } else {
        for kept in [false, true] {
            subsets.push(vec![fate(kept); pieces.len()]);
            for other in 0..pieces.len() {
                let fates = (0..pieces.len()).map(|at| fate((at == other) != kept));
                subsets.push(fates.collect());
            }
        }
        while subsets.len() < SAMPLES {
            subsets.push(pieces.iter().map(|_| fate(rng.bool())).collect());
        }
    }
    let broken: Vec<Vec<Fate>> = subsets
        .iter()
        .filter_map(|fates| {
            let mut broken = fates.clone();
            for (fate, piece) in broken.iter_mut().zip(&pieces) {
                if let Piece::Page { states } = piece
                    && *fate == Fate::Kept
                    && rng.bool()
                {
                    let torn = states < &2 || rng.bool();
                    *fate = if torn {
                        Fate::Torn(rng.u8(1..255))
                    } else {
                        Fate::Earlier(rng.usize(..states - 1))
                    };
                }
            }
            (broken != *fates).then_some(broken)
        })
        .collect();
    let power = subsets.into_iter().chain(broken).map(Crash::Power);
    std::iter::once(Crash::Kill).chain(power).collect()
}

/// Starts on an image: what it finds must be what was promised, it must be durable, and the log must go on.
/// With `second`, the power is cut again at a few moments of that start. Returns how many images that were.
fn look(
    image: Content,
    promise: &Arc<Promise>,
    second: bool,
    rng: &mut Rng,
) -> Result<usize, String> {
    let disk = CrashDisk::of(image, Arc::clone(promise));
    if second {
        disk.record();
    }
    let (mut opened, found) = open(&disk).map_err(|error| format!("it does not open: {error}"))?;
    let moments = disk.moments();
    promise.check(&opened.recovered, &found)?;

    let last = opened.log.last();
    let term = opened.recovered.hard_state.term.0.max(last.term.0) + 1;
    let id = EntryId::new(Term(term), last.index.next());
    while opened.log.room() < record_bytes(100, false) {
        opened.preparer.step().map_err(|error| format!("no room: {error}"))?;
    }
    opened.log.append(&header(term, id.index), &[7; 100]);
    let target = opened.log.publish();
    let mut flusher = opened.flusher.take().expect("on disk");
    let vote = HardState { term: Term(term), voted_for: Some(NodeId(2)) };
    let stored = flusher.store_hard_state(vote).and_then(|()| flusher.flush(target));
    stored.map_err(|error| format!("it does not go on: {error}"))?;
    let mut expected = found;
    expected.push((id, vec![7; 100]));
    let base = opened.log.base();
    drop((opened, flusher));

    let again = CrashDisk::of(disk.content().flushed(), Arc::clone(promise));
    let (opened, found) = open(&again).map_err(|error| format!("no second start: {error}"))?;
    if found != expected || opened.log.base() != base || opened.recovered.hard_state != vote {
        let (was, is) = (expected.len(), found.len());
        return Err(format!("acknowledged after the crash, and lost: {was} entries, then {is}"));
    }

    let mut count = 0;
    for _ in 0..if moments.is_empty() { 0 } else { 3 } {
        let moment = rng.choice(&moments).expect("not empty");
        let crashes = crashes(moment, rng);
        let (image, crash) = match rng.choice(&crashes).expect("not empty") {
            Crash::Kill => (moment.content.clone(), "kill".to_owned()),
            Crash::Power(fates) => (moment.content.image(fates), format!("{fates:?}")),
        };
        let disk = CrashDisk::of(image, Arc::clone(promise));
        let place = || format!("then after {} of recovery, {crash}", moment.after);
        let (opened, found) = open(&disk).map_err(|error| format!("{}: {error}", place()))?;
        let kept = promise.check(&opened.recovered, &found);
        kept.map_err(|problem| format!("{}: {problem}", place()))?;
        debug_assert_eq!(read_all(&opened.log), found);
        count += 1;
    }
    Ok(count)
}
