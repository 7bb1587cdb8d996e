//! Runs simulated worlds, as many as wanted, and says what happened in them.
//!
//! ```text
//! cargo run --release --features simulation --example simulate -- --seed 0 --runs 1000
//! ```
//!
//! Each seed is a world of its own: nodes, network, disks, clients and troubles are drawn from it. A world
//! that breaks a promise is run again, smaller and smaller, and what is left of it is printed with the
//! command that shows it again. A campaign can be interrupted and resumed (`--resume FILE`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use oarlock::simulation::{Broken, Options, Profile, Report, Swaps, Trouble, World, shrink};

const HELP: &str = "\
usage: simulate [options]

  --seed S        the first seed (0)
  --runs N        how many seeds (100)
  --steps K       events under faults in each world (20000)
  --nodes N|A..B  how many nodes, instead of a number drawn from the seed
  --clients N     how many clients, instead of a number drawn from the seed
  --profile P     swarm (all troubles), network, crashes, disks or calm
  --without A,B   leaves troubles out; --troubles lists them
  --jobs N        threads (one for each core)
  --trace LINES   prints the last events of each world
  --resume FILE   keeps the state of the campaign there, and goes on with it
  --json          prints the report as JSON, and everything else to stderr

Exit codes: 0 if every promise was kept, 1 if not, 2 if the arguments make no sense.
";

/// What the command line asks for.
#[derive(Clone)]
struct Campaign {
    first: u64,
    runs: u64,
    steps: u64,
    nodes: Option<RangeInclusive<u64>>,
    clients: Option<u64>,
    profile: Profile,
    without: Vec<Trouble>,
    jobs: usize,
    trace: Option<usize>,
    state: Option<PathBuf>,
    json: bool,
}

impl Campaign {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut campaign = Self {
            first: 0,
            runs: 100,
            steps: 20_000,
            nodes: None,
            clients: None,
            profile: Profile::Swarm,
            without: Vec::new(),
            jobs: thread::available_parallelism().map_or(1, usize::from),
            trace: None,
            state: None,
            json: false,
        };
        while let Some(name) = args.next() {
            if name == "--json" {
                campaign.json = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} takes a value\n\n{HELP}"))?;
            match name.as_str() {
                "--seed" => campaign.first = number(&value)?,
                "--runs" => campaign.runs = number(&value)?,
                "--steps" => campaign.steps = number(&value)?,
                "--nodes" => campaign.nodes = Some(range(&value)?),
                "--clients" => campaign.clients = Some(number(&value)?.max(1)),
                "--profile" => {
                    let profile = Profile::from_name(&value);
                    campaign.profile = profile.ok_or_else(|| format!("no profile {value}"))?;
                }
                "--without" => {
                    for name in value.split(',') {
                        let trouble = Trouble::from_name(name);
                        campaign.without.push(trouble.ok_or_else(|| format!("no trouble {name}"))?);
                    }
                }
                "--jobs" => campaign.jobs = number(&value)?.clamp(1, 1024) as usize,
                "--trace" => campaign.trace = Some(number(&value)? as usize),
                "--resume" => campaign.state = Some(value.into()),
                _ => return Err(format!("no option {name}\n\n{HELP}")),
            }
        }
        Ok(campaign)
    }

    /// The world of one seed.
    fn options(&self, seed: u64) -> Options {
        let mut options = Options { steps: self.steps, ..Options::draw(self.profile, seed) };
        if let Some(nodes) = &self.nodes {
            options.nodes = nodes.start() + seed % (nodes.end() - nodes.start() + 1);
        }
        options.clients = self.clients.unwrap_or(options.clients);
        options.troubles.retain(|trouble| !self.without.contains(&trouble));
        options
    }

    /// Everything about the campaign that changes its worlds.
    fn describe(&self) -> String {
        let Self { first, runs, steps, nodes, clients, profile, without, .. } = self;
        let without: Vec<_> = without.iter().map(|trouble| trouble.name()).collect();
        format!(
            "first {first} runs {runs} steps {steps} nodes {nodes:?} clients {clients:?} profile {profile} without {without:?}"
        )
    }

    /// The command that shows one world again.
    fn replay(&self, options: &Options) -> String {
        let drawn = Options::draw(self.profile, options.seed);
        let Options { seed, steps, nodes, clients, .. } = options;
        let mut command = format!(
            "cargo run --release --features simulation --example simulate -- --seed {seed} --runs 1 \
             --steps {steps} --nodes {nodes} --clients {clients} --profile {}",
            self.profile
        );
        let without: Vec<&str> = drawn
            .troubles
            .kinds()
            .filter(|&kind| options.troubles.get(kind) == 0)
            .map(Trouble::name)
            .collect();
        if !without.is_empty() {
            let _ = write!(command, " --without {}", without.join(","));
        }
        command + " --trace 100"
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|_| format!("{text} is no number"))
}

fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if 1 <= first && first <= last && last <= 64 {
        Ok(first..=last)
    } else {
        Err(format!("{text} is no range of 1 to 64 nodes"))
    }
}

/// Half of the machines keep their own state, so that the log lets go of its beginning.
fn workload(seed: u64) -> Swaps {
    Swaps::new(seed.is_multiple_of(2))
}

fn run(options: &Options) -> Result<Report, Broken> {
    World::run(options.clone(), workload(options.seed))
}

/// How far a campaign is. Worlds count in the order of their seeds, whenever they end.
#[derive(Default)]
struct Progress {
    /// Seeds that are done, from the first on.
    done: u64,
    failed: Vec<u64>,
    sum: Report,
}

impl Progress {
    /// Reads what an earlier run of the same campaign left behind.
    fn load(path: &Path, campaign: &Campaign) -> Result<Self, String> {
        let Ok(text) = fs::read_to_string(path) else { return Ok(Self::default()) };
        let (head, report) = text.split_once("report\n").ok_or("the state file has no report")?;
        let mut progress = Self::default();
        for line in head.lines() {
            match line.split_once(' ') {
                Some(("done", done)) => progress.done = number(done)?,
                Some(("failed", seed)) => progress.failed.push(number(seed)?),
                _ if line == campaign.describe() => {}
                _ => return Err(format!("{} is of another campaign: {line}", path.display())),
            }
        }
        progress.sum = Report::from_lines(report).ok_or("the state file's report is unreadable")?;
        Ok(progress)
    }

