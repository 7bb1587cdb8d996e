//! A crash at any instant of anything that a log does: after every operation on the disk, with every part of
//! what was unflushed on the disk or not, and sometimes a second crash in the start that follows. The log
//! opens, every acknowledged entry is there with its bytes, nothing is there that was not written, term and
//! vote are those that were promised, and the log goes on.
//!
//! `OARLOCK_TEST_CRASH_IMAGES=1000000 cargo test --release --test wal_crash -- --nocapture` looks at a
//! million images; `OARLOCK_TEST_CRASH_SEED` goes on where an earlier run has ended, or repeats one.

mod wal_rig;

mod wal_crash {
    pub(crate) mod disk;
    pub(crate) mod driver;
    pub(crate) mod images;
    pub(crate) mod promise;
}

use wal_crash::driver::Driver;
use wal_crash::images::survives;

/// Sizes of entries, from nothing to the largest there are.
fn mixed(driver: &mut Driver, count: usize) -> Vec<usize> {
    let sizes = [0, 1, 40, 100, 460, 500, 1000, 2500, 4096];
    (0..count).map(|_| *driver.rng.choice(&sizes).expect("not empty")).collect()
}

#[test]
fn a_first_start() {
    survives("first start", |driver| {
        driver.open();
        driver.entries([100]);
    });
}

#[test]
fn appends_of_mixed_sizes() {
    survives("appends", |driver| {
        driver.open();
        let sizes = mixed(driver, 8);
        driver.entries(sizes);
    });
}

#[test]
fn batches_that_are_flushed_together() {
    survives("batches", |driver| {
        driver.open();
        for batches in [2, 3, 5] {
            for _ in 0..batches {
                for size in mixed(driver, 2) {
                    driver.append(size.min(700));
                }
                driver.publish();
            }
            driver.commit();
        }
    });
}

#[test]
fn small_flushes_that_share_a_block_and_idle_covers() {
    survives("covers", |driver| {
        driver.open();
        for round in 0..5 {
            driver.entries([30; 4]);
            if round % 2 == 0 {
                driver.cover();
            }
        }
    });
}

#[test]
fn rolls_from_segment_to_segment() {
    survives("rolls", |driver| {
        driver.open();
        let sizes = mixed(driver, 4);
        driver.entries(sizes);
        driver.entries([4000; 10]);
        for _ in 0..12 {
            driver.append(1900);
        }
        driver.commit();
    });
}

#[test]
fn truncations_within_a_segment_and_across_its_end() {
    survives("truncations", |driver| {
        driver.open();
        driver.entries([1200; 8]);
        driver.truncate(6);
        driver.entries([300; 2]);
        driver.entries([3500; 4]);
        let keep = driver.last() - driver.rng.usize(3..7);
        driver.truncate(keep);
        driver.append(10);
        driver.truncate(keep);
        driver.truncate(keep - 1);
        driver.commit();
        driver.entries([200; 2]);
    });
}

#[test]
fn prefixes_that_are_let_go_of_and_segments_that_are_used_again() {
    survives("releases", |driver| {
        driver.open();
        for round in 0..4 {
            driver.entries([2500; 5]);
            let last = driver.last();
            driver.release(last - 2);
            if round % 2 == 0 {
                driver.cover();
            } else {
                driver.entries([10]);
            }
            driver.prepare();
        }
    });
}

#[test]
fn votes_between_appends() {
    survives("votes", |driver| {
        driver.open();
        for _ in 0..4 {
            driver.vote();
            driver.vote();
            driver.entries([50]);
        }
        driver.restart();
        driver.vote();
    });
}

#[test]
fn starts_after_kills_and_power_cuts() {
    survives("starts", |driver| {
        driver.open();
        for round in 0..4 {
            driver.entries([700; 2]);
            driver.append(300);
            driver.publish();
            if round % 2 == 0 {
                driver.restart();
            } else {
                driver.cut_power();
            }
        }
        driver.entries([100]);
    });
}

#[test]
fn a_close_at_every_distance_from_a_segments_end() {
    survives("closes", |driver| {
        driver.open();
        driver.entries([3900, 3900]);
        // What is left is less than a block.
        let size = driver.rng.usize(3000..4000) & !7;
        driver.entries([size]);
        for _ in 0..3 {
            driver.entries([0]);
            driver.cover();
        }
        driver.restart();
        driver.entries([10]);
    });
}

#[test]
fn a_truncated_prefix_that_is_let_go_of() {
    survives("truncated releases", |driver| {
        driver.open();
        driver.entries([3000; 6]);
        driver.truncate(2);
        driver.entries([3000; 5]);
        let last = driver.last();
        driver.release(last - 1);
        driver.cover();
        driver.prepare();
        driver.restart();
        driver.prepare();
        driver.entries([100]);
    });
}

#[test]
fn everything_in_any_order() {
    survives("everything", |driver| {
        driver.open();
        for _ in 0..30 {
            let last = driver.last();
            match driver.rng.u8(..20) {
                0..7 => {
                    let sizes = mixed(driver, 2);
                    driver.entries(sizes);
                }
                7..10 => {
                    let size = driver.rng.usize(..2000);
                    driver.append(size);
                    driver.publish();
                }
                10..12 => {
                    let keep = last.saturating_sub(driver.rng.usize(1..6));
                    driver.truncate(keep);
                }
                12 | 13 => {
                    let up_to = last.saturating_sub(driver.rng.usize(..4));
                    driver.release(up_to);
                }
                14 => driver.prepare(),
                15 => driver.cover(),
                16 | 17 => driver.vote(),
                18 => driver.restart(),
                _ => driver.cut_power(),
            }
        }
        driver.commit();
    });
}
