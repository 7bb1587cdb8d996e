//! Appends records to a log on its own, without a node, and says of each when it is durable.
//!
//! ```text
//! cargo run --release --example wal_append -- --dir DIR [--count N] [--size BYTES] [--batch K]
//! ```
//!
//! Prints `recovered first=F last=L`, the indexes that the log held when it was opened (0 where it held
//! none), and then the index of each record, on a line of its own, once that record is on the disk and not
//! before: kill it whenever you like, and every line that you have read is true. The payload of a record is
//! its index and a space, over and over. Exits with 1 and an error that has a name if the log cannot go
//! on (`Damaged`, `InUse`, `Io`, ...), and with 2 if the arguments make no sense.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use oarlock::clock::{Clock, SystemClock};
use oarlock::error::StorageError;
use oarlock::record::{EntryKind, RecordHeader, record_bytes};
use oarlock::wal::{self, Disk, Flusher, Log, LogOptions, Opened, Preparer};
use oarlock::{EntryId, LogIndex, Member, Membership, NodeId, Term};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const USAGE: &str = "\
usage: wal_append --dir DIR [--count N] [--size BYTES] [--batch K]

Appends records to the log in a directory, and prints the index of each once it is durable.

  --dir DIR     where the log is; created if it is missing
  --count N     how many records to append (1000)
  --size BYTES  the payload of each (256), at most 16 MiB
  --batch K     how many are flushed together (16)";

const MAX_SIZE: usize = 16 << 20;
/// So large at least is a segment, and so many bytes are flushed together at most.
const SEGMENT_BYTES: usize = 1 << 20;
/// After so long without a flush, the last one is to be covered by a mark.
const IDLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// A pipe that is ready takes so much at once without making the writer wait (`PIPE_BUF`).
const PIPE_BYTES: usize = 4096;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        // Nobody reads it: then nobody misses it.
        let _ = writeln!(io::stdout(), "{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Options::parse(args).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("wal_append: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) | Failure::TooLarge(_) => 2,
                Failure::Log(_) | Failure::Output(_) => 1,
            })
        }
    }
}

