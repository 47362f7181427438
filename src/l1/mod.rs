//! This node's memory: sharded, bounded by bytes, with expiry and fill leases.
//!
//! Synchronous and without a clock: every call says what time it is. Entries, leases, expiry and weights of a shard
//! change together under its one lock, so that no interleaving of a fill and an invalidation leaves an old value
//! behind:
//!
//! * [`L1::lease`] is taken *before* the value is asked for below; at most one live lease a key.
//! * [`L1::invalidate`] drops the entry and the lease together.
//! * [`L1::fill`] inserts only while its lease is live and the epoch it was taken in goes on.
//! * [`L1::ban`] hides all entries of a pattern and voids their leases; [`L1::purge`] removes them afterwards.
//!
//! An epoch ([`L1::begin`]) is a state of the world below, with a fence: until when its copies may be answered. Whoever
//! hears of changes below moves the fence on, suspends the epoch when it hears no more, and ends it when all of its
//! copies may be wrong.
//!
//! From the outside in: this facade picks the policy; `tier` holds the shards and the one budget of bytes; `shard` is
//! what a lock guards: `slot` (dense entries with their deadlines), `index` (hash to slot), `lease`; `policy` says what
//! goes; `staging` holds what was prefetched until its first use; `departures` remembers why entries left. A hit takes the
//! shared lock, one hash, one probe, and relaxed stores; it allocates and copies nothing.

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

/// Shards where nothing speaks against it: enough that 16 workers seldom meet, few enough that each has a large sample to
/// choose victims from.
const SHARDS: u64 = 16;
/// Entries a shard has room for at least; with fewer, the choice of victims suffers.
const SHARD_ENTRIES_MIN: u64 = 64;
/// What an entry is taken to weigh when the number of shards is chosen, bytes.
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

/// Calls the tier of today's policy.
macro_rules! tier {
    ($self:ident, $tier:ident => $call:expr) => {
        match &$self.0 {
            Engine::Learned($tier) => $call,
            Engine::Lru($tier) => $call,
        }
    };
}

