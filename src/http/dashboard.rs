//! The page at `/`: its files and data.
//!
//! The binary contains all files. The page loads nothing from other hosts, which Content-Security-Policy enforces, and
//! it is read-only. The values equal those of `GetStats`, `INFO` and `/metrics`. A client that may inspect some keys sees
//! the values of these keys only.

use axum::{
    Extension, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::get,
};
use serde_json::{Value, json};

use super::{
    HttpState,
    guard::Viewer,
    history,
    json::{answer, shown, with_headers},
    learned_api, readiness,
};
use crate::{
    cache::{
        Cache, LoadOutcome, Removals, State as L2State,
        stats::histogram::Latency,
        stats::{
            Group, Reads, Snapshot, Tally, Window,
            load_figures::LoadFigures,
            whatif::{Estimate, Estimates},
        },
    },
    node::{Node, VERSION},
};

/// Path, content type and content of each file.
const FILES: [(&str, &str, &str); 12] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/app.css", "text/css; charset=utf-8", include_str!("assets/app.css")),
    ("/format.js", "text/javascript; charset=utf-8", include_str!("assets/format.js")),
    ("/charts.js", "text/javascript; charset=utf-8", include_str!("assets/charts.js")),
    ("/graph.js", "text/javascript; charset=utf-8", include_str!("assets/graph.js")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("/favicon.svg", "image/svg+xml", include_str!("assets/favicon.svg")),
    ("/vendor/uplot.js", "text/javascript; charset=utf-8", include_str!("assets/vendor/uPlot-1.6.32.min.js")),
    ("/vendor/uplot.css", "text/css; charset=utf-8", include_str!("assets/vendor/uPlot-1.6.32.min.css")),
    ("/vendor/uplot-license.txt", "text/plain; charset=utf-8", include_str!("assets/vendor/uPlot-LICENSE")),
    ("/vendor/d3-force.js", "text/javascript; charset=utf-8", D3_FORCE),
    ("/vendor/d3-force-license.txt", "text/plain; charset=utf-8", include_str!("assets/vendor/d3-LICENSE")),
];

/// d3-force (graph layout) with the three small D3 modules that it depends on.
const D3_FORCE: &str = concat!(
    include_str!("assets/vendor/d3-dispatch-3.0.2.min.js"),
    include_str!("assets/vendor/d3-quadtree-3.0.2.min.js"),
    include_str!("assets/vendor/d3-timer-3.0.2.min.js"),
    include_str!("assets/vendor/d3-force-3.0.1.min.js"),
);

/// Number of hottest keys on the page.
const TOP: usize = 12;
/// Number of active bans on the page.
const BANS: usize = 8;
/// Number of groups on the page, by reads.
const GROUPS: usize = 12;

/// Adds the routes of the page.
pub(super) fn routes(router: Router<HttpState>) -> Router<HttpState> {
    let files = FILES.into_iter().fold(router, |router, (path, kind, text)| {
        router.route(path, get(move || async move { with_headers(([(header::CONTENT_TYPE, kind)], text)) }))
    });
    let files = files.route("/api/stats", get(stats)).route("/api/history", get(points));
    files.route("/api/top", get(top)).route("/api/learned", get(learned_api::show))
}

async fn points(State(shared): State<HttpState>, viewer: Extension<Viewer>, headers: HeaderMap) -> Response {
    let sees_all = viewer.cache(&shared.edge).principal().sees_all();
    answer(&headers, &shared.history.show(sees_all))
}

async fn stats(State(shared): State<HttpState>, viewer: Extension<Viewer>, headers: HeaderMap) -> Response {
    let (edge, cache) = (&shared.edge, viewer.cache(&shared.edge));
    let snapshot = cache.snapshot();
    let (status, says) = readiness(edge);
    let ready = json!({ "ready": status == StatusCode::OK, "says": says.trim_end() });
    let bans = bans(&cache);
    let numbers = json!({
        "node": node(&edge.node, &cache),
        "health": ready,
        "point": history::point(&cache, &snapshot),
        "l1": {
            "entries": snapshot.l1.entries,
            "bytes": snapshot.l1.bytes,
            "capacity_bytes": snapshot.l1.capacity_bytes,
            "removed": removals(&snapshot.removals),
            "promoted": snapshot.fills.promoted,
        },
        "l2": l2(&snapshot),
        "coherence": coherence(&snapshot),
        "bans_open": bans.len(),
        "bans": bans.iter().take(BANS).collect::<Vec<_>>(),
        "warming": warming(&cache),
        "windows": snapshot.windows.iter().map(window).collect::<Vec<_>>(),
        "groups": groups(&snapshot),
        "what_if": what_if(&snapshot.what_if),
        "loads": loads(&snapshot),
    });
    answer(&headers, &numbers)
}

