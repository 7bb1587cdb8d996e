//! A node over TCP when file descriptors, and whatever else a connection costs, run out. Each test here
//! needs the process for itself.
#![cfg(target_os = "linux")]

mod journal;
mod proxy;

#[allow(dead_code, reason = "each test uses its own part")]
#[path = "tcp/certificates.rs"]
mod certificates;
#[allow(dead_code, reason = "each test uses its own part")]
#[path = "tcp/raw.rs"]
mod raw;
#[allow(dead_code, reason = "each test uses its own part")]
#[path = "tcp/rig.rs"]
mod rig;

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use journal::{Journal, until};
use oarlock::transport::{LinkError, ListenerStatus};
use raw::{Raw, greeting};
use rig::{Kind, Trio, door_error, link};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed is no reason for others to fail.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nodes 1 and 2 serve; whoever likes may be node 3.
fn without_3() -> Trio<Journal> {
    let trio = Trio::start(Kind::Plain);
    trio.stop(3);
    trio.write(&mut 0, 1);
    trio
}

fn is_welcome_as_3(trio: &Trio<Journal>) {
    let ours = greeting(trio.members(), 3, 1);
    let answer = Raw::connect(trio.listens_at(1)).greet(&ours);
    assert_eq!(ours.outcome(&answer, None), Ok(0));
}

fn listener(trio: &Trio<Journal>) -> ListenerStatus {
    trio.node(1).status().listener.expect("it listens")
}

/// What the system counts as this process's memory, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn count(dir: &str) -> usize {
    fs::read_dir(dir).expect("this process").count()
}

/// Sets how many files this process may have, as far as it is allowed to; returns how many those are.
fn limit_files(files: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let files = limit.maximum.map_or(files, |most| most.min(files));
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..limit }).expect("allowed");
    files
}

#[test]
fn ten_thousand_idle_connections_cost_nothing_that_grows() {
    let _alone = alone();
    let most = limit_files(11_000).saturating_sub(1000) as usize;
    if most < 10_000 {
        eprintln!("only {most} connections: this process may not have more files");
    }
    let trio = without_3();
    let mut next = 1;
    let mut idle = Vec::with_capacity(most);
    let mut begin = |count: usize| {
        for number in 0..count {
            let mut stream = TcpStream::connect(trio.listens_at(1)).expect("the node accepts");
            if number % 2 == 0 {
                // Pushed out already, perhaps.
                let _ = stream.write_all(b"oarlock\0");
            }
            idle.push(stream);
        }
    };
    // So that everything is there that a node with strangers at its door needs.
    begin(most / 10);
    trio.write(&mut next, 1);
    let (threads, memory) = (count("/proc/self/task"), resident());
    for _ in 1..10 {
        begin(most / 10);
        trio.write(&mut next, 1);
    }
    is_welcome_as_3(&trio);
    let grown = resident().saturating_sub(memory);
    assert!(grown < 4096, "{grown} KiB for {most} connections");
    assert!(count("/proc/self/task") <= threads, "a thread for a stranger");
    until(|| listener(&trio).turned_away as usize + 64 >= most);
    // Our own ends, and those that have not been pushed out.
    let files = count("/proc/self/fd");
    assert!(files < most + 64 + 200, "{files} files for {most} connections");
    trio.write(&mut next, 10);
}

#[test]
fn a_node_without_file_descriptors_goes_on_and_accepts_again_when_it_has_some() {
    let _alone = alone();
    let trio = without_3();
    let mut next = 1;
    // All that are left are taken but two, which go to connections that then wait to be accepted.
    limit_files(count("/proc/self/fd") as u64 + 100);
    let mut taken: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - 2);
    let waiting =
        [(); 2].map(|()| TcpStream::connect(trio.listens_at(1)).expect("the system does"));
    let error = door_error(trio.node(1), |error| matches!(error, LinkError::Io { .. }));
    assert!(error.to_string().contains("open files"), "{error}");
    // The connections that it has go on.
    trio.write(&mut next, 10);
    assert!(link(trio.node(1), 2).outgoing.connected);
    drop((waiting, taken));
    limit_files(11_000);
    is_welcome_as_3(&trio);
    trio.write(&mut next, 10);
}
