//! How many bytes are in the log and not applied, without a list of every entry.

use std::collections::VecDeque;

use crate::types::LogIndex;

/// Entries are counted together up to this many bytes.
const GRAIN: u64 = 4096;

/// The bytes that were written since the node started and are not applied.
///
/// Truncated entries count until what took their place is applied, so the answer may be too high for a
/// while, and never too low by more than a few entries.
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
        while self.marks.back().is_some_and(|&(index, _)| index >= last) {
            self.marks.pop_back();
        }
        match self.marks.len().checked_sub(2).map(|before| self.marks[before].1) {
            Some(before) if self.written - before < GRAIN => {
                *self.marks.back_mut().expect("there are two") = (last, self.written);
            }
            _ => self.marks.push_back((last, self.written)),
        }
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
    fn after_a_truncation_the_new_entries_settle_the_old_ones() {
        let mut backlog = Backlog::default();
        backlog.wrote(LogIndex(10), 10_000);
        backlog.wrote(LogIndex(20), 10_000);
        backlog.wrote(LogIndex(15), 5_000);
        assert_eq!(backlog.bytes(LogIndex(10)), 15_000);
        assert_eq!(backlog.bytes(LogIndex(15)), 0);
    }
}
