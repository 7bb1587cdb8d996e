//! Words and latest values: what is published is seen with what it speaks of, and the last change is
//! never missed.

use std::sync::Arc;
use std::time::Duration;

use super::super::shared::WalLane;
use super::super::stop::{Phase, Stop};
use super::super::watch::{IndexWatch, Leadership, LeadershipSubscription, LeadershipWatch};
use super::far;
use crate::error::StopCause;
use crate::schedules::{Scenario, explore, scenarios};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{FOR_EVER, thread};
use crate::threads::Running;
use crate::types::{HardState, LogIndex, Role, Term};
use crate::wake::Waker;
use crate::wal::Position;

pub(super) const ALL: &[Scenario] = scenarios![
    whoever_waits_for_an_index_hears_of_it,
    whoever_waits_for_an_index_hears_that_the_node_stops,
    a_subscriber_hears_of_the_last_leader,
    a_subscriber_waits_for_what_it_wants,
    the_last_word_on_leadership_is_the_last,
    whoever_sees_that_the_node_stops_sees_why,
    the_last_target_is_seen_by_a_flusher_that_is_told_to_close,
    a_wish_for_a_mark_is_not_lost,
    the_latest_term_and_vote_are_stored,
    whoever_waits_for_threads_hears_that_they_have_ended,
];

fn whoever_waits_for_an_index_hears_of_it() -> u64 {
    explore(3, || {
        let watch = Arc::<IndexWatch>::default();
        let waiting: Vec<_> = [1, 2]
            .into_iter()
            .map(|index| {
                let watch = Arc::clone(&watch);
                thread::spawn(move || watch.wait(LogIndex(index), far(), || false))
            })
            .collect();
        watch.set(LogIndex(1));
        watch.set(LogIndex(2));
        for waiting in waiting {
            assert!(waiting.join().expect("no panic"));
        }
    })
}

fn whoever_waits_for_an_index_hears_that_the_node_stops() -> u64 {
    explore(3, || {
        let (watch, stop) = (Arc::<IndexWatch>::default(), Arc::<Stop>::default());
        let waiting = {
            let (watch, stop) = (Arc::clone(&watch), Arc::clone(&stop));
            thread::spawn(move || watch.wait(LogIndex(1), far(), || stop.is_stopping()))
        };
        stop.advance(Phase::Halted, StopCause::Crash);
        watch.notify();
        assert!(!waiting.join().expect("no panic"));
    })
}

fn led(term: u64) -> Leadership {
    Leadership { role: Role::Leader, term: Term(term), ..Leadership::default() }
}

fn a_subscriber_hears_of_the_last_leader() -> u64 {
    explore(3, || {
        let watch = Arc::<LeadershipWatch>::default();
        let mut subscription = LeadershipSubscription::new(Arc::clone(&watch));
        let subscriber = thread::spawn(move || {
            let mut last = subscription.latest();
            while last.term < Term(2) {
                let next = subscription.changed(Duration::from_secs(1)).expect("a change");
                assert!(next.term > last.term, "{next:?} after {last:?}");
                last = next;
            }
        });
        watch.set(led(1));
        watch.set(led(2));
        subscriber.join().expect("no panic");
    })
}

fn a_subscriber_waits_for_what_it_wants() -> u64 {
    explore(3, || {
        let watch = Arc::<LeadershipWatch>::default();
        let mut subscription = LeadershipSubscription::new(Arc::clone(&watch));
        let subscriber = thread::spawn(move || {
            let found = subscription.wait_for(FOR_EVER, |leadership| leadership.term == Term(2));
            assert_eq!(found, Some(led(2)));
        });
        watch.set(led(1));
        watch.set(led(2));
        subscriber.join().expect("no panic");
    })
}

fn the_last_word_on_leadership_is_the_last() -> u64 {
    explore(3, || {
        let watch = Arc::<LeadershipWatch>::default();
        let stopped = Leadership { stopped: true, ..Leadership::default() };
        let late = {
            let watch = Arc::clone(&watch);
            thread::spawn(move || watch.set(led(1)))
        };
        watch.set(stopped);
        late.join().expect("no panic");
        assert_eq!(watch.get(), stopped);
        assert!(!watch.leads(), "a node that has stopped leads");
    })
}

fn whoever_sees_that_the_node_stops_sees_why() -> u64 {
    explore(3, || {
        let stop = Arc::<Stop>::default();
        let stopping = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || stop.advance(Phase::Draining, StopCause::Shutdown))
        };
        let crashing = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || stop.advance(Phase::Halted, StopCause::Crash))
        };
        let (mut phase, mut cause) = (Phase::Running, None);
        for _ in 0..2 {
            let seen = stop.phase();
            assert!(seen >= phase, "{seen:?} after {phase:?}");
            phase = seen;
            if seen > Phase::Running {
                let seen = stop.cause().expect("it stops, and nobody knows why").to_string();
                assert!(cause.is_none() || cause.as_ref() == Some(&seen), "{cause:?}, then {seen}");
                cause = Some(seen);
            }
        }
        stopping.join().expect("no panic");
        crashing.join().expect("no panic");
        assert_eq!(stop.phase(), Phase::Halted);
    })
}

fn the_last_target_is_seen_by_a_flusher_that_is_told_to_close() -> u64 {
    explore(3, || {
        let lane = Arc::<WalLane>::default();
        let core = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                lane.set_target(Position::from_word(1));
                lane.set_target(Position::from_word(2));
                lane.close();
            })
        };
        // As the `wal` loop looks: first whether it is to close.
        if lane.is_closing() {
            assert_eq!(lane.target(), Position::from_word(2));
        }
        core.join().expect("no panic");
    })
}

fn a_wish_for_a_mark_is_not_lost() -> u64 {
    explore(3, || {
        let lane = Arc::<WalLane>::default();
        let (waker, mut wakeup) = Waker::new();
        let flusher = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                lane.want_cover();
                waker.wake();
                lane.want_cover();
                waker.wake();
            })
        };
        let mut wishes = 0;
        wakeup.wait(None);
        wishes += u32::from(lane.take_cover_wanted());
        flusher.join().expect("no panic");
        // The second wish was taken with the first, or its token is there.
        let left = wakeup.taken();
        let more = lane.take_cover_wanted();
        assert!(left || !more, "a wish without a token");
        wishes += u32::from(more);
        assert!(wishes > 0, "a token without a wish");
    })
}

fn the_latest_term_and_vote_are_stored() -> u64 {
    explore(3, || {
        let lane = Arc::<WalLane>::default();
        let state = |term| HardState { term: Term(term), voted_for: None };
        let core = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                lane.store_hard_state(state(1));
                lane.store_hard_state(state(2));
            })
        };
        let mut stored = lane.take_hard_state();
        core.join().expect("no panic");
        stored = lane.take_hard_state().or(stored);
        assert_eq!(stored, Some(state(2)));
        assert_eq!(lane.take_hard_state(), None);
    })
}

fn whoever_waits_for_threads_hears_that_they_have_ended() -> u64 {
    explore(3, || {
        let running = Arc::<Running>::default();
        let worked = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        for worker in 0..2 {
            let worked = Arc::clone(&worked);
            let work = move || worked[worker].store(true, Ordering::Relaxed);
            running.spawn("worker".to_owned(), work).expect("a thread");
        }
        assert_eq!(running.wait(far()), Vec::<String>::new());
        assert!(worked.iter().all(|worked| worked.load(Ordering::Relaxed)));
    })
}
