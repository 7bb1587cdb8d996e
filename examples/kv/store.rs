//! What is replicated: keys and values, and the writes that change them.
//!
//! A write travels as one byte that says which, and its arguments as the client sent them, each behind its
//! length. It was checked before it was proposed; what depends on the state is decided when it is applied,
//! which every node does alike. A value can grow no longer than what fits into one write.

use std::collections::HashMap;

use oarlock::error::{ApplyError, EncodeError};
use oarlock::{Applied, StateMachine};

use crate::resp;

/// The longest write, as it lies in the log.
pub(crate) const MAX_WRITE_BYTES: usize = 1 << 20;

/// Which write. The numbers are in logs: none is ever given another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    /// key, value
    Set = 1,
    /// key, value; only if the key is not there
    SetNew = 2,
    /// key, value; only if the key is there
    SetOld = 3,
    /// key, value, and so on
    SetAll = 4,
    /// key, and so on
    Delete = 5,
    /// key, amount
    Add = 6,
    /// key, what follows the value
    Append = 7,
    /// key, the value it must have, the value it gets
    CompareAndSet = 8,
    /// everything goes
    Clear = 9,
}

impl Op {
    const ALL: [Self; 9] = [
        Self::Set,
        Self::SetNew,
        Self::SetOld,
        Self::SetAll,
        Self::Delete,
        Self::Add,
        Self::Append,
        Self::CompareAndSet,
        Self::Clear,
    ];

    /// The first argument is a key, and which others are: every so-manieth.
    pub(crate) fn key_every(self) -> usize {
        match self {
            Self::Delete => 1,
            Self::SetAll => 2,
            // No others, or none at all.
            Self::Set
            | Self::SetNew
            | Self::SetOld
            | Self::Add
            | Self::Append
            | Self::CompareAndSet
            | Self::Clear => usize::MAX,
        }
    }
}

/// A write, as the bytes that go into the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Write(Vec<u8>);

impl Write {
    pub(crate) fn new<'a>(op: Op, args: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let bytes = 1 + args.clone().map(|arg| 4 + arg.len()).sum::<usize>();
        let mut write = Vec::with_capacity(bytes);
        write.push(op as u8);
        for arg in args {
            write.extend_from_slice(&(arg.len() as u32).to_le_bytes());
            write.extend_from_slice(arg);
        }
        Self(write)
    }

    /// The bytes it takes in the log.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Its condition did not hold.
    NotDone,
    Number(i64),
    Count(usize),
    /// Nothing was changed, for this reason.
    Refused(&'static str),
}

impl Outcome {
    pub(crate) fn reply(self, out: &mut Vec<u8>) {
        match self {
            Self::Done => resp::simple(out, "OK"),
            Self::NotDone => resp::nil(out),
            Self::Number(number) => resp::integer(out, number),
            Self::Count(count) => resp::integer(out, count),
            Self::Refused(why) => resp::error(out, why),
        }
    }
}

/// Keys and values.
#[derive(Debug, Default)]
pub(crate) struct Store {
    values: HashMap<Vec<u8>, Vec<u8>>,
}

impl StateMachine for Store {
    type Command = Write;
    type Response = Outcome;

    fn encode(write: &Write, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&write.0);
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], _at: &Applied) -> Result<Outcome, ApplyError> {
        self.apply(bytes).ok_or_else(|| ApplyError::new("no write that this program knows"))
    }
}

impl Store {
    /// `None` for bytes that are no write.
    fn apply(&mut self, bytes: &[u8]) -> Option<Outcome> {
        let (&number, args) = bytes.split_first()?;
        let op = Op::ALL.into_iter().find(|&op| op as u8 == number)?;
        let mut args = Fields(args);
        let outcome = match op {
            Op::Set => self.set(args.next()?, args.next()?),
            Op::SetNew | Op::SetOld => {
                let (key, value) = (args.next()?, args.next()?);
                if self.values.contains_key(key) == (op == Op::SetOld) {
                    self.set(key, value)
                } else {
                    Outcome::NotDone
                }
            }
            Op::SetAll => {
                while let Some(key) = args.next() {
                    self.set(key, args.next()?);
                }
                Outcome::Done
            }
            Op::Delete => {
                let gone = args.by_ref().filter(|&key| self.values.remove(key).is_some()).count();
                Outcome::Count(gone)
            }
            Op::Add => {
                let (key, amount) = (args.next()?, args.next()?);
                self.add(key, i64::from_le_bytes(amount.try_into().ok()?))
            }
            Op::Append => self.append(args.next()?, args.next()?),
            Op::CompareAndSet => {
                let (key, old, new) = (args.next()?, args.next()?, args.next()?);
                let same = self.get(key) == Some(old);
                if same {
                    self.set(key, new);
                }
                Outcome::Count(same.into())
            }
            Op::Clear => {
                self.values = HashMap::new();
                Outcome::Done
            }
        };
        args.0.is_empty().then_some(outcome)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        if let Some(old) = self.values.get_mut(key) {
            // Its memory is used again, unless most of it would lie idle.
            if old.capacity() / 2 > value.len() {
                *old = value.to_vec();
            } else {
                old.clear();
                old.extend_from_slice(value);
            }
        } else {
            self.values.insert(key.to_vec(), value.to_vec());
        }
        Outcome::Done
    }

    fn add(&mut self, key: &[u8], amount: i64) -> Outcome {
        let Some(old) = self.get(key).map_or(Some(0), resp::number) else {
            return Outcome::Refused("ERR value is not an integer or out of range");
        };
        let Some(new) = old.checked_add(amount) else {
            return Outcome::Refused("ERR increment or decrement would overflow");
        };
        self.set(key, new.to_string().as_bytes());
        Outcome::Number(new)
    }

    fn append(&mut self, key: &[u8], more: &[u8]) -> Outcome {
        let old = self.get(key).map_or(0, <[u8]>::len);
        if old + more.len() > MAX_WRITE_BYTES {
            return Outcome::Refused("ERR string exceeds maximum allowed size");
        }
        match self.values.get_mut(key) {
            Some(value) => value.extend_from_slice(more),
            None => {
                self.set(key, more);
            }
        }
        Outcome::Count(old + more.len())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// All keys, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.values.keys().map(Vec::as_slice)
    }
}

/// The arguments of a write in the log. It ends early where the bytes are not what they say.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (field, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some(field)
    }
}
