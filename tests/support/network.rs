//! A network of pure cores with disks that lag behind, and an onlooker who sees everything.
//!
//! Nothing happens by itself: a test says which message arrives, which disk flushes, who crashes. After
//! each step the onlooker compares what it sees with Raft's properties (Raft figure 3): one leader in a
//! term, logs that match, leaders that hold all that is committed, commits that a quorum of *disks*
//! holds and that never change, and reads that miss nothing that was committed before them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock::consensus::{Core, Generation, Input, NewEntries, Options, Output, Restored};
use oarlock::message::{Append, Entries, Forward, Message, ReadRound};
use oarlock::{BootCount, EntryId, HardState, LogIndex, Membership, NodeId, Role, Sender, Term};

use super::show;

/// What every entry costs in bytes.
pub const ENTRY_BYTES: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Noop,
    Command(u64),
    Forwarded(Tag),
    Membership(Membership),
}

/// A proposal of a follower: who sent it, its number, and the term whose leader was to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub from: Sender,
    pub sequence: u64,
    pub term: Term,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    pub payload: Payload,
}

/// A message on its way, with the entries that an append carries.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: Sender,
    pub to: NodeId,
    pub message: Message,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
enum Change {
    Truncate(LogIndex),
    Store(Vec<Entry>),
}

/// A change of the log that the disk does not have yet, and what its flush will be reported as.
#[derive(Clone, Debug)]
struct Write {
    change: Change,
    generation: Generation,
    last: LogIndex,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub log: Vec<Entry>,
    pub boots: u64,
}

pub struct Node {
    /// None while the node is down.
    pub core: Option<Core>,
    pub log: Vec<Entry>,
    pub disk: Disk,
    options: Options,
    writes: VecDeque<Write>,
    hard_states: VecDeque<HardState>,
    /// Orders whose entries have to be fetched from a slow disk first.
    fetches: Vec<(NodeId, Append, usize)>,
    /// Reads that wait: their round, and what was committed anywhere when they came in.
    reads: Vec<(ReadRound, LogIndex)>,
    /// So many entries were announced as committed since the start.
    announced: usize,
    /// The number of the last proposal that was forwarded since the start.
    forwarded: u64,
}

impl Node {
    pub fn core(&self) -> &Core {
        self.core.as_ref().expect("the node is up")
    }

    pub fn has_writes(&self) -> bool {
        !self.writes.is_empty() || !self.hard_states.is_empty()
    }

    pub fn fetches(&self) -> usize {
        self.fetches.len()
    }

    pub fn pending_writes(&self) -> usize {
        self.writes.len()
    }

    fn sender(&self) -> Sender {
        Sender { boot: BootCount(self.disk.boots), ..self.options.me }
    }
}

/// What only somebody who sees all nodes at once can know.
#[derive(Default)]
pub struct Onlooker {
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry ever appended, with the one before it.
    entries: BTreeMap<EntryId, (Payload, EntryId)>,
    /// Everything that any node ever announced as committed.
    pub committed: Vec<Entry>,
    pub confirmed_reads: usize,
    /// The last that was committed of what each boot of each node forwarded, and how many were.
    last_forwarded: BTreeMap<Sender, (Term, u64)>,
    pub committed_forwards: usize,
    pub elections: usize,
    pub truncations: usize,
}

pub struct Network {
    pub nodes: BTreeMap<NodeId, Node>,
    pub packets: VecDeque<Packet>,
    pub onlooker: Onlooker,
    initial: Membership,
    /// Links that carry nothing, by sender and receiver.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Whether orders to send are fetched later instead of being carried out at once.
    pub slow_fetches: bool,
    next_command: u64,
    pub trace: Option<Vec<String>>,
}

impl Network {
    /// All of `membership`'s nodes, up, with empty disks and the options given.
    pub fn new(membership: &Membership, options: impl Fn(u64) -> Options) -> Self {
        let mut network = Self {
            nodes: BTreeMap::new(),
            packets: VecDeque::new(),
            onlooker: Onlooker::default(),
            initial: membership.clone(),
            cut: BTreeSet::new(),
            slow_fetches: false,
            next_command: 1,
            trace: None,
        };
        for node in membership.nodes() {
            network.add(options(node.0), Disk::default());
        }
        network
    }

