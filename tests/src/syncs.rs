//! Disks that do not keep what they promise: what a running process gets from its fsyncs, by `strace`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

/// Makes every sync of a process fail from now on. Ends with the process.
///
/// # Errors
/// When there is no `strace`.
pub fn fail(pid: u32) -> Result<Child> {
    inject(pid, "error=EIO")
}

/// Makes every sync of a process take longer. To end it, end the child by SIGTERM.
///
/// # Errors
/// When there is no `strace`.
pub fn delay(pid: u32, by: Duration) -> Result<Child> {
    inject(pid, &format!("delay_enter={}", by.as_micros()))
}

fn inject(pid: u32, what: &str) -> Result<Child> {
    Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", &format!("inject=fsync,fdatasync:{what}")])
        .args(["-o", "/dev/null", "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run strace")
}
