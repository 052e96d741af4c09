//! The processes under test: three members of one system on loopback, and what `/proc` says of them.
//!
//! Knows etcd's command line, which both systems share, and nothing of what they do.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Members of a cluster.
pub const MEMBERS: usize = 3;

/// How to start a member of one system.
#[derive(Clone, Debug)]
pub struct System {
    /// What the report calls it.
    pub name: String,
    /// The server's binary.
    pub binary: PathBuf,
    /// Arguments in front of etcd's flags: a subcommand, or flags of this system alone.
    pub args: Vec<String>,
}

impl System {
    /// A system by its binary. One whose file name starts with `quorate` is started by its `server` subcommand.
    pub fn new(binary: &Path, extra_args: &[String]) -> System {
        let name = binary.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let mut args = Vec::new();
        if name.starts_with("quorate") {
            args.push("server".to_owned());
        }
        args.extend_from_slice(extra_args);
        System { name, binary: binary.to_owned(), args }
    }

    /// The first line that the binary prints for `--version`; empty if it prints none.
    pub fn version(&self) -> String {
        let output = Command::new(&self.binary).arg("--version").stdin(Stdio::null()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    }
}

/// CPU time that processes have used so far, user and system together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime(Duration);

impl CpuTime {
    /// Of the calling process, in steps of the kernel's clock tick (10 ms).
    pub fn of_this_process() -> Result<CpuTime> {
        CpuTime::of([std::process::id()])
    }

    fn of(pids: impl IntoIterator<Item = u32>) -> Result<CpuTime> {
        let mut ticks = 0;
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            ticks += stat_ticks(&stat).context("/proc/PID/stat has another form here")?;
        }
        // USER_HZ is 100 on every architecture that Linux still builds for, whatever the kernel's own HZ.
        Ok(CpuTime(Duration::from_millis(ticks * 10)))
    }

    /// Time used since `earlier`.
    pub fn since(self, earlier: CpuTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A running cluster. Dropping it kills the members; their data stays in the directory.
pub struct Cluster {
    members: Vec<Child>,
    client_ports: Vec<u16>,
    log_dir: PathBuf,
}

impl Cluster {
    /// Starts the members with data and logs below `dir`. They may not serve yet.
    ///
    /// # Errors
    /// When the directory cannot be made or the binary cannot be started.
    pub fn start(system: &System, dir: &Path) -> Result<Cluster> {
        let ports = free_ports(2 * MEMBERS)?;
        let (client_ports, peer_ports) = ports.split_at(MEMBERS);
        let initial_cluster: Vec<String> =
            peer_ports.iter().enumerate().map(|(i, port)| format!("m{i}=http://127.0.0.1:{port}")).collect();
        let mut cluster = Cluster { members: Vec::new(), client_ports: client_ports.to_vec(), log_dir: dir.to_owned() };
        for (i, (client, peer)) in client_ports.iter().zip(peer_ports).enumerate() {
            let data = dir.join(format!("m{i}"));
            std::fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
            // etcd wants its data directory for itself alone.
            std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            let log = File::create(dir.join(format!("m{i}.log")))?;
            let child = Command::new(&system.binary)
                .args(&system.args)
                .args(["--name", &format!("m{i}")])
                .args(["--data-dir".as_ref(), data.as_os_str()])
                .args(["--listen-client-urls", &format!("http://127.0.0.1:{client}")])
                .args(["--advertise-client-urls", &format!("http://127.0.0.1:{client}")])
                .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
                .args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{peer}")])
                .args(["--initial-cluster", &initial_cluster.join(",")])
                .args(["--initial-cluster-state", "new", "--initial-cluster-token", "bench"])
                .args(["--log-level", "error"])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot start {}", system.binary.display()))?;
            cluster.members.push(child);
        }
        Ok(cluster)
    }

    /// Ports of the members' client listeners on 127.0.0.1.
    pub fn client_ports(&self) -> &[u16] {
        &self.client_ports
    }

    /// Where the members write their logs.
    pub fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// # Errors
    /// When a member is no longer running.
    pub fn check_alive(&mut self) -> Result<()> {
        for (i, member) in self.members.iter_mut().enumerate() {
            if let Some(status) = member.try_wait()? {
                bail!("member m{i} ended ({status}); its log is in {}", self.log_dir.display());
            }
        }
        Ok(())
    }

    /// CPU time of all members together, in steps of the kernel's clock tick (10 ms).
    pub fn cpu_time(&self) -> Result<CpuTime> {
        CpuTime::of(self.members.iter().map(Child::id))
    }

    /// Resident memory of one member, in bytes.
    ///
    /// # Errors
    /// When it is no longer running.
    pub fn rss_bytes(&self, member: usize) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.members[member].id()))?;
        Ok(status_kib(&status, "VmRSS:").context("/proc/PID/status has no VmRSS")? * 1024)
    }

    /// Peak resident memory of the largest member so far, in bytes.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        let mut peak = 0;
        for member in &self.members {
            let status = std::fs::read_to_string(format!("/proc/{}/status", member.id()))?;
            peak = peak.max(status_kib(&status, "VmHWM:").context("/proc/PID/status has no VmHWM")? * 1024);
        }
        Ok(peak)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// `utime + stime` of a `/proc/PID/stat` line.
fn stat_ticks(stat: &str) -> Option<u64> {
    // The second field is the name in parentheses, which may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// The figure of a line of `/proc/PID/status`.
fn status_kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Ports that are free now. All are held until all are found, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(|listener| listener.local_addr().map(|addr| addr.port())).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_read_behind_any_process_name() {
        let stat = "12 (a) b (c) S 1 1 1 0 -1 4194560 100 0 0 0 7 5 3 2 20 0 9 0 100 1000 10";
        assert_eq!(stat_ticks(stat), Some(12));
        assert_eq!(stat_ticks("12 (a"), None);
    }

    #[test]
    fn memory_is_read_in_kib() {
        let status = "Name:\ta\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!((status_kib(status, "VmHWM:"), status_kib(status, "VmRSS:")), (Some(2048), Some(1)));
        assert_eq!(status_kib("Name:\ta\n", "VmRSS:"), None);
    }

    #[test]
    fn the_quorate_binary_is_started_by_its_subcommand() {
        assert_eq!(System::new(Path::new("/x/quorate"), &[]).args, ["server"]);
        assert_eq!(System::new(Path::new("/x/etcd"), &["--pre-vote".to_owned()]).args, ["--pre-vote"]);
    }
}
