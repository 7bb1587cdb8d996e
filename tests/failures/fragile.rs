//! A state machine that can be made to fail in every way a user's can.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use oarlock::error::{ApplyError, EncodeError};
use oarlock::{Applied, Node, StateMachine};
use parking_lot::Mutex;

use super::gates::Gate;

/// What to do to the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Adds a number to both halves of the state.
    Add(u64),
    /// Adds it to one half, and panics.
    Panic(u64),
    /// Adds it to one half, and errs.
    Fail(u64),
    /// Adds one to one half, passes the machine's gate, adds one to the other.
    Pass,
    /// Drops the handle that lies in the machine's pocket.
    DropHandle,
}

/// Two halves that are equal except in the middle of an order.
#[derive(Debug, Default)]
pub(crate) struct Fragile {
    pub(crate) left: u64,
    pub(crate) right: u64,
    pub(crate) gate: Arc<Gate>,
    pub(crate) pocket: Arc<Mutex<Option<Node<Fragile>>>>,
}

impl Fragile {
    pub(crate) fn behind(gate: &Arc<Gate>) -> Self {
        Self { gate: Arc::clone(gate), ..Self::default() }
    }
}

impl StateMachine for Fragile {
    type Command = Order;
    type Response = u64;

    fn encode(order: &Order, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (kind, number) = match *order {
            Order::Add(number) => (0, number),
            Order::Panic(number) => (1, number),
            Order::Fail(number) => (2, number),
            Order::Pass => (3, 1),
            Order::DropHandle => (4, 0),
        };
        out.push(kind);
        out.extend_from_slice(&number.to_le_bytes());
        Ok(())
    }

    fn apply_entry(&mut self, bytes: &[u8], _at: &Applied) -> Result<u64, ApplyError> {
        let number = u64::from_le_bytes(bytes[1..9].try_into().expect("eight bytes"));
        self.left += number;
        match bytes[0] {
            1 | 2 => {
                // Readers gather at the lock meanwhile.
                thread::sleep(Duration::from_millis(20));
                assert!(bytes[0] == 2, "{number} is too much");
                return Err(ApplyError::new(format!("{number} is not to be had")));
            }
            3 => self.gate.pass(),
            4 => drop(self.pocket.lock().take()),
            _ => {}
        }
        self.right += number;
        Ok(self.right)
    }
}
