//! Every call ends by its deadline, whatever hangs; and whoever waits is woken.

#![allow(clippy::result_large_err, reason = "outcomes carry the command")]

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use oarlock::message::Envelope;
use oarlock::transport::memory::{MemoryTransport, Network};
use oarlock::transport::{Dropped, Inbound, Transport};
use oarlock::{
    Cluster, Config, Consistency, EntryId, LogIndex, Node, ProposeError, ReadError, Role,
    StopCause, Term, Ticket, UnknownCause,
};

use super::fragile::{Fragile, Order};
use super::gates::{Gate, Opener};
use crate::journal::{Journal, PATIENCE, leader_of, member, until};

/// Runs `call` on a thread of its own, and fails if it does not end.
fn ends<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = bounded(1);
    thread::spawn(move || done.send(call()));
    outcome.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} never ended"))
}

const SHORT: Duration = Duration::from_millis(100);

/// A node whose state machine hangs behind the gate, with a proposal in it; eight may be unanswered.
fn hung(gate: &Arc<Gate>) -> (Cluster<Fragile>, Node<Fragile>, Ticket<Fragile>) {
    let config = Config {
        propose_timeout: SHORT,
        read_timeout: SHORT,
        stuck_after: PATIENCE,
        max_pending_proposals: 8,
        ..Config::small()
    };
    let machine = {
        let gate = Arc::clone(gate);
        move || Fragile::behind(&gate)
    };
    let cluster = Cluster::builder(1).config(config).temp(machine).expect("starts");
    let node = cluster.wait_leader(PATIENCE).expect("a leader");
    until(|| node.propose(Order::Add(1)).is_ok());
    gate.close();
    let held = node.submit(Order::Pass).expect("taken");
    gate.until_held();
    (cluster, node, held)
}

#[test]
fn every_proposal_ends_by_its_deadline_when_nothing_moves() {
    // known bugs 27 and 28: nobody waits for ever, and what is not known is called unknown.
    let gate = Arc::<Gate>::default();
    let _opener = Opener(&gate);
    let (_cluster, node, held) = hung(&gate);
    let call = |f: fn(&Node<Fragile>)| {
        let node = node.clone();
        move || f(&node)
    };
    ends("wait", move || match held.wait() {
        Err(ProposeError::Unknown { entry: Some(_), cause: UnknownCause::Deadline }) => {}
        other => panic!("{other:?}"),
    });
    ends(
        "propose",
        call(|node| match node.propose(Order::Add(1)) {
            Err(ProposeError::Unknown { entry: Some(_), cause: UnknownCause::Deadline }) => {}
            other => panic!("{other:?}"),
        }),
    );
    ends(
        "wait_timeout",
        call(|node| {
            let ticket = node.submit(Order::Add(2)).expect("taken");
            assert!(ticket.wait_appended(PATIENCE).is_some());
            match ticket.wait_timeout(Duration::ZERO) {
                Err(ProposeError::Unknown { entry: Some(_), cause: UnknownCause::Deadline }) => {}
                other => panic!("{other:?}"),
            }
        }),
    );
    ends(
        "try_wait",
        call(|node| {
            let mut ticket = node.submit(Order::Add(3)).expect("taken");
            let outcome = loop {
                if let Some(outcome) = ticket.try_wait() {
                    break outcome;
                }
                thread::yield_now();
            };
            assert!(matches!(outcome, Err(ProposeError::Unknown { .. })), "{outcome:?}");
            assert!(ticket.try_wait().is_none(), "an outcome is told once");
        }),
    );
    gate.open();
    // Room comes back with the answers.
    until(|| node.status().pending == 0);
    assert!(node.propose_timeout(Order::Add(1), PATIENCE).is_ok());
}

