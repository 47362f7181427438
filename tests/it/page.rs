//! The page at `/`: its files, its content security policy and its figures. A browser shows it under load without an
//! error.
//!
//! The browser is the Debian package `chromium`; without it, the browser test prints that it is skipped.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use redis::Commands;
use serde_json::Value;
use terrace::{
    cache::policy::Prefetch,
    grpc::client::{CacheClient, InsightClient},
    proto::{
        FillRequest, GetAssociationsRequest, GetOrLeaseRequest, fill_request::Loaded,
        get_or_lease_response::Result as Answer,
    },
};

use crate::support::{
    eventually,
    grpc::{block_on, connect, pause},
    http, prefetch,
    resp::connection,
    terrace::{Terrace, config},
};

/// Passes over the taught users. One key in 64 is sampled, and its template needs about 20 intervals.
const READS: usize = 12;

fn exchange(address: &str, path: &str, headers: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{headers}\r\n");
    let answer = http::exchange(address, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

fn json(address: &str, path: &str) -> Value {
    let (head, body) = exchange(address, path, "");
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: application/json"), "{head}");
    serde_json::from_str(&body).unwrap()
}

/// Causes some traffic: 21 keys that are read from L1, one of them with markup in its name, and one miss.
fn traffic(server: &Terrace) {
    let mut client = connection(server.resp());
    for number in 0..20 {
        client.set::<_, _, ()>(format!("user:{number}:name"), "v").unwrap();
        for _ in 0..=number {
            let _found: String = client.get(format!("user:{number}:name")).unwrap();
        }
    }
    let _missing: Option<String> = client.get("<b>\n").unwrap();
    client.set::<_, _, ()>("<b>\n", "markup").unwrap();
    for _ in 0..30 {
        let _found: String = client.get("<b>\n").unwrap();
    }
}

/// Loads a key with a lease. Over Redis, leases can be filled seconds after their first use.
fn load(server: &Terrace) {
    block_on(async {
        let mut cache = CacheClient::new(connect(server.grpc()).await);
        let request = GetOrLeaseRequest { key: "report".into(), ..GetOrLeaseRequest::default() };
        while let Some(Answer::Load(load)) = cache.get_or_lease(request.clone()).await.unwrap().into_inner().result {
            let (token, loaded) = (load.grant.unwrap_or_default().token, Some(Loaded::Value("v".into())));
            let fill = FillRequest { key: "report".into(), token, loaded, ..FillRequest::default() };
            cache.fill(fill).await.unwrap();
            pause().await;
        }
    });
}

#[test]
fn all_of_it_is_served_with_a_strict_policy_and_is_small() {
    let server = Terrace::start(config());
    let (_, page) = exchange(server.http(), "/", "");
    let mut bytes = page.len();
    let named = page.split(['"', '\'']).filter(|word| word.starts_with('/') && word.contains('.'));
    let mut files: Vec<&str> = named.collect();
    files.sort_unstable();
    files.dedup();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let (head, body) = exchange(server.http(), file, "");
        assert!(head.starts_with("http/1.1 200"), "{file}: {head}");
        assert!(
            head.contains("content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'"),
            "{head}"
        );
        assert!(!head.contains("unsafe-"), "{head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        bytes += body.len();
    }
    assert!(bytes < 300 << 10, "{bytes} bytes");
}

#[test]
fn its_numbers_are_those_of_the_metrics() {
    let server = Terrace::start(config());
    traffic(&server);
    let stats = json(server.http(), "/api/stats");
    let page = http::samples(server.http());
    let reads = &stats["windows"].as_array().unwrap().last().unwrap()["reads"];
    for outcome in ["hit_l1", "hit_l2", "miss", "error"] {
        let counted = page[&format!("terrace_reads_total{{outcome=\"{outcome}\"}}")] as u64;
        assert_eq!(reads[outcome], Value::from(counted), "{outcome}");
    }
    assert_eq!((&reads["hit_l1"], &reads["miss"]), (&Value::from(240), &Value::from(1)));
    assert_eq!(stats["l1"]["entries"], Value::from(21));
    assert_eq!(stats["bans"], Value::Array(Vec::new()));
    assert_eq!(stats["health"]["says"], Value::from("ready"));
    let top = json(server.http(), "/api/top");
    let keys: Vec<&str> = top["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert!(keys.contains(&"user:19:name") && keys.len() == 12, "{keys:?}");
    eventually("there are points", || json(server.http(), "/api/history")["points"].as_array().unwrap().len() >= 2);
}

#[test]
fn what_was_learned_is_what_grpc_tells() {
    let (_redis, server, _client) = prefetch::taught(Prefetch::Auto);
    let learned = json(server.http(), "/api/learned");
    let told = block_on(async {
        let mut insight = InsightClient::new(connect(server.grpc()).await);
        insight.get_associations(GetAssociationsRequest::default()).await.unwrap().into_inner()
    });
    let (total, shown) = (told.total.unwrap(), &learned["prefetch"]["total"]);
    assert!(total.issued > 0);
    for (name, count) in
        [("issued", total.issued), ("used", total.used), ("late", total.late), ("wasted", total.wasted)]
    {
        assert_eq!(shown[name], Value::from(count), "{name}");
    }
    let rules = learned["rules"].as_array().unwrap();
    let known = rules.iter().all(|rule| {
        told.rules
            .iter()
            .any(|told| rule["from"] == told.template && rule["to"] == told.makes && rule["tried"] == told.tried)
    });
    assert!(known && rules.iter().any(|rule| rule["from"] == "user:{d}" && rule["to"] == "profile:{1}"), "{learned}");
    let groups = learned["prefetch"]["groups"].as_array().unwrap();
    assert!(
        groups.iter().any(|group| group["name"] == "profile" && group["counts"]["used"].as_u64() > Some(0)),
        "{learned}"
    );
    assert!(learned["pairs"].as_array().unwrap().iter().all(|pair| pair["probability"].as_f64() > Some(0.0)));
}

#[test]
fn scripts_of_other_sites_are_refused() {
    let server = Terrace::start(config());
    for (headers, status) in [
        ("Sec-Fetch-Site: cross-site\r\n", "403"),
        ("Sec-Fetch-Site: same-site\r\n", "403"),
        ("Sec-Fetch-Site: same-origin\r\n", "200"),
        ("", "200"),
    ] {
        for path in ["/api/stats", "/api/history", "/api/top", "/api/learned"] {
            let (head, _) = exchange(server.http(), path, headers);
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{path} {headers}: {head}");
        }
    }
}

#[test]
fn a_browser_shows_it_under_load_without_an_error() {
    let found = Command::new("sh").args(["-c", "command -v chromium"]).output().unwrap();
    if !found.status.success() {
        println!("left out: chromium is not installed");
        return;
    }
    let (_redis, server, mut client) = prefetch::taught(Prefetch::Auto);
    // Enough reads of the same keys for TTL advice.
    (0..READS).for_each(|_| prefetch::TAUGHT.for_each(|user| prefetch::read(&mut client, user)));
    traffic(&server);
    load(&server);
    let learned = || json(server.http(), "/api/learned");
    eventually("TTLs are advised", || !learned()["ttls"].as_array().unwrap().is_empty());
    eventually("other sizes are known", || {
        json(server.http(), "/api/stats")["what_if"]["sizes"][0]["l1_hit_rate"].is_number()
    });
    // The page asks for the hottest keys once while the browser runs.
    eventually("the keys of the traffic are among the hottest", || {
        traffic(&server);
        let top = json(server.http(), "/api/top");
        top["keys"].as_array().unwrap().iter().any(|key| key["key"] == "user:19:name")
    });
    let points = || json(server.http(), "/api/history")["points"].as_array().unwrap().len();
    let before = points();
    eventually("there are points", || points() >= before + 2);
    let profile = tempfile::tempdir().unwrap();
    // A browser that hangs is started again; the server must answer meanwhile.
    let mut browser = Command::new("timeout");
    browser
        .args(["--kill-after=5", "60", "chromium"])
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=9000", "--dump-dom"])
        .arg(format!("http://{}/", server.http()));
    // The tiles show the last minute.
    let is_shown = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_shown.load(Relaxed) {
                traffic(&server);
            }
        });
        let mut output = browser.output();
        for _again in 0..2 {
            if output.as_ref().is_ok_and(|output| matches!(output.status.code(), Some(0))) {
                break;
            }
            for path in ["/", "/api/stats", "/api/top", "/api/learned", "/api/history"] {
                let (head, _) = exchange(server.http(), path, "");
                assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
            }
            output = browser.output();
        }
        is_shown.store(true, Relaxed);
        output.unwrap()
    });
    let dom = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert_eq!(dom.matches("<canvas").count(), 7, "five curves, sizes of L1, TTLs: {dom}");
    assert!(dom.contains("class=\"edge\"") && dom.contains("user:{d} is followed by profile:{d}: "), "a graph: {dom}");
    assert!(dom.contains("profile:{d}: writes have no TTL, advised "), "TTL advice in words: {dom}");
    // An estimate needs more fetched keys than this test makes on a slow machine.
    let says_what_it_avoids = dom.contains("Prefetch avoids ") || dom.contains("No estimate of avoided misses yet.");
    assert!(dom.contains(" keys prefetched: ") && says_what_it_avoids, "prefetch: {dom}");
    assert!(dom.contains(" loads started, 0 callers waited, 0 loads failed."), "loads: {dom}");
    let shows = |id: &str| {
        let (_, rest) = dom.split_once(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id}: {dom}"));
        rest.split_once('>').unwrap().1.split('<').next().unwrap().to_owned()
    };
    assert!(shows("t-l1").ends_with(" %"), "{dom}");
    assert!(shows("s-l1").starts_with("now "), "the charts are told in words as well");
    assert!(dom.contains("user:19:name"), "the hottest keys are listed");
    assert!(dom.contains("&lt;b&gt;\\n") && !dom.contains("<b>"), "a key is text and never markup");
    assert!(dom.contains("<p id=\"banner\" class=\"banner\" role=\"status\" hidden"), "nothing is wrong");
}
