//! Remaining TTLs and expiration.

use std::time::Duration;

use bytes::Bytes;
use terrace::{
    clock::UnixMs,
    l2::{
        Applied, Op,
        op::{Condition, ExpireOnly, NewExpiry, SetExpiry},
    },
    model::{Life, Value},
};

use super::{Subject, assert_life, set};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(1_000);
const LONGER: Duration = Duration::from_secs(2_000);
const PAST: UnixMs = UnixMs(1_000);
/// 2100-01-01, later than any clock of these tests.
const FUTURE: UnixMs = UnixMs(4_102_444_800_000);

fn expire(expiry: NewExpiry, only: ExpireOnly) -> Op {
    Op::Expire { expiry, only, want_value: false }
}

fn expired(found: bool, applied: bool) -> terrace::error::Result<Applied> {
    Ok(Applied::Expired { found, applied, value: None })
}

pub(super) async fn keys_expire(s: &Subject) {
    s.set_for("long", "value", LONG).await;
    s.set_for("short", "value", SHORT).await;
    s.set("ever", "value").await;
    assert_life(s.life("long").await, LONG);
    assert_eq!(s.life("ever").await, Some(Life::Forever));
    s.pass(SHORT).await;
    assert_eq!(s.get("short").await, None);
    assert_eq!(s.get("long").await, Some(Bytes::from("value")));
    assert_life(s.life("long").await, LONG - SHORT);
    assert_eq!(s.keys(None, 10).await, ["ever", "long"]);
    let delete = Op::Delete { want_old: true };
    assert_eq!(s.apply("short", delete).await, Ok(Applied::Deleted { existed: false, old: None }));
}

pub(super) async fn set_keeps_or_drops_the_expiry(s: &Subject) {
    let keep = |life_if_new| set("new", SetExpiry::Keep { life_if_new }, Condition::Always);
    s.set_for("key", "value", LONG).await;
    s.apply("key", keep(Some(LONGER))).await.unwrap();
    assert_life(s.life("key").await, LONG);
    assert_eq!(s.get("key").await, Some(Bytes::from("new")));
    s.set("key", "value").await;
    s.apply("key", keep(Some(LONG))).await.unwrap();
    assert_eq!(s.life("key").await, Some(Life::Forever), "a key that never expires keeps that");
    s.apply("absent", keep(Some(LONG))).await.unwrap();
    assert_life(s.life("absent").await, LONG);
    s.apply("absent2", keep(None)).await.unwrap();
    assert_eq!(s.life("absent2").await, Some(Life::Forever));
    s.apply("key", set("at", SetExpiry::At(FUTURE), Condition::Always)).await.unwrap();
    assert!(matches!(s.life("key").await, Some(Life::For(left)) if left > LONG));
}

pub(super) async fn set_in_the_past_removes(s: &Subject) {
    let past = set("value", SetExpiry::At(PAST), Condition::Always);
    let stored = Ok(Applied::Set { stored: true, old: None });
    assert_eq!(s.apply("key", past.clone()).await, stored);
    assert_eq!(s.get("key").await, None);
    s.set("key", "value").await;
    assert_eq!(s.apply("key", past).await, stored);
    assert_eq!(s.get("key").await, None);
    assert_eq!(s.count().await, 0);
}

pub(super) async fn expire_and_persist(s: &Subject) {
    let always = ExpireOnly::ALWAYS;
    assert_eq!(s.apply("key", expire(NewExpiry::In(LONG), always)).await, expired(false, false));
    s.set("key", "value").await;
    assert_eq!(s.apply("key", expire(NewExpiry::Never, always)).await, expired(true, false), "nothing to persist");
    assert_eq!(s.apply("key", expire(NewExpiry::In(LONG), always)).await, expired(true, true));
    assert_life(s.life("key").await, LONG);
    assert_eq!(s.apply("key", expire(NewExpiry::Never, always)).await, expired(true, true));
    assert_eq!(s.life("key").await, Some(Life::Forever));
    assert_eq!(s.apply("key", expire(NewExpiry::At(FUTURE), always)).await, expired(true, true));
    assert_eq!(s.apply("key", expire(NewExpiry::In(SHORT), always)).await, expired(true, true));
    s.pass(SHORT).await;
    assert_eq!(s.get("key").await, None);
    assert_eq!(s.apply("key", expire(NewExpiry::Never, always)).await, expired(false, false));
}

