//! Starting and stopping a node: directories, log, engine, group, peers, and the tasks that go with them.

use crate::bootstrap::{self, DataIdentity};
use crate::corruption::{self, CorruptionChecks, Hashing, Schedule};
use crate::env::{Env, Listener};
use crate::group::{Group, GroupOptions, Upkeep, UpkeepOptions};
use crate::inquiry::Inquiry;
use crate::node::{LONG_READS_MAX, Work};
use crate::peer::{self, Identity, Peers};
use crate::raft::{MemberNode, RaftOptions, last_of, members_of};
use crate::rebuild::{self, Keeper, Leave, Pulls, Record};
use crate::scrub::Scrub;
use crate::service::{self, Service};
use crate::start_stage::StartStage;
use crate::versions::VersionMonitor;
use crate::watch::WatchOptions;
use crate::{Config, Error, disaster, membership, urls};
use parking_lot::Mutex;
use quorate_core::{Command, GroupId, MemberAttributes, MemberId};
use quorate_proto::peer_v1 as pb;
use quorate_storage::{EngineConfig, EngineError, StorageError, Store, StoreConfig};
use quorate_wal::{FatalHook, Wal, WalError, WalOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// What was written is made durable in the engine after so much, if that is earlier than the interval.
const FLUSH_BYTES: usize = 32 << 20;

/// After so long without a change, what was written is made durable in the engine, so that a restart has nothing to repeat.
const QUIET: Duration = Duration::from_secs(1);

/// How small a part of the tail's bound is worth a batch of its own in the engine: 1 MiB of 32.
const TAIL_PARTS_PER_DRAIN: usize = 32;

/// Log entries that are kept in memory for members that lag a little.
const WAL_CACHE_BYTES: u64 = 16 << 20;

/// How long a clean shutdown waits for another member to take over leadership.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a stop waits for what is written last.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a start waits for a data directory or an engine that is in use: whoever had it may just be letting go.
const IN_USE_PATIENCE: Duration = Duration::from_secs(3);
const IN_USE_PAUSE: Duration = Duration::from_millis(50);

/// How often a member looks whether the cluster still knows its name.
const TOLD_INTERVAL: Duration = Duration::from_secs(5);

/// A running node.
pub(crate) struct Running {
    pub(crate) config: Arc<Config>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) identity: DataIdentity,
    pub(crate) group: Arc<Group>,
    pub(crate) wal: Wal,
    pub(crate) stopped: watch::Sender<Option<Error>>,
    /// Requests that read everything: a few at a time.
    pub(crate) heavy: Arc<Semaphore>,
    /// Reads of ranges that have more than a chunk in memory.
    pub(crate) long_reads: Semaphore,
    pub(crate) hashing: Hashing,
    /// How far the defragmentation is that is under way.
    pub(crate) defragmentation: Arc<Mutex<Option<Work>>>,
    /// Where its tasks run.
    pub(crate) runtime: Handle,
    upkeep_stop: Arc<Notify>,
    upkeep_done: watch::Receiver<bool>,
    log_ended: watch::Receiver<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    _lock: Box<dyn Send + Sync>,
}

/// Opens everything and starts all tasks, on the runtime that `env` has for them.
pub(crate) async fn start(config: Config, env: Arc<dyn Env>) -> Result<Arc<Running>, Error> {
    check(&config)?;
    let runtime = env.runtime().map_err(|error| Error::Fatal(format!("cannot start the node's threads: {error}")))?;
    let Some(runtime) = runtime else { return start_here(config, env).await };
    // What it spawns, and what is spawned by that, runs there as well. It is given up with the set.
    let mut starting = JoinSet::new();
    starting.spawn_on(start_here(config, env), &runtime);
    match starting.join_next().await {
        Some(Ok(started)) => started,
        Some(Err(error)) => Err(Error::Fatal(format!("the start of the node has failed: {error}"))),
        None => Err(Error::Stopped),
    }
}

