//! The HTTP port: metrics, health and readiness, and requests that must not block it.

use std::{net::TcpListener, sync::atomic::Ordering, time::Duration};

use redis::Commands;
use terrace::{
    clock::Clock,
    grpc::client::{AdminClient, CacheClient, InsightClient},
    metrics::{ALL, Kind},
    proto::{GetManyRequest, GetRequest, GetStatsRequest, GetStatsResponse, SetRequest, WarmRequest},
};

use crate::support::{
    eventually,
    grpc::{block_on, connect},
    http::{exchange, get, samples},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config, config_over, config_patient},
};

/// Figures that the metrics page and `GetStats` both report.
fn shared_numbers(stats: &GetStatsResponse) -> Vec<(&'static str, u64)> {
    let (reads, l1, l2) = (stats.reads.unwrap(), stats.l1.unwrap(), stats.l2.clone().unwrap());
    let (coherence, connections, warm) =
        (stats.coherence.clone().unwrap(), stats.connections.unwrap(), stats.warm.unwrap());
    vec![
        ("terrace_reads_total{outcome=\"hit_l1\"}", reads.hit_l1),
        ("terrace_reads_total{outcome=\"stale\"}", reads.stale),
        ("terrace_reads_total{outcome=\"hit_l2\"}", reads.hit_l2),
        ("terrace_reads_total{outcome=\"miss\"}", reads.miss),
        ("terrace_reads_total{outcome=\"error\"}", reads.error),
        ("terrace_reads_coalesced_total", reads.coalesced),
        ("terrace_l1_entries", l1.entries),
        ("terrace_l1_bytes", l1.bytes),
        ("terrace_l1_capacity_bytes", l1.capacity_bytes),
        ("terrace_l1_removed_total{cause=\"size\"}", l1.removed_size),
        ("terrace_l1_removed_total{cause=\"expired\"}", l1.removed_expired),
        ("terrace_l1_removed_total{cause=\"invalidated\"}", l1.removed_invalidated),
        ("terrace_l1_removed_total{cause=\"replaced\"}", l1.removed_replaced),
        ("terrace_l1_promoted_total", l1.promoted),
        ("terrace_l1_fills_voided_total", l1.fills_voided),
        ("terrace_l2_up", l2.up.into()),
        ("terrace_l2_keys_read_total", l2.reads),
        ("terrace_l2_ops_written_total", l2.writes),
        ("terrace_l2_errors_total", l2.errors),
        ("terrace_coherence_open", coherence.open.into()),
        ("terrace_coherence_invalidations_total", coherence.invalidations),
        ("terrace_coherence_reconnects_total", coherence.reconnects),
        ("terrace_coherence_bypassed_total", coherence.bypassed),
        ("terrace_connections{port=\"grpc\"}", connections.grpc),
        ("terrace_connections_rejected_total", connections.rejected),
        ("terrace_warming", warm.at_work.into()),
        ("terrace_warm_left", warm.left),
        ("terrace_warm_keys_total{result=\"found\"}", warm.found),
        ("terrace_warm_keys_total{result=\"absent\"}", warm.absent),
        ("terrace_warm_keys_total{result=\"resident\"}", warm.resident),
        ("terrace_warm_keys_total{result=\"failed\"}", warm.failed),
    ]
}

