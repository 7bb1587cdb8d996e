//! A directory opens for its own node and for nobody else, and a crash at any point leaves it whole.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::membership::Member;
use crate::simulation::{Fault, FaultError, SimDisk};
use crate::storage::{OpenMode, StorageFile};
use crate::types::Term;
use crate::wal::disk::Disk;

const SEEDS: u64 = 30;

fn dir() -> &'static Path {
    Path::new("data")
}

fn members(ids: impl IntoIterator<Item = u64>) -> Membership {
    Membership::of_voters(ids.into_iter().map(|id| (NodeId(id), Member::at(format!("host{id}")))))
}

fn open_as(
    disk: &Arc<SimDisk>,
    node: u64,
    cluster: &str,
    members: &Membership,
) -> Result<Directory, StorageError> {
    start(disk.clone(), dir(), node, cluster, members)
}

/// Opens a directory and begins a run in it.
fn start(
    storage: Arc<dyn Storage>,
    dir: &Path,
    node: u64,
    cluster: &str,
    members: &Membership,
) -> Result<Directory, StorageError> {
    let mut directory = Directory::open(storage, dir, NodeId(node), cluster, members)?;
    let vote = directory.vote()?;
    directory.start(vote)?;
    Ok(directory)
}

fn open(disk: &Arc<SimDisk>) -> Result<Directory, StorageError> {
    open_as(disk, 1, "orders", &members([1, 2, 3]))
}

/// A disk with a directory that was opened once.
fn used(seed: u64) -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new(seed));
    open(&disk).expect("opened");
    disk
}

/// Every file in the directory, with its bytes.
fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list(dir()).expect("listed");
    let bytes = |name: &String| disk.live_bytes(&dir().join(name)).expect("listed");
    names.into_iter().map(|name| (name.clone(), bytes(&name))).collect()
}

fn gone(after: u64) -> Fault {
    Fault { operation: None, after, error: FaultError::Io, lasting: true }
}

fn identity() -> Identity {
    Identity {
        vote_exists: true,
        log_exists: true,
        sender: Sender { node: NodeId(1), incarnation: Incarnation(2), boot: BootCount(3) },
        cluster_id: 4,
        secret: 6,
        cluster: "orders".to_owned(),
        membership: Membership::of_voters([(NodeId(5), Member::at("a:1"))]),
    }
}

#[test]
fn identity_bytes_are_the_golden_ones() {
    let bytes = identity().encode(dir()).expect("small");
    #[rustfmt::skip]
    let golden = [
        b'o', b'a', b'r', b'l', b's', b'e', b'l', b'f', // magic
        0, 0, 0, 0, // version
        0x23, 0x6A, 0xDC, 0xA6, // crc
        146, 0, 0, 0, // length
        3, 0, 0, 0, // flags
        1, 0, 0, 0, 0, 0, 0, 0, // node
        2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // incarnation
        3, 0, 0, 0, 0, 0, 0, 0, // boot
        4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // cluster
        0x68, 0x77, 0x3F, 0xE2, 0xAA, 0x37, 0x2B, 0xD4, // hash
        6, 0, 0, 0, // n
        44, 0, 0, 0, // m
        6, 0, 0, 0, 0, 0, 0, 0, // secret
        b'o', b'r', b'd', b'e', b'r', b's', // name
        1, 0, 0, 0, 0, 0, 0, 0, // one voter
        5, 0, 0, 0, 0, 0, 0, 0, // its id
        3, 0, 0, 0, 0, 0, 0, 0, b'a', b':', b'1', // its address
        0, // no incarnation
        0, 0, 0, 0, 0, 0, 0, 0, // nobody outgoing
        0, 0, 0, 0, 0, 0, 0, 0, // no learners
    ];
    assert_eq!(bytes, golden);
    assert_eq!(Identity::decode(dir(), &bytes).expect("just encoded"), identity());
}

#[test]
fn every_flipped_bit_and_every_cut_is_damage() {
    let bytes = identity().encode(dir()).expect("small");
    let is_damaged = |bytes: &[u8]| {
        let error = Identity::decode(dir(), bytes).expect_err("damaged");
        matches!(error.kind, StorageErrorKind::Damaged { .. })
    };
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(is_damaged(&bad), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(is_damaged(&bytes[..len]), "{len} bytes");
    }
    assert!(is_damaged(&[&bytes[..], &[0]].concat()));
}

