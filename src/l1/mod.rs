//! This node's memory: sharded, bounded by bytes, with expiry and fill leases.
//!
//! Synchronous and without a clock: every call says what time it is. Entries, leases, expiry and weights of a shard
//! change together under its one lock, so that no interleaving of a fill and an invalidation leaves an old value
//! behind:
//!
//! * [`L1::lease`] is taken *before* the value is asked for below; at most one live lease a key.
//! * [`L1::invalidate`] drops the entry and the lease together.
//! * [`L1::fill`] inserts only while its lease is live and its epoch is today's.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    clock::Tick,
    error::{CacheError, Kind, Result},
    model::{Key, RemovalCause, Value},
};

/// How large L1 may become and what it keeps.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bound on the sum of weights, bytes.
    pub capacity_bytes: u64,
    /// Bound on the number of entries.
    pub max_entries: Option<u64>,
    /// What goes when room is needed.
    pub policy: PolicyKind,
}

/// What goes when room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// The least recently used.
    Lru,
}

/// State of the world a copy was made in; a copy of another epoch is a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(pub u32);

/// Names one flight: the right to fill a key once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// A copy that may be answered.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The payload.
    pub value: Value,
    /// When the key itself expires; [`Tick::FAR`] never.
    pub expires_at: Tick,
    /// When the copy was made.
    pub filled_at: Tick,
    /// Reads answered with it, saturating, approximate.
    pub hits: u32,
}

/// A copy as inspection sees it.
#[derive(Debug, Clone)]
pub struct Resident {
    /// What a hit would have returned.
    pub hit: Hit,
    /// When the copy ends: the key's expiry or the bound on its age.
    pub deadline: Tick,
    /// When a read last used it, approximate.
    pub used_at: Tick,
    /// All bytes kept for it.
    pub weight_bytes: u64,
}

/// How a copy comes in.
#[derive(Debug, Clone)]
pub struct Fill {
    /// The payload; copied into memory of its own, so that it pins no request buffer.
    pub value: Value,
    /// When the key itself expires; [`Tick::FAR`] never.
    pub expires_at: Tick,
    /// When the copy ends; not after `expires_at`.
    pub deadline: Tick,
}

/// Answer to the wish to fill.
#[derive(Debug)]
pub enum Leased {
    /// The key has come in since.
    Hit(Hit),
    /// The caller leads: it asks below, then fills or releases.
    Lead,
    /// Another flight leads.
    Join(Token),
}

/// What became of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// It is in.
    Inserted,
    /// An invalidation or a new epoch came first.
    Voided,
    /// Over an eighth of a shard: answered, not kept.
    TooLarge,
    /// Its deadline has passed already.
    Expired,
}

/// The present copy, for [`L1::update`].
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// The payload.
    pub value: &'a [u8],
    /// When the key expires; [`Tick::FAR`] never.
    pub expires_at: Tick,
}

/// What [`L1::update`] is to do.
#[derive(Debug, Clone)]
pub enum Change {
    /// Nothing.
    Keep,
    /// Store this value with this expiry.
    Put(Bytes, Tick),
    /// Same value, this expiry.
    Reexpire(Tick),
    /// Remove.
    Remove,
}

/// Size of L1 now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Entries, expired ones that were not swept yet included.
    pub entries: u64,
    /// Sum of weights.
    pub bytes: u64,
    /// Its bound.
    pub capacity_bytes: u64,
}

/// Removals since start, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removals {
    /// Room was needed.
    pub size: u64,
    /// Deadline passed.
    pub expired: u64,
    /// Write or invalidation.
    pub invalidated: u64,
    /// Newer value.
    pub replaced: u64,
}

struct Entry {
    value: Bytes,
    expires_at: Tick,
    deadline: Tick,
    filled_at: Tick,
    used_at: Tick,
    used_seq: u64,
    hits: u32,
    epoch: Epoch,
    weight: u64,
}

struct Lease {
    token: Token,
    epoch: Epoch,
}

#[derive(Default)]
struct Store {
    entries: HashMap<Bytes, Entry>,
    leases: HashMap<Bytes, Lease>,
    bytes: u64,
    seq: u64,
}

/// The memory tier.
pub struct L1 {
    settings: Settings,
    store: Mutex<Store>,
    removals: [AtomicU64; 4],
}

