//! The `core` loop: feeds the consensus core with what has arrived.
//!
//! What the core orders in return is carried out in [`super::orders`]. Neither may do anything slow: no
//! flush, no file, no user code, no sending that waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::backlog::Backlog;
use super::forwards::{Arrived, Incoming, Outgoing};
use super::inbox::Generation;
use super::reads::{Confirmation, ReadGroup};
use super::received::{self, Room};
use super::shared::{Loop, Shared, Wait};
use super::status::PeerStatus;
use super::stop::Phase;
use super::watch::Leadership;
use crate::clock::Time;
use crate::consensus::{Core, Generation as LogGeneration, Input};
use crate::error::StopCause;
use crate::message::{Envelope, Message, ReadRound};
use crate::slices::Slices;
use crate::state_machine::StateMachine;
use crate::transport::{PeerEvent, PeerLane, Transport};
use crate::types::{Role, Sender, Term};
use crate::wal::{Fetch, Log, Memory, Position};

/// Messages from other nodes that are handled before the loop looks elsewhere.
const MAX_MESSAGES_A_STEP: usize = 64;
/// Bytes of the log that are kept for the no-ops of terms to come, so that a full cluster still has leaders,
/// and reads.
const RESERVED_ROOM: usize = 4096;
/// What is left of them for a leader's own: a node that has not had it for `stuck_after` does not stand,
/// and in that time there are few elections.
const ROOM_TO_STAND: usize = RESERVED_ROOM / 4;
/// The most bytes of entries that are applied on this thread at once.
const MAX_APPLIED_HERE: usize = 512 << 10;
/// How long proposals that are in the log may take to be answered once the node is told to stop.
const MAX_DRAIN: Duration = Duration::from_millis(500);

/// The parts of a core loop, as they are when the node starts.
pub(crate) struct Parts {
    pub(crate) core: Core,
    pub(crate) log: Log,
    pub(crate) me: Sender,
    pub(crate) peers: PeerLane,
    pub(crate) transport: Box<dyn Transport>,
    /// Where term and vote go if the log is in memory; it is as durable as it gets once it is written.
    pub(crate) memory: Option<Memory>,
    /// The time stamp of the log's last record.
    pub(crate) last_time: u64,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state in disguise")]
pub(crate) struct CoreLoop<S: StateMachine> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) core: Core,
    pub(super) log: Log,
    pub(super) me: Sender,
    pub(super) peers: PeerLane,
    pub(super) transport: Box<dyn Transport>,
    pub(super) memory: Option<Memory>,
    pub(super) last_time: u64,
    /// The latest time stamp in the append that is being handled; what is not stored changes nothing.
    pub(super) received_time: u64,
    /// The moment of this step.
    pub(super) now: Time,
    next_tick: Time,
    /// Something was written that is not published.
    pub(super) dirty: bool,
    /// What was published, and not flushed nor asked to be.
    pub(super) published: Option<Position>,
    /// Something was committed, or may be applied since, that the `apply` loop has not been told of.
    pub(super) committed: bool,
    /// What the core is told once its orders so far are carried out.
    pub(super) later: VecDeque<Input>,
    /// The proposals that the core is being asked about.
    pub(super) proposals: Option<Generation<S::Response>>,
    /// The readers that the core is being asked about.
    pub(super) reader: Option<Arc<ReadGroup>>,
    /// Readers that wait for a round, in the order of their rounds.
    pub(super) readers: VecDeque<(ReadRound, Arc<ReadGroup>)>,
    pub(super) backlog: Backlog,
    /// Proposals of this node that its leader has not answered for.
    pub(super) outgoing: Outgoing<S::Response>,
    /// Proposals of other nodes that wait for room in the log.
    pub(super) incoming: Incoming,
    refused_messages: u64,
    fit: bool,
    /// When the log last had room for anything that may come.
    had_room: Time,
    /// When it last had room for this node's own no-ops.
    could_stand: Time,
    /// The log has been without room for longer than `stuck_after`.
    full: bool,
    /// The machine says that applying is short, and it has not been otherwise.
    pub(super) applies_here: bool,
    closing: Closing,
}

