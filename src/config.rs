//! The table of settings, and the code that builds a [`Config`] from it.
//!
//! A setting is one row of the table in this file: its field and type, default, form (accepted values, with unit and
//! range) and description. Flag `--l1-size`, variable `TERRACE_L1_SIZE`, file key `size` under `[l1]`, `--help`,
//! `docs/reference/configuration.md` and `terrace config` are all derived from that row. A flag takes precedence over
//! the environment, the environment over the file, and the file over the default. All faults are reported before any
//! port is bound ([`load()`]).
//!
//! Only this module reads the environment, the configuration file and the password of the RESP port.

mod address;
mod constraints;
mod coverage;
mod credential;
mod fault;
mod file;
mod form;
mod load;
mod password;
mod policy;
mod table;
mod tls;

use std::{path::PathBuf, time::Duration};

pub use self::{
    address::Address,
    fault::{Fault, Faults},
    load::{
        By, Given, Loaded, Sources, Unchanged, change, default_file, environment, load, load_again, reload, token_file,
    },
    policy::{POLICY_ROWS, PolicyRow},
    table::{Row, SHORT_FLAGS},
};
use self::{
    form::{Addr, Choice, Count, Factor, File, Flag, L2Url, List, LogFilter, Maybe, Path, Size, Span},
    table::settings,
};
use crate::{
    access::{AccessSettings, GuestRole},
    cache::policy::Policy,
    cache::policy::SCRIPT_TIMEOUT_DEFAULT,
    l1::PolicyKind,
    l2::redis,
    secret::Secret,
    tls::Version as TlsVersion,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The configuration of `serve`.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The process.
    pub server: Server,
    /// The gRPC port.
    pub grpc: Grpc,
    /// The RESP port.
    pub resp: Resp,
    /// The HTTP port.
    pub http: Http,
    /// The memory tier.
    pub l1: L1,
    /// The L2 tier.
    pub l2: L2,
    /// The data directory.
    pub data: Data,
    /// Access control.
    pub auth: Auth,
    /// OpenTelemetry traces.
    pub trace: Trace,
    /// TLS of the three ports.
    pub tls: Tls,
    /// The learner.
    pub learn: Learn,
    /// Rules for groups of keys; the first match applies.
    pub policies: Vec<Policy>,
}

/// Disk synchronization of the embedded store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Every `sync_interval`.
    Interval,
    /// Before each acknowledgment.
    Always,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Names of [`LogFormat`].
const LOG_FORMAT: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
/// Names of [`Sync`].
const SYNC: &[(&str, Sync)] = &[("interval", Sync::Interval), ("always", Sync::Always)];
/// Bound on the age of L1 copies when L2 is Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coherence {
    /// Invalidations from Redis; without them L1 is bypassed.
    Tracking,
    /// `max_age` alone, if Redis refuses to send invalidations.
    Ttl,
}

impl Config {
    /// Reads the password file and returns the settings of access control.
    ///
    /// # Errors
    /// The reason why the password file cannot be used.
    pub fn access(&self) -> Result<AccessSettings, String> {
        Ok(AccessSettings {
            file: self.auth.file.clone(),
            local: self.auth.local.clone(),
            anonymous: self.auth.anonymous.clone(),
            accepts_plaintext: self.auth.plaintext == Plaintext::Allow,
            password: self.resp.password()?,
        })
    }

    /// Returns whether L2 is the embedded store.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.l2.url.expose().split(':').next() == Some("embedded")
    }
}

/// Names of [`Coherence`].
const COHERENCE: &[(&str, Coherence)] = &[("tracking", Coherence::Tracking), ("ttl", Coherence::Ttl)];
/// Names of `resp.flush`.
const FLUSH: &[(&str, Option<bool>)] = &[("auto", None), ("allow", Some(true)), ("refuse", Some(false))];
/// Clients whose CONFIG SET may change protected settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtectedConfigs {
    /// None.
    No,
    /// Clients on this machine.
    Local,
    /// All.
    Yes,
}

