//! Values: set, get, conditions, append, delete, limits, batches.

use bytes::Bytes;
use terrace::{
    error::{CacheError, Kind},
    l2::{
        Applied, Batch, Flavor, Op,
        op::{Condition, SetExpiry},
    },
    model::{KEY_MAX_BYTES, Key, Life, Value},
};

use super::{Subject, message, set};
use crate::support::backend::{VALUE_MAX, key as key_of};

const STORED: Applied = Applied::Set { stored: true, old: None };
const NOT_STORED: Applied = Applied::Set { stored: false, old: None };

fn value(text: &str) -> Value {
    Value::from(Bytes::copy_from_slice(text.as_bytes()))
}

fn append_op(suffix: &str, length_max: u64) -> Op {
    Op::Append { suffix: Bytes::copy_from_slice(suffix.as_bytes()), life_if_new: None, length_max }
}

fn increment_op(delta: i64) -> Op {
    Op::Increment { delta, life_if_new: None }
}

pub(super) async fn set_and_get(s: &Subject) {
    assert_eq!(s.get("key").await, None);
    s.set("key", "value").await;
    assert_eq!(s.try_get(b"key").await, Ok(Some((Bytes::from("value"), Life::Forever))));
    s.set("key", "other").await;
    assert_eq!(s.get("key").await, Some(Bytes::from("other")));
    assert_eq!(s.get("key2").await, None);
    assert_eq!(s.get("ke").await, None);
}

pub(super) async fn empty_values(s: &Subject) {
    s.set("key", "").await;
    assert_eq!(s.get("key").await, Some(Bytes::new()));
    assert_eq!(s.apply("new", append_op("", 10)).await, Ok(Applied::Length(0)));
    assert_eq!(s.apply("key", append_op("a", 10)).await, Ok(Applied::Length(1)));
}

pub(super) async fn binary_keys_and_values(s: &Subject) {
    let all: Vec<u8> = (0..=255).collect();
    let keys = [&all[..], b"\0", b"\xff", b"\xff\xff", b"a\0b", b"a", b"\r\n", b"k", b"m", b"s\0\0\0\0\0\0\0\x01"];
    for (number, key) in keys.iter().enumerate() {
        let value = [&all[..], &[number as u8]].concat();
        let op = Op::Set {
            value: Bytes::from(value),
            expiry: SetExpiry::Never,
            condition: Condition::Always,
            want_old: false,
        };
        let done = s.backend.apply(vec![(Key::copied(key).unwrap(), op)], Batch::Independent).await;
        assert_eq!(done, [Ok(STORED)]);
    }
    for (number, key) in keys.iter().enumerate() {
        let (value, _) = s.try_get(key).await.unwrap().unwrap();
        assert_eq!(value, [&all[..], &[number as u8]].concat(), "{key:?}");
    }
    assert_eq!(s.count().await, keys.len() as u64);
}

pub(super) async fn longest_keys(s: &Subject) {
    let keys: Vec<String> = [1_000, 1_023, 1_024, 1_025, 1_033, 32_768, KEY_MAX_BYTES - 1, KEY_MAX_BYTES]
        .iter()
        .flat_map(|length| ["x", "y"].map(|end| "a".repeat(length - 1) + end))
        .collect();
    for key in &keys {
        s.set(key, &format!("{}{}", key.len(), &key[key.len() - 1..])).await;
    }
    for key in &keys {
        let expected = format!("{}{}", key.len(), &key[key.len() - 1..]);
        assert_eq!(s.get(key).await, Some(Bytes::from(expected)), "key of {} bytes", key.len());
    }
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(s.keys(None, 3).await, sorted);
    assert_eq!(
        s.apply(&keys[15], Op::Delete { want_old: false }).await,
        Ok(Applied::Deleted { existed: true, old: None })
    );
    assert_eq!(s.get(&keys[15]).await, None);
    assert_eq!(s.count().await, 15);
}

