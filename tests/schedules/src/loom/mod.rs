//! Small meetings, gone through exhaustively: every schedule up to a number of interruptions, and every
//! value that a load may see.

mod doors;
mod loops;
mod tickets;
mod watches;

use std::sync::Arc;

use super::group::{Awaited, Group, Pending};
use super::stop::Stop;
use crate::clock::Time;
use crate::schedules::Scenario;
use crate::sync::{FOR_EVER, Instant};
use crate::transport::tcp::schedules as senders;
use crate::types::{EntryId, LogIndex, Term};

/// All of them.
pub const ALL: &[&[Scenario]] = &[tickets::ALL, doors::ALL, watches::ALL, senders::ALL, loops::ALL];

fn far() -> Instant {
    Instant::now() + FOR_EVER
}

fn at(index: u64) -> EntryId {
    EntryId::new(Term(1), LogIndex(index))
}

fn group(stop: &Arc<Stop>) -> Arc<Group<u32>> {
    Arc::new(Group::new(Arc::clone(stop)))
}

fn pending(group: &Arc<Group<u32>>, count: usize) -> Pending<u32> {
    let first = Awaited::Entry(at(1));
    Pending::new(Arc::clone(group), 0, count, first, 0, Time::default())
}
