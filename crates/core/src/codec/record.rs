//! Records, as storage keeps them. No checksum: that is storage's.

use super::primitive::{CodecError, Reader, write_bytes, write_number, write_revision, write_signed};
use crate::{Change, LeaseId, Record, Rev};
use alloc::vec::Vec;
use bytes::Bytes;

const PUT: u8 = 1;
const PUT_REPLACING: u8 = 2;
const DELETE_REPLACING: u8 = 3;
const DELETE: u8 = 4;

/// Appends the encoded record to `out`.
pub fn encode_record(record: &Record, out: &mut Vec<u8>) {
    out.push(match (&record.change, record.replaces) {
        (Change::Put { .. }, None) => PUT,
        (Change::Put { .. }, Some(_)) => PUT_REPLACING,
        (Change::Delete, Some(_)) => DELETE_REPLACING,
        (Change::Delete, None) => DELETE,
    });
    write_rev(record.rev, out);
    if let Some(replaced) = record.replaces {
        write_rev(replaced, out);
    }
    write_bytes(&record.key, out);
    match &record.change {
        Change::Put { create_revision, version, lease, value } => {
            write_revision(*create_revision, out);
            write_signed(*version, out);
            write_signed(lease.get(), out);
            write_bytes(value, out);
        }
        Change::Delete => {}
    }
}

/// Decodes a record. Key and value share the memory of `bytes`.
///
/// # Errors
/// The bytes are not those of a record that this build knows.
pub fn decode_record(bytes: Bytes) -> Result<Record, CodecError> {
    let mut reader = Reader::new(bytes);
    let tag = reader.byte()?;
    let (is_put, replacing) = match tag {
        PUT => (true, false),
        PUT_REPLACING => (true, true),
        DELETE_REPLACING => (false, true),
        DELETE => (false, false),
        tag => return reader.unknown_tag("record", tag),
    };
    let rev = read_rev(&mut reader)?;
    let replaces = if replacing { Some(read_rev(&mut reader)?) } else { None };
    let key = reader.bytes()?;
    let change = if is_put {
        Change::Put {
            create_revision: reader.revision()?,
            version: reader.signed()?,
            lease: LeaseId::new(reader.signed()?),
            value: reader.bytes()?,
        }
    } else {
        Change::Delete
    };
    reader.finish()?;
    Ok(Record { rev, key, change, replaces })
}

fn write_rev(rev: Rev, out: &mut Vec<u8>) {
    write_revision(rev.main, out);
    write_number(u64::from(rev.sub), out);
}

fn read_rev(reader: &mut Reader) -> Result<Rev, CodecError> {
    Ok(Rev::new(reader.revision()?, reader.number32()?))
}
