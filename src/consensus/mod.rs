//! Raft itself: a pure state machine that decides, and leaves every deed to its driver.
//!
//! # What it does
//!
//! Some nodes keep one log between them (Ongaro and Ousterhout, *In Search of an Understandable
//! Consensus Algorithm*, 2014, "Raft" below; Ongaro's dissertation of the same year, "thesis"). Time is
//! divided into **terms**. In each, at most one node is **leader**: it alone takes proposals, appends
//! them to its log, and has the others copy it. An entry is **committed** once a majority of disks
//! holds it and it is of the leader's own term; committed entries stay, on every node, in the same
//! place, and may be applied. When the leader falls silent, another node becomes a **candidate** in the
//! next term, and a majority elects it, if its log holds all that may be committed.
//!
//! | Where | What | Source |
//! |---|---|---|
//! | `core` | terms, roles, the one entry point | Raft §5.1 |
//! | `election` | who stands, who is voted for, who wins | Raft §5.2, §5.4.1, thesis §4.2.3, §9.6 |
//! | `replication` | the leader's appends, heartbeats, check-quorum | Raft §5.3, thesis §6.2, §10.2.1 |
//! | `follower` | what a follower stores, refuses and acknowledges | Raft §5.3 |
//! | `commit` | when an entry is committed | Raft §5.4.2 |
//! | `forward` | proposals that come by way of a follower, taken once | |
//! | `read` | linearizable reads without an entry | Raft §8, thesis §6.4 |
//! | `progress` | what a leader knows of one member | Raft §5.3 |
//! | [`quorum`] | what a majority, or two, have reached | Raft §6 |
//! | `log_shape` | terms and memberships of the log, not its payloads | Raft §5.3, §6 |
//! | `durable` | what is on the disk, and what waits for it | Raft figure 2, thesis §3.8 |
//! | `senders` | which directory and boot of a node is speaking | |
//! | `plausible` | which messages contradict themselves | |
//! | `invariants` | what must hold after every step | Raft figure 3 |
//!
//! # How to drive it
//!
//! [`Core::step`] takes an [`Input`], a fact, and answers with [`Output`]s, orders to be carried out as
//! they come. There is nothing else: no thread, no clock, no disk, no network, no randomness but a seed.
//! The core sees no payload either. It knows how long the log is, which term each part of it has and
//! which entries change the membership; the bytes are the driver's.
//!
//! 1. Tell it of every tick of a clock, and of every message, whose checksums have been checked.
//! 2. [`Output::Append`], [`Output::Truncate`] and [`Output::Store`] change the log at once; flushing it
//!    may come later, and is told with [`Input::Persisted`], naming the generation in which the flush was
//!    asked for.
//! 3. [`Output::PersistHardState`] likewise, told with [`Input::HardStatePersisted`]. What must not be
//!    said before that is kept back inside the core, so [`Output::Send`] may always go at once.
//! 4. For [`Output::SendAppend`] take entries from the log, send them with the message, and say with
//!    [`Input::Sent`] how far that went, before any other input unless they must be fetched first. An
//!    order ends with the leadership that gave it.
//! 5. [`Output::Committed`] entries may be applied. A read may be answered when its round is confirmed and
//!    the entry named with it is applied.
//! 6. What a follower is asked to propose ([`Output::ProposeRefused`]) may be sent to its leader as a
//!    [`Message::Forward`](crate::message::Forward), numbered, once; the entries' tags say what became of
//!    it. Reads on a follower go to the leader by themselves.
//! 7. Tell it of what is lost on the way to a node ([`Input::Dropped`]), if you know; it finds out in any
//!    case, only later.
//!
//! Messages may be lost, doubled, delayed and reordered as the network likes, and a node may stop at any
//! moment and start again with what its disk holds.
//!
//! # Three cores by hand
//!
//! Entries are numbers here, and every disk is quick.
//!
//! ```
//! use std::collections::{BTreeMap, VecDeque};
//!
//! use oarlock::consensus::{Core, Input, Options, Output, Restored};
//! use oarlock::message::Message;
//! use oarlock::{ElectionPriority, LogIndex, Member, Membership, NodeId, Role, Sender};
//!
//! struct Node {
//!     me: Sender,
//!     core: Core,
//!     log: Vec<u64>,
//!     applied: Vec<u64>,
//! }
//!
//! /// A message on its way, and the numbers that go with an append.
//! type Parcel = (Sender, NodeId, Message, Vec<u64>);
//!
//! impl Node {
//!     fn new(id: u64) -> Self {
//!         let me = Sender { node: NodeId(id), ..Sender::default() };
//!         let options = Options {
//!             me,
//!             heartbeat_ticks: 2,
//!             election_ticks: 10,
//!             priority: ElectionPriority::Normal,
//!             pre_vote: true,
//!             check_quorum: true,
//!             max_append_bytes: 1 << 20,
//!             max_inflight_appends: 16,
//!             max_inflight_bytes: 1 << 24,
//!             seed: id,
//!         };
//!         let members = [1, 2, 3].map(|id| (NodeId(id), Member::default()));
//!         let membership = Membership::of_voters(members);
//!         let core = Core::new(options, Restored { membership, ..Restored::default() });
//!         Node { me, core, log: Vec::new(), applied: Vec::new() }
//!     }
//!
//!     /// Gives the core a fact, and does what it orders. `numbers` are the payloads that came along.
//!     fn step(&mut self, input: Input, numbers: &[u64], network: &mut VecDeque<Parcel>) {
//!         let first_number = match &input {
//!             Input::Message { message: Message::Append(append), .. } => append.prev.index.0 + 1,
//!             _ => 0,
//!         };
//!         let generation = self.core.generation();
//!         let mut facts = Vec::new();
//!         for output in self.core.step(input) {
//!             match output {
//!                 // A no-op has no number of its own; a zero stands for it.
//!                 Output::Append { count, .. } if numbers.is_empty() => {
//!                     self.log.extend((0..count).map(|_| 0));
//!                 }
//!                 Output::Append { .. } => self.log.extend(numbers),
//!                 Output::Truncate { from, .. } => self.log.truncate(from.0 as usize - 1),
//!                 Output::Store { first, last } => {
//!                     let range = first.0 - first_number..=last.0 - first_number;
//!                     self.log.extend(&numbers[*range.start() as usize..=*range.end() as usize]);
//!                 }
//!                 Output::PersistHardState(state) => facts.push(Input::HardStatePersisted(state)),
//!                 Output::Send { to, message } => {
//!                     network.push_back((self.me, to, message, Vec::new()));
//!                 }
//!                 Output::SendAppend { to, mut append, .. } => {
//!                     let (prev, last) = (append.prev.index, self.core.last().index);
//!                     append.entries = self.core.shape(prev, last);
//!                     let numbers = self.log[prev.0 as usize..].to_vec();
//!                     network.push_back((self.me, to, Message::Append(append), numbers));
//!                     facts.insert(0, Input::Sent { to, last, bytes: 8 });
//!                 }
//!                 Output::Committed(index) => {
//!                     self.applied = self.log[..index.0 as usize].to_vec();
//!                 }
//!                 _ => {}
//!             }
//!         }
//!         if self.core.persisted() < self.core.last().index {
//!             let (generation, index) = (self.core.generation(), self.core.last().index);
//!             facts.push(Input::Persisted { generation, index });
//!         }
//!         for fact in facts {
//!             self.step(fact, &[], network);
//!         }
//!     }
//! }
//!
//! let mut nodes: BTreeMap<NodeId, Node> = (1..=3).map(|id| (NodeId(id), Node::new(id))).collect();
//! let mut network = VecDeque::new();
//! let deliver = |nodes: &mut BTreeMap<NodeId, Node>, network: &mut VecDeque<Parcel>| {
//!     while let Some((from, to, message, numbers)) = network.pop_front() {
//!         let node = nodes.get_mut(&to).expect("one of the three");
//!         node.step(Input::Message { from, message }, &numbers, network);
//!     }
//! };
//!
//! // Node 1 campaigns, and is elected.
//! let one = NodeId(1);
//! nodes.get_mut(&one).unwrap().step(Input::Campaign, &[], &mut network);
//! deliver(&mut nodes, &mut network);
//! assert_eq!(nodes[&one].core.role(), Role::Leader);
//! assert_eq!(nodes[&NodeId(2)].core.leader(), Some(one));
//!
//! // It takes two numbers; the others learn that these are committed with the next heartbeat.
//! nodes.get_mut(&one).unwrap().step(Input::Propose { count: 2 }, &[7, 8], &mut network);
//! deliver(&mut nodes, &mut network);
//! for _ in 0..2 {
//!     nodes.get_mut(&one).unwrap().step(Input::Tick, &[], &mut network);
//! }
//! deliver(&mut nodes, &mut network);
//! for node in nodes.values() {
//!     assert_eq!(node.applied, [0, 7, 8]);
//!     assert_eq!(node.core.committed(), LogIndex(3));
//! }
//! ```
//!
//! # What it does not do
//!
//! - It stores a membership that arrives in an entry, obeys it from then on and takes it back with the
//!   entry; it does not propose one.
//! - It knows no snapshots: a member that needs entries from before the log's beginning is not served,
//!   and hears heartbeats only.
//! - It believes what members' messages say as long as they are possible. A member that lies can break
//!   promises, though nothing a peer sends makes a core panic.

mod commit;
mod core;
mod durable;
mod election;
mod follower;
mod forward;
mod invariants;
mod io;
mod log_shape;
mod plausible;
mod progress;
pub mod quorum;
mod read;
mod replication;
mod senders;
mod timeouts;

pub use self::core::{Core, Restored};
pub use io::{Generation, Input, NewEntries, Options, Output};
pub use progress::{Inflights, Mode, Progress};
