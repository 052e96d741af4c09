//! The bytes of what is kept: log entries, records, and the small tables. Nothing of gRPC.
//!
//! Building blocks: a *number* is an unsigned LEB128 of at most 64 bits (signed ones as two's complement); *bytes* are a
//! number for the length, then as many bytes; *tags*, *flags* and versions are one byte. `{ x }` is a count and as many
//! `x`; `{ x }..` are as many `x` as there are to the end. What has no type here is a number.
//!
//! Tags of enumerations count from 0 in the order of their declaration; alarms count from 1.
//!
//! ```text
//! entry      = version=1 time_ms { batch as bytes }..
//! batch      = version=1 origin first_seq { request }..
//! request    = [ tag 16 the cluster | 17 user:bytes auth_revision ] command      nothing in front: a client without a name
//! command    = tag 1 txn | 2 revision | 3 lease ttl | 4 lease | 5 { lease remaining }
//!                | 6 member attributes | 7 member | 8 alarm | 9 alarm
//!                | 10 version | 11 version | 12 | 13 auth
//! auth       = tag 1 enable | 2 disable | 3 user:bytes password | 4 user:bytes | 5 user:bytes hash:bytes
//!                | 6 user:bytes role:bytes | 7 user:bytes role:bytes | 8 role:bytes | 9 role:bytes
//!                | 10 role:bytes permission | 11 role:bytes range | 12 user:bytes token:32 credentials_revision
//! password   = tag 0 none | 1 hash:bytes
//! permission = tag 0 read | 1 write | 2 both, then range
//! txn        = { compare } { op } { op }                    compares, success, failure
//! op         = tag 1 read | 2 put | 3 delete | 4 txn
//! read       = flags(serializable keys_only count_only) range limit revision order:tag target:tag
//!                min_mod max_mod min_create max_create
//! put        = flags(prev_kv ignore_value ignore_lease) key:bytes value:bytes lease
//! delete     = flags(prev_kv) range
//! range      = tag 0 key:bytes | 1 start:bytes end:bytes | 2 start:bytes
//! compare    = range result:tag tag 0 version | 1 create | 2 mod | 3 value:bytes | 4 lease
//! attributes = name:bytes { url:bytes } data_dir_id
//! alarm      = member kind:tag
//! version    = major minor
//!
//! record     = tag 1 rev key:bytes value-of-put             a put that creates its key
//!                | 2 rev replaced:rev key:bytes value-of-put
//!                | 3 rev replaced:rev key:bytes             a delete
//!                | 4 rev key:bytes                          a delete of nothing; never written
//! rev        = revision sub
//! value-of-put = create version lease value:bytes
//!
//! In the small tables, each with its own version in front: lease = id ttl remaining; attributes; alarm;
//! versions = current target, each tag 0 | 1 version;
//! auth = on:tag revision; user = password credentials_revision { role:bytes }; role = { permission }.
//! ```
//!
//! Guarantees: decoding never panics and never allocates more than a small multiple of its input, whatever the input;
//! byte strings of the result share the input's memory. What is encoded decodes to the same. Golden bytes in the tests
//! hold the format still: a change of it is a new version or a new tag.

mod auth;
mod command;
mod entry;
mod primitive;
mod record;
mod system;

pub use auth::{decode_auth, decode_role, decode_user, encode_auth, encode_role, encode_user};
pub use entry::{Batch, BatchEncoder, Entry, EntryEncoder, decode_batch, decode_entry, encode_batch, encode_entry};
pub use primitive::{CodecError, CodecErrorKind};
pub use record::{decode_record, encode_record};
pub use system::{
    decode_lease, decode_member_attributes, decode_versions, encode_lease, encode_member_attributes, encode_versions,
};
