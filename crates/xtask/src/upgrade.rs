//! `cargo xtask upgrade`: a cluster of an earlier commit's build becomes one of this one's, under load.
//!
//! The earlier commit is checked out below the build directory and built in it: dependencies that did not change are there
//! already.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, target_dir, workspace_root};
use crate::step::exec;

/// Where upgrades come from, unless it is said otherwise.
const FROM: &str = "HEAD~1";

/// Builds the earlier commit and this one, and runs the test.
pub fn run(args: &[String]) -> Result<()> {
    let from = match args {
        [] => FROM,
        [flag, revision] if flag == "--from" => revision,
        _ => bail!("usage: cargo xtask upgrade [--from REVISION]"),
    };
    let commit = commit(from)?;
    println!("from {from}, which is {commit}");
    let old = build(&commit)?;
    exec(cargo().args(["build", "--locked", "--package", "quorate"]))?;
    exec(
        cargo()
            .args(["nextest", "run", "--locked", "--package", "quorate-tests", "--test", "rolling"])
            .args(["--run-ignored", "only", "--no-capture"])
            .env("QUORATE_OLD_BIN", old)
            .env("QUORATE_BIN", target_dir().join("debug").join("quorate")),
    )
}

/// The full name of a commit.
fn commit(revision: &str) -> Result<String> {
    let output = git(workspace_root())
        .args(["rev-parse", "--verify", "--quiet", "--end-of-options"])
        .arg(format!("{revision}^{{commit}}"))
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("{revision} is no commit of this repository");
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Builds the server of a commit; gives a copy of the binary, since the next build takes its place.
fn build(commit: &str) -> Result<PathBuf> {
    let dir = target_dir().join("upgrade");
    let source = dir.join("source");
    if source.join("Cargo.toml").is_file() {
        exec(git(&source).args(["checkout", "--quiet", "--force", "--detach", commit]))?;
    } else {
        // One that was deleted by hand is still known to git.
        exec(git(workspace_root()).args(["worktree", "prune"]))?;
        exec(git(workspace_root()).args(["worktree", "add", "--quiet", "--detach"]).arg(&source).arg(commit))?;
    }
    let target = target_dir();
    exec(
        cargo().current_dir(&source).args(["build", "--locked", "--package", "quorate", "--target-dir"]).arg(&target),
    )?;
    let old = dir.join("quorate");
    std::fs::copy(target.join("debug").join("quorate"), &old).context("cannot copy the earlier build")?;
    Ok(old)
}

fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir);
    command
}
