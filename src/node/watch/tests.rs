//! What subscribers see, and what they can hold up.

use std::thread;

use super::*;

/// Longer than waking anybody takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn of_term(term: u64) -> Leadership {
    Leadership { term: Term(term), ..Leadership::default() }
}

fn subscribed() -> (Arc<LeadershipWatch>, LeadershipSubscription) {
    let watch = Arc::<LeadershipWatch>::default();
    let mut subscription = LeadershipSubscription::new(Arc::clone(&watch));
    subscription.latest();
    (watch, subscription)
}

// Known bug 31.
#[test]
fn a_change_that_came_before_anybody_waited_is_told_and_told_once() {
    let (watch, mut subscription) = subscribed();
    watch.set(of_term(1));
    watch.set(of_term(2));
    assert_eq!(subscription.changed(Duration::ZERO), Some(of_term(2)));
    assert_eq!(subscription.changed(Duration::ZERO), None);
    assert_eq!(subscription.wait_for(Duration::ZERO, |_| true), Some(of_term(2)), "seen or not");
}

// Known bug 31.
#[test]
fn what_one_subscriber_has_seen_another_has_not() {
    let (watch, mut one) = subscribed();
    let mut other = one.clone();
    watch.set(of_term(1));
    assert_eq!(one.changed(Duration::ZERO), Some(of_term(1)));
    assert_eq!(other.changed(Duration::ZERO), Some(of_term(1)));
}

#[test]
fn whoever_waits_is_woken_by_the_last_change_as_well() {
    let (watch, mut subscription) = subscribed();
    let waiting = thread::spawn(move || subscription.wait_for(PATIENCE, |now| now.stopped));
    // So that it most likely waits; if it does not, the test is easier to pass.
    thread::sleep(Duration::from_millis(50));
    let stopped = Leadership { stopped: true, ..of_term(1) };
    watch.set(stopped);
    assert_eq!(waiting.join().expect("no panic"), Some(stopped));
}

// Known bug 32.
#[test]
fn a_subscribers_own_code_holds_nobody_up() {
    let (watch, mut subscription) = subscribed();
    watch.set(of_term(1));
    let seen = subscription.wait_for(Duration::ZERO, |_| {
        assert!(watch.latest.try_lock().is_some(), "the node could not say who leads");
        true
    });
    assert_eq!(seen, Some(of_term(1)));
}
