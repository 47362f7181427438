//! Encodes each [`Op`] as one Redis command, and decodes its reply.
//!
//! Each operation becomes a plain command if one has the meaning of [`op::apply`](crate::l2::op::apply), otherwise a
//! script. It is always one command with one reply, so that the commands of a batch can form a pipeline or the body of
//! a MULTI.

use std::time::Duration;

use ::redis::{Cmd, Value as Reply};
use bytes::Bytes;

use super::{
    errors,
    scripts::{APPEND, BURY, By, EXPIRE, INCREMENT, SET, SETRANGE},
};
use crate::{
    clock::{Clock, millis},
    error::Result,
    l2::{
        codec,
        op::{Applied, Condition, ExpireOnly, NewExpiry, Op, SetExpiry, parse_integer},
    },
    model::Value,
};

/// Maximum expiration time that Redis accepts.
const EXPIRY_MAX_MS: u64 = i64::MAX as u64;
/// TTL above which the sum with the current time may exceed the maximum.
const LIFE_LONG_MS: u64 = 1 << 62;

/// Decoder of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// SET: OK, or nil if the condition was not met.
    Stored,
    /// SET GET: the old value; the condition and the old value determine whether the value was stored.
    StoredOver {
        /// IfAbsent or IfPresent; Always if neither is set.
        only_absent: bool,
        only_present: bool,
    },
    /// The SET script.
    StoredScript,
    /// Number of removed keys.
    Deleted,
    /// GETDEL.
    DeletedOld,
    /// EXISTS, GET: the key was found, but nothing was changed.
    Found,
    FoundValue,
    /// EXPIRE without conditions, GETEX, GETDEL: a found key was changed.
    Reexpired,
    ReexpiredValue,
    /// The EXPIRE script.
    ExpireScript,
    Number,
    Decimal,
    /// The SETRANGE script.
    Length,
    /// The APPEND script.
    Appended {
        /// Limit for the error message.
        length_max: u64,
    },
}

/// Returns the command for `op` on `key`, and the decoder of its reply. A command that is `alone` may be repeated by
/// [`behind_head`].
pub(crate) fn command(key: &[u8], op: &Op, by: By, alone: bool) -> (Cmd, Reading) {
    match op {
        Op::Set { value, expiry, condition, want_old } => set(key, value, *expiry, condition, *want_old, by),
        Op::Delete { want_old: true } => (plain("GETDEL", key), Reading::DeletedOld),
        Op::Delete { want_old: false } => (plain("UNLINK", key), Reading::Deleted),
        Op::Bury { head } => {
            let mut command = BURY.call(by, key);
            command.arg(&head[..]);
            (command, Reading::Deleted)
        }
        Op::Expire { expiry, only, want_value } => expire(key, *expiry, *only, *want_value, by),
        Op::Increment { delta, life_if_new } => {
            let delta = itoa::Buffer::new().format(*delta).to_owned();
            let is_plain = alone && life_if_new.is_none();
            (increment(key, "INCRBY", delta.as_bytes(), *life_if_new, (!is_plain).then_some(by)), Reading::Number)
        }
        Op::IncrementFloat { delta, life_if_new } => {
            let is_plain = alone && life_if_new.is_none();
            (increment(key, "INCRBYFLOAT", delta, *life_if_new, (!is_plain).then_some(by)), Reading::Decimal)
        }
        Op::Append { suffix, life_if_new, length_max } => {
            let command = append(key, suffix, *life_if_new, *length_max, by);
            (command, Reading::Appended { length_max: *length_max })
        }
        Op::SetRange { offset, bytes, life_if_new, .. } => {
            (set_range(key, *offset, bytes, *life_if_new, by), Reading::Length)
        }
    }
}

/// Returns a command with the key as its only argument so far.
pub(crate) fn plain(name: &str, key: &[u8]) -> Cmd {
    // Capacity for an option with its number, so that the buffers are allocated once.
    let mut command = Cmd::with_capacity(5, name.len() + key.len() + 32);
    command.arg(name).arg(key);
    command
}

