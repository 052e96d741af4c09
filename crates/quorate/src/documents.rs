//! What the documents say of options, calls, commands and code is what is there: every option that they name exists, so does every
//! file and function, and `docs/API.md` has every call and command of etcd 3.6. (Its options have a test of their own, in
//! `quorate-server`.)

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Command;

/// Commands of etcdctl and etcdutl 3.6, and of the server.
const ETCDS_COMMANDS: &str = "
    alarm disarm, alarm list, auth disable, auth enable, auth status, check datascale, check perf, compaction, completion,
    defrag, del, downgrade cancel, downgrade enable, downgrade validate, elect, endpoint hashkv, endpoint health,
    endpoint status, get, lease grant, lease keep-alive, lease list, lease revoke, lease timetolive, lock, make-mirror,
    member add, member list, member promote, member remove, member update, move-leader, options, put, role add, role delete,
    role get, role grant-permission, role list, role revoke-permission, snapshot save, txn, user add, user delete, user get,
    user grant-role, user list, user passwd, user revoke-role, version, watch,
    etcdutl completion, etcdutl defrag, etcdutl hashkv, etcdutl migrate, etcdutl snapshot restore, etcdutl snapshot status,
    etcdutl version, etcd gateway, etcd grpc-proxy";

/// Those that are absent, for the reason in the document.
const ABSENT: &[&str] = &["etcdutl hashkv", "etcdutl migrate", "etcd gateway", "etcd grpc-proxy"];

/// What `cargo xtask` runs: programs that declare their options with `clap`, so that a field stands behind each `#[arg(long)]`.
const DEVELOPERS_PROGRAMS: &[&str] =
    &["crates/sim/src/main.rs", "tests/src/bin/quorate-chaos.rs", "benches/src/bin/quorate-bench.rs"];

/// Its own commands compare words with their options.
const XTASK: &str = "crates/xtask/src";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Path and text of the documents for users and developers.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    let mut directories = vec![root().join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn add_options(command: &Command, options: &mut BTreeSet<String>) {
    options.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
    command.get_subcommands().for_each(|command| add_options(command, options));
}

/// The options that a line names. `--initial-...` names all that begin so.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("--").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && !matches!(c, '-' | '.'));
        let name = &rest[..end.unwrap_or(rest.len())];
        let name = name.strip_suffix("...").unwrap_or_else(|| name.trim_end_matches(['.', '-']));
        name.starts_with(|c: char| c.is_ascii_lowercase()).then_some(name)
    })
}

/// The options of the programs for developers, which this crate cannot depend on: as their sources declare them.
fn developers_options() -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for program in DEVELOPERS_PROGRAMS {
        let source = std::fs::read_to_string(root().join(program)).unwrap();
        let before = options.len();
        for declared in source.split("#[arg(long").skip(1) {
            let field = declared.lines().skip(1).find_map(|line| line.trim_start().split_once(": "));
            let (name, _) = field.unwrap_or_else(|| panic!("{program}: an option without a field"));
            options.insert(name.trim_start_matches("pub ").replace('_', "-"));
        }
        assert!(options.len() > before, "{program} declares no options");
    }
    for entry in std::fs::read_dir(root().join(XTASK)).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut before = "";
        for rest in source.split("\"--") {
            let (name, after) = rest.split_once('"').unwrap_or_default();
            // Other words with dashes are what it gives to other programs.
            if before.ends_with("== ") || after.starts_with(" =>") {
                options.insert(name.to_owned());
            }
            before = rest;
        }
    }
    options
}

