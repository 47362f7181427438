//! INFO: the sections of Redis that apply to Terrace, and eight Terrace sections.
//!
//! Lines end with CR LF, because tools depend on it. Redis fields without a meaning in Terrace are omitted. Fields that
//! tools compute with are included with a constant that is true for Terrace, such as 0 for snapshots in progress.

use std::{fmt::Write as _, sync::atomic::Ordering::Relaxed};

use super::connection::REDIS_VERSION;
use crate::{
    cache::{
        Flavor, LoadOutcome,
        stats::histogram::Latency,
        stats::{Learning, Reads, Snapshot},
    },
    clock::{Tick, millis},
    node::VERSION,
    resp::{Edge, command::Context, frame::Args, process, reply::Done},
};

/// Requests that include a section.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// In `INFO`, `default`, `all` and `everything`.
    Default,
    /// In `all` and `everything`.
    All,
    /// In `everything` only. Every section can also be requested by name.
    Everything,
}

type Write = fn(&mut Report<'_>);

/// All sections, in output order.
const SECTIONS: &[(&str, &str, Shown, Write)] = &[
    ("server", "Server", Shown::Default, |report| report.server()),
    ("clients", "Clients", Shown::Default, |report| report.clients()),
    ("memory", "Memory", Shown::Default, |report| report.memory()),
    ("persistence", "Persistence", Shown::Default, |report| report.persistence()),
    ("stats", "Stats", Shown::Default, |report| report.stats()),
    ("replication", "Replication", Shown::Default, |report| report.replication()),
    ("cpu", "CPU", Shown::Default, |report| report.cpu()),
    // Without modules only the title, which clients look for.
    ("modules", "Modules", Shown::Default, |_| ()),
    ("commandstats", "Commandstats", Shown::All, |report| report.commandstats()),
    ("latencystats", "Latencystats", Shown::All, |report| report.latencystats()),
    ("errorstats", "Errorstats", Shown::Default, |report| report.errorstats()),
    ("cluster", "Cluster", Shown::Default, |report| report.cluster()),
    ("keyspace", "Keyspace", Shown::Default, |report| report.keyspace()),
    ("tier_l1", "Tier_l1", Shown::Everything, |report| report.tier_l1()),
    ("tier_l2", "Tier_l2", Shown::Everything, |report| report.tier_l2()),
    ("windows", "Windows", Shown::Everything, |report| report.windows()),
    ("groups", "Groups", Shown::Everything, |report| report.groups()),
    ("learning", "Learning", Shown::Everything, |report| report.learning()),
    ("loads", "Loads", Shown::Everything, |report| report.loads()),
    ("coherence", "Coherence", Shown::Everything, |report| report.coherence()),
    ("warm", "Warm", Shown::Everything, |report| report.warm()),
];

/// INFO [section ...]
pub(in crate::resp) async fn info(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let wanted = |name: &str, shown: Shown| {
        let asked = |word: &[u8]| word.eq_ignore_ascii_case(name.as_bytes()) || group(word).is_some_and(|g| shown <= g);
        if args.len() == 1 { shown == Shown::Default } else { args.from(1).iter().any(asked) }
    };
    let sections: Vec<_> = SECTIONS.iter().filter(|(name, _, shown, _)| wanted(name, *shown)).collect();
    // The only part that reads from L2; it is omitted if L2 is unavailable.
    let keyspace = match sections.iter().any(|(name, ..)| *name == "keyspace") {
        true => l2_keyspace(cx.edge).await,
        false => None,
    };
    let mut report =
        Report { edge: cx.edge, now: cx.now, text: String::new(), snapshot: cx.edge.cache.snapshot(), keyspace };
    for (_, title, _, write) in sections {
        if !report.text.is_empty() {
            report.text.push_str("\r\n");
        }
        report.line(format_args!("# {title}"));
        write(&mut report);
    }
    let text = report.text;
    cx.reply.verbatim(&text);
    Ok(())
}

/// Returns `keys=...,expires=...,avg_ttl=...` of db 0, if it has keys and L2 responds.
async fn l2_keyspace(edge: &Edge) -> Option<String> {
    let keys = edge.cache.count().await.ok().filter(|keys| *keys > 0)?;
    if edge.cache.flavor() == Flavor::Redis
        && let Some(line) = edge.cache.keyspace_of_redis(keys).await
    {
        return Some(line);
    }
    let expires = if edge.cache.flavor() == Flavor::None { edge.cache.count_expiring() } else { 0 };
    Some(format!("keys={keys},expires={expires},avg_ttl=0"))
}

/// Returns the sections that a group name such as `all` includes.
fn group(word: &[u8]) -> Option<Shown> {
    match word {
        word if word.eq_ignore_ascii_case(b"default") => Some(Shown::Default),
        word if word.eq_ignore_ascii_case(b"all") => Some(Shown::All),
        word if word.eq_ignore_ascii_case(b"everything") => Some(Shown::Everything),
        _ => None,
    }
}

impl PartialOrd for Shown {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}

/// An INFO report.
struct Report<'r> {
    edge: &'r Edge,
    now: Tick,
    text: String,
    snapshot: Snapshot,
    /// Keyspace line of db 0: number of keys, number of keys with a TTL, mean TTL.
    keyspace: Option<String>,
}

