//! Writes the snapshot file: a bbolt database as etcd has it, from front to back, in constant memory.
//!
//! The front of such a file tells where everything in it stands, so the records are read twice: once for their sizes, once for
//! themselves. Both times it is the same view. The gRPC front adds the SHA-256 of all of it, as etcd does.

use super::etcd::{self, Elements};
use super::{RegionSums, database};
use crate::Error;
use bytes::Bytes;
use prost::Message;
use quorate_bolt::{BucketPlan, Plan, Writer};
use quorate_core::Revision;
use quorate_sabotage::rarely;
use quorate_storage::Exporter;
use std::collections::BTreeMap;

/// Record bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Reads a snapshot of the keyspace as a file, in chunks of bounded memory. Keeps compaction from removing what it needs.
pub struct SnapshotReader {
    exporter: Exporter,
    writer: Writer,
    /// etcd's buckets but the one of all keys, in order.
    buckets: BTreeMap<&'static [u8], Elements>,
    /// Where revisions have gone on to without records.
    mark: Option<Revision>,
    stage: Stage,
    /// What is written and was not taken yet.
    out: Vec<u8>,
    sums: RegionSums,
    sent_bytes: u64,
    file_bytes: u64,
}

enum Stage {
    BeforeKeys,
    Keys,
    AfterKeys,
    End,
}

impl SnapshotReader {
    /// Reads all records once. Blocks on the disk. Ends early, with an error that nobody hears, when the caller has given up.
    pub(crate) fn new(mut exporter: Exporter, given_up: &dyn Fn() -> bool) -> Result<Self, Error> {
        let meta = exporter.meta().clone();
        let buckets = etcd::small_buckets(&meta).map_err(|error| Error::Fatal(error.to_string()))?;
        let (keys, mark) = plan_keys(&mut exporter, meta.revision, given_up)?;
        exporter.rewind();
        let mut plan = Plan::default();
        for (name, elements) in buckets.range(..etcd::KEY) {
            plan.add(name, plan_bucket(elements));
        }
        plan.add(etcd::KEY, keys);
        for (name, elements) in buckets.range(etcd::KEY..) {
            plan.add(name, plan_bucket(elements));
        }
        // Its checksums are of the bytes before it: as many are planned, and set when all of these are written.
        let before = plan.next_offset();
        plan.add(database::OWN, plan_bucket(&database::own_elements(&meta, before, &RegionSums::planned(before))));
        let file_bytes = plan.file_bytes();
        let mut out = Vec::new();
        let writer = Writer::new(plan, &mut out);
        let sums = RegionSums::default();
        Ok(Self { exporter, writer, buckets, mark, stage: Stage::BeforeKeys, out, sums, sent_bytes: 0, file_bytes })
    }

    /// Bytes that are still to come.
    pub fn remaining_bytes(&self) -> u64 {
        self.file_bytes - self.sent_bytes
    }

    /// The next chunk; `None` at the end. Yields to other tasks between chunks.
    ///
    /// # Errors
    /// [`Error::Fatal`] if the disk fails.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            tokio::task::yield_now().await;
            match self.stage {
                Stage::BeforeKeys => self.put_buckets_before_keys()?,
                Stage::Keys => self.put_records()?,
                Stage::AfterKeys => self.put_buckets_after_keys()?,
                Stage::End => return Ok(None),
            }
            // A leaf is written when it is complete.
            if !self.out.is_empty() {
                let chunk = std::mem::take(&mut self.out);
                self.sent_bytes += chunk.len() as u64;
                return Ok(Some(chunk.into()));
            }
        }
    }

    fn put_buckets_before_keys(&mut self) -> Result<(), Error> {
        for elements in self.buckets.range(..etcd::KEY).map(|(_, elements)| elements) {
            put_bucket(&mut self.writer, elements, &mut self.out)?;
        }
        self.sums.update(&self.out);
        self.stage = Stage::Keys;
        Ok(())
    }

    fn put_records(&mut self) -> Result<(), Error> {
        let bytes_max = if rarely!(SmallCopyBlock) { 1 } else { CHUNK_BYTES };
        let records = self.exporter.next(bytes_max).map_err(|error| Error::Fatal(error.to_string()))?;
        for record in &records {
            let (key, value) = etcd::element_of(record);
            self.writer.add(&key, &value.encode_to_vec(), &mut self.out).map_err(broken)?;
        }
        if records.is_empty() {
            if let Some((key, value)) = self.mark.map(etcd::revision_mark) {
                self.writer.add(&key, &value, &mut self.out).map_err(broken)?;
            }
            self.writer.end_bucket(&mut self.out).map_err(broken)?;
            self.stage = Stage::AfterKeys;
        }
        self.sums.update(&self.out);
        Ok(())
    }

    fn put_buckets_after_keys(&mut self) -> Result<(), Error> {
        for elements in self.buckets.range(etcd::KEY..).map(|(_, elements)| elements) {
            put_bucket(&mut self.writer, elements, &mut self.out)?;
        }
        self.sums.update(&self.out);
        let before = self.sent_bytes + self.out.len() as u64;
        let own = database::own_elements(self.exporter.meta(), before, &self.sums);
        put_bucket(&mut self.writer, &own, &mut self.out)?;
        self.writer.finish(&mut self.out).map_err(broken)?;
        self.stage = Stage::End;
        Ok(())
    }
}

fn plan_keys(
    exporter: &mut Exporter,
    revision: Revision,
    given_up: &dyn Fn() -> bool,
) -> Result<(BucketPlan, Option<Revision>), Error> {
    let mut plan = BucketPlan::default();
    let mut newest = Revision::INITIAL;
    loop {
        let records = exporter.next(CHUNK_BYTES).map_err(|error| Error::Fatal(error.to_string()))?;
        if records.is_empty() {
            break;
        }
        if given_up() {
            return Err(Error::Stopped);
        }
        for record in &records {
            let (key, value) = etcd::element_of(record);
            plan.add(&key, value.encoded_len());
            newest = record.rev.main;
        }
    }
    let mark = Some(revision).filter(|revision| newest < *revision);
    if let Some((key, value)) = mark.map(etcd::revision_mark) {
        plan.add(&key, value.len());
    }
    Ok((plan, mark))
}

fn plan_bucket(elements: &Elements) -> BucketPlan {
    let mut plan = BucketPlan::default();
    elements.iter().for_each(|(key, value)| plan.add(key, value.len()));
    plan
}

fn put_bucket(writer: &mut Writer, elements: &Elements, out: &mut Vec<u8>) -> Result<(), Error> {
    for (key, value) in elements {
        writer.add(key, value, out).map_err(broken)?;
    }
    writer.end_bucket(out).map_err(broken)
}

fn broken(error: quorate_bolt::PlanBroken) -> Error {
    Error::Fatal(format!("the snapshot's second reading differs from its first: {error}"))
}
