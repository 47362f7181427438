//! Encodes read-only commands and decodes their replies: values, descriptions, pages of a scan.

use std::time::Duration;

use ::redis::{Cmd, Value as Reply};
use bytes::Bytes;

use super::{
    batch::{Commands, Replies},
    errors, ops,
};
use crate::{
    error::Result,
    l2::{Described, ScanPage, ScanRequest, Stored, TypeName, codec},
    model::{Key, Life, Value},
};

/// Returns GET for each key, preceded by PTTL if the TTL is required (for the order, see the documentation of the
/// `redis` module).
pub(crate) fn questions(keys: &[Key], with_life: bool) -> Commands {
    let mut commands = Commands::with_capacity(keys.len() * if with_life { 2 } else { 1 });
    for key in keys {
        if with_life {
            commands.push(small("PTTL", key));
        }
        commands.push(small("GET", key));
    }
    commands
}

/// Returns PTTL and GETRANGE for the first `part_max` bytes of each key.
pub(crate) fn part_questions(keys: &[Key], part_max: usize) -> Commands {
    let mut commands = Commands::with_capacity(keys.len() * 2);
    for key in keys {
        commands.push(small("PTTL", key));
        let mut part = small("GETRANGE", key);
        part.arg(0).arg(part_max.saturating_sub(1));
        commands.push(part);
    }
    commands
}

/// Decodes the replies to [`part_questions`], one result per key; `None` for a value that has to be read as a whole.
pub(crate) fn parts(replies: Replies, part_max: usize, value_max: usize) -> Vec<Option<Result<Option<Stored>>>> {
    let mut results = Vec::with_capacity(replies.len() / 2);
    let mut replies = replies.into_iter();
    while let (Some(ttl), Some(part)) = (replies.next(), replies.next()) {
        results.push(part_of(ttl, part, part_max, value_max));
    }
    results
}

fn part_of(ttl: Reply, part: Reply, part_max: usize, value_max: usize) -> Option<Result<Option<Stored>>> {
    let Reply::BulkString(bytes) = &part else {
        // An error reply.
        return Some(stored(part, life(ttl), value_max));
    };
    let len = bytes.len();
    // GETRANGE answers a missing key like an empty value; PTTL distinguishes them. A key that was removed in between
    // looks like an empty value, too: GET decides.
    if len == 0 && matches!(ttl, Reply::Int(-2)) {
        return Some(Ok(None));
    }
    (len > 0 && len < part_max).then(|| stored(part, life(ttl), value_max))
}

fn small(name: &str, key: &[u8]) -> Cmd {
    let mut command = Cmd::with_capacity(2, name.len() + key.len());
    command.arg(name).arg(key);
    command
}

/// Decodes the replies to [`questions`], one result per key.
pub(crate) fn answers(replies: Replies, with_life: bool, value_max: usize) -> Vec<Result<Option<Stored>>> {
    let mut results = Vec::with_capacity(replies.len());
    let mut replies = replies.into_iter();
    while let Some(reply) = replies.next() {
        if !with_life {
            results.push(stored(reply, Ok(Life::Forever), value_max));
        } else if let Some(value) = replies.next() {
            results.push(stored(value, life(reply), value_max));
        }
    }
    results
}

fn stored(reply: Reply, life: Result<Life>, value_max: usize) -> Result<Option<Stored>> {
    let Some(value) = ops::payload(ops::checked(reply)?, "GET")? else { return Ok(None) };
    within(&value, value_max)?;
    Ok(Some(Stored { value, life: life? }))
}

fn within(value: &Value, value_max: usize) -> Result<()> {
    if value.len() > value_max {
        return Err(errors::too_large(value.len() as u64, value_max as u64));
    }
    Ok(())
}

