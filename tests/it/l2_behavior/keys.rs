//! Operations on the key space: count, clear, random key, scan, describe.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use terrace::{
    l2::{Described, Op, ScanRequest, TypeName},
    model::Life,
};

use super::Subject;
use crate::support::backend::key as key_of;

async fn fill(s: &Subject, count: usize) -> Vec<String> {
    let mut keys: Vec<String> = (0..count).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        s.set(key, "value").await;
    }
    keys.sort();
    keys
}

fn from_start(pattern: Option<&str>, count: usize) -> ScanRequest {
    let pattern = pattern.map(|pattern| Bytes::copy_from_slice(pattern.as_bytes()));
    ScanRequest { cursor: 0, pattern, count, type_name: None }
}

pub(super) async fn count_and_clear(s: &Subject) {
    assert_eq!(s.count().await, 0);
    fill(s, 100).await;
    s.set("key:5", "again").await;
    s.set_for("key:6", "mortal", Duration::from_secs(100)).await;
    assert_eq!(s.count().await, 100);
    s.apply("key:5", Op::Delete { want_old: false }).await.unwrap();
    assert_eq!(s.count().await, 99);
    s.backend.clear().await.unwrap();
    assert_eq!(s.count().await, 0);
    assert_eq!(s.get("key:1").await, None);
    assert_eq!(s.keys(None, 10).await, [""; 0]);
    s.set("key:1", "after").await;
    assert_eq!(s.get("key:1").await, Some(Bytes::from("after")));
    assert_eq!(s.count().await, 1);
    s.backend.clear().await.unwrap();
    s.backend.clear().await.unwrap();
    assert_eq!(s.count().await, 0);
}

pub(super) async fn random_key(s: &Subject) {
    assert_eq!(s.backend.random_key().await, Ok(None));
    fill(s, 20).await;
    for number in 0..10 {
        s.apply(&format!("key:{number}"), Op::Delete { want_old: false }).await.unwrap();
    }
    s.set_for("mortal", "value", Duration::from_millis(50)).await;
    s.pass(Duration::from_millis(50)).await;
    let mut seen = HashSet::new();
    for _ in 0..2_000 {
        seen.insert(s.backend.random_key().await.unwrap().expect("one of ten keys"));
        if seen.len() == 10 {
            break;
        }
    }
    let expected: HashSet<_> = (10..20).map(|number| key_of(&format!("key:{number}"))).collect();
    assert_eq!(seen, expected, "each key comes up, and no other");
}

pub(super) async fn scan_finds_all(s: &Subject) {
    assert_eq!(s.keys(None, 10).await, [""; 0]);
    let keys = fill(s, 500).await;
    for count in [1, 7, 100, 10_000] {
        assert_eq!(s.keys(None, count).await, keys, "COUNT {count}");
    }
}

pub(super) async fn scan_patterns(s: &Subject) {
    for key in ["user:1", "user:2", "user:10", "users", "usEr:1", "a*b", "a?b", "axb", "other"] {
        s.set(key, "value").await;
    }
    for (pattern, keys) in [
        ("user:*", &["user:1", "user:10", "user:2"][..]),
        ("user:?", &["user:1", "user:2"]),
        ("us[Ee]r:1", &["usEr:1", "user:1"]),
        ("a\\*b", &["a*b"]),
        ("a?b", &["a*b", "a?b", "axb"]),
        ("*:1*", &["usEr:1", "user:1", "user:10"]),
        ("other", &["other"]),
        ("nothing*", &[]),
        ("", &[]),
    ] {
        for count in [1, 3, 100] {
            assert_eq!(s.keys(Some(pattern), count).await, keys, "MATCH {pattern} COUNT {count}");
        }
    }
    assert_eq!(s.keys(Some("*"), 4).await.len(), 9);
}

/// A scan returns all keys that exist from the first page to the last, while others are added and removed.
pub(super) async fn scan_of_a_changing_store(s: &Subject) {
    let stable = fill(s, 200).await;
    for number in 0..200 {
        s.set(&format!("key:{number}:gone"), "value").await;
    }
    let mut found = HashSet::new();
    let mut request = from_start(None, 10);
    for step in 0..10_000 {
        let page = s.page(request.clone()).await;
        found.extend(page.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()));
        if page.cursor == 0 {
            break;
        }
        request.cursor = page.cursor;
        s.apply(&format!("key:{}:gone", step * 2), Op::Delete { want_old: false }).await.unwrap();
        s.set(&format!("key:{step}:come"), "value").await;
        s.set(&stable[step % 200], "rewritten").await;
    }
    for key in stable {
        assert!(found.contains(&key), "{key} was there all the time");
    }
}

pub(super) async fn unknown_cursors_begin_again(s: &Subject) {
    let keys = fill(s, 20).await;
    for cursor in [1, 424_242, (1 << 52) - 1] {
        let mut request = from_start(None, 1_000);
        request.cursor = cursor;
        let page = s.page(request).await;
        // A cursor of another store is no error, and the scan ends.
        assert!(page.keys.len() <= keys.len());
    }
    assert_eq!(s.keys(None, 3).await, keys);
}

pub(super) async fn scan_types(s: &Subject) {
    fill(s, 20).await;
    for (name, count) in [("string", 20), ("STRING", 20), ("hash", 0)] {
        let mut request = from_start(None, 1_000);
        request.type_name = Some(Bytes::from(name));
        assert_eq!(s.page(request).await.keys.len(), count, "TYPE {name}");
    }
}

pub(super) async fn describe(s: &Subject) {
    s.set("ever", "12345").await;
    s.set_for("mortal", "", Duration::from_secs(100)).await;
    let keys = ["ever", "absent", "mortal"].map(key_of);
    let described = s.backend.describe(&keys).await;
    let ever = Described {
        life: Life::Forever,
        expires_at_ms: None,
        size_bytes: 5,
        type_name: TypeName::String,
        head: Bytes::new(),
    };
    assert_eq!(described[0], Ok(Some(ever)));
    assert_eq!(described[1], Ok(None));
    let mortal = described[2].clone().unwrap().expect("it is there");
    super::assert_life(Some(mortal.life), Duration::from_secs(100));
    assert!(mortal.expires_at_ms.is_some_and(|at| at > 1_700_000_000_000));
    assert_eq!((mortal.size_bytes, mortal.type_name), (0, TypeName::String));
}
