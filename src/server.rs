//! Owns listeners, workers, background jobs, and the drain.
//!
//! Threads: one worker per core, each with a current-thread runtime that serves gRPC and RESP connections and owns its
//! Redis connections; one multi-thread runtime for the invalidation links, the background jobs and HTTP; the embedded
//! store has its own small pool.
//!
//! A drain first reports "not ready" and keeps serving for `server.drain_wait`, so that load balancers stop sending new
//! clients. The server then stops accepting connections and lets every connection finish the requests in flight (gRPC
//! connections receive GOAWAY). It ends after `server.drain` at the latest.

mod l2_tier;
mod listen;
mod tls_settings;
mod worker;

use std::{
    future::Future,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
};

use self::{l2_tier::Tier, listen::Port, worker::WorkerPlan};
use crate::{
    access::{Access, AccessSettings},
    cache::{Cache, Core, Rules},
    clock::{Clock, stopwatch_ns},
    config::{self, Address, By, Coherence, Config},
    grpc, http, jobs, l1,
    l2::{Deadlines, Flavor, RawConnection, Tunables, embedded},
    learn::{prefetch::PrefetchSettings, ttl::TtlSettings},
    node::{Addresses, Node, Setting},
    resp,
    socket::Listener,
};

/// Number of threads of the background runtime. HTTP, jobs and the invalidation links together need little CPU time.
const BACKGROUND_THREADS: usize = 2;
/// Number of tasks that a background thread polls before it looks for new connections and data.
const EVENT_INTERVAL: u32 = 4;
/// Number of file descriptors reserved for listeners, runtimes, files and logs.
const OWN_FILES: u64 = 64;
/// Number of file descriptors reserved for probes of the HTTP port.
const PROBE_FILES: u64 = 32;
/// Number of file descriptors reserved for connections to Redis in addition to those of the workers: invalidation links,
/// Sentinel, connection changes.
const LINK_FILES: u64 = 64;

/// Maximum number of CONFIG SET requests in the queue; further requests wait in their connections.
const CHANGES_WAITING: usize = 16;

/// Reason why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be opened (exit code 69).
    #[error("{0}")]
    Port(String),
    /// The data directory cannot be opened (exit code 69).
    #[error("{0}")]
    Data(String),
    /// The configuration is invalid (exit code 64).
    #[error("{0}")]
    Config(String),
}

/// A reload: the new configuration and its printable settings.
pub type Reload = (Config, Vec<Setting>);

/// Listeners that another process or the caller opened; all workers share them.
#[derive(Debug, Default)]
pub struct Passed {
    /// The gRPC listener.
    pub grpc: Option<OwnedFd>,
    /// The RESP listener.
    pub resp: Option<OwnedFd>,
    /// The HTTP listener.
    pub http: Option<OwnedFd>,
}

/// A server whose ports are bound and whose L2 is open.
pub struct Server {
    /// State of this process that is not about keys, for example its addresses.
    pub node: Arc<Node>,
    core: Arc<Core>,
    tier: Tier,
    tunables: Arc<Tunables>,
    grpc: Port,
    resp: Port,
    http: Port,
    health: Option<Port>,
    access: Arc<Access>,
    workers: usize,
    connections_max: u64,
    all_connections_max: u64,
    config: Config,
    log: LogLevel,
}

/// Callback that applies a new log level.
type LogLevel = Box<dyn Fn(&str) + Send + Sync>;

