//! `examples/wal_append.rs`, driven as a program: what it prints is true, whenever it is killed, and it
//! stops by name when it cannot go on.
#![cfg(unix)]

mod journal;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};

use journal::until;
use oarlock::LogIndex;
use oarlock::storage::Storage;
use oarlock::wal::{Disk, inspect};

/// The program. Cargo builds examples for `cargo test`, and not for a single test: so it is asked to.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--quiet", "--example", "wal_append", "--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the example does not build");
        let this = env::current_exe().expect("this program");
        let target = this.parent().and_then(Path::parent).expect("target/PROFILE/deps");
        target.join("examples/wal_append")
    })
}

fn command(dir: &Path, args: &str) -> Command {
    let mut command = Command::new(program());
    command.arg("--dir").arg(dir).args(args.split_whitespace());
    command
}

fn run(dir: &Path, args: &str) -> Output {
    command(dir, args).output().expect("runs")
}

/// What a run that went well printed: its first line, and the indexes.
fn lines(output: &Output) -> (String, Vec<u64>) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let mut lines = text.lines().map(str::to_owned);
    let first = lines.next().expect("a first line");
    (first, lines.map(|line| line.parse().expect("an index")).collect())
}

/// A run that failed: its exit code, and the first line of what it said.
fn failure(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    (output.status.code(), text.lines().next().unwrap_or_default().to_owned())
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("log")).expect("a directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn it_says_what_it_found_and_then_the_index_of_every_record() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let found = lines(&run(&dir, "--count 10 --size 100 --batch 3"));
    assert_eq!(found, ("recovered first=0 last=0".to_owned(), (1..=10).collect()));
    let found = lines(&run(&dir, "--count 5 --size 0 --batch 100"));
    assert_eq!(found, ("recovered first=1 last=10".to_owned(), (11..=15).collect()));
    let found = lines(&run(&dir, "--count 0"));
    assert_eq!(found, ("recovered first=1 last=15".to_owned(), Vec::new()));
    // Through several segments, and with records larger than a usual segment.
    let found = lines(&run(&dir, "--count 300 --size 20000 --batch 7"));
    assert_eq!(found, ("recovered first=1 last=15".to_owned(), (16..=315).collect()));
    let found = lines(&run(&dir, "--count 2 --size 2000000 --batch 2"));
    assert_eq!(found, ("recovered first=1 last=315".to_owned(), vec![316, 317]));
    assert!(segments(&dir).len() > 6);
}

#[test]
fn arguments_that_make_no_sense_are_named_and_nothing_is_written() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    for (args, told) in [
        ("--count", "--count: no value"),
        ("--count ten", "--count ten: "),
        ("--count -1", "--count -1: "),
        ("--batch 0", "--batch 0: "),
        ("--frequency 3", "--frequency: unknown"),
        ("--size 16777217", "TooLarge: 16777217 bytes"),
        ("--size 18446744073709551615", "TooLarge: "),
    ] {
        let (code, text) = failure(&run(&dir, args));
        assert_eq!(code, Some(2), "{args}: {text}");
        assert!(text.contains(told), "{args}: {text}");
        assert!(!dir.exists(), "{args}");
    }
    let output = Command::new(program()).output().expect("runs");
    assert_eq!(failure(&output), (Some(2), "wal_append: Usage: --dir is missing".to_owned()));
}

#[test]
fn a_directory_that_is_in_use_or_somebody_elses_or_damaged_is_refused_by_name() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let mut first = command(&dir, "--count 1000000000 --batch 1").stdout(Stdio::piped()).spawn();
    let first = first.as_mut().expect("runs");
    let mut reader = BufReader::new(first.stdout.take().expect("piped"));
    reader.read_line(&mut String::new()).expect("a line");
    let (code, text) = failure(&run(&dir, "--count 1"));
    first.kill().expect("killed");
    first.wait().expect("gone");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("wal_append: InUse: "), "{text}");

    let file = temp.path().join("file");
    fs::write(&file, b"no directory").expect("written");
    let (code, text) = failure(&run(&file, "--count 1"));
    assert_eq!((code, text.starts_with("wal_append: Io: ")), (Some(1), true), "{text}");

    lines(&run(&dir, "--count 100"));
    let segment = &segments(&dir)[0];
    let mut bytes = fs::read(segment).expect("read");
    bytes[200] ^= 1;
    fs::write(segment, bytes).expect("written");
    let (code, text) = failure(&run(&dir, "--count 1"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("wal_append: Damaged: "), "{text}");
    assert!(text.contains("0000000001.seg at byte "), "{text}");
    assert!(!text.contains("damaged"), "once is enough: {text}");
}

