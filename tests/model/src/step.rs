//! The driver of the cores: what happens, and what the cores order, carried out on a [`State`].

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use oarlock::consensus::{Core, Generation, Input, NewEntries, Options, Output, Restored};
use oarlock::message::{Forward, Message, ReadRound, VoteReply};
use oarlock::{
    BootCount, ElectionPriority, EntryId, HardState, Incarnation, LogIndex, NodeId, Role, Sender,
    Term,
};

use crate::bounds::{Bounds, Network, Stage, Start};
use crate::plants::Plant;
use crate::rules::{self, Onlooker, Rule, Rules};
use crate::state::{
    Change, Disk, Entry, Frozen, Node, Order, Packet, Spent, State, Waiting, Write, shape_of,
};

/// What may happen in a state. Nodes and packets are named by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A timeout, or somebody's wish.
    Campaign(usize),
    /// A follower has not heard its leader for an election timeout, and does not stand.
    LosePatience(usize),
    /// A leader's clock: heartbeats, or, with check-quorum, the silence of the others.
    Tick(usize),
    Propose(usize),
    /// A follower hands a proposal to the leader that it knows.
    Forward(usize),
    Read(usize),
    /// A leader is told that something on its way to another node was lost.
    Drop(usize, NodeId),
    /// A disk that has room is full, or the other way round.
    Fill(usize),
    FlushHardState(usize),
    /// The disk stores so many changes of the log, and reports the last.
    FlushLog(usize, usize),
    /// A node stops, and starts again. Of what its disk was told to store, so many changes of the log
    /// have reached it, and the `hard_state`th of the pending states, if any.
    Restart {
        node: usize,
        writes: usize,
        hard_state: usize,
    },
    Deliver(usize),
    /// The network delivers a packet that it goes on to hold.
    Repeat(usize),
}

/// What every entry costs in bytes.
const ENTRY_BYTES: usize = 10;

/// With one tick and a high priority there is one timeout, of one tick: nothing is drawn, and clocks that
/// run do not tell states apart.
fn options(bounds: &Bounds, node: NodeId, boot: BootCount) -> Options {
    Options {
        me: Sender { node, incarnation: Incarnation(node.0.into()), boot },
        heartbeat_ticks: 1,
        election_ticks: 1,
        priority: ElectionPriority::High,
        pre_vote: bounds.pre_vote,
        check_quorum: bounds.check_quorum,
        max_append_bytes: 10 * ENTRY_BYTES,
        max_inflight_appends: 8,
        max_inflight_bytes: 80 * ENTRY_BYTES,
        seed: 0,
    }
}

fn started(bounds: &Bounds, id: NodeId, boot: BootCount, disk: Disk) -> Node {
    let restored = Restored {
        hard_state: disk.hard_state,
        entries: shape_of(&disk.log),
        membership: bounds.stage.membership(),
        ..Restored::default()
    };
    let mut core = Core::new(options(bounds, id, boot), restored);
    // Whose first boot it has heard of would only tell states apart; an answer that nobody asked for says
    // nothing else.
    let answer = VoteReply { term: Term(0), granted: false, pre: false };
    let mut hard_states = Vec::new();
    for other in core.membership().nodes() {
        let from = options(bounds, other, BootCount(1)).me;
        for output in core.step(Input::Message { from, message: Message::VoteReply(answer) }) {
            match output {
                // An entry may have been stored before the term that it came in.
                Output::PersistHardState(state) => hard_states.push(state),
                other => panic!("{other:?} after an answer that nobody asked for"),
            }
        }
    }
    Node {
        core,
        log: disk.log.clone(),
        disk,
        writes: Vec::new(),
        hard_states,
        reads: Vec::new(),
        forwarded: 0,
        committed: LogIndex::ZERO,
        full: false,
    }
}

