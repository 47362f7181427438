//! State of this process that ports display: version, run id, addresses, configuration, connections.

mod worker_heartbeat;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;

pub use self::worker_heartbeat::{Heartbeat, Heartbeats};
use crate::{
    budget::Budget,
    clock::{Clock, Tick},
    tls::Endpoints,
};

/// The version of Terrace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One server.
#[derive(Debug)]
pub struct Node {
    /// 40 hex digits, new at each start.
    pub run_id: String,
    /// Start time of the server.
    pub started_at: Tick,
    /// Bound addresses of the ports, for display; set once the ports are bound.
    pub addresses: OnceLock<Addresses>,
    /// The effective configuration, without secrets.
    pub settings: ArcSwap<Vec<Setting>>,
    /// Client connections of each port.
    pub connections: Connections,
    /// TLS of the ports.
    pub tls: Endpoints,
    /// Bytes of requests and responses in flight on all ports.
    pub in_flight: Budget,
    /// Sampling of the requests that are logged.
    pub sampled: Sampled,
    /// Sampling of the requests that are traced.
    #[cfg(feature = "otel")]
    pub traced: Traced,
    /// Heartbeats of the workers, for the health check.
    pub heartbeats: Heartbeats,
    /// True once the server accepts no new work.
    pub draining: std::sync::atomic::AtomicBool,
}

/// Bound addresses of the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC.
    pub grpc: String,
    /// RESP.
    pub resp: String,
    /// HTTP.
    pub http: String,
    /// The probes, if they have a port of their own.
    pub health: Option<String>,
}

/// One effective setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Key as in the file, such as `l1.size`.
    pub key: String,
    /// Value as it would be written in the file.
    pub value: String,
    /// `default`, `file PATH:LINE`, `env NAME`, `flag --NAME` or `CONFIG SET`.
    pub source: String,
    /// True if SIGHUP or CONFIG SET changes it without a restart.
    pub reloadable: bool,
}

/// Client connections of each port, now and since start.
#[derive(Debug, Default)]
pub struct Connections {
    /// Open gRPC connections.
    pub grpc: Arc<AtomicU64>,
    /// Open RESP connections.
    pub resp: Arc<AtomicU64>,
    /// Open HTTP connections.
    pub http: Arc<AtomicU64>,
    /// Open connections of all ports.
    pub all: Arc<AtomicU64>,
    /// RESP connections accepted since start.
    pub resp_accepted: Arc<AtomicU64>,
    /// Connections refused since start because a limit was reached, on any port.
    pub rejected: Arc<AtomicU64>,
}

/// Samples the requests that are logged, at random: each request has the same chance, whatever the pattern of a client.
#[derive(Debug, Default)]
pub struct Sampled(AtomicU64);

impl Sampled {
    /// Samples one request in `one_in`; 0 disables sampling.
    pub fn set(&self, one_in: u64) {
        self.0.store(one_in, Relaxed);
    }

    /// Returns whether one of `requests` is to be logged.
    #[inline]
    #[must_use]
    pub fn draw(&self, requests: u64) -> bool {
        let one_in = self.0.load(Relaxed);
        one_in > 0 && requests > 0 && fastrand::u64(..one_in) < requests
    }
}

/// Sampling of traces: requests whose caller requests a trace, and one in N of the others.
#[cfg(feature = "otel")]
#[derive(Debug, Default)]
pub struct Traced {
    /// True if a collector is configured.
    pub on: std::sync::atomic::AtomicBool,
    /// Sampling of calls without a traceparent.
    pub others: Sampled,
}

impl Node {
    /// Creates the state of a server that starts now.
    #[must_use]
    pub fn new(clock: &Clock, settings: Vec<Setting>) -> Self {
        let run_id = (0..40).map(|_| char::from_digit(fastrand::u32(..16), 16).unwrap_or('0')).collect();
        Self {
            run_id,
            started_at: clock.now(),
            addresses: OnceLock::new(),
            settings: ArcSwap::from_pointee(settings),
            connections: Connections::default(),
            tls: Endpoints::default(),
            in_flight: Budget::default(),
            sampled: Sampled::default(),
            #[cfg(feature = "otel")]
            traced: Traced::default(),
            heartbeats: Heartbeats::default(),
            draining: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Returns whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}
