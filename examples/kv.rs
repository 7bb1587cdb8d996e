//! A replicated key-value server that Redis clients talk to: three of these make a cluster.
//!
//! ```text
//! M=1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103
//! cargo run --release --example kv -- --id 1 --members $M --redis 127.0.0.1:6401 --data data/1 &
//! cargo run --release --example kv -- --id 2 --members $M --redis 127.0.0.1:6402 --data data/2 &
//! cargo run --release --example kv -- --id 3 --members $M --redis 127.0.0.1:6403 --data data/3 &
//! redis-cli -p 6402 set greeting hello
//! redis-cli -p 6403 get greeting
//! ```
//!
//! Any node takes any command. A write is acknowledged once a majority has it on disk; a read sees every
//! write that was acknowledged before it. While there is no leader commands wait, and then say which of two
//! things is true: `-CLUSTERDOWN`, nothing was done, or `-TIMEOUT unknown outcome`, it may still happen.
//!
//! What clients may ask is bounded: a key has at most 64 KiB, a write 1 MiB, a pattern of `KEYS` 1 KiB, a
//! reply 4 MiB. Replies that a client does not fetch wait for it up to 32 MiB; those of all clients, and the
//! requests that are not whole, take 256 MiB altogether beyond 256 KiB and 48 KiB for each. A `KEYS` that
//! would keep the state for long is refused. Each limit is told in an error. Where all places for clients
//! are taken, one that comes pushes out the one that has been idle longest.
//!
//! A node that stops by itself, since its disk failed or a write could not be applied, ends the program with
//! exit code 1 and a line that says why.
//!
//! This file is all that embedding a node takes. `store` is what is replicated, `pipeline` proposes and
//! reads; the rest is Redis's protocol, and clients that are not to be trusted.

#[path = "kv/about.rs"]
mod about;
#[path = "kv/budget.rs"]
mod budget;
#[path = "kv/client.rs"]
mod client;
#[path = "kv/commands.rs"]
mod commands;
#[path = "kv/connection.rs"]
mod connection;
#[path = "kv/glob.rs"]
mod glob;
#[path = "kv/options.rs"]
mod options;
#[path = "kv/pipeline.rs"]
mod pipeline;
#[path = "kv/places.rs"]
mod places;
#[path = "kv/replies.rs"]
mod replies;
#[path = "kv/resp.rs"]
mod resp;
#[path = "kv/server.rs"]
mod server;
#[path = "kv/store.rs"]
mod store;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use connection::{Shared, Times};
#[cfg(feature = "tls")]
use oarlock::transport::tcp::Tls;
use oarlock::{Config, Node, NodeBuilder};
use options::{Options, TlsFiles, USAGE};
use store::{MAX_WRITE_BYTES, Store};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    if std::env::args().skip(1).any(|arg| arg == "--help" || arg == "-h") {
        return if writeln!(io::stdout(), "{USAGE}").is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => return fail(2, &format!("{error}\n\n{USAGE}")),
    };
    match serve(options) {
        Ok(stopped) => fail(1, &stopped),
        Err(error) => fail(1, &error.to_string()),
    }
}

/// The end of a program that was to run for ever. Nobody may be there to read why.
fn fail(code: u8, why: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "kv: {why}");
    ExitCode::from(code)
}

/// Serves clients until the node stops; says why it did.
fn serve(options: Options) -> Result<String, Box<dyn Error>> {
    let max_clients = server::clients_with_files(options.max_clients)?;
    let listener = server::listen(&options.redis)
        .map_err(|error| format!("clients cannot connect to {}: {error}", options.redis))?;
    let id = options.id;
    let node = start(options)?;

    let address = listener.local_addr()?;
    let _ = writeln!(io::stdout(), "node {id}: clients at {address}");
    let shared = Arc::new(Shared::new(max_clients, Times::default()));
    let cause = server::serve(listener, &node, &shared)?;
    Ok(format!("node {id} stopped: {cause}"))
}

fn start(options: Options) -> Result<Node<Store>, Box<dyn Error>> {
    let builder = Node::builder(options.id, Store::default())
        .cluster_name("kv")
        .members(options.members)
        .config(Config { max_entry_bytes: MAX_WRITE_BYTES, ..Config::default() });
    let builder = match options.data {
        Some(directory) => builder.data_dir(directory),
        None => builder.in_memory(),
    };
    let builder = match options.tls {
        Some(files) => listen_tls(builder, options.listen, &files)?,
        None => builder.listen(options.listen),
    };
    Ok(builder.start()?)
}

#[cfg(feature = "tls")]
fn listen_tls(
    builder: NodeBuilder<Store>,
    address: String,
    files: &TlsFiles,
) -> Result<NodeBuilder<Store>, Box<dyn Error>> {
    let TlsFiles { certificate, key, authority } = files;
    Ok(builder.listen_tls(address, Tls::from_pem_files(certificate, key, authority)?))
}

#[cfg(not(feature = "tls"))]
fn listen_tls(
    _: NodeBuilder<Store>,
    _: String,
    _: &TlsFiles,
) -> Result<NodeBuilder<Store>, Box<dyn Error>> {
    Err("this program was built without TLS: add --features tls".into())
}
