//! The load: some threads, each with some proposals in flight, and what came of it.
//!
//! One generator serves every contestant and every shape: one thread with a window of N, or N threads
//! with a window of one. Answers are waited for in the order of the proposals.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::fold::{Mirror, fold};

/// Three nodes that replicate a [`Fold`](crate::fold::Fold), and have a leader.
pub(crate) trait Contestant: Sync {
    /// One thread's access to the leader.
    type Client: Client;

    fn client(&self) -> Self::Client;

    /// The state of every node.
    fn mirrors(&self) -> &[Arc<Mirror>];
}

/// Proposes from one thread. Every failure is a panic: there are no faults in these races.
pub(crate) trait Client: Send {
    /// Proposes a command, without waiting for the answer.
    fn submit(&mut self, command: &Arc<[u8]>);

    /// Waits for the answer to the oldest proposal that has not been waited for.
    fn wait(&mut self) -> u64;

    /// Proposes a command and waits for the answer, with nothing else in flight.
    fn call(&mut self, command: &Arc<[u8]>) -> u64 {
        self.submit(command);
        self.wait()
    }
}

/// How much is in flight, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One thread keeps so many proposals in flight.
    Window(usize),
    /// So many threads, each with one proposal at a time.
    Threads(usize),
}

impl Shape {
    pub(crate) const ALL: [Self; 7] = [
        Self::Window(1),
        Self::Window(16),
        Self::Window(256),
        Self::Window(4096),
        Self::Threads(1),
        Self::Threads(16),
        Self::Threads(256),
    ];

    /// Proposals between two that are timed. Reading the clock twice for each would cost the fast
    /// shapes a tenth; an odd number does not fall in step with the batches.
    fn timed_every(self) -> u64 {
        match self {
            Self::Window(window) if window > 16 => 31,
            Self::Window(_) | Self::Threads(_) => 1,
        }
    }
}

/// What one measurement of one shape came to.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
    /// User and system time of the whole process, the load generator included.
    pub(crate) cpu: Duration,
    /// From before the proposal to after the answer, in nanoseconds; a sample, not sorted.
    pub(crate) latencies: Vec<u64>,
}

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

/// How long the followers may take to apply what the leader has answered.
const CATCH_UP: Duration = Duration::from_secs(20);

/// Runs one shape: a fifth of `duration` to warm up, then `duration` that counts. Afterwards every
/// proposal has been answered, and every node has applied exactly these proposals.
pub(crate) fn measure<C: Contestant>(
    contestant: &C,
    shape: Shape,
    command: &Arc<[u8]>,
    duration: Duration,
) -> Measured {
    let phase = AtomicU8::new(WARM_UP);
    let applied_before = wait_equal(contestant.mirrors(), None);
    let sum_before = contestant.mirrors()[0].sum();
    let (threads, one_client) = match shape {
        Shape::Window(_) => (1, Some(sum_before)),
        Shape::Threads(threads) => (threads, (threads == 1).then_some(sum_before)),
    };
    let (elapsed, cpu, clients) = thread::scope(|scope| {
        let clients: Vec<_> = (0..threads)
            .map(|_| {
                let client = contestant.client();
                scope.spawn(|| drive(client, shape, command, &phase, one_client))
            })
            .collect();
        thread::sleep(duration / 5);
        let (began, cpu_before) = (Instant::now(), cpu_time());
        phase.store(MEASURE, Ordering::Relaxed);
        thread::sleep(duration);
        phase.store(STOP, Ordering::Relaxed);
        let (elapsed, cpu) = (began.elapsed(), cpu_time().saturating_sub(cpu_before));
        let clients: Vec<Driven> =
            clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        (elapsed, cpu, clients)
    });
    let answered: u64 = clients.iter().map(|client| client.answered).sum();
    wait_equal(contestant.mirrors(), Some(applied_before + answered));
    let sum = (0..answered).fold(sum_before, |sum, _| fold(sum, command));
    for (node, mirror) in contestant.mirrors().iter().enumerate() {
        assert_eq!(mirror.sum(), sum, "node {} is in another state after {shape:?}", node + 1);
    }
    Measured {
        operations: clients.iter().map(|client| client.measured).sum(),
        elapsed,
        cpu,
        latencies: clients.into_iter().flat_map(|client| client.latencies).collect(),
    }
}

/// What one thread did.
struct Driven {
    answered: u64,
    measured: u64,
    latencies: Vec<u64>,
}

/// Proposes until the phase is [`STOP`]. If this is the only client, every answer is known in advance:
/// `sum` is the state before the first.
fn drive(
    mut client: impl Client,
    shape: Shape,
    command: &Arc<[u8]>,
    phase: &AtomicU8,
    mut sum: Option<u64>,
) -> Driven {
    let every = shape.timed_every();
    let window = match shape {
        Shape::Window(window) => window as u64,
        Shape::Threads(_) => 1,
    };
    let mut driven = Driven { answered: 0, measured: 0, latencies: Vec::with_capacity(1 << 16) };
    let mut check = move |answer: u64| {
        if let Some(sum) = &mut sum {
            *sum = fold(*sum, command);
            assert_eq!(answer, *sum, "the answer to another proposal");
        }
    };
    // When those in flight that are timed were submitted.
    let mut timed = std::collections::VecDeque::new();
    let mut submitted = 0;
    loop {
        let now = phase.load(Ordering::Relaxed);
        if now == STOP {
            break;
        }
        if let Shape::Threads(_) = shape {
            let begun = Instant::now();
            check(client.call(command));
            submitted += 1;
            driven.answered += 1;
            if now == MEASURE {
                driven.measured += 1;
                driven.latencies.push(nanoseconds(begun.elapsed()));
            }
            continue;
        }
        if submitted - driven.answered == window {
            check(client.wait());
            if driven.answered.is_multiple_of(every) {
                let begun: Instant = timed.pop_front().expect("as many as there are answers");
                if now == MEASURE {
                    driven.latencies.push(nanoseconds(begun.elapsed()));
                }
            }
            driven.answered += 1;
            driven.measured += u64::from(now == MEASURE);
        }
        if submitted.is_multiple_of(every) {
            timed.push_back(Instant::now());
        }
        client.submit(command);
        submitted += 1;
    }
    for _ in driven.answered..submitted {
        check(client.wait());
        driven.answered += 1;
    }
    driven
}

/// Waits until all nodes have applied as many commands, `expected` if that is known; returns how many.
fn wait_equal(mirrors: &[Arc<Mirror>], expected: Option<u64>) -> u64 {
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let counts: Vec<u64> = mirrors.iter().map(|mirror| mirror.count()).collect();
        let wanted = expected.unwrap_or(counts[0]);
        if counts.iter().all(|&count| count == wanted) {
            return wanted;
        }
        assert!(Instant::now() < deadline, "applied {counts:?}, expected {expected:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("no wait is as long as centuries")
}
