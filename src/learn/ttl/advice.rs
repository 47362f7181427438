//! TTL advice: the formula, its settings, and the expected effect of a TTL.
//!
//! The advice is clamp(min(2.5 × mean access interval, freshness × mean change interval), min, max). The expected effect is
//! computed by replaying the intervals that are kept under the current TTL and under the advised TTL.

use std::{sync::Arc, time::Duration};

use super::key_track::{CHANGES_MIN, KeyTrack, LastIntervals, Spread};
use crate::clock::millis;

/// First term of the formula: this many mean access intervals.
const ACCESS_FACTOR: f64 = 2.5;
/// Minimum number of intervals between reads for an advice. It also applies to templates with few keys, which keep fewer
/// intervals than that.
pub(super) const EVIDENCE_MIN: u64 = 20;

/// Settings of the formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TtlSettings {
    /// Maximum TTL in mean change intervals; 0 ignores changes.
    pub freshness: f64,
    /// Minimum TTL that is advised.
    pub min: Duration,
    /// Maximum TTL that is advised.
    pub max: Duration,
}

impl Default for TtlSettings {
    fn default() -> Self {
        Self { freshness: 1.0, min: Duration::from_secs(300), max: Duration::from_secs(86_400) }
    }
}

impl TtlSettings {
    /// Applies the formula. All values are in milliseconds.
    #[must_use]
    pub fn advise(&self, access_ms: f64, change_ms: Option<f64>) -> u64 {
        let by_access = (ACCESS_FACTOR * access_ms) as u64;
        by_access.min(self.fresh_ms(change_ms)).clamp(millis(self.min), millis(self.max))
    }

    /// Returns the second term, the maximum TTL by changes: `u64::MAX` if no changes are known, or if they are ignored.
    #[must_use]
    pub fn fresh_ms(&self, change_ms: Option<f64>) -> u64 {
        change_ms.filter(|_| self.freshness > 0.0).map_or(u64::MAX, |ms| (self.freshness * ms) as u64)
    }
}

/// The expected effect of a TTL, from a replay of the intervals that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Expected {
    /// Part of reads that would find the value.
    pub hit_rate: f64,
    /// Part of reads that would find a value older than the last change, if changes were not announced.
    pub stale_share: f64,
    /// Part of the time for which a value is held.
    pub held: f64,
}

/// The advice for one template, and its evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// Hash of the template.
    pub template: u64,
    /// Name of the template.
    pub name: Arc<str>,
    /// Advised TTL.
    pub ttl_ms: u64,
    /// Mean TTL of recent writes; `None` if they had none, or if no write was seen.
    pub current_ttl_ms: Option<u64>,
    /// Number of sampled keys.
    pub keys: usize,
    /// Intervals between reads.
    pub access: Spread,
    /// Intervals between changes; `None` while too few are known.
    pub change: Option<Spread>,
    /// Mean length in bytes of the values that were written.
    pub value_bytes: u64,
    /// Expected effect of the current TTL.
    pub now: Expected,
    /// Expected effect of the advised TTL.
    pub then: Expected,
}

/// Returns the advice for a template from the tracks of its keys; `None` while too few intervals are known.
pub(super) fn advice_of(template: u64, name: Arc<str>, tracks: &[&KeyTrack], settings: &TtlSettings) -> Option<Advice> {
    let all =
        |of: fn(&KeyTrack) -> &LastIntervals| tracks.iter().flat_map(|track| of(track).intervals()).copied().collect();
    if tracks.iter().map(|track| u64::from(track.reads.seen())).sum::<u64>() < EVIDENCE_MIN {
        return None;
    }
    let access = Spread::of(all(|track| &track.reads));
    let change = Some(Spread::of(all(|track| &track.changes))).filter(|spread| spread.count >= CHANGES_MIN);
    let change_ms = change.map(|spread| spread.mean_ms);
    let ttl_ms = settings.advise(access.mean_ms, change_ms);
    let current_ttl_ms = mean(tracks.iter().filter_map(|track| track.ttl_ms));
    let replay = |ttl_ms| expected(tracks, ttl_ms, change_ms);
    Some(Advice {
        template,
        name,
        ttl_ms,
        current_ttl_ms,
        keys: tracks.len(),
        access,
        change,
        value_bytes: mean(tracks.iter().filter_map(|track| track.value_bytes)).unwrap_or(0),
        now: replay(current_ttl_ms),
        then: replay(Some(ttl_ms)),
    })
}

fn mean(values: impl Iterator<Item = u64>) -> Option<u64> {
    let (sum, count) = values.fold((0_u128, 0_u128), |(sum, count), value| (sum + u128::from(value), count + 1));
    sum.checked_div(count).and_then(|mean| u64::try_from(mean).ok())
}

/// Replays the reads of each key under a TTL: the first read fills, and so does a read after the TTL has ended. `None`: no
/// TTL.
fn expected(tracks: &[&KeyTrack], ttl_ms: Option<u64>, change_ms: Option<f64>) -> Expected {
    let ttl_ms = ttl_ms.unwrap_or(u64::MAX);
    let (mut reads, mut hits, mut stale, mut held, mut span) = (0_u64, 0_u64, 0.0, 0.0, 0.0);
    for track in tracks {
        let mut age: u64 = 0;
        for &interval in track.reads.intervals().iter().rev() {
            reads += 1;
            span += interval as f64;
            let older = age.saturating_add(interval);
            held += (older.min(ttl_ms) - age.min(ttl_ms)) as f64;
            if older >= ttl_ms {
                age = 0;
                continue;
            }
            hits += 1;
            age = older;
            // Changes are assumed to be equally likely at any time.
            stale += change_ms.map_or(0.0, |change| 1.0 - (-(age as f64) / change.max(1.0)).exp());
        }
    }
    if reads == 0 || span == 0.0 {
        return Expected::default();
    }
    Expected { hit_rate: hits as f64 / reads as f64, stale_share: stale / reads as f64, held: held / span }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_is_the_one_of_the_design() {
        let of = |access_s: f64, change_s: Option<f64>| {
            TtlSettings::default().advise(access_s * 1e3, change_s.map(|s| s * 1e3)) / 1_000
        };
        assert_eq!((of(200.0, None), of(200.0, Some(400.0)), of(1.0, None)), (500, 400, 300));
        assert_eq!(of(1e6, Some(1e9)), 86_400);
        let quick = TtlSettings { min: Duration::from_secs(1), ..TtlSettings::default() };
        let deaf = TtlSettings { freshness: 0.0, ..quick };
        assert_eq!((deaf.advise(1e4, Some(1.0)), quick.advise(1e4, Some(1.0))), (25_000, 1_000));
    }
}
