//! The methods of `terrace.v1.Insight`.

use std::sync::atomic::Ordering::Relaxed;

use super::Edge;
use crate::{
    cache::{Flavor, State, latency::Latency, stats::Snapshot},
    clock::millis,
    error::Result,
    proto::{
        CoherenceStats, ConnectionStats, GetStatsRequest, GetStatsResponse, L1Stats, L2Stats, LatencyStats, ReadStats,
    },
};

impl Edge {
    pub(super) async fn get_stats(&self, _request: GetStatsRequest) -> Result<GetStatsResponse> {
        let snapshot = self.cache.snapshot();
        let uptime = millis(self.cache.now().since(self.node.started_at));
        Ok(GetStatsResponse {
            uptime_ms: i64::try_from(uptime).unwrap_or(i64::MAX),
            reads: Some(reads(&snapshot)),
            l1: Some(l1(&snapshot)),
            l2: Some(l2(&snapshot)),
            coherence: Some(coherence(&snapshot)),
            connections: Some(self.connections()),
        })
    }

    /// Whether there is a tier below L1.
    pub(super) fn has_l2(&self) -> bool {
        self.cache.flavor() != Flavor::None
    }

    fn connections(&self) -> ConnectionStats {
        let now = &self.node.connections;
        ConnectionStats {
            grpc: now.grpc.load(Relaxed),
            resp: now.resp.load(Relaxed),
            http: now.http.load(Relaxed),
            rejected: now.rejected.load(Relaxed),
        }
    }
}

fn reads(snapshot: &Snapshot) -> ReadStats {
    let reads = &snapshot.reads;
    ReadStats {
        hit_l1: reads.hit_l1,
        stale: reads.stale,
        hit_l2: reads.hit_l2,
        miss: reads.miss,
        error: reads.error,
        coalesced: reads.coalesced,
        l1_hit_rate: reads.l1_hit_rate(),
        l2_hit_rate: reads.l2_hit_rate(),
    }
}

fn l1(snapshot: &Snapshot) -> L1Stats {
    L1Stats {
        entries: snapshot.l1.entries,
        bytes: snapshot.l1.bytes,
        capacity_bytes: snapshot.l1.capacity_bytes,
        removed_size: snapshot.removals.size,
        removed_expired: snapshot.removals.expired,
        removed_invalidated: snapshot.removals.invalidated,
        removed_replaced: snapshot.removals.replaced,
        promoted: snapshot.reads.promoted,
        fills_voided: snapshot.reads.fills_voided,
    }
}

fn l2(snapshot: &Snapshot) -> L2Stats {
    let calls = &snapshot.calls;
    L2Stats {
        kind: snapshot.flavor.name().to_owned(),
        up: snapshot.l2 == State::Up,
        reads: calls.keys_read,
        writes: calls.ops_written,
        errors: calls.errors,
        read_latency: Some(latency(&calls.read)),
        write_latency: Some(latency(&calls.write)),
        primaries: snapshot.health.primaries as u64,
        breakers_open: snapshot.health.breakers_open as u64,
        breaker_opened: snapshot.health.breaker_opened,
    }
}

fn coherence(snapshot: &Snapshot) -> CoherenceStats {
    let coherence = &snapshot.coherence;
    CoherenceStats {
        open: coherence.open,
        invalidations: coherence.invalidations,
        reconnects: coherence.reconnects,
        bypassed: snapshot.reads.bypassed,
        refused: coherence.refused.clone().unwrap_or_default(),
        fence_age_ms: coherence.fence_age_ms,
        flushes: coherence.flushes,
        checked: coherence.checked,
        stale_detected: coherence.stale_detected,
    }
}

fn latency(latency: &Latency) -> LatencyStats {
    LatencyStats {
        count: latency.count(),
        p50_us: latency.quantile_us(0.5),
        p99_us: latency.quantile_us(0.99),
        p999_us: latency.quantile_us(0.999),
        max_us: latency.quantile_us(1.0),
    }
}
