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
use oarlock::transport::tcp::frame;
use oarlock::transport::tcp::greeting::{Greeting, RefusalCode, VERSIONS};
use oarlock::{BootCount, EntryId, Incarnation, LogIndex, NodeId, Sender, StateMachine, Term};
use oarlock_fuzz::command::{Command, Echo};

const SENDER: Sender = Sender { node: NodeId(1), incarnation: Incarnation(2), boot: BootCount(3) };

fn main() {
    write("record", &records());
    write("envelope", &envelopes());
    write("frame", &frames());
    write("greeting", &greetings());
    write("command", &commands());
    write("resp", &requests());
    write("recovery", &recoveries());
    write("core", &cores());
}

fn write(target: &str, samples: &[Vec<u8>]) {
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

/// One of each kind, and the bytes of its records.
fn messages() -> Vec<(Message, Vec<u8>)> {
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
        Message::HeartbeatReply(HeartbeatReply { term, round, matched: index, full: true }),
        Message::ForwardReply(ForwardReply { term, asker: SENDER, sequence, first: index }),
        Message::ReadIndex(ReadIndex { term, round }),
        Message::ReadIndexReply(ReadIndexReply { term, asker: SENDER, round, index }),
    ];
    let with_records =
        [Message::Append(append), Message::Forward(Forward { term, sequence: 7, count: 1 })];
    let records = record(7, EntryKind::Command, true, b"some bytes");
    let plain = plain.into_iter().map(|message| (message, Vec::new()));
    let with_records = with_records.into_iter().map(|message| (message, records.clone()));
    plain.chain(with_records).collect()
}

fn envelopes() -> Vec<Vec<u8>> {
    let envelope = |(message, records)| {
        let records = Slices::from(records);
        let mut bytes = Vec::new();
        let envelope = Envelope { from: SENDER, to: NodeId(4), message, records };
        envelope.encode(&mut bytes).expect("small");
        bytes
    };
    messages().into_iter().map(envelope).collect()
}

/// After the limit of its records, each as a connection of its own, and all as one.
fn frames() -> Vec<Vec<u8>> {
    let mut all = vec![vec![1, 0]; 14];
    let (connection, each) = all.split_last_mut().expect("fourteen");
    frame::encode_ping(7, &mut each[11]);
    frame::encode_pong(7, &mut each[12]);
    for (sample, (message, records)) in each.iter_mut().zip(messages()) {
        frame::encode_message(&message, records.len(), sample).expect("small");
        sample.extend_from_slice(&records);
    }
    for sample in each {
        connection.extend_from_slice(&sample[2..]);
    }
    all
}

fn greetings() -> Vec<Vec<u8>> {
    let refusal = RefusalCode { code: 8, detail: 9 };
    let verdicts = [None, Some(Ok(0)), Some(Err(refusal))];
    let greeting = |verdict| Greeting {
        versions: VERSIONS,
        from: SENDER,
        to: NodeId(4),
        members: 5,
        cluster_name: "orders".to_owned(),
        verdict,
    };
    verdicts.into_iter().map(|verdict| greeting(verdict).encode()).collect()
}

fn requests() -> Vec<Vec<u8>> {
    let requests: [&[u8]; 6] = [
        b"*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n",
        b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n*0\r\n*-1\r\n",
        b"SET key value\r\nGET key\n",
        b"SET \"a\\x41\\n\" 'it\\'s'\r\n\r\n",
        b"*2\r\n$4\r\nECHO\r\n$7\r\na\r\nb\x00\xFF!\r\nPING\r\n",
    ];
    // The first byte says in which pieces it comes.
    requests.iter().zip(0..).map(|(request, piece)| [&[piece], *request].concat()).collect()
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