#[test]
fn a_door_that_stays_full_ends_every_call_by_its_deadline() {
    // known bug 27
    let gate = Arc::<Gate>::default();
    let _opener = Opener(&gate);
    let (_cluster, node, _held) = hung(&gate);
    let call = |f: fn(&Node<Fragile>)| {
        let node = node.clone();
        move || f(&node)
    };
    // Eight may be unanswered, and some of them are: the rest waits at the door.
    ends(
        "submit_many",
        call(|node| {
            let outcomes = match node.submit_many((0..20).map(Order::Add)) {
                Ok(tickets) => tickets.wait_all(),
                Err(ProposeError::Busy(orders)) => {
                    orders.into_iter().map(|order| Err(ProposeError::Busy(order))).collect()
                }
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(outcomes.len(), 20);
            for (at, outcome) in outcomes.into_iter().enumerate() {
                match outcome {
                    Err(ProposeError::Unknown { .. }) if at < 8 => {}
                    Err(ProposeError::Busy(order)) => assert_eq!(order, Order::Add(at as u64)),
                    other => panic!("{at}: {other:?}"),
                }
            }
        }),
    );
    ends(
        "submit",
        call(|node| {
            // The core sweeps what nobody waits for, but `apply` hangs, so no room comes back.
            for number in 0..20 {
                match node.submit(Order::Add(number)) {
                    Ok(_) => {}
                    Err(ProposeError::Busy(Order::Add(same))) if same == number => return,
                    Err(other) => panic!("{other:?}"),
                }
            }
            panic!("twenty were taken where eight may be");
        }),
    );
    gate.open();
    // Room comes back with the answers.
    until(|| node.status().pending == 0);
    assert!(node.propose_timeout(Order::Add(1), PATIENCE).is_ok());
}

#[test]
fn every_read_ends_by_its_deadline_when_nothing_moves() {
    // known bug 27
    let gate = Arc::<Gate>::default();
    let _opener = Opener(&gate);
    let (_cluster, node, _held) = hung(&gate);
    let call = |f: fn(&Node<Fragile>)| {
        let node = node.clone();
        move || f(&node)
    };
    // Readers cannot have the lock that `apply` holds.
    ends(
        "read",
        call(|node| {
            assert!(matches!(node.read(|_| ()), Err(ReadError::Timeout)));
        }),
    );
    ends(
        "a stale read",
        call(|node| {
            let read = node.read_with(Consistency::Stale, |_| ());
            assert!(matches!(read, Err(ReadError::Timeout)));
        }),
    );
    ends(
        "a read of the future",
        call(|node| {
            let never = EntryId::new(Term(1), LogIndex(1 << 40));
            let read = node.read_with(Consistency::AtLeast(never), |_| ());
            assert!(matches!(read, Err(ReadError::Timeout)));
        }),
    );
    gate.open();
    assert!(node.read_timeout(PATIENCE, |state| state.left == state.right).expect("read"));
}

#[test]
fn a_leader_that_reaches_nobody_ends_every_call_by_its_deadline() {
    // known bugs 27 and 28
    let config = Config { propose_timeout: SHORT, read_timeout: SHORT, ..Config::small() };
    let cluster = Cluster::builder(3).config(config).memory(Journal::default).expect("starts");
    let leader = cluster.wait_leader(PATIENCE).expect("a leader");
    cluster.isolate(leader.id()).expect("isolates");
    // As long as it leads, calls end at their deadline; then it knows that it does not.
    loop {
        let node = leader.clone();
        let (written, read) = ends("a call", move || (node.propose(1), node.read(|_| ())));
        match written {
            Err(
                ProposeError::Unknown { entry: Some(_), cause: UnknownCause::Deadline }
                | ProposeError::NotLeader { command: 1, .. },
            ) => {}
            other => panic!("{other:?}"),
        }
        match read {
            Err(ReadError::Timeout) => {}
            Err(ReadError::NotLeader { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    let status = leader.status();
    assert!(status.role != Role::Leader && status.leader.is_none(), "{status:?}");
}

/// Panics on the consensus thread, once it is told to.
struct Faulty {
    network: MemoryTransport,
    broken: Arc<AtomicBool>,
}

impl Transport for Faulty {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        self.network.start(inbound)
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        assert!(!self.broken.load(Ordering::SeqCst), "the wire is on fire");
        self.network.send(envelope)
    }
}

#[test]
fn whoever_waits_is_told_which_thread_panicked() {
    let network = Network::new();
    let broken = Arc::<AtomicBool>::default();
    let nodes: Vec<Node<Journal>> = (1..=3)
        .map(|id| {
            let faulty = Faulty { network: network.transport(), broken: Arc::clone(&broken) };
            let node = member(&network, id, 3, Journal::default()).in_memory().transport(faulty);
            node.start().expect("starts")
        })
        .collect();
    let leader = leader_of(&nodes, 3);
    leader.propose(1).expect("applied");
    network.isolate(leader.id());
    let waiting = leader.submit(2).expect("taken");
    waiting.wait_appended(PATIENCE).expect("in the log");
    broken.store(true, Ordering::SeqCst);
    match waiting.wait() {
        Err(ProposeError::Unknown {
            cause: UnknownCause::Stopped(StopCause::Panicked { thread, message }),
            ..
        }) => {
            assert_eq!(thread, format!("n{}-core", leader.id()));
            assert_eq!(message, "the wire is on fire");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(leader.propose(3), Err(ProposeError::Stopped { command: 3, .. })));
    leader.shutdown(PATIENCE).expect("its threads have ended");
}

#[test]
fn waiting_longer_does_not_move_a_deadline() {
    let gate = Arc::<Gate>::default();
    let machine = {
        let gate = Arc::clone(&gate);
        move || Fragile::behind(&gate)
    };
    let cluster = Cluster::memory(1, machine).expect("starts");
    let node = cluster.wait_leader(PATIENCE).expect("a leader");
    gate.close();
    let _opener = Opener(&gate);
    let begun = Instant::now();
    let outcome = node.propose_timeout(Order::Pass, SHORT);
    assert!(matches!(outcome, Err(ProposeError::Unknown { .. })), "{outcome:?}");
    assert!(begun.elapsed() >= SHORT, "it gave up before its deadline");
    // Not appended, and never will be: `wait_appended` ends with its own timeout.
    let far = EntryId::new(Term(1), LogIndex(1 << 40));
    let read = node.read_with_timeout(Consistency::AtLeast(far), Duration::ZERO, |_| ());
    assert!(matches!(read, Err(ReadError::Timeout)));
}

/// How often this thread has gone to sleep by itself.
fn sleeps_of(thread: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status"));
    let status = status.expect("the thread lives");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("a count of switches").trim().parse().expect("a number")
}

#[test]
fn a_reader_that_waits_for_an_entry_sleeps_until_it_is_woken() {
    let cluster = Cluster::memory(1, Journal::default).expect("starts");
    let node = cluster.wait_leader(PATIENCE).expect("a leader");
    node.propose(1).expect("applied");
    let next = EntryId::new(node.status().term, node.status().applied.next());
    let (tell, told) = bounded(1);
    let reader = {
        let node = node.clone();
        thread::spawn(move || {
            let me = fs::read_link("/proc/thread-self").expect("this thread");
            let name = me.file_name().expect("its number").to_string_lossy().into_owned();
            tell.send(name).expect("somebody listens");
            node.read_with_timeout(Consistency::AtLeast(next), PATIENCE, |journal| {
                journal.values.clone()
            })
        })
    };
    let thread = told.recv_timeout(PATIENCE).expect("the reader runs");
    thread::sleep(Duration::from_millis(50));
    let before = sleeps_of(&thread);
    thread::sleep(Duration::from_millis(500));
    let slept = sleeps_of(&thread) - before;
    // Looking every tick would be fifty times.
    assert!(slept < 10, "it woke {slept} times while nothing happened");
    node.propose(2).expect("applied");
    assert_eq!(reader.join().expect("no panic").expect("read"), [1, 2]);
}
