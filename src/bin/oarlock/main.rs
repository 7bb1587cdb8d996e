//! The program `oarlock`: looks into data directories, and says whether a disk is fit for one.
//!
//! Only reads data directories, so it may be used while a node runs on them. What it prints is for
//! scripts as well: the texts with a key first, the JSON lines, and the exit codes are kept stable.

mod disk;
mod dump;
mod json;
mod stat;
mod verify;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use lexopt::{Arg, Parser, ValueExt};
use oarlock::LogIndex;
use oarlock::error::{StorageError, StorageErrorKind};
use oarlock::storage::Storage;
use oarlock::wal::{self, Disk, Inspection};

const USAGE: &str = "\
usage: oarlock log stat DIR [--json]
       oarlock log verify DIR [--json]
       oarlock log dump DIR [--from INDEX] [--to INDEX] [--json]
       oarlock disk DIR [--count N] [--json]

Looks into the data directory of a node, also while the node runs: takes no lock, writes nothing.

  log stat    whose it is, term and vote, what the log holds, how far it is durable, its files
  log verify  whether a node could start on it; if not, the exact place of the damage
  log dump    the entries, one on a line
  disk        whether a disk is fit: writes to it for some seconds, in a directory of its own that
              is removed, and says how long flushes take and what election timeout they allow

  --json      JSON, one object on a line
  --from, --to INDEX  the first and the last entry to be shown
  --count N   how many flushes to measure (1000, or as many as there are in 3 seconds)
  --help, --version

Exits with 0 if all is well (a torn tail is), with 1 if there is damage, with 2 if the arguments make
no sense, and with 3 if something cannot be read or written, or is no data directory.
";

/// Flushes that are measured.
const DEFAULT_FLUSHES: usize = 1000;

fn main() -> ExitCode {
    let mut out = Output { to: BufWriter::new(io::stdout().lock()), json: false };
    let done =
        Command::parse(Parser::from_env(), &mut out.json).and_then(|command| command.run(&mut out));
    // What was found before a failure is said before it.
    let flushed = out.to.flush().map_err(Failure::from);
    match done.and_then(|verdict| flushed.map(|()| verdict)) {
        Ok(Verdict::Sound) => ExitCode::SUCCESS,
        Ok(Verdict::Damaged) => ExitCode::from(1),
        Err(Failure::Usage(problem)) => {
            complain(&format!("{problem}\n\n{USAGE}"));
            ExitCode::from(2)
        }
        Err(Failure::Refused(problem)) => {
            complain(&problem);
            ExitCode::from(3)
        }
        // Whoever reads this has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(Failure::Output(error)) => {
            complain(&format!("standard output: {error}"));
            ExitCode::from(3)
        }
    }
}

fn complain(problem: &str) {
    // Nobody reads it: then nobody misses it.
    let _ = writeln!(io::stderr(), "oarlock: {}", problem.trim_end());
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    Damaged,
}

/// Why nothing was found.
#[derive(Debug)]
enum Failure {
    Usage(String),
    Refused(String),
    Output(io::Error),
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Where everything is printed, and how.
struct Output<'a> {
    to: BufWriter<io::StdoutLock<'a>>,
    json: bool,
}

impl Output<'_> {
    fn line(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.to, "{line}")?)
    }

    /// A text with its key in a column of its own.
    fn pair(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        self.line(&format!("{key:<13} {value}"))
    }
}

/// What to do.
enum Command {
    Help,
    Version,
    Stat(PathBuf),
    Verify(PathBuf),
    Dump { dir: PathBuf, from: LogIndex, to: LogIndex },
    Disk { dir: PathBuf, count: usize },
}

impl Command {
    fn parse(mut args: Parser, json: &mut bool) -> Result<Self, Failure> {
        let mut words: Vec<PathBuf> = Vec::new();
        let (mut from, mut to, mut count) = (None, None, None);
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Long("help") | Arg::Short('h') => return Ok(Self::Help),
                Arg::Long("version") | Arg::Short('V') => return Ok(Self::Version),
                Arg::Long("json") => *json = true,
                Arg::Long("from") => from = Some(LogIndex(args.value()?.parse()?)),
                Arg::Long("to") => to = Some(LogIndex(args.value()?.parse()?)),
                Arg::Long("count") => count = Some(args.value()?.parse()?),
                Arg::Value(word) => words.push(word.into()),
                other => return Err(other.unexpected().into()),
            }
        }
        let names: Vec<_> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
        let command = match names[..] {
            ["log", "stat", _] => Self::Stat(words.remove(2)),
            ["log", "verify", _] => Self::Verify(words.remove(2)),
            ["log", "dump", _] => {
                let (from, to) = (from.take(), to.take());
                let from = from.unwrap_or(LogIndex::ZERO);
                let to = to.unwrap_or(LogIndex(u64::MAX));
                Self::Dump { dir: words.remove(2), from, to }
            }
            ["disk", _] => {
                let count = count.take().unwrap_or(DEFAULT_FLUSHES);
                Self::Disk { dir: words.remove(1), count }
            }
            ["log"] => return Err(Failure::Usage("log: stat, verify or dump?".to_owned())),
            ["log", "stat" | "verify" | "dump"] | ["disk"] => {
                return Err(Failure::Usage("of which directory?".to_owned()));
            }
            [] => return Err(Failure::Usage("no command".to_owned())),
            _ => return Err(Failure::Usage(format!("unknown command: {}", names.join(" ")))),
        };
        let misplaced = [
            (from.is_some() || to.is_some(), "--from and --to are for `log dump`"),
            (count.is_some(), "--count is for `disk`"),
            (matches!(command, Self::Disk { count: 0, .. }), "--count 0: at least one"),
        ];
        match misplaced.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, why)) => Err(Failure::Usage(why.to_owned())),
            None => Ok(command),
        }
    }

    fn run(self, out: &mut Output<'_>) -> Result<Verdict, Failure> {
        match self {
            Self::Help => write!(out.to, "{USAGE}")?,
            Self::Version => out.line(concat!("oarlock ", env!("CARGO_PKG_VERSION")))?,
            Self::Stat(dir) => return stat::run(&dir, out),
            Self::Verify(dir) => return verify::run(&dir, out),
            Self::Dump { dir, from, to } => return dump::run(&dir, from, to, out),
            Self::Disk { dir, count } => disk::run(&dir, count, out)?,
        }
        Ok(Verdict::Sound)
    }
}

/// What there is in a directory; damage to its identity, which is damage to all of it, as the second part.
fn inspect(dir: &Path) -> Result<Result<Inspection, StorageError>, Failure> {
    let storage: Arc<dyn Storage> = Arc::new(Disk);
    match wal::inspect(&storage, dir) {
        Ok(Some(inspection)) => Ok(Ok(inspection)),
        Ok(None) if dir.exists() => {
            Err(Failure::Refused(format!("{}: is no data directory of a node", dir.display())))
        }
        Ok(None) => Err(Failure::Refused(format!("{}: there is no such directory", dir.display()))),
        Err(error) if matches!(error.kind, StorageErrorKind::Damaged { .. }) => Ok(Err(error)),
        Err(error) => Err(error.into()),
    }
}
