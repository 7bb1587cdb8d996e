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
        Self::with_chunks(MIN_CHUNK_BYTES.max(usual + (4 << 10)), max_records)
    }

    fn with_chunks(chunk_bytes: usize, max_records: usize) -> Self {
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
            if rest.is_empty() {
                (self.start, self.end) = (0, 0);
                // One that was made for a single large frame has served.
                if chunk.len() > self.chunk_bytes {
                    self.chunk = self.free_chunk();
                }
                return;
            }
            // Near the end there would be room for a short read only.
            if self.start + needs <= chunk.len() && self.start <= chunk.len() / 2 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Append, Message};
    use crate::transport::tcp::frame::{encode_message, encode_ping};
    use proptest::prelude::*;

    const CHUNK: usize = 300;

    /// A ping, or an append with records of these bytes.
    fn frame(number: u64, records: usize, out: &mut Vec<u8>) -> Vec<u8> {
        if records == 0 {
            encode_ping(number, out);
            return Vec::new();
        }
        let bytes: Vec<u8> = (0..records).map(|at| (at as u64 * 31 + number) as u8).collect();
        encode_message(&Message::Append(Append::default()), records, out).expect("small");
        out.extend_from_slice(&bytes);
        bytes
    }

    fn bytes(records: &Slices) -> Vec<u8> {
        records.parts().iter().flat_map(|part| part.as_bytes().to_vec()).collect()
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_they_arrive_and_whoever_holds_them(
            frames in prop::collection::vec((0_usize..900, any::<bool>()), 1..40),
            reads in prop::collection::vec(1_usize..700, 1..40),
        ) {
            let mut stream = Vec::new();
            let expected: Vec<Vec<u8>> = frames
                .iter()
                .enumerate()
                .map(|(number, (records, _))| frame(number as u64, *records, &mut stream))
                .collect();
            let mut intake = Intake::with_chunks(CHUNK, 1000);
            let mut held: Vec<(usize, Slices)> = Vec::new();
            let (mut at, mut seen) = (0, 0);
            let mut reads = reads.iter().cycle();
            while at < stream.len() {
                let space = intake.space();
                let read = (*reads.next().expect("endless")).min(space.len()).min(stream.len() - at);
                prop_assert!(read > 0, "no space");
                space[..read].copy_from_slice(&stream[at..at + read]);
                at += read;
                let taken = intake.frames(read, |incoming| {
                    match incoming {
                        Incoming::Ping(number) => assert_eq!(number, seen as u64),
                        Incoming::Message(_, records) => {
                            assert_eq!(bytes(&records), expected[seen]);
                            if frames[seen].1 {
                                held.push((seen, records));
                            }
                        }
                        Incoming::Pong(_) => panic!("none was sent"),
                    }
                    seen += 1;
                    Ok(())
                });
                prop_assert_eq!(taken, Ok(()));
                prop_assert!(intake.kept.len() <= KEPT_CHUNKS);
                // Some are let go of early, and all of those that are held stay as they are.
                if held.len() > 7 {
                    held.drain(..3);
                }
            }
            prop_assert_eq!(seen, frames.len());
            for (which, records) in &held {
                prop_assert_eq!(&bytes(records), &expected[*which]);
            }
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(
            stream in prop::collection::vec(any::<u8>(), 0..600),
            valid in 0_usize..200,
            damage in any::<(usize, u8)>(),
        ) {
            let mut good = Vec::new();
            frame(1, valid, &mut good);
            let at = damage.0 % good.len();
            good[at] ^= damage.1;
            good.extend_from_slice(&stream);
            let mut intake = Intake::with_chunks(CHUNK, 1000);
            let mut rest = &good[..];
            while !rest.is_empty() {
                let space = intake.space();
                let read = rest.len().min(space.len()).min(100);
                space[..read].copy_from_slice(&rest[..read]);
                rest = &rest[read..];
                if intake.frames(read, |_| Ok(())).is_err() {
                    intake.clear();
                    prop_assert!(intake.space().len() >= CHUNK);
                    break;
                }
            }
        }
    }

    #[test]
    fn another_connection_begins_anew_even_if_records_of_the_last_are_held() {
        let mut intake = Intake::with_chunks(CHUNK, 1000);
        let mut stream = Vec::new();
        frame(1, 50, &mut stream);
        stream.extend_from_slice(&[0xFF; 40]);
        intake.space()[..stream.len()].copy_from_slice(&stream);
        let mut held = Slices::new();
        let taken = intake.frames(stream.len(), |incoming| {
            if let Incoming::Message(_, records) = incoming {
                held = records;
            }
            Ok(())
        });
        assert!(taken.is_err());
        let before = bytes(&held);
        intake.clear();
        let space = intake.space();
        space.fill(0);
        assert_eq!(space.len(), CHUNK);
        assert_eq!(bytes(&held), before);
    }

    #[test]
    fn chunks_are_used_again_once_their_records_are_let_go_of() {
        let mut intake = Intake::with_chunks(CHUNK, 1000);
        let mut stream = Vec::new();
        frame(1, 100, &mut stream);
        let mut places = std::collections::BTreeSet::new();
        let mut held = std::collections::VecDeque::new();
        for _ in 0..100 {
            intake.space()[..stream.len()].copy_from_slice(&stream);
            intake
                .frames(stream.len(), |incoming| {
                    if let Incoming::Message(_, records) = incoming {
                        places.insert(records.parts()[0].as_bytes().as_ptr() as usize);
                        held.push_back(records);
                    }
                    Ok(())
                })
                .expect("good");
            if held.len() > 2 {
                held.pop_front();
            }
        }
        assert!(places.len() <= KEPT_CHUNKS + 1, "{} chunks", places.len());
    }

    #[test]
    fn a_node_that_holds_on_to_records_holds_on_to_few_chunks() {
        let mut intake = Intake::with_chunks(CHUNK, 1000);
        let mut stream = Vec::new();
        frame(1, 100, &mut stream);
        let mut held = Vec::new();
        for round in 0..20 {
            let chunk = intake.space().as_ptr_range();
            intake.space()[..stream.len()].copy_from_slice(&stream);
            intake
                .frames(stream.len(), |incoming| {
                    if let Incoming::Message(_, records) = incoming {
                        held.push(records);
                    }
                    Ok(())
                })
                .expect("good");
            let last = held.last().expect("one each").parts()[0].as_bytes().as_ptr();
            assert_eq!(chunk.contains(&last), round < KEPT_CHUNKS, "record {round}");
        }
    }
}
