//! Three durable nodes in one process count words, lose their leader in the middle, and lose nothing else.
//!
//! ```text
//! cargo run --release --example quickstart                 # words of its own making
//! cargo run --release --example quickstart -- FILE         # lines of `key value`
//! some-command | cargo run --release --example quickstart -- -
//! ```
//!
//! Input that is piped in is read without the `-` as well, if it begins within two seconds. `--data DIR`
//! keeps the data there instead of in a temporary directory, and goes on from what is there; `--writes N`
//! says how many words to make up. Exits with 1 if an acknowledged write is missing on any node.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use oarlock::{Cluster, Consistency, Machine, Node, ProposeError, Ticket};
use serde::{Deserialize, Serialize};

const USAGE: &str = "\
usage: quickstart [FILE | -] [--data DIR] [--writes N]

Three nodes in this process count words, and lose their leader in the middle.

  FILE        lines of `key value` to write; - is standard input
  --data DIR  keep the data there, not in a temporary directory
  --writes N  without input: how many words to make up (200000)";

/// Proposals in flight at once.
const IN_FLIGHT: usize = 256;
/// How long to look for a leader before giving up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is replicated: for each key how often it was written, and its latest value.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Store {
    words: BTreeMap<String, Word>,
    /// One bit for each write that was applied.
    applied: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Word {
    count: u64,
    value: String,
}

/// One write. Its number makes it safe to propose again when its outcome is unknown.
#[derive(Clone, Serialize, Deserialize)]
struct Set {
    number: usize,
    key: String,
    value: String,
}

impl Store {
    fn has(&self, number: usize) -> bool {
        self.applied.get(number / 64).is_some_and(|bits| bits & (1 << (number % 64)) != 0)
    }
}

impl Machine for Store {
    type Command = Set;
    type Response = u64;

    fn apply(&mut self, set: Set) -> u64 {
        let again = self.has(set.number);
        let word = self.words.entry(set.key).or_default();
        if !again {
            word.count += 1;
            word.value = set.value;
            let at = set.number / 64;
            self.applied.resize(self.applied.len().max(at + 1), 0);
            self.applied[at] |= 1 << (set.number % 64);
        }
        word.count
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    if std::env::args().skip(1).any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(lost) => ExitCode::from(u8::from(lost > 0)),
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::from(2)
        }
    }
}

/// Returns how many acknowledged writes were lost.
fn run() -> Result<usize, Box<dyn Error>> {
    let options = Options::from_args()?;
    let mut writes = options.writes()?;
    if writes.is_empty() {
        println!("nothing to write");
        return Ok(0);
    }
    let cluster = match &options.data {
        Some(dir) => Cluster::builder(3).dir(dir, Store::default)?,
        None => Cluster::temp(3, Store::default)?,
    };
    let data = cluster.data_dir().ok_or("durable nodes have a directory")?.display().to_string();
    println!("three nodes, data in {data}");

    // In a directory that was kept earlier writes have numbers already: go on behind them.
    let leader = cluster.wait_leader(PATIENCE)?;
    let first = leader.read_timeout(PATIENCE, |store| 64 * store.applied.len())?;
    for set in &mut writes {
        set.number += first;
    }
    let mut writer = Writer::new(&cluster, leader, &writes);
    let started = Instant::now();
    let last = writer.write_all()?;
    let took = started.elapsed();
    let crash = writer.crash.ok_or("the leader crashes after half of the writes")?;

    cluster.restart(crash.node)?;
    let mut lost = 0;
    for node in cluster.nodes() {
        // Everything that was acknowledged stands at or before the last acknowledged entry.
        let missing = wait_and_read(&node, last, |store| {
            writes.iter().filter(|set| !store.has(set.number)).count()
        })?;
        let restarted = if node.id() == crash.node { " (restarted)" } else { "" };
        let held = writes.len() - missing;
        println!("node {}: {held} writes, {missing} missing{restarted}", node.id());
        lost += missing;
    }
    let words = wait_and_read(&cluster.wait_leader(PATIENCE)?, last, |store| store.words.len())?;

    let mut latencies = writer.latencies;
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    println!("keys                  {words}");
    println!("writes acknowledged   {}", latencies.len());
    println!("writes lost           {lost}");
    println!("proposed again        {} (the leader was lost before it answered)", writer.retried);
    let outage = match crash.outage {
        Some(outage) => format!("{outage:.0?} (node {} crashed)", crash.node),
        None => "unknown: every write had its answer before the crash".to_owned(),
    };
    println!("time without a leader {outage}");
    let busy = took.saturating_sub(crash.outage.unwrap_or_default()).as_micros().max(1);
    println!(
        "throughput            {} writes/s, up to {IN_FLIGHT} in flight",
        latencies.len() as u128 * 1_000_000 / busy
    );
    println!("latency of a write    p50 {:.1?}, p99 {:.1?}", percentile(50), percentile(99));
    println!(
        "data                  {data}{}",
        if options.data.is_some() { "" } else { " (removed at exit)" }
    );
    Ok(lost)
}

