//! One connection's own state.
//!
//! What most clients never use (a transaction, watched keys, channels) is boxed: a connection is small.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{
    client_state::Client, counters::WorkerCounters, port_state::PortState, subscriptions::Channels,
    transaction_queue::TransactionQueue,
};
use crate::{cache::KeyWatch, clock::Tick};

/// Which replies a client wants (CLIENT REPLY).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    /// All.
    On,
    /// None.
    Off,
    /// Not the one to CLIENT REPLY SKIP itself ...
    SkipNext,
    /// ... nor the one after it.
    Skip,
}

/// One connection's own state.
pub(super) struct Session {
    shared: Arc<PortState>,
    pub(super) client: Arc<Client>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) db: u8,
    pub(super) authenticated: bool,
    /// Its reads are inspection (CLIENT NO-TOUCH).
    pub(super) no_touch: bool,
    /// The connection ends once the reply is sent.
    pub(super) closing: bool,
    pub(super) replies: Replies,
    /// Between MULTI and EXEC.
    pub(super) transaction: Option<Box<TransactionQueue>>,
    /// A command of a transaction runs: nothing may wait.
    pub(super) in_exec: bool,
    /// What WATCH was told.
    pub(super) watch: Option<Box<KeyWatch>>,
    /// What SUBSCRIBE was told.
    pub(super) channels: Option<Box<Channels>>,
}

impl Session {
    /// A new client, entered into the registry until this is dropped.
    pub(super) fn new(shared: &Arc<PortState>, address: String, local_address: String, now: Tick) -> Self {
        let client = shared.register(address, local_address, now);
        let counters = shared.statistics.of_this_thread();
        Self {
            shared: Arc::clone(shared),
            client,
            counters,
            db: 0,
            authenticated: false,
            no_touch: false,
            closing: false,
            replies: Replies::On,
            transaction: None,
            in_exec: false,
            watch: None,
            channels: None,
        }
    }

    /// Whether a GET of this client is a user read of the logical view that nobody watches one by one.
    #[inline]
    pub(super) fn reads_plainly(&self) -> bool {
        self.db == 0
            && self.authenticated
            && !self.no_touch
            && self.transaction.is_none()
            && self.replies == Replies::On
            && !self.is_limited()
            && !self.shared.monitors.any()
            && !self.shared.slow.is_fine()
    }

    /// A subscriber in RESP2 cannot tell replies from messages: it may only manage its subscriptions.
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.channels.is_some() && self.client.is_subscribed() && self.client.protocol.load(Relaxed) == 2
    }

    /// Ends the transaction and what it watches.
    pub(super) fn end_transaction(&mut self) -> Option<Box<TransactionQueue>> {
        self.watch = None;
        self.client.queued.store(-1, Relaxed);
        self.transaction.take()
    }

    /// Ends all subscriptions.
    pub(super) fn end_subscriptions(&mut self) {
        if let Some(channels) = self.channels.take() {
            channels.end(&self.shared.hub, &self.client);
        }
    }

    /// Ends the watching of others.
    pub(super) fn end_monitor(&mut self) {
        if self.client.monitors.swap(false, Relaxed) {
            self.shared.monitors.remove(self.client.id);
        }
    }

    /// Selects a database.
    pub(super) fn select(&mut self, db: u8) {
        self.db = db;
        self.client.db.store(db, Relaxed);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_subscriptions();
        self.end_monitor();
        self.shared.unregister(&self.client);
    }
}
