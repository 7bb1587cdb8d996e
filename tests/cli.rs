//! The program `oarlock`, as operators and scripts meet it: what it prints, and its exit codes.
#![cfg(unix)]

mod wal_rig;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use oarlock::record::{EntryKind, Origin, RecordHeader};
use oarlock::wal::{Disk, Opened};
use oarlock::{BootCount, HardState, Incarnation, LogIndex, NodeId, Term};
use wal_rig::{header, try_open};

fn oarlock(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    // Behind the words, and before the flags.
    let at = if args[0] == "log" { 2 } else { 1 };
    command.args(&args[..at]).arg(dir).args(&args[at..]).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// What it printed, if its exit code was `code` and it complained of nothing.
fn printed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    text(&output.stdout)
}

/// What it complained of, if its exit code was `code` and it printed nothing.
fn complaint(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    text(&output.stderr)
}

/// A log in which the last part is not yet what it is to be.
struct Writer {
    opened: Opened,
}

impl Writer {
    fn new(dir: &Path) -> Self {
        Self { opened: try_open(Arc::new(Disk), dir).expect("a good disk") }
    }

    fn append(&mut self, header: &RecordHeader, payload: &[u8]) {
        while self.opened.log.room() < header.record_bytes(payload.len()) {
            self.opened.preparer.step().expect("a good disk");
        }
        self.opened.log.append(header, payload);
    }

    fn commit(&mut self) {
        let target = self.opened.log.publish();
        self.flush(target);
    }

    fn flush(&mut self, target: oarlock::wal::Position) {
        let flusher = self.opened.flusher.as_mut().expect("a log on disk");
        let flushed = flusher.flush(target).expect("a good disk");
        self.opened.log.persisted(flushed);
    }

    fn cover(&mut self) {
        let target = self.opened.log.cover().expect("something to cover");
        self.flush(target);
    }

    fn vote(&mut self, term: u64, node: u64) {
        let state = HardState { term: Term(term), voted_for: Some(NodeId(node)) };
        let flusher = self.opened.flusher.as_mut().expect("a log on disk");
        flusher.store_hard_state(state).expect("a good disk");
    }
}

/// Entries of every kind, one that was truncated, several segments, a vote.
fn example(dir: &Path) -> Writer {
    let mut writer = Writer::new(dir);
    let origin = Origin { incarnation: Incarnation(0xAB), boot: BootCount(5), sequence: 77 };
    let noop = RecordHeader { kind: EntryKind::Noop, ..header(1, LogIndex(1)) };
    writer.append(&noop, b"");
    let forwarded = RecordHeader { origin: Some(origin), ..header(1, LogIndex(2)) };
    writer.append(&forwarded, b"tell \"them\"\n\xFF");
    writer.append(&header(1, LogIndex(3)), b"superseded");
    writer.commit();
    writer.opened.log.truncate_from(LogIndex(3), 1);
    // The identity ends with a membership's bytes, and says how many.
    let identity = fs::read(dir.join("identity")).expect("readable");
    let count = u32::from_le_bytes(identity[84..88].try_into().expect("four bytes")) as usize;
    let members = identity[identity.len() - count..].to_vec();
    let change = RecordHeader { kind: EntryKind::Membership, ..header(2, LogIndex(3)) };
    writer.append(&change, &members);
    for index in 4..=200 {
        writer.append(&header(2, LogIndex(index)), format!("{index} ").repeat(300).as_bytes());
        writer.commit();
    }
    writer.vote(4, 3);
    writer.cover();
    writer
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("log")).expect("a directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// Every file in a directory, and what is in it.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(everything(&path));
        } else {
            let bytes = fs::read(&path).expect("readable");
            files.insert(path, bytes);
        }
    }
    files
}

