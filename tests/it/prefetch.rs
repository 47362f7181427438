//! Prefetch over a real Redis: what follows rides with the miss, and shows itself on every port.

use redis::{Commands, Connection};
use terrace::{
    cache::policy::{Policy, Prefetch},
    glob::Glob,
    proto::{
        GetAssociationsRequest, GetRequest, PredictRequest, cache_client::CacheClient, insight_client::InsightClient,
    },
};

use crate::{
    nodes::open,
    support::{
        eventually,
        grpc::{block_on, connect},
        redis::RedisServer,
        terrace::{Terrace, config},
    },
};

/// Users that are read to learn from.
pub(crate) const TAUGHT: std::ops::Range<u32> = 10_000..10_300;

/// Writes users with their profiles straight to Redis.
pub(crate) fn write(redis: &RedisServer, users: impl Iterator<Item = u32>) {
    let mut below = redis.connect();
    let mut all = redis::pipe();
    for user in users {
        for kind in ["user", "profile"] {
            all.set(format!("{kind}:{user}"), format!("{kind} of {user}")).ignore();
        }
    }
    all.exec(&mut below).expect("written");
}

/// A Redis with users and profiles, and a Terrace over it that has read the users of [`TAUGHT`] with their profiles.
pub(crate) fn taught(prefetch: Prefetch) -> (RedisServer, Terrace, Connection) {
    let redis = RedisServer::start();
    write(&redis, TAUGHT.chain(20_000..20_200));
    let mut config = config();
    config.l2.url = redis.url();
    config.server.workers = 1;
    config.policies = vec![Policy { prefetch, ..Policy::of(Glob::new(b"*").expect("a pattern")) }];
    let terrace = Terrace::start(config);
    eventually("L1 opens", || open(&terrace));
    let mut client = connection(terrace.resp());
    for user in TAUGHT {
        read(&mut client, user);
    }
    (redis, terrace, client)
}

fn connection(address: &str) -> Connection {
    redis::Client::open(format!("redis://{address}")).expect("an address").get_connection().expect("it accepts")
}

/// Reads a user, then its profile.
pub(crate) fn read(client: &mut Connection, user: u32) {
    for kind in ["user", "profile"] {
        let value: String = client.get(format!("{kind}:{user}")).expect("an answer");
        assert_eq!(value, format!("{kind} of {user}"));
    }
}

/// A value on the page of metrics.
fn metric(terrace: &Terrace, name: &str) -> f64 {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(terrace.http()).expect("it accepts");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("text");
    let line = page.lines().find(|line| line.starts_with(name) && line.as_bytes().get(name.len()) == Some(&b' '));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

fn count(terrace: &Terrace, outcome: &str) -> f64 {
    metric(terrace, &format!("terrace_prefetch_total{{outcome=\"{outcome}\"}}"))
}

/// Whether this node's L1 holds a key.
fn is_resident(resident: &mut Connection, key: &str) -> bool {
    resident.exists(key).expect("an answer")
}

fn select(terrace: &Terrace, database: u8) -> Connection {
    let mut client = connection(terrace.resp());
    redis::cmd("SELECT").arg(database).query::<()>(&mut client).expect("there is one");
    client
}

#[test]
fn the_profile_of_a_user_never_seen_comes_with_the_user() {
    let (redis, terrace, mut client) = taught(Prefetch::Auto);
    let mut resident = select(&terrace, 1);
    assert!(!is_resident(&mut resident, "profile:20000"));
    let _user: String = client.get("user:20000").expect("an answer");
    assert!(is_resident(&mut resident, "profile:20000"), "it rode with the miss: it is there when that is answered");
    let used = count(&terrace, "used");
    (20_000..20_100).for_each(|user| read(&mut client, user));
    assert!(count(&terrace, "used") >= used + 90.0, "{} after {used}", count(&terrace, "used"));
    assert!(count(&terrace, "wasted") <= 5.0);
    // A prefetched copy is coherent like any other.
    let _user: String = client.get("user:20150").expect("an answer");
    assert!(is_resident(&mut resident, "profile:20150"));
    let mut straight = redis.connect();
    straight.set::<_, _, ()>("profile:20150", "newer").expect("written");
    eventually("the staged copy goes", || !is_resident(&mut resident, "profile:20150"));
    let value: String = client.get("profile:20150").expect("an answer");
    assert_eq!(value, "newer");
}

#[test]
fn a_shadow_measures_and_fetches_nothing_and_off_does_not_even_learn() {
    let (_redis, terrace, _client) = taught(Prefetch::Shadow);
    assert_eq!(count(&terrace, "issued"), 0.0);
    assert!(count(&terrace, "shadow") > 100.0);
    let (_redis, terrace, _client) = taught(Prefetch::Off);
    assert_eq!((count(&terrace, "shadow"), metric(&terrace, "terrace_learn_keys")), (0.0, 0.0));
}

#[test]
fn what_was_learned_shows_in_database_2_and_over_grpc() {
    let (_redis, terrace, _client) = taught(Prefetch::Auto);
    let mut learned = select(&terrace, 2);
    let keys: Vec<String> = learned.scan().expect("a scan").collect::<Result<_, _>>().expect("keys");
    assert!(keys.contains(&"template:user:{d}".to_owned()) && keys.contains(&"assoc:user:10007".to_owned()));
    let template: String = learned.get("template:user:{d}").expect("an answer");
    assert!(template.contains("\"makes\":\"profile:{1}\""), "{template}");
    let association: String = learned.get("assoc:user:10007").expect("an answer");
    assert!(association.contains("\"key\":\"profile:10007\""), "{association}");
    block_on(async {
        let mut insight = InsightClient::new(connect(terrace.grpc()).await);
        let request = PredictRequest { key: "user:20001".into() };
        let predictions = insight.predict(request).await.expect("an answer").into_inner().predictions;
        assert_eq!((&*predictions[0].key, predictions[0].fetched), (&b"profile:20001"[..], true), "{predictions:?}");
        let request = GetAssociationsRequest { key: "user:10007".into() };
        let known = insight.get_associations(request).await.expect("an answer").into_inner();
        assert_eq!(known.associations[0].key, "profile:10007");
        assert!(known.rules.iter().any(|rule| rule.template == "user:{d}" && rule.makes == "profile:{1}"));
        assert!(known.total.is_some_and(|total| total.issued > 0) && known.groups[0].name == "profile");
        let nobody = insight.get_associations(GetAssociationsRequest { key: "nobody".into() }).await;
        assert_eq!(nobody.expect_err("unknown").code(), tonic::Code::InvalidArgument);
    });
}

#[test]
fn requests_of_one_trace_belong_together_whatever_connection_they_come_by() {
    let (_redis, terrace, _client) = taught(Prefetch::Shadow);
    block_on(async {
        let channels = [connect(terrace.grpc()).await, connect(terrace.grpc()).await];
        for (channel, key) in channels.into_iter().zip(["user:20010", "profile:20020"]) {
            let mut request = tonic::Request::new(GetRequest { key: key.into(), options: None });
            let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            request.metadata_mut().insert("traceparent", trace.parse().expect("a header"));
            CacheClient::new(channel).get(request).await.expect("an answer");
        }
    });
    let mut learned = select(&terrace, 2);
    let association: String = learned.get("assoc:user:20010").expect("an answer");
    assert!(association.contains("\"key\":\"profile:20020\""), "{association}");
}
