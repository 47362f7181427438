//! Arguments and results of L1.

use bytes::Bytes;

use crate::{
    clock::Tick,
    model::{Life, RemovalCause, Value},
};

/// Limits and policy of L1.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Maximum sum of weights in bytes.
    pub capacity_bytes: u64,
    /// Maximum number of entries.
    pub max_entries: Option<u64>,
    /// Eviction policy.
    pub policy: PolicyKind,
}

/// Eviction policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// Evicts the entry of least expected value, learned from the traffic of this cache.
    Learned,
    /// Evicts the least recently used entry.
    Lru,
}

/// Identifies one flight: the permission to fill a key once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// A copy that L1 may answer with.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The stored bytes, including headers: L1 does not interpret them.
    pub value: Value,
    /// Expiration of the key; [`Tick::FAR`] for none.
    pub expires_at: Tick,
    /// When the copy was made.
    pub filled_at: Tick,
    /// Approximate number of reads answered with it, saturating.
    pub hits: u32,
    /// Number of its key group, from the fill.
    pub group: u8,
    /// Seeded hash of the key, constant for the lifetime of this L1.
    pub hash: u32,
    /// The copy was prefetched, and this is its first use.
    pub is_first_use: bool,
}

impl Hit {
    /// Returns the remaining life of the key.
    #[inline]
    #[must_use]
    pub fn life(&self, now: Tick) -> Life {
        if self.expires_at == Tick::FAR { Life::Forever } else { Life::For(self.expires_at.since(now)) }
    }
}

/// Location of a key, as prefetch sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// Neither in L1 nor in flight.
    Absent,
    /// An L2 read of the key is in flight.
    InFlight,
    /// Prefetched and not used yet.
    Staged,
    /// In L1.
    Resident,
}

/// Staged entries: prefetched and not used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Staged {
    /// Number of staged entries.
    pub entries: u64,
    /// Weight of the staged entries in bytes.
    pub bytes: u64,
    /// Maximum number of staged entries.
    pub places: u64,
    /// Misses since start of entries that were evicted in favor of staged ones.
    pub displaced: u64,
}

/// A copy, as inspection sees it.
#[derive(Debug, Clone)]
pub struct Resident {
    /// The result of a hit.
    pub hit: Hit,
    /// End of the copy: the expiration of the key or the maximum age of the copy.
    pub deadline: Tick,
    /// Approximate time of the last read.
    pub used_at: Tick,
    /// Weight of the entry in bytes.
    pub weight_bytes: u64,
}

/// A copy to insert.
#[derive(Debug, Clone)]
pub struct Fill {
    /// Stored bytes, including a header if there is one. They are copied, so that they do not keep a request buffer
    /// alive.
    pub value: Value,
    /// Expiration of the key; [`Tick::FAR`] for none.
    pub expires_at: Tick,
    /// End of the copy, at most `expires_at`.
    pub deadline: Tick,
    /// Number of its key group, for [`L1::groups`].
    pub group: u8,
}

/// Result of a lease request.
#[derive(Debug)]
pub enum Leased {
    /// The key was inserted in the meantime.
    Hit(Hit),
    /// The caller leads: it reads L2, and then fills or releases.
    Lead,
    /// The flight with this token leads.
    Join(Token),
}

/// Result of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// The copy was inserted.
    Inserted,
    /// An invalidation or the end of the epoch voided the fill.
    Voided,
    /// The lease was taken while L1 was closed.
    Closed,
    /// The copy exceeds an eighth of L1: it was returned to the reader and not inserted.
    TooLarge,
    /// The deadline of the copy has passed.
    Expired,
}

/// The current entry, for [`L1::update`].
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// The stored bytes.
    pub value: &'a [u8],
    /// Expiration of the key; [`Tick::FAR`] for none.
    pub expires_at: Tick,
}

/// The change that [`L1::update`] applies.
#[derive(Debug, Clone)]
pub enum Change {
    /// No change.
    Keep,
    /// Store this value with this expiration.
    Put(Bytes, Tick),
    /// Keep the value and change the expiration.
    Reexpire(Tick),
    /// Remove the entry.
    Remove,
}

/// Reason why an entry left L1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Evicted to make room.
    Evicted,
    /// The key expired.
    Expired,
    /// The copy reached its maximum age.
    TooOld,
    /// The key changed: a write or an announcement.
    Changed,
    /// Replaced by a newer value.
    Replaced,
    /// A pattern that it matches was invalidated.
    Banned,
    /// The epoch ended: a flush, a lost link or a failover.
    Ended,
    /// The entry is in L1 and must not be returned: it is not proven that all changes were received.
    Closed,
}

/// An entry that was in L1 and is no longer returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Reason.
    pub left: Left,
    /// Time at which it left; the time of the query for an entry that is not removed yet.
    pub at: Tick,
    /// Time at which it was inserted.
    pub filled_at: Tick,
    /// Approximate time of the last read that it answered; `None` if there was none.
    pub used_at: Option<Tick>,
}

impl Departure {
    /// Returns whether this departure explains why L1 did not answer a read at `at`. An entry that ended by itself was
    /// not returned between its end and its removal.
    #[must_use]
    pub fn explains(&self, at: Tick) -> bool {
        let had_ended = match self.left {
            Left::Expired | Left::TooOld | Left::Banned | Left::Ended | Left::Closed => self.filled_at < at,
            Left::Evicted | Left::Changed | Left::Replaced => false,
        };
        self.at <= at || had_ended
    }
}

/// Current size of L1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Number of entries, including expired ones that are not swept yet.
    pub entries: u64,
    /// Sum of weights in bytes.
    pub bytes: u64,
    /// Maximum sum of weights in bytes.
    pub capacity_bytes: u64,
}

/// Removals since start, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removals {
    /// Evicted to make room.
    pub size: u64,
    /// The deadline passed.
    pub expired: u64,
    /// Removed by a write or an invalidation.
    pub invalidated: u64,
    /// Replaced by a newer value.
    pub replaced: u64,
}

impl Removals {
    /// Returns the sum over all causes.
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

    /// Returns the removals since `before`, an earlier value of the same counts.
    #[must_use]
    pub fn less(&self, before: Self) -> Self {
        Self {
            size: self.size.saturating_sub(before.size),
            expired: self.expired.saturating_sub(before.expired),
            invalidated: self.invalidated.saturating_sub(before.invalidated),
            replaced: self.replaced.saturating_sub(before.replaced),
        }
    }

    /// Adds other counts.
    pub fn add(&mut self, other: Self) {
        self.size += other.size;
        self.expired += other.expired;
        self.invalidated += other.invalidated;
        self.replaced += other.replaced;
    }
}

/// Entries of one key group, and its removals since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupUsage {
    /// Number of entries, including expired ones that are not swept yet.
    pub entries: u64,
    /// Sum of weights in bytes.
    pub bytes: u64,
    /// Removals since start.
    pub removals: Removals,
}
