//! What a node says, held against what its disk holds at that moment; and what it keeps in flight.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use oarlock::consensus::Mode;
use oarlock::message::{AppendOutcome, Envelope, Message};
use oarlock::simulation::SimDisk;
use oarlock::transport::memory::{MemoryTransport, Network};
use oarlock::transport::{Dropped, Inbound, Transport};
use oarlock::wal::{self, LogOptions};
use oarlock::{Config, LogIndex, Member, Membership, Node, NodeId, PeerStatus, Term};
use parking_lot::Mutex;

use super::gates::{Opener, TroubledDisk};
use crate::journal::{Journal, PATIENCE, leader_of, member, until};

const DIR: &str = "data";

fn config() -> Config {
    Config {
        segment_bytes: 1 << 16,
        ready_segments: 1,
        max_entry_bytes: 4 << 10,
        max_batch_bytes: 8 << 10,
        max_append_bytes: 8 << 10,
        // Looking at the disk takes its time.
        election_ticks: 100,
        ..Config::small()
    }
}

/// What was witnessed of one node.
#[derive(Debug, Default)]
struct Testimony {
    candidacies: usize,
    votes: usize,
    acknowledgements: usize,
    lies: Vec<String>,
}

/// Lets everything through, and looks at the sender's disk first: what would be left of it if the power
/// went at this moment?
struct Witness {
    network: MemoryTransport,
    disk: Arc<SimDisk>,
    testimony: Arc<Mutex<Testimony>>,
    /// What is known to be durable already.
    term: Term,
    persisted: LogIndex,
}

impl Witness {
    fn look(&mut self, envelope: &Envelope) {
        let me = envelope.from.node;
        let term = envelope.message.term();
        let mut testimony = self.testimony.lock();
        let (vote, persisted) = match &envelope.message {
            // Nobody has entered the term that a pre-vote asks about.
            Message::Vote(vote) if vote.pre => return,
            Message::VoteReply(reply) if reply.pre => return,
            // A question to the leader of a term promises nothing about it.
            Message::Forward(_) | Message::ReadIndex(_) => return,
            Message::Vote(_) => {
                testimony.candidacies += 1;
                (Some(me), LogIndex::ZERO)
            }
            Message::VoteReply(reply) if reply.granted => {
                testimony.votes += 1;
                (Some(envelope.to), LogIndex::ZERO)
            }
            Message::AppendReply(reply) => match reply.outcome {
                AppendOutcome::Accepted { matched } => {
                    testimony.acknowledgements += 1;
                    (None, matched)
                }
                AppendOutcome::Rejected { .. } => (None, LogIndex::ZERO),
            },
            Message::HeartbeatReply(reply) => (None, reply.matched),
            Message::VoteReply(_)
            | Message::Append(_)
            | Message::Heartbeat(_)
            | Message::ForwardReply(_)
            | Message::ReadIndexReply(_) => (None, LogIndex::ZERO),
        };
        if vote.is_none() && term <= self.term && persisted <= self.persisted {
            return;
        }
        let left = Arc::new(self.disk.durable_copy());
        let options = LogOptions::from(&config());
        let left = wal::open(left, Path::new(DIR), me, "", &membership(), &options);
        let left = left.expect("the log can be opened at every moment").recovered;
        (self.term, self.persisted) = (left.hard_state.term, left.entries.last);
        let is_held = left.hard_state.term >= term
            && left.entries.last >= persisted
            && vote.is_none_or(|vote| {
                left.hard_state.term > term || left.hard_state.voted_for == Some(vote)
            });
        if !is_held {
            testimony.lies.push(format!("{:?} with {:?}", envelope.message, left.hard_state));
        }
    }
}

impl Transport for Witness {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        self.network.start(inbound)
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        self.look(&envelope);
        self.network.send(envelope)
    }
}

fn membership() -> Membership {
    Membership::of_voters((1..=3).map(|id| (NodeId(id), Member::at(format!("memory:{id}")))))
}

