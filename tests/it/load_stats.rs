//! Figures of load leases: every surface shows what clients did, and a client sees only the key groups of its prefixes.

use std::{collections::BTreeMap, fs, time::Duration};

use bytes::Bytes;
use redis::Commands;
use serde_json::Value;
use terrace::{
    access::{GuestRole, SecretHash},
    cache::policy::Policy,
    config::Config,
    glob::Glob,
    grpc::client::{CacheClient, InsightClient},
    proto::{
        Absent, DeleteRequest, ExplainRequest, FillRequest, GetOrLeaseRequest, GetRequest, GetStatsRequest,
        GetStatsResponse, Grant, GrantReason, KeyLoad, LoadFailure, LoadStats, ReleaseRequest, fill_request::Loaded,
        fill_response, get_or_lease_response::Result as Answer, key_load,
    },
};
use tokio::time::Instant;
use tonic::{Request, transport::Channel};

use crate::support::{
    command::terrace,
    grpc::{block_on, connect, pause},
    http::{get, samples},
    node::stats_at,
    resp::connection,
    terrace::{Terrace, config},
};

/// Duration of the slow loads of these tests.
const DELAY: Duration = Duration::from_millis(60);
/// A key group with a character that labels of metrics escape.
const REPORTS: &str = "report:\"*";
const SESSIONS: &str = "session:*";

/// A configuration with two key groups.
fn with_groups() -> Config {
    let mut config = config();
    config.policies =
        [REPORTS, SESSIONS].map(|pattern| Policy::of(Glob::new(pattern.as_bytes()).unwrap())).into_iter().collect();
    config
}

#[derive(Clone)]
struct Client {
    channel: Channel,
    cache: CacheClient<Channel>,
}

impl Client {
    async fn of(node: &Terrace) -> Self {
        let channel = connect(node.grpc()).await;
        Self { cache: CacheClient::new(channel.clone()), channel }
    }

    async fn ask(&self, request: GetOrLeaseRequest) -> Answer {
        self.cache.clone().get_or_lease(request).await.unwrap().into_inner().result.unwrap()
    }

    async fn lease(&self, key: &'static str) -> Grant {
        match self.ask(request(key)).await {
            Answer::Load(load) => load.grant.unwrap(),
            other @ (Answer::Hit(_) | Answer::Busy(_) | Answer::Absent(_) | Answer::Failed(_)) => {
                panic!("no lease: {other:?}")
            }
        }
    }

    /// Fills a key; returns whether the result was stored.
    async fn fill(&self, key: &'static str, token: &Bytes, loaded: Loaded) -> bool {
        let request = FillRequest {
            key: key.into(),
            token: token.clone(),
            loaded: Some(loaded),
            ttl_ms: Some(600_000),
            ..FillRequest::default()
        };
        let response = self.cache.clone().fill(request).await.unwrap().into_inner();
        matches!(response.result.unwrap(), fill_response::Result::Stored(_))
    }

    async fn release(&self, key: &'static str, token: &Bytes, failed: Option<LoadFailure>) {
        let request = ReleaseRequest { key: key.into(), token: token.clone(), failed };
        self.cache.clone().release(request).await.unwrap();
    }

    async fn get(&self, key: &'static str) {
        self.cache.clone().get(GetRequest { key: key.into(), options: None }).await.unwrap();
    }

    async fn stats(&self) -> GetStatsResponse {
        InsightClient::new(self.channel.clone()).get_stats(GetStatsRequest {}).await.unwrap().into_inner()
    }

    async fn load_of(&self, key: &'static str) -> KeyLoad {
        let request = ExplainRequest { key: key.into() };
        InsightClient::new(self.channel.clone()).explain(request).await.unwrap().into_inner().load.unwrap()
    }
}

fn request(key: &'static str) -> GetOrLeaseRequest {
    GetOrLeaseRequest { key: key.into(), ..GetOrLeaseRequest::default() }
}

fn value() -> Loaded {
    Loaded::Value("loaded".into())
}

