//! What a leader knows of one other member: how far its log is known to match, and what to send next.
//! Raft §5.3 (`matchIndex`, `nextIndex`), pipelining from the thesis §10.2.1.
//!
//! Pure bookkeeping of one member; which of these numbers commit anything is `commit`'s affair. A
//! member's `matched` only rises while its directory and boot stay the same: replies arrive late,
//! twice and in any order, and an old one must never take back what a newer one has shown.

use std::collections::VecDeque;

use crate::message::ReadRound;
use crate::types::{BootCount, Incarnation, LogIndex, Sender};

/// How a leader sends entries to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Where the logs match is not known, or messages were lost: one entry at a time, the next only
    /// after an answer or a heartbeat's time.
    Probe,
    /// The logs match: a pipeline of appends, up to the in-flight limits.
    Replicate,
}

/// An order to send, from which the core makes an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Send what comes after this.
    pub(super) prev: LogIndex,
    /// Not more than this, but at least one entry.
    pub(super) max_bytes: usize,
}

/// What a leader knows of another member, and what is on its way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    matched: LogIndex,
    next: LogIndex,
    mode: Mode,
    inflights: Inflights,
    /// The `prev` of an order that has not been answered by `Sent`.
    ordered: Option<LogIndex>,
    /// Nothing is sent before the next heartbeat, or, when probing, an answer.
    waiting: bool,
    /// The last entry of the probe that waits for an answer; 0 without one.
    probed: LogIndex,
    /// Which directory, in which boot, all this is known of.
    directory: Option<(Incarnation, BootCount)>,
    /// Ticks since the member answered anything.
    silent: u32,
    /// Ticks since `matched` rose, while something is in flight.
    stalled: u32,
    /// The highest read round the member has answered.
    round: ReadRound,
    /// It has said that its log has room for entries.
    has_room: bool,
}

impl Progress {
    /// A member of which nothing is known, in the hope that its log ends right before `next`.
    pub(super) fn new(next: LogIndex, inflights: Inflights) -> Self {
        Self {
            matched: LogIndex::ZERO,
            next,
            mode: Mode::Probe,
            inflights,
            ordered: None,
            waiting: false,
            probed: LogIndex::ZERO,
            directory: None,
            silent: 0,
            stalled: 0,
            round: ReadRound::default(),
            has_room: false,
        }
    }

    /// The last index up to which the member's disk holds the leader's log.
    pub fn matched(&self) -> LogIndex {
        self.matched
    }

    /// The index of the next entry to send.
    pub fn next(&self) -> LogIndex {
        self.next
    }

    /// How entries are sent.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What has been sent and not been acknowledged.
    pub fn inflights(&self) -> &Inflights {
        &self.inflights
    }