/// How far a core is that has been told to stop.
#[derive(Clone, Copy, Debug)]
enum Closing {
    /// It has not.
    No,
    /// It waits for the answers to what is in the log, until this moment.
    Drain(Time),
    /// It waits for its last flushes.
    Flush(Position),
}

impl<S: StateMachine> CoreLoop<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, parts: Parts) -> Self {
        let now = shared.clock.now();
        let Parts { core, log, me, peers, transport, memory, last_time } = parts;
        let next_tick = now.after(shared.config.tick);
        shared.apply.set_committed(core.committed());
        shared.apply.set_persisted(core.persisted());
        let this = Self {
            shared,
            core,
            log,
            me,
            peers,
            transport,
            memory,
            last_time,
            received_time: 0,
            now,
            next_tick,
            dirty: false,
            published: None,
            committed: false,
            later: VecDeque::new(),
            proposals: None,
            reader: None,
            readers: VecDeque::new(),
            backlog: Backlog::default(),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            refused_messages: 0,
            fit: true,
            had_room: now,
            could_stand: now,
            full: false,
            applies_here: S::APPLY_IS_SHORT,
            closing: Closing::No,
        };
        this.publish_leadership();
        this.publish_status();
        this
    }

    /// What the other loops have done meanwhile.
    fn take_reports(&mut self) {
        if let Some(hard_state) = self.shared.wal.take_hard_state_stored() {
            self.feed(Input::HardStatePersisted(hard_state));
        }
        if self.memory.is_none() {
            self.report_persisted(self.shared.wal.flushed());
        }
        for fetched in self.shared.snap.take_fetched() {
            self.send_fetched(fetched);
        }
    }

    pub(super) fn report_persisted(&mut self, flushed: Position) {
        if let Some((generation, index)) = self.log.persisted(flushed) {
            self.feed(Input::Persisted { generation: LogGeneration(generation), index });
            self.shared.apply.set_persisted(self.core.persisted());
            // A machine that keeps its own state may have waited for this node's disk.
            self.committed |= self.core.committed() > self.shared.applied.get();
        }
    }

    /// Handles some messages; true if more wait.
    fn take_messages(&mut self) -> bool {
        for _ in 0..MAX_MESSAGES_A_STEP {
            match self.peers.take() {
                Some(PeerEvent::Message(envelope)) => self.receive(envelope),
                Some(PeerEvent::Dropped(to)) => self.feed(Input::Dropped { to }),
                None => return false,
            }
        }
        !self.peers.is_empty()
    }

    fn receive(&mut self, envelope: Envelope) {
        let Envelope { from, to, message, records } = envelope;
        if to != self.me.node || from.node == self.me.node {
            return self.refuse(from, "it is not for this node");
        }
        let message = match message {
            Message::Append(append) => {
                let room = self.room_for_appends();
                self.received_time = 0;
                match received::check(append, &records, &room, &mut self.received_time) {
                    Ok(append) => Message::Append(append),
                    Err(error) => return self.refuse(from, &error),
                }
            }
            Message::Forward(forward) => {
                return self.receive_forward(Arrived { from, forward, records });
            }
            other if records.is_empty() => other,
            _ => return self.refuse(from, "it has entries and must have none"),
        };
        self.feed_with(Input::Message { from, message }, &records);
    }

    /// Keeps another node's proposals until the log has room for them. Those that this node may not take,
    /// it never may: a term that has passed does not come back.
    fn receive_forward(&mut self, arrived: Arrived) {
        let Arrived { from, forward, records } = &arrived;
        let max_record = self.log.max_record_bytes();
        let max_bytes = self.shared.config.segment_bytes / 2;
        if let Err(error) = received::check_forward(from, forward, records, max_record, max_bytes) {
            return self.refuse(*from, &error);
        }
        let from = *from;
        if self.takes_forward(forward.term)
            && !self.incoming.push(arrived, self.shared.config.max_peer_queue_bytes)
        {
            self.refuse(from, "more proposals wait for the log than may");
        }
    }

    fn takes_forward(&self, term: Term) -> bool {
        self.core.role() == Role::Leader
            && self.core.term() == term
            && !self.shared.stop.is_stopping()
    }

    /// Lets other nodes' proposals into the log, about as much as this node's own clients have in a step;
    /// true if more wait and may be let in.
    fn take_forwards(&mut self) -> bool {
        let mut taken = 0;
        while let Some(bytes) = self.incoming.next_bytes() {
            if self.core.role() != Role::Leader || self.shared.stop.is_stopping() {
                self.incoming.clear();
                return false;
            }
            if self.room_for_proposals() < bytes {
                return false;
            }
            if taken >= self.shared.config.max_batch_bytes {
                return true;
            }
            taken += bytes;
            let Arrived { from, forward, records } = self.incoming.pop().expect("just seen");
            self.feed_with(Input::Message { from, message: Message::Forward(forward) }, &records);
        }
        false
    }

    fn refuse(&mut self, from: Sender, why: &str) {
        self.refused_messages += 1;
        log::warn!("node={} refused message from={} why={why:?}", self.me.node, from.node);
    }

    /// The bytes of proposals' records that may enter the log now.
    fn room_for_proposals(&mut self) -> usize {
        let unapplied = self.backlog.bytes(self.shared.applied.get());
        if unapplied > self.shared.config.max_unapplied_bytes { 0 } else { self.unreserved_room() }
    }

    /// The bytes of a leader's records that may enter the log now. What is not committed does not count:
    /// to refuse the entries that would commit it, or take its place, would be to refuse them for ever.
    /// The leader's own limit bounds it.
    fn room_for_appends(&mut self) -> Room {
        let due = self.backlog.due(self.shared.applied.get(), self.core.committed());
        let is_behind = due > self.shared.config.max_unapplied_bytes;
        Room {
            max_record_bytes: self.log.max_record_bytes(),
            bytes: if is_behind { 0 } else { self.unreserved_room() },
            with_noop: self.log.room().saturating_sub(ROOM_TO_STAND),
        }
    }

    fn unreserved_room(&self) -> usize {
        self.log.room().saturating_sub(RESERVED_ROOM)
    }

    /// Whether a piece of work of this node has taken too long: a flush, a batch of entries, or making
    /// room for the no-op of a term.
    fn is_stuck(&mut self) -> bool {
        if self.log.room() >= ROOM_TO_STAND {
            self.could_stand = self.now;
        }
        let longest = [
            self.shared.wal.busy.lasts(self.now),
            self.shared.apply.busy.lasts(self.now),
            self.now.since(self.could_stand),
        ];
        longest.into_iter().any(|lasts| lasts > self.shared.config.stuck_after)
    }

    /// Looks whether there is room for whatever may come: proposals enter half a segment at once at most.
    fn look_for_room(&mut self) {
        if self.unreserved_room() >= self.shared.config.segment_bytes / 2 {
            self.had_room = self.now;
        }
        let full = self.now.since(self.had_room) > self.shared.config.stuck_after;
        if full != self.full {
            self.full = full;
            let state = if full { "full" } else { "not full any more" };
            log::warn!("node={} log is {state}", self.me.node);
            self.feed(Input::Full(full));
        }
    }

    /// Lets the next proposals into the log; true if more wait and may be let in.
    fn take_proposals(&mut self) -> bool {
        if self.shared.stop.is_stopping() {
            self.shared.inbox.clear();
            return false;
        }
        let Some(bytes) = self.shared.inbox.next_bytes() else {
            return false;
        };
        if self.core.role() == Role::Leader {
            if self.room_for_proposals() < bytes {
                return false;
            }
        } else if let Some(leader) = self.core.leader()
            && self.shared.config.forward
        {
            return self.forward(leader, bytes);
        }
        let Some(generation) = self.shared.inbox.take() else {
            return false;
        };
        let count = generation.count() as u64;
        self.proposals = Some(generation);
        if count > 0 {
            self.feed(Input::Propose { count });
        }
        // Taken up by an order of the core, unless all of it was withdrawn.
        if let Some(generation) = self.proposals.take() {
            assert!(count == 0, "the core left {count} proposals without an answer");
            self.shared.inbox.recycle(generation).refuse(None);
        }
        true
    }

    fn take_readers(&mut self) {
        if let Some(group) = self.shared.reads.take() {
            if self.core.role() != Role::Leader && !self.shared.config.forward {
                return group.tell(Confirmation::NotLeader(self.core.leader()));
            }
            self.reader = Some(group);
            self.feed(Input::Read);
            assert!(self.reader.is_none(), "the core left a read without an answer");
        }
    }

    fn tick(&mut self) {
        self.next_tick = self.next_tick.after(self.shared.config.tick);
        if self.next_tick <= self.now {
            // The thread was not scheduled for long: what was missed is not made up for, or a burst of
            // ticks would look like silence of the leader.
            self.next_tick = self.now.after(self.shared.config.tick);
        }
        let stuck = self.is_stuck();
        if stuck == self.fit {
            self.fit = !stuck;
            let state = if stuck { "stuck; not leading meanwhile" } else { "moving again" };
            log::warn!("node={} disk or state machine is {state}", self.me.node);
            self.feed(Input::Fit(self.fit));
        }
        self.look_for_room();
        self.feed(Input::Tick);
        self.outgoing.forget_settled(self.now);
        // What the machine has made durable by itself, and every member has, nobody will ask for.
        let up_to = self.shared.apply.kept().min(self.core.replicated());
        if self.log.release_beyond(self.shared.config.max_kept_log_bytes, up_to) {
            // Without new entries no mark would say so, and nothing would go.
            self.shared.wal.want_cover();
        }
        self.publish_status();
        // It also lets go of proposals that nobody waits for any more.
        if self.shared.inbox.pending() > 0 {
            self.shared.wakers.apply.wake();
        }
    }

    /// Hands on what was written and committed in this step.
    fn hand_on(&mut self) {
        self.publish();
        if let Some(target) = self.published.take() {
            self.flush_to(target);
        }
        if self.shared.wal.take_cover_wanted()
            && let Some(target) = self.log.cover()
        {
            self.flush_to(target);
        }
        if self.log.wants_preparing() {
            self.shared.wakers.seg.wake();
        }
        if self.committed {
            self.committed = false;
            // Only now: an entry may be committed in the step that stores it, and the `apply` loop, which
            // may be looking at this very moment, reads what is published.
            self.shared.apply.set_committed(self.core.committed());
            if !self.apply_here() {
                self.shared.wakers.apply.wake();
            }
        }
    }

    /// Applies what is committed on this thread, if the machine says that this is quick, it is little, and
    /// nothing has to be waited for. False leaves it to the `apply` thread.
    fn apply_here(&mut self) -> bool {
        if !self.applies_here || self.shared.stop.is_stopping() {
            return false;
        }
        let Some(mut applier) = self.shared.applier.try_lock() else { return false };
        let (applied, target) = (applier.applied(), applier.target(&self.shared));
        if target <= applied {
            return true;
        }
        let Fetch::Hot(slices, last) = self.log.slices(applied, MAX_APPLIED_HERE) else {
            return false;
        };
        // All of it or nothing: an `apply` thread that has begun is to go on.
        if last < target {
            return false;
        }
        let Some(state) = self.shared.state.try_write() else { return false };
        let begun = self.shared.clock.now();
        // An error has stopped the node already.
        let _ = applier.apply(&self.shared, state, &slices, target);
        if self.shared.clock.now().since(begun) > self.shared.config.tick {
            self.applies_here = false;
            log::warn!("node={} apply is not short: leaving it to its own thread", self.me.node);
        }
        true
    }

    fn flush_to(&self, target: Position) {
        if self.memory.is_none() {
            self.shared.wal.set_target(target);
            self.shared.wakers.wal.wake();
        }
    }

    /// Brings a stop further; true if the loop is done.
    fn close(&mut self) -> bool {
        match self.closing {
            Closing::No if self.shared.stop.is_stopping() => {
                self.closing = Closing::Drain(self.now.after(MAX_DRAIN));
                self.close()
            }
            Closing::No => false,
            Closing::Drain(until) => {
                if self.shared.inbox.pending() > 0 && self.now < until {
                    return false;
                }
                self.shared.stop(Phase::Closing, StopCause::Shutdown);
                self.hand_on();
                self.closing = Closing::Flush(self.shared.wal.target());
                self.close()
            }
            Closing::Flush(target) => {
                let flushed = self.shared.wal.flushed();
                if self.memory.is_none() && flushed < target {
                    return false;
                }
                // So that the log knows what there is to cover.
                self.log.persisted(flushed);
                if self.memory.is_none()
                    && let Some(cover) = self.log.cover()
                {
                    self.flush_to(cover);
                    self.closing = Closing::Flush(cover);
                    return false;
                }
                self.shared.wal.close();
                self.shared.wakers.wal.wake();
                true
            }
        }
    }

    pub(super) fn publish_leadership(&self) {
        self.shared.leadership.set(Leadership {
            role: self.core.role(),
            term: self.core.term(),
            leader: self.core.leader(),
            stopped: false,
        });
    }

    pub(super) fn publish_status(&self) {
        let peers = self.core.progress().map(|(id, progress)| {
            PeerStatus::new(id, progress.matched(), progress.next(), progress.mode())
        });
        let peers = peers.collect();
        let mut status = self.shared.status.lock();
        status.id = self.me.node;
        status.incarnation = self.me.incarnation;
        status.boot = self.me.boot;
        status.first = self.log.first();
        status.last = self.core.last();
        status.log_segments = self.log.segments();
        status.log_bytes = self.log.bytes();
        status.persisted = self.core.persisted();
        status.dropped_messages = self.peers.dropped();
        status.refused_messages = self.refused_messages;
        status.stuck = !self.fit;
        status.full = self.full;
        status.peers = peers;
    }

    /// Tells whoever waits for this loop that it does not go on.
    fn let_go(&mut self) {
        self.shared.leadership.set(Leadership {
            role: Role::Follower,
            term: self.core.term(),
            leader: None,
            stopped: true,
        });
        // Closed as well: whoever stops the node may not have come to that yet.
        self.shared.inbox.close();
        self.shared.inbox.clear();
        drop(self.proposals.take());
        // Those that the `apply` loop has not picked up: it may be stuck, and they need not wait for it.
        let mut late = Vec::new();
        self.shared.apply.take(&mut late);
        drop(late);
        let cause = self.shared.stop.cause_or_shutdown();
        let readers = self.readers.drain(..).map(|(_, group)| group).chain(self.reader.take());
        for group in readers {
            group.tell(Confirmation::Stopped(cause.clone()));
        }
    }

    pub(super) fn feed(&mut self, input: Input) {
        self.feed_with(input, &Slices::new());
    }

    /// Campaigns at once, as an operator may ask for.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn campaign(&mut self, now: Time) {
        self.now = now;
        self.feed(Input::Campaign);
        self.hand_on();
    }
}

