//! What must always hold (Raft figure 3), and what must happen somewhere, lest a check be empty.

use oarlock::{LogIndex, NodeId, Role, Term};

use crate::bounds::Stage;
use crate::state::{Entry, Frozen, Node, State};

/// A property of every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    OneLeader,
    LogsMatch,
    LeadersAreComplete,
    CommittedByAQuorum,
    CommittedIsKept,
    CommittedIsOne,
    PromisesAreStored,
    ReadsAreFresh,
    ReadsAreConfirmed,
    ForwardsOnce,
    CoreAsserts,
}

impl Rule {
    pub(crate) const ALL: [Self; 11] = [
        Self::OneLeader,
        Self::LogsMatch,
        Self::LeadersAreComplete,
        Self::CommittedByAQuorum,
        Self::CommittedIsKept,
        Self::CommittedIsOne,
        Self::PromisesAreStored,
        Self::ReadsAreFresh,
        Self::ReadsAreConfirmed,
        Self::ForwardsOnce,
        Self::CoreAsserts,
    ];

    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::OneLeader => "a term has one leader",
            Self::LogsMatch => "logs that share an entry are equal before it",
            Self::LeadersAreComplete => "a leader holds all that is committed",
            Self::CommittedByAQuorum => "what is committed was on a quorum of disks",
            Self::CommittedIsKept => "what is committed stays on a quorum of disks",
            Self::CommittedIsOne => "all nodes commit the same entries",
            Self::PromisesAreStored => "what a message promises is on its sender's disk",
            Self::ReadsAreFresh => "a read sees all that was committed before it",
            Self::ReadsAreConfirmed => "a quorum knew no later leader when a read came in",
            Self::ForwardsOnce => "a log holds what a node forwarded once, and in its order",
            Self::CoreAsserts => "the core's own assertions hold",
        }
    }
}

/// The rules that a state has broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rules(u16);

impl Rules {
    pub(crate) fn add(&mut self, rule: Rule) {
        self.0 |= 1 << rule as u16;
    }

    pub(crate) fn has(self, rule: Rule) -> bool {
        self.0 & 1 << rule as u16 != 0
    }

