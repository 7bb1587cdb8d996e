//! One node, or two, with callers that propose, read, give up and stop it.
//!
//! What a caller is told is held against what was applied: an answer is that of the one time that the
//! command was applied, and "never" is never.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::{Consistency, Node, Tickets};
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::error::{ApplyError, EncodeError, ProposeError, ReadError};
use crate::schedules::{Scenario, explore, scenarios};
use crate::simulation::SimDisk;
use crate::state_machine::{Applied, StateMachine};
use crate::storage::Storage;
use crate::sync::thread;
use crate::sync::{self, FOR_EVER};
use crate::transport::memory::Network;
use crate::types::{EntryId, LogIndex, NodeId, Role, Term};

pub(super) const ALL: &[Scenario] = scenarios![
    proposals_and_reads_take_no_time,
    a_follower_answers_its_callers,
    callers_that_give_up_are_told_the_truth,
    a_stop_answers_everybody,
    a_crash_answers_everybody,
    the_last_handle_stops_the_node,
    nobody_reads_what_is_half_applied,
    a_machine_that_is_short_is_applied_by_two_threads,
    room_is_never_lost,
    a_log_that_rolls_waits_for_no_tick,
];

/// What has been applied anywhere: which command, how often on each node.
type Seen = Arc<Mutex<BTreeMap<(u64, u8), u32>>>;

/// Commands, in the order in which they were applied. A response says how many there were before.
struct Journal<const SHORT: bool> {
    node: u64,
    seen: Seen,
    commands: Vec<u8>,
    /// True while a command is being applied.
    half: bool,
    /// Fails at this command.
    poison: Option<u8>,
}

impl<const SHORT: bool> StateMachine for Journal<SHORT> {
    type Command = u8;
    type Response = usize;

    const APPLY_IS_SHORT: bool = SHORT;

    fn encode(command: &u8, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.resize(if *command >= LARGE { 250 } else { 1 }, *command);
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], _at: &Applied) -> Result<usize, ApplyError> {
        assert!(!self.half, "applied after an error");
        self.half = true;
        thread::yield_now();
        let command = bytes[0];
        if self.poison == Some(command) {
            return Err(ApplyError::new("as planned"));
        }
        *self.seen.lock().expect("no panic").entry((self.node, command)).or_default() += 1;
        self.commands.push(command);
        self.half = false;
        Ok(self.commands.len() - 1)
    }
}

/// Commands from here on take room in the log.
const LARGE: u8 = 100;

/// The schedule's own time.
struct Virtual;

impl Clock for Virtual {
    fn now(&self) -> Time {
        Time(sync::now())
    }
}

fn config() -> Config {
    Config {
        segment_bytes: 1 << 16,
        max_entry_bytes: 256,
        max_batch_bytes: 1 << 10,
        max_append_bytes: 1 << 10,
        max_inflight_bytes: 1 << 20,
        ready_segments: 1,
        propose_timeout: FOR_EVER,
        read_timeout: FOR_EVER,
        ..Config::small()
    }
}

/// Some nodes on simulated disks, the first of which leads.
fn cluster<const SHORT: bool>(
    count: u64,
    config: &Config,
    poison: Option<u8>,
) -> (Vec<Node<Journal<SHORT>>>, Seen) {
    let (network, seen) = (Network::new(), Seen::default());
    let nodes: Vec<_> = (1..=count)
        .map(|node| {
            let (seen, commands) = (Arc::clone(&seen), Vec::new());
            let journal = Journal { node, seen, commands, half: false, poison };
            let disk: Arc<dyn Storage> = Arc::new(SimDisk::new(node));
            Node::builder(node, journal)
                .storage(Path::new("data"), disk)
                .clock(Arc::new(Virtual))
                .transport(network.transport())
                .members((1..=count).map(|id| (id, "")))
                .config(Config {
                    election_ticks: config.election_ticks * if node == 1 { 1 } else { 100 },
                    ..config.clone()
                })
                .start()
                .expect("starts")
        })
        .collect();
    for node in &nodes {
        let known = node.leadership().wait_for(FOR_EVER, |leadership| {
            leadership.role == Role::Leader || leadership.leader == Some(NodeId(1))
        });
        assert!(known.is_some(), "nobody leads");
    }
    (nodes, seen)
}

fn one<const SHORT: bool>(config: &Config) -> (Node<Journal<SHORT>>, Seen) {
    let (mut nodes, seen) = cluster(1, config, None);
    (nodes.remove(0), seen)
}

fn shut_down<const SHORT: bool>(nodes: Vec<Node<Journal<SHORT>>>) {
    for node in &nodes {
        node.shutdown(FOR_EVER).expect("all threads end");
    }
}

