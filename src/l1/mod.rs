//! The memory tier of a node: sharded, limited in bytes, with expiration and fill leases.
//!
//! The tier is synchronous and has no clock: callers pass the time with each call. Entries, leases, expiration and
//! weights of a shard change together under its one lock. Therefore no interleaving of a fill and an invalidation
//! leaves an old value in L1:
//!
//! * [`L1::lease`] is taken *before* the value is requested from L2; a key has at most one live lease.
//! * [`L1::invalidate`] removes the entry and voids the lease together.
//! * [`L1::fill`] inserts a value only while its lease is live and the epoch of the lease continues.
//! * [`L1::ban`] hides all entries that match a pattern and voids their leases; [`L1::purge`] removes the entries
//!   later.
//!
//! An epoch ([`L1::begin`]) is a period in which copies of L2 values are valid. Its fence is the time until which L1
//! may answer with these copies. The receiver of invalidations extends the fence, suspends the epoch when it no longer
//! receives invalidations, and ends the epoch when all copies may be outdated.
//!
//! Structure: this facade selects the policy. `tier` owns the shards and the byte budget. `shard` is the data under one
//! lock: `slot` (dense entries with their deadlines), `index` (hash to slot) and `lease`. `policy` selects eviction
//! victims. `staging` holds prefetched entries until their first use. `departures` remembers why entries left. A hit
//! takes the shared lock, computes one hash, probes the index once, and uses relaxed stores; it allocates and copies
//! nothing.

mod budget;
mod departures;
mod epochs;
mod hash;
mod index;
mod lease;
mod policy;
mod purge;
mod shard;
mod slot;
mod staging;
mod sync;
mod tier;
mod types;

#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::time::Duration;

pub use epochs::Epoch;
use policy::{Learned, Lru};
pub use purge::Purge;
use shard::Weights;
use tier::Tier;
pub use types::{
    Change, Current, Departure, Fill, Filled, GroupUsage, Hit, Leased, Left, PolicyKind, Removals, Residence, Resident,
    Settings, Staged, Token, Usage,
};

use crate::{clock::Tick, error::Result, glob::Glob, model::Key};

/// Default number of shards: enough that 16 workers rarely contend, and few enough that each shard offers a large
/// sample of victims.
const SHARDS: u64 = 16;
/// Minimum number of entries per shard. With fewer entries, the selection of victims is worse.
const SHARD_ENTRIES_MIN: u64 = 64;
/// Assumed weight of an entry in bytes, used to choose the number of shards.
const ENTRY_GUESS_BYTES: u64 = 1_024;
/// Maximum capacity of an L1 shard. A larger L1 has more shards. The value bounds the time in which the index of a shard
/// grows.
const SHARD_BYTES_MAX: u64 = 256 << 20;

/// The memory tier.
pub struct L1(Engine);

#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum Engine {
    Learned(Tier<Learned>),
    Lru(Tier<Lru>),
}

/// Calls a method of the tier, whatever its policy.
macro_rules! tier {
    ($self:ident, $tier:ident => $call:expr) => {
        match &$self.0 {
            Engine::Learned($tier) => $call,
            Engine::Lru($tier) => $call,
        }
    };
}