#[test]
fn stat_says_whose_directory_it_is_and_what_it_holds() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let writer = example(&dir);
    let sender = writer.opened.recovered.sender;
    let found = printed(&oarlock(&["log", "stat"], &dir), 0);
    for wanted in [
        "node          1\n",
        "cluster       \"test\"\n",
        &format!("incarnation   {}\n", sender.incarnation),
        "boot          1\n",
        "vote          for node 3 in term 4\n",
        "log           200 entries, 1 to 200\n",
        "terms         1 from 1, 2 from 3\n",
        "durable       up to index 200, ",
        "  0000000001.seg sealed, 1 to ",
        " open, ",
        "snapshots     none\n",
    ] {
        assert!(found.contains(wanted), "{wanted:?} is not in\n{found}");
    }
    assert!(!found.contains("note"), "{found}");

    let found = printed(&oarlock(&["log", "stat", "--json"], &dir), 0);
    let lines: Vec<_> = found.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("{\"type\":\"") && line.ends_with('}')));
    assert!(lines[0].contains("\"node\":1,\"cluster\":\"test\","), "{found}");
    assert_eq!(lines[1], "{\"type\":\"vote\",\"term\":4,\"voted_for\":3}");
    assert!(
        lines[2].contains("\"entries\":200,\"base\":0,\"base_term\":0,\"last\":200,"),
        "{found}"
    );
    assert!(lines[2].contains("\"durable_index\":200,") && lines[2].contains("\"covered\":true"));
    assert_eq!(lines[3], "{\"type\":\"term\",\"term\":1,\"first\":1}");
    let count = lines.iter().filter(|line| line.starts_with("{\"type\":\"segment\"")).count();
    assert_eq!(count, segments(&dir).len());
}

#[test]
fn dump_shows_the_entries_that_count_one_on_a_line() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let _writer = example(&dir);
    let found = printed(&oarlock(&["log", "dump"], &dir), 0);
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines.len(), 200);
    assert_eq!(lines[0], "1 term=1 kind=noop time=10 origin=- length=0 payload=\"\"");
    let origin = Incarnation(0xAB);
    assert_eq!(
        lines[1],
        format!(
            "2 term=1 kind=command time=20 origin={origin}.5.77 length=13 \
             payload=\"tell \\\"them\\\"\\n\\xff\""
        )
    );
    assert!(lines[2].starts_with("3 term=2 kind=membership "), "{}", lines[2]);
    assert!(lines[2].ends_with(" voters=1,2,3 outgoing= learners="), "{}", lines[2]);
    assert!(!found.contains("superseded"));
    for (line, index) in lines.iter().zip(1_u64..) {
        assert!(line.starts_with(&format!("{index} term=")), "{line}");
        assert!(line.len() < 400, "{line}");
    }
    assert!(lines[199].ends_with("\"..."), "{}", lines[199]);

    let found = printed(&oarlock(&["log", "dump", "--from", "199", "--to", "300"], &dir), 0);
    assert_eq!(found.lines().collect::<Vec<_>>(), lines[198..]);
    let found = printed(&oarlock(&["log", "dump", "--to", "3"], &dir), 0);
    assert_eq!(found.lines().collect::<Vec<_>>(), lines[..3]);
    let found = printed(&oarlock(&["log", "dump", "--from", "9", "--to", "8"], &dir), 0);
    assert_eq!(found, "");

    let found = printed(&oarlock(&["log", "dump", "--json"], &dir), 0);
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines.len(), 200);
    assert_eq!(
        lines[1],
        format!(
            "{{\"type\":\"entry\",\"index\":2,\"term\":1,\"kind\":\"command\",\"time\":20,\
             \"origin\":{{\"incarnation\":\"{origin}\",\"boot\":5,\"sequence\":77}},\
             \"length\":13,\"payload\":\"74656c6c20227468656d220aff\"}}"
        )
    );
    assert!(lines[2].ends_with(",\"voters\":[1,2,3],\"outgoing\":[],\"learners\":[]}"));
    assert!(lines[199].ends_with(&format!("{}\"}}", "32303020".repeat(300))));
}

