//! Statistics equal what clients counted, in every window and key group, also when they are read under load.

use std::collections::HashMap;

use bytes::Bytes;
use fastrand::Rng;
use terrace::{
    cache::policy::Policy,
    glob::Glob,
    grpc::client::{CacheClient, InsightClient},
    proto::{
        DeleteRequest, GetManyRequest, GetRequest, GetStatsRequest, GetStatsResponse, ReadStats, RemovalStats,
        SetRequest, SimulateCapacityRequest, SimulateCapacityResponse, Tier, TopBy, TopKeysRequest, WatchStatsRequest,
        get_many_result, get_response,
    },
};
use tonic::{Code, transport::Channel};

use crate::support::{
    eventually,
    grpc::{block_on, connect},
    http::{get, samples},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config, config_over},
};

/// Outcomes that clients counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    hit_l1: u64,
    hit_l2: u64,
    miss: u64,
    /// On a busy machine an L2 deadline may pass.
    error: u64,
}

impl Seen {
    fn found(&mut self, tier: Tier) {
        match tier {
            Tier::L1 => self.hit_l1 += 1,
            Tier::L2 => self.hit_l2 += 1,
            Tier::Unspecified => panic!("an answer comes from a tier"),
        }
    }

    fn add(&mut self, other: Self) {
        self.hit_l1 += other.hit_l1;
        self.hit_l2 += other.hit_l2;
        self.miss += other.miss;
        self.error += other.error;
    }
}

/// A key of one of three templates, of a policy, or without a key group.
fn any_key(rng: &mut Rng) -> Bytes {
    let number = rng.u32(..400);
    match rng.u8(..5) {
        0 => format!("user:{number}:cart"),
        1 => format!("item:{number}"),
        2 => format!("page-{number}.html"),
        3 => format!("session:{number}"),
        _ => "plain".into(),
    }
    .into()
}

/// Reads, writes and deletes at random; returns the outcomes of its reads.
async fn load(channel: Channel, seed: u64) -> Seen {
    let (mut cache, mut rng, mut seen) = (CacheClient::new(channel), Rng::with_seed(seed), Seen::default());
    for _ in 0..600 {
        match rng.u8(..8) {
            0 => {
                let value = vec![7; rng.usize(..2_000)].into();
                let ttl_ms = rng.bool().then(|| rng.i64(5..200));
                let key = any_key(&mut rng);
                let _written = cache.set(SetRequest { key, value, ttl_ms, ..SetRequest::default() }).await;
            }
            1 => drop(cache.delete(DeleteRequest { keys: vec![any_key(&mut rng)] }).await),
            2 => {
                let keys = (0..rng.usize(1..20)).map(|_| any_key(&mut rng)).collect();
                let answer = cache.get_many(GetManyRequest { keys, options: None }).await.unwrap().into_inner();
                for result in answer.results {
                    match result.result.unwrap() {
                        get_many_result::Result::Found(found) => seen.found(found.tier()),
                        get_many_result::Result::Missing(_) => seen.miss += 1,
                        get_many_result::Result::Error(_) => seen.error += 1,
                    }
                }
            }
            _ => match cache.get(GetRequest { key: any_key(&mut rng), options: None }).await {
                Err(_) => seen.error += 1,
                Ok(answer) => match answer.into_inner().result.unwrap() {
                    get_response::Result::Found(found) => seen.found(found.tier()),
                    get_response::Result::Missing(_) => seen.miss += 1,
                },
            },
        }
    }
    seen
}

fn outcomes(reads: &ReadStats) -> [u64; 6] {
    [reads.hit_l1, reads.stale, reads.hit_l2, reads.miss, reads.error, reads.coalesced]
}

fn causes(removed: &RemovalStats) -> [u64; 4] {
    [removed.size, removed.expired, removed.invalidated, removed.replaced]
}

fn sums<const N: usize>(parts: impl Iterator<Item = [u64; N]>) -> [u64; N] {
    parts.fold([0; N], |mut sum, part| {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        sum
    })
}

