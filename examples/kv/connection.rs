//! One client: its requests in, its replies out, on a thread of its own.
//!
//! One read of the socket, many requests, which `pipeline` carries out together; then one write. Replies that
//! the client does not take at once wait while more of its requests are read, up to a limit.
//!
//! Nothing that a client does takes more than a bounded amount of memory. A request has a limit and a time in
//! which it must be whole. What long requests and long replies take is bounded for all clients together: see
//! `budget`. An idle client keeps no more than 64 KiB.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock::Node;
use parking_lot::Mutex;

use crate::about::Asker;
use crate::budget::{Budget, MAX_SHARED_BYTES, Share};
use crate::client::{Client, Waited};
use crate::commands::{self, Command};
use crate::pipeline::Pipeline;
use crate::places::{Place, Places};
use crate::replies::Replies;
use crate::resp::{self, Decoder, Found, Limits};
use crate::store::{MAX_WRITE_BYTES, Store};

const LIMITS: Limits = Limits {
    // As many as Redis takes; the bytes are fewer.
    args: 1 << 20,
    bulk_bytes: MAX_WRITE_BYTES,
    // Twice what can be written at once: who exceeds that by little is told so, and may go on.
    request_bytes: 2 * MAX_WRITE_BYTES,
    line_bytes: 64 << 10,
};
/// What the buffer has room for; it grows for a request that is longer. With what replies keep, this is what
/// an idle client takes.
const BUFFER_BYTES: usize = 48 << 10;
/// The longest buffer: it holds any request that is not skipped.
const MAX_BUFFER_BYTES: usize = LIMITS.request_bytes + BUFFER_BYTES;
/// So many requests at once, which may take much more memory than their bytes.
const MAX_STEPS: usize = 8192;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// For requests to wait for a leader.
    pub(crate) leader: Duration,
    /// For a request to become whole.
    pub(crate) request: Duration,
    /// For a client to accept replies.
    pub(crate) replies: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let [leader, request, replies] = [5, 30, 10].map(Duration::from_secs);
        Self { leader, request, replies }
    }
}

/// What the connections of a server have in common.
pub(crate) struct Shared {
    /// What requests and replies may take of the memory.
    pub(crate) budget: Arc<Budget>,
    pub(crate) places: Arc<Places>,
    pub(crate) times: Times,
    /// Held by the one that goes over the whole state. Many at once would share the processors, and all of
    /// them would keep the state from being written until the last is through.
    pub(crate) scan: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(max_clients: usize, times: Times) -> Self {
        let budget = Arc::new(Budget::new(MAX_SHARED_BYTES));
        Self { budget, places: Arc::new(Places::new(max_clients)), times, scan: Mutex::new(()) }
    }
}

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

/// What a client has sent that was not carried out yet.
struct Incoming {
    bytes: Vec<u8>,
    filled: usize,
    /// What the buffer takes beyond its usual room.
    share: Share,
}

impl Incoming {
    /// Whether there is room for more.
    fn make_room(&mut self) -> bool {
        if self.filled < self.bytes.len() {
            return true;
        }
        let bytes = (2 * self.filled).min(MAX_BUFFER_BYTES);
        assert!(bytes > self.filled, "the decoder takes {bytes} bytes for a part of a request");
        let paid = self.share.grow_to(bytes - BUFFER_BYTES);
        if paid {
            let mut larger = vec![0; bytes];
            larger[..self.filled].copy_from_slice(&self.bytes);
            self.bytes = larger;
        }
        paid
    }

    /// So many bytes are done with.
    fn consume(&mut self, done: usize) {
        self.bytes.copy_within(done..self.filled, 0);
        self.filled -= done;
        if self.filled < BUFFER_BYTES && self.bytes.len() > BUFFER_BYTES {
            self.bytes.truncate(BUFFER_BYTES);
            self.bytes.shrink_to_fit();
            self.share.shrink_to(0);
        }
    }
}

/// How far requests were carried out.
#[derive(Default)]
struct Done {
    /// What they took of the buffer.
    bytes: usize,
    /// Whether one of them was whole.
    whole: bool,
}

pub(crate) struct Connection {
    node: Node<Store>,
    place: Place,
    shared: Arc<Shared>,
}

