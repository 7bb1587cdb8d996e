//! What can go wrong, as a list: each kind with its name and with how much of it a world has.
//!
//! Only names and amounts. What a kind does is in [`super::disturb`]; another one is a line here and an
//! arm there.

use std::fmt;

use fastrand::Rng;

macro_rules! troubles {
    ($($(#[$doc:meta])* $name:ident $text:literal $amounts:expr;)*) => {
        /// A kind of trouble. The first ones are conditions, which last as long as the faults do; the
        /// others are events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Trouble { $($(#[$doc])* $name,)* }

        impl Trouble {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name, for command lines and reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// How much of it a swarm draws from, where there is any.
            fn amounts(self) -> &'static [u32] {
                match self { $(Self::$name => $amounts,)* }
            }
        }
    };
}

/// How often an event happens in 100,000 events of the world.
const RARE: &[u32] = &[5, 10, 40];
const SELDOM: &[u32] = &[20, 50, 100];
const USUAL: &[u32] = &[10, 50, 200, 500];

troubles! {
    /// Messages in a thousand are lost.
    Loss "loss" &[10, 100, 300];
    /// Messages in a thousand arrive twice, the second one late.
    Repeat "repeat" &[10, 100];
    /// A message takes up to so many milliseconds, each a time of its own, so they overtake each other.
    Delay "delay" &[1, 10, 50, 200];
    /// Each node's clock goes faster or slower by up to so many in a thousand.
    Skew "skew" &[1, 50, 250];
    /// A flush takes up to so many milliseconds.
    SlowDisk "slow-disk" &[2, 50, 1000];
    /// A batch of entries takes up to so many milliseconds to apply.
    SlowApply "slow-apply" &[2, 50, 1000];
    /// A node goes down, at once or when it has written something and not flushed it, and most of the time its
    /// power with it.
    Crash "crash" USUAL;
    /// A node is shut down in an orderly way.
    Shutdown "shutdown" RARE;
    /// All nodes go down at once.
    Blackout "blackout" RARE;
    /// The power goes in the middle of a node's work with its disk; a node that is down starts for it.
    PowerCut "power-cut" SELDOM;
    /// A node's links are all cut.
    Isolate "isolate" USUAL;
    /// A node is heard and does not hear, or hears and is not heard.
    OneWay "one-way" USUAL;
    /// The nodes are parted in two.
    Split "split" USUAL;
    /// The nodes are parted in two, but for one that reaches both sides.
    Bridge "bridge" USUAL;
    /// Every node reaches its two neighbours only.
    Ring "ring" USUAL;
    /// Any links are cut, in any direction.
    Tangle "tangle" USUAL;
    /// All cut links work again.
    Mend "mend" USUAL;
    /// A link carries nothing for a while, and then everything.
    Clog "clog" USUAL;
    /// A node is not scheduled for a while, as by SIGSTOP.
    Pause "pause" USUAL;
    /// One loop of a node is not scheduled for a while: the one that flushes, in the middle of that.
    Stall "stall" USUAL;
    /// A node's clock jumps ahead, as after a suspend.
    ClockJump "clock-jump" RARE;
    /// A node that does not lead campaigns without waiting.
    Campaign "campaign" USUAL;
    /// A call on a disk fails with `EIO`, once or from then on.
    DiskError "disk-error" SELDOM;
    /// A disk is full for a while: it takes no more files, and in rare cases not even what is written.
    DiskFull "disk-full" SELDOM;
    /// Reading from a disk fails with `EIO`.
    ReadError "read-error" SELDOM;
    /// Bytes that are durable rot, on a minority of the disks at most.
    Rot "rot" RARE;
}

impl Trouble {
    /// How many kinds there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|trouble| trouble.name() == name)
    }

    /// Whether it is there all the time, instead of happening now and then.
    pub fn is_condition(self) -> bool {
        self <= Self::SlowApply
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of each trouble a world has: an amount for a condition, how often in 100,000 events for an
/// event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Troubles([u32; Trouble::COUNT]);

impl Default for Troubles {
    fn default() -> Self {
        Self::none()
    }
}

impl Troubles {
    /// A world in peace.
    pub const fn none() -> Self {
        Self([0; Trouble::COUNT])
    }

    /// About half of the kinds, each in an amount of its own: one world loses many messages, another one
    /// crashes often. A run with some of everything all the time gets nowhere near the states that a few
    /// kinds reach together.
    pub fn swarm(rng: &mut Rng) -> Self {
        let mut troubles = Self::none();
        for &trouble in Trouble::ALL {
            let amounts = trouble.amounts();
            let amount = amounts[rng.usize(..amounts.len())];
            if rng.bool() {
                troubles.set(trouble, amount);
            }
        }
        // What is cut must be mended now and then.
        if troubles.get(Trouble::Mend) == 0 && rng.u8(..4) > 0 {
            troubles.set(Trouble::Mend, 100);
        }
        troubles
    }

    /// How much there is of it.
    pub fn get(&self, trouble: Trouble) -> u32 {
        self.0[trouble as usize]
    }

    /// Says how much there is of it.
    pub fn set(&mut self, trouble: Trouble, amount: u32) {
        self.0[trouble as usize] = amount;
    }

    /// Keeps only the kinds that `keep` names.
    pub fn retain(&mut self, keep: impl Fn(Trouble) -> bool) {
        for &trouble in Trouble::ALL {
            if !keep(trouble) {
                self.set(trouble, 0);
            }
        }
    }

    /// The kinds that there are.
    pub fn kinds(&self) -> impl Iterator<Item = Trouble> + '_ {
        Trouble::ALL.iter().copied().filter(|&trouble| self.get(trouble) > 0)
    }

    /// How often an event of any kind happens, in 100,000 events of the world.
    pub(super) fn rate(&self) -> u32 {
        self.kinds().filter(|kind| !kind.is_condition()).map(|kind| self.get(kind)).sum()
    }

    /// One of the events, each as likely as it is often.
    pub(super) fn draw(&self, rng: &mut Rng) -> Option<Trouble> {
        let rate = self.rate();
        let mut place = rng.u32(..rate.max(1));
        self.kinds().filter(|kind| !kind.is_condition()).find(|&kind| {
            let found = place < self.get(kind);
            place = place.saturating_sub(self.get(kind));
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_drawn_as_often_as_they_are_said_to_happen_and_conditions_never() {
        let mut troubles = Troubles::none();
        for (kind, amount) in [(Trouble::Loss, 300), (Trouble::Crash, 100), (Trouble::Mend, 300)] {
            troubles.set(kind, amount);
        }
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<_> = (0..4000).filter_map(|_| troubles.draw(&mut rng)).collect();
        let crashes = drawn.iter().filter(|&&kind| kind == Trouble::Crash).count();
        assert_eq!(drawn.len(), 4000);
        assert!(!drawn.contains(&Trouble::Loss));
        assert!((900..1100).contains(&crashes), "{crashes} of 4000");
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for &trouble in Trouble::ALL {
            assert_eq!(Trouble::from_name(trouble.name()), Some(trouble));
        }
        assert_eq!(Trouble::from_name("earthquake"), None);
    }
}