#[test]
fn every_option_that_is_named_exists() {
    let mut options = developers_options();
    options.extend(["help", "version"].map(str::to_owned));
    add_options(&crate::cli::command(), &mut options);
    add_options(&quorate_server::command(), &mut options);
    let (mut seen, mut unknown) = (0, Vec::new());
    for (path, text) in documents() {
        // Other programs have options as well.
        let ours = text.lines().filter(|line| {
            let of_cargo = line.replace("cargo xtask", "").contains("cargo ");
            !of_cargo && !["openssl ", "etcdctl "].iter().any(|program| line.contains(program))
        });
        for name in ours.flat_map(named) {
            seen += 1;
            let exists = options.contains(name) || name.ends_with('-') && options.iter().any(|it| it.starts_with(name));
            if !exists {
                unknown.push(format!("{} names --{name}", path.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "nothing has these options:\n{}", unknown.join("\n"));
    assert!(seen > 500, "only {seen} were found: that checks nothing");
}

#[test]
fn the_table_of_calls_has_every_call() {
    let document = std::fs::read_to_string(root().join("docs/API.md")).unwrap();
    let calls = include_str!("../../proto/tests/etcd_contract.txt");
    let mut rows: &str = "";
    let mut count = 0;
    for line in calls.lines() {
        if let Some(service) = line.strip_prefix("S ") {
            let (_, after) = document.split_once(&format!("| **{service}** |")).unwrap_or_else(|| panic!("{service}"));
            rows = after.split("| **").next().unwrap_or_default();
        } else if let Some(call) = line.strip_prefix("R ").and_then(|rest| rest.split_whitespace().next()) {
            count += 1;
            let names = |row: &str| row.strip_prefix("| ").is_some_and(|row| words(row).any(|word| word == call));
            assert!(rows.lines().any(names), "docs/API.md does not tell of {call}");
        }
    }
    assert!(count > 50, "only {count} calls");
}

/// The words of a row's first cell.
fn words(row: &str) -> impl Iterator<Item = &str> {
    let cell = row.split(" |").next().unwrap_or_default();
    cell.split([' ', ',', '`', '(', ':']).filter(|word| !word.is_empty())
}

#[test]
fn the_table_of_commands_has_every_command() {
    let document = std::fs::read_to_string(root().join("docs/API.md")).unwrap();
    let (_, table) = document.split_once("## Commands").unwrap();
    let names = ETCDS_COMMANDS.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty());
    for name in names {
        let (group, last) = name.rsplit_once(' ').unwrap_or(("", name));
        // `lease grant`, `revoke` and so on share a row.
        let tells = |row: &&str| {
            let cell = row.strip_prefix("| `").and_then(|row| row.split(" | ").next()).unwrap_or_default();
            cell.contains(group) && words(cell).any(|word| word == last)
        };
        let row = table.lines().find(tells).unwrap_or_else(|| panic!("docs/API.md does not tell of {name}"));
        assert_eq!(row.contains("| absent |"), ABSENT.contains(&name), "{row}");
        if name.starts_with("etcd") {
            continue;
        }
        let mut found = crate::cli::command();
        for word in name.split(' ') {
            found = found.find_subcommand(word).unwrap_or_else(|| panic!("there is no {name}")).clone();
        }
    }
}

/// The file that a document names as `crate/file.rs`, without `src/`; `None` if the first word is not a crate.
fn source_of(name: &str) -> Option<Vec<PathBuf>> {
    let (package, file) = name.split_once('/')?;
    let package = root().join("crates").join(package);
    (package.is_dir() && file.ends_with(".rs")).then(|| vec![package.join("src").join(file), package.join(file)])
}

#[test]
fn the_code_that_is_named_is_there() {
    let (mut seen, mut missing) = (0, Vec::new());
    for document in ["docs/INVARIANTS.md", "docs/ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        // Every second part is what stands between two marks.
        let parts: Vec<&str> = text.split('`').collect();
        for (at, name) in parts.iter().enumerate().skip(1).step_by(2) {
            let Some(candidates) = source_of(name) else { continue };
            seen += 1;
            let Some(source) = candidates.iter().find_map(|path| std::fs::read_to_string(path).ok()) else {
                missing.push(format!("{document}: {name}"));
                continue;
            };
            // A name right behind the file is of something in it.
            if let [" ", item, ..] = &parts[at + 1..] {
                let item = item.rsplit("::").next().unwrap_or_default();
                if !source.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == item) {
                    missing.push(format!("{document}: {item} of {name}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
    assert!(seen > 30, "only {seen} were found: that checks nothing");
}
