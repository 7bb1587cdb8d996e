//! Every limit and interval of a node.

use std::time::Duration;

use crate::error::StartError;
use crate::record::record_bytes;

const MAX_SEGMENT_BYTES: usize = 1 << 30;

/// How eager a node is to lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ElectionPriority {
    /// Waits between one and one and a half election timeouts for a leader before it campaigns.
    High,
    /// Waits between one and two election timeouts.
    #[default]
    Normal,
    /// Waits between two and three, so that others usually win.
    Low,
    /// Votes, and campaigns only when it is told to.
    Never,
}

/// Limits and intervals. The defaults suit servers on one network with disks of their own.
///
/// ```
/// use std::time::Duration;
/// let config = oarlock::Config { propose_timeout: Duration::from_secs(1), ..Default::default() };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The length of a tick, in which the two settings below are counted.
    pub tick: Duration,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader after which a node may campaign; the time drawn lies between this and
    /// twice this. A leader that has not heard from a quorum for as long steps down.
    pub election_ticks: u32,
    /// How eager this node is to lead.
    pub election_priority: ElectionPriority,
    /// How long [`Node::propose`](crate::Node::propose) waits.
    pub propose_timeout: Duration,
    /// How long [`Node::read`](crate::Node::read) waits.
    pub read_timeout: Duration,
    /// Whether proposals and linearizable reads that are made on a follower go to the leader. Without this
    /// they are refused, and the error names the leader. A leader takes no more at once than half of one of its
    /// own segments holds, and what exceeds that it refuses without an answer: give all nodes the same
    /// `segment_bytes` and `max_batch_bytes`.
    pub forward: bool,
    /// The largest encoded command, in bytes.
    pub max_entry_bytes: usize,
    /// The most proposals that may be unanswered at once; further ones wait at the door.
    pub max_pending_proposals: usize,
    /// The most bytes of commands that may be unanswered at once; further ones wait at the door.
    pub max_pending_bytes: usize,
    /// The most bytes of records that enter the log in one step: commands, and up to 80 bytes for
    /// each.
    pub max_batch_bytes: usize,
    /// The most bytes in one message to a follower.
    pub max_append_bytes: usize,
    /// The most messages with entries that may be unacknowledged by one follower.
    pub max_inflight_appends: usize,
    /// The most bytes of entries that may be unacknowledged by one follower.
    pub max_inflight_bytes: usize,
    /// The most bytes of entries that may wait to be applied; a leader takes no proposals meanwhile, a
    /// follower refuses entries.
    pub max_unapplied_bytes: usize,
    /// The most bytes that are applied under one hold of the state's lock.
    pub max_apply_bytes: usize,
    /// The most bytes of messages from other nodes that may wait to be taken, and, over TCP, of entries
    /// that may wait to be sent to one node; what does not fit is dropped, as on a network.
    pub max_peer_queue_bytes: usize,
    /// How long one flush, or one batch of entries in `apply`, may take before the node counts as stuck:
    /// it then gives up leadership, and does not campaign until it moves again.
    pub stuck_after: Duration,
    /// The size of one segment file of the log, in bytes.
    pub segment_bytes: usize,
    /// How many empty segments are kept ready; as many sealed ones stay mapped, and as many that were let go
    /// of wait to be used again. Memory for the log's mappings lies between `segment_bytes` ×
    /// (`ready_segments` + 1) and `segment_bytes` × (3 × `ready_segments` + 1).
    pub ready_segments: usize,
    /// How large the log may be before entries are let go of that nobody needs: those that the machine has
    /// made durable by itself ([`StateMachine::last_applied`](crate::StateMachine::last_applied)) and that
    /// every member's disk holds. They go oldest first, by whole segments, until the rest has no more than
    /// this, or is needed; 0, the default, keeps none of them. What is needed is always kept, so this is no
    /// bound for a log whose machine keeps nothing itself, or with a member that is away. Segments beyond
    /// `segment_bytes` × `ready_segments` lose their mappings before they are used again, which costs
    /// throughput.
    pub max_kept_log_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(10),
            heartbeat_ticks: 5,
            election_ticks: 30,
            election_priority: ElectionPriority::Normal,
            propose_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(5),
            forward: true,
            max_entry_bytes: 1 << 20,
            max_pending_proposals: 1 << 16,
            max_pending_bytes: 32 << 20,
            max_batch_bytes: 1 << 20,
            max_append_bytes: 2 << 20,
            max_inflight_appends: 256,
            max_inflight_bytes: 8 << 20,
            max_unapplied_bytes: 64 << 20,
            max_apply_bytes: 256 << 10,
            max_peer_queue_bytes: 64 << 20,
            stuck_after: Duration::from_secs(2),
            segment_bytes: 8 << 20,
            ready_segments: 3,
            max_kept_log_bytes: 0,
        }
    }
}

