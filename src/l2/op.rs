//! Write operations and their meaning: a pure function of the present entry, the same for every store.
//!
//! Operations act on payloads. A header before the payload ([`codec`]) remains, unless a Set replaces the whole entry.
//! The value of a Set is stored unchanged; the facade has added a header where one is needed.
//!
//! The embedded store and `none` call [`apply`] under the lock of the key. The Redis implementation has one command,
//! transaction or script with the same meaning for each [`Op`]. One behavior test suite runs on all three stores.

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
        /// The stored bytes.
        value: Bytes,
        /// Effect on the key's expiry.
        expiry: SetExpiry,
        /// Condition for storing the value.
        condition: Condition,
        /// Return the previous value (a key of another type is then `WrongType`).
        want_old: bool,
    },
    /// DEL, GETDEL.
    Delete {
        /// Return the previous value (a key of another type is then `WrongType`).
        want_old: bool,
    },
    /// Removes the key if it still has this header, because a tag of the header is invalid.
    Bury {
        /// The whole header.
        head: Bytes,
    },
    /// EXPIRE, PERSIST, GETEX.
    Expire {
        /// The new expiry.
        expiry: NewExpiry,
        /// Condition for the change.
        only: ExpireOnly,
        /// Return the value (a key of another type is then `WrongType`).
        want_value: bool,
    },
    /// INCRBY.
    Increment {
        /// Number to add; may be negative.
        delta: i64,
        /// TTL, applied only if the operation creates the key.
        life_if_new: Option<Duration>,
    },
    /// INCRBYFLOAT.
    IncrementFloat {
        /// A finite decimal number as the client wrote it, already checked.
        delta: Bytes,
        /// TTL, applied only if the operation creates the key.
        life_if_new: Option<Duration>,
    },
    /// APPEND.
    Append {
        /// Bytes to append.
        suffix: Bytes,
        /// TTL, applied only if the operation creates the key.
        life_if_new: Option<Duration>,
        /// Maximum length in bytes of the resulting value.
        length_max: u64,
    },
    /// SETRANGE; without bytes, nothing changes.
    SetRange {
        /// Position of the first byte; a gap after the present value is filled with zeros.
        offset: u64,
        /// Bytes that replace the present bytes.
        bytes: Bytes,
        /// TTL, applied only if the operation creates the key.
        life_if_new: Option<Duration>,
        /// Maximum length in bytes of the resulting value.
        length_max: u64,
    },
}

impl Op {
    /// Returns true if the result contains the previous value.
    #[must_use]
    pub fn returns_value(&self) -> bool {
        match self {
            Self::Set { want_old, .. } | Self::Delete { want_old } | Self::Expire { want_value: want_old, .. } => {
                *want_old
            }
            Self::Bury { .. }
            | Self::Increment { .. }
            | Self::IncrementFloat { .. }
            | Self::Append { .. }
            | Self::SetRange { .. } => false,
        }
    }

    /// Returns the size in bytes of the value that the operation writes.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Set { value: bytes, .. } | Self::Append { suffix: bytes, .. } | Self::SetRange { bytes, .. } => {
                bytes.len()
            }
            Self::Delete { .. }
            | Self::Bury { .. }
            | Self::Expire { .. }
            | Self::Increment { .. }
            | Self::IncrementFloat { .. } => 0,
        }
    }

    /// Returns true if the effect or the result depends on the present entry.
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

/// Effect of a Set on the expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetExpiry {
    /// The key never expires.
    Never,
    /// The key expires after this time, at least 1 ms.
    In(Duration),
    /// The key expires at this time; a time in the past stores nothing and removes the key, as in Redis.
    At(UnixMs),
    /// The key keeps its expiry; a new key gets `life_if_new`.
    Keep {
        /// TTL of a key that did not exist; `None` = no expiry.
        life_if_new: Option<Duration>,
    },
}

/// Expiry that an Expire sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewExpiry {
    /// No expiry (PERSIST).
    Never,
    /// The key expires after this time; zero removes the key.
    In(Duration),
    /// The key expires at this time; a time in the past removes the key.
    At(UnixMs),
    /// The expiry does not change (GETEX without an option).
    Keep,
}

