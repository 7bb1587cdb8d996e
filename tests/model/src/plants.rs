//! Bugs for the checker to find: drivers that break the core's rules, and networks that forge what a
//! broken core would have sent or believed.

use crate::rules::Rule;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    AcksBeforeStoring,
    VotesBeforeStoring,
    ForgetsVote,
    CountsOwnVoteTwice,
    VotesForStaleLogs,
    CommitsOlderTerms,
    ForgetsGenerations,
    CommitsUnverified,
    AcksUnverified,
    ReadsAtOnce,
    OldRoundsConfirm,
    TakesForwardsAgain,
    ElectsByNewHalf,
    ElectsByOldHalf,
    CommitsByNewHalf,
    ReadsByNewHalf,
}

impl Plant {
    pub(crate) const ALL: [Self; 16] = [
        Self::AcksBeforeStoring,
        Self::VotesBeforeStoring,
        Self::ForgetsVote,
        Self::CountsOwnVoteTwice,
        Self::VotesForStaleLogs,
        Self::CommitsOlderTerms,
        Self::ForgetsGenerations,
        Self::CommitsUnverified,
        Self::AcksUnverified,
        Self::ReadsAtOnce,
        Self::OldRoundsConfirm,
        Self::TakesForwardsAgain,
        Self::ElectsByNewHalf,
        Self::ElectsByOldHalf,
        Self::CommitsByNewHalf,
        Self::ReadsByNewHalf,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AcksBeforeStoring => "acks-before-storing",
            Self::VotesBeforeStoring => "votes-before-storing",
            Self::ForgetsVote => "forgets-vote",
            Self::CountsOwnVoteTwice => "counts-own-vote-twice",
            Self::VotesForStaleLogs => "votes-for-stale-logs",
            Self::CommitsOlderTerms => "commits-older-terms",
            Self::ForgetsGenerations => "forgets-generations",
            Self::CommitsUnverified => "commits-unverified",
            Self::AcksUnverified => "acks-unverified",
            Self::ReadsAtOnce => "reads-at-once",
            Self::OldRoundsConfirm => "old-rounds-confirm",
            Self::TakesForwardsAgain => "takes-forwards-again",
            Self::ElectsByNewHalf => "elects-by-new-half",
            Self::ElectsByOldHalf => "elects-by-old-half",
            Self::CommitsByNewHalf => "commits-by-new-half",
            Self::ReadsByNewHalf => "reads-by-new-half",
        }
    }

    pub(crate) fn breaks(self) -> Rule {
        self.is_found().2
    }

    /// What is wrong, the model that shows it, and the rule that breaks.
    pub(crate) fn is_found(self) -> (&'static str, &'static str, Rule) {
        match self {
            Self::AcksBeforeStoring => (
                "entries are reported as persisted before the disk has them",
                "crashes",
                Rule::CommittedIsKept,
            ),
            Self::VotesBeforeStoring => (
                "term and vote are reported as persisted before the disk has them",
                "votes",
                Rule::OneLeader,
            ),
            Self::ForgetsVote => {
                ("a restart keeps the term and forgets the vote", "votes", Rule::OneLeader)
            }
            Self::CountsOwnVoteTwice => {
                ("a candidate's own vote is counted twice", "votes", Rule::OneLeader)
            }
            Self::VotesForStaleLogs => {
                ("any log is good enough for a vote", "replication", Rule::LeadersAreComplete)
            }
            Self::CommitsOlderTerms => (
                "a majority commits an entry of an earlier term (figure 8)",
                "figure-8",
                Rule::LeadersAreComplete,
            ),
            Self::ForgetsGenerations => (
                "the flush of an entry that was cut counts for the one that took its place",
                "generations",
                Rule::CommittedByAQuorum,
            ),
            Self::CommitsUnverified => (
                "a follower believes its leader's commit index beyond what it has verified",
                "divergence",
                Rule::CommittedIsOne,
            ),
            Self::AcksUnverified => (
                "a follower acknowledges all that it holds, not what it has verified",
                "replication",
                Rule::CommittedByAQuorum,
            ),
            Self::ReadsAtOnce => ("a read waits for no confirmation", "reads", Rule::ReadsAreFresh),
            Self::OldRoundsConfirm => {
                ("any answer confirms the latest round of reads", "reads", Rule::ReadsAreFresh)
            }
            Self::TakesForwardsAgain => (
                "a leader does not look at the number of what is forwarded",
                "forwards",
                Rule::ForwardsOnce,
            ),
            Self::ElectsByNewHalf => {
                ("the new half of a joint membership elects", "joint-terms", Rule::OneLeader)
            }
            Self::ElectsByOldHalf => (
                "the old half of a joint membership elects",
                "joint-left",
                Rule::LeadersAreComplete,
            ),
            Self::CommitsByNewHalf => (
                "the new half of a joint membership commits",
                "joint-terms",
                Rule::LeadersAreComplete,
            ),
            Self::ReadsByNewHalf => (
                "the new half of a joint membership confirms reads",
                "joint-reads",
                Rule::ReadsAreConfirmed,
            ),
        }
    }
}
