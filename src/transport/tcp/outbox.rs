//! What waits to be sent to one node: two lanes, both bounded.
//!
//! Messages without records (heartbeats, votes, answers) are few and small, and go ahead of those with
//! records, so that log traffic cannot make a follower miss its leader. Raft does not mind the order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bell::Bell;
use crate::message::Envelope;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::transport::Dropped;

/// Messages without records that may wait.
const MAX_SMALL: usize = 4096;

/// The queue to one node.
#[derive(Debug)]
pub(super) struct Outbox {
    lanes: Mutex<Lanes>,
    /// Whether something waits: read without the lock.
    waiting: AtomicBool,
    max_bytes: usize,
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// There is a connection; without one nothing is kept, or it would be stale and hold on to the log.
    open: bool,
    small: VecDeque<Envelope>,
    large: VecDeque<Envelope>,
    large_bytes: usize,
}

impl Outbox {
    /// A closed one, for `max_bytes` of records; `bell` wakes who empties it.
    pub(super) fn new(max_bytes: usize, bell: Arc<Bell>) -> Self {
        Self { lanes: Mutex::default(), waiting: AtomicBool::new(false), max_bytes, bell }
    }

    /// Takes a message, and wakes who sends it.
    pub(super) fn put(&self, envelope: Envelope) -> Result<(), Dropped> {
        let mut lanes = self.lanes.lock();
        if !lanes.open {
            return Err(Dropped);
        }
        let bytes = envelope.records.len();
        if bytes == 0 {
            if lanes.small.len() >= MAX_SMALL {
                return Err(Dropped);
            }
            lanes.small.push_back(envelope);
        } else {
            // One alone always fits, as it does at the other end.
            if lanes.large_bytes > 0 && lanes.large_bytes + bytes > self.max_bytes {
                return Err(Dropped);
            }
            lanes.large_bytes += bytes;
            lanes.large.push_back(envelope);
        }
        let was_waiting = self.waiting.swap(true, Ordering::AcqRel);
        drop(lanes);
        // Who has something waiting does not sleep, or waits for the socket: then it need not be told again.
        if !was_waiting {
            self.bell.ring();
        }
        Ok(())
    }

    /// Moves what is next into `batch`: all small messages, then others with up to `bytes` of records in
    /// all, or one that has more.
    pub(super) fn take(&self, batch: &mut Vec<Envelope>, bytes: usize) {
        if self.is_empty() {
            return;
        }
        let mut lanes = self.lanes.lock();
        batch.extend(lanes.small.drain(..));
        let mut taken = 0;
        while let Some(next) = lanes.large.front()
            && (taken == 0 || taken + next.records.len() <= bytes)
        {
            taken += next.records.len();
            batch.extend(lanes.large.pop_front());
        }
        lanes.large_bytes -= taken;
        self.waiting.store(!lanes.large.is_empty(), Ordering::Release);
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        // The bell orders this: who goes to sleep arms it and then looks here, who puts something here then
        // looks whether it is armed.
        !self.waiting.load(Ordering::Acquire)
    }

    /// Begins to take messages.
    pub(super) fn open(&self) {
        self.lanes.lock().open = true;
    }

    /// Takes none any more, and drops those that wait; returns how many they were.
    pub(super) fn close(&self) -> usize {
        let lanes = std::mem::take(&mut *self.lanes.lock());
        self.waiting.store(false, Ordering::Release);
        // What they hold of the log is let go of here, not under the lock.
        lanes.small.len() + lanes.large.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::message::{Append, Message};
    use crate::slices::Slices;
    use crate::types::{NodeId, Sender};

    fn envelope(records: usize) -> Envelope {
        Envelope {
            from: Sender::default(),
            to: NodeId(2),
            message: Message::Append(Append::default()),
            records: Slices::from(vec![0; records]),
        }
    }

    fn outbox(max_bytes: usize) -> Outbox {
        let outbox = Outbox::new(max_bytes, Bell::new().expect("a pipe").0);
        outbox.open();
        outbox
    }

    fn taken(outbox: &Outbox, bytes: usize) -> Vec<usize> {
        let mut batch = Vec::new();
        outbox.take(&mut batch, bytes);
        batch.iter().map(|envelope| envelope.records.len()).collect()
    }

    #[test]
    fn small_messages_go_ahead_of_large_ones() {
        let outbox = outbox(100);
        for records in [40, 0, 50, 0] {
            outbox.put(envelope(records)).expect("room");
        }
        assert_eq!(taken(&outbox, 89), [0, 0, 40]);
        outbox.put(envelope(0)).expect("room");
        assert_eq!(taken(&outbox, 1), [0, 50]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn each_lane_has_a_bound_of_its_own() {
        let outbox = outbox(100);
        outbox.put(envelope(101)).expect("one alone always fits");
        assert_eq!(outbox.put(envelope(1)), Err(Dropped));
        for _ in 0..MAX_SMALL {
            outbox.put(envelope(0)).expect("room");
        }
        assert_eq!(outbox.put(envelope(0)), Err(Dropped));
        assert_eq!(taken(&outbox, 1).len(), MAX_SMALL + 1);
        outbox.put(envelope(60)).expect("room again");
        outbox.put(envelope(40)).expect("room again");
        assert_eq!(outbox.put(envelope(1)), Err(Dropped));
    }

    #[test]
    fn without_a_connection_nothing_is_kept() {
        let outbox = outbox(100);
        outbox.put(envelope(10)).expect("room");
        outbox.put(envelope(0)).expect("room");
        assert_eq!(outbox.close(), 2);
        assert_eq!(outbox.put(envelope(0)), Err(Dropped));
        outbox.open();
        assert!(outbox.is_empty() && taken(&outbox, 100).is_empty());
        outbox.put(envelope(100)).expect("the bytes were given back");
    }
    #[test]
    fn who_sends_never_waits_for_who_takes() {
        let outbox = outbox(100);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for records in [0, 70, 0, 70, 0] {
                let _ = outbox.put(envelope(records));
            }
            tell.send(())
        });
        let done = told.recv_timeout(Duration::from_secs(20));
        done.expect("nobody takes anything, and nobody waits for that");
    }
}
