//! History of the last minutes, so that the curves of the page are complete when it is opened.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cache::{
    Cache,
    stats::histogram::Latency,
    stats::{Snapshot, Window},
};

/// Interval between two points.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Maximum number of points in the history of the page (five minutes).
const POINTS_MAX: usize = 150;

/// Points of the last minutes, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Value>>);

impl History {
    /// Adds a point with the current values.
    pub(super) fn add(&self, cache: &Cache) {
        let point = point(cache, &cache.snapshot());
        let mut points = self.0.lock();
        if points.len() == POINTS_MAX {
            points.pop_front();
        }
        points.push_back(point);
    }

    /// Returns all points. The points are about all keys: a client that may know about some keys sees none, and its page
    /// draws the points that it receives from then on.
    pub(super) fn show(&self, sees_all: bool) -> Value {
        let points: Vec<Value> = if sees_all { self.0.lock().iter().cloned().collect() } else { Vec::new() };
        json!({ "every_ms": EVERY.as_millis(), "points_max": POINTS_MAX, "points": points })
    }
}

/// Returns the values of the curves at one moment: counters since start and current levels. charts.js reads the same
/// order.
pub(super) fn point(cache: &Cache, snapshot: &Snapshot) -> Value {
    let reads = &snapshot.reads;
    // Percentiles of the last minute, because a percentile since start hardly changes.
    let minute = snapshot.windows.first();
    let quantile = |latency: fn(&Window) -> &Latency, quantile| latency(minute?).quantile_us(quantile);
    let prefetch = snapshot.learning.prefetch.counts;
    json!([
        cache.core().clock().unix().0,
        reads.hit_l1,
        reads.stale,
        reads.hit_l2,
        reads.miss,
        reads.error,
        snapshot.removals.size,
        snapshot.l1.bytes,
        quantile(|minute| &minute.read, 0.5),
        quantile(|minute| &minute.read, 0.99),
        quantile(|minute| &minute.requests.grpc, 0.5),
        quantile(|minute| &minute.requests.grpc, 0.99),
        quantile(|minute| &minute.requests.resp, 0.99),
        prefetch.issued,
        prefetch.used,
        prefetch.late,
        prefetch.wasted,
    ])
}