/// If the member has to rebuild itself first, it does.
async fn start_here(config: Config, env: Arc<dyn Env>) -> Result<Arc<Running>, Error> {
    loop {
        let mut log = None;
        let outcome = start_once(config.clone(), env.clone(), &mut log).await;
        if outcome.is_err()
            && let Some((wal, ended)) = &log
        {
            // Whoever starts next, or removes the directory, must not meet a writer of this log.
            close(wal, ended).await;
        }
        match outcome {
            // What is due is on the disk.
            Err(Error::Rebuild(why)) => tracing::error!(why, "starting anew"),
            outcome => return outcome,
        }
    }
}

/// Closes a log, and waits until its writer has written its last.
async fn close(wal: &Wal, ended: &watch::Receiver<bool>) {
    wal.close();
    // An error means that it is gone.
    let _ = tokio::time::timeout(END_TIMEOUT, ended.clone().wait_for(|ended| *ended)).await;
}

/// What is in a data directory, ready to serve: the log has the last entry that the state has, or begins behind it.
struct Opened {
    identity: DataIdentity,
    wal: Wal,
    log_ended: watch::Receiver<bool>,
    store: Arc<Store>,
    /// How often in a row the member has rebuilt itself.
    rebuilds: u32,
    lock: Box<dyn Send + Sync>,
}

/// A log, and what tells that its writer has written its last.
type Log = (Wal, watch::Receiver<bool>);

/// Opens the data directory. `log` is set as soon as the log is open, whatever comes of the rest.
async fn open(config: &Config, env: &Arc<dyn Env>, log: &mut Option<Log>) -> Result<Opened, Error> {
    config.start_progress.enter(StartStage::Opening);
    let lock = take_directory_patiently(config, env.as_ref()).await?;
    let (identity, fresh) = bootstrap::identity(config, env.as_ref()).await?;
    let wal_dir = wal_dir(config);
    if fresh {
        // Before the directory says who it is: it would hold to that when the options are put right.
        drop(open_listeners(config, env.as_ref()).await?);
    } else {
        bootstrap::refuse_lost_log(env.as_ref(), &wal_dir)?;
    }
    let (wal, ended) = open_wal(config, wal_dir, &identity, env).await?;
    *log = Some((wal.clone(), ended.clone()));
    if fresh {
        bootstrap::keep(config, env.as_ref(), &identity)?;
    }
    let rebuilds = rebuild_if_due(config, env, &identity, &wal).await?;
    let store = open_or_rebuild(config, env.as_ref(), &identity).await?;
    disaster::apply_flag(config, env.as_ref(), &identity, &wal, &store).await?;
    fit_log(&wal, &store).await?;
    Ok(Opened { identity, wal, log_ended: ended, store, rebuilds, lock })
}

