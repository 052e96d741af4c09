//! One machine: a disk, a clock, a runtime of its own, and a node that is started, killed and started again.
//!
//! A kill drops the runtime, and with it every task at whatever await point it is.

use crate::clock::MachineClock;
use crate::library::CLIENT_PORT;
use crate::network::Network;
use crate::random::Random;
use parking_lot::Mutex;
use quorate_node::env::{Accepted, BoxFuture, ByteStream, Env, Listener};
use quorate_node::urls::{Place, place};
use quorate_node::{Config, Node, Restore, Restored};
use quorate_server::{Endpoint, Server, ServerConfig};
use quorate_storage::engine::RedbEngine;
use quorate_storage::{Engine, EngineConfig, EngineError, EngineKind};
use quorate_wal::fault::FaultDisk;
use quorate_wal::{Disk, DiskFile, SyncTime};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

/// Something that a client has a node do.
pub type Job = Box<dyn FnOnce(Node) -> BoxFuture<()> + Send>;

/// What others can reach of a machine.
#[derive(Default)]
pub struct Door {
    inner: Mutex<DoorInner>,
}

#[derive(Default)]
struct DoorInner {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    stop: Option<oneshot::Sender<()>>,
    clock: Option<Arc<MachineClock>>,
    node: Option<Node>,
    /// Why the node did not start, or stopped by itself.
    failure: Option<String>,
    /// The node said that the process must end.
    fatal: Option<String>,
}

impl Door {
    /// Sends a job to the node. `false` if it is not there.
    pub fn send(&self, job: Job) -> bool {
        self.inner.lock().jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }

    /// Asks the process to stop, as SIGTERM does. `false` if it does not run.
    pub fn ask_to_stop(&self) -> bool {
        self.inner.lock().stop.take().is_some_and(|stop| stop.send(()).is_ok())
    }

    /// The node, if it is up.
    pub fn node(&self) -> Option<Node> {
        self.inner.lock().node.clone()
    }

    /// The machine's clock, if it is up.
    pub fn clock(&self) -> Option<Arc<MachineClock>> {
        self.inner.lock().clock.clone()
    }

    /// Why the node is not up although the machine is.
    pub fn failure(&self) -> Option<String> {
        self.inner.lock().failure.clone()
    }

    /// Why the process must end.
    pub fn fatal(&self) -> Option<String> {
        self.inner.lock().fatal.clone()
    }
}

/// All machines' doors.
pub type Doors = Arc<Vec<Arc<Door>>>;

/// How long the syncs of a machine's disk take.
struct SyncTimes {
    random: Mutex<Random>,
    /// Least and most, in milliseconds.
    bounds_ms: Mutex<(u64, u64)>,
}

impl SyncTimes {
    fn draw(&self) -> Option<SyncTime> {
        let (least, most) = *self.bounds_ms.lock();
        let time = self.random.lock().millis(least, most);
        (!time.is_zero()).then(|| Box::pin(tokio::time::sleep(time)) as SyncTime)
    }

    /// A new disk with these times.
    fn new_disk(self: &Arc<Self>) -> FaultDisk {
        let (disk, times) = (FaultDisk::new(), self.clone());
        disk.set_sync_timer(move || times.draw());
        disk
    }
}

/// A machine.
pub struct Machine {
    /// Its place among the machines.
    pub index: usize,
    /// Its disk, which outlives every process.
    pub disk: FaultDisk,
    sync_times: Arc<SyncTimes>,
    network: Network,
    doors: Doors,
    config: Config,
    runs: Runs,
    boot: Option<Boot>,
    random_state: Arc<AtomicU64>,
    /// How far the wall clock is off, in milliseconds.
    wall_clock_off_ms: Arc<AtomicI64>,
    rate: f64,
    /// Stands still until then, as after SIGSTOP.
    paused: Option<(Duration, Duration)>,
}

struct Boot {
    runtime: Runtime,
    clock: Arc<MachineClock>,
}

