//! A disk whose power can be cut, and that can be filled: an ext4 file system of its own in a file.
//!
//! The cut is the file system's own shutdown without a flush of its journal: what was not synced is gone, what was synced
//! is there after the next mount, and every write in between fails. Full is full for root, too: no blocks are reserved.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Enough for every test that does not fill it. Sparse, so only what is written takes space.
pub const DISK_MIB: u32 = 1024;

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
        let disk = Disk::new(&scratch.join("probe"), DISK_MIB)?;
        disk.cut()
    }

    /// Makes and mounts an empty disk of `mib` MiB: its image is `path` with `.img`, its mount point `path`.
    ///
    /// # Errors
    /// When that is not permitted here, or a program is missing.
    pub fn new(path: &Path, mib: u32) -> Result<Disk> {
        let disk = Disk { image: path.with_extension("img"), mount: path.to_owned() };
        std::fs::create_dir_all(path)?;
        run(Command::new("truncate").args(["-s", &format!("{mib}M")]).arg(&disk.image))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))
    }

    /// Makes everything durable that was written to it, whether its writers have asked for that or not.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn sync(&self) -> Result<()> {
        run(Command::new("sync").arg("-f").arg(&self.mount))
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn cut(&self) -> Result<()> {
        run(Command::new("python3").args(["-c", SHUTDOWN]).arg(&self.mount))
    }

    /// Fills it to the last byte, in one moment, as somebody else's file does.
    ///
    /// # Errors
    /// When it cannot be written to for another reason.
    pub fn fill(&self) -> Result<()> {
        // More than there is: it takes what there is, and fails.
        run(Command::new("fallocate").args(["-l", "1T"]).arg(self.filler())).expect_err("no disk is that large");
        let mut filler = File::options().append(true).open(self.filler())?;
        // What that left, in smaller and smaller pieces.
        for piece in [vec![0x5a; 1 << 20], vec![0x5a; 4 << 10]] {
            loop {
                match filler.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        // ext4 takes the blocks when it writes them back, and may find only then that there are none.
        match filler.sync_all() {
            Err(error) if error.kind() != ErrorKind::StorageFull => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes away what [`fill`](Self::fill) wrote.
    ///
    /// # Errors
    /// When that cannot be removed.
    pub fn make_room(&self) -> Result<()> {
        std::fs::remove_file(self.filler())?;
        // Or a power cut brings it back.
        Ok(File::open(&self.mount)?.sync_all()?)
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
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
