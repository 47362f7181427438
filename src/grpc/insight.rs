//! The methods of `terrace.v1.Insight`.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;

use super::{
    Edge, convert, load_insight,
    prefetch_insight::counts,
    stream::{self, Output},
    unary::Call,
};
use crate::{
    cache::{
        Flavor, Removals, State,
        stats::histogram::Latency,
        stats::{Group, Learning, Reads, Snapshot, Tally, Window, top::By},
        warm_up::{WarmUpProgress, WarmedKeys},
    },
    clock::millis,
    error::Result,
    proto::{
        CapacityEstimate, CoherenceStats, CoherenceWindow, ConnectionStats, GetStatsRequest, GetStatsResponse,
        GroupStats, GroupWindow, L1Stats, L2Stats, LatencyStats, LearningStats, ReadStats, RemovalStats,
        SimulateCapacityRequest, SimulateCapacityResponse, TopBy, TopKey, TopKeysRequest, TopKeysResponse, WarmStats,
        WatchStatsRequest, WatchStatsResponse, WindowStats,
    },
};

/// Default interval between two messages of WatchStats, in milliseconds.
const WATCH_EVERY_MS: i64 = 1_000;
/// Intervals in milliseconds that a client may request. A snapshot costs about as much as a hundred reads.
const WATCH_MS: std::ops::RangeInclusive<i64> = 100..=3_600_000;

/// Default number of keys in a response of `Insight.TopKeys`.
const TOP_KEYS: u32 = 10;
/// Maximum number of keys in a response of `Insight.TopKeys`.
const TOP_KEYS_MAX: u32 = 1_000;

impl Edge {
    pub(super) async fn top_keys(&self, request: TopKeysRequest) -> Result<TopKeysResponse> {
        let by = match TopBy::try_from(request.by) {
            Ok(TopBy::Unspecified | TopBy::Reads) => By::Reads,
            Ok(TopBy::Bytes) => By::Bytes,
            Ok(TopBy::Misses) => By::Misses,
            Ok(TopBy::L2Time) => By::Time,
            Err(_) => {
                return Err(convert::invalid(format!(
                    "by has the unknown value {}; expected 1 (READS), 2 (BYTES), 3 (MISSES) or 4 (L2_TIME)",
                    request.by
                )));
            }
        };
        self.principal().check_inspects()?;
        let count = if request.count == 0 { TOP_KEYS } else { request.count.min(TOP_KEYS_MAX) };
        let top = self.cache.top(by, count as usize);
        let keys = top.keys.into_iter().map(|(key, number)| TopKey { key: key.bytes().clone(), number });
        let over_ms = i64::try_from(millis(top.over)).unwrap_or(i64::MAX);
        Ok(TopKeysResponse { keys: keys.collect(), error: top.error, total: top.total, over_ms })
    }

    pub(super) async fn get_stats(&self, _request: GetStatsRequest) -> Result<GetStatsResponse> {
        self.principal().check_inspects()?;
        Ok(self.stats())
    }

    pub(super) async fn simulate_capacity(
        &self,
        _request: SimulateCapacityRequest,
    ) -> Result<SimulateCapacityResponse> {
        self.principal().check_inspects()?;
        let what_if = self.cache.snapshot().what_if;
        let sizes = what_if.sizes.iter().map(|size| CapacityEstimate {
            scale: size.scale,
            capacity_bytes: size.capacity_bytes,
            l1_hit_rate: size.l1_hit_rate,
        });
        Ok(SimulateCapacityResponse {
            sizes: sizes.collect(),
            one_in: what_if.one_in,
            samples: what_if.samples,
            reads: what_if.reads,
            over_ms: i64::try_from(millis(what_if.over)).unwrap_or(i64::MAX),
        })
    }

    fn stats(&self) -> GetStatsResponse {
        let snapshot = self.cache.snapshot();
        let uptime = millis(self.cache.now().since(self.node.started_at));
        GetStatsResponse {
            uptime_ms: i64::try_from(uptime).unwrap_or(i64::MAX),
            reads: Some(reads(&snapshot.reads)),
            l1: Some(l1(&snapshot)),
            l2: Some(l2(&snapshot)),
            coherence: Some(coherence(&snapshot)),
            connections: Some(self.connections()),
            windows: snapshot.windows.iter().map(|at| window(at, &snapshot.groups)).collect(),
            groups: snapshot.groups.iter().map(group).collect(),
            learning: Some(learning(&snapshot.learning)),
            warm: Some(warm(&self.cache.core().warm_up_progress())),
            loads: Some(load_insight::loads(&snapshot.loads)),
            load_waiters: snapshot.load_waiters,
        }
    }

