//! Where a tuned TTL lies against fixed ones: a longer TTL always brings more hits for more bytes held, so the only fair
//! comparison is with the fixed TTL of the same hit rate, and there it is the bytes, and the stale values, that tell.
//!
//! Fixed TTLs are played beside the tuned one, on the same requests, and joined by straight lines: what lies between two
//! of them is what one gets who gives a part of the keys the one and the rest the other. The line begins where nothing is
//! kept.

use super::{Run, miss_ratio, stale_ratio};

/// The fixed TTLs that are played, in shortest TTLs.
pub(super) const MULTIPLES: [u64; 11] = [1, 2, 4, 6, 12, 24, 60, 120, 360, 1_440, 17_280];

/// What comes of one TTL for all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Fixed {
    /// Between two that were played it is between theirs.
    pub(super) ttl_s: f64,
    pub(super) hit_rate: f64,
    pub(super) stale_ratio: f64,
    pub(super) byte_seconds: f64,
}

/// A tuned TTL against the fixed one of the same hit rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Against {
    pub(super) fixed: Fixed,
    /// Bytes held, tuned over fixed.
    pub(super) bytes_ratio: f64,
    /// The fixed one holds less and has not more stale hits: the tuned one is worth nothing.
    pub(super) is_beaten: bool,
}

impl Fixed {
    fn of(run: &Run) -> Self {
        Self {
            ttl_s: run.fixed_ms().map_or(f64::INFINITY, |ms| ms as f64 / 1e3),
            hit_rate: 1.0 - miss_ratio(run),
            stale_ratio: stale_ratio(run),
            byte_seconds: run.ledger().byte_seconds(),
        }
    }

    /// From `self`, this part of the way.
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

/// `line`: runs with fixed TTLs, by TTL. `None` where none of them has so many hits.
pub(super) fn against(tuned: &Run, line: &[Run]) -> Option<Against> {
    let points: Vec<Fixed> = std::iter::once(Fixed::default()).chain(line.iter().map(Fixed::of)).collect();
    compare(Fixed::of(tuned), &points)
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
        assert_eq!(is_beaten(0.625, 0.25, 200.0), Some(false), "on it");
        assert_eq!(is_beaten(0.625, 0.25, 201.0), Some(true));
        assert_eq!(is_beaten(0.625, 0.24, 201.0), Some(false), "fewer are stale");
        assert_eq!(is_beaten(0.25, 0.0, 60.0), Some(true), "half of the keys for five seconds hold 50");
        assert_eq!(is_beaten(0.8, 0.0, 300.0), None);
    }
}
