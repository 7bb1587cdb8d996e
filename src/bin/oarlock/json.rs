//! Writing JSON: flat objects, one on a line. Nothing here reads any.

use std::fmt::Write;

/// An object being written.
pub(super) struct Object(String);

impl Object {
    /// A line of its own, which says in its first member what it is.
    pub(super) fn new(kind: &str) -> Self {
        Self::inner().text("type", kind)
    }

    /// A part of another one.
    pub(super) fn inner() -> Self {
        Self("{".to_owned())
    }

    pub(super) fn text(self, name: &str, value: &str) -> Self {
        self.raw(name, &quoted(value))
    }

    pub(super) fn number(self, name: &str, value: impl Into<u64>) -> Self {
        self.raw(name, &value.into().to_string())
    }

    /// A number, or `null`.
    pub(super) fn number_if_any(self, name: &str, value: Option<impl Into<u64>>) -> Self {
        match value {
            Some(value) => self.number(name, value),
            None => self.raw(name, "null"),
        }
    }

    pub(super) fn flag(self, name: &str, value: bool) -> Self {
        self.raw(name, if value { "true" } else { "false" })
    }

    /// A value that is JSON already.
    pub(super) fn raw(mut self, name: &str, value: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quoted(name));
        self.0.push(':');
        self.0.push_str(value);
        self
    }

    /// All of it, without the end of the line.
    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// An array of values that are JSON already.
pub(super) fn array(values: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", values.into_iter().collect::<Vec<_>>().join(","))
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{0}'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_members_stay_in_order() {
        let object = Object::new("note")
            .text("text", "a \"b\" \\ \n\u{1} é")
            .number("count", 3_u64)
            .number_if_any("index", None::<u64>)
            .flag("sound", true)
            .raw("list", &array(["1".to_owned(), quoted("x")]));
        let wanted = r#"{"type":"note","text":"a \"b\" \\ \u000a\u0001 é","count":3,"index":null,"sound":true,"list":[1,"x"]}"#;
        assert_eq!(object.finish(), wanted);
        assert_eq!(hex(&[0, 0xAB, 0xFF]), "00abff");
    }
}