#[test]
#[expect(clippy::float_cmp, clippy::cast_precision_loss, reason = "counters of a test are small whole numbers")]
fn the_page_tells_what_happened_as_get_stats_does() {
    let redis = RedisServer::start();
    let server = Terrace::start(config_over(redis.url()));
    block_on(async {
        let channel = connect(server.grpc()).await;
        let (mut cache, mut insight) = (CacheClient::new(channel.clone()), InsightClient::new(channel));
        eventually("L1 is open", || samples(server.http())["terrace_coherence_open"] == 1.0);
        redis.connect().set::<_, _, ()>("d", "warm").unwrap();
        for key in ["a", "b", "c"] {
            let request = SetRequest { key: key.into(), value: "value".into(), ..SetRequest::default() };
            cache.set(request).await.unwrap();
        }
        let keys = ["a", "b", "c", "nowhere"].map(Into::into).to_vec();
        for _ in 0..2 {
            cache.get_many(GetManyRequest { keys: keys.clone(), options: None }).await.unwrap();
        }
        cache.get(GetRequest { key: "a".into(), options: None }).await.unwrap();
        let mut warm = AdminClient::new(connect(server.grpc()).await);
        let keys = ["a", "d", "nowhere"].map(Into::into).to_vec();
        let mut warmed = warm.warm(WarmRequest { keys, ..WarmRequest::default() }).await.unwrap().into_inner();
        while warmed.message().await.unwrap().is_some() {}
        let stats = insight.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
        let page = samples(server.http());
        let reads = stats.reads.unwrap();
        assert_eq!(reads.hit_l1 + reads.hit_l2 + reads.miss, 9, "{reads:?}");
        assert_eq!(reads.miss, 2);
        let warm = stats.warm.unwrap();
        assert_eq!((warm.found, warm.absent, warm.resident, warm.failed, warm.left), (1, 1, 1, 0, 0));
        assert!(reads.hit_l2 >= 3, "the first read of each comes from Redis: {reads:?}");
        for (name, value) in shared_numbers(&stats) {
            assert_eq!(page.get(name), Some(&(value as f64)), "{name}");
        }
        let of_reads = |name: &str| page[&format!("terrace_l2_call_seconds_{name}")];
        assert!(of_reads("count{call=\"read\"}") >= 1.0 && of_reads("sum{call=\"read\"}") > 0.0);
        assert_eq!(of_reads("bucket{call=\"read\",le=\"+Inf\"}"), of_reads("count{call=\"read\"}"));
        assert!(of_reads("bucket{call=\"read\",le=\"1\"}") >= of_reads("bucket{call=\"read\",le=\"0.00005\"}"));
        assert!(page["process_resident_memory_bytes"] > 1e6 && page["process_open_fds"] > 3.0);
    });
}

/// INFO fields that the metrics page reports too, with the name of the sample.
const INFO_FIELDS: [(&str, &str); 11] = [
    ("keyspace_misses", "terrace_reads_total{outcome=\"miss\"}"),
    ("l1_hits", "terrace_reads_total{outcome=\"hit_l1\"}"),
    ("l1_entries", "terrace_l1_entries"),
    ("l1_bytes", "terrace_l1_bytes"),
    ("l1_capacity_bytes", "terrace_l1_capacity_bytes"),
    ("l1_promoted", "terrace_l1_promoted_total"),
    ("l1_removed_invalidated", "terrace_l1_removed_total{cause=\"invalidated\"}"),
    ("connected_clients", "terrace_connections{port=\"resp\"}"),
    ("warm_at_work", "terrace_warming"),
    ("warm_left", "terrace_warm_left"),
    ("warm_found", "terrace_warm_keys_total{result=\"found\"}"),
];

#[test]
#[expect(clippy::float_cmp, reason = "counters of a test are small whole numbers")]
fn the_page_tells_what_info_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.l2.url = "embedded".into();
    config.data.dir = folder.path().into();
    let server = Terrace::start(config);
    let mut client = connection(server.resp());
    redis::cmd("MSET").arg(&["a", "1", "b", "2", "c", "3"]).exec(&mut client).unwrap();
    for _ in 0..3 {
        redis::cmd("MGET").arg(&["a", "b", "nowhere"]).exec(&mut client).unwrap();
    }
    redis::cmd("DEL").arg("a").exec(&mut client).unwrap();
    let info: String = redis::cmd("INFO").arg("everything").query(&mut client).unwrap();
    let page = samples(server.http());
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("INFO has {name}")).parse::<f64>().unwrap()
    };
    for (name, sample) in INFO_FIELDS {
        assert_eq!(field(name), page[sample], "{name} and {sample}");
    }
    let hits =
        ["hit_l1", "stale", "hit_l2"].map(|outcome| page[&format!("terrace_reads_total{{outcome=\"{outcome}\"}}")]);
    assert_eq!(field("keyspace_hits"), hits.iter().sum::<f64>());
    assert_eq!((field("keyspace_hits"), field("keyspace_misses"), field("l1_hits")), (6.0, 3.0, 4.0));
}

