//! Terrace over a Redis Cluster, behind Sentinels and over TLS: commands reach the server of their key, topology
//! changes need no manual step, and no L1 copy outlives a change.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Commands, Connection, Value};
use terrace::server::Server;

use crate::support::{
    checker::direct::slot,
    cluster::RedisCluster,
    eventually,
    node::{node, stats, wait_until_open},
    redis::RedisServer,
    resp::connection,
    sentinel::Sentinels,
    terrace::{Terrace, config_patient},
};

fn name(number: usize) -> String {
    format!("k:{number}")
}

/// Waits until the node serves a write and a read of this key: some calls may fail during a topology change.
fn writes_again(node: &Terrace, key: &str, value: &str) {
    let mut client = connection(node.resp());
    eventually("a write and a read succeed", || {
        client.set::<_, _, ()>(key, value).is_ok() && client.get::<_, String>(key).is_ok_and(|read| read == value)
    });
}

/// Waits until L1 has a copy of this key with this value.
fn settles(node: &Terrace, key: &str, value: &str) {
    let mut client = connection(node.resp());
    let hits = || stats(node).reads.expect("set").hit_l1;
    eventually("a copy of the newest value is in L1", || {
        let before = hits();
        client.get::<_, Option<String>>(key).is_ok_and(|read| read.as_deref() == Some(value)) && hits() > before
    });
}

#[test]
fn a_cluster_is_one_store() {
    let cluster = RedisCluster::start();
    let node = node(&cluster.url());
    let mut client = connection(node.resp());
    let keys: Vec<String> = (0..300).map(name).collect();
    let pairs: Vec<(String, usize)> = keys.iter().cloned().zip(0..).collect();
    client.mset::<_, _, ()>(&pairs).expect("stored");
    let values: Vec<Option<usize>> = client.mget(&keys).expect("read");
    assert_eq!(values, (0..300).map(Some).collect::<Vec<_>>(), "in the order of the keys");
    assert_eq!(redis::cmd("DBSIZE").query::<usize>(&mut client), Ok(300));
    let scanned: BTreeSet<String> = client.scan::<String>().expect("a scan").filter_map(Result::ok).collect();
    assert_eq!(scanned, keys.iter().cloned().collect());
    let drawn: String = redis::cmd("RANDOMKEY").query(&mut client).expect("a key");
    assert!(scanned.contains(&drawn));
    for primary in cluster.primaries() {
        let size: usize = cluster.servers[primary].ask(&[b"DBSIZE"]);
        assert!(size > 50, "each primary has its share: {size}");
    }
    assert_eq!(client.incr::<_, _, i64>("k:7", 3), Ok(10));
    assert_eq!(client.pexpire::<_, bool>("k:7", 90_000), Ok(true));
    assert!((1..=90_000).contains(&client.pttl::<_, i64>("k:7").expect("a life")));
    assert_eq!(client.del::<_, usize>(&keys), Ok(300));
    assert_eq!(redis::cmd("DBSIZE").query::<usize>(&mut client), Ok(0));
}

#[test]
fn other_types_pass_through_to_whoever_has_the_key() {
    let cluster = RedisCluster::start();
    let node = node(&cluster.url());
    let mut client = connection(node.resp());
    let owners: Vec<usize> = (0..30).map(|number| cluster.owner(slot(name(number).as_bytes()))).collect();
    assert_eq!(owners.iter().collect::<BTreeSet<_>>().len(), 3, "keys of all primaries");
    let write_all = |client: &mut Connection, round: i64| {
        for number in 0..30 {
            let key = name(number);
            assert_eq!(client.hset(format!("{{{key}}}h"), format!("f{round}"), round), Ok(1), "{key}");
            assert_eq!(client.lpush(format!("{{{key}}}l"), round), Ok(round), "{key}");
            assert_eq!(client.zadd(format!("{{{key}}}z"), round, 0.5), Ok(1), "{key}");
            let fields: BTreeMap<String, i64> = client.hgetall(format!("{{{key}}}h")).expect("a hash");
            assert_eq!(fields.len() as i64, round, "{key}");
        }
    };
    write_all(&mut client, 1);
    // Each call directly after the failover succeeds: the old primary executed nothing.
    cluster.failover(owners[0]);
    write_all(&mut client, 2);
    let other = cluster.owner(slot(name(1).as_bytes()));
    let to = cluster.primaries().into_iter().find(|at| *at != other).expect("another primary");
    let moving = slot(name(1).as_bytes());
    cluster.reshard(moving..=moving, other, to);
    let mut replies = redis::pipe();
    replies.atomic().rpush("{k:1}l", 3).llen("{k:1}l");
    assert_eq!(replies.query::<(i64, i64)>(&mut client), Ok((3, 3)));
}

#[test]
fn slots_that_move_and_primaries_that_go_leave_no_old_copy_and_need_no_manual_step() {
    let mut cluster = RedisCluster::start();
    let node = node(&cluster.url());
    let keys: Vec<String> = (0..40).map(name).collect();
    for key in &keys {
        writes_again(&node, key, "1");
        settles(&node, key, "1");
    }
    // The slot of one key moves while another client changes the key.
    let moving = slot(keys[0].as_bytes());
    let from = cluster.owner(moving);
    let to = cluster.primaries().into_iter().find(|at| *at != from).expect("another primary");
    cluster.reshard(moving..=moving, from, to);
    cluster.servers[to].run(&format!("SET {} 2", keys[0]));
    settles(&node, &keys[0], "2");

    let former = cluster.owner(slot(keys[1].as_bytes()));
    let promoted = cluster.failover(former);
    cluster.servers[promoted].run(&format!("SET {} 3", keys[1]));
    settles(&node, &keys[1], "3");

    let former = cluster.owner(slot(keys[2].as_bytes()));
    let promoted = cluster.kill(former);
    writes_again(&node, &keys[2], "4");
    cluster.servers[promoted].run(&format!("SET {} 5", keys[2]));
    wait_until_open(&node);
    settles(&node, &keys[2], "5");
    cluster.servers[former].restart();
    cluster.settle();
    for key in &keys[3..] {
        writes_again(&node, key, "6");
        settles(&node, key, "6");
    }
}

