//! Where in the log an index stands: the segments there are, and a sparse index of places in them.
//!
//! Shared by the core thread (which adds to it and takes away), readers, the flusher and the preparer,
//! under one short lock: no I/O, no loop over records and no allocation of more than a few entries
//! happens under it. The core takes it once for every [`WAYPOINT_BYTES`] appended, and at rolls,
//! truncations and releases; readers take it once for each stretch they read.
//!
//! *Superseded records.* A truncation leaves records in place that count for nothing. Every truncation
//! point has a waypoint of its own, noted as a *jump*: whoever walks the records after a waypoint stops
//! before the next jump and looks up again, and so never meets what was superseded.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::Position;
use super::format::Salt;
use super::segment::{Segment, WriteBack};
use crate::storage::Storage;
use crate::sync::Mutex;
use crate::types::LogIndex;

/// A waypoint at least every so many bytes of a segment: what a search may have to walk over. At 16 bytes
/// each, a gibibyte of log costs a mebibyte.
pub(super) const WAYPOINT_BYTES: usize = 16 << 10;

/// A segment that is not mapped: it is read from its file, and nobody writes to it.
#[derive(Debug)]
pub(super) struct ColdSegment {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) sequence: u32,
    pub(super) path: PathBuf,
    pub(super) salt: Salt,
    /// Where its last batch ends.
    pub(super) end: usize,
    /// The file's length.
    pub(super) file_bytes: usize,
}

/// Where a segment's bytes are. Whoever holds one keeps the segment from being deleted or reused.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Mapped(Arc<Segment>),
    Cold(Arc<ColdSegment>),
}

impl Place {
    pub(super) fn sequence(&self) -> u32 {
        match self {
            Self::Mapped(segment) => segment.sequence(),
            Self::Cold(segment) => segment.sequence,
        }
    }

    /// Bytes of the file, or of the memory.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::Mapped(segment) => segment.capacity(),
            Self::Cold(segment) => segment.file_bytes,
        };
        bytes as u64
    }
}

/// Where to begin to look for an index.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    /// A mark or a record stands here, and the first record at or after it is `index`.
    pub(super) offset: usize,
    pub(super) index: LogIndex,
    /// The last index to which the records follow each other from here; then look up again.
    pub(super) limit: LogIndex,
    /// How many truncations there had been when this was looked up.
    pub(super) truncations: u64,
}

#[derive(Debug, Default)]
pub(super) struct Catalog(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    segments: VecDeque<Entry>,
    /// Ascending in index and in position.
    waypoints: VecDeque<Waypoint>,
    /// The waypoints before which lies something superseded, by index, ascending.
    jumps: VecDeque<LogIndex>,
    truncations: u64,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    /// Until the flusher takes it.
    write_back: Option<WriteBack>,
}

#[derive(Clone, Copy, Debug)]
struct Waypoint {
    index: LogIndex,
    position: Position,
}

impl Catalog {
    /// Adds a segment at the end.
    pub(super) fn push(&self, place: Place, write_back: Option<WriteBack>) {
        let mut inner = self.0.lock();
        if let Some(last) = inner.segments.back() {
            let (last, new) = (last.place.sequence(), place.sequence());
            assert!(last < new, "segment {new} after segment {last}");
        }
        inner.segments.push_back(Entry { place, write_back });
    }

    /// Notes that the first record at or after `position` is `index`.
    pub(super) fn add_waypoint(&self, index: LogIndex, position: Position) {
        self.0.lock().add_waypoint(index, position);
    }

    /// Forgets where `from` and its successors stood; they will stand after `position`.
    pub(super) fn truncate(&self, from: LogIndex, position: Position) {
        let mut inner = self.0.lock();
        while inner.waypoints.back().is_some_and(|waypoint| waypoint.index >= from) {
            inner.waypoints.pop_back();
        }
        while inner.jumps.back().is_some_and(|&jump| jump >= from) {
            inner.jumps.pop_back();
        }
        inner.add_waypoint(from, position);
        inner.jumps.push_back(from);
        inner.truncations += 1;
    }

    /// Takes out all segments below `oldest`, in order.
    pub(super) fn release(&self, oldest: u32) -> Vec<Place> {
        let mut inner = self.0.lock();
        let gone = inner.segments.partition_point(|entry| entry.place.sequence() < oldest);
        let released = inner.segments.drain(..gone).map(|entry| entry.place).collect();
        let start = Position::new(oldest, 0);
        while inner.waypoints.front().is_some_and(|waypoint| waypoint.position < start) {
            inner.waypoints.pop_front();
        }
        if let Some(first) = inner.waypoints.front().map(|waypoint| waypoint.index) {
            while inner.jumps.front().is_some_and(|&jump| jump < first) {
                inner.jumps.pop_front();
            }
        }
        released
    }

    /// Where to look for `index`; `None` if it has been released.
    pub(super) fn find(&self, index: LogIndex) -> Option<Found> {
        let inner = self.0.lock();
        let after = inner.waypoints.partition_point(|waypoint| waypoint.index <= index);
        let waypoint = *inner.waypoints.get(after.checked_sub(1)?)?;
        let jump = inner.jumps.partition_point(|&jump| jump <= index);
        let limit = inner.jumps.get(jump).map_or(LogIndex(u64::MAX), |jump| jump.prev());
        let sequence = waypoint.position.sequence();
        let entry = inner.segments.binary_search_by_key(&sequence, |entry| entry.place.sequence());
        let place = inner.segments[entry.expect("a waypoint's segment is there")].place.clone();
        let offset = waypoint.position.offset();
        let truncations = inner.truncations;
        Some(Found { place, offset, index: waypoint.index, limit, truncations })
    }

