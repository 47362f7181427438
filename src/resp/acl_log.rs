//! ACL LOG: requests without permission and failed logins, newest first.
//!
//! The log is bounded in entries and in the size of an entry, and no client is charged for it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::client_state::Client;
use crate::clock::Tick;

/// Maximum number of entries of ACL LOG, the default of `acllog-max-len` in Redis.
const ENTRIES_MAX: usize = 128;
/// Maximum size of a key or channel in an entry of ACL LOG.
const OBJECT_MAX_BYTES: usize = 256;
/// Number of the newest entries that a new one is compared with, as in Redis.
const COMPARED: usize = 10;
/// Time after an entry in which the same event counts in this entry, as in Redis.
const GROUPED_FOR: Duration = Duration::from_secs(60);

/// Reason of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// No permission for the command.
    Command,
    /// No permission for a key.
    Key,
    /// No permission for a channel.
    Channel,
    /// A failed login.
    Login,
}

impl Reason {
    /// Returns the name in ACL LOG.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Key => "key",
            Self::Channel => "channel",
            Self::Login => "auth",
        }
    }
}

/// What a client was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    /// The client has an open transaction.
    pub(super) in_transaction: bool,
    /// Name of the command, the key or the channel.
    pub(super) object: Vec<u8>,
    pub(super) user: Arc<str>,
}

/// An entry: equal events within a minute.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) refused: Refused,
    pub(super) count: u64,
    /// Time of the last event.
    pub(super) at: Tick,
    /// The client of the last event, as in CLIENT LIST.
    pub(super) client: Vec<u8>,
}

/// The log.
#[derive(Debug, Default)]
pub(super) struct AclLog(Mutex<VecDeque<Entry>>);

impl AclLog {
    /// Records an event of a client. `command` is the name of the rejected command.
    #[cold]
    pub(super) fn note(&self, mut refused: Refused, client: &Client, command: &str, now: Tick) {
        shorten(&mut refused.object);
        let client = client.describe(now, command);
        let mut entries = self.0.lock();
        let is_same = |entry: &Entry| entry.refused == refused && now.since(entry.at) <= GROUPED_FOR;
        let known = entries.iter().take(COMPARED).position(is_same).and_then(|at| entries.remove(at));
        let count = known.map_or(0, |known| known.count) + 1;
        entries.push_front(Entry { refused, count, at: now, client });
        entries.truncate(ENTRIES_MAX);
    }

    /// Returns the newest entries.
    pub(super) fn newest(&self, count: usize) -> Vec<Entry> {
        self.0.lock().iter().take(count).cloned().collect()
    }

    /// Removes all entries.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

fn shorten(object: &mut Vec<u8>) {
    let more = object.len().saturating_sub(OBJECT_MAX_BYTES);
    if more > 0 {
        object.truncate(OBJECT_MAX_BYTES);
        object.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
    }
}
