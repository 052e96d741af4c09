//! `cargo xtask audit`: licences, banned crates, sources and duplicate versions, without the network.
//!
//! The lists are those of `deny.toml`, so that `cargo deny check bans licenses sources` and this command agree. Only
//! what is built for Linux is looked at. Advisories need a database from the network and are cargo-deny's.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toml::Table;

use crate::cargo::{self, array, packages, text, workspace_root};

const PLATFORMS: &[&str] = &["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks the dependencies.
pub fn run() -> Result<()> {
    let path = workspace_root().join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let policy = Policy::parse(&text)?;
    let mut violations = BTreeSet::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for platform in PLATFORMS {
        let mut metadata = cargo::metadata(&["--filter-platform", platform])?;
        keep_built(&mut metadata, &cargo::built(platform)?);
        violations.extend(check(&metadata, &policy));
        for package in resolved(&metadata) {
            versions.entry(name(package).to_owned()).or_default().insert(text_of(package, "version"));
        }
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        println!("note: {name} is built {} times: {}", versions.len(), join(versions));
    }
    if violations.is_empty() {
        println!("{} crates, all within deny.toml", versions.len());
        return Ok(());
    }
    bail!("{}", join(&violations).replace(", ", "\n"))
}

/// The part of `deny.toml` that this command reads.
struct Policy {
    licences: BTreeSet<String>,
    /// Banned crate -> the crates that may depend on it all the same.
    banned: BTreeMap<String, BTreeSet<String>>,
}

impl Policy {
    fn parse(text: &str) -> Result<Policy> {
        let table: Table = text.parse().context("deny.toml")?;
        let licences = strings(table.get("licenses").and_then(|licenses| licenses.get("allow")));
        let mut policy = Policy { licences, banned: BTreeMap::new() };
        let bans = table.get("bans").and_then(|bans| bans.get("deny")).and_then(toml::Value::as_array);
        for ban in bans.into_iter().flatten() {
            let name = ban.get("crate").and_then(toml::Value::as_str).context("deny.toml: a ban without `crate`")?;
            policy.banned.insert(name.to_owned(), strings(ban.get("wrappers")));
        }
        if policy.licences.is_empty() || policy.banned.is_empty() {
            bail!("deny.toml: no licenses.allow or no bans.deny");
        }
        Ok(policy)
    }
}

fn strings(value: Option<&toml::Value>) -> BTreeSet<String> {
    let items = value.and_then(toml::Value::as_array);
    items.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

fn join(items: &BTreeSet<String>) -> String {
    items.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn name(package: &Value) -> &str {
    text(&package["name"])
}

fn text_of(package: &Value, field: &str) -> String {
    text(&package[field]).to_owned()
}

/// Takes out of the graph what is not built.
fn keep_built(metadata: &mut Value, built: &BTreeSet<String>) {
    let is_built = |package: &&Value| built.contains(&format!("{} {}", name(package), text(&package["version"])));
    let ids: BTreeSet<String> = packages(metadata).filter(is_built).map(|package| text_of(package, "id")).collect();
    let Some(nodes) = metadata["resolve"]["nodes"].as_array_mut() else { return };
    nodes.retain(|node| ids.contains(text(&node["id"])));
    for dependencies in nodes.iter_mut().filter_map(|node| node["dependencies"].as_array_mut()) {
        dependencies.retain(|dependency| ids.contains(text(dependency)));
    }
}

/// The packages that the chosen platform really builds.
fn resolved(metadata: &Value) -> impl Iterator<Item = &Value> {
    let ids: BTreeSet<&str> = array(&metadata["resolve"]["nodes"]).map(|node| text(&node["id"])).collect();
    packages(metadata).filter(move |package| ids.contains(text(&package["id"])))
}

fn check(metadata: &Value, policy: &Policy) -> Vec<String> {
    let mut violations = Vec::new();
    let names: BTreeMap<&str, &str> = packages(metadata).map(|p| (text(&p["id"]), name(p))).collect();
    for package in resolved(metadata) {
        let what = format!("{} {}", name(package), text(&package["version"]));
        // No source: a crate of this workspace.
        let source = text(&package["source"]);
        if !source.is_empty() && source != CRATES_IO {
            violations.push(format!("{what}: comes from {source}"));
        }
        let licence = text(&package["license"]);
        if !satisfied(licence, &policy.licences) {
            let shown = if licence.is_empty() { "no licence" } else { licence };
            violations.push(format!("{what}: {shown} is not among the allowed licences"));
        }
    }
    for node in array(&metadata["resolve"]["nodes"]) {
        let user = names.get(text(&node["id"])).copied().unwrap_or_default();
        for dependency in array(&node["dependencies"]) {
            let used = names.get(text(dependency)).copied().unwrap_or_default();
            if policy.banned.get(used).is_some_and(|wrappers| !wrappers.contains(user)) {
                violations.push(format!("{user} -> {used}: this crate is banned"));
            }
        }
    }
    violations
}

/// Whether an SPDX expression can be met by the allowed licences alone; never, if it is malformed.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Spdx { words: &words, at: 0, allowed };
    parser.any() == Some(true) && parser.at == words.len()
}

/// Reads by recursive descent; `None` stands for a malformed expression.
struct Spdx<'a> {
    words: &'a [&'a str],
    at: usize,
    allowed: &'a BTreeSet<String>,
}

