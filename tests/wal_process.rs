//! Real processes on the real disk: killed right before every call that the log makes, killed at random, and
//! on file systems that are full.
#![cfg(unix)]

mod crash_rig;
mod wal_rig;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{env, thread};

use crash_rig::driver::OPTIONS;
use oarlock::error::{StorageError, StorageErrorKind};
use oarlock::record::record_bytes;
use oarlock::storage::{OpenMode, Storage, StorageFile, StorageLock};
use oarlock::wal::{Disk, Opened};
use oarlock::{HardState, LogIndex, NodeId, Term};
use parking_lot::Mutex;
use wal_rig::{header, read_all, try_open_with};

/// Where the child's log is; without it, it is no child.
const DIR: &str = "OARLOCK_TEST_PROCESS_DIR";
/// Before which call the child is to be killed; without it, it goes on for ever.
const AT: &str = "OARLOCK_TEST_PROCESS_AT";
/// What the child says when it waits to be killed.
const WAITING: &str = "waiting to be killed";

/// Between a fork and its exec a child holds a copy of every lock, so tests that start processes take turns
/// with those that lock a directory twice.
static ALONE: Mutex<()> = Mutex::new(());

/// What entry `index` holds: a size that leads to ends of segments soon, and bytes that tell.
fn payload(index: LogIndex) -> Vec<u8> {
    let sizes = [10, 3000, 0, 700, 4000, 90];
    vec![index.0 as u8; sizes[index.0 as usize % sizes.len()]]
}

/// The real disk, until call number `at`: there it waits to be killed. A write may have begun.
#[derive(Debug)]
struct Deadly {
    at: u64,
    calls: Arc<AtomicU64>,
}

impl Deadly {
    fn call(&self) {
        self.call_or(|| ());
    }

    fn call_or(&self, half: impl FnOnce()) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            half();
            say(WAITING);
            loop {
                thread::park();
            }
        }
    }
}

/// In one call: a line is there whole or not at all.
fn say(line: &str) {
    let line = format!("{line}\n");
    let mut out = stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("a parent");
}

impl Storage for Deadly {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.call();
        Disk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        if mode == OpenMode::Create {
            self.call();
        }
        let file = Disk.open(path, mode)?;
        Ok(Arc::new(DeadlyFile { file, at: self.at, calls: Arc::clone(&self.calls) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call();
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call();
        Disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call();
        Disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn StorageLock>>> {
        self.call();
        Disk.lock(path)
    }
}

#[derive(Debug)]
struct DeadlyFile {
    file: Arc<dyn StorageFile>,
    at: u64,
    calls: Arc<AtomicU64>,
}

impl DeadlyFile {
    fn call_or(&self, half: impl FnOnce()) {
        Deadly { at: self.at, calls: Arc::clone(&self.calls) }.call_or(half);
    }
}

impl StorageFile for DeadlyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.call_or(|| {
            self.file.write_at(&bytes[..bytes.len() / 2], offset).expect("a good disk");
        });
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.call_or(|| ());
        self.file.allocate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.call_or(|| ());
        self.file.sync()
    }

    fn file(&self) -> Option<&File> {
        self.file.file()
    }
}

/// Appends the next entry, and returns its index once it is durable.
fn append(opened: &mut Opened, term: u64) -> Result<LogIndex, StorageError> {
    let index = opened.log.last().index.next();
    let payload = payload(index);
    while opened.log.room() < record_bytes(payload.len(), false) {
        opened.preparer.step()?;
    }
    opened.log.append(&header(term, index), &payload);
    let target = opened.log.publish();
    let flushed = opened.flusher.as_mut().expect("on disk").flush(target)?;
    opened.log.persisted(flushed);
    Ok(index)
}

/// The child: appends, votes and lets go of entries, and says what was acknowledged.
#[test]
fn child_that_is_killed() {
    let Some(dir) = env::var_os(DIR) else { return };
    let at = env::var(AT).map_or(u64::MAX, |at| at.parse().expect("a number"));
    let disk = Deadly { at, calls: Arc::default() };
    let mut opened = try_open_with(Arc::new(disk), Path::new(&dir), &OPTIONS).expect("a good disk");
    say("open");
    let term = opened.recovered.hard_state.term.0 + 1;
    for round in 0.. {
        let index = append(&mut opened, term).expect("a good disk");
        say(&format!("acknowledged {index}"));
        if round == 4 {
            let vote = HardState { term: Term(term), voted_for: Some(NodeId(2)) };
            let stored = opened.flusher.as_mut().expect("on disk").store_hard_state(vote);
            stored.expect("a good disk");
            say(&format!("voted {term}"));
        }
        if round % 6 == 5 {
            opened.log.release(index.prev());
            opened.preparer.step().expect("a good disk");
        }
        if at < u64::MAX && round == 11 {
            break;
        }
    }
}

/// What a child has said.
#[derive(Debug, Default)]
struct Said {
    opened: bool,
    acknowledged: u64,
    voted: u64,
    waits: bool,
}

impl Said {
    fn hear(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("acknowledged", index)) => self.acknowledged = index.parse().expect("an index"),
            Some(("voted", term)) => self.voted = term.parse().expect("a term"),
            _ if line == WAITING => self.waits = true,
            _ if line == "open" => self.opened = true,
            _ => {}
        }
    }
}

