//! The rules of the source tree: who may import whom, and what may stand where.
//!
//! Reads the sources as text, without comments, literals and what only tests compile. Each rule is a
//! function from one file to the violations in it, and each is shown to find a violation that was planted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What each top-level module may import: modules of lower layers, and, in the lowest, each other.
const LAYERS: &[&[&str]] = &[
    &[
        "clock",
        "codec",
        "config",
        "error",
        "membership",
        "message",
        "record",
        "slices",
        "storage",
        "sync",
        "threads",
        "types",
        "wake",
    ],
    &["state_machine"],
    &["consensus", "snapshot", "transport", "wal"],
    &["node"],
    &["cluster", "simulation"],
    &["bin"],
];

/// Paths that the consensus core must not name: it is pure, and runs the same everywhere.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
    "std::sync",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::hash::RandomState",
    "std::collections::hash_map",
    "std::collections::hash_set",
    "crossbeam",
    "crossbeam_channel",
    "fastrand",
    "getrandom",
    "libc",
    "log",
    "memmap2",
    "parking_lot",
    "rand",
    "rustix",
    "tempfile",
];
const PRINTING: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
const VAGUE_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];
const MAX_LINES: usize = 900;

/// A source file: its path below `src`, its text, and the tokens of what is compiled without tests.
struct Source {
    path: String,
    text: String,
    tokens: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let tokens = without_tests(&tokens(text)).0;
        Self { path: path.to_owned(), text: text.to_owned(), tokens }
    }

    /// The top-level module; `lib` for the crate's root.
    fn module(&self) -> &str {
        self.path.split('/').next().expect("a path").trim_end_matches(".rs")
    }

    /// How many `super`s lead to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        parts.split('/').count()
    }
}

// Rules.

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Imports point down. `exports` says which module each name at the crate's root comes from.
fn imports_point_down(source: &Source, exports: &BTreeMap<String, String>) -> Vec<String> {
    let from = source.module();
    if from == "lib" {
        return Vec::new();
    }
    let Some(from_layer) = layer(from) else {
        return vec![format!("{}: module {from} belongs to no layer", source.path)];
    };
    let mut violations = Vec::new();
    for path in paths(&source.tokens) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let name = match path.first().map(String::as_str) {
            Some("crate" | "oarlock") => path.get(1),
            Some("super") if supers >= source.depth() => path.get(supers),
            _ => continue,
        };
        let Some(name) = name else { continue };
        let to = exports.get(name).unwrap_or(name);
        let allowed = match layer(to) {
            _ if to == from => true,
            Some(0) if from_layer == 0 => true,
            Some(to_layer) => to_layer < from_layer,
            None => false,
        };
        if !allowed {
            violations.push(format!("{}: {from} may not import {to}", source.path));
        }
    }
    violations
}

