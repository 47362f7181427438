//! Entries with a header: every operation acts on the payload and keeps the header.

use std::time::Duration;

use bytes::Bytes;
use terrace::{
    error::Kind,
    l2::{
        Applied, Batch, Flavor, Op,
        codec::{self, Tag},
        op::{Condition, ExpireOnly, NewExpiry, SetExpiry},
    },
    model::Life,
};

use super::{Subject, assert_life, set};
use crate::support::backend::{VALUE_MAX, key as key_of};

/// A header with tags; over `none`, where the facade reads and has no tag ids, a header without tags.
fn head(s: &Subject) -> Bytes {
    if s.backend.flavor() == Flavor::None {
        return codec::head_of(&[]);
    }
    codec::head_of(&[Tag { name: "t".into(), id: 7 }, Tag { name: Bytes::from_static(b"\x00\xff"), id: u64::MAX }])
}

fn stored(s: &Subject, payload: &[u8]) -> Bytes {
    codec::joined(&head(s), Bytes::copy_from_slice(payload))
}

fn set_raw(value: Bytes, expiry: SetExpiry) -> Op {
    Op::Set { value, expiry, condition: Condition::Always, want_old: false }
}

async fn put(s: &Subject, key: &str, payload: &str) {
    s.apply(key, set_raw(stored(s, payload.as_bytes()), SetExpiry::Never)).await.expect("stored");
}

/// The header and the size of the payload, from the description of the entry.
async fn described(s: &Subject, key: &str) -> Option<(Bytes, u64)> {
    let described = s.backend.describe(&[key_of(key)]).await.remove(0).expect("a description");
    described.map(|described| (described.head, described.size_bytes))
}

/// Asserts that the entry has its header and this payload.
async fn assert_behind_head(s: &Subject, key: &str, payload: &[u8]) {
    assert_eq!(described(s, key).await, Some((head(s), payload.len() as u64)), "{key}");
    assert_eq!(s.get(key).await.as_deref(), Some(payload), "{key}");
}

fn append(suffix: &[u8], length_max: u64) -> Op {
    Op::Append { suffix: Bytes::copy_from_slice(suffix), life_if_new: None, length_max }
}

fn set_range(offset: u64, bytes: &[u8], life_if_new: Option<Duration>) -> Op {
    Op::SetRange { offset, bytes: Bytes::copy_from_slice(bytes), life_if_new, length_max: VALUE_MAX }
}

fn increment(delta: i64) -> Op {
    Op::Increment { delta, life_if_new: None }
}

pub(crate) async fn reads_show_payloads(s: &Subject) {
    put(s, "k", "payload").await;
    put(s, "empty", "").await;
    s.set("plain", "p").await;
    assert_behind_head(s, "k", b"payload").await;
    assert_behind_head(s, "empty", b"").await;
    assert_eq!(described(s, "plain").await, Some((Bytes::new(), 1)));
    // The magic alone, and a header cut short, are values.
    for (key, value) in [("magic", &codec::MAGIC[..]), ("cut", &head(s)[..head(s).len() - 1])] {
        s.apply(key, set_raw(Bytes::copy_from_slice(value), SetExpiry::Never)).await.expect("stored");
        assert_eq!(described(s, key).await, Some((Bytes::new(), value.len() as u64)));
        assert_eq!(s.get(key).await.as_deref(), Some(value));
    }
}

