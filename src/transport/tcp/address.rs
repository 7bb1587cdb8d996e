//! Addresses as people write them: `host:port`, where the host is a name, an IPv4 address, or an IPv6
//! address in brackets.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the system may hold before they are accepted. When it holds so many it turns others
/// away, members among them, for a second at least.
const BACKLOG: i32 = 1024;

/// Looks whether an address of another node can ever mean something; whether it does at present is for
/// the resolver to say.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(address: &str) -> Result<(), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("has no port")?;
    match port.parse::<u16>() {
        Ok(0) => return Err("has port 0"),
        Ok(_) => {}
        Err(_) => return Err("has no port"),
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match (host, bracketed) {
        ("", _) => Err("has no host"),
        (_, Some(host)) if host.parse::<std::net::Ipv6Addr>().is_err() => {
            Err("has no IPv6 address in its brackets")
        }
        (host, None)
            if host.contains([':', '[', ']', '/']) || host.contains(char::is_whitespace) =>
        {
            Err("has no host that could be looked up")
        }
        _ => Ok(()),
    }
}

/// Listens on `address`.
///
/// # Errors
/// With the address in the text.
pub(super) fn bind(address: &str) -> io::Result<TcpListener> {
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; is this node running already?",
            io::ErrorKind::InvalidInput => "; it should be host:port",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot listen on {address:?}: {error}{hint}"))
    };
    let mut last = io::Error::other("the name has no address");
    for address in address.to_socket_addrs().map_err(failed)? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A node that starts again finds its port free, although old connections linger in the system.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_an_address_passes_and_what_cannot_be_one_does_not() {
        for good in ["127.0.0.1:7000", "db-1.example:1", "[::1]:65535", "[fe80::1]:80", "a:7"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "host",
            ":7000",
            "host:",
            "host:0",
            "host:65536",
            "::1:7000",
            "[::1]",
            "[x]:1",
            "a b:1",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_listened_on_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound").to_string();
        for address in [&address[..], "127.0.0.1", "no-such-host.invalid:7000"] {
            let error = bind(address).expect_err("it must not work").to_string();
            assert!(error.contains(address), "{error}");
        }
    }
}
