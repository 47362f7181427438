//! TTLs in addition to those that writes specify. The operator's settings are in [`policy`](super::policy).
//!
//! * [`tuning`]: TTLs derived from learned access and change intervals.
//! * [`touch_on_read`]: TTLs that reads extend (sliding expiration).

pub mod touch_on_read;
pub mod tuning;

use std::sync::atomic::Ordering::Relaxed;

use super::Core;
use crate::{
    clock::{Clock, Tick},
    l2::Flavor,
};

/// Change of the wall clock, relative to the monotonic clock, after which copies of the embedded store's entries are
/// removed from L1. Clocks that are slewed differ less than this for hours.
const WALL_SLACK_MS: u64 = 500;

/// Returns the wall clock minus the monotonic clock, which wraps.
pub(super) fn wall_offset_ms(clock: &Clock) -> u64 {
    clock.unix().0.wrapping_sub(clock.now().0)
}

impl Core {
    /// Removes all copies from L1 if the wall clock was set. The embedded store compares expiries with the wall clock, as
    /// Redis does; a copy ends by the monotonic clock, so its end was computed for the previous difference of the two.
    pub fn follow_wall_clock(&self) {
        if self.flavor != Flavor::Embedded {
            return;
        }
        let (kept_ms, seen_ms) = (self.wall_offset_ms.load(Relaxed), wall_offset_ms(&self.clock));
        let moved_ms = kept_ms.wrapping_sub(seen_ms).cast_signed().unsigned_abs();
        if moved_ms <= WALL_SLACK_MS {
            return;
        }
        self.wall_offset_ms.store(seen_ms, Relaxed);
        self.fence.step_all(&self.l1);
        tracing::warn!(moved_ms, "the wall clock was set; removed all copies from L1, because expiries follow it");
    }

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
