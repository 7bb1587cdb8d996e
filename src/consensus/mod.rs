//! The pure consensus core.

mod io;

pub use io::{Generation, Input, NewEntries, Options, Output};
