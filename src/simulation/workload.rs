//! What the nodes of a world replicate, and what its clients do with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use parking_lot::Mutex;

use crate::error::{ApplyError, EncodeError};
use crate::state_machine::{Applied, StateMachine};
use crate::types::EntryId;

/// A state machine of yours under simulation, and what its clients do.
///
/// The simulator applies every committed command once to a machine of its own, and holds what nodes and
/// clients see against that: states and responses must be equal at equal places, whatever happened. So a
/// workload says nothing about what is right, unless it wants to ([`check`](Self::check)): it makes
/// machines and commands, and tells states apart.
///
/// ```
/// use oarlock::simulation::{Options, Workload, World, digest};
/// use oarlock::Machine;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Account {
///     balance: u64,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// enum Command {
///     Deposit(u64),
///     Withdraw(u64),
/// }
///
/// impl Machine for Account {
///     type Command = Command;
///     type Response = bool;
///
///     fn apply(&mut self, command: Command) -> bool {
///         let balance = match command {
///             Command::Deposit(amount) => self.balance.checked_add(amount),
///             Command::Withdraw(amount) => self.balance.checked_sub(amount),
///         };
///         self.balance = balance.unwrap_or(self.balance);
///         balance.is_some()
///     }
/// }
///
/// struct Bank;
///
/// impl Workload for Bank {
///     type Machine = Account;
///
///     fn machine(&self) -> Account {
///         Account::default()
///     }
///
///     fn command(&mut self, rng: &mut fastrand::Rng) -> Command {
///         let amount = rng.u64(1..100);
///         if rng.bool() { Command::Deposit(amount) } else { Command::Withdraw(amount) }
///     }
///
///     fn digest(&self, account: &Account) -> u64 {
///         digest(account)
///     }
/// }
///
/// for seed in 0..3 {
///     let options = Options { steps: 3_000, ..Options::swarm(seed) };
///     World::run(options, Bank).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
/// }
/// ```
pub trait Workload {
    /// What is replicated.
    type Machine: StateMachine<Response: PartialEq + fmt::Debug>;

    /// The machine before the first entry. It must be equal each time.
    fn machine(&self) -> Self::Machine;

    /// The machine that a node starts with after a crash: by default, one that remembers nothing. A machine
    /// that keeps its own state ([`StateMachine::last_applied`]) comes back with what it had made durable.
    fn survivor(&self, crashed: &Self::Machine) -> Self::Machine {
        let _ = crashed;
        self.machine()
    }

    /// What a client writes next. Everything that is random comes from `rng`.
    fn command(&mut self, rng: &mut Rng) -> <Self::Machine as StateMachine>::Command;

    /// A number that two states share only if they are equal. Asked for after every batch of entries, so
    /// better kept up to date than computed; [`digest`] computes one.
    fn digest(&self, machine: &Self::Machine) -> u64;

    /// Rules of your own about the state, looked at after every command of the committed log.
    ///
    /// # Errors
    /// What is wrong; the run ends with it.
    fn check(&mut self, machine: &Self::Machine) -> Result<(), String> {
        let _ = machine;
        Ok(())
    }
}

/// A number for everything that serde sees of a value.
///
/// # Panics
/// If it cannot be encoded, or takes more than a gibibyte.
pub fn digest(value: &impl serde::Serialize) -> u64 {
    let mut bytes = Vec::new();
    crate::codec::encode_command(value, &mut bytes).expect("a state that can be encoded");
    bytes.chunks(8).fold(bytes.len() as u64, |digest, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(digest, u64::from_le_bytes(word))
    })
}

