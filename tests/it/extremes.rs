//! Extreme expiries and clocks: the replies are those of a real redis-server on the RESP port, over every L2, and the gRPC
//! port shows the same TTLs, from both tiers.

use std::time::Duration;

use ::redis::{Commands, Connection, RedisResult, Value, cmd, pipe};
use terrace::clock::Clock;

use crate::support::{
    eventually,
    kv::{get, is_in_l1, set_for},
    node::{World, over_embedded, over_none, over_redis},
    redis::RedisServer,
    resp::connection,
    terrace::{Terrace, config_embedded},
};

/// Powers of two around the sizes of fields, and the limits of the sum with the current time.
const NUMBERS: [i128; 22] = [
    (1 << 31) - 1,
    (1 << 42) / 1000 - 1,
    (1 << 42) / 1000,
    1 << 42,
    (1 << 42) + 12_345,
    4_400_000_000_000,
    1 << 52,
    1 << 53,
    1 << 62,
    (1 << 63) - 1,
    (1 << 63) - 2,
    (1 << 63) - 500,
    (1 << 63) - 501,
    (1 << 63) - 1000,
    (1 << 63) - 4_000_000_000_000,
    1 << 63,
    -(1 << 63),
    -(1 << 63) - 1,
    ((1 << 63) - 1) / 1000,
    ((1 << 63) - 1) / 1000 + 1,
    ((1 << 63) - 1) / 1000 - 1,
    9_223_370_000_000_000_000,
];

const COMMANDS: [&str; 15] = [
    "EXPIRE k N",
    "PEXPIRE k N",
    "EXPIREAT k N",
    "PEXPIREAT k N",
    "SET k w EX N",
    "SET k w PX N",
    "SET k w EXAT N",
    "SET k w PXAT N",
    "SETEX k N w",
    "PSETEX k N w",
    "GETEX k EX N",
    "GETEX k PX N",
    "GETEX k EXAT N",
    "GETEX k PXAT N",
    "PEXPIREAT k N GT",
];

/// Commands after the change: the last ones show that the expiry is not lost by a write that keeps it.
const AFTER: [&str; 10] = [
    "GET k",
    "EXISTS k",
    "TTL k",
    "PTTL k",
    "EXPIRETIME k",
    "PEXPIRETIME k",
    "APPEND k 1",
    "PEXPIRETIME k",
    "PERSIST k",
    "TTL k",
];

fn ask(client: &mut Connection, lines: &[String]) -> Vec<Result<Value, String>> {
    let mut batch = pipe();
    batch.ignore_errors();
    for line in lines {
        let mut words = line.split(' ');
        batch.cmd(words.next().unwrap());
        words.for_each(|word| {
            batch.arg(word);
        });
    }
    let replies: Vec<RedisResult<Value>> = batch.query(client).unwrap();
    replies.into_iter().map(|reply| reply.map_err(|error| error.to_string())).collect()
}

/// Two servers answer one after the other, so times may differ by what passes in between.
fn agree(ours: &Result<Value, String>, theirs: &Result<Value, String>) -> bool {
    match (ours, theirs) {
        (Ok(Value::Int(ours)), Ok(Value::Int(theirs))) if *ours > 1_000_000 => ours.abs_diff(*theirs) < 60_000,
        _ => ours == theirs,
    }
}

fn agrees_with_redis(World { node, .. }: &World) {
    let server = RedisServer::start();
    let (mut ours, mut theirs) = (connection(node.resp()), server.connect());
    for number in NUMBERS {
        for command in COMMANDS {
            let command = command.replace('N', &number.to_string());
            let mut lines = vec!["DEL k".to_owned(), "SET k 5".to_owned(), command];
            lines.extend(AFTER.map(str::to_owned));
            let (got, expected) = (ask(&mut ours, &lines[1..]), ask(&mut theirs, &lines[1..]));
            for ((line, got), expected) in lines[1..].iter().zip(got).zip(expected) {
                assert!(agree(&got, &expected), "{line} after {}: {got:?}, in Redis {expected:?}", lines[2]);
            }
        }
    }
    // The gRPC port shows what Redis would, from L2 and from L1.
    for life_ms in [1_i64 << 42, (1 << 42) + 12_345, 1 << 53, (1 << 62) - 1] {
        set_for(node, "g", "v", life_ms);
        for _ in 0..3 {
            let left = get(node, "g").unwrap().ttl_ms.expect("it expires");
            assert!(left <= life_ms && left > life_ms - 60_000, "{left} of {life_ms}");
        }
        eventually("the key is in L1", || {
            get(node, "g");
            is_in_l1(node, "g")
        });
        let left = get(node, "g").unwrap().ttl_ms.expect("it expires");
        assert!(left <= life_ms && left > life_ms - 60_000, "{left} of {life_ms} in L1");
    }
}

#[test]
fn expiries_over_redis() {
    agrees_with_redis(&over_redis());
}

#[test]
fn expiries_over_the_embedded_store() {
    agrees_with_redis(&over_embedded());
}

#[test]
fn expiries_without_l2() {
    agrees_with_redis(&over_none());
}

/// The embedded store compares expiries with the wall clock, and copies in L1 follow it.
#[test]
fn l1_follows_the_wall_clock_over_the_embedded_store() {
    let (clock, time) = Clock::manual();
    let dir = tempfile::tempdir().unwrap();
    let node = Terrace::start_at(config_embedded(dir.path()), clock);
    let mut client = connection(node.resp());
    cmd("SET").arg("k").arg("v").arg("EX").arg(1_800).exec(&mut client).unwrap();
    client.set::<_, _, ()>("stays", "v").unwrap();
    eventually("the key is in L1", || {
        get(&node, "k");
        is_in_l1(&node, "k")
    });
    time.advance_wall(Duration::from_secs(3_600));
    eventually("the copy has ended", || client.get::<_, Option<String>>("k").unwrap().is_none());
    assert_eq!(client.exists::<_, u8>("k").unwrap(), 0);
    assert_eq!(client.pttl::<_, i64>("k").unwrap(), -2);
    assert!(!is_in_l1(&node, "k"));
    assert_eq!(client.get::<_, String>("stays").unwrap(), "v");
}
