//! A tour through the commands with `quorate` and with etcdctl, each on a server of its own: both must print the same.
//!
//! Twice: with the distribution's etcdctl (3.4 or later; steps whose output has changed since are left out), both on etcd, which
//! tests the commands alone; and with etcdctl 3.5.1 on etcd and `quorate` on `quorate server`, which tests both.
//! `QUORATE_TOUR_ETCD` and `QUORATE_TOUR_ETCDCTL` name the programs if they are not `etcd` and `etcdctl` in the path.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::programs::{Etcd, QUORATE, Release, bundled, free_ports, installed, program, quorate_server, skip};
use crate::steps::{AUTH, CLUSTER, KEYS, LEASES, LOCKS, OTHERS, OURS, Step};

/// How long a watch runs in the tour.
const WATCH_TIME: Duration = Duration::from_secs(1);

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
    fn new(program: String, server: &[String]) -> Self {
        let server = Etcd::start(server);
        let file = server.dir().join("file").display().to_string();
        let ids = BTreeMap::from([("ENDPOINT", server.endpoint()), ("FILE", file)]);
        Tourist { program, server, ids }
    }

    fn take(&mut self, step: &Step) -> Outcome {
        let args = step.args.split(' ').map(|word| self.ids.get(word).map_or(word, String::as_str));
        let mut child = Command::new(&self.program)
            .args(["--endpoints", &self.server.endpoint()])
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read leaves a closed pipe.
        let _ = child.stdin.take().unwrap().write_all(step.stdin.as_bytes());
        if step.args.starts_with("watch") || step.args.starts_with("make-mirror") {
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
        let mut text = text
            .replace(&self.ids["FILE"], "FILE")
            .replace(&self.server.endpoint(), "ENDPOINT")
            .replace(&self.server.peer(), "PEER");
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
        for name in ["raft_term\":", "\"RaftTerm\" : "] {
            text = mask_terms(&text, name);
        }
        mask_ids(&text).lines().map(|line| mask_table(line) + "\n").collect()
    }
}

/// Replaces the terms that follow `name`, but not a missing one: servers differ in the first term of their first leader.
fn mask_terms(text: &str, name: &str) -> String {
    let mut parts = text.split(name);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        masked = masked + name + if part.starts_with('0') { "0" } else { "#" } + rest;
    }
    masked
}

/// Takes the width out of a line of a table: ids that begin with a zero are narrower.
fn mask_table(line: &str) -> String {
    let mut masked = line.to_owned();
    while line.starts_with(['+', '|']) && (masked.contains("--") || masked.contains("  ")) {
        masked = masked.replace("--", "-").replace("  ", " ");
    }
    masked
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
    let mut differences = Vec::new();
    if let Some(release) = installed() {
        differences.extend(compare(steps, &release, &release.server));
    }
    if let Some(release) = bundled() {
        differences.extend(compare(steps, &release, &quorate_server()));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// Takes the steps with both programs, `quorate` on the server that is given.
fn compare(steps: &[Step], Release { etcdctl, server, version }: &Release, our_server: &[String]) -> Vec<String> {
    let mut ours = Tourist::new(QUORATE.to_owned(), our_server);
    let mut theirs = Tourist::new(etcdctl.clone(), server);
    let mut differences = Vec::new();
    for step in steps {
        // Both servers must see every step, or their revisions part.
        let (ours, theirs) = thread::scope(|scope| {
            let ours = scope.spawn(|| ours.take(step));
            let theirs = theirs.take(step);
            (ours.join().unwrap(), theirs)
        });
        if *version >= step.since && ours != theirs {
            let release = format!("etcdctl {}.{}", version.0, version.1);
            differences.push(format!("{}\n  quorate: {ours:#?}\n  {release}: {theirs:#?}", step.args));
        }
    }
    differences
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
fn users_and_roles() {
    tour(AUTH);
}

#[test]
fn others() {
    tour(OTHERS);
}

#[test]
fn what_is_stricter_or_says_more() {
    for (args, code, said) in OURS {
        let output = Command::new(QUORATE).args(args.split(' ')).env_clear().output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), errors.contains(said)), (Some(*code), true), "{args}: {errors}");
    }
}

#[test]
fn messages_are_printed_as_they_are_on_the_wire() {
    let Some(Release { etcdctl, server, .. }) = installed() else { return };
    let server = Etcd::start(&server);
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
    let Some(etcd) = program() else { return skip("etcd") };
    let server = Etcd::start(&etcd);
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
