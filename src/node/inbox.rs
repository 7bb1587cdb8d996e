//! The door: where callers leave proposals, and wait when the node holds as many as it may.
//!
//! Room is given out as credits, in bytes and in number, first come, first served, and comes back with
//! the answers. So the queues behind the door never fill, and no thread of the node waits for another.
//!
//! A proposal that is still here can be withdrawn; one that the core has taken cannot. Both happen under
//! the inbox's lock, so a proposal is either withdrawn or taken, never both. No user code runs under it.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::group::{Group, Unplaced};
use super::stop::Stop;
use crate::record::record_bytes;
use crate::sync::thread::{self, Thread};
use crate::sync::{Instant, Mutex, MutexGuard};
use crate::wake::Waker;

/// Stands for the length of a proposal that was withdrawn.
const WITHDRAWN: u32 = u32::MAX;
/// Buffers that are kept for the next generation.
const MAX_SPARE: usize = 4;
/// How often a caller that withdraws looks whether a loan has ended.
const MAX_LOAN_LOOKS: usize = 10_000;

/// Proposals that enter the log together.
#[derive(Debug)]
pub(crate) struct Generation<R> {
    number: u64,
    group: Unplaced<R>,
    /// The commands' bytes, one after the other.
    bytes: Vec<u8>,
    /// The length of each.
    lengths: Vec<u32>,
    /// What the commands take in the log, an upper bound.
    record_bytes: usize,
    /// The longest that anybody waits for an answer.
    max_wait: Duration,
}

impl<R> Generation<R> {
    /// The longest that anybody waits for an answer.
    pub(crate) fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// What the commands take as records, an upper bound.
    pub(crate) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// How many commands will enter the log.
    pub(crate) fn count(&self) -> usize {
        self.lengths.iter().filter(|&&length| length != WITHDRAWN).count()
    }

    /// Bytes of the commands, an upper bound.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The commands with their slots, in order.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut offset = 0;
        self.lengths.iter().enumerate().filter_map(move |(slot, &length)| {
            if length == WITHDRAWN {
                return None;
            }
            let start = offset;
            offset += length as usize;
            Some((slot, &self.bytes[start..offset]))
        })
    }
}

/// Why a proposal did not get in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No room before the deadline.
    Busy,
    /// The node has stopped.
    Stopped,
}

/// A proposal's place in the inbox.
#[derive(Debug)]
pub(crate) struct Place<R> {
    pub(crate) group: Arc<Group<R>>,
    pub(crate) generation: u64,
    pub(crate) slot: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Credit {
    count: usize,
    bytes: usize,
}

/// Somebody who waits for room.
#[derive(Debug)]
struct Waiter {
    number: u64,
    bytes: usize,
    thread: Thread,
}

#[derive(Debug)]
struct State<R> {
    free: Credit,
    /// Those who wait for room, longest first; who is not in it has been given room.
    line: VecDeque<Waiter>,
    next_waiter: u64,
    generations: VecDeque<Generation<R>>,
    next_generation: u64,
    /// Taken, and perhaps to be put back: nobody can say yet whether it can be withdrawn.
    on_loan: Option<u64>,
    spare: Vec<(Vec<u8>, Vec<u32>)>,
}

/// The inbox of one node.
#[derive(Debug)]
pub(crate) struct Inbox<R> {
    state: Mutex<State<R>>,
    core: Waker,
    stop: Arc<Stop>,
    limit: Credit,
    max_batch_bytes: usize,
}

impl<R> Inbox<R> {
    pub(crate) fn new(
        max_count: usize,
        max_bytes: usize,
        max_batch_bytes: usize,
        core: Waker,
        stop: Arc<Stop>,
    ) -> Self {
        let limit = Credit { count: max_count, bytes: max_bytes };
        let state = State {
            free: limit,
            line: VecDeque::new(),
            next_waiter: 0,
            generations: VecDeque::new(),
            next_generation: 0,
            on_loan: None,
            spare: Vec::new(),
        };
        Self { state: Mutex::new(state), core, stop, limit, max_batch_bytes }
    }