/// Returns the patterns of the active bans that match only keys that the client may know about.
fn bans(cache: &Cache) -> Vec<String> {
    let bans = cache.active_bans();
    let seen = bans.iter().filter(|ban| cache.principal().sees(ban.glob.literal_prefix()));
    seen.map(|ban| shown(ban.glob.pattern())).collect()
}

fn node(node: &Node, cache: &Cache) -> Value {
    use std::sync::atomic::Ordering::Relaxed;
    let connections = &node.connections;
    json!({
        "version": VERSION,
        "run_id": node.run_id,
        "grpc": node.addresses.get().map(|addresses| &addresses.grpc),
        "resp": node.addresses.get().map(|addresses| &addresses.resp),
        "uptime_s": cache.now().since(node.started_at).as_secs(),
        "draining": node.is_draining(),
        "connections": {
            "grpc": connections.grpc.load(Relaxed),
            "resp": connections.resp.load(Relaxed),
            "http": connections.http.load(Relaxed),
            "rejected": connections.rejected.load(Relaxed),
        },
        "in_flight_bytes": if cache.principal().sees_all() { node.in_flight.bytes() } else { 0 },
    })
}

fn l2(snapshot: &Snapshot) -> Value {
    let (state, why) = match &snapshot.l2 {
        L2State::Up => ("up", None),
        L2State::Connecting => ("connecting", None),
        L2State::Down(why) => ("down", Some(why)),
    };
    json!({
        "kind": snapshot.flavor.name(),
        "state": state,
        "why": why,
        "keys_read": snapshot.calls.keys_read,
        "ops_written": snapshot.calls.ops_written,
        "errors": snapshot.calls.errors,
        "primaries": snapshot.health.primaries,
        "breakers_open": snapshot.health.breakers_open,
    })
}

fn coherence(snapshot: &Snapshot) -> Value {
    let coherence = &snapshot.coherence;
    json!({
        "open": coherence.l1_available,
        "refused": coherence.refused,
        "fence_age_ms": coherence.fence_age_ms,
        "invalidations": coherence.invalidations,
        "reconnects": coherence.reconnects,
        "flushes": coherence.flushes,
        "checked": coherence.checked,
        "stale_detected": coherence.stale_detected,
    })
}

fn warming(cache: &Cache) -> Value {
    let progress = cache.core().warm_up_progress();
    let count = |keys: u64| if cache.principal().sees_all() { keys } else { 0 };
    json!({ "at_work": progress.is_running, "left": count(progress.left), "found": count(progress.keys.found) })
}

fn window(window: &Window) -> Value {
    json!({
        "name": window.name,
        "over_ms": window.over.as_millis() as u64,
        "reads": reads(&window.total.reads),
        "removed": removals(&window.total.removals),
        "l2_read": latency(&window.read),
        "l2_write": latency(&window.write),
        "grpc": latency(&window.requests.grpc),
        "resp": latency(&window.requests.resp),
    })
}

/// Returns the most frequently read groups of the last five minutes, or since start.
fn groups(snapshot: &Snapshot) -> Vec<Value> {
    let recent = snapshot.windows.get(1);
    let of = |(at, group): (usize, &Group)| {
        let tally = recent.and_then(|window| window.groups.get(at)).copied().unwrap_or(Tally::default());
        (tally.reads.total(), tally, group.clone())
    };
    let mut groups: Vec<_> = snapshot.groups.iter().enumerate().map(of).collect();
    groups.sort_by_key(|(reads, _, group)| std::cmp::Reverse((*reads, group.bytes)));
    groups.retain(|(reads, _, group)| *reads > 0 || group.entries > 0);
    groups.truncate(GROUPS);
    let show = |(_, tally, group): (u64, Tally, Group)| json!({ "name": &*group.name, "entries": group.entries, "bytes": group.bytes, "reads": reads(&tally.reads) });
    groups.into_iter().map(show).collect()
}

