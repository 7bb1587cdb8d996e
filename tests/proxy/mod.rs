//! A TCP proxy that can be told to misbehave: it stands before one node, and everybody else connects to it.
//!
//! What it does to a connection depends on who began it, if that was one of our nodes without TLS: then the
//! first bytes say so.

#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// How often rules are looked at while nothing moves.
const GLANCE: Duration = Duration::from_millis(5);
/// Where a greeting names its sender.
const SENDER: std::ops::Range<usize> = 20..28;

/// What is done to connections.
#[expect(clippy::struct_excessive_bools, reason = "faults that may come together")]
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// There are none: those that exist end, new ones are closed at once.
    pub cut: bool,
    /// Nothing is read any more, so that buffers fill up on the way.
    pub stalled: bool,
    /// What comes from those who connect is read and lost.
    pub loses_requests: bool,
    /// What comes from the node behind the proxy is read and lost.
    pub loses_replies: bool,
    /// Everything is held up for so long.
    pub delay: Duration,
    /// After so many more bytes from those who connect, one is damaged, and so on.
    pub damage_every: Option<usize>,
    /// At most so many bytes a second go through in a direction.
    pub pace: Option<usize>,
}

#[derive(Debug)]
struct State {
    target: Mutex<SocketAddr>,
    rules: Mutex<(Rules, BTreeMap<u64, Rules>)>,
    /// Grows when all connections are to end.
    era: AtomicU64,
    stopped: AtomicBool,
    connections: AtomicU64,
    damaged: AtomicU64,
}

impl State {
    fn rules(&self, from: Option<u64>) -> Rules {
        let rules = lock(&self.rules);
        from.and_then(|from| rules.1.get(&from)).unwrap_or(&rules.0).clone()
    }

    fn is_over(&self, era: u64) -> bool {
        self.stopped.load(Ordering::SeqCst) || self.era.load(Ordering::SeqCst) != era
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

/// A proxy before one node. Ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Listens on a free address, and hands on to `target`.
    pub fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(free_address()).expect("a free port");
        // What lies in the proxy's own buffers nothing can overtake. Connections inherit it.
        SockRef::from(&listener).set_recv_buffer_size(32 << 10).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            target: Mutex::new(target),
            rules: Mutex::default(),
            era: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    let state = Arc::clone(&accepting);
                    thread::spawn(move || carry(&state, stream));
                }
            }
        });
        Self { address, state }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands new connections on to another place.
    pub fn retarget(&self, target: SocketAddr) {
        *lock(&self.state.target) = target;
    }

    /// Changes the rules for everybody who has none of their own.
    pub fn set(&self, rules: Rules) {
        lock(&self.state.rules).0 = rules;
    }

    /// Changes the rules for connections that node `from` begins.
    pub fn set_from(&self, from: u64, rules: Rules) {
        lock(&self.state.rules).1.insert(from, rules);
    }

    /// Forgets all rules.
    pub fn heal(&self) {
        *lock(&self.state.rules) = (Rules::default(), BTreeMap::new());
    }

    /// Ends all connections; new ones are welcome.
    pub fn drop_connections(&self) {
        self.state.era.fetch_add(1, Ordering::SeqCst);
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many bytes were damaged.
    pub fn damaged(&self) -> u64 {
        self.state.damaged.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // So that the thread that accepts looks.
        let _ = TcpStream::connect(self.address);
    }
}

/// An address on loopback that nobody listens on, and that no other process of these tests picks.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let host = if cfg!(target_os = "linux") {
        // All of 127/8 is loopback.
        let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let [.., high, low] = pid.to_be_bytes();
        Ipv4Addr::new(127, high % 254 + 1, low, (next % 254 + 1) as u8)
    } else {
        Ipv4Addr::LOCALHOST
    };
    let probe = TcpListener::bind((host, 0)).expect("a free port");
    probe.local_addr().expect("bound")
}

fn carry(state: &Arc<State>, client: TcpStream) {
    let era = state.era.load(Ordering::SeqCst);
    state.connections.fetch_add(1, Ordering::SeqCst);
    let Ok(node) = TcpStream::connect(*lock(&state.target)) else { return };
    let from = sender_of(&client);
    if state.rules(from).cut {
        return;
    }
    let (Ok(client_too), Ok(node_too)) = (client.try_clone(), node.try_clone()) else { return };
    for stream in [&client, &node] {
        let options = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(GLANCE)))
            .and_then(|()| stream.set_write_timeout(Some(GLANCE)));
        if options.is_err() {
            return;
        }
    }
    let requests = {
        let state = Arc::clone(state);
        thread::spawn(move || pump(&state, era, from, true, client, node))
    };
    pump(state, era, from, false, node_too, client_too);
    let _ = requests.join();
}

/// The node that began the connection, as far as it says so soon.
fn sender_of(client: &TcpStream) -> Option<u64> {
    let mut first = [0; SENDER.end];
    for _ in 0..200 {
        if client.peek(&mut first).ok()? == first.len() {
            let is_greeting = first.starts_with(b"oarlock\0");
            let id = u64::from_le_bytes(first[SENDER].try_into().expect("eight bytes"));
            return is_greeting.then_some(id);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Carries one direction until it ends.
fn pump(
    state: &State,
    era: u64,
    from: Option<u64>,
    requests: bool,
    mut source: TcpStream,
    mut sink: TcpStream,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut undamaged = 0;
    loop {
        let rules = state.rules(from);
        if rules.cut || state.is_over(era) {
            break;
        }
        if rules.stalled {
            thread::sleep(GLANCE);
            continue;
        }
        let most = rules.pace.map_or(buffer.len(), |pace| (pace / 100).clamp(1, buffer.len()));
        let read = match source.read(&mut buffer[..most]) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if is_pause(&error) => continue,
            Err(_) => break,
        };
        if if requests { rules.loses_requests } else { rules.loses_replies } {
            continue;
        }
        if let Some(every) = rules.damage_every.filter(|_| requests) {
            undamaged += read;
            if undamaged >= every {
                undamaged = 0;
                buffer[read / 2] ^= 0x10;
                state.damaged.fetch_add(1, Ordering::SeqCst);
            }
        }
        thread::sleep(rules.delay);
        if let Some(pace) = rules.pace {
            thread::sleep(Duration::from_secs(1) * read as u32 / pace as u32);
        }
        if write(state, era, from, &mut sink, &buffer[..read]).is_err() {
            break;
        }
    }
    let _ = source.shutdown(Shutdown::Both);
    let _ = sink.shutdown(Shutdown::Both);
}

fn write(
    state: &State,
    era: u64,
    from: Option<u64>,
    sink: &mut TcpStream,
    mut bytes: &[u8],
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if is_pause(&error) => {
                if state.rules(from).cut || state.is_over(era) {
                    return Err(ErrorKind::ConnectionAborted.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