    /// Leaves one command, waiting for room until `deadline`; somebody will wait for its answer for
    /// `wait` from now on.
    pub(crate) fn put(
        &self,
        command: &[u8],
        deadline: Instant,
        wait: Duration,
    ) -> Result<Place<R>, Refused> {
        let mut state = self.state.lock();
        if self.stop.is_stopping() {
            return Err(Refused::Stopped);
        }
        if !state.line.is_empty() || !state.fits(command.len()) {
            drop(state);
            self.wait_for_room(command.len(), deadline)?;
            state = self.state.lock();
            if self.stop.is_stopping() {
                // A stop waits until all room has come back.
                state.give_back(1, command.len());
                return Err(Refused::Stopped);
            }
        } else {
            state.free.count -= 1;
            state.free.bytes -= command.len();
        }
        let first = state.generations.is_empty();
        let place = self.push(&mut state, command, wait);
        drop(state);
        if first {
            self.core.wake();
        }
        Ok(place)
    }

    /// Leaves as many of `commands` as there is room for, without waiting. Each is given as its bytes.
    pub(crate) fn put_some<'a>(
        &self,
        commands: impl Iterator<Item = &'a [u8]>,
        wait: Duration,
        mut placed: impl FnMut(Place<R>),
    ) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if self.stop.is_stopping() {
            return Err(Refused::Stopped);
        }
        if !state.line.is_empty() {
            return Err(Refused::Busy);
        }
        let first = state.generations.is_empty();
        let mut full = false;
        for command in commands {
            if !state.fits(command.len()) {
                full = true;
                break;
            }
            state.free.count -= 1;
            state.free.bytes -= command.len();
            placed(self.push(&mut state, command, wait));
        }
        let wake = first && !state.generations.is_empty();
        drop(state);
        if wake {
            self.core.wake();
        }
        if full { Err(Refused::Busy) } else { Ok(()) }
    }

    fn push(&self, state: &mut State<R>, command: &[u8], wait: Duration) -> Place<R> {
        // With a tag, for it may be a follower's.
        let record = record_bytes(command.len(), true);
        let room = state
            .generations
            .back()
            .is_some_and(|generation| generation.record_bytes + record <= self.max_batch_bytes);
        if !room {
            let (bytes, lengths) = state.spare.pop().unwrap_or_default();
            let group = Unplaced::new(Arc::new(Group::new(Arc::clone(&self.stop))));
            let number = state.next_generation;
            state.next_generation += 1;
            state.generations.push_back(Generation {
                number,
                group,
                bytes,
                lengths,
                record_bytes: 0,
                max_wait: Duration::ZERO,
            });
        }
        let generation = state.generations.back_mut().expect("just pushed");
        generation.bytes.extend_from_slice(command);
        generation.lengths.push(command.len() as u32);
        generation.record_bytes += record;
        generation.max_wait = generation.max_wait.max(wait);
        Place {
            group: generation.group.share(),
            generation: generation.number,
            slot: generation.lengths.len() - 1,
        }
    }

    fn wait_for_room(&self, bytes: usize, deadline: Instant) -> Result<(), Refused> {
        let number = {
            let mut state = self.state.lock();
            let number = state.next_waiter;
            state.next_waiter += 1;
            state.line.push_back(Waiter { number, bytes, thread: thread::current() });
            // Room may have come back since the caller looked.
            state.serve();
            number
        };
        loop {
            let now = Instant::now();
            {
                let mut state = self.state.lock();
                let Ok(at) = state.line.binary_search_by_key(&number, |waiter| waiter.number)
                else {
                    return Ok(());
                };
                if self.stop.is_stopping() {
                    state.line.remove(at);
                    return Err(Refused::Stopped);
                }
                if now >= deadline {
                    state.line.remove(at);
                    // Those behind may fit where it did not.
                    state.serve();
                    return Err(Refused::Busy);
                }
            }
            thread::park_timeout(deadline - now);
        }
    }

    /// Takes back a proposal that the core has not taken. True if it never will be.
    pub(crate) fn withdraw(&self, generation: u64, slot: usize) -> bool {
        let mut state = self.state.lock();
        // A loan takes as long as it takes to copy the generation; a core that never comes back to it was
        // stopped, or is not running.
        for _ in 0..MAX_LOAN_LOOKS {
            if state.on_loan != Some(generation) {
                break;
            }
            MutexGuard::unlocked(&mut state, thread::yield_now);
        }
        let Some(generation) = state.generations.iter_mut().find(|g| g.number == generation) else {
            return false;
        };
        let length = generation.lengths[slot];
        if length == WITHDRAWN {
            return true;
        }
        let start: usize = generation.lengths[..slot]
            .iter()
            .filter(|&&length| length != WITHDRAWN)
            .map(|&length| length as usize)
            .sum();
        generation.bytes.drain(start..start + length as usize);
        generation.lengths[slot] = WITHDRAWN;
        state.give_back(1, length as usize);
        true
    }

    /// What the generation that is next takes in the log, if there is one.
    pub(crate) fn next_bytes(&self) -> Option<usize> {
        self.state.lock().generations.front().map(|next| next.record_bytes)
    }

    /// Takes the generation that is next.
    pub(crate) fn take(&self) -> Option<Generation<R>> {
        self.state.lock().generations.pop_front()
    }

    /// Takes the generation that is next, to be put back or recycled at once.
    pub(crate) fn borrow(&self) -> Option<Generation<R>> {
        let mut state = self.state.lock();
        let generation = state.generations.pop_front()?;
        state.on_loan = Some(generation.number);
        Some(generation)
    }

    /// Puts back the generation that was borrowed: it could not be sent.
    pub(crate) fn put_back(&self, generation: Generation<R>) {
        let mut state = self.state.lock();
        state.on_loan = None;
        state.generations.push_front(generation);
    }

    /// Gives a generation's buffers back and yields its group.
    pub(crate) fn recycle(&self, generation: Generation<R>) -> Unplaced<R> {
        let Generation { group, mut bytes, mut lengths, .. } = generation;
        bytes.clear();
        lengths.clear();
        let mut state = self.state.lock();
        state.on_loan = None;
        if bytes.capacity() <= 2 * self.max_batch_bytes && state.spare.len() < MAX_SPARE {
            state.spare.push((bytes, lengths));
        }
        group
    }

    /// Gives back the room of `count` proposals that have been answered.
    pub(crate) fn give_back(&self, count: usize, bytes: usize) {
        if count > 0 {
            self.state.lock().give_back(count, bytes);
        }
    }

    /// Whether all room is free.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn is_empty(&self) -> bool {
        let free = self.state.lock().free;
        (free.count, free.bytes) == (self.limit.count, self.limit.bytes)
    }

    /// Proposals inside the door that have no answer.
    pub(crate) fn pending(&self) -> usize {
        self.limit.count - self.state.lock().free.count
    }

    /// The bytes of their commands.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn pending_bytes(&self) -> usize {
        self.limit.bytes - self.state.lock().free.bytes
    }

    /// Tells those who wait for room that the node stops. Nobody has been let in since it does: that is
    /// looked at under the lock, so what [`clear`](Self::clear) misses cannot come later.
    pub(crate) fn close(&self) {
        for waiter in &self.state.lock().line {
            waiter.thread.unpark();
        }
    }

    /// Answers what is queued: the node stopped before it entered the log.
    pub(crate) fn clear(&self) {
        let queued = {
            let mut state = self.state.lock();
            state.on_loan = None;
            mem::take(&mut state.generations)
        };
        for generation in &queued {
            self.give_back(generation.count(), generation.bytes());
        }
        drop(queued);
    }
}

