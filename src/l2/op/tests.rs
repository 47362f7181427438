//! Each operation on an absent key, a key without expiry and a key with expiry.

use std::time::Duration;

use bytes::Bytes;

use super::*;

const NOW: UnixMs = UnixMs(1_000_000);
const SOON: UnixMs = UnixMs(1_000_500);
const LATER: UnixMs = UnixMs(1_002_000);
const PAST: UnixMs = UnixMs(999_999);
const LIFE: Duration = Duration::from_millis(500);

const ABSENT: Option<Present<'static>> = None;
const EVER: Option<Present<'static>> = Some(Present { value: b"41", expires_at: None });
const MORTAL: Option<Present<'static>> = Some(Present { value: b"41", expires_at: Some(LATER) });

fn done(op: &Op, present: Option<Present<'_>>) -> (EntryChange, Applied) {
    apply(op, present, NOW).expect("no error")
}

fn refused(op: &Op, present: Option<Present<'_>>) -> Kind {
    apply(op, present, NOW).expect_err("an error").kind()
}

fn set_op(expiry: SetExpiry, condition: Condition) -> Op {
    Op::Set { value: Bytes::from("new"), expiry, condition, want_old: true }
}

fn put(text: &str, expires_at: Option<UnixMs>) -> EntryChange {
    EntryChange::Put(Bytes::copy_from_slice(text.as_bytes()), expires_at)
}

#[test]
fn set_takes_or_keeps_the_expiry() {
    let keep = SetExpiry::Keep { life_if_new: Some(LIFE) };
    for (expiry, present, expires_at) in [
        (SetExpiry::Never, MORTAL, None),
        (SetExpiry::In(LIFE), MORTAL, Some(SOON)),
        (SetExpiry::In(Duration::MAX), ABSENT, Some(UnixMs(u64::MAX))),
        (SetExpiry::At(LATER), EVER, Some(LATER)),
        (keep, ABSENT, Some(SOON)),
        (keep, EVER, None),
        (keep, MORTAL, Some(LATER)),
        (SetExpiry::Keep { life_if_new: None }, ABSENT, None),
    ] {
        let (change, _) = done(&set_op(expiry, Condition::Always), present);
        assert_eq!(change, put("new", expires_at), "{expiry:?} on {present:?}");
    }
}

#[test]
fn set_into_the_past_removes() {
    for at in [PAST, NOW, UnixMs(0)] {
        let op = set_op(SetExpiry::At(at), Condition::Always);
        assert_eq!(done(&op, MORTAL).0, EntryChange::Remove);
        let (change, applied) = done(&op, ABSENT);
        // Nothing is removed, but clients that watch the key must be notified, as in Redis 7.0.
        assert_eq!((change, applied), (EntryChange::Remove, Applied::Set { stored: true, old: None }));
    }
}

#[test]
fn set_stores_only_if_its_condition_holds() {
    let equal = |text: &'static str| Condition::IfEqual(Bytes::from(text));
    for (condition, if_absent, if_present) in [
        (Condition::Always, true, true),
        (Condition::IfAbsent, true, false),
        (Condition::IfPresent, false, true),
        (equal("41"), false, true),
        (equal("4"), false, false),
        (equal(""), false, false),
    ] {
        for (present, holds) in [(ABSENT, if_absent), (EVER, if_present)] {
            let (change, applied) = done(&set_op(SetExpiry::Never, condition.clone()), present);
            let old = present.map(|present| copied(present.value));
            assert_eq!(applied, Applied::Set { stored: holds, old }, "{condition:?} on {present:?}");
            assert_eq!(change, if holds { put("new", None) } else { EntryChange::Keep });
        }
    }
}

#[test]
fn delete_says_what_there_was() {
    let op = Op::Delete { want_old: true };
    assert_eq!(done(&op, ABSENT), (EntryChange::Keep, Applied::Deleted { existed: false, old: None }));
    let old = Some(copied(b"41"));
    assert_eq!(done(&op, EVER), (EntryChange::Remove, Applied::Deleted { existed: true, old }));
    let silent = Op::Delete { want_old: false };
    assert_eq!(done(&silent, EVER).1, Applied::Deleted { existed: true, old: None });
}

