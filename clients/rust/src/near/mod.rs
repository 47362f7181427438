//! The near cache: copies of values in this process, which the change feeds of the nodes keep true.
//!
//! * `store`: the copies, and the rules by which they are kept and end.
//! * `feed`: follows the change feed of one node.

pub(crate) mod feed;
pub(crate) mod store;

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use terrace_proto::{Found, watch_event::Subject};

use self::store::{Answer, BEHIND, Copy, Feed, Reading, Store};
use crate::{
    clock::Moment,
    convert::{IntoBytes, all},
    error::{Error, Result},
    nodes::Node,
    operations::from_ms,
};

/// Default of [`NearCache::max_bytes`].
const MAX_BYTES: u64 = 64 << 20;
/// Default of [`NearCache::max_staleness`].
const MAX_STALENESS: Duration = Duration::from_secs(3);
/// Default of [`NearCache::heartbeat`].
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Heartbeat intervals that the server accepts.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Maximum number of prefixes that the server accepts.
const PREFIXES_MAX: usize = 64;
/// Number of counters, so that threads rarely write to the same cache line.
const COUNTERS: usize = 16;

/// Settings of a near cache: copies of values in the process of the client. See
/// [`ClientBuilder::near_cache`](crate::ClientBuilder::near_cache).
///
/// ```no_run
/// # async fn example() -> terrace_client::Result<()> {
/// use terrace_client::{Client, NearCache};
///
/// let near = NearCache::new().prefixes(["user:", "flags:"]).max_bytes(32 << 20);
/// let client = Client::builder("127.0.0.1:7400").near_cache(near).connect().await?;
/// client.get("flags:checkout").await?; // asks the node
/// client.get("flags:checkout").await?; // returns the copy
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a near cache is used only by a client with `ClientBuilder::near_cache`"]
pub struct NearCache {
    prefixes: Vec<Bytes>,
    max_bytes: u64,
    max_staleness: Duration,
    heartbeat: Duration,
}

impl Default for NearCache {
    fn default() -> Self {
        Self { prefixes: Vec::new(), max_bytes: MAX_BYTES, max_staleness: MAX_STALENESS, heartbeat: HEARTBEAT }
    }
}

impl NearCache {
    /// Returns the default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps copies only of keys with one of these prefixes, at most 64. Default: of all keys.
    pub fn prefixes<P: IntoBytes>(mut self, prefixes: impl IntoIterator<Item = P>) -> Self {
        self.prefixes = all(prefixes);
        self
    }

    /// Sets the maximum memory of the copies in bytes. Default: 64 MiB.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the maximum age of a copy after its value has changed: at least two heartbeat intervals plus 1 s. Copies are
    /// usually about a millisecond old; the limit applies when a feed is disturbed. Default: 3 s.
    pub fn max_staleness(mut self, staleness: Duration) -> Self {
        self.max_staleness = staleness;
        self
    }

    /// Sets the time between heartbeats of the change feeds, 100 ms to 60 s. Default: 500 ms.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// `InvalidArgument` with the value and what is accepted.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { prefixes, max_bytes, max_staleness, heartbeat } = self;
        if !HEARTBEATS.contains(heartbeat) {
            return Err(Error::invalid(format!("near cache: heartbeat is {heartbeat:?}; expected 100ms to 60s")));
        }
        let least = *heartbeat * 2 + BEHIND;
        if *max_staleness < least {
            return Err(Error::invalid(format!(
                "near cache: max_staleness is {max_staleness:?}; expected at least {least:?} with a heartbeat of {heartbeat:?}"
            )));
        }
        if prefixes.len() > PREFIXES_MAX {
            let count = prefixes.len();
            return Err(Error::invalid(format!("near cache: {count} prefixes; expected at most {PREFIXES_MAX}")));
        }
        if *max_bytes == 0 {
            return Err(Error::invalid("near cache: max_bytes is 0; expected at least 1"));
        }
        Ok(())
    }
}

/// Statistics of a near cache: [`Client::near_stats`](crate::Client::near_stats).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NearStats {
    /// Reads that a copy answered.
    pub hits: u64,
    /// Reads of keys within the prefixes that no copy answered.
    pub misses: u64,
    /// Answers that were kept.
    pub kept: u64,
    /// Answers that were not kept, because the key may have changed during the read or the feed is disturbed.
    pub not_kept: u64,
    /// Copies that the change of their key ended. Invalidations of tags and patterns are not counted.
    pub removed: u64,
    /// Copies, with those that are no longer valid and have not been replaced yet.
    pub entries: u64,
    /// Memory of the copies in bytes.
    pub weight: u64,
    /// Times at which the changes of a node may have been incomplete, so that all its copies ended.
    pub discontinuities: u64,
    /// Nodes whose answers are kept.
    pub feeds: u64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Reads {
    hits: AtomicU64,
    misses: AtomicU64,
}

thread_local! {
    /// Place of this thread in the counters.
    static PLACE: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Relaxed) % COUNTERS)
    };
}

/// The near cache of a client.
#[derive(Debug)]
pub(crate) struct Near {
    pub(crate) settings: NearCache,
    store: Store,
    reads: [Reads; COUNTERS],
    kept: AtomicU64,
    not_kept: AtomicU64,
    removed: AtomicU64,
    discontinuities: AtomicU64,
}

