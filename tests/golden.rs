//! Scripts that drive cores by hand, with everything that goes in and comes out written below each
//! command, compared byte for byte with what the core does.
//!
//! A line that begins with `>` is a command, the lines after it are its effects: `1 < tick` is a fact
//! given to node 1, `1 > persist term=1 vote=1` an order that came out. After a change that is meant,
//! `OARLOCK_BLESS=1 cargo test --test golden` writes the effects anew, to be reviewed as a diff.
//!
//! ```text
//! nodes 1 2 3 [outgoing=1,4] [learners=5] [pre-vote=no] [check-quorum=no]
//! disk N [term=T] [vote=V] [log=T,T,..]   what node N finds when it starts; it is started anew
//! tick N [COUNT]   campaign N   propose N COUNT   read N   fit N yes|no   full N yes|no
//! forward N COUNT  N sends proposals to the leader it knows
//! flush N          the log, and then term and vote, are on N's disk
//! flush-log N [COUNT]   flush-vote N
//! deliver [A B]    everything that is on its way now (from A to B)
//! later [A B]      the first of them after everything else
//! double [A B]     the same, twice       drop [A B]   not at all      dropped A B   and A knows it
//! isolate N   heal   crash N   restart N
//! settle           flush and deliver until nothing is left
//! state N
//! ```

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use oarlock::consensus::{Input, Options};
use oarlock::{HardState, Membership, NodeId, Term};
use support::network::{Disk, Entry, Network, Payload};
use support::{entry, members, options, show, voters};

struct Words<'a>(Vec<&'a str>);

impl Words<'_> {
    fn number<T: FromStr>(&self, place: usize) -> Option<T> {
        self.0.get(place).map(|word| {
            word.parse().unwrap_or_else(|_| panic!("{word} in {:?} is no number", self.0))
        })
    }

    fn node(&self, place: usize) -> u64 {
        self.number(place).unwrap_or_else(|| panic!("{:?} names no node", self.0))
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn list(&self, name: &str) -> Vec<u64> {
        let list =
            self.setting(name).unwrap_or_default().split(',').filter(|item| !item.is_empty());
        list.map(|item| item.parse().expect("a list of numbers")).collect()
    }
}

fn network(words: &Words<'_>) -> Network {
    let plain = words.0[1..].iter().filter(|word| !word.contains('='));
    let membership = Membership {
        outgoing: members(words.list("outgoing")).into_iter().collect(),
        learners: members(words.list("learners")).into_iter().collect(),
        ..voters(plain.map(|word| word.parse().expect("a node")))
    };
    let is_on = |name| words.setting(name) != Some("no");
    let mut network = Network::new(&membership, |node| Options {
        pre_vote: is_on("pre-vote"),
        check_quorum: is_on("check-quorum"),
        ..options(node)
    });
    network.trace = Some(Vec::new());
    network
}

fn disk(words: &Words<'_>) -> Disk {
    let log: Vec<Entry> = words
        .list("log")
        .into_iter()
        .zip(1..)
        .map(|(term, index)| Entry { id: entry(term, index), payload: Payload::Noop })
        .collect();
    let last = log.last().map_or(Term(0), |entry| entry.id.term);
    let term = words.setting("term").map_or(last, |term| Term(term.parse().expect("a term")));
    let voted_for = words.setting("vote").map(|node| NodeId(node.parse().expect("a node")));
    Disk { hard_state: HardState { term, voted_for }, log, boots: 0 }
}

/// The places of the packets that the command means, last first.
fn packets(network: &Network, words: &Words<'_>) -> Vec<usize> {
    let is_meant = |place: &usize| {
        let packet = &network.packets[*place];
        words.0.len() == 1 || (packet.from.node.0 == words.node(1) && packet.to.0 == words.node(2))
    };
    (0..network.packets.len()).rev().filter(is_meant).collect()
}

