//! The change feed, for clients that keep copies of their own (`Invalidation.Watch`).
//!
//! The feed is one ring of recent events with consecutive numbers. Each follower reads it at its own pace from its own place:
//! a sender never waits, and a follower that falls behind the ring is notified instead of receiving the lost events. A
//! follower that was away resumes where it was, as long as that place is in the ring. Each run of each node starts at a random
//! number, so a number of one run is never mistaken for a number of another.
//!
//! The guarantee: after [`Follower::is_whole`] returned true and everything up to [`Follower::newest`], queried *after* it,
//! was taken, every change acknowledged up to Δ (`l2::FENCE_SPAN`) before was delivered. The guarantee has the same basis as
//! L1's: links report the changes of Redis in order, and a source whose fence is valid has reported everything up to Δ ago. A
//! lost link leaves a gap in the ring.
//!
//! Nothing is recorded before the first follower, nor after the place of the last follower has left the ring. An event then
//! costs the one load of [`Events`](super::events::Events).

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    cache::{Cache, Core},
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::Flavor,
};

/// Maximum number of changes kept for Watch streams that resume.
const EVENTS_MAX: usize = 65_536;
/// Maximum size in bytes of the keys of all changes kept for Watch streams that resume.
const BYTES_MAX: usize = 8 << 20;
/// Maximum number of open Watch streams.
const FOLLOWERS_MAX: usize = 1_024;
/// Maximum number of key prefixes of one Watch stream.
pub const PREFIXES_MAX: usize = 64;
/// Maximum number of changes copied for a Watch stream at a time (about 10 µs).
const TAKEN_MAX: usize = 256;
/// The bit of `Events::wanted` that is set while the feed records.
pub(in crate::cache) const RECORDS: u8 = 2;

/// The subject of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedChange {
    /// A key.
    Key(Bytes, Cause),
    /// Every key that matches.
    Pattern(Glob),
    /// Every entry that carries the tag.
    Tag(Bytes),
    /// Every key.
    All,
}

/// Why a key changed, if known: Redis does not report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It changed in L2, by any writer.
    Unknown,
    /// A write through this node.
    Written,
    /// A deletion through this node.
    Deleted,
    /// Its TTL changed, through this node.
    Lifetime,
}

/// Why the feed does not guarantee the changes before this point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// An invalidation link was lost.
    LinkLost,
    /// Not all changes up to now are known to be received.
    NotHeard,
    /// The follower was too slow: its place has left the ring.
    TooSlow,
    /// The place to resume from is not in the ring, or belongs to another run.
    PlaceUnknown,
}

enum Kept {
    Change(FeedChange),
    Gap(Gap),
}

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Self::Change(FeedChange::Key(name, _) | FeedChange::Tag(name)) => name.len(),
            Self::Change(FeedChange::Pattern(glob)) => glob.pattern().len(),
            Self::Change(FeedChange::All) | Self::Gap(_) => 0,
        }
    }
}

struct Ring {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// Number of the next event. The oldest kept event has this number minus the count of kept events.
    next: u64,
    followers: usize,
    /// Place of the last follower when it left.
    left_at: u64,
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.next - self.kept.len() as u64
    }

    fn push(&mut self, kept: Kept) {
        self.bytes += kept.bytes();
        self.kept.push_back(kept);
        self.next += 1;
        while self.kept.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            self.bytes -= self.kept.pop_front().map_or(0, |gone| gone.bytes());
        }
    }

    /// Returns whether there is no follower, and none can resume at the last follower's place.
    fn is_forsaken(&self) -> bool {
        self.followers == 0 && self.oldest() > self.left_at
    }
}

/// The recorded changes.
pub struct Feed {
    ring: Mutex<Ring>,
    grown: Notify,
    told: AtomicU64,
    gaps: AtomicU64,
}

