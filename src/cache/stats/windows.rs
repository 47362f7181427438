//! Statistics of the last minute, five minutes, hour, and since start.
//!
//! Counters only grow. They are recorded periodically ([`Windows::mark`]). A window is the difference between the
//! current counters and the youngest record that is old enough. A window is therefore as exact as the counters, and
//! reports its actual length: up to one step longer than its name.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use super::{Calls, Reads, Requests, histogram::Latency};
use crate::{cache::prefetch::FetchCounts, clock::Tick, l1::Removals};

/// Counts of one key group, or of all groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// User reads.
    pub reads: Reads,
    /// Entries removed from L1.
    pub removals: Removals,
}

impl Tally {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.reads.add(&other.reads);
        self.removals.add(other.removals);
    }

    fn less(&self, before: &Self) -> Self {
        Self { reads: self.reads.less(&before.reads), removals: self.removals.less(before.removals) }
    }
}

/// All counters at one time.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    /// Counts by group number.
    pub(super) groups: Vec<Tally>,
    pub(super) calls: Calls,
    pub(super) requests: Requests,
    pub(super) prefetch: FetchCounts,
    pub(super) upkeep: Upkeep,
}

/// Events of coherence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// Keys that Redis announced as changed.
    pub invalidations: u64,
    /// Number of times that all copies were dropped at once.
    pub flushes: u64,
    /// Lost invalidation links.
    pub reconnects: u64,
    /// Keys read while L1 was bypassed.
    pub bypassed: u64,
    /// Fills that an invalidation voided.
    pub fills_voided: u64,
}

impl Upkeep {
    fn less(&self, before: &Self) -> Self {
        Self {
            invalidations: self.invalidations.saturating_sub(before.invalidations),
            flushes: self.flushes.saturating_sub(before.flushes),
            reconnects: self.reconnects.saturating_sub(before.reconnects),
            bypassed: self.bypassed.saturating_sub(before.bypassed),
            fills_voided: self.fills_voided.saturating_sub(before.fills_voided),
        }
    }
}

/// A period of time up to now.
#[derive(Debug, Clone)]
pub struct Window {
    /// `1m`, `5m`, `1h` or `start`.
    pub name: &'static str,
    /// Actual length: shorter than the name says while the server is younger, otherwise up to one step longer.
    pub over: Duration,
    /// Counts of all groups together.
    pub total: Tally,
    /// Counts by group number.
    pub groups: Vec<Tally>,
    /// Durations of read calls to L2.
    pub read: Latency,
    /// Durations of write calls to L2.
    pub write: Latency,
    /// Durations of requests.
    pub requests: Requests,
    /// Results of prefetches.
    pub prefetch: FetchCounts,
    /// Events of coherence.
    pub upkeep: Upkeep,
}

/// Name and length of each window, and the interval between its records.
const SPANS: [(&str, Duration, Duration); 3] = [
    ("1m", Duration::from_secs(60), Duration::from_secs(5)),
    ("5m", Duration::from_secs(300), Duration::from_secs(30)),
    ("1h", Duration::from_secs(3600), Duration::from_secs(300)),
];
/// Interval of calls of [`Windows::mark`].
pub const MARK_EVERY: Duration = Duration::from_secs(1);

/// The recorded counters.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Records for each of [`SPANS`], oldest first: the records within the window, and one before it.
    marks: Mutex<[VecDeque<(Tick, Totals)>; SPANS.len()]>,
}

