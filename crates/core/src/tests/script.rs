//! The language of the transcripts: one statement per `;`, one line of answer for each.
//!
//! ```text
//! put a 1 [lease=7] [prev] [ignore_value] [ignore_lease]      "" is the empty value
//! del RANGE [prev]                                            RANGE is a, a..c, a.. or ..
//! range RANGE[@REVISION] [limit=N] [asc|desc|by=TARGET] [keys] [count] [min_mod=N] ...
//! txn [if COMPARE ...] [then { OP ; OP }] [else { OP }]       COMPARE is mod(RANGE)=3, val(a)!=x, ...
//! grant ID TTL | revoke ID | checkpoint ID SECONDS | compact REVISION
//! version MINOR | downgrade MINOR | cancel                    of major version 3
//! alarm KIND MEMBER | disarm KIND MEMBER | publish MEMBER NAME | forget MEMBER
//! stream RANGE[@REVISION] KEYS BYTES [limit=N] [keys]         read in chunks
//! history | leases | restart
//! ```
//!
//! An answer begins with the revision for the response header.

use crate::testing::MemoryView;
use crate::{
    Alarm, AlarmKind, Change, ClusterVersion, Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange,
    KeyValue, LeaseId, MemberAttributes, MemberId, Op, OpReply, Put, RangeCursor, RangeReply, RangeRequest, Record,
    Reply, Revision, SortOrder, SortTarget, Txn, TxnReply, View, check_range, check_txn, range,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use expect_test::Expect;

/// Runs a script on a fresh state and compares the transcript.
pub(super) fn check(script: &str, expected: Expect) {
    let mut view = MemoryView::new();
    let mut transcript = String::new();
    let mut tokens = Tokens::new(script);
    while !tokens.is_at_end() {
        if tokens.eat(";") {
            continue;
        }
        let line = statement(&mut view, &mut tokens);
        transcript.push_str(&format!("{} {}\n", view.revision(), line));
        assert_eq!(view.restart(), view, "a restart must not change the state");
    }
    expected.assert_eq(&transcript);
}

fn statement(view: &mut MemoryView, tokens: &mut Tokens) -> String {
    let word = tokens.next();
    match word.as_str() {
        "put" | "del" => {
            let op = tokens.op(&word);
            run(view, Command::Txn(Txn::of(op)))
        }
        "range" => match tokens.op(&word) {
            Op::Range(request) => show_range(view, &request),
            Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) => unreachable!(),
        },
        "txn" => {
            let txn = tokens.txn();
            run(view, Command::Txn(txn))
        }
        "stream" => stream(view, tokens),
        "grant" => run(view, Command::LeaseGrant { id: tokens.lease(), ttl_seconds: tokens.number() }),
        "revoke" => run(view, Command::LeaseRevoke { id: tokens.lease() }),
        "checkpoint" => run(view, Command::LeaseCheckpoint { remaining: [(tokens.lease(), tokens.number())].into() }),
        "compact" => run(view, Command::Compact { revision: Revision::new(tokens.number()) }),
        "alarm" => run(view, Command::AlarmActivate(tokens.alarm())),
        "disarm" => run(view, Command::AlarmDeactivate(tokens.alarm())),
        "version" => run(view, Command::ClusterVersionSet(tokens.version())),
        "downgrade" => run(view, Command::DowngradeEnable(tokens.version())),
        "cancel" => run(view, Command::DowngradeCancel),
        "publish" => {
            let member = MemberId::new(tokens.number() as u64);
            let attributes = MemberAttributes { name: tokens.next(), ..MemberAttributes::default() };
            run(view, Command::MemberPublish { member, attributes })
        }
        "forget" => run(view, Command::MemberForget { member: MemberId::new(tokens.number() as u64) }),
        "members" => list(view.members().iter().map(|(member, attributes)| format!("{member} {}", attributes.name))),
        "history" => list(view.records().map(show_record)),
        "leases" => list((1..10).filter_map(|id| view.lease(LeaseId::new(id))).map(|lease| {
            let keys = list(view.lease_keys(lease.id).iter().map(text));
            format!("{} ttl={} left={} {keys}", lease.id, lease.ttl_seconds, lease.remaining_ttl_seconds)
        })),
        "restart" => {
            *view = view.restart();
            "restart".into()
        }
        other => panic!("unknown statement {other}"),
    }
}

