//! How much memory a process has: a control group of its own with a limit, and what the kernel says of a process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::server::run_by;

/// A control group with a limit of memory; removed when dropped. What the processes in it have in the page cache counts, and is
/// given back before the limit hurts.
#[derive(Debug)]
pub struct MemoryGroup {
    dir: PathBuf,
}

impl MemoryGroup {
    /// Whether groups can be made here; if not, why.
    ///
    /// # Errors
    /// What the system said.
    pub fn permitted() -> Result<()> {
        MemoryGroup::new(64).map(drop)
    }

    /// An empty group of `mib` MiB.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(mib: u32) -> Result<MemoryGroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("quorate-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (root, limit) = hierarchy()?;
        let dir = root.join(name);
        std::fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        let group = MemoryGroup { dir };
        let file = group.dir.join(limit);
        std::fs::write(&file, (u64::from(mib) << 20).to_string()).with_context(|| file.display().to_string())?;
        Ok(group)
    }

    /// The command that runs `command` in it.
    pub fn inside(&self, command: &Command) -> Command {
        let mut outer = Command::new("sh");
        // The shell enters, and becomes the program.
        outer.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.dir.join("cgroup.procs"));
        run_by(outer, command)
    }

    /// How often the kernel has killed a process in it for want of memory.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn kills(&self) -> Result<u64> {
        ["memory.events", "memory.oom_control"]
            .iter()
            .filter_map(|name| std::fs::read_to_string(self.dir.join(name)).ok())
            .find_map(|text| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()))
            .context("the kernel does not count what it kills")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its processes are gone; the kernel may still be clearing them away.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Where groups are made, and the name of the limit: version 2 of the interface, or 1.
fn hierarchy() -> Result<(PathBuf, &'static str)> {
    let root = Path::new("/sys/fs/cgroup");
    if std::fs::read_to_string(root.join("cgroup.subtree_control")).is_ok_and(|text| text.contains("memory")) {
        return Ok((root.to_owned(), "memory.max"));
    }
    if root.join("memory/memory.limit_in_bytes").is_file() {
        return Ok((root.join("memory"), "memory.limit_in_bytes"));
    }
    bail!("no controller of memory under {}", root.display())
}

/// The most memory that a process has had since it started, in bytes; what it has in the page cache does not count.
///
/// # Errors
/// When it is gone.
pub fn peak_bytes(pid: u32) -> Result<u64> {
    in_status(pid, "VmHWM:")
}

fn in_status(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| name.to_owned())? << 10)
}

/// What one process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Memory, in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub descriptors: usize,
}

impl Usage {
    /// What a process has now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: u32) -> Result<Usage> {
        let resident_bytes = in_status(pid, "VmRSS:")?;
        Ok(Usage { resident_bytes, descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() })
    }
}