fn consensus_is_pure(source: &Source) -> Vec<String> {
    if source.module() != "consensus" {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for path in paths(&source.tokens) {
        let path = path.join("::").replacen("core::", "std::", 1).replacen("alloc::", "std::", 1);
        // A crate's bare name may be a local variable's.
        let is_impure = |banned: &&str| {
            let is_whole = path == **banned && banned.contains("::");
            is_whole || path.starts_with(&format!("{banned}::"))
        };
        if path == "std" || IMPURE.iter().any(is_impure) {
            violations.push(format!("{}: the consensus core names {path}", source.path));
        }
    }
    violations
}

fn unsafe_code_is_in_segment(source: &Source) -> Vec<String> {
    let is_unsafe = |token: &String| token == "unsafe" || token == "unsafe_code";
    // Test code is no exception.
    let found = tokens(&source.text).iter().any(is_unsafe);
    if found && source.path != "wal/segment.rs" {
        return vec![format!("{}: unsafe code", source.path)];
    }
    Vec::new()
}

fn bincode_is_in_codec(source: &Source) -> Vec<String> {
    let found = tokens(&source.text).iter().any(|token| token == "bincode");
    if found && source.path != "codec.rs" {
        return vec![format!("{}: bincode", source.path)];
    }
    Vec::new()
}

fn nothing_is_printed(source: &Source) -> Vec<String> {
    if source.module() == "bin" {
        return Vec::new();
    }
    let calls = source.tokens.windows(2).filter(|pair| pair[1] == "!");
    calls
        .filter(|pair| PRINTING.contains(&pair[0].as_str()))
        .map(|pair| format!("{}: {}!", source.path, pair[0]))
        .collect()
}

fn a_header_says_what_the_file_is_for(source: &Source) -> Vec<String> {
    let has_header = source.text.starts_with("//! ") || source.text.starts_with("#![doc");
    if has_header { Vec::new() } else { vec![format!("{}: no header", source.path)] }
}

fn files_are_short_and_named_for_one_job(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    let lines = source.text.lines().count();
    if lines >= MAX_LINES {
        violations.push(format!("{}: {lines} lines", source.path));
    }
    let mut parts = source.path.trim_end_matches(".rs").split('/');
    if let Some(name) = parts.find(|part| VAGUE_NAMES.contains(part)) {
        violations.push(format!("{}: {name} says nothing", source.path));
    }
    violations
}

/// Everything that is wrong with these sources, given as path below `src` and text.
fn violations(sources: &[(String, String)]) -> Vec<String> {
    let lib = sources.iter().find(|(path, _)| path == "lib.rs");
    let exports = lib.map(|(_, text)| exports(&tokens(text))).unwrap_or_default();
    let test_only: Vec<String> =
        sources.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    let mut violations = Vec::new();
    for (path, text) in sources {
        let source = Source::new(path, text);
        if !test_only.iter().any(|prefix| is_below(path, prefix)) {
            violations.extend(imports_point_down(&source, &exports));
            violations.extend(consensus_is_pure(&source));
            violations.extend(nothing_is_printed(&source));
        }
        violations.extend(unsafe_code_is_in_segment(&source));
        violations.extend(bincode_is_in_codec(&source));
        violations.extend(a_header_says_what_the_file_is_for(&source));
        violations.extend(files_are_short_and_named_for_one_job(&source));
    }
    violations
}

// Reading sources.

/// The sources below `dir`, by their path from `src`.
fn read_sources(dir: &Path, prefix: &str, sources: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = format!("{prefix}{name}");
        if entry.file_type().expect("a type").is_dir() {
            read_sources(&entry.path(), &format!("{path}/"), sources);
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry.path()).expect("a text");
            sources.push((path, text));
        }
    }
}

/// Words and punctuation, without comments, literals and lifetimes; `::` is one token.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |place: usize| chars.get(place).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut place = 0;
    while place < chars.len() {
        match (at(place), at(place + 1)) {
            ('/', '/') => {
                while place < chars.len() && at(place) != '\n' {
                    place += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (at(place), at(place + 1)) {
                        ('/', '*') => (depth, place) = (depth + 1, place + 2),
                        ('*', '/') => (depth, place) = (depth - 1, place + 2),
                        _ => place += 1,
                    }
                    if depth == 0 || place >= chars.len() {
                        break;
                    }
                }
            }
            ('"', _) => place = after_quote(&chars, place + 1, '"'),
            // A lifetime is a quote and a word without a closing quote.
            ('\'', next) if is_word(next) && at(place + 2) != '\'' => {
                place += 1;
                while is_word(at(place)) {
                    place += 1;
                }
            }
            ('\'', _) => place = after_quote(&chars, place + 1, '\''),
            (':', ':') => {
                tokens.push("::".to_owned());
                place += 2;
            }
            (c, _) if is_word(c) => {
                let start = place;
                while is_word(at(place)) {
                    place += 1;
                }
                let word: String = chars[start..place].iter().collect();
                let is_raw = ["r", "br", "cr"].contains(&word.as_str());
                let hashes = chars[place..].iter().take_while(|&&c| c == '#').count();
                if is_raw && at(place + hashes) == '"' {
                    place = after_raw_string(&chars, place + hashes + 1, hashes);
                } else {
                    tokens.push(word);
                }
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                place += 1;
            }
        }
    }
    tokens
}

