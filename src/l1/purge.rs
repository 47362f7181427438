//! Pattern bans in L1: they hide matching entries at once, and a walk removes the entries afterward.
//!
//! [`L1::ban`](super::L1::ban) adds the pattern to every shard, under the lock of the shard, and voids the matching
//! leases. From then on, a matching entry of that shard that is not newer than the ban is a miss. The walk
//! ([`L1::purge`](super::L1::purge)) removes such entries page by page from the top down, as a scan does, because
//! entries only move down. After the walk of a shard, the shard forgets the pattern and hits cost nothing extra.
//!
//! No pattern is compared under the lock of a shard, because a comparison of long keys takes milliseconds. An operation
//! on a key compares the key with the patterns of its shard first ([`Verdict`]) and repeats that if the shard has another
//! pattern once the lock is held.
//!
//! The birth of an entry decides whether it is newer. Entries that are inserted after the ban stay: through a lease
//! that was taken after it, or by a write if L1 is the store. Births have a resolution of one millisecond, so entries
//! that are inserted in the same millisecond as the ban count as old.

use smallvec::SmallVec;

use super::slot::Slot;
use crate::{clock::Tick, glob::Glob, model::Record};

/// Maximum number of patterns that are purged from L1 at the same time.
pub(super) const PURGES_MAX: usize = 64;

/// A banned pattern whose entries have to be removed by a walk. The owner must complete the walk: until then it
/// occupies one of 64 places, and hits in shards that were not walked compare their keys with the pattern.
#[derive(Debug)]
#[must_use = "a pattern that nobody walks for slows hits down for good"]
pub struct Purge {
    pub(super) glob: Glob,
    pub(super) number: u64,
    /// Shard that the walk has reached; the number of shards after the last one.
    pub(super) cell: usize,
    /// Slots from this place on were examined.
    pub(super) upto: usize,
    pub(super) removed: u64,
    pub(super) done: bool,
}

impl Purge {
    pub(super) fn new(glob: Glob, number: u64) -> Self {
        Self { glob, number, cell: 0, upto: usize::MAX, removed: 0, done: false }
    }

    /// Returns the banned pattern.
    #[must_use]
    pub fn glob(&self) -> &Glob {
        &self.glob
    }

    /// Returns the number of entries removed so far.
    #[must_use]
    pub fn removed(&self) -> u64 {
        self.removed
    }

    /// Returns whether all entries from before the ban were removed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }
}

/// One pattern in a shard.
#[derive(Clone)]
struct Ban {
    number: u64,
    glob: Glob,
    /// Entries born at this time or earlier are hidden.
    since: Tick,
}

/// The active patterns for which a shard was not walked yet.
#[derive(Clone, Default)]
pub(super) struct Bans(SmallVec<[Ban; 1]>);

/// Patterns that may match a key and were not compared with it yet.
pub(super) type Unjudged = SmallVec<[(u64, Glob); 1]>;

/// The results of comparing one key with patterns, by their numbers.
#[derive(Default)]
pub(super) struct Verdict(SmallVec<[(u64, bool); 1]>);

impl Verdict {
    /// Compares the key with more patterns.
    pub(super) fn add(&mut self, key: &[u8], patterns: Unjudged) {
        self.0.extend(patterns.into_iter().map(|(number, glob)| (number, glob.matches(key))));
    }

    fn of(&self, number: u64) -> Option<bool> {
        self.0.iter().find(|(judged, _)| *judged == number).map(|(_, matches)| *matches)
    }
}

impl Bans {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hides matching entries that were born at `since` or earlier.
    pub(super) fn add(&mut self, number: u64, glob: Glob, since: Tick) {
        self.0.push(Ban { number, glob, since });
    }

    /// Removes a pattern after the walk of this shard.
    pub(super) fn lift(&mut self, number: u64) {
        self.0.retain(|ban| ban.number != number);
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
    }

    /// Returns the patterns that may match the key and that its verdict does not contain.
    #[cold]
    pub(super) fn unjudged(&self, key: &[u8], verdict: &Verdict) -> Unjudged {
        let open = self.0.iter().filter(|ban| ban.glob.may_match(key) && verdict.of(ban.number).is_none());
        open.map(|ban| (ban.number, ban.glob.clone())).collect()
    }

    /// Returns whether the entry is hidden, by the verdict for its key. `now` must not be before its birth.
    #[cold]
    pub(super) fn hide(&self, slot: &Slot, now: Tick, verdict: &Verdict) -> bool {
        let Some(record) = slot.record() else { return true };
        let born_at = record.born_at(now);
        self.0.iter().any(|ban| born_at <= ban.since && verdict.of(ban.number) == Some(true))
    }

    /// Returns whether a copy of the bans hides an entry. Compares the patterns, so no lock may be held.
    pub(super) fn compare(&self, record: &Record, now: Tick) -> bool {
        let born_at = record.born_at(now);
        self.0.iter().any(|ban| born_at <= ban.since && ban.glob.matches(record.key()))
    }

    /// Returns whether an entry is from before the ban with this number.
    pub(super) fn is_before(&self, number: u64, slot: &Slot, now: Tick) -> bool {
        let Some(record) = slot.record() else { return false };
        self.0.iter().any(|ban| ban.number == number && record.born_at(now) <= ban.since)
    }
}
