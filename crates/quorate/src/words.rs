//! Splits a line of `txn` or `watch -i` into words, with etcdctl's quoting.
//!
//! A word is a double-quoted Go string, a single-quoted literal, or a run without white space that does not begin with
//! a quote. A quote that is never closed is skipped.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::failure::{Exit, Failure};
use crate::golang::unquote_prefix;

/// The words of a line. Fails for a double-quoted word with an escape that Go does not have.
pub fn split(line: &str) -> Result<Vec<OsString>, Failure> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => double_quoted_end(rest),
            '\'' => rest[1..].find('\'').map(|at| at + 2),
            c if is_space(c) => None,
            _ => Some(rest.find(is_space).unwrap_or(rest.len())),
        };
        // White space, or a quote without an end.
        let Some(end) = end else {
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let (word, tail) = rest.split_at(end);
        words.push(match first {
            '"' => match unquote_prefix(word) {
                Some((bytes, _)) => OsString::from_vec(bytes),
                None => return Err(Failure::new(Exit::InvalidInput, format!("bad quoted string {word}"))),
            },
            '\'' => OsString::from(&word[1..word.len() - 1]),
            _ => OsString::from(word),
        });
        rest = tail;
    }
    Ok(words)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0c' | '\r')
}

/// Position after the closing quote.
fn double_quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_etcdctl_splits_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("put a b", &["put", "a", "b"]),
            ("  put\ta  b ", &["put", "a", "b"]),
            (r#"put a "x y""#, &["put", "a", "x y"]),
            ("put a 'x \"y'", &["put", "a", "x \"y"]),
            (r#"put a "x\n\"\x41""#, &["put", "a", "x\n\"A"]),
            (r#"put "a"b"#, &["put", "a", "b"]),
            (r#"put a"b c"#, &["put", "a\"b", "c"]),
            (r#"put a "x"#, &["put", "a", "x"]),
            (r#"put a """#, &["put", "a", ""]),
            ("put é 'ü'", &["put", "é", "ü"]),
        ];
        for (line, expected) in cases {
            assert_eq!(split(line).unwrap(), *expected, "{line}");
        }
        assert_eq!(split(r#"put a "\q""#).unwrap_err().exit, Exit::InvalidInput);
    }

    #[test]
    fn words_may_hold_any_bytes() {
        assert_eq!(split(r#""\xff\x00""#).unwrap(), [OsString::from_vec(vec![0xff, 0])]);
    }
}
