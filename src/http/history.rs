//! The last minutes as points, so that the page has its curves as soon as it is opened.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cache::{
    Cache,
    stats::histogram::Latency,
    stats::{Snapshot, Window},
};

/// Between two points.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Maximum number of points in the history of the page (five minutes).
const POINTS_MAX: usize = 150;

/// Points of the last minutes, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Value>>);

impl History {
    /// Adds how things stand now.
    pub(super) fn add(&self, cache: &Cache) {
        let point = point(cache, &cache.snapshot());
        let mut points = self.0.lock();
        if points.len() == POINTS_MAX {
            points.pop_front();
        }
        points.push_back(point);
    }

    /// All points.
    pub(super) fn show(&self) -> Value {
        let points: Vec<Value> = self.0.lock().iter().cloned().collect();
        json!({ "every_ms": EVERY.as_millis(), "points_max": POINTS_MAX, "points": points })
    }
}

/// What the curves need of one moment: counters since start, levels of now. The page knows the order.
pub(super) fn point(cache: &Cache, snapshot: &Snapshot) -> Value {
    let reads = &snapshot.reads;
    // Of the last minute: a percentile since start hardly moves.
    let minute = snapshot.windows.first();
    let quantile = |latency: fn(&Window) -> &Latency, quantile| latency(minute?).quantile_us(quantile);
    let prefetch = cache.core().prefetch().counts;
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