fn take_packets(network: &mut Network, words: &Words<'_>, copies: usize) {
    let places = packets(network, words);
    let mut taken: Vec<_> =
        places.into_iter().map(|place| network.packets.remove(place).expect("listed")).collect();
    taken.reverse();
    let waiting = std::mem::take(&mut network.packets);
    for packet in taken {
        for _ in 0..copies {
            network.packets.push_front(packet.clone());
            network.deliver(0);
        }
    }
    for packet in waiting.into_iter().rev() {
        network.packets.push_front(packet);
    }
}

fn run(network: &mut Network, words: &Words<'_>) -> Vec<String> {
    let node = || words.node(1);
    match words.0[0] {
        "nodes" => *network = self::network(words),
        "disk" => {
            network.crash(node(), 0, 0);
            let disk = disk(words);
            let options = network.core_options(node());
            network.add(options, disk);
        }
        "tick" => {
            for _ in 0..words.number(2).unwrap_or(1) {
                network.step(node(), Input::Tick);
            }
        }
        "campaign" => drop(network.step(node(), Input::Campaign)),
        "propose" => {
            let count = words.number(2).expect("how many");
            network.step(node(), Input::Propose { count });
        }
        "forward" => network.forward(node(), words.number(2).expect("how many")),
        "later" => {
            let first = packets(network, words).pop().expect("a packet to delay");
            let packet = network.packets.remove(first).expect("listed");
            network.packets.push_back(packet);
        }
        "read" => drop(network.step(node(), Input::Read)),
        "fit" => drop(network.step(node(), Input::Fit(words.0[2] == "yes"))),
        "full" => drop(network.step(node(), Input::Full(words.0[2] == "yes"))),
        "flush" => network.flush(node()),
        "flush-log" => {
            network.flush_log(node(), words.number(2).unwrap_or(usize::MAX));
        }
        "flush-vote" => drop(network.flush_hard_state(node())),
        "deliver" => take_packets(network, words, 1),
        "double" => take_packets(network, words, 2),
        "drop" => take_packets(network, words, 0),
        "dropped" => {
            take_packets(network, words, 0);
            network.step(node(), Input::Dropped { to: NodeId(words.node(2)) });
        }
        "isolate" => network.isolate(node()),
        "heal" => network.heal(),
        "crash" => network.crash(node(), 0, 0),
        "restart" => network.restart(node()),
        "settle" => network.settle(),
        "state" => {
            let state = show::state(network.core(node()));
            return state.into_iter().map(|line| format!("{} = {line}", node())).collect();
        }
        command => panic!("no command is called {command}"),
    }
    network.trace.as_mut().map(std::mem::take).unwrap_or_default()
}

/// The script with the effects that its commands have.
fn play(script: &str) -> String {
    let mut network = Network::new(&voters([]), options);
    network.trace = Some(Vec::new());
    let mut played = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix('>') {
            writeln!(played, "{line}").expect("written to memory");
            let words = Words(command.split_whitespace().collect());
            for effect in run(&mut network, &words) {
                writeln!(played, "{effect}").expect("written to memory");
            }
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(played, "{line}").expect("written to memory");
        }
    }
    played
}

#[test]
fn scripts_have_the_effects_that_are_written_in_them() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bless = std::env::var_os("OARLOCK_BLESS").is_some();
    let mut count = 0;
    for file in fs::read_dir(scripts).expect("the scripts") {
        let path = file.expect("a script").path();
        let script = fs::read_to_string(&path).expect("a script");
        let played = play(&script);
        if bless {
            fs::write(&path, played).expect("the script is written");
        } else {
            let differing = script.lines().zip(played.lines()).zip(1..).find(|((a, b), _)| a != b);
            if let Some(((written, happened), line)) = differing {
                panic!(
                    "{}:{line}: written `{written}`, happened `{happened}`; \
                     OARLOCK_BLESS=1 writes it anew",
                    path.display()
                );
            }
            assert_eq!(script, played, "{} ends elsewhere", path.display());
        }
        count += 1;
    }
    assert!(count >= 10, "only {count} scripts were found");
}