#[test]
fn expire_sets_keeps_and_removes() {
    let reexpire = EntryChange::Reexpire;
    for (expiry, present, change, found, applied) in [
        (NewExpiry::In(LIFE), ABSENT, EntryChange::Keep, false, false),
        (NewExpiry::In(LIFE), EVER, reexpire(Some(SOON)), true, true),
        (NewExpiry::In(Duration::ZERO), EVER, EntryChange::Remove, true, true),
        (NewExpiry::At(PAST), MORTAL, EntryChange::Remove, true, true),
        (NewExpiry::At(SOON), MORTAL, reexpire(Some(SOON)), true, true),
        (NewExpiry::Never, MORTAL, reexpire(None), true, true),
        (NewExpiry::Never, EVER, EntryChange::Keep, true, false),
        (NewExpiry::Keep, MORTAL, EntryChange::Keep, true, false),
    ] {
        let op = Op::Expire { expiry, only: ExpireOnly::ALWAYS, want_value: false };
        let expected = (change, Applied::Expired { found, applied, value: None });
        assert_eq!(done(&op, present), expected, "{expiry:?} on {present:?}");
    }
    let op = Op::Expire { expiry: NewExpiry::Keep, only: ExpireOnly::ALWAYS, want_value: true };
    assert_eq!(done(&op, EVER).1, Applied::Expired { found: true, applied: false, value: Some(copied(b"41")) });
}

#[test]
fn no_expiry_counts_as_the_longest() {
    let only = |if_none, if_some| ExpireOnly { if_none, if_some, ..ExpireOnly::ALWAYS };
    let (longer, shorter) = (ExpireOnly::IF_LONGER, ExpireOnly::IF_SHORTER);
    for (only, old, new, allowed) in [
        (longer, None, Some(LATER), false),
        (longer, Some(SOON), Some(LATER), true),
        (longer, Some(SOON), Some(SOON), false),
        (longer, Some(SOON), None, true),
        (shorter, None, Some(LATER), true),
        (shorter, Some(SOON), Some(LATER), false),
        (shorter, Some(SOON), Some(SOON), false),
        (shorter, Some(SOON), None, false),
        (only(true, false), None, Some(SOON), true),
        (only(true, false), Some(SOON), Some(LATER), false),
        (only(false, true), None, Some(SOON), false),
        (only(false, true), Some(SOON), Some(LATER), true),
    ] {
        assert_eq!(only.allows(old, new), allowed, "{only:?}: {old:?} to {new:?}");
    }
}

#[test]
fn increments_keep_the_expiry_of_what_is_there() {
    let life_if_new = Some(LIFE);
    let integer = Op::Increment { delta: 1, life_if_new };
    let decimal = Op::IncrementFloat { delta: Bytes::from("0.5"), life_if_new };
    let suffix = Op::Append { suffix: Bytes::from("!"), life_if_new, length_max: 3 };
    for (op, new, grown) in [(integer, "1", "42"), (decimal, "0.5", "41.5"), (suffix, "!", "41!")] {
        assert_eq!(done(&op, ABSENT).0, put(new, Some(SOON)));
        assert_eq!(done(&op, EVER).0, put(grown, None));
        assert_eq!(done(&op, MORTAL).0, put(grown, Some(LATER)));
    }
}

#[test]
fn integers_are_what_redis_takes_for_them() {
    for text in ["0", "-1", "9223372036854775807", "-9223372036854775808"] {
        assert!(parse_integer(text.as_bytes()).is_some(), "{text}");
    }
    for text in ["", "+1", "-0", "01", " 1", "1 ", "1.0", "1e2", "9223372036854775808", "\u{661}"] {
        assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let by = |delta| Op::Increment { delta, life_if_new: None };
    let text = |value: &'static [u8]| Some(Present { value, expires_at: None });
    assert_eq!(refused(&by(1), text(b"abc")), Kind::NotANumber);
    assert_eq!(refused(&by(1), text(b"9223372036854775807")), Kind::Overflow);
    assert_eq!(refused(&by(-1), text(b"-9223372036854775808")), Kind::Overflow);
    let float = Op::IncrementFloat { delta: Bytes::from("1"), life_if_new: None };
    assert_eq!(refused(&float, text(b"abc")), Kind::NotANumber);
    let append = |length_max| Op::Append { suffix: Bytes::from("abc"), life_if_new: None, length_max };
    assert_eq!(refused(&append(4), EVER), Kind::TooLarge);
    assert_eq!(done(&append(5), EVER).1, Applied::Length(5));
    assert_eq!(refused(&append(2), ABSENT), Kind::TooLarge);
}
