//! The RESP port: the Redis protocol on top of the cache.
//!
//! Reading order: [`connection`] receives requests and runs them in batches; [`frame`] parses requests in place;
//! [`table`] lists the commands, one [`command`] per row; [`lookup`] finds them; [`exec`] implements them; [`reply`]
//! writes replies and defines the error texts; [`run`] runs one command and counts it.
//!
//! [`session`] is the state of one connection, with its [`transaction_queue`] and [`subscriptions`]; [`client_state`]
//! is the part that other connections access; [`port_state`] is the state shared by all connections: [`counters`],
//! channels ([`hub`]), [`monitors`], [`slow`] commands and the [`acl_log`]. They reach a connection through its
//! [`mailbox`]. A [`lane`] compares messages with a [`pattern_set`] first; [`pattern_filter`] compares replies of Redis.
//! [`lease_token`] is the text form of the tokens of load leases.
//!
//! [`exec`] does not import [`table`], because the rows of [`table`] name the functions of [`exec`]. Commands about
//! commands access the rows through their [`Edge`].

mod acl_log;
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
mod lane;
mod lease_token;
mod lookup;
mod mailbox;
mod monitors;
mod pattern_filter;
mod pattern_set;
mod permission;
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

use crate::{
    access::{Access, Principal},
    budget::Budget,
    cache::Cache,
    model::Key,
    node::Node,
};
pub use connection::serve;
use lookup::Commands;
pub use port_state::PortState;
pub use reply::error_text;

/// Returns the keys of a request that Redis would run, each with `true` if the request writes it. `None` for an unknown
/// command, and for a request that names a reserved or invalid key. For fuzzing.
#[must_use]
pub fn keys_of(request: frame::Args<'_>) -> Option<Vec<(Key, bool)>> {
    let row = table::COMMANDS.resolve(request).ok()?.row;
    exec::pass_through::keys(row, request).ok()
}

/// Settings of the RESP port. A reload replaces them.
#[derive(Debug, Clone)]
pub struct RespSettings {
    /// Reject clients from other machines while no password is set.
    pub protected_mode: bool,
    /// Answer reads with copies past the coherence bound while L2 is unavailable.
    pub serve_stale: bool,
    /// Permission for FLUSHDB and FLUSHALL.
    pub flush: bool,
    /// Maximum number of clients. For display only; the listener enforces the limit.
    pub clients_max: u64,
    /// Maximum value size in bytes.
    pub value_max: u64,
}

/// Settings that a client changes with CONFIG SET, all of them or none.
#[derive(Debug)]
pub struct SettingsChange {
    /// Setting keys and the text of their new values.
    pub settings: Vec<(String, String)>,
    /// The client runs on this machine.
    pub is_local: bool,
    /// Receives the result: settings in effect, or the rejected key and the reason.
    pub done: oneshot::Sender<Result<(), (String, String)>>,
}

/// State of the RESP port on one worker.
pub struct Edge {
    /// The cache.
    pub cache: Cache,
    /// This process.
    pub node: Arc<Node>,
    /// Settings.
    pub settings: Arc<ArcSwap<RespSettings>>,
    /// State shared by the connections of all workers.
    pub shared: Arc<PortState>,
    /// Users and roles.
    pub access: Arc<Access>,
    /// Queue of settings changes; the server applies them.
    pub changes: mpsc::Sender<SettingsChange>,
    /// The command table.
    commands: &'static Commands,
}

impl Edge {
    /// Returns the state of the port on one worker.
    #[must_use]
    pub fn new(
        cache: Cache,
        node: Arc<Node>,
        settings: Arc<ArcSwap<RespSettings>>,
        shared: Arc<PortState>,
        access: Arc<Access>,
        changes: mpsc::Sender<SettingsChange>,
    ) -> Self {
        Self { cache, node, settings, shared, access, changes, commands: &table::COMMANDS }
    }

    /// Returns the state of a new connection, whose requests count as one caller. It has no permissions.
    fn for_connection(&self) -> Self {
        self.with_cache(self.cache.for_new_caller(Principal::none()))
    }

    /// Returns the same state with another handle of the cache.
    fn with_cache(&self, cache: Cache) -> Self {
        Self {
            cache,
            node: Arc::clone(&self.node),
            settings: Arc::clone(&self.settings),
            shared: Arc::clone(&self.shared),
            access: Arc::clone(&self.access),
            changes: self.changes.clone(),
            commands: self.commands,
        }
    }
}

impl PortState {
    /// Returns the state of the RESP port of a new server.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        Self::with_rows(table::COMMANDS.numbers().len(), budget.system_account())
    }
}
