//! The end: what all members say, and the judgement.

use super::{Report, World};
use crate::client::{event, seen};
use crate::determinism::TraceHash;
use crate::history::{Event, Outcome, Seen};
use crate::oracle::{self, LeaseTimes, Ledger, Rule};
use crate::story;
use quorate_core::{KeyRange, RangeRequest, Revision};
use quorate_node::{Node, WatchCreate, WatchMessage};
use std::collections::BTreeMap;
use std::time::Duration;

impl World {
    pub(super) fn judge(mut self) -> Report {
        let left = self.wait_for(0, |node| async move { node.leases().await }).and_then(Result::ok);
        let leases = LeaseTimes {
            share_min: 1.0 / self.plan.rate_max,
            share_max: self.plan.rate_max,
            settled: self.settled,
            read: self.now,
            left: left.map(|answer| answer.body.iter().map(|lease| lease.get()).collect()).unwrap_or_default(),
        };
        let ledger = self.read_ledger();
        let copy = self.backup.lock().take();
        let copy = copy.filter(|_| ledger.newest > 0);
        if let Some(text) = copy.and_then(|copy| super::restored::check(&copy, &self.plan, &ledger).err()) {
            self.violation(Rule::Backup, text);
        }
        let newest = ledger.newest;
        let history = self.history.clone();
        let history = history.lock();
        let mut violations = std::mem::take(&mut self.violations);
        // Without a ledger there is nothing to judge by, and something was said already.
        if newest > 0 {
            violations.extend(oracle::check(&ledger, &history, &leases));
        }
        let answered = history.entries.iter().filter(|entry| entry.outcome != Outcome::Unknown).count();
        let calls = (history.entries.len(), answered);
        let mut hash = TraceHash::default();
        hash.add_u64(self.network.wire_hash());
        for entry in &history.entries {
            hash.add(oracle::show(entry).as_bytes());
            hash.add(format!("{:?}", entry.outcome).as_bytes());
        }
        self.timeline.iter().for_each(|(_, line)| hash.add(line.as_bytes()));
        let story = story::calls(&history);
        let holds = history.holds.len();
        drop(history);
        Report {
            violations,
            hash: hash.value(),
            calls,
            holds,
            revision: newest,
            simulated: self.now,
            timeline: self.timeline,
            story,
        }
    }

    /// The end of the story, from every member; they must agree.
    fn read_ledger(&mut self) -> Ledger {
        let mut ledger = Ledger::default();
        let all = || RangeRequest::new(KeyRange::From { start: "".into() });
        let first = self.wait_for(0, move |node| async move { node.range(all()).await });
        let newest = match first {
            Some(Ok(answer)) => answer.header.revision.get(),
            other => {
                self.violation(
                    Rule::Recovery,
                    format!("m0 cannot be read at the end: {:?}", other.map(|r| r.map(|_| ()))),
                );
                return ledger;
            }
        };
        let mut stories = Vec::new();
        for member in 0..self.machines.len() {
            if let Some(story) = self.wait_for(member, move |node| read_story(node, newest)).and_then(|story| {
                story.map_err(|text| self.violation(Rule::Replicas, format!("m{member}: {text}"))).ok()
            }) {
                stories.push((member, story));
            }
        }
        if let Some((one, story)) = stories.first() {
            for (other, theirs) in &stories[1..] {
                if theirs.hash != story.hash || theirs.hash_compacted != story.hash_compacted {
                    self.violation(Rule::Replicas, format!(
                        "m{one} and m{other} differ at revision {newest}: hash {:08x} (compacted {}) and {:08x} ({})",
                        story.hash, story.hash_compacted, theirs.hash, theirs.hash_compacted
                    ));
                }
            }
        }
        ledger.newest = newest;
        self.compare_tables(&stories);
        let mut lost = None;
        let recorder = self.recorder.lock();
        for (_, event) in &recorder.events {
            ledger.revisions.entry(event.revision()).or_default().push(event.clone());
        }
        if let Some((from, to)) = recorder.gaps.last() {
            lost = Some((*from, *to));
            ledger.compacted = *to;
        }
        drop(recorder);
        if let Some((from, to)) = lost {
            self.violation(Rule::Ledger, format!("the recorder lost revisions {from} to {to} to a compaction"));
        }
        // What the members say counts; where the recorder has it, too, it is checked as a watcher against this.
        for (_, story) in stories.iter().take(1) {
            let mut by_revision: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
            for event in &story.events {
                by_revision.entry(event.revision()).or_default().push(event.clone());
            }
            ledger.revisions.retain(|revision, _| *revision <= story.compacted);
            ledger.revisions.append(&mut by_revision);
            for kv in story.state.iter().filter(|kv| kv.mod_revision <= story.compacted) {
                let known = ledger.revisions.entry(kv.mod_revision).or_default();
                if !known.iter().any(|event| matches!(event, Event::Put(seen) if seen == kv)) {
                    self.violation(Rule::Ledger, format!("{kv:?} is in the state, but no event told of it"));
                    known.push(Event::Put(kv.clone()));
                }
            }
        }
        self.check_hash(&ledger, &stories);
        ledger
    }