impl Near {
    pub(crate) fn new(settings: NearCache) -> Self {
        let store = Store::new(settings.max_bytes, settings.max_staleness);
        let (kept, not_kept, removed, discontinuities) = Default::default();
        Self { settings, store, reads: Default::default(), kept, not_kept, removed, discontinuities }
    }

    fn covers(&self, key: &[u8]) -> bool {
        let prefixes = &self.settings.prefixes;
        prefixes.is_empty() || prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// Returns the copy of a key, if it is proven to be no older than the maximum staleness.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Copy>> {
        self.get_at(key, Moment::now())
    }

    /// As [`Self::get`], for a read that began before `now`. Reading the clock is a large part of the cost of a hit.
    #[inline]
    pub(crate) fn get_at(&self, key: &[u8], now: Moment) -> Option<Arc<Copy>> {
        if !self.covers(key) {
            return None;
        }
        let copy = self.store.get(key, now);
        let reads = &self.reads[PLACE.get()];
        let count = if copy.is_some() { &reads.hits } else { &reads.misses };
        count.fetch_add(1, Relaxed);
        copy
    }

    /// Returns the copy of a key that has not expired, although its feed may be lost. Only for a cache that cannot be
    /// reached.
    pub(crate) fn unconfirmed(&self, key: &[u8]) -> Option<Arc<Copy>> {
        self.store.unconfirmed(key, Moment::now())
    }

    /// Begins a read whose answer may be kept; `None` if the key is not within the prefixes.
    pub(crate) fn begin(&self, key: &Bytes) -> Option<Reading> {
        self.covers(key).then(|| self.store.begin(key, Moment::now()))
    }

    /// Keeps the answer of a node to a read with metadata.
    pub(crate) fn keep(&self, reading: Reading, node: &Node, found: &Found) {
        let Found { value, stale, ttl_ms, fresh_ms, tags, .. } = found;
        let (fresh_for, expires_in) = (fresh_ms.map(from_ms), ttl_ms.map(from_ms));
        let answer = Answer { value, is_stale: *stale, fresh_for, expires_in, tags };
        let count = if self.store.keep(&reading, &node.feed, answer) { &self.kept } else { &self.not_kept };
        count.fetch_add(1, Relaxed);
    }

    /// Ends the copy of a key that this client changes.
    pub(crate) fn changed(&self, key: &[u8]) {
        if self.covers(key) && self.store.key_changed(key) {
            self.removed.fetch_add(1, Relaxed);
        }
    }

    fn apply_own(&self, change: &Change) {
        match change {
            Change::Key(key) => self.changed(key),
            Change::Keys(keys) => keys.iter().for_each(|key| self.changed(key)),
            Change::Tags(tags) => tags.iter().for_each(|tag| self.store.tag_changed(tag)),
            Change::Pattern(pattern) => self.store.pattern_changed(pattern),
            Change::Prefix(prefix) => self.store.prefix_changed(prefix),
        }
    }

    /// Applies an event of a feed. Events of one node also end the copies of the others: they may arrive earlier.
    fn apply(&self, subject: Option<&Subject>) {
        match subject {
            Some(Subject::Key(key)) => self.changed(key),
            Some(Subject::Pattern(pattern)) => self.store.pattern_changed(pattern),
            Some(Subject::Tag(tag)) => self.store.tag_changed(tag),
            // A subject that this version does not know may be any key.
            Some(Subject::Everything(_)) | None => self.store.prefix_changed(b""),
        }
    }

    /// Ends all copies of a node.
    fn lost(&self, feed: &Feed) {
        self.discontinuities.fetch_add(1, Relaxed);
        self.store.lost(feed);
    }

    pub(crate) fn stats(&self, nodes: &[Arc<Node>]) -> NearStats {
        let sum = |count: fn(&Reads) -> &AtomicU64| self.reads.iter().map(|reads| count(reads).load(Relaxed)).sum();
        let (entries, weight) = self.store.size();
        NearStats {
            hits: sum(|reads| &reads.hits),
            misses: sum(|reads| &reads.misses),
            kept: self.kept.load(Relaxed),
            not_kept: self.not_kept.load(Relaxed),
            removed: self.removed.load(Relaxed),
            entries: entries as u64,
            weight,
            discontinuities: self.discontinuities.load(Relaxed),
            feeds: nodes.iter().filter(|node| node.feed.is_keeping()).count() as u64,
        }
    }
}

/// A change that this client makes.
#[derive(Debug)]
pub(crate) enum Change {
    Key(Bytes),
    Keys(Vec<Bytes>),
    Tags(Vec<Bytes>),
    Pattern(Bytes),
    Prefix(Bytes),
}

/// A change in progress: ends the copies at its begin and at its end, however it ends. Then no read that begins later
/// returns the old value, and no read in flight keeps it.
#[derive(Debug)]
pub(crate) struct Changing {
    near: Arc<Near>,
    change: Change,
}

impl Changing {
    pub(crate) fn begin(near: &Arc<Near>, change: Change) -> Self {
        near.apply_own(&change);
        Self { near: Arc::clone(near), change }
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.near.apply_own(&self.change);
    }
}