impl<R> State<R> {
    fn fits(&self, bytes: usize) -> bool {
        self.free.count > 0 && self.free.bytes >= bytes
    }

    fn give_back(&mut self, count: usize, bytes: usize) {
        self.free.count += count;
        self.free.bytes += bytes;
        self.serve();
    }

    /// Gives room to those who have waited longest, as far as it goes.
    fn serve(&mut self) {
        while let Some(waiter) = self.line.front() {
            if !self.fits(waiter.bytes) {
                return;
            }
            self.free.count -= 1;
            self.free.bytes -= waiter.bytes;
            waiter.thread.unpark();
            self.line.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(60);

    fn inbox(count: usize, bytes: usize, batch: usize) -> Arc<Inbox<()>> {
        let (waker, _wakeup) = Waker::new();
        Arc::new(Inbox::new(count, bytes, batch, waker, Arc::default()))
    }

    fn put(inbox: &Inbox<()>, command: &[u8]) -> Result<Place<()>, Refused> {
        inbox.put(command, Instant::now(), WAIT)
    }

    fn slots(generation: &Generation<()>) -> Vec<(usize, Vec<u8>)> {
        generation.commands().map(|(slot, command)| (slot, command.to_vec())).collect()
    }

    #[test]
    fn what_comes_between_two_visits_is_one_generation() {
        let inbox = inbox(10, 100, 10_000);
        let (first, second) = (put(&inbox, b"a").expect("room"), put(&inbox, b"").expect("room"));
        assert!(Arc::ptr_eq(&first.group, &second.group));
        let generation = inbox.take().expect("two commands");
        assert_eq!(slots(&generation), [(0, b"a".to_vec()), (1, Vec::new())]);
        assert!(inbox.take().is_none());
        let third = put(&inbox, b"c").expect("room");
        assert!(!Arc::ptr_eq(&first.group, &third.group));
    }

    #[test]
    fn a_generation_holds_one_batch() {
        // As records: a command without bytes takes room in the log, too.
        let inbox = inbox(10, 100, 2 * record_bytes(8, true));
        for command in [&b""[..], b"b", b"c"] {
            put(&inbox, command).expect("room");
        }
        assert_eq!(inbox.take().expect("full").count(), 2);
        assert_eq!(inbox.take().expect("the rest").count(), 1);
    }

    #[test]
    fn what_is_put_back_comes_first_again_and_can_be_withdrawn() {
        let inbox = inbox(10, 100, record_bytes(8, true));
        let first = put(&inbox, b"a").expect("room");
        let second = put(&inbox, b"b").expect("room");
        assert!(!Arc::ptr_eq(&first.group, &second.group));
        let generation = inbox.borrow().expect("two");
        let withdrawing = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.withdraw(first.generation, first.slot))
        };
        thread::yield_now();
        inbox.put_back(generation);
        assert!(withdrawing.join().expect("no panic"), "it was never sent");
        assert_eq!(inbox.take().expect("the first").count(), 0);
        let sent = inbox.borrow().expect("the second");
        assert_eq!(slots(&sent), [(0, b"b".to_vec())]);
        drop(inbox.recycle(sent));
        assert!(!inbox.withdraw(second.generation, second.slot), "it is on its way");
    }