/// Names of [`ProtectedConfigs`].
const PROTECTED_CONFIGS: &[(&str, ProtectedConfigs)] =
    &[("no", ProtectedConfigs::No), ("local", ProtectedConfigs::Local), ("yes", ProtectedConfigs::Yes)];
/// Treatment of secrets on connections that others can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plaintext {
    /// Refuse them.
    Refuse,
    /// Accept them.
    Allow,
}

/// Names of [`Plaintext`].
const PLAINTEXT: &[(&str, Plaintext)] = &[("refuse", Plaintext::Refuse), ("allow", Plaintext::Allow)];
/// Names of [`PolicyKind`].
const L1_POLICY: &[(&str, PolicyKind)] = &[("learned", PolicyKind::Learned), ("lru", PolicyKind::Lru)];

/// TLS of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// No TLS.
    Off,
    /// TLS; clients send no certificate.
    On,
    /// TLS; clients must send a certificate.
    Mutual,
    /// TLS; the certificate of a client that sends one is verified.
    Optional,
}

/// Names of [`TlsMode`].
const TLS_MODE: &[(&str, TlsMode)] =
    &[("off", TlsMode::Off), ("on", TlsMode::On), ("mutual", TlsMode::Mutual), ("optional", TlsMode::Optional)];
/// Names of [`TlsVersion`].
const TLS_VERSION: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];