impl Server {
    /// Binds the ports and opens L2. `settings` are the printable settings of `config`.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn bind(config: Config, settings: Vec<Setting>, clock: Clock) -> Result<Self, StartError> {
        Self::bind_with(config, settings, clock, &Passed::default())
    }

    /// Like [`Server::bind`], with listeners that the caller opened.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn bind_with(
        config: Config,
        settings: Vec<Setting>,
        clock: Clock,
        passed: &Passed,
    ) -> Result<Self, StartError> {
        let workers = match config.server.workers {
            0 => thread::available_parallelism().map_or(1, Into::into),
            given => given,
        };
        let port = |name, address: &str, passed: &Option<OwnedFd>, sockets| match passed {
            Some(listener) => Port::shared(name, listener, sockets),
            None => Port::bind(
                &format!("{name}.addr"),
                address,
                sockets,
                config.server.expose || config.auth.file.is_some(),
            ),
        };
        let grpc = port("grpc", &config.grpc.addr, &passed.grpc, workers)?;
        let resp = port("resp", &config.resp.addr, &passed.resp, workers)?;
        let http = port("http", &config.http.addr, &passed.http, 1)?;
        let health = config.http.health_addr.as_ref();
        let health = health.map(|address| Port::bind("http.health_addr", address, 1, true)).transpose()?;

        // Created first: nothing has run for longer than the node.
        let node = Node::new(&clock, settings);
        let flavor = l2_tier::flavor(config.l2.url.expose())?;
        let access = config.access().map_err(StartError::Config)?;
        let access = Access::new(access, clock.clone()).map_err(|faults| StartError::Config(faults.join("\n")))?;
        let core =
            Core::with_learning(l1_settings(&config), flavor, rules(&config), clock.clone(), learn_settings(&config));
        core.budget().set_limits(config.server.max_in_flight, config.grpc.max_message);
        tls_settings::prepare(&config, &node.tls)?.install();
        let node = Arc::new(Node { in_flight: core.budget().clone(), ..node });
        // Cannot fail: the node was created above.
        let _first = node.addresses.set(Addresses {
            grpc: grpc.address.clone(),
            resp: resp.address.clone(),
            http: http.address.clone(),
            health: health.as_ref().map(|port| port.address.clone()),
        });
        node.sampled.set(config.server.log_requests);
        #[cfg(feature = "otel")]
        {
            node.traced.on.store(config.trace.otlp.is_some(), Ordering::Relaxed);
            node.traced.others.set(config.trace.requests);
        }
        let tunables = Tunables::new(deadlines(&config), config.server.max_value);
        let tier = Tier::open(&config, &core, &tunables)?;
        let all_connections_max = all_connections_max(&config, flavor, workers, listen::raise_file_limit());
        let connections_max = (config.server.max_connections as u64).min(all_connections_max);
        Ok(Self {
            node,
            core,
            tier,
            tunables,
            grpc,
            resp,
            http,
            health,
            access,
            workers,
            connections_max,
            all_connections_max,
            config,
            log: Box::new(|_level| {}),
        })
    }

    /// Sets the callback that changes the log level; without one, the log level never changes.
    #[must_use]
    pub fn with_log_level(mut self, change: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.log = Box::new(change);
        self
    }

    /// Serves until `stop` completes, then drains. `ready` is called as soon as all listeners accept connections;
    /// `reloads` receives new configurations.
    ///
    /// # Errors
    /// [`StartError`] when the threads or listeners cannot be created.
    pub fn run(
        mut self,
        ready: impl FnOnce(),
        reloads: mpsc::Receiver<Reload>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartError> {
        let background = background_runtime()?;
        let (stopper, stopped) = watch::channel(false);
        let (changes, asked) = mpsc::channel(CHANGES_WAITING);
        let plan = self.plan(stopped, changes)?;
        let (begun, mut beginnings) = mpsc::channel::<()>(self.workers);
        let learned = Arc::new(self.learned());
        jobs::start_clean_up::clean_up(&self.config.data.dir);
        learned.restore();
        let workers = self.start_workers(&plan, &begun)?;
        drop(begun);

        let mut live = Live {
            core: Arc::clone(&self.core),
            node: Arc::clone(&self.node),
            tunables: Arc::clone(&self.tunables),
            grpc: Arc::clone(&plan.grpc),
            resp: Arc::clone(&plan.resp),
            http: self.start_http(&background, &plan)?,
            access: Arc::clone(&self.access),
            config: self.config.clone(),
            log: self.log,
        };
        let warm = Arc::new(jobs::warm_start::WarmStart::new(live.http.cache.clone(), warm_settings(&self.config)));
        let keeps_warm = Arc::clone(&warm);
        background.spawn(async move { keeps_warm.run().await });
        let _following = self.tier.follow(&background, &self.core);
        background.spawn(jobs::expiry_sweep::run(Arc::clone(&self.core)));
        background.spawn(jobs::tls_files::run(self.node.tls.clone()));
        background.spawn(jobs::byte_budget::run(self.core.budget().clone()));
        let ports = Arc::clone(&plan.resp_shared);
        let access = Arc::clone(&self.access);
        background.spawn(jobs::access::run(Arc::clone(&self.access), move || ports.end_revoked(&access)));
        background.spawn(jobs::prefetch::run(live.http.cache.clone()));
        background.spawn(jobs::stats_windows::run(Arc::clone(&self.core)));
        background.spawn(jobs::learning::run(Arc::clone(&self.core)));
        let keeps_learned = Arc::clone(&learned);
        background.spawn(async move { keeps_learned.run().await });
        background.spawn(jobs::l2_state_log::run(live.http.cache.clone()));
        background.spawn(jobs::touch_on_read::run(live.http.cache.clone()));
        background.spawn(jobs::store_id::run(live.http.cache.clone()));
        if self.core.flavor() != Flavor::None {
            background.spawn(jobs::ban_sweep::run(live.http.cache.clone()));
        }
        if self.core.flavor() == Flavor::Redis {
            background.spawn(jobs::coherence_check::run(live.http.cache.clone()));
        }
        let (written, last_list) = tokio::sync::oneshot::channel();
        background.block_on(async {
            for _ in 0..self.workers {
                beginnings.recv().await;
            }
            ready();
            live.until(stop, reloads, asked).await;
            self.node.draining.store(true, Ordering::Relaxed);
            // The hot key list and the learned state are saved in parallel with the drain.
            background.spawn(async move {
                tokio::join!(warm.finish(), learned.finish());
                let _awaited = written.send(());
            });
            tokio::time::sleep(self.config.server.drain_wait).await;
        });

        for port in [&mut self.grpc, &mut self.resp, &mut self.http].into_iter().chain(&mut self.health) {
            port.remove_path();
        }
        self.core.begin_drain();
        // Fails only when all workers have ended already.
        let _ended = stopper.send(true);
        join(workers, self.config.server.drain);
        // The jobs log their own failures.
        let _written = background.block_on(last_list);
        background.shutdown_timeout(Duration::from_millis(100));
        Ok(())
    }

    fn learned(&self) -> jobs::learned_snapshot::LearnedSnapshot {
        let (folder, every) = (self.config.data.dir.clone(), self.config.learn.snapshot_every);
        jobs::learned_snapshot::LearnedSnapshot::new(Arc::clone(&self.core), folder, every)
    }

    fn plan(
        &self,
        stop: watch::Receiver<bool>,
        changes: mpsc::Sender<resp::SettingsChange>,
    ) -> Result<WorkerPlan, StartError> {
        let resp_shared = Arc::new(resp::PortState::new(self.core.budget()));
        let hears = Arc::clone(&resp_shared);
        self.core.events().set_listener(move |event| hears.hear(event));
        Ok(WorkerPlan {
            core: Arc::clone(&self.core),
            node: Arc::clone(&self.node),
            tier: self.tier.clone(),
            grpc: Arc::new(ArcSwap::from_pointee(grpc_settings(&self.config))),
            resp: Arc::new(ArcSwap::from_pointee(resp_settings(
                &self.config,
                self.core.flavor(),
                self.connections_max,
            ))),
            resp_shared,
            access: Arc::clone(&self.access),
            changes,
            connections_max: self.connections_max,
            all_connections_max: self.all_connections_max,
            grpc_peers: listen::Peers::default(),
            resp_peers: listen::Peers::default(),
            stop,
        })
    }

    fn start_workers(
        &mut self,
        plan: &WorkerPlan,
        begun: &mpsc::Sender<()>,
    ) -> Result<Vec<thread::JoinHandle<()>>, StartError> {
        let mut threads = Vec::with_capacity(self.workers);
        for number in 0..self.workers {
            let (Some(grpc), Some(resp)) = (self.grpc.take(), self.resp.take()) else { break };
            let begun = begun.clone();
            let ready = move || {
                // The capacity of the channel is the number of workers.
                let _counted = begun.try_send(());
            };
            threads.push(worker::start(number, plan.clone(), grpc, resp, ready)?);
        }
        Ok(threads)
    }

    fn start_http(&mut self, background: &Runtime, plan: &WorkerPlan) -> Result<Arc<http::Edge>, StartError> {
        let _inside = background.enter();
        let listen = |port: &mut Port| {
            let socket = port.take().ok_or_else(|| StartError::Port("no HTTP socket".to_owned()))?;
            Listener::adopt(socket).map_err(|error| StartError::Port(format!("cannot listen for HTTP: {error}")))
        };
        let health = self.health.as_mut().map(listen).transpose()?;
        let listeners = http::Listeners { all: listen(&mut self.http)?, health };
        let edge = Arc::new(http::Edge {
            cache: Cache::new(Arc::clone(&self.core), plan.tier.backend()),
            node: Arc::clone(&self.node),
            access: Arc::clone(&self.access),
            ready_requires_l2: AtomicBool::new(self.config.http.ready_requires_l2),
            hosts: ArcSwap::from_pointee(http_hosts(&self.config)),
        });
        background.spawn(http::serve(listeners, Arc::clone(&edge)));
        Ok(edge)
    }
}