/// Folds a number into another, so that the order matters.
pub(super) const fn mix(digest: u64, word: u64) -> u64 {
    (digest ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// A command with the number of the write that it belongs to.
pub(super) struct Numbered<C> {
    pub(super) write: u64,
    pub(super) command: C,
}

/// One command that a node has applied.
pub(super) struct Line {
    pub(super) entry: EntryId,
    pub(super) time: u64,
    pub(super) write: u64,
    /// Of its bytes.
    pub(super) crc: u32,
    /// Its bytes, if no node had applied it before.
    pub(super) bytes: Option<Vec<u8>>,
}

/// Where a node's machine says what it applies.
#[derive(Clone, Default)]
pub(super) struct Lines {
    lines: Arc<Mutex<Vec<Line>>>,
    /// The last index whose bytes are known.
    pub(super) known: Arc<AtomicU64>,
}

impl Lines {
    pub(super) fn sharing(known: &Arc<AtomicU64>) -> Self {
        Self { lines: Arc::default(), known: Arc::clone(known) }
    }

    /// What was applied since the last call, in place of the empty `into`.
    pub(super) fn take(&self, into: &mut Vec<Line>) {
        std::mem::swap(&mut *self.lines.lock(), into);
    }
}

/// A machine that says what it applies.
pub(super) struct Observed<M> {
    pub(super) machine: M,
    lines: Lines,
}

impl<M> Observed<M> {
    pub(super) fn new(machine: M, lines: Lines) -> Self {
        Self { machine, lines }
    }
}

impl<M: StateMachine> StateMachine for Observed<M> {
    type Command = Numbered<M::Command>;
    type Response = M::Response;

    fn encode(command: &Self::Command, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // Behind it: the machine's encoder may count on an empty buffer.
        M::encode(&command.command, out)?;
        out.extend_from_slice(&command.write.to_le_bytes());
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], at: &Applied) -> Result<M::Response, ApplyError> {
        let Some((command, number)) = bytes.split_last_chunk() else {
            return Err(ApplyError::new("a command without a number"));
        };
        let is_known = at.entry.index.0 <= self.lines.known.load(Ordering::Relaxed);
        self.lines.lines.lock().push(Line {
            entry: at.entry,
            time: at.time,
            write: u64::from_le_bytes(*number),
            crc: crc32c::crc32c(command),
            bytes: (!is_known).then(|| command.to_vec()),
        });
        self.machine.apply_entry(command, at)
    }

    fn last_applied(&self) -> Option<EntryId> {
        self.machine.last_applied()
    }
}

/// The workload that comes with the simulator: clients swap the values of a few registers.
#[derive(Clone, Debug, Default)]
pub struct Swaps {
    /// The machine keeps its own state, so the log lets go of its beginning.
    pub keeps_state: bool,
    last: u64,
}

impl Swaps {
    /// Clients of registers that are replayed from the log at each start, or that keep themselves.
    pub fn new(keeps_state: bool) -> Self {
        Self { keeps_state, last: 0 }
    }
}

/// Puts a value into a register.
#[derive(Clone, Copy, Debug)]
pub struct Swap {
    register: u8,
    value: u64,
    /// Bytes that mean nothing: some commands are small, and some fill segments.
    padding: u16,
}

/// A few registers. A swap answers with the value that was there before.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    values: [u64; 8],
    /// Of all swaps so far.
    digest: u64,
    last: EntryId,
    /// Every swap is durable as soon as it is made.
    keeps_state: bool,
}

/// The most bytes of padding.
const MAX_PADDING: u16 = 900;

impl StateMachine for Registers {
    type Command = Swap;
    type Response = u64;

    fn encode(swap: &Swap, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(swap.register);
        out.extend_from_slice(&swap.value.to_le_bytes());
        out.resize(out.len() + usize::from(swap.padding), 0);
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], at: &Applied) -> Result<u64, ApplyError> {
        let (register, value) = bytes.split_first().ok_or_else(|| ApplyError::new("empty"))?;
        let value = value.first_chunk().ok_or_else(|| ApplyError::new("too short"))?;
        let value = u64::from_le_bytes(*value);
        self.digest = mix(mix(self.digest, u64::from(*register)), value);
        self.last = at.entry;
        let register = usize::from(*register) % self.values.len();
        Ok(std::mem::replace(&mut self.values[register], value))
    }

    fn last_applied(&self) -> Option<EntryId> {
        self.keeps_state.then_some(self.last)
    }
}

impl Workload for Swaps {
    type Machine = Registers;

    fn machine(&self) -> Registers {
        Registers { keeps_state: self.keeps_state, ..Registers::default() }
    }

    fn survivor(&self, crashed: &Registers) -> Registers {
        if self.keeps_state { crashed.clone() } else { self.machine() }
    }

    fn command(&mut self, rng: &mut Rng) -> Swap {
        self.last += 1;
        let padding = if rng.u8(..4) == 0 { rng.u16(..MAX_PADDING) } else { 0 };
        Swap { register: rng.u8(..8), value: self.last, padding }
    }

    fn digest(&self, registers: &Registers) -> u64 {
        registers.values.iter().fold(registers.digest, |digest, &value| mix(digest, value))
    }
}