fn after_quote(chars: &[char], mut place: usize, quote: char) -> usize {
    while place < chars.len() && chars[place] != quote {
        place += if chars[place] == '\\' { 2 } else { 1 };
    }
    place + 1
}

fn after_raw_string(chars: &[char], mut place: usize, hashes: usize) -> usize {
    let ends = |place: usize| {
        chars[place] == '"'
            && chars[place + 1..].iter().take_while(|&&c| c == '#').count() >= hashes
    };
    while place < chars.len() && !ends(place) {
        place += 1;
    }
    place + 1 + hashes
}

/// The tokens without items under `#[cfg(test)]` or `#[cfg(all(test, …))]`, and the names of the modules
/// among these items that have files of their own.
fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    let mut kept = Vec::new();
    let mut modules = Vec::new();
    let mut rest = tokens;
    while let Some(token) = rest.first() {
        let words: Vec<&str> = rest.iter().take(7).map(String::as_str).collect();
        let is_test_only = words.starts_with(&["#", "[", "cfg", "(", "test", ")"])
            || words.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"]);
        if is_test_only {
            let (item, after) = rest.split_at(item_length(rest));
            let has_a_file = item.last().is_some_and(|token| token == ";");
            let module = item.iter().position(|token| token == "mod").filter(|_| has_a_file);
            modules.extend(module.map(|place| item[place + 1].clone()));
            rest = after;
        } else {
            kept.push(token.clone());
            rest = &rest[1..];
        }
    }
    (kept, modules)
}

/// How many tokens an item takes, its attributes included: up to its semicolon or its closing brace.
fn item_length(tokens: &[String]) -> usize {
    let mut depth = 0;
    let mut is_use = false;
    for (place, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "use" if depth == 0 => is_use = true,
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !is_use {
                    return place + 1;
                }
            }
            ";" if depth == 0 => return place + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Where the modules that only tests compile have their files: the path without `.rs`.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let dir = match stem.strip_suffix("mod") {
        Some(dir) => dir.to_owned(),
        None if stem == "lib" => String::new(),
        None => format!("{stem}/"),
    };
    let modules = without_tests(&tokens(text)).1;
    modules.into_iter().map(|module| format!("{dir}{module}")).collect()
}

fn is_below(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// Every path that is named, `use` groups taken apart.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut place = 0;
    while place < tokens.len() {
        let continues = place > 0 && tokens[place - 1] == "::";
        if is_name(&tokens[place]) && !continues {
            place = collect_paths(tokens, place, &[], &mut found);
        } else {
            place += 1;
        }
    }
    found
}

/// Takes the path at `place` apart, and says where it ends.
fn collect_paths(
    tokens: &[String],
    mut place: usize,
    prefix: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    let token = |place: usize| tokens.get(place).map_or("", String::as_str);
    loop {
        if token(place) == "{" {
            place += 1;
            while !["}", ""].contains(&token(place)) {
                let part = collect_paths(tokens, place, &path, found);
                place = part.max(place + 1);
            }
            return place + 1;
        }
        if !is_name(token(place)) && token(place) != "*" {
            break;
        }
        path.push(tokens[place].clone());
        place += 1;
        if token(place) != "::" {
            break;
        }
        place += 1;
    }
    if path.len() > prefix.len() {
        found.push(path);
    }
    place
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Which module each name that the crate's root re-exports comes from.
fn exports(tokens: &[String]) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for statement in tokens.split(|token| token == ";") {
        let Some(place) = statement.iter().position(|token| token == "use") else { continue };
        for path in paths(&statement[place + 1..]) {
            if let [module, .., name] = &path[..] {
                exports.insert(name.clone(), module.clone());
            }
        }
    }
    exports
}

// Tests.

