//! Reading what an engine holds for its own sake. [`check_engine`] reads all of it, of an engine that serves nobody, and
//! reports every fault with its place. [`Scrubber`] reads the rows of one that does, portion by portion, and looks at their
//! checksums.
//!
//! Changes nothing. Memory: one portion of rows.

use crate::engine::Engine;
use crate::keys::{self, Keys, RowPlace, Table};
use crate::open::incomplete;
use crate::rows::{self, Census, FORMAT_VERSION, GroupState};
use crate::system::{SystemKey, Tables};
use crate::view::Density;
use crate::{Result, StorageError};
use bytes::Bytes;
use quorate_core::{GroupId, Record, Rev, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Rows that are read in one go.
const PORTION_BYTES: usize = 1 << 20;
const PORTION_ROWS: usize = 4096;

/// Key and value.
type OwnedRow = (Vec<u8>, Bytes);

/// A row that is not what was written, or is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFault {
    /// Table and engine key, in words.
    pub row: String,
    /// The user's key that it is about, if that is known.
    pub key: Option<Bytes>,
    /// The revision that it is about, if that is known.
    pub revision: Option<Revision>,
    /// What is wrong.
    pub problem: String,
}

/// What a check has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineCheck {
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes of them: keys and values.
    pub bytes: u64,
    /// Records of the state in force.
    pub records: u64,
    /// Keys in its index checkpoint.
    pub index_rows: u64,
    /// Rows of its small tables.
    pub system_rows: u64,
    /// Rows of no state in force: of an install that is under way or was given up, or not yet removed.
    pub other_rows: u64,
    /// The newest revision, by group.
    pub revisions: BTreeMap<u32, Revision>,
    /// Position in the log up to which everything is there, by group.
    pub applied: BTreeMap<u32, crate::Applied>,
}

/// Reads everything in `engine`: every checksum, whether each row can be decoded, whether the tables are complete, and
/// whether index checkpoint and records agree. `fault` is told what is wrong, `progress` how many bytes are done.
///
/// # Errors
/// The engine cannot be read.
pub fn check_engine(
    engine: &dyn Engine,
    fault: &mut dyn FnMut(RowFault),
    progress: &mut dyn FnMut(u64),
) -> Result<EngineCheck> {
    let (groups, named) = states(engine, fault)?;
    let mut check = Check { engine, groups, named, fault, seen: EngineCheck::default() };
    let mut portions = Portions::new();
    while let Some(rows) = portions.next(engine, PORTION_BYTES)? {
        for (key, row) in rows {
            check.row(&key, row)?;
        }
        progress(check.seen.bytes);
    }
    check.finish();
    Ok(check.seen)
}

/// The state of each group that can be read, and the groups that have a row for it.
fn states(engine: &dyn Engine, fault: &mut dyn FnMut(RowFault)) -> Result<(BTreeMap<u32, GroupCheck>, BTreeSet<u32>)> {
    let mut groups = BTreeMap::new();
    let mut named = BTreeSet::new();
    let mut states: Vec<OwnedRow> = Vec::new();
    let (from, until) = keys::states();
    engine.scan(&from, &until, &mut |key, row| {
        states.push((key.to_vec(), Bytes::copy_from_slice(row)));
        ControlFlow::Continue(())
    })?;
    for (key, row) in states {
        let Some(RowPlace { group, .. }) = RowPlace::of(&key) else { continue };
        named.insert(group.get());
        // What is wrong with a state is told when its row comes by.
        if let Ok(state) = GroupState::decode(&key, &row) {
            groups.insert(group.get(), GroupCheck::new(state));
        }
    }
    if engine.get(&keys::FORMAT_KEY)?.is_none() {
        fault(RowFault::of(&keys::FORMAT_KEY, "the row is missing: there is no format version"));
    }
    Ok((groups, named))
}

struct GroupCheck {
    state: GroupState,
    index: Census,
    system: Census,
    tables: Tables,
    density: Density,
    dense: bool,
    records_newest: Revision,
}

impl GroupCheck {
    fn new(state: GroupState) -> Self {
        let density = Density::new(state.compacted.next(), state.compacted);
        Self {
            index: Census::default(),
            system: Census::default(),
            tables: Tables::default(),
            density,
            dense: true,
            records_newest: Revision::ZERO,
            state,
        }
    }
}

struct Check<'a> {
    engine: &'a dyn Engine,
    groups: BTreeMap<u32, GroupCheck>,
    /// Groups that have a state row, or of which it was told that they have none.
    named: BTreeSet<u32>,
    fault: &'a mut dyn FnMut(RowFault),
    seen: EngineCheck,
}

