//! The commands TERRACE.INVALIDATE, TERRACE.TAGS, TERRACE.INFO, TERRACE.TOP, TERRACE.TIERS and TERRACE.HELP.

use bytes::Bytes;

use super::{KEYS_PER_CALL_MAX, integer, is};
use crate::{
    cache::{
        Resident,
        invalidate::pattern_bans::check_pattern,
        stats::{Snapshot, top::By},
    },
    clock::{Tick, millis},
    glob::Glob,
    model::{Key, Life},
    resp::{
        command::Context,
        frame::Args,
        reply::{Done, Refusal, Reply},
    },
};

/// Number of keys in a reply to TERRACE.TOP without a count.
const TOP_DEFAULT: usize = 10;
/// Maximum number of keys in a reply to TERRACE.TOP.
const TOP_MAX: usize = 1_000;

/// TERRACE.HELP
pub(in crate::resp) fn help(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let own: Vec<_> = cx.edge.commands.rows.iter().filter(|row| row.group == "terrace").collect();
    cx.reply.array(own.len() * 2 + 3);
    for row in own {
        cx.reply.status(&row.name.to_ascii_uppercase());
        cx.reply.status(&format!("    {}.", row.summary));
    }
    cx.reply.simple("SELECT 0: all keys. Reads use L1 and are counted.");
    cx.reply.simple("SELECT 1: entries of this node's L1. Reads are not counted; DEL and FLUSHDB remove L1 copies.");
    cx.reply.simple("SELECT 2: learned state. Read-only.");
    Ok(())
}

/// One field of a map.
pub(super) enum Field {
    Text(String),
    Number(u64),
    Null,
    /// Remaining TTL in milliseconds; -1 without expiry.
    Life(Life),
}

pub(super) fn write(reply: &mut Reply, fields: &[(&str, Field)]) {
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        match value {
            Field::Text(text) => reply.bulk(text.as_bytes()),
            Field::Number(number) => reply.count(*number),
            Field::Null => reply.null(),
            Field::Life(Life::Forever) => reply.integer(-1),
            Field::Life(Life::For(life)) => reply.count(millis(*life)),
        }
    }
}

/// TERRACE.INFO key: nil for a key that no tier has.
pub(in crate::resp) async fn info(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let key = Key::copied(args.at(1))?;
    let Some(known) = cx.edge.cache.describe(std::slice::from_ref(&key)).await.pop() else {
        cx.reply.null();
        return Ok(());
    };
    if known.resident.is_none() && matches!(known.l2, Ok(None)) {
        cx.reply.null();
        return Ok(());
    }
    let rules = cx.edge.cache.core().rules();
    let policy = rules
        .policy(&key)
        .map_or_else(|| "none".to_owned(), |policy| String::from_utf8_lossy(policy.matches.pattern()).into_owned());
    cx.reply.map(4);
    cx.reply.bulk(b"key");
    cx.reply.bulk(&key);
    cx.reply.bulk(b"l1");
    match &known.resident {
        Some(resident) => write(cx.reply, &resident_fields(resident, cx.now)),
        None => cx.reply.null(),
    }
    cx.reply.bulk(b"l2");
    match &known.l2 {
        Ok(Some(entry)) => write(
            cx.reply,
            &[
                ("type", Field::Text(entry.type_name.name().to_owned())),
                ("ttl_ms", Field::Life(entry.life)),
                ("size_bytes", Field::Number(entry.size_bytes)),
            ],
        ),
        Ok(None) => cx.reply.null(),
        Err(error) => write(cx.reply, &[("error", Field::Text(error.message().to_owned()))]),
    }
    cx.reply.bulk(b"policy");
    cx.reply.bulk(policy.as_bytes());
    Ok(())
}

