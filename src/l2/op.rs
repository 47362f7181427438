//! Write operations and their meaning: a pure function over the present entry, the same for every store.
//!
//! Operations act on payloads: a header in front of one ([`codec`]) stays where it is, unless a Set replaces all of it. What a
//! Set brings is stored as it is; the facade has put a header in front where one is needed.
//!
//! The embedded store and `none` call [`apply`] under the lock of the key; the Redis implementation has one command,
//! transaction or script with the same meaning for each [`Op`], and one behaviour test suite runs over all three.

pub mod decimal;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec;
use crate::{
    clock::UnixMs,
    error::{CacheError, Kind, Result},
    model::Value,
};

/// One write to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// SET.
    Set {
        /// What is stored.
        value: Bytes,
        /// What becomes of the key's expiry.
        expiry: SetExpiry,
        /// When to store at all.
        condition: Condition,
        /// Return the value there was (a key of another type is then `WrongType`).
        want_old: bool,
    },
    /// DEL, GETDEL.
    Delete {
        /// Return the value there was (a key of another type is then `WrongType`).
        want_old: bool,
    },
    /// Removes the key if it still has this header: its tags are no more.
    Bury {
        /// The whole header.
        head: Bytes,
    },
    /// EXPIRE, PERSIST, GETEX.
    Expire {
        /// The new expiry.
        expiry: NewExpiry,
        /// When to apply it.
        only: ExpireOnly,
        /// Return the value (a key of another type is then `WrongType`).
        want_value: bool,
    },
    /// INCRBY.
    Increment {
        /// May be negative.
        delta: i64,
        /// Life given only when this creates the key.
        life_if_new: Option<Duration>,
    },
    /// INCRBYFLOAT.
    IncrementFloat {
        /// A finite decimal number as the client wrote it, already checked.
        delta: Bytes,
        /// Life given only when this creates the key.
        life_if_new: Option<Duration>,
    },
    /// APPEND.
    Append {
        /// What to add at the end.
        suffix: Bytes,
        /// Life given only when this creates the key.
        life_if_new: Option<Duration>,
        /// Most bytes the value may then have.
        length_max: u64,
    },
    /// SETRANGE: without bytes nothing changes.
    SetRange {
        /// Where they begin; what lies before and was not there is 0.
        offset: u64,
        /// What is written over what is there.
        bytes: Bytes,
        /// Life given only when this creates the key.
        life_if_new: Option<Duration>,
        /// Most bytes the value may then have.
        length_max: u64,
    },
}

impl Op {
    /// Whether what it does or says depends on what is there.
    #[must_use]
    pub fn depends_on_present(&self) -> bool {
        match self {
            Self::Set { condition: Condition::Always, want_old: false, expiry, .. } => {
                matches!(expiry, SetExpiry::Keep { .. })
            }
            Self::Bury { .. } => false,
            Self::Set { .. }
            | Self::Delete { .. }
            | Self::Expire { .. }
            | Self::Increment { .. }
            | Self::IncrementFloat { .. }
            | Self::Append { .. }
            | Self::SetRange { .. } => true,
        }
    }
}

/// What a Set does to the expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetExpiry {
    /// The key lives for ever.
    Never,
    /// It lives this long from now, at least 1 ms.
    In(Duration),
    /// It lives until then; a time that has passed stores nothing and removes the key, as Redis does.
    At(UnixMs),
    /// It keeps what it has; a new key gets this life, or none.
    Keep {
        /// For a key that did not exist.
        life_if_new: Option<Duration>,
    },
}

/// What an Expire sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewExpiry {
    /// No expiry (PERSIST).
    Never,
    /// This long from now; zero removes the key.
    In(Duration),
    /// Until then; a time that has passed removes the key.
    At(UnixMs),
    /// Leave it (GETEX without an option).
    Keep,
}