/// What the nodes of figure 8 (b) have stored: 1 was elected by 2, and 3 by 2 after that.
fn split_disk(id: NodeId) -> Disk {
    let stored = |term, voted_for, log| Disk {
        hard_state: HardState { term: Term(term), voted_for: Some(NodeId(voted_for)) },
        log,
    };
    let first = |term| {
        vec![Entry {
            id: EntryId::new(Term(term), LogIndex(1)),
            by: (id, BootCount(1)),
            sequence: None,
            sets: None,
        }]
    };
    match id {
        NodeId(1) => stored(1, 1, first(1)),
        NodeId(2) => stored(2, 3, Vec::new()),
        _ => stored(2, 3, first(2)),
    }
}

/// What a node has stored that holds so many entries of node 3's: the one that began its term, and those that
/// change the membership.
fn changing_disk(entries: usize) -> Disk {
    let entry = |index: u64, sets| Entry {
        id: EntryId::new(Term(1), LogIndex(index)),
        by: (NodeId(3), BootCount(1)),
        sequence: None,
        sets,
    };
    let log = [entry(1, None), entry(2, Some(Stage::Joint)), entry(3, Some(Stage::One))];
    let hard_state = HardState { term: Term(1), voted_for: Some(NodeId(3)) };
    Disk { hard_state, log: log[..entries].to_vec() }
}

thread_local! {
    static IN_A_CORE: Cell<bool> = const { Cell::new(false) };
}

/// A core's panic is a finding, of which the checker tells how it came about: it prints nothing.
pub(crate) fn silence_cores() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !IN_A_CORE.get() {
            print(panic);
        }
    }));
}

/// One step of one node: the node, taken out of the state, and the state around it.
struct Step<'a> {
    bounds: &'a Bounds,
    plant: Option<Plant>,
    state: State,
    at: usize,
    node: Node,
    /// Whether anything is on its way that was not before.
    has_sent: bool,
}

impl State {
    pub(crate) fn first(bounds: &Bounds) -> Self {
        match bounds.start {
            Start::Fresh => Self::of_disks(bounds, |_| Disk::default()),
            Start::Led => Self::of_disks(bounds, |_| Disk::default()).led(bounds),
            Start::Split => Self::of_disks(bounds, split_disk).split(),
            Start::Entering => {
                let entries = |id| if id == NodeId(3) { 2 } else { 1 };
                Self::of_disks(bounds, |id| changing_disk(entries(id))).changing(1)
            }
            Start::Leaving => Self::of_disks(bounds, |id| changing_disk(id.0 as usize)).changing(2),
        }
    }

    fn of_disks(bounds: &Bounds, disk: impl Fn(NodeId) -> Disk) -> Self {
        let membership = bounds.stage.membership();
        let node = |id| Frozen::new(started(bounds, id, BootCount(1), disk(id)));
        Self {
            nodes: membership.nodes().into_iter().map(node).collect(),
            packets: Vec::new(),
            onlooker: Onlooker::default(),
            spent: Spent::default(),
            broken: Rules::default(),
        }
    }

    fn split(mut self) -> Self {
        self.onlooker.leaders = vec![Some(NodeId(1)), Some(NodeId(3))];
        self
    }

    /// Node 3 has led, and has committed so many of its entries, each under the membership before it.
    fn changing(mut self, committed: usize) -> Self {
        let onlooker = &mut self.onlooker;
        onlooker.leaders = vec![Some(NodeId(3))];
        onlooker.committed = changing_disk(committed).log;
        onlooker.committed_in = [Stage::Three, Stage::Joint][..committed]
            .iter()
            .map(|stage| (Term(1), *stage))
            .collect();
        self
    }

    /// After an election of node 1 that nothing has disturbed.
    fn led(self, bounds: &Bounds) -> Self {
        let quiet = Bounds {
            network: Network::InOrder,
            slow_votes: false,
            slow_log: false,
            heartbeats: true,
            appends: true,
            window: 100,
            ..*bounds
        };
        let mut state = self.take(&quiet, None, Action::Campaign(0)).expect("it may campaign");
        while !state.packets.is_empty() {
            state = state.take(&quiet, None, Action::Deliver(0)).unwrap_or_else(|| {
                let mut state = state.clone();
                state.packets.remove(0);
                state
            });
        }
        assert!(state.broken.is_empty() && state.onlooker.committed.len() == 1);
        state.spent = Spent::default();
        state
    }