impl Connection {
    pub(crate) fn new(place: Place, node: Node<Store>, shared: Arc<Shared>) -> Self {
        Self { node, place, shared }
    }

    /// Serves the client until it leaves or breaks the protocol.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) fn serve(self, stream: Arc<TcpStream>) -> io::Result<()> {
        let Self { node, place, shared } = self;
        let replies = Replies::new(Arc::clone(&shared.budget));
        let share = Share::of(Arc::clone(&shared.budget));
        let asker = Asker { id: place.id() };
        let mut session = Session {
            place,
            request_time: shared.times.request,
            client: Client::new(stream, replies, shared.times.replies)?,
            incoming: Incoming { bytes: vec![0; BUFFER_BYTES], filled: 0, share },
            decoder: Decoder::new(LIMITS),
            pipeline: Pipeline::new(node, shared, asker),
        };
        match session.serve() {
            End::Quiet => session.client.flush(),
            End::LastWords => session.client.part(),
            End::Failed(error) => Err(error),
        }
    }
}

struct Session {
    place: Place,
    request_time: Duration,
    client: Client,
    incoming: Incoming,
    decoder: Decoder,
    pipeline: Pipeline,
}

impl Session {
    fn serve(&mut self) -> End {
        match self.serve_on() {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    fn serve_on(&mut self) -> Result<std::convert::Infallible, End> {
        let mut ever_asked = false;
        // Until when a request that has begun must be whole.
        let mut whole_by = None;
        loop {
            if !self.incoming.make_room() {
                return Err(self.last_words("ERR too many requests that are not whole"));
            }
            let were_there = self.pipeline.is_late() && self.client.has_sent_more();
            if self.client.wait(whole_by)? == Waited::TooLong {
                let error = format!("ERR the request was not whole after {:?}", self.request_time);
                return Err(self.last_words(&error));
            }
            let Incoming { bytes, filled, .. } = &mut self.incoming;
            let read = self.client.read(&mut bytes[*filled..])?;
            if read == 0 || !self.place.begin() {
                return Err(End::Quiet);
            }
            *filled += read;
            self.pipeline.begin(were_there);
            let done = self.answer()?;
            self.client.write()?;
            self.incoming.consume(done.bytes);

            ever_asked |= done.whole;
            let is_half = self.incoming.filled > 0 || self.decoder.is_skipping();
            if !is_half {
                whole_by = None;
            } else if done.whole || whole_by.is_none() {
                whole_by = Some(Instant::now() + self.request_time);
            }
            let is_at_rest = !is_half && self.client.replies.are_none();
            if is_at_rest || !ever_asked {
                self.place.rest(ever_asked);
            }
        }
    }

    fn last_words(&mut self, error: &str) -> End {
        resp::error(self.client.replies.short(), error);
        End::LastWords
    }

    /// Carries out all requests that are whole.
    fn answer(&mut self) -> Result<Done, End> {
        let Self { incoming, decoder, pipeline, client, .. } = self;
        let buffer = &incoming.bytes[..incoming.filled];
        let (mut done, mut steps) = (Done::default(), Vec::new());
        loop {
            let end = match decoder.next(&buffer[done.bytes..]) {
                Ok(None) => None,
                Err(malformed) => Some((End::LastWords, format!("-ERR {malformed}\r\n"))),
                Ok(Some((found, bytes))) => {
                    done.bytes += bytes;
                    let command = match found {
                        Found::Skipped => continue,
                        Found::Request(request) if request.len() == 0 => continue,
                        Found::Request(request) => commands::command(request),
                        Found::TooLong(exceeded) => commands::error(&format!("ERR {exceeded}")),
                    };
                    done.whole = true;
                    match command {
                        Command::Step(step) => {
                            steps.push(step);
                            if steps.len() == MAX_STEPS {
                                pipeline.carry_out(&mut steps, client)?;
                            }
                            continue;
                        }
                        Command::Quit => Some((End::LastWords, "+OK\r\n".to_owned())),
                        Command::Leave => Some((End::Quiet, String::new())),
                    }
                }
            };
            pipeline.carry_out(&mut steps, client)?;
            let Some((end, words)) = end else { return Ok(done) };
            client.replies.short().extend_from_slice(words.as_bytes());
            return Err(end);
        }
    }
}