/// When a Set stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// NX.
    IfAbsent,
    /// XX.
    IfPresent,
    /// Only if the present value has these bytes.
    IfEqual(Bytes),
}

/// When an Expire applies; no expiry counts as longer than any, as in Redis 7.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpireOnly {
    /// NX: only where there is no expiry.
    pub if_none: bool,
    /// XX: only where there is one.
    pub if_some: bool,
    /// GT: only if the key then lives longer.
    pub if_longer: bool,
    /// LT: only if the key then lives shorter.
    pub if_shorter: bool,
}

impl ExpireOnly {
    /// No condition.
    pub const ALWAYS: Self = Self { if_none: false, if_some: false, if_longer: false, if_shorter: false };
    /// GT.
    pub const IF_LONGER: Self = Self { if_longer: true, ..Self::ALWAYS };
    /// LT.
    pub const IF_SHORTER: Self = Self { if_shorter: true, ..Self::ALWAYS };

    /// Whether an expiry at `new` (`None` never) may replace `old`.
    #[must_use]
    pub fn allows(self, old: Option<UnixMs>, new: Option<UnixMs>) -> bool {
        let rank = |at: Option<UnixMs>| at.map_or(u64::MAX, |at| at.0);
        !(self.if_none && old.is_some()
            || self.if_some && old.is_none()
            || self.if_longer && rank(new) <= rank(old)
            || self.if_shorter && rank(new) >= rank(old))
    }
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Of a Set.
    Set {
        /// False when the condition did not hold.
        stored: bool,
        /// With `want_old`: what there was.
        old: Option<Value>,
    },
    /// Of a Delete or Bury.
    Deleted {
        /// The key was there.
        existed: bool,
        /// With `want_old`: what there was.
        old: Option<Value>,
    },
    /// Of an Expire.
    Expired {
        /// The key was there.
        found: bool,
        /// Its expiry is now as asked (for PERSIST and Keep: something changed).
        applied: bool,
        /// With `want_value`: its value.
        value: Option<Value>,
    },
    /// Of an Increment: the number after it.
    Number(i64),
    /// Of an IncrementFloat: the number after it, as it is stored.
    Decimal(Bytes),
    /// Of an Append or SetRange: bytes of the value after it.
    Length(u64),
}

/// The present entry of a key, not expired.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// All that is stored of it.
    pub value: &'a [u8],
    /// When it expires; `None` never.
    pub expires_at: Option<UnixMs>,
}

/// The change of an entry that an operation results in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryChange {
    /// Nothing changes.
    Keep,
    /// Store this, with this expiry.
    Put(Bytes, Option<UnixMs>),
    /// The same value with this expiry.
    Reexpire(Option<UnixMs>),
    /// The key goes.
    Remove,
}

/// The meaning of `op` on `present` at `now`.
///
/// # Errors
/// `NotANumber`, `Overflow`, `TooLarge`; nothing changes then.
pub fn apply(op: &Op, present: Option<Present<'_>>, now: UnixMs) -> Result<(EntryChange, Applied)> {
    let (head, payload) = present.map_or((&b""[..], &b""[..]), |p| codec::split(p.value));
    let present = present.map(|p| Present { value: payload, ..p });
    let (change, applied) = apply_to_payload(op, head, present, now)?;
    let is_payload = !matches!(op, Op::Set { .. });
    Ok(match change {
        EntryChange::Put(payload, expires_at) if is_payload => {
            (EntryChange::Put(codec::joined(head, payload), expires_at), applied)
        }
        EntryChange::Put(..) | EntryChange::Keep | EntryChange::Reexpire(_) | EntryChange::Remove => (change, applied),
    })
}

