//! `cargo xtask boundary`: no clock, socket, file, process or random source below `crates/server`.
//!
//! A simulation replays a run from its seed only if everything that differs between two runs comes in through `Env`.
//! One forgotten `Instant::now` breaks that without any test noticing, so the sources are read for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cargo::workspace_root;
use crate::rust_source::names;

const CRATES: &[&str] = &["sabotage", "core", "proto", "wal", "storage", "node"];

/// Path (with everything below it) -> why it is refused. `std::net`'s addresses are plain data and stay allowed.
const REFUSED: &[(&str, &str)] = &[
    ("std::time::Instant::now", "reads the clock: take the time from `Env`, or from the log entry"),
    ("std::time::SystemTime::now", "reads the clock: take the time from `Env`, or from the log entry"),
    ("std::fs", "touches files: go through the `Disk` or engine that is passed in"),
    ("std::os::unix::fs", "touches files: go through the `Disk` or engine that is passed in"),
    ("std::os::unix::net", "opens sockets: go through `Env`'s network"),
    ("std::net::TcpListener", "opens sockets: go through `Env`'s network"),
    ("std::net::TcpStream", "opens sockets: go through `Env`'s network"),
    ("std::net::UdpSocket", "opens sockets: go through `Env`'s network"),
    ("std::net::ToSocketAddrs", "asks the resolver: go through `Env`'s network"),
    ("std::process", "starts or ends processes: return an error instead"),
    ("std::env", "reads the process environment: take it as configuration"),
    ("std::thread::spawn", "starts a thread that no seed schedules: use `Env`'s runtime"),
    ("std::thread::Builder", "starts a thread that no seed schedules: use `Env`'s runtime"),
    ("std::thread::scope", "starts threads that no seed schedules: use `Env`'s runtime"),
    ("std::thread::sleep", "waits on the real clock: use `Env`'s timers"),
    ("tokio::net", "opens sockets: go through `Env`'s network"),
    ("tokio::fs", "touches files: go through the `Disk` or engine that is passed in"),
    ("tokio::process", "starts processes"),
    ("tokio::signal", "listens to the operating system: the binary does that"),
    ("rand::rng", "draws from the system's entropy: use `Env`'s random source"),
    ("rand::thread_rng", "draws from the system's entropy: use `Env`'s random source"),
    ("rand::random", "draws from the system's entropy: use `Env`'s random source"),
    ("rand::random_range", "draws from the system's entropy: use `Env`'s random source"),
    ("rand::rngs::OsRng", "draws from the system's entropy: use `Env`'s random source"),
    ("rand::rngs::ThreadRng", "draws from the system's entropy: use `Env`'s random source"),
    ("getrandom", "draws from the system's entropy: use `Env`'s random source"),
    ("std::hash::RandomState", "hashes by the system's entropy: use an ordered map"),
    ("std::collections::hash_map::RandomState", "hashes by the system's entropy: use an ordered map"),
];

/// Constructors that are refused whatever type they are called on.
const REFUSED_LAST_SEGMENTS: &[&str] = &["from_os_rng", "from_entropy", "try_from_os_rng"];

/// Files and directories where the outside comes in, each with its reason.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/wal/src/disk.rs", "`OsDisk`, the log's real disk"),
    ("crates/storage/src/engine", "the engines own their files"),
    ("crates/node/src/env", "`Env` itself"),
];

/// Checks the sources.
pub fn run() -> Result<()> {
    let mut files = 0;
    let mut violations = Vec::new();
    for (allowed, _) in ALLOWED {
        if !workspace_root().join(allowed).exists() {
            violations.push(format!("{allowed}: allowed, but not there: take it off the list"));
        }
    }
    for name in CRATES {
        let source = workspace_root().join("crates").join(name).join("src");
        let mut skipped = BTreeSet::new();
        let mut found = Vec::new();
        for file in rust_files(&source)? {
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let relative = file.strip_prefix(workspace_root()).unwrap_or(&file).to_owned();
            skipped.extend(test_files(&relative, &names(&text).test_modules));
            files += 1;
            if !is_allowed(&relative) {
                found.push((relative, check(&text)));
            }
        }
        for (file, lines) in found {
            if !file.ancestors().any(|part| skipped.contains(part)) {
                violations.extend(lines.into_iter().map(|line| format!("{}:{line}", file.display())));
            }
        }
    }
    if violations.is_empty() {
        println!("{files} files of {} crates, nothing reaches around `Env`", CRATES.len());
        return Ok(());
    }
    bail!("{}", violations.join("\n"))
}

/// `line: path: reason` for everything in a source file that is refused.
fn check(source: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for named in names(source).paths {
        if let Some(reason) = refusal(&named.path) {
            violations.push(format!("{}: {}: {reason}", named.line, named.path));
        }
    }
    violations
}

fn refusal(path: &str) -> Option<&'static str> {
    if let Some(module) = path.strip_suffix("::*") {
        return REFUSED
            .iter()
            .any(|(refused, _)| is_below(refused, module) || is_below(module, refused))
            .then_some("a glob import hides which of its names are used: name them");
    }
    if REFUSED_LAST_SEGMENTS.iter().any(|last| path.rsplit("::").next() == Some(last)) {
        return Some("draws from the system's entropy: use `Env`'s random source");
    }
    REFUSED.iter().find(|(refused, _)| is_below(path, refused)).map(|(_, reason)| *reason)
}

/// Whether `path` is `top` or something inside it.
fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_allowed(relative: &Path) -> bool {
    ALLOWED.iter().any(|(allowed, _)| relative.starts_with(allowed))
}

/// Where `#[cfg(test)] mod name;` in `file` finds its source.
fn test_files(file: &Path, modules: &[String]) -> Vec<PathBuf> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let own = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "mod" | "main") | None => directory.to_owned(),
        Some(stem) => directory.join(stem),
    };
    modules.iter().flat_map(|name| [own.join(format!("{name}.rs")), own.join(name)]).collect()
}

/// Every `.rs` file below `directory`, sorted.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_around_env_is_reported_with_its_line() {
        let source = "use std::{time::{Duration, Instant}, fs};\nfn f() {\n  let a = Instant::now();\n  \
                      let b = rand::rng();\n  let c = StdRng::from_os_rng();\n}";
        let lines: Vec<String> =
            check(source).iter().map(|line| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, ["1 std::fs", "3 std::time::Instant::now", "4 rand::rng", "5 StdRng::from_os_rng"]);
    }

    #[test]
    fn plain_data_of_refused_modules_is_allowed() {
        let source = "use std::net::{IpAddr, SocketAddr};\nuse std::time::{Duration, Instant};\nuse rand::rngs::StdRng;\n\
                      use tokio::time::Instant as TokioInstant;\nfn f() { TokioInstant::now(); std::thread::yield_now(); }";
        assert_eq!(check(source), [""; 0]);
    }

    #[test]
    fn a_glob_over_refused_names_is_reported() {
        assert_eq!(check("use std::net::*;").len(), 1);
        assert_eq!(check("use std::fs::*;").len(), 1);
        assert_eq!(check("use super::*;").len(), 0);
    }

    #[test]
    fn the_file_of_a_test_module_is_found() {
        let modules = ["suite".to_owned()];
        assert_eq!(test_files(Path::new("src/lib.rs"), &modules)[0], Path::new("src/suite.rs"));
        assert_eq!(test_files(Path::new("src/a/b.rs"), &modules)[1], Path::new("src/a/b/suite"));
    }
}
