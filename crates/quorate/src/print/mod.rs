//! What the commands print, in each of etcdctl's output formats.
//!
//! Knows messages and text, not commands or connections. Guarantees the same bytes as etcdctl 3.6 for every answer that
//! both can give; the simple form of values and keys is their bytes, unchanged.

mod fields;
mod json;
mod protobuf;
mod simple;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use clap::ValueEnum;
use quorate_proto::etcdserverpb::*;

use crate::failure::{Exit, Failure};

/// The output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people and simple scripts.
    Simple,
    /// One JSON object per answer, with the names of etcd's Go client.
    Json,
    /// One `"Field" : value` per line.
    Fields,
    /// A table with borders.
    Table,
    /// The message of the API in its encoding on the wire.
    Protobuf,
}

/// An answer to print.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names are those of the calls")]
pub enum Reply<'a> {
    Put(&'a PutResponse),
    Get(&'a RangeResponse),
    Delete(&'a DeleteRangeResponse),
    Txn(&'a TxnResponse),
    Watch(&'a WatchResponse),
    LeaseGrant(&'a LeaseGrantResponse),
    LeaseRevoke { id: i64, response: &'a LeaseRevokeResponse },
    LeaseKeepAlive(&'a LeaseKeepAliveResponse),
    LeaseTimeToLive { response: &'a LeaseTimeToLiveResponse, keys: bool },
    LeaseList(&'a LeaseLeasesResponse),
    MemberAdd(&'a MemberAddResponse),
    MemberRemove { id: u64, response: &'a MemberRemoveResponse },
    MemberUpdate { id: u64, response: &'a MemberUpdateResponse },
    MemberPromote { id: u64, response: &'a MemberPromoteResponse },
    MemberList(&'a MemberListResponse),
    EndpointHealth(&'a [EndpointHealth]),
    EndpointStatus(&'a [(String, StatusResponse)]),
    EndpointHashKv(&'a [(String, HashKvResponse)]),
    Alarm(&'a AlarmResponse),
    MoveLeader { from: u64, to: u64, response: &'a MoveLeaderResponse },
    Downgrade { action: &'static str, response: &'a DowngradeResponse },
    SnapshotStatus(&'a SnapshotStatus),
    DirectoryCheck(&'a DirectoryCheck),
    AuthChange { header: &'a Option<ResponseHeader>, done: &'a str },
    AuthStatus(&'a AuthStatusResponse),
    UserGet { name: &'a str, response: &'a AuthUserGetResponse },
    UserList(&'a AuthUserListResponse),
    RoleGet { role: &'a str, response: &'a AuthRoleGetResponse },
    RoleList(&'a AuthRoleListResponse),
}

/// What is in a data directory, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryCheck {
    /// What was read.
    pub verified: quorate_server::offline::Verified,
    /// The first faults.
    pub faults: Vec<quorate_server::offline::DiskFault>,
}

/// What is in a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// CRC-32C of the file.
    pub hash: u32,
    /// The newest revision.
    pub revision: i64,
    /// Versions of keys, and rows of other tables.
    pub total_keys: u64,
    /// Size of the file.
    pub total_bytes: u64,
    /// Version of the storage that it is of.
    pub version: String,
}

/// How one endpoint answered a linearizable read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointHealth {
    /// The endpoint as the user gave it.
    pub endpoint: String,
    /// How long the answer, or its failure, took.
    pub took: Duration,
    /// Why it is unhealthy.
    pub error: Option<String>,
}

/// What goes to standard output and standard error.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Streams {
    /// For standard output.
    pub out: Vec<u8>,
    /// For standard error.
    pub err: Vec<u8>,
}

/// A format with its options.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    /// The format.
    pub format: Format,
    /// Print bytes as `\xNN`, and ids in hexadecimal where etcdctl does.
    pub hex: bool,
    /// Leave keys out. Of the simple format only.
    pub values_only: bool,
}

impl Printer {
    /// Prints an answer to standard output.
    pub fn show(&self, reply: Reply<'_>) -> Result<(), Failure> {
        let streams = self.render(reply)?;
        write(&streams.out, io::stdout().lock())?;
        write(&streams.err, io::stderr().lock())
    }

    /// The text of an answer.
    pub fn render(&self, reply: Reply<'_>) -> Result<Streams, Failure> {
        let mut streams = Streams::default();
        let supported = match self.format {
            Format::Simple => {
                simple::render(reply, *self, &mut streams);
                true
            }
            Format::Json => {
                json::render(reply, self.hex, &mut streams.out);
                true
            }
            Format::Fields => fields::render(reply, self.hex, &mut streams.out),
            Format::Table => table::render(reply, &mut streams.out),
            Format::Protobuf => protobuf::render(reply, &mut streams.out),
        };
        if supported { Ok(streams) } else { Err(self.unsupported()) }
    }

    fn unsupported(&self) -> Failure {
        let name = self.format.to_possible_value().expect("no format is hidden");
        Failure::new(Exit::BadFeature, format!("{} not supported as output format", name.get_name()))
    }
}

/// Prints a line to standard output.
pub fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes(), io::stdout().lock())
}

/// Writes to a stream. Whoever closes the other end of a pipe has read enough, so that is not worth a message.
pub fn write(bytes: &[u8], mut stream: impl io::Write) -> Result<(), Failure> {
    stream.write_all(bytes).and_then(|()| stream.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(Exit::Error),
        _ => Failure::new(Exit::Error, format!("cannot write the output: {error}")),
    })
}

/// Etcdctl's name of an event type.
pub fn event_type_name(event: &quorate_proto::mvccpb::Event) -> String {
    use quorate_proto::mvccpb::event::EventType;
    match EventType::try_from(event.r#type) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => event.r#type.to_string(),
    }
}

/// Etcdctl's name of an alarm.
pub fn alarm_name(alarm: i32) -> String {
    match AlarmType::try_from(alarm) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => alarm.to_string(),
    }
}

/// `writeln!` into bytes.
macro_rules! put {
    ($out:expr, $($arguments:tt)*) => {
        writeln!($out, $($arguments)*).expect("a Vec takes any text")
    };
}
use put;
