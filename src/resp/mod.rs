//! The RESP port: Redis's protocol over the facade.
//!
//! In reading order: [`connection`] receives, runs and answers batch by batch; [`frame`] parses requests in place;
//! [`table`] is the list of commands, [`command`] finds them in it; [`exec`] has one function for each; [`reply`] writes
//! replies and knows the text of each error; [`session`] is a client and the registry of all, [`counters`] what INFO
//! shows; [`run`] runs one command and keeps the books; [`hub`] has channels, [`monitor`] who watches, [`slow`] what took
//! long; all three reach a connection through its [`mailbox`].

mod buffers;
mod command;
mod connection;
mod counters;
mod exec;
pub mod frame;
mod hub;
mod mailbox;
mod monitor;
mod process;
mod reply;
mod run;
mod session;
mod slow;
mod spec;
mod stop;
mod table;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

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
    /// Whether reads may be answered from copies past the coherence bound while L2 is away.
    pub serve_stale: bool,
    /// Whether FLUSHDB and FLUSHALL are served.
    pub flush: bool,
    /// Most clients; as it is shown, the listener bounds them.
    pub clients_max: u64,
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

/// Settings that a client wants changed (CONFIG SET), all of them or none.
#[derive(Debug)]
pub struct Change {
    /// Keys as in the configuration file, and the text of their new values.
    pub settings: Vec<(String, String)>,
    /// Told once they have taken effect, or which key is at fault and why.
    pub done: oneshot::Sender<Result<(), (String, String)>>,
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
    /// To the server, which changes settings.
    pub changes: mpsc::Sender<Change>,
}

impl Edge {
    /// The edge as one connection has it: what it asks for is one caller's.
    fn for_connection(&self) -> Self {
        Self {
            cache: self.cache.for_new_caller(),
            node: Arc::clone(&self.node),
            settings: Arc::clone(&self.settings),
            shared: Arc::clone(&self.shared),
            changes: self.changes.clone(),
        }
    }
}
