//! Could a correct node have sent this? Messages that contradict themselves are ignored.
//!
//! What passes here can be computed with: indexes and terms are far from overflowing, an append's
//! entries are consecutive, their terms do not fall and none is later than the append's own.

use crate::message::{Append, AppendOutcome, Entries, Message};
use crate::types::{EntryId, LogIndex, Term};

/// Terms and indexes beyond this are never reached by counting.
const BEYOND_COUNTING: u64 = 1 << 62;

/// The last term in which a node would stand.
pub(super) const LAST_TERM: Term = Term(BEYOND_COUNTING - 1);

/// Whether the message makes sense in itself.
pub(super) fn is_plausible(message: &Message) -> bool {
    if message.term().0 >= BEYOND_COUNTING {
        return false;
    }
    // Term 0 is before the first election: nobody leads it or stands in it.
    let is_in_a_term = message.term() > Term(0);
    match message {
        Message::Vote(vote) => is_in_a_term && is_entry(vote.last) && vote.last.term < vote.term,
        Message::VoteReply(_) => true,
        Message::HeartbeatReply(reply) => is_countable(reply.matched),
        Message::Append(append) => is_in_a_term && is_append(append),
        Message::AppendReply(reply) => match reply.outcome {
            AppendOutcome::Accepted { matched } => is_countable(matched),
            AppendOutcome::Rejected { prev, hint } => is_countable(prev) && is_entry(hint),
        },
        Message::Heartbeat(_) | Message::ReadIndex(_) => is_in_a_term,
        Message::Forward(forward) => {
            is_in_a_term
                && (1..BEYOND_COUNTING).contains(&forward.sequence)
                && (1..BEYOND_COUNTING).contains(&forward.count)
        }
        Message::ForwardReply(reply) => {
            is_in_a_term && reply.first > LogIndex::ZERO && is_countable(reply.first)
        }
        Message::ReadIndexReply(reply) => is_in_a_term && is_countable(reply.index),
    }
}

fn is_countable(index: LogIndex) -> bool {
    index.0 < BEYOND_COUNTING
}

/// An entry has an index and a term, the place before the first has neither.
fn is_entry(id: EntryId) -> bool {
    is_countable(id.index)
        && id.term.0 < BEYOND_COUNTING
        && (id.index == LogIndex::ZERO) == (id.term == Term(0))
}

fn is_append(append: &Append) -> bool {
    is_entry(append.prev)
        && append.prev.term <= append.term
        && (append.entries.is_empty()
            || are_entries_after(append.prev, append.term, &append.entries))
}

fn are_entries_after(prev: EntryId, latest: Term, entries: &Entries) -> bool {
    let mut first = prev.index.next();
    let mut term = prev.term;
    for (at, run) in entries.runs.iter().enumerate() {
        let begins_in_place = if at == 0 { run.first == first } else { run.first > first };
        let term_is_in_order = if at == 0 { run.term >= term } else { run.term > term };
        if !begins_in_place || !term_is_in_order || run.term == Term(0) || run.term > latest {
            return false;
        }
        (first, term) = (run.first, run.term);
    }
    let mut before = prev.index;
    let memberships_in_order = entries.memberships.iter().all(|(index, membership)| {
        let in_order = before < *index && *index <= entries.last;
        before = *index;
        in_order && !membership.voters.is_empty()
    });
    first <= entries.last && is_countable(entries.last) && memberships_in_order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Member, Membership};
    use crate::message::{AppendReply, TermRun, Vote};
    use crate::types::NodeId;

    fn run(first: u64, term: u64) -> TermRun {
        TermRun { first: LogIndex(first), term: Term(term) }
    }

    fn append() -> Append {
        Append {
            term: Term(5),
            prev: EntryId::new(Term(2), LogIndex(7)),
            committed: LogIndex(3),
            entries: Entries {
                runs: vec![run(8, 2), run(10, 4)],
                last: LogIndex(12),
                memberships: vec![(LogIndex(9), members()), (LogIndex(12), members())],
            },
        }
    }

    fn members() -> Membership {
        Membership::of_voters([(NodeId(1), Member::default())])
    }

    fn check(change: impl FnOnce(&mut Append)) -> bool {
        let mut append = append();
        change(&mut append);
        is_plausible(&Message::Append(append))
    }

    #[test]
    fn an_append_of_consecutive_entries_makes_sense() {
        assert!(check(|_| {}));
        assert!(check(|append| append.entries = Entries::default()));
        assert!(check(|append| append.committed = LogIndex(u64::MAX)), "bounded when it is used");
    }

    #[test]
    fn an_append_that_contradicts_itself_does_not() {
        assert!(!check(|append| append.term = Term(0)));
        assert!(!check(|append| append.term = Term(3)), "an entry from the future");
        assert!(!check(|append| append.term = Term(u64::MAX)));
        assert!(!check(|append| append.prev = EntryId::new(Term(0), LogIndex(7))));
        assert!(!check(|append| append.prev = EntryId::new(Term(2), LogIndex(u64::MAX))));
        assert!(!check(|append| append.prev.index = LogIndex(6)), "a gap");
        assert!(!check(|append| append.prev.term = Term(3)), "the first entry's term falls");
        assert!(!check(|append| append.entries.runs[1] = run(10, 1)), "a term falls");
        assert!(!check(|append| append.entries.runs[1] = run(10, 2)), "two runs of one term");
        assert!(!check(|append| append.entries.runs[1] = run(8, 4)), "an empty run");
        assert!(!check(|append| append.entries.last = LogIndex(9)), "an end before the last run");
        assert!(!check(|append| append.entries.last = LogIndex(u64::MAX)));
        assert!(!check(|append| append.entries.memberships[0].0 = LogIndex(7)));
        assert!(!check(|append| append.entries.memberships[1].0 = LogIndex(13)));
        assert!(!check(|append| append.entries.memberships[1].0 = LogIndex(9)), "two in one entry");
        assert!(!check(|append| append.entries.memberships[0].1 = Membership::default()));
    }

    #[test]
    fn answers_with_numbers_that_cannot_be_counted_to_do_not() {
        let beyond = LogIndex(u64::MAX);
        let hint = EntryId::ZERO;
        for outcome in [
            AppendOutcome::Accepted { matched: beyond },
            AppendOutcome::Rejected { prev: beyond, hint },
            AppendOutcome::Rejected {
                prev: LogIndex(1),
                hint: EntryId::new(Term(1), LogIndex::ZERO),
            },
        ] {
            let reply = AppendReply { term: Term(1), outcome };
            assert!(!is_plausible(&Message::AppendReply(reply)), "{outcome:?}");
        }
    }

    #[test]
    fn nobody_stands_in_the_term_of_its_own_last_entry() {
        let vote = Vote {
            term: Term(3),
            last: EntryId::new(Term(2), LogIndex(1)),
            pre: false,
            transfer: false,
        };
        assert!(is_plausible(&Message::Vote(vote)));
        let term_of_last = Vote { term: Term(2), ..vote };
        assert!(!is_plausible(&Message::Vote(term_of_last)));
    }
}
