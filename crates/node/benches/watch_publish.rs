//! What publishing a change costs the apply thread, with many watchers that do not want it and some that do.

use bytes::Bytes;
use divan::{Bencher, black_box};
use futures::FutureExt;
use quorate_core::{Change, KeyRange, LeaseId, Record, Rev, Revision};
use quorate_node::watch::{History, WatchControl, WatchHub, WatchOptions, WatchStream};
use quorate_node::{Error, WatchCreate, WatchMessage};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

fn main() {
    divan::main();
}

/// Nobody is slow here, so nobody reads history.
struct NoHistory;

impl History for NoHistory {
    fn compacted(&self) -> Revision {
        Revision::ZERO
    }

    fn scan(&self, _: Revision, _: Revision, _: &mut dyn FnMut(Record) -> ControlFlow<()>) -> Result<(), Error> {
        Err(Error::Fatal("a watcher was too slow: the bench does not measure what it says".into()))
    }

    fn previous(&self, _: Rev) -> Result<Option<Record>, Error> {
        Ok(None)
    }
}

struct Bed {
    hub: WatchHub,
    idle: Vec<(WatchControl, WatchStream)>,
    revision: Revision,
}

impl Bed {
    /// A hub with `idle` watchers on a stream each: half on single keys, half on ranges that overlap.
    fn new(idle: usize) -> Self {
        let hub = WatchHub::new(
            Revision::INITIAL,
            Arc::new(NoHistory),
            WatchOptions::default(),
            Arc::new(|_| Duration::ZERO),
        );
        let mut bed = Self { hub, idle: Vec::new(), revision: Revision::INITIAL };
        for number in 0..idle {
            let key = Bytes::from(format!("/idle/{number:06}"));
            let range = if number % 2 == 0 {
                KeyRange::Single(key)
            } else {
                KeyRange::Interval { start: key, end: Bytes::from(format!("/idle/{:06}", number + 100)) }
            };
            let stream = bed.watch(range);
            bed.idle.push(stream);
        }
        bed
    }

    fn watch(&self, range: KeyRange) -> (WatchControl, WatchStream) {
        let (control, mut stream) = self.hub.stream();
        control.create(WatchCreate {
            watch_id: 0,
            range,
            start_revision: Revision::ZERO,
            progress_notify: false,
            no_put: false,
            no_delete: false,
            prev_kv: false,
        });
        assert!(matches!(read(&mut stream), Some(WatchMessage::Created { .. })));
        (control, stream)
    }

    fn publish(&mut self, key: &Bytes) {
        self.revision = self.revision.next();
        let change = Change::Put {
            create_revision: self.revision,
            version: 1,
            lease: LeaseId::NONE,
            value: Bytes::from_static(&[7; 256]),
        };
        let record = Record { rev: Rev::new(self.revision, 0), key: key.clone(), change, replaces: None };
        self.hub.publish(self.revision, black_box(&[record]));
    }
}

fn read(stream: &mut WatchStream) -> Option<WatchMessage> {
    stream.next().now_or_never().flatten()
}

/// Nobody wants the change.
#[divan::bench(args = [0, 1_000, 10_000, 100_000])]
fn idle(bencher: Bencher, watchers: usize) {
    let mut bed = Bed::new(watchers);
    let key = Bytes::from_static(b"/busy/key");
    bencher.bench_local(|| bed.publish(&key));
}

/// One watcher among 10,000 idle ones wants it, and reads it.
#[divan::bench]
fn one_of_10_000(bencher: Bencher) {
    let mut bed = Bed::new(10_000);
    let key = Bytes::from_static(b"/busy/key");
    let (_control, mut stream) = bed.watch(KeyRange::Single(key.clone()));
    bencher.bench_local(|| {
        bed.publish(&key);
        assert!(read(&mut stream).is_some());
    });
}

/// So many streams want it; reading is not counted.
#[divan::bench(args = [10, 100, 1_000])]
fn fan_out(bencher: Bencher, watchers: usize) {
    let mut bed = Bed::new(0);
    let key = Bytes::from_static(b"/busy/key");
    let range = KeyRange::Interval { start: Bytes::from_static(b"/busy/"), end: Bytes::from_static(b"/busy0") };
    let mut streams: Vec<_> = (0..watchers).map(|_| bed.watch(range.clone())).collect();
    let bed = std::cell::RefCell::new(&mut bed);
    bencher
        .with_inputs(|| {
            for (_, stream) in &mut streams {
                while read(stream).is_some() {}
            }
        })
        .bench_local_values(|()| bed.borrow_mut().publish(&key));
}