/// A load with one waiting caller and one caller that does not wait. Returns the longest possible duration of the load.
async fn slow_load(node: &Terrace, client: &Client) -> Duration {
    let begun = Instant::now();
    let grant = client.lease("report:\"1").await;
    let other = client.clone();
    let waiting = tokio::spawn(async move { other.ask(request("report:\"1")).await });
    while client.stats().await.load_waiters == 0 {
        pause().await;
    }
    assert_eq!(samples(node.http())["terrace_load_waiters"] as u64, 1);
    assert_eq!(page(node)["loads"]["waiters"], 1);
    assert_eq!(info(node)["loads_waiters"], "1");
    let busy = client.ask(GetOrLeaseRequest { wait_ms: Some(0), ..request("report:\"1") }).await;
    assert!(matches!(busy, Answer::Busy(_)), "{busy:?}");
    let known = client.load_of("report:\"1").await;
    assert_eq!((known.state(), known.group_mean_ms), (key_load::State::Loading, None));
    assert!(known.age_ms.is_some() && (1..=10_000).contains(&known.ends_ms.unwrap()), "{known:?}");
    tokio::time::sleep(DELAY).await;
    assert!(client.fill("report:\"1", &grant.token, value()).await);
    assert!(matches!(waiting.await.unwrap(), Answer::Hit(_)));
    begun.elapsed()
}

/// Loads that fail, find nothing, or are overtaken by a deletion.
async fn unlucky_loads(client: &Client) {
    let grant = client.lease("report:\"2").await;
    let failed = LoadFailure { message: "origin is down".into(), retry_after_ms: Some(60_000) };
    client.release("report:\"2", &grant.token, Some(failed)).await;
    assert!(matches!(client.ask(request("report:\"2")).await, Answer::Failed(_)));
    let known = client.load_of("report:\"2").await;
    assert_eq!((known.state(), &*known.message), (key_load::State::Failed, "origin is down"));
    assert!(known.group_mean_ms.is_some() && known.age_ms.is_none(), "{known:?}");

    let grant = client.lease("report:\"3").await;
    tokio::time::sleep(DELAY).await;
    assert!(client.fill("report:\"3", &grant.token, Loaded::Absent(Absent {})).await);
    for _ in 0..2 {
        assert!(matches!(client.ask(request("report:\"3")).await, Answer::Absent(_)));
    }
    assert_eq!(client.load_of("report:\"3").await.state(), key_load::State::Absent);

    let grant = client.lease("report:\"4").await;
    client.cache.clone().delete(DeleteRequest { keys: vec!["report:\"4".into()] }).await.unwrap();
    assert!(!client.fill("report:\"4", &grant.token, value()).await, "the lease is lost");
    assert_eq!(client.load_of("report:\"4").await.state(), key_load::State::Unspecified);
}

/// Refreshes of a value, and a lease that another client takes over.
async fn refreshes(client: &Client) {
    for (request, reason) in [
        (GetOrLeaseRequest { refresh: true, ..request("report:\"1") }, GrantReason::Forced),
        (GetOrLeaseRequest { stale_ms: Some(3_600_000), ..request("report:\"1") }, GrantReason::Stale),
    ] {
        let Answer::Hit(hit) = client.ask(request).await else { panic!("no hit") };
        let grant = hit.grant.unwrap();
        assert_eq!(grant.reason(), reason);
        client.release("report:\"1", &grant.token, None).await;
    }
    let _lost = client.ask(GetOrLeaseRequest { lease_ms: Some(100), ..request("session:1") }).await;
    let taken = client.ask(GetOrLeaseRequest { wait_ms: Some(30_000), ..request("session:1") }).await;
    assert!(matches!(&taken, Answer::Load(load) if load.grant.as_ref().unwrap().reason() == GrantReason::Takeover));
}

/// What the clients of the test did, in both groups.
fn expected() -> (LoadStats, LoadStats) {
    let reports = LoadStats {
        granted_miss: 4,
        granted_stale: 1,
        granted_forced: 1,
        stored: 2,
        lease_lost: 1,
        load_failed: 1,
        released: 2,
        waited: 1,
        busy: 1,
        absent: 2,
        failed: 1,
        ..LoadStats::default()
    };
    (reports, LoadStats { granted_miss: 1, granted_takeover: 1, ..LoadStats::default() })
}