impl L1 {
    /// Returns an empty tier.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with_shards(settings, shards(&settings), None)
    }

    /// Returns an empty tier whose random choices derive from `seed`, for simulations and tests.
    #[must_use]
    pub fn seeded(settings: Settings, seed: u64) -> Self {
        Self::with_shards(settings, shards(&settings), Some(seed))
    }

    /// Same as [`L1::new`] with a given number of shards, rounded up to a power of two.
    #[must_use]
    pub fn with_shards(settings: Settings, shards: usize, seed: Option<u64>) -> Self {
        Self::made(settings, shards, seed, Weights::Real)
    }

    /// Returns a tier that only simulates: the value of an entry is its weight, as eight bytes in little-endian order.
    /// Used to estimate the hit rate of another L1 size at run time.
    #[must_use]
    pub fn ghost(settings: Settings) -> Self {
        Self::made(settings, 1, None, Weights::FromValue)
    }

    fn made(settings: Settings, shards: usize, seed: Option<u64>, weights: Weights) -> Self {
        let shards = shards.clamp(1, 1 << 16).next_power_of_two();
        Self(match settings.policy {
            PolicyKind::Learned => Engine::Learned(Tier::new(settings, shards, seed, weights)),
            PolicyKind::Lru => Engine::Lru(Tier::new(settings, shards, seed, weights)),
        })
    }

    /// Returns the hash of a key, as in [`Hit::hash`].
    #[must_use]
    pub fn hash_of(&self, key: &[u8]) -> u32 {
        tier!(self, tier => tier.hash_of(key))
    }

    /// Returns the weight in bytes of an entry with these lengths.
    #[must_use]
    pub fn weigh(&self, key_bytes: usize, value_bytes: usize) -> u64 {
        tier!(self, tier => tier.weigh(key_bytes, value_bytes))
    }

    /// Starts an epoch whose copies may be returned until `fence`. With [`Tick::ZERO`], none is returned before
    /// [`L1::extend`].
    ///
    /// Returns `None` if about 250 epochs are active.
    #[must_use]
    pub fn begin(&self, fence: Tick) -> Option<Epoch> {
        tier!(self, tier => tier.begin(fence))
    }

    /// Moves the fence of an epoch to `fence`. Does nothing if the epoch is suspended or has ended.
    pub fn extend(&self, epoch: Epoch, fence: Tick) {
        tier!(self, tier => tier.epochs().extend(epoch, fence));
    }

    /// Suspends an epoch whose changes are no longer received: closes its fence and voids its fills. Its copies remain
    /// available to [`L1::get_stale`] until the epoch is ended.
    pub fn suspend(&self, epoch: Epoch) {
        tier!(self, tier => tier.epochs().suspend(epoch));
    }

    /// Ends an epoch: its copies are never returned again.
    pub fn end(&self, epoch: Epoch) {
        tier!(self, tier => tier.epochs().end(epoch));
    }

    /// Returns whether an epoch is suspended.
    #[must_use]
    pub fn holds_stale(&self) -> bool {
        tier!(self, tier => tier.epochs().any_suspended())
    }

    /// Returns whether copies of the epoch may be returned at `now`.
    #[must_use]
    pub fn is_open(&self, epoch: Epoch, now: Tick) -> bool {
        tier!(self, tier => tier.epochs().is_live(epoch) && tier.epochs().is_open(epoch.number(), now))
    }

    /// Returns the number of key lookups by reads.
    #[cfg(test)]
    pub(crate) fn lookups(&self) -> usize {
        tier!(self, tier => tier.lookups.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Looks up a key. With `touch`, the policy counts the use.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &[u8], now: Tick, touch: bool) -> Option<Hit> {
        tier!(self, tier => tier.get(key, now, touch))
    }

    /// Looks up a copy whose fence closed or passed at most `grace` ago. The maximum age of copies does not apply; the
    /// expiration of the key does.
    #[must_use]
    pub fn get_stale(&self, key: &[u8], now: Tick, grace: Duration) -> Option<Hit> {
        tier!(self, tier => tier.get_stale(key, now, grace))
    }

    /// Describes the copy of a key without counting a use.
    #[must_use]
    pub fn peek(&self, key: &[u8], now: Tick) -> Option<Resident> {
        tier!(self, tier => tier.peek(key, now))
    }

    /// Returns why L1 no longer answers with a copy of a key. The last departures of several thousand keys are
    /// remembered. `None` if L1 has a valid copy, or if nothing is known.
    #[must_use]
    pub fn departure(&self, key: &[u8], now: Tick) -> Option<Departure> {
        tier!(self, tier => tier.departure(key, now))
    }

    /// Requests the lease to fill `key` under `token` in `epoch`. Without an epoch, the caller leads the flight and
    /// nothing is inserted. With `look`, returns a copy that was inserted in the meantime instead.
    pub fn lease(&self, key: &Key, token: Token, now: Tick, epoch: Option<Epoch>, look: bool) -> Leased {
        tier!(self, tier => tier.lease(key, token, now, epoch, look))
    }

    /// Ends the lease and inserts the copy, unless the lease was voided or its epoch was suspended or ended.
    #[expect(clippy::needless_pass_by_value, reason = "a fill is used once")]
    pub fn fill(&self, key: &Key, token: Token, fill: Fill, now: Tick) -> Filled {
        tier!(self, tier => tier.fill(key, token, &fill, now))
    }

    /// Returns the location of a key without counting a use.
    #[must_use]
    pub fn residence(&self, key: &[u8], now: Tick) -> Residence {
        tier!(self, tier => tier.residence(key, now))
    }

    /// Requests the lease to prefetch `key`. Returns `false` if the key is in L1 or in flight.
    #[must_use]
    pub fn lease_prefetch(&self, key: &Key, token: Token, now: Tick, epoch: Epoch) -> bool {
        tier!(self, tier => tier.lease_prefetch(key, token, now, epoch))
    }

    /// Same as [`L1::fill`] for a prefetched copy: it is staged until its first use.
    #[expect(clippy::needless_pass_by_value, reason = "a fill is used once")]
    pub fn fill_staged(&self, key: &Key, token: Token, fill: Fill, now: Tick) -> Filled {
        tier!(self, tier => tier.fill_staged(key, token, &fill, now))
    }

    /// Passes on the keys of prefetched copies that were removed unused since the last call.
    pub fn take_unused(&self, take: impl FnMut(&[u8])) {
        tier!(self, tier => tier.take_unused(take));
    }

    /// Returns the staged entries: prefetched and not used yet.
    #[must_use]
    pub fn staged(&self) -> Staged {
        tier!(self, tier => tier.staged())
    }

    /// Returns the number of entries that L1 has room for, estimated from the current mean weight.
    #[must_use]
    pub fn room_entries(&self) -> u64 {
        tier!(self, tier => tier.room_entries())
    }

    /// Ends the lease without inserting a copy.
    pub fn release(&self, key: &Key, token: Token) {
        tier!(self, tier => tier.release(key, token));
    }

    /// Removes the copy and voids the lease. Returns whether there was a copy.
    pub fn invalidate(&self, key: &[u8]) -> bool {
        tier!(self, tier => tier.invalidate(key))
    }

    /// Bans a pattern: after the call, L1 never returns an entry that matches `glob` and existed before, and no L2 read
    /// that started before inserts a matching one. [`L1::purge`] removes the entries. Later entries are returned,
    /// unless they are inserted in the same millisecond as `now`.
    ///
    /// Returns `None` while 64 patterns are being purged.
    pub fn ban(&self, glob: Glob, now: Tick) -> Option<Purge> {
        tier!(self, tier => tier.ban(glob, now))
    }

    /// Examines up to `budget` more entries and removes those that the ban hides. Returns the number of removed
    /// entries. Each hold of a lock takes at most about 10 µs.
    pub fn purge(&self, purge: &mut Purge, now: Tick, budget: usize) -> usize {
        tier!(self, tier => tier.purge(purge, now, budget))
    }

    /// Changes one key in place if L1 is the store. `change` receives the unexpired entry; the new entry is counted in
    /// `group`.
    ///
    /// # Errors
    /// `TooLarge` if the entry exceeds an eighth of L1; any error of `change`.
    pub fn update<R>(
        &self,
        key: &Key,
        now: Tick,
        epoch: Epoch,
        group: u8,
        change: impl FnOnce(Option<Current<'_>>) -> Result<(Change, R)>,
    ) -> Result<R> {
        tier!(self, tier => tier.update(key, now, epoch, group, change))
    }

    /// Removes every entry and voids every lease.
    pub fn clear(&self) {
        tier!(self, tier => tier.clear());
    }

    /// Removes up to `budget` entries whose deadline has passed or whose epoch has ended. Returns their number; less
    /// than `budget` means that none remain. Each hold of a lock takes at most about 20 µs.
    pub fn sweep(&self, now: Tick, budget: usize) -> usize {
        tier!(self, tier => tier.sweep(now, budget))
    }

    /// Visits about `count` entries from `cursor` (0 starts) and returns the next cursor (0 ends). An entry that is
    /// present during the whole scan is visited at least once. `visit` runs without a lock.
    pub fn scan(&self, cursor: u64, count: usize, now: Tick, visit: impl FnMut(&[u8], &Resident)) -> u64 {
        tier!(self, tier => tier.scan(cursor, count, now, visit))
    }

    /// Returns a random key, selected by `seed`.
    #[must_use]
    pub fn random_key(&self, seed: u64, now: Tick) -> Option<Key> {
        tier!(self, tier => tier.random_key(seed, now))
    }

    /// Returns the current size.
    #[must_use]
    pub fn usage(&self) -> Usage {
        tier!(self, tier => tier.usage())
    }

    /// Returns the number of entries without Terrace's own records. Acquires the lock of each shard for a moment.
    #[must_use]
    pub fn shown_entries(&self) -> u64 {
        tier!(self, tier => tier.shown_entries())
    }

    /// Returns the number of entries of clients whose keys expire. Acquires the lock of each shard for a moment.
    #[must_use]
    pub fn expiring_entries(&self) -> u64 {
        tier!(self, tier => tier.expiring_entries())
    }

    /// Returns the entries and removals by number of the key group, up to the highest number in use.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupUsage> {
        tier!(self, tier => tier.groups())
    }

    /// Returns the removals since start.
    #[must_use]
    pub fn removals(&self) -> Removals {
        let mut all = Removals::default();
        self.groups().iter().for_each(|group| all.add(group.removals));
        all
    }

    /// Recounts everything from scratch and returns the first inconsistency. For tests without concurrent access.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate(&self) -> std::result::Result<(), String> {
        tier!(self, tier => tier.validate())
    }
}

/// Returns the number of shards for these limits.
fn shards(settings: &Settings) -> usize {
    let by_bytes = settings.capacity_bytes / (SHARD_ENTRIES_MIN * ENTRY_GUESS_BYTES);
    let by_entries = settings.max_entries.map_or(u64::MAX, |max| max / SHARD_ENTRIES_MIN);
    let wanted = match settings.capacity_bytes {
        u64::MAX => SHARDS,
        bytes => SHARDS.max(bytes.div_ceil(SHARD_BYTES_MAX).next_power_of_two()),
    };
    let allowed = by_bytes.min(by_entries).clamp(1, wanted);
    1 << allowed.ilog2()
}