/// Asserts that all sums within one answer match.
fn recount(stats: &GetStatsResponse) {
    let l1 = stats.l1.unwrap();
    let held = sums(stats.groups.iter().map(|group| [group.entries, group.bytes]));
    assert_eq!(held, [l1.entries, l1.bytes], "groups hold what L1 holds");
    let names: Vec<_> = stats.windows.iter().map(|window| &*window.name).collect();
    assert_eq!(names, ["1m", "5m", "1h", "start"]);
    for window in &stats.windows {
        let (reads, removed) = (window.reads.unwrap(), window.removed.unwrap());
        assert_eq!(
            sums(window.groups.iter().map(|g| outcomes(&g.reads.unwrap()))),
            outcomes(&reads),
            "{}",
            window.name
        );
        assert_eq!(
            sums(window.groups.iter().map(|g| causes(&g.removed.unwrap()))),
            causes(&removed),
            "{}",
            window.name
        );
        for rate in [reads.l1_hit_rate, reads.l2_hit_rate].into_iter().flatten() {
            assert!((0.0..=1.0).contains(&rate), "{rate}");
        }
        // The server has run for less than any window.
        assert!(window.over_ms <= stats.uptime_ms + 1, "{} of {} ms", window.over_ms, stats.uptime_ms);
        assert_eq!(outcomes(&reads), outcomes(&stats.reads.unwrap()), "{}", window.name);
    }
    let removed = causes(&stats.windows[3].removed.unwrap());
    assert_eq!(removed, [l1.removed_size, l1.removed_expired, l1.removed_invalidated, l1.removed_replaced]);
}

async fn stats(channel: &Channel) -> GetStatsResponse {
    InsightClient::new(channel.clone()).get_stats(GetStatsRequest {}).await.unwrap().into_inner()
}

#[test]
fn every_window_and_group_adds_up_to_what_clients_saw() {
    let redis = RedisServer::start();
    let mut config = config_over(redis.url());
    config.l1.size = 256 << 10;
    config.policies = vec![Policy::of(Glob::new(b"session:*").unwrap())];
    let server = Terrace::start(config);
    eventually("the server is ready", || get(server.http(), "/readyz").0 == 200);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seen = runtime.block_on(async {
        let watched = connect(server.grpc()).await;
        let request = WatchStatsRequest { interval_ms: Some(100) };
        let mut watch = InsightClient::new(watched).watch_stats(request).await.unwrap().into_inner();
        let mut clients = Vec::new();
        for seed in 0..6 {
            clients.push(tokio::spawn(load(connect(server.grpc()).await, seed)));
        }
        let watching = tokio::spawn(async move {
            for _ in 0..3 {
                recount(&watch.message().await.unwrap().unwrap().stats.unwrap());
            }
        });
        let mut seen = Seen::default();
        for client in clients {
            seen.add(client.await.unwrap());
        }
        watching.await.unwrap();
        seen
    });
    block_on(async {
        let stats = stats(&connect(server.grpc()).await).await;
        recount(&stats);
        let reads = stats.reads.unwrap();
        assert_eq!(outcomes(&reads)[..5], [seen.hit_l1, 0, seen.hit_l2, seen.miss, seen.error]);
        assert!(seen.hit_l1 > 0 && seen.hit_l2 > 0 && seen.miss > 0, "{seen:?}");
        let names: Vec<_> = stats.groups.iter().map(|group| &*group.name).collect();
        for name in ["other", "session:*", "user:{d}:cart", "item:{d}", "page-{d}.html"] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        assert!(!names.contains(&"plain"), "no key's name is a group");
        on_the_page(&server, &stats);
    });
}

