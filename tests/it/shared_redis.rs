//! Two nodes and direct clients share one Redis: they read the same bytes and TTLs, and each node sees every write.

use redis::{Commands, Value};

use crate::support::{
    eventually,
    kv::{get, is_in_l1, set, set_for},
    node::{node, wait_until_open},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_patient},
};

#[test]
fn a_value_is_the_same_bytes_and_ttl_by_every_way() {
    let redis = RedisServer::start();
    let node = node(&redis.url());
    let (mut straight, mut through) = (redis.connect(), connection(node.resp()));
    let binary: Vec<u8> = (0..=255).collect();
    let key: &[u8] = b"bin\x00\r\n\xff";

    set_for(&node, key, &binary, 100_000);
    assert_eq!(straight.get::<_, Vec<u8>>(key).expect("redis answers"), binary);
    assert_eq!(through.get::<_, Vec<u8>>(key).expect("terrace answers"), binary);
    let lives: [i64; 2] = [straight.pttl(key).expect("redis answers"), through.pttl(key).expect("terrace answers")];
    let found = get(&node, key).expect("it is there");
    for life in lives.into_iter().chain(found.ttl_ms) {
        assert!((40_000..=100_000).contains(&life), "{life}");
    }

    straight.pset_ex::<_, _, ()>("raw", &binary[..], 90_000).expect("redis answers");
    let found = get(&node, b"raw").expect("it is there");
    assert_eq!(
        (&found.value[..], through.get::<_, Vec<u8>>("raw").expect("terrace answers")),
        (&binary[..], binary.clone())
    );
    assert!((40_000..=90_000).contains(&found.ttl_ms.expect("it has one")));

    through.set::<_, _, ()>("plain", "v").expect("terrace answers");
    assert_eq!(straight.ttl::<_, i64>("plain").expect("redis answers"), -1);
    assert_eq!(get(&node, b"plain").expect("it is there").ttl_ms, None);
}

#[test]
fn a_write_anywhere_is_seen_on_every_node() {
    let redis = RedisServer::start();
    let nodes = [node(&redis.url()), node(&redis.url())];
    let (mut a, mut b, mut straight) = (connection(nodes[0].resp()), connection(nodes[1].resp()), redis.connect());
    let mut copies_are_everywhere = |expected: &str| {
        eventually("both nodes hold a copy of the newest value", || {
            let values: [Option<String>; 2] = [a.get("k").expect("a answers"), b.get("k").expect("b answers")];
            values.iter().all(|value| value.as_deref() == Some(expected))
                && nodes.iter().all(|node| is_in_l1(node, "k"))
        });
    };
    straight.set::<_, _, ()>("k", "1").expect("redis answers");
    copies_are_everywhere("1");
    connection(nodes[0].resp()).set::<_, _, ()>("k", "2").expect("a answers");
    copies_are_everywhere("2");
    set(&nodes[1], "k", "3", &[]);
    copies_are_everywhere("3");
    straight.set::<_, _, ()>("k", "4").expect("redis answers");
    copies_are_everywhere("4");
    redis.run("FLUSHALL");
    eventually("the flush is seen", || {
        nodes.iter().all(|node| connection(node.resp()).get::<_, Value>("k") == Ok(Value::Nil))
    });
}

#[test]
fn terrace_serves_before_its_redis_does_and_recovers_when_it_comes() {
    let mut redis = RedisServer::start();
    redis.kill();
    let node = Terrace::start(config_patient(redis.url()));
    let mut client = connection(node.resp());
    let error = client.get::<_, Value>("k").expect_err("there is no Redis");
    assert!(error.to_string().contains("Redis"), "{error}");
    redis.restart();
    eventually("Redis is used", || client.set::<_, _, ()>("k", "v").is_ok());
    wait_until_open(&node);
    assert_eq!(client.get::<_, String>("k").expect("it answers"), "v");
}