fn wait_and_read<T>(
    node: &Node<Store>,
    entry: oarlock::EntryId,
    look: impl FnOnce(&Store) -> T,
) -> Result<T, Box<dyn Error>> {
    Ok(node.read_with_timeout(Consistency::AtLeast(entry), PATIENCE, look)?)
}

/// The crash in the middle.
struct Crash {
    node: oarlock::NodeId,
    at: Instant,
    /// Until the first write that another leader acknowledged.
    outage: Option<Duration>,
}

/// Writes everything through whatever node leads, many writes at a time.
struct Writer<'a> {
    cluster: &'a Cluster<Store>,
    leader: Node<Store>,
    writes: &'a [Set],
    /// The next write that was never proposed.
    next: usize,
    again: Vec<usize>,
    under_way: VecDeque<(Instant, usize, Ticket<Store>)>,
    latencies: Vec<Duration>,
    retried: usize,
    crash: Option<Crash>,
    progress: Progress,
}

impl<'a> Writer<'a> {
    fn new(cluster: &'a Cluster<Store>, leader: Node<Store>, writes: &'a [Set]) -> Self {
        Self {
            cluster,
            leader,
            writes,
            next: 0,
            again: Vec::new(),
            under_way: VecDeque::new(),
            latencies: Vec::with_capacity(writes.len()),
            retried: 0,
            crash: None,
            progress: Progress::new(writes.len()),
        }
    }

    /// Returns the last entry that was acknowledged.
    fn write_all(&mut self) -> Result<oarlock::EntryId, Box<dyn Error>> {
        let mut last = oarlock::EntryId::ZERO;
        loop {
            self.fill()?;
            let Some((since, number, ticket)) = self.under_way.pop_front() else {
                if self.latencies.len() == self.writes.len() {
                    self.progress.clear();
                    return Ok(last);
                }
                continue;
            };
            let entry = ticket.wait_appended(PATIENCE);
            match ticket.wait() {
                Ok(_count) => {
                    last = last.max(entry.ok_or("an applied command has a place in the log")?);
                    self.acknowledged(since)?;
                }
                Err(error) => self.try_again(number, &error)?,
            }
        }
    }

