//! Text forms of the Go standard library, which etcdctl's users and their scripts read and write: quoted strings,
//! integers, durations, sizes.
//!
//! Knows nothing of etcd. Guarantees the same text as Go 1.2x for every value that the commands print.

use std::fmt::Write as _;
use std::time::Duration;

/// A text that does not have the form it should have; the wording is Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// `%q`: a double-quoted Go string. Bytes that are not UTF-8 appear as `\xNN`.
pub fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| quote_char(c, &mut quoted));
        chunk.invalid().iter().for_each(|byte| push(&mut quoted, format_args!("\\x{byte:02x}")));
    }
    quoted.push('"');
    quoted
}

fn quote_char(c: char, quoted: &mut String) {
    match c {
        '"' | '\\' => quoted.extend(['\\', c]),
        '\x07' => quoted.push_str("\\a"),
        '\x08' => quoted.push_str("\\b"),
        '\x0c' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\x0b' => quoted.push_str("\\v"),
        _ if is_printable(c) => quoted.push(c),
        _ if c < ' ' || c == '\x7f' => push(quoted, format_args!("\\x{:02x}", u32::from(c))),
        _ if u32::from(c) < 0x1_0000 => push(quoted, format_args!("\\u{:04x}", u32::from(c))),
        _ => push(quoted, format_args!("\\U{:08x}", u32::from(c))),
    }
}

/// Go's idea of printable: letters, marks, numbers, punctuation, symbols and the ASCII space.
fn is_printable(c: char) -> bool {
    // Rust decides by the same categories, but escapes combining marks at the start of a text: hence the letter.
    match c {
        '\'' => true,
        _ => format!("a{c}").escape_debug().count() == 2,
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes any text");
}

/// Reads a quoted Go string, `"..."` or `` `...` ``, from the start of `text`; returns its bytes and the rest of the
/// text. `None` if there is no complete quoted string.
pub fn unquote_prefix(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (value, rest) = raw.split_once('`')?;
        return Some((value.as_bytes().to_vec(), rest));
    }
    let mut rest = text.strip_prefix('"')?;
    let mut value = Vec::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((value, rest)),
            '\\' => rest = unescape(rest, &mut value)?,
            '\n' => return None,
            _ => value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Reads what follows a backslash.
fn unescape<'a>(text: &'a str, value: &mut Vec<u8>) -> Option<&'a str> {
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    let simple = match c {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        'x' => return number(rest, 2, 16).and_then(|(n, rest)| byte(n, value).map(|()| rest)),
        '0'..='7' => return number(text, 3, 8).and_then(|(n, rest)| byte(n, value).map(|()| rest)),
        'u' => return number(rest, 4, 16).and_then(|(n, rest)| scalar(n, value).map(|()| rest)),
        'U' => return number(rest, 8, 16).and_then(|(n, rest)| scalar(n, value).map(|()| rest)),
        _ => return None,
    };
    value.push(simple);
    Some(rest)
}

fn number(text: &str, digits: usize, radix: u32) -> Option<(u32, &str)> {
    let (head, rest) = text.split_at_checked(digits)?;
    let all_digits = head.chars().all(|c| c.is_digit(radix));
    all_digits.then(|| u32::from_str_radix(head, radix).ok().map(|n| (n, rest)))?
}

fn byte(number: u32, value: &mut Vec<u8>) -> Option<()> {
    value.push(u8::try_from(number).ok()?);
    Some(())
}

fn scalar(number: u32, value: &mut Vec<u8>) -> Option<()> {
    value.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}

/// `strconv.ParseInt(text, radix, 64)`.
pub fn parse_int(text: &str, radix: u32) -> Result<i64, Malformed> {
    i64::from_str_radix(text, radix).map_err(|error| unparsable("ParseInt", text, &error))
}

/// `strconv.ParseUint(text, radix, 64)`.
pub fn parse_uint(text: &str, radix: u32) -> Result<u64, Malformed> {
    // Unlike Go's, Rust's parser takes a leading plus.
    let text_without_sign = if text.starts_with('+') { "" } else { text };
    u64::from_str_radix(text_without_sign, radix).map_err(|error| unparsable("ParseUint", text, &error))
}

fn unparsable(function: &str, text: &str, error: &std::num::ParseIntError) -> Malformed {
    use std::num::IntErrorKind;
    let what = match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    Malformed(format!("strconv.{function}: parsing {}: {what}", quote(text.as_bytes())))
}

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, Malformed> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Malformed(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes())))),
    }
}

const UNITS: &[(&str, u128)] = &[
    // Longer names first, so that `ms` is not taken for `m`.
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `time.ParseDuration` for durations that are not negative: `1.5s`, `2m30s`, `0`.
pub fn parse_duration(text: &str) -> Result<Duration, Malformed> {
    let invalid = || Malformed(format!("time: invalid duration {}", quote(text.as_bytes())));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos: u128 = 0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let (unit, scale) = *UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(invalid)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        nanos += whole.checked_mul(scale).ok_or_else(invalid)?;
        let mut digit_scale = scale;
        for digit in fraction.chars() {
            digit_scale /= 10;
            nanos += u128::from(digit.to_digit(10).ok_or_else(invalid)?) * digit_scale;
        }
        if nanos > i64::MAX as u128 {
            return Err(invalid());
        }
        rest = &tail[unit.len()..];
    }
    Ok(Duration::from_nanos(u64::try_from(nanos).map_err(|_| invalid())?))
}