#[test]
fn verify_tells_a_sound_log_a_torn_tail_and_damage_apart() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let mut writer = example(&dir);
    let found = printed(&oarlock(&["log", "verify"], &dir), 0);
    assert_eq!(found, "sound         200 entries, 1 to 200, in 4 segments\n");

    // Not covered, and whole.
    writer.append(&header(4, LogIndex(201)), &[0xEE; 9000]);
    writer.commit();
    drop(writer);
    let found = printed(&oarlock(&["log", "verify"], &dir), 0);
    assert!(
        found.contains("note          no mark says yet that what follows index 200"),
        "{found}"
    );
    assert!(found.contains("sound         201 entries"), "{found}");

    // Torn.
    let path = segments(&dir)
        .into_iter()
        .find(|path| fs::read(path).expect("readable").windows(9).any(|part| part == [0xEE; 9]))
        .expect("the last segment");
    let mut bytes = fs::read(&path).expect("readable");
    let whole = bytes.clone();
    let end = bytes.iter().rposition(|&byte| byte == 0xEE).expect("the payload");
    bytes[end - 4000..end].fill(0);
    fs::write(&path, &bytes).expect("written");
    let found = printed(&oarlock(&["log", "verify"], &dir), 0);
    assert!(found.contains("a torn tail, which a start drops"), "{found}");
    assert!(found.contains(&format!("{} at byte ", path.display())), "{found}");
    assert!(found.contains("sound         200 entries"), "{found}");
    let found = printed(&oarlock(&["log", "verify", "--json"], &dir), 0);
    assert!(found.starts_with("{\"type\":\"torn\",\"file\":\""), "{found}");
    let last = found.lines().last().expect("a verdict");
    assert!(last.starts_with("{\"type\":\"verdict\",\"sound\":true,\"entries\":200,"), "{found}");

    // Damaged: what a mark covers.
    fs::write(&path, &whole).expect("written");
    let first = &segments(&dir)[0];
    let mut bytes = fs::read(first).expect("readable");
    let at = bytes.windows(4).position(|part| part == b"tell").expect("the second entry");
    bytes[at] ^= 1;
    fs::write(first, &bytes).expect("written");
    let wanted = try_open(Arc::new(Disk), &dir).expect_err("damaged");
    let found = printed(&oarlock(&["log", "verify"], &dir), 1);
    let (offset, index) = (wanted.offset.expect("an offset"), wanted.index.expect("an index"));
    assert_eq!(index, LogIndex(2));
    let place =
        format!("damaged       {} at byte {offset} (log index 2): expected ", first.display());
    assert!(found.starts_with(&place), "{found}");
    assert!(!found.contains("sound"), "{found}");
    let found = printed(&oarlock(&["log", "verify", "--json"], &dir), 1);
    let place = format!("\"offset\":{offset},\"index\":2,\"expected\":\"");
    assert!(found.contains(&place), "{found}");
    assert!(found.contains("{\"type\":\"verdict\",\"sound\":false,"), "{found}");
    // What stands before it, and then the damage.
    let found = printed(&oarlock(&["log", "stat"], &dir), 1);
    assert!(found.contains("node          1\n") && found.contains("damaged       "), "{found}");
    printed(&oarlock(&["log", "dump"], &dir), 1);
}

#[test]
fn damage_to_identity_and_vote_is_damage() {
    for (file, at) in [("identity", 30), ("vote", 30)] {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = temp.path().join("data");
        drop(example(&dir));
        let path = dir.join(file);
        let mut bytes = fs::read(&path).expect("readable");
        bytes[at] ^= 1;
        if file == "vote" {
            bytes[4096 + at] ^= 1;
        }
        fs::write(&path, bytes).expect("written");
        for command in ["stat", "verify", "dump"] {
            for json in [&[][..], &["--json"]] {
                let args = [&["log", command], json].concat();
                let found = printed(&oarlock(&args, &dir), 1);
                assert!(found.contains(&path.display().to_string()), "{command}: {found}");
            }
        }
        assert_eq!(
            printed(&oarlock(&["log", "dump"], &dir), 1).lines().count(),
            match file {
                "identity" => 1,
                _ => 201,
            }
        );
    }
}

#[test]
fn nothing_is_changed_and_a_directory_of_nobody_stays_empty() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let writer = example(&dir);
    let before = everything(&dir);
    for command in ["stat", "verify", "dump"] {
        printed(&oarlock(&["log", command], &dir), 0);
    }
    assert!(everything(&dir) == before, "something was written");
    drop(writer);

    let empty = temp.path().join("empty");
    fs::create_dir(&empty).expect("created");
    let missing = temp.path().join("missing");
    for command in ["stat", "verify", "dump"] {
        let found = complaint(&oarlock(&["log", command], &empty), 3);
        assert!(found.contains("is no data directory"), "{found}");
        let found = complaint(&oarlock(&["log", command], &missing), 3);
        assert!(found.contains("no such directory"), "{found}");
        let found = complaint(&oarlock(&["log", command], &dir.join("vote")), 3);
        assert!(found.contains("ot a directory"), "{found}");
    }
    assert!(everything(&empty).is_empty() && !missing.exists());
    let found = complaint(&oarlock(&["disk"], &missing), 3);
    assert!(found.contains("missing"), "{found}");
}

