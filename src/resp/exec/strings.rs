//! String commands: GET and its variants, SET and its options, APPEND.

use std::time::Duration;

use bytes::Bytes;

use super::{
    DB_L1, DB_LEARNED, KEYS_PER_CALL_MAX,
    expiry::{self, Start, Unit},
    integer, is, keys_of, mismatched,
};
use crate::{
    access::Verbs,
    cache::{Applied, Batch, Condition, ExpireOnly, NewExpiry, Op, Read, ReadOptions, SetExpiry, TierChoice},
    error::{CacheError, Kind},
    model::{Key, Value},
    resp::{
        acl_log::Reason,
        command::Context,
        frame::Args,
        reply::{Done, OUTPUT_HARD_MAX_BYTES, Refusal},
    },
};

/// Maximum size of the values that one read of pipelined GETs returns; a single value may be larger.
const PIPELINED_MAX_BYTES: usize = 4 << 20;

impl Context<'_> {
    /// Returns the read options of this client in the selected database.
    pub(in crate::resp) fn read_options(&self) -> ReadOptions {
        let tier = if self.session.db == DB_L1 { TierChoice::L1Only } else { TierChoice::Any };
        let stale_ok = self.edge.settings.load().serve_stale;
        ReadOptions { tier, no_touch: self.session.no_touch, want_meta: false, stale_ok }
    }

    pub(in crate::resp) async fn read(&self, key: &[u8]) -> Result<Option<Value>, Refusal> {
        if self.session.db == DB_LEARNED {
            return Ok(self.edge.cache.learned(key).map(|object| Value::from(Bytes::from(object))));
        }
        let read = self.edge.cache.get(Key::copied(key)?, self.read_options()).await?;
        Ok(value_of(read))
    }
}

fn value_of(read: Read) -> Option<Value> {
    match read {
        Read::Found(found) => Some(found.value),
        Read::Missing => None,
    }
}

/// GET key, outside of a pipeline of GETs. Last of the three paths of GET (`table/strings.rs`).
pub(in crate::resp) async fn get(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let value = cx.read(args.at(1)).await?;
    cx.reply.bulk_or_null(value.as_deref());
    Ok(())
}

/// Runs consecutive GETs of a pipeline with one call of the cache. The caller has looked up the first `missed` keys in
/// L1. Returns how many GETs were answered, at least one, and how many of them failed. Large values are left for the
/// next call.
pub(in crate::resp) async fn get_pipelined(cx: &mut Context<'_>, keys: Vec<Key>, missed: usize) -> (usize, u64) {
    let (mut answered, mut failed) = (0, 0);
    let may_be_denied = !cx.edge.cache.principal().may_everywhere(Verbs::READ);
    let names = if may_be_denied { keys.clone() } else { Vec::new() };
    let reads = cx.edge.cache.read_some_missed(keys, missed, cx.read_options(), PIPELINED_MAX_BYTES).await;
    for read in reads.into_iter().map_while(|read| read) {
        let name = names.get(answered);
        answered += 1;
        match read {
            Ok(read) => cx.reply.bulk_or_null(value_of(read).as_deref()),
            Err(error) => {
                if error.kind() == Kind::Denied {
                    let name = name.map_or(&b""[..], |key| key);
                    cx.session.note_refused(Reason::Key, name, None, cx.row.name, cx.now);
                }
                let _answered = cx.refuse(error.into());
                cx.count_error();
                failed += 1;
            }
        }
    }
    (answered, failed)
}

/// MGET key [key ...]: returns nil for a key of another type, as in Redis.
pub(in crate::resp) async fn mget(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let keys = keys_of(args.from(1))?;
    let begin = cx.reply.mark();
    cx.reply.array(keys.len());
    if cx.session.db == DB_LEARNED {
        for key in &keys {
            let object = cx.edge.cache.learned(key);
            cx.reply.bulk_or_null(object.as_deref().map(str::as_bytes));
        }
        return Ok(());
    }
    for keys in keys.chunks(KEYS_PER_CALL_MAX) {
        for read in cx.edge.cache.get_many(keys.to_vec(), cx.read_options()).await {
            if let Err(refusal) = add_element(cx, read) {
                cx.reply.rewind(begin);
                return Err(refusal);
            }
        }
    }
    Ok(())
}

fn add_element(cx: &mut Context<'_>, read: crate::error::Result<Read>) -> Done {
    let value = match read {
        Ok(read) => value_of(read),
        Err(error) if error.kind() == Kind::WrongType => None,
        Err(error) => return Err(error.into()),
    };
    let more = value.as_ref().map_or(0, |value| value.len());
    if cx.reply.pending().len() + more > OUTPUT_HARD_MAX_BYTES {
        return Err(Refusal::text(format!("ERR the reply exceeds {OUTPUT_HARD_MAX_BYTES} bytes; request fewer keys")));
    }
    cx.reply.bulk_or_null(value.as_deref());
    Ok(())
}

