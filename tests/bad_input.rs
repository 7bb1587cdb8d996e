//! What a node refuses, by name and without harm: settings that cannot work, directories that are not its
//! own, commands that do not fit, messages that no correct node sends.

mod journal;

#[path = "bad_input/commands.rs"]
mod commands;
#[path = "bad_input/messages.rs"]
mod messages;
#[path = "bad_input/settings.rs"]
mod settings;
#[path = "bad_input/start.rs"]
mod start;
