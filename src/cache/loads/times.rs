//! [`LoadTimes`]: counts and durations of loads, by key group.

use std::{
    collections::VecDeque,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    cache::stats::{
        groups::GROUPS_MAX,
        histogram::{Histogram, Latency},
    },
    clock::Tick,
};

/// Exclusive time of a lease while the duration of loads is unknown.
const LEASE_UNKNOWN: Duration = Duration::from_secs(10);
/// Limits of the learned exclusive time.
const LEASE_RANGE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// The learned exclusive time as a multiple of the 99th percentile of the duration of loads.
const LEASE_OF_P99: u32 = 4;
/// Number of loads from which their duration is known.
const KNOWN_MIN: u64 = 8;
/// Maximum number of early refreshes of a key group in progress.
const REFRESHES_MAX: usize = 64;
/// Number of loads after which older durations lose half of their weight.
const HALVE_AFTER: u64 = 1_024;

/// Outcome of a request for a lease, or of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOutcome {
    /// A lease was granted after a miss.
    Miss,
    /// A lease was granted for a value that needs a refresh.
    Stale,
    /// A lease was granted before the value needed a refresh.
    Early,
    /// A lease was granted because the client requested a refresh.
    Forced,
    /// A lease was granted because the exclusive time of another client ended.
    Takeover,
    /// A grant that cannot be fenced: the client loads, and nothing is stored.
    Unfenced,
    /// The caller received the value that another client loaded.
    Waited,
    /// Another client loads, and the waiting time of the caller ended.
    Busy,
    /// The caller learned that the origin does not have the key.
    Absent,
    /// The caller learned that the last load failed.
    Failed,
    /// A fill was stored.
    Stored,
    /// A fill was not stored: the lease was lost.
    LeaseLost,
    /// A fill was not stored: the key was changed.
    Changed,
    /// A fill was not stored: the key was invalidated.
    Invalidated,
    /// A client reported that its load failed.
    LoadFailed,
    /// A client released its lease without a load.
    Released,
}

impl LoadOutcome {
    /// All outcomes.
    pub const ALL: [Self; 16] = [
        Self::Miss,
        Self::Stale,
        Self::Early,
        Self::Forced,
        Self::Takeover,
        Self::Unfenced,
        Self::Waited,
        Self::Busy,
        Self::Absent,
        Self::Failed,
        Self::Stored,
        Self::LeaseLost,
        Self::Changed,
        Self::Invalidated,
        Self::LoadFailed,
        Self::Released,
    ];

    /// Returns the name in metrics and statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Miss => "granted_miss",
            Self::Stale => "granted_stale",
            Self::Early => "granted_early",
            Self::Forced => "granted_forced",
            Self::Takeover => "granted_takeover",
            Self::Unfenced => "granted_unfenced",
            Self::Waited => "waited",
            Self::Busy => "busy",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Stored => "stored",
            Self::LeaseLost => "lease_lost",
            Self::Changed => "changed",
            Self::Invalidated => "invalidated",
            Self::LoadFailed => "load_failed",
            Self::Released => "released",
        }
    }
}

/// Figures of the loads of one key group.
#[derive(Debug, Clone, Default)]
pub struct GroupLoads {
    /// Number of events, in the order of [`LoadOutcome::ALL`].
    pub outcomes: [u64; LoadOutcome::ALL.len()],
    /// Durations from the grant to the stored fill.
    pub durations: Latency,
}

impl GroupLoads {
    /// Returns the number of events with this outcome.
    #[must_use]
    pub fn of(&self, outcome: LoadOutcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Returns the mean duration of loads; `None` before the first load.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let count = self.durations.count();
        (count > 0).then(|| Duration::from_micros(self.durations.sum_us / count))
    }
}

/// Counts and durations of loads.
#[derive(Debug)]
pub(crate) struct LoadTimes {
    groups: Box<[OnceLock<Box<Group>>]>,
}

#[derive(Debug, Default)]
struct Group {
    outcomes: [AtomicU64; LoadOutcome::ALL.len()],
    durations: Histogram,
    recent: Recent,
    /// Ends of the leases of early refreshes in progress, oldest first.
    refreshes: Mutex<VecDeque<Tick>>,
}

/// Recent durations, from which leases and early refreshes are computed.
#[derive(Debug, Default)]
struct Recent {
    durations: Histogram,
    count: AtomicU64,
    mean_us: AtomicU64,
    p99_us: AtomicU64,
}

impl Default for LoadTimes {
    fn default() -> Self {
        Self { groups: (0..GROUPS_MAX).map(|_| OnceLock::new()).collect() }
    }
}

impl LoadTimes {
    fn group(&self, group: u8) -> &Group {
        self.groups[usize::from(group)].get_or_init(Box::default)
    }

