//! Compares tuned TTLs with fixed TTLs. A longer TTL always gives more hits and holds more bytes, so the only fair
//! comparison is with the fixed TTL of equal hit rate: it shows the difference in held bytes and stale values.
//!
//! Fixed TTLs are played on the same requests as the tuned TTL, and their results are joined by straight lines. A point
//! between two of them is the result of using one TTL for a part of the keys and the other TTL for the remaining keys.
//! The first point is the result of caching nothing.

use super::{
    engine::{Figures, Run},
    fleet::Fleet,
    miss_ratio, share, stale_ratio,
};

/// Fixed TTLs to play, in multiples of the minimum TTL.
pub(super) const MULTIPLES: [u64; 11] = [1, 2, 4, 6, 12, 24, 60, 120, 360, 1_440, 17_280];

/// Result of the same TTL for all entries.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Fixed {
    /// TTL in seconds; interpolated between two played TTLs.
    pub(super) ttl_s: f64,
    pub(super) hit_rate: f64,
    pub(super) stale_ratio: f64,
    pub(super) byte_seconds: f64,
}

/// Comparison of a tuned TTL with the fixed TTL of equal hit rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Against {
    pub(super) fixed: Fixed,
    /// Held bytes, tuned divided by fixed.
    pub(super) bytes_ratio: f64,
    /// `true` if the fixed TTL holds fewer bytes and has at most as many stale hits, so that tuning has no benefit.
    pub(super) is_beaten: bool,
}

impl Fixed {
    fn of(run: &Run) -> Self {
        let Figures { requests, misses, .. } = run.figures();
        Self {
            ttl_s: run.fixed_ms().map_or(f64::INFINITY, |ms| ms as f64 / 1e3),
            hit_rate: 1.0 - share(misses, requests),
            stale_ratio: share(run.ledger().stale(), requests),
            byte_seconds: run.ledger().byte_seconds(),
        }
    }

    fn of_tuned(fleet: &Fleet) -> Self {
        Self {
            ttl_s: f64::INFINITY,
            hit_rate: 1.0 - miss_ratio(fleet),
            stale_ratio: stale_ratio(fleet),
            byte_seconds: fleet.byte_seconds(),
        }
    }

    /// Interpolates between `self` and `other`; `part` 0 is `self`, 1 is `other`.
    fn towards(self, other: Self, part: f64) -> Self {
        let between = |a: f64, b: f64| a + part * (b - a);
        Self {
            ttl_s: between(self.ttl_s, other.ttl_s),
            hit_rate: between(self.hit_rate, other.hit_rate),
            stale_ratio: between(self.stale_ratio, other.stale_ratio),
            byte_seconds: between(self.byte_seconds, other.byte_seconds),
        }
    }
}

/// Compares a tuned run with `line`, the runs with fixed TTLs in ascending order. Returns `None` if no fixed TTL
/// reaches the hit rate.
pub(super) fn against(tuned: &Fleet, line: &[Run]) -> Option<Against> {
    let points: Vec<Fixed> = std::iter::once(Fixed::default()).chain(line.iter().map(Fixed::of)).collect();
    compare(Fixed::of_tuned(tuned), &points)
}

fn compare(tuned: Fixed, points: &[Fixed]) -> Option<Against> {
    let mut pairs = points.iter().zip(points.iter().skip(1));
    let (shorter, longer) = pairs.find(|(_, longer)| longer.hit_rate >= tuned.hit_rate)?;
    let rise = longer.hit_rate - shorter.hit_rate;
    let part = if rise > 0.0 { (tuned.hit_rate - shorter.hit_rate) / rise } else { 1.0 };
    let fixed = shorter.towards(*longer, part);
    let bytes_ratio = if fixed.byte_seconds > 0.0 { tuned.byte_seconds / fixed.byte_seconds } else { 1.0 };
    Some(Against { fixed, bytes_ratio, is_beaten: bytes_ratio > 1.0 && fixed.stale_ratio <= tuned.stale_ratio })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(ttl_s: f64, hit_rate: f64, stale_ratio: f64, byte_seconds: f64) -> Fixed {
        Fixed { ttl_s, hit_rate, stale_ratio, byte_seconds }
    }

    #[test]
    fn the_fixed_ttl_of_the_same_hit_rate_is_between_its_neighbours() {
        let line = [Fixed::default(), point(5.0, 0.5, 0.0, 100.0), point(15.0, 0.75, 0.5, 300.0)];
        let tuned = |hit_rate, stale, bytes| compare(point(f64::INFINITY, hit_rate, stale, bytes), &line);
        let against = tuned(0.625, 0.25, 150.0).expect("it is on the line");
        assert_eq!((against.fixed, against.bytes_ratio), (point(10.0, 0.625, 0.25, 200.0), 0.75));
        let is_beaten = |hit_rate, stale, bytes| tuned(hit_rate, stale, bytes).map(|against| against.is_beaten);
        assert_eq!(is_beaten(0.625, 0.25, 200.0), Some(false), "equal bytes");
        assert_eq!(is_beaten(0.625, 0.25, 201.0), Some(true));
        assert_eq!(is_beaten(0.625, 0.24, 201.0), Some(false), "fewer are stale");
        assert_eq!(is_beaten(0.25, 0.0, 60.0), Some(true), "half of the keys for five seconds hold 50");
        assert_eq!(is_beaten(0.8, 0.0, 300.0), None);
    }
}
