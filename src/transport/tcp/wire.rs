//! A connection's bytes, plain or through TLS, and the options of its socket.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::{SockRef, TcpKeepalive};

use super::tls::{self, Session};
use crate::transport::LinkError;

/// Bytes that the system may hold unsent: enough to keep a fast network busy, and no more, because what
/// is in there nothing can overtake.
const MAX_UNSENT_BYTES: u32 = 256 << 10;
/// Silence after which the system itself looks whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connected socket, and the TLS session on it if there is one.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    session: Option<Session>,
}

/// Shared with whoever may want to shut it down.
#[derive(Clone, Debug)]
pub(super) struct Socket(Arc<TcpStream>);

impl Socket {
    /// Ends the connection: whoever reads or writes finds out at once.
    pub(super) fn shut_down(&self) {
        // Not connected any more: then that is done.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // Not `writev`: on a connection that is gone it raises SIGPIPE, and the program that we live in
        // may not have it ignored.
        #[cfg(not(target_vendor = "apple"))]
        let flags = SendFlags::NOSIGNAL;
        #[cfg(target_vendor = "apple")]
        let flags = SendFlags::empty();
        Ok(sendmsg(&*self.0, slices, &mut SendAncillaryBuffer::default(), flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// A new connection: in the clear, or with a TLS session whose handshake is still to come.
    pub(super) fn new(stream: TcpStream, session: Option<Session>) -> Self {
        Self { socket: Socket(Arc::new(stream)), session }
    }

    /// The socket.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// For `poll`.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.socket.0
    }

    /// Lets reads and writes wait, at most for `timeout`.
    pub(super) fn set_blocking(&self, timeout: Duration) -> io::Result<()> {
        let stream = self.stream();
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))
    }

    /// What to wait for, if something is to be written or not.
    pub(super) fn interest(&self, writing: bool) -> PollFlags {
        let mut interest = PollFlags::IN;
        interest.set(PollFlags::OUT, writing || self.has_unwritten());
        interest
    }

    /// Whether bytes that were taken by [`write`](Self::write) still wait for the socket.
    fn has_unwritten(&self) -> bool {
        self.session.as_ref().is_some_and(Session::has_unwritten)
    }

    /// Reads some bytes; zero at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.read(&mut self.socket, buffer),
            None => again(|| self.socket.read(buffer)),
        }
    }

    /// Takes as many of these bytes as there is room for, which are more than none.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room.
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.write(&mut self.socket, slices),
            None => again(|| self.socket.write_vectored(slices)),
        }
    }

    /// Brings bytes that were taken on their way.
    ///
    /// # Errors
    /// `WouldBlock` if the socket does not take them all.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.session.as_mut().map_or(Ok(()), |session| session.flush(&mut self.socket))
    }

    /// Whether the other side's certificate holds this name; in the clear there is nothing to look at.
    pub(super) fn is_certified(&self, name: &str) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_certified(name))
    }
}

/// Does it again when a signal came between.
fn again<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sets the options that every connection has.
pub(super) fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES)?;
    Ok(())
}

/// Whether an operation only has to wait.
pub(super) fn would_block(error: &io::Error) -> bool {
    // A timeout of a blocking socket shows as either, depending on the system.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What a failed operation on a connection says of it.
pub(super) fn link_error(error: &io::Error) -> LinkError {
    if let Some(error) = tls::error_of(error) {
        return LinkError::Tls(error);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => LinkError::Closed,
        kind => LinkError::Io { address: None, kind, error: error.to_string() },
    }
}
