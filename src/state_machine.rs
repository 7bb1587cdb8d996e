//! What a user replicates: a [`Machine`] with typed commands, or a [`StateMachine`] in bytes.
//!
//! Every node applies the same commands in the same order, so applying must be deterministic: no clocks,
//! no randomness, no hash maps whose order matters, nothing but the state and the command. Applying is
//! done on a thread of its own, so it may take its time, unless the machine says that it is short; it must
//! not call back into its own node.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::error::{ApplyError, EncodeError};
use crate::types::EntryId;

/// A type that is replicated by giving it one method: commands travel as bincode, and the state is
/// everything that serde sees of it.
///
/// ```
/// use oarlock::Machine;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Counter(u64);
///
/// impl Machine for Counter {
///     type Command = u64;
///     type Response = u64;
///
///     fn apply(&mut self, add: u64) -> u64 {
///         self.0 += add;
///         self.0
///     }
/// }
/// ```
pub trait Machine: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// What is proposed. Must not hold sequences of zero-sized elements: bincode cannot bound them.
    type Command: Serialize + DeserializeOwned + Send + 'static;
    /// What applying a command answers.
    type Response: Serialize + DeserializeOwned + Clone + Send + 'static;

    /// See [`StateMachine::APPLY_IS_SHORT`].
    const APPLY_IS_SHORT: bool = false;

    /// Changes the state. Must be deterministic, and must not panic: a panic stops every node at the
    /// same command.
    fn apply(&mut self, command: Self::Command) -> Self::Response;
}

/// The machine that does nothing: for measuring, and where only the log's order matters.
impl Machine for () {
    type Command = ();
    type Response = ();

    fn apply(&mut self, (): ()) {}
}

/// Where an entry that is being applied stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Its term and index.
    pub entry: EntryId,
    /// The leader's clock when it took the entry, in nanoseconds; the same on every node, and never less
    /// than the entry before. No other clock may be used in applying.
    pub time: u64,
}

impl Applied {
    /// The place of `entry`, for tests that drive a state machine by hand.
    pub fn new(entry: EntryId, time: u64) -> Self {
        Self { entry, time }
    }
}

/// Full control, in bytes: an encoding of your own, and state on disk if you want it. Every [`Machine`]
/// is one.
pub trait StateMachine: Send + Sync + 'static {
    /// What is proposed.
    type Command: Send + 'static;
    /// What applying a command answers.
    type Response: Send + 'static;

    /// Says that applying takes microseconds and never blocks. Then the thread that runs consensus applies
    /// small batches itself, which saves waking another one: most of the latency of a single caller. If one
    /// batch takes longer than a tick after all, it warns, and leaves applying to the `apply` thread for
    /// good.
    const APPLY_IS_SHORT: bool = false;

    /// Appends the command's bytes to `out`. Called on the proposer's thread, under no lock.
    ///
    /// # Errors
    /// A command that has no bytes; it goes back to the caller in `ProposeError::NotEncodable`.
    fn encode(command: &Self::Command, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Applies one command's bytes. They lie in the log itself; copy what must last.
    ///
    /// # Errors
    /// An error stops the node with [`StopCause::Apply`](crate::error::StopCause::Apply). Bytes that
    /// cannot be decoded are such an error; a command that is refused is a `Response`.
    fn apply_entry(&mut self, bytes: &[u8], at: &Applied) -> Result<Self::Response, ApplyError>;

    /// The last entry whose effects this machine has made durable by itself, for machines that keep
    /// their own state on disk ([`EntryId::ZERO`] before the first). The node then applies only what
    /// comes after it and only what its own disk holds, and lets go of log that neither it nor any other
    /// member needs. `None`, the default, has the node apply the whole log at each start.
    fn last_applied(&self) -> Option<EntryId> {
        None
    }
}

impl<M: Machine> StateMachine for M {
    type Command = M::Command;
    type Response = M::Response;

    const APPLY_IS_SHORT: bool = M::APPLY_IS_SHORT;

    fn encode(command: &Self::Command, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        codec::encode_command(command, out)
    }

    fn apply_entry(&mut self, bytes: &[u8], _at: &Applied) -> Result<Self::Response, ApplyError> {
        let command = codec::decode_command(bytes).map_err(ApplyError::new)?;
        Ok(self.apply(command))
    }
}