/// GETRANGE key start end, and SUBSTR
pub(in crate::resp) async fn getrange(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let (start, end) = (integer(args.at(2))?, integer(args.at(3))?);
    let value = cx.read(args.at(1)).await?.unwrap_or_default();
    cx.reply.bulk(slice(&value, start, end));
    Ok(())
}

/// Returns the bytes from `start` to `end` inclusive. Negative positions count from the end.
fn slice(value: &[u8], start: i64, end: i64) -> &[u8] {
    let len = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return b"";
    }
    let place = |at: i64| if at < 0 { at.saturating_add(len).max(0) } else { at };
    let (start, end) = (place(start), place(end).min(len - 1));
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if start <= end => value.get(start..=end).unwrap_or_default(),
        (_, _) => b"",
    }
}

/// STRLEN key
pub(in crate::resp) async fn strlen(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let described = cx.describe(args.at(1)).await?;
    if described.as_ref().is_some_and(|described| described.type_name != crate::cache::TypeName::String) {
        return Err(CacheError::new(Kind::WrongType, "not a string").into());
    }
    cx.reply.count(described.map_or(0, |described| described.size_bytes));
    Ok(())
}

/// Options of SET and GETEX.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Options<'a> {
    if_absent: bool,
    if_present: bool,
    get: bool,
    keep: bool,
    persist: bool,
    life: Option<(Unit, Start, &'a [u8])>,
}

impl<'a> Options<'a> {
    /// Parses options as Redis does: conflicting options are a syntax error, and the last of several expiry options of
    /// the same kind applies.
    fn parse(args: Args<'a>, of_set: bool) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let mut at = 0;
        while let Some(word) = args.get(at) {
            at += options.take(word, args.get(at + 1), of_set).ok_or(Refusal::Syntax)?;
        }
        Ok(options)
    }

    /// Parses one option and returns its number of arguments.
    fn take(&mut self, word: &[u8], value: Option<&'a [u8]>, of_set: bool) -> Option<usize> {
        if let Some((unit, start)) = life_option(word) {
            let same_kind = self.life.is_none_or(|(u, s, _)| (u, s) == (unit, start));
            let fits = same_kind && !self.keep && !self.persist;
            self.life = Some((unit, start, value.filter(|_| fits)?));
            return Some(2);
        }
        let flag = match word {
            word if is(word, "nx") && of_set && !self.if_present => &mut self.if_absent,
            word if is(word, "xx") && of_set && !self.if_absent => &mut self.if_present,
            word if is(word, "get") && of_set => &mut self.get,
            word if is(word, "keepttl") && of_set && !self.persist && self.life.is_none() => &mut self.keep,
            word if is(word, "persist") && !of_set && !self.keep && self.life.is_none() => &mut self.persist,
            _ => return None,
        };
        *flag = true;
        Some(1)
    }
}

fn life_option(word: &[u8]) -> Option<(Unit, Start)> {
    match word {
        word if is(word, "ex") => Some((Unit::Seconds, Start::Now)),
        word if is(word, "px") => Some((Unit::Millis, Start::Now)),
        word if is(word, "exat") => Some((Unit::Seconds, Start::Epoch)),
        word if is(word, "pxat") => Some((Unit::Millis, Start::Epoch)),
        _ => None,
    }
}

/// SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]
pub(in crate::resp) async fn set(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let options = Options::parse(args.from(3), true)?;
    let expiry = match options.life {
        Some((unit, start, text)) => set_expiry(cx, text, unit, start, "set")?,
        None if options.keep => SetExpiry::Keep { life_if_new: None },
        None => SetExpiry::Never,
    };
    let condition = match (options.if_absent, options.if_present) {
        (true, _) => Condition::IfAbsent,
        (false, true) => Condition::IfPresent,
        (false, false) => Condition::Always,
    };
    let (stored, old) = put(cx, args.at(1), args.at(2), expiry, condition, options.get).await?;
    match (options.get, stored) {
        (true, _) => cx.reply.bulk_or_null(old.as_deref()),
        (false, true) => cx.reply.ok(),
        (false, false) => cx.reply.null(),
    }
    Ok(())
}

fn set_expiry(
    cx: &Context<'_>,
    text: &[u8],
    unit: Unit,
    start: Start,
    command: &'static str,
) -> Result<SetExpiry, Refusal> {
    let ms = expiry::positive_ms(integer(text)?, unit, start, cx.edge.cache.core().clock().unix())
        .ok_or(Refusal::InvalidExpire(command))?;
    Ok(match start {
        Start::Now => SetExpiry::In(Duration::from_millis(ms)),
        Start::Epoch => SetExpiry::At(crate::clock::UnixMs(ms)),
    })
}

async fn put(
    cx: &mut Context<'_>,
    key: &[u8],
    value: &[u8],
    expiry: SetExpiry,
    condition: Condition,
    want_old: bool,
) -> Result<(bool, Option<Value>), Refusal> {
    let op = Op::Set { value: Bytes::copy_from_slice(value), expiry, condition, want_old };
    let Applied::Set { stored, old } = cx.write(key, op).await? else { return Err(mismatched()) };
    Ok((stored, old))
}