pub(super) async fn largest_values(s: &Subject) {
    let large: String = "0123456789abcdef".repeat(VALUE_MAX as usize / 16);
    s.set("key", &large).await;
    assert_eq!(s.get("key").await, Some(Bytes::from(large)));
}

pub(super) async fn values_over_the_limit_are_not_returned(s: &Subject) {
    // Where L1 is the store, the limit of L1 applies: it stores no larger value.
    if s.backend.flavor() == Flavor::None {
        return;
    }
    s.set("large", &"x".repeat(VALUE_MAX as usize + 1)).await;
    s.set("small", "x").await;
    let keys = [key_of("large"), key_of("small")];
    let got = s.backend.get(&keys, false).await;
    assert_eq!(got[0].as_ref().map_err(CacheError::kind), Err(Kind::TooLarge));
    assert!(matches!(&got[1], Ok(Some(_))), "{got:?}");
}

pub(super) async fn set_replaces_value_and_expiry(s: &Subject) {
    s.set_for("key", "value", std::time::Duration::from_secs(100)).await;
    s.set("key", "other").await;
    assert_eq!(s.life("key").await, Some(Life::Forever));
}

pub(super) async fn want_old(s: &Subject) {
    let put = |text: &str, condition| Op::Set {
        value: Bytes::copy_from_slice(text.as_bytes()),
        expiry: SetExpiry::Never,
        condition,
        want_old: true,
    };
    let answer = |stored, old: Option<&str>| Ok(Applied::Set { stored, old: old.map(value) });
    assert_eq!(s.apply("key", put("1", Condition::IfPresent)).await, answer(false, None));
    assert_eq!(s.apply("key", put("2", Condition::Always)).await, answer(true, None));
    assert_eq!(s.apply("key", put("3", Condition::IfAbsent)).await, answer(false, Some("2")));
    assert_eq!(s.apply("key", put("4", Condition::Always)).await, answer(true, Some("2")));
    let delete = Op::Delete { want_old: true };
    assert_eq!(s.apply("key", delete.clone()).await, Ok(Applied::Deleted { existed: true, old: Some(value("4")) }));
    assert_eq!(s.apply("key", delete).await, Ok(Applied::Deleted { existed: false, old: None }));
}

pub(super) async fn conditions(s: &Subject) {
    let put = |text, condition| set(text, SetExpiry::Never, condition);
    let equal = |text: &'static str| Condition::IfEqual(Bytes::from(text));
    assert_eq!(s.apply("key", put("1", Condition::IfPresent)).await, Ok(NOT_STORED));
    assert_eq!(s.apply("key", put("1", equal(""))).await, Ok(NOT_STORED));
    assert_eq!(s.get("key").await, None);
    assert_eq!(s.apply("key", put("2", Condition::IfAbsent)).await, Ok(STORED));
    assert_eq!(s.apply("key", put("3", Condition::IfAbsent)).await, Ok(NOT_STORED));
    assert_eq!(s.get("key").await, Some(Bytes::from("2")));
    assert_eq!(s.apply("key", put("4", equal("3"))).await, Ok(NOT_STORED));
    assert_eq!(s.apply("key", put("4", equal("2"))).await, Ok(STORED));
    assert_eq!(s.apply("key", put("5", Condition::IfPresent)).await, Ok(STORED));
    assert_eq!(s.get("key").await, Some(Bytes::from("5")));
}

pub(super) async fn append(s: &Subject) {
    assert_eq!(s.apply("key", append_op("ab", 5)).await, Ok(Applied::Length(2)));
    assert_eq!(s.apply("key", append_op("cde", 5)).await, Ok(Applied::Length(5)));
    assert_eq!(s.get("key").await, Some(Bytes::from("abcde")));
    let refused = s.apply("key", append_op("f", 5)).await;
    assert_eq!(refused.as_ref().map_err(CacheError::kind), Err(Kind::TooLarge));
    assert_eq!(message(&refused), "value of 6 bytes exceeds max_value (5 bytes)");
    assert_eq!(s.get("key").await, Some(Bytes::from("abcde")), "a refused append changes nothing");
}

