//! Declares every metric (name, labels, HELP text) and renders the page that Prometheus scrapes.
//!
//! Metrics cost nothing per request: the values are those of `GetStats` and `INFO`, and they are set when the page is
//! requested (`http::page`). The recorder belongs to one server, so several servers in a process do not share values.
//! Label values come from the short lists in this file and from the bounded list of key groups, never from keys.

use metrics::{Label, describe_counter, describe_gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;

/// Type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, since start.
    Counter,
    /// A current value.
    Gauge,
    /// Counts by bucket, since start.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name of the time series.
    pub name: &'static str,
    /// Type of the metric.
    pub kind: Kind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// HELP text.
    pub doc: &'static str,
}

/// Declares one constant per row, and the list of all of them.
macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $doc:literal;)+) => {
        $(
            #[doc = $doc]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], doc: $doc };
        )+
        /// All metrics of Terrace. The page also has the metrics of the process (`process_*`).
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    BUILD_INFO = "terrace_build_info", Gauge, ["version", "l2"], "Constant 1, labeled with the version and the L2 backend.";
    UPTIME = "terrace_uptime_seconds", Gauge, [], "Seconds since the server started.";
    DRAINING = "terrace_draining", Gauge, [], "1 during a graceful shutdown, otherwise 0.";
    READS = "terrace_reads_total", Counter, ["outcome"], "Keys read by clients, by outcome: hit_l1 (answered from L1), stale (answered from L1 past the coherence bound), hit_l2 (found in L2), miss (in no tier), error (the read failed).";
    READS_COALESCED = "terrace_reads_coalesced_total", Counter, [], "Keys that shared the L2 read of another request (single flight). The outcome of each key is counted as hit_l2, miss or error as well. Loads from the origin are not coalesced.";
    GROUP_READS = "terrace_group_reads_total", Counter, ["group", "outcome"], "Keys read by clients, by key group and outcome. A key group is a policy or a key template; at most 256 groups are distinguished, further keys belong to group other.";
    GROUP_ENTRIES = "terrace_group_l1_entries", Gauge, ["group"], "Entries in L1, by key group.";
    GROUP_BYTES = "terrace_group_l1_bytes", Gauge, ["group"], "Weight in bytes of the entries in L1, by key group.";
    GROUP_REMOVED = "terrace_group_l1_removed_total", Counter, ["group", "cause"], "Entries removed from L1, by key group and cause.";
    REQUEST_SECONDS = "terrace_request_seconds", Histogram, ["port"], "Time in seconds that requests spent in the server, by port: grpc (unary calls), resp (non-blocking commands). One request in 16 is timed and counted 16 times.";
    FLIGHTS = "terrace_flights", Gauge, [], "Keys whose L2 read is in flight.";
    TTL_ADVISED = "terrace_ttl_advised_seconds", Gauge, ["template"], "Advised TTL in seconds, by key template. Reported for at most 256 templates with enough evidence.";
    TTL_TUNED = "terrace_ttl_tuned_seconds", Gauge, ["template"], "TTL in seconds that writes without a TTL receive where a policy sets ttl = \"tune\" and the key recurs, by key template.";
    TOUCHES = "terrace_touches_total", Counter, ["result"], "Keys whose TTL a read should have extended (touch_on_read), by result: extended, left (not extended: full queue, L2 error, expired key, or a TTL that is already longer).";
    L1_ENTRIES = "terrace_l1_entries", Gauge, [], "Entries in L1.";
    L1_BYTES = "terrace_l1_bytes", Gauge, [], "Weight in bytes of the entries in L1: keys, values and metadata.";
    L1_CAPACITY = "terrace_l1_capacity_bytes", Gauge, [], "Maximum weight in bytes of the entries in L1 (l1.size).";
    L1_REMOVED = "terrace_l1_removed_total", Counter, ["cause"], "Entries removed from L1, by cause: size (evicted to free space, or prefetched and not read in time), expired, invalidated (changed in L2, or coherence was lost), replaced (overwritten by a newer value).";
    L1_WHAT_IF = "terrace_l1_what_if_hit_rate", Gauge, ["scale"], "Estimated share of reads that L1 would answer without prefetch at 0.5, 1, 2 and 4 times l1.size. Absent until enough reads were sampled.";
    L1_PROMOTED = "terrace_l1_promoted_total", Counter, [], "Values inserted into L1 after a read from L2.";
    L1_FILLS_VOIDED = "terrace_l1_fills_voided_total", Counter, [], "Values read from L2 that were not inserted into L1 because an invalidation arrived first.";
    L2_UP = "terrace_l2_up", Gauge, [], "1 while L2 responds, otherwise 0.";
    L2_KEYS_READ = "terrace_l2_keys_read_total", Counter, [], "Keys read from L2.";
    L2_OPS_WRITTEN = "terrace_l2_ops_written_total", Counter, [], "Write operations sent to L2.";
    L2_ERRORS = "terrace_l2_errors_total", Counter, [], "Keys and operations that L2 failed to serve.";
    L2_SECONDS = "terrace_l2_call_seconds", Histogram, ["call"], "Duration in seconds of calls to L2, by call: read, write. A call may carry many keys.";
    L2_DEADLINE_SECONDS = "terrace_l2_deadline_seconds", Gauge, ["call"], "Deadline in seconds of calls to L2, by call: read, write. Absent without an L2.";
    L2_DAMAGE = "terrace_l2_damage_total", Counter, [], "Damaged pieces of the embedded store that were found and removed: blocks of tables, ranges of journals, unreadable tables.";
    L2_PRIMARIES = "terrace_l2_primaries", Gauge, [], "Known Redis primaries.";
    L2_BREAKERS_OPEN = "terrace_l2_breakers_open", Gauge, [], "Redis primaries whose circuit breaker is open. Calls to these primaries fail immediately.";
    L2_BREAKER_OPENED = "terrace_l2_breaker_opened_total", Counter, [], "Circuit breaker openings, for the known Redis primaries.";
    COHERENCE_OPEN = "terrace_coherence_open", Gauge, [], "1 while L1 may answer reads, 0 while L1 is bypassed.";
    COHERENCE_FENCE_AGE = "terrace_coherence_fence_age_seconds", Gauge, [], "Fence age in seconds: time since all changes in Redis were known to have been received. L1 is bypassed above 1.";
    COHERENCE_FLUSHES = "terrace_coherence_flushes_total", Counter, [], "Invalidations of all L1 copies at once, after a flush, a slot migration or a role change in Redis.";
    COHERENCE_CHECKED = "terrace_coherence_checked_total", Counter, [], "L1 hits that the self-check compared with Redis after the coherence bound.";
    COHERENCE_STALE_DETECTED = "terrace_coherence_stale_detected_total", Counter, [], "L1 hits that the self-check found older than the coherence bound. A value above 0 is a bug.";
    COHERENCE_INVALIDATIONS = "terrace_coherence_invalidations_total", Counter, [], "Keys that Redis reported as changed.";
    COHERENCE_RECONNECTS = "terrace_coherence_reconnects_total", Counter, [], "Lost invalidation connections to Redis.";
    COHERENCE_BYPASSED = "terrace_coherence_bypassed_total", Counter, [], "Keys read from L2 because L1 was bypassed.";
    PREFETCH = "terrace_prefetch_total", Counter, ["outcome"], "Prefetched keys, by outcome: issued (read from L2), used (read by a client later), late (requested before the prefetch finished), wasted (never requested); shadow counts predictions without a read.";
    PREFETCH_STAGED = "terrace_prefetch_staged_entries", Gauge, [], "Prefetched entries in L1 that have not been read yet.";
    PREFETCH_STAGED_BYTES = "terrace_prefetch_staged_bytes", Gauge, [], "Weight in bytes of prefetched entries in L1 that have not been read yet.";
    PREFETCH_FLOOR = "terrace_prefetch_floor", Gauge, [], "Minimum probability of a prediction to be prefetched. Prefetch is paused while the value is above 1.";
    PREFETCH_BUSY = "terrace_prefetch_busy_total", Counter, [], "Events that the prefetch learner skipped because its queue was full.";
    PREFETCH_GROUP = "terrace_group_prefetch_total", Counter, ["group", "outcome"], "Prefetched keys, by key group and outcome: issued, used, late, wasted.";
    PREFETCH_CONTROL = "terrace_prefetch_control_total", Counter, ["set", "outcome"], "Prefetch decisions in the control experiment, by set: without (keys that are never prefetched), with (keys that are); one key in 16 belongs to each set. Outcome decided counts decisions, missed counts the decisions whose key then missed L1.";
    PREFETCH_GAIN = "terrace_prefetch_gain", Gauge, [], "Estimated share of L1 misses that prefetch avoided since start. Absent until the control experiment has enough samples.";
    PREFETCH_GAIN_DEVIATION = "terrace_prefetch_gain_deviation", Gauge, [], "Standard deviation of terrace_prefetch_gain.";
    LEARN_BYTES = "terrace_learn_bytes", Gauge, [], "Memory in bytes of the prefetch learner.";
    LEARN_KEYS = "terrace_learn_keys", Gauge, [], "Keys with learned associations.";
    LEARN_SNAPSHOTS = "terrace_learn_snapshots_total", Counter, ["result"], "Snapshots of the learned prefetch state, by result: loaded, set_aside (unusable, renamed), written, failed.";
    LEARN_SNAPSHOT_BYTES = "terrace_learn_snapshot_bytes", Gauge, [], "Size in bytes of the last snapshot written or loaded.";
    LEARN_DROPPED = "terrace_learn_dropped_total", Counter, [], "Events that were not recorded for learning because the buffer was full.";
    LOADS = "terrace_loads_total", Counter, ["outcome"], "Events of load leases, by outcome. Grants: granted_miss (key absent), granted_stale (value needed a refresh), granted_early (early refresh), granted_forced (requested refresh), granted_takeover (exclusive time of another client ended), granted_unfenced (nothing can be stored). Callers without a grant: waited (received the value that another client loaded), busy (another client loads, waiting time over), absent (origin does not have the key), failed (last load failed). Ends of loads: stored, lease_lost, changed, invalidated (not stored), load_failed (reported by the client), released (no load).";
    LOAD_SECONDS = "terrace_load_seconds", Histogram, ["group"], "Duration in seconds of loads from the origin, from the grant to the stored Fill, by key group. Absent for a group without a stored Fill.";
    LOAD_WAITERS = "terrace_load_waiters", Gauge, [], "Callers that wait for the loads of other clients.";
    ORIGIN_SAVED = "terrace_origin_seconds_saved_total", Counter, ["group"], "Time in seconds that the origin would have needed to load the keys that L1 and L2 answered, by key group: each hit counts as the mean duration of the group's loads at that time. Absent for a group without a stored Fill.";
    BANS_OPEN = "terrace_bans_open", Gauge, [], "Pattern bans whose keys are still being removed from L2.";
    WATCHERS = "terrace_watchers", Gauge, [], "Open Watch streams.";
    WATCH_EVENTS = "terrace_watch_events_total", Counter, [], "Change events sent to Watch streams, counted once per stream.";
    WATCH_DISCONTINUITIES = "terrace_watch_discontinuities_total", Counter, [], "Discontinuities sent to Watch streams. The client has to drop all its copies.";
    WARM_KEYS = "terrace_warm_keys_total", Counter, ["result"], "Keys processed by warm-up, by result: found (loaded from L2), absent (not in L2), resident (already in L1), failed.";
    WARM_LEFT = "terrace_warm_left", Gauge, [], "Hot keys of the previous run that warm-up has not processed yet.";
    WARMING = "terrace_warming", Gauge, [], "1 while a warm start is in progress, otherwise 0.";
    AUTH = "terrace_auth_total", Counter, ["port", "result"], "Logins with a token or password, by port and result: accepted, failed.";
    DENIED = "terrace_denied_total", Counter, ["user", "verb"], "Operations rejected because the user lacks a permission, by user and verb. At most 256 users are distinguished, further users are counted as other.";
    AUTH_FILES_REJECTED = "terrace_auth_files_rejected_total", Counter, [], "Faulty users files (auth.file) that were not put into effect.";
    CONNECTIONS = "terrace_connections", Gauge, ["port"], "Open client connections, by port: grpc, resp, http.";
    CONNECTIONS_REJECTED = "terrace_connections_rejected_total", Counter, [], "Client connections refused because a limit was reached.";
    TLS_NOT_AFTER = "terrace_tls_not_after_seconds", Gauge, ["port"], "End of the validity of the server certificate in seconds since 1970, by port: grpc, resp, http. Absent for a port without TLS.";
    TLS_HANDSHAKES_FAILED = "terrace_tls_handshakes_failed_total", Counter, ["port"], "Connections closed because the TLS handshake failed, by port: grpc, resp, http.";
    TLS_RELOADS_REJECTED = "terrace_tls_reloads_rejected_total", Counter, ["port"], "Changes of certificate, key or authority files that were rejected, by port: grpc, resp, http. The previous certificate stays in use.";
    IN_FLIGHT = "terrace_in_flight_bytes", Gauge, [], "Bytes of requests and responses in flight on all ports.";
    IN_FLIGHT_HOLDERS = "terrace_in_flight_holders", Gauge, [], "Connections that hold at least 64 KiB of requests and responses in flight.";
    IN_FLIGHT_LARGEST = "terrace_in_flight_largest_bytes", Gauge, [], "Bytes in flight of the connection that holds the most.";
    IN_FLIGHT_SHED = "terrace_in_flight_shed_total", Counter, [], "Requests rejected because server.max_in_flight had no room for them in time.";
    IN_FLIGHT_RESETS = "terrace_in_flight_resets_total", Counter, ["cause"], "Connections reset to free bytes in flight, by cause: full (server.max_in_flight was reached and the connection held the most bytes without progress), stalled (the client did not read its answers for 10 s).";
}

