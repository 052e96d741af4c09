//! A server process from start to end: node, listeners, signals.

use crate::audit::AuditLog;
use crate::auth::{Passwords, Tokens};
use crate::compactor::Compactor;
use crate::config::ServerConfig;
use crate::inherited::Inherited;
use crate::leaderless::LeaderWatch;
use crate::listen::{Acceptor, Listener, Serves};
use crate::metrics::{Histogram, Metrics};
use crate::shared::Shared;
use crate::starting::Front;
use crate::tls::Security;
use crate::{StartError, log, memory, notify};
use bytes::Bytes;
use quorate_core::{KeyRange, RangeRequest};
use quorate_node::env::Env;
use quorate_node::{Error, FsyncObserver, Node};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs a server until SIGINT or SIGTERM, or until the node stops by itself. One that stops to rebuild itself is started anew.
/// Starts the log and the runtime.
///
/// # Errors
/// Why it did not start, or why the node stopped.
pub fn run(config: ServerConfig) -> Result<(), StartError> {
    log::start(&config)?;
    if config.lock_memory {
        memory::lock().map_err(|why| StartError::config(format!("--memory-mlock: {why}")))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("quorate")
        .enable_all()
        .build()
        .map_err(StartError::Process)?;
    // Sockets that the service manager has opened are there once.
    let may_begin_anew = std::env::var_os("LISTEN_FDS").is_none();
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Process)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Process)?;
        let asked = async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
            }
        };
        let mut asked = std::pin::pin!(asked);
        loop {
            // A node that waits for its cluster must be stoppable, too.
            let server = tokio::select! {
                server = Server::start(config.clone()) => server?,
                () = asked.as_mut() => return Ok(()),
            };
            let ready = server.node().clone();
            let outcome = tokio::select! {
                () = asked.as_mut() => Ok(()),
                reason = server.node().stopped() => Err(reason),
                never = tell_when_ready(ready) => match never {},
            };
            if matches!(outcome, Err(Error::Rebuild(_))) && may_begin_anew {
                server.shutdown().await;
                continue;
            }
            notify::stopping();
            server.shutdown().await;
            return outcome.map_err(|reason| {
                tracing::error!(%reason, "the node stopped by itself");
                StartError::Node(reason)
            });
        }
    })
}

/// Tells the service manager once the member serves; never returns.
async fn tell_when_ready(node: Node) -> std::convert::Infallible {
    if node.wait_ready().await.is_ok() {
        tracing::info!("ready to serve client requests");
        notify::ready();
    }
    let Some(interval) = notify::watchdog_interval() else { return std::future::pending().await };
    loop {
        // A read of this member's own state says that the process does its work; it needs no leader.
        let everything = KeyRange::From { start: Bytes::from_static(b"\0") };
        let request = RangeRequest { serializable: true, keys_only: true, limit: 1, ..RangeRequest::new(everything) };
        match tokio::time::timeout(interval / 2, node.range(request)).await {
            Ok(Ok(_)) => notify::alive(),
            Ok(Err(error)) => tracing::error!(%error, "the service manager is not told that this member is alive"),
            Err(_) => {
                tracing::error!("a read takes too long: the service manager is not told that this member is alive")
            }
        }
        tokio::time::sleep(interval / 2).await;
    }
}

/// A running server. Dropping it does not stop it: call [`Server::shutdown`].
pub struct Server {
    node: Node,
    shared: Arc<Shared>,
    acceptor: Acceptor,
    tasks: TaskTracker,
    /// See [`Shared::detached`].
    detached: TaskTracker,
    /// Streams end, and connections finish what they have begun.
    stopping: CancellationToken,
    shutdown_timeout: std::time::Duration,
    addresses: Vec<(Serves, String)>,
}

impl Server {
    /// Opens the listeners, starts the node, and serves.
    ///
    /// # Errors
    /// What cannot be, an address that cannot be listened on, or a node that does not start.
    pub async fn start(mut config: ServerConfig) -> Result<Self, StartError> {
        config.discover().await?;
        config.check_first_start()?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        warn_of_readers(&config.node.data_dir);
        let security = Security::new(&config)?;
        // A taken port is found before the node writes anything to the disk.
        let listeners = open_listeners(&config, &security).await?;
        let env = security.env();
        Self::serve(config, security, listeners, env).await
    }

    /// As [`Server::start`], with everything that is outside of the process taken from `env`, and clients of
    /// `listen-client-urls` alone: for the simulation.
    ///
    /// # Errors
    /// As of [`Server::start`].
    pub async fn start_in(config: ServerConfig, env: Arc<dyn Env>) -> Result<Self, StartError> {
        let security = Security::new(&config)?;
        let mut listeners = Vec::new();
        for endpoint in &config.listen_client {
            let url = endpoint.to_string();
            let failed = |source| StartError::Listen { flag: "listen-client-urls", url: url.clone(), source };
            let given = env.listen(url.clone()).await.map_err(failed)?;
            let tls = security.clients.clone().filter(|_| endpoint.is_tls());
            listeners.push(Listener::given(given, url, Serves::All, tls));
        }
        Self::serve(config, security, listeners, env).await
    }

