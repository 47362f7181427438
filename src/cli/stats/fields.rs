//! Statistics as JSON, with the field names of `Insight`.

use serde_json::{Value, json};

use super::{Seen, tables::named};
use crate::proto::{
    CoherenceStats, CoherenceWindow, ConnectionStats, GetAssociationsResponse, GetStatsResponse, GetTtlAdviceResponse,
    HotKeyTtl, IntervalStats, L1Stats, L2Stats, LatencyStats, LearningStats, LoadStats, PrefetchCounts, ReadStats,
    RemovalStats, SimulateCapacityResponse, TopBy, TopKeysResponse, TtlAdvice, TtlOutcome, WarmStats, WindowStats,
};

/// Returns all statistics.
pub(super) fn all(seen: &Seen) -> Value {
    let mut all = stats(&seen.stats);
    all["prefetch"] = prefetch(&seen.prefetch);
    all["capacity"] = capacity(&seen.capacity);
    all["top"] = seen.top.iter().map(|(by, of)| top(*by, of)).collect();
    all
}

fn stats(stats: &GetStatsResponse) -> Value {
    let groups = stats.groups.iter().map(|group| {
        json!({
            "name": group.name, "entries": group.entries, "bytes": group.bytes,
            "loads": group.loads.as_ref().map(loads),
        })
    });
    json!({
        "uptime_ms": stats.uptime_ms,
        "reads": stats.reads.as_ref().map(reads),
        "l1": stats.l1.as_ref().map(l1),
        "l2": stats.l2.as_ref().map(l2),
        "coherence": stats.coherence.as_ref().map(coherence),
        "connections": stats.connections.as_ref().map(connections),
        "windows": stats.windows.iter().map(window).collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
        "learning": stats.learning.as_ref().map(learning),
        "warm": stats.warm.as_ref().map(warm),
        "loads": stats.loads.as_ref().map(loads),
        "load_waiters": stats.load_waiters,
    })
}

fn learning(of: &LearningStats) -> Value {
    json!({
        "prefetch": of.prefetch.as_ref().map(counts), "staged_entries": of.staged_entries,
        "staged_bytes": of.staged_bytes, "floor": of.floor, "known_keys": of.known_keys,
        "learned_bytes": of.learned_bytes, "dropped": of.dropped, "busy": of.busy, "ttl_keys": of.ttl_keys,
        "ttl_templates": of.ttl_templates, "ttl_hot_keys": of.ttl_hot_keys, "touches_extended": of.touches_extended,
        "touches_left": of.touches_left,
    })
}

fn counts(of: &PrefetchCounts) -> Value {
    json!({ "issued": of.issued, "used": of.used, "late": of.late, "wasted": of.wasted, "shadow": of.shadow })
}

fn upkeep(of: &CoherenceWindow) -> Value {
    json!({
        "invalidations": of.invalidations, "flushes": of.flushes, "reconnects": of.reconnects, "bypassed": of.bypassed,
        "fills_voided": of.fills_voided,
    })
}

fn warm(of: &WarmStats) -> Value {
    json!({
        "at_work": of.at_work, "left": of.left, "found": of.found, "absent": of.absent, "resident": of.resident,
        "failed": of.failed,
    })
}

fn loads(of: &LoadStats) -> Value {
    json!({
        "granted_miss": of.granted_miss, "granted_stale": of.granted_stale, "granted_early": of.granted_early,
        "granted_forced": of.granted_forced, "granted_takeover": of.granted_takeover,
        "granted_unfenced": of.granted_unfenced, "stored": of.stored, "lease_lost": of.lease_lost,
        "changed": of.changed, "invalidated": of.invalidated, "load_failed": of.load_failed, "released": of.released,
        "waited": of.waited, "busy": of.busy, "absent": of.absent, "failed": of.failed, "mean_ms": of.mean_ms,
        "p99_ms": of.p99_ms, "origin_seconds_saved": of.origin_seconds_saved,
    })
}

fn reads(reads: &ReadStats) -> Value {
    json!({
        "hit_l1": reads.hit_l1, "stale": reads.stale, "hit_l2": reads.hit_l2, "miss": reads.miss, "error": reads.error,
        "coalesced": reads.coalesced, "l1_hit_rate": reads.l1_hit_rate, "l2_hit_rate": reads.l2_hit_rate,
    })
}

fn removed(removed: &RemovalStats) -> Value {
    json!({
        "size": removed.size, "expired": removed.expired, "invalidated": removed.invalidated,
        "replaced": removed.replaced,
    })
}

fn latency(latency: &LatencyStats) -> Value {
    json!({
        "count": latency.count, "p50_us": latency.p50_us, "p99_us": latency.p99_us, "p999_us": latency.p999_us,
        "max_us": latency.max_us,
    })
}

fn l1(l1: &L1Stats) -> Value {
    json!({
        "entries": l1.entries, "bytes": l1.bytes, "capacity_bytes": l1.capacity_bytes, "removed_size": l1.removed_size,
        "removed_expired": l1.removed_expired, "removed_invalidated": l1.removed_invalidated,
        "removed_replaced": l1.removed_replaced, "promoted": l1.promoted, "fills_voided": l1.fills_voided,
    })
}

