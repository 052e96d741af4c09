//! A client's deadline, as gRPC carries it: `grpc-timeout`, at most eight digits and a unit.

use http::HeaderMap;
use std::time::Duration;

const DIGITS_MAX: usize = 8;

/// How long the client waits. `None` if it does not say so, or says what cannot be read: it waits as long as it likes.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

fn parse(text: &str) -> Option<Duration> {
    let (unit, digits) = text.as_bytes().split_last()?;
    let readable = (1..=DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !readable {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("10S", Some(Duration::from_secs(10))),
            ("4999998u", Some(Duration::from_micros(4_999_998))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        for text in ["", "S", "1", "123456789S", "-1S", "+1S", "1.5S", "1s", "1 S", "1é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
