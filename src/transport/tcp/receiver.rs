//! The thread `n{id}-rx{peer}`: reads what one node sends, and hands it to this one.
//!
//! It reads from one connection at a time, the newest. It never waits for the node: what finds no room
//! there is dropped, as on a network.

use std::io::IoSlice;
use std::sync::Arc;

use super::Net;
use super::frame::{FrameError, encode_pong};
use super::intake::{Incoming, Intake};
use super::link::Link;
use super::wire::{Wire, link_error, would_block};
use crate::message::Envelope;
use crate::transport::LinkError;
use crate::types::Sender;

/// Reads until the transport stops.
pub(super) fn run(net: &Net, link: &Arc<Link>) {
    let config = &net.inbound.local().config;
    let mut intake = Intake::new(config.max_append_bytes, config.max_peer_queue_bytes);
    let mut pongs = Vec::new();
    while let Some((mut wire, from)) = link.arrivals.wait() {
        intake.clear();
        link.incoming.connected();
        let error = read(net, link, &mut wire, from, &mut intake, &mut pongs);
        let error = if net.is_stopping() {
            LinkError::Stopped
        } else if link.arrivals.has_next() {
            LinkError::Replaced
        } else {
            error
        };
        link.incoming.failed(error);
    }
}

/// Reads until the connection ends, and says why it did.
fn read(
    net: &Net,
    link: &Link,
    wire: &mut Wire,
    from: Sender,
    intake: &mut Intake,
    pongs: &mut Vec<u8>,
) -> LinkError {
    if let Err(error) = wire.set_blocking(net.timing.silence) {
        return link_error(&error);
    }
    loop {
        let bytes = match wire.read(intake.space()) {
            Ok(0) => return LinkError::Closed,
            Ok(bytes) => bytes,
            Err(error) if would_block(&error) => return LinkError::Silent(net.timing.silence),
            Err(error) => return link_error(&error),
        };
        let mut messages = 0;
        let taken = intake.frames(bytes, |incoming| match incoming {
            Incoming::Message(message, records) => {
                messages += 1;
                let envelope = Envelope { from, to: net.me(), message, records };
                // Counted there.
                let _ = net.inbound.deliver(envelope);
                Ok(())
            }
            Incoming::Ping(number) => {
                encode_pong(number, pongs);
                Ok(())
            }
            // Who reads has sent no ping.
            Incoming::Pong(_) => Err(FrameError::Kind(3)),
        });
        link.incoming.count(messages, bytes);
        if let Err(error) = taken {
            return LinkError::Frame(error);
        }
        if let Err(error) = answer(net, wire, pongs) {
            return error;
        }
    }
}

/// Sends the answers to pings.
fn answer(net: &Net, wire: &mut Wire, pongs: &mut Vec<u8>) -> Result<(), LinkError> {
    let mut sent = 0;
    while sent < pongs.len() {
        let error = match wire.write(&[IoSlice::new(&pongs[sent..])]).and_then(|written| {
            sent += written;
            wire.flush()
        }) {
            Ok(()) => continue,
            Err(error) => error,
        };
        // A node that asks and never listens for the answer.
        let is_full = would_block(&error);
        return Err(if is_full {
            LinkError::Silent(net.timing.silence)
        } else {
            link_error(&error)
        });
    }
    pongs.clear();
    Ok(())
}
