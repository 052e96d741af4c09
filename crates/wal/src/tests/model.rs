//! A naive log of several groups, to compare the real one with, through restarts and power cuts.
//!
//! The model keeps its state after every record since the last one that is known to be durable. After a crash the real
//! log must be in one of these states: nothing acknowledged is lost, nothing is torn, and the order holds over all groups.

use super::{DIR, Running, open, settle};
use crate::fault::FaultDisk;
use crate::{Completion, LogEntry, WalError, WalOptions};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const GROUPS: u32 = 3;

/// One step of a test. Numbers are reduced to what makes sense in the state at hand.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Append {
        group: u32,
        entries: u8,
        body_bytes: u16,
    },
    Truncate {
        group: u32,
        back: u64,
    },
    /// Purges so many entries; more than there are is what a snapshot does.
    Purge {
        group: u32,
        ahead: u64,
    },
    Vote {
        group: u32,
    },
    Committed {
        group: u32,
    },
    /// Reads a part of a group's log.
    Read {
        group: u32,
        skip: u64,
        len: u64,
        bytes_max: u64,
    },
    /// Lets the tasks work.
    Settle,
    /// Closes in good order and opens again.
    Reopen,
    /// Ends the process and starts it again.
    Kill,
    PowerCut {
        seed: u64,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Naive {
    vote: Option<Bytes>,
    purged: Option<(u64, u64)>,
    entries: BTreeMap<u64, (u64, Bytes)>,
}

impl Naive {
    fn last(&self) -> Option<(u64, u64)> {
        self.entries.last_key_value().map(|(&index, &(term, _))| (term, index)).or(self.purged)
    }
}

type World = BTreeMap<u32, Naive>;

pub(super) struct Model {
    now: World,
    /// The states since the last one known to be durable, each with the number of the record that led to it.
    history: VecDeque<(u64, World)>,
    records: u64,
    /// The newest record that was acknowledged.
    acknowledged: Arc<AtomicU64>,
    /// All committed positions of each group since it was last known for sure, the newest last.
    committed: BTreeMap<u32, Vec<Option<Bytes>>>,
}

/// The model, the log, and the disk.
pub(super) struct Pair {
    pub disk: FaultDisk,
    pub options: WalOptions,
    log: Running,
    model: Model,
    /// Goes into bodies, so that no two entries are equal.
    counter: u64,
}

impl Pair {
    pub fn new(disk: FaultDisk, options: WalOptions) -> Result<Pair, WalError> {
        let log = open(&disk, &options)?;
        let now: World = (0..GROUPS).map(|group| (group, Naive::default())).collect();
        let model = Model {
            history: VecDeque::from([(0, now.clone())]),
            now,
            records: 0,
            acknowledged: Arc::default(),
            committed: (0..GROUPS).map(|group| (group, vec![None])).collect(),
        };
        Ok(Pair { disk, options, log, model, counter: 0 })
    }

    /// Does one step on both sides; an error is the log's, which has then stopped.
    pub async fn step(&mut self, step: &Step) -> Result<(), WalError> {
        match *step {
            Step::Append { group, entries, body_bytes } => self.append(group, entries, body_bytes).await?,
            Step::Truncate { group, back } => {
                let last = self.model.now[&group].last().map(|(_, index)| index);
                let keep = last.and_then(|last| last.checked_sub(back));
                self.log.wal.group(group).truncate_after(keep)?;
                self.record(group, |naive| naive.entries.retain(|&index, _| keep.is_some_and(|keep| index <= keep)));
            }
            Step::Purge { group, ahead } => {
                let naive = &self.model.now[&group];
                let first = naive.purged.map_or(0, |(_, index)| index + 1);
                let index = first + ahead;
                let last_term = naive.last().map_or(1, |(term, _)| term);
                let term = naive.entries.get(&index).map_or(last_term, |&(term, _)| term);
                self.log.wal.group(group).purge(term, index)?;
                self.record(group, |naive| {
                    naive.purged = Some((term, index));
                    naive.entries.retain(|&at, _| at > index);
                });
            }
            Step::Vote { group } => {
                let vote = Bytes::from(format!("vote {}", self.count()));
                let done = self.acknowledge(self.model.records + 1);
                self.log.wal.group(group).save_vote(vote.clone(), done)?;
                self.record(group, |naive| naive.vote = Some(vote));
            }
            Step::Committed { group } => {
                let committed = Bytes::from(format!("committed {}", self.count()));
                self.log.wal.group(group).save_committed(committed.clone())?;
                self.model.committed.get_mut(&group).unwrap().push(Some(committed));
            }
            Step::Read { group, skip, len, bytes_max } => self.read(group, skip, len, bytes_max),
            Step::Settle => settle().await,
            Step::Reopen => self.reopen().await?,
            Step::Kill => self.crash(FaultDisk::kill).await?,
            Step::PowerCut { seed } => self.crash(|disk| disk.power_cut(seed)).await?,
        }
        let bounded = self.log.wal.metrics().queued_bytes <= u64::from(self.options.queue_bytes);
        assert!(bounded, "more is queued than may be");
        Ok(())
    }

    async fn append(&mut self, group: u32, entries: u8, body_bytes: u16) -> Result<(), WalError> {
        let naive = &self.model.now[&group];
        let (term, mut index) = naive.last().map_or((1, 0), |(term, index)| (term, index + 1));
        let term = term + u64::from(entries.is_multiple_of(3));
        let mut added = Vec::new();
        for _ in 0..entries {
            let mut body = self.count().to_le_bytes().to_vec();
            body.resize(8 + usize::from(body_bytes), body[0]);
            added.push(LogEntry { term, index, body: Bytes::from(body) });
            index += 1;
        }
        let done = self.acknowledge(self.model.records + added.len() as u64);
        self.log.wal.group(group).append(added.clone(), done).await?;
        for LogEntry { term, index, body } in added {
            self.record(group, |naive| drop(naive.entries.insert(index, (term, body))));
        }
        Ok(())
    }

    /// Ends the process by `how`, without closing the log, starts it again, and checks what is left.
    pub async fn crash(&mut self, how: impl FnOnce(&FaultDisk)) -> Result<(), WalError> {
        how(&self.disk);
        let log = open(&self.disk, &self.options)?;
        std::mem::replace(&mut self.log, log).abandon().await;
        self.check_recovered();
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), WalError> {
        // The old one must be closed before the new one opens: one process at a time.
        self.log.wal.close();
        settle().await;
        assert!(self.log.fatal.lock().is_empty());
        let log = open(&self.disk, &self.options)?;
        std::mem::replace(&mut self.log, log).close().await;
        assert_eq!(self.observe(), self.model.now, "closed and opened again");
        for (group, values) in &self.model.committed {
            let saved = self.log.wal.group(*group).state().committed;
            assert_eq!(saved.as_ref(), values.last().unwrap().as_ref(), "committed of group {group} at closing");
        }
        self.check_recovered();
        Ok(())
    }

    /// The log must be in a state that the model was in, no older than what was acknowledged; the model goes on there.
    fn check_recovered(&mut self) {
        let observed = self.observe();
        let model = &mut self.model;
        let acknowledged = model.acknowledged.load(Ordering::Relaxed);
        let possible = model.history.iter().any(|(record, world)| *record >= acknowledged && *world == observed);
        assert!(
            possible,
            "not a state after record {acknowledged} (of {}), which was acknowledged:\n{observed:#?}\nnow:\n{:#?}",
            model.records, model.now
        );
        for (group, values) in &mut model.committed {
            let saved = self.log.wal.group(*group).state().committed;
            assert!(values.contains(&saved), "a committed position that was never saved: {saved:?}");
            *values = vec![saved];
        }
        model.history = VecDeque::from([(model.records, observed.clone())]);
        model.acknowledged = Arc::new(AtomicU64::new(model.records));
        model.now = observed;
    }

    /// The memory's view, and what can be read, must be the model's at any time.
    pub fn check_now(&self) {
        assert_eq!(self.observe(), self.model.now);
    }

    fn observe(&self) -> World {
        let group = |id| {
            let group = self.log.wal.group(id);
            let state = group.state();
            let entries = group.read(0..u64::MAX, u64::MAX).unwrap();
            let entries = entries.into_iter().map(|entry| (entry.index, (entry.term, entry.body))).collect();
            let naive = Naive { vote: state.vote, purged: state.purged, entries };
            assert_eq!(naive.last(), state.last);
            (id, naive)
        };
        (0..GROUPS).map(group).collect()
    }

    fn read(&self, group: u32, skip: u64, len: u64, bytes_max: u64) {
        let naive = &self.model.now[&group];
        let from = naive.purged.map_or(0, |(_, index)| index) + skip;
        let mut bytes = 0;
        let mut expected = Vec::new();
        for (&index, (term, body)) in naive.entries.range(from..from + len) {
            bytes += body.len() as u64;
            if bytes > bytes_max && !expected.is_empty() {
                break;
            }
            expected.push(LogEntry { term: *term, index, body: body.clone() });
        }
        let group = self.log.wal.group(group);
        assert_eq!(group.read(from..from + len, bytes_max).unwrap(), expected);
        for entry in expected {
            assert_eq!(group.term_at(entry.index), Some(entry.term));
        }
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn acknowledge(&self, record: u64) -> Completion {
        let acknowledged = Arc::clone(&self.model.acknowledged);
        Completion::new(move |outcome| {
            if outcome.is_ok() {
                acknowledged.fetch_max(record, Ordering::Relaxed);
            }
        })
    }

    fn record(&mut self, group: u32, change: impl FnOnce(&mut Naive)) {
        let model = &mut self.model;
        change(model.now.get_mut(&group).unwrap());
        model.records += 1;
        model.history.push_back((model.records, model.now.clone()));
        let acknowledged = model.acknowledged.load(Ordering::Relaxed);
        while model.history.front().is_some_and(|(record, _)| *record < acknowledged) {
            model.history.pop_front();
        }
    }

    /// Whether the log told its owner to stop.
    pub fn is_fatal(&self) -> bool {
        !self.log.fatal.lock().is_empty()
    }

    pub fn segments(&self) -> u64 {
        self.log.wal.metrics().segments
    }

    /// Number of files in the directory.
    pub fn files(&self) -> usize {
        use crate::Disk;
        self.disk.list(std::path::Path::new(DIR)).unwrap().len()
    }
}
