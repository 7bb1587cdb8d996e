//! Carries out what the consensus core orders: writing to the log, sending, answering.

use std::sync::Arc;

use super::core_loop::CoreLoop;
use super::forwards::Sent;
use super::group::{Awaited, Group, Pending};
use super::inbox::Generation;
use super::reads::Confirmation;
use super::shared::{FetchJob, Fetched};
use crate::clock::Time;
use crate::codec;
use crate::consensus::{Input, NewEntries, Output};
use crate::message::{Append, Envelope, Forward, Message, ReadRound};
use crate::record::{EntryKind, Origin, RecordHeader, Records};
use crate::slices::Slices;
use crate::state_machine::StateMachine;
use crate::types::{EntryId, HardState, LogIndex, NodeId, Role, Sender};
use crate::wal::Fetch;

impl<S: StateMachine> CoreLoop<S> {
    /// Gives the core an input that came with `records`, carries out its orders, and tells it what came
    /// of them.
    pub(super) fn feed_with(&mut self, input: Input, records: &Slices) {
        for order in self.core.step(input) {
            self.carry_out(order, records);
        }
        while let Some(input) = self.later.pop_front() {
            for order in self.core.step(input) {
                self.carry_out(order, &Slices::new());
            }
        }
        if self.memory.is_some() {
            self.publish();
            if let Some(written) = self.published.take() {
                self.report_persisted(written);
            }
        }
    }

    /// Lets the other threads see what has been written.
    pub(super) fn publish(&mut self) {
        if self.dirty {
            self.dirty = false;
            self.published = Some(self.log.publish());
        }
    }

    fn carry_out(&mut self, order: Output, records: &Slices) {
        match order {
            Output::Append { first, count, entries } => {
                self.append(first, count, &entries, records);
            }
            Output::Truncate { from, generation } => {
                self.log.truncate_from(from, generation.0);
                // Before anything that takes the entries' place is committed: a machine that keeps its own
                // state must not get that before this node's disk has it.
                self.shared.apply.set_persisted(self.core.persisted());
                self.backlog.truncated(from);
                self.dirty = true;
            }
            Output::Store { first, last } => {
                let bytes = self.log.append_slices(records, first, last);
                self.last_time = self.last_time.max(self.received_time);
                self.backlog.wrote(last, bytes);
                self.dirty = true;
            }
            Output::PersistHardState(hard_state) => self.persist(hard_state),
            Output::Send { to, message } => self.send(to, message),
            Output::SendAppend { to, append, max_bytes } => self.send_append(to, append, max_bytes),
            Output::Committed(_) => self.committed = true,
            Output::RoleChanged { role, term, leader } => {
                let leader = leader.map_or("none".to_owned(), |leader| leader.to_string());
                log::info!("node={} role={role} term={term} leader={leader}", self.me.node);
                // Whoever was to take them does so in this term's log or never.
                self.outgoing.clear();
                self.publish_leadership();
                self.publish_status();
            }
            Output::ProposeRefused => {
                let generation = self.proposals.take().expect("asked about proposals");
                let (count, bytes) = (generation.count(), generation.bytes());
                self.shared.inbox.recycle(generation).refuse(self.core.leader());
                self.shared.inbox.give_back(count, bytes);
            }
            Output::ForwardPlaced { sequence, first } => self.outgoing.placed(sequence, first),
            Output::ReadQueued(round) => {
                let group = self.reader.take().expect("asked about readers");
                self.readers.push_back((round, group));
            }
            Output::ReadRefused => {
                let group = self.reader.take().expect("asked about readers");
                group.tell(Confirmation::NotLeader(self.core.leader()));
            }
            Output::ReadConfirmed { round, index } => self.confirm_readers(round, index),
            Output::ReadsLost => {
                let leader = self.core.leader();
                for (_, group) in self.readers.drain(..) {
                    group.tell(Confirmation::NotLeader(leader));
                }
            }
        }
    }

