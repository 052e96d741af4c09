//! `put`, `get`, `del` and `compaction`. The first three are also the operations of `txn`.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::etcdserverpb::*;

use crate::context::{Context, bytes};
use crate::failure::{Exit, Failure};
use crate::golang::{parse_int, quote};
use crate::print::{Format, Printer, Reply, line};
use crate::progress::{Task, watched};

/// The end of the range from a key to the end of all keys.
const OPEN_END: &[u8] = b"\0";
/// The smallest key.
const FIRST_KEY: &[u8] = b"\0";

/// Arguments of `put`.
#[derive(Debug, Clone, Default, Args)]
pub struct PutArgs {
    /// Key to write
    #[arg(value_name = "KEY")]
    key: Option<OsString>,

    /// Value to write; read from standard input when it is not given
    #[arg(value_name = "VALUE")]
    value: Option<OsString>,

    /// Lease to attach the key to, in hexadecimal
    #[arg(long, default_value = "0", value_name = "ID")]
    lease: String,

    /// Also print what the key held before
    #[arg(long)]
    prev_kv: bool,

    /// Keep the value that the key has
    #[arg(long)]
    ignore_value: bool,

    /// Keep the lease that the key has
    #[arg(long)]
    ignore_lease: bool,
}

impl PutArgs {
    /// The request. `stdin` is read if the value is not an argument.
    pub fn request(self, stdin: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<PutRequest, Failure> {
        const USAGE: &str = "put command needs 1 argument and input from stdin or 2 arguments";
        let key = self.key.ok_or_else(|| Failure::arguments(USAGE))?;
        let value = match self.value {
            Some(_) if self.ignore_value => {
                return Err(Failure::arguments("put command needs only 1 argument when 'ignore-value' is set"));
            }
            None if self.ignore_value => Bytes::new(),
            Some(value) => bytes(&value),
            None => match stdin() {
                Ok(value) if !value.is_empty() => Bytes::from(value),
                Ok(_) | Err(_) => return Err(Failure::arguments(USAGE)),
            },
        };
        let lease = parse_int(&self.lease, 16)
            .map_err(|error| Failure::arguments(format!("bad lease ID ({error}), expecting ID in Hex")))?;
        Ok(PutRequest {
            key: bytes(&key),
            value,
            lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }

    /// Writes the key.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = self.request(read_stdin)?;
        let response = context.client().await?.kv().put(request).await.map_err(|error| Failure::call(&error))?;
        context.show(Reply::Put(&response))
    }
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut value = Vec::new();
    io::stdin().lock().read_to_end(&mut value)?;
    Ok(value)
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Consistency {
    /// Linearizable: nothing that was written before is missed.
    #[default]
    #[value(name = "l")]
    Linearizable,
    /// Serializable: what the member has, perhaps stale.
    #[value(name = "s")]
    Serializable,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Order {
    #[default]
    #[value(name = "", hide = true)]
    Unset,
    #[value(name = "ASCEND")]
    Ascend,
    #[value(name = "DESCEND")]
    Descend,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum SortBy {
    #[default]
    #[value(name = "", hide = true)]
    Unset,
    #[value(name = "CREATE")]
    Create,
    #[value(name = "KEY")]
    Key,
    #[value(name = "MODIFY")]
    Modify,
    #[value(name = "VALUE")]
    Value,
    #[value(name = "VERSION")]
    Version,
}

/// Arguments of `get`.
#[derive(Debug, Clone, Default, Args)]
pub struct GetArgs {
    /// Key to read, or the first key of a range
    #[arg(value_name = "KEY")]
    key: Option<OsString>,

    /// First key that is no longer in the range
    #[arg(value_name = "RANGE_END")]
    range_end: Option<OsString>,

    /// Read all keys that begin with KEY
    #[arg(long)]
    prefix: bool,

    /// Read all keys from KEY on
    #[arg(long)]
    from_key: bool,

    /// Read what the keys held at this revision
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "REVISION")]
    rev: i64,

    /// Print no more than so many keys
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "NUMBER")]
    limit: i64,

    /// Order of the keys
    #[arg(long, ignore_case = true, default_value = "", hide_default_value = true)]
    order: Order,

    /// What to sort by
    #[arg(long, ignore_case = true, default_value = "", hide_default_value = true)]
    sort_by: SortBy,

    /// Linearizable (l): nothing written before is missed. Serializable (s): what the member has
    #[arg(long, default_value = "l")]
    consistency: Consistency,

    /// Print keys without values
    #[arg(long)]
    keys_only: bool,

    /// Print only the number of keys; needs --write-out=fields
    #[arg(long)]
    count_only: bool,

    /// Print only values, unchanged; needs --write-out=simple
    #[arg(long)]
    print_value_only: bool,

    /// Leave out keys last changed before this revision
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "REVISION")]
    min_mod_rev: i64,

    /// Leave out keys last changed after this revision
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "REVISION")]
    max_mod_rev: i64,

    /// Leave out keys created before this revision
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "REVISION")]
    min_create_rev: i64,

    /// Leave out keys created after this revision
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "REVISION")]
    max_create_rev: i64,
}

