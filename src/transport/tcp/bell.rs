//! Waiting for sockets and for other threads at once: a bell that wakes a thread out of `poll`.
//!
//! Ringing costs a system call only if the thread sleeps; most of the time it is a look at one word.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::sync::Instant;
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::pipe::{PipeReader, PipeWriter, pipe, poll};
use crate::wake::Patience;

/// Wakes one thread.
#[derive(Debug)]
pub(super) struct Bell {
    asleep: AtomicBool,
    pipe: PipeWriter,
}

/// What that thread waits with.
#[derive(Debug)]
pub(super) struct Sleeper {
    bell: Arc<Bell>,
    pipe: PipeReader,
    patience: Patience,
}

impl Bell {
    /// A bell and who hears it.
    pub(super) fn new() -> io::Result<(Arc<Self>, Sleeper)> {
        let (reader, writer) = pipe()?;
        let bell = Arc::new(Self { asleep: AtomicBool::new(false), pipe: writer });
        Ok((Arc::clone(&bell), Sleeper { bell, pipe: reader, patience: Patience::new() }))
    }

    /// Wakes the thread if it sleeps. Whoever rings has left what there is to do where the thread looks.
    pub(super) fn ring(&self) {
        // Who rings has left something and then looks who sleeps; who goes to sleep says so and then looks
        // for something. With a fence between each two, one of them sees the other.
        fence(Ordering::SeqCst);
        // At most one byte for each sleep, so the pipe never fills.
        let relaxed = Ordering::Relaxed;
        if self.asleep.load(relaxed)
            && self.asleep.compare_exchange(true, false, relaxed, relaxed).is_ok()
        {
            let _ = (&self.pipe).write(&[0]);
        }
    }
}

impl Sleeper {
    /// Waits until one of `fds` is ready, the bell rings, or `until` has come; not at all if there is
    /// `work`. What is ready stands in `fds`.
    pub(super) fn wait<'a>(
        &'a mut self,
        fds: &mut Vec<PollFd<'a>>,
        until: Instant,
        work: impl Fn() -> bool,
    ) -> io::Result<()> {
        if self.patience.wait(&work) {
            return Ok(());
        }
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Only what was left before the bell was armed is looked for: all later work rings.
        if work() {
            self.bell.asleep.store(false, Ordering::Relaxed);
            return Ok(());
        }
        let pipe = &self.pipe;
        fds.push(PollFd::new(pipe, PollFlags::IN));
        let ready = self.patience.sleep(|| poll_until(fds, until));
        self.bell.asleep.store(false, Ordering::Relaxed);
        let rung = fds.pop().is_some_and(|fd| !fd.revents().is_empty());
        if rung {
            // Never blocks: there is something.
            let _ = (&*pipe).read(&mut [0; 16]);
        }
        ready
    }

    /// Waits until the bell rings with `work` to do, or `until` has come.
    pub(super) fn pause(&mut self, until: Instant, work: impl Fn() -> bool) {
        while !work() && Instant::now() < until {
            // Without `poll` there would be no machine to run on; the loop then gives up waiting.
            if self.wait(&mut Vec::new(), until, &work).is_err() {
                return;
            }
        }
    }
}

fn poll_until(fds: &mut [PollFd<'_>], until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}
