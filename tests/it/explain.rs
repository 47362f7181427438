//! `Insight.Explain`: where a key is stored, who wrote it, and why its last read was a hit or a miss. Runs over Redis,
//! the embedded store and no L2. Explaining a key changes neither its entry nor the statistics.

use std::process::Output;

use redis::{Commands, Value};
use terrace::{
    cache::policy::Policy,
    glob::Glob,
    proto::{
        ExplainRequest, ExplainResponse, InvalidateTagsRequest, Why, insight_client::InsightClient,
        invalidation_client::InvalidationClient, key_read, key_write,
    },
};
use tonic::Code;

use crate::support::{
    command::terrace,
    eventually,
    grpc::{block_on, connect},
    kv::{by_pattern, get, set, set_for, value},
    node::{connected_node, over_embedded, over_none, over_redis, stats},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config, config_over},
};

fn explain(node: &Terrace, key: &str) -> ExplainResponse {
    let request = ExplainRequest { key: key.to_owned().into() };
    block_on(async { InsightClient::new(connect(node.grpc()).await).explain(request).await.unwrap().into_inner() })
}

/// Outcome of the last read, the reason for the L1 miss, the reason for the L2 miss.
type Seen = (key_read::Outcome, Why, Why);

fn last_read(of: &ExplainResponse) -> Option<Seen> {
    of.last_read.as_ref().map(|read| (read.outcome(), read.not_l1(), read.not_l2()))
}

/// Waits for this outcome, because events are processed a moment later.
fn read_was(node: &Terrace, key: &str, expected: Seen) {
    let mut seen = None;
    eventually(&format!("the read of {key} is explained by {expected:?}"), || {
        let now = last_read(&explain(node, key));
        if now != seen {
            println!("{key}: {now:?}");
            seen = now;
        }
        seen == Some(expected)
    });
}

fn last_writer(node: &Terrace, key: &str) -> Option<(key_write::Writer, key_write::Kind)> {
    explain(node, key).last_write.map(|write| (write.writer(), write.kind()))
}

const MISS: key_read::Outcome = key_read::Outcome::Miss;
const OWN_VALUE: Option<(key_write::Writer, key_write::Kind)> =
    Some((key_write::Writer::ThisNode, key_write::Kind::Value));

