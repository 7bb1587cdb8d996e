//! Pure cores in a network that loses, doubles, delays and reorders, on disks that lag behind and nodes
//! that crash with what was not flushed.
//!
//! Each seed is one run; the onlooker of `support::network` checks every step. A failing run prints its
//! seed; `OARLOCK_SEED=n` repeats it alone and prints what happened, `OARLOCK_SEEDS=n` runs more.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use oarlock::consensus::{Input, Options};
use oarlock::{Membership, NodeId};
use support::network::Network;
use support::{ELECTION_TICKS, joint, members, options, voters};

const STEPS: usize = 3000;

/// Numbers from a seed: splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }
}

fn membership(dice: &mut Dice) -> Membership {
    match dice.below(8) {
        0 => voters([1]),
        1 => voters([1, 2]),
        2 => voters([1, 2, 3, 4, 5]),
        3 => joint([1, 2, 3], [3, 4, 5]),
        4 => joint([1, 2, 3], [1]),
        5 => Membership { learners: members([4]).into_iter().collect(), ..voters([1, 2, 3]) },
        _ => voters([1, 2, 3]),
    }
}

struct Run {
    dice: Dice,
    network: Network,
    nodes: Vec<u64>,
    /// How rarely a packet is lost, a node stopped, links cut or healed.
    loss: usize,
    crashes: usize,
    unrest: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let membership = membership(&mut dice);
        let (pre_vote, check_quorum) = (!dice.one_in(3), !dice.one_in(3));
        let (loss, crashes) = ([5, 20, 1000][dice.below(3)], [60, 400, 100_000][dice.below(3)]);
        let unrest = [1, 3][dice.below(2)];
        // Short timeouts make elections as common as messages.
        let (heartbeat_ticks, election_ticks) = [(1, 3), (2, ELECTION_TICKS)][dice.below(2)];
        let mut network = Network::new(&membership, |node| Options {
            heartbeat_ticks,
            election_ticks,
            pre_vote,
            check_quorum,
            seed: seed ^ (node << 8),
            ..options(node)
        });
        network.slow_fetches = dice.one_in(3);
        let nodes = membership.nodes().iter().map(|node| node.0).collect();
        Self { dice, network, nodes, loss, crashes, unrest }
    }

    fn any_node(&mut self) -> u64 {
        self.nodes[self.dice.below(self.nodes.len())]
    }

    fn act(&mut self) {
        let node = self.any_node();
        if !self.network.is_up(node) {
            if self.dice.one_in(10) {
                self.network.restart(node);
            }
            return self.deliver();
        }
        match self.dice.below(100) {
            0..=14 => drop(self.network.step(node, Input::Tick)),
            15..=29 => self.flush(node),
            30..=31 => self.send_to_leader(Input::Read),
            32..=36 => {
                let count = 1 + self.dice.below(8) as u64;
                self.send_to_leader(Input::Propose { count });
            }
            42..=44 => {
                let (node, count) = (self.any_node(), 1 + self.dice.below(3) as u64);
                if self.network.is_up(node) {
                    self.network.forward(node, count);
                }
            }
            37 if self.dice.one_in(self.unrest) => self.disturb(node),
            38..=41 => self.fetch(node),
            _ => self.deliver(),
        }
        if self.dice.one_in(self.crashes) {
            let (log, hard_state) = (self.dice.below(4), self.dice.below(2));
            self.network.crash(node, log, hard_state);
        }
    }

    /// To whoever believes to lead; sometimes to somebody who does not.
    fn send_to_leader(&mut self, input: Input) {
        let node = self.any_node();
        if self.network.is_up(node) {
            self.network.step(node, input);
        }
    }

    fn flush(&mut self, node: u64) {
        if self.dice.one_in(2) {
            self.network.flush_hard_state(node);
        }
        let count = 1 + self.dice.below(3);
        self.network.flush_log(node, count);
        self.network.nodes[&NodeId(node)].check_disk();
    }

    fn fetch(&mut self, node: u64) {
        let fetches = self.network.nodes[&NodeId(node)].fetches();
        if fetches > 0 {
            let place = self.dice.below(fetches);
            self.network.fetch(node, place);
        }
    }

    fn disturb(&mut self, node: u64) {
        match self.dice.below(8) {
            0 => self.network.isolate(node),
            // A leader that is cut off goes on appending what will have to go.
            1 | 2 => self.isolate_leader(),
            3 => {
                let to = self.any_node();
                self.network.cut(node, to);
            }
            4 | 5 => self.network.heal(),
            6 => drop(self.network.step(node, Input::Campaign)),
            _ => {
                self.network.step(node, Input::Fit(false));
                self.network.step(node, Input::Fit(true));
            }
        }
    }

    fn isolate_leader(&mut self) {
        if let Some(leader) = self.network.leader() {
            self.network.isolate(leader);
            let count = 1 + self.dice.below(3) as u64;
            self.network.step(leader, Input::Propose { count });
        }
    }

    /// Delivers a packet, mostly one of the older; or loses it, or delivers it and keeps it.
    fn deliver(&mut self) {
        let waiting = self.network.packets.len();
        if waiting == 0 {
            return;
        }
        let place = if self.dice.one_in(3) { self.dice.below(waiting) } else { 0 };
        if self.dice.one_in(self.loss) {
            let packet = self.network.packets.remove(place).expect("within the queue");
            let from = packet.from.node.0;
            if self.network.is_up(from) && self.dice.one_in(2) {
                self.network.step(from, Input::Dropped { to: packet.to });
            }
            return;
        }
        if self.dice.one_in(10) {
            let again = self.network.packets[place].clone();
            self.network.packets.push_back(again);
        }
        self.network.deliver(place);
    }

    /// When the faults end, somebody leads, new commands commit everywhere, reads are answered.
    fn recover(&mut self) {
        self.network.heal();
        self.network.slow_fetches = false;
        for node in self.nodes.clone() {
            if !self.network.is_up(node) {
                self.network.restart(node);
            }
        }
        self.network.settle();
        // A leader that lost its quorum just before may resign yet: it has to hold for a while.
        let mut steady = 0;
        for _ in 0..40 * ELECTION_TICKS {
            self.network.tick_all();
            let followed =
                self.network.leader().is_some_and(|leader| self.everybody_follows(leader));
            steady = if followed { steady + 1 } else { 0 };
            if steady > 2 * ELECTION_TICKS {
                break;
            }
        }
        assert!(steady > 2 * ELECTION_TICKS, "nobody leads for long");
        let leader = self.network.leader().expect("a leader once the network is whole");
        self.network.step(leader, Input::Propose { count: 3 });
        let reads = self.network.onlooker.confirmed_reads;
        self.network.step(leader, Input::Read);
        self.network.settle();
        for _ in 0..4 * ELECTION_TICKS {
            self.network.tick_all();
        }
        assert!(self.network.onlooker.confirmed_reads > reads, "a read was never answered");
        let log = &self.network.nodes[&NodeId(leader)].log;
        for (id, node) in &self.network.nodes {
            assert_eq!(node.log, *log, "node {id} differs from leader {leader}");
            assert_eq!(node.core().committed().0 as usize, log.len(), "node {id}");
        }
    }

    fn everybody_follows(&self, leader: u64) -> bool {
        self.nodes.iter().all(|&node| self.network.core(node).leader() == Some(NodeId(leader)))
    }
}

