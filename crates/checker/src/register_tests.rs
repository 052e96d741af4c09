//! Histories as text, one call a line: `start end call -> outcome`. The checker must take the good ones and name the
//! fault of each bad one.

use super::*;
use std::time::Duration;

/// Reads a history. Calls: `put k=v`, `cas k@expected=v`, `get k`, `sget k`. Outcomes: `@revision` for a write,
/// `none @revision` or `v mod=M ver=V new=C @revision` for a read, `?` for none.
fn history(text: &str) -> Vec<Entry> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| entry(line).unwrap_or_else(|| panic!("cannot read `{line}`"))).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let (call, outcome) = line.split_once(" -> ")?;
    let words: Vec<&str> = call.split_whitespace().collect();
    let [start, end, name, argument] = words[..] else { return None };
    let op = match (name, argument.split_once('=')) {
        ("put", Some((key, value))) => Op::Put { key: key.into(), value: value.into() },
        ("cas", Some((condition, value))) => {
            let (key, expected) = condition.split_once('@')?;
            Op::Cas { key: key.into(), expected: expected.parse().ok()?, value: value.into() }
        }
        ("get" | "sget", None) => Op::Get { key: argument.into(), serializable: name == "sget" },
        _ => return None,
    };
    let ms = |text: &str| text.parse().ok().map(Duration::from_millis);
    Some(Entry { start: ms(start)?, end: ms(end)?, op, outcome: read_outcome(outcome)? })
}

fn read_outcome(text: &str) -> Option<Outcome> {
    if text == "?" {
        return Some(Outcome::Unknown);
    }
    let (what, revision) = text.split_once('@')?;
    let revision = revision.parse().ok()?;
    let words: Vec<&str> = what.split_whitespace().collect();
    match words[..] {
        [] => Some(Outcome::Wrote { revision }),
        ["none"] => Some(Outcome::Read { revision, seen: None }),
        [value, at, version, create] => {
            let seen = Seen {
                value: value.into(),
                mod_revision: at.strip_prefix("mod=")?.parse().ok()?,
                version: version.strip_prefix("ver=")?.parse().ok()?,
                create_revision: create.strip_prefix("new=")?.parse().ok()?,
            };
            Some(Outcome::Read { revision, seen: Some(seen) })
        }
        _ => None,
    }
}

fn good(text: &str) {
    assert_eq!(check(&history(text)), [""; 0]);
}

fn bad(text: &str, fault: &str) {
    let violations = check(&history(text));
    assert!(violations.iter().any(|violation| violation.contains(fault)), "no `{fault}` in {violations:#?}");
}

#[test]
fn calls_one_after_another() {
    good(
        "
        0 1 get a -> none @1
        2 3 put a=x -> @2
        4 5 get a -> x mod=2 ver=1 new=2 @2
        6 7 cas a@2=y -> @3
        8 9 cas a@2=z -> y mod=3 ver=2 new=2 @3
        10 11 put b=u -> @4
        12 13 get a -> y mod=3 ver=2 new=2 @4
    ",
    );
}

#[test]
fn calls_at_the_same_time_may_take_either_order() {
    good(
        "
        0 10 put a=x -> @3
        0 10 put a=y -> @2
        0 10 get a -> none @1
        0 10 get a -> y mod=2 ver=1 new=2 @2
        11 12 get a -> x mod=3 ver=2 new=2 @3
    ",
    );
}

#[test]
fn one_revision_for_two_writes() {
    bad(
        "
        0 1 put a=x -> @2
        2 3 put b=y -> @2
    ",
        "given to two writes",
    );
}

#[test]
fn a_lost_write() {
    bad(
        "
        0 1 put a=x -> @2
        2 3 get a -> none @2
    ",
        "lost the write at 2",
    );
    bad(
        "
        0 1 put a=x -> @2
        2 3 put a=y -> @3
        4 5 get a -> x mod=2 ver=1 new=2 @3
    ",
        "stale",
    );
}

#[test]
fn a_stale_read_from_an_old_leader() {
    bad(
        "
        0 1 put a=x -> @2
        2 3 put a=y -> @3
        4 5 get a -> x mod=2 ver=1 new=2 @2
    ",
        "had been answered before it started",
    );
}

#[test]
fn a_stale_read_is_fine_if_it_is_serializable_and_true_to_its_revision() {
    good(
        "
        0 1 put a=x -> @2
        2 3 put a=y -> @3
        4 5 sget a -> x mod=2 ver=1 new=2 @2
        6 7 get a -> y mod=3 ver=2 new=2 @3
    ",
    );
    bad(
        "
        0 1 put a=x -> @2
        2 3 put a=y -> @3
        4 5 sget a -> x mod=2 ver=1 new=2 @3
    ",
        "stale",
    );
}

