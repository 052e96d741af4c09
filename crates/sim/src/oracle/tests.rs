//! The oracle against histories that are right, and against one for each thing that can be wrong with them.

use super::*;
use crate::history::{Condition, Field, Outcome, Renewal, Step, StepAnswer, Transaction, Watched};
use parking_lot::Mutex;
use std::sync::Arc;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn kv(key: &str, value: &str, create: i64, modified: i64, version: i64) -> Seen {
    Seen { key: key.into(), value: value.into(), create_revision: create, mod_revision: modified, version, lease: 0 }
}

/// a=1 at 2, b=1 at 3, a=2 at 4, {a=3, b=2} at 5, a deleted at 6.
fn ledger() -> Ledger {
    let events = [
        vec![Event::Put(kv("a", "1", 2, 2, 1))],
        vec![Event::Put(kv("b", "2", 3, 3, 1))],
        vec![Event::Put(kv("a", "3", 2, 4, 2))],
        vec![Event::Put(kv("a", "4", 2, 5, 3)), Event::Put(kv("b", "5", 3, 5, 2))],
        vec![Event::Delete { key: "a".into(), revision: 6 }],
    ];
    Ledger { revisions: (2..).zip(events).collect(), compacted: 0, newest: 6 }
}

fn call(start: u64, end: u64, op: Op, outcome: Outcome) -> Entry {
    Entry { client: 1, member: 0, start: at(start), end: at(end), op, outcome }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: 0 }
}

fn get(key: &str) -> Op {
    Op::Get { span: Span::key(key), serializable: false, revision: 0 }
}

fn done(revision: i64) -> Outcome {
    Outcome::Done { revision, deleted: 0 }
}

fn read(revision: i64, kvs: &[Seen]) -> Outcome {
    Outcome::Read { revision, kvs: kvs.to_vec() }
}

/// The calls that made the ledger, one after the other, with reads between.
fn history() -> History {
    let swap = |parts: &[(&str, i64, &str)]| Op::Swap {
        parts: parts.iter().map(|(key, expected, value)| ((*key).into(), *expected, (*value).into())).collect(),
    };
    let entries = vec![
        call(0, 10, put("a", "1"), done(2)),
        call(11, 20, put("b", "2"), done(3)),
        call(21, 30, get("a"), read(3, &[kv("a", "1", 2, 2, 1)])),
        call(31, 40, put("a", "3"), Outcome::Unknown),
        call(41, 50, swap(&[("a", 4, "4"), ("b", 3, "5")]), done(5)),
        call(51, 60, swap(&[("a", 4, "6")]), read(5, &[kv("a", "4", 2, 5, 3)])),
        call(61, 70, Op::Delete { span: Span::key("a") }, Outcome::Done { revision: 6, deleted: 1 }),
        call(71, 80, get("a"), read(6, &[])),
        call(81, 90, put("a", "7"), Outcome::Refused("no".into())),
    ];
    let watched = Watched {
        name: "w".into(),
        span: Span::key("a"),
        from: 1,
        events: ledger()
            .revisions
            .values()
            .flatten()
            .filter(|event| event.key() == "a")
            .map(|event| (at(100), event.clone()))
            .collect(),
        complete_to: 6,
        ..Watched::default()
    };
    History { entries, watched: vec![Arc::new(Mutex::new(watched))], ..History::default() }
}

/// Clocks that run right, and an end that nobody waits for.
fn times() -> LeaseTimes {
    LeaseTimes { share_min: 1.0, share_max: 1.0, settled: Duration::ZERO, read: Duration::ZERO, left: Vec::new() }
}

fn first(ledger: &Ledger, history: &History) -> String {
    check(ledger, history, &times()).into_iter().next().unwrap_or_else(|| "nothing".into())
}

#[track_caller]
fn expect(part: &str, ledger: &Ledger, history: &History) {
    let all = check(ledger, history, &times());
    assert!(all.iter().any(|violation| violation.contains(part)), "expected {part:?}, found {all:#?}");
}