impl GetArgs {
    /// The request.
    pub fn request(&self) -> Result<RangeRequest, Failure> {
        let range = Range { key: &self.key, range_end: &self.range_end, prefix: self.prefix, from_key: self.from_key };
        let (key, range_end) = range.resolve("get")?;
        if self.keys_only && self.count_only {
            return Err(Failure::arguments(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            ));
        }
        let target = match self.sort_by {
            SortBy::Unset | SortBy::Key => SortTarget::Key,
            SortBy::Create => SortTarget::Create,
            SortBy::Modify => SortTarget::Mod,
            SortBy::Value => SortTarget::Value,
            SortBy::Version => SortTarget::Version,
        };
        let order = match self.order {
            // Servers sort by key anyway; asking for it makes them read the whole range before they cut it.
            Order::Ascend if target == SortTarget::Key => SortOrder::None,
            Order::Unset => SortOrder::None,
            Order::Ascend => SortOrder::Ascend,
            Order::Descend => SortOrder::Descend,
        };
        Ok(RangeRequest {
            key,
            range_end,
            limit: self.limit,
            revision: self.rev.max(0),
            sort_order: order.into(),
            sort_target: target.into(),
            serializable: self.consistency == Consistency::Serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.min_mod_rev,
            max_mod_revision: self.max_mod_rev,
            min_create_revision: self.min_create_rev,
            max_create_revision: self.max_create_rev,
        })
    }

    /// Reads the keys.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = self.request()?;
        let printer = Printer { values_only: self.print_value_only, ..context.printer() };
        if self.count_only && printer.format != Format::Fields {
            return Err(Failure::arguments("--count-only is only for `--write-out=fields`"));
        }
        if self.print_value_only && printer.format != Format::Simple {
            return Err(Failure::arguments("print-value-only is only for `--write-out=simple`"));
        }
        let response = context.client().await?.kv().range(request).await.map_err(|error| Failure::call(&error))?;
        printer.show(Reply::Get(&response))
    }
}

/// Arguments of `del`.
#[derive(Debug, Clone, Default, Args)]
pub struct DelArgs {
    /// Key to delete, or the first key of a range
    #[arg(value_name = "KEY")]
    key: Option<OsString>,

    /// First key that is no longer in the range
    #[arg(value_name = "RANGE_END")]
    range_end: Option<OsString>,

    #[arg(hide = true)]
    more: Vec<OsString>,

    /// Delete all keys that begin with KEY
    #[arg(long)]
    prefix: bool,

    /// Delete all keys from KEY on
    #[arg(long)]
    from_key: bool,

    /// Also print what is deleted
    #[arg(long)]
    prev_kv: bool,

    /// Delete the keys from KEY up to RANGE_END without a moment to think it over
    #[arg(long)]
    range: bool,
}

impl DelArgs {
    /// The request.
    pub fn request(&self) -> Result<DeleteRangeRequest, Failure> {
        let key = if self.more.is_empty() { &self.key } else { &None };
        let range = Range { key, range_end: &self.range_end, prefix: self.prefix, from_key: self.from_key };
        let (key, range_end) = range.resolve("del")?;
        Ok(DeleteRangeRequest { key, range_end, prev_kv: self.prev_kv })
    }