    /// The flusher's part of the first segment after `sequence`.
    ///
    /// # Panics
    /// If there is none, or it has been taken.
    pub(super) fn take_write_back(&self, sequence: u32) -> WriteBack {
        let mut inner = self.0.lock();
        let next = inner.segments.partition_point(|entry| entry.place.sequence() <= sequence);
        let entry = inner.segments.get_mut(next).expect("a flush target lies in a segment");
        entry.write_back.take().expect("one flusher")
    }

    /// From here on the segment is read from its file. Returns whether it was still there: nothing happens
    /// if it was released meanwhile.
    pub(super) fn cool(&self, cold: ColdSegment) -> bool {
        let mut inner = self.0.lock();
        let found =
            inner.segments.binary_search_by_key(&cold.sequence, |entry| entry.place.sequence());
        if let Ok(at) = found {
            inner.segments[at].place = Place::Cold(Arc::new(cold));
        }
        found.is_ok()
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.0.lock().segments.iter().map(|entry| entry.place.bytes()).sum()
    }

    /// How many segments have to go, oldest first, until the rest has at most `max_bytes`.
    pub(super) fn beyond(&self, max_bytes: u64) -> usize {
        let inner = self.0.lock();
        let mut room = max_bytes;
        let fits = inner.segments.iter().rev().take_while(|entry| {
            let left = room.checked_sub(entry.place.bytes());
            room = left.unwrap_or(0);
            left.is_some()
        });
        inner.segments.len() - fits.count()
    }

    /// All segments, in order.
    pub(super) fn places(&self) -> Vec<Place> {
        self.0.lock().segments.iter().map(|entry| entry.place.clone()).collect()
    }
}

impl Inner {
    fn add_waypoint(&mut self, index: LogIndex, position: Position) {
        // Of two with the same index the later one stays: the earlier may lie in a segment that goes.
        if self.waypoints.back().is_some_and(|last| last.index == index) {
            self.waypoints.pop_back();
        }
        if let Some(last) = self.waypoints.back() {
            assert!(
                last.index < index && last.position < position,
                "waypoint {index} at {position} after {} at {}",
                last.index,
                last.position
            );
        }
        self.waypoints.push_back(Waypoint { index, position });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let catalog = Catalog::default();
        for sequence in [1, 2, 5] {
            let path = PathBuf::new();
            let storage = Arc::new(super::super::Disk);
            let (salt, end, file_bytes) = (Salt::default(), 1 << 16, 1 << 16);
            let cold = ColdSegment { storage, sequence, path, salt, end, file_bytes };
            catalog.push(Place::Cold(Arc::new(cold)), None);
        }
        catalog
    }

    fn found(catalog: &Catalog, index: u64) -> Option<(u32, usize, u64, u64)> {
        catalog
            .find(LogIndex(index))
            .map(|found| (found.place.sequence(), found.offset, found.index.0, found.limit.0))
    }

    #[test]
    fn a_search_begins_at_the_waypoint_before_and_ends_before_the_next_truncation_point() {
        let catalog = catalog();
        catalog.add_waypoint(LogIndex(1), Position::new(1, 64));
        catalog.add_waypoint(LogIndex(5), Position::new(1, 1000));
        catalog.add_waypoint(LogIndex(9), Position::new(2, 64));
        assert_eq!(found(&catalog, 4), Some((1, 64, 1, u64::MAX)));
        assert_eq!(found(&catalog, 20), Some((2, 64, 9, u64::MAX)));

        catalog.truncate(LogIndex(7), Position::new(2, 2000));
        assert_eq!(found(&catalog, 6), Some((1, 1000, 5, 6)));
        assert_eq!(found(&catalog, 7), Some((2, 2000, 7, u64::MAX)));
        catalog.truncate(LogIndex(3), Position::new(5, 64));
        assert_eq!(found(&catalog, 2), Some((1, 64, 1, 2)));
        assert_eq!(found(&catalog, 8), Some((5, 64, 3, u64::MAX)));
    }

    #[test]
    fn what_was_released_is_not_found_and_the_rest_is() {
        let catalog = catalog();
        catalog.add_waypoint(LogIndex(1), Position::new(1, 64));
        catalog.add_waypoint(LogIndex(9), Position::new(2, 64));
        let released = catalog.release(2);
        assert_eq!(released.iter().map(Place::sequence).collect::<Vec<_>>(), [1]);
        assert_eq!(found(&catalog, 8), None);
        assert_eq!(found(&catalog, 9), Some((2, 64, 9, u64::MAX)));
    }

    #[test]
    fn an_index_with_two_waypoints_is_found_at_the_later_one_so_that_the_earlier_segment_can_go() {
        let catalog = catalog();
        catalog.add_waypoint(LogIndex(1), Position::new(1, 64));
        catalog.add_waypoint(LogIndex(1), Position::new(2, 64));
        catalog.release(2);
        assert_eq!(found(&catalog, 1), Some((2, 64, 1, u64::MAX)));
    }
}