fn l2(l2: &L2Stats) -> Value {
    json!({
        "kind": l2.kind, "up": l2.up, "reads": l2.reads, "writes": l2.writes, "errors": l2.errors,
        "read_latency": l2.read_latency.as_ref().map(latency), "write_latency": l2.write_latency.as_ref().map(latency),
        "primaries": l2.primaries, "breakers_open": l2.breakers_open, "breaker_opened": l2.breaker_opened,
    })
}

fn coherence(of: &CoherenceStats) -> Value {
    json!({
        "open": of.open, "invalidations": of.invalidations, "reconnects": of.reconnects, "bypassed": of.bypassed,
        "refused": of.refused, "fence_age_ms": of.fence_age_ms, "flushes": of.flushes, "checked": of.checked,
        "stale_detected": of.stale_detected,
    })
}

fn connections(of: &ConnectionStats) -> Value {
    json!({ "grpc": of.grpc, "resp": of.resp, "http": of.http, "rejected": of.rejected })
}

fn window(window: &WindowStats) -> Value {
    let groups = window.groups.iter().map(|group| {
        json!({
            "name": group.name,
            "reads": group.reads.as_ref().map(reads),
            "removed": group.removed.as_ref().map(removed),
        })
    });
    json!({
        "name": window.name,
        "over_ms": window.over_ms,
        "reads": window.reads.as_ref().map(reads),
        "removed": window.removed.as_ref().map(removed),
        "groups": groups.collect::<Vec<_>>(),
        "l2_read": window.l2_read.as_ref().map(latency),
        "l2_write": window.l2_write.as_ref().map(latency),
        "prefetch": window.prefetch.as_ref().map(counts),
        "coherence": window.coherence.as_ref().map(upkeep),
        "grpc_request": window.grpc_request.as_ref().map(latency),
        "resp_request": window.resp_request.as_ref().map(latency),
    })
}

fn prefetch(of: &GetAssociationsResponse) -> Value {
    let groups = of
        .groups
        .iter()
        .map(|group| json!({ "name": group.name, "counts": counts(&group.counts.unwrap_or_default()) }));
    let control = of.control.unwrap_or_default();
    json!({
        "total": counts(&of.total.unwrap_or_default()),
        "groups": groups.collect::<Vec<_>>(),
        "control": {
            "without_decided": control.without_decided, "without_missed": control.without_missed,
            "with_decided": control.with_decided, "with_missed": control.with_missed,
            "gain": control.gain, "gain_deviation": control.gain_deviation,
        },
        "known_keys": of.known_keys, "learned_bytes": of.learned_bytes, "floor": of.floor,
    })
}

/// Returns a key as text. Bytes of a key that is not UTF-8 are escaped.
pub(in crate::cli) fn text_of(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => text.to_owned(),
        Err(_) => key.escape_ascii().to_string(),
    }
}

fn top(by: TopBy, top: &TopKeysResponse) -> Value {
    let keys = top.keys.iter().map(|entry| json!({ "key": text_of(&entry.key), "number": entry.number }));
    json!({
        "by": named(by).0, "keys": keys.collect::<Vec<_>>(), "error": top.error, "total": top.total,
        "over_ms": top.over_ms,
    })
}

fn capacity(of: &SimulateCapacityResponse) -> Value {
    let sizes = of.sizes.iter().map(
        |size| json!({ "scale": size.scale, "capacity_bytes": size.capacity_bytes, "l1_hit_rate": size.l1_hit_rate }),
    );
    json!({
        "sizes": sizes.collect::<Vec<_>>(), "one_in": of.one_in, "samples": of.samples, "reads": of.reads,
        "over_ms": of.over_ms,
    })
}

/// Returns the TTL advice.
pub(super) fn ttl(advice: &GetTtlAdviceResponse) -> Value {
    let intervals = |of: &IntervalStats| json!({ "count": of.count, "mean_ms": of.mean_ms, "p50_ms": of.p50_ms, "p90_ms": of.p90_ms });
    let outcome = |of: &TtlOutcome| {
        json!({
            "hit_rate": of.hit_rate, "stale_share": of.stale_share, "held": of.held, "bytes_held": of.bytes_held,
        })
    };
    let one = |of: &TtlAdvice| {
        json!({
            "template": of.template, "ttl_ms": of.ttl_ms, "tuned_ms": of.tuned_ms,
            "current_ttl_ms": of.current_ttl_ms, "keys": of.keys, "access": of.access.as_ref().map(intervals),
            "change": of.change.as_ref().map(intervals), "value_bytes": of.value_bytes,
            "now": of.now.as_ref().map(outcome), "then": of.then.as_ref().map(outcome),
        })
    };
    let hot = |of: &HotKeyTtl| {
        json!({
            "key": text_of(&of.key), "ttl_ms": of.ttl_ms, "access_ms": of.access_ms, "reads": of.reads,
            "change": of.change.as_ref().map(intervals),
        })
    };
    json!({
        "advice": advice.advice.iter().map(one).collect::<Vec<_>>(),
        "hot_keys": advice.hot_keys.iter().map(hot).collect::<Vec<_>>(),
    })
}
