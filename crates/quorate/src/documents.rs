//! What the documents say of options, calls and commands is what is there: every option that they name exists, and
//! `docs/API.md` has every call and command of etcd 3.6. (Its options have a test of their own, in `quorate-server`.)

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

/// Options of `cargo xtask sim` and `cargo xtask bench`.
const DEVELOPERS: &str = "bug calls mode seed seeds shrink twice verbose json svg";

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

#[test]
fn every_option_that_is_named_exists() {
    let mut options: BTreeSet<String> = DEVELOPERS.split(' ').chain(["help", "version"]).map(str::to_owned).collect();
    add_options(&crate::cli::command(), &mut options);
    add_options(&quorate_server::command(), &mut options);
    let (mut seen, mut unknown) = (0, Vec::new());
    for (path, text) in documents() {
        // Other programs have options as well.
        let ours = text.lines().filter(|line| {
            !["cargo ", "openssl ", "etcdctl ", "quorate-bench"].iter().any(|program| line.contains(program))
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
