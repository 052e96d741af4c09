//! A cluster of real server processes on this machine.
//!
//! Dropping it kills the processes and removes their data; if the test failed, the data stays and the ends of the logs are
//! printed.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quorate_proto::etcdserverpb::{HashKvRequest, MemberListRequest};
use tempfile::TempDir;

use crate::client::Client;
use crate::clock::Clock;
use crate::disk::{DISK_MIB, Disk};
use crate::engines::Engines;
use crate::http;
use crate::memory::MemoryGroup;
use crate::network::{Namespaces, Network, NetworkKind};
use crate::server::Server;
use crate::tools::{scratch_dir, skip};

/// How long a member may take until it serves, and a cluster until it has a leader.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// Members.
    pub nodes: usize,
    /// Storage engines. Quorate only.
    pub engines: Engines,
    /// Flags of every member, beside those that make up the cluster.
    pub flags: Vec<String>,
    /// Flags that only Quorate and newer releases of etcd know.
    pub quorate_flags: Vec<String>,
    /// Flags by which the members of a new cluster find each other; none for `--initial-cluster`.
    pub found_by: Vec<String>,
    /// Where they listen.
    pub network: NetworkKind,
    /// Whether they ask from the start who somebody is, so that nobody can see by a call whether they serve.
    pub guarded: bool,
    /// Whether each has a disk of its own, whose power can be cut and that can be filled, and of how many MiB.
    pub disk_mib: Option<u32>,
    /// Whether each has a clock of its own, which can be set.
    pub clocks: bool,
    /// The most memory that each may have, of which its pages of files count too; more, and the kernel kills it.
    pub memory_mib: Option<u32>,
}

impl ClusterSpec {
    /// `nodes` members on loopback, with both engines among them.
    pub fn new(nodes: usize) -> ClusterSpec {
        ClusterSpec {
            nodes,
            engines: Engines::Mixed,
            flags: Vec::new(),
            quorate_flags: Vec::new(),
            found_by: Vec::new(),
            network: NetworkKind::Loopback,
            guarded: false,
            disk_mib: None,
            clocks: false,
            memory_mib: None,
        }
    }

    /// The same with a clock for each member.
    pub fn with_clocks(mut self) -> ClusterSpec {
        self.clocks = true;
        self
    }

    /// The same with `mib` MiB of memory for each member.
    pub fn in_memory_of(mut self, mib: u32) -> ClusterSpec {
        self.memory_mib = Some(mib);
        self
    }

    /// The same on data in which authentication is on.
    pub fn guarded(mut self) -> ClusterSpec {
        self.guarded = true;
        self
    }

    /// The same with one more flag.
    pub fn flag(mut self, flag: &str) -> ClusterSpec {
        self.flags.push(flag.to_owned());
        self
    }

    /// The same with one more flag, where the server is Quorate.
    pub fn quorate_flag(mut self, flag: &str) -> ClusterSpec {
        self.quorate_flags.push(flag.to_owned());
        self
    }

    /// The same on other engines.
    pub fn on(mut self, engines: Engines) -> ClusterSpec {
        self.engines = engines;
        self
    }

    /// The same with a disk for each member.
    pub fn on_disks(self) -> ClusterSpec {
        self.on_disks_of(DISK_MIB)
    }

    /// The same with a disk of `mib` MiB for each member.
    pub fn on_disks_of(mut self, mib: u32) -> ClusterSpec {
        self.disk_mib = Some(mib);
        self
    }

    /// The same with a network namespace for each member.
    pub fn in_namespaces(mut self) -> ClusterSpec {
        self.network = NetworkKind::Namespaces;
        self
    }
}

#[derive(Debug)]
struct Member {
    client: String,
    peer: String,
    /// `--initial-cluster` and `--initial-cluster-state` of its first start.
    join: [String; 2],
    process: Option<Child>,
    paused: bool,
    disk: Option<Disk>,
    clock: Option<Clock>,
    memory: Option<MemoryGroup>,
    /// Another program than the cluster's.
    server: Option<Server>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    spec: ClusterSpec,
    members: Vec<Member>,
    dir: Option<TempDir>,
    // Last, so that the processes are gone before their network.
    network: Network,
}

