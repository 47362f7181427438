//! The copies of values, and the rules by which they are kept and end. No network, no clock.
//!
//! # Reads in flight
//!
//! An answer may be kept only if nothing that ends the copy has happened since the read was sent. No list of reads exists
//! for this: a read notes versions, and keeps its answer only if they are unchanged.
//! * Each key belongs to one of [`STRIPES`] versions. An event for the key raises the version, then removes the copy.
//! * The `wide` version is raised by events for tags, which are known only when the answer arrives, and by discontinuities.
//!
//! A copy is inserted as [`PENDING`], and becomes usable when its versions have been compared once more: an event either
//! raises the version before the second comparison, or finds the copy and removes it. The lock of the copy's shard orders
//! the two.
//!
//! # No scans
//!
//! Events for many copies take constant time, so that they do not block the task of the feed. The copies are checked when
//! they are read:
//! * a discontinuity raises the epoch of its feed, which is compared with the epoch of the copy;
//! * a tag belongs to one of [`STRIPES`] versions, which the copy remembers;
//! * a pattern becomes a ban of its literal prefix. A copy remembers the last ban that it was compared with.
//!
//! Copies that are no longer valid keep their memory until they are replaced or evicted.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    clock::{Moment, nanoseconds},
    error::Result,
};

/// Number of versions for keys, and for tags.
const STRIPES: usize = 4_096;
/// Maximum number of bans that are remembered. A copy that was compared with none of them is no longer valid.
const BANS_MAX: usize = 256;
/// Epoch of a copy that is not usable yet. Feeds begin with epoch 1.
const PENDING: u64 = 0;
/// Changes that were acknowledged up to this time before a heartbeat may be missing.
pub(super) const BEHIND: Duration = Duration::from_secs(1);
/// Memory in bytes of a copy in addition to its key, value and tags, measured with the bench `near`.
const OVERHEAD: u64 = 320;
/// Minimum size in bytes of a shard of the store. A copy cannot be larger than a shard.
const SHARD_BYTES: u64 = 4 << 20;
/// Assumed mean weight of a copy, for the number of evicted keys that the store remembers.
const MEAN_WEIGHT: u64 = 1_024;
/// Maximum number of shards per CPU.
const SHARDS_PER_CPU: u64 = 4;
/// Maximum number of attempts of a lookup while heartbeats arrive.
const ATTEMPTS_MAX: usize = 4;

/// State of the change feed of one node.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Raised by each discontinuity.
    epoch: AtomicU64,
    /// Time before which the last processed heartbeat was not sent.
    confirmed: AtomicU64,
    /// Number of the connection to which the node's operations go.
    connected: AtomicU32,
    /// Number of the connection whose feed is complete; 0 if none is.
    followed: AtomicU32,
}

impl Feed {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: AtomicU64::new(PENDING + 1),
            confirmed: AtomicU64::new(Moment::NEVER.0),
            connected: AtomicU32::new(0),
            followed: AtomicU32::new(0),
        })
    }

    /// Sets the connection of the node's next operations. Nothing is kept until the feed follows the same connection: a
    /// new connection to an address may lead to another process, whose changes are not in the feed of the old one.
    pub(crate) fn set_connected(&self, connection: u32) {
        self.connected.store(connection, Release);
    }

    /// Keeps no answers until the next heartbeat. The copies stay valid.
    pub(super) fn pause(&self) {
        self.followed.store(0, Release);
    }

    /// Returns whether answers of the node may be kept.
    pub(crate) fn is_keeping(&self) -> bool {
        let followed = self.followed.load(Acquire);
        followed != 0 && followed == self.connected.load(Acquire)
    }
}

/// A copy of a value.
pub(crate) struct Copy {
    value: Bytes,
    decoded: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// The value needs a refresh from this time on.
    ends_at: Moment,
    /// The key expires at this time.
    expires_at: Moment,
    feed: Arc<Feed>,
    /// Epoch of the feed when the copy was kept, or [`PENDING`].
    epoch: AtomicU64,
    /// Number of the last ban that the copy was compared with.
    bans: AtomicU64,
    /// Version stripes of the tags.
    tags: Box<[u16]>,
    /// Sum of the versions of these stripes.
    tag_versions: u64,
    weight: u64,
}

