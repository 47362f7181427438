//! How much may be wasted: reads below that nobody needed, as a part of those that somebody did.
//!
//! A slow regulator and not a bucket of tokens: over about 2,048 events the waste is held against the budget, and the
//! probability that is asked of a prediction follows. A bucket stops and goes, and spends its tokens on whatever comes
//! first. The regulator has two parts. The slow one settles where the budget is just spent, whatever the predictions are
//! like; the quick one adds to it while more is wasted. With the quick one alone the probability swings, fetches what
//! is worth little in one moment and leaves what is worth much in the next (orm-busy at 1 % of keys: 0.353 of the misses are left
//! instead of 0.337, at equal waste).
//!
//! Where next to nothing can be foreseen, nothing is fetched: what little it saves is less than what it may cost to disturb
//! L1 in ways that no count shows.

/// Events over which waste is looked at.
const SPAN: f32 = 2_048.0;
/// Probability that is asked of any prediction.
pub(super) const FLOOR: f32 = 0.5;
/// Probability that is asked at the end of the budget.
const CEILING: f32 = 0.98;
/// How much the slow part moves in an event, while nothing is wasted or twice as much as may be: all the way in some 10,000.
const SLOW_STEP: f32 = 0.5e-4;
/// How much the quick part adds for each budget that is wasted beyond the first.
const QUICK: f32 = 0.5;
/// Budgets wasted at which nothing is fetched any more.
const STOP_AT: f32 = 1.5;
/// What a miss of an entry counts that had to make room: not every one of them is noticed.
const DISPLACED: f32 = 2.0;
/// Events over which it is looked how many were foreseen; the part of them that makes fetching worth while, and how many have to
/// be at least.
const FORESEEN_SPAN: f32 = 8_192.0;
const FORESEEN_PART: f32 = 0.005;
const FORESEEN_MIN: f32 = 8.0;

/// What of it is kept between two lives of a node: the slow part, events, how many of them were foreseen.
pub(super) type KeptBudget = (f32, f32, f32);

/// The regulator.
#[derive(Debug)]
pub(super) struct Budget {
    /// Wasted reads per read on demand that are aimed at.
    share: f32,
    wasted: f32,
    needed: f32,
    /// The slow part.
    settled: f32,
    events: f32,
    foreseen: f32,
}

impl Budget {
    pub(super) fn new(share: f32) -> Self {
        // As if all had been well for half of the span: the first wasted reads are no catastrophe.
        let (share, needed) = (share.max(1e-4), SPAN / 2.0);
        Self { share, wasted: 0.0, needed, settled: FLOOR, events: 0.0, foreseen: 0.0 }
    }

    pub(super) fn kept(&self) -> KeptBudget {
        (self.settled, self.events, self.foreseen)
    }

    /// Takes these back, if they can be such.
    pub(super) fn take(&mut self, (settled, events, foreseen): KeptBudget) -> Option<()> {
        let is_possible = (FLOOR..=CEILING).contains(&settled)
            && (0.0..=FORESEEN_SPAN).contains(&events)
            && (0.0..=events).contains(&foreseen);
        (self.settled, self.events, self.foreseen) = is_possible.then_some((settled, events, foreseen))?;
        Some(())
    }

    /// An event that taught something: a read on demand, or one that prefetch saved. `foreseen`: it was predicted, and
    /// likely enough.
    pub(super) fn event(&mut self, foreseen: bool) {
        self.wasted *= 1.0 - 1.0 / SPAN;
        self.needed *= 1.0 - 1.0 / SPAN;
        self.needed += 1.0;
        self.settled = (self.settled + SLOW_STEP * (self.spent() - 1.0).min(1.0)).clamp(FLOOR, CEILING);
        for (count, more) in [(&mut self.events, true), (&mut self.foreseen, foreseen)] {
            *count = *count * (1.0 - 1.0 / FORESEEN_SPAN) + f32::from(u8::from(more));
        }
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
        self.wasted += misses as f32 * DISPLACED;
        self.needed -= (misses as f32).min(self.needed / 2.0);
    }

    /// What was wasted, in budgets.
    fn spent(&self) -> f32 {
        self.wasted.max(0.0) / self.needed.max(1.0) / self.share
    }

    /// Whether enough is foreseen to make fetching worth while.
    pub(super) fn is_worth_while(&self) -> bool {
        self.foreseen >= (self.events * FORESEEN_PART).max(FORESEEN_MIN)
    }

    /// The least probability at which something is fetched; above 1 nothing is.
    pub(super) fn floor(&self) -> f32 {
        let spent = self.spent();
        if spent > STOP_AT || !self.is_worth_while() {
            return 2.0;
        }
        (self.settled + QUICK * (spent - 1.0).max(0.0)).min(CEILING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Predictions of this probability, at each event, for so many events; the part of events that was wasted.
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
    fn the_budget_is_spent_and_not_exceeded_whatever_predictions_are_like() {
        for (name, p) in [("all alike", (|_| 0.7) as fn(f32) -> f32), ("all kinds", |x| 0.5 + x / 2.0)] {
            let (mut budget, mut rng) = (Budget::new(0.05), fastrand::Rng::with_seed(1));
            wasted(&mut budget, &mut rng, p, 30_000);
            let settled = wasted(&mut budget, &mut rng, p, 100_000);
            assert!((0.043..0.054).contains(&settled), "{name}: {settled}");
        }
    }

    #[test]
    fn where_next_to_nothing_is_foreseen_nothing_is_fetched() {
        let mut budget = Budget::new(0.05);
        (0..50_000).for_each(|event: u32| budget.event(event.is_multiple_of(500)));
        assert!(budget.floor() > 1.0);
        (0..500).for_each(|_| budget.event(true));
        assert!(budget.floor() < 1.0);
        // And it is not long until it is known that there is something.
        let mut young = Budget::new(0.05);
        (0..=FORESEEN_MIN as u32).for_each(|_| young.event(true));
        assert!(young.floor() < 1.0);
    }
}
