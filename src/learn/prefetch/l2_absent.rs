//! Keys that L2 does not have: prefetching them again soon would be wasted.

/// Keys that L2 did not have when they were prefetched.
pub(super) struct AbsentKeys(Vec<(u64, u64)>);

impl AbsentKeys {
    /// Number of keys that are remembered.
    const KEYS: usize = 4_096;
    /// Events for which a key is remembered.
    const EVENTS: u64 = 8_192;

    pub(super) fn note(&mut self, hash: u64, event: u64) {
        self.0[hash as usize % Self::KEYS] = (hash, event);
    }

    pub(super) fn contains(&self, hash: u64, event: u64) -> bool {
        let (known, at) = self.0[hash as usize % Self::KEYS];
        known == hash && event - at < Self::EVENTS && at > 0
    }
}

impl Default for AbsentKeys {
    fn default() -> Self {
        Self(vec![(0, 0); Self::KEYS])
    }
}