/// A change of the configuration.
enum Request {
    Reload(Box<Reload>),
    /// CONFIG SET.
    Change(resp::SettingsChange),
}

/// State that a reload or CONFIG SET changes.
struct Live {
    core: Arc<Core>,
    node: Arc<Node>,
    tunables: Arc<Tunables>,
    grpc: Arc<ArcSwap<grpc::GrpcSettings>>,
    resp: Arc<ArcSwap<resp::RespSettings>>,
    http: Arc<http::Edge>,
    access: Arc<Access>,
    /// The effective configuration.
    config: Config,
    log: LogLevel,
}

impl Live {
    /// Applies reloads and CONFIG SET requests until `stop` completes.
    async fn until(
        &mut self,
        stop: impl Future<Output = ()>,
        mut reloads: mpsc::Receiver<Reload>,
        mut asked: mpsc::Receiver<resp::SettingsChange>,
    ) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let request = tokio::select! {
                () = &mut stop => return,
                Some(reload) = reloads.recv() => Request::Reload(Box::new(reload)),
                Some(change) = asked.recv() => Request::Change(change),
            };
            // A reload may wait for a file that is being written.
            tokio::select! {
                () = &mut stop => return,
                () = self.execute(request) => {}
            }
        }
    }

    async fn execute(&mut self, request: Request) {
        match request {
            Request::Reload(reload) => {
                let (config, settings) = *reload;
                match self.reload(config, settings).await {
                    Ok(()) => {
                        tracing::info!("configuration reloaded");
                        self.node.tls.reload_all();
                    }
                    Err(error) => tracing::error!(%error, "rejected new configuration; keeping the current one"),
                }
            }
            Request::Change(change) => {
                let done = self.change(&change.settings, change.is_local).await;
                // Fails only when the client has disconnected.
                let _told = change.done.send(done);
            }
        }
    }

    /// Applies a new configuration and reads the users file again.
    async fn reload(&mut self, config: Config, settings: Vec<Setting>) -> Result<(), StartError> {
        let access = config.access().map_err(StartError::Config)?;
        self.access.wait_for_file(&access).await.map_err(StartError::Config)?;
        self.take(config, settings, Some(access))
    }

    /// Applies a changed setting. Reads the users file only if a setting of access control is changed.
    async fn take_change(&mut self, config: Config, settings: Vec<Setting>) -> Result<(), StartError> {
        let access = config.access().map_err(StartError::Config)?;
        if self.access.uses(&access) {
            return self.take(config, settings, None);
        }
        self.access.wait_for_file(&access).await.map_err(StartError::Config)?;
        self.take(config, settings, Some(access))
    }

    /// Executes CONFIG SET. The change is effective until the next reload, which restores the value of the file.
    async fn change(&mut self, changes: &[(String, String)], is_local: bool) -> Result<(), (String, String)> {
        let by = By { name: "CONFIG SET", is_local };
        let (config, settings) = config::change(&self.config, &self.node.settings.load(), changes, by)
            .map_err(|unchanged| (unchanged.key, unchanged.why))?;
        let keys: Vec<&str> = changes.iter().map(|(key, _)| key.as_str()).collect();
        self.take_change(config, settings).await.map_err(|error| (keys.join(", "), error.to_string()))?;
        tracing::info!(settings = keys.join(", "), "CONFIG SET changed settings");
        Ok(())
    }

    /// Applies a configuration completely, or not at all. `access` has the settings of access control; `None` = unchanged.
    fn take(
        &mut self,
        config: Config,
        settings: Vec<Setting>,
        access: Option<AccessSettings>,
    ) -> Result<(), StartError> {
        let clients_max = self.resp.load().clients_max;
        let resp = resp_settings(&config, self.core.flavor(), clients_max);
        let tls = tls_settings::prepare(&config, &self.node.tls)?;
        if let Some(access) = access {
            self.access.reload(access).map_err(|faults| StartError::Config(faults.join("\n")))?;
        }
        tls.install();
        self.resp.store(Arc::new(resp));
        self.grpc.store(Arc::new(grpc_settings(&config)));
        self.core.budget().set_limits(config.server.max_in_flight, config.grpc.max_message);
        self.tunables.set(deadlines(&config), config.server.max_value);
        self.http.ready_requires_l2.store(config.http.ready_requires_l2, Ordering::Relaxed);
        self.http.hosts.store(Arc::new(http_hosts(&config)));
        self.core.set_rules(rules(&config));
        self.node.sampled.set(config.server.log_requests);
        self.node.settings.store(Arc::new(settings));
        if config.server.log != self.config.server.log {
            (self.log)(&config.server.log);
        }
        self.config = config;
        Ok(())
    }
}