fn apply_to_payload(op: &Op, head: &[u8], present: Option<Present<'_>>, now: UnixMs) -> Result<(EntryChange, Applied)> {
    match op {
        Op::Set { value, expiry, condition, want_old } => Ok(set(value, *expiry, condition, *want_old, present, now)),
        Op::Delete { want_old } => {
            let old = present.filter(|_| *want_old).map(|p| copied(p.value));
            let change = if present.is_some() { EntryChange::Remove } else { EntryChange::Keep };
            Ok((change, Applied::Deleted { existed: present.is_some(), old }))
        }
        Op::Bury { head: dead } => {
            let existed = !dead.is_empty() && head == dead;
            Ok((if existed { EntryChange::Remove } else { EntryChange::Keep }, Applied::Deleted { existed, old: None }))
        }
        Op::Expire { expiry, only, want_value } => Ok(expire(*expiry, *only, *want_value, present, now)),
        Op::Increment { delta, life_if_new } => increment(*delta, *life_if_new, present, now),
        Op::IncrementFloat { delta, life_if_new } => increment_float(delta, *life_if_new, present, now),
        Op::Append { suffix, life_if_new, length_max } => append(suffix, *life_if_new, *length_max, present, now),
        Op::SetRange { offset, bytes, life_if_new, length_max } => {
            set_range(*offset, bytes, *life_if_new, *length_max, present, now)
        }
    }
}

fn copied(value: &[u8]) -> Value {
    Value::from(Bytes::copy_from_slice(value))
}

fn after(now: UnixMs, life: Duration) -> UnixMs {
    UnixMs(now.0.saturating_add(crate::clock::millis(life)))
}

fn set(
    value: &Bytes,
    expiry: SetExpiry,
    condition: &Condition,
    want_old: bool,
    present: Option<Present<'_>>,
    now: UnixMs,
) -> (EntryChange, Applied) {
    let holds = match condition {
        Condition::Always => true,
        Condition::IfAbsent => present.is_none(),
        Condition::IfPresent => present.is_some(),
        Condition::IfEqual(bytes) => present.is_some_and(|p| p.value == bytes),
    };
    let old = present.filter(|_| want_old).map(|p| copied(p.value));
    if !holds {
        return (EntryChange::Keep, Applied::Set { stored: false, old });
    }
    let expires_at = match expiry {
        SetExpiry::Never => None,
        SetExpiry::In(life) => Some(after(now, life)),
        SetExpiry::At(at) => Some(at),
        SetExpiry::Keep { life_if_new } => match present {
            Some(p) => p.expires_at,
            None => life_if_new.map(|life| after(now, life)),
        },
    };
    let change = match expires_at {
        // Also where nothing is there: it was set and went, and who watches the key is to know.
        Some(at) if at <= now => EntryChange::Remove,
        Some(_) | None => EntryChange::Put(value.clone(), expires_at),
    };
    (change, Applied::Set { stored: true, old })
}

fn expire(
    expiry: NewExpiry,
    only: ExpireOnly,
    want_value: bool,
    present: Option<Present<'_>>,
    now: UnixMs,
) -> (EntryChange, Applied) {
    let Some(entry) = present else {
        return (EntryChange::Keep, Applied::Expired { found: false, applied: false, value: None });
    };
    let value = want_value.then(|| copied(entry.value));
    let target = match expiry {
        NewExpiry::Keep => return (EntryChange::Keep, Applied::Expired { found: true, applied: false, value }),
        NewExpiry::Never => None,
        NewExpiry::In(life) => Some(after(now, life)),
        NewExpiry::At(at) => Some(at),
    };
    // PERSIST on a key without expiry changes nothing and says so.
    let idle = target.is_none() && entry.expires_at.is_none();
    if idle || !only.allows(entry.expires_at, target) {
        return (EntryChange::Keep, Applied::Expired { found: true, applied: false, value });
    }
    let change = match target {
        Some(at) if at <= now => EntryChange::Remove,
        Some(_) | None => EntryChange::Reexpire(target),
    };
    (change, Applied::Expired { found: true, applied: true, value })
}