impl<S: StateMachine> Loop for CoreLoop<S> {
    fn step(&mut self, now: Time) -> Wait {
        self.now = now;
        if self.shared.stop.is_halted() {
            self.let_go();
            return Wait::Done;
        }
        if let Closing::Flush(_) = self.closing {
            return if self.close() { Wait::Done } else { Wait::Wake };
        }
        self.take_reports();
        let mut more = self.take_messages();
        if now >= self.next_tick {
            self.tick();
        }
        self.take_readers();
        more |= self.take_forwards();
        more |= self.take_proposals();
        self.hand_on();
        if self.close() {
            self.let_go();
            return Wait::Done;
        }
        match self.closing {
            _ if more => Wait::No,
            Closing::No => Wait::Until(self.next_tick),
            Closing::Drain(until) => Wait::Until(self.next_tick.min(until)),
            Closing::Flush(_) => {
                self.let_go();
                Wait::Wake
            }
        }
    }
}

impl<S: StateMachine> Drop for CoreLoop<S> {
    /// However the loop ends, a panic included, nobody is left waiting.
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::node::builder::Assembled;
    use crate::node::inbox::Refused;
    use crate::node::{Node, NodeBuilder};

    #[test]
    fn nothing_enters_the_inbox_after_the_core_has_looked_into_it_for_the_last_time() {
        let builder: NodeBuilder<()> = Node::builder(1, ());
        let builder = builder.in_memory().members([(1, "")]).config(Config::small());
        let Assembled { shared, mut core, .. } = builder.assemble().expect("starts");
        // Whoever stops the node is held up before it has closed the door.
        shared.stop.advance(Phase::Halted, StopCause::Crash);
        assert_eq!(core.step(shared.clock.now()), Wait::Done);
        let put = shared.inbox.put(b"late", Instant::now(), Duration::ZERO);
        assert_eq!(put.map(drop), Err(Refused::Stopped));
    }
}