impl Copy {
    /// Returns the value.
    pub(crate) fn value(&self) -> &Bytes {
        &self.value
    }

    /// Returns the decoded value, which is stored with the copy: a further hit decodes nothing.
    ///
    /// # Errors
    /// The value cannot be decoded.
    pub(crate) fn decoded<T: Send + Sync + 'static>(&self, decode: impl FnOnce(&Bytes) -> Result<T>) -> Result<Arc<T>> {
        if let Some(decoded) = self.decoded.get()
            && let Ok(decoded) = Arc::clone(decoded).downcast()
        {
            return Ok(decoded);
        }
        let decoded = Arc::new(decode(&self.value)?);
        // The first decoded value stays: a caller that reads the key as another type decodes it each time.
        let _is_first = self.decoded.set(Arc::clone(&decoded) as Arc<dyn Any + Send + Sync>);
        Ok(decoded)
    }
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copy").field("bytes", &self.value.len()).finish_non_exhaustive()
    }
}

/// A read in flight whose answer may be kept.
#[derive(Debug)]
pub(crate) struct Reading {
    key: Bytes,
    stripe: usize,
    version: u64,
    wide: u64,
    bans: u64,
    sent: Moment,
}

/// An answer, as far as a copy needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) value: &'a Bytes,
    pub(crate) is_stale: bool,
    /// Time until the value needs a refresh.
    pub(crate) fresh_for: Option<Duration>,
    /// Remaining TTL.
    pub(crate) expires_in: Option<Duration>,
    pub(crate) tags: &'a [Bytes],
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Bytes, Arc<Copy>> for Weight {
    fn weight(&self, _key: &Bytes, copy: &Arc<Copy>) -> u64 {
        copy.weight
    }
}

/// Prefixes whose copies have ended.
#[derive(Debug, Default)]
struct Bans {
    /// Number of bans so far.
    count: AtomicU64,
    /// The last bans, oldest first.
    last: Mutex<VecDeque<Bytes>>,
}

impl Bans {
    fn add(&self, prefix: Bytes) {
        let mut last = self.last.lock();
        if last.len() == BANS_MAX {
            last.pop_front();
        }
        last.push_back(prefix);
        self.count.fetch_add(1, Release);
    }

    /// Returns whether a ban ends the copy.
    fn has_ended(&self, key: &[u8], copy: &Copy) -> bool {
        let seen = copy.bans.load(Acquire);
        seen != self.count.load(Acquire) && self.compare(key, copy, seen)
    }

    #[cold]
    fn compare(&self, key: &[u8], copy: &Copy, seen: u64) -> bool {
        let last = self.last.lock();
        let count = self.count.load(Acquire);
        let new = usize::try_from(count - seen).unwrap_or(usize::MAX);
        if new > last.len() || last.iter().rev().take(new).any(|prefix| key.starts_with(prefix)) {
            return true;
        }
        copy.bans.store(count, Release);
        false
    }
}

/// All copies of a client.
pub(crate) struct Store {
    copies: Cache<Bytes, Arc<Copy>, Weight>,
    versions: Box<[AtomicU64]>,
    tag_versions: Box<[AtomicU64]>,
    wide: AtomicU64,
    bans: Bans,
    /// Number of confirmations of all feeds.
    confirmations: AtomicU64,
    /// Maximum age of the last heartbeat in nanoseconds.
    heartbeat_age_max_ns: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("copies", &self.copies.len()).finish_non_exhaustive()
    }
}

fn versions() -> Box<[AtomicU64]> {
    std::iter::repeat_with(AtomicU64::default).take(STRIPES).collect()
}

/// Returns the place of a key or a tag in the versions.
fn stripe(name: &[u8]) -> usize {
    // Less than STRIPES.
    (xxh3_64(name) % STRIPES as u64) as usize
}

/// Returns the bytes of a Redis glob before its first special character. All keys that match begin with them.
fn literal_prefix(pattern: &Bytes) -> Bytes {
    let end = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    pattern.slice(..end)
}

