//! What can go wrong, one type for each kind of call, each naming the cause and what to do.
//!
//! A command that was not taken comes back inside the error, as the value that was passed in.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{EntryId, LogIndex, NodeId};

type Source = Arc<dyn std::error::Error + Send + Sync>;

macro_rules! boxed_error {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(Source);

        impl $name {
            /// From any error, or from a text.
            pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
                Self(Arc::from(error.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, ": {}"), self.0)
            }
        }

        impl std::error::Error for $name {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&*self.0)
            }
        }
    };
}

boxed_error! {
    /// A value that has no bytes.
    EncodeError, "cannot be encoded"
}
boxed_error! {
    /// Bytes that are no such value.
    DecodeError, "cannot be decoded"
}
boxed_error! {
    /// A state machine that could not apply an entry.
    ApplyError, "cannot be applied"
}

/// What is wrong with stored bytes, or with storing them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// The operating system refused an operation.
    Io {
        /// Which one: `open`, `write`, `flush`, ...
        operation: &'static str,
        /// Its error.
        error: Arc<io::Error>,
    },
    /// Bytes that were once durable are not what they were. Nothing has been changed. An older copy of
    /// the directory, or an empty one, has forgotten what this node promised: do not start it in their
    /// place.
    Damaged {
        /// What was expected there.
        expected: String,
    },
    /// The directory belongs to another node.
    AnotherNode {
        /// The node that was started.
        expected: NodeId,
        /// The node the directory belongs to.
        found: NodeId,
    },
    /// The directory belongs to another cluster.
    AnotherCluster {
        /// The cluster that was named at this start.
        expected: String,
        /// The cluster the directory belongs to.
        found: String,
    },
    /// The directory was first started with other members.
    OtherMembers {
        /// The members it was first started with.
        stored: Vec<NodeId>,
        /// The members named at this start.
        given: Vec<NodeId>,
    },
    /// A format that this version of the library does not know.
    UnknownVersion {
        /// The version this library writes.
        supported: u32,
        /// The version that was found.
        found: u32,
    },
    /// Another node, in this process or another, has the directory open.
    InUse,
    /// The entries asked for were let go of: everybody who could need them had them.
    Released,
    /// An earlier write or flush failed: nothing is written any more until the directory is opened anew.
    Poisoned,
}

impl StorageErrorKind {
    /// The variant's name, for scripts: `Damaged`, `InUse`, ...
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Io { .. } => "Io",
            Self::Damaged { .. } => "Damaged",
            Self::AnotherNode { .. } => "AnotherNode",
            Self::AnotherCluster { .. } => "AnotherCluster",
            Self::OtherMembers { .. } => "OtherMembers",
            Self::UnknownVersion { .. } => "UnknownVersion",
            Self::InUse => "InUse",
            Self::Released => "Released",
            Self::Poisoned => "Poisoned",
        }
    }
}

/// A failure of the log or the files beside it: where, and what.
#[derive(Clone, Debug)]
pub struct StorageError {
    /// What is wrong.
    pub kind: StorageErrorKind,
    /// The file or directory.
    pub path: PathBuf,
    /// The place in the file, in bytes, where one is known.
    pub offset: Option<u64>,
    /// The log index concerned, where one is known.
    pub index: Option<LogIndex>,
}

impl StorageError {
    /// A failure of the file or directory at `path`.
    pub fn new(path: impl Into<PathBuf>, kind: StorageErrorKind) -> Self {
        Self { kind, path: path.into(), offset: None, index: None }
    }

    /// A refusal by the operating system.
    pub fn io(path: impl Into<PathBuf>, operation: &'static str, error: io::Error) -> Self {
        Self::new(path, StorageErrorKind::Io { operation, error: Arc::new(error) })
    }

    /// Bytes that are not what they must be.
    pub fn damaged(path: impl Into<PathBuf>, expected: impl Into<String>) -> Self {
        Self::new(path, StorageErrorKind::Damaged { expected: expected.into() })
    }