#[test]
fn every_metric_is_on_the_page_with_its_meaning() {
    let server = Terrace::start(config());
    block_on(async {
        // The write produces the first latency sample.
        let mut cache = CacheClient::new(connect(server.grpc()).await);
        cache.set(SetRequest { key: "a".into(), value: "v".into(), ..SetRequest::default() }).await.unwrap();
    });
    let (_, page) = get(server.http(), "/metrics");
    // Reported only with an L2 or TLS, or after enough samples of a template, enough reads, a prefetch, or a load.
    let told_later = [
        "terrace_tls_not_after_seconds",
        "terrace_l2_deadline_seconds",
        "terrace_ttl_advised_seconds",
        "terrace_ttl_tuned_seconds",
        "terrace_l1_what_if_hit_rate",
        "terrace_group_prefetch_total",
        "terrace_prefetch_gain",
        "terrace_prefetch_gain_deviation",
        "terrace_denied_total",
        "terrace_load_seconds",
        "terrace_origin_seconds_saved_total",
    ];
    for metric in ALL.iter().filter(|metric| !told_later.contains(&metric.name)) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert!(page.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{} is missing", metric.name);
        assert!(page.contains(&format!("# HELP {} {}\n", metric.name, metric.doc)), "{} is unexplained", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        let series = if metric.kind == Kind::Histogram { "_count{" } else { "{" };
        let labels = page.lines().find(|line| line.starts_with(&format!("{}{series}", metric.name)));
        for label in metric.labels {
            assert!(labels.is_some_and(|line| line.contains(&format!("{label}=\""))), "{} lacks {label}", metric.name);
        }
    }
}

/// Number of requests. One in 16 is timed at random, so the probability that none is timed is 10^-28.
const TIMED: usize = 1_000;
/// Number of blocking calls of which at least one would almost certainly be timed.
const BLOCKED: usize = 200;

#[test]
fn requests_of_both_ports_are_timed() {
    let redis = RedisServer::start();
    let server = Terrace::start(config_patient(redis.url()));
    let count =
        |port: &str| samples(server.http())[&format!("terrace_request_seconds_count{{port=\"{port}\"}}")] as u64;
    assert_eq!((count("grpc"), count("resp")), (0, 0));
    block_on(async {
        let mut cache = CacheClient::new(connect(server.grpc()).await);
        let mut insight = InsightClient::new(connect(server.grpc()).await);
        for _ in 0..TIMED {
            cache.get(GetRequest { key: "a".into(), options: None }).await.unwrap();
        }
        let stats = insight.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
        let latency = stats.windows.last().unwrap().grpc_request.unwrap();
        assert!(latency.count > 0 && latency.p99_us.is_some(), "{latency:?}");
    });
    assert!((1..16 * TIMED as u64).contains(&count("grpc")) && count("grpc").is_multiple_of(16), "{}", count("grpc"));
    let mut client = connection(server.resp());
    (0..TIMED).for_each(|_| drop(client.get::<_, Option<String>>("a").unwrap()));
    assert!(count("resp") > 0);
    // Blocking commands do not count as latency.
    let before = count("resp");
    for _ in 0..BLOCKED {
        let none: Option<(String, String)> = client.blpop("nothing", 0.001).unwrap();
        assert_eq!(none, None);
    }
    assert_eq!(count("resp"), before);
}

#[test]
fn two_servers_of_one_process_do_not_mix() {
    let (busy, idle) = (Terrace::start(config()), Terrace::start(config()));
    block_on(async {
        let mut cache = CacheClient::new(connect(busy.grpc()).await);
        cache.get(GetRequest { key: "a".into(), options: None }).await.unwrap();
    });
    let misses = |server: &Terrace| samples(server.http())["terrace_reads_total{outcome=\"miss\"}"] as u64;
    assert_eq!((misses(&busy), misses(&idle)), (1, 0));
}

#[test]
fn ready_from_the_first_contact_with_l2_and_degraded_when_it_is_lost() {
    let mut redis = RedisServer::start();
    let server = Terrace::start(config_over(redis.url()));
    let ready = || get(server.http(), "/readyz");
    eventually("the server is ready", || ready() == (200, "ready\n".into()));
    redis.kill();
    eventually("the server is degraded", || ready().1.starts_with("degraded: L2 is unavailable: "));
    assert_eq!(ready().0, 200);

    let mut strict = config_over(redis.url());
    strict.http.ready_requires_l2 = true;
    server.reload(strict);
    eventually("it is no longer ready", || ready().0 == 503);
    assert!(ready().1.starts_with("L2 is unavailable: "), "{}", ready().1);
    assert_eq!(get(server.http(), "/healthz"), (200, "ok\n".into()), "it is alive all the same");
}

#[test]
fn not_ready_before_the_first_contact_with_l2() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Terrace::start(config_over(format!("redis://{nobody}")));
    // It stays not ready after the first failed attempts.
    eventually("it says why", || get(server.http(), "/readyz").1.contains("first contact with L2: "));
    assert_eq!(get(server.http(), "/readyz").0, 503);
    assert_eq!(get(server.http(), "/healthz").0, 200);
}