/// Writes `name:value` lines.
macro_rules! fields {
    ($report:expr, $($name:literal: $value:expr),+ $(,)?) => {
        // Writing to a String cannot fail.
        $(let _ok = write!($report.text, concat!($name, ":{}\r\n"), $value);)+
    };
}

impl Report<'_> {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ok = write!(self.text, "{line}\r\n");
    }

    fn server(&mut self) {
        let node = &self.edge.node;
        let uptime = self.now.since(node.started_at).as_secs();
        let resp = node.addresses.get().map(|addresses| addresses.resp.clone()).unwrap_or_default();
        let port =
            resp.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok()).unwrap_or("0");
        let clock = self.edge.cache.core().clock();
        fields!(self,
            "redis_version": REDIS_VERSION,
            "terrace_version": VERSION,
            "redis_mode": "standalone",
            "os": process::operating_system(),
            "arch_bits": usize::BITS,
            "multiplexing_api": "epoll",
            "process_id": std::process::id(),
            "run_id": node.run_id,
            "tcp_port": port,
            "server_time_usec": clock.unix().0.saturating_mul(1000),
            "uptime_in_seconds": uptime,
            "uptime_in_days": uptime / 86_400,
        );
    }

    fn clients(&mut self) {
        let connected = self.edge.shared.client_count();
        let blocked = self.edge.shared.clients().iter().filter(|client| client.blocked.load(Relaxed)).count();
        fields!(self,
            "connected_clients": connected,
            "cluster_connections": 0,
            "maxclients": self.edge.settings.load().clients_max,
            "blocked_clients": blocked,
            "tracking_clients": 0,
        );
    }

    fn memory(&mut self) {
        let memory = process::memory();
        let peak = self.edge.shared.note_peak(memory.used_bytes);
        let capacity = self.snapshot.l1.capacity_bytes;
        fields!(self,
            "used_memory": memory.used_bytes,
            "used_memory_human": human(memory.used_bytes),
            "used_memory_rss": memory.resident_bytes,
            "used_memory_rss_human": human(memory.resident_bytes),
            "used_memory_peak": peak,
            "used_memory_peak_human": human(peak),
            "used_memory_dataset": self.snapshot.l1.bytes,
            "maxmemory": capacity,
            "maxmemory_human": human(capacity),
            "maxmemory_policy": "allkeys-lru",
            "mem_fragmentation_ratio": hundredths(memory.resident_bytes, memory.used_bytes),
            "mem_allocator": process::ALLOCATOR,
        );
    }

    fn persistence(&mut self) {
        fields!(self,
            "loading": 0,
            "async_loading": 0,
            "rdb_changes_since_last_save": 0,
            "rdb_bgsave_in_progress": 0,
            "rdb_last_bgsave_status": "ok",
            "aof_enabled": 0,
            "aof_rewrite_in_progress": 0,
            "aof_rewrite_scheduled": 0,
            "aof_last_bgrewrite_status": "ok",
            "aof_last_write_status": "ok",
        );
    }

    fn stats(&mut self) {
        let edge = self.edge;
        let (totals, connections) = (edge.shared.statistics.totals(), &edge.node.connections);
        let rates = edge.shared.statistics.rates(self.now, edge.node.started_at);
        let reads = self.snapshot.reads;
        fields!(self,
            "total_connections_received": connections.resp_accepted.load(Relaxed),
            "total_commands_processed": totals.commands,
            "instantaneous_ops_per_sec": rates.commands_per_second,
            "total_net_input_bytes": totals.received_bytes,
            "total_net_output_bytes": totals.sent_bytes,
            "instantaneous_input_kbps": hundredths(rates.received_bytes_per_second, 1024),
            "instantaneous_output_kbps": hundredths(rates.sent_bytes_per_second, 1024),
            "rejected_connections": connections.rejected.load(Relaxed),
            "sync_full": 0,
            "sync_partial_ok": 0,
            "sync_partial_err": 0,
            "expired_keys": self.snapshot.removals.expired,
            "evicted_keys": self.snapshot.removals.size,
            "keyspace_hits": reads.hit_l1 + reads.stale + reads.hit_l2,
            "keyspace_misses": reads.miss,
            "pubsub_channels": edge.shared.hub.channel_count(),
            "pubsub_patterns": edge.shared.hub.pattern_count(),
            "total_error_replies": edge.shared.statistics.errors().values().sum::<u64>(),
        );
    }

    fn replication(&mut self) {
        fields!(self, "role": "master", "connected_slaves": 0, "master_repl_offset": 0);
    }

    fn cpu(&mut self) {
        let times = process::cpu_times();
        fields!(self,
            "used_cpu_sys": hundredths(times.system_ticks, process::TICKS_PER_SECOND),
            "used_cpu_user": hundredths(times.user_ticks, process::TICKS_PER_SECOND),
        );
    }

    fn commandstats(&mut self) {
        for number in self.edge.commands.numbers() {
            let sums = self.edge.shared.statistics.calls(number);
            if sums.calls + sums.rejected == 0 {
                continue;
            }
            let name = self.edge.commands.name_of(number);
            let per_call = hundredths(sums.nanoseconds, sums.calls.max(1).saturating_mul(1000));
            self.line(format_args!(
                "cmdstat_{name}:calls={},usec={},usec_per_call={per_call},rejected_calls={},failed_calls={}",
                sums.calls,
                sums.nanoseconds / 1000,
                sums.rejected,
                sums.failed,
            ));
        }
    }

    fn latencystats(&mut self) {
        for number in self.edge.commands.numbers() {
            let Some(durations) = self.edge.shared.statistics.durations(number) else { continue };
            let name = self.edge.commands.name_of(number);
            let at = |quantile| thousandths(durations.quantile_us(quantile).unwrap_or(0));
            let (median, p99, p999) = (at(0.5), at(0.99), at(0.999));
            self.line(format_args!("latency_percentiles_usec_{name}:p50={median},p99={p99},p99.9={p999}"));
        }
    }

    fn cluster(&mut self) {
        fields!(self, "cluster_enabled": 0);
    }

    fn learning(&mut self) {
        let learned = self.edge.cache.count_learned();
        let Learning { prefetch, ttl, touches } = std::mem::take(&mut self.snapshot.learning);
        fields!(self,
            "learning_keys": learned,
            "learning_prefetch_issued": prefetch.counts.issued,
            "learning_prefetch_used": prefetch.counts.used,
            "learning_prefetch_late": prefetch.counts.late,
            "learning_prefetch_wasted": prefetch.counts.wasted,
            "learning_prefetch_shadow": prefetch.counts.shadow,
            "learning_prefetch_floor": format!("{:.4}", prefetch.floor),
            "learning_staged_entries": prefetch.staged_entries,
            "learning_known_keys": prefetch.keys,
            "learning_bytes": prefetch.bytes,
            "learning_dropped": prefetch.dropped,
            "learning_busy": prefetch.busy,
            "learning_ttl_keys": ttl.keys,
            "learning_ttl_templates": ttl.templates,
            "learning_ttl_hot_keys": ttl.hot_keys,
            "learning_touches_extended": touches.extended,
            "learning_touches_left": touches.left,
        );
    }

    fn loads(&mut self) {
        let figures = std::mem::take(&mut self.snapshot.loads);
        fields!(self,
            "loads_waiters": self.snapshot.load_waiters,
            "loads_started": figures.started(),
        );
        for outcome in LoadOutcome::ALL {
            self.line(format_args!("loads_{}:{}", outcome.name(), figures.loads.of(outcome)));
        }
        fields!(self,
            "loads_mean_ms": thousandths(figures.loads.mean().map_or(0, |mean| mean.as_micros() as u64)),
            "loads_p99_ms": thousandths(figures.loads.durations.quantile_us(0.99).unwrap_or(0)),
            "loads_origin_seconds_saved": thousandths(millis(figures.saved)),
        );
    }

    fn errorstats(&mut self) {
        for (code, count) in self.edge.shared.statistics.errors() {
            self.line(format_args!("errorstat_{code}:count={count}"));
        }
    }

    /// Writes the keyspace of L2. The mean TTL is unknown without Redis, and over the embedded store also the number of keys
    /// with a TTL; they are reported as 0, as Redis does for an empty sample.
    fn keyspace(&mut self) {
        if let Some(keyspace) = self.keyspace.take() {
            self.line(format_args!("db0:{keyspace}"));
        }
        if !self.edge.cache.principal().sees_all() {
            return;
        }
        let resident = self.snapshot.l1.entries;
        if resident > 0 {
            let expires = self.edge.cache.count_expiring();
            self.line(format_args!("db1:keys={resident},expires={expires},avg_ttl=0"));
        }
        let learned = self.edge.cache.count_learned();
        if learned > 0 {
            self.line(format_args!("db2:keys={learned},expires=0,avg_ttl=0"));
        }
    }

    fn tier_l1(&mut self) {
        let (l1, removals, reads) = (self.snapshot.l1, self.snapshot.removals, self.snapshot.reads);
        fields!(self,
            "l1_entries": l1.entries,
            "l1_bytes": l1.bytes,
            "l1_capacity_bytes": l1.capacity_bytes,
            "l1_open": u8::from(self.snapshot.coherence.l1_available),
            "l1_hits": reads.hit_l1,
            "l1_stale": reads.stale,
            "l1_hit_rate": rate(reads.l1_hit_rate()),
            "l1_promoted": self.snapshot.fills.promoted,
            "l1_removed_size": removals.size,
            "l1_removed_expired": removals.expired,
            "l1_removed_invalidated": removals.invalidated,
            "l1_removed_replaced": removals.replaced,
        );
        for size in std::mem::take(&mut self.snapshot.what_if.sizes) {
            self.line(format_args!("l1_hit_rate_at_{}x:{}", size.scale, rate(size.l1_hit_rate)));
        }
    }

    fn tier_l2(&mut self) {
        let reads = self.snapshot.reads;
        let state = match &self.snapshot.l2 {
            crate::cache::State::Connecting => "connecting",
            crate::cache::State::Up => "up",
            crate::cache::State::Down(_) => "down",
        };
        fields!(self,
            "l2_flavor": self.snapshot.flavor.name(),
            "l2_state": state,
            "l2_hits": reads.hit_l2,
            "l2_misses": reads.miss,
            "l2_errors": reads.error,
            "l2_hit_rate": rate(reads.l2_hit_rate()),
            "l2_coalesced": reads.coalesced,
            "l2_flights": self.snapshot.flights,
            "l2_primaries": self.snapshot.health.primaries,
            "l2_breakers_open": self.snapshot.health.breakers_open,
            "l2_damage": self.snapshot.health.damage,
        );
    }

    /// Writes one line per time window.
    fn windows(&mut self) {
        for window in std::mem::take(&mut self.snapshot.windows) {
            let (reads, removals) = (&window.total.reads, &window.total.removals);
            let percentile = |quantile| window.read.quantile_us(quantile).unwrap_or(0);
            let p99 = |latency: &Latency| latency.quantile_us(0.99).unwrap_or(0);
            self.line(format_args!(
                "window_{}:over_ms={},{},removed={},l2_reads={},l2_read_p50_us={},l2_read_p99_us={},grpc_p99_us={},resp_p99_us={},\
                 prefetched={},prefetch_used={},invalidations={},bypassed={}",
                window.name,
                millis(window.over),
                outcomes(reads),
                removals.total(),
                window.read.count(),
                percentile(0.5),
                percentile(0.99),
                p99(&window.requests.grpc),
                p99(&window.requests.resp),
                window.prefetch.issued,
                window.prefetch.used,
                window.upkeep.invalidations,
                window.upkeep.bypassed,
            ));
        }
    }

    /// Writes the key groups since start. The name is the last field, because it may contain any character except a
    /// line end.
    fn groups(&mut self) {
        for (number, group) in std::mem::take(&mut self.snapshot.groups).iter().enumerate() {
            let (entries, bytes) = (group.entries, group.bytes);
            let (reads, removed) = (outcomes(&group.tally.reads), group.tally.removals.total());
            let name = &group.name;
            self.line(format_args!(
                "group_{number}:entries={entries},bytes={bytes},{reads},removed={removed},name={name}"
            ));
        }
    }

    /// Writes the progress of warm-up, after the start or by command.
    fn warm(&mut self) {
        let progress = self.edge.cache.core().warm_up_progress();
        fields!(self,
            "warm_at_work": u8::from(progress.is_running),
            "warm_left": progress.left,
            "warm_found": progress.keys.found,
            "warm_absent": progress.keys.absent,
            "warm_resident": progress.keys.resident,
            "warm_failed": progress.keys.failed,
        );
    }

    fn coherence(&mut self) {
        let refused = self.snapshot.coherence.refused.clone().unwrap_or_default().replace(['\r', '\n'], " ");
        fields!(self,
            "coherence_l1_open": u8::from(self.snapshot.coherence.l1_available),
            "coherence_refused": refused,
            "coherence_fence_age_ms": self.snapshot.coherence.fence_age_ms.map_or(-1, |age| age as i64),
            "coherence_invalidations": self.snapshot.coherence.invalidations,
            "coherence_flushes": self.snapshot.coherence.flushes,
            "coherence_link_losses": self.snapshot.coherence.reconnects,
            "coherence_checked": self.snapshot.coherence.checked,
            "coherence_stale_detected": self.snapshot.coherence.stale_detected,
            "coherence_fills_voided": self.snapshot.fills.voided,
            "coherence_reads_bypassed": self.snapshot.fills.bypassed,
        );
    }
}

