//! [`LoadFigures`]: loads of a key group, and the origin time that its hits saved.
//!
//! A hit saves one load from the origin. It is worth the mean duration of the group's loads when it is counted, so the
//! sum never decreases, although the mean does. Hits are counted at every record of the windows and in every snapshot.

use std::time::Duration;

use parking_lot::Mutex;

use super::Tally;
use crate::cache::{Core, GroupLoads, LoadOutcome};

/// Outcomes that count started loads.
const STARTED: [LoadOutcome; 6] = [
    LoadOutcome::Miss,
    LoadOutcome::Stale,
    LoadOutcome::Early,
    LoadOutcome::Forced,
    LoadOutcome::Takeover,
    LoadOutcome::Unfenced,
];

/// Loads of a key group, or of all groups, since start.
#[derive(Debug, Clone, Default)]
pub struct LoadFigures {
    /// Counts by outcome, and durations.
    pub loads: GroupLoads,
    /// Time that the origin would have needed for the hits.
    pub saved: Duration,
}

impl LoadFigures {
    /// Returns the number of loads that were started: all grants.
    #[must_use]
    pub fn started(&self) -> u64 {
        STARTED.iter().map(|outcome| self.loads.of(*outcome)).sum()
    }

    /// Adds the figures of another group.
    pub(super) fn add(&mut self, other: &Self) {
        for (to, from) in self.loads.outcomes.iter_mut().zip(&other.loads.outcomes) {
            *to += from;
        }
        self.loads.durations.add(&other.loads.durations);
        self.saved = self.saved.saturating_add(other.saved);
    }
}

/// The saved time of each key group, by number.
#[derive(Debug, Default)]
pub(super) struct SavedTimes {
    groups: Mutex<Vec<Credit>>,
}

/// Hits that were counted, and what they were worth.
#[derive(Debug, Clone, Copy, Default)]
struct Credit {
    hits: u64,
    saved: Duration,
}

impl SavedTimes {
    /// Counts the hits of a group up to `hits`, its number of hits since start. Returns the saved time. Without a mean
    /// duration, the hits are counted later.
    fn advance(&self, group: u8, hits: u64, mean: Option<Duration>) -> Duration {
        let (at, mut groups) = (usize::from(group), self.groups.lock());
        if groups.len() <= at {
            groups.resize(at + 1, Credit::default());
        }
        let Some(credit) = groups.get_mut(at) else { return Duration::ZERO };
        if let Some(mean) = mean {
            let new = u32::try_from(hits.saturating_sub(credit.hits)).unwrap_or(u32::MAX);
            credit.hits = credit.hits.saturating_add(u64::from(new));
            credit.saved = credit.saved.saturating_add(mean.saturating_mul(new));
        }
        credit.saved
    }
}

impl Core {
    /// Returns the figures of each group that has loads, with its number. `tallies` are the counts since start.
    pub(super) fn load_figures(&self, tallies: &[Tally]) -> Vec<(u8, LoadFigures)> {
        let figures = |(number, loads): (u8, GroupLoads)| {
            let reads = tallies.get(usize::from(number)).map(|tally| tally.reads).unwrap_or_default();
            let saved = self.stats.saved.advance(number, reads.hits(), loads.mean());
            (number, LoadFigures { loads, saved })
        };
        self.loads.times.figures().into_iter().map(figures).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_counts_once_with_the_mean_of_its_time() {
        let (saved, ms) = (SavedTimes::default(), |ms| Some(Duration::from_millis(ms)));
        assert_eq!(saved.advance(3, 100, None), Duration::ZERO, "no load is known");
        assert_eq!(saved.advance(3, 110, ms(20)), Duration::from_millis(2_200), "earlier hits count too");
        assert_eq!(saved.advance(3, 110, ms(5)), Duration::from_millis(2_200), "a faster origin takes nothing back");
        assert_eq!(saved.advance(3, 112, ms(5)), Duration::from_millis(2_210));
        assert_eq!(saved.advance(3, 90, ms(5)), Duration::from_millis(2_210), "an older count of hits");
        assert_eq!(saved.advance(0, 1, ms(7)), Duration::from_millis(7), "groups are independent");
        let many = 3 * u64::from(u32::MAX);
        for _ in 0..4 {
            saved.advance(1, many, ms(1));
        }
        assert_eq!(saved.advance(1, many, ms(1)), Duration::from_millis(many));
    }

    #[test]
    fn figures_of_groups_add_up() {
        let mut sum = LoadFigures::default();
        for (outcome, count) in [(LoadOutcome::Miss, 3), (LoadOutcome::Unfenced, 2), (LoadOutcome::Stored, 4)] {
            let mut one = LoadFigures { saved: Duration::from_secs(count), ..LoadFigures::default() };
            one.loads.outcomes[outcome as usize] = count;
            sum.add(&one);
        }
        assert_eq!((sum.started(), sum.loads.of(LoadOutcome::Stored), sum.saved.as_secs()), (5, 4, 9));
    }
}
