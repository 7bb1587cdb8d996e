//! The socket of one client, which never makes the server wait for long.
//!
//! Replies are written as far as the client takes them at once; the rest waits, and it is the caller who
//! decides whether to wait as well. A client that takes nothing for too long is given up.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use socket2::{SockRef, TcpKeepalive};

use crate::replies::{OWN_BYTES, Replies};

/// How long a client that was told why it must go may take to hear it.
const PARTING: Duration = Duration::from_secs(1);

/// The client has sent its last byte. Where this cannot be asked for, it is found out when it is read.
#[cfg(target_os = "linux")]
const SENDS_NO_MORE: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const SENDS_NO_MORE: PollFlags = PollFlags::empty();

/// Why waiting for a request ended without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Something can be read.
    Enough,
    /// It has been long enough.
    TooLong,
}

/// A client's socket, and the replies that it gets.
pub(crate) struct Client {
    stream: Arc<TcpStream>,
    pub(crate) replies: Replies,
    /// How long it may take to accept [`OWN_BYTES`] of its replies.
    patience: Duration,
    /// How many it has accepted since it was last made to wait, and until when it must accept the others.
    accepted: usize,
    accepts_by: Option<Instant>,
}

impl Client {
    /// # Errors
    /// The socket is no good any more.
    pub(crate) fn new(
        stream: Arc<TcpStream>,
        replies: Replies,
        patience: Duration,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // A client may be idle for ever; one that has vanished is noticed.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
        SockRef::from(&*stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self { stream, replies, patience, accepted: 0, accepts_by: None })
    }

    /// Waits for bytes, and reads them; none are the end of what it sends.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.stream).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Waits until there is something to read, until `deadline` if there is one, and writes meanwhile what
    /// is there to be written.
    ///
    /// # Errors
    /// The connection failed, or the client does not take its replies.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Waited> {
        loop {
            let events = match self.accepts_by {
                None if deadline.is_none() => return Ok(Waited::Enough),
                None => PollFlags::IN,
                Some(_) => PollFlags::IN | PollFlags::OUT,
            };
            let until = [deadline, self.accepts_by].into_iter().flatten().min();
            let ready = self.poll(events, until)?;
            if ready.contains(PollFlags::OUT) {
                self.write()?;
            }
            let now = Instant::now();
            if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                return Ok(Waited::Enough);
            } else if self.accepts_by.is_some_and(|deadline| deadline <= now) {
                return Err(io::ErrorKind::TimedOut.into());
            } else if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(Waited::TooLong);
            }
        }
    }

    /// Whether it has sent something that nobody has read.
    pub(crate) fn has_sent_more(&self) -> bool {
        let ready = self.poll(PollFlags::IN, Some(Instant::now()));
        ready.is_ok_and(|ready| ready.contains(PollFlags::IN))
    }

    /// Whether nobody is there any more. A client that says that it sends no more may still listen; to find
    /// out, it is sent what is there to be written.
    pub(crate) fn is_gone(&mut self) -> bool {
        let seen = |client: &Self| client.poll(SENDS_NO_MORE, Some(Instant::now()));
        let is_end = |ready: PollFlags| ready.intersects(PollFlags::HUP | PollFlags::ERR);
        match seen(self) {
            Ok(ready) if is_end(ready) => true,
            Ok(ready) if ready.intersects(SENDS_NO_MORE) => {
                self.write().is_err() || seen(self).map_or(true, is_end)
            }
            Ok(_) => false,
            Err(_) => true,
        }
    }

    /// Writes as much of the replies as the client takes at once.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        loop {
            let first = self.replies.first();
            if first.is_empty() {
                (self.accepted, self.accepts_by) = (0, None);
                return Ok(());
            }
            // Without waiting, and without a signal if nobody is there.
            match send(&self.stream, first, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.replies.wrote(bytes);
                    self.accepted += bytes;
                    if self.accepted >= OWN_BYTES {
                        (self.accepted, self.accepts_by) = (0, None);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.accepts_by.get_or_insert_with(|| Instant::now() + self.patience);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes replies until they are not many; returns the time that the client took for it.
    ///
    /// # Errors
    /// The connection failed, or the client does not take its replies.
    pub(crate) fn make_room(&mut self) -> io::Result<Duration> {
        if !self.replies.are_many() {
            return Ok(Duration::ZERO);
        }
        let begun = Instant::now();
        self.write()?;
        while self.replies.are_many() {
            self.wait_writable()?;
            self.write()?;
        }
        Ok(begun.elapsed())
    }

    /// Writes all replies.
    ///
    /// # Errors
    /// The connection failed, or the client does not take its replies.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.write()?;
        while !self.replies.are_none() {
            self.wait_writable()?;
            self.write()?;
        }
        Ok(())
    }

    fn wait_writable(&self) -> io::Result<()> {
        let ready = self.poll(PollFlags::OUT, self.accepts_by)?;
        if ready.is_empty() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// What is so until `deadline`; nothing if it passes before.
    fn poll(&self, events: PollFlags, deadline: Option<Instant>) -> io::Result<PollFlags> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let mut socket = [PollFd::new(&self.stream, events)];
            match poll(&mut socket, left.as_ref()) {
                Ok(_) => return Ok(socket[0].revents()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Closes in such a way that the last words arrive: what the client still sends is taken, for a while,
    /// for a socket that is closed with bytes unread takes back what was written.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) fn part(mut self) -> io::Result<()> {
        self.flush()?;
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(PARTING))?;
        let mut ignored = [0; 4096];
        for _ in 0..256 {
            if self.read(&mut ignored)? == 0 {
                break;
            }
        }
        Ok(())
    }
}