/// The counts by the names of metrics.
fn counts(of: &LoadStats) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("granted_miss", of.granted_miss),
        ("granted_stale", of.granted_stale),
        ("granted_early", of.granted_early),
        ("granted_forced", of.granted_forced),
        ("granted_takeover", of.granted_takeover),
        ("granted_unfenced", of.granted_unfenced),
        ("stored", of.stored),
        ("lease_lost", of.lease_lost),
        ("changed", of.changed),
        ("invalidated", of.invalidated),
        ("load_failed", of.load_failed),
        ("released", of.released),
        ("waited", of.waited),
        ("busy", of.busy),
        ("absent", of.absent),
        ("failed", of.failed),
    ])
}

fn group(stats: &GetStatsResponse, name: &str) -> LoadStats {
    stats.groups.iter().find(|group| group.name == name).and_then(|group| group.loads).unwrap()
}

/// Hits of a group since start.
fn hits(stats: &GetStatsResponse, name: &str) -> f64 {
    let reads = stats.windows[3].groups.iter().find(|group| group.name == name).unwrap().reads.unwrap();
    (reads.hit_l1 + reads.stale + reads.hit_l2) as f64
}

fn page(node: &Terrace) -> Value {
    serde_json::from_str(&get(node.http(), "/api/stats").1).unwrap()
}

