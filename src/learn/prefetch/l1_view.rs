//! What the learner has to know of L1: where a key is, and how much room there is.

/// Where a key that might be prefetched is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Neither in L1 nor in flight.
    Absent,
    /// In flight, or prefetched and not used yet.
    Prefetched,
    /// In L1.
    Resident,
    /// Absent and excluded from prefetch: predictions are measured only.
    ShadowOnly,
}

/// The state of L1 at one event.
pub struct L1View<'a> {
    /// Returns where a key is.
    pub presence: &'a dyn Fn(&[u8]) -> Presence,
    /// Entries that L1 has room for.
    pub room: u64,
    /// Misses since start of entries that were evicted in favor of prefetched entries.
    pub displaced: u64,
}