    /// Forgets that any other rules were broken.
    pub(crate) fn retain(&mut self, rules: [Rule; 2]) {
        self.0 &= rules.into_iter().fold(0, |kept, rule| kept | 1 << rule as u16);
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Something that has to be seen in some state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    Leader,
    SecondLeader,
    TwoLeadersAtOnce,
    Resigned,
    Committed,
    CommittedByTwoLeaders,
    TwoCommandsCommitted,
    Truncated,
    MajorityOverwritten,
    LostInACrash,
    ReadAnswered,
    ReadOfALaterLeader,
    ReadOnAFollower,
    ForwardedCommitted,
    CommittedInJoint,
    CommandCommittedByOne,
    ChangeCut,
    ReadInJoint,
}

impl Sight {
    pub(crate) const ALL: [Self; 18] = [
        Self::Leader,
        Self::SecondLeader,
        Self::TwoLeadersAtOnce,
        Self::Resigned,
        Self::Committed,
        Self::CommittedByTwoLeaders,
        Self::TwoCommandsCommitted,
        Self::Truncated,
        Self::MajorityOverwritten,
        Self::LostInACrash,
        Self::ReadAnswered,
        Self::ReadOfALaterLeader,
        Self::ReadOnAFollower,
        Self::ForwardedCommitted,
        Self::CommittedInJoint,
        Self::CommandCommittedByOne,
        Self::ChangeCut,
        Self::ReadInJoint,
    ];

    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::Leader => "somebody leads",
            Self::SecondLeader => "somebody else leads later",
            Self::TwoLeadersAtOnce => "two nodes lead, in different terms",
            Self::Resigned => "a leader gives up in its own term",
            Self::Committed => "an entry is committed",
            Self::CommittedByTwoLeaders => "entries of two terms are committed",
            Self::TwoCommandsCommitted => "two commands of one leader are committed",
            Self::Truncated => "a log is cut",
            Self::MajorityOverwritten => "an entry that a majority held is cut (figure 8)",
            Self::LostInACrash => "a crash takes an entry that was not flushed",
            Self::ReadAnswered => "a read is answered",
            Self::ReadOfALaterLeader => "a read is answered in a later leader's term",
            Self::ReadOnAFollower => "a follower answers a read",
            Self::ForwardedCommitted => "what a follower forwarded is committed",
            Self::CommittedInJoint => "a joint membership commits an entry of its leader's term",
            Self::CommandCommittedByOne => "a command is committed by {3} alone",
            Self::ChangeCut => "a joint membership is cut",
            Self::ReadInJoint => "a read is answered in a joint membership",
        }
    }

    pub(crate) fn is_in(self, state: &State) -> bool {
        let roles = |role| state.nodes.iter().filter(move |node| node.core.role() == role);
        let onlooker = &state.onlooker;
        match self {
            Self::Leader => roles(Role::Leader).next().is_some(),
            Self::SecondLeader => {
                let mut leaders = onlooker.leaders.iter().flatten();
                leaders.next().is_some_and(|first| leaders.any(|later| later != first))
            }
            Self::TwoLeadersAtOnce => roles(Role::Leader).count() > 1,
            Self::Resigned => roles(Role::Follower).any(|node| {
                node.core.leader().is_none()
                    && onlooker.leader_of(node.core.term()) == Some(node.id())
            }),
            Self::Committed => !onlooker.committed.is_empty(),
            Self::CommittedByTwoLeaders => {
                let mut terms = onlooker.committed.iter().map(|entry| entry.id.term);
                terms.next().is_some_and(|first| terms.any(|later| later != first))
            }
            // And the no-op that began the term.
            Self::TwoCommandsCommitted => {
                onlooker.committed.len() > 2
                    && onlooker.committed.iter().all(|entry| entry.id.term == Term(1))
            }
            Self::Truncated => state.nodes.iter().any(|node| node.core.generation().0 > 0),
            Self::MajorityOverwritten => onlooker.majority_overwritten,
            Self::LostInACrash => onlooker.lost_in_a_crash,
            Self::ReadAnswered => onlooker.reads_answered.any,
            Self::ReadOfALaterLeader => onlooker.reads_answered.later,
            Self::ReadOnAFollower => onlooker.reads_answered.on_follower,
            Self::ForwardedCommitted => {
                onlooker.committed.iter().any(|entry| entry.sequence.is_some())
            }
            Self::CommittedInJoint => onlooker.was_committed_under(Stage::Joint, 1),
            // And the no-op that began the term.
            Self::CommandCommittedByOne => onlooker.was_committed_under(Stage::One, 2),
            Self::ChangeCut => onlooker.change_cut,
            Self::ReadInJoint => onlooker.reads_answered.in_joint,
        }
    }
}

/// What only somebody who sees all nodes, and remembers, can know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Onlooker {
    /// Who led each term, from term 1.
    pub(crate) leaders: Vec<Option<NodeId>>,
    /// The longest prefix that any node has announced as committed.
    pub(crate) committed: Vec<Entry>,
    /// In which term, and under which membership, each of them was first announced.
    pub(crate) committed_in: Vec<(Term, Stage)>,
    /// Whether a truncation has taken an entry that a majority of disks held.
    pub(crate) majority_overwritten: bool,
    pub(crate) lost_in_a_crash: bool,
    /// Whether a truncation has taken a membership.
    pub(crate) change_cut: bool,
    pub(crate) reads_answered: ReadsAnswered,
}

/// Which kinds of reads were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a sight of its own")]
pub(crate) struct ReadsAnswered {
    pub(crate) any: bool,
    /// In a term that is not the first.
    pub(crate) later: bool,
    pub(crate) on_follower: bool,
    pub(crate) in_joint: bool,
}

impl Onlooker {
    pub(crate) fn leader_of(&self, term: Term) -> Option<NodeId> {
        *self.leaders.get(term.0.checked_sub(1)? as usize)?
    }

