//! The state that all RESP connections of a server share: the registry of clients, statistics, channels.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{
    acl_log::AclLog, client_state::Client, counters::Statistics, hub::Hub, keyspace_events::EventSelection,
    monitors::Monitors, slow::Slow,
};
use crate::{
    access::Access, budget::Account, cache::invalidate::events::ChangeEvent, clock::Tick, model::RESERVED_PREFIX,
};

/// Channel of changes that Redis announces.
const INVALIDATED: &[u8] = b"__terrace__:invalidated";
/// Channel of invalidated tags.
const TAG: &[u8] = b"__terrace__:tag";

/// The state that all RESP connections of a server share.
#[derive(Debug)]
pub struct PortState {
    next_id: AtomicU64,
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    pub(super) statistics: Statistics,
    /// Time of the last log message about an HTTP request on the RESP port; 0 for none.
    pub(super) hostile_logged_at: AtomicU64,
    /// Peak memory use in bytes.
    pub(super) memory_peak_bytes: AtomicU64,
    account: Arc<Account>,
    pub(super) hub: Hub,
    pub(super) monitors: Monitors,
    pub(super) slow: Slow,
    pub(super) acl_log: AclLog,
    /// The keyspace events that are sent.
    pub(super) events: EventSelection,
}

impl PortState {
    /// Returns the state of a new server whose command table has `rows` rows. `account` is charged for messages that
    /// several connections receive.
    pub(super) fn with_rows(rows: usize, account: Arc<Account>) -> Self {
        Self {
            next_id: AtomicU64::new(0),
            clients: Mutex::default(),
            statistics: Statistics::new(rows),
            hostile_logged_at: AtomicU64::new(0),
            memory_peak_bytes: AtomicU64::new(0),
            hub: Hub::new(Arc::clone(&account)),
            account,
            monitors: Monitors::default(),
            slow: Slow::default(),
            acl_log: AclLog::default(),
            events: EventSelection::default(),
        }
    }

    /// Returns the account of messages that several connections receive.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Registers a new client.
    pub(super) fn register(
        &self,
        address: String,
        local_address: String,
        account: Arc<Account>,
        now: Tick,
    ) -> Arc<Client> {
        let id = self.next_id.fetch_add(1, Relaxed) + 1;
        let client = Arc::new(Client::new(id, address, local_address, account, now));
        self.clients.lock().insert(id, Arc::clone(&client));
        client
    }

    /// Removes a client from the registry.
    pub(super) fn unregister(&self, client: &Client) {
        self.clients.lock().remove(&client.id);
    }

    /// Returns all clients, oldest first. Clients that were closed are excluded, even if their task has not ended yet.
    pub(super) fn clients(&self) -> Vec<Arc<Client>> {
        self.clients.lock().values().filter(|client| !client.mailbox.is_closed()).cloned().collect()
    }

    /// Ends the connections of clients that have lost their access or, for subscribers, have other permissions now.
    pub fn end_revoked(&self, access: &Access) {
        for client in self.clients() {
            if client.is_revoked(access) {
                tracing::info!(peer = client.address, user = %client.user(), "closed a RESP connection: its permissions have changed");
                client.mailbox.close();
            }
        }
    }

    /// Updates and returns the peak memory use in bytes.
    pub(super) fn note_peak(&self, used_bytes: u64) -> u64 {
        self.memory_peak_bytes.fetch_max(used_bytes, Relaxed).max(used_bytes)
    }

    /// Returns the number of connected clients.
    pub(super) fn client_count(&self) -> usize {
        self.clients.lock().len()
    }

    /// Publishes an event of the cache to its subscribers. Never waits.
    pub fn hear(&self, event: ChangeEvent<'_>) {
        match event {
            ChangeEvent::Wrote { name, key } => self.wrote(name, key),
            ChangeEvent::Invalidated(key) if !key.starts_with(RESERVED_PREFIX) => {
                self.hub.publish(INVALIDATED, key);
            }
            ChangeEvent::Invalidated(_) => {}
            ChangeEvent::Tag(name) => {
                self.hub.publish(TAG, name);
            }
            ChangeEvent::Flushed => {
                self.hub.publish(b"__terrace__:flushed", b"");
            }
        }
    }

    fn wrote(&self, name: &str, key: &[u8]) {
        let (per_key, per_event) = self.events.channels_of(name);
        if per_key {
            self.hub.publish(&[b"__keyspace@0__:", key].concat(), name.as_bytes());
        }
        if per_event {
            self.hub.publish(&[b"__keyevent@0__:", name.as_bytes()].concat(), key);
        }
    }
}