    #[test]
    fn a_withdrawn_command_never_gets_in_and_frees_its_room() {
        let inbox = inbox(3, 100, 10_000);
        let places: Vec<_> = [&b"aa"[..], b"bb", b"cc"]
            .iter()
            .map(|command| put(&inbox, command).expect("room"))
            .collect();
        assert_eq!(put(&inbox, b"d").expect_err("full"), Refused::Busy);
        assert!(inbox.withdraw(places[1].generation, places[1].slot));
        put(&inbox, b"d").expect("room again");
        let generation = inbox.take().expect("not empty");
        let expected = [(0, b"aa".to_vec()), (2, b"cc".to_vec()), (3, b"d".to_vec())];
        assert_eq!(slots(&generation), expected);
        assert!(!inbox.withdraw(places[0].generation, places[0].slot), "the core has it");
        assert_eq!(inbox.pending(), 3);
    }

    #[test]
    fn bytes_are_counted_as_well() {
        let inbox = inbox(10, 10, 10_000);
        put(&inbox, &[0; 6]).expect("room");
        assert_eq!(put(&inbox, &[0; 5]).expect_err("too many bytes"), Refused::Busy);
        put(&inbox, &[0; 4]).expect("just fits");
        inbox.give_back(1, 6);
        put(&inbox, &[0; 6]).expect("room again");
    }

