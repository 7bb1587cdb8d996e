//! Whole nodes: every thread that a node has, and its callers, in schedules that are drawn.

mod nodes;

use crate::schedules::Scenario;

/// All of them.
pub const ALL: &[&[Scenario]] = &[nodes::ALL];