    /// Writes entries that this node creates as leader.
    fn append(&mut self, first: EntryId, count: u64, entries: &NewEntries, records: &Slices) {
        // Time stamps never go back along the log, whoever wrote the entries before.
        self.last_time = self.last_time.max(self.now.0);
        let header = |id, kind| RecordHeader { id, time: self.last_time, kind, origin: None };
        let mut bytes = 0;
        match entries {
            NewEntries::Noop => {
                let header = header(first, EntryKind::Noop);
                bytes += header.record_bytes(0);
                self.log.append(&header, &[]);
            }
            NewEntries::Membership(membership) => {
                let mut payload = Vec::new();
                codec::encode_message(membership, &mut payload).expect("memberships are small");
                let header = header(first, EntryKind::Membership);
                bytes += header.record_bytes(payload.len());
                self.log.append(&header, &payload);
            }
            NewEntries::Commands => bytes += self.append_proposals(first, count),
            NewEntries::Forwarded => {
                bytes += records.len();
                self.append_forwarded(first, records);
            }
        }
        self.backlog.wrote(first.index.plus(count - 1), bytes);
        self.dirty = true;
    }

    /// Writes the proposals that the core was asked about, and hands their tickets to the `apply` loop;
    /// returns the records' bytes.
    fn append_proposals(&mut self, first: EntryId, count: u64) -> usize {
        let generation = self.proposals.take().expect("asked about proposals");
        assert!(
            generation.count() as u64 == count,
            "asked about {}, told of {count}",
            generation.count()
        );
        let expires = self.now.after(generation.max_wait());
        let mut bytes = 0;
        let mut id = first;
        for (_, command) in generation.commands() {
            let header =
                RecordHeader { id, time: self.last_time, kind: EntryKind::Command, origin: None };
            bytes += header.record_bytes(command.len());
            self.log.append(&header, command);
            id.index = id.index.next();
        }
        let runs = runs(&generation);
        let group = self.shared.inbox.recycle(generation).take();
        self.hand_to_apply(&group, &runs, Awaited::Entry(first), expires);
        bytes
    }

    /// Writes the commands of another node, with their tags, as entries of this leader.
    fn append_forwarded(&mut self, first: EntryId, records: &Slices) {
        let mut id = first;
        for record in Records::trusted(records) {
            let record = record.expect("checked when it arrived");
            let header = RecordHeader { id, time: self.last_time, ..record.header };
            self.log.append(&header, record.payload);
            id.index = id.index.next();
        }
    }

    /// Sends the proposals that are next to the leader; true if more may follow at once. What cannot be
    /// sent stays in the inbox, where it can still be withdrawn, until the next step.
    pub(super) fn forward(&mut self, leader: NodeId, bytes: usize) -> bool {
        // So that the leader has room for what all others send as well.
        let share = self.shared.config.max_peer_queue_bytes / self.core.membership().nodes().len();
        if !self.outgoing.has_room(bytes, share) {
            return false;
        }
        let Some(generation) = self.shared.inbox.borrow() else { return false };
        let (term, sequence) = (self.core.term(), self.outgoing.next_sequence());
        let runs = runs(&generation);
        if runs.is_empty() {
            // All of it was withdrawn.
            self.shared.inbox.recycle(generation).refuse(None);
            return true;
        }
        let count = generation.count() as u64;
        let message = Message::Forward(Forward { term, sequence, count });
        let records = Slices::from(self.tagged(&generation, sequence));
        let envelope = Envelope { from: self.me, to: leader, message, records };
        if self.transport.send(envelope).is_err() {
            self.shared.inbox.put_back(generation);
            return false;
        }
        let expires = self.now.after(generation.max_wait());
        let bytes = generation.record_bytes();
        let group = self.shared.inbox.recycle(generation).take();
        self.hand_to_apply(&group, &runs, Awaited::Tag(term, sequence), expires);
        let runs = runs.iter().map(|run| (run.slot, run.count)).collect();
        self.outgoing.sent(Sent { sequence, bytes, group, runs, expires });
        true
    }

