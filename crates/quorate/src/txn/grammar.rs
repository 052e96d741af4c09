//! The lines of a transaction.
//!
//! A condition is `TARGET("KEY") OPERATOR "OPERAND"`; a request is a `put`, `get` or `del` command with its options.

use std::sync::OnceLock;

use clap::{Command, FromArgMatches, Subcommand};
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::{Compare, RequestOp};

use crate::context::with_go_switches;
use crate::failure::{Exit, Failure};
use crate::golang::{Malformed, parse_int, quote, unquote_prefix};
use crate::kv::{DelArgs, GetArgs, PutArgs};
use crate::words;

fn invalid(message: String) -> Failure {
    Failure::new(Exit::InvalidInput, message)
}

/// Parses a condition.
pub(super) fn compare(line: &str) -> Result<Compare, Failure> {
    let (target, rest) = line.split_once('(').ok_or_else(|| invalid(format!("malformed comparison: {line}")))?;
    let mut scan = Scan { rest };
    let key = scan.quoted().unwrap_or_default();
    let operator = scan.operator().unwrap_or_default();
    let Some(operand) = (!operator.is_empty()).then(|| scan.operand()).flatten() else {
        let key = quote(&key);
        return Err(invalid(format!("malformed comparison: {line}; got {target}({key}) {operator} \"\"")));
    };

    let number = |radix: u32| -> Result<i64, Failure> {
        // Text that is not UTF-8 is no number either.
        let text = String::from_utf8_lossy(&operand);
        let wrong = |error: Malformed| invalid(format!("invalid txn compare request: {line} ({error})"));
        parse_int(&text, radix).map_err(wrong)
    };
    let (target, target_union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(operand.into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(invalid(format!("malformed comparison: {line} (unknown target {target})"))),
    };
    let result = match operator {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(invalid(format!("malformed comparison: {line} (unknown operator {operator})"))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(target_union),
        range_end: Default::default(),
    })
}

/// Reads as Go's `Sscanf` does with `%q) %s %q`. What follows the operand is ignored.
struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let (value, rest) = unquote_prefix(self.rest.trim_start())?;
        self.rest = rest;
        Some(value)
    }

    fn operator(&mut self) -> Option<&'a str> {
        let text = self.rest.strip_prefix(')')?;
        let word = text.trim_start();
        let has_space = word.len() < text.len();
        let end = word.find(char::is_whitespace).unwrap_or(word.len());
        has_space.then(|| {
            let (operator, rest) = word.split_at(end);
            self.rest = rest;
            operator
        })
    }

    fn operand(&mut self) -> Option<Vec<u8>> {
        self.quoted()
    }
}

#[derive(Debug, Subcommand)]
enum Operation {
    Put(PutArgs),
    Get(GetArgs),
    Del(DelArgs),
}