    /// Adds a node, member or not, with what its disk holds, and starts it.
    pub fn add(&mut self, options: Options, disk: Disk) {
        let id = options.me.node;
        let mut prev = EntryId::ZERO;
        for entry in &disk.log {
            self.onlooker.saw_entry(entry, prev);
            prev = entry.id;
        }
        let node = Node {
            core: None,
            log: Vec::new(),
            disk,
            options,
            writes: VecDeque::new(),
            hard_states: VecDeque::new(),
            fetches: Vec::new(),
            reads: Vec::new(),
            announced: 0,
            forwarded: 0,
        };
        self.nodes.insert(id, node);
        self.restart(id.0);
    }

    pub fn core(&self, node: u64) -> &Core {
        self.nodes[&NodeId(node)].core()
    }

    /// The options a node was added with.
    pub fn core_options(&self, node: u64) -> Options {
        self.nodes[&NodeId(node)].options.clone()
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("a node of this network")
    }

    pub fn is_up(&self, node: u64) -> bool {
        self.nodes[&NodeId(node)].core.is_some()
    }

    /// Starts a node that is down, from what its disk holds.
    pub fn restart(&mut self, node: u64) {
        let membership = self.initial.clone();
        let this = self.node(NodeId(node));
        assert!(this.core.is_none(), "node {node} is up");
        this.disk.boots += 1;
        this.log = this.disk.log.clone();
        let restored = Restored {
            hard_state: this.disk.hard_state,
            entries: shape_of(&this.log),
            membership,
            ..Restored::default()
        };
        let seed = this.options.seed.wrapping_add(this.disk.boots << 32);
        let options = Options { me: this.sender(), seed, ..this.options.clone() };
        this.core = Some(Core::new(options, restored));
        this.announced = 0;
        this.forwarded = 0;
    }

    /// Stops a node. Of what its disk was still to write, so many changes of the log and of term and
    /// vote have reached it, unreported.
    pub fn crash(&mut self, node: u64, log_writes: usize, hard_states: usize) {
        let this = self.node(NodeId(node));
        for _ in 0..log_writes.min(this.writes.len()) {
            let write = this.writes.pop_front().expect("counted");
            this.disk.apply(write.change);
        }
        for &state in this.hard_states.iter().take(hard_states) {
            this.disk.hard_state = state;
        }
        this.core = None;
        this.writes.clear();
        this.hard_states.clear();
        this.fetches.clear();
        this.reads.clear();
    }

    /// Has a node's disk store so many changes of the log, and report the last.
    pub fn flush_log(&mut self, node: u64, count: usize) -> Vec<Output> {
        let this = self.node(NodeId(node));
        let mut report = None;
        for _ in 0..count.min(this.writes.len()) {
            let write = this.writes.pop_front().expect("counted");
            report = Some((write.generation, write.last));
            this.disk.apply(write.change);
        }
        match report {
            Some((generation, index)) => self.step(node, Input::Persisted { generation, index }),
            None => Vec::new(),
        }
    }

    /// Has a node's disk store the latest term and vote.
    pub fn flush_hard_state(&mut self, node: u64) -> Vec<Output> {
        let this = self.node(NodeId(node));
        let latest = this.hard_states.drain(..).next_back();
        match latest {
            Some(state) => {
                this.disk.hard_state = state;
                self.step(node, Input::HardStatePersisted(state))
            }
            None => Vec::new(),
        }
    }

    /// Has a node's disk store everything.
    pub fn flush(&mut self, node: u64) {
        while self.nodes[&NodeId(node)].has_writes() {
            self.flush_log(node, usize::MAX);
            self.flush_hard_state(node);
        }
    }

    /// Carries out an order that had to wait for a fetch.
    pub fn fetch(&mut self, node: u64, place: usize) {
        let (to, append, max_bytes) = self.node(NodeId(node)).fetches.remove(place);
        let input = self.send_append(node, to, append, max_bytes);
        self.step(node, input);
    }

    /// Delivers the packet at this place of the queue; it is gone if its way is cut or the node down.
    pub fn deliver(&mut self, place: usize) -> Vec<Output> {
        let packet = self.packets.remove(place).expect("a packet");
        let is_cut = self.cut.contains(&(packet.from.node, packet.to));
        match self.nodes.get(&packet.to) {
            Some(node) if !is_cut && node.core.is_some() => {
                let input = Input::Message { from: packet.from, message: packet.message };
                self.step_with(packet.to.0, input, &packet.entries)
            }
            _ => Vec::new(),
        }
    }

