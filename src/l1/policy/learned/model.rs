//! Computes the value of entries from the counts of hits.
//!
//! A cell is a pair of a use class and an age bucket. For each cell, `hit` counts uses at that age, and `room` counts
//! how long entries were of that age, in entry-insertions; `hit / room` is the rate of uses. The value of a cell is a
//! Gittins index: the maximum, over all ages at which waiting may stop, of the probability of a use until then divided
//! by the expected time until then. The plain rate is much worse if entries are used after a long pause.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::l1::slot::SIZE_CLASSES;

/// Number of classes of use counts: 0, 1 to 2, 3 to 6, 7 to 14, 15.
const CLASSES: usize = 5;
/// Number of age buckets, by bit length.
const BUCKETS: usize = 31;
/// Number of cells of a table.
pub(super) const CELLS: usize = CLASSES * BUCKETS;
/// Factor of the old counts at each computation.
const DECAY: f64 = 0.98;
/// Prior rate of uses at age `a`: this divided by `a`. It falls with age, so the untrained policy is LRU.
const PRIOR_RATE: f64 = 0.3;
/// Prior ratio between the use rates of a class and the next lower class.
const PRIOR_CLASS: f64 = 2.0;

/// Returns the cell of a use count and an age.
#[inline]
pub(super) fn cell(count: u32, age: u32) -> usize {
    let class = ((count + 1).ilog2() as usize).min(CLASSES - 1);
    let bucket = ((32 - age.leading_zeros()) as usize).min(BUCKETS - 1);
    class * BUCKETS + bucket
}

/// Returns the factor of a value by size class: one divided by the square root of the size.
pub(super) fn per_size() -> [f32; SIZE_CLASSES] {
    std::array::from_fn(|class| (-(class as f32) / 8.0).exp2())
}

/// The current values by cell.
pub(super) struct Values([AtomicU32; CELLS]);

impl Default for Values {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Values {
    #[inline]
    pub(super) fn at(&self, cell: usize) -> f32 {
        f32::from_bits(self.0[cell].load(Relaxed))
    }
}

/// Counts of all shards, decayed.
pub(super) struct Model {
    hit: [f64; CELLS],
    room: [f64; CELLS],
}

impl Default for Model {
    fn default() -> Self {
        Self { hit: [0.0; CELLS], room: [0.0; CELLS] }
    }
}

/// Returns the first age of a bucket and the number of its ages.
fn span(bucket: usize) -> (f64, f64) {
    match bucket {
        0 => (0.0, 1.0),
        _ => ((1_u64 << (bucket - 1)) as f64, (1_u64 << (bucket - 1)) as f64),
    }
}

impl Model {
    /// Adds the counts of a shard.
    pub(super) fn take_in(&mut self, hit: impl Iterator<Item = u64>, room: impl Iterator<Item = u64>) {
        self.hit.iter_mut().zip(hit).for_each(|(sum, more)| *sum += more as f64);
        self.room.iter_mut().zip(room).for_each(|(sum, more)| *sum += more as f64);
    }

    /// Recomputes the values and decays the counts.
    pub(super) fn publish(&mut self, values: &Values) {
        let rates = self.rates();
        for class in 0..CLASSES {
            let row = &rates[class * BUCKETS..][..BUCKETS];
            for (bucket, value) in gittins(row).into_iter().enumerate() {
                values.0[class * BUCKETS + bucket].store((value as f32).to_bits(), Relaxed);
            }
        }
        self.hit.iter_mut().chain(&mut self.room).for_each(|sum| *sum *= DECAY);
    }

    /// Returns the use rate by cell. The estimate for a rare cell relies on the rate of its bucket over all classes,
    /// times the factor of its class over all buckets.
    fn rates(&self) -> [f64; CELLS] {
        let by_bucket: [f64; BUCKETS] = std::array::from_fn(|bucket| self.bucket_rate(bucket));
        let by_class = self.class_factors(&by_bucket);
        std::array::from_fn(|cell| {
            let (class, bucket) = (cell / BUCKETS, cell % BUCKETS);
            (self.hit[cell] + 1.0) / (self.room[cell] + 1.0 / (by_class[class] * by_bucket[bucket]))
        })
    }