pub(super) async fn delete(s: &Subject) {
    let delete = Op::Delete { want_old: false };
    s.set("key", "value").await;
    assert_eq!(s.apply("key", delete.clone()).await, Ok(Applied::Deleted { existed: true, old: None }));
    assert_eq!(s.get("key").await, None);
    assert_eq!(s.apply("key", delete).await, Ok(Applied::Deleted { existed: false, old: None }));
    s.set("key", "again").await;
    assert_eq!(s.get("key").await, Some(Bytes::from("again")));
}

pub(super) async fn many_keys_in_request_order(s: &Subject) {
    let key = |number: usize| format!("key:{number}");
    for number in (0..1_000).step_by(2) {
        s.set(&key(number), &number.to_string()).await;
    }
    let keys: Vec<Key> = (0..1_000).rev().map(|number| key_of(&key(number))).collect();
    let got = s.backend.get(&keys, true).await;
    assert_eq!(got.len(), 1_000);
    for (number, stored) in (0..1_000).rev().zip(got) {
        let stored = stored.unwrap().map(|stored| stored.value.into_bytes());
        assert_eq!(stored, (number % 2 == 0).then(|| Bytes::from(number.to_string())), "{number}");
    }
    assert_eq!(s.backend.get(&[], true).await, []);
    let twice = s.backend.get(&[key_of("key:2"), key_of("key:2")], false).await;
    assert_eq!(twice[0], twice[1]);
}

pub(super) async fn atomic_batches(s: &Subject) {
    s.set("text", "abc").await;
    let results = s
        .batch(
            Batch::Atomic,
            vec![
                ("n", increment_op(1)),
                ("n", increment_op(1)),
                ("text", increment_op(1)),
                ("n", append_op("0", 10)),
                ("gone", Op::Delete { want_old: false }),
                ("n", increment_op(1)),
            ],
        )
        .await;
    assert_eq!(results.len(), 6);
    assert_eq!(results[0], Ok(Applied::Number(1)));
    assert_eq!(results[1], Ok(Applied::Number(2)));
    assert_eq!(message(&results[2]), "value is not an integer or out of range");
    assert_eq!(results[3], Ok(Applied::Length(2)));
    assert_eq!(results[4], Ok(Applied::Deleted { existed: false, old: None }));
    assert_eq!(results[5], Ok(Applied::Number(21)), "an operation that is refused does not stop the others");
}

pub(super) async fn independent_batches(s: &Subject) {
    let ops = (0..1_000).map(|number| (["a", "b", "c"][number % 3], increment_op(1))).collect();
    let results = s.batch(Batch::Independent, ops).await;
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(result, Ok(Applied::Number(number as i64 / 3 + 1)), "operations on one key keep their order");
    }
    assert_eq!(s.batch(Batch::Independent, Vec::new()).await, []);
}

pub(super) async fn concurrent_increments(s: &Subject) {
    let clients = (0..20).map(|_| async {
        for _ in 0..50 {
            assert!(s.apply("n", increment_op(1)).await.is_ok());
        }
    });
    futures_util::future::join_all(clients).await;
    assert_eq!(s.get("n").await, Some(Bytes::from("1000")));
}

/// A reader of two keys that are always written together never sees different values.
pub(super) async fn batches_are_seen_whole(s: &Subject) {
    let writer = async {
        for _ in 0..300 {
            let ops = vec![("left", increment_op(1)), ("right", increment_op(1))];
            assert!(s.batch(Batch::Atomic, ops).await.iter().all(Result::is_ok));
        }
    };
    let reader = async {
        let keys = [key_of("left"), key_of("right")];
        for _ in 0..300 {
            let got = s.backend.get(&keys, false).await;
            assert_eq!(got[0], got[1]);
            tokio::task::yield_now().await;
        }
    };
    futures_util::future::join(writer, reader).await;
}