#[test]
fn term_vote_and_entries_are_on_the_disk_before_anybody_hears_of_them() {
    // known bugs 7, 8 and 30
    let network = Network::new();
    let testimony = Arc::<Mutex<Testimony>>::default();
    let disks: Vec<Arc<SimDisk>> = (1..=3).map(|seed| Arc::new(SimDisk::new(seed))).collect();
    let start = |id: u64| {
        let disk = &disks[id as usize - 1];
        let witness = Witness {
            network: network.transport(),
            disk: Arc::clone(disk),
            testimony: Arc::clone(&testimony),
            term: Term(0),
            persisted: LogIndex::ZERO,
        };
        member(&network, id, 3, Journal::default())
            .storage(DIR, Arc::<SimDisk>::clone(disk))
            .transport(witness)
            .config(config())
            .start()
            .expect("starts")
    };
    let mut nodes: Vec<Node<Journal>> = (1..=3).map(start).collect();
    for round in 0..3 {
        let leader = leader_of(&nodes, 3);
        for value in 0..10 {
            leader.propose(10 * round + value).expect("applied");
        }
        leader.shutdown(PATIENCE).expect("stops");
        let at = leader.id().0 as usize - 1;
        drop(leader);
        leader_of(&nodes, 3);
        nodes[at] = start(at as u64 + 1);
    }
    drop(nodes);
    let testimony = testimony.lock();
    assert_eq!(testimony.lies, [] as [String; 0]);
    assert!(testimony.candidacies >= 4 && testimony.votes >= 4, "{testimony:?}");
    assert!(testimony.acknowledgements >= 30, "{testimony:?}");
}

/// What went to one node.
#[derive(Debug, Default)]
struct Sent {
    /// After which entry the latest began.
    newest: LogIndex,
    /// Appends of what had not been sent before, and their bytes.
    appends: usize,
    bytes: usize,
    /// The largest that asked again for an answer.
    largest_probe: usize,
}

/// Counts the entries that go to one node.
struct Meter {
    network: MemoryTransport,
    watched: NodeId,
    sent: Arc<Mutex<Sent>>,
}

impl Transport for Meter {
    fn start(&mut self, inbound: Inbound) -> io::Result<()> {
        self.network.start(inbound)
    }

    fn send(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        if let Message::Append(append) = &envelope.message
            && envelope.to == self.watched
        {
            let (mut sent, bytes) = (self.sent.lock(), envelope.records.len());
            if append.prev.index > sent.newest {
                sent.newest = append.prev.index;
                sent.appends += 1;
                sent.bytes += bytes;
            } else {
                sent.largest_probe = sent.largest_probe.max(bytes);
            }
        }
        self.network.send(envelope)
    }
}

#[test]
fn a_follower_that_does_not_keep_up_gets_no_more_than_the_window_and_holds_nobody_up() {
    // known bugs 26 and 33
    const WINDOW: usize = 4;
    const ENTRY: usize = oarlock::record::record_bytes(8, false);
    let network = Network::new();
    let sent = Arc::<Mutex<Sent>>::default();
    let config = Config {
        max_inflight_appends: WINDOW,
        max_append_bytes: 8 << 10,
        max_entry_bytes: 4 << 10,
        max_batch_bytes: 8 << 10,
        max_inflight_bytes: 16 << 10,
        stuck_after: PATIENCE,
        ..Config::small()
    };
    let (disk, troubles) = TroubledDisk::new(SimDisk::new(3));
    // The one whose disk will hang never leads.
    let slow = Config { election_priority: oarlock::ElectionPriority::Never, ..config.clone() };
    let nodes: Vec<Node<Journal>> = (1..=3)
        .map(|id| {
            let node = member(&network, id, 3, Journal::default());
            let meter =
                Meter { network: network.transport(), watched: NodeId(3), sent: Arc::clone(&sent) };
            let node = match id {
                3 => node.storage(DIR, Arc::<TroubledDisk<SimDisk>>::clone(&disk)),
                _ => node.in_memory().transport(meter),
            };
            node.config(if id == 3 { slow.clone() } else { config.clone() })
                .start()
                .expect("starts")
        })
        .collect();
    let leader = leader_of(&nodes, 3);
    leader.propose(0).expect("applied");
    until(|| {
        let peers = leader.status().peers;
        let in_step = |peer: &&PeerStatus| {
            peer.mode == Mode::Replicate && peer.matched >= leader.status().applied
        };
        peers.iter().filter(in_step).count() == 2
    });
    let _opener = Opener(&troubles.flush);
    troubles.flush.close();
    (sent.lock().appends, sent.lock().bytes) = (0, 0);
    // Far more than a window, all of it committed by the other two.
    for _ in 0..20 {
        let outcomes = leader.submit_many(0..500).expect("taken").wait_all();
        assert!(outcomes.iter().all(Result::is_ok));
    }
    // What may have been lost is asked about again, one entry at a time.
    thread::sleep(config.tick * config.election_ticks * 4);
    {
        let sent = sent.lock();
        assert!((1..=WINDOW).contains(&sent.appends), "{sent:?}");
        // An append holds one entry at least, however little room there is.
        assert!(sent.bytes < config.max_inflight_bytes + ENTRY, "{sent:?}");
        assert!(sent.largest_probe <= ENTRY, "{sent:?}");
    }
    let lagging = &nodes[2];
    assert!(lagging.status().persisted < leader.status().committed);
    troubles.flush.open();
    until(|| lagging.status().applied == leader.status().applied);
}