impl Store {
    pub(crate) fn new(max_bytes: u64, max_staleness: Duration) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
        let shards = (max_bytes / SHARD_BYTES).clamp(1, cpus * SHARDS_PER_CPU);
        // The library rounds up to a power of two, which would halve the shards.
        let shards = 1 << shards.ilog2();
        let items = usize::try_from(max_bytes / MEAN_WEIGHT).unwrap_or(usize::MAX).max(1);
        let mut options = OptionsBuilder::new();
        options.shards(shards).estimated_items_capacity(items).weight_capacity(max_bytes);
        let copies = match options.build() {
            Ok(options) => {
                Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default())
            }
            // Fails only without a capacity.
            Err(_) => Cache::with_weighter(items, max_bytes, Weight),
        };
        Self {
            copies,
            versions: versions(),
            tag_versions: versions(),
            wide: AtomicU64::new(0),
            bans: Bans::default(),
            confirmations: AtomicU64::new(0),
            heartbeat_age_max_ns: nanoseconds(max_staleness.saturating_sub(BEHIND)),
        }
    }

    /// Returns the number of copies and their weight in bytes, with copies that are no longer valid.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.copies.len(), self.copies.weight())
    }

    /// Returns the copy of a key, if it is proven to be no older than the maximum staleness.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], now: Moment) -> Option<Arc<Copy>> {
        for _ in 0..ATTEMPTS_MAX {
            let confirmations = self.confirmations.load(Acquire);
            let copy = self.copies.get(key)?;
            if let Some(is_hit) = self.judge(key, &copy, now, confirmations) {
                return is_hit.then_some(copy);
            }
        }
        None
    }

    /// Returns whether a copy is a hit; `None` if the caller has to look it up again.
    #[inline]
    fn judge(&self, key: &[u8], copy: &Copy, now: Moment, confirmations: u64) -> Option<bool> {
        let is_hit = now < copy.ends_at && self.is_confirmed(copy, now) && self.is_current(key, copy);
        // A confirmation proves something about the copies that are in the store at that time. If the caller slept between
        // the lookup and the check, an event may have removed the copy before the confirmation.
        (confirmations == self.confirmations.load(Acquire)).then_some(is_hit)
    }

    /// Returns the copy of a key that has not expired, even if nothing confirms it.
    pub(crate) fn unconfirmed(&self, key: &[u8], now: Moment) -> Option<Arc<Copy>> {
        let copy = self.copies.get(key)?;
        let is_usable = now < copy.expires_at && copy.epoch.load(Acquire) != PENDING && self.is_current(key, &copy);
        is_usable.then_some(copy)
    }

    /// Returns whether the node's feed proves the copy. The confirmation is read first: what it proves was applied before.
    fn is_confirmed(&self, copy: &Copy, now: Moment) -> bool {
        let confirmed = Moment(copy.feed.confirmed.load(Acquire));
        now.is_within(self.heartbeat_age_max_ns, confirmed) && copy.epoch.load(Acquire) == copy.feed.epoch.load(Acquire)
    }

    /// Returns whether no event for a tag or a pattern has ended the copy.
    fn is_current(&self, key: &[u8], copy: &Copy) -> bool {
        self.tag_sum(&copy.tags) == copy.tag_versions && !self.bans.has_ended(key, copy)
    }

    fn tag_sum(&self, tags: &[u16]) -> u64 {
        tags.iter().fold(0, |sum, tag| sum.wrapping_add(self.tag_versions[usize::from(*tag)].load(Acquire)))
    }

    /// Begins a read.
    pub(crate) fn begin(&self, key: &Bytes, sent: Moment) -> Reading {
        let stripe = stripe(key);
        Reading {
            key: key.clone(),
            stripe,
            version: self.versions[stripe].load(Acquire),
            wide: self.wide.load(Acquire),
            bans: self.bans.count.load(Acquire),
            sent,
        }
    }

    fn is_unchanged(&self, reading: &Reading) -> bool {
        self.versions[reading.stripe].load(Acquire) == reading.version && self.wide.load(Acquire) == reading.wide
    }

    /// Keeps the answer to a read, if nothing has ended it since the read was sent. Returns whether it was kept.
    pub(crate) fn keep(&self, reading: &Reading, feed: &Arc<Feed>, answer: Answer<'_>) -> bool {
        let inserted = self.insert(reading, feed, answer);
        inserted.is_some_and(|(copy, epoch)| self.complete(reading, &copy, epoch))
    }

    /// Inserts a pending copy. Returns the copy and its epoch.
    fn insert(&self, reading: &Reading, feed: &Arc<Feed>, answer: Answer<'_>) -> Option<(Arc<Copy>, u64)> {
        if answer.is_stale || !feed.is_keeping() || !self.is_unchanged(reading) {
            return None;
        }
        let (key, copy, epoch) = self.copy(reading, feed, answer);
        self.copies.insert(key, Arc::clone(&copy));
        Some((copy, epoch))
    }

    /// Makes a pending copy usable, unless an event has ended it.
    fn complete(&self, reading: &Reading, copy: &Arc<Copy>, epoch: u64) -> bool {
        if self.is_unchanged(reading) {
            copy.epoch.store(epoch, Release);
            return true;
        }
        self.copies.remove_if(&reading.key, |kept| Arc::ptr_eq(kept, copy));
        false
    }

    /// Returns the key, the pending copy, and its epoch.
    fn copy(&self, reading: &Reading, feed: &Arc<Feed>, answer: Answer<'_>) -> (Bytes, Arc<Copy>, u64) {
        let (key, value) = own(&reading.key, answer.value);
        let tags: Box<[u16]> = answer.tags.iter().map(|tag| stripe(tag) as u16).collect();
        let ends = |after: Option<Duration>| after.map_or(Moment::FAR, |after| reading.sent.plus(after));
        let expires_at = ends(answer.expires_in);
        let weight = OVERHEAD + (key.len() + value.len() + size_of_val(&*tags)) as u64;
        // Before the versions are compared for the second time: an event raises `wide` before the version of its tag, and
        // a discontinuity raises it before the epoch.
        let (tag_versions, epoch) = (self.tag_sum(&tags), feed.epoch.load(Acquire));
        let copy = Copy {
            value,
            decoded: OnceLock::new(),
            ends_at: ends(answer.fresh_for).min(expires_at),
            expires_at,
            feed: Arc::clone(feed),
            epoch: AtomicU64::new(PENDING),
            bans: AtomicU64::new(reading.bans),
            tags,
            tag_versions,
            weight,
        };
        (key, Arc::new(copy), epoch)
    }

    /// Ends the copy of a key. Returns whether there was one.
    pub(crate) fn key_changed(&self, key: &[u8]) -> bool {
        self.versions[stripe(key)].fetch_add(1, AcqRel);
        // Most changes are of keys without a copy, and need no exclusive lock.
        self.copies.contains_key(key) && self.copies.remove(key).is_some()
    }

    /// Ends all copies with a tag.
    pub(crate) fn tag_changed(&self, tag: &[u8]) {
        self.wide.fetch_add(1, AcqRel);
        self.tag_versions[stripe(tag)].fetch_add(1, AcqRel);
    }

    /// Ends all copies whose keys begin with the literal prefix of a pattern: more than match, which is safe.
    pub(crate) fn pattern_changed(&self, pattern: &Bytes) {
        self.prefix_changed(&literal_prefix(pattern));
    }

    /// Ends all copies whose keys begin with a prefix.
    pub(crate) fn prefix_changed(&self, prefix: &[u8]) {
        self.bans.add(Bytes::copy_from_slice(prefix));
    }

    /// Ends all copies of a node: changes may be missing.
    pub(crate) fn lost(&self, feed: &Feed) {
        self.wide.fetch_add(1, AcqRel);
        feed.pause();
        feed.epoch.fetch_add(1, AcqRel);
        feed.confirmed.store(Moment::NEVER.0, Release);
    }

    /// Notes that all changes that were acknowledged [`BEHIND`] before `at` have been applied, and that answers on the
    /// connection may be kept.
    pub(crate) fn confirm(&self, feed: &Feed, connection: u32, at: Moment) {
        self.confirmations.fetch_add(1, AcqRel);
        feed.confirmed.fetch_max(at.0, AcqRel);
        feed.followed.store(connection, Release);
    }
}

/// Copies a key and a value into one allocation. A slice of the received message would hold the whole message.
fn own(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    let mut both = Vec::with_capacity(key.len() + value.len());
    both.extend_from_slice(key);
    both.extend_from_slice(value);
    let both = Bytes::from(both);
    (both.slice(..key.len()), both.slice(key.len()..))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