/// Holds what a caller was told against what was applied.
fn check(command: u8, reply: &Result<usize, ProposeError<u8>>, seen: &Seen) {
    let applied = seen.lock().expect("no panic");
    let times: Vec<u32> =
        (1..=3).filter_map(|node| applied.get(&(node, command)).copied()).collect();
    assert!(times.iter().all(|&times| times == 1), "{command} was applied {times:?} times");
    match reply {
        Ok(_) => assert!(!times.is_empty(), "{command} was answered, and never applied"),
        Err(ProposeError::Unknown { .. }) => {}
        Err(error) => {
            assert!(times.is_empty(), "{command} was applied, and its caller told {error}")
        }
    }
}

fn proposals_and_reads_take_no_time() -> u64 {
    explore(60, || {
        let (node, seen) = one::<false>(&config());
        let hasty = sync::world(|world| world.is_hasty());
        // The node has nothing to do until something is asked of it.
        let begun = sync::now();
        let calling: Vec<_> = [1, 2]
            .into_iter()
            .map(|command| {
                let (node, seen) = (node.clone(), Arc::clone(&seen));
                thread::spawn(move || {
                    let reply = node.propose(command);
                    check(command, &reply, &seen);
                    let place = reply.expect("applied");
                    let found = node.read(|journal| journal.commands.get(place).copied());
                    assert_eq!(found.expect("read"), Some(command), "a read that missed a write");
                })
            })
            .collect();
        for calling in calling {
            calling.join().expect("no panic");
        }
        assert!(hasty || sync::now() == begun, "{} ns passed", sync::now() - begun);
        shut_down(vec![node]);
    })
}

fn a_follower_answers_its_callers() -> u64 {
    explore(20, || {
        let (nodes, seen) = cluster::<false>(2, &config(), None);
        let hasty = sync::world(|world| world.is_hasty());
        let begun = sync::now();
        let calling: Vec<_> = [(0, 1), (1, 2), (1, 3)]
            .into_iter()
            .map(|(at, command)| {
                let (node, seen) = (nodes[at].clone(), Arc::clone(&seen));
                thread::spawn(move || {
                    let reply = node.propose(command);
                    check(command, &reply, &seen);
                    let Ok(place) = reply else { return false };
                    match node.read(|journal| journal.commands.get(place).copied()) {
                        Ok(found) => {
                            assert_eq!(found, Some(command), "a read that missed a write");
                            true
                        }
                        Err(_) => false,
                    }
                })
            })
            .collect();
        let answered: Vec<bool> =
            calling.into_iter().map(|calling| calling.join().expect("no panic")).collect();
        // Where deadlines come early the leader may fall.
        assert!(hasty || answered == [true; 3], "{answered:?}");
        assert!(hasty || sync::now() == begun, "{} ns passed", sync::now() - begun);
        shut_down(nodes);
    })
}

fn callers_that_give_up_are_told_the_truth() -> u64 {
    explore(60, || {
        let (node, seen) = one::<false>(&config());
        let calling: Vec<_> = (1..=3)
            .map(|command| {
                let node = node.clone();
                thread::spawn(move || {
                    let mut ticket = node.submit(command).expect("taken");
                    let reply = match command {
                        1 => ticket.wait_timeout(Duration::ZERO),
                        2 => match ticket.try_wait() {
                            Some(reply) => reply,
                            None => ticket.wait_timeout(Duration::from_nanos(1)),
                        },
                        _ => {
                            let _ = ticket.wait_appended(Duration::from_nanos(1));
                            ticket.wait()
                        }
                    };
                    (command, reply)
                })
            })
            .collect();
        let told: Vec<_> =
            calling.into_iter().map(|calling| calling.join().expect("no panic")).collect();
        assert!(told[2].1.is_ok(), "{:?}", told[2].1);
        shut_down(vec![node]);
        for (command, reply) in told {
            check(command, &reply, &seen);
        }
    })
}

