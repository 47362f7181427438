//! The change feed, for clients that keep their own copies (`Invalidation.Watch`).
//!
//! The feed is one ring of recent events with consecutive numbers. Each follower reads the ring at its own pace from
//! its own position. A sender never waits. A follower that falls behind the ring receives a gap instead of the lost
//! events. A follower that disconnected resumes at its position while that position is in the ring. Each run of each
//! node starts at a random number, so a number of one run is never mistaken for a number of another run.
//!
//! The guarantee: suppose that [`Follower::is_whole`] returned true, that [`Follower::newest`] was queried *after* it,
//! and that every event up to that number was taken. Then every change acknowledged up to Δ (`l2::FENCE_SPAN`) before
//! was delivered. The guarantee has the same basis as L1's: links report the changes of Redis in order, and a source
//! whose fence is valid has reported everything up to Δ ago. A lost link leaves a gap in the ring.
//!
//! Nothing is recorded before the first follower, or after the position of the last follower has left the ring. An
//! event then costs only the load in [`Events`](super::events::Events).

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
    access::{Principal, Verbs},
    budget::{Place, PlaceKind},
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
/// Maximum number of open Watch streams of one connection.
const FOLLOWERS_PER_CONNECTION_MAX: usize = FOLLOWERS_MAX / 4;
/// Maximum number of key prefixes of one Watch stream.
pub const PREFIXES_MAX: usize = 64;
/// Maximum number of changes copied at a time for a Watch stream (about 10 µs).
const TAKEN_MAX: usize = 256;
/// The bit of `Events::wanted` that is set while the feed records.
pub(in crate::cache) const RECORDS: u8 = 2;

/// The subject of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedChange {
    /// A key.
    Key(Bytes, Cause),
    /// Every key that matches the pattern.
    Pattern(Glob),
    /// Every entry that carries the tag.
    Tag(Bytes),
    /// Every key.
    All,
}

/// Reason for the change of a key, if known. Redis does not report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The key changed in L2; the writer is unknown.
    Unknown,
    /// The key was written through this node.
    Written,
    /// The key was deleted through this node.
    Deleted,
    /// The TTL of the key was changed through this node.
    Lifetime,
}

/// Reason why the feed does not guarantee the changes before this point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// An invalidation link was lost.
    LinkLost,
    /// Not all changes up to now are known to have been received.
    NotHeard,
    /// The follower was too slow: its position has left the ring.
    TooSlow,
    /// The position to resume from is not in the ring, or belongs to another run.
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
    /// Number of the next event. The number of the oldest kept event is this number minus the count of kept events.
    next: u64,
    followers: usize,
    /// Position of the last follower when it left.
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

    /// Returns whether there is no follower, and none can resume at the last follower's position.
    fn is_abandoned(&self) -> bool {
        self.followers == 0 && self.oldest() > self.left_at
    }
}

/// The recorded changes.
pub struct Feed {
    ring: Mutex<Ring>,
    grown: Notify,
    delivered: AtomicU64,
    gaps: AtomicU64,
}

impl Default for Feed {
    fn default() -> Self {
        // Below 2^53 for centuries of events: clients whose numbers are doubles (JavaScript) resume at the right one. A number of
        // another run is unlikely to match.
        let next = fastrand::u64(1 << 32..1 << 40);
        let ring = Ring { kept: VecDeque::new(), bytes: 0, next, followers: 0, left_at: next };
        Self { ring: Mutex::new(ring), grown: Notify::new(), delivered: AtomicU64::new(0), gaps: AtomicU64::new(0) }
    }
}

/// Statistics of the feed.
#[derive(Debug, Clone, Copy, Default)]
pub struct FeedReport {
    /// Current followers.
    pub followers: u64,
    /// Events delivered, counted once per follower.
    pub delivered: u64,
    /// Gaps delivered to followers.
    pub gaps: u64,
}

impl Feed {
    /// Records a change if there are followers. `wanted` is the flag that senders check first.
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
        if ring.is_abandoned() {
            // Changed under the lock that a new follower takes, so that a new follower always finds recording turned
            // on.
            wanted.fetch_and(!RECORDS, Relaxed);
            ring.kept = VecDeque::new();
            ring.bytes = 0;
        }
        drop(ring);
        self.grown.notify_waiters();
    }

    /// Adds a follower. Returns its position, and whether that is the requested position to resume from.
    pub(in crate::cache) fn enter(&self, after: Option<u64>, wanted: &AtomicU8) -> Result<(u64, bool)> {
        let mut ring = self.ring.lock();
        if ring.followers == FOLLOWERS_MAX {
            return Err(CacheError::new(
                Kind::Overloaded,
                format!("{FOLLOWERS_MAX} Watch streams are open; no more are allowed"),
            ));
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
        FeedReport { followers, delivered: self.delivered.load(Relaxed), gaps: self.gaps.load(Relaxed) }
    }
}