fn run(view: &mut MemoryView, command: Command) -> String {
    if let Command::Txn(txn) = &command
        && let Err(rejection) = check_txn(txn, 128)
    {
        return format!("refused: {rejection}");
    }
    let effects = view.run(&command).expect("the state is consistent");
    match effects.reply {
        Ok(reply) => show_reply(&reply),
        Err(rejection) => {
            assert!(effects.delta.is_empty(), "a rejection changes nothing");
            format!("rejected: {rejection}")
        }
    }
}

fn show_range(view: &MemoryView, request: &RangeRequest) -> String {
    if let Err(rejection) = check_range(request) {
        return format!("refused: {rejection}");
    }
    match range(view, request).expect("the state is consistent") {
        Ok(reply) => format!("range {}", show_range_reply(&reply)),
        Err(rejection) => format!("rejected: {rejection}"),
    }
}

fn stream(view: &MemoryView, tokens: &mut Tokens) -> String {
    let Op::Range(mut request) = tokens.range_op() else { unreachable!() };
    let (keys_max, bytes_max) = (tokens.number() as usize, tokens.number() as usize);
    tokens.range_options(&mut request);
    let mut cursor = match RangeCursor::new(view, &request) {
        Ok(cursor) => cursor,
        Err(rejection) => return format!("rejected: {rejection}"),
    };
    let mut chunks = Vec::new();
    loop {
        match cursor.next_chunk(view, keys_max, bytes_max).expect("the state is consistent") {
            Ok(chunk) => {
                chunks.push(list(chunk.kvs.iter().map(show_kv)));
                if let Some(totals) = chunk.totals {
                    let more = if totals.more { " more" } else { "" };
                    return format!("stream {} count={}{more}", chunks.join(" "), totals.count);
                }
            }
            Err(rejection) => return format!("rejected: {rejection}"),
        }
    }
}

fn show_reply(reply: &Reply) -> String {
    match reply {
        Reply::Txn(TxnReply { succeeded: true, responses }) if responses.len() == 1 => show_op_reply(&responses[0]),
        Reply::Txn(reply) => show_txn_reply(reply),
        Reply::Compact => "compacted".into(),
        Reply::LeaseGrant { id, ttl_seconds } => format!("granted {id} ttl={ttl_seconds}"),
        Reply::LeaseRevoke => "revoked".into(),
        Reply::LeaseCheckpoint => "checkpointed".into(),
        Reply::Member => "member".into(),
        Reply::Auth => "auth".into(),
        Reply::Alarm(alarms) => {
            format!("alarms {}", list(alarms.iter().map(|alarm| format!("{:?} {}", alarm.kind, alarm.member))))
        }
        Reply::Versions(versions) => {
            let show = |version: Option<ClusterVersion>| version.map_or("none".into(), |version| version.to_string());
            format!("version {} target {}", show(versions.current), show(versions.target))
        }
    }
}

fn show_txn_reply(reply: &TxnReply) -> String {
    let branch = if reply.succeeded { "then" } else { "else" };
    format!("{branch} {{{}}}", reply.responses.iter().map(show_op_reply).collect::<Vec<_>>().join("; "))
}

