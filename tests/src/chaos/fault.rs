//! The kinds of faults, whom they can hit, and what the machine has to have for each.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::Namespaces;
use crate::tools::in_path;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT at the end.
    Pause,
    /// No link to any other member.
    Isolate,
    /// Nothing that it sends arrives at the others, or nothing that they send at it.
    OneWay,
    /// One link of all is cut, so that the others form a chain.
    Chain,
    /// Little bandwidth.
    SlowLink,
    /// Packets are lost and late.
    LossyLink,
    /// The clock of the day jumps.
    ClockJump,
    /// The clock of the day runs too fast or too slow.
    ClockDrift,
    /// No byte is left on the disk.
    DiskFull,
    /// An fsync fails.
    SyncError,
    /// Each fsync takes long.
    SlowDisk,
    /// What is not synced is lost.
    PowerCut,
    /// A learner is added, promoted, and removed again.
    Learner,
    /// A member is removed, and comes back as a new one.
    Replace,
    /// One member after another is asked to end, and is started again.
    RollingRestart,
    /// Defragmentation and a backup, and nothing else.
    Maintenance,
}

/// All kinds, by name.
const NAMES: &[(&str, Fault)] = &[
    ("kill", Fault::Kill),
    ("pause", Fault::Pause),
    ("isolate", Fault::Isolate),
    ("one-way", Fault::OneWay),
    ("chain", Fault::Chain),
    ("slow-link", Fault::SlowLink),
    ("lossy-link", Fault::LossyLink),
    ("clock-jump", Fault::ClockJump),
    ("clock-drift", Fault::ClockDrift),
    ("disk-full", Fault::DiskFull),
    ("sync-error", Fault::SyncError),
    ("slow-disk", Fault::SlowDisk),
    ("power-cut", Fault::PowerCut),
    ("learner", Fault::Learner),
    ("replace", Fault::Replace),
    ("rolling-restart", Fault::RollingRestart),
    ("maintenance", Fault::Maintenance),
];

/// What a machine lacks for a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacks {
    /// What it needs.
    pub needs: String,
    /// Whether it could be installed: CI has to have that.
    pub is_tool: bool,
}

impl Fault {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Fault> {
        NAMES.iter().map(|(_, fault)| *fault)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, fault)| *fault == self).map_or("?", |(name, _)| name)
    }

    /// Whether there must be several members for it.
    pub fn needs_peers(self) -> bool {
        match self {
            Fault::Isolate
            | Fault::OneWay
            | Fault::Chain
            | Fault::SlowLink
            | Fault::LossyLink
            | Fault::Learner
            | Fault::Replace
            | Fault::RollingRestart => true,
            Fault::Kill
            | Fault::Pause
            | Fault::ClockJump
            | Fault::ClockDrift
            | Fault::DiskFull
            | Fault::SyncError
            | Fault::SlowDisk
            | Fault::PowerCut
            | Fault::Maintenance => false,
        }
    }

    /// Whether it can hit all members at once.
    pub fn can_hit_all(self) -> bool {
        match self {
            Fault::Kill
            | Fault::Pause
            | Fault::SlowLink
            | Fault::LossyLink
            | Fault::ClockJump
            | Fault::ClockDrift
            | Fault::DiskFull
            | Fault::SlowDisk
            | Fault::PowerCut => true,
            Fault::Isolate
            | Fault::OneWay
            | Fault::Chain
            | Fault::SyncError
            | Fault::Learner
            | Fault::Replace
            | Fault::RollingRestart
            | Fault::Maintenance => false,
        }
    }

    /// Whether members need a network namespace each.
    pub fn needs_namespaces(self) -> bool {
        matches!(self, Fault::Isolate | Fault::OneWay | Fault::Chain | Fault::SlowLink | Fault::LossyLink)
    }

    /// Whether members need a disk each.
    pub fn needs_disks(self) -> bool {
        matches!(self, Fault::DiskFull | Fault::PowerCut)
    }

    /// Whether members need a clock each.
    pub fn needs_clocks(self) -> bool {
        matches!(self, Fault::ClockJump | Fault::ClockDrift)
    }

    /// Whether it may end a process, other than by a signal of the test.
    pub fn may_end_process(self) -> bool {
        matches!(self, Fault::DiskFull | Fault::SyncError)
    }

    /// What this machine lacks for it; `None` if it can be made here.
    pub fn lacks(self, scratch: &Path) -> Option<Lacks> {
        let tool = |needs: &str| Some(Lacks { needs: needs.to_owned(), is_tool: true });
        let system =
            |needs: &str, error: anyhow::Error| Some(Lacks { needs: format!("{needs}: {error:#}"), is_tool: false });
        if self.needs_namespaces()
            && let Err(error) = Namespaces::permitted()
        {
            return system("network namespaces (root, Debian iproute2)", error);
        }
        if self.needs_disks()
            && let Err(error) = Disk::permitted(scratch)
        {
            return system("loop mounts of ext4 (root, Debian e2fsprogs, python3)", error);
        }
        if self.needs_clocks() && Clock::library().is_none() {
            return tool("libfaketime (Debian faketime)");
        }
        if matches!(self, Fault::SyncError | Fault::SlowDisk) && in_path("strace").is_none() {
            return tool("strace (Debian strace)");
        }
        if matches!(self, Fault::SlowLink | Fault::LossyLink) && in_path("tc").is_none() {
            return tool("tc (Debian iproute2)");
        }
        if self == Fault::LossyLink
            && let Err(error) = Namespaces::shapes("netem loss 1%")
        {
            return system("netem in the kernel (sch_netem)", error);
        }
        None
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Fault> {
        match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, fault)) => Ok(*fault),
            None => {
                let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
                bail!("there is no fault {name:?}; there are {}", names.join(", "))
            }
        }
    }
}