    /// Flushes and delivers in order until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let nodes: Vec<u64> = self.nodes.keys().map(|node| node.0).collect();
            for node in nodes {
                if self.is_up(node) {
                    self.flush(node);
                    while self.nodes[&NodeId(node)].fetches() > 0 {
                        self.fetch(node, 0);
                    }
                }
            }
            if !self.packets.is_empty() {
                self.deliver(0);
            } else if !self.nodes.values().any(Node::has_writes) {
                return;
            }
        }
        panic!("the nodes never come to rest");
    }

    /// One tick of all nodes that are up, and what follows from it.
    pub fn tick_all(&mut self) {
        let nodes: Vec<u64> = self.nodes.keys().map(|node| node.0).collect();
        for node in nodes {
            if self.is_up(node) {
                self.step(node, Input::Tick);
            }
        }
        self.settle();
    }

    /// Makes `node` leader by a campaign.
    pub fn elect(&mut self, node: u64) {
        self.step(node, Input::Campaign);
        self.settle();
        assert_eq!(self.core(node).role(), Role::Leader, "node {node} was not elected");
    }

    /// Ticks until somebody leads, and says who.
    pub fn wait_for_leader(&mut self, ticks: u32) -> Option<u64> {
        for _ in 0..ticks {
            self.tick_all();
            if let Some(leader) = self.leader() {
                return Some(leader);
            }
        }
        None
    }

    /// The leader of the highest term among the nodes that are up.
    pub fn leader(&self) -> Option<u64> {
        self.nodes
            .values()
            .filter_map(|node| node.core.as_ref())
            .filter(|core| core.role() == Role::Leader)
            .max_by_key(|core| core.term())
            .map(|core| core.options().me.node.0)
    }

    /// Cuts the way from `from` to `to`.
    pub fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((NodeId(from), NodeId(to)));
    }

    /// Cuts every way between the two groups, in both directions.
    pub fn partition(&mut self, group: &[u64], others: &[u64]) {
        for &one in group {
            for &other in others {
                self.cut(one, other);
                self.cut(other, one);
            }
        }
    }

    pub fn isolate(&mut self, node: u64) {
        let others: Vec<u64> =
            self.nodes.keys().map(|other| other.0).filter(|&other| other != node).collect();
        self.partition(&[node], &others);
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn step(&mut self, node: u64, input: Input) -> Vec<Output> {
        self.step_with(node, input, &[])
    }

    /// Has a node send `count` proposals to the leader it knows.
    pub fn forward(&mut self, node: u64, count: u64) {
        let this = self.node(NodeId(node));
        let Some(to) = this.core().leader().filter(|leader| leader.0 != node) else { return };
        let (from, term, sequence) = (this.sender(), this.core().term(), this.forwarded + 1);
        this.forwarded += count;
        let entries = (sequence..sequence + count)
            .map(|sequence| {
                let payload = Payload::Forwarded(Tag { from, sequence, term });
                Entry { id: EntryId::ZERO, payload }
            })
            .collect();
        let message = Message::Forward(Forward { term, sequence, count });
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{node} > to {to}: {}", show::message(&message)));
        }
        self.packets.push_back(Packet { from, to, message, entries });
    }

    /// Gives a core a fact, with the entries that came along, and does what it orders.
    fn step_with(&mut self, node: u64, input: Input, entries: &[Entry]) -> Vec<Output> {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{node} < {}", show::input(&input)));
        }
        let core = self.node(NodeId(node)).core.as_mut().expect("the node is up");
        let mut outputs = core.step(input);
        if let Some(trace) = &mut self.trace {
            trace.extend(outputs.iter().map(|output| format!("{node} > {}", show::output(output))));
        }
        let mut facts = Vec::new();
        for output in &outputs {
            facts.extend(self.perform(node, output, entries));
        }
        self.nodes[&NodeId(node)].check_end_of_log();
        for fact in facts {
            outputs.extend(self.step(node, fact));
        }
        outputs
    }

    /// Does what the core orders; returns a fact that is due before anything else.
    fn perform(&mut self, node: u64, output: &Output, arrived: &[Entry]) -> Option<Input> {
        let committed = self.onlooker.committed.len() as u64;
        let this = self.nodes.get_mut(&NodeId(node)).expect("a node of this network");
        match output {
            Output::Append { first, count, entries } => {
                let new = (0..*count)
                    .map(|place| {
                        let payload = match entries {
                            NewEntries::Noop => Payload::Noop,
                            NewEntries::Commands => {
                                self.next_command += 1;
                                Payload::Command(self.next_command)
                            }
                            NewEntries::Membership(members) => Payload::Membership(members.clone()),
                            NewEntries::Forwarded => arrived[place as usize].payload.clone(),
                        };
                        Entry { id: EntryId::new(first.term, first.index.plus(place)), payload }
                    })
                    .collect();
                this.store(new, &mut self.onlooker);
            }
            Output::Truncate { from, generation } => {
                this.log.truncate(from.0 as usize - 1);
                let last = from.prev();
                let change = Change::Truncate(*from);
                this.writes.push_back(Write { change, generation: *generation, last });
                self.onlooker.truncations += 1;
            }
            Output::Store { first, last } => {
                let within = |entry: &&Entry| *first <= entry.id.index && entry.id.index <= *last;
                let new: Vec<Entry> = arrived.iter().filter(within).cloned().collect();
                assert_eq!(new.len() as u64, last.0 + 1 - first.0, "stores what did not arrive");
                this.store(new, &mut self.onlooker);
            }
            Output::PersistHardState(state) => this.hard_states.push_back(*state),
            Output::Send { to, message } => {
                this.disk.check_keeps(message, this.options.me.node, *to);
                let (from, to) = (this.sender(), *to);
                let (message, entries) = (message.clone(), Vec::new());
                self.packets.push_back(Packet { from, to, message, entries });
            }
            Output::SendAppend { to, append, max_bytes } => {
                let (to, append, max_bytes) = (*to, append.clone(), *max_bytes);
                assert!(
                    this.fetches.iter().all(|(node, ..)| *node != to) || this.fetches.len() < 64,
                    "fetches for {to} pile up"
                );
                if self.slow_fetches {
                    this.fetches.push((to, append, max_bytes));
                } else {
                    return Some(self.send_append(node, to, append, max_bytes));
                }
            }
            Output::Committed(index) => {
                self.onlooker.saw_commit(NodeId(node), *index, &self.nodes);
                self.node(NodeId(node)).announced = index.0 as usize;
            }
            Output::RoleChanged { role, term, .. } => {
                if *role == Role::Leader {
                    self.onlooker.saw_leader(*term, this);
                }
            }
            Output::ReadQueued(round) => this.reads.push((*round, LogIndex(committed))),
            Output::ReadConfirmed { round, index } => {
                let waiting = this.reads.len();
                this.reads.retain(|&(wanted, least)| {
                    assert!(
                        wanted > *round || *index >= least,
                        "node {node} answers a read at {index}, but {least} was committed before it"
                    );
                    wanted > *round
                });
                self.onlooker.confirmed_reads += waiting - this.reads.len();
            }
            Output::ReadsLost => this.reads.clear(),
            Output::ProposeRefused | Output::ReadRefused | Output::ForwardPlaced { .. } => {}
        }
        None
    }

    /// Sends what fits, and says how far that went. Nothing goes if the log has changed since.
    fn send_append(
        &mut self,
        node: u64,
        to: NodeId,
        mut append: Append,
        max_bytes: usize,
    ) -> Input {
        let this = self.node(NodeId(node));
        let prev = append.prev.index.0 as usize;
        let holds_prev = prev == 0 || this.log.get(prev - 1).is_some_and(|e| e.id == append.prev);
        let count = (max_bytes / ENTRY_BYTES).max(1);
        let entries: Vec<Entry> = this.log.iter().skip(prev).take(count).cloned().collect();
        if !holds_prev || entries.is_empty() || entries.iter().any(|e| e.id.term > append.term) {
            return Input::Sent { to, last: append.prev.index, bytes: 0 };
        }
        append.entries = shape_of(&entries);
        assert!(this.disk.hard_state.term >= append.term, "leads a term that a crash would undo");
        let (last, bytes) = (append.entries.last, entries.len() * ENTRY_BYTES);
        let from = this.sender();
        self.packets.push_back(Packet { from, to, message: Message::Append(append), entries });
        Input::Sent { to, last, bytes }
    }
}

