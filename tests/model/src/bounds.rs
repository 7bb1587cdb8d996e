//! What is left out, by name: each model follows some of the protocol to its end.
//!
//! A bound on terms, commands or restarts cuts off what would go on for ever. What the network loses, and
//! which disks are quick, only takes possibilities away. Nothing is made up: every state here is one that
//! the core can reach.

use oarlock::{Member, Membership, NodeId};

use crate::rules::Sight::{
    self, ChangeCut, CommandCommittedByOne, Committed, CommittedByTwoLeaders, CommittedInJoint,
    ForwardedCommitted, Leader, LostInACrash, MajorityOverwritten, ReadAnswered, ReadInJoint,
    ReadOfALaterLeader, ReadOnAFollower, Resigned, SecondLeader, Truncated, TwoCommandsCommitted,
    TwoLeadersAtOnce,
};

/// How messages travel. Any of them may be lost in either case: it is then never delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// In any order, and as often as the network likes.
    Repeating,
    /// In any order, once.
    InAnyOrder,
    /// In order between two nodes, as over connections that break.
    InOrder,
}

/// Where a model begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nobody has ever led.
    Fresh,
    /// Node 1 leads term 1, all hold its first entry and nothing is on its way.
    Led,
    /// Raft figure 8 (b): nodes 1 and 3 have led terms 1 and 2, each has an entry that nobody else has, and
    /// all have restarted.
    Split,
    /// Node 3 has led term 1, and has stored an entry that makes the membership joint, which nobody else has;
    /// all have restarted.
    Entering,
    /// The change went on: node 2 has the joint membership, which is committed, and node 3 has the end of
    /// the change as well, which is committed as soon as somebody counts it; node 1 has heard of neither.
    Leaving,
}

/// A membership on the way from {1, 2, 3} to {3}.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Three,
    Joint,
    One,
}

impl Stage {
    /// The voters: a majority in each of these sets decides.
    pub(crate) fn halves(self) -> &'static [&'static [u64]] {
        match self {
            Self::Three => &[&[1, 2, 3]],
            Self::Joint => &[&[3], &[1, 2, 3]],
            Self::One => &[&[3]],
        }
    }

    /// Whether the nodes that are `in_it` decide.
    pub(crate) fn decides(self, in_it: impl Fn(NodeId) -> bool) -> bool {
        let count = |half: &[u64]| half.iter().filter(|id| in_it(NodeId(**id))).count();
        self.halves().iter().all(|half| 2 * count(half) > half.len())
    }

    pub(crate) fn membership(self) -> Membership {
        let mut halves = self
            .halves()
            .iter()
            .map(|half| half.iter().map(|id| (NodeId(*id), Member::default())).collect());
        let voters = halves.next().expect("somebody votes");
        Membership { voters, outgoing: halves.next().unwrap_or_default(), ..Membership::default() }
    }
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each of them takes something away by itself")]
pub(crate) struct Bounds {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// The membership before the first entry.
    pub(crate) stage: Stage,
    pub(crate) pre_vote: bool,
    pub(crate) check_quorum: bool,
    pub(crate) start: Start,
    pub(crate) network: Network,
    /// So many messages are on their way between two nodes; older ones are lost.
    pub(crate) window: usize,
    /// Whether appends and heartbeats arrive at all.
    pub(crate) appends: bool,
    pub(crate) heartbeats: bool,
    /// Whether term and vote, and the log, are stored some time later; else before anything else happens.
    pub(crate) slow_votes: bool,
    pub(crate) slow_log: bool,
    pub(crate) terms: u64,
    pub(crate) commands: u8,
    /// Proposals that followers hand to their leader.
    pub(crate) forwards: u8,
    pub(crate) reads: u8,
    /// Whether followers read as well.
    pub(crate) reads_on_followers: bool,
    /// Heartbeats of leaders; with check-quorum, leaders that give up.
    pub(crate) ticks: u8,
    pub(crate) restarts: u8,
    /// How often a message arrives that will arrive again.
    pub(crate) repeats: u8,
    /// How often a leader is told that something was lost.
    pub(crate) drops: u8,
    /// How often a disk is full, or has room again.
    pub(crate) fills: u8,
    /// What must be seen.
    pub(crate) sights: &'static [Sight],
}