/// Condition for a Set.
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

/// Condition for an Expire. A key without expiry counts as the longest TTL, as in Redis 7.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpireOnly {
    /// NX: only if the key has no expiry.
    pub if_none: bool,
    /// XX: only if the key has an expiry.
    pub if_some: bool,
    /// GT: only if the new expiry is later.
    pub if_longer: bool,
    /// LT: only if the new expiry is earlier.
    pub if_shorter: bool,
}

impl ExpireOnly {
    /// No condition.
    pub const ALWAYS: Self = Self { if_none: false, if_some: false, if_longer: false, if_shorter: false };
    /// GT.
    pub const IF_LONGER: Self = Self { if_longer: true, ..Self::ALWAYS };
    /// LT.
    pub const IF_SHORTER: Self = Self { if_shorter: true, ..Self::ALWAYS };

    /// Returns true if an expiry at `new` (`None` = never) may replace `old`.
    #[must_use]
    pub fn allows(self, old: Option<UnixMs>, new: Option<UnixMs>) -> bool {
        let rank = |at: Option<UnixMs>| at.map_or(u64::MAX, |at| at.0);
        !(self.if_none && old.is_some()
            || self.if_some && old.is_none()
            || self.if_longer && rank(new) <= rank(old)
            || self.if_shorter && rank(new) >= rank(old))
    }
}

/// Result of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Result of a Set.
    Set {
        /// False if the condition was not met.
        stored: bool,
        /// With `want_old`: the previous value.
        old: Option<Value>,
    },
    /// Result of a Delete or Bury.
    Deleted {
        /// The key existed.
        existed: bool,
        /// With `want_old`: the previous value.
        old: Option<Value>,
    },
    /// Result of an Expire.
    Expired {
        /// The key existed.
        found: bool,
        /// The expiry was changed as requested (for PERSIST and Keep: something changed).
        applied: bool,
        /// With `want_value`: the value.
        value: Option<Value>,
    },
    /// Result of an Increment: the new number.
    Number(i64),
    /// Result of an IncrementFloat: the new number, as stored.
    Decimal(Bytes),
    /// Result of an Append or SetRange: the new length of the value in bytes.
    Length(u64),
}

/// The present, unexpired entry of a key.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// The stored bytes.
    pub value: &'a [u8],
    /// Expiry; `None` = never.
    pub expires_at: Option<UnixMs>,
}

/// The change of an entry that an operation results in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryChange {
    /// Nothing changes.
    Keep,
    /// Store this value with this expiry.
    Put(Bytes, Option<UnixMs>),
    /// Keep the value and set this expiry.
    Reexpire(Option<UnixMs>),
    /// Remove the key.
    Remove,
}

/// Returns the effect of `op` on `present` at `now`.
///
/// # Errors
/// `NotANumber`, `Overflow`, `TooLarge`; nothing changes in these cases.
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

/// Returns the time `life` after `now`.
pub(super) fn after(now: UnixMs, life: Duration) -> UnixMs {
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
        // Also if no entry exists: the key was set and removed, and clients that watch the key must be notified.
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
    // PERSIST on a key without expiry changes nothing and reports that.
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

/// Returns the expiry after an operation that keeps the expiry, or sets one only when it creates the key.
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

/// Parses a decimal 64-bit integer by the rules of Redis: no blanks, no plus sign, no leading zeros.
#[must_use]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    // Redis rejects text that parses but prints differently ("+1", "007", "-0").
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
    // At most `length_max`, which fits in memory and therefore in usize.
    let begin = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut value = old.to_vec();
    value.resize(old.len().max(begin + bytes.len()), 0);
    value[begin..begin + bytes.len()].copy_from_slice(bytes);
    let length = value.len() as u64;
    Ok((EntryChange::Put(value.into(), kept_or_new(present, life_if_new, now)), Applied::Length(length)))
}

/// Checks that a SetRange stays within the limit.
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
