//! Patterns whose entries go: hidden from every hit at once, removed by a walk afterwards.
//!
//! [`L1::ban`](super::L1::ban) puts the pattern into every shard, under the shard's lock, and voids the leases it matches.
//! From then on an entry of that shard which matches and is not newer than the ban is a miss, wherever it stands. The walk
//! ([`L1::purge`](super::L1::purge)) removes such entries page by page from the top down, as a scan goes, because entries
//! only ever move downwards; a shard it has been through forgets the pattern, and hits there pay nothing for it again.
//!
//! What is newer is told by its birth: entries that come in after the ban, by a lease that was taken after it or by a
//! write where L1 is the store, are answered and stay. Births count milliseconds, so what comes in within the ban's own
//! millisecond is taken for old.

use smallvec::SmallVec;

use super::slot::Slot;
use crate::{clock::Tick, glob::Glob};

/// Maximum number of patterns that are purged from L1 at the same time.
pub(super) const PURGES_MAX: usize = 64;

/// A pattern that was banned and has to be walked for. Whoever took it walks it to its end: until then it keeps one of 64
/// places, and hits in shards not walked yet compare their keys with it.
#[derive(Debug)]
#[must_use = "a pattern that nobody walks for slows hits down for good"]
pub struct Purge {
    pub(super) glob: Glob,
    pub(super) number: u64,
    /// The shard that is walked; as many as there are when all were.
    pub(super) cell: usize,
    /// Below this place its slots are not looked at yet.
    pub(super) upto: usize,
    pub(super) removed: u64,
    pub(super) done: bool,
}

impl Purge {
    pub(super) fn new(glob: Glob, number: u64) -> Self {
        Self { glob, number, cell: 0, upto: usize::MAX, removed: 0, done: false }
    }

    /// What goes.
    #[must_use]
    pub fn glob(&self) -> &Glob {
        &self.glob
    }

    /// Entries removed so far.
    #[must_use]
    pub fn removed(&self) -> u64 {
        self.removed
    }

    /// Whether nothing is left of what was there before the ban.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }
}

/// One pattern as a shard knows it.
struct Ban {
    number: u64,
    glob: Glob,
    /// What was born up to here is hidden.
    since: Tick,
}

/// The patterns under purge that a shard was not walked for yet.
#[derive(Default)]
pub(super) struct Bans(SmallVec<[Ban; 1]>);

impl Bans {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hides what matches and was born up to `since`.
    pub(super) fn add(&mut self, number: u64, glob: Glob, since: Tick) {
        self.0.push(Ban { number, glob, since });
    }

    /// This shard was walked for this pattern.
    pub(super) fn lift(&mut self, number: u64) {
        self.0.retain(|ban| ban.number != number);
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
    }

    /// Whether the entry may not be answered; `now` is not before its birth.
    #[cold]
    pub(super) fn hide(&self, slot: &Slot, now: Tick) -> bool {
        let Some(record) = slot.record() else { return true };
        let born_at = record.born_at(now);
        self.0.iter().any(|ban| born_at <= ban.since && ban.glob.matches(record.key()))
    }
}
