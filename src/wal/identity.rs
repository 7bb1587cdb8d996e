//! Whose directory this is: the identity file and the lock.
//!
//! A node that starts on another node's directory, on another cluster's, or on one that is in use,
//! breaks promises it does not know of. So a directory is checked before a byte is written to it: without
//! the lock first, so that even a lock file is not left in the wrong place, and again under the lock. Then the
//! caller looks at vote and log. Only when all of it is found to be in order the boot count is raised,
//! durably: peers tell messages from before a restart from those after.
//!
//! ```text
//!  offset  bytes
//!       0      8  magic        "oarlself"
//!       8      4  version      0
//!      12      4  crc          CRC32C of all other bytes of the file
//!      16      4  length       of the whole file
//!      20      4  flags        bit 0: there is a vote file; bit 1: there is a log
//!      24      8  node
//!      32     16  incarnation  drawn at random when the directory was created
//!      48      8  boot         how often the directory has been opened
//!      56     16  cluster      the cluster's id; zero: none was given
//!      72      8  hash         64-bit FNV-1a of the membership's bytes, for comparing with peers
//!      80      4  n            bytes of the cluster's name
//!      84      4  m            bytes of the membership
//!      88      8  secret       drawn as well, and never sent or shown: see the log's salted checksums
//!      96      n  name         of the cluster, UTF-8
//!       …      m  membership   the initial one, as in a message
//! ```
//!
//! All numbers are little-endian. Magic, version, checksum and length keep their places in every
//! version, so that a rotten version is not taken for a newer one. The file is only ever replaced as a
//! whole (see [`replace`](super::replace)).
//!
//! A missing file must not pass for one that never was: a node without its vote file would vote twice.
//! So the identity says what else must be there, and it comes first. At a first start the identity is
//! made durable, then an empty vote file, then the identity once more, with bit 0. Without bit 0 nobody
//! has voted, and the vote file is created (again); with it, its absence is damage. The vote file repeats the
//! boot count (see [`vote`](super::vote)), so that an old copy of either file shows. Bit 1 is set by
//! [`Directory::set_log_exists`] before the first entry is acknowledged. A directory that has a vote file or
//! a log and no identity is damaged, never new.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::replace::{read, replace};
use super::vote::{self, VoteFile};
use crate::codec::{self, MAX_MESSAGE_BYTES};
use crate::error::{StorageError, StorageErrorKind};
use crate::membership::{Membership, fnv1a};
use crate::storage::{OpenMode, Storage, StorageLock};
use crate::types::{BootCount, HardState, Incarnation, NodeId, Sender};

const IDENTITY_FILE: &str = "identity";
const LOCK_FILE: &str = "lock";
/// Directories whose files say that a node has lived here.
const CONTENTS: [&str; 2] = ["log", "snapshot"];

const MAGIC: &[u8; 8] = b"oarlself";
const VERSION: u32 = 0;
/// Where the checksum lies.
const CRC: std::ops::Range<usize> = 12..16;
/// Bytes that every version has, in the same places.
const COMMON_BYTES: usize = 20;
const HEADER_BYTES: usize = 96;
const MAX_NAME_BYTES: usize = 1 << 10;
const MAX_FILE_BYTES: usize = HEADER_BYTES + MAX_NAME_BYTES + MAX_MESSAGE_BYTES;

const FLAG_VOTE: u32 = 1;
const FLAG_LOG: u32 = 2;

/// A data directory that is ours: checked and locked.
#[derive(Debug)]
pub(crate) struct Directory {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    identity: Identity,
    poisoned: bool,
    _lock: Box<dyn StorageLock>,
}

/// What the identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) vote_exists: bool,
    pub(super) log_exists: bool,
    pub(super) sender: Sender,
    cluster_id: u128,
    pub(super) secret: u64,
    pub(super) cluster: String,
    pub(super) membership: Membership,
}

