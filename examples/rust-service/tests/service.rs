//! Runs two processes of the example service over a real cache server, and compares the database queries of get-or-load with
//! those of plain cache-aside.
//!
//! `cargo test -p terrace-example-service -- --nocapture` prints the figures; `TERRACE_CHECK_FULL=1` extends the outage of the
//! database from 3 to 30 seconds.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use serde_json::Value;
use terrace_client::Client;
use tokio::time::{Instant, sleep};

use crate::support::{
    PATIENCE,
    http::Answer,
    is_full_check, run,
    service::{Method, Services, Settings},
    terrace::{Terrace, config},
};

/// Figures of a scenario.
#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    reads: usize,
    failed: usize,
    queries: u64,
    /// Duration of the slowest read.
    slowest: Duration,
}

impl Figures {
    fn of(answers: &[Answer], queries: u64) -> Self {
        let failed = answers.iter().filter(|answer| answer.status != 200).count();
        let slowest = answers.iter().map(|answer| answer.duration).max().unwrap_or_default();
        Self { reads: answers.len(), failed, queries, slowest }
    }

    /// Prints a row of the table in `docs/guides/get-or-load.md`.
    fn print(self, scenario: &str, method: Method) {
        let Self { reads, failed, queries, slowest } = self;
        println!("| {scenario} | {method} | {reads} | {failed} | {queries} | {} ms |", slowest.as_millis());
    }
}

