//! Whether prefetch pays, measured while it works: a sampled shadow directory.
//!
//! Of all keys one in 16, by hash, is *without*: where it would be fetched this is only noted, and it takes its place among
//! the fetches of that event all the same. Another one in 16 is *with*: it is fetched as all others are, and noted.
//!
//! **What is compared** are decisions to fetch: the same predictions, the same floor and bounds, over the same time, of keys
//! that chance has dealt out. A decision is open until its key is asked for, or for as long as predictions wait to come true;
//! while one is open, none is opened for its key. Of either set those are counted after which the key was *missed*. Nothing is
//! modelled: a fetch that came late, or was dropped before its use, is a miss of *with*; a key that nobody wanted is a miss of neither.
//! To compare all misses of the one set with all of the other would say the same with far more noise, because most have
//! nothing to do with prefetch and a few keys make many.
//!
//! **The gain** is the part of misses that prefetch has spared: the difference of the two rates, for each key fetched, less
//! the misses of entries that had to make room (`Staged::displaced`), held against the misses that would have been. What
//! it costs to know: one fetch in 16 is not made.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::{FETCHES_MAX, HORIZON_MAX};

/// Of so many keys one is in each set.
pub const ONE_IN: u64 = 16;
/// Decisions that are open at most: all that can be.
const OPEN_MAX: usize = HORIZON_MAX as usize * FETCHES_MAX;
/// Decisions of each set before a gain is told.
const DECIDED_MIN: u64 = 50;

/// Which set a key is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    Without,
    With,
}

/// Decisions of one set since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decisions {
    /// To fetch a key of the set.
    pub decided: u64,
    /// After which the key was missed.
    pub missed: u64,
}

impl Decisions {
    fn rate(self) -> f64 {
        self.missed as f64 / self.decided.max(1) as f64
    }

    /// Variance of the rate; one right and one wrong are added, so that few decisions never look certain.
    fn variance(self) -> f64 {
        let (missed, decided) = (self.missed as f64 + 1.0, self.decided as f64 + 2.0);
        let rate = missed / decided;
        rate * (1.0 - rate) / decided
    }
}

/// What was found, since start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Evidence {
    /// Of keys that are not fetched.
    pub without: Decisions,
    /// Of keys that are.
    pub with: Decisions,
    /// The part of misses that prefetch has spared, and one standard deviation of it; `None` before enough is known.
    pub gain: Option<(f64, f64)>,
}

/// The decisions that are watched.
#[derive(Debug, Default)]
pub(super) struct Control {
    is_on: bool,
    /// When each was made.
    open: HashMap<u64, u64, foldhash::fast::FixedState>,
    order: VecDeque<(u64, u64)>,
    without: Decisions,
    with: Decisions,
}

impl Control {
    pub(super) fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    /// The set of a key, if it is in one.
    pub(super) fn set_of(&self, hash: u64) -> Option<Set> {
        match hash >> (64 - ONE_IN.trailing_zeros()) {
            0 if self.is_on => Some(Set::Without),
            1 if self.is_on => Some(Set::With),
            _ => None,
        }
    }

    /// Whether a decision about a key is open: one that is not fetched is then as if on its way.
    pub(super) fn is_open(&self, hash: u64) -> bool {
        self.open.contains_key(&hash)
    }

    fn of(&mut self, hash: u64) -> &mut Decisions {
        if self.set_of(hash) == Some(Set::Without) { &mut self.without } else { &mut self.with }
    }

    /// A key of a set is to be fetched.
    pub(super) fn decide(&mut self, hash: u64, event: u64) {
        if self.open.len() < OPEN_MAX && !self.open.contains_key(&hash) {
            self.open.insert(hash, event);
            self.order.push_back((hash, event));
            self.of(hash).decided += 1;
        }
    }

    /// A key is asked for.
    pub(super) fn asked(&mut self, hash: u64, is_missed: bool) {
        if self.open.remove(&hash).is_some() && is_missed {
            self.of(hash).missed += 1;
        }
    }

    /// Decisions made more than `horizon` events ago are over.
    pub(super) fn expire(&mut self, event: u64, horizon: u64) {
        while let Some(&(hash, made)) = self.order.front().filter(|(_, made)| made + horizon < event) {
            self.order.pop_front();
            // Not a later one of the same key.
            if self.open.get(&hash) == Some(&made) {
                self.open.remove(&hash);
            }
        }
    }

    /// What was found, where `fetched` keys were fetched, `missed` reads missed, `displaced` of these because of prefetch.
    pub(super) fn evidence(&self, fetched: u64, missed: u64, displaced: u64) -> Evidence {
        let Self { without, with, .. } = *self;
        let is_enough = without.decided.min(with.decided) >= DECIDED_MIN;
        let spared = fetched as f64 * (without.rate() - with.rate()) - displaced as f64;
        // Prefetch that does harm has spared less than nothing.
        let would_be = (missed as f64 + spared).max(1.0);
        let deviation = fetched as f64 * (without.variance() + with.variance()).sqrt();
        let gain = is_enough.then_some((spared / would_be, deviation / would_be));
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
    fn a_decision_ends_with_the_demand_or_with_its_time() {
        let mut control = control();
        assert_eq!((control.set_of(WITHOUT), control.set_of(WITH)), (Some(Set::Without), Some(Set::With)));
        assert_eq!((control.set_of(2 << 60), Control::default().set_of(WITHOUT)), (None, None));
        control.decide(WITHOUT, 10);
        control.decide(WITHOUT, 11);
        assert!(control.is_open(WITHOUT));
        control.asked(WITHOUT, true);
        control.asked(WITHOUT, true);
        assert_eq!(control.without, Decisions { decided: 1, missed: 1 }, "once");
        control.decide(WITHOUT, 20);
        control.expire(110, 99);
        assert!(control.is_open(WITHOUT), "the former one's time is not its own");
        control.expire(120, 99);
        control.asked(WITHOUT, true);
        assert_eq!(control.without, Decisions { decided: 2, missed: 1 });
        control.decide(WITH, 130);
        control.asked(WITH, false);
        assert_eq!((control.with, control.order.len()), (Decisions { decided: 1, missed: 0 }, 1));
    }

    #[test]
    fn the_gain_is_what_was_spared_of_what_would_have_been() {
        let (without, with) = (Decisions { decided: 1_000, missed: 900 }, Decisions { decided: 1_000, missed: 100 });
        let found = Control { without, with, ..control() }.evidence(10_000, 12_000, 0).gain;
        let (gain, deviation) = found.expect("enough");
        assert!((gain - 0.4).abs() < 1e-9, "8,000 spared of 20,000: {gain}");
        assert!(deviation > 0.001 && deviation < 0.02, "{deviation}");
        let harmful = Control { without: with, with, ..control() }.evidence(10_000, 12_000, 600).gain;
        assert!(harmful.expect("enough").0 < 0.0);
        let few = Decisions { decided: 10, missed: 10 };
        assert_eq!(Control { without: few, with, ..control() }.evidence(10, 10, 0).gain, None);
    }
}