/// The section `loads` of INFO.
fn info(node: &Terrace) -> BTreeMap<String, String> {
    let text: String = redis::cmd("INFO").arg("loads").query(&mut connection(node.resp())).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn told(node: &Terrace, args: &[&str]) -> String {
    let output = terrace(args).args(["--server", node.grpc()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn assert_close(one: f64, other: f64) {
    assert!((one - other).abs() <= 0.001 + 1e-6 * other.abs(), "{one} is not {other}");
}

#[test]
fn every_surface_shows_what_clients_did() {
    let node = Terrace::start(with_groups());
    let stats = block_on(async {
        let client = Client::of(&node).await;
        let before = client.stats().await;
        assert_eq!((before.loads, before.load_waiters), (Some(LoadStats::default()), 0));
        let longest = slow_load(&node, &client).await;
        let begun = Instant::now();
        unlucky_loads(&client).await;
        let longest = longest.max(begun.elapsed());
        refreshes(&client).await;

        // The mean and the saved time follow from the durations and the hits.
        let (mean_range, stats) = (DELAY.as_secs_f64()..=longest.as_secs_f64(), client.stats().await);
        let (reports, hits_before) = (group(&stats, REPORTS), hits(&stats, REPORTS));
        let mean = reports.mean_ms.unwrap() / 1e3;
        assert!(mean_range.contains(&mean), "{mean_range:?}: {mean}");
        assert!(reports.p99_ms.unwrap() >= 60.0, "{reports:?}");
        assert_eq!(hits_before, 2.0, "the two refreshes; the read of the waiting caller was a miss");
        let least = hits_before * mean_range.start();
        assert!((least..=hits_before * mean_range.end()).contains(&reports.origin_seconds_saved), "{reports:?}");
        for _ in 0..50 {
            client.get("report:\"1").await;
        }
        let after = client.stats().await;
        assert_eq!(hits(&after, REPORTS), hits_before + 50.0);
        let saved = group(&after, REPORTS).origin_seconds_saved - reports.origin_seconds_saved;
        assert_close(saved, 50.0 * mean);
        after
    });
    assert_counts(&stats);
    assert_metrics(&node, &stats);
    assert_page_and_info(&node, &stats);
    assert_command_line(&node, &stats);
}

fn assert_counts(stats: &GetStatsResponse) {
    let (reports, sessions) = (group(stats, REPORTS), group(stats, SESSIONS));
    let (of_reports, of_sessions) = expected();
    assert_eq!(counts(&reports), counts(&of_reports));
    assert_eq!(counts(&sessions), counts(&of_sessions));
    assert_eq!((sessions.mean_ms, sessions.p99_ms, sessions.origin_seconds_saved), (None, None, 0.0));
    let total = stats.loads.unwrap();
    for (name, count) in counts(&total) {
        assert_eq!(count, counts(&reports)[name] + counts(&sessions)[name], "{name}");
    }
    assert_eq!((total.mean_ms, total.origin_seconds_saved), (reports.mean_ms, reports.origin_seconds_saved));
    assert!(stats.groups.iter().filter(|group| group.loads.is_some()).count() == 2, "{:?}", stats.groups);
}

fn assert_metrics(node: &Terrace, stats: &GetStatsResponse) {
    let (metrics, total, reports) = (samples(node.http()), stats.loads.unwrap(), group(stats, REPORTS));
    for (name, count) in counts(&total) {
        assert_eq!(metrics[&format!("terrace_loads_total{{outcome=\"{name}\"}}")] as u64, count, "{name}");
    }
    assert_eq!(metrics["terrace_load_waiters"] as u64, 0);
    let series = |name: &str| metrics[&format!("{name}{{group=\"report:\\\"*\"}}")];
    assert_eq!(series("terrace_load_seconds_count") as u64, 2);
    assert_close(series("terrace_load_seconds_sum"), 2.0 * reports.mean_ms.unwrap() / 1e3);
    assert_close(series("terrace_origin_seconds_saved_total"), reports.origin_seconds_saved);
    let bucket =
        |bound: &str| metrics[&format!("terrace_load_seconds_bucket{{group=\"report:\\\"*\",le=\"{bound}\"}}")];
    assert_eq!((bucket("0.05") as u64, bucket("+Inf") as u64), (0, 2));
    assert!(!metrics.keys().any(|name| name.starts_with("terrace_load_seconds") && name.contains(SESSIONS)));
}

fn assert_page_and_info(node: &Terrace, stats: &GetStatsResponse) {
    let (shown, total, reports) = (page(node), stats.loads.unwrap(), group(stats, REPORTS));
    let of_page = &shown["loads"];
    for (name, count) in counts(&total) {
        assert_eq!(of_page["total"][name], count, "{name}");
        assert_eq!(of_page["groups"][0][name], counts(&reports)[name], "{name}");
    }
    assert_eq!((&of_page["waiters"], &of_page["total"]["started"]), (&0.into(), &8.into()));
    let names: Vec<_> = of_page["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert_eq!(names, [REPORTS, SESSIONS], "most saved time first");
    assert_close(of_page["groups"][0]["origin_seconds_saved"].as_f64().unwrap(), reports.origin_seconds_saved);
    assert_close(of_page["groups"][0]["mean_us"].as_f64().unwrap() / 1e3, reports.mean_ms.unwrap());

    let lines = info(node);
    for (name, count) in counts(&total) {
        assert_eq!(lines[&format!("loads_{name}")], count.to_string(), "{name}");
    }
    assert_eq!((&*lines["loads_started"], &*lines["loads_waiters"]), ("8", "0"));
    assert_close(lines["loads_mean_ms"].parse().unwrap(), total.mean_ms.unwrap());
    assert_close(lines["loads_origin_seconds_saved"].parse().unwrap(), total.origin_seconds_saved);
}

fn assert_command_line(node: &Terrace, stats: &GetStatsResponse) {
    let all: Value = serde_json::from_str(&told(node, &["stats", "--json"])).unwrap();
    let total = stats.loads.unwrap();
    let groups = all["groups"].as_array().unwrap();
    let reports = &groups.iter().find(|group| group["name"] == REPORTS).unwrap()["loads"];
    for (name, count) in counts(&total) {
        assert_eq!(all["loads"][name], count, "{name}");
        assert_eq!(reports[name], counts(&group(stats, REPORTS))[name], "{name}");
    }
    assert_eq!((&all["load_waiters"], &all["loads"]["mean_ms"]), (&0.into(), &total.mean_ms.into()));
    assert_close(reports["origin_seconds_saved"].as_f64().unwrap(), total.origin_seconds_saved);

    let text = told(node, &["stats"]);
    for part in [
        "loads, since start",
        "granted: miss 5, stale 1, early 0, forced 1, takeover 1, without a token 0\n",
        "not stored: lease lost 1, changed 0, invalidated 0; released 2; waiting now 0\n",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let words = |name: &str| -> Vec<String> {
        let table = text.split_once("loads, since start").unwrap().1;
        let line = table.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words("all")[1..7], ["8", "2", "1", "1", "1", "2"], "started to absent");
    assert_eq!(words(SESSIONS)[1..], ["2", "0", "0", "0", "0", "0", "-", "-", "0s"]);
    assert!(text.lines().all(|line| line.chars().count() <= 110), "it fits a terminal:\n{text}");

    let failed = told(node, &["explain", "report:\"2"]);
    assert!(failed.contains("load        failed: origin is down; no client may load for "), "{failed}");
    let absent: Value = serde_json::from_str(&told(node, &["explain", "report:\"3", "--json"])).unwrap();
    assert_eq!(absent["load"]["state"], "STATE_ABSENT");
    let reply: Vec<(String, BTreeMap<String, Option<String>>)> = {
        let all: Vec<(String, redis::Value)> =
            redis::cmd("TERRACE.EXPLAIN").arg("report:\"2").query(&mut connection(node.resp())).unwrap();
        let load = all.into_iter().filter(|(name, _)| name == "load");
        load.map(|(name, fields)| (name, redis::from_redis_value(fields).unwrap())).collect()
    };
    let load = &reply[0].1;
    assert_eq!((load["state"].as_deref(), load["message"].as_deref()), (Some("failed"), Some("origin is down")));
    let mean: f64 = load["group_mean_ms"].as_ref().unwrap().parse().unwrap();
    assert!((mean - total.mean_ms.unwrap()).abs() <= 1.0, "{mean}");
}

#[test]
fn a_node_without_loads_shows_none() {
    let node = Terrace::start(with_groups());
    let _set: () = connection(node.resp()).set("session:1", "v").unwrap();
    let _got: String = connection(node.resp()).get("session:1").unwrap();
    assert!(stats_at(node.grpc()).groups.iter().all(|group| group.loads.is_none()));
    assert!(!told(&node, &["stats"]).contains("loads, since start"));
    assert!(!told(&node, &["explain", "session:1"]).contains("load  "));
    let (_, page) = get(node.http(), "/metrics");
    assert!(page.contains("terrace_loads_total{outcome=\"stored\"} 0\n"), "{page}");
    assert!(!page.contains("terrace_load_seconds") && !page.contains("terrace_origin_seconds_saved"), "{page}");
}

#[test]
fn a_client_sees_the_loads_of_its_groups_only() {
    let (dir, mut config) = (tempfile::tempdir().unwrap(), with_groups());
    let file = dir.path().join("users.toml");
    let secret = SecretHash::of(b"s").to_text();
    let role = |name: &str, prefix: &str| {
        let keys = format!("{{ prefix = {prefix:?}, allow = [\"read\", \"write\"] }}");
        format!("[[role]]\nname = {name:?}\nkeys = [{keys}]\nallow = [\"inspect\"]\n")
    };
    let user = format!("[[user]]\nname = \"s\"\nroles = [\"sessions\"]\nsecrets = [{secret:?}]\n");
    fs::write(&file, role("sessions", "session:") + &user).unwrap();
    config.auth.file = Some(file);
    config.auth.local = GuestRole::Role("admin".into());
    let node = Terrace::start(config);
    block_on(async {
        let client = Client::of(&node).await;
        for key in ["report:\"1", "session:1"] {
            let grant = client.lease(key).await;
            assert!(client.fill(key, &grant.token, value()).await);
        }
        let mut request = Request::new(GetStatsRequest {});
        request.metadata_mut().insert("authorization", "Bearer s".parse().unwrap());
        let seen = InsightClient::new(client.channel.clone()).get_stats(request).await.unwrap().into_inner();
        let named = |stats: &GetStatsResponse| -> Vec<String> {
            let groups = stats.groups.iter().filter(|group| group.loads.is_some());
            groups.map(|group| group.name.clone()).collect()
        };
        assert_eq!(named(&seen), [SESSIONS]);
        assert_eq!(named(&client.stats().await), [REPORTS, SESSIONS]);
    });
}
