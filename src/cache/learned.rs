//! What was learned, as keys: `assoc:<key>`, `template:<t>`, `ttl:<t>`, each with a JSON object as its value.
//!
//! The place where the learned state shows itself to inspection (RESP's db 2). Nothing is learned yet: it is empty.
//! Looking at it changes nothing.

use super::{Cache, Core, ScanPage};
use crate::{glob::Glob, learn::recorder::Event, model::Key};

impl Core {
    /// Gives what workers told since the last call to all who learn from it. `events` is memory to use again.
    pub fn learn(&self, events: &mut Vec<Event>) {
        events.clear();
        self.recorder.drain(events);
    }

    /// Events that no learner saw, because they came faster than they were taken up.
    #[must_use]
    pub fn events_dropped(&self) -> u64 {
        self.recorder.dropped()
    }
}

impl Cache {
    /// What was learned under this key.
    #[must_use]
    pub fn learned(&self, _key: &[u8]) -> Option<String> {
        None
    }

    /// One page of the keys under which something was learned.
    #[must_use]
    pub fn scan_learned(&self, _cursor: u64, _pattern: Option<&Glob>, _count: usize) -> ScanPage {
        ScanPage::default()
    }

    /// How many keys there are.
    #[must_use]
    pub fn count_learned(&self) -> u64 {
        0
    }

    /// Any of them.
    #[must_use]
    pub fn random_learned(&self) -> Option<Key> {
        None
    }
}