#[test]
fn alive_only_while_the_workers_move() {
    let (clock, time) = Clock::manual();
    let server = Terrace::start_at(config(), clock);
    let alive = || get(server.http(), "/healthz");
    assert_eq!(alive(), (200, "ok\n".into()));
    // Workers send a heartbeat every second; until then the advanced clock makes them look stalled.
    eventually("silent workers are told of", || {
        time.advance(Duration::from_secs(60));
        alive() == (503, "a worker has made no progress for 60 s\n".into())
    });
    eventually("they move again", || alive().0 == 200);
}

#[test]
fn other_paths_and_methods_are_told_what_there_is() {
    let server = Terrace::start(config());
    let (status, body) = get(server.http(), "/nope");
    assert!(status == 404 && body.contains("/metrics") && body.contains("/readyz"), "{body}");
    let post = b"POST /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    assert!(exchange(server.http(), post).starts_with("HTTP/1.1 405 "));
}

#[test]
fn hostile_heads_are_refused_and_others_are_served() {
    let server = Terrace::start(config());
    let many: String = (0..100).map(|number| format!("X-{number}: 1\r\n")).collect();
    let many = exchange(server.http(), format!("GET /healthz HTTP/1.1\r\n{many}\r\n").as_bytes());
    assert!(many.starts_with("HTTP/1.1 431 "), "{many}");
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let long = exchange(server.http(), long.as_bytes());
    assert!(long.is_empty() || long.starts_with("HTTP/1.1 431 "), "{long}");
    let noise = exchange(server.http(), b"\x16\x03\x01\x00\xa5\x01\x00\x00\r\n\r\n");
    assert!(noise.is_empty() || noise.starts_with("HTTP/1.1 400 "), "{noise}");
    assert_eq!(get(server.http(), "/healthz").0, 200);
}

#[test]
fn during_a_drain_it_says_so_and_still_serves() {
    let server = Terrace::start(config());
    assert_eq!(get(server.http(), "/readyz").0, 200);
    server.node.draining.store(true, Ordering::Relaxed);
    assert_eq!(get(server.http(), "/readyz"), (503, "draining\n".into()));
    assert_eq!(get(server.http(), "/healthz").0, 200);
    assert!(samples(server.http())["terrace_draining"] > 0.0);
}