impl Default for Feed {
    fn default() -> Self {
        // Far from both ends: it does not overflow, and is unlikely to match a number of another run.
        let next = fastrand::u64(1 << 32..1 << 62);
        let ring = Ring { kept: VecDeque::new(), bytes: 0, next, followers: 0, left_at: next };
        Self { ring: Mutex::new(ring), grown: Notify::new(), told: AtomicU64::new(0), gaps: AtomicU64::new(0) }
    }
}

/// Statistics of the feed.
#[derive(Debug, Clone, Copy, Default)]
pub struct FeedReport {
    /// Current followers.
    pub followers: u64,
    /// Events delivered, counted per follower.
    pub told: u64,
    /// Gaps delivered to followers.
    pub gaps: u64,
}

impl Feed {
    /// Records a change if there are followers. `wanted` is the flag that senders check before.
    pub(in crate::cache) fn record(&self, change: FeedChange, wanted: &AtomicU8) {
        self.keep(Kept::Change(change), wanted);
    }

    /// Records that changes may have been missed.
    pub(in crate::cache) fn break_off(&self, gap: Gap, wanted: &AtomicU8) {
        self.keep(Kept::Gap(gap), wanted);
    }

    #[cold]
    fn keep(&self, kept: Kept, wanted: &AtomicU8) {
        let mut ring = self.ring.lock();
        if wanted.load(Relaxed) & RECORDS == 0 {
            return;
        }
        ring.push(kept);
        if ring.is_forsaken() {
            // Under the lock that a new follower takes: it turns recording on again, or comes too late to be turned off.
            wanted.fetch_and(!RECORDS, Relaxed);
            ring.kept = VecDeque::new();
            ring.bytes = 0;
        }
        drop(ring);
        self.grown.notify_waiters();
    }

    /// A new follower; where it begins, and whether that is where it wanted to go on.
    pub(in crate::cache) fn enter(&self, after: Option<u64>, wanted: &AtomicU8) -> Result<(u64, bool)> {
        let mut ring = self.ring.lock();
        if ring.followers == FOLLOWERS_MAX {
            return Err(CacheError::new(Kind::Overloaded, format!("{FOLLOWERS_MAX} clients watch already")));
        }
        ring.followers += 1;
        let records = wanted.fetch_or(RECORDS, Relaxed) & RECORDS != 0;
        let is_kept = |next: &u64| records && (ring.oldest()..=ring.next).contains(next);
        Ok(match after.map(|after| after.saturating_add(1)).filter(is_kept) {
            Some(next) => (next, true),
            None => (ring.next, false),
        })
    }

    /// Returns the statistics of the feed.
    #[must_use]
    pub fn report(&self) -> FeedReport {
        let followers = self.ring.lock().followers as u64;
        FeedReport { followers, told: self.told.load(Relaxed), gaps: self.gaps.load(Relaxed) }
    }
}

/// Events that a follower took.
#[derive(Debug, Default)]
pub struct Taken {
    /// Changes of its prefixes with their numbers, in their order.
    pub changes: Vec<(u64, FeedChange)>,
    /// A gap after them: earlier changes may be missing.
    pub gap: Option<Gap>,
}

/// A follower of the feed, until this is dropped.
pub struct Follower {
    core: Arc<Core>,
    prefixes: Vec<Bytes>,
    /// Number of the first event that was not read.
    next: u64,
    /// It resumed at its previous place.
    resumed: bool,
    /// A gap to deliver before anything else.
    pending_gap: Option<Gap>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut ring = self.core.events.feed().ring.lock();
        ring.followers -= 1;
        ring.left_at = ring.left_at.max(self.next);
    }
}