#[test]
fn a_right_history_is_accepted() {
    assert_eq!(first(&ledger(), &history()), "nothing");
}

#[test]
fn an_acknowledged_write_that_is_not_there_is_found() {
    let mut history = history();
    history.entries[0].outcome = done(7);
    expect("LOST", &ledger(), &history);
}

#[test]
fn an_acknowledged_write_of_something_else_is_found() {
    let mut ledger = ledger();
    ledger.revisions.insert(3, vec![Event::Put(kv("b", "other", 3, 3, 1))]);
    expect("LOST", &ledger, &history());
    expect("was never written by anybody", &ledger, &history());
}

#[test]
fn half_a_transaction_is_found() {
    let mut ledger = ledger();
    ledger.revisions.insert(5, vec![Event::Put(kv("a", "4", 2, 5, 3))]);
    expect("LOST", &ledger, &history());
    let mut history = history();
    history.entries[4].outcome = Outcome::Unknown;
    expect("happened in part", &ledger, &history);
}

#[test]
fn a_write_that_happened_twice_is_found() {
    let mut ledger = ledger();
    ledger.revisions.insert(7, vec![Event::Put(kv("b", "2", 3, 7, 3))]);
    ledger.newest = 7;
    expect("and again at 7", &ledger, &history());
}

#[test]
fn a_refused_write_that_happened_is_found() {
    let mut ledger = ledger();
    ledger.revisions.insert(7, vec![Event::Put(kv("a", "7", 7, 7, 1))]);
    ledger.newest = 7;
    expect("was refused", &ledger, &history());
}

#[test]
fn a_stale_read_is_found() {
    let mut stale = history();
    stale.entries[2].outcome = read(2, &[kv("a", "1", 2, 2, 1)]);
    expect("had been answered before it started", &ledger(), &stale);
    let mut wrong = history();
    wrong.entries[2].outcome = read(3, &[]);
    expect("but the state is", &ledger(), &wrong);
}

#[test]
fn a_serializable_read_may_be_old_but_not_wrong() {
    let serializable = Op::Get { span: Span::key("a"), serializable: true, revision: 0 };
    let mut old = history();
    old.entries.push(call(91, 99, serializable.clone(), read(2, &[kv("a", "1", 2, 2, 1)])));
    assert_eq!(first(&ledger(), &old), "nothing");
    let mut wrong = history();
    wrong.entries.push(call(91, 99, serializable, read(2, &[])));
    expect("but the state is", &ledger(), &wrong);
}

#[test]
fn a_write_before_what_was_answered_is_found() {
    let mut history = history();
    history.entries[3].start = at(95);
    history.entries[3].end = at(96);
    expect("had been answered before it started", &ledger(), &history);
}

#[test]
fn a_condition_that_did_not_hold_is_found() {
    let mut history = history();
    let Op::Swap { parts } = &mut history.entries[4].op else { unreachable!() };
    parts[0].1 = 2;
    expect("its condition did not hold", &ledger(), &history);
}

#[test]
fn a_condition_that_held_and_did_not_write_is_found() {
    let mut history = history();
    let Op::Swap { parts } = &mut history.entries[5].op else { unreachable!() };
    parts[0].1 = 5;
    expect("but its condition held", &ledger(), &history);
}

#[test]
fn a_delete_that_miscounts_is_found() {
    let mut history = history();
    history.entries[6].outcome = Outcome::Done { revision: 6, deleted: 2 };
    expect("deleted 2 keys", &ledger(), &history);
}

#[test]
fn a_hole_and_a_wrong_version_in_the_ledger_are_found() {
    let mut hole = ledger();
    hole.revisions.remove(&3);
    expect("revision 3 of 6 has no events", &hole, &history());
    let mut version = ledger();
    version.revisions.insert(4, vec![Event::Put(kv("a", "3", 2, 4, 3))]);
    expect("says create 2 version 3", &version, &history());
}

