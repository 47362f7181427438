//! Renders the Prometheus metrics, from the same snapshot as `GetStats` and `INFO`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    access::Access,
    cache::{
        Cache, LoadOutcome, Removals, State,
        invalidate::feed::FeedReport,
        prefetch::PrefetchReport,
        stats::histogram::Latency,
        stats::{Group, Reads, Snapshot},
        ttl::touch_on_read::Touches,
        warm_up::WarmUpProgress,
    },
    metrics::{self as m, Buckets, Metrics},
    node::{Node, VERSION},
    socket::Protocol,
};

/// Renders the current metrics.
pub(super) fn render(metrics: &Metrics, cache: &Cache, node: &Node, access: &Access) -> String {
    let snapshot = cache.snapshot();
    metrics.set(&m::UPTIME, &[], cache.now().since(node.started_at).as_secs_f64());
    this_node(metrics, node, &snapshot);
    reads(metrics, &snapshot);
    snapshot.groups.iter().for_each(|of| group(metrics, of));
    ttls(metrics, cache);
    touches(metrics, snapshot.learning.touches);
    requests(metrics, &snapshot);
    l1(metrics, &snapshot);
    l2(metrics, &snapshot);
    loads(metrics, &snapshot);
    metrics.set(&m::BANS_OPEN, &[], float(cache.active_bans().len() as u64));
    coherence(metrics, &snapshot);
    prefetch(metrics, &snapshot.learning.prefetch);
    feed(metrics, &cache.feed_report());
    warming(metrics, &cache.core().warm_up_progress());
    users(metrics, access);
    metrics.render()
}

fn users(metrics: &Metrics, access: &Access) {
    for port in Protocol::ALL {
        let (accepted, failed) = access.logins(port);
        metrics.count(&m::AUTH, &[port.name(), "accepted"], accepted);
        metrics.count(&m::AUTH, &[port.name(), "failed"], failed);
    }
    for (user, verb, count) in access.denials() {
        metrics.count(&m::DENIED, &[&user, verb], count);
    }
    metrics.count(&m::AUTH_FILES_REJECTED, &[], access.rejected_files());
}

fn warming(metrics: &Metrics, progress: &WarmUpProgress) {
    let keys = &progress.keys;
    for (result, count) in
        [("found", keys.found), ("absent", keys.absent), ("resident", keys.resident), ("failed", keys.failed)]
    {
        metrics.count(&m::WARM_KEYS, &[result], count);
    }
    metrics.set(&m::WARM_LEFT, &[], float(progress.left));
    metrics.set(&m::WARMING, &[], f64::from(u8::from(progress.is_running)));
}

/// Converts a gauge value to a float; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats; current sizes and counts are below 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}

fn load(value: &AtomicU64) -> f64 {
    float(value.load(Relaxed))
}

fn this_node(metrics: &Metrics, node: &Node, snapshot: &Snapshot) {
    let connections = &node.connections;
    metrics.set(&m::BUILD_INFO, &[VERSION, snapshot.flavor.name()], 1.0);
    metrics.set(&m::DRAINING, &[], f64::from(u8::from(node.is_draining())));
    metrics.set(&m::CONNECTIONS, &["grpc"], load(&connections.grpc));
    metrics.set(&m::CONNECTIONS, &["resp"], load(&connections.resp));
    metrics.set(&m::CONNECTIONS, &["http"], load(&connections.http));
    metrics.count(&m::CONNECTIONS_REJECTED, &[], connections.rejected.load(Relaxed));
    tls(metrics, node);
    let in_flight = node.in_flight.figures();
    metrics.set(&m::IN_FLIGHT, &[], float(in_flight.bytes));
    metrics.set(&m::IN_FLIGHT_HOLDERS, &[], float(in_flight.holders));
    metrics.set(&m::IN_FLIGHT_LARGEST, &[], float(in_flight.largest));
    metrics.count(&m::IN_FLIGHT_SHED, &[], in_flight.shed);
    metrics.count(&m::IN_FLIGHT_RESETS, &["full"], in_flight.reset_full);
    metrics.count(&m::IN_FLIGHT_RESETS, &["stalled"], in_flight.reset_stalled);
}

fn tls(metrics: &Metrics, node: &Node) {
    for endpoint in node.tls.all() {
        let port = endpoint.port.name();
        if endpoint.was_on() {
            // NaN after a reload has turned TLS off: the recorder cannot remove a series.
            metrics.set(&m::TLS_NOT_AFTER, &[port], endpoint.not_after().map_or(f64::NAN, float));
        }
        metrics.count(&m::TLS_HANDSHAKES_FAILED, &[port], endpoint.failed_handshakes.load(Relaxed));
        metrics.count(&m::TLS_RELOADS_REJECTED, &[port], endpoint.rejected_reloads.load(Relaxed));
    }
}

fn reads(metrics: &Metrics, snapshot: &Snapshot) {
    let reads = &snapshot.reads;
    for (outcome, count) in outcomes(reads) {
        metrics.count(&m::READS, &[outcome], count);
    }
    metrics.count(&m::READS_COALESCED, &[], reads.coalesced);
    metrics.set(&m::FLIGHTS, &[], float(snapshot.flights));
}