    /// The data directory that `matched` is known of; none before the member's first answer.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.directory.map(|(incarnation, _)| incarnation)
    }

    /// Ticks since the member answered anything.
    pub fn silent_ticks(&self) -> u32 {
        self.silent
    }

    /// Whether its log has room for entries, as far as it has said.
    pub fn has_room(&self) -> bool {
        self.has_room
    }

    /// The highest read round the member has answered.
    pub(super) fn round(&self) -> ReadRound {
        self.round
    }

    /// The member has answered. If it is another directory, or has restarted, it is asked anew where
    /// its log stands: what was in flight is lost, and a directory that was wiped or rolled back must
    /// not be taken at its predecessor's word.
    pub(super) fn heard_from(&mut self, from: &Sender, last: LogIndex) {
        self.silent = 0;
        let directory = (from.incarnation, from.boot);
        if self.directory == Some(directory) {
            return;
        }
        if self.directory.replace(directory).is_some() {
            // At least one entry is left to probe with, or an idle leader would never ask.
            let next = self.matched.next().min(last).max(LogIndex::ZERO.next());
            self.matched = LogIndex::ZERO;
            self.round = ReadRound::default();
            self.probe(next);
            self.waiting = false;
        }
    }

    /// The member's disk holds the leader's log up to `matched`. Returns whether that is news.
    pub(super) fn acknowledge(&mut self, matched: LogIndex) -> bool {
        if matched <= self.matched {
            return false;
        }
        self.matched = matched;
        self.next = self.next.max(matched.next());
        self.stalled = 0;
        self.inflights.free_to(matched);
        true
    }

    /// An append was accepted. Returns whether `matched` rose.
    pub(super) fn accepted(&mut self, matched: LogIndex) -> bool {
        let rose = self.acknowledge(matched);
        // A member that does not take what it is asked about has no room, or has not flushed it yet. To ask
        // again at once would go on for ever.
        if self.mode == Mode::Probe && matched >= self.probed {
            self.waiting = false;
            // The entry before the next one is known to match: the pipeline can start there.
            if matched.next() >= self.next {
                self.mode = Mode::Replicate;
                self.stalled = 0;
            }
        }
        rose
    }

    /// Whether a rejection of the append after `prev` speaks of what is being sent, and not of
    /// something that has been answered since.
    pub(super) fn is_current_rejection(&self, prev: LogIndex) -> bool {
        match self.mode {
            Mode::Probe => prev.next() == self.next && prev > self.matched,
            Mode::Replicate => prev > self.matched && prev < self.next,
        }
    }

    /// The member does not hold what was sent last: try again after `possible`.
    pub(super) fn rejected(&mut self, possible: LogIndex) {
        let refused = self.next;
        self.probe(possible.next());
        // Where the log has nothing earlier to offer, asking again at once would go on for ever.
        self.waiting = self.next >= refused;
    }

    /// The log begins with `first`: nothing before it can be sent.
    pub(super) fn begin_at(&mut self, first: LogIndex) {
        self.next = self.next.max(first);
    }

    fn probe(&mut self, next: LogIndex) {
        self.mode = Mode::Probe;
        self.next = next.max(self.matched.next());
        self.probed = LogIndex::ZERO;
        self.stalled = 0;
        self.inflights.clear();
    }

    /// Something on its way to the member was lost.
    pub(super) fn dropped(&mut self) {
        // With nothing on its way, it was no append, and heartbeats repeat themselves.
        if self.mode == Mode::Probe || self.ordered.is_some() || self.has_unacknowledged() {
            self.probe(self.matched.next());
            // Sending more into a full lane would only be dropped again.
            self.waiting = true;
        }
    }

    fn has_unacknowledged(&self) -> bool {
        self.next > self.matched.next()
    }

    /// A tick passed. A pipeline that brings no acknowledgement for `patience` ticks has lost
    /// something.
    pub(super) fn tick(&mut self, patience: u32) {
        self.silent = self.silent.saturating_add(1);
        if self.mode == Mode::Replicate && self.has_unacknowledged() && self.ordered.is_none() {
            self.stalled += 1;
            if self.stalled >= patience {
                self.probe(self.matched.next());
            }
        }
    }

    /// It is time for a heartbeat: what had to wait may be tried again.
    pub(super) fn rearm(&mut self) {
        self.waiting = false;
    }

    /// Notes an answer to a heartbeat of this read round.
    pub(super) fn answered(&mut self, round: ReadRound, full: bool) {
        self.round = self.round.max(round);
        self.has_room = !full;
    }

    /// What to send now, with the log ending at `last`; nothing while the last order is outstanding,
    /// or an answer or room is being waited for.
    pub(super) fn order(&mut self, last: LogIndex, max_append_bytes: usize) -> Option<Order> {
        if self.ordered.is_some() || self.waiting || self.next > last {
            return None;
        }
        let max_bytes = match self.mode {
            // A probe asks a question; one entry is enough for that.
            Mode::Probe => 0,
            Mode::Replicate if self.inflights.is_full() => return None,
            Mode::Replicate => self.inflights.free_bytes().min(max_append_bytes),
        };
        let prev = self.next.prev();
        self.ordered = Some(prev);
        Some(Order { prev, max_bytes })
    }

    /// The last order was carried out up to `last`, or not at all if `last` is its `prev`.
    pub(super) fn sent(&mut self, last: LogIndex, bytes: usize) {
        let Some(prev) = self.ordered.take() else { return };
        if prev.next() != self.next {
            // Where to send from has changed meanwhile; the order that follows takes care of it.
            return;
        }
        if self.mode == Mode::Replicate && last > prev {
            self.inflights.add(last, bytes);
            self.next = last.next();
        } else {
            self.waiting = true;
            self.probed = last;
        }
    }
}