fn planted(path: &str, code: &str) -> Vec<String> {
    let lib =
        "#![doc = \"\"]\nmod config;\npub use config::{Config, Priority};\npub use node::Node;\n";
    let sources = [("lib.rs", lib.to_owned()), (path, format!("//! For a test.\n\n{code}\n"))];
    violations(&sources.map(|(path, text)| (path.to_owned(), text)))
}

fn assert_found(path: &str, code: &str, part: &str) {
    let found = planted(path, code);
    assert!(found.iter().any(|violation| violation.contains(part)), "{path}: {code}: {found:?}");
}

fn assert_clean(path: &str, code: &str) {
    let found = planted(path, code);
    assert!(found.is_empty(), "{path}: {code}: {found:?}");
}

#[test]
fn the_sources_keep_the_rules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    read_sources(&src, "", &mut sources);
    for expected in ["lib.rs", "codec.rs", "consensus/mod.rs", "wal/mod.rs"] {
        assert!(sources.iter().any(|(path, _)| path == expected), "{expected} was not read");
    }
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn an_import_that_points_up_or_sideways_is_found() {
    assert_found("types.rs", "use crate::wal::Log;", "types may not import wal");
    assert_found("wal/log.rs", "use crate::consensus::Core;", "wal may not import consensus");
    assert_found("consensus/core.rs", "fn f(_: crate::wal::Log) {}", "may not import wal");
    assert_found("transport/mod.rs", "use crate::{types::Term, snapshot};", "import snapshot");
    assert_found("wal/log.rs", "use super::super::node::Handle;", "wal may not import node");
    assert_found("wal/mod.rs", "use super::{node::Handle, types};", "wal may not import node");
    assert_found("wal/log.rs", "use crate::Node;", "wal may not import node");
    assert_found("state_machine.rs", "use crate::{wal as w};", "may not import wal");
    assert_found("node/mod.rs", "use crate::cluster::Cluster;", "node may not import cluster");
    assert_found("cluster.rs", "use crate::simulation::SimDisk;", "may not import simulation");
    assert_found("wal/log.rs", "use crate::*;", "wal may not import *");
    assert_found("novelty.rs", "use crate::types::Term;", "novelty belongs to no layer");
    assert_found("types.rs", "use crate::novelty::X;", "types may not import novelty");
}

#[test]
fn imports_that_point_down_are_clean() {
    assert_clean("wal/log.rs", "use crate::{storage::Storage, types::{Term, LogIndex}};");
    assert_clean(
        "wal/log.rs",
        "use super::{disk::Disk, super::types::Term};\nuse crate::wal::vote;",
    );
    assert_clean("wal/log.rs", "use crate::{Config, Priority};");
    assert_clean("types.rs", "use crate::config::Config;");
    assert_clean("node/mod.rs", "use crate::consensus::Core; use crate::wal::Log;");
    assert_clean("simulation/mod.rs", "use crate::node::Node;");
    assert_clean("bin/oarlock.rs", "use oarlock::wal::Log;");
}

#[test]
fn what_is_no_code_or_only_for_tests_is_left_out() {
    assert_clean("types.rs", "// use crate::wal::Log;\n/* crate::node /* nested */ crate::node */");
    assert_clean("types.rs", "const A: &str = \"crate::wal::Log \\\" crate::node\";");
    assert_clean("types.rs", "const A: &str = r#\"crate::wal \" crate::node\"#;");
    assert_clean(
        "types.rs",
        "fn f<'a>(a: &'a u8) { let _ = ('\\'', '\"', 'x', \"crate::node\"); }",
    );
    assert_clean("wal/a.rs", "#[cfg(test)]\nmod tests { use crate::simulation::SimDisk; }");
    assert_clean("wal/a.rs", "#[cfg(all(test, feature = \"x\"))]\nuse crate::simulation::{A, B};");
    assert_found("wal/a.rs", "#[cfg(test)]\nmod tests { }\nuse crate::node::Node;", "import node");
    assert_found("wal/a.rs", "#[cfg(any(test, a))]\nuse crate::node::Node;", "import node");
    assert_found("wal/a.rs", "fn f() { let _ = '\"'; }\nuse crate::node::Node;", "import node");
}