async fn start_once(config: Config, env: Arc<dyn Env>, log: &mut Option<Log>) -> Result<Arc<Running>, Error> {
    let Opened { identity, wal, log_ended, store, rebuilds, lock } = open(&config, &env, log).await?;
    let stopped = watch::Sender::new(None);
    let peers = Peers::new(
        env.clone(),
        Identity { cluster_id: identity.cluster_id, member_id: identity.member_id, data_dir_id: identity.data_dir_id },
        config.election_timeout,
        on_refusal(identity.member_id, stopped.clone()),
        known_directory(store.clone()),
    );
    let member = MemberId::new(identity.member_id);
    let heavy = Arc::new(Semaphore::new(config.heavy_max));
    let hashing = Hashing::new(env.clone(), store.clone(), heavy.clone());
    config.start_progress.enter(StartStage::Comparing);
    check_data(&config, env.as_ref(), member, &hashing, &peers).await?;
    let group =
        Group::start(GroupId::DEFAULT, member, env.clone(), group_options(&config, &env), store, &wal, peers.clone())
            .await
            .map_err(Error::Fatal)?;
    let (upkeep_stop, upkeep_done) = start_upkeep(&config, env.as_ref(), &group, &wal);
    let config = Arc::new(config);
    let service = Arc::new(Service {
        config: config.clone(),
        identity: identity.clone(),
        group: group.clone(),
        hashing: hashing.clone(),
        leave: Leave::default(),
        pulls: Pulls::new(),
    });
    let mut tasks = listen(&config, env.as_ref(), &service).await?;
    // Not only at the first start: a member that ended between keeping its identity and this point would never begin. Where there
    // is a log or a vote, it changes nothing.
    if !identity.initial_members.is_empty() {
        let members = identity.initial_members.iter();
        let nodes = members.map(|(id, urls)| (*id, MemberNode { peer_urls: urls.clone(), promote: false })).collect();
        group.raft.initialize(nodes).await.map_err(Error::Fatal)?;
    }
    let monitor = VersionMonitor::new(Arc::downgrade(&group), config.version_check_interval);
    tasks.push(tokio::spawn(monitor.run()));
    let schedule =
        Schedule { interval: config.corrupt_check_interval, compaction_interval: config.compact_hash_check_interval };
    let checks = CorruptionChecks::new(Arc::downgrade(&group), hashing.clone(), schedule);
    tasks.push(tokio::spawn(checks.run()));
    let keeper = Keeper::new(&group, hashing.clone(), config.clone(), env.clone(), stopped.clone(), rebuilds);
    tasks.push(tokio::spawn(keeper.run()));
    let scrub = Scrub::new(&group, wal.clone(), env.clone(), config.scrub_bytes_per_second, config.scrub_interval);
    env.spawn_dedicated("quorate-scrub", Box::pin(scrub.run()));
    tasks.push(tokio::spawn(membership::run_promoter(Arc::downgrade(&group))));
    tasks.push(tokio::spawn(publish(Arc::downgrade(&group), config.clone(), identity.clone())));
    tasks.push(tokio::spawn(Inquiry::new(&group, peers.clone(), config.clone()).run()));
    tasks.push(tokio::spawn(watch_membership(Arc::downgrade(&group), peers, identity.member_id, stopped.clone())));
    tasks.push(tokio::spawn(watch_failure(Arc::downgrade(&group), config.clone(), env.clone(), stopped.clone())));
    Ok(Arc::new(Running {
        config,
        env,
        identity,
        group,
        wal,
        stopped,
        heavy,
        long_reads: Semaphore::new(LONG_READS_MAX),
        hashing,
        defragmentation: Arc::default(),
        runtime: Handle::current(),
        upkeep_stop,
        upkeep_done,
        log_ended,
        tasks: Mutex::new(tasks),
        _lock: lock,
    }))
}

impl Running {
    /// Hands leadership over if it can, stops Raft, makes everything durable, closes the log.
    pub(crate) async fn shutdown(&self) {
        if self.stopped.borrow().is_none() {
            self.hand_over().await;
        }
        self.stopped.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(Error::Stopped);
            first
        });
        let tasks: Vec<JoinHandle<()>> = self.tasks.lock().drain(..).collect();
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            // An aborted task holds what it has, the store among it, until it is gone. That it was aborted is no news.
            let _ = task.await;
        }
        self.group.state.fail(Error::Stopped);
        self.group.raft.shutdown().await;
        self.upkeep_stop.notify_one();
        let mut done = self.upkeep_done.clone();
        // An error means that the upkeep is gone: then there is nothing to wait for.
        let _ = tokio::time::timeout(END_TIMEOUT, done.wait_for(|done| *done)).await;
        close(&self.wal, &self.log_ended).await;
    }

    async fn hand_over(&self) {
        if !self.group.role().is_leader {
            return;
        }
        let Some(heir) = membership::heir(&self.group, self.identity.member_id) else { return };
        if !self.group.hand_over(heir, TRANSFER_TIMEOUT).await {
            tracing::warn!("leadership was not taken over in time; the others will elect a leader");
        }
    }
}

fn check(config: &Config) -> Result<(), Error> {
    let urls = config.listen_peer_urls.iter().chain(&config.initial_advertise_peer_urls);
    for url in urls {
        urls::place(url).map_err(Error::Fatal)?;
    }
    if config.election_timeout < config.heartbeat_interval * 5 {
        return Err(Error::Fatal(format!(
            "--election-timeout[{}ms] should be at least as 5 times as --heartbeat-interval[{}ms]",
            config.election_timeout.as_millis(),
            config.heartbeat_interval.as_millis()
        )));
    }
    Ok(())
}