/// Callers of every kind, and somebody who stops the node meanwhile; one of them waits for something that
/// never comes, unless all must come back by themselves.
fn stop_among_callers(all_come_back: bool, stop: fn(Node<Journal<false>>)) {
    // Some wait for room.
    let (node, seen) = one::<false>(&Config { max_pending_proposals: 2, ..config() });
    let proposing = {
        let node = node.clone();
        thread::spawn(move || node.propose(1))
    };
    let submitting = {
        let node = node.clone();
        thread::spawn(move || {
            let tickets = node.submit_many([2, 3]);
            drop(node);
            tickets.map(Tickets::wait_all)
        })
    };
    let reading = {
        let node = node.clone();
        thread::spawn(move || node.read(|journal| assert!(!journal.half)))
    };
    let never = Consistency::AtLeast(EntryId::new(Term(1), LogIndex(1000)));
    let hoping = (!all_come_back).then(|| {
        let node = node.clone();
        thread::spawn(move || node.read_with(never, |_| ()))
    });
    let mut subscription = node.leadership();
    let watching = thread::spawn(move || {
        let last = subscription.wait_for(FOR_EVER, |leadership| leadership.stopped);
        assert!(last.is_some_and(|last| last.role != Role::Leader));
    });
    let (hasty, begun) = (sync::world(|world| world.is_hasty()), sync::now());
    stop(node);
    // A stop that waits for something that never comes gives up after half a second.
    let took = Duration::from_nanos(sync::now() - begun);
    assert!(hasty || took < Duration::from_millis(400), "it took {took:?}");
    check(1, &proposing.join().expect("no panic"), &seen);
    match submitting.join().expect("no panic") {
        Ok(replies) => {
            for (command, reply) in [2, 3].into_iter().zip(replies) {
                check(command, &reply, &seen);
            }
        }
        Err(error) => assert!(
            matches!(error, ProposeError::Stopped { .. } | ProposeError::NotLeader { .. }),
            "{error}"
        ),
    }
    match reading.join().expect("no panic") {
        Ok(()) | Err(ReadError::Stopped(_) | ReadError::NotLeader { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    if let Some(hoping) = hoping {
        let hoped = hoping.join().expect("no panic");
        assert!(matches!(hoped, Err(ReadError::Stopped(_))), "{hoped:?}");
    }
    watching.join().expect("no panic");
}

fn a_stop_answers_everybody() -> u64 {
    explore(60, || {
        stop_among_callers(false, |node| node.shutdown(FOR_EVER).expect("all threads end"))
    })
}

fn a_crash_answers_everybody() -> u64 {
    explore(60, || stop_among_callers(false, |node| node.halt(FOR_EVER).expect("all threads end")))
}

fn the_last_handle_stops_the_node() -> u64 {
    explore(60, || stop_among_callers(true, drop))
}

fn nobody_reads_what_is_half_applied() -> u64 {
    explore(60, || {
        let (mut nodes, seen) = cluster::<false>(1, &config(), Some(2));
        let node = nodes.remove(0);
        let proposing = {
            let node = node.clone();
            thread::spawn(move || [node.propose(1), node.propose(2)])
        };
        let reading: Vec<_> = (0..2)
            .map(|_| {
                let node = node.clone();
                thread::spawn(move || {
                    // Until the node has stopped.
                    while let Ok(half) = node.read_with(Consistency::Stale, |journal| journal.half)
                    {
                        assert!(!half, "a half-applied state was read");
                        thread::yield_now();
                    }
                })
            })
            .collect();
        let [first, second] = proposing.join().expect("no panic");
        check(1, &first, &seen);
        assert!(matches!(second, Err(ProposeError::Unknown { .. })), "{second:?}");
        for reading in reading {
            reading.join().expect("no panic");
        }
        node.shutdown(FOR_EVER).expect("all threads end");
    })
}

fn a_machine_that_is_short_is_applied_by_two_threads() -> u64 {
    explore(60, || {
        let (node, seen) = one::<true>(&config());
        let calling: Vec<_> = (1..=3)
            .map(|command| {
                let (node, seen) = (node.clone(), Arc::clone(&seen));
                thread::spawn(move || {
                    let reply = node.propose(command);
                    check(command, &reply, &seen);
                    let place = reply.expect("applied");
                    let found = node.read(|journal| journal.commands.get(place).copied());
                    assert_eq!(found.expect("read"), Some(command), "a read that missed a write");
                })
            })
            .collect();
        for calling in calling {
            calling.join().expect("no panic");
        }
        shut_down(vec![node]);
    })
}

fn room_is_never_lost() -> u64 {
    explore(60, || {
        let (node, seen) = one::<false>(&Config { max_pending_proposals: 1, ..config() });
        let calling: Vec<_> = (1..=3)
            .map(|command| {
                let node = node.clone();
                thread::spawn(move || {
                    let timeout = if command == 1 { Duration::from_nanos(1) } else { FOR_EVER };
                    (command, node.propose_timeout(command, timeout))
                })
            })
            .collect();
        for calling in calling {
            let (command, reply) = calling.join().expect("no panic");
            check(command, &reply, &seen);
            assert!(command == 1 || reply.is_ok(), "{reply:?}");
        }
        // The last answers are given a moment before their room comes back.
        let settled = (0..1000).any(|_| {
            thread::yield_now();
            node.status().pending == 0
        });
        assert!(settled, "{} are pending", node.status().pending);
        shut_down(vec![node]);
    })
}

fn a_log_that_rolls_waits_for_no_tick() -> u64 {
    explore(60, || {
        let (node, _seen) = one::<false>(&config());
        let hasty = sync::world(|world| world.is_hasty());
        let begun = sync::now();
        // More than the two segments hold that there are.
        let tickets = node.submit_many([LARGE; 600]).expect("taken");
        assert!(tickets.wait_all().iter().all(Result::is_ok));
        assert!(hasty || sync::now() == begun, "{} ns passed", sync::now() - begun);
        // It tells its status at its ticks.
        thread::park_timeout(2 * Config::default().tick);
        assert!(node.status().log_segments > 2, "{}", node.status().log_segments);
        shut_down(vec![node]);
    })
}