impl Directory {
    /// Opens the directory of `node`, or creates it: checks that it is this node's, in this cluster and
    /// first started with these members, and takes its lock. Writes nothing else: it is in use after
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// `AnotherCluster`, `AnotherNode`, `OtherMembers`, `UnknownVersion`, `InUse` and `Damaged`. `Io`.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        dir: &Path,
        node: NodeId,
        cluster: &str,
        initial: &Membership,
    ) -> Result<Self, StorageError> {
        let failed = |path: &Path, operation| {
            let path = path.to_path_buf();
            move |error| StorageError::io(path, operation, error)
        };
        let wanted = Identity {
            vote_exists: false,
            log_exists: false,
            sender: Sender { node, incarnation: Incarnation::default(), boot: BootCount(0) },
            cluster_id: 0,
            secret: 0,
            cluster: cluster.to_owned(),
            membership: initial.clone(),
        };
        wanted.encode(&dir.join(IDENTITY_FILE))?;
        inspect(&*storage, dir, &wanted)?;
        storage.create_dir(dir).map_err(failed(dir, "create"))?;
        let lock_path = dir.join(LOCK_FILE);
        let lock = storage
            .lock(&lock_path)
            .map_err(failed(&lock_path, "lock"))?
            .ok_or_else(|| StorageError::new(dir, StorageErrorKind::InUse))?;
        let identity = if let Some(stored) = inspect(&*storage, dir, &wanted)? {
            stored
        } else {
            let incarnation = storage.random().map_err(failed(dir, "random"))?;
            let secret = storage.random().map_err(failed(dir, "random"))?;
            wanted.drawn(incarnation, secret as u64)
        };
        Ok(Self { storage, path: dir.to_path_buf(), identity, poisoned: false, _lock: lock })
    }

    /// The vote file, if there must be one. Only reads.
    ///
    /// # Errors
    /// As [`VoteFile::open`].
    pub(crate) fn vote(&self) -> Result<Option<VoteFile>, StorageError> {
        self.identity.vote(&*self.storage, &self.path, OpenMode::Write)
    }

    /// Begins a run: raises the boot count, and makes `vote` durable, or creates it if there is none.
    ///
    /// # Errors
    /// `Io`; from then on `Poisoned`.
    pub(crate) fn start(&mut self, vote: Option<VoteFile>) -> Result<VoteFile, StorageError> {
        self.identity.sender.boot.0 += 1;
        let boot = self.identity.sender.boot;
        if let Some(mut vote) = vote {
            vote.renew(boot)?;
            self.write()?;
            return Ok(vote);
        }
        self.write()?;
        vote::create(&*self.storage, &self.path, self.sender())?;
        self.identity.vote_exists = true;
        self.write()?;
        VoteFile::open(&*self.storage, &self.path, self.sender())
    }

    /// What only this directory's own files know.
    pub(super) fn secret(&self) -> u64 {
        self.identity.secret
    }

    /// How this run of the node signs its messages; until [`start`](Self::start), how the last one did.
    pub(crate) fn sender(&self) -> Sender {
        self.identity.sender
    }

    /// The members the directory was first started with.
    pub(crate) fn membership(&self) -> &Membership {
        &self.identity.membership
    }

    /// Whether the directory must hold a log.
    pub(crate) fn log_exists(&self) -> bool {
        self.identity.log_exists
    }

    /// Notes, durably, that the directory holds a log: from then on a missing one is damage.
    ///
    /// # Errors
    /// `Io`; from then on `Poisoned`.
    pub(crate) fn set_log_exists(&mut self) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::new(&self.path, StorageErrorKind::Poisoned));
        }
        if !self.identity.log_exists {
            self.identity.log_exists = true;
            self.write()?;
        }
        Ok(())
    }

    /// Where the directory is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self) -> Result<(), StorageError> {
        // Cleared at the end: whatever fails in between, nothing is written after it.
        self.poisoned = true;
        let bytes = self.identity.encode(&self.path.join(IDENTITY_FILE))?;
        replace(&*self.storage, &self.path, IDENTITY_FILE, &bytes)?;
        self.poisoned = false;
        Ok(())
    }
}