    /// The proposals as records that a leader can complete.
    fn tagged(&self, generation: &Generation<S::Response>, mut sequence: u64) -> Vec<u8> {
        let Sender { incarnation, boot, .. } = self.me;
        let mut bytes = Vec::with_capacity(generation.record_bytes());
        for (_, command) in generation.commands() {
            let origin = Some(Origin { incarnation, boot, sequence });
            let (id, kind) = (EntryId::ZERO, EntryKind::Command);
            RecordHeader { id, time: 0, kind, origin }.write(command, &mut bytes);
            sequence += 1;
        }
        bytes
    }

    fn hand_to_apply(
        &self,
        group: &Arc<Group<S::Response>>,
        runs: &[Run],
        first: Awaited,
        expires: Time,
    ) {
        let mut next = first;
        for &Run { slot, count, bytes } in runs {
            let pending = Pending::new(Arc::clone(group), slot, count, next, bytes, expires);
            self.shared.apply.push(pending);
            next = next.plus(count as u64);
        }
    }

    fn persist(&mut self, hard_state: HardState) {
        if let Some(memory) = &self.memory {
            memory.store_hard_state(hard_state);
            self.later.push_back(Input::HardStatePersisted(hard_state));
        } else {
            self.shared.wal.store_hard_state(hard_state);
            self.shared.wakers.wal.wake();
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        let envelope = Envelope { from: self.me, to, message, records: Slices::new() };
        // What is lost here is sent again or answered again, as what is lost on the way.
        let _ = self.transport.send(envelope);
    }

    /// Sends entries as far as they are in memory; the `snap` loop fetches others.
    fn send_append(&mut self, to: NodeId, mut append: Append, max_bytes: usize) {
        // Only what is published may be sent.
        self.publish();
        if append.prev.index < self.log.base().index {
            // Every member's disk had these entries, whatever the core has heard of it since a restart. Who
            // still has them takes what follows the last of them; who has lost its directory refuses that
            // with every heartbeat, and no follower can make a leader fall.
            append.prev = self.log.base();
        }
        let prev = append.prev.index;
        match self.log.slices(prev, max_bytes) {
            Fetch::Hot(records, last) => self.send_records(to, append, records, last),
            Fetch::Cold => {
                let last = self.core.last().index;
                let term = self.core.term();
                self.shared.snap.ask(FetchJob { term, to, append, last, max_bytes });
                self.shared.wakers.snap.wake();
            }
        }
    }

    fn send_records(&mut self, to: NodeId, append: Append, records: Slices, last: LogIndex) {
        let (prev, bytes) = (append.prev.index, records.len());
        let envelope = Envelope { from: self.me, to, message: Message::Append(append), records };
        if self.transport.send(envelope).is_ok() {
            self.later.push_back(Input::Sent { to, last, bytes });
        } else {
            self.later.push_back(Input::Sent { to, last: prev, bytes: 0 });
            self.later.push_back(Input::Dropped { to });
        }
    }

    /// Sends entries that were fetched, if they are still wanted.
    pub(super) fn send_fetched(&mut self, fetched: Fetched) {
        let Fetched { job, records, last } = fetched;
        if job.term == self.core.term() && self.core.role() == Role::Leader {
            if records.is_empty() {
                self.later.push_back(Input::Sent { to: job.to, last, bytes: 0 });
            } else {
                self.send_records(job.to, job.append, records, last);
            }
            if let Some(sent) = self.later.pop_front() {
                self.feed(sent);
            }
        }
    }

    fn confirm_readers(&mut self, round: ReadRound, index: LogIndex) {
        while let Some((waits_for, _)) = self.readers.front() {
            if *waits_for > round {
                return;
            }
            let (_, group) = self.readers.pop_front().expect("just seen");
            group.tell(Confirmation::Confirmed(index));
        }
    }
}

/// Slots in a row; withdrawn slots part them.
struct Run {
    slot: usize,
    count: usize,
    /// Bytes of the commands.
    bytes: usize,
}

fn runs<R>(generation: &Generation<R>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    for (slot, command) in generation.commands() {
        match runs.last_mut() {
            Some(run) if run.slot + run.count == slot => {
                run.count += 1;
                run.bytes += command.len();
            }
            _ => runs.push(Run { slot, count: 1, bytes: command.len() }),
        }
    }
    runs
}