pub(crate) fn take_directory(config: &Config, env: &dyn Env) -> Result<Box<dyn Send + Sync>, Error> {
    let dir = &config.data_dir;
    env.disk().create_dir_all(dir).map_err(|error| in_use(dir, &error))?;
    env.lock_dir(dir).map_err(|error| in_use(dir, &error))
}

async fn take_directory_patiently(config: &Config, env: &dyn Env) -> Result<Box<dyn Send + Sync>, Error> {
    let dir = &config.data_dir;
    env.disk().create_dir_all(dir).map_err(|error| in_use(dir, &error))?;
    let patience = Instant::now() + IN_USE_PATIENCE;
    loop {
        match env.lock_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < patience => {
                tokio::time::sleep(IN_USE_PAUSE).await;
            }
            outcome => return outcome.map_err(|error| in_use(dir, &error)),
        }
    }
}

/// Why a data directory cannot be taken.
pub(crate) fn in_use(dir: &Path, error: &std::io::Error) -> Error {
    Error::Fatal(if error.kind() == std::io::ErrorKind::WouldBlock {
        format!(
            "{}: the data directory is in use by another process: stop it, or give this member a --data-dir of its own",
            dir.display()
        )
    } else {
        format!("{}: cannot use the data directory: {error}", dir.display())
    })
}

/// Where the write-ahead log is.
pub(crate) fn wal_dir(config: &Config) -> PathBuf {
    config.wal_dir.clone().unwrap_or_else(|| config.data_dir.join("wal"))
}

pub(crate) fn wal_options(config: &Config, dir: PathBuf, identity: &DataIdentity, env: &Arc<dyn Env>) -> WalOptions {
    let clock = env.clone();
    WalOptions {
        segment_bytes: config.wal_segment_bytes,
        cache_bytes: WAL_CACHE_BYTES,
        no_fsync: config.unsafe_no_fsync,
        node_nonce: identity.data_dir_id,
        clock: Some(Arc::new(move || clock.monotonic())),
        fsync_observer: config.fsync_observer.clone().map(|observer| observer.0),
        ..WalOptions::new(dir)
    }
}

/// The log, and a sign that nobody writes to it any more. Damage in a part that the storage engine has is given up.
async fn open_wal(
    config: &Config,
    dir: PathBuf,
    identity: &DataIdentity,
    env: &Arc<dyn Env>,
) -> Result<(Wal, watch::Receiver<bool>), Error> {
    let options = wal_options(config, dir, identity, env);
    let fatal = env.clone();
    let on_fatal: FatalHook = Arc::new(move |error: &WalError| fatal.fatal(&error.to_string()));
    let opened = match Wal::open(env.disk(), options.clone(), on_fatal.clone()) {
        Err(damage @ WalError::Corrupt { .. }) => {
            let state_has = state_has(config, env.as_ref()).await;
            let opened = Wal::open(env.disk(), WalOptions { state_has: state_has.clone(), ..options }, on_fatal);
            if opened.is_ok() {
                tracing::warn!(
                    %damage,
                    ?state_has,
                    "the write-ahead log is damaged in a part that the storage engine has: going on without that part. Check \
                     the disk"
                );
            }
            opened
        }
        opened => opened,
    };
    let (wal, writer, preparer) = opened.map_err(|error| Error::Fatal(error.to_string()))?;
    let (end, ended) = watch::channel(false);
    let writing = async move {
        writer.run().await;
        end.send_replace(true);
    };
    env.spawn_dedicated("quorate-wal", Box::pin(writing));
    env.spawn_dedicated("quorate-prepare", Box::pin(preparer.run()));
    Ok((wal, ended))
}

/// How far the state in the storage engine is, durably, as a log wants to know it; nothing, if the engine cannot be read.
async fn state_has(config: &Config, env: &dyn Env) -> BTreeMap<u32, (u64, u64)> {
    let is_due = Record::read(&config.data_dir, env).map(|record| record.is_some_and(|record| record.due.is_some()));
    if !matches!(is_due, Ok(false)) {
        return BTreeMap::new();
    }
    let durable = open_patiently(config, env).await.and_then(|store| store.flush());
    let last = durable.ok().and_then(last_of);
    last.map(|last| (GroupId::DEFAULT.get(), last)).into_iter().collect()
}

