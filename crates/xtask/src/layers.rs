//! `cargo xtask layers`: the arrows between the crates of this workspace.
//!
//! Only normal dependencies count. A test may reach across layers; what ships may not.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::cargo::{self, array, packages, text};

/// Crate -> the crates of ours that it may depend on. A crate that is not here may not be in the workspace.
const ALLOWED: &[(&str, &[&str])] = &[
    ("quorate-sabotage", &[]),
    ("quorate-bolt", &[]),
    ("quorate-checker", &[]),
    ("quorate-core", &["quorate-sabotage"]),
    ("quorate-proto", &[]),
    ("quorate-wal", &["quorate-sabotage"]),
    ("quorate-tls", &[]),
    ("quorate-storage", &["quorate-core", "quorate-sabotage"]),
    (
        "quorate-node",
        &[
            "quorate-storage",
            "quorate-wal",
            "quorate-core",
            "quorate-proto",
            "quorate-tls",
            "quorate-bolt",
            "quorate-sabotage",
        ],
    ),
    ("quorate-server", &["quorate-node", "quorate-proto", "quorate-core", "quorate-tls", "quorate-sabotage"]),
    ("quorate-client", &["quorate-proto", "quorate-tls", "quorate-sabotage"]),
    ("quorate", &["quorate-server", "quorate-client", "quorate-proto", "quorate-core"]),
    (
        "quorate-sim",
        &[
            "quorate-node",
            "quorate-storage",
            "quorate-wal",
            "quorate-core",
            "quorate-proto",
            "quorate-sabotage",
            "quorate-checker",
            "quorate-server",
            "quorate-client",
        ],
    ),
    ("xtask", &[]),
    // These two drive other processes over the wire, so they see the wire alone.
    // `quorate-tls` makes the tests' certificates.
    ("quorate-tests", &["quorate-proto", "quorate-client", "quorate-tls", "quorate-checker"]),
    ("quorate-benches", &["quorate-proto", "quorate-client"]),
];

/// Checks the workspace.
pub fn run() -> Result<()> {
    let metadata = cargo::metadata(&["--no-deps"])?;
    let violations = check(&metadata);
    if violations.is_empty() {
        println!("{} crates, every arrow allowed", packages(&metadata).count());
        return Ok(());
    }
    bail!("{}", violations.join("\n"))
}

fn check(metadata: &Value) -> Vec<String> {
    let ours: BTreeSet<&str> = packages(metadata).map(|package| text(&package["name"])).collect();
    let mut violations = Vec::new();
    for package in packages(metadata) {
        let name = text(&package["name"]);
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            violations.push(format!("{name}: not in the table of layers (crates/xtask/src/layers.rs)"));
            continue;
        };
        for dependency in array(&package["dependencies"]).filter(|dependency| dependency["kind"].is_null()) {
            let to = text(&dependency["name"]);
            if to == "quorate-sabotage" && array(&dependency["features"]).next().is_some() {
                violations.push(format!("{name} -> {to}: no dependency may arm it"));
            }
            if ours.contains(to) && !allowed.contains(&to) {
                violations.push(format!("{name} -> {to}: this arrow is not in the design"));
            }
        }
        for (feature, turns_on) in package["features"].as_object().into_iter().flatten() {
            let arms = array(turns_on).any(|other| text(other).starts_with("quorate-sabotage/"));
            if arms && (name != "quorate-sim" || feature != "sabotage") {
                violations
                    .push(format!("{name}: the feature {feature} arms quorate-sabotage: only the simulation may"));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A dependency and its kind; a normal one has none.
    type Dependency<'a> = (&'a str, Option<&'a str>);

    fn workspace(crates: &[(&str, &[Dependency<'_>])]) -> Value {
        let packages: Vec<Value> = crates
            .iter()
            .map(|(name, dependencies)| {
                let dependencies: Vec<Value> =
                    dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
                json!({ "name": name, "dependencies": dependencies })
            })
            .collect();
        json!({ "packages": packages })
    }

    #[test]
    fn an_arrow_that_points_up_is_reported() {
        let metadata = workspace(&[
            ("quorate-core", &[("quorate-storage", None), ("bytes", None)]),
            ("quorate-storage", &[("quorate-core", None)]),
        ]);
        assert_eq!(check(&metadata), ["quorate-core -> quorate-storage: this arrow is not in the design"]);
    }

    #[test]
    fn a_dev_dependency_is_no_arrow() {
        let metadata = workspace(&[("quorate-core", &[("quorate-storage", Some("dev"))]), ("quorate-storage", &[])]);
        assert_eq!(check(&metadata), [""; 0]);
    }

    #[test]
    fn only_the_simulation_arms_the_bugs() {
        let arm = |name: &str, feature: &str| json!({ "packages": [{ "name": name, "dependencies": [], "features": { feature: ["quorate-sabotage/armed"] } }] });
        assert_eq!(check(&arm("quorate-sim", "sabotage")), [""; 0]);
        assert_eq!(check(&arm("quorate-sim", "default")).len(), 1);
        assert_eq!(check(&arm("quorate", "sabotage")).len(), 1);
        let features = json!({ "name": "quorate-sabotage", "kind": null, "features": ["armed"] });
        let metadata = json!({ "packages": [
            { "name": "quorate-sabotage", "dependencies": [] },
            { "name": "quorate-core", "dependencies": [features] },
        ] });
        assert_eq!(check(&metadata), ["quorate-core -> quorate-sabotage: no dependency may arm it"]);
    }

    #[test]
    fn a_crate_without_a_layer_is_reported() {
        assert_eq!(check(&workspace(&[("quorate-extra", &[])])).len(), 1);
    }
}