    fn bucket_rate(&self, bucket: usize) -> f64 {
        let (first, ages) = span(bucket);
        let prior = PRIOR_RATE / (first + ages / 2.0);
        let cells = || (0..CLASSES).map(|class| class * BUCKETS + bucket);
        let hits: f64 = cells().map(|cell| self.hit[cell]).sum();
        let room: f64 = cells().map(|cell| self.room[cell]).sum();
        (hits + 1.0) / (room + 1.0 / prior)
    }

    /// Returns the use rate of each class relative to all classes.
    fn class_factors(&self, by_bucket: &[f64; BUCKETS]) -> [f64; CLASSES] {
        let mut factors = [0.0; CLASSES];
        let mut prior = 1.0;
        for (class, factor) in factors.iter_mut().enumerate() {
            let row = class * BUCKETS..(class + 1) * BUCKETS;
            let hits: f64 = self.hit[row.clone()].iter().sum();
            let expected: f64 = self.room[row].iter().zip(by_bucket).map(|(room, rate)| room * rate).sum();
            *factor = (hits + 1.0) / (expected + 1.0 / prior);
            prior = *factor * PRIOR_CLASS;
        }
        factors
    }
}

/// Returns the value of each bucket of a class: the maximum ratio of the probability of a use to the time stayed.
fn gittins(rates: &[f64]) -> [f64; BUCKETS] {
    // By bucket: the probability to pass it unused.
    let passed: [f64; BUCKETS] = std::array::from_fn(|bucket| (-rates[bucket] * span(bucket).1).exp());
    std::array::from_fn(|from| {
        let (mut unused, mut used, mut stayed, mut best) = (1.0, 0.0, 0.0, 0.0_f64);
        for bucket in from..BUCKETS {
            let uses = unused * (1.0 - passed[bucket]);
            used += uses;
            stayed += uses / rates[bucket];
            unused *= passed[bucket];
            best = best.max(used / stayed);
        }
        best
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_rise_with_count_and_age() {
        assert_eq!(cell(0, 0), 0);
        assert_eq!([0, 1, 2, 3, 6, 7, 14, 15].map(|count| cell(count, 0) / BUCKETS), [0, 1, 1, 2, 2, 3, 3, 4]);
        assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(|age| cell(0, age)), [0, 1, 2, 2, 3, BUCKETS - 1]);
    }

    #[test]
    fn before_anything_is_seen_the_older_is_worth_less_and_the_more_used_more() {
        let values = Values::default();
        Model::default().publish(&values);
        for class in 0..CLASSES {
            for bucket in 1..BUCKETS {
                let at = class * BUCKETS + bucket;
                assert!(values.at(at) <= values.at(at - 1), "class {class} bucket {bucket}");
                assert!(class == 0 || values.at(at) > values.at(at - BUCKETS), "class {class} bucket {bucket}");
            }
        }
    }

    #[test]
    fn what_is_used_after_a_pause_keeps_its_value_through_the_pause() {
        let (mut model, values) = (Model::default(), Values::default());
        // Class 0 is used at ages of 512 to 1,023 only.
        model.room.iter_mut().take(BUCKETS).enumerate().for_each(|(bucket, room)| *room = 1_000.0 * span(bucket).1);
        model.hit[10] = 900.0;
        model.publish(&values);
        assert!(values.at(9) > 10.0 * values.at(11), "waiting is worth it before, not after");
        assert!(values.at(10) > values.at(9));
    }

    #[test]
    fn worth_falls_with_one_over_the_root() {
        let class = |bytes: u64| usize::from(crate::l1::slot::size_class(bytes));
        let ratio = per_size()[class(64)] / per_size()[class(6_400)];
        assert!((ratio - 10.0).abs() < 1.0, "{ratio}");
    }
}