/// The metrics of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    page: PrometheusHandle,
    process: metrics_process::Collector,
    /// Rendered histograms and counters with fractions. The recorder supports neither, so they are rendered here.
    rendered: Mutex<String>,
}

/// A histogram counted by another module.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// Upper bounds of the buckets, and the number of samples up to each.
    pub up_to: Vec<(f64, u64)>,
    /// Number of samples.
    pub count: u64,
    /// Sum of the samples.
    pub sum: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (page, process) = (recorder.handle(), metrics_process::Collector::default());
        with_local_recorder(&recorder, || {
            process.describe();
            for metric in ALL {
                match metric.kind {
                    Kind::Counter => describe_counter!(metric.name, metric.doc),
                    Kind::Gauge => describe_gauge!(metric.name, metric.doc),
                    Kind::Histogram => {}
                }
            }
        });
        Self { recorder, page, process, rendered: Mutex::default() }
    }
}

impl Metrics {
    /// Sets a counter to a total counted by another module. `labels` are the label values, in the order of
    /// [`Metric::labels`].
    pub fn count(&self, metric: &Metric, labels: &[&str], total: u64) {
        with_local_recorder(&self.recorder, || metrics::counter!(metric.name, pairs(metric, labels)).absolute(total));
    }

    /// Sets a gauge. `labels` as for [`Metrics::count`].
    pub fn set(&self, metric: &Metric, labels: &[&str], value: f64) {
        with_local_recorder(&self.recorder, || metrics::gauge!(metric.name, pairs(metric, labels)).set(value));
    }

