//! What a log goes through: together, everything that it does to a disk.

use super::driver::{Driver, Ground, Outcome};

/// Sizes of entries, from nothing to the largest there are.
fn mixed(driver: &mut Driver<impl Ground>, count: usize) -> Vec<usize> {
    let sizes = [0, 1, 40, 100, 460, 500, 1000, 2500, 4096];
    (0..count).map(|_| *driver.rng.choice(&sizes).expect("not empty")).collect()
}

/// A first start.
pub(crate) fn first_start(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    driver.entries([100])
}

/// Entries of all sizes, a flush for each.
pub(crate) fn appends(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    let sizes = mixed(driver, 8);
    driver.entries(sizes)
}

/// Batches that are flushed together.
pub(crate) fn batches(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    for batches in [2, 3, 5] {
        for _ in 0..batches {
            for size in mixed(driver, 2) {
                driver.append(size.min(700))?;
            }
            driver.publish();
        }
        driver.commit()?;
    }
    Ok(())
}

/// Small flushes that share a block, with idle moments between them.
pub(crate) fn covers(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    for round in 0..5 {
        driver.entries([30; 4])?;
        if round % 2 == 0 {
            driver.cover()?;
        }
    }
    Ok(())
}

/// One segment after the other.
pub(crate) fn rolls(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    let sizes = mixed(driver, 4);
    driver.entries(sizes)?;
    driver.entries([4000; 10])?;
    for _ in 0..12 {
        driver.append(1900)?;
    }
    driver.commit()
}

/// Truncations within a segment, across its end, and of what was just truncated.
pub(crate) fn truncations(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    driver.entries([1200; 8])?;
    driver.truncate(6)?;
    driver.entries([300; 2])?;
    driver.entries([3500; 4])?;
    let keep = driver.last() - driver.rng.usize(3..7);
    driver.truncate(keep)?;
    driver.append(10)?;
    driver.truncate(keep)?;
    driver.truncate(keep - 1)?;
    driver.commit()?;
    driver.entries([200; 2])
}

/// Prefixes that are let go of, and segments that are used again.
pub(crate) fn releases(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    for round in 0..4 {
        driver.entries([2500; 5])?;
        let last = driver.last();
        driver.release(last - 2);
        if round == 3 {
            // The mark that says so is on its way.
            driver.append(10)?;
            driver.publish();
            driver.prepare()?;
        }
        if round % 2 == 0 {
            driver.cover()?;
        } else {
            driver.entries([10])?;
        }
        driver.prepare()?;
    }
    Ok(())
}

/// Votes between entries.
pub(crate) fn votes(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    for _ in 0..4 {
        driver.vote()?;
        driver.vote()?;
        driver.entries([50])?;
    }
    driver.restart()?;
    driver.vote()
}

/// Kills and power cuts with entries on their way.
pub(crate) fn starts(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    for round in 0..4 {
        driver.entries([700; 2])?;
        driver.append(300)?;
        driver.publish();
        if round % 2 == 0 {
            driver.restart()?;
        } else {
            driver.cut_power()?;
        }
    }
    driver.entries([100])
}

/// Covers close to the end of a segment.
pub(crate) fn closes(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    driver.entries([3900, 3900])?;
    // What is left is less than a block.
    let size = driver.rng.usize(3000..4000) & !7;
    driver.entries([size])?;
    for _ in 0..3 {
        driver.entries([0])?;
        driver.cover()?;
    }
    driver.restart()?;
    driver.entries([10])
}

/// A truncated prefix that is let go of.
pub(crate) fn truncated_releases(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    driver.entries([3000; 6])?;
    driver.truncate(2)?;
    driver.entries([3000; 5])?;
    let last = driver.last();
    driver.release(last - 1);
    driver.cover()?;
    driver.prepare()?;
    driver.restart()?;
    driver.prepare()?;
    driver.entries([100])
}

/// Anything in any order.
pub(crate) fn everything(driver: &mut Driver<impl Ground>) -> Outcome {
    driver.open()?;
    for _ in 0..30 {
        let last = driver.last();
        match driver.rng.u8(..20) {
            0..7 => {
                let sizes = mixed(driver, 2);
                driver.entries(sizes)?;
            }
            7..10 => {
                let size = driver.rng.usize(..2000);
                driver.append(size)?;
                driver.publish();
            }
            10..12 => {
                let keep = last.saturating_sub(driver.rng.usize(1..6));
                driver.truncate(keep)?;
            }
            12 | 13 => {
                let up_to = last.saturating_sub(driver.rng.usize(..4));
                driver.release(up_to);
            }
            14 => driver.prepare()?,
            15 => driver.cover()?,
            16 | 17 => driver.vote()?,
            18 => driver.restart()?,
            _ => driver.cut_power()?,
        }
    }
    driver.commit()
}
