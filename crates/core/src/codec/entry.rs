//! The log entry, and the batches of commands that it is made of.
//!
//! The member that took requests encodes them once, as a batch. The leader puts the batches of many members into one entry
//! without looking into them.

use super::auth::{read_caller, write_caller};
use super::command::{read_command, write_command};
use super::primitive::{CodecError, Reader, write_bytes, write_number};
use crate::{Caller, Command, MemberId, Request};
use alloc::vec::Vec;
use bytes::Bytes;

const ENTRY_VERSION: u8 = 1;
const BATCH_VERSION: u8 = 1;

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The proposer's clock when it proposed: milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The batches, in the order in which they apply.
    pub batches: Vec<Batch>,
}

/// Commands that one member took from its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The member that waits for the replies.
    pub origin: MemberId,
    /// The reply to request `i` is for number `first_seq + i` of the origin.
    pub first_seq: u64,
    /// Commands and their callers, in the order in which they apply.
    pub requests: Vec<Request>,
}

/// Encodes a batch command by command.
#[derive(Debug)]
pub struct BatchEncoder {
    out: Vec<u8>,
    count: usize,
}

impl BatchEncoder {
    /// Begins a batch.
    pub fn new(origin: MemberId, first_seq: u64) -> Self {
        let mut out = Vec::new();
        out.push(BATCH_VERSION);
        write_number(origin.get(), &mut out);
        write_number(first_seq, &mut out);
        Self { out, count: 0 }
    }

    /// Adds a command, and on whose behalf it is.
    pub fn push(&mut self, caller: &Caller, command: &Command) {
        write_caller(caller, &mut self.out);
        write_command(command, &mut self.out);
        self.count += 1;
    }

    /// Commands so far.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no command yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far.
    pub fn len_bytes(&self) -> usize {
        self.out.len()
    }

    /// The encoded batch.
    pub fn finish(self) -> Bytes {
        self.out.into()
    }
}

/// Encodes a batch at once.
pub fn encode_batch(batch: &Batch) -> Bytes {
    let mut encoder = BatchEncoder::new(batch.origin, batch.first_seq);
    batch.requests.iter().for_each(|request| encoder.push(&request.caller, &request.command));
    encoder.finish()
}

/// Decodes a batch: what came from another member can be looked at before it gets into the log.
///
/// # Errors
/// The bytes are not those of a batch that this build knows.
pub fn decode_batch(bytes: Bytes) -> Result<Batch, CodecError> {
    let mut reader = Reader::new(bytes);
    let batch = read_batch(&mut reader)?;
    reader.finish()?;
    Ok(batch)
}

fn read_batch(reader: &mut Reader) -> Result<Batch, CodecError> {
    reader.version(BATCH_VERSION)?;
    let origin = MemberId::new(reader.number()?);
    let first_seq = reader.number()?;
    let mut requests = Vec::new();
    while !reader.is_at_end() {
        requests.push(Request { caller: read_caller(reader)?, command: read_command(reader)? });
    }
    Ok(Batch { origin, first_seq, requests })
}

/// Puts encoded batches together to an entry.
#[derive(Debug)]
pub struct EntryEncoder {
    out: Vec<u8>,
}

impl EntryEncoder {
    /// Begins an entry. `time_ms` is the proposer's clock: milliseconds since the Unix epoch.
    pub fn new(time_ms: u64) -> Self {
        let mut out = Vec::new();
        out.push(ENTRY_VERSION);
        write_number(time_ms, &mut out);
        Self { out }
    }

    /// Adds a batch that [`BatchEncoder`] or [`encode_batch`] has made.
    pub fn push(&mut self, batch: &[u8]) {
        write_bytes(batch, &mut self.out);
    }

    /// Bytes so far.
    pub fn len_bytes(&self) -> usize {
        self.out.len()
    }

    /// The encoded entry.
    pub fn finish(self) -> Bytes {
        self.out.into()
    }
}

/// Encodes an entry from encoded batches.
pub fn encode_entry(time_ms: u64, batches: &[Bytes]) -> Bytes {
    let mut encoder = EntryEncoder::new(time_ms);
    batches.iter().for_each(|batch| encoder.push(batch));
    encoder.finish()
}

/// Decodes an entry. Keys and values share its memory.
///
/// # Errors
/// The bytes are not those of an entry that this build knows.
pub fn decode_entry(bytes: Bytes) -> Result<Entry, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.version(ENTRY_VERSION)?;
    let time_ms = reader.number()?;
    let mut batches = Vec::new();
    while !reader.is_at_end() {
        batches.push(reader.part(read_batch)?);
    }
    reader.finish()?;
    Ok(Entry { time_ms, batches })
}
