//! The checker against a search that knows nothing of revisions' order: Wing and Gong's, with Lowe's cache of what was tried.
//! Thousands of small histories, right ones and such with one fault; both must say the same of each.
//!
//! The search is written here, because what is published for Rust brings more dependencies than it has lines.

use quorate_checker::history::{Entry, Op, Outcome, Seen};
use quorate_checker::register::check;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Keys and their last writes (value, revision); and the newest revision that an answer has said.
type State = (BTreeMap<String, (String, i64)>, i64);

/// The state after `entry`, if it can be next.
fn step(entry: &Entry, unanswered: Option<i64>, (keys, newest): &State) -> Option<State> {
    let (key, write) = match &entry.op {
        Op::Put { key, value } | Op::Cas { key, value, .. } => (key, Some(value)),
        Op::Get { key, .. } => (key, None),
    };
    let now = keys.get(key);
    let modified = now.map_or(0, |(_, revision)| *revision);
    if let Op::Cas { expected, .. } = entry.op {
        let wrote = !matches!(entry.outcome, Outcome::Read { .. });
        if (modified == expected) != wrote {
            return None;
        }
    }
    let at = match &entry.outcome {
        Outcome::Wrote { revision } => *revision,
        Outcome::Unknown => unanswered?,
        Outcome::Read { revision, seen } => {
            let found = seen.as_ref().map(|seen| (seen.value.clone(), seen.mod_revision));
            // Others may have written other keys, so that the revision may be any that is not lower.
            return (found.as_ref() == now && *revision >= *newest).then(|| (keys.clone(), *revision));
        }
    };
    let mut keys = keys.clone();
    keys.insert(key.clone(), (write?.clone(), at));
    (at > *newest).then_some((keys, at))
}

/// Whether the calls can have taken place one after the other, each between its start and its end.
fn is_linearizable(entries: &[Entry]) -> bool {
    // A write without an answer counts if somebody saw it, and then at the revision that he saw.
    let seen_at = |value: &str| {
        entries.iter().find_map(|entry| match &entry.outcome {
            Outcome::Read { seen: Some(seen), .. } if seen.value == value => Some(seen.mod_revision),
            Outcome::Read { .. } | Outcome::Wrote { .. } | Outcome::Unknown => None,
        })
    };
    let calls: Vec<(&Entry, Option<i64>)> = entries
        .iter()
        .filter_map(|entry| match (&entry.op, &entry.outcome) {
            (Op::Put { value, .. } | Op::Cas { value, .. }, Outcome::Unknown) => Some((entry, Some(seen_at(value)?))),
            (Op::Get { .. }, Outcome::Unknown) => None,
            (_, Outcome::Wrote { .. } | Outcome::Read { .. }) => Some((entry, None)),
        })
        .collect();
    let mut tried = BTreeSet::new();
    let mut open = vec![(0u64, (BTreeMap::new(), 0))];
    while let Some((done, state)) = open.pop() {
        if done.count_ones() as usize == calls.len() {
            return true;
        }
        if !tried.insert((done, state.clone())) {
            continue;
        }
        let left = || calls.iter().enumerate().filter(|(place, _)| done & 1 << place == 0);
        let end = |entry: &Entry| if entry.outcome == Outcome::Unknown { Duration::MAX } else { entry.end };
        let first_end = left().map(|(_, (entry, _))| end(entry)).min().unwrap_or(Duration::MAX);
        for (place, (entry, unanswered)) in left().filter(|(_, (entry, _))| entry.start <= first_end) {
            if let Some(next) = step(entry, *unanswered, &state) {
                open.push((done | 1 << place, next));
            }
        }
    }
    false
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A history that a right store has given: the calls take place in the order in which they stand.
fn right_history(random: &mut Random) -> Vec<Entry> {
    let mut keys: BTreeMap<String, Seen> = BTreeMap::new();
    let (mut revision, mut entries) = (1, Vec::new());
    // Keys whose last write nobody was told of. A client cannot ask for what it does not know.
    let mut hidden = BTreeSet::new();
    for number in 0..3 + random.below(7) {
        let key = format!("k{}", random.below(2));
        let present = keys.get(&key).cloned();
        let modified = present.as_ref().map_or(0, |seen| seen.mod_revision);
        let value = format!("v{number}");
        let op = match random.below(4) {
            0 => Op::Put { key: key.clone(), value: value.clone() },
            1 if !hidden.contains(&key) => {
                Op::Cas { key: key.clone(), expected: modified - random.below(2) as i64, value: value.clone() }
            }
            _ => Op::Get { key: key.clone(), serializable: false },
        };
        let writes = match &op {
            Op::Put { .. } => true,
            Op::Cas { expected, .. } => *expected == modified,
            Op::Get { .. } => false,
        };
        let mut outcome = Outcome::Read { revision, seen: present.clone() };
        if writes {
            revision += 1;
            let create_revision = present.as_ref().map_or(revision, |seen| seen.create_revision);
            let version = present.map_or(1, |seen| seen.version + 1);
            keys.insert(key.clone(), Seen { value, create_revision, mod_revision: revision, version });
            outcome = Outcome::Wrote { revision };
        }
        if random.below(5) == 0 {
            outcome = Outcome::Unknown;
        }
        match (&outcome, writes) {
            (Outcome::Unknown, true) => drop(hidden.insert(key)),
            (Outcome::Unknown, false) => {}
            (Outcome::Wrote { .. } | Outcome::Read { .. }, _) => drop(hidden.remove(&key)),
        }
        // It takes place at `number`; a start before and an end after that make it overlap with others.
        let at = number * 10;
        let start = Duration::from_millis(at.saturating_sub(random.below(25)));
        entries.push(Entry { start, end: Duration::from_millis(at + 1 + random.below(25)), op, outcome });
    }
    entries
}

/// One answer is not what it was.
fn spoil(entries: &mut [Entry], random: &mut Random) {
    let place = random.below(entries.len() as u64) as usize;
    let other = entries[random.below(entries.len() as u64) as usize].outcome.clone();
    match (&mut entries[place].outcome, random.below(3)) {
        (Outcome::Wrote { revision } | Outcome::Read { revision, .. }, 0) => *revision += 1,
        (Outcome::Wrote { revision } | Outcome::Read { revision, .. }, 1) => *revision -= 1,
        (Outcome::Read { seen, .. }, _) => {
            if let Outcome::Read { seen: found, .. } = other {
                *seen = found;
            }
        }
        (Outcome::Wrote { .. } | Outcome::Unknown, _) => {}
    }
}

#[test]
fn both_take_what_is_right() {
    let mut random = Random(1);
    for _ in 0..2000 {
        let history = right_history(&mut random);
        assert_eq!(check(&history), [""; 0], "{history:#?}");
        assert!(is_linearizable(&history), "{history:#?}");
    }
}

#[test]
fn both_say_the_same_of_what_was_spoiled() {
    let mut random = Random(2);
    let mut wrong = 0;
    for _ in 0..6000 {
        let mut history = right_history(&mut random);
        spoil(&mut history, &mut random);
        let (found, searched) = (check(&history), is_linearizable(&history));
        assert_eq!(found.is_empty(), searched, "{found:#?}\n{history:#?}");
        wrong += usize::from(!searched);
    }
    assert!(wrong > 1000, "only {wrong} histories were spoiled enough to show it");
}