pub(crate) fn open_store(config: &Config, env: &dyn Env) -> Result<Arc<Store>, Error> {
    try_open_store(config, env).map_err(|error| Error::Fatal(error.to_string()))
}

fn try_open_store(config: &Config, env: &dyn Env) -> Result<Arc<Store>, StorageError> {
    let engine_config = EngineConfig { cache_bytes: config.engine_cache_bytes };
    let engine = env.open_engine(config.engine, &config.data_dir, engine_config)?;
    let store_config = StoreConfig {
        tail_bytes_max: config.tail_bytes_max,
        cache_bytes_max: config.record_cache_bytes,
        ..StoreConfig::default()
    };
    Ok(Arc::new(Store::open(engine, GroupId::DEFAULT, store_config)?))
}

fn group_options(config: &Config, env: &Arc<dyn Env>) -> GroupOptions {
    let jitter = env.clone();
    GroupOptions {
        raft: RaftOptions {
            heartbeat: config.heartbeat_interval,
            election: config.election_timeout,
            pre_vote: config.pre_vote,
        },
        // As etcd: on top of the time that it takes to notice a dead leader and to elect another.
        write_timeout: config.write_timeout + config.election_timeout * 2,
        read_timeout: config.read_timeout + config.election_timeout * 2,
        slow_apply: config.slow_apply,
        inflight_bytes_max: config.inflight_bytes_max,
        waiting_max: config.waiting_max,
        token_ttl: config.auth_token_ttl,
        tokens_max: config.auth_tokens_max,
        quota_bytes: u64::try_from(config.quota_bytes).ok().filter(|quota| *quota > 0),
        alarm_sticky: config.alarm_sticky,
        watch: WatchOptions {
            progress_interval: config.watch_progress_interval,
            stream_watchers_max: config.watch_stream_watchers_max,
            hub_watchers_max: config.watchers_max,
            queue_events_max: config.watch_queue_events_max,
            ..WatchOptions::default()
        },
        // As etcd: up to a tenth more, so that streams do not all speak at once.
        watch_jitter: Arc::new(move |interval| interval.mul_f64((jitter.random_u64() % 100) as f64 / 1000.0)),
    }
}

/// Starts the upkeep: what stops it, and whether it has stopped.
fn start_upkeep(config: &Config, env: &dyn Env, group: &Arc<Group>, wal: &Wal) -> (Arc<Notify>, watch::Receiver<bool>) {
    let stop = Arc::new(Notify::new());
    let (done, stopped) = watch::channel(false);
    let upkeep = Upkeep::new(group, wal.clone(), upkeep_options(config), stop.clone());
    env.spawn_dedicated(
        "quorate-upkeep",
        Box::pin(async move {
            upkeep.run().await;
            done.send_replace(true);
        }),
    );
    (stop, stopped)
}

fn upkeep_options(config: &Config) -> UpkeepOptions {
    UpkeepOptions {
        flush_interval: config.flush_interval,
        flush_bytes: FLUSH_BYTES,
        drain_bytes_min: config.tail_bytes_max / TAIL_PARTS_PER_DRAIN,
        wal_keep_bytes: config.wal_keep_bytes,
        quiet: config.flush_interval.min(QUIET),
        compaction_batch: config.compaction_batch,
        compaction_pause: config.compaction_pause,
        flush_observer: config.flush_observer.clone(),
    }
}

async fn listen(config: &Config, env: &dyn Env, service: &Arc<Service>) -> Result<Vec<JoinHandle<()>>, Error> {
    let listeners = open_listeners(config, env).await?;
    Ok(listeners.into_iter().map(|listener| tokio::spawn(peer::serve(listener, service.clone()))).collect())
}

