//! `cargo xtask upgrade`: a cluster of an earlier commit's build becomes one of this one's, under load.
//!
//! The earlier commit is checked out and built below the build directory, so that the next time only what has changed is built
//! anew. Too slow for every run of CI: what CI runs is the rolling restart, with one build.

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

/// Builds the server of a commit; gives the binary.
fn build(commit: &str) -> Result<PathBuf> {
    let dir = target_dir().join("upgrade");
    let (source, target) = (dir.join("source"), dir.join("target"));
    if source.join("Cargo.toml").is_file() {
        exec(git(&source).args(["checkout", "--quiet", "--force", "--detach", commit]))?;
    } else {
        // One that was deleted by hand is still known to git.
        exec(git(workspace_root()).args(["worktree", "prune"]))?;
        exec(git(workspace_root()).args(["worktree", "add", "--quiet", "--detach"]).arg(&source).arg(commit))?;
    }
    exec(
        cargo().current_dir(&source).args(["build", "--locked", "--package", "quorate", "--target-dir"]).arg(&target),
    )?;
    Ok(target.join("debug").join("quorate"))
}

fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir);
    command
}