pub(super) async fn expire_conditions(s: &Subject) {
    let only = |if_none, if_some| ExpireOnly { if_none, if_some, ..ExpireOnly::ALWAYS };
    let (longer, shorter) = (ExpireOnly::IF_LONGER, ExpireOnly::IF_SHORTER);
    s.set("key", "value").await;
    for (life, condition, applied) in [
        (LONG, only(false, true), false),
        (LONG, longer, false),
        (LONGER, shorter, true),
        (LONG, only(true, false), false),
        (LONG, longer, false),
        (LONG, shorter, true),
        (LONGER, shorter, false),
        (LONGER, only(false, true), true),
        (LONGER + LONG, longer, true),
    ] {
        let done = s.apply("key", expire(NewExpiry::In(life), condition)).await;
        assert_eq!(done, expired(true, applied), "{life:?} {condition:?}");
    }
    assert_life(s.life("key").await, LONGER + LONG);
    s.set("other", "value").await;
    assert_eq!(s.apply("other", expire(NewExpiry::In(LONG), only(true, false))).await, expired(true, true));
}

pub(super) async fn expire_in_the_past_removes(s: &Subject) {
    for expiry in [NewExpiry::At(PAST), NewExpiry::In(Duration::ZERO)] {
        s.set("key", "value").await;
        assert_eq!(s.apply("key", expire(expiry, ExpireOnly::ALWAYS)).await, expired(true, true));
        assert_eq!(s.get("key").await, None);
        assert_eq!(s.count().await, 0);
    }
    s.set("key", "value").await;
    assert_eq!(s.apply("key", expire(NewExpiry::At(PAST), ExpireOnly::IF_LONGER)).await, expired(true, false));
    assert_eq!(s.get("key").await, Some(Bytes::from("value")));
}

pub(super) async fn expire_returns_the_value(s: &Subject) {
    let op = |expiry| Op::Expire { expiry, only: ExpireOnly::ALWAYS, want_value: true };
    let with = |applied| {
        let value = Some(Value::from(Bytes::from("value")));
        Ok(Applied::Expired { found: true, applied, value })
    };
    assert_eq!(s.apply("key", op(NewExpiry::Keep)).await, expired(false, false));
    s.set("key", "value").await;
    assert_eq!(s.apply("key", op(NewExpiry::Keep)).await, with(false));
    assert_eq!(s.life("key").await, Some(Life::Forever));
    assert_eq!(s.apply("key", op(NewExpiry::In(LONG))).await, with(true));
    assert_life(s.life("key").await, LONG);
    assert_eq!(s.apply("key", op(NewExpiry::Never)).await, with(true));
    assert_eq!(s.life("key").await, Some(Life::Forever));
}

pub(super) async fn lives_of_new_keys(s: &Subject) {
    let life_if_new = Some(LONG);
    let ops = [
        Op::Increment { delta: 1, life_if_new },
        Op::IncrementFloat { delta: Bytes::from("1.5"), life_if_new },
        Op::Append { suffix: Bytes::from("1"), life_if_new, length_max: 100 },
    ];
    for (number, op) in ops.into_iter().enumerate() {
        let (new, ever, mortal) = (format!("new{number}"), format!("ever{number}"), format!("mortal{number}"));
        s.set(&ever, "1").await;
        s.set_for(&mortal, "1", LONGER).await;
        for key in [&new, &ever, &mortal] {
            s.apply(key, op.clone()).await.unwrap();
        }
        assert_life(s.life(&new).await, LONG);
        assert_eq!(s.life(&ever).await, Some(Life::Forever), "a key that is there keeps its expiry");
        assert_life(s.life(&mortal).await, LONGER);
    }
}

pub(super) async fn conditions_see_expired_keys_as_absent(s: &Subject) {
    for key in ["set", "present", "number", "append"] {
        s.set_for(key, "41", SHORT).await;
    }
    s.pass(SHORT).await;
    let stored = |stored| Ok(Applied::Set { stored, old: None });
    assert_eq!(s.apply("present", set("x", SetExpiry::Never, Condition::IfPresent)).await, stored(false));
    assert_eq!(s.apply("set", set("x", SetExpiry::Never, Condition::IfAbsent)).await, stored(true));
    assert_eq!(s.apply("number", Op::Increment { delta: 1, life_if_new: None }).await, Ok(Applied::Number(1)));
    let append = Op::Append { suffix: Bytes::from("x"), life_if_new: None, length_max: 10 };
    assert_eq!(s.apply("append", append).await, Ok(Applied::Length(1)));
    for key in ["set", "number", "append"] {
        assert_eq!(s.life(key).await, Some(Life::Forever), "{key} does not inherit the expiry");
    }
}
