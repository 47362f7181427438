//! Configuration: the one table of settings, and how a [`Config`] is made from it.
//!
//! A setting is one row of the table below: its field and type, default, form (what may be written, with unit and
//! range) and meaning. Flag `--l1-size`, variable `TERRACE_L1_SIZE`, file key `size` under `[l1]`, `--help`, the README's
//! table and `terrace config` all come from that row. A flag beats the environment, that beats the file, that beats the
//! default; all faults are found before any port is bound ([`load()`]).
//!
//! This folder is the only reader of the environment and of the files that it names.

mod address;
mod constraints;
mod fault;
mod file;
mod form;
mod load;
mod password;
mod policy;
mod table;

use std::{path::PathBuf, time::Duration};

pub use self::{
    address::Address,
    fault::{Fault, Faults},
    load::{Given, Loaded, Sources, Unchanged, change, environment, load, reload},
    policy::{POLICY_ROWS, PolicyRow},
    table::{Row, SHORT_FLAGS},
};
use self::{
    form::{Addr, Choice, Count, Factor, Flag, L2Url, List, LogFilter, Maybe, Path, Size, Span},
    table::settings,
};
use crate::{cache::policy::Policy, l1::PolicyKind, l2::redis};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Everything `serve` is told.
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
    /// The tier below.
    pub l2: L2,
    /// The data directory.
    pub data: Data,
    /// Traces.
    pub trace: Trace,
    /// What is learned.
    pub learn: Learn,
    /// Rules for groups of keys, first match wins.
    pub policies: Vec<Policy>,
}

/// When the embedded store forces its writes to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Every `sync_interval`.
    Interval,
    /// Before each answer.
    Always,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What may be written for [`LogFormat`].
const LOG_FORMAT: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
/// What may be written for [`Sync`].
const SYNC: &[(&str, Sync)] = &[("interval", Sync::Interval), ("always", Sync::Always)];
/// What bounds the age of copies in L1 over Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coherence {
    /// Redis's invalidations; without them L1 stays closed.
    Tracking,
    /// Where Redis refuses invalidations, `max_age` alone.
    Ttl,
}

/// What may be written for [`Coherence`].
const COHERENCE: &[(&str, Coherence)] = &[("tracking", Coherence::Tracking), ("ttl", Coherence::Ttl)];
/// What may be written for `resp.flush`.
const FLUSH: &[(&str, Option<bool>)] = &[("auto", None), ("allow", Some(true)), ("refuse", Some(false))];
/// What may be written for [`PolicyKind`].
const L1_POLICY: &[(&str, PolicyKind)] = &[("learned", PolicyKind::Learned), ("lru", PolicyKind::Lru)];