fn set(key: &[u8], value: &Bytes, expiry: SetExpiry, condition: &Condition, want_old: bool, by: By) -> (Cmd, Reading) {
    let (existing, new) = set_options(expiry);
    let (word, options) = match condition {
        Condition::IfEqual(expected) => {
            return (set_script(key, value, Some(expected), want_old, (&existing, &new), by), Reading::StoredScript);
        }
        Condition::Always if existing != new => {
            return (set_script(key, value, None, want_old, (&existing, &new), by), Reading::StoredScript);
        }
        Condition::Always => (None, existing),
        Condition::IfAbsent => (Some("NX"), new),
        Condition::IfPresent => (Some("XX"), existing),
    };
    let mut command = Cmd::with_capacity(7, key.len() + value.len() + 64);
    command.arg("SET").arg(key).arg(&value[..]);
    add_options(&mut command, &options);
    if let Some(word) = word {
        command.arg(word);
    }
    if !want_old {
        return (command, Reading::Stored);
    }
    command.arg("GET");
    let only_absent = matches!(condition, Condition::IfAbsent);
    let only_present = matches!(condition, Condition::IfPresent);
    (command, Reading::StoredOver { only_absent, only_present })
}

/// One option of SET: a word and an optional number.
type SetOption = Option<(&'static str, Option<u64>)>;

/// Returns the expiry options of SET: for a key that exists, and for a new key.
fn set_options(expiry: SetExpiry) -> (SetOption, SetOption) {
    match expiry {
        SetExpiry::Never => (None, None),
        SetExpiry::In(life) => (px(life), px(life)),
        SetExpiry::At(at) => {
            let at = Some(("PXAT", Some(at.0.clamp(1, EXPIRY_MAX_MS))));
            (at, at)
        }
        SetExpiry::Keep { life_if_new: Some(life) } => (Some(("KEEPTTL", None)), px(life)),
        // KEEPTTL has no effect on a new key, so one form serves both cases.
        SetExpiry::Keep { life_if_new: None } => (Some(("KEEPTTL", None)), Some(("KEEPTTL", None))),
    }
}

fn px(life: Duration) -> SetOption {
    Some(("PX", Some(life_ms(life).max(1))))
}

fn life_ms(life: Duration) -> u64 {
    let ms = millis(life);
    if ms <= LIFE_LONG_MS {
        return ms;
    }
    // A second is left for the way to Redis.
    ms.min(EXPIRY_MAX_MS - 1_000 - Clock::real().unix().0)
}

/// Adds the options of SET for this expiry.
pub(crate) fn add_expiry(command: &mut Cmd, expiry: SetExpiry) {
    add_options(command, &set_options(expiry).1);
}

fn add_options(command: &mut Cmd, option: &SetOption) {
    if let Some((word, number)) = option {
        command.arg(*word);
        if let Some(number) = number {
            command.arg(*number);
        }
    }
}

fn set_script(
    key: &[u8],
    value: &Bytes,
    expected: Option<&Bytes>,
    want_old: bool,
    (existing, new): (&SetOption, &SetOption),
    by: By,
) -> Cmd {
    let mut command = SET.call(by, key);
    command.arg(&value[..]).arg(expected.is_some());
    command.arg(expected.map_or(&b""[..], |bytes| &bytes[..])).arg(want_old);
    add_options(&mut command, existing);
    command.arg("|");
    add_options(&mut command, new);
    command
}

fn expire(key: &[u8], expiry: NewExpiry, only: ExpireOnly, want_value: bool, by: By) -> (Cmd, Reading) {
    let (name, option, number) = match expiry {
        NewExpiry::Keep if want_value => return (plain("GET", key), Reading::FoundValue),
        NewExpiry::Keep => return (plain("EXISTS", key), Reading::Found),
        // PERSIST does not distinguish a missing key from a key without expiry.
        NewExpiry::Never => return (expire_script(key, "PERSIST", 0, only, want_value, by), Reading::ExpireScript),
        NewExpiry::In(life) => ("PEXPIRE", "PX", life_ms(life)),
        NewExpiry::At(at) => ("PEXPIREAT", "PXAT", at.0.min(EXPIRY_MAX_MS)),
    };
    if only != ExpireOnly::ALWAYS {
        return (expire_script(key, name, number, only, want_value, by), Reading::ExpireScript);
    }
    match (want_value, number) {
        (false, _) => {
            let mut command = plain(name, key);
            command.arg(number);
            (command, Reading::Reexpired)
        }
        // GETEX rejects 0; GETDEL has the same result.
        (true, 0) => (plain("GETDEL", key), Reading::ReexpiredValue),
        (true, _) => {
            let mut command = plain("GETEX", key);
            command.arg(option).arg(number);
            (command, Reading::ReexpiredValue)
        }
    }
}

fn expire_script(key: &[u8], name: &str, number: u64, only: ExpireOnly, want_value: bool, by: By) -> Cmd {
    let letters: String = [(only.if_none, 'n'), (only.if_some, 'x'), (only.if_longer, 'g'), (only.if_shorter, 'l')]
        .into_iter()
        .filter_map(|(asked, letter)| asked.then_some(letter))
        .collect();
    let mut command = EXPIRE.call(by, key);
    command.arg(name).arg(number).arg(letters).arg(want_value);
    command
}

/// Returns an increment as a plain command, or as a script if `by` is set.
fn increment(key: &[u8], name: &str, delta: &[u8], life_if_new: Option<Duration>, by: Option<By>) -> Cmd {
    let Some(by) = by else {
        let mut command = plain(name, key);
        command.arg(delta);
        return command;
    };
    let mut command = INCREMENT.call(by, key);
    command.arg(name).arg(delta).arg(life_text(life_if_new));
    command
}

/// Returns the script to try after a plain increment found no number, because a header may precede the payload.
pub(crate) fn behind_head(key: &[u8], op: &Op) -> Option<(Cmd, Reading)> {
    match op {
        Op::Increment { life_if_new: None, .. } | Op::IncrementFloat { life_if_new: None, .. } => {
            Some(command(key, op, By::Text, false))
        }
        Op::Set { .. }
        | Op::Delete { .. }
        | Op::Bury { .. }
        | Op::Expire { .. }
        | Op::Increment { .. }
        | Op::IncrementFloat { .. }
        | Op::Append { .. }
        | Op::SetRange { .. } => None,
    }
}

fn life_text(life: Option<Duration>) -> String {
    life.map_or_else(String::new, |life| life_ms(life).to_string())
}

fn append(key: &[u8], suffix: &Bytes, life_if_new: Option<Duration>, length_max: u64, by: By) -> Cmd {
    let mut command = APPEND.call(by, key);
    command.arg(&suffix[..]).arg(length_max).arg(life_text(life_if_new));
    command
}

/// The caller has checked the size limit, which depends only on the offset and the bytes.
fn set_range(key: &[u8], offset: u64, bytes: &Bytes, life_if_new: Option<Duration>, by: By) -> Cmd {
    let mut command = SETRANGE.call(by, key);
    command.arg(offset).arg(&bytes[..]).arg(life_text(life_if_new));
    command
}

/// Returns true if Redis does not know the script: the script was not executed and may be sent in full.
pub(crate) fn is_unknown_script(reply: &Reply) -> bool {
    matches!(reply, Reply::ServerError(error) if error.code() == "NOSCRIPT")
}

/// Decodes the reply to an operation.
pub(crate) fn read(reading: Reading, reply: Reply) -> Result<Applied> {
    let reply = checked(reply)?;
    match reading {
        Reading::Stored => Ok(Applied::Set { stored: reply != Reply::Nil, old: None }),
        Reading::StoredOver { only_absent, only_present } => {
            let old = payload(reply, "SET")?;
            let stored = !(only_absent && old.is_some() || only_present && old.is_none());
            Ok(Applied::Set { stored, old })
        }
        Reading::StoredScript => {
            let [stored, old] = parts(reply, "SET")?;
            Ok(Applied::Set { stored: flag(&stored, "SET")?, old: payload(old, "SET")? })
        }
        Reading::Deleted => Ok(Applied::Deleted { existed: flag(&reply, "UNLINK")?, old: None }),
        Reading::DeletedOld => {
            let old = payload(reply, "GETDEL")?;
            Ok(Applied::Deleted { existed: old.is_some(), old })
        }
        Reading::Found => Ok(expired(flag(&reply, "EXISTS")?, false, None)),
        Reading::FoundValue => payload(reply, "GET").map(|value| expired(value.is_some(), false, value)),
        Reading::Reexpired => flag(&reply, "PEXPIRE").map(|applied| expired(applied, applied, None)),
        Reading::ReexpiredValue => {
            payload(reply, "GETEX").map(|value| expired(value.is_some(), value.is_some(), value))
        }
        Reading::ExpireScript => {
            let [found, applied, value] = parts(reply, "EXPIRE")?;
            Ok(expired(flag(&found, "EXPIRE")?, flag(&applied, "EXPIRE")?, payload(value, "EXPIRE")?))
        }
        Reading::Number => number(&reply).map(Applied::Number),
        Reading::Decimal => match optional(reply, "INCRBYFLOAT")? {
            Some(text) => Ok(Applied::Decimal(text.into_bytes())),
            None => Err(errors::unexpected("INCRBYFLOAT")),
        },
        Reading::Length => unsigned(&reply, "SETRANGE").map(Applied::Length),
        Reading::Appended { length_max } => {
            let [done, length] = parts(reply, "APPEND")?;
            let length = unsigned(&length, "APPEND")?;
            if flag(&done, "APPEND")? {
                Ok(Applied::Length(length))
            } else {
                Err(errors::too_large(length, length_max))
            }
        }
    }
}

fn expired(found: bool, applied: bool, value: Option<Value>) -> Applied {
    Applied::Expired { found, applied, value }
}

/// Converts error replies to errors.
pub(crate) fn checked(reply: Reply) -> Result<Reply> {
    if let Reply::ServerError(error) = &reply { Err(errors::from_reply(error)) } else { Ok(reply) }
}

/// Decodes a bulk string or nil.
pub(crate) fn optional(reply: Reply, command: &str) -> Result<Option<Value>> {
    if let Reply::BulkString(bytes) = reply {
        return Ok(Some(Value::from(Bytes::from(bytes))));
    }
    if reply == Reply::Nil { Ok(None) } else { Err(errors::unexpected(command)) }
}

/// Decodes a stored value with an optional header, or nil.
pub(crate) fn payload(reply: Reply, command: &str) -> Result<Option<Value>> {
    Ok(optional(reply, command)?.map(codec::opened))
}

pub(crate) fn integer(reply: &Reply, command: &str) -> Result<i64> {
    if let Reply::Int(number) = reply { Ok(*number) } else { Err(errors::unexpected(command)) }
}

/// Decodes 0 or 1.
fn flag(reply: &Reply, command: &str) -> Result<bool> {
    integer(reply, command).map(|number| number > 0)
}

/// Decodes a nonnegative integer.
pub(crate) fn unsigned(reply: &Reply, command: &str) -> Result<u64> {
    u64::try_from(integer(reply, command)?).map_err(|_| errors::unexpected(command))
}

/// Decodes the integer of INCRBY, or the digits that the script returns.
fn number(reply: &Reply) -> Result<i64> {
    if let Reply::BulkString(digits) = reply {
        return parse_integer(digits).ok_or_else(|| errors::unexpected("INCRBY"));
    }
    integer(reply, "INCRBY")
}

/// Splits the reply of a script into its parts.
fn parts<const N: usize>(reply: Reply, command: &str) -> Result<[Reply; N]> {
    if let Reply::Array(parts) = reply
        && let Ok(parts) = parts.try_into()
    {
        return Ok(parts);
    }
    Err(errors::unexpected(command))
}