fn outcomes(reads: &Reads) -> String {
    format!(
        "hit_l1={},stale={},hit_l2={},miss={},error={},l1_hit_rate={},l2_hit_rate={}",
        reads.hit_l1,
        reads.stale,
        reads.hit_l2,
        reads.miss,
        reads.error,
        rate(reads.l1_hit_rate()),
        rate(reads.l2_hit_rate()),
    )
}

/// Formats a number of thousandths of a unit with three decimals.
fn thousandths(number: u64) -> String {
    format!("{}.{:03}", number / 1000, number % 1000)
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "0.0000".to_owned(), |rate| format!("{rate:.4}"))
}

/// Formats `part / whole` with two decimals; 0 / 0 is 0.
fn hundredths(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 100 / u128::from(whole.max(1));
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Formats bytes like the `_human` fields of Redis.
fn human(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    let unit = UNITS.iter().find(|(size, _)| bytes >= *size);
    unit.map_or_else(|| format!("{bytes}B"), |(size, name)| format!("{}{name}", hundredths(bytes, *size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(human(985), "985B");
        assert_eq!(human(1_008_744), "985.10K");
        assert_eq!(human(3 << 30), "3.00G");
        assert_eq!(hundredths(1, 3), "0.33");
        assert_eq!(hundredths(5, 0), "5.00");
    }
}