    /// Names the place in the file.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Names the log index.
    #[must_use]
    pub fn at_index(mut self, index: LogIndex) -> Self {
        self.index = Some(index);
        self
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        if let Some(index) = self.index {
            write!(f, " (log index {index})")?;
        }
        match &self.kind {
            StorageErrorKind::Io { operation, error } => write!(f, ": {operation} failed: {error}"),
            StorageErrorKind::Damaged { expected } => write!(f, ": damaged: expected {expected}"),
            StorageErrorKind::AnotherNode { expected, found } => {
                write!(f, ": belongs to node {found}, and this is node {expected}")
            }
            StorageErrorKind::AnotherCluster { expected, found } => {
                write!(f, ": belongs to cluster {found:?}, and this is cluster {expected:?}")
            }
            StorageErrorKind::OtherMembers { stored, given } => {
                f.write_str(": ")?;
                other_members(f, stored, given)
            }
            StorageErrorKind::UnknownVersion { supported, found } => {
                write!(f, ": has format version {found}, and this library knows {supported}")
            }
            StorageErrorKind::InUse => f.write_str(
                ": is in use by another node: stop it, or give this one a directory of its own",
            ),
            StorageErrorKind::Released => f.write_str(": is not in the log any more"),
            StorageErrorKind::Poisoned => f.write_str(
                ": an earlier write or flush failed; restart the node once the disk is well",
            ),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            StorageErrorKind::Io { error, .. } => Some(&**error),
            _ => None,
        }
    }
}

/// Why a node does not run any more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StopCause {
    /// It was asked to stop, or its last handle was dropped.
    Shutdown,
    /// It was stopped without a goodbye, as a kill would: [`Cluster::crash`](crate::Cluster::crash).
    Crash,
    /// Its disk failed or its log is damaged.
    Storage(Arc<StorageError>),
    /// Its state machine returned an error for this entry. Every node meets the same entry.
    Apply {
        /// The entry.
        entry: EntryId,
        /// What the state machine said.
        error: ApplyError,
    },
    /// Its state machine panicked on this entry. Every node meets the same entry: correct the state
    /// machine, then start the nodes again.
    ApplyPanicked {
        /// The entry.
        entry: EntryId,
        /// The panic's message.
        message: String,
    },
    /// One of its threads panicked: a bug in this library.
    Panicked {
        /// The thread.
        thread: String,
        /// The panic's message.
        message: String,
    },
}

impl From<StorageError> for StopCause {
    fn from(error: StorageError) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("the node was shut down"),
            Self::Crash => f.write_str("the node was made to crash"),
            Self::Storage(error) => write!(f, "storage failed: {error}"),
            Self::Apply { entry, error } => write!(f, "the node stopped at entry {entry}: {error}"),
            Self::ApplyPanicked { entry, message } => {
                write!(f, "the state machine panicked on entry {entry}: {message}")
            }
            Self::Panicked { thread, message } => write!(f, "thread {thread} panicked: {message}"),
        }
    }
}

/// Why the outcome of a proposal is not known.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum UnknownCause {
    /// The deadline passed after the command had gone into the log.
    Deadline,
    /// The node stopped after the command had gone into the log.
    Stopped(StopCause),
}

impl fmt::Display for UnknownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("the deadline passed"),
            Self::Stopped(cause) => cause.fmt(f),
        }
    }
}

/// Why a proposal has no response.
///
/// All but `Unknown` say that the command was *not* applied and never will be, and hand it back.
#[derive(Clone)]
#[non_exhaustive]
pub enum ProposeError<C> {
    /// No leader is known here; or another node leads, and this one does not forward
    /// ([`Config::forward`](crate::Config::forward)). Wait for a leader, or propose there.
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
        /// The command.
        command: C,
    },
    /// The node had no room for the command before the deadline, or could not send it to its leader. Try
    /// again later.
    Busy(C),
    /// The command's bytes exceed [`Config::max_entry_bytes`](crate::Config::max_entry_bytes).
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The command.
        command: C,
    },
    /// The command has no bytes.
    NotEncodable {
        /// Why.
        error: EncodeError,
        /// The command.
        command: C,
    },
    /// The log has gone on without the command, and it can never get there: leadership changed, or what was
    /// sent to the leader was lost. Propose it again.
    Superseded(C),
    /// The node has stopped.
    Stopped {
        /// Why.
        cause: StopCause,
        /// The command.
        command: C,
    },
    /// Called from inside this node's own `apply`, or from a closure that is reading its state: the call
    /// would wait for itself.
    Reentrant(C),
    /// The command went into the log, and whether it is applied is not known: it may still be. Make
    /// commands idempotent, or look at the state before trying again.
    Unknown {
        /// The entry it went into, if its place is known.
        entry: Option<EntryId>,
        /// Why nothing more is known.
        cause: UnknownCause,
    },
}

