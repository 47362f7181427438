//! Limits wasted L2 reads: prefetched keys that were not needed, as a share of the reads that were.
//!
//! This is a slow regulator, not a token bucket: it compares the waste of about 2,048 events with the budget, and sets the
//! minimum probability of a prediction accordingly. A token bucket alternates between stop and go, and spends its tokens on
//! whatever comes first. The regulator has two parts. The slow part settles where the budget is just spent, whatever the
//! predictions are; the quick part is added while more is wasted. With the quick part alone the minimum oscillates: it
//! fetches keys of little value at one time and skips valuable keys at the next (orm-busy at 1 % of keys: 0.353 of the
//! misses remain instead of 0.337, at equal waste).
//!
//! Where almost nothing can be predicted, nothing is fetched: the few reads that prefetch saves are worth less than the
//! disturbance of L1, which no count shows.

/// Events over which waste is measured.
const SPAN: f32 = 2_048.0;
/// Minimum probability of a prediction while nothing is wasted.
pub(super) const FLOOR: f32 = 0.5;
/// Highest minimum probability that the regulator sets.
const CEILING: f32 = 0.98;
/// Step of the slow part for one event while nothing, or twice the budget, is wasted: the full range takes about 10,000 events.
const SLOW_STEP: f32 = 0.5e-4;
/// Addition of the quick part for each budget that is wasted beyond the first.
const QUICK: f32 = 0.5;
/// Wasted budgets above which nothing is fetched.
const STOP_AT: f32 = 1.5;
/// Weight of a miss of an entry that was evicted in favor of a prefetched one: not all such misses are detected.
const DISPLACED_WEIGHT: f32 = 2.0;
/// Events over which predicted events are counted; the part and the number of them that make prefetch worthwhile.
const PREDICTED_SPAN: f32 = 8_192.0;
const PREDICTED_PART: f32 = 0.005;
const PREDICTED_MIN: f32 = 8.0;

/// Snapshot row: the slow part, events, predicted events.
pub(in crate::learn) type BudgetRow = (f32, f32, f32);

/// The regulator.
#[derive(Debug)]
pub(in crate::learn) struct Budget {
    /// Target: wasted reads for each read on demand.
    share: f32,
    wasted: f32,
    needed: f32,
    /// The slow part.
    settled: f32,
    events: f32,
    predicted: f32,
}

impl Budget {
    pub(super) fn new(share: f32) -> Self {
        // Start as if nothing had been wasted for half of the span, so that the first wasted reads do not stop prefetch.
        let (share, needed) = (share.max(1e-4), SPAN / 2.0);
        Self { share, wasted: 0.0, needed, settled: FLOOR, events: 0.0, predicted: 0.0 }
    }

    pub(in crate::learn) fn row(&self) -> BudgetRow {
        (self.settled, self.events, self.predicted)
    }

    /// Restores a snapshot row; `None` if its values are out of range.
    pub(in crate::learn) fn restore(&mut self, (settled, events, predicted): BudgetRow) -> Option<()> {
        let is_possible = (FLOOR..=CEILING).contains(&settled)
            && (0.0..=PREDICTED_SPAN).contains(&events)
            && (0.0..=events).contains(&predicted);
        (self.settled, self.events, self.predicted) = is_possible.then_some((settled, events, predicted))?;
        Some(())
    }

    /// Notes a read on demand, or a read that prefetch saved. `predicted`: it was predicted with sufficient probability.
    pub(super) fn event(&mut self, predicted: bool) {
        self.wasted *= 1.0 - 1.0 / SPAN;
        self.needed *= 1.0 - 1.0 / SPAN;
        self.needed += 1.0;
        self.settled = (self.settled + SLOW_STEP * (self.spent() - 1.0).min(1.0)).clamp(FLOOR, CEILING);
        for (count, more) in [(&mut self.events, true), (&mut self.predicted, predicted)] {
            *count = *count * (1.0 - 1.0 / PREDICTED_SPAN) + f32::from(u8::from(more));
        }
    }

    /// Notes that a key is fetched that will be used with probability `p`.
    pub(super) fn fetched(&mut self, p: f32) {
        self.wasted += 1.0 - p;
    }

    /// Notes that a fetched key was used.
    pub(super) fn used(&mut self, p: f32) {
        self.wasted -= 1.0 - p;
    }

    /// Notes that a fetched key left L1 unused.
    pub(super) fn unused(&mut self, p: f32) {
        self.wasted += p;
    }

    /// Notes misses of entries that were evicted in favor of prefetched ones.
    pub(super) fn displaced(&mut self, misses: u64) {
        // Without prefetch these reads would not exist; `event` counts them as needed.
        self.wasted += misses as f32 * DISPLACED_WEIGHT;
        self.needed -= (misses as f32).min(self.needed / 2.0);
    }

    /// Returns the waste as a multiple of the budget.
    fn spent(&self) -> f32 {
        self.wasted.max(0.0) / self.needed.max(1.0) / self.share
    }

    /// Returns whether enough events are predicted to make prefetch worthwhile.
    pub(super) fn is_worthwhile(&self) -> bool {
        self.predicted >= (self.events * PREDICTED_PART).max(PREDICTED_MIN)
    }

    /// Returns the minimum probability at which a key is fetched; above 1, nothing is fetched.
    pub(super) fn floor(&self) -> f32 {
        let spent = self.spent();
        if spent > STOP_AT || !self.is_worthwhile() {
            return 2.0;
        }
        (self.settled + QUICK * (spent - 1.0).max(0.0)).min(CEILING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a prediction of this probability at each of `events` events. Returns the wasted fetches per event.
    fn wasted(budget: &mut Budget, rng: &mut fastrand::Rng, p: impl Fn(f32) -> f32, events: u32) -> f32 {
        let mut wasted = 0;
        for _ in 0..events {
            budget.event(true);
            let p = p(rng.f32());
            if p < budget.floor() {
                continue;
            }
            budget.fetched(p);
            if rng.f32() < p {
                budget.used(p);
            } else {
                wasted += 1;
                budget.unused(p);
            }
        }
        wasted as f32 / events as f32
    }

    #[test]
    fn the_budget_is_spent_and_not_exceeded_for_any_predictions() {
        for (name, p) in [("all alike", (|_| 0.7) as fn(f32) -> f32), ("all kinds", |x| 0.5 + x / 2.0)] {
            let (mut budget, mut rng) = (Budget::new(0.05), fastrand::Rng::with_seed(1));
            wasted(&mut budget, &mut rng, p, 30_000);
            let settled = wasted(&mut budget, &mut rng, p, 100_000);
            assert!((0.043..0.054).contains(&settled), "{name}: {settled}");
        }
    }

    #[test]
    fn nothing_is_fetched_where_almost_nothing_is_predicted() {
        let mut budget = Budget::new(0.05);
        (0..50_000).for_each(|event: u32| budget.event(event.is_multiple_of(500)));
        assert!(budget.floor() > 1.0);
        (0..500).for_each(|_| budget.event(true));
        assert!(budget.floor() < 1.0);
        // A new regulator soon finds out that prefetch is worthwhile.
        let mut young = Budget::new(0.05);
        (0..=PREDICTED_MIN as u32).for_each(|_| young.event(true));
        assert!(young.floor() < 1.0);
    }
}
