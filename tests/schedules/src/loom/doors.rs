//! The doors: proposals and readers come in, are withdrawn, wait for room, and are told when it closes.

use std::sync::Arc;
use std::time::Duration;

use super::super::group::Answer;
use super::super::inbox::{Inbox, Place, Refused};
use super::super::reads::{Confirmation, ReadInbox};
use super::super::stop::{Phase, Stop};
use super::far;
use crate::error::StopCause;
use crate::schedules::{Scenario, explore, scenarios};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Instant, thread};
use crate::types::LogIndex;
use crate::wake::{Waker, Wakeup};

pub(super) const ALL: &[Scenario] = scenarios![
    the_first_to_enter_wakes_the_core,
    a_proposal_is_withdrawn_or_taken_and_never_both,
    a_proposal_on_loan_is_withdrawn_only_if_it_comes_back,
    room_that_comes_back_lets_in_whoever_waits,
    room_goes_to_who_waits_longest_and_none_is_lost,
    whoever_gives_up_lets_those_behind_pass,
    whoever_waits_for_room_hears_that_the_node_stops,
    nothing_stays_behind_a_door_that_is_closed,
    room_that_is_given_while_the_node_stops_comes_back,
    every_reader_is_told_when_the_node_stops,
    readers_wake_the_core_and_hear_what_it_tells,
    a_token_is_not_lost,
];

const WAIT: Duration = Duration::from_secs(1);
const MAX_BYTES: usize = 1000;

struct Door {
    inbox: Arc<Inbox<u32>>,
    stop: Arc<Stop>,
    wakeup: Wakeup,
}

fn door(max_count: usize) -> Door {
    let (waker, wakeup) = Waker::new();
    let stop = Arc::<Stop>::default();
    let inbox = Inbox::new(max_count, MAX_BYTES, 10_000, waker, Arc::clone(&stop));
    Door { inbox: Arc::new(inbox), stop, wakeup }
}

fn put(inbox: &Inbox<u32>, command: u8) -> Result<Place<u32>, Refused> {
    inbox.put(&[command], far(), WAIT)
}

/// What the core's loop does with its inbox, as far as a meeting needs it: waits for the token, then takes
/// until nothing is left.
fn take_all(inbox: &Inbox<u32>, wakeup: &mut Wakeup, count: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < count {
        wakeup.wait(None);
        while let Some(generation) = inbox.take() {
            taken.extend(generation.commands().map(|(_, command)| command[0]));
            drop(inbox.recycle(generation));
        }
    }
    taken
}

fn the_first_to_enter_wakes_the_core() -> u64 {
    let explore_with = |count: usize| {
        explore(3, move || {
            let Door { inbox, mut wakeup, .. } = door(10);
            let putting: Vec<_> = (0..count)
                .map(|command| {
                    let inbox = Arc::clone(&inbox);
                    thread::spawn(move || put(&inbox, command as u8).expect("room"))
                })
                .collect();
            let mut taken = take_all(&inbox, &mut wakeup, count);
            taken.sort_unstable();
            assert!(taken.iter().copied().eq(0..count as u8), "{taken:?}");
            for putting in putting {
                let place = putting.join().expect("no panic");
                assert!(place.group.is_answered(place.slot));
            }
        })
    };
    explore_with(1) + explore_with(2)
}

fn a_proposal_is_withdrawn_or_taken_and_never_both() -> u64 {
    explore(3, || {
        let Door { inbox, .. } = door(10);
        let places = [put(&inbox, 0).expect("room"), put(&inbox, 1).expect("room")];
        let withdrawing: Vec<_> = places
            .into_iter()
            .map(|place| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || inbox.withdraw(place.generation, place.slot))
            })
            .collect();
        let generation = inbox.take().expect("two proposals");
        let taken: Vec<u8> = generation.commands().map(|(_, command)| command[0]).collect();
        let count = generation.count();
        drop(inbox.recycle(generation));
        for (command, withdrawing) in withdrawing.into_iter().enumerate() {
            let withdrawn = withdrawing.join().expect("no panic");
            let was_taken = taken.contains(&(command as u8));
            assert!(withdrawn != was_taken, "{command}: withdrawn {withdrawn}, taken {was_taken}");
        }
        assert_eq!(inbox.pending(), count, "room came back for those that were withdrawn");
    })
}