/// `time.Duration.String`: `1.5s`, `2m30s`, `512.3µs`.
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanos, 6)),
        _ => {
            let (minutes, nanos) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = decimal(nanos, 9);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `value / 10^places`, without zeros at the end.
fn decimal(value: u128, places: usize) -> String {
    let scale = 10_u128.pow(u32::try_from(places).expect("a few places"));
    let fraction = format!("{:0places$}", value % scale);
    match fraction.trim_end_matches('0') {
        "" => (value / scale).to_string(),
        fraction => format!("{}.{fraction}", value / scale),
    }
}

/// A size in bytes for people, in powers of 1000: `25 kB`, `1.5 MB`.
pub fn human_bytes(bytes: u64) -> String {
    const NAMES: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let power = usize::try_from(bytes.ilog(1000)).expect("at most 6");
    let scale = 1000_u128.pow(bytes.ilog(1000));
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, NAMES[power])
    } else {
        // Halves go to the even number, as in Go's `%.0f`.
        let (whole, rest) = (tenths / 10, tenths % 10);
        let up = rest > 5 || (rest == 5 && whole % 2 == 1);
        format!("{} {}", whole + u128::from(up), NAMES[power])
    }
}

/// An error of the operating system in Go's words, which have no number and begin in lower case.
pub fn os_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_said_as_go_says_them() {
        let error = std::fs::File::open("/nonexistent/x").unwrap_err();
        assert_eq!(os_error(&error), "no such file or directory");
    }

    #[test]
    fn quoted_strings_are_go_strings() {
        let cases: &[(&[u8], &str)] = &[
            (b"", r#""""#),
            (b"a \"b\" \\ 'c'", r#""a \"b\" \\ 'c'""#),
            (b"\x00\x07\x08\t\n\x0b\x0c\r\x1f\x7f", r#""\x00\a\b\t\n\v\f\r\x1f\x7f""#),
            (b"x\xffy\xe2\x82", r#""x\xffy\xe2\x82""#),
            ("é€𝄞".as_bytes(), r#""é€𝄞""#),
            ("e\u{301}\u{a0}\u{feff}\u{2028}".as_bytes(), "\"e\u{301}\\u00a0\\ufeff\\u2028\""),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
        ];
        for (bytes, expected) in cases {
            assert_eq!(quote(bytes), *expected);
            assert_eq!(unquote_prefix(expected), Some((bytes.to_vec(), "")), "{expected}");
        }
    }

    #[test]
    fn quoted_strings_are_read_up_to_their_end() {
        let whole =
            [(r#""a" b"#, "a", " b"), ("`a\\n` b", "a\\n", " b"), (r#""\x41\101\u00e9\U0001D11E""#, "AAé𝄞", "")];
        for (text, value, rest) in whole {
            assert_eq!(unquote_prefix(text), Some((value.as_bytes().to_vec(), rest)), "{text}");
        }
        let broken =
            ["\"a", "`a", "a", "'a'", r#""\q""#, r#""\x4""#, r#""\x+1""#, r#""\400""#, r#""\ud800""#, "\"a\nb\""];
        for text in broken {
            assert_eq!(unquote_prefix(text), None, "{text}");
        }
    }

    #[test]
    fn integers_fail_in_the_words_of_go() {
        let error = |text: &str| parse_int(text, 16).unwrap_err().to_string();
        assert_eq!(parse_int("-7f", 16), Ok(-127));
        assert_eq!(error("zz"), r#"strconv.ParseInt: parsing "zz": invalid syntax"#);
        assert_eq!(error(""), r#"strconv.ParseInt: parsing "": invalid syntax"#);
        assert_eq!(error("8000000000000000"), r#"strconv.ParseInt: parsing "8000000000000000": value out of range"#);
        assert_eq!(parse_uint("ffffffffffffffff", 16), Ok(u64::MAX));
        assert_eq!(parse_uint("+1", 16).unwrap_err().to_string(), r#"strconv.ParseUint: parsing "+1": invalid syntax"#);
    }

    #[test]
    fn durations() {
        let cases: &[(&str, u64, &str)] = &[
            ("0", 0, "0s"),
            ("1ns", 1, "1ns"),
            ("1.5us", 1_500, "1.5µs"),
            ("1.860862ms", 1_860_862, "1.860862ms"),
            ("1.000502561s", 1_000_502_561, "1.000502561s"),
            ("100ms", 100_000_000, "100ms"),
            ("5s", 5_000_000_000, "5s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("1h0.5s", 3_600_500_000_000, "1h0m0.5s"),
        ];
        for (text, nanos, canonical) in cases {
            let parsed = parse_duration(text).unwrap();
            assert_eq!(parsed, Duration::from_nanos(*nanos), "{text}");
            assert_eq!(duration(parsed), *canonical);
        }
        for text in ["", "5", "s", ".s", "-1s", "1x", "1..2s", "9999999999999999999h"] {
            assert_eq!(
                parse_duration(text).unwrap_err().to_string(),
                format!("time: invalid duration {}", quote(text.as_bytes()))
            );
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (20_480, "20 kB"),
            (24_576, "25 kB"),
            (2_147_483_648, "2.1 GB"),
            (u64::MAX, "18 EB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(human_bytes(bytes), expected);
        }
    }
}