fn start(dir: &Path, at: Option<u64>) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args(["--exact", "child_that_is_killed", "--nocapture"]).env(DIR, dir);
    if let Some(at) = at {
        command.env(AT, at.to_string());
    }
    let mut child = command.stdout(Stdio::piped()).spawn().expect("a child");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    (child, out)
}

/// Runs a child until it waits before call `at`, and kills it there; or until it ends.
fn run(dir: &Path, at: u64) -> Said {
    let (mut child, out) = start(dir, Some(at));
    let mut said = Said::default();
    for line in out.lines().map_while(Result::ok) {
        said.hear(&line);
        if said.waits {
            child.kill().expect("killed");
        }
    }
    let status = child.wait().expect("it has ended");
    assert_eq!(status.success(), !said.waits, "call {at}: {status}");
    said
}

/// Opens what a child has left, and checks it against what that has said.
fn check(dir: &Path, said: &Said, place: &str) {
    let open = || {
        let opened = try_open_with(Arc::new(Disk), dir, &OPTIONS);
        opened.unwrap_or_else(|error| panic!("{place}: {error}"))
    };
    let mut opened = open();
    let (base, last) = (opened.log.base().index.0, opened.log.last().index.0);
    assert!(base <= last && last >= said.acknowledged, "{place}: {base}..{last}, {said:?}");
    assert!(opened.recovered.hard_state.term.0 >= said.voted, "{place}: {said:?}");
    let entries = read_all(&opened.log);
    assert_eq!(entries.len() as u64, last - base, "{place}");
    for (id, found) in entries {
        assert!(found == payload(id.index), "{place}: entry {id}");
    }
    let term = opened.recovered.hard_state.term.0 + 1;
    let more = append(&mut opened, term).expect("a good disk");
    drop(opened);
    assert_eq!(open().log.last().index, more, "{place}");
}

#[test]
fn killed_before_any_call_it_has_lost_nothing_that_it_acknowledged() {
    let _alone = ALONE.lock();
    for at in 0.. {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let first = run(temp.path(), at);
        check(temp.path(), &first, &format!("first start, call {at}"));
        let second = run(temp.path(), at);
        check(temp.path(), &second, &format!("next start, call {at}"));
        if !first.waits && !second.waits {
            assert!(at > 60, "{at} calls");
            assert!(first.acknowledged >= 12 && second.acknowledged >= 24);
            break;
        }
    }
}

