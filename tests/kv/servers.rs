//! Clusters of `examples/kv.rs`, each node a process that dies with the test, and ways to talk to them.

#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, RedisError};

use crate::proxy::free_address;

/// An upper bound for anything that should happen soon; no test passes by waiting it out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test. `cargo test` builds it beside the tests; `cargo test --test kv` by itself does not.
pub(crate) fn program() -> PathBuf {
    let tests = env::current_exe().expect("this program");
    let profile = tests.ancestors().nth(2).expect("target/profile/deps/test");
    let program = profile.join("examples").join("kv");
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let parts = fs::read_dir(examples.join("kv")).expect("its parts");
    let sources = parts.map(|part| part.expect("a file").path()).chain([examples.join("kv.rs")]);
    let is_current = sources.map(|source| changed(&source)).max() <= Some(changed(&program));
    assert!(is_current, "{} is not of today: cargo build --example kv", program.display());
    program
}

/// Waits until `holds` does.
///
/// # Panics
/// After [`PATIENCE`].
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it never came to be: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// How a cluster is started.
pub(crate) struct Setup {
    /// What its nodes are called at, by others.
    pub(crate) members: BTreeMap<u64, String>,
    /// Further arguments of each node; they come last, and the last counts.
    pub(crate) args: BTreeMap<u64, Vec<String>>,
    /// What starts the program of a node, if it does not start by itself.
    pub(crate) starters: BTreeMap<u64, Vec<String>>,
}

impl Setup {
    pub(crate) fn of(nodes: u64) -> Self {
        let members = (1..=nodes).map(|id| (id, free_address().to_string())).collect();
        Self { members, args: BTreeMap::new(), starters: BTreeMap::new() }
    }

    pub(crate) fn start(self) -> Servers {
        let dir = tempfile::tempdir().expect("a directory");
        let (running, addresses) = (BTreeMap::new(), Addresses::default());
        let mut servers = Servers { setup: self, dir, running, addresses };
        for id in servers.ids() {
            servers.start(id);
        }
        servers
    }
}

/// Where clients reach the nodes that run.
pub(crate) type Addresses = Arc<Mutex<BTreeMap<u64, SocketAddr>>>;

/// A cluster of processes.
pub(crate) struct Servers {
    setup: Setup,
    dir: tempfile::TempDir,
    running: BTreeMap<u64, Server>,
    addresses: Addresses,
}

struct Server(Child);

