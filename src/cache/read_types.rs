//! The options of a read, and its result.

use std::time::Duration;

use crate::model::{Life, Tier, Value};

/// Which tiers may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TierChoice {
    /// L1, else L2.
    #[default]
    Any,
    /// Only this node's memory; inspection.
    L1Only,
    /// Only L2; inspection.
    L2Only,
}

/// The options of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Which tiers may answer.
    pub tier: TierChoice,
    /// Inspection: recency, statistics and learning stay as they are, nothing is promoted.
    pub no_touch: bool,
    /// Return the key's remaining TTL, although nothing is promoted.
    pub want_meta: bool,
    /// While L2 is unavailable, accept a copy past the coherence bound, for at most `l2.serve_stale_for`.
    pub stale_ok: bool,
}

impl ReadOptions {
    /// A user read: counted, promoted, learned from.
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
    /// The copy is past the coherence bound, because L2 is unavailable.
    pub stale: bool,
    /// The key's remaining TTL; from L2 only meaningful if it was requested.
    pub life: Life,
    /// The age of the copy; zero if L2 answered.
    pub age: Duration,
    /// Reads that L1 has answered with this copy.
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
