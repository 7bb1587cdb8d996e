//! Takes clients in, each on a thread of its own, until the node stops.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use oarlock::{Node, StopCause};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::connection::{Connection, Shared};
use crate::store::Store;

/// What a connection's thread may use of the stack; most of it is never touched.
const STACK_BYTES: usize = 512 << 10;
/// How long to wait when no connection can be taken: mostly there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients that may wait to be taken in.
const BACKLOG: i32 = 1024;

/// Files that the node may need for its log and its connections. A node that cannot make a file stops, so
/// clients must never take these.
const RESERVED_FILES: usize = 64;

/// How many of so many clients there are files for; as many as may be, if they are allowed.
///
/// # Errors
/// There are not even enough for the node.
pub(crate) fn clients_with_files(max_clients: usize) -> Result<usize, String> {
    let wanted = max_clients.saturating_add(RESERVED_FILES) as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(wanted).min(wanted) as usize;
    match files.checked_sub(RESERVED_FILES) {
        None | Some(0) => Err(format!("{files} open files are allowed, which are too few")),
        Some(clients) => {
            if clients < max_clients {
                log::warn!("clients={clients} at most, since open files={files} are allowed");
            }
            Ok(clients)
        }
    }
}

/// A listener at the first of the addresses that can be had.
///
/// # Errors
/// None can.
pub(crate) fn listen(address: &str) -> io::Result<TcpListener> {
    let mut error = io::Error::other("no such address");
    for address in address.to_socket_addrs()? {
        match listen_at(address) {
            Ok(listener) => return Ok(listener),
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a server that was here before do not keep its successor away.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves clients until the node stops, and returns why it did. Then those who wait have been told.
///
/// # Errors
/// There is no thread to take clients in.
pub(crate) fn serve(
    listener: TcpListener,
    node: &Node<Store>,
    shared: &Arc<Shared>,
) -> io::Result<StopCause> {
    let (taker, shares) = (node.clone(), Arc::clone(shared));
    thread::Builder::new()
        .name("accept".into())
        .spawn(move || take_clients_in(&listener, &taker, &shares))?;
    let mut leadership = node.leadership();
    while leadership.wait_for(Duration::MAX, |latest| latest.stopped).is_none() {}
    shared.places.wait_quiet(shared.times.replies);
    Ok(node.status().stopped.unwrap_or(StopCause::Shutdown))
}

fn take_clients_in(listener: &TcpListener, node: &Node<Store>, shared: &Arc<Shared>) -> ! {
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                let stream = Arc::new(stream);
                match shared.places.take(Arc::clone(&stream), from) {
                    Some(place) => {
                        let connection = Connection::new(place, node.clone(), Arc::clone(shared));
                        serve_client(connection, stream, from);
                    }
                    None => refuse(&stream),
                }
            }
            Err(error) => {
                log::warn!("no client can be taken error={error}");
                thread::sleep(PAUSE);
            }
        }
    }
}

fn serve_client(connection: Connection, stream: Arc<TcpStream>, from: SocketAddr) {
    let thread = thread::Builder::new().name("client".into()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || {
        if let Err(error) = connection.serve(stream) {
            log::debug!("client={from} lost error={error}");
        }
    });
    if let Err(error) = started {
        log::warn!("client={from} has no thread error={error}");
        thread::sleep(PAUSE);
    }
}

/// One too many. Nothing was written to this socket, so there is room for the word, and no waiting.
fn refuse(mut stream: &TcpStream) {
    let _ = stream.write(b"-ERR max number of clients reached\r\n");
}