impl<C> ProposeError<C> {
    /// The command, unless its outcome is unknown.
    pub fn into_command(self) -> Option<C> {
        match self {
            Self::NotLeader { command, .. }
            | Self::Busy(command)
            | Self::TooLarge { command, .. }
            | Self::NotEncodable { command, .. }
            | Self::Superseded(command)
            | Self::Stopped { command, .. }
            | Self::Reentrant(command) => Some(command),
            Self::Unknown { .. } => None,
        }
    }

    /// The same error with the command replaced.
    pub fn map<D>(self, f: impl FnOnce(C) -> D) -> ProposeError<D> {
        match self {
            Self::NotLeader { leader, command } => {
                ProposeError::NotLeader { leader, command: f(command) }
            }
            Self::Busy(command) => ProposeError::Busy(f(command)),
            Self::TooLarge { limit, command } => {
                ProposeError::TooLarge { limit, command: f(command) }
            }
            Self::NotEncodable { error, command } => {
                ProposeError::NotEncodable { error, command: f(command) }
            }
            Self::Superseded(command) => ProposeError::Superseded(f(command)),
            Self::Stopped { cause, command } => {
                ProposeError::Stopped { cause, command: f(command) }
            }
            Self::Reentrant(command) => ProposeError::Reentrant(f(command)),
            Self::Unknown { entry, cause } => ProposeError::Unknown { entry, cause },
        }
    }
}

impl<C> fmt::Debug for ProposeError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader, .. } => write!(f, "NotLeader {{ leader: {leader:?} }}"),
            Self::Busy(_) => f.write_str("Busy"),
            Self::TooLarge { limit, .. } => write!(f, "TooLarge {{ limit: {limit} }}"),
            Self::NotEncodable { error, .. } => write!(f, "NotEncodable {{ error: {error:?} }}"),
            Self::Superseded(_) => f.write_str("Superseded"),
            Self::Stopped { cause, .. } => write!(f, "Stopped {{ cause: {cause:?} }}"),
            Self::Reentrant(_) => f.write_str("Reentrant"),
            Self::Unknown { entry, cause } => {
                write!(f, "Unknown {{ entry: {entry:?}, cause: {cause:?} }}")
            }
        }
    }
}

impl<C> fmt::Display for ProposeError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader, .. } => not_leader(f, *leader),
            Self::Busy(_) => f.write_str("the node had no room before the deadline; never applied"),
            Self::TooLarge { limit, .. } => {
                write!(f, "the command exceeds {limit} bytes; never applied")
            }
            Self::NotEncodable { error, .. } => write!(f, "the command {error}; never applied"),
            Self::Superseded(_) => {
                f.write_str("another leader's entry took its place; never applied")
            }
            Self::Stopped { cause, .. } => write!(f, "{cause}; the command was never applied"),
            Self::Reentrant(_) => {
                f.write_str("called from inside this node's own apply or read; never applied")
            }
            Self::Unknown { entry: Some(entry), cause } => {
                write!(f, "entry {entry} may or may not be applied: {cause}")
            }
            Self::Unknown { entry: None, cause } => write!(f, "may or may not be applied: {cause}"),
        }
    }
}

impl<C> std::error::Error for ProposeError<C> {}

fn not_leader(f: &mut fmt::Formatter<'_>, leader: Option<NodeId>) -> fmt::Result {
    match leader {
        Some(leader) => write!(f, "node {leader} leads, not this one"),
        None => f.write_str("this node knows of no leader"),
    }
}