fn requests(metrics: &Metrics, snapshot: &Snapshot) {
    let requests = &snapshot.requests;
    metrics.histogram(&m::REQUEST_SECONDS, &[("grpc", buckets(&requests.grpc)), ("resp", buckets(&requests.resp))]);
}

fn outcomes(reads: &Reads) -> [(&'static str, u64); 5] {
    [
        ("hit_l1", reads.hit_l1),
        ("stale", reads.stale),
        ("hit_l2", reads.hit_l2),
        ("miss", reads.miss),
        ("error", reads.error),
    ]
}

fn causes(removals: &Removals) -> [(&'static str, u64); 4] {
    [
        ("size", removals.size),
        ("expired", removals.expired),
        ("invalidated", removals.invalidated),
        ("replaced", removals.replaced),
    ]
}

fn group(metrics: &Metrics, group: &Group) {
    let name = &*group.name;
    for (outcome, count) in outcomes(&group.tally.reads) {
        metrics.count(&m::GROUP_READS, &[name, outcome], count);
    }
    for (cause, count) in causes(&group.tally.removals) {
        metrics.count(&m::GROUP_REMOVED, &[name, cause], count);
    }
    metrics.set(&m::GROUP_ENTRIES, &[name], float(group.entries));
    metrics.set(&m::GROUP_BYTES, &[name], float(group.bytes));
}

/// Maximum number of templates in metrics: the maximum number of key groups.
const TEMPLATES_SHOWN: usize = 256;

fn ttls(metrics: &Metrics, cache: &Cache) {
    const MS: f64 = 1e-3;
    // A template without a variable is a key, which must not become a label.
    let advice = cache.ttl_advice().into_iter().filter(|advised| advised.advice.name.contains('{'));
    for advised in advice.take(TEMPLATES_SHOWN) {
        let name = &*advised.advice.name;
        metrics.set(&m::TTL_ADVISED, &[name], float(advised.advice.ttl_ms) * MS);
        if let Some(tuned_ms) = advised.tuned_ms {
            metrics.set(&m::TTL_TUNED, &[name], float(tuned_ms) * MS);
        }
    }
}

fn touches(metrics: &Metrics, touches: Touches) {
    metrics.count(&m::TOUCHES, &["extended"], touches.extended);
    metrics.count(&m::TOUCHES, &["left"], touches.left);
}

fn l1(metrics: &Metrics, snapshot: &Snapshot) {
    let usage = &snapshot.l1;
    metrics.set(&m::L1_ENTRIES, &[], float(usage.entries));
    metrics.set(&m::L1_BYTES, &[], float(usage.bytes));
    metrics.set(&m::L1_CAPACITY, &[], float(usage.capacity_bytes));
    for (cause, count) in causes(&snapshot.removals) {
        metrics.count(&m::L1_REMOVED, &[cause], count);
    }
    for size in &snapshot.what_if.sizes {
        if let Some(rate) = size.l1_hit_rate {
            metrics.set(&m::L1_WHAT_IF, &[&size.scale.to_string()], rate);
        }
    }
    metrics.count(&m::L1_PROMOTED, &[], snapshot.fills.promoted);
    metrics.count(&m::L1_FILLS_VOIDED, &[], snapshot.fills.voided);
}

fn l2(metrics: &Metrics, snapshot: &Snapshot) {
    let calls = &snapshot.calls;
    metrics.set(&m::L2_UP, &[], f64::from(u8::from(snapshot.l2 == State::Up)));
    metrics.count(&m::L2_KEYS_READ, &[], calls.keys_read);
    metrics.count(&m::L2_OPS_WRITTEN, &[], calls.ops_written);
    metrics.count(&m::L2_ERRORS, &[], calls.errors);
    if let Some(deadlines) = snapshot.health.deadlines {
        metrics.set(&m::L2_DEADLINE_SECONDS, &["read"], deadlines.read.as_secs_f64());
        metrics.set(&m::L2_DEADLINE_SECONDS, &["write"], deadlines.write.as_secs_f64());
    }
    metrics.count(&m::L2_DAMAGE, &[], snapshot.health.damage);
    metrics.set(&m::L2_PRIMARIES, &[], float(snapshot.health.primaries as u64));
    metrics.set(&m::L2_BREAKERS_OPEN, &[], float(snapshot.health.breakers_open as u64));
    metrics.count(&m::L2_BREAKER_OPENED, &[], snapshot.health.breaker_opened);
    metrics.histogram(&m::L2_SECONDS, &[("read", buckets(&calls.read)), ("write", buckets(&calls.write))]);
}

/// Bucket bounds in microseconds, from an L1 hit over a call within the machine to a call that reached its deadline: 2 s
/// or 3 s for the embedded store.
const BOUNDS_US: [u64; 17] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000,
    5_000_000,
];

/// Bucket bounds in microseconds of loads, from a fast lookup to a long query. Each key group has a histogram.
const LOAD_BOUNDS_US: [u64; 11] =
    [1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000, 30_000_000];

fn loads(metrics: &Metrics, snapshot: &Snapshot) {
    for outcome in LoadOutcome::ALL {
        metrics.count(&m::LOADS, &[outcome.name()], snapshot.loads.loads.of(outcome));
    }
    metrics.set(&m::LOAD_WAITERS, &[], float(snapshot.load_waiters));
    let stored = snapshot.groups.iter().filter_map(|group| Some((&*group.name, group.loads.as_ref()?)));
    let stored: Vec<_> = stored.filter(|(_, figures)| figures.loads.durations.count() > 0).collect();
    if stored.is_empty() {
        return;
    }
    let durations = stored.iter().map(|(name, figures)| (*name, buckets_at(&figures.loads.durations, &LOAD_BOUNDS_US)));
    metrics.histogram(&m::LOAD_SECONDS, &durations.collect::<Vec<_>>());
    let saved = stored.iter().map(|(name, figures)| (*name, figures.saved.as_secs_f64()));
    metrics.fractions(&m::ORIGIN_SAVED, &saved.collect::<Vec<_>>());
}

fn buckets(latency: &Latency) -> Buckets {
    buckets_at(latency, &BOUNDS_US)
}

fn buckets_at(latency: &Latency, bounds_us: &[u64]) -> Buckets {
    const US: f64 = 1e6;
    let up_to = bounds_us.iter().map(|&us| (float(us) / US, latency.within_us(us))).collect();
    Buckets { up_to, count: latency.count(), sum: float(latency.sum_us) / US }
}

fn prefetch(metrics: &Metrics, report: &PrefetchReport) {
    let counts = &report.counts;
    metrics.count(&m::PREFETCH, &["issued"], counts.issued);
    metrics.count(&m::PREFETCH, &["used"], counts.used);
    metrics.count(&m::PREFETCH, &["late"], counts.late);
    metrics.count(&m::PREFETCH, &["wasted"], counts.wasted);
    metrics.count(&m::PREFETCH, &["shadow"], counts.shadow);
    for (group, counts) in &report.key_groups {
        let outcomes =
            [("issued", counts.issued), ("used", counts.used), ("late", counts.late), ("wasted", counts.wasted)];
        for (outcome, count) in outcomes {
            metrics.count(&m::PREFETCH_GROUP, &[group, outcome], count);
        }
    }
    let evidence = &report.evidence;
    for (set, decisions) in [("without", evidence.without), ("with", evidence.with)] {
        metrics.count(&m::PREFETCH_CONTROL, &[set, "decided"], decisions.decided);
        metrics.count(&m::PREFETCH_CONTROL, &[set, "missed"], decisions.missed);
    }
    if let Some((gain, deviation)) = evidence.gain {
        metrics.set(&m::PREFETCH_GAIN, &[], gain);
        metrics.set(&m::PREFETCH_GAIN_DEVIATION, &[], deviation);
    }
    metrics.set(&m::PREFETCH_STAGED, &[], float(report.staged_entries));
    metrics.set(&m::PREFETCH_STAGED_BYTES, &[], float(report.staged_bytes));
    metrics.set(&m::PREFETCH_FLOOR, &[], f64::from(report.floor));
    metrics.count(&m::PREFETCH_BUSY, &[], report.busy);
    metrics.set(&m::LEARN_BYTES, &[], float(report.bytes));
    metrics.set(&m::LEARN_KEYS, &[], float(report.keys));
    let files = &report.snapshots;
    for (result, count) in
        [("loaded", files.loaded), ("set_aside", files.set_aside), ("written", files.written), ("failed", files.failed)]
    {
        metrics.count(&m::LEARN_SNAPSHOTS, &[result], count);
    }
    metrics.set(&m::LEARN_SNAPSHOT_BYTES, &[], float(files.bytes));
    metrics.count(&m::LEARN_DROPPED, &[], report.dropped);
}

fn coherence(metrics: &Metrics, snapshot: &Snapshot) {
    let coherence = &snapshot.coherence;
    metrics.set(&m::COHERENCE_OPEN, &[], f64::from(u8::from(coherence.l1_available)));
    // NaN before the first fence.
    metrics.set(&m::COHERENCE_FENCE_AGE, &[], coherence.fence_age_ms.map_or(f64::NAN, |age_ms| float(age_ms) / 1e3));
    metrics.count(&m::COHERENCE_INVALIDATIONS, &[], coherence.invalidations);
    metrics.count(&m::COHERENCE_FLUSHES, &[], coherence.flushes);
    metrics.count(&m::COHERENCE_RECONNECTS, &[], coherence.reconnects);
    metrics.count(&m::COHERENCE_CHECKED, &[], coherence.checked);
    metrics.count(&m::COHERENCE_STALE_DETECTED, &[], coherence.stale_detected);
    metrics.count(&m::COHERENCE_BYPASSED, &[], snapshot.fills.bypassed);
}

fn feed(metrics: &Metrics, feed: &FeedReport) {
    metrics.set(&m::WATCHERS, &[], float(feed.followers));
    metrics.count(&m::WATCH_EVENTS, &[], feed.delivered);
    metrics.count(&m::WATCH_DISCONTINUITIES, &[], feed.gaps);
}