/// Three voters whose disks are quick and who send nothing but votes, over a network of one message
/// between two nodes. The models say what they add.
const THREE: Bounds = Bounds {
    name: "",
    about: "",
    stage: Stage::Three,
    pre_vote: false,
    check_quorum: false,
    start: Start::Fresh,
    network: Network::Repeating,
    window: 1,
    appends: false,
    heartbeats: false,
    slow_votes: false,
    slow_log: false,
    terms: 2,
    commands: 0,
    forwards: 0,
    reads: 0,
    reads_on_followers: false,
    ticks: 0,
    restarts: 0,
    repeats: 0,
    drops: 0,
    fills: 0,
    sights: &[],
};

/// The bounds for every change.
pub(crate) const SMALL: [Bounds; 19] = [
    Bounds {
        name: "votes",
        about: "one term; disks that lag, a restart, a repeated message",
        network: Network::InAnyOrder,
        window: 2,
        slow_votes: true,
        terms: 1,
        restarts: 1,
        repeats: 1,
        sights: &[Leader],
        ..THREE
    },
    Bounds {
        name: "elections",
        about: "three terms without pre-votes",
        terms: 3,
        sights: &[Leader, SecondLeader, TwoLeadersAtOnce],
        ..THREE
    },
    Bounds {
        name: "pre-votes",
        about: "two terms with pre-votes",
        pre_vote: true,
        sights: &[Leader, SecondLeader, TwoLeadersAtOnce],
        ..THREE
    },
    Bounds {
        name: "check-quorum",
        about: "a leader that is defended, and that gives up without a quorum",
        pre_vote: true,
        check_quorum: true,
        start: Start::Led,
        network: Network::InOrder,
        heartbeats: true,
        ticks: 1,
        sights: &[SecondLeader, Resigned],
        ..THREE
    },
    Bounds {
        name: "joint",
        about: "elections while {1, 2, 3} is left for {3}",
        stage: Stage::Joint,
        sights: &[Leader, SecondLeader],
        ..THREE
    },
    Bounds {
        name: "replication",
        about: "a command, and another leader",
        start: Start::Led,
        network: Network::InOrder,
        window: 2,
        appends: true,
        heartbeats: true,
        commands: 1,
        drops: 1,
        sights: &[Truncated, CommittedByTwoLeaders],
        ..THREE
    },
    Bounds {
        name: "repetition",
        about: "one leader, whose appends repeat and overtake each other",
        start: Start::Led,
        window: 2,
        appends: true,
        heartbeats: true,
        terms: 1,
        commands: 2,
        ticks: 1,
        drops: 1,
        sights: &[TwoCommandsCommitted],
        ..THREE
    },
    Bounds {
        name: "divergence",
        about: "a leader whose followers hold something else",
        start: Start::Split,
        network: Network::InOrder,
        window: 2,
        appends: true,
        heartbeats: true,
        terms: 3,
        ticks: 1,
        sights: &[Committed, Truncated],
        ..THREE
    },
    Bounds {
        name: "figure-8",
        about: "entries of earlier terms on a majority",
        start: Start::Split,
        network: Network::InOrder,
        appends: true,
        terms: 4,
        sights: &[Committed, Truncated, MajorityOverwritten],
        ..THREE
    },
    Bounds {
        name: "generations",
        about: "entries that are cut before they are flushed",
        start: Start::Split,
        network: Network::InOrder,
        appends: true,
        slow_log: true,
        terms: 4,
        sights: &[Committed, Truncated],
        ..THREE
    },
    Bounds {
        name: "crashes",
        about: "a restart that takes what was not flushed",
        start: Start::Led,
        network: Network::InOrder,
        appends: true,
        slow_log: true,
        commands: 1,
        restarts: 1,
        sights: &[LostInACrash, Truncated, CommittedByTwoLeaders],
        ..THREE
    },
    Bounds {
        name: "reads",
        about: "two reads, and another leader",
        start: Start::Led,
        network: Network::InOrder,
        window: 2,
        appends: true,
        heartbeats: true,
        reads: 2,
        sights: &[ReadAnswered, ReadOfALaterLeader, TwoLeadersAtOnce],
        ..THREE
    },
    Bounds {
        name: "follower-reads",
        about: "a read on any node, and another leader",
        start: Start::Led,
        network: Network::InOrder,
        window: 2,
        appends: true,
        heartbeats: true,
        reads: 1,
        reads_on_followers: true,
        sights: &[ReadOnAFollower, ReadOfALaterLeader, TwoLeadersAtOnce],
        ..THREE
    },
    Bounds {
        name: "forwards",
        about: "two proposals of followers, and another leader; messages repeat",
        start: Start::Led,
        appends: true,
        forwards: 2,
        sights: &[ForwardedCommitted, CommittedByTwoLeaders, Truncated],
        ..THREE
    },
    Bounds {
        name: "full-disks",
        about: "a full leader that gives way, a command, and room again",
        start: Start::Led,
        network: Network::InOrder,
        appends: true,
        heartbeats: true,
        commands: 1,
        fills: 2,
        sights: &[Resigned, SecondLeader, CommittedByTwoLeaders],
        ..THREE
    },
    Bounds {
        name: "joint-commit",
        about: "{1, 2, 3} becomes joint, or does not; a command, a restart",
        start: Start::Entering,
        network: Network::InOrder,
        appends: true,
        commands: 1,
        restarts: 1,
        sights: &[CommittedInJoint, ChangeCut, SecondLeader],
        ..THREE
    },
    Bounds {
        name: "joint-terms",
        about: "the same, and another leader",
        start: Start::Entering,
        network: Network::InOrder,
        appends: true,
        terms: 3,
        sights: &[CommittedInJoint, ChangeCut, CommittedByTwoLeaders, TwoLeadersAtOnce],
        ..THREE
    },
    Bounds {
        name: "joint-reads",
        about: "the same, and a read",
        start: Start::Entering,
        network: Network::InOrder,
        appends: true,
        heartbeats: true,
        terms: 3,
        reads: 1,
        sights: &[ReadInJoint, ChangeCut, ReadOfALaterLeader, TwoLeadersAtOnce],
        ..THREE
    },
    Bounds {
        name: "joint-left",
        about: "{3} decides alone, and the others do not know; a command, a read, a restart",
        start: Start::Leaving,
        network: Network::InOrder,
        appends: true,
        heartbeats: true,
        terms: 3,
        commands: 1,
        reads: 1,
        restarts: 1,
        sights: &[CommandCommittedByOne, ReadAnswered],
        ..THREE
    },
];

/// The bounds for a longer look: what `SMALL` has, and further, where that ends within minutes and some
/// gigabytes.
pub(crate) const LARGE: [Bounds; 13] = {
    let [
        votes,
        elections,
        pre_votes,
        _,
        joint,
        replication,
        repetition,
        _,
        figure_8,
        _,
        _,
        reads,
        follower_reads,
        _,
        full_disks,
        joint_commit,
        joint_terms,
        _,
        joint_left,
    ] = SMALL;
    [
        Bounds { restarts: 2, ..votes },
        Bounds { terms: 4, ..elections },
        Bounds { restarts: 1, ..pre_votes },
        Bounds { window: 2, ..joint },
        Bounds { commands: 2, ..replication },
        Bounds { window: 3, ..repetition },
        Bounds { window: 2, ..figure_8 },
        Bounds { restarts: 1, ..reads },
        Bounds { reads: 2, ..follower_reads },
        Bounds { ticks: 1, ..full_disks },
        Bounds { slow_log: true, ..joint_commit },
        Bounds { commands: 1, ..joint_terms },
        Bounds { terms: 4, ..joint_left },
    ]
};