impl Node {
    fn store(&mut self, entries: Vec<Entry>, onlooker: &mut Onlooker) {
        for entry in &entries {
            let prev = self.log.last().map_or(EntryId::ZERO, |last| last.id);
            onlooker.saw_entry(entry, prev);
            self.log.push(entry.clone());
        }
        let last = LogIndex(self.log.len() as u64);
        let generation = self.core().generation();
        self.writes.push_back(Write { change: Change::Store(entries), generation, last });
    }
}

impl Disk {
    /// What a message promises has to survive a crash of its sender.
    fn check_keeps(&self, message: &Message, from: NodeId, to: NodeId) {
        let stored = self.hard_state;
        let voted_for = match message {
            Message::Vote(vote) if vote.pre => return,
            Message::VoteReply(reply) if reply.pre => return,
            // A question to the leader of a term promises nothing about it.
            Message::Forward(_) | Message::ReadIndex(_) => return,
            Message::Vote(_) => Some(from),
            Message::VoteReply(reply) if reply.granted => Some(to),
            _ => None,
        };
        let (term, is_kept) =
            (message.term(), voted_for.is_none() || stored.voted_for == voted_for);
        assert!(
            stored.term > term || (stored.term == term && is_kept),
            "{from} says {message:?} with {stored:?} on its disk"
        );
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Truncate(from) => self.log.truncate(from.0 as usize - 1),
            Change::Store(entries) => self.log.extend(entries),
        }
    }
}

