//! Statistics as text tables.

use super::{
    super::figures::{bytes, count, key, micros, percent, span},
    Seen,
    columns::{row, table},
    loads,
};
use crate::proto::{
    GetAssociationsResponse, GetStatsResponse, GetTtlAdviceResponse, HotKeyTtl, LatencyStats, PrefetchControl,
    PrefetchCounts, ReadStats, RemovalStats, TopBy, TtlAdvice, TtlOutcome, WindowStats,
};

/// Maximum displayed length of the name of a group or key, in characters.
const NAME: usize = 36;

/// Formats all statistics.
pub(super) fn all(server: &str, seen: &Seen, window: &str, top: u32) -> String {
    let mut parts = vec![head(server, &seen.stats), windows(&seen.stats.windows), groups(&seen.stats, window, top)];
    parts.extend(seen.top.iter().filter(|(_, top)| !top.keys.is_empty()).map(|(by, top)| ranking(*by, top)));
    parts.push(loads::by_group(&seen.stats, top));
    parts.push(prefetch(&seen.prefetch, top));
    parts.push(sizes(seen));
    parts.retain(|part| !part.is_empty());
    parts.join("\n").trim_end().to_owned()
}

fn head(server: &str, stats: &GetStatsResponse) -> String {
    let (l1, l2) = (stats.l1.unwrap_or_default(), stats.l2.clone().unwrap_or_default());
    let coherence = stats.coherence.clone().unwrap_or_default();
    let connections = stats.connections.unwrap_or_default();
    format!(
        "{server}  up {}  L1 {}, {} entries, {} of {}  L2 {} {}  clients: {} gRPC, {} RESP\n",
        span(stats.uptime_ms),
        if coherence.open { "in use" } else { "bypassed" },
        count(l1.entries as f64),
        bytes(l1.bytes),
        bytes(l1.capacity_bytes),
        l2.kind,
        if l2.up { "up" } else { "down" },
        connections.grpc,
        connections.resp,
    )
}

/// Returns the number of user reads with any outcome.
pub(in crate::cli) fn total(reads: &ReadStats) -> u64 {
    reads.hit_l1 + reads.stale + reads.hit_l2 + reads.miss + reads.error
}

/// Returns the number of entries that were removed, for any reason.
pub(in crate::cli) fn removed(removed: &RemovalStats) -> u64 {
    removed.size + removed.expired + removed.invalidated + removed.replaced
}

/// Returns the rate per second.
pub(in crate::cli) fn per_second(number: u64, over_ms: i64) -> f64 {
    if over_ms > 0 { number as f64 * 1e3 / over_ms as f64 } else { 0.0 }
}

fn windows(windows: &[WindowStats]) -> String {
    let mut rows = vec![row(["window"])];
    rows[0].extend(windows.iter().map(|window| match &*window.name {
        "start" => format!("since start, {}", span(window.over_ms)),
        name => name.to_owned(),
    }));
    let mut line = |name: &str, cell: &dyn Fn(&WindowStats, &ReadStats, &RemovalStats) -> String| {
        let cells = windows
            .iter()
            .map(|window| cell(window, &window.reads.unwrap_or_default(), &window.removed.unwrap_or_default()));
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    };
    line("reads/s", &|window, reads, _| count(per_second(total(reads), window.over_ms)));
    line("L1 hit rate", &|_, reads, _| percent(reads.l1_hit_rate));
    line("L2 hit rate", &|_, reads, _| percent(reads.l2_hit_rate));
    line("L1 hits", &|_, reads, _| count(reads.hit_l1 as f64));
    line("stale", &|_, reads, _| count(reads.stale as f64));
    line("L2 hits", &|_, reads, _| count(reads.hit_l2 as f64));
    line("misses", &|_, reads, _| count(reads.miss as f64));
    line("errors", &|_, reads, _| count(reads.error as f64));
    line("coalesced", &|_, reads, _| count(reads.coalesced as f64));
    line("L1 removals: space", &|_, _, removed| count(removed.size as f64));
    line("L1 removals: expired", &|_, _, removed| count(removed.expired as f64));
    line("L1 removals: changed", &|_, _, removed| count((removed.invalidated + removed.replaced) as f64));
    line("prefetched", &|window, _, _| count(window.prefetch.map_or(0, |prefetch| prefetch.issued) as f64));
    line("prefetched and used", &|window, _, _| count(window.prefetch.map_or(0, |prefetch| prefetch.used) as f64));
    line(
        "invalidations",
        &|window, _, _| count(window.coherence.map_or(0, |coherence| coherence.invalidations) as f64),
    );
    line("reads that bypassed L1", &|window, _, _| {
        count(window.coherence.map_or(0, |coherence| coherence.bypassed) as f64)
    });
    line("gRPC p50", &|window, _, _| micros(latency(window.grpc_request).p50_us));
    line("gRPC p99", &|window, _, _| micros(latency(window.grpc_request).p99_us));
    line("RESP p99", &|window, _, _| micros(latency(window.resp_request).p99_us));
    line("L2 read p50", &|window, _, _| micros(latency(window.l2_read).p50_us));
    line("L2 read p99", &|window, _, _| micros(latency(window.l2_read).p99_us));
    line("L2 write p99", &|window, _, _| micros(latency(window.l2_write).p99_us));
    table(&rows)
}

