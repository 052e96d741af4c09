use super::Pings;
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn the_third_strike_in_a_row_is_one_too_many() {
    let start = Instant::now();
    let mut pings = Pings::new(Duration::from_secs(5));
    let mut at = |seconds: u64, answered: bool| {
        pings.answered |= answered;
        pings.one_too_many(start + Duration::from_secs(seconds))
    };
    // The first one is free, then three that keep their distance, two that do not, and one that follows an answer.
    for (seconds, answered) in [(0, false), (5, false), (10, false), (20, false), (21, false), (22, false), (23, true)]
    {
        assert!(!at(seconds, answered), "{seconds}");
    }
    assert!(!at(24, false));
    assert!(!at(25, false));
    assert!(at(26, false));
}

#[test]
fn without_a_least_time_none_is_too_many() {
    let mut pings = Pings::new(Duration::ZERO);
    assert!((0..100).all(|_| !pings.one_too_many(Instant::now())));
}
