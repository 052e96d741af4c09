//! `cargo xtask ci`, and the parts of it that are commands of their own.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::cargo::{self, array, cargo, packages, target_dir, text, workspace_root};
use crate::step::{Steps, exec};
use crate::{audit, boundary, chaos, layers};

/// Everything that CI checks. `--no-tests` leaves out the test suite, for a CI that runs `cargo xtask test` next.
pub fn run(args: &[String]) -> Result<()> {
    let with_tests = match args {
        [] => true,
        [flag] if flag == "--no-tests" => false,
        _ => bail!("usage: cargo xtask ci [--no-tests]"),
    };
    let mut steps = Steps::default();
    steps.run("format", || exec(cargo().args(["fmt", "--all", "--check"])));
    steps.run("crate layers", layers::run);
    steps.run("determinism boundary", boundary::run);
    steps.run("dependency audit", audit::run);
    steps.run("clippy", || {
        exec(cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    steps.run("documentation", || {
        exec(cargo().args(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
    if with_tests {
        steps.run("tests", || nextest(&[]));
        steps.run("tests of the client on Quorate", client_on_quorate);
        steps.run("doctests", doctests);
        steps.run("chaos", chaos::sample);
    }
    steps.run("examples", examples);
    steps.finish()
}

/// The test suite, the doctests, and a little chaos. `args` select tests, as for `cargo nextest run`.
pub fn test(args: &[String]) -> Result<()> {
    nextest(args)?;
    // With arguments the caller asked for some tests, not for all of them.
    if !args.is_empty() {
        return Ok(());
    }
    client_on_quorate()?;
    doctests()?;
    chaos::sample()
}

/// Runs every example of the workspace; an example is a test that must end with success.
pub fn examples() -> Result<()> {
    build()?;
    let metadata = cargo::metadata(&["--no-deps"])?;
    let mut count = 0;
    for package in packages(&metadata) {
        for target in array(&package["targets"]).filter(|target| array(&target["kind"]).any(|k| k == "example")) {
            // Not by `cargo run`: for one package alone that would build its dependencies anew, with other features.
            let program = target_dir().join("debug").join("examples").join(text(&target["name"]));
            exec(Command::new(program).current_dir(workspace_root()))?;
            count += 1;
        }
    }
    println!("{count} examples ran");
    Ok(())
}

/// Builds everything that tests and examples need, in one go and so with one set of features.
fn build() -> Result<()> {
    exec(cargo().args(["build", "--locked", "--workspace", "--bins", "--tests", "--examples"]))
}

/// The test runner is a cargo subcommand of its own: a machine that has just got Rust does not have it.
fn install_nextest() -> Result<()> {
    let there = cargo().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    exec(cargo().args(["install", "cargo-nextest", "--locked"]))
}

fn nextest(args: &[String]) -> Result<()> {
    install_nextest()?;
    build()?;
    let mut command = cargo();
    command.args(["nextest", "run", "--locked", "--workspace"]).args(args);
    if std::env::var_os("QUORATE_BIN").is_none() {
        // The whole-cluster tests would build it themselves; they need not.
        command.env("QUORATE_BIN", target_dir().join("debug").join("quorate"));
    }
    exec(&mut command)
}

/// The client's tests once more: they run on etcd, whose client it has to be, and here on the server of this workspace.
fn client_on_quorate() -> Result<()> {
    let server = format!("{} server", target_dir().join("debug").join("quorate").display());
    let filter = "package(quorate-client) & kind(test)";
    exec(
        cargo()
            .args(["nextest", "run", "--locked", "--workspace", "--filterset", filter])
            .env("QUORATE_TEST_SERVER", server),
    )
}

fn doctests() -> Result<()> {
    exec(cargo().args(["test", "--locked", "--quiet", "--workspace", "--doc"]))
}
