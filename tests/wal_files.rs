//! The real disk: locks between processes, and whether the simulated disk behaves like it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use oarlock::simulation::SimDisk;
use oarlock::storage::{OpenMode, Storage, StorageFile};
use oarlock::wal::Disk;
use proptest::prelude::*;

/// Names a lock file that [`child_process_holds_a_lock`] takes.
const LOCK_VARIABLE: &str = "OARLOCK_TEST_LOCK";
const HELD: &str = "the lock is held";

/// Not a test of its own: another process runs it, with the variable set, and is killed while it waits.
#[test]
fn child_process_holds_a_lock() {
    let Some(path) = std::env::var_os(LOCK_VARIABLE) else { return };
    let _lock = Disk.lock(Path::new(&path)).expect("no I/O error").expect("free");
    println!("{HELD}");
    io::stdin().read_to_end(&mut Vec::new()).expect("waits for the end");
}

#[test]
fn a_lock_keeps_other_processes_out_until_its_holder_is_killed() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("lock");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_process_holds_a_lock", "--nocapture"])
        .env(LOCK_VARIABLE, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let held = lines.any(|line| line.expect("text").contains(HELD));
    assert!(held, "the child could not take the lock");

    assert!(Disk.lock(&path).expect("no I/O error").is_none());
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert!(Disk.lock(&path).expect("no I/O error").is_some());
}

/// A call on a disk. Files are numbered; each number has at most one open handle.
#[derive(Clone, Debug)]
enum Call {
    Open(u8, OpenMode),
    Rename(u8, u8),
    Remove(u8),
    List,
    SyncDir,
    CreateDir,
    Lock(u8),
    Len(u8),
    Read(u8, u16, u16),
    Write(u8, u16, Vec<u8>),
    Allocate(u8, u16),
    Sync(u8),
}

fn call() -> impl Strategy<Value = Call> {
    let file = || 0..3_u8;
    let mode = prop_oneof![Just(OpenMode::Read), Just(OpenMode::Write), Just(OpenMode::Create)];
    let bytes = prop::collection::vec(any::<u8>(), 1..600);
    prop_oneof![
        6 => (file(), mode).prop_map(|(file, mode)| Call::Open(file, mode)),
        2 => (file(), file()).prop_map(|(from, to)| Call::Rename(from, to)),
        2 => file().prop_map(Call::Remove),
        2 => Just(Call::List),
        1 => Just(Call::SyncDir),
        1 => Just(Call::CreateDir),
        1 => file().prop_map(Call::Lock),
        2 => file().prop_map(Call::Len),
        6 => (file(), 0..2000_u16, prop_oneof![Just(0), 0..600_u16])
            .prop_map(|(file, offset, len)| Call::Read(file, offset, len)),
        6 => (file(), 0..2000_u16, bytes)
            .prop_map(|(file, offset, bytes)| Call::Write(file, offset, bytes)),
        2 => (file(), 1..3000_u16).prop_map(|(file, len)| Call::Allocate(file, len)),
        1 => file().prop_map(Call::Sync),
    ]
}

/// A disk, the directory that is used on it, and the open files.
struct Driven<S> {
    disk: S,
    dir: PathBuf,
    open: BTreeMap<u8, Arc<dyn StorageFile>>,
}

impl<S: Storage> Driven<S> {
    fn new(disk: S, dir: &Path) -> Self {
        disk.create_dir(dir).expect("created");
        Self { disk, dir: dir.to_path_buf(), open: BTreeMap::new() }
    }

    fn path(&self, file: u8) -> PathBuf {
        self.dir.join(format!("file{file}"))
    }

    fn file(&self, file: u8) -> io::Result<&Arc<dyn StorageFile>> {
        self.open.get(&file).ok_or_else(|| io::Error::other("not open"))
    }

    /// What the call answers, or the kind of its error.
    fn call(&mut self, call: &Call) -> Result<String, io::ErrorKind> {
        self.try_call(call).map_err(|error| error.kind())
    }

    fn try_call(&mut self, call: &Call) -> io::Result<String> {
        match *call {
            Call::Open(file, mode) => {
                let handle = self.disk.open(&self.path(file), mode)?;
                self.open.insert(file, handle);
            }
            Call::Rename(from, to) => self.disk.rename(&self.path(from), &self.path(to))?,
            Call::Remove(file) => self.disk.remove(&self.path(file))?,
            Call::List => return Ok(self.disk.list(&self.dir)?.join(" ")),
            Call::SyncDir => self.disk.sync_dir(&self.dir)?,
            Call::CreateDir => self.disk.create_dir(&self.dir)?,
            Call::Lock(file) => {
                let first = self.disk.lock(&self.path(file))?;
                let second = self.disk.lock(&self.path(file))?;
                return Ok(format!("{} {}", first.is_some(), second.is_some()));
            }
            Call::Len(file) => return Ok(self.file(file)?.len()?.to_string()),
            Call::Read(file, offset, len) => {
                let mut bytes = vec![0; usize::from(len)];
                self.file(file)?.read_at(&mut bytes, u64::from(offset))?;
                return Ok(format!("{bytes:?}"));
            }
            Call::Write(file, offset, ref bytes) => {
                self.file(file)?.write_at(bytes, u64::from(offset))?;
            }
            Call::Allocate(file, len) => self.file(file)?.allocate(u64::from(len))?,
            Call::Sync(file) => self.file(file)?.sync()?,
        }
        Ok("done".to_owned())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn without_accidents_the_simulated_disk_answers_like_a_real_one(
        calls in prop::collection::vec(call(), 1..60),
    ) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let mut real = Driven::new(Disk, &temp.path().join("data"));
        let mut simulated = Driven::new(SimDisk::new(0), Path::new("data"));
        for (step, call) in calls.iter().enumerate() {
            prop_assert_eq!(real.call(call), simulated.call(call), "step {}: {:?}", step, call);
        }
    }
}