    /// Deletes the keys.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = self.request()?;
        if self.range_end.is_some() && !self.range {
            eprintln!(
                "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds \
                 to cancel. You can provide `--range` flag to avoid the delay.",
                quote(&request.key),
                quote(&request.range_end)
            );
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let deleted = context.client().await?.kv().delete_range(request).await;
        context.show(Reply::Delete(&deleted.map_err(|error| Failure::call(&error))?))
    }
}

/// The keys that a command is about.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a> {
    /// First argument.
    pub key: &'a Option<OsString>,
    /// Second argument.
    pub range_end: &'a Option<OsString>,
    /// `--prefix`.
    pub prefix: bool,
    /// `--from-key`.
    pub from_key: bool,
}

impl Range<'_> {
    /// Key and range end as they go into a request.
    fn resolve(self, command: &str) -> Result<(Bytes, Bytes), Failure> {
        let key = self.key.as_ref().ok_or_else(|| {
            Failure::arguments(format!(
                "{command} command needs one argument as key and an optional argument as range_end"
            ))
        })?;
        if self.prefix && self.from_key {
            return Err(Failure::arguments("`--prefix` and `--from-key` cannot be set at the same time, choose one"));
        }
        if self.range_end.is_some() && (self.prefix || self.from_key) {
            return Err(Failure::arguments(
                "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
            ));
        }
        let key = bytes(key);
        Ok(match self.range_end {
            Some(range_end) => (key, bytes(range_end)),
            None if self.prefix => prefix_range(key),
            None if self.from_key && key.is_empty() => (Bytes::from_static(FIRST_KEY), Bytes::from_static(OPEN_END)),
            None if self.from_key => (key, Bytes::from_static(OPEN_END)),
            None => (key, Bytes::new()),
        })
    }
}

/// The range of all keys with a prefix.
pub fn prefix_range(prefix: Bytes) -> (Bytes, Bytes) {
    if prefix.is_empty() {
        return (Bytes::from_static(FIRST_KEY), Bytes::from_static(OPEN_END));
    }
    // The keys end before the next prefix of the same length. One of 0xff alone has none.
    let range_end = match prefix.iter().rposition(|byte| *byte < 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        }
        None => Bytes::from_static(OPEN_END),
    };
    (prefix, range_end)
}

/// Arguments of `compaction`.
#[derive(Debug, Clone, Default, Args)]
pub struct CompactionArgs {
    /// Revision before which history is dropped
    #[arg(value_name = "REVISION")]
    revision: Option<String>,

    /// Wait until the old data is gone from the disk
    #[arg(long)]
    physical: bool,
}

impl CompactionArgs {
    /// Compacts the history.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let revision = self.revision.ok_or_else(|| Failure::arguments("compaction command needs 1 argument"))?;
        let revision = parse_int(&revision, 10).map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        let request = CompactionRequest { revision, physical: self.physical };
        let client = context.client().await?;
        let (kv, what) = (client.kv(), format!("compacting at revision {revision}"));
        // Without --physical it is no more than a write, and no line will be seen.
        let work = kv.compact(request);
        watched(&what, &client, Task::Compaction, work).await.map_err(|error| Failure::call(&error))?;
        line(format_args!("compacted revision {revision}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        let cases: &[(&[u8], &[u8], &[u8])] = &[
            (b"", b"\0", b"\0"),
            (b"a", b"a", b"b"),
            (b"a/", b"a/", b"a0"),
            (b"a\xff\xff", b"a\xff\xff", b"b"),
            (b"\xff", b"\xff", b"\0"),
        ];
        for (prefix, key, range_end) in cases {
            let expected = (Bytes::from_static(key), Bytes::from_static(range_end));
            assert_eq!(prefix_range(Bytes::from_static(prefix)), expected);
        }
    }

    #[test]
    fn the_value_comes_from_standard_input_if_it_is_not_an_argument() {
        let put = PutArgs { key: Some("a".into()), lease: "0".into(), ..PutArgs::default() };
        let value = |stdin: &'static [u8]| put.clone().request(|| Ok(stdin.to_vec())).map(|request| request.value);
        assert_eq!(value(b"x\0\xff\n"), Ok(Bytes::from_static(b"x\0\xff\n")));
        assert_eq!(value(b"").unwrap_err().exit, Exit::BadArguments);
    }
}