#[test]
fn a_slot_under_way_is_asked_for_and_not_kept() {
    let cluster = RedisCluster::start();
    let node = node(&cluster.url());
    let mut client = connection(node.resp());
    let moving = slot(b"k:0");
    let from = cluster.owner(moving);
    let to = cluster.primaries().into_iter().find(|at| *at != from).expect("another primary");
    let id = |at: usize| cluster.servers[at].ask::<String>(&[b"CLUSTER", b"MYID"]);
    cluster.servers[to].run(&format!("CLUSTER SETSLOT {moving} IMPORTING {}", id(from)));
    cluster.servers[from].run(&format!("CLUSTER SETSLOT {moving} MIGRATING {}", id(to)));
    // The old owner answers ASK to the write and to the reads.
    client.set::<_, _, ()>("k:0", "v").expect("stored at the new one");
    assert_eq!(cluster.servers[to].ask::<usize>(&[b"DBSIZE"]), 1);
    for _ in 0..3 {
        assert_eq!(client.get::<_, String>("k:0"), Ok("v".to_owned()));
    }
    assert_eq!(stats(&node).reads.expect("set").hit_l1, 0, "who is asked announces nothing to us");
    assert_eq!(client.mget::<_, Vec<Option<String>>>(&["k:0", "other"]), Ok(vec![Some("v".to_owned()), None]));
}

#[test]
fn behind_sentinels_the_primary_is_followed() {
    let sentinels = Sentinels::start();
    let node = node(&sentinels.url());
    writes_again(&node, "k", "1");
    settles(&node, "k", "1");
    let promoted = sentinels.failover();
    sentinels.servers[promoted].run("SET k 2");
    settles(&node, "k", "2");
    writes_again(&node, "k", "3");
    settles(&node, "k", "3");
    wait_until_open(&node);
}

#[test]
fn a_primary_that_is_killed_behind_sentinels_is_replaced() {
    let mut sentinels = Sentinels::start();
    let node = node(&sentinels.url());
    writes_again(&node, "k", "1");
    let former = sentinels.primary().expect("a primary");
    sentinels.servers[former].kill();
    let promoted = sentinels.wait_for_another_primary(former);
    writes_again(&node, "k", "2");
    sentinels.servers[promoted].run("SET k 3");
    settles(&node, "k", "3");
}

/// A Redis that requires TLS, and the files that a client needs.
struct Guarded {
    redis: RedisServer,
    _dir: tempfile::TempDir,
    authority: std::path::PathBuf,
    certificate: std::path::PathBuf,
    key: std::path::PathBuf,
    port: u16,
}

fn guarded() -> Guarded {
    let issuer_key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    // The names differ, because a certificate with the name of its issuer counts as self-signed.
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = parameters.self_signed(&issuer_key).expect("an authority").pem();
    let issuer = rcgen::Issuer::new(parameters, issuer_key);
    let own_key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut parameters = rcgen::CertificateParams::new(names).expect("names");
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "redis");
    let certificate_pem = parameters.signed_by(&own_key, &issuer).expect("a certificate").pem();
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let authority = write("ca.pem", authority_pem);
    let certificate = write("redis.pem", certificate_pem);
    let key = write("redis.key", own_key.serialize_pem());
    let port = crate::support::redis::free_port();
    let words = format!(
        "--tls-port {port} --tls-ca-cert-file {} --tls-cert-file {} --tls-key-file {} --tls-auth-clients yes",
        authority.display(),
        certificate.display(),
        key.display()
    );
    let redis = RedisServer::start_with(&words.split(' ').collect::<Vec<_>>());
    Guarded { redis, _dir: dir, authority, certificate, key, port }
}

#[test]
fn by_tls_a_redis_is_served_if_both_sides_are_who_they_say() {
    let guarded = guarded();
    let mut wanted = config_patient(format!("rediss://127.0.0.1:{}", guarded.port));
    wanted.l2.tls_ca_file = Some(guarded.authority.clone());
    wanted.l2.tls_cert_file = Some(guarded.certificate.clone());
    wanted.l2.tls_key_file = Some(guarded.key.clone());
    let node = Terrace::start(wanted.clone());
    wait_until_open(&node);
    writes_again(&node, "k", "v");
    assert_eq!(guarded.redis.ask::<String>(&[b"GET", b"k"]), "v");
    guarded.redis.run("SET k w");
    settles(&node, "k", "w");

    // A node that trusts another authority refuses the connection.
    let stranger = self::guarded();
    wanted.l2.tls_ca_file = Some(stranger.authority.clone());
    let distrustful = Terrace::start(wanted.clone());
    let mut client = connection(distrustful.resp());
    eventually("the distrust is told", || {
        let error = client.get::<_, Value>("k").expect_err("not trusted").to_string();
        error.contains("TLS handshake with Redis") && error.contains("certificate")
    });
    // A certificate without its key is a configuration fault.
    wanted.l2.tls_key_file = None;
    let error = Server::bind(wanted, Vec::new(), terrace::clock::Clock::real()).err().expect("refused").to_string();
    assert!(error.contains("only one of l2.tls_cert_file and l2.tls_key_file is set"), "{error}");
}