impl Check<'_> {
    fn row(&mut self, key: &[u8], row: Bytes) -> Result<()> {
        self.seen.rows += 1;
        self.seen.bytes += (key.len() + row.len()) as u64;
        let Some(place) = RowPlace::of(key) else {
            (self.fault)(RowFault::of(key, "the row belongs to no table"));
            return Ok(());
        };
        let in_force = self
            .groups
            .get(&place.group.get())
            .is_some_and(|group| place.generation == group.state.generation && place.table.has_generations());
        if place.table.has_generations() && self.named.insert(place.group.get()) {
            let missing = keys::state_key(place.group);
            (self.fault)(RowFault::of(&missing, "the row is missing, and others of its group are there"));
        }
        self.seen.other_rows += u64::from(place.table.has_generations() && !in_force);
        let outcome = match place.table {
            Table::Format => check_format(key, &row),
            Table::State => GroupState::decode(key, &row).map(drop),
            Table::Record => self.record(key, place, &row, in_force),
            Table::Index => self.index(key, place, &row, in_force),
            Table::System => self.system(key, place, &row, in_force),
        };
        match outcome {
            Err(StorageError::Corrupt { what, .. }) => {
                (self.fault)(RowFault::of(key, &what));
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn record(&mut self, key: &[u8], place: RowPlace, row: &Bytes, in_force: bool) -> Result<()> {
        let rev = Keys::rev_of(key).ok_or_else(|| rows::corrupt(key, "the key of the row is not a revision"))?;
        let decoded = rows::decode_record(key, rev, row);
        let Some(group) = self.groups.get_mut(&place.group.get()).filter(|_| in_force) else {
            return decoded.map(drop);
        };
        self.seen.records += 1;
        group.records_newest = rev.main;
        // What cannot be decoded is there at least: it may be the last of its revision, or not.
        let Ok((record, last)) = decoded else {
            group.density = Density::new(rev.main.next(), rev.main);
            return decoded.map(drop);
        };
        if group.dense && !group.density.step(rev, last) {
            group.dense = false;
            return Err(rows::corrupt(key, "a record at or before this one is missing"));
        }
        if rev.main > group.state.revision {
            return Err(rows::corrupt(key, "the record is newer than the state"));
        }
        if rev.main > group.state.compacted && rev.main <= group.state.checkpoint {
            self.is_in_index(key, place, &record)?;
        }
        Ok(())
    }

    /// A record that the checkpoint knows of is named by it.
    fn is_in_index(&self, key: &[u8], place: RowPlace, record: &Record) -> Result<()> {
        let name = place.keys().index(&record.key);
        let Some(row) = self.engine.get(&name)? else {
            return Err(rows::corrupt(key, "the index checkpoint does not know its key"));
        };
        // A damaged row of the index is reported for itself.
        let Ok(history) = rows::decode_history(&name, &row) else { return Ok(()) };
        if history.versions().iter().any(|version| version.rev() == record.rev) {
            return Ok(());
        }
        Err(rows::corrupt(key, "the index checkpoint does not know this record of its key"))
    }

    fn index(&mut self, key: &[u8], place: RowPlace, row: &Bytes, in_force: bool) -> Result<()> {
        let decoded = rows::decode_history(key, row);
        let Some(group) = self.groups.get_mut(&place.group.get()).filter(|_| in_force) else {
            return decoded.map(drop);
        };
        self.seen.index_rows += 1;
        group.index.add(place.rest);
        let mut history = decoded?;
        if history.newest().main > group.state.revision.get() {
            return Err(rows::corrupt(key, "the history is newer than the state"));
        }
        if !history.prune(group.state.compacted) {
            return Ok(());
        }
        for version in history.versions() {
            let name = place.keys().record(version.rev());
            let Some(row) = self.engine.get(&name)? else {
                let what = format!("its record of revision {} is missing", version.rev().main);
                return Err(rows::corrupt(key, &what));
            };
            // A damaged record is reported for itself.
            let Ok((record, _)) = rows::decode_record(&name, version.rev(), &row) else { continue };
            if record.key != place.rest || crate::index::Version::of(&record) != *version {
                let what = format!("it does not agree with the record of revision {}", version.rev().main);
                return Err(rows::corrupt(key, &what));
            }
        }
        Ok(())
    }

    fn system(&mut self, key: &[u8], place: RowPlace, row: &Bytes, in_force: bool) -> Result<()> {
        let bad = || rows::corrupt(key, "the row cannot be decoded");
        if in_force && let Some(group) = self.groups.get_mut(&place.group.get()) {
            self.seen.system_rows += 1;
            group.system.add(place.rest);
            let content = rows::open(key, row)?;
            let name = SystemKey::decode(place.rest).ok_or_else(bad)?;
            return group.tables.load(name, content).ok_or_else(bad);
        }
        rows::open(key, row).map(drop)
    }

    /// What only the whole tells.
    fn finish(&mut self) {
        for (id, group) in &self.groups {
            let keys = Keys { group: GroupId::new(*id), generation: group.state.generation };
            let tables = [
                (keys.index_start(), group.index, group.state.index),
                (keys.system_start(), group.system, group.state.system),
            ];
            for (start, seen, expected) in tables {
                if seen != expected {
                    (self.fault)(RowFault::of(&start, &incomplete(seen, expected)));
                }
            }
            let newest = group.state.revision;
            let ends = group.records_newest == newest && (!group.dense || group.density.ends_at(newest));
            if newest > group.state.compacted && newest > Revision::INITIAL && !ends {
                let missing = keys.record(Rev::new(newest, 0));
                (self.fault)(RowFault::of(&missing, "the newest record is missing"));
            }
            self.seen.revisions.insert(*id, newest);
            self.seen.applied.insert(*id, group.state.applied);
        }
    }
}

fn check_format(key: &[u8], row: &[u8]) -> Result<()> {
    match rows::open(key, row)?.try_into().map(u32::from_le_bytes) {
        Ok(FORMAT_VERSION) => Ok(()),
        Ok(found) => Err(rows::corrupt(key, &format!("format {found} is not known, {FORMAT_VERSION} is"))),
        Err(_) => Err(rows::corrupt(key, "the format version cannot be decoded")),
    }
}

impl RowFault {
    fn of(key: &[u8], problem: &str) -> Self {
        let place = RowPlace::of(key);
        let table = place.map_or("unknown table", |place| place.table.name());
        let user_key = place.filter(|place| place.table == Table::Index && !place.rest.is_empty());
        let revision = place.filter(|place| place.table == Table::Record).and_then(|_| Keys::rev_of(key));
        Self {
            row: format!("{table} row {}", key.escape_ascii()),
            key: user_key.map(|place| Bytes::copy_from_slice(place.rest)),
            revision: revision.map(|rev| rev.main),
            problem: problem.to_owned(),
        }
    }
}

/// All rows of an engine in order, in portions: what is written meanwhile may be seen or not.
struct Portions {
    /// The next row to read; `None` at the end.
    from: Option<Vec<u8>>,
}

impl Portions {
    fn new() -> Self {
        Self { from: Some(Vec::new()) }
    }

    fn next(&mut self, engine: &dyn Engine, bytes_max: usize) -> Result<Option<Vec<OwnedRow>>> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        engine.scan(&from, keys::END, &mut |key, row| {
            bytes += key.len() + row.len();
            rows.push((key.to_vec(), Bytes::copy_from_slice(row)));
            if bytes >= bytes_max || rows.len() >= PORTION_ROWS {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        let is_last = bytes < bytes_max && rows.len() < PORTION_ROWS;
        self.from = rows.last().filter(|_| !is_last).map(|(key, _)| [key.as_slice(), &[0]].concat());
        Ok(Some(rows))
    }
}

/// How far the rows of an engine that is in use were read again: see [`Store::scrub`](crate::Store::scrub).
pub struct Scrubber {
    portions: Portions,
}

impl Default for Scrubber {
    fn default() -> Self {
        Self { portions: Portions::new() }
    }
}

/// What a step of a [`Scrubber`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes of the rows that were read.
    pub bytes: u64,
    /// Rows that are damaged.
    pub faults: Vec<RowFault>,
    /// Whether the last row was among them: the next step begins a new round.
    pub round_done: bool,
}

impl Scrubber {
    /// See [`Store::scrub`](crate::Store::scrub).
    pub(crate) fn step(&mut self, engine: &dyn Engine, bytes_max: usize) -> Result<Scrubbed> {
        let mut scrubbed = Scrubbed::default();
        let rows = self.portions.next(engine, bytes_max)?.unwrap_or_default();
        for (key, row) in rows {
            scrubbed.bytes += (key.len() + row.len()) as u64;
            if let Err(StorageError::Corrupt { what, .. }) = rows::open(&key, &row) {
                scrubbed.faults.push(RowFault::of(&key, &what));
            }
        }
        if self.portions.from.is_none() {
            self.portions = Portions::new();
            scrubbed.round_done = true;
        }
        Ok(scrubbed)
    }
}
