//! The time of day in UTC, as text. Knows the Gregorian calendar and no time zones.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-24T21:40:12.123456Z`, RFC 3339.
pub fn rfc3339(time: SystemTime) -> String {
    let (date, [hour, minute, second], micros) = parts(time);
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// `2026-11-24T21-40-12.123`, for names of files; sorts by time.
pub fn file_stamp(time: SystemTime) -> String {
    let (date, [hour, minute, second], micros) = parts(time);
    format!("{date}T{hour:02}-{minute:02}-{second:02}.{:03}", micros / 1000)
}

/// Whether a text is one of [`file_stamp`].
pub fn is_file_stamp(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00-00-00.000";
    text.len() == SHAPE.len()
        && text.bytes().zip(SHAPE).all(|(got, shape)| if *shape == b'0' { got.is_ascii_digit() } else { got == *shape })
}

fn parts(time: SystemTime) -> (String, [u64; 3], u32) {
    // A clock before 1970 is wrong anyway.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let of_day = seconds % 86_400;
    (date(seconds / 86_400), [of_day / 3600, of_day / 60 % 60, of_day % 60], since.subsec_micros())
}

/// Days since 1970-01-01 as a date. Years begin in March, so that the day that is added comes last; 400 years repeat.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_735_689_600, "2025-01-01T00:00:00.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        let stamp = file_stamp(UNIX_EPOCH + Duration::from_micros(1_735_689_600_123_456));
        assert_eq!(stamp, "2025-01-01T00-00-00.123");
        assert!(is_file_stamp(&stamp) && !is_file_stamp("other") && !is_file_stamp("2025-01-01T00:00:00.123"));
    }
}
