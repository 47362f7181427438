//! Every metric: name, labels, one phrase of meaning; and the page that Prometheus reads.
//!
//! Nothing is paid per request: the values are those of `GetStats` and `INFO`, set when somebody asks for the page
//! (`http::page`). The recorder belongs to one server, so that several in a process do not mix. Labels come from the
//! short lists below and from the bounded list of key groups, never from keys.

use metrics::{Label, describe_counter, describe_gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, since start.
    Counter,
    /// A value of now.
    Gauge,
    /// Counts by size, since start.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name of the series.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub doc: &'static str,
}

/// One constant for each row, and the list of them all.
macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $doc:literal;)+) => {
        $(
            #[doc = $doc]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], doc: $doc };
        )+
        /// All metrics of Terrace; those of the process (`process_*`) stand beside them.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    BUILD_INFO = "terrace_build_info", Gauge, ["version", "l2"], "Always 1; the version and the kind of L2.";
    UPTIME = "terrace_uptime_seconds", Gauge, [], "Since the server began.";
    DRAINING = "terrace_draining", Gauge, [], "1 while the server takes no new work.";
    READS = "terrace_reads_total", Counter, ["outcome"], "User reads, each key once: hit_l1, stale, hit_l2, miss, error.";
    READS_COALESCED = "terrace_reads_coalesced_total", Counter, [], "Of hit_l2 and miss: joined another read's flight.";
    GROUP_READS = "terrace_group_reads_total", Counter, ["group", "outcome"], "User reads by key group (policy, else template, at most 256, else other) and outcome.";
    GROUP_ENTRIES = "terrace_group_l1_entries", Gauge, ["group"], "Entries in L1 by key group.";
    GROUP_BYTES = "terrace_group_l1_bytes", Gauge, ["group"], "Weight of the entries in L1 by key group.";
    GROUP_REMOVED = "terrace_group_l1_removed_total", Counter, ["group", "cause"], "Entries that left L1 by key group and cause.";
    REQUEST_SECONDS = "terrace_request_seconds", Histogram, ["port"], "How long requests took in the server: grpc (unary calls), resp (commands that do not block); one in 16 is timed and counts as 16.";
    FLIGHTS = "terrace_flights", Gauge, [], "Reads of L2 under way, each for one key.";
    TTL_ADVISED = "terrace_ttl_advised_seconds", Gauge, ["template"], "TTL that would suit the keys of a template; the first 256 of which enough is known.";
    TTL_TUNED = "terrace_ttl_tuned_seconds", Gauge, ["template"], "TTL that writes of a template without one get where a policy tunes it, if their key comes back.";
    TOUCHES = "terrace_touches_total", Counter, ["result"], "Keys that a read was to give more life (touch_on_read): extended; or left, because L2 failed, or the key was gone or lived longer already.";
    L1_ENTRIES = "terrace_l1_entries", Gauge, [], "Entries in L1.";
    L1_BYTES = "terrace_l1_bytes", Gauge, [], "Weight of the entries in L1: keys, values and everything kept for them.";
    L1_CAPACITY = "terrace_l1_capacity_bytes", Gauge, [], "Bound on the weight (l1.size).";
    L1_REMOVED = "terrace_l1_removed_total", Counter, ["cause"], "Entries that left L1: size, expired, invalidated, replaced.";
    L1_WHAT_IF = "terrace_l1_what_if_hit_rate", Gauge, ["scale"], "The part of reads that L1 would answer at 0.5, 1, 2, 4 times its size without prefetch, estimated; absent before the first.";
    L1_PROMOTED = "terrace_l1_promoted_total", Counter, [], "Values brought up from L2.";
    L1_FILLS_VOIDED = "terrace_l1_fills_voided_total", Counter, [], "Fills that an invalidation overtook: nothing was inserted.";
    L2_UP = "terrace_l2_up", Gauge, [], "1 while L2 answers.";
    L2_KEYS_READ = "terrace_l2_keys_read_total", Counter, [], "Keys read from L2.";
    L2_OPS_WRITTEN = "terrace_l2_ops_written_total", Counter, [], "Operations written to L2.";
    L2_ERRORS = "terrace_l2_errors_total", Counter, [], "Keys and operations that ended in an error of L2.";
    L2_SECONDS = "terrace_l2_call_seconds", Histogram, ["call"], "How long calls to L2 took: read, write; each may carry many keys.";
    L2_PRIMARIES = "terrace_l2_primaries", Gauge, [], "Primaries of Redis that are known.";
    L2_BREAKERS_OPEN = "terrace_l2_breakers_open", Gauge, [], "Primaries whose circuit breaker is open: calls are refused at once.";
    L2_BREAKER_OPENED = "terrace_l2_breaker_opened_total", Counter, [], "Times that a circuit breaker opened, of the primaries that are known.";
    COHERENCE_OPEN = "terrace_coherence_open", Gauge, [], "1 while L1 may answer.";
    COHERENCE_FENCE_AGE = "terrace_coherence_fence_age_seconds", Gauge, [], "Time since all changes were known to have been heard; over 1 L1 is bypassed.";
    COHERENCE_FLUSHES = "terrace_coherence_flushes_total", Counter, [], "Times that all copies were ended at once: a flush, slots or a role that changed.";
    COHERENCE_CHECKED = "terrace_coherence_checked_total", Counter, [], "Hits that were looked at again after the coherence bound.";
    COHERENCE_STALE_DETECTED = "terrace_coherence_stale_detected_total", Counter, [], "Of these, copies older than the bound allows: always 0, or a bug.";
    COHERENCE_INVALIDATIONS = "terrace_coherence_invalidations_total", Counter, [], "Keys that Redis announced as changed.";
    COHERENCE_RECONNECTS = "terrace_coherence_reconnects_total", Counter, [], "Losses of the invalidation link.";
    COHERENCE_BYPASSED = "terrace_coherence_bypassed_total", Counter, [], "Keys read while L1 was closed.";
    PREFETCH = "terrace_prefetch_total", Counter, ["outcome"], "Keys prefetched: issued; of these used, late (asked for on their way), wasted; and shadow, predicted only.";
    PREFETCH_STAGED = "terrace_prefetch_staged_entries", Gauge, [], "Prefetched entries in L1 that wait for their first use.";
    PREFETCH_STAGED_BYTES = "terrace_prefetch_staged_bytes", Gauge, [], "Their weight.";
    PREFETCH_FLOOR = "terrace_prefetch_floor", Gauge, [], "The probability that is asked of a prediction; above 1 nothing is fetched.";
    PREFETCH_BUSY = "terrace_prefetch_busy_total", Counter, [], "Events that taught nothing: the learner was at work, and too many waited for it already.";
    PREFETCH_GROUP = "terrace_group_prefetch_total", Counter, ["group", "outcome"], "Keys prefetched by key group: issued, used, late, wasted.";
    PREFETCH_CONTROL = "terrace_prefetch_control_total", Counter, ["set", "outcome"], "Decisions to fetch a key of a sample, one key in 16 each: of set without (not fetched) and with (fetched); decided, and of these missed.";
    PREFETCH_GAIN = "terrace_prefetch_gain", Gauge, [], "The part of misses that prefetch has spared since start, by these samples; absent before enough is known.";
    PREFETCH_GAIN_DEVIATION = "terrace_prefetch_gain_deviation", Gauge, [], "One standard deviation of it.";
    LEARN_BYTES = "terrace_learn_bytes", Gauge, [], "Memory of what was learned for prefetch.";
    LEARN_KEYS = "terrace_learn_keys", Gauge, [], "Keys whose successors are known.";
    LEARN_SNAPSHOTS = "terrace_learn_snapshots_total", Counter, ["result"], "Files of what was learned: loaded, set_aside (not usable), written, failed.";
    LEARN_SNAPSHOT_BYTES = "terrace_learn_snapshot_bytes", Gauge, [], "Size of the last one that was written or loaded.";
    LEARN_DROPPED = "terrace_learn_dropped_total", Counter, [], "Events that found no room in the tap.";
    BANS_OPEN = "terrace_bans_open", Gauge, [], "Invalidated patterns whose matching values are still being removed from L2.";
    WATCHERS = "terrace_watchers", Gauge, [], "Clients that watch invalidations.";
    WATCH_EVENTS = "terrace_watch_events_total", Counter, [], "Changes told to them, each client's counted.";
    WATCH_DISCONTINUITIES = "terrace_watch_discontinuities_total", Counter, [], "Times that one was told to drop everything.";
    WARM_KEYS = "terrace_warm_keys_total", Counter, ["result"], "Keys of warming up: found in L2, absent, resident already, failed.";
    WARM_LEFT = "terrace_warm_left", Gauge, [], "Hot keys of the former life that are still to be pulled from L2.";
    WARMING = "terrace_warming", Gauge, [], "1 while a warm start goes on.";
    CONNECTIONS = "terrace_connections", Gauge, ["port"], "Clients connected: grpc, resp, http.";
    CONNECTIONS_REJECTED = "terrace_connections_rejected_total", Counter, [], "Clients refused because of a limit.";
    IN_FLIGHT = "terrace_in_flight_bytes", Gauge, [], "Requests and answers under way on all ports.";
}