/// Events that a follower took.
#[derive(Debug, Default)]
pub struct Taken {
    /// Changes that concern the follower's prefixes, with their numbers, in order.
    pub changes: Vec<(u64, FeedChange)>,
    /// A gap after the changes: earlier changes may be missing.
    pub gap: Option<Gap>,
}

/// A follower of the feed, until it is dropped.
pub struct Follower {
    core: Arc<Core>,
    principal: Arc<Principal>,
    prefixes: Vec<Bytes>,
    /// Number of the first event that was not read.
    next: u64,
    /// True if the follower resumed at its previous position.
    resumed: bool,
    /// A gap to deliver before any change.
    pending_gap: Option<Gap>,
    _place: Place,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut ring = self.core.events.feed().ring.lock();
        ring.followers -= 1;
        ring.left_at = ring.left_at.max(self.next);
    }
}

impl Follower {
    /// Returns whether the follower resumed at the requested position.
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
        // Later events wake this future. Earlier events are checked next.
        grown.as_mut().enable();
        if self.pending_gap.is_none() && self.newest() < self.next {
            grown.await;
        }
    }

    /// Returns the next changes; no change follows a gap. Call it again until [`Follower::sequence`] reaches the
    /// required number.
    pub fn take(&mut self) -> Taken {
        if let Some(gap) = self.pending_gap.take() {
            self.note_gap();
            return Taken { changes: Vec::new(), gap: Some(gap) };
        }
        let mut taken = self.copied();
        let is_permitted = |change: &FeedChange| permits(&self.principal, change);
        taken.changes.retain(|(_, change)| concerns(&self.prefixes, change) && is_permitted(change));
        self.core.events.feed().delivered.fetch_add(taken.changes.len() as u64, Relaxed);
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

/// Returns whether a change may concern a key with one of these prefixes. Without prefixes, every change does.
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

/// Returns whether the client may learn about a change. A pattern is reported if it may match a permitted key.
fn permits(principal: &Principal, change: &FeedChange) -> bool {
    match change {
        FeedChange::Key(key, _) => principal.may(Verbs::WATCH, key),
        FeedChange::Pattern(glob) => principal.may_within(Verbs::WATCH, glob.literal_prefix()),
        FeedChange::Tag(tag) => principal.may_use_tag(tag),
        FeedChange::All => true,
    }
}

impl Cache {
    /// Follows the changes of keys with one of these prefixes, or of all keys if there are no prefixes. The follower
    /// starts after event number `after` if that is still kept; otherwise it starts at the newest event, with a gap
    /// first.
    ///
    /// # Errors
    /// `Denied` without the permission to watch; `InvalidArgument` for too many prefixes, or for prefixes outside of `l2.prefixes`; `Overloaded` for too many
    /// followers; `Unsupported` if Redis does not announce changes.
    pub fn follow(&self, prefixes: Vec<Bytes>, after: Option<u64>) -> Result<Follower> {
        if !self.principal.may_somewhere(Verbs::WATCH) {
            return Err(self.principal.denied(Verbs::WATCH));
        }
        prefixes.iter().try_for_each(|prefix| self.principal.check(Verbs::WATCH, prefix))?;
        self.check_followed(&prefixes)?;
        let place = self.account.place(PlaceKind::Watch, FOLLOWERS_PER_CONNECTION_MAX).ok_or_else(|| {
            let message = format!(
                "{FOLLOWERS_PER_CONNECTION_MAX} Watch streams of this connection are open, which is the maximum"
            );
            CacheError::new(Kind::Overloaded, message)
        })?;
        let core = Arc::clone(&self.core);
        let (next, resumed) = core.events.enter(after)?;
        let pending_gap = (after.is_some() && !resumed).then_some(Gap::PlaceUnknown);
        let principal = Arc::clone(&self.principal);
        Ok(Follower { core, principal, prefixes, next, resumed, pending_gap, _place: place })
    }

    fn check_followed(&self, prefixes: &[Bytes]) -> Result<()> {
        let invalid = |message: String| Err(CacheError::new(Kind::InvalidArgument, message));
        if prefixes.len() > PREFIXES_MAX {
            return invalid(format!("{} prefixes; a Watch stream has at most {PREFIXES_MAX}", prefixes.len()));
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
            return invalid(
                "a watched prefix is outside of l2.prefixes; Redis announces only keys within l2.prefixes".to_owned(),
            );
        }
        Ok(())
    }

    /// Returns the statistics of the feed.
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
        assert_eq!(wanted.load(Relaxed), RECORDS, "the follower may still resume at its position");
        assert_eq!(feed.enter(Some(next), &wanted).ok(), Some((next + 1, true)));
        feed.ring.lock().followers = 0;
        feed.record(key(b"k"), &wanted);
        assert_eq!(
            (wanted.load(Relaxed), feed.ring.lock().kept.len()),
            (0, 0),
            "the follower's position has left the ring"
        );
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
