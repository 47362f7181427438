//! How much may be wasted: reads below that nobody needed, as a part of those that somebody did.
//!
//! A slow regulator and not a bucket of tokens: over about 2,048 events the waste is held against the budget, and the
//! probability that is asked of a prediction rises with it. A bucket stops and goes, and spends its tokens on whatever
//! comes first.

/// Events over which waste is looked at.
const SPAN: f32 = 2_048.0;
/// Probability that is asked of any prediction.
const FLOOR: f32 = 0.5;
/// Probability that is asked at the end of the budget.
const CEILING: f32 = 0.98;
/// Part of the budget at which the floor begins to rise, and over how much more it rises to the ceiling.
const RISE_FROM: f32 = 0.7;
const RISE_OVER: f32 = 0.4;
/// Budgets wasted at which nothing is fetched any more.
const STOP_AT: f32 = 1.5;

/// The regulator.
#[derive(Debug)]
pub(super) struct Budget {
    /// Wasted reads per read on demand that are aimed at.
    share: f32,
    wasted: f32,
    needed: f32,
}

impl Budget {
    pub(super) fn new(share: f32) -> Self {
        // As if all had been well for half of the span: the first wasted reads are no catastrophe.
        Self { share: share.max(1e-4), wasted: 0.0, needed: SPAN / 2.0 }
    }

    /// An event that taught something: a read on demand, or one that prefetch saved.
    pub(super) fn event(&mut self) {
        self.wasted *= 1.0 - 1.0 / SPAN;
        self.needed *= 1.0 - 1.0 / SPAN;
        self.needed += 1.0;
    }

    /// Something is fetched that will be used with probability `p`.
    pub(super) fn fetched(&mut self, p: f32) {
        self.wasted += 1.0 - p;
    }

    /// It was used.
    pub(super) fn used(&mut self, p: f32) {
        self.wasted -= 1.0 - p;
    }

    /// It left unused.
    pub(super) fn unused(&mut self, p: f32) {
        self.wasted += p;
    }

    /// Entries were missed that had to make room.
    pub(super) fn displaced(&mut self, misses: u64) {
        // They are reads that would not have been, and they count as needed ones above.
        self.wasted += misses as f32;
        self.needed -= (misses as f32).min(self.needed / 2.0);
    }

    /// The least probability at which something is fetched; above 1 nothing is.
    pub(super) fn floor(&self) -> f32 {
        let ratio = self.wasted.max(0.0) / self.needed.max(1.0) / self.share;
        if ratio > STOP_AT {
            return 2.0;
        }
        FLOOR + (CEILING - FLOOR) * ((ratio - RISE_FROM) / RISE_OVER).clamp(0.0, 1.0)
    }
}
