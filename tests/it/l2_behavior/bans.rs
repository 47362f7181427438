//! Pattern bans: earlier values of matching keys are absent at once, later values are kept.

use std::time::Duration;

use bytes::Bytes;
use terrace::{
    glob::Glob,
    l2::{
        Applied, Ban, Batch, Effort, Op, SweepPage,
        op::{Condition, ExpireOnly, NewExpiry, SetExpiry},
    },
};

use super::{Subject, set};
use crate::support::backend::key as key_of;

async fn ban(s: &Subject, pattern: &str) -> Ban {
    let glob = Glob::new(pattern.as_bytes()).expect("a pattern");
    Ban { number: s.backend.ban(glob.clone()).await.expect("a ban"), glob }
}

/// Sweeps to the end; returns the number of removed values.
async fn sweep(s: &Subject, ban: &Ban) -> u64 {
    pages(s, ban, Effort::Full).await.iter().map(|page| page.removed).sum()
}

async fn pages(s: &Subject, ban: &Ban, effort: Effort) -> Vec<SweepPage> {
    let (mut cursor, mut pages) = (0, Vec::new());
    assert_eq!(s.backend.claim_sweep(ban.number, 7).await, Ok(true));
    loop {
        let page = s.backend.sweep(ban, cursor, effort).await.expect("a page");
        cursor = page.cursor;
        pages.push(page);
        if cursor == 0 {
            s.backend.retire(ban.number).await.expect("it is retired");
            return pages;
        }
    }
}

pub(super) async fn hides_what_was_there(s: &Subject) {
    // Redis compares the first pattern itself; it receives only `user:*` and `*` for the others.
    for pattern in ["user:*", "user:*[0-9]", "*[^s]:[12]*"] {
        hides_with(s, pattern).await;
    }
}

async fn hides_with(s: &Subject, pattern: &str) {
    s.backend.clear().await.expect("cleared");
    for key in ["user:1", "user:2", "users:1", "xusers:1"] {
        s.set(key, "old").await;
    }
    let ban = ban(s, pattern).await;
    assert_eq!(s.get("user:1").await, None);
    assert_eq!(s.get("users:1").await, Some(Bytes::from("old")));
    assert_eq!(s.keys(None, 10).await, ["users:1", "xusers:1"]);
    for _ in 0..50 {
        let drawn = s.backend.random_key().await.expect("a key").expect("there are two");
        assert!(!drawn.starts_with(b"user:"), "{drawn:?}");
    }
    let described = s.backend.describe(&[key_of("user:1"), key_of("xusers:1")]).await;
    assert!(matches!(&described[..], [Ok(None), Ok(Some(_))]), "{described:?}");
    s.set("user:1", "new").await;
    assert_eq!(s.get("user:1").await, Some(Bytes::from("new")));
    assert_eq!(s.keys(None, 10).await, ["user:1", "users:1", "xusers:1"]);
    assert_eq!(sweep(s, &ban).await, 1, "user:2");
    assert!(s.backend.open_bans().is_empty());
    assert_eq!(s.keys(None, 10).await, ["user:1", "users:1", "xusers:1"]);
    assert_eq!(s.get("user:1").await, Some(Bytes::from("new")));
    // After the end of the ban, writes to matching keys are ordinary writes.
    s.set("user:2", "later").await;
    assert_eq!(s.get("user:2").await, Some(Bytes::from("later")));
}

