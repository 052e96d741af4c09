//! Reads JSON text without building anything of it: where a value ends, and what is in it. Knows no message.
//!
//! Errors have the words of Go's `encoding/json`, whose answers clients of etcd may have seen. Every depth is bounded.

use std::borrow::Cow;

/// Most levels of lists and objects in each other. The deepest transaction that is taken needs a third of it.
const DEPTH_MAX: usize = 300;

/// What the text says where it goes wrong.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// It ends within a value.
    End,
    /// Something else.
    Syntax(String),
}

/// Reads a text from its start.
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// The kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true`, `false`
    Bool,
    /// A number.
    Number,
    /// A text.
    String,
    /// A list.
    Array,
    /// An object.
    Object,
}

impl Kind {
    /// The kind of a value that was found sound.
    pub fn of(value: &[u8]) -> Self {
        match value.first() {
            Some(b'n') | None => Self::Null,
            Some(b't' | b'f') => Self::Bool,
            Some(b'"') => Self::String,
            Some(b'[') => Self::Array,
            Some(b'{') => Self::Object,
            Some(_) => Self::Number,
        }
    }

    /// Go's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}

/// The first value of a text, without the blanks around it. Whatever comes after it is not looked at.
pub fn first_value(text: &[u8]) -> Result<&[u8], Failure> {
    Scanner { text, at: 0 }.value(0)
}

/// The value that is all of a text.
pub fn only_value(text: &[u8]) -> Result<&[u8], Failure> {
    let mut scanner = Scanner { text, at: 0 };
    let value = scanner.value(0)?;
    scanner.skip_blanks();
    match scanner.peek() {
        None => Ok(value),
        Some(byte) => Err(unexpected(byte, "after top-level value")),
    }
}

/// The elements of a list that was found sound.
pub fn elements<'a>(array: &'a [u8], mut element: impl FnMut(&'a [u8]) -> Result<(), String>) -> Result<(), String> {
    let mut scanner = Scanner { text: array, at: 1 };
    while let Some(value) = scanner.sound_value(b']') {
        element(value)?;
    }
    Ok(())
}

/// The names and values of an object that was found sound.
pub fn members<'a>(object: &'a [u8], mut member: impl FnMut(Cow<'a, str>, &'a [u8])) {
    let mut scanner = Scanner { text: object, at: 1 };
    while let Some(name) = scanner.sound_value(b'}') {
        let Some(value) = scanner.sound_value(b'}') else { return };
        member(unquote(name), value);
    }
}

