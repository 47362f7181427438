//! The RESP port.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::{net::TcpStream, sync::watch};

use crate::{cache::Cache, node::Node};

/// Limits of the RESP port. A reload replaces them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The password, if there is one.
    pub password: Option<Secret>,
    /// Refuse peers that are not loopback while there is no password.
    pub protected_mode: bool,
    /// Whether FLUSHDB and FLUSHALL are served.
    pub flush: bool,
    /// Most bytes of a value.
    pub value_max: u64,
    /// Most bytes of requests and answers under way, all connections.
    pub in_flight_max: u64,
}

/// A secret that no `Debug` shows.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What all RESP connections of a server share (client registry and such).
#[derive(Debug, Default)]
pub struct Shared {}

/// One worker's RESP edge.
pub struct Edge {
    /// The facade.
    pub cache: Cache,
    /// This process.
    pub node: Arc<Node>,
    /// Limits.
    pub settings: Arc<ArcSwap<Settings>>,
    /// What all workers' connections share.
    pub shared: Arc<Shared>,
}

/// Serves one connection until it ends; after `stop` turns true it finishes what runs and ends.
pub async fn serve(_stream: TcpStream, _edge: Arc<Edge>, _stop: watch::Receiver<bool>) {}
