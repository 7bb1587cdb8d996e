//! RESP2, the protocol of Redis: requests out of a buffer, replies into one.
//!
//! A request is an array of byte strings, or a line of words as a human types it. The decoder is fed one
//! growing buffer, remembers how far it has looked, and copies nothing but what has to be unquoted. It
//! trusts no length that it reads: nothing is ever allocated by one. A request that is longer than it may
//! be passes by without being kept, so that what follows it is understood. It depends on nothing and
//! never panics, whatever the bytes.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::mem;

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most arguments of a request, its name included.
    pub(crate) args: usize,
    /// The longest argument, in bytes. Those above it, up to [`MAX_SKIPPED_BYTES`], are skipped.
    pub(crate) bulk_bytes: usize,
    /// The longest request, in bytes. The rest of one above it is skipped.
    pub(crate) request_bytes: usize,
    /// The longest line, in bytes.
    pub(crate) line_bytes: usize,
}

/// The longest argument that a client may announce, as with Redis.
pub(crate) const MAX_SKIPPED_BYTES: usize = 512 << 20;

/// What stands at the beginning of a buffer.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Request(Request<'a>),
    /// A part of a request that exceeds a limit; nothing of it need be kept.
    Skipped,
    /// The last part of such a request.
    TooLong(Exceeded),
}

/// Which limit a request exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    what: &'static str,
    limit: usize,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exceeds {} bytes", self.what, self.limit)
    }
}

/// Why bytes are no request. What follows them cannot be understood either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(Cow<'static, str>);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protocol error: {}", self.0)
    }
}

const fn malformed(why: &'static str) -> Malformed {
    Malformed(Cow::Borrowed(why))
}

/// A whole request: its arguments, as they came.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    /// The arguments, each as `$length\r\nbytes\r\n`.
    body: Cow<'a, [u8]>,
    args: usize,
}

impl Request<'_> {
    /// How many arguments it has, its name included.
    pub(crate) fn len(&self) -> usize {
        self.args
    }

    /// The arguments; the first is the name.
    pub(crate) fn args(&self) -> Args<'_> {
        Args { rest: &self.body }
    }
}

/// The arguments of a request, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Args<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        // Each part was checked when the request was decoded.
        let (line, rest) = split_line(self.rest)?;
        let length = usize::try_from(number(line.get(1..)?)?).ok()?;
        let (arg, rest) = rest.split_at_checked(length)?;
        self.rest = rest.get(2..)?;
        Some(arg)
    }
}

/// Finds requests in a buffer that grows at its end.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    /// Of the request at the buffer's beginning: where its arguments begin, 0 if that is not known.
    body: usize,
    /// How far it has been looked at.
    at: usize,
    /// How many arguments it has, and how many of them are still to come.
    args: usize,
    missing: usize,
    /// Of a request that exceeds a limit: which, and where in it the buffer begins.
    skipped: Option<(Exceeded, Within)>,
}

/// A place in a request that is skipped.
#[derive(Clone, Copy, Debug)]
enum Within {
    /// So many bytes before the end of an argument.
    Argument(usize),
    /// At the line that announces one.
    Line,
}

/// The longest line that holds nothing but a type and a number.
const NUMBER_LINE: usize = 32;

