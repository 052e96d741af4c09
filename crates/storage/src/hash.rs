//! The hash that members compare: etcd's `HashKV`, byte for byte.

use crate::store::Body;
use crate::{ReadView, Result, StorageError, Store};
use quorate_core::{Change, KeyRange, Record, Rejection, Revision, View};
use quorate_sabotage::sabotage;
use std::ops::ControlFlow;

/// A hash over the history of a keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C over `key` and every kept record, in order.
    pub hash: u32,
    /// The compacted revision when it was taken; 0 if there was no compaction (etcd says -1 then).
    pub compact_revision: Revision,
    /// Up to which revision.
    pub hash_revision: Revision,
}

/// A hash that is taken in steps. Holds what it reads, so that compaction waits for it.
pub struct Hasher {
    view: ReadView,
    /// The revision that the next step begins with.
    next: Revision,
    hash: HashKv,
    any_live: bool,
}

impl Store {
    /// Begins to hash the records in `(compacted, revision]`, and of the older ones those that are the newest of a live key
    /// at `revision` (0: the newest revision). Equal on all members, whatever the engine. Fails with
    /// [`StorageError::Rejected`] if the revision is compacted or not there yet.
    pub fn hasher(&self, revision: Revision) -> Result<Hasher> {
        let view = self.view();
        let compacted = view.compacted();
        let revision = if revision.get() <= 0 { view.revision() } else { revision };
        if revision < compacted {
            return Err(StorageError::Rejected(Rejection::Compacted));
        }
        if revision > view.revision() {
            return Err(StorageError::Rejected(Rejection::FutureRevision));
        }
        let everything = KeyRange::From { start: bytes::Bytes::new() };
        let mut any_live = false;
        view.body().keys(&everything, revision, &mut |_, _| {
            any_live = true;
            ControlFlow::Break(())
        });
        let revision =
            if sabotage!(HashTooShort) { Revision::new(revision.get() - 1).max(compacted) } else { revision };
        let hash = HashKv { hash: crc32c::crc32c(b"key"), compact_revision: compacted, hash_revision: revision };
        Ok(Hasher { view, next: Revision::INITIAL, hash, any_live })
    }

    /// Hashes at once, see [`Store::hasher`]. Reads everything.
    pub fn hash_kv(&self, revision: Revision) -> Result<HashKv> {
        let mut hasher = self.hasher(revision)?;
        loop {
            if let Some(hash) = hasher.step(usize::MAX)? {
                return Ok(hash);
            }
        }
    }
}

impl Hasher {
    /// Reads about `records_max` records more, whole revisions. The hash, when it is done. Reads the disk.
    pub fn step(&mut self, records_max: usize) -> Result<Option<HashKv>> {
        let HashKv { mut hash, compact_revision: compacted, hash_revision: revision } = self.hash;
        let body = self.view.body();
        let mut entry = Vec::new();
        let mut seen = 0;
        let mut last = self.next;
        let mut rest = None;
        body.scan(self.next, revision, compacted, &mut |record| {
            if seen >= records_max && record.rev.main != last {
                rest = Some(record.rev.main);
                return ControlFlow::Break(());
            }
            seen += 1;
            last = record.rev.main;
            if kept(body, &record, compacted, revision, self.any_live) {
                entry.clear();
                encode(&record, &mut entry);
                hash = crc32c::crc32c_append(hash, &entry);
            }
            ControlFlow::Continue(())
        })?;
        self.hash.hash = hash;
        match rest {
            Some(next) => {
                self.next = next;
                Ok(None)
            }
            None => Ok(Some(self.hash)),
        }
    }
}

fn kept(body: &Body, record: &Record, compacted: Revision, revision: Revision, any_live: bool) -> bool {
    if record.rev.main > compacted {
        return true;
    }
    // etcd skips a tombstone exactly at the compacted revision, because its older versions do not have it.
    if record.change == Change::Delete {
        return false;
    }
    let index = body.index.read();
    let Some(history) = index.history(&record.key) else { return false };
    if any_live {
        history.at(revision).is_some_and(|version| version.rev() == record.rev)
    } else {
        // etcd's quirk: with no live key at all its filter is off, and everything that compaction left counts.
        history.retained(compacted, revision).iter().any(|version| version.rev() == record.rev)
    }
}

/// `key | value` as they are in etcd's file: the revision, and the `mvccpb.KeyValue` message (a tombstone has its key only).
fn encode(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(&record.rev.main.get().to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&u64::from(record.rev.sub).to_be_bytes());
    match &record.change {
        Change::Delete => {
            out.push(b't');
            bytes_field(1, &record.key, out);
        }
        Change::Put { create_revision, version, lease, value } => {
            bytes_field(1, &record.key, out);
            int_field(2, create_revision.get(), out);
            int_field(3, record.rev.main.get(), out);
            int_field(4, *version, out);
            bytes_field(5, value, out);
            int_field(6, lease.get(), out);
        }
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn int_field(field: u8, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(field << 3);
        varint(value.cast_unsigned(), out);
    }
}

fn bytes_field(field: u8, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        out.push(field << 3 | 2);
        varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{LeaseId, Rev};

    #[test]
    fn entries_have_etcds_bytes() {
        let put = Record {
            rev: Rev::new(Revision::new(300), 1),
            key: "k".into(),
            change: Change::Put {
                create_revision: Revision::new(2),
                version: 3,
                lease: LeaseId::new(-1),
                value: "vv".into(),
            },
            replaces: None,
        };
        let mut bytes = Vec::new();
        encode(&put, &mut bytes);
        let expected = b"\0\0\0\0\0\0\x01\x2c_\0\0\0\0\0\0\0\x01\x0a\x01k\x10\x02\x18\xac\x02\x20\x03\x2a\x02vv\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(bytes, expected);

        let delete = Record { change: Change::Delete, ..put };
        bytes.clear();
        encode(&delete, &mut bytes);
        assert_eq!(bytes, b"\0\0\0\0\0\0\x01\x2c_\0\0\0\0\0\0\0\x01t\x0a\x01k");
    }
}
