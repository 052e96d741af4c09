//! A tour through the commands with `quorate` and with etcdctl, each on a server of its own: both must print the same.
//!
//! Needs etcdctl 3.4 or later; steps whose output has changed since are left out. By default the servers are real etcds.
//! With `QUORATE_TOUR_SERVER=quorate` they are `quorate server`, which tests the server instead. `QUORATE_TOUR_ETCD` and
//! `QUORATE_TOUR_ETCDCTL` name the programs if they are not `etcd` and `etcdctl` in the path.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::programs::{Etcd, QUORATE, etcdctl, free_ports, program};

/// How long a watch runs in the tour.
const WATCH_TIME: Duration = Duration::from_secs(1);

/// One command line. Words in capitals stand for ids that an earlier answer told: `LEASE`, `MEMBER`.
struct Step {
    args: &'static str,
    stdin: &'static str,
    /// Release of etcdctl from which on its output is as it is now.
    since: (u32, u32),
    /// The output lists members, in the order of ids that are random.
    unordered: bool,
}

const fn step(args: &'static str) -> Step {
    Step { args, stdin: "", since: (3, 4), unordered: false }
}

const fn fed(args: &'static str, stdin: &'static str) -> Step {
    Step { stdin, ..step(args) }
}

const fn unordered(args: &'static str) -> Step {
    Step { unordered: true, ..step(args) }
}

const fn since_3_5(args: &'static str, stdin: &'static str) -> Step {
    Step { since: (3, 5), ..fed(args, stdin) }
}

const fn since_3_6(args: &'static str) -> Step {
    Step { since: (3, 6), ..step(args) }
}

const TXN: &str =
    "mod(\"a\") > \"0\"\nval(\"a\") != \"zz\"\n\nput a 2\nget a --limit 1\ndel zz\nget --prefix a\n\nput b 1\n\n";

const KEYS: &[Step] = &[
    step("put a 1"),
    step("put a 2 --prev-kv"),
    step("put ab 3 -w json"),
    fed("put b", "from\0stdin\n"),
    step("put -- -key -value"),
    step("put a"),
    step("put"),
    step("put a 1 --lease zz"),
    step("put a 1 --lease 77"),
    step("put a x --ignore-value"),
    step("put nothing --ignore-value"),
    step("put a --ignore-value --prev-kv -w fields"),
    step("get a"),
    step("get a b"),
    step("get a --rev 2 -w json"),
    step("get a --rev 1000"),
    step("get --prefix a -w json"),
    step("get --prefix a --keys-only"),
    step("get --from-key a --print-value-only"),
    step("get --from-key a --limit 1 -w json"),
    step("get --prefix a --order DESCEND --sort-by MODIFY"),
    step("get --prefix a --order ascend --sort-by version --consistency s -w fields"),
    step("get --prefix --hex b"),
    since_3_5("get --prefix=true a --count-only -w fields", ""),
    since_3_5("get a --count-only", ""),
    step("get a --print-value-only -w json"),
    step("get a -w table"),
    step("get"),
    step("get a --prefix --from-key"),
    step("get a b --prefix"),
    step("get none -w json"),
    fed("txn", TXN),
    since_3_5("txn -w json", TXN),
    fed("txn -w fields", TXN),
    fed("txn -i", TXN),
    fed("txn", "\n\n\n"),
    fed("txn", "mod(\"a\") = \"0\"\n\nput a 3\n\nget a\nput \"c d\" \"e f\"\n\n"),
    fed("txn", "mod(\"a\")> \"0\"\n\n\n\n"),
    fed("txn", "mod(\"a\") > \"0\"\n"),
    fed("txn", "xx(\"a\") > \"0\"\n\n\n\n"),
    fed("txn", "\ndelete a\n\n\n"),
    step("txn x"),
    step("del ab --prev-kv"),
    step("del ab -w json"),
    step("del --prefix c --prev-kv -w fields"),
    step("del"),
    step("compaction 3"),
    step("compaction 3"),
    step("compaction x"),
    step("compact 4 --physical"),
    step("get a --rev 1"),
    step("watch"),
    step("watch a b --prefix"),
    step("watch a --"),
    step("watch --rev 1 a"),
    step("watch --rev 5 --prefix a --prev-kv"),
    step("watch --rev 5 --prefix a --prev-kv -w json"),
    step("watch --rev 5 a -w fields"),
    step("watch --rev 6 a -- printenv ETCD_WATCH_REVISION ETCD_WATCH_EVENT_TYPE ETCD_WATCH_KEY ETCD_WATCH_VALUE"),
    since_3_5("watch -i", "foo\nwatch\n\n"),
];

