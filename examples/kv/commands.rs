//! From a request to what is to be done: one table of commands, one function for each.
//!
//! Everything that can be known without the state is decided here, in Redis's own words. Nothing here
//! waits, and nothing reads or writes the state.

use std::borrow::Cow;

use crate::glob;
use crate::replies::{MAX_REPLY_BYTES, Replies};
use crate::resp::{self, Request};
use crate::store::{MAX_WRITE_BYTES, Op, Store, Write};

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Command<'a> {
    /// Something to be done, and a reply.
    Step(Step<'a>),
    /// The end of the connection, after `OK`.
    Quit,
    /// The end of the connection, without a word.
    Leave,
}

/// What is done for one request.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A change of the state, to be replicated.
    Write(Write),
    /// A look at the state.
    Read(Read<'a>),
    /// A question to this node.
    Ask(Question),
    /// Nothing: this is the reply.
    Reply(Cow<'static, [u8]>),
}

impl Step<'_> {
    /// Whether it changes the state or looks at it, if one of the two.
    pub(crate) fn is_write(&self) -> Option<bool> {
        match self {
            Self::Write(_) => Some(true),
            Self::Read(_) => Some(false),
            Self::Ask(_) | Self::Reply(_) => None,
        }
    }
}

/// What only the node itself can tell, and what is too long to be kept until its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Info,
    Leader,
    Status,
    ClientId,
    Clients,
    /// All commands, as `COMMAND` describes them.
    Commands,
    /// The names of all commands.
    CommandNames,
}

/// A look at the state.
#[derive(Debug)]
pub(crate) struct Read<'a> {
    kind: Look,
    request: Request<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Look {
    Get,
    GetAll,
    Exists,
    Length,
    Keys,
    Size,
}

/// The longest key.
pub(crate) const MAX_KEY_BYTES: usize = 64 << 10;
/// The longest pattern of `KEYS`.
pub(crate) const MAX_PATTERN_BYTES: usize = 1 << 10;
/// What one `KEYS` may cost, in steps of [`glob::matches`]: a fraction of a second, for meanwhile no write is
/// applied.
const MAX_SCAN_STEPS: u64 = 50_000_000;
/// What it costs to come by a key, which mostly is in no cache.
const KEY_STEPS: u64 = 20;
/// What a byte string takes in a reply besides itself.
const BULK_BYTES: usize = 16;

impl Read<'_> {
    /// Whether it goes over the whole state, which only one at a time should.
    pub(crate) fn is_scan(&self) -> bool {
        matches!(self.kind, Look::Keys)
    }

    pub(crate) fn reply(&self, store: &Store, out: &mut Replies) {
        let count = self.request.len() - 1;
        let mut values = self.request.args().skip(1).map(|key| store.get(key));
        match self.kind {
            Look::Get => {
                let value = values.next().flatten();
                if let Some(out) = out.room(bulk_bytes(value)) {
                    value_or_nil(out, value);
                }
            }
            Look::GetAll => {
                let bytes = values.clone().map(bulk_bytes).sum::<usize>();
                if let Some(out) = out.room(BULK_BYTES + bytes) {
                    resp::array(out, count);
                    values.for_each(|value| value_or_nil(out, value));
                }
            }
            Look::Exists => resp::integer(out.short(), values.flatten().count()),
            Look::Length => {
                let bytes: usize = values.flatten().map(<[u8]>::len).sum();
                resp::integer(out.short(), bytes);
            }
            Look::Keys => keys(arg(&self.request, 1), store, out),
            Look::Size => resp::integer(out.short(), store.len()),
        }
    }
}

/// The keys that a pattern matches, each looked at once, until that is too much work or too much to tell.
fn keys(pattern: &[u8], store: &Store, out: &mut Replies) {
    let (mut steps, mut bytes, mut found) = (MAX_SCAN_STEPS, BULK_BYTES, Vec::new());
    for key in store.keys() {
        steps = steps.saturating_sub(KEY_STEPS);
        let Some(matches) = glob::matches(pattern, key, &mut steps) else {
            let why = "ERR KEYS would take too long with so many keys and such a pattern";
            return resp::error(out.short(), why);
        };
        if matches {
            found.push(key);
            bytes += bulk_bytes(Some(key));
        }
        if bytes > MAX_REPLY_BYTES {
            break;
        }
    }
    if let Some(out) = out.room(bytes) {
        resp::array(out, found.len());
        for key in found {
            resp::bulk(out, key);
        }
    }
}

fn bulk_bytes(value: Option<&[u8]>) -> usize {
    BULK_BYTES + value.map_or(0, <[u8]>::len)
}

fn value_or_nil(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => resp::bulk(out, value),
        None => resp::nil(out),
    }
}

