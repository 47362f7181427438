//! The RESP port: Redis's protocol over the facade.
//!
//! In reading order: [`connection`] receives, runs and answers batch by batch; [`frame`] parses requests in place;
//! [`table`] lists the commands, one [`command`] a row, [`lookup`] finds them; [`exec`] has one function for each;
//! [`reply`] writes replies and knows the text of each error; [`run`] runs one command and counts it.
//!
//! [`session`] is the state of one connection, with its [`transaction_queue`] and [`subscriptions`]; [`client_state`] is the
//! part that other connections see; [`port_state`] is what all connections share: [`counters`], channels ([`hub`]),
//! [`monitors`], [`slow`] commands. The last three reach a connection through its [`mailbox`].
//!
//! Nothing in [`exec`] imports [`table`], whose rows name the functions of [`exec`]: commands about commands find the
//! rows in their [`Edge`].

mod buffers;
mod client_state;
mod command;
mod connection;
mod counters;
mod exec;
pub mod frame;
mod hub;
mod key_spec;
mod keyspace_events;
mod lookup;
mod mailbox;
mod monitors;
mod port_state;
mod process;
mod reply;
mod run;
mod session;
mod slow;
mod stop;
mod subscriptions;
mod table;
mod transaction_queue;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::{cache::Cache, node::Node};
pub use connection::serve;
use lookup::Commands;
pub use port_state::PortState;
pub use reply::error_text;

/// Limits of the RESP port. A reload replaces them.
#[derive(Debug, Clone)]
pub struct RespSettings {
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
pub struct SettingsChange {
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
    pub settings: Arc<ArcSwap<RespSettings>>,
    /// What all workers' connections share.
    pub shared: Arc<PortState>,
    /// To the server, which changes settings.
    pub changes: mpsc::Sender<SettingsChange>,
    /// The command table.
    commands: &'static Commands,
}

impl Edge {
    /// Returns the edge of one worker.
    #[must_use]
    pub fn new(
        cache: Cache,
        node: Arc<Node>,
        settings: Arc<ArcSwap<RespSettings>>,
        shared: Arc<PortState>,
        changes: mpsc::Sender<SettingsChange>,
    ) -> Self {
        Self { cache, node, settings, shared, changes, commands: &table::COMMANDS }
    }

    /// Returns the edge of a new connection: its requests are one caller's.
    fn for_connection(&self) -> Self {
        self.with_cache(self.cache.for_new_caller())
    }

    /// Returns the edge over another handle of the facade.
    fn with_cache(&self, cache: Cache) -> Self {
        Self {
            cache,
            node: Arc::clone(&self.node),
            settings: Arc::clone(&self.settings),
            shared: Arc::clone(&self.shared),
            changes: self.changes.clone(),
            commands: self.commands,
        }
    }
}

impl Default for PortState {
    fn default() -> Self {
        Self::with_rows(table::COMMANDS.numbers().len())
    }
}