impl Machine {
    /// A machine that is off.
    pub fn new(index: usize, network: Network, doors: Doors, config: Config, runs: Runs, seed: u64) -> Machine {
        let random = Mutex::new(Random::new(seed).fork("disk"));
        let sync_times = Arc::new(SyncTimes { random, bounds_ms: Mutex::default() });
        Machine {
            index,
            disk: sync_times.new_disk(),
            sync_times,
            network,
            doors,
            config,
            runs,
            boot: None,
            random_state: Arc::new(AtomicU64::new(seed)),
            wall_clock_off_ms: Arc::default(),
            rate: 1.0,
            paused: None,
        }
    }

    /// Whether it is on.
    pub fn is_up(&self) -> bool {
        self.boot.is_some()
    }

    /// What its node is started with.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Ends the process and takes a new, empty disk.
    pub fn wipe(&mut self) {
        self.kill();
        self.disk = self.sync_times.new_disk();
    }

    /// From now on each sync of the log takes from `least` to `most` milliseconds.
    pub fn set_sync_ms(&self, (least, most): (u64, u64)) {
        *self.sync_times.bounds_ms.lock() = (least, most);
    }

    fn door(&self) -> Arc<Door> {
        self.doors[self.index].clone()
    }

    /// Turns it on: the node starts within the next ticks.
    ///
    /// # Panics
    /// If the operating system gives no runtime.
    pub fn start(&mut self, now: Duration) {
        let runtime = paused_runtime();
        let clock = Arc::new(MachineClock::new(now, self.rate));
        let (jobs, queue) = mpsc::unbounded_channel();
        let door = self.door();
        *door.inner.lock() = DoorInner { jobs: Some(jobs), clock: Some(clock.clone()), ..DoorInner::default() };
        let env = self.env(clock.clone());
        runtime.spawn(run_process(self.config.clone(), self.runs, env, door, queue));
        self.boot = Some(Boot { runtime, clock });
        self.paused = None;
    }