#[test]
fn a_directory_keeps_its_incarnation_and_counts_its_boots() {
    let disk = Arc::new(SimDisk::new(0));
    let first = open(&disk).expect("opened");
    let sender = first.sender();
    assert_eq!((sender.node, sender.boot), (NodeId(1), BootCount(1)));
    assert_ne!(sender.incarnation, Incarnation::default());
    assert_eq!(first.membership(), &members([1, 2, 3]));
    assert_eq!(first.path(), dir());
    assert!(!first.log_exists());
    drop(first);
    for boot in 2..5 {
        disk.crash();
        let sender_then = open(&disk).expect("opened").sender();
        assert_eq!(sender_then, Sender { boot: BootCount(boot), ..sender });
    }
}

#[test]
fn two_new_directories_never_share_an_incarnation() {
    let incarnation = || {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let members = members([1]);
        let directory = start(Arc::new(Disk), temp.path(), 1, "orders", &members);
        directory.expect("opened").sender().incarnation
    };
    assert_ne!(incarnation(), incarnation());
}

/// Node, cluster, members, and which error is expected.
type Attempt<'a> = (u64, &'a str, &'a Membership, fn(&StorageErrorKind) -> bool);

#[test]
fn a_directory_of_something_else_is_refused_and_nothing_is_written() {
    let ours = members([1, 2, 3]);
    let mut moved = ours.clone();
    moved.voters.get_mut(&NodeId(2)).expect("a member").address = "elsewhere".to_owned();
    let attempts: [Attempt<'_>; 4] = [
        (2, "orders", &ours, |kind| {
            matches!(kind, StorageErrorKind::AnotherNode { expected: NodeId(2), found: NodeId(1) })
        }),
        (1, "users", &ours, |kind| {
            matches!(kind, StorageErrorKind::AnotherCluster { expected, found }
                if expected == "users" && found == "orders")
        }),
        (1, "orders", &members([1, 2, 4]), |kind| {
            matches!(kind, StorageErrorKind::OtherMembers { stored, given }
                if *stored == [1, 2, 3].map(NodeId) && *given == [1, 2, 4].map(NodeId))
        }),
        (1, "orders", &moved, |kind| matches!(kind, StorageErrorKind::OtherMembers { .. })),
    ];
    for (node, cluster, members, is_expected) in attempts {
        let disk = used(0);
        disk.remove(&dir().join(LOCK_FILE)).expect("removed");
        let before = files(&disk);
        let error = open_as(&disk, node, cluster, members).expect_err("refused");
        assert!(is_expected(&error.kind), "{error}");
        assert_eq!(files(&disk), before, "not even a lock file");
    }
}

#[test]
fn another_version_is_refused_by_number_and_nothing_is_written() {
    let disk = used(0);
    disk.rot(&dir().join(IDENTITY_FILE), |file| {
        file[8] = 9;
        let crc = checksum(file);
        file[CRC].copy_from_slice(&crc.to_le_bytes());
    });
    disk.remove(&dir().join(LOCK_FILE)).expect("removed");
    let before = files(&disk);
    let error = open(&disk).expect_err("a newer version");
    let is_expected =
        matches!(error.kind, StorageErrorKind::UnknownVersion { supported: 0, found: 9 });
    assert!(is_expected, "{error}");
    assert_eq!(files(&disk), before);
}

#[test]
fn a_directory_in_use_is_refused_and_nothing_is_written() {
    let disk = Arc::new(SimDisk::new(0));
    let first = open(&disk).expect("opened");
    let before = files(&disk);
    let error = open(&disk).expect_err("in use");
    assert!(matches!(error.kind, StorageErrorKind::InUse), "{error}");
    assert_eq!(files(&disk), before);
    drop(first);
    assert_eq!(open(&disk).expect("free").sender().boot, BootCount(2));
}

#[test]
fn of_two_first_starts_at_once_one_wins_and_the_other_finds_it_in_use() {
    for _ in 0..20 {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let barrier = std::sync::Barrier::new(2);
        let begin = || {
            barrier.wait();
            start(Arc::new(Disk), temp.path(), 1, "orders", &members([1]))
        };
        let results = std::thread::scope(|scope| {
            let threads = [scope.spawn(begin), scope.spawn(begin)];
            threads.map(|thread| thread.join().expect("no panic"))
        });
        let mut refused = results.iter().filter_map(|result| result.as_ref().err());
        let error = refused.next().expect("one is refused");
        assert!(matches!(error.kind, StorageErrorKind::InUse), "{error}");
        assert!(refused.next().is_none(), "one wins");
    }
}

