//! Bytes from a connection, cut into frames where they were read to: records are not copied here.
//!
//! The memory that was read into becomes the memory of the records' slices. It is used again when the node
//! has let go of them, which is soon: it copies them into its log. Fresh memory costs a page fault for each
//! page, so there are a few chunks, used in turn. If all are taken, because the node is behind, records are
//! copied out, and the bound of the node's own lane says how much may wait.

use std::sync::Arc;

use super::frame::{Decoded, Frame, FrameError};
use crate::slices::{Slice, Slices};

/// Chunks that are kept besides the one that is read into.
const KEPT_CHUNKS: usize = 4;
/// The least that is read at once, if there is so much.
const MIN_CHUNK_BYTES: usize = 256 << 10;

/// What is read from one node.
#[derive(Debug)]
pub(super) struct Intake {
    chunk: Arc<Vec<u8>>,
    /// The part of it that was read and not yet taken.
    start: usize,
    end: usize,
    kept: Vec<Arc<Vec<u8>>>,
    chunk_bytes: usize,
    max_records: usize,
}

impl Intake {
    /// For frames whose records usually have up to `usual` bytes, and never more than `max_records`.
    pub(super) fn new(usual: usize, max_records: usize) -> Self {
        let chunk_bytes = MIN_CHUNK_BYTES.max(usual + (4 << 10));
        let chunk = Arc::new(vec![0; chunk_bytes]);
        Self { chunk, start: 0, end: 0, kept: Vec::new(), chunk_bytes, max_records }
    }

    /// Forgets what was read: another connection begins.
    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
        self.make_room(0);
    }

    /// Where to read to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let end = self.end;
        let chunk = Arc::get_mut(&mut self.chunk)
            .expect("whatever was cut from it has gone to `kept` with it");
        &mut chunk[end..]
    }

    /// Notes that `bytes` were read there, and hands over the frames that are whole.
    ///
    /// # Errors
    /// The first bytes that are no frame.
    pub(super) fn frames(
        &mut self,
        bytes: usize,
        mut each: impl FnMut(Incoming) -> Result<(), FrameError>,
    ) -> Result<(), FrameError> {
        self.end += bytes;
        let share = self.kept.len() < KEPT_CHUNKS || self.kept.iter_mut().any(is_free);
        let needs = loop {
            let rest = &self.chunk[self.start..self.end];
            match Frame::decode(rest, self.max_records)? {
                Decoded::Needs(needs) => break needs,
                Decoded::Frame(frame, len) => {
                    let incoming = match frame {
                        Frame::Ping(number) => Incoming::Ping(number),
                        Frame::Pong(number) => Incoming::Pong(number),
                        Frame::Message(message, range) => {
                            let records = if range.is_empty() {
                                Slices::new()
                            } else if share {
                                let mut records = Slices::new();
                                let (start, len) = (self.start + range.start, range.len());
                                records.push(Slice::new(Arc::clone(&self.chunk) as _, start, len));
                                records
                            } else {
                                Slices::from(rest[range].to_vec())
                            };
                            Incoming::Message(message, records)
                        }
                    };
                    self.start += len;
                    each(incoming)?;
                }
            }
        };
        self.make_room(needs);
        Ok(())
    }

    /// Makes the chunk one that nobody else looks at, with room for a frame of `needs` bytes, of which the
    /// beginning has been read.
    fn make_room(&mut self, needs: usize) {
        let rest = self.start..self.end;
        if let Some(chunk) = Arc::get_mut(&mut self.chunk) {
            let fits = self.start + needs <= chunk.len();
            if rest.is_empty() {
                (self.start, self.end) = (0, 0);
                // One that was made for a single large frame has served.
                if chunk.len() > self.chunk_bytes {
                    self.chunk = self.free_chunk();
                }
                return;
            }
            if fits {
                return;
            }
            if needs <= chunk.len() {
                chunk.copy_within(rest.clone(), 0);
                (self.start, self.end) = (0, rest.len());
                return;
            }
        }
        let mut next =
            if needs <= self.chunk_bytes { self.free_chunk() } else { Arc::new(vec![0; needs]) };
        let bytes = Arc::get_mut(&mut next).expect("free");
        bytes[..rest.len()].copy_from_slice(&self.chunk[rest.clone()]);
        (self.start, self.end) = (0, rest.len());
        let last = std::mem::replace(&mut self.chunk, next);
        if last.len() == self.chunk_bytes && self.kept.len() < KEPT_CHUNKS {
            self.kept.push(last);
        }
    }

    fn free_chunk(&mut self) -> Arc<Vec<u8>> {
        match self.kept.iter_mut().position(is_free) {
            Some(free) => self.kept.swap_remove(free),
            None => Arc::new(vec![0; self.chunk_bytes]),
        }
    }
}

fn is_free(chunk: &mut Arc<Vec<u8>>) -> bool {
    Arc::get_mut(chunk).is_some()
}

/// A frame, with the records as the node wants them.
#[derive(Debug)]
pub(super) enum Incoming {
    Message(crate::message::Message, Slices),
    Ping(u64),
    Pong(u64),
}
