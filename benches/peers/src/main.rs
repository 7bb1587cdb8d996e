//! Oarlock against raft-rs: the same load, in one run, in turns.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- \
//!     [--seconds 1] [--rounds 3] [--bytes 256] [--only memory|disk] [--json]
//! ```
//!
//! Each contestant is three nodes in this process. In memory raft-rs keeps its log in its `MemStorage`;
//! on disk raft-engine holds it, flushed before any message that depends on it. Every proposal waits
//! until it is committed and applied, and its answer is the state that it led to; after each measurement
//! all nodes must have applied exactly the proposals that were answered.
//!
//! # What is fair about it
//!
//! - One generator, one state machine, one set of timeouts (10 ms ticks, heartbeats at 10, elections
//!   from 100), pre-vote and check-quorum on both sides.
//! - Rounds take turns: a change of the machine's mood in the middle meets both. The figure to read is
//!   the ratio, and the spread beside it says how far to trust it.
//! - raft-rs leaves threads, batches and answers to the program around it, and that program is written
//!   to win: see `with_raft_rs.rs`. Each of its choices (yields before sleeping, one proposal message for
//!   all that waits, no messages for the commit index alone, answers a batch at a time, prefilled and
//!   recycled files without compression) was kept because it was faster, or no slower.
//! - Both contestants run for as long as a place (memory, disk) is measured; the one whose turn it is not
//!   only ticks, which costs about half a per cent of one core.
//!
//! # What is not
//!
//! - Written by Oarlock's authors, on Oarlock's kind of field: one group, one process, no network.
//!   raft-rs is made for thousands of groups that share threads, disk and batches (TiKV's), which nothing
//!   here shows. Neither is TCP measured.
//! - raft-rs's contestant does less than a product would: it checks no message, limits no queue, has no
//!   deadlines, hands no command back, and cannot be read from. Oarlock does all that here as anywhere.
//! - raft-rs's log in memory carries no checksums; Oarlock's does, and checks them on each follower.
//! - raft-engine shares one log among many groups and flushes on the thread that writes; raft-rs can be
//!   given a thread for that (`advance_append_async`). With two cores it gains nothing, with more it may.
//! - `MemStorage` is called incomplete by its own documentation and copies more than a storage of one's
//!   own would have to.
//! - The load takes part of the same cores, and of the CPU time for each operation.

mod fold;
mod load;
mod mailbox;
mod table;
mod with_oarlock;
mod with_raft_rs;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use load::{Contestant, Shape, measure};
use table::{Cell, Row};
use with_oarlock::Oarlock;
use with_raft_rs::RaftRs;

const NODES: u64 = 3;
const TICK: Duration = Duration::from_millis(10);
const HEARTBEAT_TICKS: u32 = 10;
/// Long, for an election would spoil a race, and both have the same.
const ELECTION_TICKS: u32 = 100;

const USAGE: &str =
    "options: [--seconds 1] [--rounds 3] [--bytes 256] [--only memory|disk] [--json]";

/// Where the logs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Memory,
    Disk,
}

impl Place {
    const ALL: [Self; 2] = [Self::Memory, Self::Disk];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

struct Options {
    seconds: f64,
    rounds: usize,
    bytes: usize,
    only: Option<Place>,
    json: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { seconds: 1.0, rounds: 3, bytes: 256, only: None, json: false };
        while let Some(option) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{option} needs a value"));
            match option.as_str() {
                "--seconds" => options.seconds = number(&value()?)?,
                "--rounds" => options.rounds = number(&value()?)?,
                "--bytes" => options.bytes = number(&value()?)?,
                "--only" => {
                    let name = value()?;
                    let place = Place::ALL.into_iter().find(|place| place.name() == name);
                    options.only = Some(place.ok_or(format!("no place is called {name}"))?);
                }
                "--json" => options.json = true,
                _ => return Err(format!("unknown option {option}")),
            }
        }
        if !(0.01..=3600.0).contains(&options.seconds) {
            return Err("--seconds must be between 0.01 and 3600".into());
        }
        if options.rounds == 0 {
            return Err("--rounds must not be 0".into());
        }
        if !(1..=128 << 10).contains(&options.bytes) {
            return Err("--bytes must be between 1 and 131072".into());
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number that fits"))
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    for place in Place::ALL {
        if options.only.is_none_or(|only| only == place) {
            race(place, &options);
        }
    }
    ExitCode::SUCCESS
}

fn race(place: Place, options: &Options) {
    let command = command(options.bytes);
    let duration = Duration::from_secs_f64(options.seconds);
    let (oarlock, raft_rs) = (Oarlock::start(place), RaftRs::start(place));
    if !options.json {
        table::print_header(place, options.bytes);
    }
    for shape in Shape::ALL {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            ours.push(run(&oarlock, shape, &command, duration));
            theirs.push(run(&raft_rs, shape, &command, duration));
        }
        let row = Row { shape, oarlock: Cell::of(ours), raft_rs: Cell::of(theirs) };
        if options.json {
            table::print_json(place, options.bytes, &row);
        } else {
            table::print_row(&row);
        }
    }
}

fn run(
    contestant: &impl Contestant,
    shape: Shape,
    command: &Arc<[u8]>,
    duration: Duration,
) -> load::Measured {
    measure(contestant, shape, command, duration)
}

/// Bytes that do not compress: xorshift.
fn command(bytes: usize) -> Arc<[u8]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}
