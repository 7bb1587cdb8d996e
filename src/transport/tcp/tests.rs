//! A transport alone, against a peer that is played by hand.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::frame::{Decoded, Frame};
use super::*;
use crate::membership::{Member, Membership};
use crate::message::{Append, Heartbeat, Message};
use crate::slices::Slices;
use crate::threads::Running;
use crate::transport::{PeerEvent, PeerLane};
use crate::types::{BootCount, Incarnation, Sender};
use crate::wake::Waker;

const PATIENCE: Duration = Duration::from_secs(60);

/// Node 1's transport; node 2 is the listener.
struct Rig {
    tcp: Tcp,
    lane: PeerLane,
    listener: TcpListener,
    running: Arc<Running>,
}

fn signature(node: u64) -> Sender {
    Sender { node: NodeId(node), incarnation: Incarnation(u128::from(node)), boot: BootCount(1) }
}

impl Rig {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        // What lies in there nothing can overtake. Connections inherit it.
        SockRef::from(&listener).set_recv_buffer_size(32 << 10).expect("a socket");
        let address = listener.local_addr().expect("bound").to_string();
        let members = [(1, "127.0.0.1:7000"), (2, &address)];
        let members = members.map(|(id, address)| (NodeId(id), Member::at(address)));
        let local = Local {
            sender: signature(1),
            members: Membership::of_voters(members),
            ..Local::default()
        };
        let running = Arc::<Running>::default();
        let (core, _) = Waker::new();
        let (inbound, lane) = PeerLane::new(local, core, Arc::clone(&running), Box::new(|_, _| {}));
        let mut tcp = Tcp::listen("127.0.0.1:0");
        tcp.start(inbound).expect("starts");
        Self { tcp, lane, listener, running }
    }

    /// Accepts a connection as node 2, and waits until messages can be sent on it.
    fn accept(&mut self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().expect("it connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let net = self.tcp.net.as_ref().expect("started");
        let mut bytes = vec![0; Greeting::needs(&[]).expect("a beginning")];
        stream.read_exact(&mut bytes).expect("a greeting");
        let have = bytes.len();
        bytes.resize(Greeting::needs(&bytes).expect("a greeting"), 0);
        stream.read_exact(&mut bytes[have..]).expect("a greeting");
        let theirs = Greeting::decode(&bytes).expect("a greeting");
        let ours = Greeting { from: signature(2), ..net.greeting.clone() };
        let (answer, verdict) = ours.answer(&theirs, |_| true, None, |_| true);
        assert_eq!(verdict, Ok(frame::VERSION));
        stream.write_all(&answer.encode()).expect("it listens");
        self.until(|rig| rig.outgoing().connected);
        stream
    }

    fn outgoing(&self) -> crate::transport::Direction {
        self.tcp.links().expect("started").links()[0].outgoing.clone()
    }

    fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "it never came to hold");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn send(&mut self, message: Message, records: usize) -> Result<(), Dropped> {
        let records = Slices::from(vec![0; records]);
        self.tcp.send(Envelope { from: signature(1), to: NodeId(2), message, records })
    }
}

fn append() -> Message {
    Message::Append(Append::default())
}

fn heartbeat() -> Message {
    Message::Heartbeat(Heartbeat {
        term: crate::types::Term(1),
        committed: crate::types::LogIndex(0),
        round: crate::message::ReadRound(0),
        replicated: crate::types::LogIndex(0),
    })
}

#[test]
fn a_heartbeat_overtakes_all_entries_that_are_not_on_their_way() {
    let mut rig = Rig::new();
    let mut stream = rig.accept();
    // A message with entries may be as large as it likes, and the one before it has to be whole.
    let (count, bytes) = (64, 128 << 10);
    for _ in 0..count {
        rig.send(append(), bytes).expect("room");
    }
    // Until nothing moves any more: the other side does not read.
    let mut before = 0;
    rig.until(|rig| {
        thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut before, rig.outgoing().bytes) == rig.outgoing().bytes
    });
    rig.send(heartbeat(), 0).expect("room");
    let (mut read, mut overtaken) = (Vec::new(), None);
    let mut appends = 0;
    while appends < count || overtaken.is_none() {
        let mut buffer = [0; 16 << 10];
        let have = stream.read(&mut buffer).expect("more comes");
        assert!(have > 0, "closed");
        read.extend_from_slice(&buffer[..have]);
        while let Decoded::Frame(frame, len) = Frame::decode(&read, bytes).expect("frames") {
            read.drain(..len);
            match frame {
                Frame::Message(Message::Append(_), _) => appends += 1,
                Frame::Message(..) => overtaken = Some(count - appends),
                Frame::Ping(number) => {
                    let mut pong = Vec::new();
                    frame::encode_pong(number, &mut pong);
                    stream.write_all(&pong).expect("it listens");
                }
                Frame::Pong(_) => panic!("to no ping"),
            }
        }
    }
    let overtaken = overtaken.expect("just seen");
    // 512 KiB are under way by design, and what the system's buffers at the other end hold.
    let ahead = (count - overtaken) * bytes;
    assert!(ahead <= 1 << 20, "{ahead} bytes of entries before the heartbeat");
}

#[test]
fn when_a_connection_breaks_the_node_is_told_and_nothing_is_kept() {
    let mut rig = Rig::new();
    assert_eq!(rig.send(append(), 10), Err(Dropped), "there is no connection");
    for _ in 0..3 {
        let stream = rig.accept();
        while rig.lane.take().is_some() {}
        for _ in 0..10 {
            rig.send(append(), 1 << 20).expect("room");
        }
        drop(stream);
        rig.until(|rig| match rig.lane.take() {
            Some(PeerEvent::Dropped(to)) => to == NodeId(2),
            _ => false,
        });
        rig.until(|rig| !rig.outgoing().connected);
        assert!(rig.tcp.links().expect("started").links()[0].dropped_messages > 0);
    }
}

#[test]
fn a_transport_that_is_dropped_ends_its_threads_whatever_they_do() {
    // With a connection that is full; with one without a greeting; with none.
    for stage in 0..3 {
        let mut rig = Rig::new();
        let stream = match stage {
            0 => None,
            1 => Some(rig.listener.accept().expect("it connects").0),
            _ => Some(rig.accept()),
        };
        for _ in 0..20 {
            let _ = rig.send(append(), 1 << 20);
        }
        let Rig { tcp, running, listener, .. } = rig;
        drop(tcp);
        assert_eq!(running.wait(Instant::now() + PATIENCE), Vec::<String>::new());
        drop((stream, listener));
    }
}