impl Decoder {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, body: 0, at: 0, args: 0, missing: 0, skipped: None }
    }

    /// Whether it is in the middle of a request of which nothing is in the buffer.
    pub(crate) fn is_skipping(&self) -> bool {
        self.skipped.is_some()
    }

    /// What stands at the buffer's beginning with the number of bytes it takes, which are not to be shown
    /// again; `None` if it is not whole. Then the buffer may grow, but must not change otherwise. A request
    /// may have no arguments at all, which means nothing.
    ///
    /// # Errors
    /// The buffer begins with something else. There is no way to go on.
    pub(crate) fn next<'a>(
        &mut self,
        buffer: &'a [u8],
    ) -> Result<Option<(Found<'a>, usize)>, Malformed> {
        if let Some((exceeded, within)) = self.skipped {
            return self.skip(exceeded, within, buffer);
        }
        if self.body == 0 {
            match buffer.first() {
                None => return Ok(None),
                Some(b'*') => {}
                Some(_) => return self.line(buffer),
            }
            let Some((line, at)) = number_line(buffer, 0, "too big mbulk count string")? else {
                return Ok(None);
            };
            // Redis takes a negative number for none.
            let args = number(&line[1..]).map(|args| usize::try_from(args.max(0)));
            self.args = match args {
                Some(Ok(args)) if args <= self.limits.args => args,
                _ => return Err(malformed("invalid multibulk length")),
            };
            (self.missing, self.at, self.body) = (self.args, at, at);
        }
        while self.missing > 0 {
            let Some((length, start)) = announced(buffer, self.at)? else {
                return Ok(None);
            };
            if let Some(exceeded) = self.exceeded(length, start) {
                return self.skip(exceeded, Within::Line, buffer);
            }
            match argument_end(buffer, start + length)? {
                None => return Ok(None),
                Some(end) => self.at = end,
            }
            self.missing -= 1;
        }
        let body = Cow::Borrowed(&buffer[self.body..self.at]);
        let found = Found::Request(Request { body, args: self.args });
        let end = self.at;
        *self = Self::new(self.limits);
        Ok(Some((found, end)))
    }

    /// The limit that an argument of this length, which begins there in the request, exceeds.
    fn exceeded(&self, length: usize, start: usize) -> Option<Exceeded> {
        let Limits { bulk_bytes, request_bytes, .. } = self.limits;
        if length > bulk_bytes {
            Some(Exceeded { what: "an argument", limit: bulk_bytes })
        } else if start + length > request_bytes {
            Some(Exceeded { what: "the request", limit: request_bytes })
        } else {
            None
        }
    }

    /// Passes over as much of a request as is there, from `at` on.
    fn skip<'a>(
        &mut self,
        exceeded: Exceeded,
        mut within: Within,
        buffer: &[u8],
    ) -> Result<Option<(Found<'a>, usize)>, Malformed> {
        let mut at = mem::take(&mut self.at);
        while self.missing > 0 {
            match within {
                Within::Line => match announced(buffer, at)? {
                    None => break,
                    Some((length, start)) => (within, at) = (Within::Argument(length), start),
                },
                Within::Argument(left) => {
                    let there = left.min(buffer.len() - at);
                    at += there;
                    within = Within::Argument(left - there);
                    match argument_end(buffer, at) {
                        Ok(Some(end)) if there == left => (within, at) = (Within::Line, end),
                        Err(malformed) if there == left => return Err(malformed),
                        _ => break,
                    }
                    self.missing -= 1;
                }
            }
        }
        if self.missing == 0 {
            *self = Self::new(self.limits);
            return Ok(Some((Found::TooLong(exceeded), at)));
        }
        self.skipped = Some((exceeded, within));
        Ok((at > 0).then_some((Found::Skipped, at)))
    }

    /// A request as a line of words.
    fn line<'a>(&mut self, buffer: &[u8]) -> Result<Option<(Found<'a>, usize)>, Malformed> {
        let limit = self.limits.line_bytes;
        let looked = self.at;
        let Some(end) = buffer[looked..].iter().position(|&byte| byte == b'\n') else {
            if buffer.len() > limit {
                return Err(malformed("too big inline request"));
            }
            self.at = buffer.len();
            return Ok(None);
        };
        let end = looked + end;
        if end > limit {
            return Err(malformed("too big inline request"));
        }
        *self = Self::new(self.limits);
        let (body, args) = words(&buffer[..end])?;
        Ok(Some((Found::Request(Request { body: Cow::Owned(body), args }), end + 1)))
    }
}

/// The length of the argument that is announced at `at`, and where its bytes begin, if that is there.
fn announced(buffer: &[u8], at: usize) -> Result<Option<(usize, usize)>, Malformed> {
    let Some((line, start)) = number_line(buffer, at, "too big bulk count string")? else {
        return Ok(None);
    };
    if line.first() != Some(&b'$') {
        let got = line.first().map_or('\r', |&byte| char::from(byte));
        let got = if got.is_ascii_graphic() { got } else { '?' };
        return Err(Malformed(format!("expected '$', got '{got}'").into()));
    }
    let length = number(&line[1..]).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|&length| length <= MAX_SKIPPED_BYTES);
    Ok(Some((length.ok_or(malformed("invalid bulk length"))?, start)))
}