fn latency(latency: Option<LatencyStats>) -> LatencyStats {
    latency.unwrap_or_default()
}

fn groups(stats: &GetStatsResponse, name: &str, top: u32) -> String {
    let Some(window) = stats.windows.iter().find(|window| window.name == name) else { return String::new() };
    let title = format!("key groups, {name}");
    let mut rows = vec![row([&title, "reads/s", "L1", "L2", "misses", "errors", "entries", "bytes", "removed"])];
    let mut groups: Vec<_> = stats
        .groups
        .iter()
        .map(|held| {
            let counted = window.groups.iter().find(|group| group.name == held.name);
            let reads = counted.and_then(|group| group.reads).unwrap_or_default();
            (held, reads, counted.and_then(|group| group.removed).unwrap_or_default())
        })
        .filter(|(held, reads, _)| held.entries > 0 || total(reads) > 0)
        .collect();
    groups.sort_by_key(|(held, reads, _)| std::cmp::Reverse((total(reads), held.bytes)));
    for (held, reads, gone) in groups.iter().take(top as usize) {
        rows.push(vec![
            key(held.name.as_bytes(), NAME),
            count(per_second(total(reads), window.over_ms)),
            percent(reads.l1_hit_rate),
            percent(reads.l2_hit_rate),
            count(reads.miss as f64),
            count(reads.error as f64),
            count(held.entries as f64),
            bytes(held.bytes),
            count(removed(gone) as f64),
        ]);
    }
    let more = groups.len().saturating_sub(top as usize);
    let more = if more > 0 { format!("and {more} more (--top)\n") } else { String::new() };
    table(&rows) + &more
}

/// Formats the outcomes of prefetches since start by key group; empty if nothing was predicted.
fn prefetch(of: &GetAssociationsResponse, top: u32) -> String {
    let line = |name: &str, of: PrefetchCounts| {
        let numbers = [of.issued, of.used, of.late, of.wasted, of.shadow].map(|number| count(number as f64));
        std::iter::once(key(name.as_bytes(), NAME)).chain(numbers).collect::<Vec<_>>()
    };
    let total = of.total.unwrap_or_default();
    if total.issued + total.shadow == 0 {
        return String::new();
    }
    let mut rows =
        vec![row(["prefetch, since start", "issued", "used", "late", "wasted", "shadow"]), line("all", total)];
    let mut groups: Vec<_> = of.groups.iter().map(|group| (group.counts.unwrap_or_default(), &group.name)).collect();
    groups.sort_by_key(|(counts, _)| std::cmp::Reverse(counts.issued + counts.shadow));
    rows.extend(groups.iter().take(top as usize).map(|(counts, name)| line(name, *counts)));
    table(&rows) + &gain(&of.control.unwrap_or_default())
}

fn gain(control: &PrefetchControl) -> String {
    let PrefetchControl { without_decided, without_missed, with_decided, with_missed, .. } = control;
    let samples =
        format!("missed without {without_missed} of {without_decided}, with {with_missed} of {with_decided} sampled");
    match (control.gain, control.gain_deviation) {
        (Some(gain), Some(deviation)) => {
            let [gain, deviation] = [gain, deviation].map(|part| format!("{:.1} %", 100.0 * part));
            format!("misses avoided: {gain} (deviation {deviation}; {samples})\n")
        }
        _ => format!("misses avoided: no estimate yet ({samples})\n"),
    }
}

