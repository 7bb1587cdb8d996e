//! What a node takes and what it leaves: from a leader, from callers, from its own log, from its clock.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::record::Origin;
use crate::wal::Fetch;

/// Each look at it finds it a second later.
#[derive(Default)]
struct Hurrying(AtomicU64);

impl Clock for Hurrying {
    fn now(&self) -> Time {
        Time(self.0.fetch_add(1_000_000_000, Ordering::SeqCst))
    }
}

impl Rig {
    /// Everything but the `apply` loop, which is late.
    fn turn_without_applying(&mut self) {
        self.seg();
        for _ in 0..4 {
            self.core.step(self.now);
            while self.wal.step(self.now) == Wait::No {}
        }
    }

    fn is_answered(place: &Place<EntryId>) -> bool {
        place.group.is_answered(place.slot)
    }

    /// The forwards that were sent since the last look.
    fn forwards(&self) -> Vec<(Term, u64)> {
        let sent: Vec<_> = self.tap.sent.lock().drain(..).collect();
        let forwards = sent.into_iter().filter_map(|envelope| match envelope.message {
            Message::Forward(forward) => Some((forward.term, forward.sequence)),
            _ => None,
        });
        forwards.collect()
    }
}

// Known bug 26.
#[test]
fn a_follower_takes_no_more_than_it_can_apply() {
    let mut rig = Rig::new(3, config());
    let most = rig.shared.config.max_unapplied_bytes as u64;
    rig.heartbeat(1, 0);
    rig.turn();
    let append = |rig: &Rig| rig.append(1, rig.last(), 2, 4 << 10, rig.last().index.0 + 2);
    for _ in 0..60 {
        append(&rig);
        rig.turn_without_applying();
    }
    let taken = rig.last().index.0 * (4 << 10);
    assert!(most - (8 << 10) < taken && taken <= most + (16 << 10), "{taken} bytes, not {most}");
    let last = rig.last();
    rig.turn();
    append(&rig);
    rig.turn_without_applying();
    assert!(rig.last() > last, "it goes on once it has applied");
}

// Known bug 26.
#[test]
fn a_leader_takes_no_more_than_it_can_apply() {
    let mut rig = Rig::new(1, config());
    let most = rig.shared.config.max_unapplied_bytes as u64;
    rig.seg();
    rig.elect();
    let before = rig.last().index.0;
    let places: Vec<_> = (0..30).map(|_| rig.propose(8 << 10)).collect();
    for _ in 0..60 {
        rig.turn_without_applying();
    }
    let taken = (rig.last().index.0 - before) * (8 << 10);
    assert!(most - (8 << 10) < taken && taken <= most + (16 << 10), "{taken} bytes, not {most}");
    for _ in 0..10 {
        rig.seg();
        rig.turn();
    }
    assert!(places.iter().all(Rig::is_answered), "the rest waited");
}

// Known bug 10.
#[test]
fn a_machine_that_keeps_its_own_state_is_given_each_entry_once() {
    let disk = Arc::new(SimDisk::new(1));
    let machine = |last| Counter { keeps_state: true, last, first: None };
    let run = |last: EntryId| {
        let mut rig = Rig::on(&disk, 1, config(), machine(last));
        rig.seg();
        rig.elect();
        for _ in 0..3 {
            rig.propose(8);
            rig.turn();
        }
        let state = rig.shared.state.read();
        (state.first.expect("three commands"), state.last)
    };
    let (first, kept) = run(EntryId::ZERO);
    assert_eq!((first.index, kept.index), (LogIndex(2), LogIndex(4)));
    let (first, _) = run(kept);
    assert!(first.index > kept.index, "given {first} again, after {kept}");
}

// Known bug 25.
#[test]
fn a_machine_that_is_not_short_after_all_is_left_to_its_own_thread() {
    for is_slow in [false, true] {
        let tap = Tap::default();
        let disk = Arc::new(SimDisk::new(1));
        let mut builder = builder(&disk, 1, config(), Counter::default(), tap.clone());
        if is_slow {
            builder = builder.clock(Arc::new(Hurrying::default()));
        }
        let mut rig = Rig::of(builder, tap);
        rig.core.applies_here = true;
        rig.seg();
        rig.elect();
        rig.propose(8);
        rig.turn();
        let place = rig.propose(8);
        rig.turn_without_applying();
        assert_eq!(Rig::is_answered(&place), !is_slow);
        rig.turn();
        assert!(Rig::is_answered(&place));
    }
}