impl Cluster {
    /// Starts a cluster and waits for its leader. `None`, with the reason printed, where the test cannot run.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(spec: ClusterSpec) -> Option<Cluster> {
        Cluster::start_on(spec, |_, _| ()).await
    }

    /// As [`start`](Self::start), with members that find each other by the flags that `found_by` makes of their peer and client
    /// URLs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_found(
        spec: ClusterSpec,
        found_by: impl FnOnce(&[String], &[String]) -> Vec<String>,
    ) -> Option<Cluster> {
        let mut cluster = Cluster::prepare(spec)?;
        let peers: Vec<String> = (0..cluster.len()).map(|member| cluster.peer_url(member)).collect();
        cluster.spec.found_by = found_by(&peers, &cluster.endpoints());
        Some(cluster.up().await)
    }

    /// As [`start`](Self::start), on data directories that `prepare` has made: it is called for each member before the first
    /// one starts.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_on(spec: ClusterSpec, prepare: impl Fn(&Cluster, usize)) -> Option<Cluster> {
        let cluster = Cluster::prepare(spec)?;
        (0..cluster.len()).for_each(|member| prepare(&cluster, member));
        Some(cluster.up().await)
    }

    /// As [`start`](Self::start), with a server of the test's choice.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(server: Server, spec: ClusterSpec) -> Option<Cluster> {
        Some(Cluster::prepare_with(server, spec)?.up().await)
    }

    /// As [`start_on`](Self::start_on), with a server of the test's choice.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with_on(
        server: Server,
        spec: ClusterSpec,
        prepare: impl Fn(&Cluster, usize),
    ) -> Option<Cluster> {
        let cluster = Cluster::prepare_with(server, spec)?;
        (0..cluster.len()).for_each(|member| prepare(&cluster, member));
        Some(cluster.up().await)
    }

    /// Directories and addresses, and no process yet.
    fn prepare(spec: ClusterSpec) -> Option<Cluster> {
        Cluster::prepare_with(Server::find().expect("a server binary"), spec)
    }

    fn prepare_with(server: Server, spec: ClusterSpec) -> Option<Cluster> {
        if spec.network == NetworkKind::Namespaces
            && let Err(error) = Namespaces::permitted()
        {
            skip(&format!("network namespaces (root, Debian iproute2): {error:#}"));
            return None;
        }
        let dir = scratch_dir().expect("a directory");
        if spec.disk_mib.is_some()
            && let Err(error) = Disk::permitted(dir.path())
        {
            skip(&format!("loop mounts of ext4 (root, Debian e2fsprogs, python3): {error:#}"));
            return None;
        }
        if spec.clocks && Clock::library().is_none() {
            skip("libfaketime (Debian faketime)");
            return None;
        }
        if spec.memory_mib.is_some()
            && let Err(error) = MemoryGroup::permitted()
        {
            skip(&format!("control groups with a limit of memory (root): {error:#}"));
            return None;
        }
        Some(Cluster::create(server, spec, dir).expect("a cluster"))
    }

    async fn up(mut self) -> Cluster {
        for member in 0..self.len() {
            self.spawn(member, &[]).expect("a member starts");
        }
        if self.spec.guarded {
            self.wait_healthy().await;
        } else {
            self.wait_leader().await;
            self.wait_serving().await;
        }
        self
    }

    /// Waits until every member says of itself that it is healthy, which it tells everybody.
    async fn wait_healthy(&self) {
        let deadline = Instant::now() + PATIENCE;
        for member in self.running() {
            let address = &self.members[member].client;
            while !http::ask(address, "GET /health").await.is_ok_and(|answer| answer.body.contains("\"true\"")) {
                assert!(Instant::now() < deadline, "m{member} is not healthy after {PATIENCE:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn create(server: Server, spec: ClusterSpec, dir: TempDir) -> Result<Cluster> {
        let mut network = Network::new(spec.network)?;
        let addresses: Vec<_> = (0..spec.nodes).map(|index| network.add(index)).collect::<Result<_>>()?;
        let all: Vec<String> =
            addresses.iter().enumerate().map(|(index, (_, peer))| format!("m{index}=http://{peer}")).collect();
        let mut cluster = Cluster { server, spec, members: Vec::new(), dir: Some(dir), network };
        for (client, peer) in addresses {
            cluster.push(client, peer, [all.join(","), "new".to_owned()])?;
        }
        Ok(cluster)
    }

    fn push(&mut self, client: String, peer: String, join: [String; 2]) -> Result<()> {
        let index = self.len();
        let disk = self.spec.disk_mib.map(|mib| Disk::new(&self.member_dir(index), mib)).transpose()?;
        let clock = self.spec.clocks.then(|| Clock::new(&self.dir().join(format!("m{index}.clock")))).transpose()?;
        let memory = self.spec.memory_mib.map(MemoryGroup::new).transpose()?;
        let process = None;
        self.members.push(Member { client, peer, join, process, paused: false, disk, clock, memory, server: None });
        Ok(())
    }

    /// Members ever started, removed ones included.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether a member's process was started, and nobody has seen its end.
    pub fn is_running(&self, member: usize) -> bool {
        self.members[member].process.is_some()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether the members run Quorate, not etcd.
    pub fn is_quorate(&self) -> bool {
        self.server.is_quorate()
    }

    /// The client URL of a member.
    pub fn endpoint(&self, member: usize) -> String {
        format!("http://{}", self.members[member].client)
    }

    /// The client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.len()).map(|member| self.endpoint(member)).collect()
    }

    /// The peer URL of a member.
    pub fn peer_url(&self, member: usize) -> String {
        format!("http://{}", self.members[member].peer)
    }

    /// A client of one member with a deadline of five seconds.
    pub fn client(&self, member: usize) -> Client {
        Client::new(&self.endpoint(member), Duration::from_secs(5))
    }

    /// The links between the members.
    ///
    /// # Panics
    /// Unless the cluster was started in namespaces.
    pub fn links(&self) -> &Namespaces {
        self.network.namespaces()
    }

    /// Data, logs and whatever the test wants to keep.
    ///
    /// # Panics
    /// Never while the cluster lives.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the directory lives as long as the cluster").path()
    }

    /// The data directory of a member.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        let dir = self.member_dir(member);
        // A new file system is not empty: etcd would not take it as a data directory.
        if self.spec.disk_mib.is_some() { dir.join("data") } else { dir }
    }

    fn member_dir(&self, member: usize) -> PathBuf {
        self.dir().join(format!("m{member}"))
    }

    fn log_path(&self, member: usize) -> PathBuf {
        self.dir().join(format!("m{member}.log"))
    }

    /// The flags that say who a member is: name, data directory, cluster, and engine if it has one of its own.
    pub fn identity_flags(&self, member: usize) -> Vec<String> {
        let Member { peer, join: [initial_cluster, _], .. } = &self.members[member];
        let mut flags = vec![
            format!("--name=m{member}"),
            format!("--data-dir={}", self.data_dir(member).display()),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            "--initial-cluster-token=test".to_owned(),
        ];
        if self.spec.found_by.is_empty() {
            flags.push(format!("--initial-cluster={initial_cluster}"));
        }
        flags.extend(self.spec.found_by.iter().cloned());
        if self.server.is_quorate() {
            flags.push(format!("--storage-engine={}", self.spec.engines.of(member)));
        }
        flags
    }

    fn spawn(&mut self, member: usize, more: &[&str]) -> Result<()> {
        let log: File = OpenOptions::new().create(true).append(true).open(self.log_path(member))?;
        let Member { client, peer, join: [_, state], server, clock, memory, .. } = &self.members[member];
        let mut command = server.as_ref().unwrap_or(&self.server).command();
        command
            .args(self.identity_flags(member))
            .args(["--listen-client-urls", &format!("http://{client}")])
            .args(["--advertise-client-urls", &format!("http://{client}")])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster-state", state])
            .args(&self.spec.flags)
            .args(more);
        if self.server.is_quorate() {
            command.args(&self.spec.quorate_flags);
            if self.spec.network == NetworkKind::Namespaces && self.server.knows("--insecure") {
                // These addresses are not loopback, and they have no TLS.
                command.arg("--insecure");
            }
        }
        if let Some(clock) = clock {
            clock.apply(&mut command);
        }
        let mut command = self.network.inside(member, command);
        if let Some(memory) = memory {
            command = memory.inside(&command);
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.members[member].process = Some(child);
        Ok(())
    }

    /// Ends a member's process as a crash would.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill9(&mut self, member: usize) {
        let process = self.members[member].process.as_mut().expect("a running member");
        process.kill().expect("SIGKILL");
        process.wait().expect("its end");
        self.members[member].process = None;
        self.members[member].paused = false;
    }

    /// Ends all members' processes as a crash would, and starts them again once all are gone.
    ///
    /// # Panics
    /// When one is not running, or does not start.
    pub fn crash_all(&mut self) {
        (0..self.len()).for_each(|member| self.kill9(member));
        (0..self.len()).for_each(|member| self.restart(member));
    }

    /// Cuts a member's power: what it had not synced is lost, and its process is gone.
    ///
    /// # Panics
    /// When it is not running, or has no disk of its own.
    pub fn cut_power(&mut self, member: usize) {
        self.disk(member).cut().expect("a power cut");
        // With the disk gone, the process may have ended by itself.
        if let Some(mut process) = self.members[member].process.take() {
            let _ = process.kill();
            process.wait().expect("its end");
        }
    }

    /// Gives a member's disk power again; [`restart`](Self::restart) starts its process.
    ///
    /// # Panics
    /// When it has no disk of its own, or that cannot be mounted.
    pub fn restore_power(&mut self, member: usize) {
        self.disk(member).restore().expect("the disk is mounted again");
    }

    /// Makes everything durable that is on a member's disk.
    ///
    /// # Panics
    /// When it has no disk of its own.
    pub fn sync_disk(&self, member: usize) {
        self.disk(member).sync().expect("a disk that takes what is written");
    }

    /// Fills a member's disk to the last byte.
    ///
    /// # Panics
    /// When it has no disk of its own.
    pub fn fill_disk(&self, member: usize) {
        self.disk(member).fill().expect("a full disk");
    }

    /// Gives a full disk the room that it had.
    ///
    /// # Panics
    /// When it has no disk of its own, or that was not filled.
    pub fn make_room(&self, member: usize) {
        self.disk(member).make_room().expect("room on the disk");
    }

    fn disk(&self, member: usize) -> &Disk {
        self.members[member].disk.as_ref().expect("a test that needs the members' disks asks for `on_disks`")
    }

    /// Sets a member's clock of the day, as [`Clock::set`] takes it.
    ///
    /// # Panics
    /// When it has no clock of its own.
    pub fn set_clock(&self, member: usize, to: &str) {
        let clock = self.members[member].clock.as_ref().expect("a test that sets clocks asks for `with_clocks`");
        clock.set(to).expect("a clock that is set");
    }

    /// What limits a member's memory.
    ///
    /// # Panics
    /// When it is not limited.
    pub fn memory(&self, member: usize) -> &MemoryGroup {
        self.members[member].memory.as_ref().expect("a test that looks at memory asks for `in_memory_of`")
    }

    /// The process of a member.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pid(&self, member: usize) -> u32 {
        self.members[member].process.as_ref().expect("a running member").id()
    }

    /// Pauses a member's process: it keeps its connections and answers nothing.
    ///
    /// # Panics
    /// When it is not running.
    pub fn stop(&mut self, member: usize) {
        self.signal(member, "-STOP");
        self.members[member].paused = true;
    }

    /// Lets a paused member go on.
    ///
    /// # Panics
    /// When it is not running.
    pub fn cont(&mut self, member: usize) {
        self.signal(member, "-CONT");
        self.members[member].paused = false;
    }

    /// Asks a member to end, and waits for it.
    ///
    /// # Panics
    /// When it is not running, or does not end in time.
    pub async fn terminate(&mut self, member: usize) -> ExitStatus {
        self.signal(member, "-TERM");
        self.wait_exit(member, PATIENCE).await.expect("a member ends when it is asked to")
    }

    fn signal(&self, member: usize, signal: &str) {
        let process = self.members[member].process.as_ref().expect("a running member");
        let pid = process.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill");
        assert!(status.success(), "kill {signal} {pid}: {status}");
    }

    /// Waits until a member has ended by itself; `None` if it has not.
    ///
    /// # Panics
    /// When it was not running.
    pub async fn wait_exit(&mut self, member: usize, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        let process = self.members[member].process.as_mut().expect("a running member");
        while Instant::now() < deadline {
            if let Some(status) = process.try_wait().expect("the state of a child") {
                self.members[member].process = None;
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Whether a member has ended by itself since somebody looked, and how.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn try_exit(&mut self, member: usize) -> Result<Option<ExitStatus>> {
        let Some(process) = &mut self.members[member].process else { return Ok(None) };
        let status = process.try_wait()?;
        if status.is_some() {
            self.members[member].process = None;
        }
        Ok(status)
    }

    /// Starts a member that has ended, on the data that it left.
    ///
    /// # Panics
    /// When it is still running or cannot be started.
    pub fn restart(&mut self, member: usize) {
        self.restart_with(member, &[]);
    }

    /// As [`restart`](Self::restart), with more flags for this once.
    ///
    /// # Panics
    /// When it is still running or cannot be started.
    pub fn restart_with(&mut self, member: usize, flags: &[&str]) {
        assert!(self.members[member].process.is_none(), "m{member} is still running");
        self.spawn(member, flags).expect("a member starts");
    }

    /// Takes away the data of a member that has ended, and prepares it to join these `others` as somebody new, at its old
    /// addresses.
    ///
    /// # Panics
    /// When it is still running.
    pub fn rejoin(&mut self, member: usize, others: &[usize]) {
        assert!(self.members[member].process.is_none(), "m{member} is still running");
        // It may never have started.
        let _ = std::fs::remove_dir_all(self.data_dir(member));
        let all = others.iter().chain([&member]);
        let all: Vec<String> = all.map(|&index| format!("m{index}=http://{}", self.members[index].peer)).collect();
        self.members[member].join = [all.join(","), "existing".to_owned()];
    }

    /// Keeps data and logs when this is dropped, and says where.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.dir.take().map(TempDir::keep)
    }

    /// Another program for a member, from its next start on.
    pub fn run_from_now_on(&mut self, member: usize, server: Server) {
        self.members[member].server = Some(server);
    }

    /// What a member has logged, over all its starts.
    pub fn log(&self, member: usize) -> String {
        let text = std::fs::read(self.log_path(member)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Adds a member to the processes, not yet to the cluster's membership, and gives its number. Start it by
    /// [`restart`](Self::restart) once the membership has it.
    ///
    /// # Panics
    /// When there is no port or namespace for it.
    pub fn prepare_member(&mut self) -> usize {
        self.prepare_beside(&|_| true)
    }

    /// As [`prepare_member`](Self::prepare_member), in place of a member that was removed.
    ///
    /// # Panics
    /// When there is no port or namespace for it.
    pub fn prepare_replacement(&mut self, removed: usize) -> usize {
        self.prepare_beside(&|member| member != removed)
    }

    /// As [`prepare_member`](Self::prepare_member), for a cluster of which one member alone is left.
    ///
    /// # Panics
    /// When there is no port or namespace for it.
    pub fn prepare_alone(&mut self, left: usize) -> usize {
        self.prepare_beside(&|member| member == left)
    }

    fn prepare_beside(&mut self, is_member: &dyn Fn(usize) -> bool) -> usize {
        let index = self.len();
        let (client, peer) = self.network.add(index).expect("an address");
        let others = self.members.iter().enumerate().filter(|(i, _)| is_member(*i));
        let mut all: Vec<String> = others.map(|(i, member)| format!("m{i}=http://{}", member.peer)).collect();
        all.push(format!("m{index}=http://{peer}"));
        let join = [all.join(","), "existing".to_owned()];
        self.push(client, peer, join).expect("a disk");
        index
    }

    /// The members whose processes run and are not paused.
    pub fn running(&self) -> Vec<usize> {
        let runs = |member: &Member| member.process.is_some() && !member.paused;
        self.members.iter().enumerate().filter(|(_, member)| runs(member)).map(|(index, _)| index).collect()
    }

    /// The member that leads, as it says itself; `None` if no running member does.
    pub async fn leader(&self) -> Option<usize> {
        let mut leader = None;
        for member in self.running() {
            let client = Client::new(&self.endpoint(member), Duration::from_secs(1));
            let Ok(status) = client.status().await else { continue };
            let Some(header) = status.header else { continue };
            if status.leader != 0 && status.leader == header.member_id {
                // Of two that think so, the one with the higher term is right.
                leader = leader.max(Some((header.raft_term, member)));
            }
        }
        leader.map(|(_, member)| member)
    }

    /// Waits until a running member leads.
    ///
    /// # Panics
    /// When none does in time.
    pub async fn wait_leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(leader) = self.leader().await {
                return leader;
            }
            assert!(Instant::now() < deadline, "no leader among {:?} after {PATIENCE:?}", self.running());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every running member answers a linearizable read.
    ///
    /// # Panics
    /// When one does not in time.
    pub async fn wait_serving(&self) {
        for member in self.running() {
            self.wait_member_serving(member).await;
        }
    }

    /// Waits until one member answers a linearizable read.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn wait_member_serving(&self, member: usize) {
        let deadline = Instant::now() + PATIENCE;
        let client = Client::new(&self.endpoint(member), Duration::from_secs(2));
        loop {
            match client.get("probe", false).await {
                Ok(_) => return,
                Err(status) => assert!(Instant::now() < deadline, "m{member} after {PATIENCE:?}: {status}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The id that the cluster gave a member, by its peer URL.
    ///
    /// # Errors
    /// When the membership does not have it, or cannot be asked through member `via`.
    pub async fn member_id(&self, via: usize, member: usize) -> Result<u64> {
        let client = self.client(via);
        let list = client.within(client.cluster().member_list(MemberListRequest { linearizable: true })).await?;
        let url = self.peer_url(member);
        let found = list.members.iter().find(|found| found.peer_urls.contains(&url));
        found.map(|found| found.id).with_context(|| format!("{url} is not in {:?}", list.members))
    }

    /// Checks that all running members hold the same at the same revision.
    ///
    /// # Panics
    /// When they do not, or cannot be asked.
    pub async fn assert_replicas_equal(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Compaction is applied everywhere, but not at the same moment.
            match self.compare_replicas().await {
                Ok(revision) => return println!("replicas are equal at revision {revision}"),
                Err(error) => assert!(Instant::now() < deadline, "{error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn compare_replicas(&self) -> Result<i64> {
        let running = self.running();
        let Some(&first) = running.first() else { bail!("no member runs") };
        let (revision, _) = self.client(first).get("probe", false).await?;
        let mut hashes = Vec::new();
        for member in running {
            let client = self.client(member);
            // Once it has answered a linearizable read, it has everything up to this revision.
            client.get("probe", false).await?;
            let answer = client.within(client.maintenance().hash_kv(HashKvRequest { revision })).await?;
            hashes.push((member, answer.compact_revision, answer.hash));
        }
        let same = hashes.windows(2).all(|pair| (pair[0].1, pair[0].2) == (pair[1].1, pair[1].2));
        if !same {
            bail!("at revision {revision} the members hold different data (member, compacted, hash): {hashes:?}");
        }
        Ok(revision)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(process) = &mut member.process {
                // It may have ended by itself; either way it is gone afterwards. SIGKILL ends a paused process too.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if std::thread::panicking() {
            for member in 0..self.len() {
                print_log_end(&self.log_path(member));
            }
            if let Some(dir) = self.dir.take() {
                println!("data and logs are kept in {}", dir.keep().display());
            }
        }
    }
}

fn print_log_end(path: &Path) {
    const LINES: usize = 15;
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    println!("--- the end of {}", path.display());
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        println!("{}", line.chars().take(400).collect::<String>());
    }
}