#[test]
fn killed_at_random_it_has_lost_nothing_that_it_acknowledged() {
    let _alone = ALONE.lock();
    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut acknowledged = 0;
    for round in 0..12 {
        let (mut child, out) = start(temp.path(), None);
        let mut said = Said { acknowledged, ..Said::default() };
        let mut killer = None;
        for line in out.lines().map_while(Result::ok) {
            said.hear(&line);
            if said.opened && killer.is_none() {
                let (delay, id) = (fastrand::u64(..30), child.id().to_string());
                killer = Some(thread::spawn(move || {
                    thread::sleep(Duration::from_millis(delay));
                    Command::new("kill").args(["-9", &id]).status().expect("kill")
                }));
            }
        }
        let status = child.wait().expect("it has ended");
        assert!(status.code().is_none(), "it ended by itself: {status}");
        assert!(killer.expect("it has opened").join().expect("no panic").success());
        check(temp.path(), &said, &format!("round {round}"));
        acknowledged = said.acknowledged;
    }
    assert!(acknowledged > 0, "it never came to anything");
}

/// A small file system that is mounted for a test.
struct Mount(PathBuf, #[expect(dead_code, reason = "held, not looked at")] tempfile::TempDir);

impl Mount {
    /// `None`, aloud, where this user may not mount.
    fn of(kind: &str) -> Option<Self> {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = temp.path().join("mounted");
        std::fs::create_dir(&dir).expect("created");
        let run = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            let done = command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
            done.is_ok_and(|status| status.success())
        };
        let at = dir.to_str().expect("a plain path");
        let mounted = if kind == "tmpfs" {
            run("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs", at])
        } else {
            let image = temp.path().join("image");
            File::create(&image).and_then(|file| file.set_len(2 << 20)).expect("created");
            let image = image.to_str().expect("a plain path");
            run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", image])
                && run("mount", &["-o", "loop", image, at])
        };
        if !mounted {
            println!("SKIPPED: this user may not mount a small {kind}");
            return None;
        }
        Some(Self(dir, temp))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || thread::panicking());
    }
}

fn is_full(error: &StorageError) -> bool {
    matches!(&error.kind, StorageErrorKind::Io { error, .. }
        if error.kind() == io::ErrorKind::StorageFull)
}

/// Known bug 35: not a SIGBUS at a store into a mapping.
#[test]
fn a_full_file_system_is_an_error_and_with_space_the_log_goes_on() {
    let _alone = ALONE.lock();
    for kind in ["tmpfs", "ext4"] {
        let Some(mount) = Mount::of(kind) else { continue };
        let dir = mount.0.join("data");
        let open = || try_open_with(Arc::new(Disk), &dir, &OPTIONS);
        let ballast = mount.0.join("ballast");
        std::fs::write(&ballast, vec![1; 80 << 10]).expect("there is space");
        let mut opened = open().expect("there is space");
        let mut last = LogIndex(0);
        let error = loop {
            match append(&mut opened, 1) {
                Ok(index) => last = index,
                Err(error) => break error,
            }
            assert!(last.0 < 100_000, "{kind}: it is not full");
        };
        assert!(is_full(&error), "{kind}: {error}");
        assert!(last.0 > 20, "{kind}: {last} entries");
        assert_eq!(read_all(&opened.log).len() as u64, last.0, "{kind}: what is there is readable");
        if let Some(target) = opened.log.cover() {
            opened.flusher.as_mut().expect("on disk").flush(target).expect("it needs no space");
        }
        drop(opened);

        // A start needs space for a segment and for the last one once more.
        let error = open().map(drop).expect_err("a full disk");
        assert!(is_full(&error), "{kind}: {error}");
        std::fs::remove_file(ballast).expect("removed");
        let mut opened = open().unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(opened.log.last().index, last, "{kind}: nothing is lost");
        opened.log.release(last.prev());
        let target = opened.log.publish();
        opened.flusher.as_mut().expect("on disk").flush(target).expect("there is space");
    }
}