    fn env(&self, clock: Arc<MachineClock>) -> Arc<SimEnv> {
        Arc::new(SimEnv {
            machine: self.index,
            disk: self.disk.clone(),
            network: self.network.clone(),
            clock,
            doors: self.doors.clone(),
            random_state: self.random_state.clone(),
            wall_clock_off_ms: self.wall_clock_off_ms.clone(),
            dead: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Makes its data directory from a copy of somebody's data, while it is off.
    ///
    /// # Errors
    /// The words of what went wrong.
    pub fn restore(&self, copy: &[u8]) -> Result<Restored, String> {
        let snapshot = PathBuf::from("/copy");
        let written = self.disk.create(&snapshot).and_then(|file| file.write_at(0, copy));
        written.map_err(|error| error.to_string())?;
        let restore =
            Restore { snapshot, check_hash: self.runs.signs_copies(), revision_bump: 0, config: self.config.clone() };
        let env: Arc<dyn Env> = self.env(Arc::new(MachineClock::new(Duration::ZERO, 1.0)));
        let restored = paused_runtime().block_on(quorate_node::restore(&restore, &env, |_, _| {}));
        restored.map_err(|error| error.to_string())
    }

    /// Sets the wall clock to another time.
    pub fn move_wall_clock(&self, by_ms: i64) {
        self.wall_clock_off_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// Ends the process at once. What it wrote and did not sync is in the page cache still.
    pub fn kill(&mut self) {
        self.disk.kill();
        self.turn_off();
    }

    /// Takes the power away: of what was not synced, `seed` decides what is left.
    pub fn power_cut(&mut self, seed: u64) {
        self.disk.power_cut(seed);
        self.turn_off();
    }

    fn turn_off(&mut self) {
        let door = self.door();
        let mut inner = door.inner.lock();
        let gone = std::mem::take(&mut *inner);
        drop(inner);
        self.network.forget(self.index);
        // Tasks first: they hold handles of the node, too.
        drop(self.boot.take());
        drop(gone);
        self.paused = None;
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Lets it stand still for a while.
    pub fn pause(&mut self, now: Duration, length: Duration) {
        self.paused = Some((now, now + length));
    }

    /// Lets its clock run fast or slow.
    pub fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
        if let Some(boot) = &self.boot {
            boot.clock.set_rate(rate);
        }
    }

    /// Runs it for one tick of the world from `now` on.
    pub fn tick(&mut self, now: Duration, tick: Duration) {
        let Some(boot) = &self.boot else { return };
        let mut missed = Duration::ZERO;
        if let Some((since, until)) = self.paused {
            if now < until {
                return;
            }
            missed = now - since;
            self.paused = None;
        }
        boot.runtime.block_on(async {
            let end = boot.clock.begin_tick(now, tick, missed);
            if !missed.is_zero() {
                // Its clock went on while it stood still: all timers are due at once.
                tokio::time::advance(boot.clock.own(missed)).await;
            }
            tokio::time::sleep_until(end).await;
        });
    }
}

/// A runtime whose time stands still unless all tasks wait.
///
/// # Panics
/// If the operating system does not give what it needs.
pub fn paused_runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    #[allow(clippy::expect_used)]
    runtime.expect("a current-thread runtime needs no more than memory")
}

/// What a machine runs.
#[derive(Clone, Copy, Debug)]
pub enum Runs {
    /// A node alone.
    Node,
    /// A server with its front.
    Server {
        /// Bytes of a request, and of a part of what a watcher is sent.
        request_bytes_max: usize,
    },
}

impl Runs {
    /// Whether a hash is at the end of what is copied from it.
    fn signs_copies(self) -> bool {
        match self {
            Runs::Node => false,
            Runs::Server { .. } => true,
        }
    }
}

/// What runs in a process.
enum Process {
    Node(Node),
    Server(Box<Server>),
}

impl Process {
    async fn start(config: Config, runs: Runs, env: Arc<SimEnv>) -> Result<Process, String> {
        match runs {
            Runs::Node => Node::start_in(config, env).await.map(Process::Node).map_err(|error| error.to_string()),
            Runs::Server { request_bytes_max } => {
                let server = Server::start_in(front(config, request_bytes_max)?, env).await;
                server.map(|server| Process::Server(Box::new(server))).map_err(|error| error.to_string())
            }
        }
    }

    fn node(&self) -> &Node {
        match self {
            Process::Node(node) => node,
            Process::Server(server) => server.node(),
        }
    }

    /// As SIGTERM does.
    async fn stop(self) {
        match self {
            Process::Node(node) => node.shutdown().await,
            Process::Server(server) => server.shutdown().await,
        }
    }
}

/// The front of a node, as its flags have it when none is given but `max-request-bytes`.
fn front(node: Config, request_bytes_max: usize) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::parse([], []).map_err(|error| error.to_string())?;
    config.limits.request_bytes_max = request_bytes_max;
    let listen = Endpoint::Tcp { host: node.name.clone(), port: CLIENT_PORT, tls: false };
    Ok(ServerConfig { listen_client: vec![listen], node: Config { request_bytes_max, ..node }, ..config })
}

/// The process: starts the node, with its front or without, then does what clients ask.
async fn run_process(
    config: Config,
    runs: Runs,
    env: Arc<SimEnv>,
    door: Arc<Door>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) {
    let process = match Process::start(config, runs, env).await {
        Ok(process) => process,
        Err(error) => {
            door.inner.lock().failure = Some(error);
            return;
        }
    };
    let node = process.node().clone();
    let (stop, mut stopped) = oneshot::channel();
    door.inner.lock().stop = Some(stop);
    door.inner.lock().node = Some(node.clone());
    loop {
        tokio::select! {
            biased;
            error = node.stopped() => {
                let mut inner = door.inner.lock();
                inner.failure = Some(error.to_string());
                inner.jobs = None;
                return;
            }
            Ok(()) = &mut stopped => {
                process.stop().await;
                let mut inner = door.inner.lock();
                inner.failure = Some("stopped, as it was asked to".into());
                inner.jobs = None;
                return;
            }
            job = jobs.recv() => match job {
                Some(job) => { tokio::spawn(job(node.clone())); }
                None => return,
            },
        }
    }
}

/// The outside of a simulated node.
struct SimEnv {
    machine: usize,
    disk: FaultDisk,
    network: Network,
    clock: Arc<MachineClock>,
    doors: Doors,
    random_state: Arc<AtomicU64>,
    wall_clock_off_ms: Arc<AtomicI64>,
    dead: Arc<AtomicBool>,
}

impl Env for SimEnv {
    fn wall_clock_ms(&self) -> u64 {
        let now = 1_700_000_000_000 + self.clock.world_now().as_millis() as u64;
        now.saturating_add_signed(self.wall_clock_off_ms.load(Ordering::SeqCst))
    }

    fn random_u64(&self) -> u64 {
        crate::determinism::mix(self.random_state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.clock.world_now()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn lock_dir(&self, _dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        // One process at a time runs on a machine: the simulation starts no other before it has ended this one.
        Ok(Box::new(()))
    }

    fn open_engine(&self, kind: EngineKind, dir: &Path, config: EngineConfig) -> Result<Arc<dyn Engine>, EngineError> {
        match kind {
            EngineKind::Redb => {
                let path = dir.join("engine.redb");
                let failed = |source| EngineError::Io { path: path.clone(), source };
                let open = |file| RedbEngine::with_backend("engine.redb", EngineFile(file), config);
                match self.disk.open(&path) {
                    Ok(file) => return Ok(Arc::new(open(file)?)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(error)),
                }
                // As the engine does with a file of its own: it gets its name when it is whole.
                let new = dir.join("engine.redb.new");
                match self.disk.remove(&new) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    Ok(()) | Err(_) => {}
                }
                let engine = open(self.disk.create(&new).map_err(failed)?)?;
                self.disk.rename(&new, &path).and_then(|()| self.disk.sync_dir(dir)).map_err(failed)?;
                Ok(Arc::new(engine))
            }
            EngineKind::Sled | EngineKind::Memory => quorate_storage::open_engine(EngineKind::Memory, dir, config),
        }
    }

    fn begin_replacement(&self, dir: &Path) -> io::Result<PathBuf> {
        let new = dir.join("replacement");
        self.remove_replacement(&new)?;
        Ok(new)
    }

    fn finish_replacement(&self, kind: EngineKind, dir: &Path) -> io::Result<()> {
        if kind != EngineKind::Redb {
            return Ok(());
        }
        let new = dir.join("replacement");
        self.disk.rename(&new.join("engine.redb"), &dir.join("engine.redb"))?;
        // The name comes from one directory into the other.
        self.disk.sync_dir(&new)?;
        self.disk.sync_dir(dir)?;
        self.remove_replacement(&new)
    }

    fn connect(&self, url: String) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
        let doors = self.doors.clone();
        let peer_clock = move |machine: usize| doors[machine].clock();
        match address(&url) {
            Ok(address) => {
                Box::pin(self.network.clone().connect(self.machine, self.clock.clone(), peer_clock, address))
            }
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn listen(&self, url: String) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        let listening = address(&url).and_then(|address| self.network.listen(self.machine, address));
        Box::pin(async move { Ok(Box::new(SimListener(listening?)) as Box<dyn Listener>) })
    }

    fn spawn_dedicated(&self, _name: &'static str, task: BoxFuture<()>) {
        tokio::spawn(task);
    }

    fn fatal(&self, reason: &str) {
        if !self.dead.swap(true, Ordering::SeqCst) {
            // The process ends here. Its tasks run until the end of the tick, but nothing of it reaches anybody: the
            // disk takes nothing more, the door is shut, and connections are cut.
            self.disk.kill();
            let mut inner = self.doors[self.machine].inner.lock();
            inner.fatal = Some(reason.to_owned());
            inner.jobs = None;
            drop(inner);
            self.network.silence(self.machine);
        }
    }
}

impl SimEnv {
    fn remove_replacement(&self, new: &Path) -> io::Result<()> {
        for name in self.disk.list(new)? {
            self.disk.remove(&new.join(name))?;
        }
        self.disk.sync_dir(new)
    }
}

struct SimListener(mpsc::UnboundedReceiver<Accepted>);

impl Listener for SimListener {
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send + '_>> {
        Box::pin(async move { self.0.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into()) })
    }
}

/// redb's file on the simulated disk.
struct EngineFile(Arc<dyn DiskFile>);

impl std::fmt::Debug for EngineFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EngineFile")
    }
}

impl redb::StorageBackend for EngineFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.read_at(offset, out)? == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> io::Result<String> {
    match place(url).map_err(io::Error::other)? {
        Place::Tcp(address) => Ok(address),
        Place::Unix(_) => Err(io::Error::other(format!("{url}: no file of the simulated network"))),
    }
}