    /// Adds a histogram with one label to the next page, one series for each label value.
    pub fn histogram(&self, metric: &Metric, by_label: &[(&str, Buckets)]) {
        let mut text = format!("# HELP {name} {}\n# TYPE {name} histogram\n", metric.doc, name = metric.name);
        let label = metric.labels.first().copied().unwrap_or_default();
        for (value, Buckets { up_to, count, sum }) in by_label {
            let value = escaped(value);
            for (bound, within) in up_to {
                text += &format!("{}_bucket{{{label}=\"{value}\",le=\"{bound}\"}} {within}\n", metric.name);
            }
            text += &format!("{}_bucket{{{label}=\"{value}\",le=\"+Inf\"}} {count}\n", metric.name);
            text += &format!("{name}_sum{{{label}=\"{value}\"}} {sum}\n", name = metric.name);
            text += &format!("{name}_count{{{label}=\"{value}\"}} {count}\n", name = metric.name);
        }
        *self.rendered.lock() += &text;
    }

    /// Adds a counter with fractions and one label to the next page, one series for each label value.
    pub fn fractions(&self, metric: &Metric, by_label: &[(&str, f64)]) {
        let mut text = format!("# HELP {name} {}\n# TYPE {name} counter\n", metric.doc, name = metric.name);
        let label = metric.labels.first().copied().unwrap_or_default();
        for (value, total) in by_label {
            text += &format!("{}{{{label}=\"{}\"}} {total}\n", metric.name, escaped(value));
        }
        *self.rendered.lock() += &text;
    }

    /// Returns the page in Prometheus's text format: the values set before, and the metrics of the process.
    #[must_use]
    pub fn render(&self) -> String {
        with_local_recorder(&self.recorder, || self.process.collect());
        // This counter has fractions of seconds; the recorder supports them only in gauges.
        let page = self.page.render();
        let page = page.replace("# TYPE process_cpu_seconds_total gauge", "# TYPE process_cpu_seconds_total counter");
        page + &std::mem::take(&mut *self.rendered.lock())
    }

    /// Runs the periodic maintenance of the exporter. Without it, samples of histograms accumulate in memory.
    pub fn upkeep(&self) {
        self.page.run_upkeep();
    }
}

/// Escapes a label value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn pairs(metric: &Metric, values: &[&str]) -> Vec<Label> {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    metric.labels.iter().zip(values).map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
}