async fn open_listeners(config: &Config, env: &dyn Env) -> Result<Vec<Box<dyn Listener>>, Error> {
    let mut listeners = Vec::new();
    for url in &config.listen_peer_urls {
        listeners.push(env.listen(url.clone()).await.map_err(|error| {
            let why = urls::why_not_listening(&error);
            Error::Fatal(format!("cannot listen for peers on {url}: {why} (--listen-peer-urls)"))
        })?);
    }
    Ok(listeners)
}

/// The data directory that the cluster knows of a member.
fn known_directory(store: Arc<Store>) -> peer::KnownDirectory {
    Arc::new(move |member| {
        membership::told(&store).get(&MemberId::new(member)).map(|attributes| attributes.data_dir_id)
    })
}

/// A peer that refuses us for good ends the node.
fn on_refusal(member: u64, stopped: watch::Sender<Option<Error>>) -> peer::OnRefusal {
    Arc::new(move |reason, _words| {
        let text = match reason {
            pb::Refusal::Removed => service::removed_text(member),
            pb::Refusal::Wiped => service::wiped_text(member),
            pb::Refusal::None | pb::Refusal::Cluster | pb::Refusal::NotMe | pb::Refusal::Version => return,
        };
        stop(&stopped, Error::Removed(text));
    })
}

pub(crate) fn stop(stopped: &watch::Sender<Option<Error>>, error: Error) {
    stopped.send_if_modified(|reason| {
        let first = reason.is_none();
        if first {
            tracing::error!(reason = %error, "the node stops");
            *reason = Some(error);
        }
        first
    });
}

async fn watch_failure(
    group: Weak<Group>,
    config: Arc<Config>,
    env: Arc<dyn Env>,
    stopped: watch::Sender<Option<Error>>,
) {
    let Some(mut failure) = group.upgrade().map(|group| group.state.watch_failure()) else { return };
    let Ok(Some(error)) = failure.wait_for(Option::is_some).await.map(|error| error.clone()) else { return };
    let Some(group) = group.upgrade() else { return stop(&stopped, error) };
    let others = membership::members(&group).unwrap_or_default();
    let others = others.into_iter().filter(|other| other.id != group.state.member);
    let urls: Vec<String> = others.flat_map(|other| other.peer_urls).collect();
    let due = match group.state.store.damage() {
        // It cannot go on anyway: there is nobody's leave to ask for.
        Some(damage) if rebuild::is_on(&config) && !urls.is_empty() => {
            Some(rebuild::make_due(&config, env.as_ref(), &damage, urls))
        }
        Some(_) | None => None,
    };
    stop(
        &stopped,
        match due {
            Some(Ok(())) => Error::Rebuild(error.to_string()),
            Some(Err(refused)) => refused,
            None => error,
        },
    );
}

/// A follower applies what the leader says is committed, also while its own log waits for the disk. If it ends then, and the engine
/// was flushed, the state is ahead of the log, which may hold other entries at its place, of a leader that was deposed.
async fn fit_log(wal: &Wal, store: &Store) -> Result<(), Error> {
    let make_durable = || {
        let durable = store.flush().map_err(|error| Error::Fatal(error.to_string()))?;
        tracing::info!(index = durable.index, "the state is ahead of the log: the log goes on behind it");
        Ok(())
    };
    rebuild::fit_log(&wal.group(GroupId::DEFAULT.get()), store.applied(), make_durable).await
}

/// Rebuilds the member if that is due; returns how often in a row it has done so.
async fn rebuild_if_due(config: &Config, env: &Arc<dyn Env>, identity: &DataIdentity, wal: &Wal) -> Result<u32, Error> {
    let Some(record) = Record::read(&config.data_dir, env.as_ref())? else { return Ok(0) };
    let attempts = record.attempts;
    if record.due.is_some() {
        config.start_progress.enter(StartStage::Rebuilding);
        rebuild::pull(config, env, identity, wal, record).await?;
        config.start_progress.enter(StartStage::Opening);
    }
    Ok(attempts)
}