impl Config {
    /// Small segments and short timeouts, for tests and for several nodes on one machine.
    pub fn small() -> Self {
        Self {
            heartbeat_ticks: 3,
            election_ticks: 15,
            max_entry_bytes: 128 << 10,
            max_pending_bytes: 4 << 20,
            max_batch_bytes: 256 << 10,
            max_append_bytes: 256 << 10,
            max_inflight_bytes: 2 << 20,
            max_unapplied_bytes: 8 << 20,
            max_peer_queue_bytes: 16 << 20,
            segment_bytes: 1 << 20,
            ready_segments: 2,
            ..Self::default()
        }
    }

    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// [`StartError::InvalidConfig`] with the first field that breaks a rule, and the rule.
    pub fn validate(&self) -> Result<(), StartError> {
        // Of an entry that fits into no segment it is enough to know that.
        let record = record_bytes(self.max_entry_bytes.min(MAX_SEGMENT_BYTES), true);
        let rules = [
            (!self.tick.is_zero(), "tick", "must not be zero"),
            (self.tick <= Duration::from_secs(60), "tick", "must not exceed a minute"),
            (self.heartbeat_ticks > 0, "heartbeat_ticks", "must not be zero"),
            (
                self.election_ticks > self.heartbeat_ticks,
                "election_ticks",
                "must be more than heartbeat_ticks",
            ),
            (self.election_ticks <= 1 << 20, "election_ticks", "must not exceed 1048576"),
            (!self.propose_timeout.is_zero(), "propose_timeout", "must not be zero"),
            (!self.read_timeout.is_zero(), "read_timeout", "must not be zero"),
            (self.max_entry_bytes > 0, "max_entry_bytes", "must not be zero"),
            (self.max_pending_proposals > 0, "max_pending_proposals", "must not be zero"),
            (
                self.max_pending_bytes >= self.max_entry_bytes,
                "max_pending_bytes",
                "must be at least max_entry_bytes",
            ),
            (
                self.max_batch_bytes >= self.max_entry_bytes,
                "max_batch_bytes",
                "must be at least max_entry_bytes",
            ),
            (
                self.max_append_bytes >= record,
                "max_append_bytes",
                "must be at least max_entry_bytes and 80 bytes more",
            ),
            (self.max_inflight_appends > 0, "max_inflight_appends", "must not be zero"),
            (
                self.max_inflight_bytes >= self.max_append_bytes,
                "max_inflight_bytes",
                "must be at least max_append_bytes",
            ),
            (
                self.max_unapplied_bytes >= self.max_append_bytes,
                "max_unapplied_bytes",
                "must be at least max_append_bytes",
            ),
            (self.max_apply_bytes > 0, "max_apply_bytes", "must not be zero"),
            (
                self.max_peer_queue_bytes >= self.max_append_bytes,
                "max_peer_queue_bytes",
                "must be at least max_append_bytes",
            ),
            (!self.stuck_after.is_zero(), "stuck_after", "must not be zero"),
            (
                self.segment_bytes.is_multiple_of(1 << 16),
                "segment_bytes",
                "must be a multiple of 65536",
            ),
            (
                self.segment_bytes >= 1 << 16 && self.segment_bytes <= MAX_SEGMENT_BYTES,
                "segment_bytes",
                "must be between 64 KiB and 1 GiB",
            ),
            (
                2 * record <= self.segment_bytes,
                "max_entry_bytes",
                "must be less than half of segment_bytes",
            ),
            (
                self.max_batch_bytes <= self.segment_bytes / 2,
                "max_batch_bytes",
                "must not exceed half of segment_bytes",
            ),
            (
                self.max_append_bytes <= self.segment_bytes,
                "max_append_bytes",
                "must not exceed segment_bytes",
            ),
            (self.ready_segments > 0, "ready_segments", "must not be zero"),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, rule)) => Err(StartError::InvalidConfig { field, rule }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configurations_that_come_with_the_crate_are_valid() {
        for config in [Config::default(), Config::small()] {
            config.validate().expect("valid");
        }
    }
}
