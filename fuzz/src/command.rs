//! Commands, as `apply` decodes them out of the log.

use oarlock::{Applied, EntryId, Machine, StateMachine};
use serde::{Deserialize, Serialize};

/// One of everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Text and bytes.
    Put(String, Vec<u8>),
    /// A list of lists.
    Many(Vec<(u32, Option<String>)>),
    /// Numbers of all sizes.
    Numbers(u8, i16, u32, i64, u128, f64),
    /// What not every byte is.
    Choosy(bool, char, [u8; 3]),
    /// Lists in lists.
    Nested(Vec<Vec<Vec<u8>>>),
}

/// Answers with the bytes that the command would have been sent as.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Echo;

impl Machine for Echo {
    type Command = Command;
    type Response = Vec<u8>;

    fn apply(&mut self, command: Command) -> Vec<u8> {
        let mut bytes = Vec::new();
        Self::encode(&command, &mut bytes).expect("it was decoded");
        bytes
    }
}

/// Applies `data` as a command.
///
/// # Panics
/// If a command that is taken is not what it would be proposed as.
pub fn run(data: &[u8]) {
    if let Ok(again) = Echo.apply_entry(data, &Applied::new(EntryId::ZERO, 0)) {
        assert_eq!(again, data, "a command is written otherwise than it was read");
    }
}
