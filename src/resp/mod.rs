//! The RESP port: Redis's protocol over the facade.
//!
//! In reading order: [`connection`] receives, runs and answers batch by batch; [`frame`] parses requests in place;
//! [`table`] is the list of commands, [`command`] finds them in it; [`exec`] has one function for each; [`reply`] writes
//! replies and knows the text of each error; [`session`] is a client and the registry of all, [`counters`] what INFO
//! shows.

mod buffers;
mod command;
mod connection;
mod counters;
mod exec;
pub mod frame;
mod process;
mod reply;
mod session;
mod stop;
mod table;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{cache::Cache, node::Node};
pub use connection::serve;
pub use session::Shared;

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
