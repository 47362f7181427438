//! The HTTP port: metrics and health.

use std::sync::{Arc, atomic::AtomicBool};

use tokio::{net::TcpListener, sync::watch};

use crate::{cache::Cache, node::Node};

/// The HTTP edge.
pub struct Edge {
    /// The facade.
    pub cache: Cache,
    /// This process.
    pub node: Arc<Node>,
    /// `/readyz` answers 503 while L2 is away. Reloadable.
    pub ready_requires_l2: AtomicBool,
}

/// Serves until `stop` turns true and what runs has ended.
pub async fn serve(_listener: TcpListener, _edge: Arc<Edge>, _stop: watch::Receiver<bool>) {}
