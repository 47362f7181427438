//! Options and results of reads.

use std::time::Duration;

use crate::model::{Life, Tier, Value};

/// Tiers that may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TierChoice {
    /// L1, otherwise L2.
    #[default]
    Any,
    /// L1 only; for inspection.
    L1Only,
    /// L2 only; for inspection.
    L2Only,
}

/// The options of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Tiers that may answer.
    pub tier: TierChoice,
    /// True for inspection: recency, statistics and learning are unchanged, and nothing is promoted.
    pub no_touch: bool,
    /// True to return the key's remaining TTL, even if nothing is promoted.
    pub want_meta: bool,
    /// True to accept a copy past the coherence bound while L2 is unavailable, for at most `l2.serve_stale_for`.
    pub stale_ok: bool,
}

impl ReadOptions {
    /// Returns the options of a user read, which is counted, promoted and learned from.
    #[must_use]
    pub fn is_user(&self) -> bool {
        self.tier == TierChoice::Any && !self.no_touch
    }
}

/// A value that was found, and its metadata.
#[derive(Debug, Clone)]
pub struct Found {
    /// The payload.
    pub value: Value,
    /// The tier that answered.
    pub tier: Tier,
    /// True if the copy is past the coherence bound, because L2 is unavailable.
    pub stale: bool,
    /// Remaining TTL of the key. If L2 answered, it is only meaningful if `want_meta` was set.
    pub life: Life,
    /// Age of the copy; zero if L2 answered.
    pub age: Duration,
    /// Number of reads that L1 has answered with this copy.
    pub l1_hits: u32,
}

/// The result of a read.
#[derive(Debug, Clone)]
pub enum Read {
    /// The key exists.
    Found(Found),
    /// None of the queried tiers has the key.
    Missing,
}