settings! {
    /// `[server]`: the process.
    server: Server {
        /// Log level (error, warn, info, debug, trace) or directives such as `info,terrace=debug`.
        log: String = "info".into(), LogFilter, reloadable;
        /// How lines of the log look: for people, or one JSON object each.
        log_format: LogFormat = LogFormat::Text, Choice(LOG_FORMAT);
        /// Log one request in so many, with its duration and how it ended, on the gRPC and RESP ports; 0 = none.
        log_requests: u64 = 0, Count(0, 1_000_000_000), reloadable;
        /// Worker threads, each with its own connections; 0 = one per core.
        workers: usize = 0, Count(0, 1024);
        /// How long a drain goes on serving as not ready, before connections are told to go: as long as load balancers need to see it.
        drain_wait: Duration = Duration::ZERO, Span(Duration::ZERO, Duration::from_secs(600));
        /// How long a drain may take after that: what runs then is cut off.
        drain: Duration = Duration::from_secs(10), Span(Duration::ZERO, Duration::from_secs(600));
        /// Allow ports that are not loopback: whoever reaches them can read and write everything.
        expose: bool = false, Flag;
        /// Most bytes of a value.
        max_value: u64 = 8 * MIB, Size(1, 512 * MIB), reloadable;
        /// Most connections of each port.
        max_connections: usize = 10_000, Count(1, 1_000_000);
        /// Most bytes of requests and answers under way, all ports; beyond it load is shed.
        max_in_flight: u64 = 256 * MIB, Size(MIB, TIB);
    }
    /// `[grpc]`: the gRPC port.
    grpc: Grpc {
        /// Where to listen.
        addr: String = "127.0.0.1:7400".into(), Addr;
        /// Most bytes of a message, either way.
        max_message: u64 = 16 * MIB, Size(128 * KIB, GIB);
        /// Deadline of unary calls; a shorter grpc-timeout wins.
        timeout: Duration = Duration::from_secs(5), Span(Duration::from_millis(1), Duration::from_secs(3600)), reloadable;
    }
    /// `[resp]`: the port for redis-cli and other Redis clients.
    resp: Resp {
        /// Where to listen.
        addr: String = "127.0.0.1:7401".into(), Addr;
        /// File whose first line is the password; without one no password is asked.
        password_file: Option<PathBuf> = None, Maybe("none", Path), reloadable;
        /// Refuse peers that are not loopback while there is no password.
        protected_mode: bool = true, Flag, reloadable;
        /// Whether FLUSHDB and FLUSHALL are served; auto: over embedded and none, not over Redis, which others share.
        flush: Option<bool> = None, Choice(FLUSH), reloadable;
        /// Answer reads from copies past the coherence bound while L2 is away (`l2.serve_stale_for`), which RESP cannot flag.
        serve_stale: bool = false, Flag, reloadable;
    }
    /// `[http]`: the port for metrics and health.
    http: Http {
        /// Where to listen.
        addr: String = "127.0.0.1:7402".into(), Addr;
        /// `/readyz` answers 503 while L2 is away, not only before the first contact.
        ready_requires_l2: bool = false, Flag, reloadable;
    }
    /// `[l1]`: this node's memory.
    l1: L1 {
        /// Bound on the weight of all entries: keys, values and everything kept for them.
        size: u64 = 256 * MIB, Size(64 * KIB, 16 * TIB);
        /// What goes when room is needed.
        policy: PolicyKind = PolicyKind::Learned, Choice(L1_POLICY);
        /// Bound on the number of entries.
        max_entries: Option<u64> = None, Maybe("none", Count(1, 1_000_000_000_000));
        /// Over a Redis that refuses invalidations: keep L1 closed, or open it with max_age as the only bound (ttl).
        coherence: Coherence = Coherence::Tracking, Choice(COHERENCE);
        /// Over Redis, no copy is older than this.
        max_age: Duration = Duration::from_secs(60), Span(Duration::from_millis(1), Duration::from_secs(86_400)), reloadable;
    }
    /// `[l2]`: the tier below.
    l2: L2 {
        /// The store.
        url: String = "embedded".into(), L2Url;
        /// Deadline of reads.
        read_timeout: Duration = Duration::from_millis(50), Span(Duration::from_millis(1), Duration::from_secs(60)), reloadable;
        /// Deadline of writes.
        write_timeout: Duration = Duration::from_millis(200), Span(Duration::from_millis(1), Duration::from_secs(60)), reloadable;
        /// How long past the coherence bound a copy may still be answered, flagged as stale, while L2 is away; 0s = not at all.
        serve_stale_for: Duration = Duration::ZERO, Span(Duration::ZERO, Duration::from_secs(86_400)), reloadable;
        /// Data connections to Redis of each worker.
        connections: usize = 2, Count(1, 64);
        /// Calls to Redis that go unanswered in a row, for at least 100ms, before calls are refused at once (circuit breaker).
        breaker_failures: usize = redis::FAILURES_DEFAULT, Count(1, 1_000_000);
        /// Authorities to trust for TLS to Redis (PEM), instead of this machine's.
        tls_ca_file: Option<PathBuf> = None, Maybe("none", Path);
        /// Our certificate for TLS to Redis (PEM), where it asks for one.
        tls_cert_file: Option<PathBuf> = None, Maybe("none", Path);
        /// The key of that certificate (PEM).
        tls_key_file: Option<PathBuf> = None, Maybe("none", Path);
        /// What may live in L1: keys that begin with one of these; empty = all keys.
        prefixes: Vec<String> = Vec::new(), List(64, form::Prefix);
    }
    /// `[learn]`: what is learned from the traffic.
    learn: Learn {
        /// How many mean intervals between changes a TTL may be that is advised or tuned; 0 = changes do not matter.
        ttl_freshness: f64 = 1.0, Factor(0.0, 1_000.0), reloadable;
        /// Shortest TTL that is advised or tuned.
        ttl_min: Duration = Duration::from_secs(300), Span(Duration::from_secs(1), Duration::from_secs(365 * 86_400)), reloadable;
        /// Longest TTL that is advised or tuned.
        ttl_max: Duration = Duration::from_secs(86_400), Span(Duration::from_secs(1), Duration::from_secs(365 * 86_400)), reloadable;
        /// Bound on the memory of what is learned for prefetch.
        memory: u64 = 64 * MIB, Size(16 * MIB, 16 * GIB);
        /// How often what was learned for prefetch is written into the data directory; at shutdown as well. 0s = never, nor read.
        snapshot_every: Duration = Duration::from_secs(300), Span(Duration::ZERO, Duration::from_secs(86_400));
        /// Reads of L2 that prefetch may waste, aimed at, of each thousand that are needed.
        budget: u64 = 40, Count(1, 1_000);
    }
    /// `[data]`: the data directory.
    data: Data {
        /// Holds the embedded store, the list of hot keys and what was learned.
        dir: PathBuf = "./terrace-data".into(), Path;
        /// Bound on the embedded store; beyond it the oldest written go first.
        size: u64 = 4 * GIB, Size(16 * MIB, 64 * TIB);
        /// Keys written down at shutdown and every `hot_keys_every`, hottest first, to be pulled from L2 at the next start; 0 = none.
        hot_keys: usize = 1_000_000, Count(0, 10_000_000);
        /// How often the hot keys are written down.
        hot_keys_every: Duration = Duration::from_secs(300), Span(Duration::from_secs(1), Duration::from_secs(86_400));
        /// Keys a second that are pulled from L2 after a start.
        warm_rate: u64 = 50_000, Count(1, 10_000_000);
        /// When writes are forced to the disk; a killed process loses nothing either way, a power cut nothing with always.
        sync: Sync = Sync::Interval, Choice(SYNC);
        /// With `interval`: what a power cut may lose.
        sync_interval: Duration = Duration::from_millis(100), Span(Duration::from_millis(1), Duration::from_secs(60));
    }
    /// `[trace]`: OpenTelemetry.
    trace: Trace {
        /// Send traces of gRPC calls to this OpenTelemetry collector (OTLP over gRPC); only in builds with the feature `otel`.
        otlp: Option<String> = None, Maybe("none", form::Collector);
        /// Calls whose caller sends no traceparent: trace one in so many; 0 = none. Where it sends one, the caller has decided.
        requests: u64 = 0, Count(0, 1_000_000_000);
    }
}
