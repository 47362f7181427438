//! Commands for keys of any type: DEL, EXISTS, TYPE, SCAN, KEYS, RANDOMKEY.

use bytes::Bytes;

use super::{DB_L1, DB_LEARNED, KEYS_PER_CALL_MAX, integer, is, keys_of, mismatched, within_exec};
use crate::{
    cache::{Applied, Batch, Flavor, Op, ScanPage, ScanRequest, TypeName},
    glob::Glob,
    model::Key,
    resp::{
        command::Context,
        frame::Args,
        reply::{Done, Refusal},
    },
};

/// Number of keys that SCAN visits without COUNT, as in Redis.
const SCAN_COUNT_DEFAULT: usize = 10;
/// Maximum number of keys that one SCAN visits.
const SCAN_COUNT_MAX: usize = 10_000;
/// Number of keys that KEYS visits in one step.
const KEYS_STEP: usize = 1_000;
/// Maximum number of keys in a reply to KEYS. KEYS fails above this value; use SCAN.
const KEYS_MAX: usize = 100_000;

/// The keys of a listing, each once.
type Listed = hashbrown::HashSet<Key, foldhash::fast::RandomState>;

/// DEL key [key ...], UNLINK
pub(in crate::resp) async fn del(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let keys = keys_of(args.from(1))?;
    let mut deleted = 0;
    if cx.session.db == DB_LEARNED {
        cx.must_be_logical()?;
    }
    if cx.session.db == DB_L1 {
        must_have_l2(cx)?;
        deleted = keys.iter().filter(|key| cx.edge.cache.drop_resident(key)).count() as u64;
    } else {
        for keys in keys.chunks(KEYS_PER_CALL_MAX) {
            deleted += delete(cx, keys).await?;
        }
    }
    cx.reply.count(deleted);
    Ok(())
}

/// Rejects the command if L2 is `none`. L1 is the store then, and removing a copy would delete the key.
pub(super) fn must_have_l2(cx: &Context<'_>) -> Done {
    if cx.edge.cache.flavor() == Flavor::None {
        return Err(Refusal::text("ERR l2.url is \"none\", so L1 has the only copy; delete keys in db 0"));
    }
    Ok(())
}

async fn delete(cx: &Context<'_>, keys: &[Key]) -> Result<u64, Refusal> {
    let ops = keys.iter().map(|key| (key.clone(), Op::Delete { want_old: false })).collect();
    let mut deleted = 0;
    for result in cx.edge.cache.write_many(ops, Batch::Independent).await {
        let Applied::Deleted { existed, .. } = result? else { return Err(mismatched()) };
        deleted += u64::from(existed);
    }
    Ok(deleted)
}

/// EXISTS key [key ...], TOUCH: neither counts as use of the keys.
pub(in crate::resp) async fn exists(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let keys = keys_of(args.from(1))?;
    let mut there = 0;
    for keys in keys.chunks(KEYS_PER_CALL_MAX) {
        there += cx.describe_many(keys.to_vec()).await?.iter().flatten().count() as u64;
    }
    cx.reply.count(there);
    Ok(())
}

/// TYPE key
pub(in crate::resp) async fn type_of(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let described = cx.describe(args.at(1)).await?;
    cx.reply.simple(described.map_or("none", |described| described.type_name.name()));
    Ok(())
}

/// SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]
pub(in crate::resp) async fn scan(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let cursor = cursor(args.at(1))?;
    let request = scan_request(cursor, args.from(2))?;
    let page = page(cx, request).await?;
    cx.reply.array(2);
    cx.reply.bulk(itoa::Buffer::new().format(page.cursor).as_bytes());
    cx.reply.array(page.keys.len());
    for key in &page.keys {
        cx.reply.bulk(key);
    }
    Ok(())
}

/// Checks a cursor of a scan.
pub(super) fn check_cursor(text: &[u8]) -> Done {
    cursor(text).map(drop)
}

/// Parses a cursor like `strtoul` of C, without leading spaces: an empty text is 0, a sign is allowed.
fn cursor(text: &[u8]) -> Result<u64, Refusal> {
    if text.is_empty() {
        return Ok(0);
    }
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
    let number = number.filter(|_| !(negative && digits.starts_with(b"+")));
    let number = number.ok_or(Refusal::text("ERR invalid cursor"))?;
    Ok(if negative { number.wrapping_neg() } else { number })
}

fn scan_request(cursor: u64, options: Args<'_>) -> Result<ScanRequest, Refusal> {
    let mut request = ScanRequest { cursor, pattern: None, count: SCAN_COUNT_DEFAULT, type_name: None };
    for at in (0..options.len()).step_by(2) {
        let (name, Some(value)) = (options.at(at), options.get(at + 1)) else { return Err(Refusal::Syntax) };
        match name {
            name if is(name, "match") => request.pattern = pattern(value)?,
            name if is(name, "type") => request.type_name = Some(Bytes::copy_from_slice(value)),
            name if is(name, "count") => {
                let count = integer(value)?;
                let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Refusal::Syntax)?;
                request.count = count.min(SCAN_COUNT_MAX);
            }
            _ => return Err(Refusal::Syntax),
        }
    }
    Ok(request)
}

/// Returns the pattern, or `None` for `*`, which matches every key.
fn pattern(text: &[u8]) -> Result<Option<Bytes>, Refusal> {
    let glob = Glob::new(text)?;
    Ok((text != b"*").then(|| glob.pattern().clone()))
}

/// Returns one page of the selected database.
async fn page(cx: &Context<'_>, request: ScanRequest) -> Result<ScanPage, Refusal> {
    if cx.session.db != DB_L1 && cx.session.db != DB_LEARNED {
        return Ok(cx.edge.cache.scan(request).await?);
    }
    let only_strings = request.type_name.as_deref().is_none_or(|name| is(name, TypeName::String.name()));
    if !only_strings {
        return Ok(ScanPage::default());
    }
    let pattern = request.pattern.as_deref().map(Glob::new).transpose()?;
    let (cache, pattern) = (&cx.edge.cache, pattern.as_ref());
    Ok(match cx.session.db {
        DB_LEARNED => cache.scan_learned(request.cursor, pattern, request.count),
        _ => cache.scan_resident(request.cursor, pattern, request.count),
    })
}

/// KEYS pattern
pub(in crate::resp) async fn keys(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let request = ScanRequest { cursor: 0, pattern: pattern(args.at(1))?, count: KEYS_STEP, type_name: None };
    let found = within_exec(cx, list(cx, request)).await??;
    cx.reply.array(found.len());
    for key in &found {
        cx.reply.bulk(key);
    }
    Ok(())
}

/// Returns all keys of a scan.
async fn list(cx: &Context<'_>, mut request: ScanRequest) -> Result<Listed, Refusal> {
    // A scan may return a key twice.
    let mut found = Listed::default();
    loop {
        let page = page(cx, request.clone()).await?;
        found.extend(page.keys);
        if found.len() > KEYS_MAX {
            return Err(Refusal::text(format!("ERR KEYS found more than {KEYS_MAX} keys; use SCAN")));
        }
        request.cursor = page.cursor;
        if request.cursor == 0 {
            return Ok(found);
        }
        // A long L1 scan never waits, so it has to yield to other connections.
        tokio::task::yield_now().await;
    }
}

/// RANDOMKEY
pub(in crate::resp) async fn randomkey(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let key = match cx.session.db {
        DB_L1 => cx.edge.cache.random_resident(),
        DB_LEARNED => cx.edge.cache.random_learned(),
        _ => cx.edge.cache.random_key().await?,
    };
    cx.reply.bulk_or_null(key.as_deref());
    Ok(())
}
