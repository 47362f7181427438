//! Clients that use much and read their answers are not cut; work for clients that have left ends.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use futures_util::future::join_all;
use redis::Commands;
use terrace::{
    grpc::client::{AdminClient, CacheClient},
    proto::{ScanKeysRequest, WarmRequest, get_response},
};
use tonic::Request;

use super::victim::{LARGE, get, run, set};
use crate::support::{
    eventually,
    grpc::{connect, pause},
    kv::is_in_l1,
    node::{over_embedded, wait_until_open},
    proxy::{FaultProxy, Faults, Who},
    redis::RedisServer,
    resp::{Client, connection, request},
    terrace::{Terrace, config, config_patient},
};

#[test]
fn one_client_with_400_large_gets_receives_all() {
    let mut config = config();
    config.grpc.timeout = Duration::from_secs(30);
    let server = Terrace::start(config);
    run(async {
        let client = CacheClient::new(connect(server.grpc()).await);
        client.clone().set(set("large", vec![b'x'; LARGE])).await.unwrap();
        let calls = (0..400).map(|_| {
            let mut client = client.clone();
            async move {
                let response = client.get(get("large")).await.unwrap().into_inner();
                let Some(get_response::Result::Found(found)) = response.result else { panic!("the key is missing") };
                assert_eq!(found.value.len(), LARGE);
            }
        });
        join_all(calls).await;
    });
    assert_eq!(server.node.in_flight.figures().reset_full, 0);
    eventually("all is released", || server.node.in_flight.bytes() == 0);
}

#[test]
fn a_slow_monitor_receives_all_lines() {
    let server = Terrace::start(config());
    let mut monitor = Client::connect(&server);
    monitor.ask("MONITOR", "+OK\r\n");
    let mut client = Client::connect(&server);
    let value = "v".repeat(20_000);
    for number in 0..200 {
        client.ask(&format!("SET k{number} {value}"), "+OK\r\n");
    }
    let mut lines = BufReader::with_capacity(8 * 1024, monitor.0);
    for number in 0..200 {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains(&format!("\"k{number}\"")), "line {number}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_slow_reader_of_scanned_keys_receives_all() {
    let server = Terrace::start(config());
    let mut client = connection(server.resp());
    let pad = "p".repeat(2_000);
    for number in 0..2_000 {
        client.set::<_, _, ()>(format!("{pad}:{number}"), "v").unwrap();
    }
    run(async {
        let mut admin = AdminClient::new(connect(server.grpc()).await);
        let mut pages = admin.scan_keys(ScanKeysRequest::default()).await.unwrap().into_inner();
        let mut keys = 0;
        while let Some(page) = pages.message().await.unwrap() {
            keys += page.keys.len();
            pause().await;
        }
        assert_eq!(keys, 2_000);
    });
}

#[test]
fn a_warm_up_ends_when_its_client_leaves() {
    let world = over_embedded();
    run(async {
        let mut admin = AdminClient::new(connect(world.node.grpc()).await);
        let keys = (0..2_000).map(|number| format!("absent:{number}").into()).collect();
        let warm = WarmRequest { keys, keys_per_second: 1, ..WarmRequest::default() };
        let stream = admin.warm(warm).await.unwrap();
        while world.node.node.in_flight.bytes() == 0 {
            pause().await;
        }
        drop(stream);
        // At this rate the keys would take more than half an hour.
        while world.node.node.in_flight.bytes() > 0 {
            pause().await;
        }
    });
}

#[test]
fn an_abandoned_read_fills_l1() {
    let redis = RedisServer::start();
    // Before the node starts: a late announcement of this write would remove the copy.
    redis.connect().set::<_, _, ()>("k", "v").unwrap();
    let proxy = FaultProxy::start(redis.port());
    let node = Terrace::start(config_patient(proxy.url()));
    wait_until_open(&node);
    let reads = || redis.ask::<String>(&[b"INFO", b"commandstats"]);
    let calls = |stats: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls=")).unwrap_or("0").to_owned();
        line.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let before = calls(&reads());
    proxy.set(Who::All, Faults::late_answers(Duration::from_millis(300), Duration::ZERO));
    run(async {
        let client = CacheClient::new(connect(node.grpc()).await);
        let calls = (0..48).map(|_| {
            let mut client = client.clone();
            async move {
                let mut request = Request::new(get("k"));
                request.set_timeout(Duration::from_millis(100));
                client.get(request).await
            }
        });
        let failed = join_all(calls).await.into_iter().filter(Result::is_err).count();
        assert_eq!(failed, 48);
    });
    proxy.heal();
    eventually("the value fills L1", || is_in_l1(&node, "k"));
    let read = calls(&reads()) - before;
    assert!(read <= 4, "{read} reads of Redis");
}

#[test]
fn client_names_are_limited() {
    let server = Terrace::start(config());
    let mut client = Client::connect(&server);
    client.ask(&format!("CLIENT SETNAME {}", "n".repeat(256)), "+OK\r\n");
    for command in ["CLIENT SETNAME", "CLIENT SETINFO LIB-NAME", "HELLO 2 SETNAME"] {
        client.say(&format!("{command} {}", "n".repeat(257)));
        assert_eq!(client.line(), "-ERR a client name has 257 bytes; at most 256 are accepted\r\n");
    }
    client.send(&request("CONFIG SET slowlog-log-slower-than 0"));
    client.expect("+OK\r\n");
    client.ask("PING", "+PONG\r\n");
    let entries = crate::support::resp::ask(&server, "SLOWLOG GET 128");
    assert!(entries.contains(&format!("$64\r\n{}\r\n", "n".repeat(64))), "{entries}");
}