/// Appends that have been sent and not been acknowledged, limited by their number and their bytes: a
/// slow follower holds up neither the leader's memory nor the commits of the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inflights {
    /// The last entry and the bytes of each, oldest first.
    appends: VecDeque<(LogIndex, usize)>,
    bytes: usize,
    max_appends: usize,
    max_bytes: usize,
}

impl Inflights {
    /// None, and at most so many.
    pub(super) fn new(max_appends: usize, max_bytes: usize) -> Self {
        Self { appends: VecDeque::new(), bytes: 0, max_appends, max_bytes }
    }

    /// How many appends there are.
    pub fn len(&self) -> usize {
        self.appends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    /// The bytes of their entries.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no further append may be sent.
    pub fn is_full(&self) -> bool {
        self.appends.len() >= self.max_appends || self.bytes >= self.max_bytes
    }

    fn free_bytes(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes)
    }

    fn add(&mut self, last: LogIndex, bytes: usize) {
        assert!(!self.is_full(), "an append up to {last} beyond the limits");
        if let Some((newest, _)) = self.appends.back() {
            assert!(last > *newest, "an append up to {last} after one up to {newest}");
        }
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn free_to(&mut self, matched: LogIndex) {
        while let Some(&(last, bytes)) = self.appends.front()
            && last <= matched
        {
            self.appends.pop_front();
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::NodeId;

    const LAST: LogIndex = LogIndex(100);

    fn sender(incarnation: u128, boot: u64) -> Sender {
        Sender { node: NodeId(2), incarnation: Incarnation(incarnation), boot: BootCount(boot) }
    }

    /// Matched up to 10, with a window of 3 appends and 100 bytes.
    fn replicating() -> Progress {
        let mut progress = Progress::new(LogIndex(11), Inflights::new(3, 100));
        progress.heard_from(&sender(1, 1), LAST);
        progress.accepted(LogIndex(10));
        assert_eq!(progress.mode(), Mode::Replicate);
        progress
    }

    fn send(progress: &mut Progress, entries: u64, bytes: usize) -> Option<Order> {
        let order = progress.order(LAST, 1000)?;
        progress.sent(order.prev.plus(entries), bytes);
        Some(order)
    }

    #[test]
    fn a_probe_sends_one_append_and_waits_for_an_answer_or_a_heartbeat() {
        let mut progress = Progress::new(LogIndex(5), Inflights::new(3, 100));
        assert_eq!(send(&mut progress, 1, 8), Some(Order { prev: LogIndex(4), max_bytes: 0 }));
        assert_eq!(progress.order(LAST, 1000), None);
        progress.rearm();
        assert_eq!(send(&mut progress, 1, 8), Some(Order { prev: LogIndex(4), max_bytes: 0 }));
        progress.rejected(LogIndex(2));
        assert_eq!(send(&mut progress, 1, 8), Some(Order { prev: LogIndex(2), max_bytes: 0 }));
    }

    #[test]
    fn an_order_is_outstanding_until_it_is_answered() {
        let mut progress = replicating();
        assert!(progress.order(LAST, 1000).is_some());
        progress.rearm();
        assert_eq!(progress.order(LAST, 1000), None);
        progress.sent(LogIndex(12), 10);
        assert_eq!(progress.next(), LogIndex(13));
        assert!(progress.order(LAST, 1000).is_some());
    }

    #[test]
    fn an_order_that_sent_nothing_waits_for_the_next_heartbeat() {
        let mut progress = replicating();
        send(&mut progress, 0, 0).expect("room");
        progress.accepted(LogIndex(10));
        assert_eq!(progress.order(LAST, 1000), None);
        progress.rearm();
        assert!(progress.order(LAST, 1000).is_some());
    }

    // Known bug 33: a window of appends alone lets large ones pile up on a slow follower.
    #[test]
    fn the_pipeline_is_limited_by_appends_and_by_bytes() {
        let mut many = replicating();
        for _ in 0..3 {
            send(&mut many, 1, 1).expect("room");
        }
        assert_eq!(many.order(LAST, 1000), None);
        many.accepted(LogIndex(11));
        assert!(send(&mut many, 1, 1).is_some());

        let mut large = replicating();
        send(&mut large, 1, 60).expect("room");
        assert_eq!(send(&mut large, 1, 40).expect("room").max_bytes, 40);
        assert_eq!(large.order(LAST, 1000), None);
        large.accepted(LogIndex(11));
        assert_eq!(large.order(LAST, 1000).expect("room").max_bytes, 60);
    }

    #[test]
    fn a_late_rejection_changes_nothing() {
        let mut progress = replicating();
        send(&mut progress, 5, 10);
        progress.accepted(LogIndex(15));
        assert!(!progress.is_current_rejection(LogIndex(10)), "acknowledged since");
        assert!(!progress.is_current_rejection(LogIndex(15)), "matched");
        assert!(!progress.is_current_rejection(LogIndex(16)), "never sent");

        send(&mut progress, 5, 10);
        assert!(progress.is_current_rejection(LogIndex(18)));
        progress.rejected(LogIndex(3));
        assert_eq!(progress.next(), LogIndex(16), "never below what is known to match");
        assert!(!progress.is_current_rejection(LogIndex(18)), "the probe asks another question");
    }

    #[test]
    fn a_lost_append_is_probed_for_and_a_lost_heartbeat_is_not() {
        let mut progress = replicating();
        progress.dropped();
        assert_eq!(progress.mode(), Mode::Replicate);
        send(&mut progress, 5, 10);
        progress.dropped();
        assert_eq!((progress.mode(), progress.next()), (Mode::Probe, LogIndex(11)));
        assert_eq!(progress.order(LAST, 1000), None, "the lane is still full");
        progress.rearm();
        assert!(progress.order(LAST, 1000).is_some());
    }

    #[test]
    fn a_pipeline_without_acknowledgements_falls_back_to_probing() {
        let mut progress = replicating();
        for _ in 0..9 {
            progress.tick(3);
        }
        assert_eq!(progress.mode(), Mode::Replicate, "nothing is in flight");
        send(&mut progress, 5, 10);
        progress.tick(3);
        progress.tick(3);
        progress.acknowledge(LogIndex(12));
        progress.tick(3);
        progress.tick(3);
        assert_eq!(progress.mode(), Mode::Replicate);
        progress.tick(3);
        assert_eq!((progress.mode(), progress.next()), (Mode::Probe, LogIndex(13)));
    }

    #[test]
    fn an_order_that_was_overtaken_by_a_rejection_does_not_move_the_next_entry() {
        let mut progress = replicating();
        send(&mut progress, 5, 10);
        let order = progress.order(LAST, 1000).expect("room");
        progress.rejected(LogIndex(10));
        progress.sent(order.prev.plus(5), 10);
        assert_eq!((progress.mode(), progress.next()), (Mode::Probe, LogIndex(11)));
        assert!(progress.order(LAST, 1000).is_some(), "the answer to the rejection goes out");
    }

    #[test]
    fn a_member_that_takes_nothing_of_a_probe_is_asked_again_with_the_next_heartbeat() {
        let mut progress = replicating();
        progress.rejected(LogIndex(10));
        progress.rearm();
        for _ in 0..3 {
            send(&mut progress, 1, 10).expect("a probe");
            assert!(!progress.accepted(LogIndex(10)));
            assert_eq!(progress.mode(), Mode::Probe);
            assert_eq!(progress.order(LAST, 1000), None, "it has no room");
            progress.rearm();
        }
        send(&mut progress, 1, 10).expect("a probe");
        assert!(progress.accepted(LogIndex(11)));
        assert_eq!(progress.mode(), Mode::Replicate);
        assert!(progress.order(LAST, 1000).is_some());
    }

    #[test]
    fn another_directory_or_boot_is_asked_anew() {
        for changed in [sender(2, 1), sender(1, 2)] {
            let mut progress = replicating();
            send(&mut progress, 90, 10);
            progress.accepted(LAST);
            progress.heard_from(&sender(1, 1), LAST);
            assert_eq!(progress.matched(), LAST);
            progress.heard_from(&changed, LAST);
            assert_eq!((progress.matched(), progress.mode()), (LogIndex::ZERO, Mode::Probe));
            assert!(progress.order(LAST, 1000).is_some(), "an idle leader still asks");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(u64, usize),
        Accept(u64),
        Acknowledge(u64),
        Reject(u64, u64),
        Drop,
        Tick,
        Rearm,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6_u64, 1..60_usize).prop_map(|(entries, bytes)| Step::Send(entries, bytes)),
            2 => (0..60_u64).prop_map(Step::Accept),
            1 => (0..60_u64).prop_map(Step::Acknowledge),
            1 => (0..60_u64, 0..60_u64).prop_map(|(prev, hint)| Step::Reject(prev, hint)),
            1 => Just(Step::Drop),
            1 => Just(Step::Tick),
            1 => Just(Step::Rearm),
        ]
    }

    proptest! {
        /// The model is a plain list of what was sent since the last probe began.
        #[test]
        fn a_window_holds_exactly_what_was_sent_and_not_acknowledged(
            steps in proptest::collection::vec(step(), 0..60),
        ) {
            let mut progress = Progress::new(LogIndex(1), Inflights::new(4, 100));
            let mut unacknowledged: Vec<(u64, usize)> = Vec::new();
            let mut matched = 0;
            for step in steps {
                match step {
                    Step::Send(entries, bytes) => {
                        let mode = progress.mode();
                        if let Some(order) = send(&mut progress, entries, bytes)
                            && mode == Mode::Replicate
                            && entries > 0
                        {
                            unacknowledged.push((order.prev.0 + entries, bytes));
                        }
                    }
                    Step::Accept(index) => {
                        progress.accepted(LogIndex(index));
                        matched = matched.max(index);
                    }
                    Step::Acknowledge(index) => {
                        progress.acknowledge(LogIndex(index));
                        matched = matched.max(index);
                    }
                    Step::Reject(prev, hint) => {
                        if progress.is_current_rejection(LogIndex(prev)) {
                            progress.rejected(LogIndex(hint.min(prev)));
                        }
                    }
                    Step::Drop => progress.dropped(),
                    Step::Tick => progress.tick(5),
                    Step::Rearm => progress.rearm(),
                }
                if progress.mode() == Mode::Probe {
                    unacknowledged.clear();
                }
                unacknowledged.retain(|(last, _)| *last > matched);
                let bytes: usize = unacknowledged.iter().map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(progress.matched().0, matched);
                prop_assert!(progress.next() > progress.matched());
                prop_assert_eq!(progress.inflights().len(), unacknowledged.len());
                prop_assert_eq!(progress.inflights().bytes(), bytes);
                prop_assert!(progress.inflights().len() <= 4 && bytes < 100 + 60);
                if let Some((last, _)) = unacknowledged.last() {
                    prop_assert_eq!(progress.next().0, last + 1);
                }
            }
        }
    }
}
