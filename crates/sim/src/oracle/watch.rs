//! Rule 6: what watchers saw.

use super::Oracle;
use crate::history::{Event, Watched};

impl Oracle<'_> {
    /// `compacted` is the highest revision that anybody asked to compact.
    pub(super) fn check_watcher(&mut self, watched: &Watched, compacted: i64) {
        let name = &watched.name;
        for text in &watched.violations {
            self.violation(format!("{name}: {text}"));
        }
        self.check_before(watched, compacted);
        let ledger = self.ledger;
        let known = |revision: i64| revision > ledger.compacted && !in_gap(watched, revision);
        let seen: Vec<&Event> = watched.events.iter().map(|(_, event)| event).collect();
        let last = seen.last().map_or(0, |event| event.revision());
        let promised = last.max(watched.complete_to);
        let wanted = |event: &Event| match event {
            Event::Put(_) => !watched.no_put,
            Event::Delete { .. } => !watched.no_delete,
        };
        let expected: Vec<&Event> = ledger
            .revisions
            .range(watched.from..)
            .take_while(|(revision, _)| **revision <= promised)
            .filter(|(revision, _)| known(**revision))
            .flat_map(|(_, events)| events)
            .filter(|event| watched.span.contains(event.key()) && wanted(event))
            .collect();
        let seen: Vec<&Event> = seen.into_iter().filter(|event| known(event.revision())).collect();
        if let Some(place) = (0..seen.len().max(expected.len())).find(|i| seen.get(*i) != expected.get(*i)) {
            self.violation(format!(
                "{name}: event {place} is {:?}, but must be {:?} (promised up to {promised})",
                seen.get(place),
                expected.get(place)
            ));
        }
    }

    /// What was there before is what was there before. It may be left out only of what could be compacted.
    fn check_before(&mut self, watched: &Watched, compacted: i64) {
        for (key, revision, before) in &watched.before {
            if !self.is_known(revision - 1) {
                continue;
            }
            let expected = self.at(key, revision - 1);
            let left_out = before.is_none() && *revision <= compacted;
            if before.as_ref() != expected && !left_out {
                let name = &watched.name;
                let text =
                    format!("{name}: {key} at {revision} came with {before:?} before it, but that is {expected:?}");
                self.violation(text);
            }
        }
    }
}

fn in_gap(watched: &Watched, revision: i64) -> bool {
    watched.gaps.iter().any(|(from, to)| revision >= *from && revision <= *to)
}
