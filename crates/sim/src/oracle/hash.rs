//! The hash of a history, worked out from the ledger alone: what `HashKV` of every member must say.

use super::{Ledger, Oracle};
use crate::history::{Event, Seen};

/// The hash of what a compaction to `compacted` leaves, up to the newest revision. `None`: the ledger does not know all of it.
pub fn hash_kv(ledger: &Ledger, compacted: i64) -> Option<u32> {
    if ledger.compacted > 0 {
        return None;
    }
    let oracle = Oracle::new(ledger, &[]);
    let any_live = oracle.keys.keys().any(|key| oracle.at(key, ledger.newest).is_some());
    let mut hash = crc32c::crc32c(b"key");
    for (&revision, events) in &ledger.revisions {
        for (place, event) in events.iter().enumerate() {
            let kept = revision > compacted
                || match event {
                    // As in etcd: of what is older, what is still in force; if nothing is at all, what was then.
                    Event::Put(seen) => {
                        let at = if any_live { ledger.newest } else { compacted };
                        oracle.at(&seen.key, at).is_some_and(|now| now.mod_revision == revision)
                    }
                    Event::Delete { .. } => false,
                };
            if kept {
                hash = crc32c::crc32c_append(hash, &row(revision, place, event));
            }
        }
    }
    Some(hash)
}

/// Key and value of the event in etcd's file.
fn row(revision: i64, place: usize, event: &Event) -> Vec<u8> {
    let mut out = revision.to_be_bytes().to_vec();
    out.push(b'_');
    out.extend((place as u64).to_be_bytes());
    match event {
        Event::Delete { key, .. } => {
            out.push(b't');
            text(&mut out, 1, key);
        }
        Event::Put(Seen { key, value, create_revision, mod_revision, version, lease }) => {
            text(&mut out, 1, key);
            for (field, number) in [(2, create_revision), (3, mod_revision), (4, version)] {
                out.push(field << 3);
                varint(&mut out, number.cast_unsigned());
            }
            text(&mut out, 5, value);
            if *lease != 0 {
                out.push(6 << 3);
                varint(&mut out, lease.cast_unsigned());
            }
        }
    }
    out
}

fn text(out: &mut Vec<u8>, field: u8, text: &str) {
    if !text.is_empty() {
        out.push(field << 3 | 2);
        varint(out, text.len() as u64);
        out.extend(text.as_bytes());
    }
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