    #[test]
    fn room_is_given_first_come_first_served() {
        let inbox = inbox(10, 10, 10_000);
        put(&inbox, &[0; 10]).expect("room");
        let deadline = Instant::now() + WAIT;
        let (order, served) = crossbeam_channel::unbounded();
        let mut threads = Vec::new();
        for (waiter, bytes) in [9_usize, 3, 3, 4].into_iter().enumerate() {
            let (shared, order) = (Arc::clone(&inbox), order.clone());
            threads.push(thread::spawn(move || {
                shared.put(&vec![0; bytes], deadline, WAIT).map(drop).expect("served");
                order.send(waiter).expect("somebody listens");
            }));
            while inbox.state.lock().line.len() <= waiter {
                thread::yield_now();
            }
        }
        // Room for the small ones, but the large one was first.
        inbox.give_back(1, 5);
        assert_eq!(put(&inbox, &[0; 1]).expect_err("there is a line"), Refused::Busy);
        assert_eq!(inbox.state.lock().line.len(), 4);
        inbox.give_back(1, 5);
        assert_eq!(served.recv().expect("the first"), 0);
        assert_eq!(inbox.state.lock().line.len(), 3);
        inbox.give_back(1, 9);
        let mut rest: Vec<_> = (0..3).map(|_| served.recv().expect("the others")).collect();
        rest.sort_unstable();
        assert_eq!(rest, [1, 2, 3]);
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn whoever_gives_up_lets_those_behind_pass() {
        let inbox = inbox(10, 10, 10_000);
        put(&inbox, &[0; 8]).expect("room");
        let patient = {
            let inbox = Arc::clone(&inbox);
            let impatient_first = Arc::clone(&inbox);
            let impatient = thread::spawn(move || {
                let soon = Instant::now() + Duration::from_millis(50);
                impatient_first.put(&[0; 9], soon, WAIT).map(drop)
            });
            while inbox.state.lock().line.is_empty() && !impatient.is_finished() {
                thread::yield_now();
            }
            let patient =
                thread::spawn(move || inbox.put(&[0; 2], Instant::now() + WAIT, WAIT).map(drop));
            assert_eq!(impatient.join().expect("no panic"), Err(Refused::Busy));
            patient
        };
        assert_eq!(patient.join().expect("no panic"), Ok(()));
    }

    #[test]
    fn closing_tells_those_who_wait_and_those_who_come() {
        let inbox = inbox(1, 10, 10_000);
        let queued = put(&inbox, b"a").expect("room");
        let waiting = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.put(b"b", Instant::now() + WAIT, WAIT).map(drop))
        };
        while inbox.state.lock().line.is_empty() {
            thread::yield_now();
        }
        inbox.stop.advance(super::super::stop::Phase::Draining, crate::error::StopCause::Shutdown);
        inbox.close();
        assert_eq!(waiting.join().expect("no panic"), Err(Refused::Stopped));
        assert_eq!(put(&inbox, b"c").expect_err("closed"), Refused::Stopped);
        inbox.clear();
        assert!(matches!(queued.group.try_take(0), Some(super::super::group::Answer::Stopped(_))));
        assert_eq!(inbox.pending(), 0);
    }
}