#[test]
fn a_watcher_that_misses_doubles_or_reorders_is_found() {
    let change = |act: fn(&mut Vec<(Duration, Event)>)| {
        let history = history();
        act(&mut history.watched[0].lock().events);
        history
    };
    expect("w: event 1", &ledger(), &change(|events| drop(events.remove(1))));
    expect("w: event 1", &ledger(), &change(|events| events.insert(0, events[0].clone())));
    expect("w: event 0", &ledger(), &change(|events| events.swap(0, 1)));
    // The last one is missing although progress promised that it had come.
    expect("w: event 3", &ledger(), &change(|events| drop(events.pop())));
}

#[test]
fn a_watcher_that_has_not_been_told_everything_yet_is_right() {
    let history = history();
    let mut watched = history.watched[0].lock();
    watched.events.pop();
    watched.complete_to = 5;
    drop(watched);
    assert_eq!(first(&ledger(), &history), "nothing");
}

#[test]
fn a_lease_that_ends_early_is_found() {
    let mut ledger = ledger();
    let leased = Seen { lease: 9, ..kv("l", "8", 7, 7, 1) };
    ledger.revisions.insert(7, vec![Event::Put(leased)]);
    ledger.revisions.insert(8, vec![Event::Delete { key: "l".into(), revision: 8 }]);
    ledger.newest = 8;
    let mut history = history();
    let op = Op::Put { key: "l".into(), value: "8".into(), lease: 9 };
    history.entries.push(call(100, 110, op, done(7)));
    history.renewals.push(renewal(9, 100));
    let watch = |when: u64| {
        let events = ledger.revisions.range(7..).flat_map(|(_, events)| events).cloned();
        let events = events.map(|event| (at(when), event)).collect();
        let (name, span) = ("l".into(), Span::key("l"));
        Arc::new(Mutex::new(Watched { name, span, from: 7, events, complete_to: 8, ..Watched::default() }))
    };
    history.watched.push(watch(2200));
    assert_eq!(first(&ledger, &history), "nothing");
    history.watched.push(watch(2000));
    expect("lease 9 ended before", &ledger, &history);
    // A clock that runs fast may end it a little earlier by the world's.
    assert_eq!(check(&ledger, &history, &LeaseTimes { share_min: 0.9, ..times() }), Vec::<String>::new());
}

fn renewal(lease: i64, start: u64) -> Renewal {
    Renewal { lease, ttl_seconds: 2, start: at(start), end: at(start + 10), acknowledged: true }
}

#[test]
fn a_lease_that_does_not_end_is_found() {
    let mut history = history();
    history.renewals.push(renewal(9, 100));
    let end = |read: u64| LeaseTimes { read: at(read), left: vec![9], ..times() };
    assert_eq!(check(&ledger(), &history, &end(4000)), Vec::<String>::new());
    let found = check(&ledger(), &history, &end(5000));
    assert!(found.iter().any(|text| text.starts_with("lease: lease 9 was due")), "{found:?}");
}

#[test]
fn a_key_that_nobody_deleted_is_missed() {
    let mut history = history();
    history.entries.remove(6);
    expect("a went at 6, but nobody deleted it", &ledger(), &history);
}

#[test]
fn a_lease_that_leaves_a_key_behind_is_found() {
    let mut ledger = ledger();
    let on = |key: &str, value: &str, at: i64| Event::Put(Seen { lease: 9, ..kv(key, value, at, at, 1) });
    ledger.revisions.insert(7, vec![on("x", "8", 7)]);
    ledger.revisions.insert(8, vec![on("y", "9", 8)]);
    ledger.revisions.insert(9, vec![Event::Delete { key: "x".into(), revision: 9 }]);
    ledger.newest = 9;
    let mut history = history();
    for (key, value, revision) in [("x", "8", 7), ("y", "9", 8)] {
        let op = Op::Put { key: key.into(), value: value.into(), lease: 9 };
        history.entries.push(call(100, 110, op, done(revision)));
    }
    expect("x went with lease 9 at 9, but [\"y\"] did not", &ledger, &history);
}