impl Windows {
    /// Returns whether a record is due.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        let marks = self.marks.lock();
        marks.iter().zip(SPANS).any(|(marks, (_, _, step))| is_due(marks, step, now))
    }

    /// Records the counters.
    pub(super) fn mark(&self, now: Tick, totals: &Totals) {
        for (marks, (_, span, step)) in self.marks.lock().iter_mut().zip(SPANS) {
            if is_due(marks, step, now) {
                marks.push_back((now, totals.clone()));
            }
            while marks.get(1).is_some_and(|(at, _)| now.since(*at) >= span) {
                marks.pop_front();
            }
        }
    }

    /// Returns all windows up to `now`; the counters are `totals`.
    pub(super) fn up_to(&self, now: Tick, started_at: Tick, totals: &Totals) -> Vec<Window> {
        let marks = self.marks.lock();
        let start = (started_at, Totals::default());
        let spans = marks.iter().zip(SPANS).map(|(marks, (name, span, _))| {
            let before = marks.iter().rev().find(|(at, _)| now.since(*at) >= span).unwrap_or(&start);
            window(name, now, before, totals)
        });
        let mut windows: Vec<Window> = spans.collect();
        windows.push(window("start", now, &start, totals));
        windows
    }
}

fn is_due(marks: &VecDeque<(Tick, Totals)>, step: Duration, now: Tick) -> bool {
    marks.back().is_none_or(|(at, _)| now.since(*at) >= step)
}

fn window(name: &'static str, now: Tick, (at, before): &(Tick, Totals), totals: &Totals) -> Window {
    let none = Tally::default();
    let befores = before.groups.iter().chain(std::iter::repeat(&none));
    let groups: Vec<Tally> = totals.groups.iter().zip(befores).map(|(now, before)| now.less(before)).collect();
    let mut total = Tally::default();
    groups.iter().for_each(|group| total.add(group));
    let read = totals.calls.read.less(&before.calls.read);
    let write = totals.calls.write.less(&before.calls.write);
    let requests = totals.requests.less(&before.requests);
    let prefetch = totals.prefetch.less(&before.prefetch);
    let upkeep = totals.upkeep.less(&before.upkeep);
    Window { name, over: now.since(*at), total, groups, read, write, requests, prefetch, upkeep }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(hits: u64, misses: u64) -> Totals {
        let tally = |hit_l1, miss| Tally { reads: Reads { hit_l1, miss, ..Reads::default() }, ..Tally::default() };
        Totals { groups: vec![tally(hits, 0), tally(0, misses)], ..Totals::default() }
    }

    #[test]
    fn a_window_is_what_was_counted_since_and_says_how_long_it_is() {
        let (windows, start) = (Windows::default(), Tick(1));
        // One hit and two misses per second for two hours.
        for second in 1..=7_200 {
            let now = Tick(start.0 + second * 1_000);
            if windows.is_due(now) {
                windows.mark(now, &totals(second, second * 2));
            }
            for window in windows.up_to(now, start, &totals(second, second * 2)) {
                let span = SPANS.iter().find(|(name, ..)| *name == window.name);
                let over = window.over.as_secs();
                let reads = window.total.reads;
                let counted = if over == second { second } else { over };
                assert_eq!((reads.hit_l1, reads.miss), (counted, counted * 2), "{} at {second}", window.name);
                if let Some((_, span, step)) = span {
                    let (span, step) = (span.as_secs(), step.as_secs());
                    assert!(over == second || (span..=span + step).contains(&over), "{} is {over}", window.name);
                    assert!(second <= span + step || over < second, "{} forgets", window.name);
                }
            }
        }
        for (marks, (name, span, step)) in windows.marks.lock().iter().zip(SPANS) {
            assert!(marks.len() as u64 <= span.as_secs() / step.as_secs() + 2, "{name}: {}", marks.len());
        }
    }

    #[test]
    fn a_group_that_is_younger_than_the_window_counts_from_nothing() {
        let windows = Windows::default();
        windows.mark(Tick(1_000), &Totals { groups: vec![Tally::default()], ..Totals::default() });
        let windows = windows.up_to(Tick(90_000), Tick(1), &totals(3, 4));
        assert_eq!((windows[0].name, windows[0].over), ("1m", Duration::from_secs(89)));
        assert_eq!((windows[0].groups[1].reads.miss, windows[0].total.reads.hit_l1), (4, 3));
    }
}