fn a_proposal_on_loan_is_withdrawn_only_if_it_comes_back() -> u64 {
    let explore_loan = |comes_back: bool| {
        explore(2, move || {
            let Door { inbox, .. } = door(10);
            let place = put(&inbox, 0).expect("room");
            let generation = inbox.borrow().expect("one proposal");
            let withdrawing = {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || inbox.withdraw(place.generation, place.slot))
            };
            if comes_back {
                inbox.put_back(generation);
            } else {
                drop(inbox.recycle(generation));
            }
            assert_eq!(withdrawing.join().expect("no panic"), comes_back);
            assert_eq!(inbox.take().map(|left| left.count()), comes_back.then_some(0));
        })
    };
    explore_loan(true) + explore_loan(false)
}

fn room_that_comes_back_lets_in_whoever_waits() -> u64 {
    explore(3, || {
        let Door { inbox, .. } = door(1);
        put(&inbox, 0).expect("room");
        let waiting = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || put(&inbox, 1).map(drop))
        };
        inbox.give_back(1, 1);
        assert_eq!(waiting.join().expect("no panic"), Ok(()));
        assert_eq!(inbox.pending(), 1);
    })
}

fn room_goes_to_who_waits_longest_and_none_is_lost() -> u64 {
    explore(2, || {
        let Door { inbox, .. } = door(1);
        put(&inbox, 0).expect("room");
        let patient = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                put(&inbox, 1).expect("room comes back");
                inbox.give_back(1, 1);
            })
        };
        let hurried = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || match inbox.put(&[2], Instant::now(), WAIT) {
                Ok(_) => inbox.give_back(1, 1),
                Err(refused) => assert_eq!(refused, Refused::Busy),
            })
        };
        inbox.give_back(1, 1);
        patient.join().expect("no panic");
        hurried.join().expect("no panic");
        assert_eq!(inbox.pending(), 0);
        assert!(inbox.is_empty(), "all bytes came back");
    })
}

fn whoever_gives_up_lets_those_behind_pass() -> u64 {
    explore(3, || {
        let Door { inbox, .. } = door(10);
        inbox.put(&[0; MAX_BYTES - 10], far(), WAIT).expect("room");
        let hurried = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.put(&[0; 11], Instant::now(), WAIT).map(drop))
        };
        // It would fit, and comes after one that does not.
        let patient = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || put(&inbox, 1).map(drop))
        };
        assert_eq!(hurried.join().expect("no panic"), Err(Refused::Busy));
        assert_eq!(patient.join().expect("no panic"), Ok(()));
    })
}

fn whoever_waits_for_room_hears_that_the_node_stops() -> u64 {
    explore(3, || {
        let Door { inbox, stop, .. } = door(1);
        put(&inbox, 0).expect("room");
        let waiting = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || put(&inbox, 1).map(drop))
        };
        stop.advance(Phase::Draining, StopCause::Shutdown);
        inbox.close();
        assert_eq!(waiting.join().expect("no panic"), Err(Refused::Stopped));
    })
}