    /// Leaves it behind, whole or not at all.
    fn save(&self, path: &Path, campaign: &Campaign) -> Result<(), String> {
        let mut text = format!("{}\ndone {}\n", campaign.describe(), self.done);
        for seed in &self.failed {
            let _ = writeln!(text, "failed {seed}");
        }
        let _ = write!(text, "report\n{}", self.sum.to_lines());
        let new = path.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
        written.map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// So many worlds that break a promise are made smaller; of more, the seeds are told.
const MAX_SHRUNK: usize = 3;

/// Tells of a world that broke a promise, and with `smaller` what is left of it when all that does not matter
/// is gone.
fn tell(campaign: &Campaign, seed: u64, broken: &Broken, smaller: bool) {
    let options = campaign.options(seed);
    let mut text =
        format!("\nseed {seed} breaks a promise: {broken}\n  {}\n", campaign.replay(&options));
    if smaller {
        let shrunk = shrink(&options, broken, 300, |options| run(options).err());
        let (_, trace) = World::run_traced(shrunk.options.clone(), workload(seed), 60);
        let _ = writeln!(
            text,
            "\nsmaller, after {} tries: {}\n  {}\n{trace}",
            shrunk.runs,
            shrunk.broken,
            campaign.replay(&shrunk.options)
        );
    }
    if campaign.json { eprint!("{text}") } else { print!("{text}") }
}

/// The report of a whole campaign, as one JSON object.
fn to_json(progress: &Progress, time: Duration, rate: u64) -> String {
    let report = progress.sum.to_json();
    let open = report.strip_suffix('}').expect("an object");
    let (failed, seconds) = (&progress.failed, time.as_secs_f64());
    format!(
        "{open},\"failed_seeds\":{failed:?},\"seconds\":{seconds:.1},\"events_per_second\":{rate}}}"
    )
}

/// Shows the last events of each world; true if every promise was kept.
fn show_traces(campaign: &Campaign, lines: usize) -> bool {
    let mut kept = true;
    for seed in campaign.first..campaign.first + campaign.runs {
        let (outcome, trace) = World::run_traced(campaign.options(seed), workload(seed), lines);
        kept &= outcome.is_ok();
        let outcome = outcome.map_or_else(|broken| broken.to_string(), |report| report.to_json());
        println!("seed {seed}\n{trace}{outcome}");
    }
    kept
}

fn run_campaign(campaign: &Campaign, mut progress: Progress) -> Result<Progress, String> {
    let begun = Instant::now();
    let before = progress.sum.events;
    let next = AtomicU64::new(progress.done);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (results, ended) = mpsc::sync_channel(1024);
        for _ in 0..campaign.jobs {
            let results = results.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= campaign.runs {
                        break;
                    }
                    let result = run(&campaign.options(campaign.first + at));
                    if results.send((at, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        let outcome = collect(campaign, &mut progress, ended, |progress| {
            let rate = rate(progress.sum.events - before, begun.elapsed());
            eprintln!(
                "{} of {} worlds, {} events, {rate} a second, {} h simulated, {} failed",
                progress.done,
                campaign.runs,
                progress.sum.events,
                progress.sum.time.as_secs() / 3600,
                progress.failed.len()
            );
        });
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    Ok(progress)
}

/// How many in a second.
fn rate(count: u64, time: Duration) -> u64 {
    count * 1000 / (time.as_millis() as u64).max(1)
}

/// Adds up results in the order of their seeds, and says and saves how far that is now and then.
fn collect(
    campaign: &Campaign,
    progress: &mut Progress,
    results: mpsc::Receiver<(u64, Result<Report, Broken>)>,
    say: impl Fn(&Progress),
) -> Result<(), String> {
    const EVERY: Duration = Duration::from_secs(5);
    let mut early = BTreeMap::new();
    let mut said = Instant::now();
    for (at, result) in results {
        early.insert(at, result);
        while let Some(result) = early.remove(&progress.done) {
            let seed = campaign.first + progress.done;
            progress.done += 1;
            match result {
                Ok(report) => progress.sum.add(&report),
                Err(broken) => {
                    progress.failed.push(seed);
                    tell(campaign, seed, &broken, progress.failed.len() <= MAX_SHRUNK);
                }
            }
        }
        if said.elapsed() >= EVERY {
            said = Instant::now();
            say(progress);
            if let Some(path) = &campaign.state {
                progress.save(path, campaign)?;
            }
        }
    }
    if let Some(path) = &campaign.state {
        progress.save(path, campaign)?;
    }
    Ok(())
}

/// Runs what is asked for; true if every promise was kept.
fn simulate(campaign: &Campaign) -> Result<bool, String> {
    if let Some(lines) = campaign.trace {
        return Ok(show_traces(campaign, lines));
    }
    // A panic in the library is told as a broken promise, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let begun = Instant::now();
    let loaded = match &campaign.state {
        Some(path) => Progress::load(path, campaign)?,
        None => Progress::default(),
    };
    let before = loaded.sum.events;
    let progress = run_campaign(campaign, loaded)?;
    let (time, failed) = (begun.elapsed(), &progress.failed);
    let rate = rate(progress.sum.events - before, time);
    if campaign.json {
        println!("{}", to_json(&progress, time, rate));
    } else {
        let (seconds, count) = (time.as_secs_f64(), failed.len());
        println!(
            "{}\n{count} failed {failed:?}, {seconds:.1} s, {rate} events a second",
            progress.sum
        );
    }
    Ok(failed.is_empty())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|arg| arg == "--troubles") {
        for trouble in Trouble::ALL {
            println!("{}", trouble.name());
        }
        return ExitCode::SUCCESS;
    }
    match Campaign::from_args(args.into_iter()).and_then(|campaign| simulate(&campaign)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::from(2)
        }
    }
}