    pub(crate) fn saw_leader(&mut self, term: Term, node: &Node, broken: &mut Rules) {
        let place = term.0 as usize - 1;
        if self.leaders.len() <= place {
            self.leaders.resize(place + 1, None);
        }
        if *self.leaders[place].get_or_insert(node.id()) != node.id() {
            broken.add(Rule::OneLeader);
        }
        // A late leader of an earlier term knows nothing of what later ones have committed.
        let earlier = self.committed_in.partition_point(|(announced, _)| *announced < term);
        if !node.log.starts_with(&self.committed[..earlier]) {
            broken.add(Rule::LeadersAreComplete);
        }
    }

    /// `node` announces entries up to `index` as committed; `others` are the nodes besides it.
    pub(crate) fn saw_commit(
        &mut self,
        index: LogIndex,
        stage: Stage,
        node: &Node,
        others: &[&Node],
        broken: &mut Rules,
    ) {
        for at in node.committed.0 as usize..index.0 as usize {
            let entry = node.log[at];
            match self.committed.get(at) {
                Some(known) if *known == entry => {}
                Some(_) => broken.add(Rule::CommittedIsOne),
                None => {
                    self.committed.push(entry);
                    self.committed_in.push((node.core.term(), stage));
                    if !is_on_a_quorum(at, entry, stage, node, others) {
                        broken.add(Rule::CommittedByAQuorum);
                    }
                }
            }
        }
    }

    /// Whether a leader with this membership has committed so many entries of its own term.
    fn was_committed_under(&self, stage: Stage, entries: usize) -> bool {
        let announced = self.committed.iter().zip(&self.committed_in);
        let own =
            announced.filter(|(entry, (term, under))| entry.id.term == *term && *under == stage);
        own.count() >= entries
    }
}

/// Whether the disks of a quorum hold `entry` at this place.
pub(crate) fn is_on_a_quorum(
    at: usize,
    entry: Entry,
    stage: Stage,
    node: &Node,
    others: &[&Node],
) -> bool {
    stage.decides(|id| {
        let mut nodes = others.iter().copied().chain([node]);
        nodes.any(|node| node.id() == id && node.disk.log.get(at) == Some(&entry))
    })
}

/// The rules that need no history.
pub(crate) fn check_state(changed: usize, state: &mut State) {
    let node = &state.nodes[changed];
    let others: Vec<&Node> = others(&state.nodes, changed);
    if others.iter().any(|other| !logs_match(&node.log, &other.log)) {
        state.broken.add(Rule::LogsMatch);
    }
    if !forwards_rise(&node.log) {
        state.broken.add(Rule::ForwardsOnce);
    }
    let onlooker = &state.onlooker;
    let mut committed = onlooker.committed.iter().zip(&onlooker.committed_in).enumerate();
    if committed.any(|(at, (entry, (_, stage)))| !is_on_a_quorum(at, *entry, *stage, node, &others))
    {
        state.broken.add(Rule::CommittedIsKept);
    }
}

pub(crate) fn others(nodes: &[Frozen<Node>], than: usize) -> Vec<&Node> {
    let others = nodes.iter().enumerate().filter(|(place, _)| *place != than);
    others.map(|(_, node)| &**node).collect()
}

/// By term and number: what a node concludes from its log hangs on that.
fn forwards_rise(log: &[Entry]) -> bool {
    log.iter().enumerate().all(|(at, entry)| {
        let earlier = log[..at].iter().filter(|earlier| earlier.by == entry.by);
        entry.sequence.is_none()
            || earlier.filter(|earlier| earlier.sequence.is_some()).all(|earlier| {
                (earlier.id.term, earlier.sequence) < (entry.id.term, entry.sequence)
            })
    })
}

fn logs_match(one: &[Entry], other: &[Entry]) -> bool {
    let shared = one.iter().zip(other).rposition(|(a, b)| a.id == b.id);
    shared.is_none_or(|last| one[..=last] == other[..=last])
}
