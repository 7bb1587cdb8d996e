//! Getting a connection to another node: its address looked up anew, every result tried, greetings
//! exchanged.
//!
//! Looking up a name can take as long as the system's resolver likes, and nothing can interrupt it. It
//! happens on the thread that sends to that node, which has nothing else to do without a connection; only
//! a shutdown may have to leave it behind.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::Net;
use super::bell::Sleeper;
use super::exchange::Exchange;
use super::greeting::Greeting;
use super::link::Link;
use super::wire::{self, Wire, link_error};
use crate::sync::Instant;
use crate::transport::LinkError;

/// How long one address may take to be connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to `link`'s node, greetings exchanged.
///
/// # Errors
/// A refusal if an address led to one; otherwise what went wrong with the last address.
pub(super) fn dial(net: &Net, link: &Link, sleeper: &mut Sleeper) -> Result<Wire, LinkError> {
    let unresolved = |error: io::Error| LinkError::Unresolved {
        address: link.address.clone(),
        error: error.to_string(),
    };
    let addresses = link.address.to_socket_addrs().map_err(unresolved)?;
    first_that_works(addresses, |address| {
        if net.is_stopping() {
            return Err(LinkError::Stopped);
        }
        greet(net, link, connect(net, address, sleeper)?, sleeper)
    })
    .map_err(|error| {
        error.unwrap_or_else(|| unresolved(io::Error::other("the name has no address")))
    })
}

/// What becomes of the first address with which something becomes of it; otherwise a refusal if there was
/// one, or the last error.
fn first_that_works<T>(
    addresses: impl Iterator<Item = SocketAddr>,
    mut attempt: impl FnMut(SocketAddr) -> Result<T, LinkError>,
) -> Result<T, Option<LinkError>> {
    let mut why = None;
    for address in addresses {
        match attempt(address) {
            Ok(done) => return Ok(done),
            // That there is a node, and what it has against this one, says more than silence elsewhere.
            Err(_) if matches!(why, Some(LinkError::Refused(_))) => {}
            Err(error) => why = Some(error),
        }
    }
    Err(why)
}

fn connect(net: &Net, address: SocketAddr, sleeper: &mut Sleeper) -> Result<TcpStream, LinkError> {
    let failed = |error: io::Error| LinkError::Io {
        address: Some(address),
        kind: error.kind(),
        error: error.to_string(),
    };
    let begin = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if !is_under_way(&error) => Err(error),
            _ => Ok(socket),
        }
    };
    let socket = begin().map_err(failed)?;
    let until = Instant::now() + CONNECT_TIMEOUT;
    loop {
        let mut fds = vec![PollFd::new(&socket, PollFlags::OUT)];
        sleeper.wait(&mut fds, until, || net.is_stopping()).map_err(failed)?;
        if !fds[0].revents().is_empty() {
            break;
        }
        if net.is_stopping() {
            return Err(LinkError::Stopped);
        }
        if Instant::now() >= until {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
    }
    match socket.take_error() {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return Err(failed(error)),
    }
    let stream = TcpStream::from(socket);
    wire::set_options(&stream).map_err(failed)?;
    Ok(stream)
}

fn is_under_way(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

/// Exchanges greetings.
fn greet(
    net: &Net,
    link: &Link,
    stream: TcpStream,
    sleeper: &mut Sleeper,
) -> Result<Wire, LinkError> {
    let ours = Greeting { to: link.id, ..net.greeting.clone() };
    let mut exchange = Exchange::new(net.wire_to(stream, link.id)?);
    exchange.say(&ours);
    let until = Instant::now() + net.timing.greeting;
    loop {
        exchange.write()?;
        if let Some(theirs) = exchange.read()? {
            ours.outcome(&theirs, link.seen()).map_err(LinkError::Refused)?;
            link.saw(theirs.from);
            return Ok(exchange.into_wire());
        }
        if net.is_stopping() {
            return Err(LinkError::Stopped);
        }
        if Instant::now() >= until {
            return Err(Exchange::late());
        }
        let mut fds = vec![exchange.poll_fd()];
        let waited = sleeper.wait(&mut fds, until, || net.is_stopping());
        waited.map_err(|error| link_error(&error))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tcp::greeting::Refusal;
    use crate::types::NodeId;

    #[test]
    fn all_addresses_are_tried_until_one_works_and_a_refusal_is_told_rather_than_silence() {
        let addresses = || (1..=3).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut tried = Vec::new();
        let mut attempt = |works: u16, refuses: u16| {
            tried.clear();
            let result = first_that_works(addresses(), |address| {
                tried.push(address.port());
                match address.port() {
                    port if port == works => Ok(port),
                    port if port == refuses => Err(LinkError::Refused(Refusal::OwnId(NodeId(1)))),
                    _ => Err(LinkError::Closed),
                }
            });
            (result, tried.len())
        };
        assert_eq!(attempt(3, 1), (Ok(3), 3));
        assert_eq!(attempt(2, 1), (Ok(2), 2));
        let refused = LinkError::Refused(Refusal::OwnId(NodeId(1)));
        assert_eq!(attempt(9, 2), (Err(Some(refused)), 3));
        assert_eq!(attempt(9, 9), (Err(Some(LinkError::Closed)), 3));
        assert_eq!(first_that_works(std::iter::empty(), |_| Ok(())), Err(None));
    }
}