impl Servers {
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.setup.members.keys().copied().collect()
    }

    pub(crate) fn start(&mut self, id: u64) {
        let members: Vec<String> =
            self.setup.members.iter().map(|(id, at)| format!("{id}={at}")).collect();
        let program = program().display().to_string();
        let starter = self.setup.starters.get(&id).into_iter().flatten().cloned();
        let mut line = starter.chain([program]);
        let mut command = Command::new(line.next().expect("at least the program"));
        command.args(line);
        command
            .args(["--id", &id.to_string(), "--members", &members.join(",")])
            .args(["--redis", "127.0.0.1:0", "--data"])
            .arg(self.data(id))
            .args(self.setup.args.get(&id).into_iter().flatten());
        let log = File::options().create(true).append(true).open(self.log(id)).expect("a log");
        let child = command
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("a process");
        let mut server = Server(child);
        let out = server.0.stdout.take().expect("piped");
        let line = BufReader::new(out).lines().next();
        let said = line.and_then(Result::ok).unwrap_or_default();
        let redis = said.rsplit(' ').next().and_then(|address| address.parse().ok());
        let log = fs::read_to_string(self.log(id)).unwrap_or_default();
        let redis = redis.unwrap_or_else(|| panic!("node {id} did not start: {said}\n{log}"));
        self.running.insert(id, server);
        self.addresses.lock().expect("no panic").insert(id, redis);
    }

    fn log(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    /// Kills a node as `kill -9` does.
    pub(crate) fn kill(&mut self, id: u64) {
        self.addresses.lock().expect("no panic").remove(&id);
        self.running.remove(&id).expect("it runs");
    }

    /// Where a node keeps its data.
    pub(crate) fn data(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Waits for a node to end by itself; returns its exit code and what it logged.
    pub(crate) fn wait_end(&mut self, id: u64) -> (Option<i32>, String) {
        let mut server = self.running.remove(&id).expect("it ran");
        let mut ended = None;
        until("the process ends", || {
            ended = server.0.try_wait().expect("a child");
            ended.is_some()
        });
        let log = fs::read_to_string(self.log(id)).expect("a log");
        (ended.and_then(|status| status.code()), log)
    }

    pub(crate) fn addresses(&self) -> Addresses {
        Arc::clone(&self.addresses)
    }

    /// Where clients reach a node.
    pub(crate) fn address(&self, id: u64) -> SocketAddr {
        self.addresses.lock().expect("no panic")[&id]
    }

    pub(crate) fn pid(&self, id: u64) -> u32 {
        self.running[&id].0.id()
    }

    /// Talks to a node through a client that nobody here wrote.
    pub(crate) fn client(&self, id: u64) -> Connection {
        client(self.address(id))
    }

    /// The node that leads, once they agree on one that runs.
    pub(crate) fn leader(&self) -> u64 {
        let mut leader = None;
        until("the nodes agree on a leader", || {
            let named: Option<Vec<u64>> =
                self.running.keys().map(|id| self.leader_of(*id)).collect();
            leader = named.and_then(|named| {
                let first = *named.first()?;
                let agreed = named.iter().all(|leader| *leader == first);
                (agreed && self.running.contains_key(&first)).then_some(first)
            });
            leader.is_some()
        });
        leader.expect("just seen")
    }

    /// The nodes that clients may talk to.
    pub(crate) fn serving(&self) -> Vec<u64> {
        self.ids()
    }

    /// What every node holds under a key, which must be a number and the same.
    pub(crate) fn get_everywhere(&self, key: &str) -> u64 {
        let held = self.serving().into_iter().map(|id| {
            let mut held = None;
            until("the node reads", || {
                held = redis::Commands::get(&mut self.client(id), key).ok();
                held.is_some()
            });
            held.flatten().unwrap_or(0)
        });
        let held: Vec<u64> = held.collect();
        assert!(held.windows(2).all(|pair| pair[0] == pair[1]), "{key} is not the same: {held:?}");
        held[0]
    }

    /// Whom a node takes for the leader.
    pub(crate) fn leader_of(&self, id: u64) -> Option<u64> {
        let asked = redis::cmd("RAFT").arg("LEADER").query(&mut self.client(id));
        asked.expect("every node answers this")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if thread::panicking() {
            for id in self.ids() {
                let log = fs::read_to_string(self.log(id)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(30)..];
                eprintln!("the end of what node {id} logged:\n{}\n", last.join("\n"));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn client(address: SocketAddr) -> Connection {
    let opened = redis::Client::open(format!("redis://{address}/"))
        .and_then(|client| client.get_connection_with_timeout(PATIENCE));
    let connection = opened.expect("a server that listens");
    connection.set_read_timeout(Some(PATIENCE)).expect("a socket");
    connection.set_write_timeout(Some(PATIENCE)).expect("a socket");
    connection
}

/// A connection without a client's manners.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a server that listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("taken");
    }

    /// The next line, without its end.
    pub(crate) fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            self.0.read_exact(&mut byte).expect("a reply");
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line[..line.len() - 2]).into_owned()
    }

    /// Everything until the server closes the connection.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an orderly end");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// The first word of an error.
pub(crate) fn code(error: &RedisError) -> Option<&str> {
    error.code()
}

/// Whether a program is here; says so if not.
pub(crate) fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok();
    if !here {
        eprintln!("SKIPPED: {program} is not installed");
    }
    here
}

/// Runs a program to its end, which must be a success; returns what it said.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it can be started");
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} ended with {status}: {out}{err}");
    out.into_owned()
}

/// What a process has in memory, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> usize {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// How many threads a process has.
pub(crate) fn threads(pid: u32) -> usize {
    fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).expect("it runs").count()
}
