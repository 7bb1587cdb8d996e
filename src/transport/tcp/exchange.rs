//! The exchange of greetings on one connection, driven by whoever waits for its socket.

use std::io::IoSlice;

use rustix::event::PollFd;

use super::greeting::{Greeting, GreetingError};
use super::wire::{Wire, link_error, would_block};
use crate::transport::LinkError;

/// A connection on which greetings are not through.
#[derive(Debug)]
pub(super) struct Exchange {
    wire: Wire,
    sending: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl Exchange {
    /// On a new connection.
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire, sending: Vec::new(), sent: 0, received: Vec::new() }
    }

    /// The connection.
    pub(super) fn wire(&self) -> &Wire {
        &self.wire
    }

    /// The connection, for what comes after the greetings.
    pub(super) fn into_wire(self) -> Wire {
        self.wire
    }

    /// What to wait for before the next step.
    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        let interest = self.wire.interest(self.sent < self.sending.len());
        PollFd::new(self.wire.stream(), interest)
    }

    /// Says this greeting next.
    pub(super) fn say(&mut self, greeting: &Greeting) {
        self.sending = greeting.encode();
        self.sent = 0;
    }

    /// Writes what is to be said, as far as the socket takes it; true if it took it all.
    pub(super) fn write(&mut self) -> Result<bool, LinkError> {
        let done = |result| match result {
            Ok(()) => Ok(true),
            Err(error) if would_block(&error) => Ok(false),
            Err(error) => Err(link_error(&error)),
        };
        while self.sent < self.sending.len() {
            match self.wire.write(&[IoSlice::new(&self.sending[self.sent..])]) {
                Ok(written) => self.sent += written,
                Err(error) => return done(Err(error)),
            }
        }
        done(self.wire.flush())
    }

    /// Reads the other side's greeting, and nothing after it; `None` until it is there.
    pub(super) fn read(&mut self) -> Result<Option<Greeting>, LinkError> {
        loop {
            let have = self.received.len();
            let needs = Greeting::needs(&self.received).map_err(LinkError::Greeting)?;
            if have == needs {
                return Greeting::decode(&self.received).map(Some).map_err(LinkError::Greeting);
            }
            self.received.resize(needs, 0);
            let read = self.wire.read(&mut self.received[have..]);
            self.received.truncate(have + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(LinkError::Closed),
                Ok(_) => {}
                Err(error) if would_block(&error) => return Ok(None),
                Err(error) => return Err(link_error(&error)),
            }
        }
    }

    /// Why nothing came of it in time.
    pub(super) fn late() -> LinkError {
        LinkError::Greeting(GreetingError::Late)
    }
}