/// If `a` was last written at 4: `a` = 4 and `b` = 5, and a read of both.
fn transaction() -> Transaction {
    let put = |key: &str, value: &str| Step::Put { key: key.into(), value: Some(value.into()), lease: Some(0) };
    Transaction {
        conditions: vec![Condition { key: "a".into(), field: Field::Mod(4) }],
        success: vec![put("a", "4"), put("b", "5"), Step::Get(Span { from: "a".into(), until: Some("c".into()) })],
        failure: vec![Step::Get(Span::key("a"))],
    }
}

fn with_transaction(succeeded: bool, revision: i64, answers: Vec<StepAnswer>) -> History {
    let mut history = history();
    history.entries[4] = call(41, 50, Op::Txn(transaction()), Outcome::Txn { revision, succeeded, answers });
    history
}

fn right_answers() -> Vec<StepAnswer> {
    vec![
        StepAnswer::Put(Some(kv("a", "3", 2, 4, 2))),
        StepAnswer::Put(Some(kv("b", "2", 3, 3, 1))),
        StepAnswer::Got(vec![kv("a", "4", 2, 5, 3), kv("b", "5", 3, 5, 2)]),
    ]
}

#[test]
fn a_transaction_is_what_the_model_says() {
    assert_eq!(first(&ledger(), &with_transaction(true, 5, right_answers())), "nothing");
    let mut blind = right_answers();
    blind[2] = StepAnswer::Got(vec![kv("a", "3", 2, 4, 2), kv("b", "2", 3, 3, 1)]);
    expect("but must answer", &ledger(), &with_transaction(true, 5, blind));
    let mut nothing_before = right_answers();
    nothing_before[0] = StepAnswer::Put(None);
    expect("but must answer", &ledger(), &with_transaction(true, 5, nothing_before));
    let other_list = vec![StepAnswer::Got(vec![kv("a", "4", 2, 5, 3)])];
    expect("but must answer", &ledger(), &with_transaction(true, 5, other_list));
    let mut half = ledger();
    half.revisions.insert(5, vec![Event::Put(kv("a", "4", 2, 5, 3))]);
    expect("LOST", &half, &with_transaction(true, 5, right_answers()));
}

#[test]
fn a_page_that_ends_too_early_is_found() {
    let page = |kvs: &[Seen], more: bool, count: i64| {
        let mut history = history();
        let span = Span { from: "a".into(), until: Some("c".into()) };
        let op = Op::Page { span, limit: 1, revision: 5, count_only: false };
        history.entries.push(call(91, 99, op, Outcome::Page { revision: 6, kvs: kvs.to_vec(), more, count }));
        history
    };
    let first_one = [kv("a", "4", 2, 5, 3)];
    assert_eq!(first(&ledger(), &page(&first_one, true, 2)), "nothing");
    expect("but it is", &ledger(), &page(&first_one, false, 2));
    expect("but it is", &ledger(), &page(&first_one, true, 1));
    expect("but it is", &ledger(), &page(&[], true, 2));
}

#[test]
fn a_read_of_what_was_compacted_is_found_and_so_is_a_refusal_without_cause() {
    let compact = |revision: i64| call(91, 92, Op::Compact { revision }, done(6));
    let get = |revision: i64, outcome: Outcome| {
        call(93, 99, Op::Get { span: Span::key("a"), serializable: false, revision }, outcome)
    };
    let mut answered = history();
    answered.entries.extend([compact(4), get(3, read(6, &[kv("a", "1", 2, 2, 1)]))]);
    expect("was compacted before", &ledger(), &answered);
    let mut refused = history();
    refused.entries.extend([compact(4), get(4, Outcome::Refused("has been compacted".into()))]);
    expect("but only 4 was compacted", &ledger(), &refused);
    let mut right = history();
    right.entries.extend([compact(4), get(3, Outcome::Refused("has been compacted".into()))]);
    assert_eq!(first(&ledger(), &right), "nothing");
}