#[test]
fn files_of_modules_that_only_tests_compile_are_left_out() {
    let imports = "//! For a test.\nuse crate::simulation::SimDisk;\n".to_owned();
    let with = |parent: &str| {
        let sources = [("wal/a.rs", parent.to_owned()), ("wal/a/checks.rs", imports.clone())];
        violations(&sources.map(|(path, text)| (path.to_owned(), text)))
    };
    assert!(with("//! For a test.\n#[cfg(test)]\nmod checks;\n").is_empty());
    assert!(!with("//! For a test.\nmod checks;\n").is_empty());
}

#[test]
fn an_impure_consensus_core_is_found() {
    for code in [
        "use std::fs;",
        "use std::{collections::BTreeMap, net::TcpStream};",
        "fn f() { std::thread::yield_now(); }",
        "use std::time::Duration;",
        "use core::time::Duration;",
        "use std::sync::Mutex;",
        "use std::sync::mpsc::channel;",
        "use std::sync::atomic::AtomicU64;",
        "use std::collections::{BTreeMap, HashMap};",
        "use std::collections::hash_map::RandomState;",
        "use std as s;",
        "fn f() { log::info!(\"\"); }",
        "use log::info;",
        "use parking_lot::RwLock;",
        "use crossbeam_channel::bounded;",
        "fn f() -> u64 { fastrand::u64(..) }",
    ] {
        assert_found("consensus/core.rs", code, "the consensus core names");
        assert_clean("node/mod.rs", code);
    }
    assert_clean("consensus/core.rs", "use std::collections::{BTreeMap, VecDeque};\nuse std::fmt;");
    assert_clean("consensus/core.rs", "use super::core::Core;\nuse super::log::Log;");
    assert_clean("consensus/core.rs", "fn f(&self, log: &Log) { self.log.last(); log.last(); }");
}

#[test]
fn unsafe_code_outside_the_segment_is_found() {
    assert_found("wal/log.rs", "fn f() { unsafe { g() } }", "unsafe code");
    assert_found("wal/log.rs", "#![allow(unsafe_code)]", "unsafe code");
    assert_found("wal/log.rs", "#[cfg(test)]\nmod tests { fn f() { unsafe { g() } } }", "unsafe");
    assert_clean("wal/segment.rs", "#![allow(unsafe_code)]\nfn f() { unsafe { g() } }");
    assert_clean("wal/log.rs", "// Nothing unsafe here: \"unsafe\".");
}

#[test]
fn bincode_outside_the_codec_is_found() {
    assert_found("wal/log.rs", "fn f() { bincode::decode(); }", "bincode");
    assert_clean("codec.rs", "use bincode::config;");
}

#[test]
fn printing_outside_the_program_is_found() {
    assert_found("wal/log.rs", "fn f() { eprintln!(\"\"); }", "eprintln!");
    assert_found("wal/log.rs", "fn f() { std::dbg!(1); }", "dbg!");
    assert_clean("bin/oarlock.rs", "fn main() { println!(\"\"); }");
    assert_clean(
        "wal/log.rs",
        "/// ```\n/// println!(\"\");\n/// ```\nfn f() { writeln!(f, \"\"); }",
    );
}

#[test]
fn a_file_without_a_header_too_long_or_vaguely_named_is_found() {
    let bare = [("types.rs".to_owned(), "use std::fmt;\n".to_owned())];
    assert_eq!(violations(&bare), ["types.rs: no header"]);
    assert_found("types.rs", &"\n".repeat(MAX_LINES), "lines");
    assert_clean("types.rs", &"\n".repeat(MAX_LINES - 4));
    assert_found("wal/helpers.rs", "", "helpers says nothing");
    assert_found("utils/mod.rs", "", "utils says nothing");
}