/// What the directory says of itself, once it is shown that it may be opened as `wanted`; `None` if it is
/// new. Only reads.
fn inspect(
    storage: &dyn Storage,
    dir: &Path,
    wanted: &Identity,
) -> Result<Option<Identity>, StorageError> {
    let stored = look(storage, dir)?;
    if let Some(stored) = &stored {
        stored.check(dir, wanted)?;
    }
    Ok(stored)
}

/// What the directory says of itself; `None` if it is new. Only reads.
///
/// # Errors
/// `Damaged`, `UnknownVersion` and `Io`.
pub(super) fn look(storage: &dyn Storage, dir: &Path) -> Result<Option<Identity>, StorageError> {
    // What else is there is looked at first. Without the lock another process may be starting here for the
    // first time, and it writes the identity before anything else: looked at last, it is there.
    let contents = contents(storage, dir)?;
    let path = dir.join(IDENTITY_FILE);
    match (read(storage, &path, MAX_FILE_BYTES)?, contents) {
        (Some(bytes), _) => Identity::decode(&path, &bytes).map(Some),
        (None, None) => Ok(None),
        (None, Some(name)) => {
            Err(StorageError::damaged(path, format!("an identity file: there is a {name}")))
        }
    }
}

/// The name of something that only a directory with an identity holds.
fn contents(storage: &dyn Storage, dir: &Path) -> Result<Option<&'static str>, StorageError> {
    let list = |dir: &Path| match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|error| StorageError::io(dir, "list", error)),
    };
    if list(dir)?.iter().any(|name| name == vote::VOTE_FILE) {
        return Ok(Some(vote::VOTE_FILE));
    }
    for name in CONTENTS {
        if !list(&dir.join(name))?.is_empty() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

impl Identity {
    /// The vote file, if there must be one, opened in `mode`. Only reads.
    ///
    /// # Errors
    /// As [`VoteFile::open`].
    pub(super) fn vote(
        &self,
        storage: &dyn Storage,
        dir: &Path,
        mode: OpenMode,
    ) -> Result<Option<VoteFile>, StorageError> {
        let vote = VoteFile::read(storage, dir, mode)?;
        match vote {
            None if self.vote_exists => {
                Err(StorageError::damaged(dir.join(vote::VOTE_FILE), "a vote file: there was one"))
            }
            Some(vote) if self.vote_exists => {
                vote.check(self.sender)?;
                Ok(Some(vote))
            }
            Some(vote) if vote.state() != HardState::default() => {
                let path = dir.join(IDENTITY_FILE);
                Err(StorageError::damaged(path, "an identity that knows of the vote file"))
            }
            // The first start was cut short.
            Some(_) | None => Ok(None),
        }
    }

    /// The same with an incarnation.
    fn drawn(mut self, incarnation: u128, secret: u64) -> Self {
        self.sender.incarnation = Incarnation(incarnation);
        self.secret = secret;
        self
    }

    /// Checks that a directory with this identity may be opened as `wanted`.
    fn check(&self, dir: &Path, wanted: &Self) -> Result<(), StorageError> {
        let kind = if self.cluster != wanted.cluster {
            StorageErrorKind::AnotherCluster {
                expected: wanted.cluster.clone(),
                found: self.cluster.clone(),
            }
        } else if self.sender.node != wanted.sender.node {
            StorageErrorKind::AnotherNode { expected: wanted.sender.node, found: self.sender.node }
        } else if self.membership != wanted.membership {
            StorageErrorKind::OtherMembers {
                stored: self.membership.nodes(),
                given: wanted.membership.nodes(),
            }
        } else {
            return Ok(());
        };
        Err(StorageError::new(dir, kind))
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// `Io` with `InvalidInput` if the cluster's name or the membership is too large.
    fn encode(&self, path: &Path) -> Result<Vec<u8>, StorageError> {
        let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
            StorageError::io(path, "encode", io::Error::new(io::ErrorKind::InvalidInput, error))
        };
        if self.cluster.len() > MAX_NAME_BYTES {
            let len = self.cluster.len();
            return Err(invalid(
                format!("a cluster name of {len} bytes, above {MAX_NAME_BYTES}").into(),
            ));
        }
        let mut membership = Vec::new();
        codec::encode_message(&self.membership, &mut membership)
            .map_err(|error| invalid(error.into()))?;
        // Only decoding has a limit, and what cannot be read back must not be written.
        codec::decode_message::<Membership>(&membership).map_err(|error| invalid(error.into()))?;
        let mut flags = 0;
        if self.vote_exists {
            flags |= FLAG_VOTE;
        }
        if self.log_exists {
            flags |= FLAG_LOG;
        }
        let length = HEADER_BYTES + self.cluster.len() + membership.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&self.sender.node.0.to_le_bytes());
        bytes.extend_from_slice(&self.sender.incarnation.0.to_le_bytes());
        bytes.extend_from_slice(&self.sender.boot.0.to_le_bytes());
        bytes.extend_from_slice(&self.cluster_id.to_le_bytes());
        bytes.extend_from_slice(&fnv1a(&membership).to_le_bytes());
        bytes.extend_from_slice(&(self.cluster.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(membership.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.secret.to_le_bytes());
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.extend_from_slice(&membership);
        assert_eq!(bytes.len(), length, "the identity's length");
        let crc = checksum(&bytes);
        bytes[CRC].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// Reads the file's bytes; the checksum is looked at before anything that it covers.
    fn decode(path: &Path, bytes: &[u8]) -> Result<Self, StorageError> {
        let damaged = |expected: &str| StorageError::damaged(path, expected);
        let u32_at = |at| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let u128_at =
            |at| u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"));
        if bytes.len() < COMMON_BYTES || &bytes[..8] != MAGIC {
            return Err(damaged("an identity file"));
        }
        if bytes[CRC] != checksum(bytes).to_le_bytes() {
            return Err(damaged("bytes that fit their checksum").at_offset(CRC.start as u64));
        }
        if u32_at(8) != VERSION {
            let kind = StorageErrorKind::UnknownVersion { supported: VERSION, found: u32_at(8) };
            return Err(StorageError::new(path, kind));
        }
        if bytes.len() < HEADER_BYTES || u32_at(16) as usize != bytes.len() {
            return Err(damaged("the length it names"));
        }
        let (n, m) = (u32_at(80) as usize, u32_at(84) as usize);
        if n > MAX_NAME_BYTES || (HEADER_BYTES + n).checked_add(m) != Some(bytes.len()) {
            return Err(damaged("parts that fill its length"));
        }
        let (name, membership) = bytes[HEADER_BYTES..].split_at(n);
        if u64_at(72) != fnv1a(membership) {
            return Err(damaged("the hash of its membership"));
        }
        let flags = u32_at(20);
        if flags & !(FLAG_VOTE | FLAG_LOG) != 0 {
            return Err(damaged("known flags"));
        }
        Ok(Self {
            vote_exists: flags & FLAG_VOTE != 0,
            log_exists: flags & FLAG_LOG != 0,
            sender: Sender {
                node: NodeId(u64_at(24)),
                incarnation: Incarnation(u128_at(32)),
                boot: BootCount(u64_at(48)),
            },
            cluster_id: u128_at(56),
            secret: u64_at(88),
            cluster: String::from_utf8(name.to_vec()).map_err(|_| damaged("a name in UTF-8"))?,
            membership: codec::decode_message(membership)
                .map_err(|error| damaged(&format!("a membership, which {error}")))?,
        })
    }
}

/// CRC32C of the file without its own four bytes.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC.start]), &bytes[CRC.end..])
}

#[cfg(all(test, feature = "simulation"))]
mod tests;