/// What follows an argument whose bytes end at `at`, if that is there.
fn argument_end(buffer: &[u8], at: usize) -> Result<Option<usize>, Malformed> {
    match buffer.get(at..at + 2) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some(at + 2)),
        Some(_) => Err(malformed("an argument is longer than it says")),
    }
}

/// A line with a type and a number, without its end, and where the next begins.
fn number_line<'a>(
    buffer: &'a [u8],
    at: usize,
    too_long: &'static str,
) -> Result<Option<(&'a [u8], usize)>, Malformed> {
    let rest = buffer.get(at..).unwrap_or_default();
    let rest = &rest[..rest.len().min(NUMBER_LINE)];
    match split_line(rest) {
        Some((line, after)) => Ok(Some((line, at + rest.len() - after.len()))),
        None if rest.len() == NUMBER_LINE => Err(malformed(too_long)),
        None => Ok(None),
    }
}

/// The line without its end, and what follows.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

/// A decimal number as Redis writes it: no sign but a minus, no leading zeros.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'0'] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let (b'1'..=b'9', _) = digits.split_first()? else {
        return None;
    };
    // Below zero, where there is one number more.
    let below = digits.iter().try_fold(0_i64, |below, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        below.checked_mul(10)?.checked_sub(digit)
    })?;
    if negative { Some(below) } else { below.checked_neg() }
}

/// Splits a line into words, `"quoted\n"` and `'quoted'` ones too, and puts them down as an array's.
fn words(line: &[u8]) -> Result<(Vec<u8>, usize), Malformed> {
    let (mut body, mut count, mut word) = (Vec::new(), 0, Vec::new());
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        word.clear();
        while let Some((&byte, after)) = rest.split_first() {
            rest = match byte {
                _ if byte.is_ascii_whitespace() => break,
                b'"' | b'\'' => quoted(byte, after, &mut word)?,
                _ => {
                    word.push(byte);
                    after
                }
            };
        }
        bulk(&mut body, &word);
        count += 1;
        rest = rest.trim_ascii_start();
    }
    Ok((body, count))
}

/// The rest of a quoted word; returns what follows the closing quote.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    const UNBALANCED: Malformed = malformed("unbalanced quotes in request");
    loop {
        let (&byte, after) = rest.split_first().ok_or(UNBALANCED)?;
        rest = after;
        match (byte, rest) {
            _ if byte == quote => {
                let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
                return if ends { Ok(rest) } else { Err(UNBALANCED) };
            }
            (b'\\', [b'\'', after @ ..]) if quote == b'\'' => {
                word.push(b'\'');
                rest = after;
            }
            (b'\\', [b'x', high, low, after @ ..])
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            (b'\\', [escaped, after @ ..]) if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            _ => word.push(byte),
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// A word that says how it went: `OK`.
pub(crate) fn simple(out: &mut Vec<u8>, word: &str) {
    line(out, b'+', word);
}

/// An error: a code in capitals, and what happened.
pub(crate) fn error(out: &mut Vec<u8>, text: &str) {
    line(out, b'-', text);
}

/// One line; what would end it early is made a space.
fn line(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    out.extend(text.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn integer(out: &mut Vec<u8>, value: impl fmt::Display) {
    header(out, b':', value);
}

/// A byte string.
pub(crate) fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The answer where there is nothing.
pub(crate) fn nil(out: &mut Vec<u8>) {
    out.extend_from_slice(b"$-1\r\n");
}

/// The answer where there is no array.
pub(crate) fn nil_array(out: &mut Vec<u8>) {
    out.extend_from_slice(b"*-1\r\n");
}

/// The beginning of an array of `count` replies.
pub(crate) fn array(out: &mut Vec<u8>, count: usize) {
    header(out, b'*', count);
}

fn header(out: &mut Vec<u8>, kind: u8, value: impl fmt::Display) {
    out.push(kind);
    write!(out, "{value}\r\n").expect("a vector takes what it is given");
}
