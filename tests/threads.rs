//! A node has the threads that are documented, whatever it does, and leaves none behind.
#![cfg(target_os = "linux")]

mod journal;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use journal::{Journal, PATIENCE, leader_of, member, until};
use oarlock::transport::memory::Network;
use oarlock::{Config, Node, NodeBuilder, NodeId, Role};

/// The threads of this process whose names begin like those of node `id`, in order.
fn threads_of(id: u64) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/proc/self/task")
        .expect("this process's threads")
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .filter(|name| name.strip_prefix(&format!("n{id}-")).is_some())
        .collect();
    names.sort();
    names
}

fn named(id: u64, roles: &[&str]) -> Vec<String> {
    roles.iter().map(|role| format!("n{id}-{role}")).collect()
}

const ON_DISK: [&str; 5] = ["apply", "core", "seg", "snap", "wal"];
const IN_MEMORY: [&str; 4] = ["apply", "core", "seg", "snap"];

fn alone(id: u64) -> NodeBuilder<Journal> {
    let config = Config {
        segment_bytes: 1 << 16,
        max_entry_bytes: 4 << 10,
        max_batch_bytes: 8 << 10,
        max_append_bytes: 8 << 10,
        ..Config::small()
    };
    Node::builder(id, Journal::default()).members([(id, "")]).config(config)
}

#[test]
fn a_node_has_its_documented_threads_under_any_load_and_none_afterwards() {
    let dir = tempfile::tempdir().expect("a directory");
    let cases = [
        (501, alone(501).data_dir(dir.path()), &ON_DISK[..]),
        (502, alone(502).in_memory(), &IN_MEMORY[..]),
    ];
    for (id, node, roles) in cases {
        let node = node.start().expect("starts");
        // A thread has its name once it runs.
        until(|| threads_of(id) == named(id, roles));
        until(|| node.status().role == Role::Leader);
        let done = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let (node, done) = (node.clone(), Arc::clone(&done));
                thread::spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        node.propose(client).expect("applied");
                        node.read(|journal| journal.values.len()).expect("read");
                    }
                })
            })
            .collect();
        // Long enough for the log to fill several segments.
        while node.status().last.index.0 < 8000 {
            let tickets = node.submit_many(0..500).expect("taken");
            assert_eq!(threads_of(id), named(id, roles));
            assert!(tickets.wait_all().iter().all(Result::is_ok));
        }
        done.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().expect("no panic");
        }
        assert_eq!(threads_of(id), named(id, roles));
        node.shutdown(PATIENCE).expect("stops");
        // The kernel lists a thread for a moment after its last word.
        until(|| threads_of(id).is_empty());
    }
}

#[test]
fn peers_in_the_same_process_cost_no_threads() {
    let network = Network::new();
    let nodes: Vec<Node<Journal>> = (1..=3)
        .map(|id| member(&network, id, 3, Journal::default()).in_memory().start().expect("starts"))
        .collect();
    leader_of(&nodes, 3).propose(1).expect("applied");
    for id in 1..=3 {
        assert_eq!(threads_of(id), named(id, &IN_MEMORY));
    }
    drop(nodes);
    until(|| (1..=3).all(|id| threads_of(id).is_empty()));
}

#[test]
fn the_name_of_a_thread_says_what_it_does_even_if_the_id_of_its_node_is_long() {
    // Linux keeps 15 bytes of a name and would cut off the end.
    let node = alone(u64::MAX).in_memory().start().expect("starts");
    assert_eq!(node.id(), NodeId(u64::MAX));
    until(|| node.status().role == Role::Leader);
    let names = || -> Vec<String> {
        let tasks = fs::read_dir("/proc/self/task").expect("this process's threads");
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect()
    };
    for end in ["09551615-apply", "709551615-core", "3709551615-seg", "709551615-snap"] {
        let name = format!("n{end}\n");
        until(|| names().contains(&name));
        assert!(name.len() <= 16);
    }
}

#[test]
fn a_start_that_fails_leaves_no_thread_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = alone(503).data_dir(dir.path()).start().expect("starts");
    for _ in 0..3 {
        assert!(alone(503).data_dir(dir.path()).start().is_err(), "it is in use");
    }
    until(|| threads_of(503) == named(503, &ON_DISK));
    drop(node);
    until(|| threads_of(503).is_empty());
}