pub(crate) async fn writes_act_on_payloads(s: &Subject) {
    put(s, "n", "41").await;
    assert_eq!(s.apply("n", increment(1)).await, Ok(Applied::Number(42)));
    assert_behind_head(s, "n", b"42").await;
    let float = Op::IncrementFloat { delta: "0.5".into(), life_if_new: None };
    assert_eq!(s.apply("n", float).await, Ok(Applied::Decimal("42.5".into())));
    assert_behind_head(s, "n", b"42.5").await;
    put(s, "k", "ab").await;
    assert_eq!(s.apply("k", append(b"cd", VALUE_MAX)).await, Ok(Applied::Length(4)));
    assert_eq!(s.apply("k", set_range(1, b"XY", None)).await, Ok(Applied::Length(4)));
    assert_eq!(s.apply("k", set_range(0, b"", None)).await, Ok(Applied::Length(4)));
    assert_behind_head(s, "k", b"aXYd").await;
    assert_eq!(s.apply("k", set_range(6, b"z", Some(Duration::from_secs(9)))).await, Ok(Applied::Length(7)));
    assert_behind_head(s, "k", b"aXYd\0\0z").await;
    let getex = |expiry| Op::Expire { expiry, only: ExpireOnly::ALWAYS, want_value: true };
    for expiry in [NewExpiry::Keep, NewExpiry::Never, NewExpiry::In(Duration::from_secs(50))] {
        let Ok(Applied::Expired { found: true, value: Some(value), .. }) = s.apply("k", getex(expiry)).await else {
            panic!("{expiry:?} finds no value")
        };
        assert_eq!(&value[..], b"aXYd\0\0z", "{expiry:?}");
    }
    let Ok(Applied::Deleted { existed: true, old: Some(old) }) = s.apply("k", Op::Delete { want_old: true }).await
    else {
        panic!("GETDEL finds no value")
    };
    assert_eq!(&old[..], b"aXYd\0\0z");
    assert_eq!(s.get("k").await, None);
}

pub(crate) async fn sums_keep_their_digits_and_refusals(s: &Subject) {
    put(s, "n", &(i64::MAX - 1).to_string()).await;
    assert_eq!(s.apply("n", increment(1)).await, Ok(Applied::Number(i64::MAX)));
    assert_eq!(s.apply("n", increment(1)).await.expect_err("too much").kind(), Kind::Overflow);
    assert_behind_head(s, "n", i64::MAX.to_string().as_bytes()).await;
    put(s, "text", "abc").await;
    assert_eq!(s.apply("text", increment(1)).await.expect_err("no number").kind(), Kind::NotANumber);
    let float = Op::IncrementFloat { delta: "1".into(), life_if_new: None };
    assert_eq!(s.apply("text", float).await.expect_err("no number").kind(), Kind::NotANumber);
    assert_behind_head(s, "text", b"abc").await;
    let with_life = Op::Increment { delta: 2, life_if_new: Some(Duration::from_secs(50)) };
    put(s, "n", "1").await;
    assert_eq!(s.apply("n", with_life.clone()).await, Ok(Applied::Number(3)));
    assert_behind_head(s, "n", b"3").await;
    assert_eq!(s.life("n").await, Some(Life::Forever), "it was not new");
    assert_eq!(s.apply("new", with_life).await, Ok(Applied::Number(2)));
    assert_life(s.life("new").await, Duration::from_secs(50));
}

pub(crate) async fn batches_act_on_payloads(s: &Subject) {
    for batch in [Batch::Independent, Batch::Atomic] {
        put(s, "n", "1").await;
        let ops = vec![("n", increment(1)), ("n", append(b"0", VALUE_MAX)), ("n", increment(2))];
        let done = s.batch(batch, ops).await;
        assert_eq!(done, [Ok(Applied::Number(2)), Ok(Applied::Length(2)), Ok(Applied::Number(22))], "{batch:?}");
        assert_behind_head(s, "n", b"22").await;
    }
}

pub(crate) async fn sets_replace_headers(s: &Subject) {
    put(s, "k", "old").await;
    let set_if = |value: &str, equal: &str| set(value, SetExpiry::Never, Condition::IfEqual(equal.to_owned().into()));
    for wrong in ["", "new", std::str::from_utf8(&head(s)[1..9]).unwrap_or("x")] {
        assert_eq!(s.apply("k", set_if("new", wrong)).await, Ok(Applied::Set { stored: false, old: None }));
    }
    assert_behind_head(s, "k", b"old").await;
    assert_eq!(s.apply("k", set_if("new", "old")).await, Ok(Applied::Set { stored: true, old: None }));
    assert_eq!(described(s, "k").await, Some((Bytes::new(), 3)), "a Set without tags leaves none");
    for condition in [Condition::Always, Condition::IfPresent, Condition::IfEqual("old".into())] {
        put(s, "k", "old").await;
        let op = Op::Set { value: "new".into(), expiry: SetExpiry::Never, condition, want_old: true };
        let Ok(Applied::Set { stored: true, old: Some(old) }) = s.apply("k", op).await else { panic!("no old value") };
        assert_eq!(&old[..], b"old");
    }
    put(s, "k", "old").await;
    let op = set("new", SetExpiry::Never, Condition::IfAbsent);
    assert_eq!(s.apply("k", op).await, Ok(Applied::Set { stored: false, old: None }));
}