#[test]
fn time_stamps_never_go_back_along_the_log_whatever_the_clocks_do() {
    let mut rig = Rig::new(3, config());
    rig.seg();
    // The leader before had a clock far ahead.
    let (id, kind) = (EntryId::new(Term(1), LogIndex(1)), EntryKind::Command);
    let mut records = Vec::new();
    RecordHeader { id, time: u64::MAX / 2, kind, origin: None }.write(b"late", &mut records);
    rig.receive(2, Message::Append(Append { term: Term(1), ..Append::default() }), records);
    rig.turn();
    rig.elect();
    rig.propose(8);
    rig.turn();
    let Fetch::Hot(records, last) = rig.core.log.slices(LogIndex(0), 1 << 16) else {
        panic!("it is in memory");
    };
    let times: Vec<u64> = Records::trusted(&records)
        .map(|record| record.expect("a record of this log").header.time)
        .collect();
    assert_eq!((times.len(), last), (3, LogIndex(3)));
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_node_that_was_stopped_for_long_does_not_make_up_for_the_ticks_it_missed() {
    let mut rig = Rig::new(3, config());
    rig.heartbeat(1, 0);
    rig.turn();
    rig.now = rig.now.after(rig.shared.config.tick * 1000);
    for _ in 0..200 {
        rig.turn();
    }
    assert_eq!(rig.core.core.leader(), Some(NodeId(2)), "it has had no time to hear its leader");
}

#[test]
fn what_a_deposed_leader_was_sent_takes_no_room_from_what_the_next_one_is() {
    let mut rig = Rig::new(3, Config { max_peer_queue_bytes: 96 << 10, ..config() });
    let share = rig.shared.config.max_peer_queue_bytes / 3;
    rig.heartbeat(1, 0);
    rig.turn();
    let mut sent = 0;
    for _ in 0..share / (8 << 10) + 2 {
        rig.propose(8 << 10);
        rig.turn();
        sent += rig.forwards().len() as u64;
    }
    rig.turn();
    assert_eq!(rig.forwards(), [], "it has sent its share");
    rig.heartbeat(2, 0);
    rig.turn();
    assert_eq!(rig.forwards().first(), Some(&(Term(2), sent + 1)));
}

#[test]
fn an_entry_of_an_earlier_start_or_of_another_directory_answers_nobody() {
    let mut rig = Rig::new(3, config());
    rig.seg();
    rig.heartbeat(1, 0);
    rig.turn();
    let place = rig.propose(8);
    rig.turn();
    assert_eq!(rig.forwards(), [(Term(1), 1)]);
    let me = rig.core.me;
    let mut store = |index: u64, incarnation: Incarnation, boot: BootCount| {
        let prev = EntryId::new(Term(u64::from(index > 1)), LogIndex(index - 1));
        let origin = Some(Origin { incarnation, boot, sequence: 1 });
        let (id, kind) = (EntryId::new(Term(1), LogIndex(index)), EntryKind::Command);
        let mut records = Vec::new();
        RecordHeader { id, time: 0, kind, origin }.write(&[0; 8], &mut records);
        let committed = LogIndex(index);
        let append = Append { term: Term(1), prev, committed, ..Append::default() };
        rig.receive(2, Message::Append(append), records);
        rig.turn();
        place.group.try_take(place.slot)
    };
    // Whoever wrote these counted from one as well.
    let before_a_wipe = store(1, Incarnation(me.incarnation.0 ^ 1), me.boot);
    assert!(before_a_wipe.is_none(), "{before_a_wipe:?}");
    let before_a_restart = store(2, me.incarnation, BootCount(me.boot.0 - 1));
    assert!(before_a_restart.is_none(), "{before_a_restart:?}");
    match store(3, me.incarnation, me.boot) {
        Some(Answer::Response(id)) => assert_eq!(id.index, LogIndex(3)),
        other => panic!("{other:?}"),
    }
}
