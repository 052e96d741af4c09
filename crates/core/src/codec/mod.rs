//! The bytes of what is kept: log entries, records, and the small tables. Nothing of gRPC.
//!
//! Building blocks: a *number* is an unsigned LEB128 of at most 64 bits (signed ones as two's complement); *bytes* are a
//! number for the length, then as many bytes; a *tag* is one byte. Layouts:
//!
//! ```text
//! entry   = version(1) time_ms:number { batch:bytes }*                   to the end
//! batch   = version(1) origin:number first_seq:number { command }*       to the end
//! command = 1 txn | 2 revision | 3 lease ttl | 4 lease | 5 count { lease remaining }*
//!         | 6 member attributes | 7 member | 8 alarm | 9 alarm
//! txn     = count { compare }* count { op }* count { op }*               compares, success, failure
//! op      = 1 range-request | 2 put | 3 delete-range | 4 txn
//! record  = 1 rev key put | 2 rev replaced:rev key put | 3 rev replaced:rev key | 4 rev key
//! ```
//!
//! Guarantees: decoding never panics and never allocates more than a small multiple of its input, whatever the input;
//! byte strings of the result share the input's memory. What is encoded decodes to the same. Golden bytes in the tests
//! hold the format still: a change of it is a new version or a new tag.

mod command;
mod entry;
mod primitive;
mod record;
mod system;

pub use entry::{Batch, BatchEncoder, Entry, EntryEncoder, decode_batch, decode_entry, encode_batch, encode_entry};
pub use primitive::{CodecError, CodecErrorKind};
pub use record::{decode_record, encode_record};
pub use system::{
    decode_alarm, decode_lease, decode_member_attributes, encode_alarm, encode_lease, encode_member_attributes,
};