fn show_op_reply(reply: &OpReply) -> String {
    match reply {
        OpReply::Range { revision, reply } => format!("range@{revision} {}", show_range_reply(reply)),
        OpReply::Put { revision, prev_kv: None } => format!("put@{revision}"),
        OpReply::Put { revision, prev_kv: Some(kv) } => format!("put@{revision} prev {}", show_kv(kv)),
        OpReply::DeleteRange { revision, deleted, prev_kvs } => {
            format!("del@{revision} {deleted} {}", list(prev_kvs.iter().map(show_kv)))
        }
        OpReply::Txn(reply) => show_txn_reply(reply),
    }
}

fn show_range_reply(reply: &RangeReply) -> String {
    let more = if reply.more { " more" } else { "" };
    format!("{} count={}{more}", list(reply.kvs.iter().map(show_kv)), reply.count)
}

fn show_kv(kv: &KeyValue) -> String {
    let lease = if kv.lease.is_some() { format!(" l{}", kv.lease) } else { String::new() };
    let (key, value) = (text(&kv.key), text(&kv.value));
    format!("{key}={value} c{} m{} v{}{lease}", kv.create_revision, kv.mod_revision, kv.version)
}

fn show_record(record: &Record) -> String {
    let replaces = record.replaces.map(|rev| format!(" replaces {rev}")).unwrap_or_default();
    let change = match &record.change {
        Change::Put { value, .. } => format!("put {}={}", text(&record.key), text(value)),
        Change::Delete => format!("del {}", text(&record.key)),
    };
    format!("{} {change}{replaces}", record.rev)
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn bytes(word: &str) -> Bytes {
    if word == "\"\"" { Bytes::new() } else { Bytes::copy_from_slice(word.as_bytes()) }
}

fn key_range(word: &str) -> KeyRange {
    match word.split_once("..") {
        None => KeyRange::Single(bytes(word)),
        Some(("", "")) => KeyRange::From { start: Bytes::from_static(b"\0") },
        Some((start, "")) => KeyRange::From { start: bytes(start) },
        Some((start, end)) => KeyRange::Interval { start: bytes(start), end: bytes(end) },
    }
}

fn compare(word: &str) -> Compare {
    let (field, rest) = word.split_once('(').expect("FIELD(RANGE)");
    let (keys, rest) = rest.split_once(')').expect("FIELD(RANGE)");
    let (result, wanted) = if let Some(wanted) = rest.strip_prefix("!=") {
        (CompareResult::NotEqual, wanted)
    } else if let Some(wanted) = rest.strip_prefix('=') {
        (CompareResult::Equal, wanted)
    } else if let Some(wanted) = rest.strip_prefix('<') {
        (CompareResult::Less, wanted)
    } else {
        (CompareResult::Greater, rest.strip_prefix('>').expect("an operator"))
    };
    let number = || wanted.parse().expect("a number");
    let target = match field {
        "ver" => CompareTarget::Version(number()),
        "create" => CompareTarget::Create(Revision::new(number())),
        "mod" => CompareTarget::Mod(Revision::new(number())),
        "lease" => CompareTarget::Lease(LeaseId::new(number())),
        "val" => CompareTarget::Value(bytes(wanted)),
        other => panic!("unknown field {other}"),
    };
    Compare { range: key_range(keys), result, target }
}

/// A script, cut at white space.
pub(super) struct Tokens(Vec<String>);

impl Tokens {
    fn new(script: &str) -> Self {
        let spaced = script.replace(';', " ; ").replace('{', " { ").replace('}', " } ");
        Self(spaced.split_whitespace().rev().map(ToString::to_string).collect())
    }

    fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    fn version(&mut self) -> ClusterVersion {
        ClusterVersion { major: 3, minor: self.number() as u32 }
    }

    fn peek(&self) -> &str {
        self.0.last().map_or(";", String::as_str)
    }

    fn next(&mut self) -> String {
        self.0.pop().expect("the script goes on")
    }

    fn eat(&mut self, word: &str) -> bool {
        let there = self.peek() == word && !self.is_at_end();
        if there {
            self.next();
        }
        there
    }

    fn number(&mut self) -> i64 {
        self.next().parse().expect("a number")
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId::new(self.number())
    }

    fn alarm(&mut self) -> Alarm {
        let kind = match self.next().as_str() {
            "nospace" => AlarmKind::NoSpace,
            "corrupt" => AlarmKind::Corrupt,
            other => panic!("unknown alarm {other}"),
        };
        Alarm { member: MemberId::new(self.number() as u64), kind }
    }

    /// Words up to the end of the statement.
    fn options(&mut self) -> Vec<String> {
        let mut options = Vec::new();
        while !matches!(self.peek(), ";" | "}") {
            options.push(self.next());
        }
        options
    }

    fn op(&mut self, word: &str) -> Op {
        match word {
            "put" => self.put(),
            "del" => {
                let range = key_range(&self.next());
                let options = self.options();
                Op::DeleteRange(DeleteRange { range, prev_kv: options.iter().any(|option| option == "prev") })
            }
            "range" => {
                let Op::Range(mut request) = self.range_op() else { unreachable!() };
                self.range_options(&mut request);
                Op::Range(request)
            }
            "txn" => Op::Txn(self.txn()),
            other => panic!("unknown op {other}"),
        }
    }

    fn put(&mut self) -> Op {
        let mut put = Put { key: bytes(&self.next()), value: bytes(&self.next()), ..Put::default() };
        for option in self.options() {
            match option.split_once('=').unwrap_or((&option, "")) {
                ("lease", id) => put.lease = LeaseId::new(id.parse().expect("a number")),
                ("prev", _) => put.prev_kv = true,
                ("ignore_value", _) => put.ignore_value = true,
                ("ignore_lease", _) => put.ignore_lease = true,
                (other, _) => panic!("unknown option {other}"),
            }
        }
        Op::Put(put)
    }

    fn range_op(&mut self) -> Op {
        let word = self.next();
        let (keys, revision) = word.split_once('@').unwrap_or((&word, "0"));
        let revision = Revision::new(revision.parse().expect("a number"));
        Op::Range(RangeRequest { revision, ..RangeRequest::new(key_range(keys)) })
    }

    fn range_options(&mut self, request: &mut RangeRequest) {
        for option in self.options() {
            let (name, value) = option.split_once('=').unwrap_or((&option, ""));
            let revision = || Revision::new(value.parse().expect("a number"));
            match name {
                "limit" => request.limit = value.parse().expect("a number"),
                "asc" | "desc" | "by" => {
                    request.sort_order = match name {
                        "asc" => SortOrder::Ascend,
                        "desc" => SortOrder::Descend,
                        _ => SortOrder::None,
                    };
                    request.sort_target = match value {
                        "key" => SortTarget::Key,
                        "ver" => SortTarget::Version,
                        "create" => SortTarget::Create,
                        "mod" => SortTarget::Mod,
                        "val" => SortTarget::Value,
                        other => panic!("unknown target {other}"),
                    };
                }
                "keys" => request.keys_only = true,
                "count" => request.count_only = true,
                "min_mod" => request.min_mod_revision = revision(),
                "max_mod" => request.max_mod_revision = revision(),
                "min_create" => request.min_create_revision = revision(),
                "max_create" => request.max_create_revision = revision(),
                other => panic!("unknown option {other}"),
            }
        }
    }

    fn txn(&mut self) -> Txn {
        let mut txn = Txn::default();
        if self.eat("if") {
            while !matches!(self.peek(), "then" | "else" | ";" | "}") {
                txn.compares.push(compare(&self.next()));
            }
        }
        if self.eat("then") {
            txn.success = self.block();
        }
        if self.eat("else") {
            txn.failure = self.block();
        }
        txn
    }

    fn block(&mut self) -> Vec<Op> {
        assert!(self.eat("{"), "a block begins with {{");
        let mut ops = Vec::new();
        while !self.eat("}") {
            if !self.eat(";") {
                let word = self.next();
                ops.push(self.op(&word));
            }
        }
        ops
    }
}