/// Returns the fields that describe an L1 copy.
pub(super) fn resident_fields(resident: &Resident, now: Tick) -> [(&'static str, Field); 7] {
    let left = |until: Tick| if until == Tick::FAR { Life::Forever } else { Life::For(until.since(now)) };
    [
        ("ttl_ms", Field::Life(left(resident.hit.expires_at))),
        ("copy_ttl_ms", Field::Life(left(resident.deadline))),
        ("age_ms", Field::Number(millis(now.since(resident.hit.filled_at)))),
        ("idle_ms", Field::Number(millis(now.since(resident.used_at)))),
        ("hits", Field::Number(u64::from(resident.hit.hits))),
        ("size_bytes", Field::Number(resident.hit.value.len() as u64)),
        ("weight_bytes", Field::Number(resident.weight_bytes)),
    ]
}

/// TERRACE.INVALIDATE PATTERN pattern [DRYRUN|WAIT]: returns the number of matching keys (DRYRUN), the number of keys
/// removed from L2 (WAIT), or the number of the ban.
pub(in crate::resp) async fn invalidate(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    match args.at(1) {
        word if is(word, "help") => help_of(
            cx,
            &[
                "TERRACE.INVALIDATE PATTERN pattern [DRYRUN|WAIT]",
                "    Invalidates the matching keys immediately; their values are removed from L2 in the background.",
                "    DRYRUN counts the matching keys; WAIT replies after the removal.",
                "TERRACE.INVALIDATE TAG tag [tag ...]",
                "    Invalidates all entries that were written with one of the tags.",
            ],
        ),
        word if is(word, "pattern") && args.len() >= 3 => invalidate_pattern(cx, args).await,
        word if is(word, "tag") && args.len() >= 3 => invalidate_tags(cx, args).await,
        _ => Err(Refusal::text("ERR syntax error; expected PATTERN pattern [DRYRUN|WAIT] or TAG tag [tag ...]")),
    }
}

/// TERRACE.INVALIDATE TAG tag [tag ...]: returns the number of these tags that may have had entries.
async fn invalidate_tags(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let names: Vec<Bytes> = args.from(2).iter().map(Bytes::copy_from_slice).collect();
    if names.len() > KEYS_PER_CALL_MAX {
        return Err(Refusal::text(format!("ERR TERRACE.INVALIDATE TAG accepts at most {KEYS_PER_CALL_MAX} tags")));
    }
    let invalidated = cx.edge.cache.invalidate_tags(names).await?;
    cx.reply.count(invalidated);
    Ok(())
}

/// TERRACE.TAGS key: nil for an absent key.
pub(in crate::resp) async fn tags(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let key = Key::copied(args.at(1))?;
    let info = cx.edge.cache.describe(std::slice::from_ref(&key)).await.pop();
    let Some(info) = info.filter(|info| !matches!(info.l2, Ok(None))) else {
        cx.reply.null_array();
        return Ok(());
    };
    let tags = info.tags();
    if let (Err(error), None) = (info.l2, info.resident) {
        return Err(error.into());
    }
    cx.reply.array(tags.len());
    tags.iter().for_each(|tag| cx.reply.bulk(tag));
    Ok(())
}

async fn invalidate_pattern(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let glob = Glob::new(args.at(2))?;
    check_pattern(&glob)?;
    let (dry_run, wait) = match (args.get(3), args.len()) {
        (None, _) => (false, false),
        (Some(word), 4) if is(word, "dryrun") => (true, false),
        (Some(word), 4) if is(word, "wait") => (false, true),
        (Some(_), _) => return Err(Refusal::Syntax),
    };
    let cache = &cx.edge.cache;
    let mut number = 0;
    if dry_run {
        let mut counting = cache.count_matching(glob).await?;
        while let Some(progress) = counting.next().await? {
            number = progress.removed;
        }
    } else {
        let mut invalidation = cache.invalidate_pattern(glob).await?;
        number = invalidation.ban;
        if wait {
            // The stream ends without `done` only when the server stops.
            number = invalidation.progress.wait_for(|progress| progress.done).await.map_or(0, |done| done.removed);
        }
    }
    cx.reply.count(number);
    Ok(())
}

/// TERRACE.TOP [READS|BYTES|MISSES|TIME] [count]
pub(in crate::resp) fn top(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if args.get(1).is_some_and(|word| is(word, "help")) {
        return help_of(
            cx,
            &[
                "TERRACE.TOP [READS|BYTES|MISSES|TIME] [count]",
                "    Keys with the largest numbers in the last five to ten minutes:",
                "    reads, bytes read, misses, L2 time in microseconds.",
            ],
        );
    }
    let (by, rest) = match args.get(1) {
        Some(word) if is(word, "reads") => (By::Reads, args.from(2)),
        Some(word) if is(word, "bytes") => (By::Bytes, args.from(2)),
        Some(word) if is(word, "misses") => (By::Misses, args.from(2)),
        Some(word) if is(word, "time") => (By::Time, args.from(2)),
        Some(word) if integer(word).is_err() => {
            return Err(Refusal::text("ERR unknown ranking for TERRACE.TOP; expected READS, BYTES, MISSES or TIME"));
        }
        Some(_) | None => (By::Reads, args.from(1)),
    };
    let count = match (rest.get(0), rest.len()) {
        (None, _) => TOP_DEFAULT,
        (Some(text), 1) => usize::try_from(integer(text)?).map_err(|_negative| Refusal::NotAnInteger)?.min(TOP_MAX),
        (Some(_), _) => return Err(Refusal::Syntax),
    };
    let top = cx.edge.cache.top(by, count).keys;
    cx.reply.array(top.len());
    for (key, number) in &top {
        cx.reply.array(2);
        cx.reply.bulk(key);
        cx.reply.count(*number);
    }
    Ok(())
}

/// TERRACE.TIERS
pub(in crate::resp) async fn tiers(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if args.get(1).is_some_and(|word| is(word, "help")) {
        return help_of(cx, &["TERRACE.TIERS", "    Entries, bytes, hits and state of each tier."]);
    }
    if args.len() > 1 {
        return Err(Refusal::Arity("terrace.tiers"));
    }
    let snapshot = cx.edge.cache.snapshot();
    let keys = cx.edge.cache.count().await;
    cx.reply.map(2);
    cx.reply.bulk(b"l1");
    write(cx.reply, &l1_fields(&snapshot));
    cx.reply.bulk(b"l2");
    let reads = snapshot.reads;
    let state = match &snapshot.l2 {
        crate::cache::State::Connecting => "connecting".to_owned(),
        crate::cache::State::Up => "up".to_owned(),
        crate::cache::State::Down(why) => format!("down: {why}"),
    };
    let fields = [
        ("store", Field::Text(snapshot.flavor.name().to_owned())),
        ("state", Field::Text(state)),
        ("keys", keys.map_or(Field::Null, Field::Number)),
        ("hits", Field::Number(reads.hit_l2)),
        ("misses", Field::Number(reads.miss)),
        ("errors", Field::Number(reads.error)),
    ];
    write(cx.reply, &fields);
    Ok(())
}

fn l1_fields(snapshot: &Snapshot) -> [(&'static str, Field); 7] {
    let (l1, reads, removals) = (snapshot.l1, snapshot.reads, snapshot.removals);
    [
        ("open", Field::Number(u64::from(snapshot.coherence.l1_available))),
        ("entries", Field::Number(l1.entries)),
        ("bytes", Field::Number(l1.bytes)),
        ("capacity_bytes", Field::Number(l1.capacity_bytes)),
        ("hits", Field::Number(reads.hit_l1 + reads.stale)),
        ("evicted", Field::Number(removals.size)),
        ("expired", Field::Number(removals.expired)),
    ]
}

fn help_of(cx: &mut Context<'_>, lines: &[&'static str]) -> Done {
    cx.reply.array(lines.len());
    lines.iter().for_each(|line| cx.reply.simple(line));
    Ok(())
}