/// The expiry of a key after an operation that keeps it, or sets one only on creation.
fn kept_or_new(present: Option<Present<'_>>, life_if_new: Option<Duration>, now: UnixMs) -> Option<UnixMs> {
    match present {
        Some(p) => p.expires_at,
        None => life_if_new.map(|life| after(now, life)),
    }
}

fn increment(
    delta: i64,
    life_if_new: Option<Duration>,
    present: Option<Present<'_>>,
    now: UnixMs,
) -> Result<(EntryChange, Applied)> {
    let current = match present {
        None => 0,
        Some(p) => parse_integer(p.value)
            .ok_or_else(|| CacheError::new(Kind::NotANumber, "value is not an integer or out of range"))?,
    };
    let sum = current
        .checked_add(delta)
        .ok_or_else(|| CacheError::new(Kind::Overflow, "increment or decrement would overflow"))?;
    let text = Bytes::copy_from_slice(itoa::Buffer::new().format(sum).as_bytes());
    Ok((EntryChange::Put(text, kept_or_new(present, life_if_new, now)), Applied::Number(sum)))
}

/// A decimal 64-bit integer exactly as Redis accepts one: no blanks, no plus, no leading zeros.
#[must_use]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    // What parses but prints otherwise ("+1", "007", "-0") is not an integer to Redis.
    (itoa::Buffer::new().format(number).as_bytes() == text).then_some(number)
}

fn append(
    suffix: &Bytes,
    life_if_new: Option<Duration>,
    length_max: u64,
    present: Option<Present<'_>>,
    now: UnixMs,
) -> Result<(EntryChange, Applied)> {
    let head = present.map_or(&b""[..], |p| p.value);
    let length = head.len() + suffix.len();
    if length as u64 > length_max {
        let message = format!("value of {length} bytes exceeds max_value ({length_max} bytes)");
        return Err(CacheError::new(Kind::TooLarge, message));
    }
    let mut value = BytesMut::with_capacity(length);
    value.put_slice(head);
    value.put_slice(suffix);
    let change = EntryChange::Put(value.freeze(), kept_or_new(present, life_if_new, now));
    Ok((change, Applied::Length(length as u64)))
}

fn set_range(
    offset: u64,
    bytes: &Bytes,
    life_if_new: Option<Duration>,
    length_max: u64,
    present: Option<Present<'_>>,
    now: UnixMs,
) -> Result<(EntryChange, Applied)> {
    let old = present.map_or(&b""[..], |p| p.value);
    if bytes.is_empty() {
        return Ok((EntryChange::Keep, Applied::Length(old.len() as u64)));
    }
    check_range(offset, bytes.len(), length_max)?;
    // At most `length_max`, which is a length in memory.
    let begin = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut value = old.to_vec();
    value.resize(old.len().max(begin + bytes.len()), 0);
    value[begin..begin + bytes.len()].copy_from_slice(bytes);
    let length = value.len() as u64;
    Ok((EntryChange::Put(value.into(), kept_or_new(present, life_if_new, now)), Applied::Length(length)))
}

/// Whether a SetRange stays within the limit.
///
/// # Errors
/// `TooLarge`.
pub fn check_range(offset: u64, len: usize, length_max: u64) -> Result<()> {
    let length = offset.saturating_add(len as u64);
    if length > length_max {
        let message = format!(
            "string exceeds maximum allowed size: value of {length} bytes exceeds max_value ({length_max} bytes)"
        );
        return Err(CacheError::new(Kind::TooLarge, message));
    }
    Ok(())
}

fn increment_float(
    delta: &[u8],
    life_if_new: Option<Duration>,
    present: Option<Present<'_>>,
    now: UnixMs,
) -> Result<(EntryChange, Applied)> {
    let head = present.map_or(&b"0"[..], |p| p.value);
    let sum = decimal::add(head, delta)?;
    let change = EntryChange::Put(sum.clone(), kept_or_new(present, life_if_new, now));
    Ok((change, Applied::Decimal(sum)))
}