settings! {
    /// `[server]`: the process.
    server: Server {
        /// Log level (error, warn, info, debug, trace) or directives such as `info,terrace=debug`.
        log: String = "info".into(), LogFilter, reloadable;
        /// Format of log lines: text, or one JSON object per line.
        log_format: LogFormat = LogFormat::Text, Choice(LOG_FORMAT);
        /// Sampling interval of the request log on the gRPC and RESP ports: one request in N is logged with its duration and result; 0 = no request log.
        log_requests: u64 = 0, Count(0, 1_000_000_000), reloadable;
        /// Number of worker threads, each with connections of its own; 0 = one per CPU core.
        workers: usize = 0, Count(0, 1024);
        /// Time at the start of a drain during which the server serves requests but reports not ready, so that load balancers stop sending new clients.
        drain_wait: Duration = Duration::ZERO, Span(Duration::ZERO, Duration::from_secs(600));
        /// Maximum duration of a drain after `server.drain_wait`; requests that are still running are then aborted.
        drain: Duration = Duration::from_secs(10), Span(Duration::ZERO, Duration::from_secs(600));
        /// Permission to listen on non-loopback addresses without `auth.file`. Requires `auth.anonymous`, the role of every client that can reach a port.
        expose: bool = false, Flag;
        /// Maximum value size in bytes.
        max_value: u64 = 8 * MIB, Size(1, 512 * MIB), reloadable;
        /// Maximum number of connections on each port. The limit of open files bounds their sum.
        max_connections: usize = 10_000, Count(1, 1_000_000);
        /// Maximum bytes of requests and responses in flight on all ports; further requests wait, and are then rejected with `RESOURCE_EXHAUSTED`.
        max_in_flight: u64 = 256 * MIB, Size(MIB, TIB);
    }
    /// `[grpc]`: the gRPC port.
    grpc: Grpc {
        /// Listen address of the gRPC port.
        addr: String = "127.0.0.1:7400".into(), Addr;
        /// Maximum size in bytes of a gRPC request or response message.
        max_message: u64 = 16 * MIB, Size(128 * KIB, GIB);
        /// Deadline of unary calls; a shorter `grpc-timeout` of the client takes precedence.
        timeout: Duration = Duration::from_secs(5), Span(Duration::from_millis(1), Duration::from_secs(3600)), reloadable;
        /// TLS mode of the gRPC port; none = `tls.mode`.
        tls_mode: Option<TlsMode> = None, Maybe("none", Choice(TLS_MODE)), reloadable;
        /// PEM file of the gRPC port's certificate, followed by its intermediate certificates; none = `tls.cert_file`.
        tls_cert_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// PEM file of the private key of the gRPC port's certificate; none = `tls.key_file`.
        tls_key_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// PEM file of the certificate authorities that verify client certificates on the gRPC port; none = `tls.client_ca_file`.
        tls_client_ca_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
    }
    /// `[resp]`: the port for redis-cli and other Redis clients.
    resp: Resp {
        /// Listen address of the RESP port.
        addr: String = "127.0.0.1:7401".into(), Addr;
        /// File whose first line is the password of the RESP port; none = no password is required.
        password_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// Refuse non-loopback clients of the RESP port while `resp.password_file`, `auth.file` and `auth.anonymous` are unset.
        protected_mode: bool = true, Flag, reloadable;
        /// Clients whose CONFIG SET may change protected settings (files with secrets, `resp.protected_mode`, `resp.flush`): none, those on this machine, or all.
        protected_configs: ProtectedConfigs = ProtectedConfigs::No, Choice(PROTECTED_CONFIGS);
        /// Permission for FLUSHDB and FLUSHALL; auto allows both commands unless L2 is Redis, which other applications may share.
        flush: Option<bool> = None, Choice(FLUSH), reloadable;
        /// Permission to answer RESP reads with stale copies while L2 is unavailable (see `l2.serve_stale_for`); RESP replies cannot carry the stale flag.
        serve_stale: bool = false, Flag, reloadable;
        /// TLS mode of the RESP port; none = `tls.mode`.
        tls_mode: Option<TlsMode> = None, Maybe("none", Choice(TLS_MODE)), reloadable;
        /// PEM file of the RESP port's certificate, followed by its intermediate certificates; none = `tls.cert_file`.
        tls_cert_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// PEM file of the private key of the RESP port's certificate; none = `tls.key_file`.
        tls_key_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// PEM file of the certificate authorities that verify client certificates on the RESP port; none = `tls.client_ca_file`.
        tls_client_ca_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
    }
    /// `[http]`: the port for metrics and health.
    http: Http {
        /// Listen address of the HTTP port.
        addr: String = "127.0.0.1:7402".into(), Addr;
        /// Listen address of a port that serves only `/healthz` and `/readyz`, without `server.expose`; none = no such port.
        health_addr: Option<String> = None, Maybe("none", Addr);
        /// Host names of the page, in addition to IP addresses, names without a dot, Kubernetes service names and the host of `http.addr`. `/metrics` and the probes accept any host.
        hosts: Vec<String> = Vec::new(), List(64, form::HostName), reloadable;
        /// Respond with status 503 on `/readyz` whenever L2 is unavailable; false = only before the first contact with L2.
        ready_requires_l2: bool = false, Flag, reloadable;
        /// TLS mode of the HTTP port; none = `tls.mode`.
        tls_mode: Option<TlsMode> = None, Maybe("none", Choice(TLS_MODE)), reloadable;
        /// PEM file of the HTTP port's certificate, followed by its intermediate certificates; none = `tls.cert_file`.
        tls_cert_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// PEM file of the private key of the HTTP port's certificate; none = `tls.key_file`.
        tls_key_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// PEM file of the certificate authorities that verify client certificates on the HTTP port; none = `tls.client_ca_file`.
        tls_client_ca_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
    }
    /// `[l1]`: this node's memory.
    l1: L1 {
        /// Maximum weight in bytes of all L1 entries: keys, values and metadata.
        size: u64 = 256 * MIB, Size(64 * KIB, 16 * TIB);
        /// Eviction policy of L1.
        policy: PolicyKind = PolicyKind::Learned, Choice(L1_POLICY);
        /// Maximum number of L1 entries.
        max_entries: Option<u64> = None, Maybe("none", Count(1, 1_000_000_000_000));
        /// Use of L1 when Redis refuses to send invalidations: tracking bypasses L1; ttl serves from L1, with `l1.max_age` as the only bound on staleness.
        coherence: Coherence = Coherence::Tracking, Choice(COHERENCE);
        /// Maximum age of an L1 copy when L2 is Redis.
        max_age: Duration = Duration::from_secs(60), Span(Duration::from_millis(1), Duration::from_secs(86_400)), reloadable;
    }
    /// `[l2]`: the L2 tier.
    l2: L2 {
        /// L2 store and its address.
        url: Secret<String> = "embedded".into(), L2Url;
        /// User of Redis whose password is in `l2.password_file`; none = the default user of Redis.
        user: Option<String> = None, Maybe("none", form::UserName);
        /// File whose first line is the password for Redis; none = the password in `l2.url`. New connections use the password of a changed file.
        password_file: Option<PathBuf> = None, Maybe("none", File);
        /// User of the Sentinels whose password is in `l2.sentinel_password_file`; none = the default user of the Sentinels.
        sentinel_user: Option<String> = None, Maybe("none", form::UserName);
        /// File whose first line is the password for the Sentinels; none = the password in `l2.url`. New connections use the password of a changed file.
        sentinel_password_file: Option<PathBuf> = None, Maybe("none", File);
        /// Deadline of reads from Redis. The embedded store has `data.read_timeout`.
        read_timeout: Duration = Duration::from_millis(50), Span(Duration::from_millis(1), Duration::from_secs(60)), reloadable;
        /// Deadline of writes to Redis. The embedded store has `data.write_timeout`.
        write_timeout: Duration = Duration::from_millis(200), Span(Duration::from_millis(1), Duration::from_secs(60)), reloadable;
        /// Deadline of a script or function that a client runs in Redis, including the time until it may start. It may still run in Redis after the deadline.
        script_timeout: Duration = SCRIPT_TIMEOUT_DEFAULT, Span(Duration::from_millis(1), Duration::from_secs(3600)), reloadable;
        /// Time past the coherence bound during which reads may return L1 copies, flagged as stale, while L2 is unavailable; 0s = never.
        serve_stale_for: Duration = Duration::ZERO, Span(Duration::ZERO, Duration::from_secs(86_400)), reloadable;
        /// Number of data connections to Redis per worker thread.
        connections: usize = 2, Count(1, 64);
        /// Number of consecutive unanswered calls to a Redis primary, over at least 100ms, that opens the circuit breaker; further calls then fail immediately.
        breaker_failures: usize = redis::FAILURES_DEFAULT, Count(1, 1_000_000);
        /// PEM file of trusted certificate authorities for TLS to Redis; none = the system's certificate authorities.
        tls_ca_file: Option<PathBuf> = None, Maybe("none", File);
        /// PEM file of the client certificate for TLS to Redis; none = no client certificate.
        tls_cert_file: Option<PathBuf> = None, Maybe("none", File);
        /// PEM file of the private key for `l2.tls_cert_file`.
        tls_key_file: Option<PathBuf> = None, Maybe("none", File);
        /// Key prefixes that may be cached in L1; empty = all keys. Redis sends invalidations for these prefixes only.
        prefixes: Vec<String> = Vec::new(), List(64, form::Prefix);
    }
    /// `[learn]`: the learner.
    learn: Learn {
        /// Upper bound of advised and tuned TTLs, as a multiple of the mean interval between changes of a key; 0 = no such bound.
        ttl_freshness: f64 = 1.0, Factor(0.0, 1_000.0), reloadable;
        /// Minimum advised or tuned TTL.
        ttl_min: Duration = Duration::from_secs(300), Span(Duration::from_secs(1), Duration::from_secs(365 * 86_400)), reloadable;
        /// Maximum advised or tuned TTL.
        ttl_max: Duration = Duration::from_secs(86_400), Span(Duration::from_secs(1), Duration::from_secs(365 * 86_400)), reloadable;
        /// Maximum memory in bytes of the prefetch learner.
        memory: u64 = 64 * MIB, Size(16 * MIB, 16 * GIB);
        /// Interval between snapshots of the learned prefetch state in `data.dir`; shutdown writes a snapshot as well. 0s = snapshots are neither written nor read.
        snapshot_every: Duration = Duration::from_secs(300), Span(Duration::ZERO, Duration::from_secs(86_400));
        /// Target for wasted prefetch reads per 1,000 L2 reads that clients require.
        budget: u64 = 40, Count(1, 1_000);
    }
    /// `[data]`: the data directory.
    data: Data {
        /// Directory of the embedded store, the hot key list and the snapshot of the learned prefetch state.
        dir: PathBuf = "./terrace-data".into(), Path;
        /// Maximum size in bytes of the embedded store; the entries written longest ago are evicted first.
        size: u64 = 4 * GIB, Size(16 * MIB, 64 * TIB);
        /// Maximum number of hot keys saved at shutdown and every `data.hot_keys_every`, and loaded from L2 into L1 at the next start; 0 = no hot key list.
        hot_keys: usize = 1_000_000, Count(0, 10_000_000);
        /// Interval between saves of the hot key list.
        hot_keys_every: Duration = Duration::from_secs(300), Span(Duration::from_secs(1), Duration::from_secs(86_400));
        /// Maximum number of keys per second that a warm start loads from L2.
        warm_rate: u64 = 50_000, Count(1, 10_000_000);
        /// Disk synchronization of the embedded store: interval (every `data.sync_interval`) or always (before each acknowledgment). A killed process loses no acknowledged write in either mode; a power failure loses none with always.
        sync: Sync = Sync::Interval, Choice(SYNC);
        /// Interval between disk synchronizations with `data.sync = "interval"`; a power failure loses at most the writes of one interval.
        sync_interval: Duration = Duration::from_millis(100), Span(Duration::from_millis(1), Duration::from_secs(60));
        /// Deadline of reads from the embedded store. A local disk under load needs longer than a network, and no other node can answer.
        read_timeout: Duration = Duration::from_secs(2), Span(Duration::from_millis(1), Duration::from_secs(60)), reloadable;
        /// Deadline of writes to the embedded store.
        write_timeout: Duration = Duration::from_secs(3), Span(Duration::from_millis(1), Duration::from_secs(60)), reloadable;
    }
    /// `[auth]`: access control.
    auth: Auth {
        /// File of users, roles and the hashes of their secrets; none = no users. Changes take effect within 2s.
        file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// Role of clients on this machine that send no credentials; auto = admin without `auth.file`, none with it.
        local: GuestRole = GuestRole::Auto, form::Guest, reloadable;
        /// Role of other clients that send no credentials; auto = none. A reachable port without `auth.file` requires an explicit role.
        anonymous: GuestRole = GuestRole::Auto, form::Guest, reloadable;
        /// Treatment of secrets from other machines on connections without TLS.
        plaintext: Plaintext = Plaintext::Refuse, Choice(PLAINTEXT), reloadable;
    }
    /// `[trace]`: OpenTelemetry.
    trace: Trace {
        /// OpenTelemetry collector that receives traces of gRPC calls (OTLP over gRPC). Requires a build with the feature `otel`.
        otlp: Option<String> = None, Maybe("none", form::Collector);
        /// Sampling interval of gRPC calls without a `traceparent` header: one call in N is traced; 0 = none. The header decides for calls that carry one.
        requests: u64 = 0, Count(0, 1_000_000_000);
    }
    /// `[tls]`: TLS of the gRPC, RESP and HTTP ports. Unix sockets and `http.health_addr` have no TLS.
    tls: Tls {
        /// TLS mode of each port without a mode of its own: off, on (server certificate), mutual (client certificate required), or optional (client certificate verified if sent).
        mode: TlsMode = TlsMode::Off, Choice(TLS_MODE), reloadable;
        /// PEM file of the server certificate, followed by its intermediate certificates.
        cert_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// PEM file of the private key of `tls.cert_file`.
        key_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// PEM file of the certificate authorities that verify client certificates.
        client_ca_file: Option<PathBuf> = None, Maybe("none", File), reloadable;
        /// Minimum TLS version that the ports accept.
        min_version: TlsVersion = TlsVersion::V13, Choice(TLS_VERSION), reloadable;
    }
}