#[test]
fn arguments_that_make_no_sense_are_named() {
    let dir = Path::new("/nowhere");
    for (args, told) in [
        (&["log", "list"][..], "unknown command: log list"),
        (&["frobnicate"], "unknown command"),
        (&["log", "stat", "--frequency"], "--frequency"),
        (&["log", "stat", "--from", "3"], "--from and --to are for"),
        (&["log", "dump", "--from", "x"], "\"x\""),
        (&["log", "dump", "--from"], "--from"),
        (&["log", "verify", "--count", "3"], "--count is for"),
        (&["disk", "--count", "0"], "--count 0"),
    ] {
        let found = complaint(&oarlock(args, dir), 2);
        assert!(found.contains(told), "{args:?}: {found}");
        assert!(found.contains("usage: oarlock log stat DIR"), "{args:?}: {found}");
    }
    for args in [&[][..], &["log"], &["log", "stat"], &["disk"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_oarlock")).args(args).output().expect("runs");
        complaint(&output, 2);
    }
}

#[test]
fn help_and_version_are_printed() {
    let run = |arg| Command::new(env!("CARGO_BIN_EXE_oarlock")).arg(arg).output().expect("runs");
    assert!(printed(&run("--help"), 0).starts_with("usage: oarlock"));
    let version = concat!("oarlock ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(printed(&run("--version"), 0), version);
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    drop(example(&dir));
    let mut child = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["log", "dump", "--json"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut reader = BufReader::new(child.stdout.take().expect("piped"));
    reader.read_line(&mut String::new()).expect("a line");
    drop(reader);
    let output = child.wait_with_output().expect("ends");
    assert_eq!(printed(&output, 0), "");
}

#[test]
fn a_log_that_is_being_written_and_let_go_of_is_sound_at_every_look() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let mut writer = Writer::new(&dir);
    writer.append(&header(1, LogIndex(1)), b"first");
    writer.commit();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut next = 2;
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..=next % 5 {
                    writer.append(&header(1, LogIndex(next)), &[next as u8; 700]);
                    next += 1;
                }
                writer.commit();
                let last = writer.opened.log.last().index;
                writer.opened.log.release_beyond(6 << 16, last);
                while writer.opened.preparer.step().expect("a good disk") {}
            }
            next
        });
        let outputs: Vec<_> = (0..60)
            .map(|round| oarlock(&["log", ["stat", "verify", "dump"][round % 3]], &dir))
            .collect();
        stop.store(true, Ordering::Relaxed);
        let written = writing.join().expect("no panic");
        assert!(written > 1000, "{written} entries");
        for output in &outputs {
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        }
        // Consecutive, but for what was let go of while they were read, and that is said beside them.
        for output in outputs.iter().skip(2).step_by(3) {
            let indexes: Vec<u64> = text(&output.stdout)
                .lines()
                .map(|line| line.split(' ').next().expect("an index").parse().expect("a number"))
                .collect();
            let gaps = indexes.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
            let told = text(&output.stderr).matches("the node let go of").count();
            assert!(gaps <= told, "{gaps} gaps, {told} of them named");
        }
    });
}

#[test]
fn a_disk_is_measured_and_left_as_it_was() {
    let temp = tempfile::tempdir().expect("a directory");
    let found = printed(&oarlock(&["disk", "--count", "20"], temp.path()), 0);
    for wanted in
        ["flushes       20 in ", "p50  ", "p99.9  ", "max  ", "election_ticks: ", "  below "]
    {
        assert!(found.contains(wanted), "{wanted:?} is not in\n{found}");
    }
    let found = printed(&oarlock(&["disk", "--count", "20", "--json"], temp.path()), 0);
    assert!(found.starts_with("{\"type\":\"disk\",\"flushes\":20,\"p50_ns\":"), "{found}");
    assert_eq!(found.lines().count(), 1);
    assert_eq!(fs::read_dir(temp.path()).expect("a directory").count(), 0);

    // No file may have more than 64 KiB here, so the log cannot be made.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" disk \"$1\""])
        .arg(env!("CARGO_BIN_EXE_oarlock"))
        .arg(temp.path())
        .output()
        .expect("runs");
    let found = complaint(&output, 3);
    assert!(found.contains("allocate failed"), "{found}");
    assert_eq!(fs::read_dir(temp.path()).expect("a directory").count(), 0);
}
