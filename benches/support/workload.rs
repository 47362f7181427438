//! Workload of the L1 benchmarks.

use fastrand::Rng;

/// Draws ranks; the n-th rank is drawn in proportion to 1 / n^skew.
pub(crate) struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(ranks: usize, skew: f64) -> Self {
        let weights = (1..=ranks).map(|rank| (rank as f64).powf(-skew));
        let cumulated = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { cumulated: cumulated.collect() }
    }

    pub(crate) fn draw(&self, rng: &mut Rng) -> usize {
        let whole = self.cumulated.last().copied().unwrap_or(1.0);
        let point = rng.f64() * whole;
        self.cumulated.partition_point(|&sum| sum < point).min(self.cumulated.len() - 1)
    }
}

/// Returns a 16-byte key that does not reveal the order of its rank.
pub(crate) fn key(rank: usize) -> [u8; 16] {
    let mixed = (rank as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mixed.to_be_bytes());
    key[8..].copy_from_slice(&(rank as u64).to_le_bytes());
    key
}
