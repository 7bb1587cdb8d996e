//! Members and directories that do not belong together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use oarlock::error::{ApplyError, EncodeError, StorageError, StorageErrorKind};
use oarlock::transport::memory::Network;
use oarlock::wal::Memory;
use oarlock::{Applied, Config, EntryId, LogIndex, Node, NodeId, StartError, StateMachine, Term};

use crate::journal::{Journal, PATIENCE, member, until};

/// Every file below a directory, with its bytes; without those that vanish meanwhile.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.insert(path.clone(), Vec::new());
            files.append(&mut contents(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            files.insert(path, bytes);
        }
    }
    files
}

/// Starts node `id` of three in `dir`, in the cluster "orders".
fn start(dir: &Path, id: u64) -> Result<Node<Journal>, StartError> {
    member(&Network::new(), id, 3, Journal::default()).data_dir(dir).cluster_name("orders").start()
}

/// The kind of a start's failure.
fn refusal(started: Result<Node<Journal>, StartError>) -> StorageErrorKind {
    match started {
        Err(StartError::Storage(StorageError { kind, .. })) => kind,
        other => panic!("{other:?}"),
    }
}

/// A directory that node 1 of three has used.
fn used() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    start(dir.path(), 1).expect("starts").shutdown(PATIENCE).expect("stops");
    dir
}