impl Onlooker {
    /// Log matching: an entry's name stands for its content and for all that comes before it.
    fn saw_entry(&mut self, entry: &Entry, prev: EntryId) {
        assert_eq!(entry.id.index, prev.index.next(), "a gap before {}", entry.id);
        let (payload, known) =
            self.entries.entry(entry.id).or_insert_with(|| (entry.payload.clone(), prev));
        assert_eq!(*payload, entry.payload, "two entries are called {}", entry.id);
        assert_eq!(*known, prev, "logs that share {} differ before it", entry.id);
    }

    /// Election safety and leader completeness.
    fn saw_leader(&mut self, term: Term, node: &Node) {
        let id = node.options.me.node;
        let other = *self.leaders.entry(term).or_insert(id);
        assert_eq!(other, id, "two leaders in term {term}");
        let known = self.committed.len();
        assert!(
            node.log.len() >= known && node.log[..known] == self.committed[..],
            "leader {id} of term {term} lacks a committed entry"
        );
        self.elections += 1;
    }

    /// What a follower concludes from the log: nothing of an older term or with a smaller number can
    /// follow, so what has not come by then never will.
    fn saw_forwarded(&mut self, entry: &Entry) {
        let Payload::Forwarded(tag) = entry.payload else { return };
        assert_eq!(entry.id.term, tag.term, "{tag:?} was taken in another term");
        let this = (tag.term, tag.sequence);
        let last = self.last_forwarded.insert(tag.from, this);
        assert!(last < Some(this), "{tag:?} is committed after {last:?}");
        self.committed_forwards += 1;
    }

    /// State machine safety, and that a quorum of disks holds what is committed.
    fn saw_commit(&mut self, node: NodeId, index: LogIndex, nodes: &BTreeMap<NodeId, Node>) {
        let this = &nodes[&node];
        for at in this.announced..index.0 as usize {
            let entry = &this.log[at];
            if let Some(known) = self.committed.get(at) {
                assert_eq!(known, entry, "node {node} commits something else");
                continue;
            }
            let membership = this.core().membership();
            for half in [&membership.voters, &membership.outgoing] {
                let holds = |id: &&NodeId| nodes[*id].disk.log.get(at) == Some(entry);
                let (holders, all) = (half.keys().filter(holds).count(), half.len());
                assert!(
                    half.is_empty() || 2 * holders > all,
                    "{} is committed on {holders} of {all} disks",
                    entry.id
                );
            }
            self.saw_forwarded(entry);
            self.committed.push(entry.clone());
        }
    }
}

impl Node {
    /// The core's idea of the log is the log.
    fn check_end_of_log(&self) {
        let last = self.log.last().map_or(EntryId::ZERO, |entry| entry.id);
        assert_eq!(self.core().last(), last);
    }

    /// The log and the disk agree as far as the core believes they do.
    pub fn check_disk(&self) {
        let persisted = self.core().persisted().0 as usize;
        assert!(self.disk.log.len() >= persisted, "persisted {persisted}, which the disk lacks");
        assert_eq!(self.disk.log[..persisted], self.log[..persisted]);
        for entry in &self.log {
            assert_eq!(self.core().term_at(entry.id.index), Some(entry.id.term));
        }
    }
}

pub fn shape_of(entries: &[Entry]) -> Entries {
    let mut shape = Entries::default();
    for entry in entries {
        shape.push(entry.id);
        if let Payload::Membership(membership) = &entry.payload {
            shape.memberships.push((entry.id.index, membership.clone()));
        }
    }
    shape
}
