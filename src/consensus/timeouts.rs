//! How long a node waits for a leader. Raft §5.2: waits that differ make split votes rare.
//!
//! The numbers follow from a seed alone, so a run can be repeated tick by tick.

use crate::config::ElectionPriority;

/// A sequence of election timeouts.
///
/// The generator is splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014): one addition and a mix, no state but a counter, good enough to keep nodes
/// apart, and of no use for secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Timeouts {
    counter: u64,
    shortest: u32,
    longest: u32,
}

impl Timeouts {
    /// Timeouts as [`ElectionPriority`] describes them. A node that never campaigns by itself still
    /// has them: they tell it when to stop believing in a leader.
    pub(super) fn new(seed: u64, election_ticks: u32, priority: ElectionPriority) -> Self {
        let (shortest, longest) = match priority {
            ElectionPriority::High => (election_ticks, election_ticks + election_ticks / 2),
            ElectionPriority::Normal | ElectionPriority::Never => {
                (election_ticks, 2 * election_ticks)
            }
            ElectionPriority::Low => (2 * election_ticks, 3 * election_ticks),
        };
        Self { counter: seed, shortest, longest }
    }

    /// The next timeout, in ticks. Where there is no choice nothing is drawn: cores that differ in nothing
    /// else stay equal.
    pub(super) fn draw(&mut self) -> u32 {
        if self.shortest == self.longest {
            return self.shortest;
        }
        self.counter = self.counter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.counter;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let choices = u64::from(self.longest - self.shortest) + 1;
        self.shortest + (mixed % choices) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extremes(priority: ElectionPriority) -> (u32, u32) {
        let mut timeouts = Timeouts::new(1, 10, priority);
        let drawn: Vec<u32> = (0..1000).map(|_| timeouts.draw()).collect();
        (*drawn.iter().min().expect("drawn"), *drawn.iter().max().expect("drawn"))
    }

    #[test]
    fn timeouts_fill_the_range_of_their_priority() {
        assert_eq!(extremes(ElectionPriority::High), (10, 15));
        assert_eq!(extremes(ElectionPriority::Normal), (10, 20));
        assert_eq!(extremes(ElectionPriority::Low), (20, 30));
    }

    #[test]
    fn a_timeout_without_a_choice_uses_up_no_randomness() {
        let mut timeouts = Timeouts::new(1, 1, ElectionPriority::High);
        let before = timeouts.clone();
        assert_eq!(timeouts.draw(), 1);
        assert_eq!(timeouts, before);
    }

    #[test]
    fn a_seed_gives_the_same_timeouts_again_and_another_seed_others() {
        let draw = |seed| {
            let mut timeouts = Timeouts::new(seed, 1000, ElectionPriority::Normal);
            [timeouts.draw(), timeouts.draw(), timeouts.draw()]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
