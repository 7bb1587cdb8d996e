//! Clients that count, and remember what they were told; what the servers hold must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::servers::{Addresses, PATIENCE, Servers, until};

/// What one client knows of its counter, which no other client touches.
#[derive(Debug, Default)]
struct Tally {
    /// What each `INCR` that was acknowledged answered.
    answers: BTreeSet<u64>,
    /// How many have an unknown outcome.
    unknown: u64,
    /// How many were certainly not done.
    refused: u64,
}

/// Clients at work, some at each node.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: BTreeMap<String, JoinHandle<Tally>>,
}

/// Requests that a client sends at once.
const PIPELINES: [u64; 2] = [1, 16];

impl Load {
    pub(crate) fn start(servers: &Servers) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = BTreeMap::new();
        for id in servers.serving() {
            for pipeline in PIPELINES {
                let counter = format!("counter:{id}:{pipeline}");
                let client = Client {
                    id,
                    pipeline,
                    counter: counter.clone(),
                    addresses: servers.addresses(),
                    stop: Arc::clone(&stop),
                    acknowledged: Arc::clone(&acknowledged),
                    tally: Tally::default(),
                };
                clients.insert(counter, thread::spawn(move || client.run()));
            }
        }
        Self { stop, acknowledged, clients }
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) fn go_on(&self, count: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        until("writes are acknowledged", || self.acknowledged.load(Ordering::Relaxed) >= goal);
    }

    /// Ends, and compares what every node holds with what was said to the clients.
    pub(crate) fn check(self, servers: &Servers) {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Tally::default();
        for (counter, client) in self.clients {
            let tally = client.join().expect("no reply but those that a write can have");
            let held = servers.get_everywhere(&counter);
            let done = tally.answers.len() as u64;
            eprintln!(
                "{counter}={held} {done} done, {} unknown, {} refused",
                tally.unknown, tally.refused
            );
            assert!(held >= done, "{counter}: {done} were acknowledged, and only {held} are there");
            let most = done + tally.unknown;
            assert!(held <= most, "{counter}: at most {most} can have been done, and {held} were");
            let last = tally.answers.last().copied().unwrap_or(0);
            assert!(last <= held, "{counter}: one was told {last}, and it is {held}");
            total.unknown += tally.unknown;
            total.refused += tally.refused;
        }
    }
}

struct Client {
    id: u64,
    pipeline: u64,
    counter: String,
    addresses: Addresses,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    tally: Tally,
}

impl Client {
    fn run(mut self) -> Tally {
        while !self.stop.load(Ordering::Relaxed) {
            let address = self.addresses.lock().expect("no panic").get(&self.id).copied();
            // A connection that breaks is begun anew; the node may be down meanwhile.
            if address.is_none_or(|address| self.talk(address).is_err()) {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.tally
    }

    fn talk(&mut self, address: SocketAddr) -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut replies = BufReader::new(stream.try_clone()?).lines();
        let requests = format!("INCR {}\r\n", self.counter).repeat(self.pipeline as usize);
        while !self.stop.load(Ordering::Relaxed) {
            let mut open = self.pipeline;
            let sent = stream.write_all(requests.as_bytes());
            while sent.is_ok() && open > 0 {
                let Some(Ok(reply)) = replies.next() else { break };
                open -= 1;
                self.hear(&reply);
            }
            if open > 0 {
                // No reply, so nobody knows.
                self.tally.unknown += open;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(())
    }

    fn hear(&mut self, reply: &str) {
        if let Some(answer) = reply.strip_prefix(':') {
            let answer = answer.parse().expect("a number");
            assert!(self.tally.answers.insert(answer), "{}: twice {answer}", self.counter);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        } else if reply.starts_with("-TIMEOUT unknown outcome") {
            self.tally.unknown += 1;
        } else if reply.starts_with("-CLUSTERDOWN never applied") {
            self.tally.refused += 1;
        } else {
            panic!("{}: no reply that a write can have: {reply}", self.counter);
        }
    }
}