fn nothing_stays_behind_a_door_that_is_closed() -> u64 {
    explore(3, || {
        let Door { inbox, stop, .. } = door(10);
        let putting: Vec<_> = (0..2)
            .map(|command| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || put(&inbox, command))
            })
            .collect();
        // Who stops the node is another than the core, which looks for the last time.
        let stopping = {
            let (stop, inbox) = (Arc::clone(&stop), Arc::clone(&inbox));
            thread::spawn(move || {
                stop.advance(Phase::Draining, StopCause::Crash);
                inbox.close();
            })
        };
        stopping.join().expect("no panic");
        assert!(stop.is_stopping());
        inbox.clear();
        for putting in putting {
            match putting.join().expect("no panic") {
                Ok(place) => {
                    let answer = place.group.try_take(place.slot);
                    assert!(
                        matches!(answer, Some(Answer::Stopped(StopCause::Crash))),
                        "{answer:?}"
                    );
                }
                Err(refused) => assert_eq!(refused, Refused::Stopped),
            }
        }
        assert_eq!(inbox.pending(), 0);
    })
}

fn room_that_is_given_while_the_node_stops_comes_back() -> u64 {
    explore(3, || {
        let Door { inbox, stop, .. } = door(1);
        put(&inbox, 0).expect("room");
        drop(inbox.recycle(inbox.take().expect("one proposal")));
        let waiting = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || put(&inbox, 1))
        };
        inbox.give_back(1, 1);
        stop.advance(Phase::Draining, StopCause::Shutdown);
        inbox.close();
        inbox.clear();
        match waiting.join().expect("no panic") {
            Ok(place) => assert!(place.group.is_answered(place.slot), "nobody will answer it"),
            Err(refused) => assert_eq!(refused, Refused::Stopped),
        }
        assert_eq!(inbox.pending(), 0, "a stop waits for those that are pending");
    })
}

fn every_reader_is_told_when_the_node_stops() -> u64 {
    explore(3, || {
        let (waker, _wakeup) = Waker::new();
        let stop = Arc::<Stop>::default();
        let reads = Arc::new(ReadInbox::new(waker, Arc::clone(&stop)));
        let reading: Vec<_> = (0..2)
            .map(|_| {
                let reads = Arc::clone(&reads);
                thread::spawn(move || reads.join().map(|group| group.wait(far())))
            })
            .collect();
        stop.advance(Phase::Draining, StopCause::Crash);
        reads.close();
        for reading in reading {
            match reading.join().expect("no panic") {
                None | Some(Some(Confirmation::Stopped(StopCause::Crash))) => {}
                other => panic!("{other:?}"),
            }
        }
    })
}

fn readers_wake_the_core_and_hear_what_it_tells() -> u64 {
    explore(2, || {
        let (waker, mut wakeup) = Waker::new();
        let reads = Arc::new(ReadInbox::new(waker.clone(), Arc::default()));
        let reading: Vec<_> = (0..2)
            .map(|_| {
                let reads = Arc::clone(&reads);
                thread::spawn(move || reads.join().expect("it runs").wait(far()))
            })
            .collect();
        let done = Arc::new(AtomicBool::new(false));
        let core = {
            let (reads, done) = (Arc::clone(&reads), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    wakeup.wait(None);
                    if let Some(group) = reads.take() {
                        group.tell(Confirmation::Confirmed(LogIndex(7)));
                    }
                }
            })
        };
        for reading in reading {
            let told = reading.join().expect("no panic");
            assert!(matches!(told, Some(Confirmation::Confirmed(LogIndex(7)))), "{told:?}");
        }
        done.store(true, Ordering::Relaxed);
        waker.wake();
        core.join().expect("no panic");
    })
}

fn a_token_is_not_lost() -> u64 {
    explore(3, || {
        let (waker, mut wakeup) = Waker::new();
        let done = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let working: Vec<_> = (0..2)
            .map(|worker| {
                let (waker, done) = (waker.clone(), Arc::clone(&done));
                thread::spawn(move || {
                    done[worker].store(true, Ordering::Relaxed);
                    waker.wake();
                })
            })
            .collect();
        // The token says all that its owner needs to know: no other word orders the two.
        while !done.iter().all(|done| done.load(Ordering::Relaxed)) {
            wakeup.wait(None);
        }
        for working in working {
            working.join().expect("no panic");
        }
    })
}
