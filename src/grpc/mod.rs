//! The gRPC port.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{net::TcpStream, sync::watch};

use crate::{cache::Cache, node::Node};

/// Limits of the gRPC port. A reload replaces them; a connection sees them with its next call.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most bytes of a message, either way.
    pub message_max: usize,
    /// Deadline of unary calls; a shorter grpc-timeout wins.
    pub timeout: Duration,
    /// Most bytes of requests and answers under way, all connections.
    pub in_flight_max: u64,
}

/// One worker's gRPC edge.
pub struct Edge {
    /// The facade.
    pub cache: Cache,
    /// This process.
    pub node: Arc<Node>,
    /// Limits.
    pub settings: Arc<ArcSwap<Settings>>,
}

/// Serves one connection until it ends; after `stop` turns true it finishes what runs and ends.
pub async fn serve(_stream: TcpStream, _edge: Arc<Edge>, _stop: watch::Receiver<bool>) {}
