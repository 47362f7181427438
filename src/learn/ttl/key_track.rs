//! The last intervals of one key, between its reads and between its changes.
//!
//! The last [`INTERVALS_MAX`] intervals of each type are kept; older ones say nothing about the present. A write is a
//! change, unless it fills in a value that was missing just before. An invalidation is a change if the key is found
//! afterwards: a key that expired or was deleted has not changed. Redis also announces a write through this node; that
//! echo is the same change.

use std::time::Duration;

use crate::{
    clock::{Tick, millis},
    learn::recorder::{Happened, Wrote},
};

/// Maximum number of intervals of a key, between reads and between changes.
const INTERVALS_MAX: usize = 10;
/// Intervals between changes below which the interval counts as unknown.
pub(super) const CHANGES_MIN: usize = 3;
/// A write this soon after a miss fills in the missing value.
const FILL_WITHIN: Duration = Duration::from_secs(10);
/// An announcement this soon after a write is the echo of the write.
const ECHO_WITHIN: Duration = Duration::from_secs(1);

/// The last intervals between events of one type, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastIntervals {
    ms: [u64; INTERVALS_MAX],
    count: u8,
    /// Number of intervals since start.
    seen: u32,
    at: Option<Tick>,
}

impl LastIntervals {
    fn note(&mut self, now: Tick) {
        if let Some(before) = self.at {
            self.push(millis(now.since(before)));
        }
        self.at = Some(now);
    }

    fn push(&mut self, interval: u64) {
        self.ms.copy_within(..INTERVALS_MAX - 1, 1);
        self.ms[0] = interval;
        self.count = (self.count + 1).min(INTERVALS_MAX as u8);
        self.seen = self.seen.saturating_add(1);
    }

    /// Returns the intervals, newest first.
    pub(super) fn intervals(&self) -> &[u64] {
        &self.ms[..usize::from(self.count)]
    }

    /// Returns the number of intervals since start.
    pub(super) fn seen(&self) -> u32 {
        self.seen
    }
}

/// The reads and changes of one key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyTrack {
    pub(super) reads: LastIntervals,
    pub(super) changes: LastIntervals,
    missed_at: Option<Tick>,
    written_at: Option<Tick>,
    /// Time of an invalidation that is a change if the key is found.
    announced_at: Option<Tick>,
    /// Length in bytes of the last value that was written, and its TTL.
    pub(super) value_bytes: Option<u64>,
    pub(super) ttl_ms: Option<u64>,
}

impl KeyTrack {
    /// Notes a read or a change.
    pub(super) fn note(&mut self, happened: Happened, at: Tick) {
        self.note_change(happened, at);
        match happened {
            Happened::Hit(_) | Happened::FirstUse | Happened::HitL2 | Happened::Miss => self.reads.note(at),
            Happened::Written(_) | Happened::Invalidated | Happened::Failed => {}
        }
    }

    /// Notes an event as far as it shows changes; does not measure intervals between reads.
    pub(super) fn note_change(&mut self, happened: Happened, at: Tick) {
        match happened {
            Happened::Hit(_) | Happened::FirstUse | Happened::HitL2 => self.found(at, true),
            Happened::Miss => self.found(at, false),
            Happened::Written(Wrote::Value(_) | Wrote::Deletion) => self.written(at),
            Happened::Written(Wrote::Lifetime) => self.expiry_changed(at),
            Happened::Invalidated => self.invalidated(at),
            Happened::Failed => {}
        }
    }

    /// Adds a mean of intervals between reads, in a unit of the caller's choice.
    pub(super) fn note_mean(&mut self, mean: u64) {
        self.reads.push(mean);
    }

    /// Returns the intervals between changes.
    pub(super) fn change_spread(&self) -> Spread {
        Spread::of(self.changes.intervals().to_vec())
    }

    /// Notes whether a read found the key.
    fn found(&mut self, now: Tick, found: bool) {
        if let Some(at) = self.announced_at.take().filter(|_| found) {
            self.changes.note(at);
        }
        self.missed_at = (!found).then_some(now);
    }

    fn written(&mut self, now: Tick) {
        let fills_in = self.missed_at.take().is_some_and(|at| now.since(at) <= FILL_WITHIN);
        // An announcement just before was the echo of this write.
        self.announced_at = self.announced_at.filter(|at| now.since(*at) > ECHO_WITHIN);
        self.written_at = Some(now);
        if !fills_in {
            self.changes.note(now);
        }
    }

    /// Notes a write that kept the value: its echo is not a change.
    fn expiry_changed(&mut self, now: Tick) {
        self.announced_at = self.announced_at.filter(|at| now.since(*at) > ECHO_WITHIN);
        self.written_at = Some(now);
    }

    fn invalidated(&mut self, now: Tick) {
        if self.written_at.is_none_or(|at| now.since(at) > ECHO_WITHIN) {
            self.announced_at = Some(now);
        }
    }
}

/// Statistics of intervals, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spread {
    /// Number of intervals.
    pub count: usize,
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: u64,
    /// 90th percentile.
    pub p90_ms: u64,
}

impl Spread {
    pub(super) fn of(mut intervals: Vec<u64>) -> Self {
        if intervals.is_empty() {
            return Self::default();
        }
        intervals.sort_unstable();
        let count = intervals.len();
        let sum: f64 = intervals.iter().map(|&ms| ms as f64).sum();
        Self { count, mean_ms: sum / count as f64, p50_ms: intervals[count / 2], p90_ms: intervals[count * 9 / 10] }
    }
}
