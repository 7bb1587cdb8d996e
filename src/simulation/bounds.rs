//! What the simulator checks of queues: that nothing in a node grows beyond what its configuration allows.
//!
//! Most limits are looked at after every step of a core. Those on entries that are not applied are limits on
//! what a step may do: a node that is behind by that much takes nothing more, whatever it holds already. There is
//! none on their sum: a tail that nobody commits may grow with each restart, which counts from there.

use super::machine::Machine;
use super::witness::{Broken, keep};
use super::workload::Workload;
use super::world::World;
use crate::config::Config;
use crate::node::simulated::Queues;
use crate::record::record_bytes;
use crate::types::{EntryId, Role, Term};

/// Messages that wait for term and vote to be stored.
const MAX_HELD: usize = 256;
/// A message without entries, as queues count it.
const MESSAGE_BYTES: usize = 56;

/// What a node held before a step of its core.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    role: Role,
    term: Term,
    last: EntryId,
    queues: Queues,
}

impl Before {
    pub(super) fn of<W: Workload>(machine: &mut Machine<W>) -> Option<Self> {
        let node = machine.node.as_mut()?;
        let queues = node.queues();
        let core = node.core();
        Some(Self { role: core.role(), term: core.term(), last: core.last(), queues })
    }
}

/// What there may be of each, and what there is.
fn rows(config: &Config, nodes: usize, queues: &Queues) -> [(&'static str, usize, usize); 8] {
    let record = record_bytes(config.max_entry_bytes, true);
    let lane = config.max_peer_queue_bytes;
    [
        ("proposals", queues.proposals, config.max_pending_proposals),
        ("bytes of proposals", queues.proposal_bytes, config.max_pending_bytes),
        ("appends in flight", queues.appends, config.max_inflight_appends),
        // There is always room for one entry.
        ("bytes in flight", queues.append_bytes, config.max_inflight_bytes + record),
        ("bytes of messages", queues.arrived_bytes, lane + MESSAGE_BYTES * (lane / 32).max(64)),
        ("bytes for the leader", queues.outgoing_bytes, (lane / nodes).max(config.max_batch_bytes)),
        ("bytes from followers", queues.incoming_bytes, lane.max(config.max_batch_bytes)),
        ("messages that wait for the disk", queues.held, MAX_HELD),
    ]
}

impl<W: Workload> World<W> {
    /// A core has made a step.
    pub(super) fn check_bounds(&mut self, at: usize, before: &Before) -> Result<(), Broken> {
        let config = &self.options.config;
        let machine = &mut self.machines[at];
        let id = machine.id;
        let Some(node) = &mut machine.node else { return Ok(()) };
        keep!(
            !node.readers_wait() || node.core().leader().is_some(),
            "node {id}: readers wait, and there is nobody to ask"
        );
        // Messages pile up between steps, everything else in them.
        let queues = Queues { arrived_bytes: before.queues.arrived_bytes, ..node.queues() };
        for (what, is, most) in rows(config, self.machines.len(), &queues) {
            keep!(is <= most, "node {id} holds {is} {what}, and {most} are the limit");
        }
        let max = config.max_unapplied_bytes;
        self.report.shut_doors += u64::from(queues.proposals == config.max_pending_proposals);
        self.report.full_windows += u64::from(queues.appends == config.max_inflight_appends);
        self.report.behind += u64::from(before.queues.due > max);
        let core = self.machines[at]
            .node
            .as_ref()
            .map(|node| (node.core().role(), node.core().term(), node.core().last()));
        let Some((role, term, last)) = core else { return Ok(()) };
        // A no-op gets in wherever there is room at all, or no term could commit anything.
        if last == before.last || self.witness.is_first_of_term(last) {
            return Ok(());
        }
        let leads_on = before.role == Role::Leader && (role, term) == (Role::Leader, before.term);
        let (unapplied, due) = (before.queues.unapplied, before.queues.due);
        keep!(
            !leads_on || unapplied <= max,
            "leader {id} took {last} with {unapplied} bytes that were not applied"
        );
        keep!(due <= max, "node {id} took {last} with {due} bytes that it was to apply");
        Ok(())
    }
}