/// Parses a request.
pub(super) fn operation(line: &str) -> Result<RequestOp, Failure> {
    static PARSER: OnceLock<Command> = OnceLock::new();
    let parser = PARSER.get_or_init(|| {
        let command = Command::new("txn").no_binary_name(true).subcommand_required(true).disable_help_subcommand(true);
        with_go_switches(Operation::augment_subcommands(command))
    });
    let words = words::split(line)?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {line}")));
    }
    let matches = parser.clone().try_get_matches_from(words);
    let operation = matches.and_then(|matches| Operation::from_arg_matches(&matches));
    let request = match operation.map_err(|_| invalid(format!("invalid txn request: {line}")))? {
        // Standard input is the transaction, so it cannot be the value.
        Operation::Put(put) => Request::RequestPut(put.request(|| Ok(Vec::new()))?),
        Operation::Get(get) => Request::RequestRange(get.request()?),
        Operation::Del(del) => Request::RequestDeleteRange(del.request()?),
    };
    Ok(RequestOp { request: Some(request) })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check<T: std::fmt::Debug>(parse: impl Fn(&str) -> Result<T, Failure>, lines: &[&str], expected: Expect) {
        let outcome = |line: &&str| match parse(line) {
            Ok(parsed) => format!("{line}\n    {parsed:?}\n"),
            Err(failure) => format!("{line}\n    exit {}: {}\n", failure.exit.code(), failure.message.unwrap()),
        };
        expected.assert_eq(&lines.iter().map(outcome).collect::<String>());
    }

    #[test]
    fn conditions() {
        let lines = [
            r#"mod("a") > "0""#,
            r#"m("a") = "1""#,
            r#"create("a") < "1""#,
            r#"c("a") != "1""#,
            r#"ver("a") = "1""#,
            r#"version("a") = "-1""#,
            r#"val("a b") = "x \"y\" \xff""#,
            r#"value(`a`) = `\n`"#,
            r#"lease("a") = "7f""#,
            r#"mod( "a")   >   "0" ignored"#,
        ];
        check(
            compare,
            &lines,
            expect![[r#"
            mod("a") > "0"
                Compare { result: Greater, target: Mod, key: b"a", range_end: b"", target_union: Some(ModRevision(0)) }
            m("a") = "1"
                Compare { result: Equal, target: Mod, key: b"a", range_end: b"", target_union: Some(ModRevision(1)) }
            create("a") < "1"
                Compare { result: Less, target: Create, key: b"a", range_end: b"", target_union: Some(CreateRevision(1)) }
            c("a") != "1"
                Compare { result: NotEqual, target: Create, key: b"a", range_end: b"", target_union: Some(CreateRevision(1)) }
            ver("a") = "1"
                Compare { result: Equal, target: Version, key: b"a", range_end: b"", target_union: Some(Version(1)) }
            version("a") = "-1"
                Compare { result: Equal, target: Version, key: b"a", range_end: b"", target_union: Some(Version(-1)) }
            val("a b") = "x \"y\" \xff"
                Compare { result: Equal, target: Value, key: b"a b", range_end: b"", target_union: Some(Value(b"x \"y\" \xff")) }
            value(`a`) = `\n`
                Compare { result: Equal, target: Value, key: b"a", range_end: b"", target_union: Some(Value(b"\\n")) }
            lease("a") = "7f"
                Compare { result: Equal, target: Lease, key: b"a", range_end: b"", target_union: Some(Lease(127)) }
            mod( "a")   >   "0" ignored
                Compare { result: Greater, target: Mod, key: b"a", range_end: b"", target_union: Some(ModRevision(0)) }
        "#]],
        );
    }

    #[test]
    fn conditions_that_are_refused() {
        let lines = [
            "mod",
            r#"mod("a")> "0""#,
            r#"mod("a")>"0""#,
            r#"mod("a") >"0""#,
            r#"mod("a" ) > "0""#,
            r#"mod ("a") > "0""#,
            r#"mod(a) > "0""#,
            r#"mod('a') > '0'"#,
            r#"mod("a") > 0"#,
            r#"mod("a") >"#,
            r#"mod("a") == "0""#,
            r#"mod("a") > "z""#,
            r#"mod("a") > "9223372036854775808""#,
            r#"lease("a") = "zz""#,
            r#"xx("a") > "0""#,
        ];
        check(
            compare,
            &lines,
            expect![[r#"
            mod
                exit 3: malformed comparison: mod
            mod("a")> "0"
                exit 3: malformed comparison: mod("a")> "0"; got mod("a")  ""
            mod("a")>"0"
                exit 3: malformed comparison: mod("a")>"0"; got mod("a")  ""
            mod("a") >"0"
                exit 3: malformed comparison: mod("a") >"0"; got mod("a") >"0" ""
            mod("a" ) > "0"
                exit 3: malformed comparison: mod("a" ) > "0"; got mod("a")  ""
            mod ("a") > "0"
                exit 3: malformed comparison: mod ("a") > "0" (unknown target mod )
            mod(a) > "0"
                exit 3: malformed comparison: mod(a) > "0"; got mod("")  ""
            mod('a') > '0'
                exit 3: malformed comparison: mod('a') > '0'; got mod("")  ""
            mod("a") > 0
                exit 3: malformed comparison: mod("a") > 0; got mod("a") > ""
            mod("a") >
                exit 3: malformed comparison: mod("a") >; got mod("a") > ""
            mod("a") == "0"
                exit 3: malformed comparison: mod("a") == "0" (unknown operator ==)
            mod("a") > "z"
                exit 3: invalid txn compare request: mod("a") > "z" (strconv.ParseInt: parsing "z": invalid syntax)
            mod("a") > "9223372036854775808"
                exit 3: invalid txn compare request: mod("a") > "9223372036854775808" (strconv.ParseInt: parsing "9223372036854775808": value out of range)
            lease("a") = "zz"
                exit 3: invalid txn compare request: lease("a") = "zz" (strconv.ParseInt: parsing "zz": invalid syntax)
            xx("a") > "0"
                exit 3: malformed comparison: xx("a") > "0" (unknown target xx)
        "#]],
        );
    }

    #[test]
    fn requests() {
        let lines = [
            "put a b",
            r#"put "a b" 'c "d'"#,
            r#"put a "\xff\n" --lease=7f --prev-kv"#,
            "put -- -a -b",
            "put a --ignore-value=true",
            "get a",
            "get a b --limit 3 --rev=7 --order descend --sort-by VALUE --consistency s",
            "get --prefix a --keys-only=false",
            "get --prefix \"\"",
            "get --from-key a",
            "del a",
            "del a b --prev-kv",
            "del --prefix \"\\xff\"",
        ];
        check(
            operation,
            &lines,
            expect![[r#"
            put a b
                RequestOp { request: Some(RequestPut(PutRequest { key: b"a", value: b"b", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false })) }
            put "a b" 'c "d'
                RequestOp { request: Some(RequestPut(PutRequest { key: b"a b", value: b"c \"d", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false })) }
            put a "\xff\n" --lease=7f --prev-kv
                RequestOp { request: Some(RequestPut(PutRequest { key: b"a", value: b"\xff\n", lease: 127, prev_kv: true, ignore_value: false, ignore_lease: false })) }
            put -- -a -b
                RequestOp { request: Some(RequestPut(PutRequest { key: b"-a", value: b"-b", lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false })) }
            put a --ignore-value=true
                RequestOp { request: Some(RequestPut(PutRequest { key: b"a", value: b"", lease: 0, prev_kv: false, ignore_value: true, ignore_lease: false })) }
            get a
                RequestOp { request: Some(RequestRange(RangeRequest { key: b"a", range_end: b"", limit: 0, revision: 0, sort_order: None, sort_target: Key, serializable: false, keys_only: false, count_only: false, min_mod_revision: 0, max_mod_revision: 0, min_create_revision: 0, max_create_revision: 0 })) }
            get a b --limit 3 --rev=7 --order descend --sort-by VALUE --consistency s
                RequestOp { request: Some(RequestRange(RangeRequest { key: b"a", range_end: b"b", limit: 3, revision: 7, sort_order: Descend, sort_target: Value, serializable: true, keys_only: false, count_only: false, min_mod_revision: 0, max_mod_revision: 0, min_create_revision: 0, max_create_revision: 0 })) }
            get --prefix a --keys-only=false
                RequestOp { request: Some(RequestRange(RangeRequest { key: b"a", range_end: b"b", limit: 0, revision: 0, sort_order: None, sort_target: Key, serializable: false, keys_only: false, count_only: false, min_mod_revision: 0, max_mod_revision: 0, min_create_revision: 0, max_create_revision: 0 })) }
            get --prefix ""
                RequestOp { request: Some(RequestRange(RangeRequest { key: b"\0", range_end: b"\0", limit: 0, revision: 0, sort_order: None, sort_target: Key, serializable: false, keys_only: false, count_only: false, min_mod_revision: 0, max_mod_revision: 0, min_create_revision: 0, max_create_revision: 0 })) }
            get --from-key a
                RequestOp { request: Some(RequestRange(RangeRequest { key: b"a", range_end: b"\0", limit: 0, revision: 0, sort_order: None, sort_target: Key, serializable: false, keys_only: false, count_only: false, min_mod_revision: 0, max_mod_revision: 0, min_create_revision: 0, max_create_revision: 0 })) }
            del a
                RequestOp { request: Some(RequestDeleteRange(DeleteRangeRequest { key: b"a", range_end: b"", prev_kv: false })) }
            del a b --prev-kv
                RequestOp { request: Some(RequestDeleteRange(DeleteRangeRequest { key: b"a", range_end: b"b", prev_kv: true })) }
            del --prefix "\xff"
                RequestOp { request: Some(RequestDeleteRange(DeleteRangeRequest { key: b"\xff", range_end: b"\0", prev_kv: false })) }
        "#]],
        );
    }

    #[test]
    fn requests_that_are_refused() {
        let lines = [
            "get",
            "delete a",
            "foo a",
            "put a",
            "put a b --lease zz",
            "get a --nope",
            "get a --limit x",
            "get a b --prefix",
            "get a --prefix --from-key",
            "put a \"\\q\"",
            "--help a",
        ];
        check(
            operation,
            &lines,
            expect![[r#"
            get
                exit 3: invalid txn compare request: get
            delete a
                exit 3: invalid txn request: delete a
            foo a
                exit 3: invalid txn request: foo a
            put a
                exit 128: put command needs 1 argument and input from stdin or 2 arguments
            put a b --lease zz
                exit 128: bad lease ID (strconv.ParseInt: parsing "zz": invalid syntax), expecting ID in Hex
            get a --nope
                exit 3: invalid txn request: get a --nope
            get a --limit x
                exit 3: invalid txn request: get a --limit x
            get a b --prefix
                exit 128: too many arguments, only accept one argument when `--prefix` or `--from-key` is set
            get a --prefix --from-key
                exit 128: `--prefix` and `--from-key` cannot be set at the same time, choose one
            put a "\q"
                exit 3: bad quoted string "\q"
            --help a
                exit 3: invalid txn request: --help a
        "#]],
        );
    }
}
