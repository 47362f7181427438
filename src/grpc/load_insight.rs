//! Figures of loads as messages of `terrace.v1.Insight`.

use crate::{
    cache::{
        LoadOutcome,
        stats::{histogram::Latency, load_figures::LoadFigures},
    },
    proto::LoadStats,
};

/// Converts the figures of a key group, or of all groups.
pub(super) fn loads(of: &LoadFigures) -> LoadStats {
    let count = |outcome| of.loads.of(outcome);
    let durations = &of.loads.durations;
    LoadStats {
        granted_miss: count(LoadOutcome::Miss),
        granted_stale: count(LoadOutcome::Stale),
        granted_early: count(LoadOutcome::Early),
        granted_forced: count(LoadOutcome::Forced),
        granted_takeover: count(LoadOutcome::Takeover),
        granted_unfenced: count(LoadOutcome::Unfenced),
        stored: count(LoadOutcome::Stored),
        lease_lost: count(LoadOutcome::LeaseLost),
        changed: count(LoadOutcome::Changed),
        invalidated: count(LoadOutcome::Invalidated),
        load_failed: count(LoadOutcome::LoadFailed),
        released: count(LoadOutcome::Released),
        waited: count(LoadOutcome::Waited),
        busy: count(LoadOutcome::Busy),
        absent: count(LoadOutcome::Absent),
        failed: count(LoadOutcome::Failed),
        mean_ms: of.loads.mean().map(|mean| mean.as_secs_f64() * 1e3),
        p99_ms: p99_ms(durations),
        origin_seconds_saved: of.saved.as_secs_f64(),
    }
}

fn p99_ms(durations: &Latency) -> Option<f64> {
    let p99 = std::time::Duration::from_micros(durations.quantile_us(0.99)?);
    Some(p99.as_secs_f64() * 1e3)
}
