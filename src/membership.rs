//! Who belongs to a cluster: voters, the outgoing voters of a joint configuration, and learners.
//!
//! A membership is a value; the one in force is the latest in the log, committed or not (Raft §6).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::{DecodeError, EncodeError};
use crate::types::{Incarnation, NodeId};

/// What a membership says of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Where the transport finds the node; empty for transports that need no address.
    pub address: String,
    /// The only data directory whose votes and acknowledgements count; `None` accepts any.
    pub incarnation: Option<Incarnation>,
}

impl Member {
    /// A member at `address`, with any incarnation.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), incarnation: None }
    }
}

/// The members of a cluster.
///
/// With `outgoing` empty a majority of `voters` decides. Otherwise the configuration is *joint*:
/// every decision needs a majority of `voters` and a majority of `outgoing` (Raft §6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// Nodes whose votes and acknowledgements count.
    pub voters: BTreeMap<NodeId, Member>,
    /// The voters of the configuration that is being left; empty outside a joint configuration.
    pub outgoing: BTreeMap<NodeId, Member>,
    /// Nodes that receive the log and do not count.
    pub learners: BTreeMap<NodeId, Member>,
}

impl Membership {
    /// A simple configuration in which all of `voters` vote.
    pub fn of_voters(voters: impl IntoIterator<Item = (NodeId, Member)>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// The membership that an entry of kind [`Membership`](crate::record::EntryKind::Membership) sets, out
    /// of its payload.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn from_payload(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode_message(bytes)
    }

    /// Whether two majorities are needed.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes, in either half of a joint configuration.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains_key(&node) || self.outgoing.contains_key(&node)
    }

    /// What is said of `node`, in whatever part it is named.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        [&self.voters, &self.outgoing, &self.learners].into_iter().find_map(|part| part.get(&node))
    }

    /// Every node that is named, once, in ascending order.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = [&self.voters, &self.outgoing, &self.learners]
            .into_iter()
            .flat_map(|part| part.keys().copied())
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// A number that tells this membership from others, addresses included; the same on every machine.
    ///
    /// # Errors
    /// A membership beyond the codec's limit for messages.
    pub fn fingerprint(&self) -> Result<u64, EncodeError> {
        let mut bytes = Vec::new();
        codec::encode_message(self, &mut bytes)?;
        Ok(fnv1a(&bytes))
    }
}

/// 64-bit FNV-1a: tells differing lists of members apart. No defence against somebody who wants two to
/// look alike.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_same_everywhere_and_tells_addresses_apart() {
        let of = |address| {
            let membership = Membership::of_voters([(NodeId(1), Member::at(address))]);
            membership.fingerprint().expect("small")
        };
        assert_eq!(of("a:1"), 0x6246_f6b1_4f76_d79c, "it is compared between machines");
        assert_ne!(of("a:1"), of("a:2"));
    }

    #[test]
    fn a_node_named_in_both_halves_is_listed_once() {
        let member = |id| (NodeId(id), Member::default());
        let joint = Membership {
            voters: [member(1), member(2)].into(),
            outgoing: [member(2), member(3)].into(),
            learners: [member(4)].into(),
        };
        assert_eq!(joint.nodes(), [1, 2, 3, 4].map(NodeId));
        assert!(joint.is_joint());
        assert!(joint.is_voter(NodeId(3)) && !joint.is_voter(NodeId(4)));
    }
}
