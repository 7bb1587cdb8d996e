//! What `loom` lacks, or calls otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;

use loom::cell::UnsafeCell;

use super::{Instant, MutexGuard, WaitTimeoutResult};

/// Giving way only adds schedules that are like others.
pub(crate) const MAX_YIELDS: u32 = 0;

/// Time stands still.
pub(super) fn now() -> u64 {
    0
}

pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use loom::thread::{Builder, JoinHandle, Thread, current, spawn, yield_now};

    pub(crate) fn park_timeout(_timeout: Duration) {
        loom::thread::park();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        if deadline <= Instant::now() {
            MutexGuard::unlocked(guard, || {});
            return WaitTimeoutResult(true);
        }
        let locked = guard.guard.take().expect("locked");
        guard.guard = Some(self.0.wait(locked).expect("loom does not poison"));
        WaitTimeoutResult(false)
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A pipe of the system's, and who waits for it in a way that `loom` knows of.
pub(crate) mod pipe {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
    use std::sync::Arc;

    use loom::sync::{Condvar, Mutex};
    use rustix::event::{PollFd, Timespec};

    #[derive(Debug, Default)]
    struct State {
        /// Bytes in the pipe.
        bytes: Mutex<usize>,
        written: Condvar,
    }

    thread_local! {
        /// `loom`'s threads take turns on one thread of the system.
        static PIPES: RefCell<BTreeMap<RawFd, Arc<State>>> = RefCell::default();
    }

    #[derive(Debug)]
    pub(crate) struct PipeReader(io::PipeReader, Arc<State>);

    #[derive(Debug)]
    pub(crate) struct PipeWriter(io::PipeWriter, Arc<State>);

    pub(crate) fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let state = Arc::<State>::default();
        PIPES.with_borrow_mut(|pipes| pipes.insert(reader.as_raw_fd(), Arc::clone(&state)));
        Ok((PipeReader(reader, Arc::clone(&state)), PipeWriter(writer, state)))
    }

    /// Waits for the pipe, which is the last of `fds`.
    pub(crate) fn poll(
        fds: &mut [PollFd<'_>],
        _timeout: Option<&Timespec>,
    ) -> rustix::io::Result<usize> {
        let pipe = fds.last().expect("a pipe").as_fd().as_raw_fd();
        let state = PIPES.with_borrow(|pipes| Arc::clone(&pipes[&pipe]));
        let mut bytes = state.bytes.lock().expect("loom does not poison");
        while *bytes == 0 {
            bytes = state.written.wait(bytes).expect("loom does not poison");
        }
        drop(bytes);
        rustix::event::poll(fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    impl Write for &PipeWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut waiting = self.1.bytes.lock().expect("loom does not poison");
            let written = (&self.0).write(bytes)?;
            *waiting += written;
            self.1.written.notify_all();
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for &PipeReader {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let mut waiting = self.1.bytes.lock().expect("loom does not poison");
            let read = (&self.0).read(bytes)?;
            *waiting -= read;
            Ok(read)
        }
    }

    impl AsFd for PipeReader {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Drop for PipeReader {
        fn drop(&mut self) {
            PIPES.with_borrow_mut(|pipes| pipes.remove(&self.0.as_raw_fd()));
        }
    }
}

/// Which bytes of a mapping were loaded and stored by whom: a cell for each four of them.
#[derive(Default)]
pub(crate) struct Accesses(std::sync::Mutex<BTreeMap<usize, UnsafeCell<()>>>);

impl Accesses {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn load(&self, at: usize, len: usize) {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for place in at / 4..(at + len).div_ceil(4) {
            cells.entry(place).or_insert_with(|| UnsafeCell::new(())).with(|_| {});
        }
    }

    pub(crate) fn store(&self, at: usize, len: usize) {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for place in at / 4..(at + len).div_ceil(4) {
            cells.entry(place).or_insert_with(|| UnsafeCell::new(())).with_mut(|_| {});
        }
    }
}

impl fmt::Debug for Accesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accesses")
    }
}
