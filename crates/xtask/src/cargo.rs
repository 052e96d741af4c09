//! What cargo knows: the workspace's root, and its metadata as JSON.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The root of the workspace, absolute.
pub fn workspace_root() -> &'static Path {
    // xtask lives two levels below the root, and is only ever built from a checkout.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."))
}

/// The build directory: `CARGO_TARGET_DIR`, else `target` under the root.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace_root().join(dir),
        None => workspace_root().join("target"),
    }
}

/// A `cargo` command at the workspace's root, the same cargo that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    // `cargo run` sets these for this program's own package; a build script of another package that reads them would
    // be rebuilt by every run from here.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// `cargo metadata` with `extra` arguments.
pub fn metadata(extra: &[&str]) -> Result<Value> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(extra)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata wrote something that is not JSON")
}

/// The packages that are built for a platform, each as `name version`. Metadata and lock file also name packages that only
/// features bring which nobody turns on (`ring?/alloc`); `cargo tree` does not.
pub fn built(platform: &str) -> Result<BTreeSet<String>> {
    let output = cargo()
        .args(["tree", "--workspace", "--locked", "--target", platform, "--prefix", "none", "--format", "{p}"])
        .output()
        .context("cannot run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let lines = String::from_utf8(output.stdout).context("cargo tree wrote something that is not text")?;
    // `name v1.2.3`, then what is of no interest here.
    let package = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
    };
    Ok(lines.lines().filter_map(package).collect())
}

/// The packages of a metadata document; empty if there are none.
pub fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    array(&metadata["packages"])
}

/// The elements of a JSON array; none for any other value.
pub fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// A JSON string; empty for any other value.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