fn a_key_is_explained_through_its_life(node: &Terrace, has_l2: bool) {
    let unknown = explain(node, "k");
    assert_eq!(
        (unknown.l1_absent(), unknown.l2, unknown.last_write, unknown.last_read),
        (Why::NeverSeen, None, None, None)
    );
    assert!(unknown.l1_open && unknown.l2_error.is_empty());

    assert_eq!(value(node, "k"), None);
    read_was(node, "k", (MISS, Why::NeverSeen, Why::NeverSeen));

    set(node, "k", "1", &[]);
    eventually("the write is known", || last_writer(node, "k") == OWN_VALUE);
    if has_l2 {
        let written = explain(node, "k");
        assert_eq!((written.l1, written.l1_absent()), (None, Why::Written), "no read has brought it up");
        let below = written.l2.expect("it is there");
        assert_eq!((below.size_bytes, below.ttl_ms, &*below.r#type, below.hidden), (1, None, "string", false));
        assert_eq!(value(node, "k").as_deref(), Some("1"));
        read_was(node, "k", (key_read::Outcome::HitL2, Why::Written, Why::Unspecified));
    }
    // Explaining counts neither as a read nor as a hit.
    let (before, counted) = (explain(node, "k").l1.expect("a copy"), stats(node).reads);
    for _ in 0..5 {
        let again = explain(node, "k");
        assert_eq!(again.l1.map(|copy| copy.hits), Some(before.hits));
        assert_eq!(again.l1_absent(), Why::Unspecified);
    }
    assert_eq!(stats(node).reads, counted);

    assert_eq!(value(node, "k").as_deref(), Some("1"));
    read_was(node, "k", (key_read::Outcome::HitL1, Why::Unspecified, Why::Unspecified));
    assert_eq!(explain(node, "k").l1.map(|copy| copy.hits), Some(before.hits + 1));

    let _deleted: i64 = connection(node.resp()).del("k").unwrap();
    assert_eq!(value(node, "k"), None);
    read_was(node, "k", (MISS, Why::Deleted, Why::Deleted));
    assert_eq!(last_writer(node, "k"), Some((key_write::Writer::ThisNode, key_write::Kind::Deletion)));

    set_for(node, "short", "v", 300);
    let shown = explain(node, "short");
    let of_key = if has_l2 { shown.l2.and_then(|below| below.ttl_ms) } else { shown.l1.and_then(|copy| copy.ttl_ms) };
    assert!((1..=300).contains(&of_key.expect("it has a TTL")), "{of_key:?}");
    eventually("it expires", || value(node, "short").is_none());
    eventually("the read after its end is explained", || {
        last_read(&explain(node, "short")).is_some_and(|(outcome, _, not_l2)| (outcome, not_l2) == (MISS, Why::Expired))
    });

    set(node, "tagged", "1", &["t"]);
    assert!(get(node, "tagged").is_some());
    let valid = explain(node, "tagged").tags;
    assert_eq!(valid.iter().map(|tag| (&*tag.tag, tag.valid)).collect::<Vec<_>>(), [(&b"t"[..], true)]);
    let invalidate = InvalidateTagsRequest { tags: vec!["t".into()] };
    block_on(async { InvalidationClient::new(connect(node.grpc()).await).invalidate_tags(invalidate).await }).unwrap();
    eventually("the copy goes", || get(node, "tagged").is_none());
    read_was(node, "tagged", (MISS, Why::Tag, Why::Tag));
    let hidden = explain(node, "tagged");
    assert!(!hidden.tags[0].valid && hidden.l1_absent() == Why::Tag);

    set(node, "group:1", "1", &[]);
    assert!(get(node, "group:1").is_some());
    let pattern = by_pattern("group:*");
    block_on(async {
        let mut client = InvalidationClient::new(connect(node.grpc()).await);
        let mut progress = client.invalidate_pattern(pattern).await.unwrap().into_inner();
        progress.message().await.unwrap()
    });
    assert_eq!(value(node, "group:1"), None);
    eventually("the read after the ban is explained", || {
        last_read(&explain(node, "group:1"))
            .is_some_and(|(outcome, _, not_l2)| (outcome, not_l2) == (MISS, Why::Banned))
    });

    let refused = |key: &'static str| {
        let request = ExplainRequest { key: key.into() };
        block_on(async { InsightClient::new(connect(node.grpc()).await).explain(request).await }).unwrap_err().code()
    };
    assert_eq!([refused(""), refused("__terrace:bans")], [Code::InvalidArgument; 2]);
}

#[test]
fn over_redis_a_key_is_explained_through_its_life() {
    a_key_is_explained_through_its_life(&over_redis().node, true);
}

#[test]
fn over_the_embedded_store_a_key_is_explained_through_its_life() {
    a_key_is_explained_through_its_life(&over_embedded().node, true);
}

#[test]
fn over_none_a_key_is_explained_through_its_life() {
    a_key_is_explained_through_its_life(&over_none().node, false);
}

#[test]
fn what_was_not_written_here_is_said_to_come_from_elsewhere() {
    let redis = RedisServer::start();
    let (a, b) = (connected_node(&redis.url()), connected_node(&redis.url()));
    let elsewhere = Some((key_write::Writer::Elsewhere, key_write::Kind::Unspecified));
    redis.run("SET direct 1");
    eventually("the direct write is announced", || last_writer(&a, "direct") == elsewhere);
    assert_eq!(value(&a, "direct").as_deref(), Some("1"));
    read_was(&a, "direct", (key_read::Outcome::HitL2, Why::Announced, Why::Unspecified));
    set(&b, "others", "1", &[]);
    eventually("the other node's write is announced", || last_writer(&a, "others") == elsewhere);
    eventually("who wrote it knows", || last_writer(&b, "others") == OWN_VALUE);
    // A command that passes through.
    let _pushed: i64 = connection(a.resp()).lpush("list", "x").unwrap();
    eventually("the pass is known", || last_writer(&a, "list") == OWN_VALUE);
    assert_eq!(explain(&a, "list").l2.map(|below| below.r#type), Some("list".to_owned()));
}

#[test]
fn what_l1_gave_up_for_room_is_said_to_be_evicted() {
    let mut wanted = config();
    wanted.l1.size = 64 << 10;
    let node = Terrace::start(wanted);
    let mut client = connection(node.resp());
    for number in 0..200 {
        client.set::<_, _, ()>(format!("k{number}"), vec![b'x'; 1_000]).unwrap();
    }
    let all = (0..200).map(|number| format!("k{number}"));
    let gone: Vec<String> = all.filter(|key| value(&node, key).is_none()).take(40).collect();
    // The node remembers a part of them: which part depends on random hashes.
    eventually("many reads of what is gone are explained", || {
        let seen: Vec<_> = gone.iter().map(|key| explain(&node, key)).collect();
        let explained = seen.iter().filter(|of| last_read(of) == Some((MISS, Why::Evicted, Why::Evicted)));
        explained.filter(|of| of.l1_absent() == Why::Evicted).count() * 4 > gone.len()
    });
}

#[test]
fn what_holds_for_a_key_is_told_and_what_keeps_it_out_of_l1() {
    let redis = RedisServer::start();
    let mut wanted = config_over(redis.url());
    let minutes = |minutes: u64| Some(std::time::Duration::from_secs(minutes * 60));
    let policy = Policy {
        default_ttl: minutes(30),
        max_ttl: minutes(60),
        touch_on_read: minutes(20),
        l1: false,
        ..Policy::of(Glob::new(b"session:*").unwrap())
    };
    wanted.policies = vec![policy];
    let node = Terrace::start(wanted);
    eventually("it is written", || connection(node.resp()).set::<_, _, ()>("session:1", "v").is_ok());
    eventually("it is read", || connection(node.resp()).get::<_, Option<String>>("session:1").is_ok());
    let of = explain(&node, "session:1");
    assert_eq!((of.l1, of.l1_absent), (None, Why::NotAllowed.into()));
    let rule = of.rule.expect("set");
    assert_eq!((rule.policy.as_deref(), &*rule.group, rule.l1), (Some(&b"session:*"[..]), "session:*", false));
    let lives = [rule.write_ttl_ms, rule.max_ttl_ms, rule.touch_on_read_ms];
    assert_eq!(lives, [Some(1_800_000), Some(3_600_000), Some(1_200_000)]);
    let other = explain(&node, "other:1").rule.expect("set");
    assert_eq!((other.policy, &*other.group, &*other.template, other.l1), (None, "other", "other:{d}", true));
}

fn command(args: &[&str]) -> Output {
    terrace(args).output().expect("the binary runs")
}

#[test]
fn resp_and_the_command_line_tell_the_same() {
    let world = over_embedded();
    let node = &world.node;
    set(node, "k", "1", &["red"]);
    assert!(get(node, "k").is_some() && get(node, "k").is_some());
    read_was(node, "k", (key_read::Outcome::HitL1, Why::Unspecified, Why::Unspecified));
    eventually("the write is known", || last_writer(node, "k") == OWN_VALUE);

    let reply: Vec<(String, Value)> =
        redis::cmd("TERRACE.EXPLAIN").arg("k").query(&mut connection(node.resp())).unwrap();
    let names: Vec<&str> = reply.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["key", "l1", "l2", "tags", "bans", "last_write", "last_read", "rule", "load", "predicted"]);
    let told = format!("{reply:?}");
    for part in ["hit_l1", "this node", "red", "valid", "string"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let refused = redis::cmd("TERRACE.EXPLAIN").query::<Value>(&mut connection(node.resp())).unwrap_err();
    assert!(refused.to_string().contains("wrong number of arguments"), "{refused}");

    let output = command(&["explain", "k", "--server", node.grpc(), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["last_read"]["outcome"], "OUTCOME_HIT_L1");
    assert_eq!((&json["l1"]["size_bytes"], &json["l2"]["type"]), (&1.into(), &"string".into()));
    assert_eq!(json["last_write"]["writer"], "WRITER_THIS_NODE");
    let output = command(&["explain", "k", "--server", node.grpc()]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for part in ["L1          1B, no TTL", "1 hits", "through this node", "a hit in L1", "tag         red, valid"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let absent = command(&["explain", "nobody", "--server", node.grpc()]);
    let text = String::from_utf8(absent.stdout).expect("UTF-8");
    assert!(
        text.contains("no copy: this node has no record of the key") && text.contains("L2          absent"),
        "{text}"
    );
    assert_eq!(command(&["explain", "", "--server", node.grpc()]).status.code(), Some(1));
}
