//! The patterns of `KEYS`: `*`, `?`, `[a-z]`, `[^a]` and `\`.
//!
//! Takes time proportional to pattern times text at worst, whatever the pattern, and no more steps than it
//! is given.

/// Whether the whole of `text` is as `pattern` says; `None` if that takes more than `steps`, from which it
/// takes what it needs. A step is a byte of the pattern that is looked at.
pub(crate) fn matches(pattern: &[u8], text: &[u8], steps: &mut u64) -> Option<bool> {
    let (mut at, mut here) = (pattern, text);
    // After the last star: what follows it, and the text it has not eaten yet. An earlier star never has to
    // eat more, since a later one can.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        *steps = steps.checked_sub(1)?;
        if let Some((b'*', after)) = at.split_first() {
            star = Some((after, here));
            at = after;
            continue;
        }
        let step = match here.split_first() {
            None if at.is_empty() => return Some(true),
            None => None,
            Some((&byte, after)) => {
                let (allowed, rest) = one(at, byte);
                *steps = steps.checked_sub((at.len() - rest.len()) as u64)?;
                allowed.then_some((rest, after))
            }
        };
        if let Some(next) = step {
            (at, here) = next;
            continue;
        }
        let Some((after, eaten)) = star else {
            return Some(false);
        };
        let Some((_, rest)) = eaten.split_first() else {
            return Some(false);
        };
        star = Some((after, rest));
        (at, here) = (after, rest);
    }
}

/// Whether the pattern's first element allows `byte`, and what follows that element.
fn one(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    match pattern {
        [] => (false, pattern),
        [b'?', rest @ ..] => (true, rest),
        [b'[', b'^', rest @ ..] => {
            let (found, rest) = class(rest, byte);
            (!found, rest)
        }
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte, rest),
    }
}

/// Whether a class, which ends with `]` or the pattern, names `byte`; and what follows it.
fn class(mut rest: &[u8], byte: u8) -> (bool, &[u8]) {
    let mut found = false;
    loop {
        let (low, high, after) = match rest {
            [] => return (found, rest),
            [b']', after @ ..] => return (found, after),
            [b'\\', literal, after @ ..] => (literal, literal, after),
            [low, b'-', high, after @ ..] => (low.min(high), low.max(high), after),
            [literal, after @ ..] => (literal, literal, after),
        };
        found |= (*low..=*high).contains(&byte);
        rest = after;
    }
}