/// Why it stops.
enum Failure {
    Usage(String),
    TooLarge(usize),
    Log(StorageError),
    Output(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => write!(f, "Usage: {what}\n\n{USAGE}"),
            Self::TooLarge(size) => {
                write!(f, "TooLarge: {size} bytes, and a record has at most {MAX_SIZE}")
            }
            // The name stands first, for scripts; once is enough.
            Self::Log(error) => {
                let text = error.to_string().replacen(": damaged: ", ": ", 1);
                write!(f, "{}: {text}", error.kind.name())
            }
            Self::Output(error) => write!(f, "Output: {error}"),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Log(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

struct Options {
    dir: PathBuf,
    count: u64,
    size: usize,
    batch: u64,
}

impl Options {
    fn parse(args: Vec<String>) -> Result<Self, Failure> {
        let mut dir = None;
        let (mut count, mut size, mut batch) = (1000, 256, 16);
        let mut args = args.into_iter();
        while let Some(flag) = args.next() {
            let value = args.next();
            let value = value.ok_or_else(|| Failure::Usage(format!("{flag}: no value")))?;
            let number = || {
                let number = value.parse::<u64>();
                number.map_err(|error| Failure::Usage(format!("{flag} {value}: {error}")))
            };
            match flag.as_str() {
                "--dir" => dir = Some(PathBuf::from(value)),
                "--count" => count = number()?,
                "--size" => size = usize::try_from(number()?).unwrap_or(usize::MAX),
                "--batch" => batch = number()?,
                _ => return Err(Failure::Usage(format!("{flag}: unknown"))),
            }
        }
        let dir = dir.ok_or_else(|| Failure::Usage("--dir is missing".to_owned()))?;
        if batch == 0 {
            return Err(Failure::Usage("--batch 0: at least one".to_owned()));
        }
        if size > MAX_SIZE {
            return Err(Failure::TooLarge(size));
        }
        Ok(Self { dir, count, size, batch })
    }

    fn log(&self) -> LogOptions {
        let two = 2 * record_bytes(self.size, true);
        LogOptions {
            segment_bytes: two.next_multiple_of(1 << 16).max(SEGMENT_BYTES),
            ready_segments: 1,
            max_entry_bytes: self.size,
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let mut appender = Appender::open(&options.dir, &options.log())?;
    let appended = appender.append_all(options);
    // Also after a failure: what is durable is covered by a mark, if the disk still allows it.
    let closed = appender.close();
    appended.and(closed.map_err(Failure::from))
}

struct Appender {
    log: Log,
    flusher: Flusher,
    preparer: Preparer,
    term: Term,
    last_time: u64,
    /// Everything before and including this was printed, or was there before.
    printed: LogIndex,
}

impl Appender {
    fn open(dir: &Path, options: &LogOptions) -> Result<Self, Failure> {
        let members = Membership::of_voters([(NodeId(1), Member::default())]);
        let opened = wal::open(Arc::new(Disk), dir, NodeId(1), "wal_append", &members, options)?;
        let Opened { log, flusher, preparer, recovered } = opened;
        let last = log.last().index;
        let first = if last == log.base().index { LogIndex::ZERO } else { log.first() };
        let mut out = io::stdout();
        writeln!(out, "recovered first={first} last={last}")?;
        out.flush()?;
        Ok(Self {
            log,
            flusher: flusher.expect("a log on disk has one"),
            preparer,
            term: recovered.hard_state.term.max(Term(1)),
            last_time: recovered.last_time,
            printed: last,
        })
    }

    fn append_all(&mut self, options: &Options) -> Result<(), Failure> {
        let (mut records, mut bytes) = (0, 0);
        for _ in 0..options.count {
            bytes += self.append(options.size)?;
            records += 1;
            if records == options.batch || bytes >= SEGMENT_BYTES {
                self.flush()?;
                (records, bytes) = (0, 0);
            }
        }
        self.flush()
    }

    /// Appends one record, which nobody may count on yet; returns how many bytes it has.
    fn append(&mut self, size: usize) -> Result<usize, Failure> {
        self.last_time = self.last_time.max(SystemClock.now().0);
        let index = self.log.last().index.next();
        let header = RecordHeader {
            id: EntryId::new(self.term, index),
            time: self.last_time,
            kind: EntryKind::Command,
            origin: None,
        };
        let bytes = header.record_bytes(size);
        while self.log.room() < bytes {
            self.preparer.step()?;
        }
        let payload: Vec<u8> = format!("{index} ").bytes().cycle().take(size).collect();
        self.log.append(&header, &payload);
        Ok(bytes)
    }

    /// Makes durable what was appended, and then says so.
    fn flush(&mut self) -> Result<(), Failure> {
        let target = self.log.publish();
        let flushed = self.flusher.flush(target)?;
        let Some((_, durable)) = self.log.persisted(flushed) else { return Ok(()) };
        let mut lines = Vec::new();
        while self.printed < durable {
            self.printed = self.printed.next();
            writeln!(lines, "{}", self.printed)?;
        }
        self.print(&lines)
    }

    fn print(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout();
        for part in lines.chunks(PIPE_BYTES) {
            let ready = poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&IDLE));
            if ready.map_err(io::Error::from)? == 0 {
                // Whoever reads this is in no hurry, so the log is idle: a mark is to say that all of it
                // is durable, or damage to the last batch could pass for a torn tail.
                self.cover()?;
            }
            out.write_all(part)?;
            out.flush()?;
        }
        Ok(())
    }

    fn cover(&mut self) -> Result<(), StorageError> {
        if let Some(target) = self.log.cover() {
            let flushed = self.flusher.flush(target)?;
            self.log.persisted(flushed);
        }
        Ok(())
    }

    fn close(mut self) -> Result<(), StorageError> {
        let target = self.log.publish();
        let flushed = self.flusher.flush(target)?;
        self.log.persisted(flushed);
        self.cover()
    }
}