/// Compares the data with the others'. A member that is damaged, or that a majority contradicts, has to rebuild itself.
async fn check_data(
    config: &Config,
    env: &dyn Env,
    member: MemberId,
    hashing: &Hashing,
    peers: &Peers,
) -> Result<(), Error> {
    let checked = corruption::check_at_start(config, member, hashing, peers).await;
    let store = hashing.store();
    let (refusal, why) = match (checked, store.damage()) {
        (Ok(None), _) => return Ok(()),
        (Ok(Some(contradicted)), _) => {
            let why = "its data differ from those of a majority of the members".to_owned();
            (Error::Fatal(contradicted.refusal), contradicted.by_majority.then_some(why))
        }
        (Err(error), damage) => (error, damage),
    };
    let Some(why) = why.filter(|_| rebuild::is_on(config)) else { return Err(refusal) };
    let members = members_of(&store.membership()).map_err(|error| Error::Fatal(error.to_string()))?;
    let others = members.into_iter().filter(|other| other.id != member.get());
    rebuild::make_due(config, env, &why, others.flat_map(|other| other.node.peer_urls).collect())?;
    Err(Error::Rebuild(refusal.to_string()))
}

async fn open_patiently(config: &Config, env: &dyn Env) -> Result<Arc<Store>, StorageError> {
    let patience = Instant::now() + IN_USE_PATIENCE;
    loop {
        match try_open_store(config, env) {
            Err(StorageError::Engine(EngineError::InUse { .. })) if Instant::now() < patience => {
                tokio::time::sleep(IN_USE_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Opens the storage engine. If what it holds is damaged, and there are others, the member has to rebuild itself.
async fn open_or_rebuild(config: &Config, env: &dyn Env, identity: &DataIdentity) -> Result<Arc<Store>, Error> {
    let error = match open_patiently(config, env).await {
        Ok(store) => return Ok(store),
        Err(error) => error,
    };
    let alone = identity.initial_members.len() == 1 && config.initial_cluster.len() <= 1;
    if !error.is_corruption() || !rebuild::is_on(config) || alone {
        return Err(Error::Fatal(error.to_string()));
    }
    let others = identity.initial_members.iter().filter(|(id, _)| **id != identity.member_id);
    rebuild::make_due(config, env, &error.to_string(), others.flat_map(|(_, urls)| urls.clone()).collect())?;
    Err(Error::Rebuild(error.to_string()))
}

/// Keeps the peer URLs current, and notices when this member is no longer in the membership.
async fn watch_membership(group: Weak<Group>, peers: Arc<Peers>, me: u64, stopped: watch::Sender<Option<Error>>) {
    let Some(mut news) = group.upgrade().map(|g| g.state.watch_membership()) else { return };
    // A member that joins replays memberships of a time before it was in: only one that was in can be removed.
    let mut was_in = false;
    let mut known = std::collections::BTreeSet::new();
    loop {
        let Some(strong) = group.upgrade() else { return };
        let members = membership::members(&strong).unwrap_or_default();
        drop(strong);
        let is_in = members.iter().any(|m| m.id.get() == me);
        if was_in && !is_in {
            stop(&stopped, Error::Removed(service::removed_text(me)));
        }
        was_in |= is_in;
        let now: std::collections::BTreeSet<u64> = members.iter().map(|m| m.id.get()).filter(|id| *id != me).collect();
        for gone in known.difference(&now) {
            peers.remove(*gone);
        }
        for member in members.into_iter().filter(|m| m.id.get() != me) {
            peers.set_urls(member.id.get(), member.peer_urls);
        }
        known = now;
        if news.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the cluster this member's name and client URLs, as long as it does not know them. It may lose them again: a leader that
/// began to remove this member at the moment at which it told them has a note in their place.
async fn publish(group: Weak<Group>, config: Arc<Config>, identity: DataIdentity) {
    let member = MemberId::new(identity.member_id);
    let attributes = MemberAttributes {
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.clone(),
        data_dir_id: identity.data_dir_id,
    };
    loop {
        let Some(group) = group.upgrade() else { return };
        if membership::told(&group.state.store).get(&member) == Some(&attributes) {
            drop(group);
            tokio::time::sleep(TOLD_INTERVAL).await;
            continue;
        }
        let command = Command::MemberPublish { member, attributes: attributes.clone() };
        if let Err(error) = group.write(command).await {
            tracing::debug!(%error, "cannot tell the cluster my name yet");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
