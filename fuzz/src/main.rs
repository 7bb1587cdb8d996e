//! A short run of every target on stable Rust: samples, changed at random, from a seed.
//!
//! It knows nothing of coverage, so it finds what is near the samples. `long` looks further.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use fastrand::Rng;
use oarlock_fuzz::{TARGETS, Target};

const USAGE: &str = "\
usage: oarlock-fuzz [--target NAME] [--runs N] [--seed S]
       oarlock-fuzz --target NAME FILE...

Runs every target, or one, on what corpus/NAME holds and on N variations of it; or on the files.";

const MAX_BYTES: usize = 4096;

struct Arguments {
    target: Option<String>,
    runs: u64,
    seed: u64,
    files: Vec<PathBuf>,
}

fn arguments() -> Option<Arguments> {
    let mut parsed = Arguments { target: None, runs: 20_000, seed: 1, files: Vec::new() };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--target" => parsed.target = Some(given.next()?),
            "--runs" => parsed.runs = given.next()?.parse().ok()?,
            "--seed" => parsed.seed = given.next()?.parse().ok()?,
            option if option.starts_with("--") => return None,
            file => parsed.files.push(file.into()),
        }
    }
    (parsed.files.is_empty() || parsed.target.is_some()).then_some(parsed)
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let chosen = arguments.target.as_deref();
    let targets: Vec<&(&str, Target)> =
        TARGETS.iter().filter(|(name, _)| chosen.is_none_or(|chosen| chosen == *name)).collect();
    if targets.is_empty() {
        eprintln!("no target is called {}", chosen.unwrap_or_default());
        return ExitCode::from(2);
    }
    for (name, target) in targets {
        if arguments.files.is_empty() {
            if !run(name, *target, arguments.runs, arguments.seed) {
                return ExitCode::FAILURE;
            }
            continue;
        }
        for file in &arguments.files {
            println!("{name}: {}", file.display());
            target(&fs::read(file).expect("a file to read"));
        }
    }
    ExitCode::SUCCESS
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The samples of a target, in the order of their names.
fn samples(name: &str) -> Vec<Vec<u8>> {
    let dir = home().join("corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|file| file.expect("a readable directory").path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a sample")).collect()
}

/// Runs a target on its samples, and on so many variations. Returns whether all was well.
fn run(name: &str, target: Target, runs: u64, seed: u64) -> bool {
    let began = Instant::now();
    let samples = samples(name);
    let mut rng = Rng::with_seed(seed);
    for sample in &samples {
        if !survives(name, target, sample) {
            return false;
        }
    }
    for _ in 0..runs {
        if !survives(name, target, &variation(&samples, &mut rng)) {
            return false;
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{name}: {} samples, {runs} variations, seed {seed}, {took:.1} s", samples.len());
    true
}

fn survives(name: &str, target: Target, data: &[u8]) -> bool {
    if catch_unwind(|| target(data)).is_ok() {
        return true;
    }
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let dir = home().join("failures");
    let file = dir.join(format!("{name}-{:016x}", hasher.finish()));
    match fs::create_dir_all(&dir).and_then(|()| fs::write(&file, data)) {
        Ok(()) => println!(
            "{name} failed; again: cargo run --release --manifest-path fuzz/Cargo.toml --bin \
             oarlock-fuzz -- --target {name} {}",
            file.display()
        ),
        Err(error) => println!("{name} failed on {data:?}, which cannot be stored: {error}"),
    }
    false
}

/// A sample with some changes; now and then out of nothing.
fn variation(samples: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut data = match samples {
        [] => Vec::new(),
        _ if rng.u8(..32) == 0 => Vec::new(),
        _ => samples[rng.usize(..samples.len())].clone(),
    };
    for _ in 0..=rng.u8(..8) {
        change(&mut data, samples, rng);
    }
    data.truncate(MAX_BYTES);
    data
}

fn change(data: &mut Vec<u8>, samples: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.usize(..=data.len());
    let rest = data.len() - at;
    let part = |rng: &mut Rng| rng.usize(..=rest.min(64));
    match rng.u8(..9) {
        0 if rest > 0 => data[at] ^= 1 << rng.u8(..8),
        1 if rest > 0 => data[at] = rng.u8(..),
        2 if rest > 0 => data[at] = [0, 1, 0x7F, 0x80, 0xFF][rng.usize(..5)],
        3 if rest > 0 => {
            let number = [0, 1, 1 << 31, 1 << 62, u64::from(u32::MAX), u64::MAX][rng.usize(..6)];
            let length = rest.min([4, 8][rng.usize(..2)]);
            data[at..at + length].copy_from_slice(&number.to_le_bytes()[..length]);
        }
        4 => {
            let end = at + part(rng);
            data.drain(at..end);
        }
        5 => {
            let copied = data[at..at + part(rng)].to_vec();
            let to = rng.usize(..=data.len());
            data.splice(to..to, copied);
        }
        6 if !samples.is_empty() => {
            let other = &samples[rng.usize(..samples.len())];
            let from = rng.usize(..=other.len());
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
        _ => {
            let new: Vec<u8> = (0..rng.usize(..16)).map(|_| rng.u8(..)).collect();
            data.splice(at..at, new);
        }
    }
}