impl Follower {
    /// Returns whether it resumed at the requested place.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Returns the number of the last event that was read.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.next - 1
    }

    /// Returns whether every change acknowledged up to Δ ago is in the ring.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let Core { fence, clock, .. } = &*self.core;
        fence.refused().is_none() && fence.is_valid(clock.now())
    }

    /// Returns the number of the newest event.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.core.events.feed().ring.lock().next - 1
    }

    /// Counts a gap that is delivered to the follower.
    pub fn note_gap(&self) {
        self.core.events.feed().gaps.fetch_add(1, Relaxed);
    }

    /// Waits until there are events to take. Cancel safe.
    pub async fn news(&self) {
        let feed = self.core.events.feed();
        let grown = feed.grown.notified();
        tokio::pin!(grown);
        // Later events wake it; earlier ones are seen now.
        grown.as_mut().enable();
        if self.pending_gap.is_none() && self.newest() < self.next {
            grown.await;
        }
    }

    /// The next changes; with a gap nothing behind it. It has to be called again until [`Follower::sequence`] is where
    /// it shall be.
    pub fn take(&mut self) -> Taken {
        if let Some(gap) = self.pending_gap.take() {
            self.note_gap();
            return Taken { changes: Vec::new(), gap: Some(gap) };
        }
        let mut taken = self.copied();
        taken.changes.retain(|(_, change)| concerns(&self.prefixes, change));
        self.core.events.feed().told.fetch_add(taken.changes.len() as u64, Relaxed);
        if taken.gap.is_some() {
            self.note_gap();
        }
        taken
    }

    fn copied(&mut self) -> Taken {
        let ring = self.core.events.feed().ring.lock();
        let Some(from) = self.next.checked_sub(ring.oldest()) else {
            self.next = ring.next;
            return Taken { changes: Vec::new(), gap: Some(Gap::TooSlow) };
        };
        let mut taken = Taken::default();
        for kept in ring.kept.range(from as usize..).take(TAKEN_MAX) {
            self.next += 1;
            match kept {
                Kept::Change(change) => taken.changes.push((self.next - 1, change.clone())),
                Kept::Gap(gap) => {
                    taken.gap = Some(*gap);
                    break;
                }
            }
        }
        taken
    }
}

/// Returns whether a change may concern a key with one of these prefixes; without prefixes, every change does.
fn concerns(prefixes: &[Bytes], change: &FeedChange) -> bool {
    let any = |is: &dyn Fn(&[u8]) -> bool| prefixes.is_empty() || prefixes.iter().any(|prefix| is(prefix));
    match change {
        FeedChange::Key(key, _) => any(&|prefix| key.starts_with(prefix)),
        FeedChange::Pattern(glob) => {
            let start = glob.literal_prefix();
            any(&|prefix| start.starts_with(prefix) || prefix.starts_with(start))
        }
        FeedChange::Tag(_) | FeedChange::All => true,
    }
}

impl Cache {
    /// Follows the changes of keys with one of these prefixes (of all keys without any): from the event behind number
    /// `after`, if that is still kept, else from now on with a gap first.
    ///
    /// # Errors
    /// `InvalidArgument` for too many prefixes, or prefixes that Redis is not asked to announce; `Overloaded` for too many
    /// followers; `Unsupported` while changes are not announced at all.
    pub fn follow(&self, prefixes: Vec<Bytes>, after: Option<u64>) -> Result<Follower> {
        self.check_followed(&prefixes)?;
        let core = Arc::clone(&self.core);
        let (next, resumed) = core.events.enter(after)?;
        let pending_gap = (after.is_some() && !resumed).then_some(Gap::PlaceUnknown);
        Ok(Follower { core, prefixes, next, resumed, pending_gap })
    }

    fn check_followed(&self, prefixes: &[Bytes]) -> Result<()> {
        let invalid = |message: String| Err(CacheError::new(Kind::InvalidArgument, message));
        if prefixes.len() > PREFIXES_MAX {
            return invalid(format!("{} prefixes; at most {PREFIXES_MAX} may be watched at once", prefixes.len()));
        }
        if self.core.flavor != Flavor::Redis {
            return Ok(());
        }
        if let Some(why) = self.core.fence.refused() {
            return Err(CacheError::new(Kind::Unsupported, format!("Redis does not announce changes: {why}")));
        }
        let rules = self.core.rules.load();
        let announced = &rules.l1_prefixes;
        let is_announced = |wanted: &Bytes| announced.iter().any(|prefix| wanted.starts_with(prefix));
        if !announced.is_empty() && (prefixes.is_empty() || !prefixes.iter().all(is_announced)) {
            return invalid("only keys within l2.prefixes are announced; name prefixes within them".to_owned());
        }
        Ok(())
    }