#[test]
fn what_was_there_before_an_event_is_looked_at() {
    let with = |before: Option<Seen>, compacted: i64| {
        let mut history = history();
        history.watched[0].lock().before.push(("a".into(), 4, before));
        if compacted > 0 {
            history.entries.push(call(91, 92, Op::Compact { revision: compacted }, done(6)));
        }
        history
    };
    assert_eq!(first(&ledger(), &with(Some(kv("a", "1", 2, 2, 1)), 0)), "nothing");
    assert_eq!(first(&ledger(), &with(None, 4)), "nothing");
    expect("a at 4 came with None before it", &ledger(), &with(None, 0));
    expect("a at 4 came with", &ledger(), &with(Some(kv("a", "3", 2, 4, 2)), 4));
}

#[test]
fn filters_leave_out_what_they_say() {
    let history = history();
    history.watched[0].lock().no_put = true;
    expect("w: event 0", &ledger(), &history);
    history.watched[0].lock().events.retain(|(_, event)| matches!(event, Event::Delete { .. }));
    assert_eq!(first(&ledger(), &history), "nothing");
}

#[test]
fn money_that_is_made_is_found() {
    let mut ledger = Ledger::default();
    let account = |place: usize, balance: i64, mark: &str, at: i64| {
        Event::Put(kv(&format!("b{place}"), &format!("{balance} {mark}{place}"), 2, at, at - 1))
    };
    ledger.revisions.insert(2, (0..ACCOUNTS).map(|place| account(place, 100, "m", 2)).collect());
    ledger.newest = 2;
    let oracle = |ledger: &Ledger| {
        let mut oracle = Oracle::new(ledger, &[]);
        oracle.check_accounts();
        oracle.violations
    };
    assert_eq!(oracle(&ledger), Vec::<String>::new());
    ledger.revisions.insert(3, vec![account(0, 90, "n", 3), account(1, 111, "n", 3)]);
    assert_eq!(oracle(&ledger).len(), 1);
}

#[test]
fn the_hash_covers_what_compaction_leaves() {
    let whole = hash_kv(&ledger(), 0).unwrap();
    let mut other = ledger();
    other.revisions.insert(4, vec![Event::Put(kv("a", "other", 2, 4, 2))]);
    assert_ne!(hash_kv(&other, 0).unwrap(), whole);
    // What compaction has taken does not count any more: a was deleted, of b the last value is left.
    assert_eq!(hash_kv(&other, 6), hash_kv(&ledger(), 6));
    assert_ne!(hash_kv(&ledger(), 6), hash_kv(&ledger(), 0));
}

#[test]
fn whoever_writes_as_the_leader_has_stood_for_longest() {
    let candidate = |key: &str, at: i64| vec![Event::Put(kv(key, &format!("mark {at}"), at, at, 1))];
    let fenced = |by: &str, at: i64, version: i64| vec![Event::Put(kv("f0", &format!("c1.{at} {by}"), 4, at, version))];
    let gone = |key: &str, at: i64| vec![Event::Delete { key: key.into(), revision: at }];
    let found = |last: Vec<Event>| {
        let events =
            [candidate("e/2", 2), candidate("e/1", 3), fenced("e/2", 4, 1), gone("e/2", 5), fenced("e/1", 6, 2), last];
        let ledger = Ledger { revisions: (2..).zip(events).collect(), compacted: 0, newest: 7 };
        let mut oracle = Oracle::new(&ledger, &[]);
        oracle.check_elections();
        oracle.violations
    };
    assert_eq!(found(fenced("e/1", 7, 3)), [""; 0]);
    assert_eq!(found(fenced("e/2", 7, 3)).len(), 1, "its key is gone");
    assert_eq!(found(candidate("e/3", 7)), [""; 0]);
}