    /// Counts an event.
    pub(super) fn count(&self, group: u8, outcome: LoadOutcome) {
        self.group(group).outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Records the duration of a load.
    pub(super) fn record(&self, group: u8, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let group = self.group(group);
        group.durations.record_us(us);
        group.recent.record_us(us);
    }

    /// Returns the exclusive time for a lease of this group.
    pub(super) fn lease(&self, group: u8) -> Duration {
        match self.known(group) {
            Some(recent) => {
                let p99 = Duration::from_micros(recent.p99_us.load(Relaxed));
                p99.saturating_mul(LEASE_OF_P99).clamp(LEASE_RANGE.0, LEASE_RANGE.1)
            }
            None => LEASE_UNKNOWN,
        }
    }

    /// Returns the mean duration of recent loads of this group, if it is known.
    pub(super) fn mean(&self, group: u8) -> Option<Duration> {
        self.known(group).map(|recent| Duration::from_micros(recent.mean_us.load(Relaxed)))
    }

    fn known(&self, group: u8) -> Option<&Recent> {
        let recent = &self.groups[usize::from(group)].get()?.recent;
        (recent.count.load(Relaxed) >= KNOWN_MIN).then_some(recent)
    }

    /// Begins an early refresh whose lease ends at `until`; returns false if [`REFRESHES_MAX`] are in progress.
    pub(super) fn begin_refresh(&self, group: u8, now: Tick, until: Tick) -> bool {
        let mut refreshes = self.group(group).refreshes.lock();
        while refreshes.front().is_some_and(|end| *end <= now) {
            refreshes.pop_front();
        }
        let is_free = refreshes.len() < REFRESHES_MAX;
        if is_free {
            refreshes.push_back(until);
        }
        is_free
    }

    /// Ends a refresh, if one is in progress.
    pub(super) fn end_refresh(&self, group: u8) {
        self.group(group).refreshes.lock().pop_front();
    }

    /// Returns the mean duration of all loads of a group; `None` before the first.
    pub(crate) fn mean_since_start(&self, group: u8) -> Option<Duration> {
        self.groups[usize::from(group)].get()?.figures().mean()
    }

    /// Returns the figures of each group that has loads, with its number.
    pub(crate) fn figures(&self) -> Vec<(u8, GroupLoads)> {
        let groups = (0..=u8::MAX).zip(&self.groups);
        groups.filter_map(|(number, group)| Some((number, group.get()?.figures()))).collect()
    }
}

impl Group {
    fn figures(&self) -> GroupLoads {
        let mut figures = GroupLoads::default();
        for (to, from) in figures.outcomes.iter_mut().zip(&self.outcomes) {
            *to = from.load(Relaxed);
        }
        self.durations.add_to(&mut figures.durations);
        figures
    }
}

impl Recent {
    fn record_us(&self, us: u64) {
        self.durations.record_us(us);
        let count = self.count.fetch_add(1, Relaxed) + 1;
        if count < KNOWN_MIN || !count.is_power_of_two() && !count.is_multiple_of(KNOWN_MIN) {
            return;
        }
        let mut sum = Latency::default();
        self.durations.add_to(&mut sum);
        let recorded = sum.count().max(1);
        self.mean_us.store(sum.sum_us / recorded, Relaxed);
        self.p99_us.store(sum.quantile_us(0.99).unwrap_or(0), Relaxed);
        if recorded >= HALVE_AFTER {
            // The next loads decide; until then, the stored figures remain.
            self.durations.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_follow_the_duration_of_loads() {
        let times = LoadTimes::default();
        assert_eq!((times.lease(3), times.mean(3)), (LEASE_UNKNOWN, None));
        for (load_ms, lease_ms) in [(10, 2_000..=2_000), (1_000, 3_800..=4_600), (60_000, 30_000..=30_000)] {
            for _ in 0..2 * HALVE_AFTER {
                times.record(3, Duration::from_millis(load_ms));
            }
            let lease = u64::try_from(times.lease(3).as_millis()).unwrap();
            assert!(lease_ms.contains(&lease), "{load_ms} ms: {lease} ms");
        }
        assert_eq!(times.lease(4), LEASE_UNKNOWN, "groups are independent");
    }

    #[test]
    fn refreshes_in_progress_are_limited() {
        let times = LoadTimes::default();
        let begin = |now: u64| times.begin_refresh(1, Tick(now), Tick(now + 100));
        assert!((0..REFRESHES_MAX).all(|_| begin(1)));
        assert!(!begin(1));
        times.end_refresh(1);
        assert!(begin(1));
        assert!(!begin(100));
        assert!(begin(101), "the leases have ended");
        times.end_refresh(9);
    }

    #[test]
    fn outcomes_have_their_own_places_and_names() {
        let names: std::collections::HashSet<_> = LoadOutcome::ALL.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(names.len(), LoadOutcome::ALL.len());
        for (at, outcome) in LoadOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
        }
    }
}