/// Why a read has no answer. Reads change nothing, so each may be tried again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader is known here, or it does not answer; or another node leads, and this one does not forward
    /// ([`Config::forward`](crate::Config::forward)). Try again, or read there.
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// No quorum confirmed the read, or the state was not reached, before the deadline.
    Timeout,
    /// The node has stopped.
    Stopped(StopCause),
    /// Called from inside this node's own `apply`, or from a closure that is reading its state.
    Reentrant,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader } => not_leader(f, *leader),
            Self::Timeout => f.write_str("the read had no answer before its deadline"),
            Self::Stopped(cause) => cause.fmt(f),
            Self::Reentrant => f.write_str("called from inside this node's own apply or read"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Why a node did not start. Unless the error is a failing write, nothing has been written, but for the boot
/// count where the directory was found to be this node's before something else was found to be wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// This field of [`Config`](crate::Config) breaks this rule.
    InvalidConfig {
        /// The field.
        field: &'static str,
        /// What must hold.
        rule: &'static str,
    },
    /// `members` is empty: name at least this node.
    NoMembers,
    /// This node is named twice among the members.
    DuplicateMember(NodeId),
    /// This node is not among the members.
    NotAMember(NodeId),
    /// The directory was first started with other members.
    MembersChanged {
        /// The members it was first started with.
        stored: Vec<NodeId>,
        /// The members named at this start.
        given: Vec<NodeId>,
    },
    /// Neither `data_dir` nor `in_memory` was called.
    NoStorage,
    /// There are other members, and no transport to reach them.
    NoTransport,
    /// The machine says that it has durably applied an entry the log does not reach, or needs one the log
    /// no longer holds: the directory and the machine's own state do not belong together.
    StateMismatch {
        /// The last entry the machine has applied.
        applied: EntryId,
        /// The first index the log holds.
        first: LogIndex,
        /// The last entry the log holds.
        last: EntryId,
    },
    /// The transport could not start.
    Transport(io::Error),
    /// The directory or its files are unusable.
    Storage(StorageError),
    /// A thread could not be started.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidConfig { field, rule } => write!(f, "Config::{field}: {rule}"),
            Self::NoMembers => f.write_str("no members: name at least this node"),
            Self::DuplicateMember(id) => write!(f, "node {id} is named twice among the members"),
            Self::NotAMember(id) => write!(f, "node {id} is not among the members"),
            Self::MembersChanged { stored, given } => other_members(f, stored, given),
            Self::NoStorage => f.write_str("no storage: call data_dir or in_memory"),
            Self::NoTransport => f.write_str(
                "other members, and no way to reach them: call listen, listen_tls or transport",
            ),
            Self::StateMismatch { applied, first, last } => write!(
                f,
                "the state machine has applied up to entry {applied}, and the log, which holds \
                 indexes {first} to {} and ends in term {}, does not go with it",
                last.index, last.term
            ),
            Self::Transport(error) => write!(f, "the transport could not start: {error}"),
            Self::Storage(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "a thread could not be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Transport(error) | Self::Thread(error) => Some(error),
            // Its own text is this one's.
            Self::Storage(error) => error.source(),
            _ => None,
        }
    }
}

impl From<StorageError> for StartError {
    fn from(error: StorageError) -> Self {
        match error.kind {
            StorageErrorKind::OtherMembers { stored, given } => {
                Self::MembersChanged { stored, given }
            }
            _ => Self::Storage(error),
        }
    }
}

fn other_members(f: &mut fmt::Formatter<'_>, stored: &[NodeId], given: &[NodeId]) -> fmt::Result {
    let list = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if stored == given {
        let ids = list(given);
        return write!(
            f,
            "the directory was first started with other addresses of members {ids}: start it with those"
        );
    }
    write!(
        f,
        "the directory was first started with other members ({}) than these ({}), and must be started \
         with those, and their addresses",
        list(stored),
        list(given)
    )
}

/// The node did not stop in time. With less than a second to stop in, the threads that only wait for the
/// last answers are named as well.
#[derive(Clone, Debug)]
pub struct ShutdownError {
    /// The threads that still run, most likely in the state machine or a transport. They have been told
    /// to stop and are left behind; no call on the node waits for them.
    pub threads: Vec<String>,
    /// How long was waited.
    pub waited: Duration,
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "still running after {:?}: {}", self.waited, self.threads.join(", "))
    }
}

impl std::error::Error for ShutdownError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_members_in_a_directory_are_an_error_of_their_own_at_the_start() {
        let (stored, given) = (vec![NodeId(1), NodeId(2)], vec![NodeId(1)]);
        let error = StorageError::new("data", StorageErrorKind::OtherMembers { stored, given });
        let text = "the directory was first started with other members (1, 2) than these (1), and must be \
                    started with those, and their addresses";
        assert_eq!(error.to_string(), format!("data: {text}"));
        let error = StartError::from(error);
        assert!(matches!(error, StartError::MembersChanged { .. }), "{error:?}");
        assert_eq!(error.to_string(), text);

        let error = StartError::MembersChanged { stored: vec![NodeId(1)], given: vec![NodeId(1)] };
        let text = "the directory was first started with other addresses of members 1: start it with those";
        assert_eq!(error.to_string(), text, "the ids alone would look the same");
    }
}