/// Returns the loads since start: the sum, and the groups with the most saved time.
fn loads(snapshot: &Snapshot) -> Value {
    let mut groups: Vec<_> = snapshot.groups.iter().filter_map(|group| Some((group, group.loads.as_ref()?))).collect();
    groups.sort_by_key(|(_, figures)| std::cmp::Reverse((figures.saved, figures.started())));
    let group = |(group, figures): &(&Group, &LoadFigures)| {
        let mut shown = load(figures);
        shown["name"] = Value::from(&*group.name);
        shown
    };
    json!({
        "waiters": snapshot.load_waiters,
        "total": load(&snapshot.loads),
        "groups": groups.iter().take(GROUPS).map(group).collect::<Vec<_>>(),
    })
}

fn load(figures: &LoadFigures) -> Value {
    let mut outcomes: serde_json::Map<String, Value> = LoadOutcome::ALL
        .into_iter()
        .map(|outcome| (outcome.name().to_owned(), Value::from(figures.loads.of(outcome))))
        .collect();
    outcomes.insert("started".to_owned(), Value::from(figures.started()));
    outcomes.insert("mean_us".to_owned(), Value::from(figures.loads.mean().map(|mean| mean.as_micros() as u64)));
    outcomes.insert("p99_us".to_owned(), Value::from(figures.loads.durations.quantile_us(0.99)));
    outcomes.insert("origin_seconds_saved".to_owned(), Value::from(figures.saved.as_secs_f64()));
    Value::Object(outcomes)
}

fn reads(reads: &Reads) -> Value {
    json!({
        "hit_l1": reads.hit_l1,
        "stale": reads.stale,
        "hit_l2": reads.hit_l2,
        "miss": reads.miss,
        "error": reads.error,
        "l1_hit_rate": reads.l1_hit_rate(),
        "l2_hit_rate": reads.l2_hit_rate(),
    })
}

fn what_if(estimates: &Estimates) -> Value {
    let size = |size: &Estimate| json!({ "scale": size.scale, "capacity_bytes": size.capacity_bytes, "l1_hit_rate": size.l1_hit_rate });
    json!({
        "sizes": estimates.sizes.iter().map(size).collect::<Vec<_>>(),
        "samples": estimates.samples,
        "over_s": estimates.over.as_secs(),
    })
}

fn removals(removals: &Removals) -> Value {
    json!({
        "size": removals.size,
        "expired": removals.expired,
        "invalidated": removals.invalidated,
        "replaced": removals.replaced,
    })
}

fn latency(latency: &Latency) -> Value {
    json!({ "count": latency.count(), "p50_us": latency.quantile_us(0.5), "p99_us": latency.quantile_us(0.99) })
}

async fn top(State(shared): State<HttpState>, viewer: Extension<Viewer>, headers: HeaderMap) -> Response {
    let cache = viewer.cache(&shared.edge);
    answer(&headers, &shared.top.recent(&cache, hottest(&cache)).await)
}

async fn hottest(cache: &Cache) -> Value {
    let hot = cache.hot_keys(TOP).await;
    let keys = hot.iter().filter_map(|hot| cache.resident(&hot.key).map(|resident| (hot, resident)));
    let keys = keys.map(
        |(hot, resident)| json!({ "key": shown(&hot.key), "hits": resident.hit.hits, "bytes": resident.weight_bytes }),
    );
    json!({ "keys": keys.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_holds_nothing_of_elsewhere() {
        let bytes: usize = FILES.iter().map(|(_, _, text)| text.len()).sum();
        assert!(bytes < 300 << 10, "{bytes} bytes");
        for (path, _, text) in
            FILES.iter().filter(|(path, _, _)| !path.starts_with("/vendor") && *path != "/favicon.svg")
        {
            // The XML namespace of SVG; browsers do not load it.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{path} names another host");
            assert!(!text.contains("innerHTML") && !text.contains("style=\""), "{path} would break the policy");
        }
    }
}
