//! A crash at any instant of anything that a log does: after every operation on the disk, with every part of
//! what was unflushed on the disk or not, and sometimes a second crash in the start that follows. The log
//! opens, every acknowledged entry is there with its bytes, nothing is there that was not written, term and
//! vote are those that were promised, and the log goes on.
//!
//! `OARLOCK_TEST_CRASH_IMAGES=1000000 cargo test --release --test wal_crash -- --nocapture` looks at a
//! million images; `OARLOCK_TEST_CRASH_SEED` goes on where an earlier run has ended, or repeats one.

mod crash_rig;
mod wal_crash {
    pub(crate) mod images;
}
mod wal_rig;

use crash_rig::workloads;
use wal_crash::images::survives;

#[test]
fn a_first_start() {
    survives("first start", workloads::first_start);
}

#[test]
fn appends_of_mixed_sizes() {
    survives("appends", workloads::appends);
}

#[test]
fn batches_that_are_flushed_together() {
    survives("batches", workloads::batches);
}

#[test]
fn small_flushes_that_share_a_block_and_idle_covers() {
    survives("covers", workloads::covers);
}

#[test]
fn rolls_from_segment_to_segment() {
    survives("rolls", workloads::rolls);
}

#[test]
fn truncations_within_a_segment_and_across_its_end() {
    survives("truncations", workloads::truncations);
}

#[test]
fn prefixes_that_are_let_go_of_and_segments_that_are_used_again() {
    survives("releases", workloads::releases);
}

#[test]
fn votes_between_appends() {
    survives("votes", workloads::votes);
}

#[test]
fn starts_after_kills_and_power_cuts() {
    survives("starts", workloads::starts);
}

#[test]
fn a_close_at_every_distance_from_a_segments_end() {
    survives("closes", workloads::closes);
}

#[test]
fn a_truncated_prefix_that_is_let_go_of() {
    survives("truncated releases", workloads::truncated_releases);
}

#[test]
fn everything_in_any_order() {
    survives("everything", workloads::everything);
}