#[test]
fn every_line_that_was_read_before_a_kill_is_true() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let mut last = 0;
    for round in 1..=12 {
        let args = format!("--count 1000000000 --size {} --batch {round}", round * 90);
        let mut child = command(&dir, &args).stdout(Stdio::piped()).spawn().expect("runs");
        let mut reader = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        let found = line
            .strip_prefix("recovered first=1 last=")
            .map_or(0, |rest| rest.trim_end().parse::<u64>().expect("an index"));
        assert!(found >= last, "round {round}: {found} after {last}");
        last = found;
        for _ in 0..round * 20 {
            line.clear();
            reader.read_line(&mut line).expect("a line");
            last += 1;
            assert_eq!(line, format!("{last}\n"), "round {round}");
        }
        child.kill().expect("killed");
        // It had printed more by then.
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        last = whole.lines().last().map_or(last, |line| line.parse().expect("an index"));
        child.wait().expect("gone");
    }
}

#[test]
fn a_log_whose_reader_does_not_read_covers_its_last_flush_and_damage_to_it_is_noticed() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let mut child = command(&dir, "--count 1000000000 --batch 50")
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    // Nobody reads, so the pipe fills, and no batch follows any more that could cover the last one.
    let storage: Arc<dyn Storage> = Arc::new(Disk);
    until(|| {
        let seen = inspect(&storage, &dir).expect("readable");
        seen.is_some_and(|seen| seen.covered && seen.last.index > LogIndex::ZERO)
    });
    child.kill().expect("killed");
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    child.wait().expect("gone");
    let printed: u64 = text.lines().last().expect("lines").parse().expect("an index");
    // The last record that was printed loses a bit.
    let needle = format!("{printed} {printed} {printed} ");
    let mut damaged = 0;
    for path in segments(&dir) {
        let mut bytes = fs::read(&path).expect("read");
        let at = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        if let Some(at) = at {
            bytes[at] ^= 1;
            fs::write(&path, bytes).expect("written");
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1, "the record of {printed}");
    let (code, text) = failure(&run(&dir, "--count 1"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("wal_append: Damaged: "), "{text}");
}

#[test]
fn no_index_is_written_before_the_flush_of_its_record_has_returned() {
    let temp = tempfile::tempdir().expect("a directory");
    let (dir, trace) = (temp.path().join("data"), temp.path().join("trace"));
    let traced = Command::new("strace")
        .args(["-f", "-s", "10000", "-e", "trace=pwrite64,fdatasync,write", "-o"])
        .arg(&trace)
        .arg(program())
        .arg("--dir")
        .arg(&dir)
        .args(["--count", "40", "--batch", "4"])
        .output();
    let Ok(output) = traced else {
        println!("skipped: there is no strace");
        return;
    };
    assert_eq!(lines(&output).1.len(), 40);
    let trace = fs::read_to_string(&trace).expect("a trace");
    // How far the payloads have come: into the file, onto the disk, out.
    let (mut written, mut flushed, mut printed) = (0, 0, 0);
    for line in trace.lines() {
        let call = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
        if call.starts_with("pwrite64(") {
            while call.contains(&format!("{0} {0} {0} ", written + 1)) {
                written += 1;
            }
        } else if call.starts_with("fdatasync(") {
            assert!(call.ends_with("= 0"), "{call}");
            flushed = written;
        } else if call.starts_with("write(1, ") && !call.contains("recovered") {
            printed += 4;
            assert!(call.contains(&format!("\\n{printed}\\n")), "{call}");
            assert!(printed <= flushed, "{flushed} flushed, {written} written: {call}");
        }
    }
    assert_eq!(trace.matches("write(1, ").count(), 11, "a line, and one write for each batch");
}
