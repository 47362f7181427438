//! Keys that are not there below: to fetch them again soon would be for nothing.

/// Keys that were lately found not to be there below.
pub(super) struct Absent(Vec<(u64, u64)>);

impl Absent {
    /// Keys remembered, and for how many events.
    const KEYS: usize = 4_096;
    const EVENTS: u64 = 8_192;

    pub(super) fn note(&mut self, hash: u64, event: u64) {
        self.0[hash as usize % Self::KEYS] = (hash, event);
    }

    pub(super) fn is(&self, hash: u64, event: u64) -> bool {
        let (known, at) = self.0[hash as usize % Self::KEYS];
        known == hash && event - at < Self::EVENTS && at > 0
    }
}

impl Default for Absent {
    fn default() -> Self {
        Self(vec![(0, 0); Self::KEYS])
    }
}
