//! Loads from the origin as text: a table by key group, and one line for `terrace top`.

use super::{
    super::figures::{count, key, micros, span},
    columns::{row, table},
};
use crate::proto::{GetStatsResponse, LoadStats};

/// Maximum displayed length of the name of a group, in characters.
const NAME: usize = 32;

/// Returns the number of started loads: all grants.
fn started(of: &LoadStats) -> u64 {
    let fenced = of.granted_miss + of.granted_stale + of.granted_early + of.granted_forced + of.granted_takeover;
    fenced + of.granted_unfenced
}

/// Returns whether there were any events of loads.
fn is_used(of: &LoadStats) -> bool {
    *of != LoadStats::default()
}

fn ms(ms: Option<f64>) -> String {
    micros(ms.map(|ms| (ms * 1e3).round() as u64))
}

fn saved(of: &LoadStats) -> String {
    span((of.origin_seconds_saved * 1e3) as i64)
}

fn line(name: &str, of: &LoadStats) -> Vec<String> {
    let counts = [started(of), of.stored, of.load_failed, of.waited, of.busy, of.absent];
    let mut cells = vec![key(name.as_bytes(), NAME)];
    cells.extend(counts.map(|number| count(number as f64)));
    cells.extend([ms(of.mean_ms), ms(of.p99_ms), saved(of)]);
    cells
}

/// Formats the loads since start by key group; empty if there were none.
pub(super) fn by_group(stats: &GetStatsResponse, top: u32) -> String {
    let Some(total) = stats.loads.as_ref().filter(|total| is_used(total)) else { return String::new() };
    let title = "loads, since start";
    let mut rows =
        vec![row([title, "started", "stored", "failed", "waited", "busy", "absent", "mean", "p99", "time saved"])];
    rows.push(line("all", total));
    let mut groups: Vec<_> = stats.groups.iter().filter_map(|group| Some((&*group.name, group.loads?))).collect();
    groups.sort_by(|(_, a), (_, b)| {
        b.origin_seconds_saved.total_cmp(&a.origin_seconds_saved).then_with(|| started(b).cmp(&started(a)))
    });
    rows.extend(groups.iter().take(top as usize).map(|(name, loads)| line(name, loads)));
    let grants = format!(
        "granted: miss {}, stale {}, early {}, forced {}, takeover {}, without a token {}",
        total.granted_miss,
        total.granted_stale,
        total.granted_early,
        total.granted_forced,
        total.granted_takeover,
        total.granted_unfenced,
    );
    let ends = format!(
        "not stored: lease lost {}, changed {}, invalidated {}; released {}; waiting now {}",
        total.lease_lost, total.changed, total.invalidated, total.released, stats.load_waiters,
    );
    format!("{}{grants}\n{ends}\n", table(&rows))
}

/// Formats the loads since start in one line; `None` if there were none.
pub(in crate::cli) fn summary(stats: &GetStatsResponse) -> Option<String> {
    let total = stats.loads.as_ref().filter(|total| is_used(total))?;
    Some(format!(
        "loads {}  failed {}  waiting {}  mean {}  p99 {}  origin time saved {}",
        count(started(total) as f64),
        count(total.load_failed as f64),
        stats.load_waiters,
        ms(total.mean_ms),
        ms(total.p99_ms),
        saved(total),
    ))
}