/// A disk on which something else happens right before the call number `at`.
struct Interrupted {
    disk: Arc<SimDisk>,
    calls: AtomicUsize,
    at: usize,
    other: Box<dyn Fn() + Send + Sync>,
}

impl Interrupted {
    fn disk(&self) -> &SimDisk {
        if self.calls.fetch_add(1, Ordering::Relaxed) == self.at {
            (self.other)();
        }
        &self.disk
    }
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interrupted({})", self.at)
    }
}

impl Storage for Interrupted {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk().create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk().list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.disk().open(path, mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk().remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk().sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn StorageLock>>> {
        self.disk().lock(path)
    }

    fn random(&self) -> io::Result<u128> {
        self.disk().random()
    }
}

/// Opens a new directory as node 1, while another process opens it as node `other` right before call number
/// `at`, and either keeps it open or is done with it. What became of both; `None` if there was no such call.
fn open_against(other: u64, keeps: bool, at: usize) -> Option<[Result<(), StorageErrorKind>; 2]> {
    let disk = Arc::new(SimDisk::new(0));
    let theirs = Arc::new(parking_lot::Mutex::new(None));
    let kept = Arc::new(parking_lot::Mutex::new(None));
    let interrupt = {
        let (disk, theirs, kept) = (Arc::clone(&disk), Arc::clone(&theirs), Arc::clone(&kept));
        move || {
            let result = open_as(&disk, other, "orders", &members([1, 2]));
            *theirs.lock() = Some(result.as_ref().map(drop).map_err(|error| error.kind.clone()));
            *kept.lock() = result.ok().filter(|_| keeps);
        }
    };
    let storage = Interrupted { disk, calls: AtomicUsize::new(0), at, other: Box::new(interrupt) };
    let ours = start(Arc::new(storage), dir(), 1, "orders", &members([1, 2]));
    let theirs = theirs.lock().take()?;
    Some([ours.map(drop).map_err(|error| error.kind), theirs])
}

#[test]
fn two_starts_in_each_other_s_middle_never_both_win_and_never_see_damage() {
    for at in 0.. {
        let Some(results) = open_against(1, true, at) else { break };
        let is_expected = matches!(
            results,
            [Ok(()), Err(StorageErrorKind::InUse)] | [Err(StorageErrorKind::InUse), Ok(())]
        );
        assert!(is_expected, "call {at}: {results:?}");
    }
}

#[test]
fn what_another_node_did_in_the_middle_of_a_start_is_noticed() {
    for at in 0.. {
        let Some(results) = open_against(2, false, at) else { break };
        let is_expected = matches!(
            results,
            [Err(StorageErrorKind::AnotherNode { .. }), Ok(())]
                | [Ok(()), Err(StorageErrorKind::InUse | StorageErrorKind::AnotherNode { .. })]
        );
        assert!(is_expected, "call {at}: {results:?}");
    }
}

#[test]
fn contents_without_an_identity_are_damage_and_never_a_fresh_start() {
    for name in [vote::VOTE_FILE, "log/1.seg", "snapshot/1.snap"] {
        let disk = Arc::new(SimDisk::new(0));
        let path = dir().join(name);
        disk.create_dir(path.parent().expect("a parent")).expect("created");
        disk.open(&path, OpenMode::Create).expect("created");
        let before = files(&disk);
        let error = open(&disk).expect_err("damaged");
        assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{name}: {error}");
        assert_eq!(files(&disk), before, "{name}");
    }
}

#[test]
fn a_vote_file_that_goes_missing_is_damage() {
    let disk = used(0);
    disk.remove(&dir().join(vote::VOTE_FILE)).expect("removed");
    let before = files(&disk);
    let error = open(&disk).expect_err("damaged");
    assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
    assert_eq!(files(&disk), before);
}

/// Votes in another directory, or in this one at another time, count for nothing.
#[test]
fn a_vote_file_of_another_directory_or_of_an_earlier_start_is_damage() {
    let vote = |disk: &SimDisk| disk.live_bytes(&dir().join(vote::VOTE_FILE)).expect("there");
    let other = vote(&used(1));
    let disk = used(0);
    let earlier = vote(&disk);
    drop(open(&disk).expect("opened"));
    for wrong in [other, earlier] {
        let disk = Arc::new((*disk).clone());
        disk.rot(&dir().join(vote::VOTE_FILE), |bytes| bytes.clone_from(&wrong));
        let before = files(&disk);
        let error = open(&disk).expect_err("damaged");
        assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
        assert_eq!(files(&disk), before);
    }
}

/// A node that has voted does not forget it.
#[test]
fn an_identity_from_before_there_was_a_vote_is_damage() {
    let path = dir().join(IDENTITY_FILE);
    let unaware = (0..).find_map(|after| {
        let disk = Arc::new(SimDisk::new(0));
        disk.fail(gone(after));
        drop(open(&disk));
        disk.live_bytes(&path)
    });
    let unaware = unaware.expect("the identity comes first");
    let disk = used(0);
    let directory = open(&disk).expect("opened");
    let mut vote = directory.vote().expect("readable").expect("there");
    vote.store(HardState { term: Term(3), voted_for: Some(NodeId(2)) }).expect("stored");
    drop(directory);
    disk.rot(&path, |bytes| bytes.clone_from(&unaware));
    let before = files(&disk);
    let error = open(&disk).expect_err("damaged");
    assert!(matches!(error.kind, StorageErrorKind::Damaged { .. }), "{error}");
    assert_eq!(files(&disk), before);
}

#[test]
fn that_a_log_exists_is_remembered() {
    let disk = used(0);
    let mut directory = open(&disk).expect("opened");
    directory.set_log_exists().expect("noted");
    assert!(directory.log_exists());
    let operations = disk.operations();
    directory.set_log_exists().expect("noted before");
    assert_eq!(disk.operations(), operations);
    drop(directory);
    disk.crash_losing_all();
    let directory = open(&disk).expect("opened");
    assert!(directory.log_exists());
    assert_eq!(directory.sender().boot, BootCount(3));
}

#[test]
fn after_a_failure_the_identity_is_left_alone() {
    let disk = used(0);
    let mut directory = open(&disk).expect("opened");
    disk.fail(Fault { lasting: false, ..gone(3) });
    directory.set_log_exists().expect_err("planned");
    let error = directory.set_log_exists().expect_err("poisoned");
    assert!(matches!(error.kind, StorageErrorKind::Poisoned), "{error}");
}

#[test]
fn what_a_crash_left_under_the_temporary_name_is_ignored() {
    let disk = used(0);
    let path = dir().join(format!("{IDENTITY_FILE}.tmp"));
    let file = disk.open(&path, OpenMode::Create).expect("created");
    file.write_at(&[7; 9000], 0).expect("written");
    assert_eq!(open(&disk).expect("opened").sender().boot, BootCount(2));
    assert_eq!(open(&disk).expect("opened").sender().boot, BootCount(3));
}

/// Lets the disk vanish at every operation of an opening in turn, with a power cut after it.
///
/// Whatever was drawn, the directory opens again, as the same one once it has been opened, and no boot
/// count is ever given twice.
#[test]
fn a_crash_at_any_point_of_opening_leaves_a_directory_that_opens() {
    for seed in 0..SEEDS {
        for earlier_boots in [0, 1, 2] {
            for after in 0.. {
                let disk = Arc::new(SimDisk::new(seed));
                let mut last = None;
                for _ in 0..earlier_boots {
                    last = Some(open(&disk).expect("opened").sender());
                }
                disk.fail(gone(after));
                let opened = open(&disk);
                disk.clear_faults();
                let finished = opened.is_ok();
                if let Ok(directory) = opened {
                    last = Some(directory.sender());
                }
                disk.crash();
                let place = format!("seed {seed}, boot {earlier_boots}, operation {after}");
                let directory = open(&disk).unwrap_or_else(|error| panic!("{place}: {error}"));
                let vote = directory.vote().expect(&place).expect(&place);
                assert_eq!(vote.state(), HardState::default());
                let now = directory.sender();
                drop(directory);
                if let Some(last) = last {
                    assert_eq!(now.incarnation, last.incarnation, "{place}");
                    assert!(now.boot > last.boot, "{place}: {} after {}", now.boot, last.boot);
                }
                if finished {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_name_or_a_membership_that_is_too_large_is_refused_and_nothing_is_written() {
    let disk = Arc::new(SimDisk::new(0));
    let name = "x".repeat(MAX_NAME_BYTES + 1);
    let crowd = Membership::of_voters([(NodeId(1), Member::at("x".repeat(MAX_MESSAGE_BYTES)))]);
    for (name, members) in [(&name[..], &members([1])), ("orders", &crowd)] {
        let error = open_as(&disk, 1, name, members).map(drop).expect_err("too large");
        let StorageErrorKind::Io { operation: "encode", error } = error.kind else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(disk.operations(), 0);
}
