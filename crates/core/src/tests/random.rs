//! The state machine against the naive model, with random commands.

use super::model::{Keys, Model};
use super::samples::Samples;
use crate::testing::MemoryView;
use crate::{
    Change, Command, Effects, KeyRange, KeyValue, LeaseId, RangeCursor, RangeRequest, Record, Rev, Revision, View,
    range,
};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use proptest::collection::vec as vec_of;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Run(Command),
    Read(RangeRequest),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let samples = Samples::few();
    let step = prop_oneof![
        12 => samples.command().prop_map(Step::Run),
        4 => samples.range_request().prop_map(Step::Read),
        1 => Just(Step::Restart),
    ];
    vec_of(step, 1..60)
}

/// The state machine, the model, and what follows from the records alone.
struct Pair {
    view: MemoryView,
    model: Model,
    /// What a watcher would know: each live key's last record.
    watched: BTreeMap<Bytes, Record>,
}

impl Pair {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Run(command) => self.run(command),
            Step::Read(request) => self.read(request),
            Step::Restart => {
                let restarted = self.view.restart();
                assert_eq!(restarted, self.view);
                self.view = restarted;
            }
        }
    }

    fn run(&mut self, command: &Command) {
        let before = self.view.revision();
        let expected = self.model.run(command);
        let effects = self.view.run(command).expect("every record that the index names is there");
        assert_eq!(effects.reply, expected, "{command:?}");
        self.check_delta(before, &effects);
        assert_eq!(self.view.revision().get(), self.model.revision());
        assert_eq!(self.view.compacted().get(), self.model.compacted());
        assert_eq!(self.watched_keys(), *self.model.now(), "the records tell the whole story");
        for (&id, &(ttl, left)) in &self.model.leases {
            let lease = self.view.lease(LeaseId::new(id)).expect("a lease that the model has");
            assert_eq!((lease.ttl_seconds, lease.remaining_ttl_seconds), (ttl, left));
        }
    }

    fn check_delta(&mut self, before: Revision, effects: &Effects) {
        assert!(effects.reply.is_ok() || effects.delta.is_empty(), "a rejection changes nothing");
        for (sub, record) in effects.delta.records.iter().enumerate() {
            assert_eq!(record.rev, Rev::new(before.next(), sub as u32), "one revision, counted from 0");
            let old = self.watched.get(&record.key);
            assert_eq!(record.replaces, old.map(|old| old.rev), "{record:?}");
            match &record.change {
                Change::Put { version: 1, create_revision, .. } => {
                    assert_eq!((old, *create_revision), (None, record.rev.main));
                }
                Change::Put { version, create_revision, .. } => {
                    let old = old.and_then(Record::key_value).expect("a key with a history");
                    assert_eq!((old.version + 1, old.create_revision), (*version, *create_revision));
                }
                Change::Delete => assert!(old.is_some(), "only what is there can be deleted"),
            }
            if record.change == Change::Delete {
                self.watched.remove(&record.key);
            } else {
                self.watched.insert(record.key.clone(), record.clone());
            }
        }
    }

    fn watched_keys(&self) -> Keys {
        let live = self.watched.values().filter_map(Record::key_value);
        live.map(|kv| (kv.key.clone(), kv)).collect()
    }

    fn read(&self, request: &RangeRequest) {
        let expected = self.model.range(request);
        assert_eq!(range(&self.view, request), Ok(expected.clone()), "{request:?}");
        if let Ok(expected) = expected
            && request.is_streamable()
        {
            for (keys_max, bytes_max) in [(1, 100), (2, 1), (3, 100)] {
                let (kvs, more, count) = self.stream(request, keys_max, bytes_max);
                assert_eq!((&kvs, more, count), (&expected.kvs, expected.more, expected.count), "{request:?}");
            }
        }
    }

    fn stream(&self, request: &RangeRequest, keys_max: usize, bytes_max: usize) -> (Vec<KeyValue>, bool, i64) {
        let mut cursor = RangeCursor::new(&self.view, request).expect("the range was read before");
        let mut kvs = Vec::new();
        loop {
            let chunk = cursor.next_chunk(&self.view, keys_max, bytes_max).expect("every record is there");
            let chunk = chunk.expect("nothing was compacted");
            assert!(chunk.kvs.len() <= keys_max);
            assert!(chunk.totals.is_some() || !chunk.kvs.is_empty(), "a chunk brings the end nearer");
            kvs.extend(chunk.kvs);
            if let Some(totals) = chunk.totals {
                return (kvs, totals.more, totals.count);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn state_machine_and_model_agree(steps in steps()) {
        let mut pair = Pair { view: MemoryView::new(), model: Model::new(), watched: BTreeMap::new() };
        for step in &steps {
            pair.step(step);
        }
        // Every revision that can still be read has what it had.
        for revision in pair.model.compacted().max(1)..=pair.model.revision() {
            let everything = KeyRange::From { start: Bytes::new() };
            pair.read(&RangeRequest { revision: Revision::new(revision), ..RangeRequest::new(everything) });
        }
    }

    #[test]
    fn after_a_key_comes_the_rest(range in Samples::few().range_request(), key in "[a-d]{1,2}", probe in "[a-d]{1,2}") {
        let rest = range.range.clone().after(key.as_bytes());
        let expected = range.range.contains(probe.as_bytes()) && probe > key;
        prop_assert_eq!(rest.contains(probe.as_bytes()), expected);
    }
}
