//! What `shuttle` lacks: time, and waits that it ends.
//!
//! Time goes on when everybody waits: then the earliest deadline has come. So what needs no time takes
//! none, and a wake that is lost shows as time that has passed, or as a wait without end. In a *hasty*
//! schedule deadlines also come while others still run.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use shuttle::rand::Rng;

use super::{Instant, MutexGuard, WaitTimeoutResult};

/// Once is enough to let others go first.
pub(crate) const MAX_YIELDS: u32 = 1;

/// Nothing that is waited for is so far away.
const PATIENCE_NANOS: u64 = 60_000_000_000;

/// In a hasty schedule, one in so many waits has a deadline come early.
const HASTE: u32 = 6;

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// What a schedule's threads have in common. They take turns on one thread of the system, so this needs
/// no lock.
#[derive(Debug, Default)]
pub(crate) struct World {
    now: u64,
    hasty: bool,
    /// Threads that have not ended.
    living: usize,
    /// Those that wait, or have been woken and have not run since.
    waiting: Vec<Arc<Waiter>>,
}

/// Begins a schedule, on its first thread.
pub(crate) fn start(hasty: bool) {
    WORLD.set(World { hasty, living: 1, ..World::default() });
}

pub(crate) fn now() -> u64 {
    world(|world| world.now)
}

pub(crate) fn world<T>(f: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(f)
}

const WAITS: u8 = 0;
const WOKEN: u8 = 1;
const LATE: u8 = 2;

/// A thread that waits, until it is woken or its deadline has come.
#[derive(Debug)]
struct Waiter {
    thread: shuttle::thread::Thread,
    deadline: u64,
    state: AtomicU8,
}

impl Waiter {
    fn new(deadline: Instant) -> Arc<Self> {
        let thread = shuttle::thread::current();
        Arc::new(Self { thread, deadline: deadline.0, state: AtomicU8::new(WAITS) })
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) == state
    }

    fn end(&self, state: u8) {
        if self.is(WAITS) {
            self.state.store(state, Ordering::Relaxed);
            self.thread.unpark();
        }
    }

    /// Returns whether the deadline came first.
    fn wait(self: &Arc<Self>) -> bool {
        world(|world| world.waiting.push(Arc::clone(self)));
        let in_haste =
            world(|world| world.hasty) && shuttle::rand::thread_rng().gen_ratio(1, HASTE);
        if in_haste {
            pass_time();
        }
        while self.is(WAITS) {
            if world(|world| world.is_idle()) {
                pass_time();
            } else {
                shuttle::thread::park();
            }
        }
        world(|world| world.waiting.retain(|waiter| !Arc::ptr_eq(waiter, self)));
        self.is(LATE)
    }
}

impl World {
    /// Whether deadlines come while others still run.
    pub(crate) fn is_hasty(&self) -> bool {
        self.hasty
    }

    fn is_idle(&self) -> bool {
        self.waiting.iter().filter(|waiter| waiter.is(WAITS)).count() == self.living
    }

    fn earliest(&self) -> Option<Arc<Waiter>> {
        let waiting = self.waiting.iter().filter(|waiter| waiter.is(WAITS));
        waiting.min_by_key(|waiter| waiter.deadline).cloned()
    }
}

/// The earliest deadline comes.
fn pass_time() {
    let Some(earliest) = world(|world| world.earliest()) else { return };
    let is_idle = world(|world| world.is_idle());
    if earliest.deadline > now().saturating_add(PATIENCE_NANOS) {
        assert!(!is_idle, "everybody waits, and nobody will wake them: {:?}", names());
        return;
    }
    world(|world| world.now = world.now.max(earliest.deadline));
    assert!(now() < PATIENCE_NANOS, "nothing happens any more: {:?}", names());
    earliest.end(LATE);
}

fn names() -> Vec<String> {
    let name = |waiter: &Arc<Waiter>| waiter.thread.name().unwrap_or("a client").to_owned();
    world(|world| world.waiting.iter().map(name).collect())
}