const LEASES: &[Step] = &[
    step("lease list"),
    step("lease grant 600"),
    step("put leased 1 --lease LEASE"),
    step("get leased -w json"),
    step("lease timetolive LEASE"),
    step("lease timetolive LEASE --keys"),
    step("lease timetolive LEASE --keys -w json"),
    step("lease timetolive LEASE -w fields"),
    step("lease list"),
    step("lease list -w json"),
    step("lease keep-alive LEASE --once"),
    step("lease keep-alive --once LEASE -w json"),
    step("lease keep-alive 77 --once"),
    step("lease keep-alive 77"),
    step("lease revoke LEASE"),
    step("lease revoke LEASE"),
    step("get leased"),
    step("lease grant 600 -w json"),
    step("lease grant 600 -w fields"),
    step("lease timetolive 77"),
    step("lease timetolive 77 -w json"),
    step("lease timetolive"),
    step("lease grant"),
    step("lease grant x"),
    step("lease revoke zz"),
    step("lease list -w table"),
];

const CLUSTER: &[Step] = &[
    step("member list"),
    step("member list -w json"),
    step("member list -w table"),
    since_3_6("member list -w json --hex"),
    since_3_6("member list -w fields"),
    step("member add new"),
    step("member add new http://127.0.0.1:9"),
    unordered("member add new --peer-urls=http://127.0.0.1:9 --learner"),
    unordered("member list"),
    step("member promote MEMBER"),
    step("member update MEMBER --peer-urls=http://127.0.0.1:10"),
    unordered("member list -w json"),
    step("member remove MEMBER"),
    step("member remove 12"),
    step("member remove zz"),
    step("member remove"),
    since_3_5("endpoint health", ""),
    step("endpoint health --cluster -w json"),
    step("endpoint health -w fields"),
    since_3_6("endpoint status -w json"),
    since_3_6("endpoint status"),
    since_3_6("endpoint status -w table"),
    since_3_6("endpoint status -w fields"),
    since_3_6("endpoint hashkv"),
    since_3_6("endpoint hashkv -w json"),
    step("endpoint hashkv --rev 100000"),
    step("alarm list"),
    step("alarm list -w json"),
    step("alarm disarm"),
    step("alarm disarm -w json"),
    step("defrag"),
    step("snapshot save"),
    step("move-leader"),
    step("move-leader zz"),
];

const LOCKS: &[Step] = &[
    step("lock l true"),
    step("lock l -- printenv ETCD_LOCK_REV"),
    step("lock l nothing-of-this-name"),
    step("lock l --ttl 5 -- false"),
    step("lock"),
    step("get l --prefix -w json"),
    step("elect"),
    step("elect e"),
    step("elect e proposal -l"),
    step("elect e proposal more"),
];

/// A command line program, the server that it talks to, and the ids that it has seen.
struct Tourist {
    program: String,
    server: Etcd,
    ids: BTreeMap<&'static str, String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: String,
    stdout: String,
    errors: String,
}

impl Tourist {
    fn new(program: String) -> Self {
        Tourist { program, server: Etcd::start(), ids: BTreeMap::new() }
    }

    fn take(&mut self, step: &Step) -> Outcome {
        let args = step.args.split(' ').map(|word| self.ids.get(word).map_or(word, String::as_str));
        let mut child = Command::new(&self.program)
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("ETCDCTL_ENDPOINTS", self.server.endpoint())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read leaves a closed pipe.
        let _ = child.stdin.take().unwrap().write_all(step.stdin.as_bytes());
        if step.args.starts_with("watch") {
            let start = Instant::now();
            while start.elapsed() < WATCH_TIME && child.try_wait().unwrap().is_none() {
                thread::sleep(Duration::from_millis(20));
            }
            // One that has ended cannot be killed, and need not be.
            let _ = child.kill();
        }
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        self.learn(&stdout);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        Outcome {
            code: output.status.code().map_or("killed".to_owned(), |code| code.to_string()),
            stdout: if step.unordered { in_order(&self.mask(&stdout)) } else { self.mask(&stdout) },
            // Etcdctl also logs to standard error, as JSON.
            errors: self.mask(&errors.lines().filter(|line| !line.starts_with('{')).collect::<Vec<_>>().join("\n")),
        }
    }

    fn learn(&mut self, stdout: &str) {
        let words: Vec<&str> = stdout.split_whitespace().take(3).collect();
        match words.as_slice() {
            ["lease", id, "granted"] => self.ids.insert("LEASE", (*id).to_owned()),
            ["Member", id, "added"] => self.ids.insert("MEMBER", (*id).to_owned()),
            _ => None,
        };
    }

    /// Replaces what no two servers have in common: addresses, ids, hashes, times, positions in the log, sizes.
    fn mask(&self, text: &str) -> String {
        let mut text = text.replace(&self.server.endpoint(), "ENDPOINT").replace(&self.server.peer(), "PEER");
        for name in [
            "\"took\":",
            "took = ",
            "\"Took\" : ",
            "\"hash\":",
            "raftIndex\":",
            "raftAppliedIndex\":",
            "dbSize\":",
            "dbSizeInUse\":",
        ] {
            text = mask_after(&text, name);
        }
        mask_ids(&text)
    }
}

