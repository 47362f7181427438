//! `terrace stats` against a running server: tables and JSON, once and periodically, and TTL advice with the hottest
//! keys.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use redis::{Commands, pipe};
use serde_json::Value;
use terrace::{
    clock::Clock,
    learn::recorder::is_sampled,
    proto::{GetTtlAdviceRequest, GetTtlAdviceResponse, insight_client::InsightClient},
};

use crate::support::{
    command::terrace,
    eventually,
    grpc::{block_on, connect},
    node::stats,
    resp::connection,
    terrace::{Terrace, config},
};

fn told(node: &Terrace, args: &[&str]) -> String {
    let output = terrace(&["stats", "--server", node.grpc()]).args(args).output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(node: &Terrace, args: &[&str]) -> Value {
    serde_json::from_str(&told(node, args)).expect("JSON")
}

/// 20 hits of 20 keys each, 10 misses.
fn load(node: &Terrace) {
    let mut client = connection(node.resp());
    for number in 0..20 {
        client.set::<_, _, ()>(format!("user:{number}:cart"), "value").unwrap();
    }
    for round in 0..20 {
        for number in 0..20 {
            let _value: String = client.get(format!("user:{number}:cart")).unwrap();
        }
        let _absent: Option<String> = client.get(format!("absent:{}", round % 10)).unwrap();
    }
}

#[test]
fn what_it_prints_is_what_the_server_counts() {
    let node = Terrace::start(config());
    load(&node);
    let counted = stats(&node);
    let reads = counted.reads.expect("set");
    assert_eq!((reads.hit_l1, reads.miss), (400, 20));

    let all = json(&node, &["--json"]);
    assert_eq!(json(&node, &["--format", "json"])["reads"], all["reads"]);
    assert_eq!((&all["reads"]["hit_l1"], &all["reads"]["miss"]), (&400.into(), &20.into()));
    let windows = all["windows"].as_array().expect("a list");
    assert_eq!(windows.iter().map(|window| &window["name"]).collect::<Vec<_>>(), ["1m", "5m", "1h", "start"]);
    for window in windows {
        assert_eq!(window["reads"]["hit_l1"], 400);
        assert_eq!((&window["prefetch"]["issued"], &window["coherence"]["bypassed"]), (&0.into(), &0.into()));
    }
    let top = all["top"].as_array().expect("a list");
    assert_eq!(top.iter().map(|top| &top["by"]).collect::<Vec<_>>(), ["reads", "bytes", "misses", "time of L2"]);
    assert_eq!(top[0]["keys"][0]["number"], 20);
    assert_eq!(all["learning"]["prefetch"]["issued"], 0);
    assert_eq!(all["capacity"]["sizes"].as_array().map(Vec::len), Some(4));

    let text = told(&node, &[]);
    for part in [
        "since start, ",
        "L1 hit rate",
        "95.2 %",
        "key groups, 1m",
        "user:{d}:cart",
        "top keys by misses",
        "absent:",
        "estimated L1 hit rate by size",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 110), "it fits a terminal:\n{text}");
    assert!(told(&node, &["--top", "1"]).contains("more (--top)"), "what is left out is told");
    assert!(told(&node, &["--ttl"]).contains("nothing to advise yet"));
    let unknown = terrace(&["stats", "--window", "2m"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(64));
}

#[test]
fn it_watches_until_it_is_ended() {
    let node = Terrace::start(config());
    for (args, is_json) in [(&["--json"][..], true), (&["--ttl"][..], false)] {
        let mut watching = Command::new(env!("CARGO_BIN_EXE_terrace"))
            .args(["stats", "--server", node.grpc(), "--watch", "100ms"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
        let mut uptime = -1;
        for line in lines.take(3) {
            let line = line.expect("a line");
            if is_json {
                let seen: Value = serde_json::from_str(&line).expect("one object a line");
                assert!(seen["uptime_ms"].as_i64() > Some(uptime), "{line}");
                uptime = seen["uptime_ms"].as_i64().unwrap_or(0);
            } else {
                assert!(line.starts_with("\x1b[2J\x1b[H"), "people see one picture at a time: {line:?}");
            }
        }
        watching.kill().expect("it runs");
        watching.wait().expect("it ends");
    }
}

fn advice(node: &Terrace, prefix: &str) -> GetTtlAdviceResponse {
    let request = GetTtlAdviceRequest { prefix: prefix.into() };
    block_on(async { InsightClient::new(connect(node.grpc()).await).get_ttl_advice(request).await })
        .unwrap()
        .into_inner()
}

#[test]
fn ttl_advice_and_the_hottest_keys_are_told_with_their_evidence() {
    let (clock, time) = Clock::manual();
    let mut wanted = config();
    wanted.learn.ttl_min = Duration::from_secs(1);
    let node = Terrace::start_at(wanted, clock);
    let mut client = connection(node.resp());
    let names = || (0..).map(|number| format!("user:{number}"));
    let followed: Vec<String> = names().filter(|key| is_sampled(key.as_bytes())).take(4).collect();
    // Hits of only one key in 64 are recorded, but this key is hot.
    let hot = names().find(|key| !is_sampled(key.as_bytes())).expect("most");
    followed.iter().chain([&hot]).for_each(|key| client.set::<_, _, ()>(key, "v").unwrap());
    for _ in 0..15 {
        time.advance(Duration::from_secs(10));
        let mut reads = pipe();
        // 100 reads every 10 s: one per 100 ms.
        for _ in 0..100 {
            reads.get(&hot).ignore();
        }
        for key in &followed {
            reads.get(key).ignore();
        }
        reads.query::<()>(&mut client).unwrap();
    }
    eventually("enough is known", || {
        // Advice is recomputed every ten seconds; hot keys are dropped after ten minutes.
        time.advance(Duration::from_secs(2));
        let advice = advice(&node, "user:");
        advice.advice.len() == 1 && !advice.hot_keys.is_empty()
    });
    let told_to_clients = advice(&node, "user:");
    let template = &told_to_clients.advice[0];
    assert_eq!((&*template.template, template.keys), ("user:{d}", 4));
    assert!((20_000..=30_000).contains(&template.ttl_ms), "2.5 times 10 s: {template:?}");
    let first = &told_to_clients.hot_keys[0];
    assert_eq!(first.key, hot.as_bytes());
    assert!((50.0..=200.0).contains(&first.access_ms), "{first:?}");
    assert_eq!((first.ttl_ms, first.change), (1_000, None), "not under learn.ttl_min");
    assert!(advice(&node, "other:").hot_keys.is_empty());
    assert!(stats(&node).learning.expect("set").ttl_hot_keys >= 1);

    let of = json(&node, &["--ttl", "--json"]);
    assert_eq!((&of["advice"][0]["template"], &of["advice"][0]["keys"]), (&"user:{d}".into(), &4.into()));
    assert_eq!(of["hot_keys"][0]["key"], hot);
    let text = told(&node, &["--ttl"]);
    for part in ["template", "user:{d}", "read every", "hot keys", &hot, "reads/s"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn no_name_writes_to_the_terminal() {
    let node = Terrace::start(config());
    let mut client = connection(node.resp());
    for number in 0..200 {
        let key = format!("\u{1b}]0;owned\u{7}:{number}");
        client.set::<_, _, ()>(&key, "v").unwrap();
        (0..20).for_each(|_| drop(client.get::<_, String>(&key).unwrap()));
    }
    let printed = told(&node, &[]);
    assert!(printed.contains("owned") && !printed.contains(['\u{1b}', '\u{7}']), "{printed:?}");
}
