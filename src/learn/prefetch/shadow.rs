//! Predictions that were not fetched, and whether they came true.
//!
//! All predictions wait for the same number of events, so they are kept in a ring. Predictions of one key are chained, so
//! that a read of the key settles them without a search.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::{budget::FLOOR, candidate::PredictionSource};

/// Maximum number of predictions without a known outcome in shadow mode (2 MB).
const WAITING_MAX: usize = 32_768;
/// The horizon, as a part of L1's entries.
const HORIZON_PART: u64 = 5;
/// Shortest and longest horizon, in events.
const HORIZON_MIN: u64 = 64;
pub(super) const HORIZON_MAX: u64 = 8_192;

/// Returns how many events a prediction waits to come true while L1 has room for this many entries.
pub(super) fn horizon(room: u64) -> u64 {
    (room / HORIZON_PART).clamp(HORIZON_MIN, HORIZON_MAX)
}

struct ShadowPrediction {
    hash: u64,
    source: PredictionSource,
    /// The prediction would have been fetched, had the budget allowed it.
    is_likely: bool,
    /// Event at which it was made.
    event: u64,
    /// Number of the previous prediction of the same key.
    before: Option<u64>,
    settled: bool,
}

/// The ring of waiting predictions.
#[derive(Default)]
pub(super) struct Shadow {
    waiting: VecDeque<ShadowPrediction>,
    /// Number of the oldest prediction.
    first: u64,
    /// Number of the last prediction of each key.
    last: HashMap<u64, u64, foldhash::fast::FixedState>,
}

impl Shadow {
    /// Adds a prediction that was not fetched. Calls `wrong` with the source of a prediction that makes room for it.
    pub(super) fn add(
        &mut self,
        hash: u64,
        (source, p): (PredictionSource, f32),
        event: u64,
        wrong: impl FnMut(PredictionSource),
    ) {
        if self.waiting.len() >= WAITING_MAX {
            self.drop_first(wrong);
        }
        let number = self.first + self.waiting.len() as u64;
        let before = self.last.insert(hash, number);
        self.waiting.push_back(ShadowPrediction { hash, source, is_likely: p >= FLOOR, event, before, settled: false });
    }

    /// Settles all predictions of a key that was read: calls `right` with the source of each. Returns whether one of them
    /// was likely.
    pub(super) fn settle(&mut self, hash: u64, mut right: impl FnMut(PredictionSource)) -> bool {
        let mut was_likely = false;
        let mut next = self.last.remove(&hash);
        while let Some(number) = next.filter(|&number| number >= self.first) {
            let Some(waiting) = self.waiting.get_mut((number - self.first) as usize) else { break };
            waiting.settled = true;
            was_likely |= waiting.is_likely;
            right(waiting.source);
            next = waiting.before;
        }
        was_likely
    }

    /// Drops predictions made more than `horizon` events ago and calls `wrong` with the source of each that did not come true.
    pub(super) fn expire(&mut self, event: u64, horizon: u64, mut wrong: impl FnMut(PredictionSource)) {
        while self.waiting.front().is_some_and(|first| first.event + horizon < event) {
            self.drop_first(&mut wrong);
        }
    }

    fn drop_first(&mut self, mut wrong: impl FnMut(PredictionSource)) {
        let Some(first) = self.waiting.pop_front() else { return };
        if !first.settled {
            wrong(first.source);
            if self.last.get(&first.hash) == Some(&self.first) {
                self.last.remove(&first.hash);
            }
        }
        self.first += 1;
    }

    pub(super) fn bytes(&self) -> usize {
        self.waiting.capacity() * size_of::<ShadowPrediction>() + self.last.allocation_size()
    }
}