    /// Statistics of the feed.
    #[must_use]
    pub fn feed_report(&self) -> FeedReport {
        self.core.events.feed().report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static [u8]) -> FeedChange {
        FeedChange::Key(Bytes::from_static(name), Cause::Written)
    }

    fn numbers(feed: &Feed) -> (u64, u64) {
        let ring = feed.ring.lock();
        (ring.oldest(), ring.next)
    }

    #[test]
    fn nothing_is_kept_before_the_first_follower_nor_long_after_the_last() {
        let (feed, wanted) = (Feed::default(), AtomicU8::new(0));
        feed.record(key(b"k"), &wanted);
        assert!(feed.ring.lock().kept.is_empty());
        let (next, resumed) = feed.enter(None, &wanted).expect("room");
        assert!(!resumed && wanted.load(Relaxed) == RECORDS);
        feed.record(key(b"k"), &wanted);
        {
            let mut ring = feed.ring.lock();
            (ring.followers, ring.left_at) = (0, next + 1);
        }
        for _ in 0..EVENTS_MAX {
            feed.record(key(b"k"), &wanted);
        }
        assert_eq!(wanted.load(Relaxed), RECORDS, "it may come back to where it was");
        assert_eq!(feed.enter(Some(next), &wanted).ok(), Some((next + 1, true)));
        feed.ring.lock().followers = 0;
        feed.record(key(b"k"), &wanted);
        assert_eq!((wanted.load(Relaxed), feed.ring.lock().kept.len()), (0, 0), "its place is gone");
        assert_eq!(feed.enter(Some(next), &wanted).map(|(_, resumed)| resumed).ok(), Some(false));
    }

    #[test]
    fn the_ring_is_bounded_in_events_and_bytes() {
        let (feed, wanted) = (Feed::default(), AtomicU8::new(0));
        let (first, _) = feed.enter(None, &wanted).expect("room");
        for _ in 0..=EVENTS_MAX {
            feed.record(FeedChange::All, &wanted);
        }
        assert_eq!(numbers(&feed), (first + 1, first + 1 + EVENTS_MAX as u64));
        let long = Bytes::from(vec![0; BYTES_MAX / 4]);
        (0..9).for_each(|_| feed.record(FeedChange::Key(long.clone(), Cause::Unknown), &wanted));
        let ring = feed.ring.lock();
        assert_eq!((ring.kept.len(), ring.bytes), (4, BYTES_MAX));
    }

    #[test]
    fn followers_are_bounded() {
        let (feed, wanted) = (Feed::default(), AtomicU8::new(0));
        assert!((0..FOLLOWERS_MAX).all(|_| feed.enter(None, &wanted).is_ok()));
        assert_eq!(feed.enter(None, &wanted).map_err(|error| error.kind()), Err(Kind::Overloaded));
    }

    #[test]
    fn a_pattern_concerns_whoever_watches_keys_that_it_may_match() {
        let prefixes = [Bytes::from_static(b"user:")];
        let glob = |pattern: &[u8]| FeedChange::Pattern(Glob::new(pattern).expect("a pattern"));
        for pattern in [&b"*"[..], b"us*", b"user:1?", b"user:", b"[u]ser:*"] {
            assert!(concerns(&prefixes, &glob(pattern)), "{}", pattern.escape_ascii());
        }
        for pattern in [&b"users*"[..], b"page:*", b"x*"] {
            assert!(!concerns(&prefixes, &glob(pattern)), "{}", pattern.escape_ascii());
            assert!(concerns(&[], &glob(pattern)));
        }
        assert!(concerns(&prefixes, &key(b"user:1")) && !concerns(&prefixes, &key(b"users:1")));
        assert!(concerns(&prefixes, &FeedChange::Tag(Bytes::new())) && concerns(&prefixes, &FeedChange::All));
    }
}