/// Returns the maximum number of connections on all ports: the limit of open files without the files that the server
/// itself needs, so that a node with all connections in use still reaches its L2 and answers probes.
fn all_connections_max(config: &Config, flavor: Flavor, workers: usize, files: u64) -> u64 {
    let of_l2 = match flavor {
        Flavor::None => 0,
        Flavor::Embedded => embedded::FILES_MAX,
        Flavor::Redis => workers as u64 * (config.l2.connections as u64 + RawConnection::PER_WORKER_MAX) + LINK_FILES,
    };
    let reserved = OWN_FILES + PROBE_FILES + of_l2;
    // A small limit is divided between clients and the server.
    files.saturating_sub(reserved.min(files / 2)).max(1)
}

fn background_runtime() -> Result<Runtime, StartError> {
    Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        // Busy HTTP connections must not delay a new one, which may be a probe: the default is 61 polls of tasks.
        .event_interval(EVENT_INTERVAL)
        .thread_name("background")
        .enable_all()
        .build()
        .map_err(|error| StartError::Port(format!("cannot start the background threads: {error}")))
}

/// Waits for the workers for at most `deadline`. The end of the process aborts the connections that are still open.
fn join(workers: Vec<thread::JoinHandle<()>>, deadline: Duration) {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    let begun = stopwatch_ns();
    let over = || u128::from(stopwatch_ns() - begun) >= deadline.as_nanos();
    while workers.iter().any(|worker| !worker.is_finished()) && !over() {
        thread::sleep(LOOK_EVERY);
    }
    let left = workers.iter().filter(|worker| !worker.is_finished()).count();
    if left > 0 {
        tracing::warn!(workers = left, "drain deadline exceeded; aborting the remaining connections");
    }
}