#[test]
fn a_directory_of_another_node_cluster_or_member_list_is_refused_untouched() {
    let dir = used();
    let before = contents(dir.path());
    assert!(before.len() > 3, "{:?}", before.keys());

    match refusal(start(dir.path(), 2)) {
        StorageErrorKind::AnotherNode { expected: NodeId(2), found: NodeId(1) } => {}
        other => panic!("{other:?}"),
    }
    let member = |of| member(&Network::new(), 1, of, Journal::default()).data_dir(dir.path());
    match refusal(member(3).cluster_name("invoices").start()) {
        StorageErrorKind::AnotherCluster { expected, found } => {
            assert_eq!((expected.as_str(), found.as_str()), ("invoices", "orders"));
        }
        other => panic!("{other:?}"),
    }
    match member(2).cluster_name("orders").start() {
        Err(StartError::MembersChanged { stored, given }) => {
            assert_eq!(stored, [1, 2, 3].map(NodeId));
            assert_eq!(given, [1, 2].map(NodeId));
        }
        other => panic!("{other:?}"),
    }
    let moved = [(1, "memory:1"), (2, "memory:2"), (3, "elsewhere")];
    match member(3).members(moved).cluster_name("orders").start() {
        Err(error @ StartError::MembersChanged { .. }) => {
            assert!(error.to_string().contains("addresses"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(contents(dir.path()) == before, "a refused start wrote something");
    start(dir.path(), 1).expect("its own node is welcome");
}

/// Changes the version in a file of ours, and makes its checksum fit.
fn set_version(path: &Path, version: u32, checksum: impl Fn(&mut [u8])) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    checksum(&mut bytes);
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_directory_of_a_later_format_is_refused_untouched() {
    let dir = used();
    set_version(&dir.path().join("identity"), 7, |bytes| {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let before = contents(dir.path());
    match refusal(start(dir.path(), 1)) {
        StorageErrorKind::UnknownVersion { supported: 0, found: 7 } => {}
        other => panic!("{other:?}"),
    }
    assert!(contents(dir.path()) == before, "a refused start wrote something");
}

#[test]
fn a_log_of_a_later_format_is_refused_and_left_as_it_is() {
    let dir = used();
    let log = dir.path().join("log");
    let segment = contents(&log).into_keys().next().expect("a segment");
    set_version(&segment, 7, |bytes| {
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let before = contents(&log);
    match refusal(start(dir.path(), 1)) {
        StorageErrorKind::UnknownVersion { supported: 0, found: 7 } => {}
        other => panic!("{other:?}"),
    }
    assert!(contents(&log) == before, "a refused start wrote something");
}

#[test]
fn a_directory_in_use_is_refused_untouched() {
    let dir = tempfile::tempdir().expect("a directory");
    let start = || {
        Node::builder(1, Journal::default())
            .data_dir(dir.path())
            .members([(1, "")])
            .config(Config::small())
            .start()
    };
    let node = start().expect("starts");
    until(|| node.propose(1).is_ok());
    // Until the last mark is written the owner itself still writes.
    let mut before = contents(dir.path());
    until(|| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let earlier = std::mem::replace(&mut before, contents(dir.path()));
        before == earlier
    });
    assert!(matches!(refusal(start()), StorageErrorKind::InUse));
    assert!(contents(dir.path()) == before, "a refused start wrote something");
    assert_eq!(node.propose(2).expect("the owner is not disturbed"), 2);
    node.shutdown(PATIENCE).expect("stops");
    let node = start().expect("nobody uses it any more");
    until(|| node.read(|journal| journal.values.clone()).is_ok_and(|values| values == [1, 2]));
}

#[test]
fn memory_remembers_whose_it_is_as_a_directory_does() {
    let memory = Memory::default();
    let start =
        |id, of| member(&Network::new(), id, of, Journal::default()).memory(&memory).start();
    let node = start(1, 3).expect("starts");
    assert!(matches!(refusal(start(1, 3)), StorageErrorKind::InUse));
    node.shutdown(PATIENCE).expect("stops");
    assert!(matches!(refusal(start(2, 3)), StorageErrorKind::AnotherNode { .. }));
    assert!(matches!(start(1, 2), Err(StartError::MembersChanged { .. })));
    start(1, 3).expect("its own node is welcome");
}

#[test]
fn a_path_that_is_no_directory_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").expect("written");
    for path in [file.clone(), file.join("below")] {
        match start(&path, 1) {
            Err(StartError::Storage(error)) => {
                assert!(matches!(error.kind, StorageErrorKind::Io { .. }), "{error}");
                assert!(error.path.starts_with(&file), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read(&file).expect("still there"), b"not a directory");
}

#[test]
fn a_log_without_an_identity_is_damage_and_not_a_new_directory() {
    let dir = used();
    fs::remove_file(dir.path().join("identity")).expect("removed");
    let before = contents(dir.path());
    assert!(matches!(refusal(start(dir.path(), 1)), StorageErrorKind::Damaged { .. }));
    assert!(contents(dir.path()) == before, "a refused start wrote something");
}

#[test]
fn members_that_cannot_be_are_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("n1");
    let builder = |members: &[(u64, &str)]| {
        Node::builder(1, Journal::default())
            .data_dir(&data)
            .transport(Network::new().transport())
            .members(members.iter().copied())
    };
    assert!(matches!(builder(&[]).start(), Err(StartError::NoMembers)));
    let twice = builder(&[(2, "a"), (1, "b"), (2, "c")]).start();
    assert!(matches!(twice, Err(StartError::DuplicateMember(NodeId(2)))), "{twice:?}");
    let others = builder(&[(2, "a"), (3, "b")]).start();
    assert!(matches!(others, Err(StartError::NotAMember(NodeId(1)))), "{others:?}");

    let bare = || Node::builder(1, Journal::default()).members([(1, "")]);
    assert!(matches!(bare().start(), Err(StartError::NoStorage)));
    let alone = bare().data_dir(&data).members([(1, "a"), (2, "b")]).start();
    assert!(matches!(alone, Err(StartError::NoTransport)), "{alone:?}");
    assert!(!data.exists());
}

/// Says that it has applied an entry by itself.
struct Keeper(EntryId);

impl StateMachine for Keeper {
    type Command = ();
    type Response = ();

    fn encode((): &(), _out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Ok(())
    }

    fn apply_entry(&mut self, _bytes: &[u8], at: &Applied) -> Result<(), ApplyError> {
        self.0 = at.entry;
        Ok(())
    }

    fn last_applied(&self) -> Option<EntryId> {
        Some(self.0)
    }
}

#[test]
fn a_state_from_another_log_is_refused() {
    let memory = Memory::default();
    let start =
        |applied| Node::builder(1, Keeper(applied)).memory(&memory).members([(1, "")]).start();
    let node = start(EntryId::ZERO).expect("starts");
    until(|| node.propose(()).is_ok());
    until(|| node.status().last.index == node.status().applied);
    let last = node.status().last;
    node.shutdown(PATIENCE).expect("stops");

    let ahead = EntryId::new(last.term, last.index.next());
    let other_term = EntryId::new(Term(last.term.0 + 1), last.index);
    for bad in [ahead, other_term, EntryId::new(Term(0), LogIndex(1))] {
        match start(bad) {
            Err(StartError::StateMismatch { applied, first: LogIndex(1), last: held }) => {
                assert_eq!((applied, held), (bad, last));
            }
            other => panic!("{other:?}"),
        }
    }
    let node = start(last).expect("its own state is welcome");
    until(|| node.propose(()).is_ok());
}
