//! Whatever peers send, a core does not panic, and keeps its own promises.
//!
//! The messages here are drawn at random from numbers that hurt: zeros, neighbours of what the core
//! knows, and the largest there are. The core's own checks after each step are on.

#![allow(clippy::wildcard_imports, reason = "the support module is the language of these tests")]

mod support;

use oarlock::consensus::{Core, Input, Options, Restored};
use oarlock::message::{
    Append, AppendOutcome, AppendReply, Entries, Heartbeat, HeartbeatReply, Message, ReadRound,
    TermRun, Vote, VoteReply,
};
use oarlock::{
    BootCount, EntryId, HardState, Incarnation, LogIndex, Membership, NodeId, Role, Sender, Term,
};
use proptest::prelude::*;
use support::*;

/// A number that is near others, or at the end of the scale.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..14_u64,
        1 => prop_oneof![Just(u64::MAX), Just(u64::MAX - 1), Just(1 << 62), Just((1 << 62) - 1)],
    ]
}

fn entry_id() -> impl Strategy<Value = EntryId> {
    (number(), number()).prop_map(|(term, index)| EntryId::new(Term(term), LogIndex(index)))
}

fn membership() -> impl Strategy<Value = Membership> {
    let nodes = || proptest::collection::vec(0..6_u64, 0..4);
    (nodes(), nodes(), nodes()).prop_map(|(incoming, outgoing, learners)| Membership {
        learners: members(learners).into_iter().collect(),
        ..joint(incoming, outgoing)
    })
}

/// Any shape, most of them impossible.
fn wild_entries() -> impl Strategy<Value = Entries> {
    let run = (number(), number())
        .prop_map(|(first, term)| TermRun { first: LogIndex(first), term: Term(term) });
    let change = (number().prop_map(LogIndex), membership());
    let runs = proptest::collection::vec(run, 0..4);
    (runs, number(), proptest::collection::vec(change, 0..2))
        .prop_map(|(runs, last, memberships)| Entries { runs, last: LogIndex(last), memberships })
}

/// An append whose shape is possible: rising terms, no gaps.
fn tame_append() -> impl Strategy<Value = Append> {
    let steps =
        proptest::collection::vec((0..2_u64, proptest::option::weighted(0.2, membership())), 0..5);
    (0..8_u64, 1..5_u64, steps, 0..3_u64, 0..10_u64).prop_map(
        |(prev, prev_term, steps, above, committed)| {
            let prev_term = if prev == 0 { 0 } else { prev_term };
            let mut entries = Entries::default();
            let mut term = prev_term;
            for (place, (rise, change)) in (1..).zip(steps) {
                term = (term + rise).max(1);
                entries.push(entry(term, prev + place));
                entries.memberships.extend(change.map(|change| (LogIndex(prev + place), change)));
            }
            let prev = entry(prev_term, prev);
            let term = Term((term + above).max(1));
            Append { term, prev, committed: LogIndex(committed), entries }
        },
    )
}

fn message() -> BoxedStrategy<Message> {
    let term = || number().prop_map(Term);
    let index = || number().prop_map(LogIndex);
    let round = || number().prop_map(ReadRound);
    let outcome = prop_oneof![
        index().prop_map(|matched| AppendOutcome::Accepted { matched }),
        (index(), entry_id()).prop_map(|(prev, hint)| AppendOutcome::Rejected { prev, hint }),
    ];
    prop_oneof![
        1 => (term(), entry_id(), any::<bool>(), any::<bool>()).prop_map(
            |(term, last, pre, transfer)| Message::Vote(Vote { term, last, pre, transfer })
        ),
        1 => (term(), any::<bool>(), any::<bool>())
            .prop_map(|(term, granted, pre)| Message::VoteReply(VoteReply { term, granted, pre })),
        1 => (term(), entry_id(), index(), wild_entries()).prop_map(
            |(term, prev, committed, entries)| Message::Append(Append {
                term,
                prev,
                committed,
                entries
            })
        ),
        3 => tame_append().prop_map(Message::Append),
        1 => (term(), outcome)
            .prop_map(|(term, outcome)| Message::AppendReply(AppendReply { term, outcome })),
        1 => (term(), index(), round(), index()).prop_map(|(term, committed, round, replicated)| {
            Message::Heartbeat(Heartbeat { term, committed, round, replicated })
        }),
        1 => (term(), round(), index(), any::<bool>()).prop_map(|(term, round, matched, full)| {
            Message::HeartbeatReply(HeartbeatReply { term, round, matched, full })
        }),
    ]
    .boxed()
}

fn from() -> impl Strategy<Value = Sender> {
    (0..6_u64, 0..3_u128, 0..3_u64).prop_map(|(node, incarnation, boot)| Sender {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        boot: BootCount(boot),
    })
}

fn input() -> BoxedStrategy<Input> {
    prop_oneof![
        12 => (from(), message()).prop_map(|(from, message)| Input::Message { from, message }),
        3 => Just(Input::Tick),
        1 => Just(Input::Campaign),
        1 => (1..4_u64).prop_map(|count| Input::Propose { count }),
        1 => Just(Input::Read),
        1 => (0..6_u64, number(), 0..100_usize).prop_map(|(to, last, bytes)| Input::Sent {
            to: NodeId(to),
            last: LogIndex(last),
            bytes,
        }),
        1 => (0..6_u64).prop_map(|to| Input::Dropped { to: NodeId(to) }),
        1 => any::<bool>().prop_map(Input::Fit),
        1 => any::<bool>().prop_map(Input::Full),
    ]
    .boxed()
}

/// What the disk does after an input: whether it stores term and vote, and the log.
fn flushes() -> impl Strategy<Value = (bool, bool)> {
    any::<(bool, bool)>()
}

fn flush(core: &mut Core, (hard_state, log): (bool, bool)) {
    if hard_state {
        core.step(Input::HardStatePersisted(core.hard_state()));
    }
    if log {
        let (generation, index) = (core.generation(), core.last().index);
        core.step(Input::Persisted { generation, index });
    }
}

fn restored() -> impl Strategy<Value = Restored> {
    let steps = proptest::collection::vec(0..2_u64, 0..5);
    (0..4_u64, steps, membership(), 0..8_u64).prop_map(|(base, steps, membership, term)| {
        let mut last = u64::from(base != 0);
        let base = entry(last, base);
        let terms: Vec<u64> = steps
            .into_iter()
            .map(|rise| {
                last = (last + rise).max(1);
                last
            })
            .collect();
        Restored {
            hard_state: HardState { term: Term(term), voted_for: None },
            base,
            entries: entries_after(base.index.0, &terms),
            membership,
            committed: base.index,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_sequence_of_messages_makes_a_core_panic(
        restored in restored(),
        flags in any::<(bool, bool)>(),
        starts_as_leader in any::<bool>(),
        inputs in proptest::collection::vec((input(), flushes()), 0..60),
    ) {
        let (pre_vote, check_quorum) = flags;
        let options = Options { pre_vote, check_quorum, ..options(1) };
        let membership = if starts_as_leader { voters([1, 2, 3]) } else { restored.membership };
        let mut node = Quick::new(Core::new(options, Restored { membership, ..restored }));
        if starts_as_leader {
            node.lead();
            prop_assert_eq!(node.core.role(), Role::Leader);
        }
        for (input, flushes) in inputs {
            node.core.step(input);
            flush(&mut node.core, flushes);
        }
    }
}
