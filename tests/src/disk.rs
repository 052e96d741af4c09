//! A disk whose power can be cut: an ext4 file system of its own in a file.
//!
//! The cut is the file system's own shutdown without a flush of its journal: what was not synced is gone, what was synced
//! is there after the next mount, and every write in between fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Sparse, so only what is written takes space.
const SIZE: &str = "1G";

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`. In Python, since Rust would need unsafe code for an ioctl.
const SHUTDOWN: &str =
    "import fcntl,os,struct,sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A mounted disk; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// Whether this process may mount; if not, why.
    ///
    /// # Errors
    /// What the system said.
    pub fn permitted(scratch: &Path) -> Result<()> {
        let disk = Disk::new(&scratch.join("probe"))?;
        disk.cut()
    }

    /// Makes and mounts an empty disk: its image is `path` with `.img`, its mount point `path`.
    ///
    /// # Errors
    /// When that is not permitted here, or a program is missing.
    pub fn new(path: &Path) -> Result<Disk> {
        let disk = Disk { image: path.with_extension("img"), mount: path.to_owned() };
        std::fs::create_dir_all(path)?;
        run(Command::new("truncate").args(["-s", SIZE]).arg(&disk.image))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn cut(&self) -> Result<()> {
        run(Command::new("python3").args(["-c", SHUTDOWN]).arg(&self.mount))
    }

    /// Gives it power again. No process may have a file of it open.
    ///
    /// # Errors
    /// When it cannot be unmounted or mounted.
    pub fn restore(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.mount))?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.mount));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
