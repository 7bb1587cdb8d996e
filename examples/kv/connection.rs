//! One client: its requests in, its replies out, on a thread of its own.
//!
//! What has arrived together is carried out together. Writes that follow each other are proposed at once
//! and wait side by side; reads that follow each other are one read. A run of the one ends before a run of
//! the other begins, so every request sees what those before it did. One read of the socket, many
//! requests, one write.
//!
//! Nothing that a client does takes more than a bounded amount of memory: a request has a limit, requests
//! in flight are no more than fit into the buffer, and replies are written before more is done. What long
//! replies take is bounded for all clients together: see `replies`.

use std::io::{self, Read as _, Write as _};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::{LeadershipSubscription, Node, ProposeError, ReadError, Reply};
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};

use crate::about;
use crate::commands::{self, Command, Read};
use crate::replies::{Budget, MAX_SHARED_BYTES, Replies};
use crate::resp::{self, Decoder, Limits};
use crate::store::{MAX_WRITE_BYTES, Store, Write};

const LIMITS: Limits = Limits {
    args: 1 << 16,
    bulk_bytes: MAX_WRITE_BYTES,
    // Twice what can be written at once: who exceeds that by little is told so, and may go on.
    request_bytes: 2 * MAX_WRITE_BYTES,
    line_bytes: 64 << 10,
};
/// What a buffer has room for; that of the requests grows for one that is longer.
const BUFFER_BYTES: usize = 64 << 10;
/// How long requests wait for a leader.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait between two attempts if nothing changes meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a client may take to accept the replies that were made for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection ends.
enum End {
    /// Its client wants it, or does not need to know.
    Quiet,
    /// With these last words, which are among the replies.
    LastWords,
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// What the connections of a server have in common.
pub(crate) struct Shared {
    /// What replies may take of the memory.
    budget: Arc<Budget>,
    /// Clients that were sent away, since there were too many.
    pub(crate) rejected: AtomicU64,
    /// Held by the one that goes over the whole state. Many at once would share the processors, and all of
    /// them would keep the state from being written until the last is through.
    scan: Mutex<()>,
}

impl Default for Shared {
    fn default() -> Self {
        let budget = Arc::new(Budget::new(MAX_SHARED_BYTES));
        Self { budget, rejected: AtomicU64::new(0), scan: Mutex::new(()) }
    }
}

pub(crate) struct Connection {
    node: Node<Store>,
    leadership: LeadershipSubscription,
    stream: TcpStream,
    decoder: Decoder,
    replies: Replies,
    shared: Arc<Shared>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, node: Node<Store>, shared: Arc<Shared>) -> Self {
        let leadership = node.leadership();
        let replies = Replies::new(Arc::clone(&shared.budget));
        Self { node, leadership, stream, decoder: Decoder::new(LIMITS), replies, shared }
    }

