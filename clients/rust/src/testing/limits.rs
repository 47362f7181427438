//! Limits of the server, with its error texts.

use std::{ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use terrace_proto::{Error as Refusal, operation_result::Result as Answer};
use tonic::Code;

use crate::glob::Glob;

/// Maximum size of a key in bytes.
const KEY_MAX: usize = 64 << 10;
/// Default of `server.max_value`.
const VALUE_MAX: usize = 8 << 20;
/// Maximum number of keys or entries of an operation.
const BATCH_MAX: usize = 1_000;
/// Maximum number of tags of an entry.
const TAGS_MAX: usize = 16;
/// Maximum size of the name of a tag in bytes.
const TAG_MAX: usize = 128;
/// Maximum size of a pattern in bytes.
const PATTERN_MAX: usize = 1_024;
/// Maximum size of a token in bytes.
const TOKEN_MAX: usize = 512;
/// Maximum size in bytes of the message of a failed load.
const MESSAGE_MAX: usize = 256;
/// Maximum number of prefixes of a Watch stream.
const PREFIXES_MAX: usize = 64;
/// Maximum TTL in milliseconds.
const TTL_MAX: i64 = i64::MAX / 2;
/// Prefix of keys that are internal to the server.
const RESERVED: &[u8] = b"__terrace:";

/// Exclusive time of a lease in milliseconds.
pub(super) const LEASE: RangeInclusive<i64> = 100..=300_000;
/// Time in milliseconds that a caller waits for the load of another client.
pub(super) const WAIT: RangeInclusive<i64> = 0..=300_000;
/// Last part of a key's life in milliseconds, in which its value needs a refresh: at most 100 years.
pub(super) const STALE: RangeInclusive<i64> = 0..=100 * 365 * 86_400_000;
/// Time without a load after a failure, in milliseconds.
pub(super) const RETRY: RangeInclusive<i64> = 0..=3_600_000;
/// Interval between heartbeats of a Watch stream in milliseconds.
const HEARTBEAT: RangeInclusive<i64> = 100..=60_000;

/// Result of a check.
pub(super) type Checked<T> = Result<T, Refusal>;

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    refusal(Code::InvalidArgument, message)
}

pub(super) fn refusal(code: Code, message: impl Into<String>) -> Refusal {
    Refusal { code: code.into(), message: message.into(), retry_after_ms: None }
}

/// Returns the answer of an operation, or its refusal.
pub(super) fn answer(checked: Checked<Answer>) -> Answer {
    checked.unwrap_or_else(Answer::Error)
}

pub(super) fn check_key(key: &[u8]) -> Checked<()> {
    if key.is_empty() {
        return Err(invalid("the key is empty; a key has 1 to 65536 bytes"));
    }
    if key.len() > KEY_MAX {
        return Err(invalid(format!("the key has {} bytes; a key has 1 to {KEY_MAX} bytes", key.len())));
    }
    check_reserved(key)
}

fn check_reserved(prefix: &[u8]) -> Checked<()> {
    if prefix.starts_with(RESERVED) {
        return Err(invalid("reserved prefix: keys that start with __terrace: are internal to Terrace"));
    }
    Ok(())
}

pub(super) fn check_value(value: &[u8]) -> Checked<()> {
    if value.len() > VALUE_MAX {
        let message = format!("value of {} bytes exceeds max_value ({VALUE_MAX} bytes)", value.len());
        return Err(refusal(Code::ResourceExhausted, message));
    }
    Ok(())
}

pub(super) fn check_batch(items: usize, field: &str) -> Checked<()> {
    if items > BATCH_MAX {
        let message = format!("{field} has {items} items; at most {BATCH_MAX} are accepted per call");
        return Err(refusal(Code::ResourceExhausted, message));
    }
    Ok(())
}

/// Checks, sorts and deduplicates the tags of an entry.
pub(super) fn entry_tags(mut tags: Vec<Bytes>) -> Checked<Vec<Bytes>> {
    tags.sort_unstable();
    tags.dedup();
    if tags.len() > TAGS_MAX {
        return Err(invalid(format!("the request has {} tags; an entry has at most {TAGS_MAX}", tags.len())));
    }
    tags.iter().try_for_each(|tag| check_tag(tag))?;
    Ok(tags)
}

