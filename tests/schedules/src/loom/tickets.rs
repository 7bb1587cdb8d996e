//! Tickets: every slot of a group has one answer, and whoever waits for it hears of it.

use std::sync::Arc;

use super::super::group::{Answer, Unplaced};
use super::super::shared::ApplyLane;
use super::super::stop::{Phase, Stop};
use super::{at, far, group, pending};
use crate::error::StopCause;
use crate::schedules::{Scenario, explore, scenarios};
use crate::sync::{Instant, thread};

pub(super) const ALL: &[Scenario] = scenarios![
    answers_in_parts_wake_each_waiter_with_its_own,
    a_group_that_is_dropped_answers_whoever_waits,
    a_group_that_never_enters_the_log_answers_whoever_waits,
    whoever_waits_for_a_place_hears_of_it,
    whoever_waits_for_a_place_hears_that_there_will_be_none,
    an_answer_that_is_seen_is_there_to_be_taken,
    what_is_handed_on_while_the_apply_loop_ends_is_answered,
];

fn answers_in_parts_wake_each_waiter_with_its_own() -> u64 {
    explore(3, || {
        let group = group(&Arc::default());
        let waiting: Vec<_> = (0..2)
            .map(|slot| {
                let group = Arc::clone(&group);
                thread::spawn(move || group.take_until(slot, far()))
            })
            .collect();
        let mut pending = pending(&group, 2);
        pending.respond(at(1), [40].into_iter());
        pending.respond(at(2), [41].into_iter());
        for (slot, waiting) in waiting.into_iter().enumerate() {
            match waiting.join().expect("no panic") {
                Some(Answer::Response(response)) => assert_eq!(response as usize, 40 + slot),
                other => panic!("slot {slot}: {other:?}"),
            }
        }
    })
}

fn a_group_that_is_dropped_answers_whoever_waits() -> u64 {
    explore(3, || {
        let stop = Arc::<Stop>::default();
        let group = group(&stop);
        let waiting: Vec<_> = (0..2)
            .map(|slot| {
                let group = Arc::clone(&group);
                thread::spawn(move || group.take_until(slot, far()))
            })
            .collect();
        let mut pending = pending(&group, 2);
        pending.respond(at(1), [40].into_iter());
        stop.advance(Phase::Halted, StopCause::Crash);
        drop(pending);
        let answers: Vec<_> =
            waiting.into_iter().map(|waiting| waiting.join().expect("no panic")).collect();
        assert!(matches!(answers[0], Some(Answer::Response(40))), "{answers:?}");
        assert!(matches!(answers[1], Some(Answer::Unknown(StopCause::Crash))), "{answers:?}");
    })
}

fn a_group_that_never_enters_the_log_answers_whoever_waits() -> u64 {
    explore(3, || {
        let unplaced = Unplaced::new(group(&Arc::default()));
        let waiting: Vec<_> = (0..2)
            .map(|slot| {
                let group = unplaced.share();
                thread::spawn(move || group.take_until(slot, far()))
            })
            .collect();
        unplaced.refuse(None);
        for waiting in waiting {
            let answer = waiting.join().expect("no panic");
            assert!(matches!(answer, Some(Answer::NotLeader(None))), "{answer:?}");
        }
    })
}

fn whoever_waits_for_a_place_hears_of_it() -> u64 {
    explore(3, || {
        let group = group(&Arc::default());
        let waiting: Vec<_> = (0..2)
            .map(|slot| {
                let group = Arc::clone(&group);
                thread::spawn(move || group.wait_placed(slot, far()))
            })
            .collect();
        let mut pending = pending(&group, 2);
        pending.respond(at(1), [40, 41].into_iter());
        for (slot, waiting) in waiting.into_iter().enumerate() {
            assert_eq!(waiting.join().expect("no panic"), Some(at(1 + slot as u64)));
        }
    })
}

fn whoever_waits_for_a_place_hears_that_there_will_be_none() -> u64 {
    explore(3, || {
        let unplaced = Unplaced::new(group(&Arc::default()));
        let group = unplaced.share();
        let waiting = thread::spawn(move || group.wait_placed(0, far()));
        drop(unplaced);
        assert_eq!(waiting.join().expect("no panic"), None);
    })
}

fn an_answer_that_is_seen_is_there_to_be_taken() -> u64 {
    explore(3, || {
        let group = group(&Arc::default());
        let looking = {
            let group = Arc::clone(&group);
            thread::spawn(move || {
                // As `Ticket::try_wait` does, and a wait whose deadline has passed.
                let seen = group.is_answered(1);
                (seen, group.take_until(1, Instant::now()))
            })
        };
        let mut pending = pending(&group, 2);
        pending.respond(at(1), [40].into_iter());
        pending.supersede();
        let (seen, answer) = looking.join().expect("no panic");
        assert!(!seen || answer.is_some(), "an answer was seen, and was not there");
        assert!(matches!(answer, None | Some(Answer::Superseded)), "{answer:?}");
        assert!(matches!(group.try_take(0), Some(Answer::Response(40))));
    })
}

fn what_is_handed_on_while_the_apply_loop_ends_is_answered() -> u64 {
    explore(3, || {
        let lane = Arc::<ApplyLane<u32>>::default();
        let group = group(&Arc::default());
        let core = {
            let (lane, pending) = (Arc::clone(&lane), pending(&group, 1));
            thread::spawn(move || lane.push(pending))
        };
        // The loop's last acts.
        let mut taken = Vec::new();
        lane.take(&mut taken);
        lane.close();
        drop(taken);
        core.join().expect("no panic");
        let answer = group.try_take(0);
        assert!(matches!(answer, Some(Answer::Unknown(_))), "{answer:?}");
    })
}
