//! Configuration: what there is to set, with its defaults.

use std::{path::PathBuf, time::Duration};

use crate::{cache::policy::Policy, l1::PolicyKind};

/// Everything `serve` is told.
#[derive(Debug, Clone)]
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
    /// Rules for groups of keys, first match wins.
    pub policies: Vec<Policy>,
}

/// `[server]`.
#[derive(Debug, Clone)]
pub struct Server {
    /// Log level or directives (`info`, `terrace=debug`). Reloadable.
    pub log: String,
    /// Worker threads; 0 = one per core.
    pub workers: usize,
    /// How long a drain may take.
    pub drain: Duration,
    /// Allow ports that are not loopback.
    pub expose: bool,
    /// Most bytes of a value. Reloadable.
    pub max_value: u64,
    /// Most connections of each port.
    pub max_connections: usize,
    /// Most bytes of requests and answers under way, all ports.
    pub max_in_flight: u64,
}

/// `[grpc]`.
#[derive(Debug, Clone)]
pub struct Grpc {
    /// Where to listen.
    pub addr: String,
    /// Most bytes of a message, either way.
    pub max_message: u64,
    /// Deadline of unary calls. Reloadable.
    pub timeout: Duration,
}

/// `[resp]`.
#[derive(Debug, Clone)]
pub struct Resp {
    /// Where to listen.
    pub addr: String,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Refuse peers that are not loopback while there is no password. Reloadable.
    pub protected_mode: bool,
    /// Whether FLUSHDB and FLUSHALL are served: absent = allow over embedded and none, refuse over Redis. Reloadable.
    pub flush: Option<bool>,
}

/// `[http]`.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where to listen.
    pub addr: String,
    /// `/readyz` answers 503 while L2 is away. Reloadable.
    pub ready_requires_l2: bool,
}

/// `[l1]`.
#[derive(Debug, Clone)]
pub struct L1 {
    /// Bound on the weight of all entries, bytes.
    pub size: u64,
    /// What goes when room is needed.
    pub policy: PolicyKind,
    /// Bound on the number of entries.
    pub max_entries: Option<u64>,
    /// Over Redis, no copy is older. Reloadable.
    pub max_age: Duration,
}

/// `[l2]`.
#[derive(Debug, Clone)]
pub struct L2 {
    /// `redis://...`, `embedded`, `embedded:DIR`, `none`.
    pub url: String,
    /// Deadline of reads. Reloadable.
    pub read_timeout: Duration,
    /// Deadline of writes. Reloadable.
    pub write_timeout: Duration,
    /// Data connections to Redis of each worker.
    pub connections: usize,
    /// What may live in L1: keys that begin with one of these; empty = all.
    pub prefixes: Vec<String>,
}

/// `[data]`.
#[derive(Debug, Clone)]
pub struct Data {
    /// Holds the embedded store.
    pub dir: PathBuf,
    /// Bound on the embedded store, bytes.
    pub size: u64,
    /// `interval` or `always`.
    pub sync: Sync,
    /// With `interval`: what a power cut may lose.
    pub sync_interval: Duration,
}

/// When the embedded store forces its writes to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Every `sync_interval`.
    Interval,
    /// Before each answer.
    Always,
}

const MIB: u64 = 1 << 20;

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server {
                log: "info".into(),
                workers: 0,
                drain: Duration::from_secs(10),
                expose: false,
                max_value: 8 * MIB,
                max_connections: 10_000,
                max_in_flight: 256 * MIB,
            },
            grpc: Grpc { addr: "127.0.0.1:7400".into(), max_message: 16 * MIB, timeout: Duration::from_secs(5) },
            resp: Resp { addr: "127.0.0.1:7401".into(), password_file: None, protected_mode: true, flush: None },
            http: Http { addr: "127.0.0.1:7402".into(), ready_requires_l2: false },
            l1: L1 { size: 256 * MIB, policy: PolicyKind::Lru, max_entries: None, max_age: Duration::from_secs(60) },
            l2: L2 {
                url: "embedded".into(),
                read_timeout: Duration::from_millis(50),
                write_timeout: Duration::from_millis(200),
                connections: 2,
                prefixes: Vec::new(),
            },
            data: Data {
                dir: "./terrace-data".into(),
                size: 4096 * MIB,
                sync: Sync::Interval,
                sync_interval: Duration::from_millis(100),
            },
            policies: Vec::new(),
        }
    }
}
