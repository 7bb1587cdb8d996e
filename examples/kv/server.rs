//! Takes clients in, as many as it may, each on a thread of its own.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use oarlock::Node;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::connection::{Connection, Shared};
use crate::store::Store;

/// What a connection's thread may use of the stack; most of it is never touched.
const STACK_BYTES: usize = 512 << 10;
/// How long to wait when no connection can be taken: mostly there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

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

/// Serves clients for ever.
pub(crate) fn serve(listener: &TcpListener, node: &Node<Store>, max_clients: usize) -> ! {
    // Each client holds one more.
    let clients = Arc::new(());
    let shared = Arc::new(Shared::default());
    loop {
        match listener.accept() {
            Ok((stream, _)) if Arc::strong_count(&clients) > max_clients => {
                shared.rejected.fetch_add(1, Ordering::Relaxed);
                refuse(stream);
            }
            Ok((stream, from)) => {
                let (node, client) = (node.clone(), Arc::clone(&clients));
                let shared = Arc::clone(&shared);
                let thread = thread::Builder::new().name("client".into()).stack_size(STACK_BYTES);
                let started = thread.spawn(move || {
                    if let Err(error) = Connection::new(stream, node, shared).serve() {
                        log::debug!("client={from} lost error={error}");
                    }
                    drop(client);
                });
                if let Err(error) = started {
                    log::warn!("client={from} has no thread error={error}");
                    thread::sleep(PAUSE);
                }
            }
            Err(error) => {
                log::warn!("no client can be taken error={error}");
                thread::sleep(PAUSE);
            }
        }
    }
}

/// One too many. Nothing was written to this socket, so there is room for the word, and no waiting.
fn refuse(mut stream: TcpStream) {
    use std::io::Write;
    let _ = stream.write(b"-ERR max number of clients reached\r\n");
}
