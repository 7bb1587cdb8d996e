//! The log against a plain vector, under random appends, truncations, flushes, failures, restarts and
//! crashes.

mod wal_rig;

use std::sync::Arc;

use oarlock::record::record_bytes;
use oarlock::simulation::{Fault, FaultError, Operation, SimDisk};
use oarlock::slices::Slices;
use oarlock::wal::{Fetch, Position};
use oarlock::{EntryId, LogIndex, Term};
use proptest::prelude::*;
use wal_rig::{Rig, decode, header};

type Entry = (EntryId, Vec<u8>);

/// What happens next. Numbers that choose among what there is are taken modulo its size.
#[derive(Clone, Copy, Debug)]
enum Step {
    Append {
        count: usize,
        bytes: usize,
        new_term: bool,
    },
    /// Copies entries from another log, as a follower does.
    Copy {
        count: usize,
        bytes: usize,
    },
    Publish,
    Flush,
    /// Flushes only a part of what was published.
    FlushSome(usize),
    Truncate(usize),
    Commit(usize),
    Release(usize),
    Prepare(usize),
    Cover,
    Hold(usize),
    LetGo,
    Read {
        from: usize,
        bytes: usize,
    },
    Restart,
    Crash {
        again: bool,
    },
    /// A flush fails after so many operations on the disk, and then the machine or the program dies.
    FailedFlush {
        after: u64,
        write: bool,
        power: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![4 => 0_usize..200, 2 => 200_usize..4000, 1 => 4000_usize..(16 << 10)];
    prop_oneof![
        12 => (1_usize..20, bytes.clone(), prop::bool::weighted(0.2))
            .prop_map(|(count, bytes, new_term)| Step::Append { count, bytes, new_term }),
        4 => (1_usize..20, bytes).prop_map(|(count, bytes)| Step::Copy { count, bytes }),
        6 => Just(Step::Publish),
        6 => Just(Step::Flush),
        3 => any::<usize>().prop_map(Step::FlushSome),
        3 => any::<usize>().prop_map(Step::Truncate),
        5 => any::<usize>().prop_map(Step::Commit),
        3 => any::<usize>().prop_map(Step::Release),
        5 => (0_usize..12).prop_map(Step::Prepare),
        2 => Just(Step::Cover),
        2 => any::<usize>().prop_map(Step::Hold),
        1 => Just(Step::LetGo),
        4 => (any::<usize>(), 0_usize..20_000).prop_map(|(from, bytes)| Step::Read { from, bytes }),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(|again| Step::Crash { again }),
        2 => (0_u64..6, any::<bool>(), any::<bool>())
            .prop_map(|(after, write, power)| Step::FailedFlush { after, write, power }),
    ]
}

struct Model {
    rig: Rig,
    /// Every entry there is, from index 1 on, the released ones included.
    entries: Vec<Entry>,
    term: u64,
    next_payload: u8,
    published: usize,
    /// Positions that can be flushed, oldest first, each with how many changes come before it.
    targets: Vec<(Position, usize)>,
    /// How many changes there have been.
    changes: usize,
    /// The log's content after the changes of the last flush that succeeded, and after each one since.
    states: Vec<Vec<Entry>>,
    /// How far the current content is known to be durable.
    persisted: usize,
    committed: usize,
    held: Vec<(Slices, Vec<Entry>)>,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            rig: Rig::on(Arc::new(SimDisk::new(seed))),
            entries: Vec::new(),
            term: 1,
            next_payload: 0,
            published: 0,
            targets: Vec::new(),
            changes: 0,
            states: vec![Vec::new()],
            persisted: 0,
            committed: 0,
            held: Vec::new(),
        }
    }

    fn run(mut self, steps: Vec<Step>) {
        for step in steps {
            self.step(step);
            self.check();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append { count, bytes, new_term } => {
                self.term += u64::from(new_term);
                for _ in 0..count {
                    let payload = self.payload(bytes);
                    self.rig.append(self.term, &payload);
                    self.push(payload);
                }
            }
            Step::Copy { count, bytes } => self.copy(count, bytes),
            Step::Publish => self.publish(),
            Step::Flush => {
                self.publish();
                self.flush(self.targets.len());
            }
            Step::FlushSome(choice) => self.flush(choice % (self.targets.len() + 1)),
            Step::Truncate(choice) => self.truncate(choice),
            Step::Commit(choice) => {
                self.committed += choice % (self.persisted - self.committed + 1);
            }
            Step::Release(choice) => {
                let up_to = choice % (self.committed + 1);
                self.rig.log().release(LogIndex(up_to as u64));
                assert!(self.rig.log().base().index.0 as usize <= up_to.max(self.base()));
            }
            Step::Prepare(steps) => {
                for _ in 0..steps {
                    self.rig.opened.preparer.step().expect("a good disk");
                }
            }
            Step::Cover => {
                self.rig.cover();
            }
            Step::Hold(choice) => self.hold(choice),
            Step::LetGo => self.held.clear(),
            Step::Read { from, bytes } => self.read(from, bytes),
            Step::Restart => self.die(SimDisk::kill),
            Step::Crash { again } => {
                self.die(SimDisk::crash);
                if again {
                    // What a start has found is durable, whatever happens next.
                    let found = self.entries.clone();
                    self.die(SimDisk::crash_losing_all);
                    assert!(self.entries == found, "a second crash took something");
                }
            }
            Step::FailedFlush { after, write, power } => self.fail(after, write, power),
        }
    }

    fn base(&self) -> usize {
        self.rig.log_ref().base().index.0 as usize
    }

    fn payload(&mut self, bytes: usize) -> Vec<u8> {
        self.next_payload = self.next_payload.wrapping_add(1);
        vec![self.next_payload; bytes]
    }

    fn push(&mut self, payload: Vec<u8>) {
        let id = EntryId::new(Term(self.term), LogIndex(self.entries.len() as u64 + 1));
        self.entries.push((id, payload));
        self.changed();
    }

    fn changed(&mut self) {
        self.changes += 1;
        self.states.push(self.entries.clone());
    }

    fn copy(&mut self, count: usize, bytes: usize) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let next = self.entries.len() as u64 + 1;
        let mut payloads = Vec::new();
        for index in next..next + count as u64 {
            let payload = self.payload(bytes);
            let part = if index - next < 5 { &mut first } else { &mut second };
            header(self.term, LogIndex(index)).write(&payload, part);
            payloads.push(payload);
        }
        let mut slices = Slices::new();
        for part in [first, second] {
            for slice in Slices::from(part).parts() {
                slices.push(slice.clone());
            }
        }
        let records = count * record_bytes(bytes, false);
        while self.rig.log().room() < records {
            if !self.rig.opened.preparer.step().expect("a good disk") {
                return;
            }
        }
        let last = LogIndex(next + count as u64 - 1);
        self.rig.log().append_slices(&slices, LogIndex(next), last);
        for payload in payloads {
            self.push(payload);
        }
    }

    fn publish(&mut self) {
        let target = self.rig.log().publish();
        self.published = self.entries.len();
        self.targets.push((target, self.changes));
    }

    /// Flushes the first `count` targets.
    fn flush(&mut self, count: usize) {
        let Some((target, changes)) = self.targets.drain(..count).next_back() else {
            return;
        };
        let flushed = self.rig.try_flush(target).expect("a good disk");
        assert!(flushed >= target);
        let oldest = self.changes + 1 - self.states.len();
        self.states.drain(..changes - oldest);
        let durable = &self.states[0];
        self.persisted = common(durable, &self.entries).max(self.persisted);
        let generation = self.rig.generation;
        if let Some((reported, last)) = self.rig.log().persisted(flushed)
            && reported == generation
        {
            assert_eq!(last.0 as usize, self.states[0].len(), "what is durable is reported");
        }
    }

    fn truncate(&mut self, choice: usize) {
        let rest = self.entries.len() - self.committed;
        if rest == 0 || self.rig.log().room() == 0 {
            return;
        }
        let keep = self.committed + choice % rest;
        if keep < self.base() {
            return;
        }
        self.entries.truncate(keep);
        self.term += 1;
        self.persisted = self.persisted.min(keep);
        self.rig.truncate_from(keep as u64 + 1);
        self.published = self.published.min(keep);
        self.changed();
    }

    fn hold(&mut self, choice: usize) {
        let base = self.base();
        let prev = base + choice % (self.published.max(base) - base + 1);
        if let Fetch::Hot(slices, last) = self.rig.log().slices(LogIndex(prev as u64), 3000) {
            let wanted = self.entries[prev..last.0 as usize].to_vec();
            self.held.push((slices, wanted));
            self.held.truncate(4);
        }
    }

    fn read(&mut self, from: usize, bytes: usize) {
        let base = self.base();
        if self.published <= base {
            return;
        }
        let prev = base + from % (self.published - base);
        let reader = self.rig.log().reader();
        let (prev_index, last) = (LogIndex(prev as u64), LogIndex(self.published as u64));
        let (slices, read) = reader.read(prev_index, last, bytes).expect("a good disk");
        let found = decode(&slices);
        assert!(!found.is_empty() && found.len() == (read.0 - prev_index.0) as usize);
        assert!(found == self.entries[prev..read.0 as usize], "entries {prev}..{read}");
        let taken: usize =
            found.iter().map(|(_, payload)| record_bytes(payload.len(), false)).sum();
        assert!(taken <= bytes || found.len() == 1);
        if read < last {
            let next = record_bytes(self.entries[read.0 as usize].1.len(), false);
            assert!(taken + next > bytes, "{taken} bytes taken, {next} more would have fitted");
        }
    }

    /// The program ends, in a way that `accident` makes worse, and starts again.
    fn die(&mut self, accident: impl FnOnce(&SimDisk)) {
        let disk = Arc::clone(&self.rig.disk);
        accident(&disk);
        // Parts of the dead program linger while the next one starts.
        let old = std::mem::replace(&mut self.rig, Rig::on(disk));
        drop(old);
        let base = self.base();
        let found = self.rig.entries();
        let fits = |content: &Vec<Entry>| content.get(base..).is_some_and(|rest| rest == found);
        let content = self.states.iter().find(|content| fits(content)).unwrap_or_else(|| {
            panic!("base {base} and {} entries are no state the log has had", found.len())
        });
        self.entries = content.clone();
        self.states = vec![self.entries.clone()];
        self.targets.clear();
        self.published = self.entries.len();
        self.persisted = self.entries.len();
        assert!(self.committed <= self.persisted, "committed entries are gone");
        let last = self.entries.last().map_or(EntryId::ZERO, |(id, _)| *id);
        assert_eq!(self.rig.log().last(), last);
        assert_eq!(self.rig.opened.recovered.entries.len() as usize, found.len());
        self.term = self.term.max(last.term.0) + 1;
    }

    fn fail(&mut self, after: u64, write: bool, power: bool) {
        self.publish();
        let (target, _) = *self.targets.last().expect("just published");
        let operation = if write { Operation::Write } else { Operation::Sync };
        self.rig.disk.fail(Fault {
            operation: Some(operation),
            after: after / 2,
            error: FaultError::Io,
            lasting: false,
        });
        let flushed = self.rig.try_flush(target);
        self.rig.disk.clear_faults();
        if flushed.is_ok() {
            self.flush(self.targets.len());
        }
        self.die(if power { SimDisk::crash } else { SimDisk::kill });
    }

    fn check(&mut self) {
        let log = self.rig.log();
        let last = self.entries.last().map_or(EntryId::ZERO, |(id, _)| *id);
        assert_eq!(log.last(), last);
        for (slices, wanted) in &self.held {
            assert!(decode(slices) == *wanted, "bytes that are held have changed");
        }
    }
}

fn common(one: &[Entry], other: &[Entry]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_log_is_what_a_vector_is_whatever_happens(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        Model::new(seed).run(steps);
    }
}