    /// What has no revision must be the same on all members, too.
    fn compare_tables(&mut self, stories: &[(usize, Story)]) {
        let Some((one, first)) = stories.first() else { return };
        for (other, story) in &stories[1..] {
            if story.tables != first.tables {
                let text = format!("m{one} and m{other} differ: {} and {}", first.tables, story.tables);
                self.violation(Rule::Replicas, text);
            }
        }
    }

    /// The members' hash is the one of the ledger, too.
    fn check_hash(&mut self, ledger: &Ledger, stories: &[(usize, Story)]) {
        for (member, story) in stories.iter().take(1) {
            let expected = oracle::hash_kv(ledger, story.hash_compacted);
            if expected.is_some_and(|hash| hash != story.hash) {
                let text = format!(
                    "m{member} says hash {:08x} at revision {} (compacted {}), but the ledger has {expected:08x?}",
                    story.hash, ledger.newest, story.hash_compacted
                );
                self.violation(Rule::Replicas, text);
            }
        }
    }
}

/// What one member says at the end.
pub(super) struct Story {
    /// Events after the compacted revision, up to the newest.
    pub events: Vec<Event>,
    pub compacted: i64,
    /// The state at the end.
    pub state: Vec<Seen>,
    hash: u32,
    hash_compacted: i64,
    /// Leases, users, members and alarms, in words.
    tables: String,
}

pub(super) async fn read_story(node: Node, newest: i64) -> Result<Story, String> {
    let compacted = node.status().compacted.get();
    let (control, mut stream) = node.watch_stream();
    control.create(WatchCreate {
        watch_id: 0,
        range: KeyRange::From { start: "".into() },
        start_revision: Revision::new(compacted + 1),
        progress_notify: false,
        no_put: false,
        no_delete: false,
        prev_kv: false,
    });
    let mut events = Vec::new();
    while events.last().map_or(compacted.max(1), Event::revision) < newest {
        match tokio::time::timeout(Duration::from_secs(5), stream.next()).await {
            Ok(Some(WatchMessage::Events { events: seen, .. })) => {
                events.extend(seen.iter().map(|seen| event(&seen.record)));
            }
            Ok(Some(WatchMessage::Created { .. } | WatchMessage::Progress { .. })) => {}
            Ok(Some(WatchMessage::Canceled { .. } | WatchMessage::Refused { .. }) | None) | Err(_) => {
                let last = events.last().map_or(0, Event::revision);
                return Err(format!("a watch from {} ended at {last}, the end is {newest}", compacted + 1));
            }
        }
    }
    // A learner may have come so far only now.
    let all = RangeRequest { serializable: true, ..RangeRequest::new(KeyRange::From { start: "".into() }) };
    let state = node.range(all).await.map_err(|error| error.to_string())?;
    let state = state.body.kvs.iter().map(seen).collect();
    let hash = node.hash_kv(Revision::new(newest)).await.map_err(|error| error.to_string())?.body;
    let members = node.members(false).await.map_err(|error| error.to_string())?.body;
    let auth = node.auth();
    let tables = format!(
        "{} leases, auth {} at {} with {:?}, members {members:?}, alarms {:?}",
        node.lease_count(),
        auth.enabled(),
        auth.revision(),
        auth.users().keys(),
        node.alarms()
    );
    Ok(Story { events, compacted, state, hash: hash.hash, hash_compacted: hash.compact_revision.get(), tables })
}