    async fn serve(
        mut config: ServerConfig,
        security: Security,
        listeners: Vec<Listener>,
        env: Arc<dyn Env>,
    ) -> Result<Self, StartError> {
        let fsyncs = Arc::new(Histogram::of_fsyncs());
        let observed = Arc::clone(&fsyncs);
        config.node.fsync_observer = Some(FsyncObserver(Arc::new(move |took| observed.observe(took))));
        let flushes = Arc::new(Histogram::of_fsyncs());
        let observed = Arc::clone(&flushes);
        config.node.flush_observer = Some(FsyncObserver(Arc::new(move |took| observed.observe(took))));
        let audit = config.audit.as_ref().map(AuditLog::open).transpose()?;
        let tokens = Tokens::load(&config.auth_token)?;
        let passwords = Passwords::new(config.login_queue_max, Arc::clone(&env));
        let metrics = Arc::new(Metrics::new(config.metrics_extensive, fsyncs, flushes));
        let security = Arc::new(security);
        let stopping = CancellationToken::new();
        // A start that fails, or that nobody waits for any more, serves nothing more.
        let end_with_start = stopping.clone().drop_guard();
        let front = Arc::new(Front::new(
            config.node.start_progress.clone(),
            Arc::clone(&metrics),
            config.access.clone(),
            Arc::clone(&security),
        ));
        let acceptor = Acceptor::new(Arc::clone(&front), &config, stopping.clone());
        let addresses = listeners.iter().map(|listener| (listener.serves(), listener.address().to_owned())).collect();
        // Health and metrics can be asked from the start.
        let (metrics_only, listeners): (Vec<_>, Vec<_>) =
            listeners.into_iter().partition(|listener| listener.serves() == Serves::Metrics);
        for listener in metrics_only {
            tracing::info!(address = listener.address(), "serving metrics and health");
            acceptor.listen(listener);
        }
        let node = Node::start_in(config.node.clone(), env).await.map_err(StartError::Node)?;
        let (leaderless, no_leader) = LeaderWatch::new(node.clone(), config.node.election_timeout);
        let shared = Arc::new(Shared::new(
            node.clone(),
            tokens,
            passwords,
            &config,
            metrics,
            audit,
            security,
            no_leader,
            stopping.clone(),
        ));
        let detached = shared.detached.clone();
        front.hand_over(Arc::clone(&shared));
        let tasks = TaskTracker::new();
        tasks.spawn(leaderless.run(stopping.clone()));
        if let Some(mode) = config.auto_compaction {
            tasks.spawn(Compactor::new(node.clone(), mode).run(stopping.clone()));
        }
        for listener in listeners {
            tracing::info!(address = listener.address(), serves = ?listener.serves(), "serving clients");
            tasks.spawn(listen_when_ready(node.clone(), acceptor.clone(), listener, stopping.clone()));
        }
        end_with_start.disarm();
        Ok(Self {
            node,
            shared,
            acceptor,
            tasks,
            detached,
            stopping,
            shutdown_timeout: config.limits.shutdown_timeout,
            addresses,
        })
    }

    /// The node that it serves.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Where it listens: what is served, and `ip:port` or a path.
    pub fn addresses(&self) -> &[(Serves, String)] {
        &self.addresses
    }

    /// Accepts nothing more, lets requests finish for a bounded time, then stops the node.
    pub async fn shutdown(self) {
        self.stopping.cancel();
        self.acceptor.drain(self.shutdown_timeout).await;
        self.tasks.close();
        self.tasks.wait().await;
        self.detached.close();
        self.detached.wait().await;
        if let Some(audit) = &self.shared.audit {
            audit.flush().await;
        }
        self.node.shutdown().await;
        tracing::info!("stopped");
    }
}

/// A directory that the member makes is its user's alone; of one that was there, others may be able to read.
fn warn_of_readers(data_dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    // One that is not there yet, or cannot be looked at, is the node's business.
    let Ok(metadata) = std::fs::metadata(data_dir) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let dir = data_dir.display();
        tracing::warn!("--data-dir: others than its owner can get into {dir} (mode {mode:o}): chmod 700 {dir}");
    }
}

/// Clients wait, as with etcd, until the member's state is at least what it was before a restart: what was read here once
/// must not be gone.
async fn listen_when_ready(node: Node, acceptor: Acceptor, listener: Listener, stopping: CancellationToken) {
    let ready = tokio::select! {
        ready = node.wait_ready() => ready.is_ok(),
        () = stopping.cancelled() => false,
    };
    if ready {
        acceptor.listen(listener);
    }
}

async fn open_listeners(config: &ServerConfig, security: &Security) -> Result<Vec<Listener>, StartError> {
    let client_serves = if config.listen_http.is_empty() { Serves::All } else { Serves::Grpc };
    let mut listeners = Vec::new();
    let mut inherited = Inherited::take().map_err(StartError::Process)?;
    for (flag, endpoints, serves) in [
        ("listen-client-urls", &config.listen_client, client_serves),
        ("listen-client-http-urls", &config.listen_http, Serves::Http),
        ("listen-metrics-urls", &config.listen_metrics, Serves::Metrics),
    ] {
        for endpoint in endpoints {
            let tls = security.clients.clone().filter(|_| endpoint.is_tls());
            listeners.push(Listener::open(endpoint, serves, flag, tls, config.reuse_port, &mut inherited).await?);
        }
    }
    for address in inherited.unused() {
        tracing::warn!(address, "the service manager listens there, and no URL asks for it");
    }
    Ok(listeners)
}