    /// Serves the client until it leaves or breaks the protocol.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        // A client may be idle for ever; one that has vanished is noticed.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
        SockRef::from(&self.stream).set_tcp_keepalive(&keepalive)?;
        self.stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        match self.serve_until_end() {
            End::Quiet => Ok(()),
            End::LastWords => {
                self.write_replies()?;
                part(&mut self.stream)
            }
            End::Failed(error) => Err(error),
        }
    }

    fn serve_until_end(&mut self) -> End {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut filled = 0;
        loop {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => return End::Quiet,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return End::Failed(error),
            }
            let done = match self.answer(&buffer[..filled]) {
                Ok(done) => done,
                Err(end) => return end,
            };
            if let Err(error) = self.write_replies() {
                return End::Failed(error);
            }
            buffer.copy_within(done..filled, 0);
            filled -= done;
            if filled == buffer.len() {
                // A request that is longer; the decoder knows how long it may be.
                buffer.resize(2 * filled, 0);
            } else if filled == 0 && buffer.len() > BUFFER_BYTES {
                buffer = vec![0; BUFFER_BYTES];
            }
        }
    }

    /// Carries out all requests that are whole; returns the bytes they took.
    fn answer(&mut self, buffer: &[u8]) -> Result<usize, End> {
        let mut done = 0;
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        loop {
            let command = match self.decoder.next(&buffer[done..]) {
                Ok(Some((request, bytes))) => {
                    done += bytes;
                    if request.len() == 0 {
                        continue;
                    }
                    Some(commands::command(request))
                }
                Ok(None) => None,
                Err(malformed) => Some(Command::Broken(malformed)),
            };
            // A run ends before something else begins.
            if !matches!(command, Some(Command::Write(_))) {
                self.write(&mut writes)?;
            }
            if !matches!(command, Some(Command::Read(_))) {
                self.read(&mut reads)?;
            }
            match command {
                Some(Command::Write(write)) => writes.push(write),
                Some(Command::Read(read)) => reads.push(read),
                Some(Command::Ask(question)) => {
                    let rejected = self.shared.rejected.load(Ordering::Relaxed);
                    about::answer(question, &self.node, rejected, self.replies.short());
                }
                Some(Command::Reply(reply)) => {
                    if let Some(out) = self.replies.room(reply.len()) {
                        out.extend_from_slice(&reply);
                    }
                }
                Some(Command::Quit) => {
                    resp::simple(self.replies.short(), "OK");
                    return Err(End::LastWords);
                }
                Some(Command::Leave) => return Err(End::Quiet),
                Some(Command::Broken(malformed)) => {
                    resp::error(self.replies.short(), &format!("ERR {malformed}"));
                    return Err(End::LastWords);
                }
                None => return Ok(done),
            }
            self.write_replies_if_many()?;
        }
    }

    /// Replicates writes, all at once, and waits for them. What was certainly not applied, for want of a
    /// leader, is proposed again, unless a later write of this client may have been: they must not change
    /// places.
    fn write(&mut self, writes: &mut Vec<Write>) -> io::Result<()> {
        let mut writes = mem::take(writes);
        let deadline = Instant::now() + PATIENCE;
        while !writes.is_empty() {
            self.leadership.latest();
            let mut outcomes = match self.node.submit_many(writes) {
                Ok(tickets) => tickets.wait_all(),
                Err(error) => refused(error),
            };
            let may_retry = Instant::now() < deadline;
            let settled = if may_retry { settled(&outcomes) } else { outcomes.len() };
            let again = outcomes.split_off(settled);
            for outcome in &outcomes {
                reply(outcome, self.replies.short());
                self.write_replies_if_many()?;
            }
            writes =
                again.into_iter().filter_map(|outcome| outcome.err()?.into_command()).collect();
            if !writes.is_empty() {
                self.leadership.changed(PAUSE);
            }
        }
        Ok(())
    }

    /// Looks at the state once for many requests.
    fn read(&mut self, reads: &mut Vec<Read<'_>>) -> io::Result<()> {
        let mut rest = &reads[..];
        let deadline = Instant::now() + PATIENCE;
        while !rest.is_empty() {
            self.leadership.latest();
            let (replies, shared) = (&mut self.replies, &self.shared);
            let looked = self.node.read(|store| {
                for (answered, read) in rest.iter().enumerate() {
                    if replies.are_many() {
                        return answered;
                    }
                    if read.is_scan() {
                        // No waiting for a turn here, where the state is held; and no second scan.
                        let Some(_turn) = shared.scan.try_lock() else {
                            return answered;
                        };
                        read.reply(store, replies);
                        return answered + 1;
                    }
                    read.reply(store, replies);
                }
                rest.len()
            });
            match looked {
                Ok(0) if Instant::now() < deadline => thread::sleep(PAUSE),
                Ok(0) => {
                    let error = "ERR KEYS would take too long: others are at it";
                    resp::error(self.replies.short(), error);
                    rest = &rest[1..];
                }
                Ok(count) => rest = &rest[count..],
                Err(ReadError::NotLeader { .. }) if Instant::now() < deadline => {
                    self.leadership.changed(PAUSE);
                }
                Err(error) => {
                    let error = format!("CLUSTERDOWN {error}");
                    for _ in mem::take(&mut rest) {
                        resp::error(self.replies.short(), &error);
                        self.write_replies_if_many()?;
                    }
                }
            }
            self.write_replies_if_many()?;
        }
        reads.clear();
        Ok(())
    }

    fn write_replies_if_many(&mut self) -> io::Result<()> {
        if self.replies.are_many() { self.write_replies() } else { Ok(()) }
    }

    /// A client that does not take them in time is given up.
    fn write_replies(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let mut rest = self.replies.bytes();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !rest.is_empty() && Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        self.replies.clear();
        Ok(())
    }
}

/// Each write with the reason for which none was taken.
fn refused(error: ProposeError<Vec<Write>>) -> Vec<Reply<Store>> {
    let mut writes = Vec::new();
    let why = error.map(|all| writes = all);
    writes.into_iter().map(|write| Err(why.clone().map(|()| write))).collect()
}

/// How many of these writes are not proposed again: up to the last that is applied or may be.
pub(crate) fn settled(outcomes: &[Reply<Store>]) -> usize {
    use ProposeError::{Busy, NotLeader, Superseded};
    let again = |o: &Reply<Store>| matches!(o, Err(NotLeader { .. } | Superseded(_) | Busy(_)));
    outcomes.iter().rposition(|outcome| !again(outcome)).map_or(0, |last| last + 1)
}

fn reply(outcome: &Reply<Store>, out: &mut Vec<u8>) {
    match outcome {
        Ok(outcome) => outcome.reply(out),
        Err(error @ ProposeError::Unknown { .. }) => {
            resp::error(out, &format!("TIMEOUT unknown outcome: {error}"));
        }
        Err(error) => resp::error(out, &format!("CLUSTERDOWN never applied: {error}")),
    }
}

/// Closes in such a way that the last words arrive: what the client still sends is taken, for a while, for
/// a socket that is closed with bytes unread takes back what was written.
fn part(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut ignored = [0; 4096];
    for _ in 0..256 {
        if stream.read(&mut ignored)? == 0 {
            break;
        }
    }
    Ok(())
}
