//! Frames on their way to a socket: headers in one buffer, records where they lie in the log.

use std::io::IoSlice;
use std::ops::Range;

use super::frame;
use crate::error::EncodeError;
use crate::message::Envelope;
use crate::slices::Slice;

/// Parts that are handed to the system at once, far below what any system takes (1024).
pub(super) const MAX_PARTS: usize = 64;

/// Bytes in a row.
#[derive(Debug)]
enum Part {
    /// A range of the batch's own buffer.
    Own(Range<usize>),
    /// Records, in the memory of the log.
    Records(Slice),
}

/// Frames that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    own: Vec<u8>,
    parts: Vec<Part>,
    /// The first part that is not written whole, and how much of it is.
    at: usize,
    written: usize,
}

impl Batch {
    /// Whether everything is written.
    pub(super) fn is_done(&self) -> bool {
        self.at == self.parts.len()
    }

    /// Forgets what was written, and lets go of its memory.
    pub(super) fn clear(&mut self) {
        self.own.clear();
        self.parts.clear();
        (self.at, self.written) = (0, 0);
    }

    /// Adds a message.
    pub(super) fn push(&mut self, envelope: &Envelope) -> Result<(), EncodeError> {
        let start = self.own.len();
        frame::encode_message(&envelope.message, envelope.records.len(), &mut self.own)?;
        self.push_own(start);
        self.parts.extend(envelope.records.parts().iter().cloned().map(Part::Records));
        Ok(())
    }

    /// Adds a ping.
    pub(super) fn push_ping(&mut self, number: u64) {
        let start = self.own.len();
        frame::encode_ping(number, &mut self.own);
        self.push_own(start);
    }

    fn push_own(&mut self, start: usize) {
        let end = self.own.len();
        match self.parts.last_mut() {
            // Small messages in a row become one part.
            Some(Part::Own(range)) if range.end == start => range.end = end,
            _ => self.parts.push(Part::Own(start..end)),
        }
    }

    fn bytes<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match part {
            Part::Own(range) => &self.own[range.clone()],
            Part::Records(slice) => slice.as_bytes(),
        }
    }

    /// The next bytes to write, in as many of `slices` as are returned.
    pub(super) fn next<'a, 's>(
        &'a self,
        slices: &'s mut [IoSlice<'a>; MAX_PARTS],
    ) -> &'s [IoSlice<'a>] {
        let parts = &self.parts[self.at..];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            let skip = if count == 0 { self.written } else { 0 };
            *slice = IoSlice::new(&self.bytes(part)[skip..]);
            count += 1;
        }
        &slices[..count]
    }

    /// Notes that `bytes` more are written.
    pub(super) fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let left = self.bytes(&self.parts[self.at]).len() - self.written;
            if bytes < left {
                self.written += bytes;
                return;
            }
            bytes -= left;
            self.at += 1;
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Append, Message};
    use crate::slices::Slices;
    use crate::types::{NodeId, Sender};

    fn envelope(parts: &[&[u8]]) -> Envelope {
        let mut records = Slices::new();
        for part in parts {
            records.push(Slices::from(part.to_vec()).parts()[0].clone());
        }
        let message = Message::Append(Append::default());
        Envelope { from: Sender::default(), to: NodeId(2), message, records }
    }

    /// Writes everything in steps of at most `step` bytes.
    fn written(batch: &mut Batch, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !batch.is_done() {
            let mut slices = [IoSlice::new(&[]); MAX_PARTS];
            let bytes: Vec<u8> =
                batch.next(&mut slices).iter().flat_map(|slice| slice.iter().copied()).collect();
            let count = step.min(bytes.len());
            out.extend_from_slice(&bytes[..count]);
            batch.advance(count);
        }
        out
    }

    #[test]
    fn whatever_the_system_takes_at_once_the_bytes_are_the_same() {
        let mut batch = Batch::default();
        let fill = |batch: &mut Batch| {
            batch.push(&envelope(&[])).expect("small");
            batch.push(&envelope(&[b"first", b"second"])).expect("small");
            batch.push_ping(7);
            let many: Vec<&[u8]> = (0..3 * MAX_PARTS).map(|_| &b"part"[..]).collect();
            batch.push(&envelope(&many)).expect("small");
        };
        fill(&mut batch);
        let whole = written(&mut batch, usize::MAX);
        for step in [1, 2, 7, 100] {
            batch.clear();
            fill(&mut batch);
            assert_eq!(written(&mut batch, step), whole, "in steps of {step}");
        }
    }

    #[test]
    fn small_messages_in_a_row_are_one_part() {
        let mut batch = Batch::default();
        for _ in 0..10 {
            batch.push(&envelope(&[])).expect("small");
        }
        batch.push_ping(1);
        assert_eq!(batch.parts.len(), 1);
    }
}