/// The words of a text, sorted.
fn in_order(text: &str) -> String {
    let mut words: Vec<&str> = text.split([' ', ',', '\n', '"', '{', '}', '[', ']']).collect();
    words.sort_unstable();
    words.join(" ")
}

/// Replaces what follows each `name`, up to the end of the value.
fn mask_after(text: &str, name: &str) -> String {
    let mut parts = text.split(name);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([',', '}', '\n']).unwrap_or(part.len());
        masked = masked + name + "#" + &part[end..];
    }
    masked
}

/// Hexadecimal digits of an id at its full width.
const ID_DIGITS: usize = 16;

/// Replaces runs of 12 or more hexadecimal digits, and so decimal ids too.
fn mask_ids(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let run = &rest[start..];
        let end = run.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(run.len());
        masked += &rest[..start];
        // An id that begins with a zero is padded to its full width with a blank.
        let padding = if end >= 12 { ID_DIGITS.saturating_sub(end) } else { 0 };
        for _ in 0..padding {
            if masked.ends_with("  ") {
                masked.pop();
            }
        }
        masked += if end >= 12 { "ID" } else { &run[..end] };
        rest = &run[end..];
    }
    masked + rest
}

fn tour(steps: &[Step]) {
    let Some((etcdctl, version)) = etcdctl() else { return };
    if program().is_none() {
        println!("skipped: needs etcd");
        return;
    }
    let (mut ours, mut theirs) = (Tourist::new(QUORATE.to_owned()), Tourist::new(etcdctl));
    let mut differences = Vec::new();
    for step in steps {
        // Both servers must see every step, or their revisions part.
        let (ours, theirs) = (ours.take(step), theirs.take(step));
        if version >= step.since && ours != theirs {
            differences.push(format!("{}\n  quorate: {ours:#?}\n  etcdctl: {theirs:#?}", step.args));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn keys() {
    tour(KEYS);
}

#[test]
fn leases() {
    tour(LEASES);
}

#[test]
fn locks() {
    tour(LOCKS);
}

#[test]
fn cluster() {
    tour(CLUSTER);
}

#[test]
fn messages_are_printed_as_they_are_on_the_wire() {
    let Some((etcdctl, _)) = etcdctl() else { return };
    if program().is_none() {
        println!("skipped: needs etcd");
        return;
    }
    let server = Etcd::start();
    let run = |program: &str, args: &str| {
        let mut command = Command::new(program);
        command.args(args.split(' ')).env_clear().env("ETCDCTL_ENDPOINTS", server.endpoint());
        command.output().unwrap().stdout
    };
    run(QUORATE, "put a 1");
    for args in ["get a -w protobuf", "get --from-key a -w protobuf", "member list -w protobuf"] {
        let ours = run(QUORATE, args);
        assert!(!ours.is_empty(), "{args}");
        assert_eq!(ours, run(&etcdctl, args), "{args}");
    }
}

#[test]
fn a_server_that_is_not_there() {
    let [port] = free_ports();
    let endpoint = format!("127.0.0.1:{port}");
    let run = |args: &str| {
        let mut command = Command::new(QUORATE);
        command.args(["--command-timeout=500ms", "--endpoints", &endpoint]).args(args.split(' '));
        let output = command.env_clear().output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for args in ["get a", "put a 1", "del a", "lease grant 1", "member list", "endpoint status -w table", "defrag"] {
        let (code, _, errors) = run(args);
        assert_eq!(code, Some(1), "{args}: {errors}");
        assert!(!errors.is_empty(), "{args}");
    }
    let (code, stdout, errors) = run("endpoint health -w json");
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with(&format!("[{{\"endpoint\":\"{endpoint}\",\"health\":false,\"took\":")), "{stdout}");
    assert_eq!(errors, "Error: unhealthy cluster\n");
    for (args, expected) in [
        ("--cacert no-such-file get a", "TLS cannot be set up: no-such-file: No such file or directory"),
        ("--cert a get a", "--cert needs its key: give --key as well"),
        ("--key=a get a", "--key needs its certificate: give --cert as well"),
    ] {
        let (code, _, errors) = run(args);
        assert_eq!((code, errors.contains(expected)), (Some(128), true), "{args}: {errors}");
    }
}

#[test]
fn the_snapshot_is_written_to_the_file() {
    if program().is_none() {
        println!("skipped: needs etcd");
        return;
    }
    let server = Etcd::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot.db");
    let save = |path: &std::path::Path| {
        let mut command = Command::new(QUORATE);
        command.args(["snapshot", "save"]).arg(path).env_clear().env("QUORATE_ENDPOINTS", server.endpoint());
        command.output().unwrap()
    };
    let output = save(&file);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("Snapshot saved at {}\n", file.display()));
    assert!(std::fs::metadata(&file).unwrap().len() > 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else stays");
    assert_eq!(save(&dir.path().join("no/such/dir")).status.code(), Some(5));
}