impl L1 {
    /// An empty tier.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with_shards(settings, shards(&settings), None)
    }

    /// An empty tier whose every choice by lot follows from `seed`: for simulation and tests.
    #[must_use]
    pub fn seeded(settings: Settings, seed: u64) -> Self {
        Self::with_shards(settings, shards(&settings), Some(seed))
    }

    /// As [`L1::new`] with a number of shards, rounded up to a power of two.
    #[must_use]
    pub fn with_shards(settings: Settings, shards: usize, seed: Option<u64>) -> Self {
        Self::made(settings, shards, seed, Weights::Real)
    }

    /// One that only pretends: an entry's value is eight bytes that say, in little-endian order, what it weighs. For what is
    /// asked about another size of L1 while one is running.
    #[must_use]
    pub fn ghost(settings: Settings) -> Self {
        Self::made(settings, 1, None, Weights::Told)
    }

    fn made(settings: Settings, shards: usize, seed: Option<u64>, weights: Weights) -> Self {
        let shards = shards.clamp(1, 1 << 16).next_power_of_two();
        Self(match settings.policy {
            PolicyKind::Learned => Engine::Learned(Tier::new(settings, shards, seed, weights)),
            PolicyKind::Lru => Engine::Lru(Tier::new(settings, shards, seed, weights)),
        })
    }

    /// The hash of a key that [`Hit::hash`] shows.
    #[must_use]
    pub fn hash_of(&self, key: &[u8]) -> u32 {
        tier!(self, tier => tier.hash_of(key))
    }

    /// What an entry of these lengths weighs.
    #[must_use]
    pub fn weigh(&self, key_bytes: usize, value_bytes: usize) -> u64 {
        tier!(self, tier => tier.weigh(key_bytes, value_bytes))
    }

    /// A new epoch, whose copies may be answered until `fence`. [`Tick::ZERO`]: not before [`L1::extend`].
    ///
    /// `None` if too many epochs go on at once: some 250.
    #[must_use]
    pub fn begin(&self, fence: Tick) -> Option<Epoch> {
        tier!(self, tier => tier.begin(fence))
    }

    /// The epoch's copies may be answered until `fence`; nothing happens if it is suspended or has ended.
    pub fn extend(&self, epoch: Epoch, fence: Tick) {
        tier!(self, tier => tier.epochs().extend(epoch, fence));
    }

    /// Nobody hears of changes any more: the epoch's fence closes and its fills are void. Its copies stay, for
    /// [`L1::get_stale`], until it is ended.
    pub fn suspend(&self, epoch: Epoch) {
        tier!(self, tier => tier.epochs().suspend(epoch));
    }

    /// No copy of the epoch is ever answered again.
    pub fn end(&self, epoch: Epoch) {
        tier!(self, tier => tier.epochs().end(epoch));
    }

    /// Whether any epoch is suspended.
    #[must_use]
    pub fn holds_stale(&self) -> bool {
        tier!(self, tier => tier.epochs().any_suspended())
    }

    /// Whether copies of the epoch may be answered at `now`.
    #[must_use]
    pub fn is_open(&self, epoch: Epoch, now: Tick) -> bool {
        tier!(self, tier => tier.epochs().is_live(epoch) && tier.epochs().is_open(epoch.number(), now))
    }

    /// Returns how often reads have looked a key up.
    #[cfg(test)]
    pub(crate) fn lookups(&self) -> usize {
        tier!(self, tier => tier.lookups.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Looks a key up. `touch` counts the use for the policy.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &[u8], now: Tick, touch: bool) -> Option<Hit> {
        tier!(self, tier => tier.get(key, now, touch))
    }

    /// A copy whose fence has closed, or lapsed, not more than `grace` ago; the bound on its age does not end it, the key's
    /// own expiry does.
    #[must_use]
    pub fn get_stale(&self, key: &[u8], now: Tick, grace: Duration) -> Option<Hit> {
        tier!(self, tier => tier.get_stale(key, now, grace))
    }

    /// Describes the copy of a key without counting a use.
    #[must_use]
    pub fn peek(&self, key: &[u8], now: Tick) -> Option<Resident> {
        tier!(self, tier => tier.peek(key, now))
    }

    /// Why a copy of a key is not answered although there was one, as far as is remembered: the last departures of some
    /// thousand keys. `None` if there is one that is, or nothing is known.
    #[must_use]
    pub fn departure(&self, key: &[u8], now: Tick) -> Option<Departure> {
        tier!(self, tier => tier.departure(key, now))
    }

    /// Asks for the right to fill `key` under `token`, in `epoch`; without an epoch the caller leads and may keep nothing.
    /// With `look`, a copy that came in since is returned instead.
    pub fn lease(&self, key: &Key, token: Token, now: Tick, epoch: Option<Epoch>, look: bool) -> Leased {
        tier!(self, tier => tier.lease(key, token, now, epoch, look))
    }

    /// Ends the lease and inserts the copy, unless the lease was voided or its epoch does not go on.
    #[expect(clippy::needless_pass_by_value, reason = "a fill is used once")]
    pub fn fill(&self, key: &Key, token: Token, fill: Fill, now: Tick) -> Filled {
        tier!(self, tier => tier.fill(key, token, &fill, now))
    }

    /// Where a key is, without counting a use.
    #[must_use]
    pub fn residence(&self, key: &[u8], now: Tick) -> Residence {
        tier!(self, tier => tier.residence(key, now))
    }

    /// Asks for the right to prefetch `key`; `false` if it is there or on its way.
    #[must_use]
    pub fn lease_prefetch(&self, key: &Key, token: Token, now: Tick, epoch: Epoch) -> bool {
        tier!(self, tier => tier.lease_prefetch(key, token, now, epoch))
    }

    /// As [`L1::fill`], for a copy that nobody has asked for yet: it waits apart, for its first use.
    #[expect(clippy::needless_pass_by_value, reason = "a fill is used once")]
    pub fn fill_staged(&self, key: &Key, token: Token, fill: Fill, now: Tick) -> Filled {
        tier!(self, tier => tier.fill_staged(key, token, &fill, now))
    }

    /// Hands over the keys of prefetched copies that left unused since the last call.
    pub fn take_unused(&self, take: impl FnMut(&[u8])) {
        tier!(self, tier => tier.take_unused(take));
    }

    /// What waits for its first use.
    #[must_use]
    pub fn staged(&self) -> Staged {
        tier!(self, tier => tier.staged())
    }

    /// Entries there is room for, as far as today's entries tell.
    #[must_use]
    pub fn room_entries(&self) -> u64 {
        tier!(self, tier => tier.room_entries())
    }

    /// Ends the lease without a copy.
    pub fn release(&self, key: &Key, token: Token) {
        tier!(self, tier => tier.release(key, token));
    }

    /// Drops the copy and voids the lease; says whether there was a copy.
    pub fn invalidate(&self, key: &[u8]) -> bool {
        tier!(self, tier => tier.invalidate(key))
    }

    /// From its return on nothing that matches `glob` and was there before is answered, in whatever way, and nothing that was
    /// asked for before comes in. [`L1::purge`] removes it. What comes in later is answered, but if its birth is in the same
    /// millisecond as `now`.
    ///
    /// `None` while 64 patterns are under purge.
    pub fn ban(&self, glob: Glob, now: Tick) -> Option<Purge> {
        tier!(self, tier => tier.ban(glob, now))
    }

    /// Looks at up to `budget` entries more for those that the ban hides, and removes them; says how many. No lock is held
    /// for more than some 10 µs.
    pub fn purge(&self, purge: &mut Purge, now: Tick, budget: usize) -> usize {
        tier!(self, tier => tier.purge(purge, now, budget))
    }

    /// Changes one key in place, where L1 is the store. `change` sees what is there and not expired; what it puts counts to
    /// `group`.
    ///
    /// # Errors
    /// `TooLarge` for an entry over an eighth of L1; what `change` returns.
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

    /// Removes up to `budget` entries whose deadline has passed or whose epoch has ended; says how many. Less
    /// than `budget` means that none are left. No lock is held for more than some 20 µs.
    pub fn sweep(&self, now: Tick, budget: usize) -> usize {
        tier!(self, tier => tier.sweep(now, budget))
    }

    /// Visits about `count` entries from `cursor` (0 begins) and returns the next cursor (0 ends). An entry present
    /// throughout is visited at least once. `visit` runs without a lock.
    pub fn scan(&self, cursor: u64, count: usize, now: Tick, visit: impl FnMut(&[u8], &Resident)) -> u64 {
        tier!(self, tier => tier.scan(cursor, count, now, visit))
    }

    /// Any key, chosen by `seed`.
    #[must_use]
    pub fn random_key(&self, seed: u64, now: Tick) -> Option<Key> {
        tier!(self, tier => tier.random_key(seed, now))
    }

    /// Size now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        tier!(self, tier => tier.usage())
    }

    /// What is held and what left, by the number of the key group; as long as the highest number needs.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupUsage> {
        tier!(self, tier => tier.groups())
    }

    /// Removals since start.
    #[must_use]
    pub fn removals(&self) -> Removals {
        let mut all = Removals::default();
        self.groups().iter().for_each(|group| all.add(group.removals));
        all
    }

    /// Recounts everything from scratch, with nobody else at work; what is wrong, if anything is.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate(&self) -> std::result::Result<(), String> {
        tier!(self, tier => tier.validate())
    }
}

/// How many shards these bounds allow.
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