/// A command's name, how many arguments it takes with its name (at least so many if negative), and what
/// it does with them.
struct Spec {
    name: &'static str,
    arity: isize,
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    Look(Look),
    Make(fn(&Request<'_>) -> Command<'static>),
}

const fn look(name: &'static str, arity: isize, look: Look) -> Spec {
    Spec { name, arity, run: Run::Look(look) }
}

const fn make(
    name: &'static str,
    arity: isize,
    make: fn(&Request<'_>) -> Command<'static>,
) -> Spec {
    Spec { name, arity, run: Run::Make(make) }
}

const COMMANDS: &[Spec] = &[
    look("get", 2, Look::Get),
    make("set", -3, set),
    make("incr", 2, |request| add(request, 1)),
    look("mget", -2, Look::GetAll),
    make("mset", -3, set_all),
    make("del", -2, |request| write(Op::Delete, request)),
    look("exists", -2, Look::Exists),
    make("incrby", 3, |request| add_given(request, Some)),
    make("decr", 2, |request| add(request, -1)),
    make("decrby", 3, |request| add_given(request, i64::checked_neg)),
    make("append", 3, |request| write(Op::Append, request)),
    look("strlen", 2, Look::Length),
    make("cas", 4, |request| write(Op::CompareAndSet, request)),
    look("keys", 2, Look::Keys),
    look("dbsize", 1, Look::Size),
    make("flushall", -1, flush_all),
    make("ping", -1, ping),
    make("echo", 2, |request| text(arg(request, 1))),
    make("info", -1, |_| ask(Question::Info)),
    make("raft", -2, raft),
    make("select", 2, select),
    make("hello", -1, hello),
    make("auth", -2, auth),
    make("client", -2, client),
    make("config", -2, config),
    make("command", -1, command_table),
    make("quit", -1, |_| Command::Quit),
    // A browser that was talked into speaking to this port; its next lines are not to be obeyed.
    make("post", -1, |_| Command::Leave),
    make("host:", -1, |_| Command::Leave),
];

/// What a request asks for. It has at least one argument.
pub(crate) fn command(request: Request<'_>) -> Command<'_> {
    let name = arg(&request, 0);
    let Some(spec) = COMMANDS.iter().find(|spec| is(name, spec.name)) else {
        return unknown(&request);
    };
    let given = request.len().cast_signed();
    let fits = if spec.arity < 0 { given >= -spec.arity } else { given == spec.arity };
    match spec.run {
        _ if !fits => wrong_arity(spec.name),
        Run::Look(kind) => look_at(kind, request),
        Run::Make(make) => make(&request),
    }
}

fn look_at(kind: Look, request: Request<'_>) -> Command<'_> {
    let too_long = match kind {
        Look::Keys if arg(&request, 1).len() > MAX_PATTERN_BYTES => {
            Some(error(&format!("ERR the pattern exceeds {MAX_PATTERN_BYTES} bytes")))
        }
        Look::Keys | Look::Size => None,
        Look::Get | Look::GetAll | Look::Exists | Look::Length => {
            key_too_long(request.args().skip(1))
        }
    };
    too_long.unwrap_or(Command::Step(Step::Read(Read { kind, request })))
}

/// The error if one of these keys is too long.
fn key_too_long<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> Option<Command<'static>> {
    keys.any(|key| key.len() > MAX_KEY_BYTES)
        .then(|| error(&format!("ERR a key exceeds {MAX_KEY_BYTES} bytes")))
}

fn is(given: &[u8], name: &str) -> bool {
    given.eq_ignore_ascii_case(name.as_bytes())
}

/// An argument; nothing if there are not so many.
fn arg<'a>(request: &'a Request<'_>, at: usize) -> &'a [u8] {
    request.args().nth(at).unwrap_or_default()
}

/// A write with these arguments.
fn propose<'a>(op: Op, args: impl Iterator<Item = &'a [u8]> + Clone) -> Command<'static> {
    if let Some(error) = key_too_long(args.clone().step_by(op.key_every())) {
        return error;
    }
    let write = Write::new(op, args);
    if write.len() > MAX_WRITE_BYTES {
        return error(&format!("ERR the command exceeds {MAX_WRITE_BYTES} bytes"));
    }
    Command::Step(Step::Write(write))
}

/// A write with the request's own arguments.
fn write(op: Op, request: &Request<'_>) -> Command<'static> {
    propose(op, request.args().skip(1))
}

fn set(request: &Request<'_>) -> Command<'static> {
    let mut op = Op::Set;
    for option in request.args().skip(3) {
        op = if is(option, "nx") && op != Op::SetOld {
            Op::SetNew
        } else if is(option, "xx") && op != Op::SetNew {
            Op::SetOld
        } else if ["ex", "px", "exat", "pxat", "keepttl"].iter().any(|name| is(option, name)) {
            return error(
                "ERR keys do not expire here: SET takes no EX, PX, EXAT, PXAT and KEEPTTL",
            );
        } else if is(option, "get") {
            return error("ERR SET with GET is not supported");
        } else {
            return error("ERR syntax error");
        };
    }
    propose(op, request.args().skip(1).take(2))
}

fn set_all(request: &Request<'_>) -> Command<'static> {
    if request.len().is_multiple_of(2) {
        return wrong_arity("mset");
    }
    write(Op::SetAll, request)
}

fn add(request: &Request<'_>, amount: i64) -> Command<'static> {
    let amount = amount.to_le_bytes();
    propose(Op::Add, [arg(request, 1), &amount].into_iter())
}

fn add_given(request: &Request<'_>, amount: fn(i64) -> Option<i64>) -> Command<'static> {
    match resp::number(arg(request, 2)).map(amount) {
        Some(Some(amount)) => add(request, amount),
        Some(None) => error("ERR decrement would overflow"),
        None => error("ERR value is not an integer or out of range"),
    }
}

fn flush_all(request: &Request<'_>) -> Command<'static> {
    match request.args().nth(1) {
        Some(how) if request.len() > 2 || !(is(how, "async") || is(how, "sync")) => {
            error("ERR syntax error")
        }
        _ => propose(Op::Clear, std::iter::empty()),
    }
}

fn ping(request: &Request<'_>) -> Command<'static> {
    match request.len() {
        1 => constant(b"+PONG\r\n"),
        2 => text(arg(request, 1)),
        _ => wrong_arity("ping"),
    }
}

const RAFT_HELP: [&str; 3] = [
    "RAFT STATUS: how this node is doing, as one line of JSON.",
    "RAFT LEADER: who leads, as this node knows.",
    "RAFT HELP: this.",
];

fn raft(request: &Request<'_>) -> Command<'static> {
    let name = arg(request, 1);
    if is(name, "status") && request.len() == 2 {
        ask(Question::Status)
    } else if is(name, "leader") && request.len() == 2 {
        ask(Question::Leader)
    } else if is(name, "help") {
        reply(|out| {
            resp::array(out, RAFT_HELP.len());
            for line in RAFT_HELP {
                resp::bulk(out, line.as_bytes());
            }
        })
    } else if ["transfer", "add", "remove", "snapshot"].iter().any(|known| is(name, known)) {
        error("ERR the library cannot do this yet")
    } else {
        unknown_subcommand(request)
    }
}

fn select(request: &Request<'_>) -> Command<'static> {
    match resp::number(arg(request, 1)) {
        Some(0) => ok(),
        Some(_) => error("ERR DB index is out of range"),
        None => error("ERR value is not an integer or out of range"),
    }
}

/// Clients begin with it to agree on a protocol; this is the older of two.
fn hello(request: &Request<'_>) -> Command<'static> {
    let version = request.args().nth(1).map(resp::number);
    match version {
        None | Some(Some(2)) => {}
        Some(Some(_)) => return error("NOPROTO unsupported protocol version"),
        Some(None) => return error("ERR Protocol version is not an integer or out of range"),
    }
    let mut options = request.args().skip(2);
    while let Some(option) = options.next() {
        if is(option, "auth")
            && let (Some(user), Some(_)) = (options.next(), options.next())
        {
            if user != b"default" {
                return error(WRONG_PASSWORD);
            }
        } else if !(is(option, "setname") && options.next().is_some()) {
            return error("ERR syntax error in HELLO");
        }
    }
    reply(|out| {
        resp::array(out, 8);
        resp::bulk(out, b"server");
        resp::bulk(out, b"oarlock-kv");
        resp::bulk(out, b"version");
        resp::bulk(out, env!("CARGO_PKG_VERSION").as_bytes());
        resp::bulk(out, b"proto");
        resp::integer(out, 2);
        resp::bulk(out, b"modules");
        resp::array(out, 0);
    })
}

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// As with a Redis that has no passwords: there is one user, and whatever it gives for its password is right.
fn auth(request: &Request<'_>) -> Command<'static> {
    match request.len() {
        2 => error(
            "ERR AUTH <password> called without any password configured for the default user. Are \
             you sure your configuration is correct?",
        ),
        3 if arg(request, 1) == b"default" => ok(),
        3 => error(WRONG_PASSWORD),
        _ => error("ERR syntax error"),
    }
}

/// What clients say about themselves is heard, and forgotten.
fn client(request: &Request<'_>) -> Command<'static> {
    let name = arg(request, 1);
    match request.len() {
        3 if is(name, "setname") || is(name, "no-evict") || is(name, "no-touch") => ok(),
        4 if is(name, "setinfo") => ok(),
        2 if is(name, "getname") => reply(resp::nil),
        2 if is(name, "id") => ask(Question::ClientId),
        2 if is(name, "list") => ask(Question::Clients),
        _ => unknown_subcommand(request),
    }
}

/// `redis-benchmark` asks how the server saves: in neither of the ways that Redis has.
fn config(request: &Request<'_>) -> Command<'static> {
    if !is(arg(request, 1), "get") || request.len() < 3 {
        return unknown_subcommand(request);
    }
    let known = [("save", ""), ("appendonly", "no")];
    let asked = |name: &str| {
        request.args().skip(2).any(|pattern| {
            let mut steps = MAX_SCAN_STEPS;
            let pattern = pattern.to_ascii_lowercase();
            glob::matches(&pattern, name.as_bytes(), &mut steps) == Some(true)
        })
    };
    reply(|out| {
        let given = known.into_iter().filter(|(name, _)| asked(name));
        resp::array(out, 2 * given.clone().count());
        for (name, value) in given {
            resp::bulk(out, name.as_bytes());
            resp::bulk(out, value.as_bytes());
        }
    })
}

fn command_table(request: &Request<'_>) -> Command<'static> {
    let name = arg(request, 1);
    match request.len() {
        1 => ask(Question::Commands),
        2 if is(name, "info") => ask(Question::Commands),
        2 if is(name, "list") => ask(Question::CommandNames),
        2 if is(name, "count") => reply(|out| resp::integer(out, COMMANDS.len())),
        // No documentation is a documentation that clients can live with.
        _ if is(name, "docs") => reply(|out| resp::array(out, 0)),
        _ if is(name, "info") => reply(|out| {
            resp::array(out, request.len() - 2);
            for name in request.args().skip(2) {
                match COMMANDS.iter().find(|spec| is(name, spec.name)) {
                    Some(spec) => describe(spec, out),
                    None => resp::nil_array(out),
                }
            }
        }),
        _ => unknown_subcommand(request),
    }
}

/// All commands, in the form of `COMMAND`.
pub(crate) fn describe_all(out: &mut Vec<u8>) {
    resp::array(out, COMMANDS.len());
    for spec in COMMANDS {
        describe(spec, out);
    }
}

/// Their names.
pub(crate) fn name_all(out: &mut Vec<u8>) {
    resp::array(out, COMMANDS.len());
    for spec in COMMANDS {
        resp::bulk(out, spec.name.as_bytes());
    }
}

fn describe(spec: &Spec, out: &mut Vec<u8>) {
    resp::array(out, 6);
    resp::bulk(out, spec.name.as_bytes());
    resp::integer(out, spec.arity);
    resp::array(out, 0);
    (0..3).for_each(|_| resp::integer(out, 0));
}

fn reply(write: impl FnOnce(&mut Vec<u8>)) -> Command<'static> {
    let mut out = Vec::new();
    write(&mut out);
    Command::Step(Step::Reply(out.into()))
}

fn constant(reply: &'static [u8]) -> Command<'static> {
    Command::Step(Step::Reply(Cow::Borrowed(reply)))
}

fn ok() -> Command<'static> {
    constant(b"+OK\r\n")
}

fn ask(question: Question) -> Command<'static> {
    Command::Step(Step::Ask(question))
}

fn text(text: &[u8]) -> Command<'static> {
    reply(|out| resp::bulk(out, text))
}

pub(crate) fn error(text: &str) -> Command<'static> {
    reply(|out| resp::error(out, text))
}

fn wrong_arity(name: &str) -> Command<'static> {
    error(&format!("ERR wrong number of arguments for '{name}' command"))
}

/// At most so much of what a client sent is repeated to it.
const MAX_QUOTED: usize = 128;

fn quote(text: &[u8], limit: usize) -> Cow<'_, str> {
    String::from_utf8_lossy(&text[..text.len().min(limit)])
}

fn unknown(request: &Request<'_>) -> Command<'static> {
    let mut args = request.args();
    let name = quote(args.next().unwrap_or_default(), MAX_QUOTED);
    let mut text = format!("ERR unknown command '{name}', with args beginning with: ");
    let begins = text.len();
    for arg in args {
        let left = MAX_QUOTED.saturating_sub(text.len() - begins);
        if left == 0 {
            break;
        }
        text.extend(["'", &quote(arg, left), "' "]);
    }
    error(&text)
}

fn unknown_subcommand(request: &Request<'_>) -> Command<'static> {
    let name = quote(arg(request, 0), MAX_QUOTED).to_ascii_uppercase();
    let sub = quote(arg(request, 1), MAX_QUOTED);
    error(&format!(
        "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try {name} HELP."
    ))
}