    /// Returns whether the server has an L2.
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

pub(super) fn watch_stats(edge: Arc<Edge>, stop: watch::Receiver<bool>, request: Request<Incoming>) -> Call {
    stream::call(&Arc::clone(&edge), |output| async move { watch(&edge, stop, request, &output).await })
}

/// Sends statistics until the client disconnects or the drain begins.
async fn watch(
    edge: &Arc<Edge>,
    mut stop: watch::Receiver<bool>,
    request: Request<Incoming>,
    output: &Output,
) -> Result<(), Status> {
    let (request, _held): (WatchStatsRequest, _) = stream::received(edge, request).await?;
    let interval_ms = request.interval_ms.unwrap_or(WATCH_EVERY_MS);
    let Some(interval) = u64::try_from(interval_ms).ok().filter(|_| WATCH_MS.contains(&interval_ms)) else {
        let message = format!("interval_ms is {interval_ms}; expected {} to {}", WATCH_MS.start(), WATCH_MS.end());
        return Err(convert::status(&convert::invalid(message)));
    };
    edge.principal().check_inspects().map_err(|error| convert::status(&error))?;
    loop {
        let stats = Some(edge.stats());
        if output.send(Ok(stream::frame(edge, &WatchStatsResponse { stats })?)).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(interval)) => {}
            () = output.closed() => return Ok(()),
            _ended = stop.wait_for(|&stops| stops) => return Ok(()),
        }
    }
}

fn window(window: &Window, groups: &[Group]) -> WindowStats {
    let moved = |(_, tally): &(&Group, &Tally)| **tally != Tally::default();
    let groups = groups.iter().zip(&window.groups).filter(moved).map(|(group, tally)| GroupWindow {
        name: group.name.to_string(),
        reads: Some(reads(&tally.reads)),
        removed: Some(removed(&tally.removals)),
    });
    WindowStats {
        name: window.name.to_owned(),
        over_ms: i64::try_from(millis(window.over)).unwrap_or(i64::MAX),
        reads: Some(reads(&window.total.reads)),
        removed: Some(removed(&window.total.removals)),
        groups: groups.collect(),
        l2_read: Some(latency(&window.read)),
        l2_write: Some(latency(&window.write)),
        grpc_request: Some(latency(&window.requests.grpc)),
        resp_request: Some(latency(&window.requests.resp)),
        prefetch: Some(counts(window.prefetch)),
        coherence: Some(CoherenceWindow {
            invalidations: window.upkeep.invalidations,
            flushes: window.upkeep.flushes,
            reconnects: window.upkeep.reconnects,
            bypassed: window.upkeep.bypassed,
            fills_voided: window.upkeep.fills_voided,
        }),
    }
}

fn learning(of: &Learning) -> LearningStats {
    let (report, ttl, touches) = (&of.prefetch, of.ttl, of.touches);
    LearningStats {
        prefetch: Some(counts(report.counts)),
        staged_entries: report.staged_entries,
        staged_bytes: report.staged_bytes,
        floor: report.floor,
        known_keys: report.keys,
        learned_bytes: report.bytes,
        dropped: report.dropped,
        busy: report.busy,
        ttl_keys: ttl.keys,
        ttl_templates: ttl.templates,
        ttl_hot_keys: ttl.hot_keys,
        touches_extended: touches.extended,
        touches_left: touches.left,
    }
}

fn group(group: &Group) -> GroupStats {
    GroupStats {
        name: group.name.to_string(),
        entries: group.entries,
        bytes: group.bytes,
        loads: group.loads.as_ref().map(load_insight::loads),
    }
}

fn removed(removals: &Removals) -> RemovalStats {
    RemovalStats {
        size: removals.size,
        expired: removals.expired,
        invalidated: removals.invalidated,
        replaced: removals.replaced,
    }
}

fn reads(reads: &Reads) -> ReadStats {
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
        promoted: snapshot.fills.promoted,
        fills_voided: snapshot.fills.voided,
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

fn warm(progress: &WarmUpProgress) -> WarmStats {
    let WarmedKeys { found, absent, resident, failed } = progress.keys;
    WarmStats { at_work: progress.is_running, left: progress.left, found, absent, resident, failed }
}

fn coherence(snapshot: &Snapshot) -> CoherenceStats {
    let coherence = &snapshot.coherence;
    CoherenceStats {
        open: coherence.l1_available,
        invalidations: coherence.invalidations,
        reconnects: coherence.reconnects,
        bypassed: snapshot.fills.bypassed,
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
