//! Flushes between pattern bans, tags and writes: whatever came before a flush, later values are kept, and the numbers
//! of bans only rise. Over Redis, the embedded store and no L2, against a simple model.

use std::collections::BTreeMap;

use redis::{Commands, Connection};
use terrace::{
    clock::Clock,
    glob::Glob,
    l2::{
        Backend, BanStore, Batch, Op,
        op::{Condition, SetExpiry},
    },
    proto::{InvalidateTagsRequest, invalidation_client::InvalidationClient},
};

use crate::support::{
    backend::{key, open_embedded},
    eventually,
    grpc::{block_on, connect},
    http::metric,
    kv::set,
    node::{World, over_embedded, over_none, over_redis},
    resp::connection,
    terrace::Terrace,
};

/// Opens a ban and waits until its sweep has ended.
fn ban_and_wait(client: &mut Connection, pattern: &str) {
    redis::cmd("TERRACE.INVALIDATE").arg("PATTERN").arg(pattern).arg("WAIT").query::<u64>(client).unwrap();
}

fn ban(client: &mut Connection, pattern: &str) -> u64 {
    redis::cmd("TERRACE.INVALIDATE").arg("PATTERN").arg(pattern).query(client).unwrap()
}

fn flush(client: &mut Connection) {
    redis::cmd("FLUSHALL").exec(client).unwrap();
}

/// Waits until no ban is active.
fn wait_for_sweeps(node: &Terrace) {
    eventually("no ban is active", || metric(node.http(), "terrace_bans_open") == Some(0.0));
}

fn finished_sweeps_stay_finished(world: &World) {
    let mut client = connection(world.node.resp());
    let mut last = 0;
    for round in 0..3 {
        for prefix in ["a", "b", "c"] {
            let keys: Vec<String> = (0..10).map(|number| format!("{prefix}:{number}")).collect();
            keys.iter().for_each(|key| client.set::<_, _, ()>(key, "x").unwrap());
            ban_and_wait(&mut client, &format!("{prefix}:*"));
            wait_for_sweeps(&world.node);
            for key in &keys {
                assert_eq!(client.get(key), Ok(None::<String>), "{key} in round {round}");
            }
            flush(&mut client);
            let number = ban(&mut client, "none:*");
            assert!(number > last, "the ban after a flush has the number {number}, an earlier one has {last}");
            last = number;
            wait_for_sweeps(&world.node);
        }
    }
}

#[test]
fn finished_sweeps_stay_finished_over_redis() {
    finished_sweeps_stay_finished(&over_redis());
}

#[test]
fn finished_sweeps_stay_finished_over_embedded() {
    finished_sweeps_stay_finished(&over_embedded());
}

#[test]
fn finished_sweeps_stay_finished_over_none() {
    finished_sweeps_stay_finished(&over_none());
}

#[tokio::test]
async fn numbers_of_the_embedded_store_survive_a_flush_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let glob = |pattern: &str| Glob::new(pattern.as_bytes()).unwrap();
    let mut last = 0;
    for round in 0..4 {
        let store = open_embedded(dir.path(), Clock::real()).unwrap();
        for number in 0..20 {
            let set =
                Op::Set { value: "v".into(), expiry: SetExpiry::Never, condition: Condition::Always, want_old: false };
            store.apply(vec![(key(&format!("k:{number}")), set)], Batch::Independent).await.remove(0).unwrap();
        }
        let number = store.ban(glob("a:*")).await.unwrap();
        assert!(number > last, "{number} after {last} in round {round}");
        last = number;
        store.clear().await.unwrap();
        assert_eq!(store.count().await, Ok(0));
        if round % 2 == 0 {
            let number = store.ban(glob("b:*")).await.unwrap();
            assert!(number > last, "{number} after {last} in round {round}");
            last = number;
        }
    }
}

/// Keys with their values and tags.
type Model = BTreeMap<String, (String, Option<String>)>;

fn compare(client: &mut Connection, model: &Model, names: &[String], context: &str) {
    let found: Vec<Option<String>> = client.mget(names).unwrap();
    for (name, found) in names.iter().zip(found) {
        assert_eq!(found, model.get(name).map(|(value, _)| value.clone()), "{name}, {context}");
    }
}

fn walk(world: &World, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client = connection(world.node.resp());
    let mut model = Model::new();
    let prefixes = ["a", "b", "c"];
    let names: Vec<String> =
        prefixes.iter().flat_map(|prefix| (0..6).map(move |number| format!("{prefix}:{number}"))).collect();
    let mut last = 0;
    for step in 0..150 {
        let context = format!("seed {seed}, step {step}");
        match random.u8(..20) {
            0..=7 => {
                let name = random.choice(&names).unwrap();
                client.set::<_, _, ()>(name, format!("v{step}")).unwrap();
                model.insert(name.clone(), (format!("v{step}"), None));
            }
            8..=10 => {
                let (name, tag) = (random.choice(&names).unwrap(), format!("tag:{}", random.u8(..3)));
                set(&world.node, name, &format!("t{step}"), &[&tag]);
                model.insert(name.clone(), (format!("t{step}"), Some(tag)));
            }
            11 => {
                let name = random.choice(&names).unwrap();
                client.del::<_, ()>(name).unwrap();
                model.remove(name);
            }
            12..=13 => {
                let tag = format!("tag:{}", random.u8(..3));
                let request = InvalidateTagsRequest { tags: vec![tag.clone().into()] };
                block_on(async {
                    InvalidationClient::new(connect(world.node.grpc()).await).invalidate_tags(request).await
                })
                .unwrap();
                model.retain(|_, (_, tagged)| tagged.as_ref() != Some(&tag));
            }
            14..=16 => {
                let prefix = random.choice(prefixes).unwrap();
                let number = ban(&mut client, &format!("{prefix}:*"));
                assert!(number > last, "ban {number} after {last}, {context}");
                last = number;
                model.retain(|name, _| !name.starts_with(prefix));
            }
            17 => wait_for_sweeps(&world.node),
            _ => {
                flush(&mut client);
                model.clear();
            }
        }
        compare(&mut client, &model, &names, &context);
    }
    wait_for_sweeps(&world.node);
    compare(&mut client, &model, &names, &format!("seed {seed}, at the end"));
    let mut stored: Vec<String> = client.keys("*:?").unwrap();
    stored.sort();
    let expected: Vec<String> = model.into_keys().collect();
    let missing: Vec<&String> = expected.iter().filter(|name| !stored.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not listed, seed {seed}");
}

fn walks(start: fn() -> World) {
    for _ in 0..3 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        walk(&start(), seed);
    }
}

#[test]
fn random_flushes_and_bans_equal_the_model_over_redis() {
    walks(over_redis);
}

#[test]
fn random_flushes_and_bans_equal_the_model_over_embedded() {
    walks(over_embedded);
}

#[test]
fn random_flushes_and_bans_equal_the_model_over_none() {
    walks(over_none);
}