    /// What may happen.
    pub(crate) fn actions(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        if !self.broken.is_empty() {
            return;
        }
        for (at, node) in self.nodes.iter().enumerate() {
            self.actions_of(at, node, bounds, actions);
        }
        for place in 0..self.packets.len() {
            actions.push(Action::Deliver(place));
            if self.spent.repeats < bounds.repeats {
                actions.push(Action::Repeat(place));
            }
        }
    }

    fn actions_of(&self, at: usize, node: &Node, bounds: &Bounds, actions: &mut Vec<Action>) {
        let spent = self.spent;
        let may_stand = node.core.term() < Term(bounds.terms);
        if node.core.role() == Role::Leader {
            if spent.commands < bounds.commands {
                actions.push(Action::Propose(at));
            }
            if spent.ticks < bounds.ticks {
                actions.push(Action::Tick(at));
            }
            if spent.drops < bounds.drops {
                let others = node.core.progress().map(|(other, _)| Action::Drop(at, other));
                actions.extend(others);
            }
        } else {
            if may_stand {
                actions.push(Action::Campaign(at));
            }
            if spent.forwards < bounds.forwards && node.core.leader().is_some() {
                actions.push(Action::Forward(at));
            }
            if bounds.check_quorum && node.core.leader().is_some() {
                actions.push(Action::LosePatience(at));
            }
        }
        let may_read = node.core.role() == Role::Leader || bounds.reads_on_followers;
        if spent.reads < bounds.reads && may_read && node.core.leader().is_some() {
            actions.push(Action::Read(at));
        }
        if spent.fills < bounds.fills {
            actions.push(Action::Fill(at));
        }
        if !node.hard_states.is_empty() {
            actions.push(Action::FlushHardState(at));
        }
        actions.extend((1..=node.writes.len()).map(|count| Action::FlushLog(at, count)));
        if spent.restarts < bounds.restarts {
            for writes in 0..=node.writes.len() {
                let states = 0..=node.hard_states.len();
                actions.extend(states.map(|hard_state| Action::Restart {
                    node: at,
                    writes,
                    hard_state,
                }));
            }
        }
    }

    fn place_of(&self, id: NodeId) -> usize {
        self.nodes.iter().position(|node| node.id() == id).expect("one of the nodes")
    }

    /// The state after something happened; `None` if nothing is different, or only a packet is lost.
    pub(crate) fn take(
        &self,
        bounds: &Bounds,
        plant: Option<Plant>,
        action: Action,
    ) -> Option<Self> {
        let at = match action {
            Action::Campaign(at)
            | Action::LosePatience(at)
            | Action::Tick(at)
            | Action::Propose(at)
            | Action::Forward(at)
            | Action::Read(at)
            | Action::Drop(at, _)
            | Action::Fill(at)
            | Action::FlushHardState(at)
            | Action::FlushLog(at, _)
            | Action::Restart { node: at, .. } => at,
            Action::Deliver(place) | Action::Repeat(place) => self.place_of(self.packets[place].to),
        };
        let node = Node::clone(&self.nodes[at]);
        let mut step = Step { bounds, plant, state: self.clone(), at, node, has_sent: false };
        step.act(action);
        step.settle();
        step.finish(self)
    }
}

