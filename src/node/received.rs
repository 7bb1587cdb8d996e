//! What came with an append: nothing is believed until every record's checksum and place is checked.

use crate::codec;
use crate::membership::Membership;
use crate::message::{Append, Entries, Forward};
use crate::record::{EntryKind, Records};
use crate::slices::Slices;
use crate::types::{EntryId, Sender};

/// What a log can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Larger records cannot be stored: the nodes' limits differ.
    pub(crate) max_record_bytes: usize,
    /// So many bytes of records.
    pub(crate) bytes: usize,
    /// So many, if the last of them is a no-op: without it no new leader could commit anything.
    pub(crate) with_noop: usize,
}

/// Derives the shape of the append's entries from its records, up to the first for which there is no room:
/// a shorter append is a good append as well. Raises `time` to that of the last of them.
///
/// # Errors
/// What is wrong with the records; then none of them may be used.
pub(crate) fn check(
    mut append: Append,
    records: &Slices,
    room: &Room,
    time: &mut u64,
) -> Result<Append, String> {
    // What the message itself says of its entries is only good within the sender.
    append.entries = Entries::default();
    let mut before = append.prev;
    let mut bytes = 0;
    for record in Records::checked(records) {
        let record = record.map_err(|error| format!("the record after {before}: {error}"))?;
        let id = record.header.id;
        // An index at the end of the numbers has no successor.
        let follows = before.index.0.checked_add(1) == Some(id.index.0);
        if !follows || id.term < before.term || id.term > append.term {
            return Err(format!("record {id} after {before} in term {}", append.term));
        }
        if record.bytes.len() > room.max_record_bytes {
            let (bytes, limit) = (record.bytes.len(), room.max_record_bytes);
            return Err(format!("record {id} has {bytes} bytes, and {limit} are the limit"));
        }
        bytes += record.bytes.len();
        let is_noop = record.header.kind == EntryKind::Noop;
        if bytes > if is_noop { room.with_noop } else { room.bytes } {
            return Ok(append);
        }
        append.entries.push(EntryId::new(id.term, id.index));
        if record.header.kind == EntryKind::Membership {
            let membership: Membership = codec::decode_message(record.payload)
                .map_err(|error| format!("the membership {id} {error}"))?;
            append.entries.memberships.push((id.index, membership));
        }
        before = id;
        *time = record.header.time.max(*time);
    }
    Ok(append)
}

/// Whether a forward's records are what it says: so many commands, tagged by its sender in order, none
/// larger than `max_record_bytes`, all together no more than `max_bytes`.
///
/// # Errors
/// What is wrong with them; then none of them may be used.
pub(crate) fn check_forward(
    from: &Sender,
    forward: &Forward,
    records: &Slices,
    max_record_bytes: usize,
    max_bytes: usize,
) -> Result<(), String> {
    if records.len() > max_bytes {
        return Err(format!("{} bytes of proposals, and {max_bytes} are the limit", records.len()));
    }
    let mut count = 0;
    for record in Records::checked(records) {
        let record = record.map_err(|error| format!("the proposal after {count}: {error}"))?;
        let Some(origin) = record.header.origin.filter(|origin| origin.is_of(from)) else {
            return Err("a proposal with the tag of another node".to_owned());
        };
        let in_order = forward.sequence.checked_add(count) == Some(origin.sequence);
        if !in_order || record.header.kind != EntryKind::Command {
            return Err(format!("proposal {} as number {count} of {forward:?}", origin.sequence));
        }
        if record.bytes.len() > max_record_bytes {
            let bytes = record.bytes.len();
            return Err(format!(
                "a proposal has {bytes} bytes, and {max_record_bytes} are the limit"
            ));
        }
        count += 1;
    }
    if count != forward.count {
        return Err(format!("{count} proposals, and {} were announced", forward.count));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordHeader;
    use crate::types::{LogIndex, Term};

    fn room(max_record_bytes: usize, bytes: usize) -> Room {
        Room { max_record_bytes, bytes, with_noop: bytes }
    }

    fn append() -> Append {
        Append { term: Term(3), prev: EntryId::new(Term(1), LogIndex(4)), ..Append::default() }
    }

    fn records(ids: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(term, index) in ids {
            let id = EntryId::new(Term(term), LogIndex(index));
            let header = RecordHeader { id, time: 0, kind: EntryKind::Command, origin: None };
            header.write(b"x", &mut bytes);
        }
        bytes
    }

    #[test]
    fn the_shape_is_that_of_the_records() {
        let slices = Slices::from(records(&[(1, 5), (3, 6), (3, 7)]));
        let entries =
            check(append(), &slices, &room(64, usize::MAX), &mut 0).expect("good").entries;
        assert_eq!((entries.runs.len(), entries.last), (2, LogIndex(7)));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let slices = Slices::from(records(&[(1, 5), (3, 6), (3, 7)]));
        let fits_two = 2 * slices.len() / 3;
        assert_eq!(
            check(append(), &slices, &room(64, fits_two), &mut 0).expect("good").entries.last,
            LogIndex(6)
        );
        assert_eq!(
            check(append(), &slices, &room(64, fits_two - 1), &mut 0).expect("good").entries.last,
            LogIndex(5)
        );
        assert!(check(append(), &slices, &room(64, 0), &mut 0).expect("good").entries.is_empty());
    }

    #[test]
    fn a_no_op_enters_a_log_that_has_no_room_for_anything_else() {
        let noop = |index| {
            let id = EntryId::new(Term(3), LogIndex(index));
            RecordHeader { id, time: 0, kind: EntryKind::Noop, origin: None }
        };
        let mut bytes = Vec::new();
        noop(5).write(b"", &mut bytes);
        let with_noop = bytes.len();
        bytes.extend(records(&[(3, 6)]));
        let room = Room { max_record_bytes: 64, bytes: 0, with_noop };
        let checked = |room: &Room, bytes: &[u8]| {
            let slices = Slices::from(bytes.to_vec());
            check(append(), &slices, room, &mut 0).expect("good").entries.last
        };
        assert_eq!(checked(&room, &bytes), LogIndex(5));
        let none = Room { with_noop: with_noop - 1, ..room };
        assert_eq!(checked(&none, &bytes), LogIndex::ZERO);
    }

    #[test]
    fn a_record_that_no_segment_here_could_hold_is_refused() {
        let slices = Slices::from(records(&[(1, 5)]));
        let bytes = slices.len();
        assert!(check(append(), &slices, &room(bytes, usize::MAX), &mut 0).is_ok());
        assert!(check(append(), &slices, &room(bytes - 1, usize::MAX), &mut 0).is_err());
    }

    #[test]
    fn gaps_and_terms_out_of_order_are_refused() {
        for bad in [
            &[(1, 6)][..],
            &[(1, 5), (1, 7)],
            &[(0, 5)],
            &[(3, 5), (2, 6)],
            &[(4, 5)],
            &[(1, 5), (1, 5)],
        ] {
            let slices = Slices::from(records(bad));
            assert!(check(append(), &slices, &room(64, usize::MAX), &mut 0).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_damaged_record_spoils_the_append() {
        let mut bytes = records(&[(1, 5), (3, 6)]);
        *bytes.last_mut().expect("not empty") ^= 1;
        assert!(check(append(), &Slices::from(bytes), &room(64, usize::MAX), &mut 0).is_err());
    }
}
