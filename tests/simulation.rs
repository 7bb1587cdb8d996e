//! Whole nodes under the simulator: the seeds that gate, and what the simulator promises of itself.
//!
//! `OARLOCK_SEED=1000 OARLOCK_SEEDS=500 cargo test --release --test simulation many_worlds` looks further;
//! the example `simulate` looks furthest.

#[path = "simulation/own_machine.rs"]
mod own_machine;

use std::process::Command;

use oarlock::Role;
use oarlock::simulation::{Options, Profile, Report, Swaps, Trouble, Troubles, World};

/// Half of the machines keep their own state, so that the log lets go of its beginning.
fn workload(seed: u64) -> Swaps {
    Swaps::new(seed.is_multiple_of(2))
}

fn run(options: Options) -> Report {
    let Options { seed, steps, .. } = options;
    World::run(options, workload(seed)).unwrap_or_else(|broken| {
        panic!(
            "{broken}\nto see it again: cargo run --release --features simulation --example simulate -- \
             --seed {seed} --runs 1 --steps {steps} --trace 100"
        )
    })
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Seeds in which something was once found, in the library or by breaking it on purpose, each with its
/// steps.
fn remembered() -> impl Iterator<Item = Options> {
    let lines = include_str!("simulation/seeds.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().expect("a number"));
        let (seed, steps) = (numbers.next().expect("a seed"), numbers.next().expect("steps"));
        Options { steps, ..Options::swarm(seed) }
    })
}

#[test]
fn many_worlds_keep_every_promise() {
    let (first, seeds) = (setting("OARLOCK_SEED", 0), setting("OARLOCK_SEEDS", 80));
    let steps = setting("OARLOCK_STEPS", 5000);
    let mut sum = Report::default();
    for seed in first..first + seeds {
        sum.add(&run(Options { steps, ..Options::swarm(seed) }));
    }
    println!("{sum}");
    // Worlds in which nothing happens show nothing.
    if seeds >= 80 && steps >= 5000 {
        for trouble in Trouble::ALL {
            assert!(sum.trouble(*trouble) > 10, "too little {trouble}:\n{sum}");
        }
        let happened = [
            sum.crashes,
            sum.failures,
            sum.leaders,
            sum.acknowledged,
            sum.withdrawn,
            sum.refused - sum.withdrawn,
            sum.unknown,
            sum.reads,
            sum.weak_reads,
        ];
        assert!(happened.iter().all(|&count| count > 20), "{sum}");
        assert!(sum.failed_starts > 2, "{sum}");
        for kind in ["append", "heartbeat", "vote", "pre-vote", "vote-reply", "append-reply"] {
            for role in [Role::Follower, Role::PreCandidate, Role::Leader] {
                assert!(sum.coverage.of(kind, role) > 0, "no {kind} to a {role}:\n{sum}");
            }
        }
    }
}

#[test]
fn worlds_in_which_something_was_found_keep_every_promise() {
    for options in remembered() {
        run(options);
    }
}

#[test]
fn in_a_calm_world_every_call_to_a_leader_succeeds() {
    for seed in 0..6 {
        let report = run(Options { steps: 4000, ..Options::draw(Profile::Calm, seed) });
        // A majority has to serve its callers alone for a while: messages are lost then, and a leader may be
        // among the others.
        assert_eq!((report.crashes, report.failures), (0, 0), "seed {seed}");
        assert!(report.leaders <= 2, "seed {seed}: {report}");
        assert!(report.acknowledged > 0 && report.reads > 0, "seed {seed}: {report}");
    }
}

/// With this set, [`a_seed_gives_one_trace_in_every_process`] is the other process.
const CHILD: &str = "OARLOCK_TRACE";

fn traces() -> String {
    let mut text = String::new();
    for seed in 1000..1006 {
        let options = Options { steps: 3000, ..Options::swarm(seed) };
        let (outcome, trace) = World::run_traced(options, workload(seed), usize::MAX);
        text += &trace;
        text += &outcome.expect("no promise is broken").to_lines();
    }
    text
}

#[test]
fn a_seed_gives_one_trace_in_every_process() {
    if let Ok(path) = std::env::var(CHILD) {
        return std::fs::write(path, traces()).expect("the trace is handed over");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trace");
    let test = "a_seed_gives_one_trace_in_every_process";
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test])
        .env(CHILD, &path)
        .output()
        .expect("another process");
    assert!(child.status.success(), "{child:?}");
    let (ours, theirs) = (traces(), std::fs::read_to_string(path).expect("the other trace"));
    for (line, (ours, theirs)) in ours.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(ours, theirs, "line {line}");
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.lines().count() > 10_000, "a trace of {} lines", ours.lines().count());
}

#[test]
fn leaving_out_a_trouble_does_not_change_how_the_others_are_drawn() {
    let drawn = Options::swarm(3).troubles;
    let mut less = drawn;
    let left_out = drawn.kinds().next().expect("a swarm has some");
    less.set(left_out, 0);
    let kept: Vec<_> = drawn.kinds().filter(|kind| *kind != left_out).collect();
    assert_eq!(less.kinds().collect::<Vec<_>>(), kept);
    assert_eq!(Troubles::none().kinds().count(), 0);
}