/// What a string value says. Lone surrogates and bytes that are no UTF-8 become the replacement character, as in Go.
pub fn unquote(string: &[u8]) -> Cow<'_, str> {
    let inner = string.get(1..string.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains(&b'\\') {
        return String::from_utf8_lossy(inner);
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let Some((&escape, after)) = rest.split_first() else { break };
        rest = after;
        match escape {
            b'b' => bytes.push(8),
            b'f' => bytes.push(12),
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'u' => {
                let (character, after) = unicode(rest);
                rest = after;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => bytes.push(other),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The character of the four digits after `\u`, and of a second escape if the first is half of a pair.
fn unicode(text: &[u8]) -> (char, &[u8]) {
    let (first, rest) = four_digits(text);
    if let Some(low) = rest.strip_prefix(b"\\u") {
        let (second, after) = four_digits(low);
        if (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(&second) {
            let pair = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return (char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER), after);
        }
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), rest)
}

fn four_digits(text: &[u8]) -> (u32, &[u8]) {
    let (digits, rest) = text.split_at(text.len().min(4));
    let number = digits.iter().fold(0, |number, digit| number * 16 + char::from(*digit).to_digit(16).unwrap_or(0));
    (number, rest)
}

fn unexpected(byte: u8, where_: &str) -> Failure {
    let shown = match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b' '..=b'~' | 0xa1..=0xac | 0xae..=0xff => format!("'{}'", char::from(byte)),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        7 => r"'\a'".to_owned(),
        8 => r"'\b'".to_owned(),
        11 => r"'\v'".to_owned(),
        12 => r"'\f'".to_owned(),
        0..=31 | 0x7f => format!("'\\x{byte:02x}'"),
    };
    Failure::Syntax(format!("invalid character {shown} {where_}"))
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte that is no blank.
    fn next(&mut self) -> Result<u8, Failure> {
        self.skip_blanks();
        self.take()
    }

    fn take(&mut self) -> Result<u8, Failure> {
        let byte = self.peek().ok_or(Failure::End)?;
        self.at += 1;
        Ok(byte)
    }

    /// Within a list or an object that was found sound: the next value, or `None` at its end.
    fn sound_value(&mut self, end: u8) -> Option<&'a [u8]> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | b':')) {
            self.at += 1;
        }
        if self.peek()? == end {
            return None;
        }
        self.value(0).ok()
    }

    /// Reads a value, and gives its text.
    fn value(&mut self, depth: usize) -> Result<&'a [u8], Failure> {
        if depth > DEPTH_MAX {
            return Err(Failure::Syntax("exceeded max depth".to_owned()));
        }
        let first = self.next()?;
        let start = self.at - 1;
        match first {
            b'{' => self.object(depth)?,
            b'[' => self.array(depth)?,
            b'"' => self.string()?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            b'-' | b'0'..=b'9' => self.number(first)?,
            other => return Err(unexpected(other, "looking for beginning of value")),
        }
        Ok(&self.text[start..self.at])
    }

    fn object(&mut self, depth: usize) -> Result<(), Failure> {
        let mut first = self.next()?;
        if first == b'}' {
            return Ok(());
        }
        loop {
            if first != b'"' {
                return Err(unexpected(first, "looking for beginning of object key string"));
            }
            self.string()?;
            match self.next()? {
                b':' => {}
                other => return Err(unexpected(other, "after object key")),
            }
            self.value(depth + 1)?;
            match self.next()? {
                b',' => first = self.next()?,
                b'}' => return Ok(()),
                other => return Err(unexpected(other, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Failure> {
        self.skip_blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.next()? {
                b',' => {}
                b']' => return Ok(()),
                other => return Err(unexpected(other, "after array element")),
            }
        }
    }

    fn string(&mut self) -> Result<(), Failure> {
        loop {
            match self.take()? {
                b'"' => return Ok(()),
                b'\\' => match self.take()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let digit = self.take()?;
                            if !digit.is_ascii_hexdigit() {
                                return Err(unexpected(digit, "in \\u hexadecimal character escape"));
                            }
                        }
                    }
                    other => return Err(unexpected(other, "in string escape code")),
                },
                control @ 0..0x20 => return Err(unexpected(control, "in string literal")),
                _ => {}
            }
        }
    }

    /// The first letter is read already.
    fn literal(&mut self, word: &str) -> Result<(), Failure> {
        for expected in word.bytes().skip(1) {
            let letter = self.take()?;
            if letter != expected {
                let expected = char::from(expected);
                return Err(unexpected(letter, &format!("in literal {word} (expecting '{expected}')")));
            }
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Result<(), Failure> {
        let mut first = first;
        if first == b'-' {
            first = self.take()?;
            if !first.is_ascii_digit() {
                return Err(unexpected(first, "in numeric literal"));
            }
        }
        if first != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.required_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.required_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn required_digits(&mut self, where_: &str) -> Result<(), Failure> {
        let digit = self.take()?;
        if !digit.is_ascii_digit() {
            return Err(unexpected(digit, where_));
        }
        self.digits();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> String {
        match first_value(text.as_bytes()) {
            Ok(value) => String::from_utf8_lossy(value).into_owned(),
            Err(Failure::End) => "end".to_owned(),
            Err(Failure::Syntax(text)) => text,
        }
    }

    #[test]
    fn the_first_value_ends_where_it_ends() {
        for (text, expected) in [
            (" {\"a\": [1, -0.5e+3, {}], \"b\\\"\": null } x", "{\"a\": [1, -0.5e+3, {}], \"b\\\"\": null }"),
            ("[] []", "[]"),
            ("12 ", "12"),
            ("\"a\\u00e9\"\"", "\"a\\u00e9\""),
            ("true false", "true"),
            ("", "end"),
            ("{\"a\"", "end"),
            ("[1,", "end"),
            ("\"abc", "end"),
            ("-", "end"),
        ] {
            assert_eq!(outcome(text), expected, "{text}");
        }
    }

    #[test]
    fn errors_are_gos() {
        for (text, expected) in [
            ("{\"key\":Zm9v}", "invalid character 'Z' looking for beginning of value"),
            ("{key:1}", "invalid character 'k' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("é", "invalid character 'Ã' looking for beginning of value"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(outcome(text), expected, "{text}");
        }
        assert_eq!(outcome(&"[".repeat(100_000)), "exceeded max depth");
        assert_eq!(only_value(b"12x"), Err(Failure::Syntax("invalid character 'x' after top-level value".to_owned())));
    }

    #[test]
    fn strings_are_unescaped() {
        for (text, expected) in
            [(r#""a\n\t\"\\\/""#, "a\n\t\"\\/"), (r#""\u00e9\ud834\udd1e\ud834x""#, "é𝄞\u{fffd}x"), (r#""""#, "")]
        {
            assert_eq!(unquote(text.as_bytes()), expected);
        }
    }

    #[test]
    fn members_and_elements_come_in_order() {
        let mut found = Vec::new();
        members(b"{ \"a\" : [1,2] , \"b\":\"x\",\"a\":{}}", |name, value| {
            found.push(format!("{name}={}", String::from_utf8_lossy(value)));
        });
        assert_eq!(found, ["a=[1,2]", "b=\"x\"", "a={}"]);
        let mut found = Vec::new();
        elements(b"[ 1 ,[2], {\"a\":3} ]", |value| {
            found.push(String::from_utf8_lossy(value).into_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(found, ["1", "[2]", "{\"a\":3}"]);
    }
}
