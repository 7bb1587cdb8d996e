//! Writes the samples that variations start from: one of everything that is well formed. To be run again
//! when a format changes.

use std::fs;
use std::path::Path;

use oarlock::message::{
    Append, AppendOutcome, AppendReply, Entries, Envelope, Forward, ForwardReply, Heartbeat,
    HeartbeatReply, Message, ReadIndex, ReadIndexReply, ReadRound, Vote, VoteReply,
};
use oarlock::record::{EntryKind, Origin, RecordHeader};
use oarlock::slices::Slices;
use oarlock::{BootCount, EntryId, Incarnation, LogIndex, NodeId, Sender, StateMachine, Term};
use oarlock_fuzz::command::{Command, Echo};

const SENDER: Sender = Sender { node: NodeId(1), incarnation: Incarnation(2), boot: BootCount(3) };

fn main() {
    write("record", records());
    write("envelope", envelopes());
    write("command", commands());
    write("recovery", recoveries());
    write("core", cores());
}

fn write(target: &str, samples: Vec<Vec<u8>>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir).expect("a place for samples");
    for (number, sample) in samples.iter().enumerate() {
        fs::write(dir.join(format!("sample-{number:02}")), sample).expect("a place for samples");
    }
}

fn record(index: u64, kind: EntryKind, is_forwarded: bool, payload: &[u8]) -> Vec<u8> {
    let Sender { incarnation, boot, .. } = SENDER;
    let header = RecordHeader {
        id: EntryId::new(Term(5), LogIndex(index)),
        time: 6,
        kind,
        origin: is_forwarded.then_some(Origin { incarnation, boot, sequence: 7 }),
    };
    let mut bytes = Vec::new();
    header.write(payload, &mut bytes);
    bytes
}

fn records() -> Vec<Vec<u8>> {
    let noop = record(1, EntryKind::Noop, false, b"");
    let command = record(2, EntryKind::Command, false, b"a command");
    let forwarded = record(3, EntryKind::Command, true, b"another");
    let several = [noop.clone(), command.clone(), forwarded.clone()].concat();
    vec![noop, command, forwarded, several, record(4, EntryKind::Membership, false, &[0; 24])]
}

fn envelopes() -> Vec<Vec<u8>> {
    let (term, index) = (Term(5), LogIndex(6));
    let last = EntryId::new(Term(4), index);
    let (round, sequence) = (ReadRound(7), 8);
    let rejected = AppendOutcome::Rejected { prev: index, hint: last };
    let accepted = AppendOutcome::Accepted { matched: index };
    let append = Append { term, prev: last, committed: index, entries: Entries::default() };
    let plain = [
        Message::Vote(Vote { term, last, pre: true, transfer: false }),
        Message::VoteReply(VoteReply { term, granted: true, pre: false }),
        Message::AppendReply(AppendReply { term, outcome: accepted }),
        Message::AppendReply(AppendReply { term, outcome: rejected }),
        Message::Heartbeat(Heartbeat { term, committed: index, round, replicated: index }),
        Message::HeartbeatReply(HeartbeatReply { term, round, matched: index }),
        Message::ForwardReply(ForwardReply { term, asker: SENDER, sequence, first: index }),
        Message::ReadIndex(ReadIndex { term, round }),
        Message::ReadIndexReply(ReadIndexReply { term, asker: SENDER, round, index }),
    ];
    let with_records =
        [Message::Append(append), Message::Forward(Forward { term, sequence: 7, count: 1 })];
    let plain = plain.into_iter().map(|message| (message, Slices::new()));
    let with_records = with_records
        .into_iter()
        .map(|message| (message, Slices::from(record(7, EntryKind::Command, true, b"some bytes"))));
    plain
        .chain(with_records)
        .map(|(message, records)| {
            let mut bytes = Vec::new();
            let envelope = Envelope { from: SENDER, to: NodeId(4), message, records };
            envelope.encode(&mut bytes).expect("small");
            bytes
        })
        .collect()
}

fn commands() -> Vec<Vec<u8>> {
    let commands = [
        Command::Put("key".to_owned(), vec![1, 2, 3]),
        Command::Many(vec![(1, Some("one".to_owned())), (2, None)]),
        Command::Numbers(1, -2, 3, -4, 5, 6.5),
        Command::Choosy(true, 'ö', [7; 3]),
        Command::Nested(vec![vec![vec![8], vec![]], vec![]]),
    ];
    let bytes = |command| {
        let mut bytes = Vec::new();
        Echo::encode(command, &mut bytes).expect("small");
        bytes
    };
    commands.iter().map(bytes).collect()
}

/// One of each way to tamper with a file, twice in each: with right and with wrong checksums.
fn recoveries() -> Vec<Vec<u8>> {
    let place = |kind: u8| [kind % 5, kind, kind.wrapping_mul(9), kind * 16, 1, 88];
    let all = |is_forged: u8| {
        (0..12).map(move |kind| {
            let mut sample = vec![is_forged];
            sample.extend(place(kind));
            sample.extend(0..=kind);
            sample
        })
    };
    all(0).chain(all(1)).collect()
}

/// Choices at random: the target makes something of any.
fn cores() -> Vec<Vec<u8>> {
    let sample = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..300).map(|_| rng.u8(..)).collect()
    };
    (0..12).map(sample).collect()
}
