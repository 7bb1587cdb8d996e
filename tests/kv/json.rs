//! Whether a text is JSON, for what `RAFT STATUS` answers.

pub(crate) fn is_json(text: &str) -> bool {
    value(text.as_bytes()).is_some_and(<[u8]>::is_empty)
}

/// What follows the value at the beginning.
fn value(text: &[u8]) -> Option<&[u8]> {
    match text.first()? {
        b'{' => list(&text[1..], b'}', |pair| value(string(pair)?.strip_prefix(b":")?)),
        b'[' => list(&text[1..], b']', value),
        b'"' => string(text),
        b'0'..=b'9' => Some(&text[text.iter().take_while(|byte| byte.is_ascii_digit()).count()..]),
        _ => ["true", "false", "null"].iter().find_map(|word| text.strip_prefix(word.as_bytes())),
    }
}

fn list(text: &[u8], end: u8, one: impl Fn(&[u8]) -> Option<&[u8]>) -> Option<&[u8]> {
    if text.first() == Some(&end) {
        return Some(&text[1..]);
    }
    let mut rest = one(text)?;
    while let [b',', more @ ..] = rest {
        rest = one(more)?;
    }
    (rest.first() == Some(&end)).then(|| &rest[1..])
}

fn string(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b'"' | b'\\', rest @ ..] => rest,
            [b'\\', b'u', digits @ ..] if digits.len() > 4 => &digits[4..],
            [0..32 | b'\\', ..] | [] => return None,
            [_, rest @ ..] => rest,
        }
    }
}

#[test]
fn json_is_told_from_what_is_none() {
    for text in ["{}", "[]", "0", r#"{"a":[1,"b\"\\\u000a",null],"c":{"d":true}}"#] {
        assert!(is_json(text), "{text}");
    }
    for text in ["", "{", "{}}", "[1,]", "\"a", "\"\n\"", "{a:1}", "{\"a\" 1}", "nul", "\"\\x\""] {
        assert!(!is_json(text), "{text}");
    }
}
