//! What a world is like: drawn from its seed, and then changed by hand if need be.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::trouble::{Trouble, Troubles};
use crate::config::Config;

/// Which troubles a world is drawn with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// About half of all kinds, others in each world.
    #[default]
    Swarm,
    /// None.
    Calm,
    /// Those of the network.
    Network,
    /// Nodes that go down, and what delays them.
    Crashes,
    /// Disks that are slow, fail or rot, and nodes that go down.
    Disks,
}

impl Profile {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Swarm, Self::Calm, Self::Network, Self::Crashes, Self::Disks];

    /// Its name, for command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Swarm => "swarm",
            Self::Calm => "calm",
            Self::Network => "network",
            Self::Crashes => "crashes",
            Self::Disks => "disks",
        }
    }

    /// The profile of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|profile| profile.name() == name)
    }

    fn keeps(self, trouble: Trouble) -> bool {
        use Trouble as T;
        match self {
            Self::Swarm => true,
            Self::Calm => false,
            Self::Network => matches!(
                trouble,
                T::Loss
                    | T::Repeat
                    | T::Delay
                    | T::Isolate
                    | T::OneWay
                    | T::Split
                    | T::Bridge
                    | T::Ring
                    | T::Tangle
                    | T::Mend
                    | T::Clog
                    | T::Campaign
            ),
            Self::Crashes => matches!(
                trouble,
                T::Delay
                    | T::Skew
                    | T::Crash
                    | T::Shutdown
                    | T::Blackout
                    | T::PowerCut
                    | T::Pause
                    | T::Stall
                    | T::ClockJump
                    | T::Campaign
            ),
            Self::Disks => matches!(
                trouble,
                T::SlowDisk
                    | T::SlowApply
                    | T::Crash
                    | T::PowerCut
                    | T::DiskError
                    | T::DiskFull
                    | T::ReadError
                    | T::Rot
            ),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything that is drawn is drawn from this.
    pub seed: u64,
    /// Events under faults, before the world is left in peace. An event is a step of one loop of a node, or
    /// the delivery of a message.
    pub steps: u64,
    /// How many nodes there are, at most 64.
    pub nodes: u64,
    /// How many clients there are. Each makes one call at a time, of up to a few writes, at any node; but see
    /// [`burst`](Self::burst).
    pub clients: u64,
    /// The first client writes up to so many at once, and does not wait for the answers before it writes
    /// again; with 0 it is like the others.
    pub burst: usize,
    /// How long a client thinks between two calls, at most.
    pub think: Duration,
    /// How long a client waits for an answer, by its node's clock, before it gives up.
    pub patience: Duration,
    /// What goes wrong.
    pub troubles: Troubles,
    /// Machines are applied on the core's thread, as if all of them were
    /// [short](crate::StateMachine::APPLY_IS_SHORT).
    pub apply_on_core: bool,
    /// The nodes' limits and intervals.
    pub config: Config,
}

impl Options {
    /// A world of this profile.
    pub fn draw(profile: Profile, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let config = Config {
            propose_timeout: Duration::from_secs(3600),
            segment_bytes: 1 << 16,
            max_entry_bytes: 1 << 10,
            max_batch_bytes: 1 << 12,
            max_append_bytes: [1 << 11, 1 << 12, 1 << 14][rng.usize(..3)],
            max_inflight_bytes: 1 << 14,
            max_inflight_appends: rng.usize(1..16),
            max_unapplied_bytes: [1 << 14, 1 << 16, 1 << 20][rng.usize(..3)],
            max_apply_bytes: [1 << 8, 1 << 12, 1 << 16][rng.usize(..3)],
            max_pending_proposals: [4, 64, 1 << 12][rng.usize(..3)],
            max_pending_bytes: [1 << 12, 1 << 15, 1 << 22][rng.usize(..3)],
            max_peer_queue_bytes: [1 << 14, 1 << 16][rng.usize(..2)],
            stuck_after: Duration::from_millis([300, 2000][rng.usize(..2)]),
            max_kept_log_bytes: [0, 0, 1 << 17][rng.usize(..3)],
            forward: rng.u8(..4) > 0,
            ready_segments: rng.usize(1..=2),
            ..Config::small()
        };
        let nodes = [1, 3, 3, 3, 4, 5, 5, 7][rng.usize(..8)];
        let clients = rng.u64(1..=12);
        let think = Duration::from_millis([5, 50, 200, 1000][rng.usize(..4)]);
        let patience = Duration::from_millis([20, 300, 2000, 60_000][rng.usize(..4)]);
        let apply_on_core = rng.bool();
        let mut troubles = Troubles::swarm(&mut rng);
        troubles.retain(|trouble| profile.keeps(trouble));
        let burst = [0, 0, 40, 400][rng.usize(..4)];
        let steps = 20_000;
        Self {
            seed,
            steps,
            nodes,
            clients,
            burst,
            think,
            patience,
            troubles,
            apply_on_core,
            config,
        }
    }

    /// Some of everything, drawn from the seed.
    pub fn swarm(seed: u64) -> Self {
        Self::draw(Profile::Swarm, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_that_is_drawn_has_a_valid_configuration() {
        for seed in 0..200 {
            Options::swarm(seed).config.validate().expect("valid");
        }
    }

    #[test]
    fn a_calm_world_has_no_troubles_and_a_swarm_leaves_none_out_for_good() {
        let mut seen = Vec::new();
        for seed in 0..200 {
            assert_eq!(Options::draw(Profile::Calm, seed).troubles.kinds().count(), 0);
            seen.extend(Options::swarm(seed).troubles.kinds());
        }
        assert!(Trouble::ALL.iter().all(|trouble| seen.contains(trouble)));
    }
}
