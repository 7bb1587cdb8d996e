//! A whole process with three nodes is killed in the middle of writing, again and again: every write that
//! it had acknowledged is there afterwards, on every node, in order and once.
#![cfg(unix)]

mod journal;

use std::env;
use std::io::{BufRead, BufReader, Write, stdout};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use journal::{Journal, PATIENCE};
use oarlock::{Cluster, Consistency, EntryId, ProposeError};

/// Where the child writes; without it, it is no child.
const DIR: &str = "OARLOCK_TEST_KILL_DIR";
/// Replays a run.
const SEED: &str = "OARLOCK_TEST_KILL_SEED";
const ROUNDS: usize = 8;
/// Proposals that the child keeps in flight.
const IN_FLIGHT: u64 = 32;
/// What a line with an acknowledged value begins with.
const ACKNOWLEDGED: &str = "acknowledged ";

fn open(dir: &Path) -> Cluster<Journal> {
    Cluster::builder(3).dir(dir, Journal::default).expect("starts")
}

/// Writes a value through whoever leads; `None` if nobody knows what became of it.
fn write(cluster: &Cluster<Journal>, value: u64) -> Option<EntryId> {
    loop {
        let leader = cluster.wait_leader(PATIENCE).expect("a leader");
        let Ok(ticket) = leader.submit(value) else { continue };
        let entry = ticket.wait_appended(PATIENCE);
        match ticket.wait() {
            Ok(_) => return Some(entry.expect("applied, so appended")),
            Err(ProposeError::Unknown { .. }) => return None,
            Err(_) => {}
        }
    }
}

/// The child: writes ascending values without end, many in flight, and says which were acknowledged. A
/// value is proposed once: one whose outcome is not known is left alone.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = env::var_os(DIR) else { return };
    let cluster = open(Path::new(&dir));
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let last = leader.read(|journal| journal.values.last().copied()).expect("read");
    // Above every value that a child before may have had in flight.
    let mut next = last.map_or(0, |last| last + 2 * IN_FLIGHT);
    loop {
        let Ok(leader) = cluster.wait_leader(PATIENCE) else { continue };
        let values: Vec<u64> = (next..next + IN_FLIGHT).collect();
        next += IN_FLIGHT;
        let Ok(tickets) = leader.submit_many(values.clone()) else { continue };
        for (value, ticket) in values.into_iter().zip(tickets) {
            if ticket.wait().is_ok() {
                // In one call: a line is there whole or not at all.
                let line = format!("{ACKNOWLEDGED}{value}\n");
                let mut out = stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("a parent");
            }
        }
    }
}

/// A child, and the values that it says were acknowledged.
struct Writer {
    child: Child,
    acknowledged: Receiver<u64>,
}

impl Writer {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, acknowledged) = unbounded();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some(value) = line.strip_prefix(ACKNOWLEDGED) {
                    tell.send(value.parse().expect("a value")).expect("somebody listens");
                }
            }
        });
        Self { child, acknowledged }
    }

    /// Kills it and returns what it had acknowledged.
    fn kill(mut self) -> Vec<u64> {
        self.child.kill().expect("killed");
        let status = self.child.wait().expect("it has ended");
        assert!(!status.success() && status.code().is_none(), "it ended by itself: {status}");
        self.acknowledged.iter().collect()
    }
}

#[test]
fn acknowledged_writes_outlive_a_kill_of_the_whole_process() {
    let seed =
        env::var(SEED).map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    eprintln!("replay with {SEED}={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged: Vec<u64> = Vec::new();
    for round in 0..ROUNDS {
        let writer = Writer::start(dir.path());
        let mut heard = Vec::new();
        // Sometimes while it still starts, mostly while it writes.
        if round % 4 == 3 {
            thread::sleep(Duration::from_millis(rng.u64(..200)));
        } else {
            match writer.acknowledged.recv_timeout(PATIENCE) {
                Ok(value) => heard.push(value),
                Err(RecvTimeoutError::Timeout) => panic!("seed {seed}: nothing acknowledged"),
                Err(RecvTimeoutError::Disconnected) => panic!("seed {seed}: the child ended"),
            }
            thread::sleep(Duration::from_micros(rng.u64(..300_000)));
        }
        heard.extend(writer.kill());
        acknowledged.extend(heard);

        // The next child recovers by itself every other time.
        if rng.bool() || round + 1 == ROUNDS {
            check(dir.path(), &mut acknowledged, seed);
        }
    }
    assert!(acknowledged.len() > 100, "seed {seed}: only {} writes", acknowledged.len());
}

/// Starts on the directory that the child has left, and looks at what every node holds.
fn check(dir: &Path, acknowledged: &mut Vec<u64>, seed: u64) {
    let cluster = open(dir);
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    let last = leader.read(|journal| journal.values.last().copied()).expect("read");
    let barrier = last.map_or(0, |last| last + 2 * IN_FLIGHT);
    let entry = write(&cluster, barrier).expect("a whole cluster knows");
    acknowledged.push(barrier);
    let held: Vec<Vec<u64>> = cluster
        .nodes()
        .iter()
        .map(|node| {
            let barrier = Consistency::AtLeast(entry);
            let read = node.read_with_timeout(barrier, PATIENCE, |journal| journal.values.clone());
            read.expect("the node catches up")
        })
        .collect();
    for (node, values) in (1..).zip(&held) {
        let ascending = values.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(ascending, "seed {seed}: node {node} has a value twice, or out of order");
        let missing: Vec<u64> = acknowledged
            .iter()
            .copied()
            .filter(|value| values.binary_search(value).is_err())
            .collect();
        assert_eq!(missing, [], "seed {seed}: node {node} has lost acknowledged writes");
        assert_eq!(values, &held[0], "seed {seed}: nodes 1 and {node} differ");
    }
}