/// Returns the name of a ranking and the formatter of its numbers.
pub(in crate::cli) fn named(by: TopBy) -> (&'static str, fn(u64) -> String) {
    match by {
        TopBy::Unspecified | TopBy::Reads => ("reads", |number| count(number as f64)),
        TopBy::Bytes => ("bytes", bytes),
        TopBy::Misses => ("misses", |number| count(number as f64)),
        TopBy::L2Time => ("time of L2", |us| micros(Some(us))),
    }
}

fn ranking(by: TopBy, top: &crate::proto::TopKeysResponse) -> String {
    let (name, shown) = named(by);
    let title = format!("top keys by {name}, {} (error at most {})", span(top.over_ms), shown(top.error));
    let mut rows = vec![row([&title, name, "share"])];
    for entry in &top.keys {
        let part = (top.total > 0).then(|| entry.number as f64 / top.total as f64);
        rows.push(vec![key(&entry.key, NAME), shown(entry.number), percent(part)]);
    }
    table(&rows)
}

fn sizes(seen: &Seen) -> String {
    let capacity = &seen.capacity;
    let title = format!("estimated L1 hit rate by size, without prefetch, from 1 key in {}", capacity.one_in);
    let mut rows = vec![row([&title, "size", "L1 hit rate"])];
    for size in &capacity.sizes {
        rows.push(vec![format!("{} x", size.scale), bytes(size.capacity_bytes), percent(size.l1_hit_rate)]);
    }
    table(&rows)
}

/// Formats the TTL advice and the hottest keys.
pub(super) fn ttl(advice: &GetTtlAdviceResponse, top: u32) -> String {
    let mut parts = vec![templates(&advice.advice)];
    if !advice.hot_keys.is_empty() {
        parts.push(hot_keys(&advice.hot_keys, top));
    }
    parts.join("\n\n").trim_end().to_owned()
}

fn hot_keys(keys: &[HotKeyTtl], top: u32) -> String {
    let mut rows = vec![row(["hot keys", "advised", "reads/s", "changes every", "sampled reads"])];
    for of in keys.iter().take(top as usize) {
        rows.push(vec![
            key(&of.key, NAME),
            span(of.ttl_ms),
            count(1e3 / of.access_ms.max(1e-3)),
            of.change.map_or_else(|| "unknown".to_owned(), |change| span(change.mean_ms as i64)),
            count(of.reads as f64),
        ]);
    }
    table(&rows)
}

fn templates(advice: &[TtlAdvice]) -> String {
    if advice.is_empty() {
        return "nothing to advise yet: too few sampled keys were read repeatedly".to_owned();
    }
    let mut rows = vec![row([
        "template",
        "advised",
        "tuned",
        "current",
        "keys",
        "read every",
        "p90",
        "changes every",
        "hits",
        "stale",
        "held",
    ])];
    for of in advice {
        let (access, change) = (of.access.unwrap_or_default(), of.change);
        let ms = |ms: Option<i64>| ms.map_or_else(|| "-".to_owned(), span);
        let both = |part: fn(&TtlOutcome) -> f64| {
            let (now, then) = (of.now.unwrap_or_default(), of.then.unwrap_or_default());
            format!("{} > {}", percent(Some(part(&now))), percent(Some(part(&then))))
        };
        rows.push(vec![
            key(of.template.as_bytes(), NAME),
            span(of.ttl_ms),
            ms(of.tuned_ms),
            ms(of.current_ttl_ms),
            format!("{} ({})", of.keys, access.count),
            span(access.mean_ms as i64),
            span(i64::try_from(access.p90_ms).unwrap_or(i64::MAX)),
            change.map_or_else(|| "unknown".to_owned(), |change| span(change.mean_ms as i64)),
            both(|outcome| outcome.hit_rate),
            both(|outcome| outcome.stale_share),
            both(|outcome| outcome.held),
        ]);
    }
    table(&rows) + "keys: sampled keys (intervals between reads); hits, stale and held: current > with the advised TTL"
}
