//! TTLs in addition to those that writes specify. The operator's settings are in [`policy`](super::policy).
//!
//! * [`tuning`]: TTLs derived from learned access and change intervals.
//! * [`touch_on_read`]: TTLs that reads extend (sliding expiration).

pub mod touch_on_read;
pub mod tuning;

use super::Core;
use crate::{clock::Tick, l2::Flavor};

impl Core {
    /// Returns the time at which a copy made now has to leave L1: when the key expires, when the copy reaches
    /// `l1.max_age`, or when the next touch on read is due, whichever comes first.
    pub(crate) fn deadline_of(&self, key: &[u8], expires_at: Tick, now: Tick) -> Tick {
        let rules = self.rules.load();
        let by_age = match self.flavor {
            Flavor::Redis => now.plus(rules.l1_max_age),
            Flavor::Embedded | Flavor::None => Tick::FAR,
        };
        expires_at.min(by_age).min(self.touch_deadline(&rules, key, expires_at, now))
    }
}
