//! A histogram of durations for concurrent writers: atomic buckets, log-linear, with an error of at most 1/16.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets per power of two.
const SUB: u64 = 16;
/// Powers of two above `SUB`: up to 2^40 µs, which is twelve days.
const POWERS: u64 = 37;
const BUCKETS: usize = (SUB * POWERS) as usize;

/// Durations in microseconds since start.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), sum_us: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record_us(&self, us: u64) {
        self.buckets[bucket(us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Counts `count` durations of `us` microseconds.
    pub fn record_many_us(&self, us: u64, count: u64) {
        self.buckets[bucket(us)].fetch_add(count, Relaxed);
        self.sum_us.fetch_add(us.saturating_mul(count), Relaxed);
    }

    /// Resets all counts.
    pub fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
        self.sum_us.store(0, Relaxed);
    }

    /// Adds these counts to `sum`.
    pub fn add_to(&self, sum: &mut Latency) {
        for (to, from) in sum.buckets.iter_mut().zip(&self.buckets) {
            *to += from.load(Relaxed);
        }
        sum.sum_us += self.sum_us.load(Relaxed);
    }
}

/// Counts of durations, summed over workers.
#[derive(Debug, Clone)]
pub struct Latency {
    buckets: Vec<u64>,
    /// Sum of all durations, microseconds.
    pub sum_us: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], sum_us: 0 }
    }
}

impl Latency {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.sum_us += other.sum_us;
    }

    /// Returns the durations since `before`, an earlier count.
    #[must_use]
    pub fn less(&self, before: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&before.buckets).map(|(now, before)| now.saturating_sub(*before));
        Self { buckets: buckets.collect(), sum_us: self.sum_us.saturating_sub(before.sum_us) }
    }

    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the number of durations up to this value, within the error of the buckets.
    #[must_use]
    pub fn within_us(&self, us: u64) -> u64 {
        self.buckets.iter().enumerate().take_while(|(at, _)| highest(*at) <= us).map(|(_, count)| count).sum()
    }

    /// Returns the `quantile` (0 to 1) of all durations in microseconds, rounded up by at most 1/16; `None` if there
    /// are none.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among counts far under 2^53"
    )]
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((quantile * count as f64).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        let at = self.buckets.iter().position(|&bucket| {
            seen += bucket;
            seen >= rank
        })?;
        Some(highest(at))
    }
}

/// Returns the bucket of a duration.
#[expect(clippy::cast_possible_truncation, reason = "bounded by BUCKETS")]
fn bucket(us: u64) -> usize {
    if us < SUB {
        return us as usize;
    }
    let power = u64::from(us.ilog2()) - u64::from(SUB.ilog2());
    let index = SUB * (power + 1) + ((us >> power) - SUB);
    (index as usize).min(BUCKETS - 1)
}

/// Returns the longest duration of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let power = bucket / SUB - 1;
    (((bucket % SUB) + SUB + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_lies_in_its_bucket() {
        for us in (0..5000).chain([1 << 20, (1 << 33) + 12345]) {
            let top = highest(bucket(us));
            assert!(top >= us && top <= us + us / SUB, "{us} {top}");
            assert!(bucket(us) == 0 || highest(bucket(us) - 1) < us, "{us}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_ranks() {
        let histogram = Histogram::default();
        (1..=10).for_each(|us| histogram.record_us(us));
        let mut sum = Latency::default();
        histogram.add_to(&mut sum);
        assert_eq!((sum.count(), sum.sum_us), (10, 55));
        assert_eq!((sum.quantile_us(0.5), sum.quantile_us(0.99), sum.quantile_us(1.0)), (Some(5), Some(10), Some(10)));
        assert_eq!(Latency::default().quantile_us(0.5), None);
        assert_eq!((sum.within_us(3), sum.within_us(1000)), (3, 10));
        histogram.clear();
        histogram.record_many_us(7, 3);
        let mut sum = Latency::default();
        histogram.add_to(&mut sum);
        assert_eq!((sum.count(), sum.sum_us), (3, 21));
    }
}
