//! [`Interests`]: the keys whose loads this node follows. Each has the callers that wait, and what the store last replied.
//!
//! A caller takes a [`Seat`] before it asks the store, so that no change between the reply and the wait is missed. What
//! the store replied is kept only if the key has not changed since the request was sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::Notify;

use super::Loads;
use crate::{clock::Tick, l1::Epoch, l2::loads::Holder, model::Key};

/// Maximum size in bytes of the keys that this node follows without callers, with [`INTEREST_BYTES`] for each. Without
/// space, a node asks the store for each read of a key whose load is in progress.
const KNOWN_MAX_BYTES: usize = 32 << 20;
/// Size of an interest without its key.
const INTEREST_BYTES: usize = 256;
/// Minimum time between two searches for knowledge that has expired, while there is no space.
const PURGE_EVERY: Duration = Duration::from_secs(1);

/// What this node knows about the load of a key.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) state: KnownState,
    /// Time until which this is valid.
    pub(super) until: Tick,
}

#[derive(Debug, Clone)]
pub(super) enum KnownState {
    /// A client has loaded the key since this time.
    Loading { since: Tick, holder: Holder },
    /// The last load failed.
    Failed { message: Bytes },
    /// The origin does not have the key. Valid while the epoch is open, as a copy in L1.
    Absent { head: Bytes, epoch: Epoch, ends_at: Tick },
}

impl Known {
    /// Returns whether this client loads the key.
    pub(super) fn is_of(&self, client: &Holder) -> bool {
        matches!(&self.state, KnownState::Loading { holder, .. } if holder == client)
    }
}

/// The keys whose loads this node follows.
#[derive(Debug, Default)]
pub(super) struct Interests {
    keys: DashMap<Key, Interest, foldhash::fast::RandomState>,
    /// Size of the keys, so that a change without loads costs one load.
    bytes: AtomicUsize,
    /// [`Tick`] of the last search for knowledge that has expired.
    purged_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Interest {
    changed: Arc<Notify>,
    /// Number of changes, to detect a change during a request to the store.
    version: u64,
    seats: usize,
    /// A caller of this node is asking the store for a lease.
    is_asking: bool,
    known: Option<Known>,
}

impl Interests {
    #[inline]
    pub(super) fn changed(&self, key: &[u8]) {
        if self.bytes.load(Ordering::Acquire) > 0 {
            self.change(key);
        }
    }

    #[cold]
    fn change(&self, key: &[u8]) {
        let Some(mut interest) = self.keys.get_mut(key) else { return };
        interest.version += 1;
        interest.known = None;
        interest.changed.notify_waiters();
        let is_unused = interest.seats == 0;
        drop(interest);
        if is_unused {
            self.remove_unused(key, Tick::FAR);
        }
    }

    pub(super) fn all_changed(&self) {
        if self.bytes.load(Ordering::Acquire) == 0 {
            return;
        }
        self.keys.retain(|key, interest| {
            interest.version += 1;
            interest.known = None;
            interest.changed.notify_waiters();
            self.stays(key, interest.seats > 0)
        });
    }

    fn stays(&self, key: &Key, stays: bool) -> bool {
        if !stays {
            self.bytes.fetch_sub(INTEREST_BYTES + key.len(), Ordering::AcqRel);
        }
        stays
    }

    /// Removes a key without callers whose knowledge ends before `now`.
    fn remove_unused(&self, key: &[u8], now: Tick) {
        let is_unused = |_: &Key, interest: &Interest| {
            interest.seats == 0 && interest.known.as_ref().is_none_or(|known| known.until <= now)
        };
        if let Some((key, _)) = self.keys.remove_if(key, is_unused) {
            self.stays(&key, false);
        }
    }

    /// Returns what this node knows about the load of a key.
    pub(super) fn known(&self, key: &[u8], now: Tick) -> Option<Known> {
        if self.bytes.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.keys.get(key)?.known.clone().filter(|known| now < known.until)
    }

    /// Returns whether there is no space for further knowledge.
    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > KNOWN_MAX_BYTES
    }

    /// Removes keys without callers whose knowledge has expired, if there is no space. A search visits all keys.
    fn make_room(&self, now: Tick) {
        let purged_at = Tick(self.purged_at.load(Ordering::Acquire));
        if self.is_full() && now >= purged_at.plus(PURGE_EVERY) {
            self.purged_at.store(now.0, Ordering::Release);
            self.keys.retain(|key, interest| {
                let is_known = interest.known.as_ref().is_some_and(|known| now < known.until);
                self.stays(key, interest.seats > 0 || is_known)
            });
        }
    }
}

impl Loads {
    /// Takes a seat: the caller is notified of later changes of the key.
    pub(super) fn attend(&self, key: &Key, now: Tick) -> Seat<'_> {
        let interests = &self.interest;
        interests.make_room(now);
        // A copy, because the key may share the buffer of a larger request, which knowledge would keep in memory.
        let own = Key::copied(key).unwrap_or_else(|_| key.clone());
        let mut interest = interests.keys.entry(own).or_insert_with(|| {
            interests.bytes.fetch_add(INTEREST_BYTES + key.len(), Ordering::AcqRel);
            Interest::default()
        });
        interest.seats += 1;
        let (changed, version) = (Arc::clone(&interest.changed), interest.version);
        drop(interest);
        Seat { interests, key: key.clone(), changed, version }
    }

    /// Returns what this node knows about the load of a key.
    pub(super) fn known(&self, key: &[u8], now: Tick) -> Option<Known> {
        self.interest.known(key, now)
    }
}

/// The interest of one caller in the load of a key.
pub(super) struct Seat<'a> {
    interests: &'a Interests,
    key: Key,
    pub(super) changed: Arc<Notify>,
    /// Number of changes when [`Seat::watch`] was called.
    version: u64,
}

impl<'a> Seat<'a> {
    /// Returns the right to ask the store; `None` while another caller of this node asks, or if the key has changed since
    /// [`Seat::watch`].
    pub(super) fn ask(&self) -> Option<Asking<'a>> {
        let mut interest = self.interests.keys.get_mut(&*self.key)?;
        if interest.is_asking || interest.version != self.version {
            return None;
        }
        interest.is_asking = true;
        Some(Asking { interests: self.interests, key: self.key.clone(), version: self.version })
    }

    /// Begins to watch the key: [`Seat::ask`] fails if the key changes from now on. The caller waits for `changed` already,
    /// so that it is woken by every later change.
    pub(super) fn watch(&mut self) {
        self.version = self.interests.keys.get(&*self.key).map_or(0, |interest| interest.version);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(mut interest) = self.interests.keys.get_mut(&*self.key) {
            interest.seats = interest.seats.saturating_sub(1);
        }
        self.interests.remove_unused(&self.key, Tick::ZERO);
    }
}

/// The right to ask the store for the lease of a key. When it ends, the other callers continue.
pub(super) struct Asking<'a> {
    interests: &'a Interests,
    key: Key,
    version: u64,
}

impl Asking<'_> {
    /// Keeps what the store replied, unless the key has changed since the request.
    pub(super) fn learn(&self, known: Known) {
        if !self.interests.is_full()
            && let Some(mut interest) = self.interests.keys.get_mut(&*self.key)
            && interest.version == self.version
        {
            interest.known = Some(known);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(mut interest) = self.interests.keys.get_mut(&*self.key) {
            interest.is_asking = false;
            interest.changed.notify_waiters();
        }
    }
}
