//! How many bytes are in the log and not applied, without a list of every entry.

use std::collections::VecDeque;

use crate::types::LogIndex;

/// Entries are counted together up to this many bytes.
const GRAIN: u64 = 4096;

/// The bytes that were written since the node started and are not applied.
///
/// Entries that were written together count together, so the answers may be off by as much.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    written: u64,
    applied: u64,
    /// Up to which index how many bytes had been written; ascending in both.
    marks: VecDeque<(LogIndex, u64)>,
}

impl Backlog {
    /// Entries up to `last`, of `bytes` bytes, were written.
    pub(crate) fn wrote(&mut self, last: LogIndex, bytes: usize) {
        self.written += bytes as u64;
        match self.marks.len().checked_sub(2).map(|before| self.marks[before].1) {
            Some(before) if self.written - before < GRAIN => {
                *self.marks.back_mut().expect("there are two") = (last, self.written);
            }
            _ => self.marks.push_back((last, self.written)),
        }
    }

    /// The entries from `from` on are gone.
    pub(crate) fn truncated(&mut self, from: LogIndex) {
        let stays = self.marks.partition_point(|&(index, _)| index < from);
        if let Some(&(_, written)) = self.marks.get(stays) {
            self.marks.truncate(stays);
            if self.marks.back().is_none_or(|&(index, _)| index < from.prev()) {
                // Some of those that were written together with `from` stay.
                self.marks.push_back((from.prev(), written));
            }
            self.written = self.marks.back().expect("there is at least that one").1;
        }
    }

    /// The bytes that could be applied and are not, when entries up to `applied` are, and those up to
    /// `committed` may be.
    pub(crate) fn due(&mut self, applied: LogIndex, committed: LogIndex) -> usize {
        self.bytes(applied);
        let due = self.marks.partition_point(|&(index, _)| index <= committed);
        due.checked_sub(1).map_or(0, |last| (self.marks[last].1 - self.applied) as usize)
    }

    /// The bytes that are not applied, when entries up to `applied` are.
    pub(crate) fn bytes(&mut self, applied: LogIndex) -> usize {
        while let Some(&(index, written)) = self.marks.front() {
            if index > applied {
                break;
            }
            self.applied = written;
            self.marks.pop_front();
        }
        (self.written - self.applied) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_no_longer_counts() {
        let mut backlog = Backlog::default();
        for index in 1..=10 {
            backlog.wrote(LogIndex(index), 5000);
        }
        assert_eq!(backlog.bytes(LogIndex(0)), 50_000);
        assert_eq!(backlog.bytes(LogIndex(4)), 30_000);
        assert_eq!(backlog.bytes(LogIndex(10)), 0);
    }

    #[test]
    fn small_entries_are_counted_together() {
        let mut backlog = Backlog::default();
        for index in 1..=100_000 {
            backlog.wrote(LogIndex(index), 64);
        }
        assert!(backlog.marks.len() <= 2 * 100_000 * 64 / GRAIN as usize);
        let left = backlog.bytes(LogIndex(50_000));
        assert!(left.abs_diff(50_000 * 64) <= 2 * GRAIN as usize, "{left}");
    }

    #[test]
    fn what_is_truncated_no_longer_counts() {
        let mut backlog = Backlog::default();
        backlog.wrote(LogIndex(10), 10_000);
        backlog.wrote(LogIndex(20), 10_000);
        backlog.truncated(LogIndex(11));
        assert_eq!(backlog.bytes(LogIndex(0)), 10_000);
        // What was written together with the first to go cannot be told apart.
        backlog.wrote(LogIndex(20), 5_000);
        backlog.truncated(LogIndex(16));
        assert_eq!(backlog.bytes(LogIndex(10)), 5_000);
        assert_eq!(backlog.bytes(LogIndex(15)), 0);
        backlog.wrote(LogIndex(16), 7_000);
        assert_eq!(backlog.bytes(LogIndex(15)), 7_000);
        backlog.truncated(LogIndex(1));
        assert_eq!(backlog.bytes(LogIndex(0)), 0);
    }

    #[test]
    fn only_what_may_be_applied_is_due() {
        let mut backlog = Backlog::default();
        for index in 1..=10 {
            backlog.wrote(LogIndex(index), 5000);
        }
        assert_eq!(backlog.due(LogIndex(0), LogIndex(0)), 0);
        assert_eq!(backlog.due(LogIndex(2), LogIndex(4)), 10_000);
        assert_eq!(backlog.due(LogIndex(4), LogIndex(4)), 0);
        assert_eq!(backlog.bytes(LogIndex(4)), 30_000);
    }
}
