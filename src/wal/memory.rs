//! The log in memory: the same segments, in anonymous memory and without a flusher.
//!
//! A [`Memory`] stands in for the directory. It outlives the log that is opened on it, as a directory
//! outlives a process, so a node in a test can be stopped or made to crash, and started again with what
//! it had. It does not outlive the process. Everything published counts as durable.

use std::path::Path;
use std::sync::Arc;

use super::catalog::Place;
use super::format::{
    MARK_BYTES, SEAL_BYTES, SEGMENT_HEADER_BYTES, TRUNCATION_BYTES, decode_truncation,
};
use super::log::{Log, Start};
use super::pool::Shared;
use super::preparer::{Ground, Preparer};
use super::rebuild::Rebuilt;
use super::segment::{Item, Segment};
use super::{LogOptions, Opened, Owner, Position, Recovered, recovered};
use crate::error::{StorageError, StorageErrorKind};
use crate::membership::Membership;
use crate::record::Record;
use crate::slices::SharedBytes;
use crate::storage::os_random;
use crate::sync::Mutex;
use crate::types::{BootCount, HardState, Incarnation, NodeId, Sender};

/// What errors call a log in memory.
const PATH: &str = "memory";

/// A directory in memory: what is left of a log when it is closed. Clones are the same directory.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    open: bool,
    /// Who was here first, and with which members.
    identity: Option<(Sender, Membership)>,
    hard_state: HardState,
    shared: Arc<Shared>,
}

/// Keeps others from opening the same directory.
#[derive(Debug)]
pub(super) struct Lease(Memory);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.0.lock().open = false;
    }
}

impl Memory {
    /// Keeps term and vote. There is nothing to wait for.
    ///
    /// # Panics
    /// If the term goes back, or a vote is changed within its term.
    pub fn store_hard_state(&self, state: HardState) {
        let mut memory = self.0.lock();
        let old = memory.hard_state;
        assert!(
            state.term > old.term
                || state.term == old.term
                    && (old.voted_for.is_none() || old.voted_for == state.voted_for),
            "hard state {state:?} after {old:?}"
        );
        memory.hard_state = state;
    }
}

/// Opens the log in `memory`, as [`open`](super::open) opens one in a directory.
///
/// # Errors
/// `AnotherNode`, `OtherMembers`, and `InUse` while an earlier log on it lives; `Io` if the machine is out
/// of memory or randomness.
///
/// # Panics
/// If the options do not fit together; see [`LogOptions`].
pub fn open_in_memory(
    memory: &Memory,
    node: NodeId,
    initial: &Membership,
    options: &LogOptions,
) -> Result<Opened, StorageError> {
    options.check();
    let mut state = memory.0.lock();
    if state.open {
        return Err(StorageError::new(PATH, StorageErrorKind::InUse));
    }
    let sender = state.identify(node, initial)?;
    let shared = Arc::new(Shared::default());
    let mut rebuilt = Rebuilt::new(Arc::clone(&shared));
    let mut hot = Vec::new();
    let mut last_mark = Position::default();
    for place in state.shared.catalog.places() {
        let Place::Mapped(segment) = &place else {
            unreachable!("a log in memory has no cold segments");
        };
        // One that was never written to is dropped.
        if let Some(mark) = scan(segment, &mut rebuilt) {
            last_mark = mark;
            hot.push(Arc::clone(segment));
            shared.catalog.push(place, None);
        }
    }
    shared.add_bytes(shared.catalog.bytes());
    let next_sequence = hot.last().map_or(1, |segment| segment.sequence() + 1);
    let mut preparer = Preparer::new(Arc::clone(&shared), Ground::Memory, options, next_sequence);
    let ready = preparer.first_segment()?;
    shared.catalog.push(Place::Mapped(Arc::clone(ready.writer.segment())), None);
    let start = Start::of(&rebuilt, hot, last_mark, sender.boot);
    let recovered: Recovered = recovered(rebuilt, sender, state.hard_state, initial.clone());
    state.hard_state = recovered.hard_state;
    state.shared = Arc::clone(&shared);
    state.open = true;
    drop(state);
    let owner = Owner::Memory(Lease(memory.clone()));
    let log = Log::new(shared, owner, Path::new(PATH).into(), ready.writer, options, start);
    Ok(Opened { log, flusher: None, preparer, recovered })
}

impl Contents {
    fn identify(&mut self, node: NodeId, initial: &Membership) -> Result<Sender, StorageError> {
        let failed = |kind| Err(StorageError::new(PATH, kind));
        match &mut self.identity {
            Some((sender, _)) if sender.node != node => {
                failed(StorageErrorKind::AnotherNode { expected: node, found: sender.node })
            }
            Some((_, members)) if members != initial => failed(StorageErrorKind::OtherMembers {
                stored: members.nodes(),
                given: initial.nodes(),
            }),
            Some((sender, _)) => {
                sender.boot.0 += 1;
                Ok(*sender)
            }
            None => {
                let drawn = os_random().map_err(|error| StorageError::io(PATH, "random", error))?;
                let sender = Sender { node, incarnation: Incarnation(drawn), boot: BootCount(1) };
                self.identity = Some((sender, initial.clone()));
                Ok(sender)
            }
        }
    }
}

/// Goes through everything published in a segment; returns where its last mark stands.
fn scan(segment: &Arc<Segment>, rebuilt: &mut Rebuilt) -> Option<Position> {
    let end = segment.published();
    let mut last_mark = None;
    let mut at = SEGMENT_HEADER_BYTES;
    while at < end {
        let position = segment.position(at);
        match segment.item(at) {
            Item::Mark { .. } => {
                if last_mark.is_none() {
                    rebuilt.enter_segment(segment.sequence(), segment.mark_prev(at));
                }
                last_mark = Some(position);
                at += MARK_BYTES;
            }
            Item::Truncation => {
                let stays = decode_truncation(segment.bytes(at, TRUNCATION_BYTES))
                    .expect("bytes that this process wrote");
                let mark = last_mark.expect("a mark begins every batch");
                rebuilt.truncate(stays, mark).expect("bytes that this process wrote");
                at += TRUNCATION_BYTES;
            }
            Item::Seal => at += SEAL_BYTES,
            Item::Record { bytes, .. } => {
                let record = Record::read(segment.bytes(at, bytes)).expect("checked when stored");
                rebuilt.record(&record, position).expect("bytes that this process wrote");
                at += bytes;
            }
        }
    }
    last_mark
}