fn http_hosts(config: &Config) -> Vec<String> {
    let own = Address::parse(&config.http.addr).ok().and_then(|address| address.name().map(str::to_owned));
    config.http.hosts.iter().cloned().chain(own).collect()
}

fn l1_settings(config: &Config) -> l1::Settings {
    l1::Settings { capacity_bytes: config.l1.size, max_entries: config.l1.max_entries, policy: config.l1.policy }
}

fn learn_settings(config: &Config) -> PrefetchSettings {
    PrefetchSettings {
        memory_bytes: usize::try_from(config.learn.memory).unwrap_or(usize::MAX),
        // The budget is a small whole number, which f32 represents exactly.
        budget: config.learn.budget as f32 / 1_000.0,
        control: true,
    }
}

fn rules(config: &Config) -> Rules {
    Rules {
        policies: config.policies.clone(),
        value_max: config.server.max_value,
        l1_max_age: config.l1.max_age,
        serve_stale_for: config.l2.serve_stale_for,
        script_timeout: config.l2.script_timeout,
        untracked: config.l1.coherence == Coherence::Ttl,
        ttl: TtlSettings {
            freshness: config.learn.ttl_freshness,
            min: config.learn.ttl_min,
            max: config.learn.ttl_max,
        },
        l1_prefixes: config.l2.prefixes.iter().map(|prefix| prefix.clone().into()).collect(),
    }
}

/// Returns the deadlines of the store in use.
fn deadlines(config: &Config) -> Deadlines {
    match config.is_embedded() {
        true => Deadlines { read: config.data.read_timeout, write: config.data.write_timeout },
        false => Deadlines { read: config.l2.read_timeout, write: config.l2.write_timeout },
    }
}

fn warm_settings(config: &Config) -> jobs::warm_start::WarmStartSettings {
    jobs::warm_start::WarmStartSettings {
        folder: config.data.dir.clone(),
        keys_max: config.data.hot_keys,
        every: config.data.hot_keys_every,
        rate: config.data.warm_rate,
    }
}

fn grpc_settings(config: &Config) -> grpc::GrpcSettings {
    grpc::GrpcSettings {
        message_max: usize::try_from(config.grpc.max_message).unwrap_or(usize::MAX),
        timeout: config.grpc.timeout,
        warm_rate: config.data.warm_rate,
    }
}

fn resp_settings(config: &Config, flavor: Flavor, clients_max: u64) -> resp::RespSettings {
    resp::RespSettings {
        protected_mode: config.resp.protected_mode,
        serve_stale: config.resp.serve_stale,
        flush: config.resp.flush.unwrap_or(flavor != Flavor::Redis),
        clients_max,
        value_max: config.server.max_value,
    }
}