    fn acknowledged(&mut self, since: Instant) -> Result<(), Box<dyn Error>> {
        self.latencies.push(since.elapsed());
        self.progress.show(self.latencies.len());
        match &mut self.crash {
            None if self.latencies.len() * 2 >= self.writes.len() => {
                let (node, at) = (self.leader.id(), Instant::now());
                self.cluster.crash(node)?;
                self.progress.clear();
                println!("node {node}, the leader, crashed after {} writes", self.latencies.len());
                self.crash = Some(Crash { node, at, outage: None });
            }
            // What the old leader had answered before the crash does not end the outage.
            Some(crash) if crash.outage.is_none() && self.leader.id() != crash.node => {
                crash.outage = Some(crash.at.elapsed());
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps the pipeline full.
    fn fill(&mut self) -> Result<(), Box<dyn Error>> {
        while self.under_way.len() < IN_FLIGHT {
            let number = match self.again.pop() {
                Some(number) => number,
                None if self.next < self.writes.len() => {
                    self.next += 1;
                    self.next - 1
                }
                None => return Ok(()),
            };
            match self.leader.submit(self.writes[number].clone()) {
                Ok(ticket) => self.under_way.push_back((Instant::now(), number, ticket)),
                Err(error) => return self.try_again(number, &error),
            }
        }
        Ok(())
    }

    /// Every error but a command that can never be taken is cured by trying again where the leader is.
    fn try_again(
        &mut self,
        number: usize,
        error: &ProposeError<Set>,
    ) -> Result<(), Box<dyn Error>> {
        if let ProposeError::TooLarge { .. } | ProposeError::NotEncodable { .. } = error {
            return Err(format!("write {number}: {error}").into());
        }
        self.retried += 1;
        self.again.push(number);
        if !matches!(error, ProposeError::Busy(_)) {
            self.leader = self.cluster.wait_leader(PATIENCE)?;
        }
        Ok(())
    }
}

/// A line that updates itself, on a terminal.
struct Progress {
    total: usize,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self { total, shown: None, terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, done: usize) {
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed().as_millis() >= 100) {
            self.shown = Some(Instant::now());
            eprint!("\r{done} of {} writes acknowledged", self.total);
            let _ = io::stderr().flush();
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

struct Options {
    input: Option<PathBuf>,
    data: Option<PathBuf>,
    made_up: usize,
}

impl Options {
    fn from_args() -> Result<Self, String> {
        let mut options = Self { input: None, data: None, made_up: 200_000 };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--data" => options.data = Some(value()?.into()),
                "--writes" => {
                    let writes = value()?;
                    options.made_up =
                        writes.parse().map_err(|_| format!("--writes {writes}: not a number"))?;
                }
                _ if arg.starts_with('-') && arg != "-" => {
                    return Err(format!("unknown option {arg}; --help lists them all"));
                }
                _ if options.input.is_some() => return Err(format!("{arg}: one FILE is enough")),
                _ => options.input = Some(arg.into()),
            }
        }
        Ok(options)
    }

    fn writes(&self) -> Result<Vec<Set>, Box<dyn Error>> {
        let (name, text) = match &self.input {
            Some(path) if path.as_os_str() != "-" => {
                (path.display().to_string(), fs::read_to_string(path))
            }
            Some(_) => ("standard input".to_owned(), io::read_to_string(io::stdin())),
            None => ("standard input".to_owned(), piped_in()),
        };
        let text = text.map_err(|error| format!("{name}: {error}"))?;
        let pairs: Vec<(String, String)> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once(char::is_whitespace).unwrap_or((line, "")))
            .map(|(key, value)| (key.to_owned(), value.trim_start().to_owned()))
            .collect();
        let pairs =
            if pairs.is_empty() && self.input.is_none() { made_up(self.made_up) } else { pairs };
        let sets = pairs.into_iter().enumerate();
        Ok(sets.map(|(number, (key, value))| Set { number, key, value }).collect())
    }
}

/// What somebody pipes in, if anybody does; nothing from a terminal, nor from a pipe that stays silent.
fn piped_in() -> io::Result<String> {
    const SILENCE: Duration = Duration::from_secs(2);
    if io::stdin().is_terminal() {
        return Ok(String::new());
    }
    let (sender, receiver) = crossbeam_channel::bounded(1);
    // If nobody ever writes, the thread waits in its read until the program ends.
    thread::spawn(move || {
        let mut first = [0];
        let begun = io::stdin().read(&mut first);
        let _ = sender.send(begun.map(|read| first[..read].to_vec()));
    });
    let Ok(first) = receiver.recv_timeout(SILENCE) else {
        eprintln!("quickstart: standard input is silent, so words are made up; `-` waits for it");
        return Ok(String::new());
    };
    let mut bytes = first?;
    if !bytes.is_empty() {
        io::stdin().read_to_end(&mut bytes)?;
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Words of two or three syllables, each with a number.
fn made_up(count: usize) -> Vec<(String, String)> {
    const SYLLABLES: [&str; 16] = [
        "an", "be", "co", "da", "el", "fi", "go", "ha", "in", "ju", "ka", "lo", "mi", "no", "or",
        "pe",
    ];
    let mut random = fastrand::Rng::with_seed(1);
    let mut word = || -> String {
        (0..random.usize(2..4)).map(|_| SYLLABLES[random.usize(..SYLLABLES.len())]).collect()
    };
    (0..count).map(|number| (word(), number.to_string())).collect()
}
