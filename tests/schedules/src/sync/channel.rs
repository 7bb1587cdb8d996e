//! Channels with a bound, as `crossbeam_channel` has them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Condvar, Instant, Mutex};

struct Channel<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    bound: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    senders: usize,
    received: bool,
}

pub(crate) struct Sender<T>(Arc<Channel<T>>);

pub(crate) struct Receiver<T>(Arc<Channel<T>>);

/// What became of something that was not sent is of no interest here.
#[derive(Debug)]
pub(crate) enum TrySendError<T> {
    Full(T),
    Disconnected(T),
}

/// Nothing has come, and perhaps nothing can.
#[derive(Debug)]
pub(crate) struct Nothing;

pub(crate) fn bounded<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { waiting: VecDeque::new(), senders: 1, received: true };
    let channel = Channel { state: Mutex::new(state), arrived: Condvar::new(), bound };
    let channel = Arc::new(channel);
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> Sender<T> {
    pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut state = self.0.state.lock();
        if !state.received {
            return Err(TrySendError::Disconnected(value));
        }
        if state.waiting.len() >= self.0.bound {
            return Err(TrySendError::Full(value));
        }
        state.waiting.push_back(value);
        drop(state);
        self.0.arrived.notify_all();
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, Nothing> {
        self.0.state.lock().waiting.pop_front().ok_or(Nothing)
    }

    pub(crate) fn recv(&self) -> Result<T, Nothing> {
        self.recv_timeout(super::FOR_EVER)
    }

    pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, Nothing> {
        let deadline = Instant::now() + timeout;
        let mut state = self.0.state.lock();
        loop {
            if let Some(value) = state.waiting.pop_front() {
                return Ok(value);
            }
            if state.senders == 0 || self.0.arrived.wait_until(&mut state, deadline).timed_out() {
                return state.waiting.pop_front().ok_or(Nothing);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.state.lock().waiting.is_empty()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.senders -= 1;
        let was_last = state.senders == 0;
        drop(state);
        if was_last {
            self.0.arrived.notify_all();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state.lock();
            state.received = false;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}