#[test]
fn top_keys_are_ranked_by_what_they_cost() {
    let server = Terrace::start(config());
    block_on(async {
        let channel = connect(server.grpc()).await;
        let mut cache = CacheClient::new(channel.clone());
        for (key, length, reads) in [("few", 1_000, 2), ("many", 10, 30), ("absent", 0, 7)] {
            if length > 0 {
                let set = SetRequest { key: key.into(), value: vec![1; length].into(), ..SetRequest::default() };
                cache.set(set).await.unwrap();
            }
            for _ in 0..reads {
                cache.get(GetRequest { key: key.into(), options: None }).await.unwrap();
            }
        }
        let mut insight = InsightClient::new(channel);
        for (by, wanted) in [
            (TopBy::Unspecified, vec![("many", 30), ("absent", 7), ("few", 2)]),
            (TopBy::Bytes, vec![("few", 2_000), ("many", 300)]),
            (TopBy::Misses, vec![("absent", 7)]),
            (TopBy::L2Time, vec![]),
        ] {
            let top = insight.top_keys(TopKeysRequest { by: by.into(), count: 0 }).await.unwrap().into_inner();
            let keys: Vec<_> =
                top.keys.iter().map(|key| (std::str::from_utf8(&key.key).unwrap(), key.number)).collect();
            assert_eq!((keys, top.error), (wanted, 0), "{by:?}");
        }
        let refused = insight.top_keys(TopKeysRequest { by: 99, count: 1 }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}

#[test]
fn another_size_of_l1_is_estimated_while_running() {
    let mut config = config();
    config.l1.size = 256 << 10;
    let server = Terrace::start(config);
    let mut estimates = SimulateCapacityResponse::default();
    block_on(async {
        let channel = connect(server.grpc()).await;
        let (mut cache, mut insight) = (CacheClient::new(channel.clone()), InsightClient::new(channel));
        // The keys need twice the capacity: half of it gives fewer hits, four times as much nearly all.
        for number in 0..6_000 {
            let key: Bytes = format!("k:{}", number * 7 % 500).into();
            let got = cache.get(GetRequest { key: key.clone(), options: None }).await.unwrap().into_inner();
            if matches!(got.result, Some(get_response::Result::Missing(_))) {
                cache.set(SetRequest { key, value: vec![1; 900].into(), ..SetRequest::default() }).await.unwrap();
            }
        }
        estimates = insight.simulate_capacity(SimulateCapacityRequest {}).await.unwrap().into_inner();
    });
    let scales: Vec<f64> = estimates.sizes.iter().map(|size| size.scale).collect();
    assert_eq!(scales, [0.5, 1.0, 2.0, 4.0]);
    assert!(estimates.samples > 0 && estimates.one_in > 0, "{estimates:?}");
    let page = samples(server.http());
    assert!(page.contains_key("terrace_l1_what_if_hit_rate{scale=\"4\"}"));
}

/// Asserts that the metrics page and INFO report the same figures.
fn on_the_page(server: &Terrace, stats: &GetStatsResponse) {
    let page = samples(server.http());
    let start = &stats.windows[3];
    for group in &start.groups {
        for (outcome, count) in
            ["hit_l1", "stale", "hit_l2", "miss", "error"].iter().zip(outcomes(&group.reads.unwrap()))
        {
            let series = format!("terrace_group_reads_total{{group=\"{}\",outcome=\"{outcome}\"}}", group.name);
            assert_eq!(page[&series], count as f64, "{series}");
        }
    }
    let mut resp = connection(server.resp());
    let info: String = redis::cmd("INFO").arg("everything").query(&mut resp).unwrap();
    let lines: HashMap<_, _> = info.lines().filter_map(|line| line.split_once(':')).collect();
    let reads = start.reads.unwrap();
    let told = format!("hit_l1={},stale=0,hit_l2={},miss={},", reads.hit_l1, reads.hit_l2, reads.miss);
    assert!(lines["window_start"].contains(&told) && lines["window_1m"].contains(&told), "{info}");
    let learning = stats.learning.unwrap();
    let prefetch = learning.prefetch.unwrap();
    assert_eq!(page["terrace_prefetch_total{outcome=\"issued\"}"], prefetch.issued as f64);
    assert_eq!(lines["learning_prefetch_issued"], prefetch.issued.to_string());
    assert_eq!(lines["learning_known_keys"], learning.known_keys.to_string());
    // Announcements continue meanwhile, so the count may only grow.
    let (coherence, upkeep) = (stats.coherence.as_ref().unwrap(), start.coherence.unwrap());
    assert!((1..=coherence.invalidations).contains(&upkeep.invalidations), "{upkeep:?}, {coherence:?}");
    assert!(page["terrace_coherence_invalidations_total"] >= upkeep.invalidations as f64);
    let cart = start.groups.iter().find(|group| group.name == "user:{d}:cart").unwrap();
    let hits = format!(",hit_l1={},", cart.reads.unwrap().hit_l1);
    let is_cart = |line: &&str| line.starts_with("group_") && line.ends_with(",name=user:{d}:cart");
    assert!(info.lines().find(is_cart).unwrap().contains(&hits), "{info}");
}

#[test]
fn a_watch_goes_on_until_the_drain_and_refuses_what_it_cannot_do() {
    let mut server = Terrace::start(config());
    block_on(async {
        let mut insight = InsightClient::new(connect(server.grpc()).await);
        for interval_ms in [0, -5, 99, 3_600_001] {
            let refused = insight.watch_stats(WatchStatsRequest { interval_ms: Some(interval_ms) }).await;
            let refused = match refused {
                Ok(stream) => stream.into_inner().message().await.unwrap_err(),
                Err(status) => status,
            };
            assert_eq!(refused.code(), Code::InvalidArgument, "{interval_ms}: {refused}");
        }
        let mut watch = insight.watch_stats(WatchStatsRequest { interval_ms: Some(100) }).await.unwrap().into_inner();
        let mut last = -1;
        for _ in 0..3 {
            let stats = watch.message().await.unwrap().unwrap().stats.unwrap();
            assert!(stats.uptime_ms > last);
            last = stats.uptime_ms;
        }
        server.begin_stop();
        while watch.message().await.unwrap().is_some() {}
    });
    server.stop();
}
