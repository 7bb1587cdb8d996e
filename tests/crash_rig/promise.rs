//! What a log has promised by some moment, and whether what is found after a crash keeps it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use oarlock::wal::Recovered;
use oarlock::{EntryId, HardState, Incarnation, Term};

pub(crate) type Entry = (EntryId, Vec<u8>);

#[derive(Clone)]
pub(crate) struct Promise {
    /// What the log may hold, the released entries included: as of the last acknowledged flush, and after
    /// each change that was begun since. Of these changes, in their order, any number may be there.
    pub(crate) contents: Vec<Arc<Vec<Entry>>>,
    /// No entry above this was let go of.
    pub(crate) released: usize,
    /// Term and vote as they were stored last, and as they are perhaps being stored.
    pub(crate) hard_states: Vec<HardState>,
    /// Who the node is, once it has started.
    pub(crate) incarnation: Option<Incarnation>,
    /// The last start that was completed.
    pub(crate) boot: u64,
}

impl Promise {
    /// Of a directory that was never used.
    pub(crate) fn none() -> Self {
        Self {
            contents: vec![Arc::default()],
            released: 0,
            hard_states: vec![HardState::default()],
            incarnation: None,
            boot: 0,
        }
    }

    /// The same for promises that are the same.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.contents.hash(&mut hasher);
        self.released.hash(&mut hasher);
        self.hard_states.hash(&mut hasher);
        hasher.finish()
    }

    /// Checks what a start has found.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self, recovered: &Recovered, found: &[Entry]) -> Result<(), String> {
        let base = recovered.base.index.0 as usize;
        if base > self.released {
            return Err(format!("entries up to {base} are gone, let go of were {}", self.released));
        }
        let fits = |content: &Vec<Entry>| content.get(base..).is_some_and(|rest| rest == found);
        if !self.contents.iter().any(|content| fits(content)) {
            let promised: Vec<usize> = self.contents.iter().map(|content| content.len()).collect();
            let ids: Vec<String> = found.iter().map(|(id, _)| id.to_string()).collect();
            return Err(format!("entries after {base} are {ids:?}, of {promised:?}"));
        }
        let last_term = found.last().map_or(recovered.base.term, |(id, _)| id.term);
        let is_promised = |stored: &HardState| {
            recovered.hard_state == if last_term > stored.term { only(last_term) } else { *stored }
        };
        if !self.hard_states.iter().any(is_promised) {
            return Err(format!("{:?}, of {:?}", recovered.hard_state, self.hard_states));
        }
        let sender = recovered.sender;
        if self.incarnation.is_some_and(|incarnation| incarnation != sender.incarnation) {
            return Err("the node has become another one".to_owned());
        }
        if sender.boot.0 <= self.boot {
            return Err(format!("start {} after start {}", sender.boot, self.boot));
        }
        Ok(())
    }
}

fn only(term: Term) -> HardState {
    HardState { term, voted_for: None }
}