/// The metrics of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    page: PrometheusHandle,
    process: metrics_process::Collector,
    /// Histograms that were counted elsewhere: the recorder only takes single samples.
    histograms: Mutex<String>,
}

/// A histogram as it was counted elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// Upper bounds, and how many were not above them.
    pub up_to: Vec<(f64, u64)>,
    /// How many there are.
    pub count: u64,
    /// Their sum.
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
        Self { recorder, page, process, histograms: Mutex::default() }
    }
}

impl Metrics {
    /// Sets a counter to what was counted elsewhere. `labels` are the values, in the order of [`Metric::labels`].
    pub fn count(&self, metric: &Metric, labels: &[&str], total: u64) {
        with_local_recorder(&self.recorder, || metrics::counter!(metric.name, pairs(metric, labels)).absolute(total));
    }

    /// Sets a gauge. `labels` as for [`Metrics::count`].
    pub fn set(&self, metric: &Metric, labels: &[&str], value: f64) {
        with_local_recorder(&self.recorder, || metrics::gauge!(metric.name, pairs(metric, labels)).set(value));
    }

    /// Puts a histogram of one label on the next page: one line for each bucket.
    pub fn histogram(&self, metric: &Metric, by_label: &[(&str, Buckets)]) {
        let mut text = format!("# HELP {name} {}\n# TYPE {name} histogram\n", metric.doc, name = metric.name);
        let label = metric.labels.first().copied().unwrap_or_default();
        for (value, Buckets { up_to, count, sum }) in by_label {
            for (bound, within) in up_to {
                text += &format!("{}_bucket{{{label}=\"{value}\",le=\"{bound}\"}} {within}\n", metric.name);
            }
            text += &format!("{}_bucket{{{label}=\"{value}\",le=\"+Inf\"}} {count}\n", metric.name);
            text += &format!("{name}_sum{{{label}=\"{value}\"}} {sum}\n", name = metric.name);
            text += &format!("{name}_count{{{label}=\"{value}\"}} {count}\n", name = metric.name);
        }
        *self.histograms.lock() += &text;
    }

    /// The page in Prometheus's text format, with the values set before and those of the process.
    #[must_use]
    pub fn render(&self) -> String {
        with_local_recorder(&self.recorder, || self.process.collect());
        // A counter with fractions of seconds, which the recorder can only hold as a gauge.
        let page = self.page.render();
        let page = page.replace("# TYPE process_cpu_seconds_total gauge", "# TYPE process_cpu_seconds_total counter");
        page + &std::mem::take(&mut *self.histograms.lock())
    }

    /// What the exporter wants done every few seconds; without it samples of histograms would pile up.
    pub fn upkeep(&self) {
        self.page.run_upkeep();
    }
}

fn pairs(metric: &Metric, values: &[&str]) -> Vec<Label> {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    metric.labels.iter().zip(values).map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
}
