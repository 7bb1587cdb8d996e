//! A segment alone: what is below the published offset may be read by whoever knows that offset, and by
//! nothing else.

use std::sync::Arc;

use super::format::{MARK_BYTES, Mark, SEGMENT_HEADER_BYTES};
use super::segment::Segment;
use crate::schedules::{Scenario, explore, scenarios};
use crate::slices::SharedBytes;
use crate::sync::thread;
use crate::types::EntryId;

pub(crate) const ALL: &[Scenario] =
    scenarios![bytes_below_the_published_offset_are_there, marks_are_completed_beside_readers];

const RECORD: [u8; 16] = [7; 16];

fn bytes_below_the_published_offset_are_there() -> u64 {
    explore(3, || {
        let (mut writer, _write_back) = Segment::anonymous(1, 1 << 16).expect("memory").split();
        let reading: Vec<_> = (0..2)
            .map(|_| {
                let segment = Arc::clone(writer.segment());
                thread::spawn(move || {
                    let published = segment.published();
                    let bytes =
                        segment.bytes(SEGMENT_HEADER_BYTES, published - SEGMENT_HEADER_BYTES);
                    assert!(bytes.chunks(RECORD.len()).all(|record| record == RECORD));
                })
            })
            .collect();
        for _ in 0..2 {
            writer.put(&RECORD);
            writer.publish();
        }
        for reading in reading {
            reading.join().expect("no panic");
        }
    })
}

fn marks_are_completed_beside_readers() -> u64 {
    explore(2, || {
        let (mut writer, mut write_back) = Segment::anonymous(1, 1 << 16).expect("memory").split();
        let flushing = {
            let at = writer.position();
            thread::spawn(move || {
                let to = write_back.segment().published();
                write_back.complete_marks(SEGMENT_HEADER_BYTES, to, at);
                write_back.bytes(SEGMENT_HEADER_BYTES, to).len()
            })
        };
        let reading = {
            let segment = Arc::clone(writer.segment());
            thread::spawn(move || {
                let at = SEGMENT_HEADER_BYTES;
                if segment.published() > at {
                    // What readers look at: the batch that a mark begins, and its records.
                    assert_eq!(segment.mark_prev(at), EntryId::ZERO);
                    assert_eq!(segment.bytes(at + MARK_BYTES, RECORD.len()), RECORD);
                }
            })
        };
        let batch_bytes = (MARK_BYTES + RECORD.len()) as u32;
        let mark = Mark { batch_bytes, ..Mark::default() };
        writer.put(&mark.encode_open());
        writer.put(&RECORD);
        writer.publish();
        flushing.join().expect("no panic");
        reading.join().expect("no panic");
    })
}
