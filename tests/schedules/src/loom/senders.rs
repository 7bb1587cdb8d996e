//! Senders over TCP: a message that is put into an outbox wakes the thread that waits for it and for its
//! socket.

use std::sync::Arc;

use super::bell::{Bell, Sleeper};
use super::outbox::Outbox;
use crate::message::{Append, Envelope, Message};
use crate::schedules::{Scenario, explore, scenarios};
use crate::slices::Slices;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{FOR_EVER, Instant, thread};
use crate::types::{NodeId, Sender};

pub(crate) const ALL: &[Scenario] = scenarios![
    a_message_wakes_its_sender,
    a_sender_that_is_told_something_else_wakes_for_that_too,
];

fn put(outbox: &Outbox) {
    let (from, message) = (Sender::default(), Message::Append(Append::default()));
    let envelope = Envelope { from, to: NodeId(2), message, records: Slices::new() };
    outbox.put(envelope).expect("room");
}

/// Takes `count` messages, and sleeps while there are none.
fn take(outbox: &Outbox, sleeper: &mut Sleeper, count: usize) {
    let mut batch = Vec::new();
    while batch.len() < count {
        sleeper.pause(Instant::now() + FOR_EVER, || !outbox.is_empty());
        outbox.take(&mut batch, 1);
    }
}

fn a_message_wakes_its_sender() -> u64 {
    let explore_with = |putters: usize, each: usize| {
        explore(3, move || {
            let (bell, mut sleeper) = Bell::new().expect("a pipe");
            let outbox = Arc::new(Outbox::new(100, bell));
            outbox.open();
            let putting: Vec<_> = (0..putters)
                .map(|_| {
                    let outbox = Arc::clone(&outbox);
                    thread::spawn(move || (0..each).for_each(|_| put(&outbox)))
                })
                .collect();
            take(&outbox, &mut sleeper, putters * each);
            for putting in putting {
                putting.join().expect("no panic");
            }
        })
    };
    explore_with(1, 2) + explore_with(2, 1)
}

fn a_sender_that_is_told_something_else_wakes_for_that_too() -> u64 {
    explore(3, || {
        let (bell, mut sleeper) = Bell::new().expect("a pipe");
        let told = Arc::new(AtomicBool::new(false));
        let telling = {
            let told = Arc::clone(&told);
            thread::spawn(move || {
                told.store(true, Ordering::SeqCst);
                bell.ring();
            })
        };
        sleeper.pause(Instant::now() + FOR_EVER, || told.load(Ordering::SeqCst));
        assert!(told.load(Ordering::SeqCst));
        telling.join().expect("no panic");
    })
}