/// SETEX key seconds value, PSETEX key milliseconds value
pub(in crate::resp) async fn setex(cx: &mut Context<'_>, args: Args<'_>, unit: Unit) -> Done {
    let expiry = set_expiry(cx, args.at(2), unit, Start::Now, cx.row.name)?;
    put(cx, args.at(1), args.at(3), expiry, Condition::Always, false).await?;
    cx.reply.ok();
    Ok(())
}

/// SETNX key value
pub(in crate::resp) async fn setnx(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let (stored, _) = put(cx, args.at(1), args.at(2), SetExpiry::Never, Condition::IfAbsent, false).await?;
    cx.reply.integer(i64::from(stored));
    Ok(())
}

/// MSET key value [key value ...]: atomic if L2 is atomic.
pub(in crate::resp) async fn mset(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(Refusal::Arity("mset"));
    }
    cx.must_be_logical()?;
    let set = |at: usize| -> Result<(Key, Op), Refusal> {
        let value = Bytes::copy_from_slice(args.at(at + 1));
        let (expiry, condition) = (SetExpiry::Never, Condition::Always);
        Ok((Key::copied(args.at(at))?, Op::Set { value, expiry, condition, want_old: false }))
    };
    let ops = (1..args.len()).step_by(2).map(set).collect::<Result<Vec<_>, _>>()?;
    for result in cx.edge.cache.write_many(ops, Batch::Atomic).await {
        result?;
    }
    cx.reply.ok();
    Ok(())
}

/// GETDEL key
pub(in crate::resp) async fn getdel(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let applied = cx.read_and_write(args.at(1), Op::Delete { want_old: true }).await?;
    let Applied::Deleted { old, .. } = applied else { return Err(mismatched()) };
    cx.reply.bulk_or_null(old.as_deref());
    Ok(())
}

/// GETEX key [EX s|PX ms|EXAT s|PXAT ms|PERSIST]
pub(in crate::resp) async fn getex(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let options = Options::parse(args.from(2), false)?;
    let (expiry, fault) = match options.life.map(|(unit, start, text)| new_expiry(cx, text, unit, start)) {
        Some(Ok(expiry)) => (expiry, None),
        // Redis checks the key first: the reply for an absent key is nil, even if the TTL is invalid.
        Some(Err(fault)) => (NewExpiry::Keep, Some(fault)),
        None if options.persist => (NewExpiry::Never, None),
        None => (NewExpiry::Keep, None),
    };
    let op = Op::Expire { expiry, only: ExpireOnly::ALWAYS, want_value: true };
    let Applied::Expired { value, .. } = cx.read_and_write(args.at(1), op).await? else { return Err(mismatched()) };
    if let (Some(fault), Some(_)) = (fault, &value) {
        return Err(fault);
    }
    cx.reply.bulk_or_null(value.as_deref());
    Ok(())
}

fn new_expiry(cx: &Context<'_>, text: &[u8], unit: Unit, start: Start) -> Result<NewExpiry, Refusal> {
    Ok(match set_expiry(cx, text, unit, start, "getex")? {
        SetExpiry::In(life) => NewExpiry::In(life),
        SetExpiry::At(at) => NewExpiry::At(at),
        SetExpiry::Never | SetExpiry::Keep { .. } => NewExpiry::Keep,
    })
}

/// GETSET key value
pub(in crate::resp) async fn getset(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let (_, old) = put(cx, args.at(1), args.at(2), SetExpiry::Never, Condition::Always, true).await?;
    cx.reply.bulk_or_null(old.as_deref());
    Ok(())
}

/// SETRANGE key offset value
pub(in crate::resp) async fn setrange(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let offset = integer(args.at(2))?;
    let offset = u64::try_from(offset).map_err(|_negative| Refusal::text("ERR offset is out of range"))?;
    let bytes = Bytes::copy_from_slice(args.at(3));
    let op = Op::SetRange { offset, bytes, life_if_new: None, length_max: u64::MAX };
    let Applied::Length(length) = cx.write(args.at(1), op).await? else { return Err(mismatched()) };
    cx.reply.count(length);
    Ok(())
}

/// APPEND key value
pub(in crate::resp) async fn append(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let op = Op::Append { suffix: Bytes::copy_from_slice(args.at(2)), life_if_new: None, length_max: u64::MAX };
    let Applied::Length(length) = cx.write(args.at(1), op).await? else { return Err(mismatched()) };
    cx.reply.count(length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_redis_cuts_them() {
        let value = b"This is a string";
        for (start, end, want) in [
            (0, 3, &b"This"[..]),
            (-3, -1, b"ing"),
            (0, -1, value),
            (10, 100, b"string"),
            (5, 3, b""),
            (-1, -5, b""),
            (100, 200, b""),
            (-100, 0, b"T"),
            (-100, -100, b"T"),
            (i64::MIN, i64::MAX, value),
        ] {
            assert_eq!(slice(value, start, end), want, "{start} {end}");
        }
        assert_eq!(slice(b"", 0, -1), b"");
    }
}