impl Step<'_> {
    fn act(&mut self, action: Action) {
        match action {
            Action::Campaign(_) => self.feed(Input::Campaign),
            Action::LosePatience(_) => {
                self.feed(Input::Fit(false));
                self.feed(Input::Tick);
                self.feed(Input::Fit(true));
            }
            Action::Tick(_) => {
                self.state.spent.ticks += 1;
                self.feed(Input::Tick);
            }
            Action::Propose(_) => {
                self.state.spent.commands += 1;
                self.feed(Input::Propose { count: 1 });
            }
            Action::Forward(_) => {
                self.state.spent.forwards += 1;
                self.forward();
            }
            Action::Read(_) => {
                self.state.spent.reads += 1;
                self.feed(Input::Read);
            }
            Action::Drop(_, to) => {
                self.state.spent.drops += 1;
                self.feed(Input::Dropped { to });
            }
            Action::Fill(_) => {
                self.state.spent.fills += 1;
                self.node.full = !self.node.full;
                self.feed(Input::Full(self.node.full));
            }
            Action::FlushHardState(_) => self.flush_hard_state(),
            Action::FlushLog(_, count) => self.flush_log(count),
            Action::Restart { writes, hard_state, .. } => {
                self.state.spent.restarts += 1;
                self.restart(writes, hard_state);
            }
            Action::Deliver(place) => {
                let packet = self.state.packets[place].clone();
                self.take_off(place);
                self.deliver(&packet);
            }
            Action::Repeat(place) => {
                self.state.spent.repeats += 1;
                let packet = self.state.packets[place].clone();
                self.deliver(&packet);
            }
        }
    }

    /// What is left on its way after the delivery of the packet at `place`.
    fn take_off(&mut self, place: usize) {
        let packets = &mut self.state.packets;
        match self.bounds.network {
            Network::Repeating => {}
            Network::InAnyOrder => {
                packets.remove(place);
            }
            Network::InOrder => {
                let link = |packet: &Packet| (packet.from.node, packet.to);
                let this = link(&packets[place]);
                let begin = packets.partition_point(|other| link(other) < this);
                packets.drain(begin..=place);
            }
        }
    }

    fn deliver(&mut self, packet: &Packet) {
        let Packet { from, message, entries, .. } = packet.clone();
        let message = self.forged(message);
        let votes = matches!(&message, Message::VoteReply(reply) if reply.granted && !reply.pre);
        self.feed_with(Input::Message { from, message }, &entries);
        if self.plant == Some(Plant::ElectsByOldHalf) && votes && self.is_joint() {
            // Together with the own vote that is a majority of {1, 2, 3}.
            self.forge_vote(NodeId(3));
        }
    }

    /// What a broken core would have understood, or sent.
    fn forged(&mut self, mut message: Message) -> Message {
        match (self.plant, &mut message) {
            (Some(Plant::VotesForStaleLogs), Message::Vote(vote)) if vote.term > Term(1) => {
                vote.last = EntryId::new(Term(vote.term.0 - 1), LogIndex(1 << 40));
            }
            (Some(Plant::CommitsUnverified), Message::Heartbeat(beat))
                if beat.term >= self.node.core.term() =>
            {
                let believed = beat.committed.min(self.node.core.last().index);
                self.announce(believed);
            }
            (Some(Plant::TakesForwardsAgain), Message::Forward(forward)) => {
                forward.sequence += 10 * self.node.log.len() as u64;
            }
            (Some(Plant::OldRoundsConfirm), Message::HeartbeatReply(reply)) => {
                if let Some(waiting) = self.node.reads.first() {
                    reply.round = waiting.round;
                }
            }
            _ => {}
        }
        message
    }

    fn forward(&mut self) {
        let node = &mut self.node;
        let leader = node.core.leader().expect("only those who know a leader forward");
        node.forwarded += 1;
        let (me, sequence, term) = (node.core.options().me, node.forwarded, node.core.term());
        let by = (me.node, me.boot);
        let entry = Entry { id: EntryId::ZERO, by, sequence: Some(sequence), sets: None };
        let message = Message::Forward(Forward { term, sequence, count: 1 });
        self.send(leader, message, vec![entry]);
    }

    fn feed(&mut self, input: Input) {
        self.feed_with(input, &[]);
    }

    /// Gives the core a fact, with the entries that came along, and does what it orders.
    fn feed_with(&mut self, input: Input, arrived: &[Entry]) {
        let core = &mut self.node.core;
        IN_A_CORE.set(true);
        let outputs = catch_unwind(AssertUnwindSafe(|| core.step(input)));
        IN_A_CORE.set(false);
        let Ok(outputs) = outputs else {
            self.state.broken.add(Rule::CoreAsserts);
            return;
        };
        let mut orders = Vec::new();
        for output in outputs {
            orders.extend(self.perform(output, arrived));
        }
        for order in orders {
            let sent = self.send_append(order);
            self.feed(sent);
        }
    }

    /// Does what the core orders, but for an order to send, which it hands back.
    fn perform(&mut self, output: Output, arrived: &[Entry]) -> Option<Order> {
        let node = &mut self.node;
        match output {
            Output::Append { first, count, entries } => {
                let me = node.core.options().me;
                let by = (me.node, me.boot);
                let entry = |place| {
                    let id = EntryId::new(first.term, first.index.plus(place));
                    match entries {
                        NewEntries::Forwarded => Entry { id, ..arrived[place as usize] },
                        _ => Entry { id, by, sequence: None, sets: None },
                    }
                };
                self.store((0..count).map(entry).collect());
            }
            Output::Store { first, last } => {
                let within = |entry: &&Entry| first <= entry.id.index && entry.id.index <= last;
                self.store(arrived.iter().filter(within).copied().collect());
            }
            Output::Truncate { from, generation } => self.truncate(from, generation),
            Output::PersistHardState(state) => node.hard_states.push(state),
            Output::Send { to, message } => self.send(to, message, Vec::new()),
            Output::SendAppend { to, append, max_bytes } => return Some((to, append, max_bytes)),
            Output::Committed(index) => self.announce(index),
            Output::RoleChanged { role: Role::Leader, term, .. } => {
                self.state.onlooker.saw_leader(term, node, &mut self.state.broken);
            }
            Output::ReadQueued(round) => {
                let least = LogIndex(self.state.onlooker.committed.len() as u64);
                let in_term = self.nodes_in_term();
                self.node.reads.push(Waiting { round, least, in_term });
                if self.plant == Some(Plant::ReadsAtOnce) || self.reads_by_new_half() {
                    let index = self.node.core.committed();
                    self.answer_reads(round, index);
                }
            }
            Output::ReadConfirmed { round, index } => self.answer_reads(round, index),
            Output::ReadsLost => node.reads.clear(),
            Output::RoleChanged { .. }
            | Output::ProposeRefused
            | Output::ForwardPlaced { .. }
            | Output::ReadRefused => {}
        }
        None
    }

    fn store(&mut self, entries: Vec<Entry>) {
        let node = &mut self.node;
        node.log.extend(&entries);
        let (generation, last) = (node.core.generation(), LogIndex(node.log.len() as u64));
        node.writes.push(Write { change: Change::Store(entries), generation, last });
    }

    fn truncate(&mut self, from: LogIndex, generation: Generation) {
        let node = &mut self.node;
        let (at, last) = (from.0 as usize - 1, from.prev());
        let others = rules::others(&self.state.nodes, self.at);
        if rules::is_on_a_quorum(at, node.log[at], node.stage(self.bounds), node, &others) {
            self.state.onlooker.majority_overwritten = true;
        }
        self.state.onlooker.change_cut |= node.log[at..].iter().any(|entry| entry.sets.is_some());
        node.log.truncate(at);
        node.writes.push(Write { change: Change::Truncate(from), generation, last });
    }

    fn announce(&mut self, index: LogIndex) {
        let State { nodes, onlooker, broken, .. } = &mut self.state;
        let others = rules::others(nodes, self.at);
        onlooker.saw_commit(index, self.node.stage(self.bounds), &self.node, &others, broken);
        self.node.committed = self.node.committed.max(index);
    }

    fn answer_reads(&mut self, round: ReadRound, index: LogIndex) {
        let (term, role) = (self.node.core.term(), self.node.core.role());
        let stage = self.node.stage(self.bounds);
        let answered = &mut self.state.onlooker.reads_answered;
        let broken = &mut self.state.broken;
        self.node.reads.retain(|Waiting { round: wanted, least, in_term }| {
            if *wanted <= round {
                answered.any = true;
                answered.later |= term > Term(1);
                answered.on_follower |= role == Role::Follower;
                answered.in_joint |= stage == Stage::Joint;
                if index < *least {
                    broken.add(Rule::ReadsAreFresh);
                }
                if role == Role::Leader && !stage.decides(|id| in_term & 1 << id.0 != 0) {
                    broken.add(Rule::ReadsAreConfirmed);
                }
            }
            *wanted > round
        });
    }

    /// The nodes, as bits, that have seen no later term than this one.
    fn nodes_in_term(&self) -> u8 {
        let others = rules::others(&self.state.nodes, self.at);
        let nodes = others.into_iter().chain([&self.node]);
        let in_term = nodes.filter(|node| node.core.term() <= self.node.core.term());
        in_term.fold(0, |bits, node| bits | 1 << node.id().0)
    }

    /// Whether a bug answers what {3}, half of a joint membership, confirms: node 3 itself, at once.
    fn reads_by_new_half(&self) -> bool {
        let core = &self.node.core;
        self.plant == Some(Plant::ReadsByNewHalf)
            && self.node.id() == NodeId(3)
            && self.is_joint()
            && core.role() == Role::Leader
            && core.term_at(core.committed()) == Some(core.term())
    }

    fn send(&mut self, to: NodeId, mut message: Message, entries: Vec<Entry>) {
        if !self.node.disk.keeps(&message, self.node.id(), to) {
            self.state.broken.add(Rule::PromisesAreStored);
        }
        match &mut message {
            Message::Heartbeat(_) if !self.bounds.heartbeats => return,
            Message::Append(_) if !self.bounds.appends => return,
            Message::HeartbeatReply(reply) if self.plant == Some(Plant::AcksUnverified) => {
                reply.matched = self.node.core.persisted();
            }
            _ => {}
        }
        let from = self.node.core.options().me;
        let packet = Frozen::new(Packet { from, to, message, entries });
        let packets = &mut self.state.packets;
        let link = |packet: &Packet| (packet.from.node, packet.to);
        let begin = packets.partition_point(|known| link(known) < link(&packet));
        let end = packets.partition_point(|known| link(known) <= link(&packet));
        if self.bounds.network != Network::InOrder && packets[begin..end].contains(&packet) {
            return;
        }
        packets.insert(end, packet);
        if end - begin == self.bounds.window {
            packets.remove(begin);
        }
        self.has_sent = true;
    }

    /// Sends what fits, and says how far that went.
    fn send_append(&mut self, (to, mut append, max_bytes): Order) -> Input {
        let prev = append.prev.index.0 as usize;
        let count = (max_bytes / ENTRY_BYTES).max(1);
        let entries: Vec<Entry> = self.node.log.iter().skip(prev).take(count).copied().collect();
        append.entries = shape_of(&entries);
        let (last, bytes) = (append.entries.last, entries.len() * ENTRY_BYTES);
        self.send(to, Message::Append(append), entries);
        Input::Sent { to, last, bytes }
    }

    fn flush_hard_state(&mut self) {
        if let Some(latest) = self.node.hard_states.pop() {
            self.node.hard_states.clear();
            self.node.disk.hard_state = latest;
            self.feed(Input::HardStatePersisted(latest));
            if self.plant == Some(Plant::CountsOwnVoteTwice) {
                let other = rules::others(&self.state.nodes, self.at)[0].core.options().me;
                let vote = VoteReply { term: latest.term, granted: true, pre: false };
                self.feed(Input::Message { from: other, message: Message::VoteReply(vote) });
            }
        }
    }

    fn flush_log(&mut self, count: usize) {
        let node = &mut self.node;
        let mut report = None;
        for Write { change, generation, last } in node.writes.drain(..count) {
            node.disk.store(change);
            report = Some((generation, last));
        }
        if let Some((mut generation, index)) = report {
            if self.plant == Some(Plant::ForgetsGenerations) {
                generation = node.core.generation();
            }
            self.feed(Input::Persisted { generation, index });
        }
    }

    fn restart(&mut self, writes: usize, hard_state: usize) {
        let node = &mut self.node;
        self.state.onlooker.lost_in_a_crash |= writes < node.writes.len();
        for write in node.writes.drain(..writes) {
            node.disk.store(write.change);
        }
        if let Some(kept) = hard_state.checked_sub(1) {
            node.disk.hard_state = node.hard_states[kept];
        }
        let mut disk = node.disk.clone();
        if self.plant == Some(Plant::ForgetsVote) {
            disk.hard_state.voted_for = None;
        }
        let me = node.core.options().me;
        *node = started(self.bounds, me.node, BootCount(me.boot.0 + 1), disk);
    }

    /// What quick disks, and drivers that lie, report at once.
    fn settle(&mut self) {
        while !self.state.broken.has(Rule::CoreAsserts) {
            let (generation, index) = (self.node.core.generation(), self.node.core.last().index);
            if !self.bounds.slow_votes && !self.node.hard_states.is_empty() {
                self.flush_hard_state();
            } else if !self.bounds.slow_log && !self.node.writes.is_empty() {
                self.flush_log(self.node.writes.len());
            } else if self.plant == Some(Plant::AcksBeforeStoring)
                && self.node.core.persisted() < index
            {
                self.feed(Input::Persisted { generation, index });
            } else {
                break;
            }
        }
        match self.plant {
            Some(Plant::VotesBeforeStoring) => {
                if let Some(latest) = self.node.hard_states.last() {
                    self.feed(Input::HardStatePersisted(*latest));
                }
            }
            Some(Plant::CommitsOlderTerms) if self.node.core.role() == Role::Leader => {
                let core = &self.node.core;
                let matched = core.progress().map(|(_, progress)| progress.matched());
                let mut matched: Vec<LogIndex> = matched.chain([core.persisted()]).collect();
                matched.sort_unstable();
                self.announce(matched[(matched.len() - 1) / 2]);
            }
            Some(Plant::CommitsByNewHalf)
                if self.node.core.role() == Role::Leader && self.is_joint() =>
            {
                let core = &self.node.core;
                let of_other = core.progress().find(|(id, _)| *id == NodeId(3));
                let index = of_other.map_or(core.persisted(), |(_, progress)| progress.matched());
                if core.term_at(index) == Some(core.term()) {
                    self.announce(index);
                }
            }
            Some(Plant::ElectsByNewHalf) if self.is_joint() => {
                for id in [1, 2] {
                    self.forge_vote(NodeId(id));
                }
            }
            _ => {}
        }
    }

    fn is_joint(&self) -> bool {
        self.node.stage(self.bounds) == Stage::Joint
    }

    /// A candidate counts a vote that nobody gave.
    fn forge_vote(&mut self, id: NodeId) {
        let core = &self.node.core;
        if core.role() == Role::Candidate && id != self.node.id() {
            let others = rules::others(&self.state.nodes, self.at);
            let from = others.into_iter().find(|other| other.id() == id).expect("one of the nodes");
            let from = from.core.options().me;
            let vote = VoteReply { term: core.term(), granted: true, pre: false };
            self.feed(Input::Message { from, message: Message::VoteReply(vote) });
        }
    }

    fn finish(self, before: &State) -> Option<State> {
        let Self { mut state, at, node, has_sent, plant, .. } = self;
        let node_is_same = node == *before.nodes[at];
        if node_is_same && !has_sent && state.broken.is_empty() {
            return None;
        }
        if !node_is_same {
            state.nodes[at] = Frozen::new(node);
            rules::check_state(at, &mut state);
        }
        if let Some(plant) = plant {
            // A bug breaks other rules on the way to the one that it is known by.
            state.broken.retain([plant.breaks(), Rule::CoreAsserts]);
        }
        Some(state)
    }
}

impl Disk {
    /// Whether what a message promises would survive a crash of its sender.
    fn keeps(&self, message: &Message, from: NodeId, to: NodeId) -> bool {
        let HardState { term, voted_for } = self.hard_state;
        let vote = match message {
            Message::Vote(vote) if vote.pre => return true,
            Message::VoteReply(reply) if reply.pre => return true,
            // A question to the leader of a term promises nothing about it.
            Message::Forward(_) | Message::ReadIndex(_) => return true,
            Message::Vote(_) => Some(from),
            Message::VoteReply(reply) if reply.granted => Some(to),
            Message::VoteReply(_)
            | Message::Append(_)
            | Message::AppendReply(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatReply(_)
            | Message::ForwardReply(_)
            | Message::ReadIndexReply(_) => None,
        };
        term > message.term() || (term == message.term() && (vote.is_none() || vote == voted_for))
    }
}
