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
//! reply 4 MiB, and replies that clients do not fetch take 256 MiB altogether, beyond 256 KiB for each. A
//! `KEYS` that would keep the state for long is refused. Each limit is told in an error.
//!
//! This file is all that embedding a node takes. `store` is what is replicated, `connection` proposes and
//! reads; the rest is Redis's protocol.

#[path = "kv/about.rs"]
mod about;
#[path = "kv/commands.rs"]
mod commands;
#[path = "kv/connection.rs"]
mod connection;
#[path = "kv/glob.rs"]
mod glob;
#[path = "kv/options.rs"]
mod options;
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
use std::net::TcpListener;
use std::process::ExitCode;

#[cfg(feature = "tls")]
use oarlock::transport::tcp::Tls;
use oarlock::{Config, Node, NodeBuilder};
use options::{Options, TlsFiles, USAGE};
use store::{MAX_WRITE_BYTES, Store};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    if std::env::args().skip(1).any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("kv: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match start(options) {
        Ok((listener, node, max_clients)) => server::serve(&listener, &node, max_clients),
        Err(error) => {
            eprintln!("kv: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> Result<(TcpListener, Node<Store>, usize), Box<dyn Error>> {
    let max_clients = server::clients_with_files(options.max_clients)?;
    let listener = TcpListener::bind(&options.redis)
        .map_err(|error| format!("clients cannot connect to {}: {error}", options.redis))?;

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
    let node = builder.start()?;

    writeln!(io::stdout(), "node {}: clients at {}", options.id, listener.local_addr()?)?;
    Ok((listener, node, max_clients))
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
