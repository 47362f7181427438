//! What this process is, for whoever shows it: version, run id, addresses, configuration, connections.

mod worker_heartbeat;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;

pub use self::worker_heartbeat::{Heartbeat, Heartbeats};
use crate::clock::{Clock, Tick};

/// The version of Terrace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One server.
#[derive(Debug)]
pub struct Node {
    /// 40 hex digits, new at each start.
    pub run_id: String,
    /// When the server began.
    pub started_at: Tick,
    /// Where the ports are bound, as they are printed; set once bound.
    pub addresses: OnceLock<Addresses>,
    /// The effective configuration, secrets left out.
    pub settings: ArcSwap<Vec<Setting>>,
    /// Clients of each port.
    pub connections: Connections,
    /// Requests and answers under way on all ports.
    pub in_flight: InFlight,
    /// Which requests are logged.
    pub sampled: Sampled,
    /// Which requests are traced.
    #[cfg(feature = "otel")]
    pub traced: Traced,
    /// Whether the workers move.
    pub heartbeats: Heartbeats,
    /// The server no longer takes new work.
    pub draining: std::sync::atomic::AtomicBool,
}

/// Where the ports are bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC.
    pub grpc: String,
    /// RESP.
    pub resp: String,
    /// HTTP.
    pub http: String,
}

/// One effective setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As in the file: `l1.size`.
    pub key: String,
    /// As one would write it in the file.
    pub value: String,
    /// `default`, `file PATH:LINE`, `env NAME`, `flag --NAME` or `CONFIG SET`.
    pub source: String,
    /// Changed by SIGHUP or CONFIG SET without a restart.
    pub reloadable: bool,
}

/// Clients of each port, now and since start.
#[derive(Debug, Default)]
pub struct Connections {
    /// gRPC, open now.
    pub grpc: Arc<AtomicU64>,
    /// RESP, open now.
    pub resp: Arc<AtomicU64>,
    /// HTTP, open now.
    pub http: Arc<AtomicU64>,
    /// RESP, accepted since start.
    pub resp_accepted: Arc<AtomicU64>,
    /// Refused because of a limit, any port, since start.
    pub rejected: Arc<AtomicU64>,
}

/// Draws the requests that are logged, by lot: whatever the pattern of a client, all its requests have the same chance.
#[derive(Debug, Default)]
pub struct Sampled(AtomicU64);

impl Sampled {
    /// One in so many; 0 for none.
    pub fn set(&self, one_in: u64) {
        self.0.store(one_in, Relaxed);
    }

    /// Whether one of `requests` is to be logged.
    #[inline]
    #[must_use]
    pub fn draw(&self, requests: u64) -> bool {
        let one_in = self.0.load(Relaxed);
        one_in > 0 && requests > 0 && fastrand::u64(..one_in) < requests
    }
}

/// Which requests are traced: those whose caller says so, and of the others one in so many.
#[cfg(feature = "otel")]
#[derive(Debug, Default)]
pub struct Traced {
    /// There is a collector.
    pub on: std::sync::atomic::AtomicBool,
    /// Of calls without a traceparent.
    pub others: Sampled,
}

/// Bytes of requests and answers under way, shared by both protocols.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<AtomicU64>);

/// Bytes counted as under way until this goes.
#[derive(Debug)]
pub struct Held {
    in_flight: InFlight,
    bytes: u64,
}

impl InFlight {
    /// Counts `bytes` as under way; `None` where that would make more than `max`, and the load is to be shed.
    #[must_use]
    pub fn admit(&self, bytes: u64, max: u64) -> Option<Held> {
        let before = self.0.fetch_add(bytes, Relaxed);
        let held = Held { in_flight: self.clone(), bytes };
        (before.saturating_add(bytes) <= max).then_some(held)
    }

    /// Bytes under way now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Held {
    /// Counts further bytes, without asking: an answer whose request was admitted.
    pub fn grow(&mut self, bytes: u64) {
        self.in_flight.0.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.in_flight.0.fetch_sub(self.bytes, Relaxed);
    }
}

impl Node {
    /// A server that begins now.
    #[must_use]
    pub fn new(clock: &Clock, settings: Vec<Setting>) -> Self {
        let run_id = (0..40).map(|_| char::from_digit(fastrand::u32(..16), 16).unwrap_or('0')).collect();
        Self {
            run_id,
            started_at: clock.now(),
            addresses: OnceLock::new(),
            settings: ArcSwap::from_pointee(settings),
            connections: Connections::default(),
            in_flight: InFlight::default(),
            sampled: Sampled::default(),
            #[cfg(feature = "otel")]
            traced: Traced::default(),
            heartbeats: Heartbeats::default(),
            draining: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}