pub(super) fn check_tag(tag: &[u8]) -> Checked<()> {
    if (1..=TAG_MAX).contains(&tag.len()) {
        return Ok(());
    }
    Err(invalid(format!("a tag name has {} bytes; a tag name has 1 to {TAG_MAX} bytes", tag.len())))
}

/// Parses the pattern of an invalidation.
pub(super) fn glob(pattern: &[u8]) -> Checked<Glob> {
    if pattern.len() > PATTERN_MAX {
        return Err(invalid(format!("the pattern has {} bytes; at most {PATTERN_MAX} are allowed", pattern.len())));
    }
    let glob = Glob::new(pattern);
    check_reserved(glob.literal_prefix())?;
    Ok(glob)
}

pub(super) fn ttl(ttl_ms: Option<i64>) -> Checked<Option<Duration>> {
    match ttl_ms {
        None => Ok(None),
        Some(ms @ 1..=TTL_MAX) => Ok(Some(Duration::from_millis(ms.unsigned_abs()))),
        Some(ms) => {
            Err(invalid(format!("ttl_ms is {ms}; expected 1 to {TTL_MAX}, or no ttl_ms for a key without TTL")))
        }
    }
}

/// Returns the time from the write of a value with a stale part to its expiration.
pub(super) fn ttl_with_stale(ttl_ms: Option<i64>, stale_ms: i64) -> Checked<Duration> {
    if !(1..=TTL_MAX).contains(&stale_ms) {
        return Err(invalid(format!("stale_ms is {stale_ms}; expected 1 to {TTL_MAX}")));
    }
    let Some(ttl) = ttl(ttl_ms)? else {
        return Err(invalid("stale_ms requires ttl_ms, or default_ttl in the policy of the key"));
    };
    Ok(ttl.saturating_add(Duration::from_millis(stale_ms.unsigned_abs())))
}

/// Converts a duration within a range. `name` is the name of its field.
pub(super) fn within(range: &RangeInclusive<i64>, name: &str, ms: Option<i64>) -> Checked<Option<Duration>> {
    match ms {
        None => Ok(None),
        Some(ms) if range.contains(&ms) => Ok(Some(Duration::from_millis(ms.unsigned_abs()))),
        Some(ms) => {
            let (min, max) = (range.start(), range.end());
            Err(invalid(format!("{name} is {ms}; expected {min} to {max} milliseconds")))
        }
    }
}

pub(super) fn nonce(nonce: Option<&Bytes>) -> Checked<Option<[u8; 16]>> {
    let of = |nonce: &Bytes| {
        <[u8; 16]>::try_from(&nonce[..]).map_err(|_| invalid(format!("nonce has {} bytes; expected 16", nonce.len())))
    };
    nonce.map(of).transpose()
}

pub(super) fn check_token(token: &[u8]) -> Checked<()> {
    if token.len() > TOKEN_MAX {
        let message = format!("the token has {} bytes; a token has at most {TOKEN_MAX} bytes", token.len());
        return Err(invalid(message));
    }
    Ok(())
}

pub(super) fn check_message(message: &str) -> Checked<()> {
    if message.len() > MESSAGE_MAX {
        let text = format!("the message has {} bytes; a message has at most {MESSAGE_MAX} bytes", message.len());
        return Err(invalid(text));
    }
    match message.bytes().position(|byte| byte.is_ascii_control()) {
        None => Ok(()),
        Some(at) => Err(invalid(format!(
            "the message has a control character at byte {at}; expected text without control characters"
        ))),
    }
}

pub(super) fn check_prefixes(prefixes: &[Bytes]) -> Checked<()> {
    if prefixes.len() > PREFIXES_MAX {
        return Err(invalid(format!("{} prefixes; a Watch stream has at most {PREFIXES_MAX}", prefixes.len())));
    }
    Ok(())
}

/// Returns the interval between heartbeats of a Watch stream.
pub(super) fn heartbeat(heartbeat_ms: Option<i64>) -> Checked<Duration> {
    match heartbeat_ms {
        None => Ok(Duration::from_secs(1)),
        Some(ms) if HEARTBEAT.contains(&ms) => Ok(Duration::from_millis(ms.unsigned_abs())),
        Some(ms) => Err(invalid(format!("heartbeat_ms is {ms}; expected 100 to 60000"))),
    }
}
