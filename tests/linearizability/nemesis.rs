//! What is done to the servers while clients use them: each kind once a round, in an order of chance. At the
//! end all is well again.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::proxy::{Proxy, Rules};
use super::servers::{Servers, until};
use super::slow_disks::SlowDisks;
use super::{NODES, Run};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Kill,
    KillAll,
    /// The process stops for a while, and does not know it.
    Pause,
    Isolation,
    /// What a node sends gets lost, and not what it is sent.
    LossOneWay,
    /// A node sees both of the others, which do not see each other.
    Bridge,
    /// What nodes send each other takes longer.
    Delay,
    /// All flushes take longer, so every write has to.
    SlowDisks,
    /// A leader's flush does not end, so that another has to lead.
    StuckDisk,
}

const WITHOUT_DISKS: [Kind; 7] = [
    Kind::Kill,
    Kind::KillAll,
    Kind::Pause,
    Kind::Isolation,
    Kind::LossOneWay,
    Kind::Bridge,
    Kind::Delay,
];

/// A time in which no flush anywhere took less than `delay`.
pub(crate) struct Slow {
    pub(crate) begin: i64,
    pub(crate) end: i64,
    pub(crate) delay: Duration,
}

pub(crate) struct Nemesis<'a> {
    pub(crate) run: &'a Run,
    pub(crate) servers: &'a mut Servers,
    pub(crate) proxies: &'a BTreeMap<u64, Proxy>,
    pub(crate) disks: Option<&'a SlowDisks>,
    pub(crate) dice: Rng,
    /// How often each kind was done.
    pub(crate) done: BTreeMap<Kind, u64>,
    pub(crate) slow: Vec<Slow>,
}

impl Nemesis<'_> {
    /// Goes on for so long, and to the end of a round.
    pub(crate) fn rage(&mut self, length: Duration) {
        let mut kinds = WITHOUT_DISKS.to_vec();
        if self.disks.is_some() {
            kinds.extend([Kind::SlowDisks, Kind::StuckDisk]);
        }
        while self.run.begun.elapsed() < length {
            self.dice.shuffle(&mut kinds);
            for kind in &kinds {
                self.strike(*kind);
                *self.done.entry(*kind).or_default() += 1;
                for proxy in self.proxies.values() {
                    proxy.heal();
                    if self.dice.bool() {
                        proxy.drop_connections();
                    }
                }
                self.wait(0..500);
            }
        }
    }

    fn wait(&mut self, milliseconds: std::ops::Range<u64>) {
        thread::sleep(Duration::from_millis(self.dice.u64(milliseconds)));
    }

    fn strike(&mut self, kind: Kind) {
        let leader_wanted = kind == Kind::StuckDisk || self.dice.bool();
        let victim = if leader_wanted { self.servers.leader() } else { 1 + self.dice.u64(..NODES) };
        let others: Vec<u64> = self.servers.ids().into_iter().filter(|id| *id != victim).collect();
        let cut = Rules { cut: true, ..Rules::default() };
        match kind {
            Kind::Kill => {
                self.servers.kill(victim);
                self.wait(0..800);
                self.servers.start(victim);
            }
            Kind::KillAll => {
                let all = self.servers.ids();
                for id in &all {
                    self.servers.kill(*id);
                }
                for id in all {
                    self.servers.start(id);
                }
            }
            Kind::Pause => {
                let pid = self.servers.pid(victim);
                signal(pid, "STOP");
                self.wait(200..1500);
                signal(pid, "CONT");
            }
            Kind::Isolation => {
                self.proxies[&victim].set(cut.clone());
                for other in others {
                    self.proxies[&other].set_from(victim, cut.clone());
                }
                self.wait(200..1500);
            }
            Kind::LossOneWay => {
                for other in others {
                    let lost = Rules { loses_requests: true, ..Rules::default() };
                    self.proxies[&other].set_from(victim, lost);
                }
                self.wait(200..1500);
            }
            Kind::Bridge => {
                for (one, other) in [(others[0], others[1]), (others[1], others[0])] {
                    self.proxies[&one].set_from(other, cut.clone());
                }
                self.wait(200..1500);
            }
            Kind::Delay => {
                let delay = Duration::from_millis(self.dice.u64(5..100));
                let rules = Rules { delay, ..Rules::default() };
                if self.dice.bool() {
                    self.proxies.values().for_each(|proxy| proxy.set(rules.clone()));
                } else {
                    self.proxies[&victim].set(rules);
                }
                self.wait(200..1500);
            }
            Kind::SlowDisks => self.slow_disks(),
            Kind::StuckDisk => self.stuck_disk(victim, others[0]),
        }
    }

    /// Lasts until a write that began meanwhile is acknowledged; how long such writes took is looked at later.
    fn slow_disks(&mut self) {
        let disks = self.disks.expect("not chosen without");
        let delay = Duration::from_millis(self.dice.u64(30..150));
        let all = self.servers.ids();
        for id in &all {
            disks.hold(*id, delay);
        }
        let begin = self.run.now();
        until("a write that waits for slow disks is acknowledged", || {
            self.run.last_write.load(Ordering::SeqCst) > begin
        });
        self.wait(200..800);
        self.slow.push(Slow { begin, end: self.run.now(), delay });
        for id in all {
            disks.release(id);
        }
    }

    fn stuck_disk(&mut self, leader: u64, other: u64) {
        let disks = self.disks.expect("not chosen without");
        let held = disks.held(leader);
        disks.hold(leader, Duration::from_secs(600));
        until("somebody leads whose disk is not stuck", || {
            self.servers.leader_of(other).is_some_and(|now| now != leader)
        });
        self.wait(0..500);
        disks.release(leader);
        until("the flush ends", || disks.held(leader) > held);
    }
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.expect("kill is everywhere").success());
}
