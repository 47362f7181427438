//! What callers say to L1 and what it answers.

use bytes::Bytes;

use crate::{
    clock::Tick,
    model::{RemovalCause, Value},
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
    /// What is least worth keeping, as learned from this cache's own traffic.
    Learned,
    /// The least recently used.
    Lru,
}

/// Names one flight: the right to fill a key once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// A copy that may be answered.
#[derive(Debug, Clone)]
pub struct Hit {
    /// All that was stored: L1 knows nothing of headers.
    pub value: Value,
    /// When the key itself expires; [`Tick::FAR`] never.
    pub expires_at: Tick,
    /// When the copy was made.
    pub filled_at: Tick,
    /// Reads answered with it, saturating, approximate.
    pub hits: u32,
    /// Number of its key group, as the fill said.
    pub group: u8,
    /// Hash of the key, seeded: the same key has the same one as long as this L1 lives.
    pub hash: u32,
    /// It was prefetched, and this is its first use.
    pub is_first_use: bool,
}

/// Where a key is, as prefetch sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// Not in L1, and nobody is bringing it.
    Absent,
    /// Somebody asks for it below.
    InFlight,
    /// Prefetched, not used yet.
    Staged,
    /// In L1.
    Resident,
}

/// What waits for its first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Staged {
    /// Entries that wait.
    pub entries: u64,
    /// Their weight.
    pub bytes: u64,
    /// How many may.
    pub places: u64,
    /// Misses since start of entries that were dropped to make room for these.
    pub displaced: u64,
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
    /// Stored with its header, if it has one; copied into memory of its own, so that it pins no request buffer.
    pub value: Value,
    /// When the key itself expires; [`Tick::FAR`] never.
    pub expires_at: Tick,
    /// When the copy ends; not after `expires_at`.
    pub deadline: Tick,
    /// Number of its key group, for [`L1::groups`].
    pub group: u8,
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
    /// An invalidation or the end of its epoch came first.
    Voided,
    /// Its lease was taken while L1 was closed.
    Closed,
    /// Over an eighth of a shard: answered, not kept.
    TooLarge,
    /// Its deadline has passed already.
    Expired,
}

/// The present copy, for [`L1::update`].
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// All that is stored.
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

/// Why an entry is in L1 no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Room was needed.
    Evicted,
    /// The key itself had expired.
    Expired,
    /// The copy was as old as a copy may be.
    TooOld,
    /// The key changed: a write, or an announcement.
    Changed,
    /// A newer value took its place.
    Replaced,
    /// A pattern that it matches was invalidated.
    Banned,
    /// What was known of its source ended: a flush, a link that was lost, a failover.
    Ended,
    /// It is there, and may not be answered: all changes up to now are not known to have been heard.
    Closed,
}

/// An entry that is not answered any more, although it was in L1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Why.
    pub left: Left,
    /// When it left; for one that only waits to be removed, when somebody asked.
    pub at: Tick,
    /// When it came in.
    pub filled_at: Tick,
    /// When a read was last answered with it, approximate; `None` if none was.
    pub used_at: Option<Tick>,
}

impl Departure {
    /// Whether this is why a read at `at` was not answered by L1. What leaves by its own end was not answered any more
    /// before it was removed.
    #[must_use]
    pub fn explains(&self, at: Tick) -> bool {
        let had_ended = match self.left {
            Left::Expired | Left::TooOld | Left::Banned | Left::Ended | Left::Closed => self.filled_at < at,
            Left::Evicted | Left::Changed | Left::Replaced => false,
        };
        self.at <= at || had_ended
    }
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

impl Removals {
    /// All causes together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.size + self.expired + self.invalidated + self.replaced
    }

    pub(super) fn count(&mut self, cause: RemovalCause, entries: u64) {
        *match cause {
            RemovalCause::Size => &mut self.size,
            RemovalCause::Expired => &mut self.expired,
            RemovalCause::Invalidated => &mut self.invalidated,
            RemovalCause::Replaced => &mut self.replaced,
        } += entries;
    }

    /// Those since `before`, an earlier count of the same.
    #[must_use]
    pub fn less(&self, before: Self) -> Self {
        Self {
            size: self.size.saturating_sub(before.size),
            expired: self.expired.saturating_sub(before.expired),
            invalidated: self.invalidated.saturating_sub(before.invalidated),
            replaced: self.replaced.saturating_sub(before.replaced),
        }
    }

    /// Adds those of another part.
    pub fn add(&mut self, other: Self) {
        self.size += other.size;
        self.expired += other.expired;
        self.invalidated += other.invalidated;
        self.replaced += other.replaced;
    }
}

/// What L1 holds of one key group, and what of it left since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupUsage {
    /// Entries, expired ones that were not swept yet included.
    pub entries: u64,
    /// Sum of weights.
    pub bytes: u64,
    /// Removals since start.
    pub removals: Removals,
}
