//! Measures the gain of prefetch while it runs, with a control group of keys (a sampled shadow directory).
//!
//! By hash, 1 key in 16 is in the set *without*: a decision to fetch such a key is only noted, although it takes one of the
//! fetches of its event. Another 1 key in 16 is in the set *with*: it is fetched like any other key, and the decision is noted.
//!
//! **Decisions to fetch are compared**: both sets have the same predictions, the same limits and the same period, and
//! keys are assigned at random. A decision is open until its key is requested, or until predictions expire; while it is
//! open, no other decision is opened for its key. In each set, the decisions after which the key was *missed* are counted.
//! Nothing is modeled: a fetch that arrived late, or that left L1 before its use, is a miss of *with*; a key that was never
//! requested is a miss of neither set. Comparing all misses of the two sets would give the same result with far more noise,
//! because most misses are unrelated to prefetch and a few keys cause many of them.
//!
//! **The gain** is the part of misses that prefetch has avoided: the difference of the two miss rates for each fetched key,
//! minus the misses of entries that were evicted for prefetched ones (`Staged::displaced`), divided by the misses without
//! prefetch. The measurement costs 1 fetch in 16.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::{candidate::FETCHES_MAX, shadow::HORIZON_MAX};

/// Each set has 1 key in this many.
const ONE_IN: u64 = 16;
/// Maximum number of decisions of the prefetch control experiment without a known outcome.
const OPEN_MAX: usize = HORIZON_MAX as usize * FETCHES_MAX;
/// Decisions of each set before a gain is reported.
const DECIDED_MIN: u64 = 50;

/// The set that a key is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ControlSet {
    Without,
    With,
}

/// Decisions of one set since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Decisions to fetch a key of the set.
    pub decided: u64,
    /// Decisions after which the key was missed.
    pub missed: u64,
}

impl Decisions {
    fn rate(self) -> f64 {
        self.missed as f64 / self.decided.max(1) as f64
    }

    /// Returns the variance of the rate. One miss and one hit are added, so that few decisions never look certain.
    fn variance(self) -> f64 {
        let (missed, decided) = (self.missed as f64 + 1.0, self.decided as f64 + 2.0);
        let rate = missed / decided;
        rate * (1.0 - rate) / decided
    }
}

/// The measured gain since start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Evidence {
    /// Decisions on keys that are not fetched.
    pub without: Decisions,
    /// Decisions on keys that are fetched.
    pub with: Decisions,
    /// Part of misses that prefetch has avoided, and its standard deviation; `None` while too few decisions are known.
    pub gain: Option<(f64, f64)>,
}

/// The open decisions and the counts of both sets.
#[derive(Debug, Default)]
pub(super) struct Control {
    is_on: bool,
    /// Event of each open decision, by key hash.
    open: HashMap<u64, u64, foldhash::fast::FixedState>,
    order: VecDeque<(u64, u64)>,
    without: Decisions,
    with: Decisions,
}

impl Control {
    pub(super) fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    /// Returns the set of a key; `None` for most keys, and while the control is off.
    pub(super) fn set_of(&self, hash: u64) -> Option<ControlSet> {
        match hash >> (64 - ONE_IN.trailing_zeros()) {
            0 if self.is_on => Some(ControlSet::Without),
            1 if self.is_on => Some(ControlSet::With),
            _ => None,
        }
    }

    /// Returns whether a decision on a key is open: a key that is not fetched then counts as in flight.
    pub(super) fn is_open(&self, hash: u64) -> bool {
        self.open.contains_key(&hash)
    }

    fn decisions_of(&mut self, hash: u64) -> &mut Decisions {
        if self.set_of(hash) == Some(ControlSet::Without) { &mut self.without } else { &mut self.with }
    }

    /// Opens a decision to fetch a key of a set.
    pub(super) fn decide(&mut self, hash: u64, event: u64) {
        if self.open.len() < OPEN_MAX && !self.open.contains_key(&hash) {
            self.open.insert(hash, event);
            self.order.push_back((hash, event));
            self.decisions_of(hash).decided += 1;
        }
    }