pub(super) async fn operations_find_nothing(s: &Subject) {
    let keys = ["nx", "xx", "eq", "get", "incr", "append", "range", "del", "getdel", "expire", "persist", "keep"];
    for key in keys {
        s.set_for(&format!("k:{key}"), "5", Duration::from_secs(1000)).await;
    }
    let ban = ban(s, "k:*").await;
    let conditional = |condition| Op::Set { value: "7".into(), expiry: SetExpiry::Never, condition, want_old: false };
    let stored = |stored| Ok(Applied::Set { stored, old: None });
    assert_eq!(s.apply("k:nx", conditional(Condition::IfAbsent)).await, stored(true));
    assert_eq!(s.apply("k:xx", conditional(Condition::IfPresent)).await, stored(false));
    assert_eq!(s.apply("k:eq", conditional(Condition::IfEqual("5".into()))).await, stored(false));
    let old = Op::Set { value: "7".into(), expiry: SetExpiry::Never, condition: Condition::Always, want_old: true };
    assert_eq!(s.apply("k:get", old).await, stored(true));
    assert_eq!(s.apply("k:incr", Op::Increment { delta: 1, life_if_new: None }).await, Ok(Applied::Number(1)));
    assert_eq!(s.apply("k:incr", Op::Increment { delta: 1, life_if_new: None }).await, Ok(Applied::Number(2)));
    let append = Op::Append { suffix: "x".into(), life_if_new: None, length_max: 100 };
    assert_eq!(s.apply("k:append", append).await, Ok(Applied::Length(1)));
    let range = Op::SetRange { offset: 1, bytes: "x".into(), life_if_new: None, length_max: 100 };
    assert_eq!(s.apply("k:range", range).await, Ok(Applied::Length(2)));
    let deleted = Ok(Applied::Deleted { existed: false, old: None });
    assert_eq!(s.apply("k:del", Op::Delete { want_old: false }).await, deleted);
    assert_eq!(s.apply("k:getdel", Op::Delete { want_old: true }).await, deleted);
    let expire = |expiry| Op::Expire { expiry, only: ExpireOnly::ALWAYS, want_value: false };
    let expired = Ok(Applied::Expired { found: false, applied: false, value: None });
    assert_eq!(s.apply("k:expire", expire(NewExpiry::In(Duration::from_secs(9)))).await, expired);
    assert_eq!(s.apply("k:persist", expire(NewExpiry::Never)).await, expired);
    assert_eq!(
        s.apply("k:keep", set("new", SetExpiry::Keep { life_if_new: None }, Condition::Always)).await,
        stored(true)
    );
    assert_eq!(s.life("k:keep").await, Some(terrace::model::Life::Forever), "the old life went with the old value");
    let written = ["k:append", "k:get", "k:incr", "k:keep", "k:nx", "k:range"];
    assert_eq!(s.keys(None, 100).await, written);
    sweep(s, &ban).await;
    assert_eq!(s.keys(None, 100).await, written);
    assert_eq!(s.get("k:incr").await, Some(Bytes::from("2")));
}

pub(super) async fn batches_find_nothing(s: &Subject) {
    for key in ["a:1", "a:2", "b:1"] {
        s.set(key, "5").await;
    }
    let ban = ban(s, "a:*").await;
    let increment = || Op::Increment { delta: 1, life_if_new: None };
    let numbers = |numbers: [i64; 3]| numbers.map(|number| Ok(Applied::Number(number))).to_vec();
    for (batch, expected) in [(Batch::Atomic, [1, 1, 6]), (Batch::Independent, [2, 2, 7])] {
        let ops = vec![("a:1", increment()), ("a:2", increment()), ("b:1", increment())];
        assert_eq!(s.batch(batch, ops).await, numbers(expected), "{batch:?}");
    }
    assert_eq!(sweep(s, &ban).await, 0);
    assert_eq!(s.get("a:2").await, Some(Bytes::from("2")));
}

pub(super) async fn sweeps_page_by_page(s: &Subject) {
    let names: Vec<String> = (0..1_500).map(|number| format!("many:{number}")).collect();
    let ops = names.iter().map(|name| (&name[..], set("old", SetExpiry::Never, Condition::Always))).collect();
    s.batch(Batch::Independent, ops).await;
    s.set("other", "old").await;
    let ban = ban(s, "many:*").await;
    s.set("many:7", "new").await;
    let pages = pages(s, &ban, Effort::Yielding).await;
    assert!(pages.len() > 1, "{pages:?}");
    assert_eq!(pages.iter().map(|page| page.removed).sum::<u64>(), 1_499);
    assert_eq!(s.keys(None, 1_000).await, ["many:7", "other"]);
}

pub(super) async fn several_bans_and_the_same_again(s: &Subject) {
    s.set("a:b", "1").await;
    let first = ban(s, "a:*").await;
    s.set("a:b", "2").await;
    let second = ban(s, "*:b").await;
    assert!(second.number > first.number);
    assert_eq!(s.get("a:b").await, None, "kept by the first, gone by the second");
    s.set("a:b", "3").await;
    assert_eq!(s.get("a:b").await, Some(Bytes::from("3")));
    // A second ban of the same pattern removes the values written after the first.
    let again = ban(s, "a:*").await;
    assert_eq!(s.get("a:b").await, None);
    let open: Vec<u64> = s.backend.open_bans().iter().map(|ban| ban.number).collect();
    assert_eq!(open[open.len() - 2..], [second.number, again.number]);
    s.set("a:c", "4").await;
    sweep(s, &second).await;
    assert_eq!((s.get("a:b").await, s.get("a:c").await), (None, Some(Bytes::from("4"))));
    sweep(s, &again).await;
    sweep(s, &first).await;
    assert_eq!(s.keys(None, 10).await, ["a:c"]);
}

pub(super) async fn their_number_is_bounded(s: &Subject) {
    for number in 0..terrace::l2::bans::OPEN_MAX {
        ban(s, &format!("{number}:*")).await;
    }
    let refused = s.backend.ban(Glob::new(b"one more*").expect("a pattern")).await.expect_err("too many");
    assert!(refused.message().contains("64 pattern invalidations are in progress"), "{refused}");
    s.backend.retire(s.backend.open_bans()[0].number).await.expect("it is retired");
    ban(s, "one more*").await;
}