/// Runs one seed, and says what it was if it fails.
fn run(seed: u64, trace: bool) -> Run {
    let mut run = Run::new(seed);
    run.network.trace = trace.then(Vec::new);
    let result = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            run.act();
        }
        run.recover();
    }));
    if let Err(panic) = result {
        for line in run.network.trace.iter().flatten() {
            println!("{line}");
        }
        println!("repeat with: OARLOCK_SEED={seed} cargo test --test consensus_network");
        resume_unwind(panic);
    }
    run
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn rafts_properties_hold_whatever_network_disks_and_crashes_do() {
    if let Some(seed) = number("OARLOCK_SEED") {
        run(seed, true);
        return;
    }
    let (mut elections, mut commits, mut reads, mut truncations) = (0, 0, 0, 0);
    let mut forwards = 0;
    for seed in 0..number("OARLOCK_SEEDS").unwrap_or(300) {
        let run = run(seed, false);
        elections += run.network.onlooker.elections;
        commits += run.network.onlooker.committed.len();
        reads += run.network.onlooker.confirmed_reads;
        truncations += run.network.onlooker.truncations;
        forwards += run.network.onlooker.committed_forwards;
    }
    // A run in which nothing happens proves nothing.
    println!("{elections} elections, {commits} commits, {forwards} of them forwarded");
    println!("{reads} reads, {truncations} truncations");
    assert!(elections > 600 && commits > 5000 && reads > 1000 && truncations > 50);
    assert!(forwards > 1000);
}

#[test]
fn a_run_is_repeated_exactly_by_its_seed() {
    let traces = [run(7, true), run(7, true)].map(|run| run.network.trace);
    assert_eq!(traces[0], traces[1]);
}