    /// Closes the decision on a key that is requested.
    pub(super) fn settle(&mut self, hash: u64, is_missed: bool) {
        if self.open.remove(&hash).is_some() && is_missed {
            self.decisions_of(hash).missed += 1;
        }
    }

    /// Closes the decisions made more than `horizon` events ago.
    pub(super) fn expire(&mut self, event: u64, horizon: u64) {
        while let Some(&(hash, made)) = self.order.front().filter(|(_, made)| made + horizon < event) {
            self.order.pop_front();
            // A later decision on the same key stays open.
            if self.open.get(&hash) == Some(&made) {
                self.open.remove(&hash);
            }
        }
    }

    /// Returns the gain after `fetched` fetches and `missed` misses, `displaced` of which were caused by prefetch.
    pub(super) fn evidence(&self, fetched: u64, missed: u64, displaced: u64) -> Evidence {
        let Self { without, with, .. } = *self;
        let is_enough = without.decided.min(with.decided) >= DECIDED_MIN;
        let avoided = fetched as f64 * (without.rate() - with.rate()) - displaced as f64;
        // The number is negative if prefetch does harm.
        let would_be = (missed as f64 + avoided).max(1.0);
        let deviation = fetched as f64 * (without.variance() + with.variance()).sqrt();
        let gain = is_enough.then_some((avoided / would_be, deviation / would_be));
        Evidence { without, with, gain }
    }

    pub(super) fn bytes(&self) -> usize {
        self.open.allocation_size() + self.order.capacity() * size_of::<(u64, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHOUT: u64 = 7;
    const WITH: u64 = 1 << 60 | 7;

    fn control() -> Control {
        Control::new(true)
    }

    #[test]
    fn a_decision_ends_with_the_request_or_with_the_horizon() {
        let mut control = control();
        assert_eq!(
            (control.set_of(WITHOUT), control.set_of(WITH)),
            (Some(ControlSet::Without), Some(ControlSet::With))
        );
        assert_eq!((control.set_of(2 << 60), Control::default().set_of(WITHOUT)), (None, None));
        control.decide(WITHOUT, 10);
        control.decide(WITHOUT, 11);
        assert!(control.is_open(WITHOUT));
        control.settle(WITHOUT, true);
        control.settle(WITHOUT, true);
        assert_eq!(control.without, Decisions { decided: 1, missed: 1 }, "once");
        control.decide(WITHOUT, 20);
        control.expire(110, 99);
        assert!(control.is_open(WITHOUT), "the horizon of the previous decision does not apply");
        control.expire(120, 99);
        control.settle(WITHOUT, true);
        assert_eq!(control.without, Decisions { decided: 2, missed: 1 });
        control.decide(WITH, 130);
        control.settle(WITH, false);
        assert_eq!((control.with, control.order.len()), (Decisions { decided: 1, missed: 0 }, 1));
    }

    #[test]
    fn the_gain_is_the_avoided_part_of_misses_without_prefetch() {
        let (without, with) = (Decisions { decided: 1_000, missed: 900 }, Decisions { decided: 1_000, missed: 100 });
        let found = Control { without, with, ..control() }.evidence(10_000, 12_000, 0).gain;
        let (gain, deviation) = found.expect("enough");
        assert!((gain - 0.4).abs() < 1e-9, "8,000 avoided of 20,000: {gain}");
        assert!(deviation > 0.001 && deviation < 0.02, "{deviation}");
        let harmful = Control { without: with, with, ..control() }.evidence(10_000, 12_000, 600).gain;
        assert!(harmful.expect("enough").0 < 0.0);
        let few = Decisions { decided: 10, missed: 10 };
        assert_eq!(Control { without: few, with, ..control() }.evidence(10, 10, 0).gain, None);
    }
}