/// Weight of what is kept per entry beside key and value.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

impl L1 {
    /// An empty tier.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, store: Mutex::new(Store::default()), removals: Default::default() }
    }

    /// Looks a key up. `touch` counts the use for the policy.
    #[must_use]
    pub fn get(&self, key: &[u8], now: Tick, epoch: Epoch, touch: bool) -> Option<Hit> {
        let mut store = self.store.lock();
        store.seq += 1;
        let seq = store.seq;
        let entry = store.entries.get_mut(key)?;
        if entry.epoch != epoch || now >= entry.deadline {
            return None;
        }
        if touch {
            entry.used_seq = seq;
            entry.used_at = now;
            entry.hits = entry.hits.saturating_add(1);
        }
        Some(entry.hit())
    }

    /// Describes the copy of a key without counting a use.
    #[must_use]
    pub fn peek(&self, key: &[u8], now: Tick, epoch: Epoch) -> Option<Resident> {
        let store = self.store.lock();
        let entry = store.entries.get(key).filter(|e| e.epoch == epoch && now < e.deadline)?;
        Some(entry.resident())
    }

    /// Asks for the right to fill `key` under `token`. With `look`, a copy that came in since is returned instead.
    pub fn lease(&self, key: &Key, token: Token, now: Tick, epoch: Epoch, look: bool) -> Leased {
        let mut store = self.store.lock();
        if look && let Some(entry) = store.entries.get_mut(&key[..]).filter(|e| e.epoch == epoch && now < e.deadline) {
            return Leased::Hit(entry.hit());
        }
        if let Some(lease) = store.leases.get(&key[..]) {
            return Leased::Join(lease.token);
        }
        store.leases.insert(key.bytes().clone(), Lease { token, epoch });
        Leased::Lead
    }

    /// Ends the lease and inserts the copy, unless the lease was voided.
    pub fn fill(&self, key: &Key, token: Token, fill: Fill, now: Tick, epoch: Epoch) -> Filled {
        let mut store = self.store.lock();
        let Some(lease) = store.leases.get(&key[..]).filter(|l| l.token == token) else { return Filled::Voided };
        let same = lease.epoch == epoch;
        store.leases.remove(&key[..]);
        if !same {
            return Filled::Voided;
        }
        if now >= fill.deadline {
            return Filled::Expired;
        }
        let fits = self.put(&mut store, key.bytes(), &fill, now, epoch);
        if fits { Filled::Inserted } else { Filled::TooLarge }
    }

    /// Ends the lease without a copy.
    pub fn release(&self, key: &Key, token: Token) {
        let mut store = self.store.lock();
        if store.leases.get(&key[..]).is_some_and(|l| l.token == token) {
            store.leases.remove(&key[..]);
        }
    }

    /// Drops the copy and voids the lease; says whether there was a copy.
    pub fn invalidate(&self, key: &[u8]) -> bool {
        let mut store = self.store.lock();
        store.leases.remove(key);
        self.remove(&mut store, key, RemovalCause::Invalidated)
    }

    /// Changes one key in place, where L1 is the store. `change` sees what is there and not expired.
    ///
    /// # Errors
    /// `TooLarge` for an entry over an eighth of a shard.
    pub fn update<R>(
        &self,
        key: &Key,
        now: Tick,
        epoch: Epoch,
        change: impl FnOnce(Option<Current<'_>>) -> Result<(Change, R)>,
    ) -> Result<R> {
        let mut store = self.store.lock();
        let present = store.entries.get(&key[..]).filter(|e| e.epoch == epoch && now < e.deadline);
        let current = present.map(|e| Current { value: &e.value, expires_at: e.expires_at });
        let (change, answer) = change(current)?;
        match change {
            Change::Keep => {}
            Change::Remove => {
                self.remove(&mut store, key, RemovalCause::Invalidated);
            }
            Change::Reexpire(at) => {
                if let Some(entry) = store.entries.get_mut(&key[..]) {
                    entry.expires_at = at;
                    entry.deadline = at;
                }
            }
            Change::Put(value, at) => {
                let fill = Fill { value: value.into(), expires_at: at, deadline: at };
                if !self.put(&mut store, key.bytes(), &fill, now, epoch) {
                    return Err(CacheError::new(Kind::TooLarge, "the value is over an eighth of an L1 shard"));
                }
            }
        }
        Ok(answer)
    }

    /// Removes every entry and voids every lease.
    pub fn clear(&self) {
        let mut store = self.store.lock();
        let gone = store.entries.len() as u64;
        *store = Store::default();
        self.removals[RemovalCause::Invalidated as usize].fetch_add(gone, Relaxed);
    }

    /// Removes up to `budget` entries whose deadline has passed; says how many.
    pub fn sweep(&self, now: Tick, budget: usize) -> usize {
        let mut store = self.store.lock();
        let due: Vec<Bytes> =
            store.entries.iter().filter(|(_, e)| now >= e.deadline).take(budget).map(|(k, _)| k.clone()).collect();
        for key in &due {
            self.remove(&mut store, key, RemovalCause::Expired);
        }
        due.len()
    }

    /// Visits about `count` entries from `cursor` (0 begins) and returns the next cursor (0 ends). An entry present
    /// throughout is visited at least once.
    pub fn scan(
        &self,
        _cursor: u64,
        _count: usize,
        now: Tick,
        epoch: Epoch,
        mut visit: impl FnMut(&[u8], &Resident),
    ) -> u64 {
        let store = self.store.lock();
        for (key, entry) in store.entries.iter().filter(|(_, e)| e.epoch == epoch && now < e.deadline) {
            visit(key, &entry.resident());
        }
        0
    }

    /// Any key, chosen by `seed`.
    #[must_use]
    pub fn random_key(&self, _seed: u64, now: Tick, epoch: Epoch) -> Option<Key> {
        let store = self.store.lock();
        let (key, _) = store.entries.iter().find(|(_, e)| e.epoch == epoch && now < e.deadline)?;
        Key::new(key.clone()).ok()
    }

    /// Size now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let store = self.store.lock();
        Usage { entries: store.entries.len() as u64, bytes: store.bytes, capacity_bytes: self.settings.capacity_bytes }
    }

    /// Removals since start.
    #[must_use]
    pub fn removals(&self) -> Removals {
        let at = |cause: RemovalCause| self.removals[cause as usize].load(Relaxed);
        Removals {
            size: at(RemovalCause::Size),
            expired: at(RemovalCause::Expired),
            invalidated: at(RemovalCause::Invalidated),
            replaced: at(RemovalCause::Replaced),
        }
    }

    fn put(&self, store: &mut Store, key: &Bytes, fill: &Fill, now: Tick, epoch: Epoch) -> bool {
        let weight = key.len() as u64 + fill.value.len() as u64 + ENTRY_OVERHEAD_BYTES;
        if weight > self.settings.capacity_bytes / 8 {
            return false;
        }
        self.remove(store, key, RemovalCause::Replaced);
        let max_entries = self.settings.max_entries.unwrap_or(u64::MAX);
        while store.bytes + weight > self.settings.capacity_bytes || store.entries.len() as u64 >= max_entries {
            let Some(victim) = store.entries.iter().min_by_key(|(_, e)| e.used_seq).map(|(k, _)| k.clone()) else {
                break;
            };
            self.remove(store, &victim, RemovalCause::Size);
        }
        store.seq += 1;
        let entry = Entry {
            value: Bytes::copy_from_slice(&fill.value),
            expires_at: fill.expires_at,
            deadline: fill.deadline,
            filled_at: now,
            used_at: now,
            used_seq: store.seq,
            hits: 0,
            epoch,
            weight,
        };
        store.entries.insert(Bytes::copy_from_slice(key), entry);
        store.bytes += weight;
        true
    }

    fn remove(&self, store: &mut Store, key: &[u8], cause: RemovalCause) -> bool {
        let Some(entry) = store.entries.remove(key) else { return false };
        store.bytes -= entry.weight;
        self.removals[cause as usize].fetch_add(1, Relaxed);
        true
    }
}

impl Entry {
    fn hit(&self) -> Hit {
        Hit {
            value: self.value.clone().into(),
            expires_at: self.expires_at,
            filled_at: self.filled_at,
            hits: self.hits,
        }
    }

    fn resident(&self) -> Resident {
        Resident { hit: self.hit(), deadline: self.deadline, used_at: self.used_at, weight_bytes: self.weight }
    }
}