impl Spdx<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Option<bool> {
        let mut met = self.all()?;
        while self.take("OR") {
            // Read the right side first: a short cut would lose the place in the expression.
            met = self.all()? || met;
        }
        Some(met)
    }

    fn all(&mut self) -> Option<bool> {
        let mut met = self.one()?;
        while self.take("AND") {
            met = self.one()? && met;
        }
        Some(met)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let met = self.any()?;
            return self.take(")").then_some(met);
        }
        let licence = *self.words.get(self.at)?;
        self.at += 1;
        if self.take("WITH") {
            let exception = *self.words.get(self.at)?;
            self.at += 1;
            return Some(self.allowed.contains(&format!("{licence} WITH {exception}")));
        }
        Some(self.allowed.contains(licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy() -> Policy {
        Policy::parse(
            "[licenses]\nallow = [\"MIT\", \"BSD-3-Clause\", \"Apache-2.0 WITH LLVM-exception\"]\n\
             [bans]\ndeny = [{ crate = \"ring\", wrappers = [\"legacy\"] }]",
        )
        .expect("a policy")
    }

    #[test]
    fn licence_expressions_are_read_as_spdx() {
        let allowed = policy().licences;
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("", false),
            ("GPL-3.0-only OR MIT", true),
            ("MIT/Apache-2.0", true),
            ("MIT AND GPL-3.0-only", false),
            ("(GPL-3.0-only OR MIT) AND BSD-3-Clause", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", true),
            ("Apache-2.0 WITH Other-exception", false),
            ("MIT OR (GPL-3.0-only", false),
        ] {
            assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
        }
    }

    fn graph(user: &str, source: &str, licence: &str) -> Value {
        json!({
            "packages": [
                { "id": "u", "name": user, "version": "1.0.0", "license": "MIT", "source": null },
                { "id": "r", "name": "ring", "version": "0.17.0", "license": licence, "source": source },
            ],
            "resolve": { "nodes": [{ "id": "u", "dependencies": ["r"] }, { "id": "r", "dependencies": [] }] },
        })
    }

    #[test]
    fn a_banned_crate_is_reported_but_for_its_wrappers() {
        assert_eq!(check(&graph("app", CRATES_IO, "MIT"), &policy()), ["app -> ring: this crate is banned"]);
        assert_eq!(check(&graph("legacy", CRATES_IO, "MIT"), &policy()), [""; 0]);
    }

    #[test]
    fn what_no_feature_turns_on_is_not_built() {
        let mut metadata = graph("app", CRATES_IO, "GPL-3.0-only");
        keep_built(&mut metadata, &BTreeSet::from(["app 1.0.0".to_owned(), "ring 0.16.0".to_owned()]));
        assert_eq!(check(&metadata, &policy()), [""; 0]);
        let mut metadata = graph("app", CRATES_IO, "MIT");
        keep_built(&mut metadata, &BTreeSet::from(["app 1.0.0".to_owned(), "ring 0.17.0".to_owned()]));
        assert_eq!(check(&metadata, &policy()), ["app -> ring: this crate is banned"]);
    }

    #[test]
    fn a_foreign_source_and_a_foreign_licence_are_reported() {
        let found = check(&graph("legacy", "git+https://example.org/ring", "GPL-3.0-only"), &policy());
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn the_policy_of_this_repository_can_be_read() {
        let text = std::fs::read_to_string(workspace_root().join("deny.toml")).expect("deny.toml");
        assert!(Policy::parse(&text).is_ok());
    }
}