/// Waits until a page is due: absent for cache-aside, in its stale part for get-or-load.
async fn until_due(cache: &Client, method: Method, id: usize, settings: Settings) {
    let begun = Instant::now();
    loop {
        let entry = cache.lookup(method.key(id)).timeout(PATIENCE).await.unwrap();
        let is_due = match method {
            Method::Aside => entry.is_none(),
            // A caller receives a loaded page before the cache has stored it.
            Method::GetOrLoad => entry.is_some_and(|entry| entry.expires_in.unwrap() < settings.stale),
        };
        if is_due {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{method}: the page is not due");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Returns the highest number of loads of a key that can begin in a time: one for each TTL that has passed, and one more.
fn expiries(elapsed: Duration, ttl: Duration) -> u64 {
    1 + u64::try_from(elapsed.as_millis() / ttl.as_millis()).unwrap()
}

/// Returns the highest number of attempts to load a key in a time: the pauses between them are 1 s, 2 s, 4 s up to 30 s, less
/// 10 percent at random.
fn attempts(elapsed: Duration) -> u64 {
    let (mut attempts, mut at, mut pause) = (1, 0.0, 1.0_f64);
    loop {
        at += pause * 0.9;
        if at > elapsed.as_secs_f64() {
            return attempts;
        }
        attempts += 1;
        pause = (pause * 2.0).min(30.0);
    }
}

#[test]
fn the_expiry_of_a_hot_page_costs_one_query() {
    const READS: usize = 200;
    let node = Terrace::start(config());
    let settings = Settings { ttl: Duration::from_secs(2), ..Settings::default() };
    for method in Method::ALL {
        run(async {
            let services = Services::start(node.grpc(), settings, &[]).await;
            let cache = Client::connect(node.grpc()).await.unwrap();
            assert_eq!(services.read(method, &[1]).await[0].status, 200);
            until_due(&cache, method, 1, settings).await;
            let (before, begun) = (services.queries().await, Instant::now());
            let answers = services.read(method, &[1; READS]).await;
            // A refresh in the background may not have begun its query when the reads are answered.
            sleep_until_quiet(&services).await;
            let figures = Figures::of(&answers, services.queries().await - before);
            figures.print("200 reads at the expiry of a page", method);
            assert_eq!(figures.failed, 0, "{method}");
            if method == Method::GetOrLoad {
                assert!((1..=expiries(begun.elapsed(), settings.ttl)).contains(&figures.queries), "{figures:?}");
            }
        });
    }
}

/// Waits until no load is in progress: each granted load was stored or failed.
async fn sleep_until_quiet(services: &Services) {
    let begun = Instant::now();
    loop {
        let stats = services.stats(0).await;
        let count = |name: &str| stats["cache"][name].as_u64().unwrap();
        if count("loads") <= count("stored") + count("failed") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "loads in progress: {stats}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_cold_start_costs_one_query_per_page() {
    const PAGES: usize = 20;
    let node = Terrace::start(config());
    for method in Method::ALL {
        run(async {
            let services = Services::start(node.grpc(), Settings::default(), &[]).await;
            let ids: Vec<usize> = (0..200).map(|at| 1 + at % PAGES).collect();
            let answers = services.read(method, &ids).await;
            let figures = Figures::of(&answers, services.queries().await);
            figures.print("200 reads of 20 pages at a cold start", method);
            assert_eq!(figures.failed, 0, "{method}");
            if method == Method::GetOrLoad {
                assert_eq!(figures.queries, 20);
            }
        });
    }
}

#[test]
fn an_outage_of_the_database_fails_no_read_and_costs_few_attempts() {
    const PAGES: usize = 10;
    let node = Terrace::start(config());
    let settings = Settings { ttl: Duration::from_millis(500), ..Settings::default() };
    let outage = Duration::from_secs(if is_full_check() { 30 } else { 3 });
    let ids: Vec<usize> = (1..=PAGES).collect();
    for method in Method::ALL {
        run(async {
            let services = Services::start(node.grpc(), settings, &[]).await;
            let cache = Client::connect(node.grpc()).await.unwrap();
            assert!(services.read(method, &ids).await.iter().all(|answer| answer.status == 200));
            for id in &ids {
                until_due(&cache, method, *id, settings).await;
            }
            services.set_database("down").await;
            let (before, begun) = (services.queries().await, Instant::now());
            let mut answers = Vec::new();
            while begun.elapsed() < outage {
                answers.extend(services.read(method, &ids).await);
                sleep(Duration::from_millis(20)).await;
            }
            let (queries, elapsed) = (services.queries().await - before, begun.elapsed());
            let figures = Figures::of(&answers, queries);
            figures.print(&format!("{} s outage of the database, 10 pages", outage.as_secs()), method);
            services.set_database("up").await;
            if method == Method::GetOrLoad {
                assert_eq!(figures.failed, 0, "all reads are answered within `stale`");
                let most = attempts(elapsed) * u64::try_from(PAGES).unwrap();
                assert!(queries <= most, "{queries} attempts in {elapsed:?}, at most {most}");
                assert!(queries > u64::try_from(PAGES).unwrap(), "the attempts go on: {queries}");
            } else {
                assert!(figures.failed > 0, "cache-aside has nothing to answer with");
            }
        });
    }
}

#[test]
fn an_outage_of_the_cache_slows_reads_and_fails_none() {
    let node = Terrace::start(config());
    run(async {
        let services = Services::start(node.grpc(), Settings::default(), &[]).await;
        assert_eq!(services.read(Method::GetOrLoad, &[1]).await[0].status, 200);
        tokio::task::spawn_blocking(|| node.stop()).await.unwrap();
        let before = services.queries().await;
        let answers = services.read(Method::GetOrLoad, &(1..=20).collect::<Vec<_>>()).await;
        let figures = Figures::of(&answers, services.queries().await - before);
        figures.print("20 reads without the cache", Method::GetOrLoad);
        assert_eq!((figures.failed, figures.queries), (0, 20));
        assert!(services.stats(0).await["cache"]["error"].is_string());
    });
}

#[test]
fn a_change_of_a_team_is_on_the_pages_of_its_members_only() {
    for arguments in [&[][..], &["--near"]] {
        let node = Terrace::start(config());
        run(async {
            let services = Services::start(node.grpc(), Settings::default(), arguments).await;
            let page = async |service: usize, id: usize| -> Value {
                let team = if id <= 100 { "red" } else { "blue" };
                let answer = services.get(service, &format!("/teams/{team}/members/{id}")).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                serde_json::from_str(&answer.body).unwrap()
            };
            for id in [1, 2, 101] {
                page(0, id).await;
                page(1, id).await;
            }
            let before = services.queries().await;
            assert_eq!(services.put(0, "/teams/red/motto", "together").await.status, 204);
            assert_eq!(services.put(1, "/members/2/name", "Ada").await.status, 204);
            // The other process may answer from its copy for a moment.
            until(async || page(0, 2).await["name"] == "Ada" && page(1, 1).await["motto"] == "together").await;
            assert_eq!(page(0, 1).await["motto"], "together");
            assert_eq!(page(1, 2).await["name"], "Ada");
            assert_eq!(page(1, 101).await["motto"], "upward");
            let queries = services.queries().await - before;
            assert!((2..=4).contains(&queries), "the page of the other team is not loaded again: {queries} queries");
            if !arguments.is_empty() {
                until(async || {
                    page(0, 1).await;
                    services.stats(0).await["near_cache"]["hits"].as_u64().unwrap() > 0
                })
                .await;
            }
            assert_eq!(services.get(0, "/teams/red/members/101").await.status, 404, "a member of the other team");
        });
    }
}

/// Waits for a condition.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "the condition did not come true");
        sleep(Duration::from_millis(5)).await;
    }
}