pub(crate) mod thread {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Instant, Living, Waiter};

    pub(crate) use shuttle::thread::yield_now;

    /// A thread that may be parked; a token that is left for it is not lost.
    #[derive(Clone, Debug)]
    pub(crate) struct Thread(Arc<super::Parking>);

    super::super::thread_local! {
        static CURRENT: Arc<super::Parking> = const { Arc::default() };
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(|parking| Thread(Arc::clone(parking)))
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            self.0.unpark();
        }
    }

    pub(crate) fn park_timeout(timeout: Duration) {
        let parking = current().0;
        if !parking.take_token() {
            let waiter = Waiter::new(Instant::now() + timeout);
            parking.wait(&waiter);
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Builder(shuttle::thread::Builder);

    impl Builder {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub(crate) fn spawn<T: Send + 'static>(
            self,
            f: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            let ended = Arc::<super::Parking>::default();
            let living = Living::new(Arc::clone(&ended));
            let thread = self.0.spawn(move || {
                let _living = living;
                f()
            })?;
            Ok(JoinHandle { thread, ended })
        }
    }

    pub(crate) struct JoinHandle<T> {
        thread: shuttle::thread::JoinHandle<T>,
        ended: Arc<super::Parking>,
    }

    impl<T> JoinHandle<T> {
        pub(crate) fn join(self) -> std::thread::Result<T> {
            if !self.ended.take_token() {
                self.ended.wait(&Waiter::new(Instant(u64::MAX)));
            }
            self.thread.join()
        }
    }

    pub(crate) fn spawn<T: Send + 'static>(
        f: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        Builder::new().spawn(f).expect("shuttle's threads start")
    }
}

/// A token, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    token: AtomicBool,
    waiter: std::sync::Mutex<Option<Arc<Waiter>>>,
}

impl Parking {
    fn take_token(&self) -> bool {
        self.token.swap(false, Ordering::Relaxed)
    }

    fn unpark(&self) {
        // Others may run between what the caller has done and this.
        shuttle::thread::sleep(std::time::Duration::ZERO);
        self.token.store(true, Ordering::Relaxed);
        let waiter = self.waiter.lock().expect("no panic").take();
        if let Some(waiter) = waiter {
            waiter.end(WOKEN);
        }
    }

    fn wait(&self, waiter: &Arc<Waiter>) {
        *self.waiter.lock().expect("no panic") = Some(Arc::clone(waiter));
        waiter.wait();
        self.waiter.lock().expect("no panic").take();
        self.take_token();
    }
}

/// Counts one thread.
struct Living {
    ended: Arc<Parking>,
}

impl Living {
    fn new(ended: Arc<Parking>) -> Self {
        world(|world| world.living += 1);
        Self { ended }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.ended.unpark();
        world(|world| world.living -= 1);
        if world(|world| world.living > 0 && world.is_idle()) {
            pass_time();
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Mutex<Vec<Arc<Waiter>>>);

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
        let waiter = Waiter::new(deadline);
        self.0.lock().expect("no panic").push(Arc::clone(&waiter));
        let late = MutexGuard::unlocked(guard, || waiter.wait());
        self.0.lock().expect("no panic").retain(|other| !Arc::ptr_eq(other, &waiter));
        WaitTimeoutResult(late)
    }

    pub(crate) fn notify_all(&self) {
        // Others may run between what the caller has done and this.
        shuttle::thread::sleep(std::time::Duration::ZERO);
        let waiters = std::mem::take(&mut *self.0.lock().expect("no panic"));
        for waiter in waiters {
            waiter.end(WOKEN);
        }
    }
}

/// Nothing that waits here runs under `shuttle`.
pub(crate) mod pipe {
    pub(crate) use std::io::{PipeReader, PipeWriter, pipe};

    pub(crate) use rustix::event::poll;
}

/// Schedules are whole instructions here; what a load may see is `loom`'s to decide.
pub(crate) struct Accesses;

impl Accesses {
    pub(crate) fn new() -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "another checker's has something to remember")]
    pub(crate) fn load(&self, _at: usize, _len: usize) {}

    #[expect(clippy::unused_self, reason = "another checker's has something to remember")]
    pub(crate) fn store(&self, _at: usize, _len: usize) {}
}

impl fmt::Debug for Accesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accesses")
    }
}