/// Decodes the reply of PTTL. A key that was missing at that time (and may exist at the following GET) gets the TTL 0,
/// so that no caller keeps its value.
pub(crate) fn life(reply: Reply) -> Result<Life> {
    let ms = ops::integer(&ops::checked(reply)?, "PTTL")?;
    if ms == -1 {
        return Ok(Life::Forever);
    }
    Ok(Life::For(Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
}

/// Commands that describe a key, in addition to the GETRANGE for the beginning of its value.
const DESCRIPTION: [&str; 4] = ["TYPE", "PTTL", "PEXPIRETIME", "STRLEN"];

/// Part of a value that is read to describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Enough bytes to detect a possible header.
    Mark,
    /// The maximum size of a header.
    Head,
}

/// Returns TYPE, PTTL, PEXPIRETIME, STRLEN and GETRANGE for each key, in one pipeline.
pub(crate) fn description_questions(keys: &[Key], look: Look) -> Commands {
    let last = match look {
        Look::Mark => codec::MAGIC.len() - 1,
        Look::Head => codec::HEAD_MAX_BYTES - 1,
    };
    let beginning = |key: &Key| {
        let mut command = small("GETRANGE", key);
        command.arg(0).arg(last);
        command
    };
    let mut commands = Commands::with_capacity(keys.len() * (DESCRIPTION.len() + 1));
    for key in keys {
        commands.extend(DESCRIPTION.into_iter().map(|name| small(name, key)));
        commands.push(beginning(key));
    }
    commands
}

/// Decodes the replies to [`description_questions`]. After [`Look::Mark`], `head` is only set for a possible header,
/// and the size includes the header.
pub(crate) fn descriptions(replies: Replies, look: Look) -> Vec<Result<Option<Described>>> {
    let mut results = Vec::with_capacity(replies.len() / (DESCRIPTION.len() + 1));
    let mut replies = replies.into_iter();
    while let (Some(kind), Some(ttl), Some(at), Some(size), Some(beginning)) =
        (replies.next(), replies.next(), replies.next(), replies.next(), replies.next())
    {
        results.push(description(kind, ttl, at, (size, beginning), look));
    }
    results
}

fn description(
    kind: Reply,
    ttl: Reply,
    at: Reply,
    (size, beginning): (Reply, Reply),
    look: Look,
) -> Result<Option<Described>> {
    let Some(type_name) = type_name(ops::checked(kind)?)? else { return Ok(None) };
    let at = ops::integer(&ops::checked(at)?, "PEXPIRETIME")?;
    if at == -2 {
        // The key was removed between the commands.
        return Ok(None);
    }
    let (size_bytes, head) = match type_name {
        TypeName::String => part_of_strings(size, beginning, look)?,
        // Redis rejects STRLEN for these types, which is expected.
        TypeName::List | TypeName::Set | TypeName::ZSet | TypeName::Hash | TypeName::Stream | TypeName::Other => {
            (0, Bytes::new())
        }
    };
    Ok(Some(Described { life: life(ttl)?, expires_at_ms: u64::try_from(at).ok(), size_bytes, type_name, head }))
}

fn part_of_strings(size: Reply, beginning: Reply, look: Look) -> Result<(u64, Bytes)> {
    let size_bytes = ops::unsigned(&ops::checked(size)?, "STRLEN")?;
    let beginning = ops::optional(ops::checked(beginning)?, "GETRANGE")?.unwrap_or_default().into_bytes();
    let head = match look {
        Look::Mark if codec::is_marked(&beginning) => return Ok((size_bytes, beginning)),
        Look::Mark => Bytes::new(),
        Look::Head => beginning.slice(..codec::head_len(&beginning)),
    };
    Ok((size_bytes.saturating_sub(head.len() as u64), head))
}

/// Decodes the reply of TYPE; `None` for a missing key.
fn type_name(reply: Reply) -> Result<Option<TypeName>> {
    let Reply::SimpleString(name) = reply else { return Err(errors::unexpected("TYPE")) };
    Ok(match name.as_str() {
        "none" => None,
        "string" => Some(TypeName::String),
        "list" => Some(TypeName::List),
        "set" => Some(TypeName::Set),
        "zset" => Some(TypeName::ZSet),
        "hash" => Some(TypeName::Hash),
        "stream" => Some(TypeName::Stream),
        _ => Some(TypeName::Other),
    })
}

/// Returns the SCAN command.
pub(crate) fn scan_question(request: &ScanRequest) -> Cmd {
    let mut command = Cmd::new();
    command.arg("SCAN").arg(request.cursor).arg("COUNT").arg(request.count.max(1));
    if let Some(pattern) = &request.pattern {
        command.arg("MATCH").arg(&pattern[..]);
    }
    if let Some(name) = &request.type_name {
        command.arg("TYPE").arg(&name[..]);
    }
    command
}

/// Decodes the reply of SCAN. Keys that Terrace's clients cannot use are omitted: reserved, empty and overlong keys.
pub(crate) fn page(reply: Reply) -> Result<ScanPage> {
    counted_page(reply).map(|(page, _)| page)
}

/// Same as [`page`], with the number of keys in the reply.
pub(crate) fn counted_page(reply: Reply) -> Result<(ScanPage, usize)> {
    let Reply::Array(parts) = reply else { return Err(errors::unexpected("SCAN")) };
    let Ok([Reply::BulkString(cursor), Reply::Array(keys)]) = <[Reply; 2]>::try_from(parts) else {
        return Err(errors::unexpected("SCAN"));
    };
    let cursor = std::str::from_utf8(&cursor).ok().and_then(|digits| digits.parse().ok());
    let count = keys.len();
    let keys = keys.into_iter().filter_map(|key| ops::optional(key, "SCAN").ok()?.and_then(shown));
    Ok((ScanPage { cursor: cursor.ok_or_else(|| errors::unexpected("SCAN"))?, keys: keys.collect() }, count))
}

/// Returns the key if clients may see it.
pub(crate) fn shown(key: Value) -> Option<Key> {
    Key::new(key.into_bytes()).ok()
}