#[test]
fn a_revision_that_goes_back() {
    bad(
        "
        0 1 put a=x -> @5
        2 3 put b=y -> @4
    ",
        "had been answered before it started",
    );
    bad(
        "
        0 1 get a -> none @5
        2 3 put b=y -> @5
    ",
        "had been answered before it started",
    );
}

#[test]
fn a_read_of_the_future() {
    bad(
        "
        0 1 get a -> x mod=2 ver=1 new=2 @2
        2 3 put a=x -> @2
    ",
        "had been answered before it started",
    );
    bad(
        "
        0 9 put a=x -> @3
        0 9 get a -> x mod=3 ver=1 new=3 @2
    ",
        "found the later revision",
    );
}

#[test]
fn a_value_that_nobody_wrote() {
    bad("0 1 get a -> x mod=2 ver=1 new=2 @2", "which nobody wrote");
    bad(
        "
        0 1 put a=x -> @2
        2 3 get a -> y mod=2 ver=1 new=2 @2
    ",
        "where x was written",
    );
}

#[test]
fn a_value_of_another_key() {
    bad(
        "
        0 1 put a=x -> @2
        2 3 get b -> x mod=2 ver=1 new=2 @2
    ",
        "which nobody wrote",
    );
    bad(
        "
        0 1 put a=x -> ?
        2 3 get b -> x mod=2 ver=1 new=2 @2
    ",
        "which nobody wrote",
    );
}

#[test]
fn a_write_without_an_answer_may_have_happened_or_not() {
    good(
        "
        0 1 put a=x -> ?
        2 3 get a -> none @1
    ",
    );
    good(
        "
        0 1 put a=x -> ?
        2 3 get a -> none @1
        4 5 get a -> x mod=2 ver=1 new=2 @2
    ",
    );
    bad(
        "
        0 1 put a=x -> ?
        2 3 get a -> x mod=2 ver=1 new=2 @2
        4 5 get a -> none @2
    ",
        "lost the write at 2",
    );
}

#[test]
fn a_write_without_an_answer_happens_once_and_not_before_it_was_sent() {
    bad(
        "
        0 1 put a=x -> ?
        2 3 put a=y -> @3
        2 9 get a -> x mod=2 ver=1 new=2 @2
        5 9 get a -> x mod=4 ver=3 new=2 @4
    ",
        "was seen at revisions",
    );
    bad(
        "
        0 1 get b -> none @5
        2 3 put a=x -> ?
        2 9 get a -> x mod=4 ver=1 new=4 @5
    ",
        "had been answered before it started",
    );
    bad(
        "
        0 1 put b=y -> @2
        2 3 put a=x -> ?
        4 5 get a -> x mod=2 ver=1 new=2 @2
    ",
        "given to two writes",
    );
}

#[test]
fn a_compare_and_set_that_should_have_failed() {
    bad(
        "
        0 1 put a=x -> @2
        2 3 put a=y -> @3
        4 5 cas a@2=z -> @4
    ",
        "the write before it was at 3",
    );
    bad(
        "
        0 9 cas a@0=x -> @2
        0 9 cas a@0=y -> @3
    ",
        "the write before it was at 2",
    );
}

#[test]
fn a_compare_and_set_without_an_answer_is_held_to_its_condition_too() {
    bad(
        "
        0 1 put a=x -> @2
        2 3 put a=y -> @3
        4 5 cas a@2=z -> ?
        6 7 get a -> z mod=4 ver=3 new=2 @4
    ",
        "the write before it was at 3",
    );
}

#[test]
fn a_compare_and_set_that_should_have_succeeded() {
    bad(
        "
        0 1 put a=x -> @2
        2 3 cas a@2=y -> x mod=2 ver=1 new=2 @2
    ",
        "although its condition held",
    );
    bad(
        "
        0 1 cas a@0=y -> none @1
    ",
        "although its condition held",
    );
}

#[test]
fn counts_that_do_not_fit_the_writes() {
    bad(
        "
        0 1 put a=x -> @2
        2 3 put a=y -> @3
        4 5 get a -> y mod=3 ver=1 new=2 @3
    ",
        "but 2 are known",
    );
    bad(
        "
        0 1 put a=x -> @2
        2 3 get a -> x mod=2 ver=1 new=2 @2
        4 5 get a -> x mod=2 ver=2 new=2 @2
    ",
        "another version or creation",
    );
    bad(
        "
        0 1 put a=x -> @2
        2 3 get a -> x mod=2 ver=1 new=2 @2
        4 5 put a=y -> @3
        6 7 get a -> y mod=3 ver=2 new=3 @3
    ",
        "says it was created at 3",
    );
}

#[test]
fn an_outcome_of_another_kind() {
    bad("0 1 get a -> @2", "not its own");
}

#[test]
#[should_panic(expected = "checks nothing")]
fn a_history_without_answers_proves_nothing() {
    assert_linearizable(&history("0 1 put a=x -> ?"), 1, 0);
}