pub(crate) async fn lives_stay(s: &Subject) {
    let life = Duration::from_secs(100);
    let ops = [increment(1), append(b"5", VALUE_MAX), set_range(1, b"7", None)];
    for op in ops {
        s.apply("k", set_raw(stored(s, b"1"), SetExpiry::In(life))).await.expect("stored");
        s.apply("k", op.clone()).await.expect("done");
        assert_life(s.life("k").await, life);
        assert_eq!(described(s, "k").await.expect("there").0, head(s), "{op:?}");
    }
    let expire = Op::Expire { expiry: NewExpiry::Never, only: ExpireOnly::ALWAYS, want_value: false };
    s.apply("k", expire).await.expect("done");
    assert_eq!(s.life("k").await, Some(Life::Forever));
    assert_eq!(described(s, "k").await.expect("there").0, head(s));
}

/// A client reads the value that its operations produced, also if it looks like a header.
pub(crate) async fn what_becomes_like_a_header_stays_a_value(s: &Subject) {
    let forged = stored(s, b"not a payload");
    for cut in [0, 1, 7, 8, 20, forged.len() - 1] {
        let _gone = s.apply("k", Op::Delete { want_old: false }).await;
        s.apply("k", append(&forged[..cut], VALUE_MAX)).await.expect("appended");
        let length = s.apply("k", append(&forged[cut..], VALUE_MAX)).await;
        assert_eq!(length, Ok(Applied::Length(forged.len() as u64)), "{cut}");
        assert_eq!(s.get("k").await.expect("there"), forged, "appended in two parts, cut at {cut}");
    }
    s.apply("k", set("x".repeat(forged.len()).as_str(), SetExpiry::Never, Condition::Always)).await.expect("stored");
    assert_eq!(s.apply("k", set_range(0, &forged, None)).await, Ok(Applied::Length(forged.len() as u64)));
    assert_eq!(s.get("k").await.expect("there"), forged, "written over");
    assert_eq!(s.apply("k", append(b"!", VALUE_MAX)).await, Ok(Applied::Length(forged.len() as u64 + 1)));
    assert_eq!(s.get("k").await.expect("there"), [&forged[..], b"!"].concat());
    // The same holds for an entry with a header.
    put(s, "k", "").await;
    s.apply("k", append(&forged, VALUE_MAX)).await.expect("appended");
    assert_behind_head(s, "k", &forged).await;
}

pub(crate) async fn limits_are_of_payloads(s: &Subject) {
    put(s, "k", "12345").await;
    assert_eq!(s.apply("k", append(b"67", 7)).await, Ok(Applied::Length(7)));
    assert_eq!(s.apply("k", append(b"8", 7)).await.expect_err("too long").kind(), Kind::TooLarge);
    assert_behind_head(s, "k", b"1234567").await;
    let largest = vec![b'x'; VALUE_MAX as usize];
    s.apply("large", set_raw(stored(s, &largest), SetExpiry::Never)).await.expect("stored");
    assert_behind_head(s, "large", &largest).await;
}

pub(crate) async fn a_burial_removes_only_what_it_names(s: &Subject) {
    put(s, "k", "v").await;
    s.set("plain", "v").await;
    let other = codec::head_of(&[Tag { name: "t".into(), id: 8 }]);
    for (key, head, existed) in [
        ("k", other, false),
        ("k", Bytes::new(), false),
        ("plain", head(s), false),
        ("absent", head(s), false),
        ("k", head(s), true),
        ("k", head(s), false),
    ] {
        assert_eq!(s.apply(key, Op::Bury { head }).await, Ok(Applied::Deleted { existed, old: None }), "{key}");
    }
    assert_eq!((s.get("k").await, s.get("plain").await.as_deref()), (None, Some(&b"v"[..])));
}
