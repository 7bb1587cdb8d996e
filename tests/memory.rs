//! What a node costs in memory, measured in processes of their own: little when it is idle, and nothing
//! that grows with the number of entries but the log itself.
#![cfg(target_os = "linux")]

mod journal;

use std::env;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use journal::{leader_of, member, until};
use oarlock::error::{ApplyError, EncodeError};
use oarlock::transport::memory::Network;
use oarlock::{Applied, Config, EntryId, Node, Role, StateMachine};

/// Says which measurement a child is to make; without it, it is no child.
const CHILD: &str = "OARLOCK_TEST_MEMORY_CHILD";
/// How many entries the long measurement takes; a few hundred thousand if it is not set.
const ENTRIES: &str = "OARLOCK_TEST_MEMORY_ENTRIES";

const MIB: usize = 1 << 20;

/// The memory that this process has in use, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("this process's memory");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("its resident part");
    kib.parse::<usize>().expect("a number") * 1024
}

/// Counts commands, and says that they are kept elsewhere, so that the log may let go of them.
#[derive(Default)]
struct Counter {
    count: u64,
    applied: EntryId,
}

impl StateMachine for Counter {
    type Command = [u8; 16];
    type Response = u64;

    fn encode(command: &[u8; 16], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(command);
        Ok(())
    }

    fn apply_entry(&mut self, _bytes: &[u8], at: &Applied) -> Result<u64, ApplyError> {
        self.count += 1;
        self.applied = at.entry;
        Ok(self.count)
    }

    fn last_applied(&self) -> Option<EntryId> {
        Some(self.applied)
    }
}

fn run_child(name: &str) {
    let child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .output()
        .expect("a child");
    let (out, err) =
        (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success(), "{out}{err}");
    print!("{out}");
}

/// Whether this process is the child that makes this measurement; otherwise it starts that child.
fn is_child(name: &str) -> bool {
    let is_child = env::var(CHILD).is_ok_and(|wanted| wanted == name);
    if !is_child {
        run_child(name);
    }
    is_child
}

fn start(network: &Network, id: u64, of: u64, config: &Config) -> Node<Counter> {
    let node = member(network, id, of, Counter::default()).in_memory().config(config.clone());
    node.start().expect("starts")
}

#[test]
fn an_idle_node_takes_less_than_eight_mebibytes_besides_its_log() {
    if !is_child("an_idle_node_takes_less_than_eight_mebibytes_besides_its_log") {
        return;
    }
    for config in [Config::default(), Config::small()] {
        // The segment being written, and those that are ready.
        let log = config.segment_bytes * (config.ready_segments + 1);
        let mut nodes = Vec::new();
        let mut before = resident();
        for id in 1..=3 {
            let node = start(&Network::new(), 1, 1, &config);
            until(|| node.status().role == Role::Leader && node.status().applied.0 > 0);
            thread::sleep(Duration::from_millis(300));
            nodes.push(node);
            let grown = resident().saturating_sub(before);
            println!("node {id}: {} KiB, log included", grown / 1024);
            let besides = grown.saturating_sub(log);
            assert!(besides < 8 * MIB, "node {id} takes {besides} bytes besides its log");
            before = resident();
        }
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_entries() {
    if !is_child("memory_does_not_grow_with_the_number_of_entries") {
        return;
    }
    let entries = env::var(ENTRIES).map_or(200_000, |count| count.parse().expect("a number"));
    for of in [1, 3] {
        let network = Network::new();
        let nodes: Vec<_> = (1..=of).map(|id| start(&network, id, of, &Config::small())).collect();
        let write = |count: u64| {
            let mut answered = 0;
            while answered < count {
                let leader = leader_of(&nodes, nodes.len());
                if let Ok(tickets) = leader.submit_many((0..1000).map(|_| [7; 16])) {
                    answered +=
                        tickets.wait_all().iter().filter(|reply| reply.is_ok()).count() as u64;
                }
            }
        };
        // Buffers find their sizes, and segments are recycled by then.
        write(entries / 4);
        let warm = resident();
        write(entries - entries / 4);
        let grown = resident().saturating_sub(warm);
        println!(
            "{of} nodes, {entries} entries: {} KiB, then {} KiB more",
            warm / 1024,
            grown / 1024
        );
        for node in &nodes {
            assert!(node.status().first.0 > entries / 2, "the log was to be let go of");
        }
        // The spare segments fill up in the first burst that lets go of several at once, now or earlier.
        let config = Config::small();
        let spares = config.ready_segments * config.segment_bytes;
        let bound = nodes.len() * (MIB + spares);
        assert!(grown < bound, "{grown} bytes after {entries} entries, {bound} is the bound");
    }
}
