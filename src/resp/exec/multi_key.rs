//! Atomic commands on several keys: RENAME, RENAMENX, COPY, MSETNX.

use bytes::Bytes;

use super::{integer, is};
use crate::{
    cache::{Renamed, Target},
    model::Key,
    resp::{
        command::Context,
        frame::Args,
        reply::{Done, Refusal},
    },
};

/// RENAME key newkey
pub(in crate::resp) async fn rename(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    change_name(cx, args, Target::Replace).await?;
    cx.reply.ok();
    Ok(())
}

/// RENAMENX key newkey
pub(in crate::resp) async fn renamenx(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let renamed = change_name(cx, args, Target::Keep).await?;
    cx.reply.integer(i64::from(renamed));
    Ok(())
}

async fn change_name(cx: &mut Context<'_>, args: Args<'_>, target: Target) -> Result<bool, Refusal> {
    cx.must_be_logical()?;
    match cx.edge.cache.rename(Key::copied(args.at(1))?, Key::copied(args.at(2))?, target).await? {
        Renamed::Done => Ok(true),
        Renamed::TargetExists => Ok(false),
        Renamed::NoSource => Err(Refusal::text("ERR no such key")),
    }
}

/// COPY source destination [REPLACE]
pub(in crate::resp) async fn copy(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    cx.must_be_logical()?;
    let mut target = Target::Keep;
    let mut at = 3;
    while let Some(word) = args.get(at) {
        match (word, args.get(at + 1)) {
            (word, _) if is(word, "replace") => target = Target::Replace,
            (word, Some(db)) if is(word, "db") => {
                // Database 0 may be named, because it is the only target.
                if integer(db)? != 0 {
                    return Err(Refusal::text(
                        "ERR COPY does not support the DB option: all databases show the same keys (db 1 shows L1, db 2 the learned state)",
                    ));
                }
                at += 1;
            }
            (_, _) => return Err(Refusal::Syntax),
        }
        at += 1;
    }
    if args.at(1) == args.at(2) {
        return Err(Refusal::text("ERR source and destination objects are the same"));
    }
    let copied = cx.edge.cache.copy(Key::copied(args.at(1))?, Key::copied(args.at(2))?, target).await?;
    cx.reply.integer(i64::from(copied));
    Ok(())
}

/// MSETNX key value [key value ...]
pub(in crate::resp) async fn msetnx(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(Refusal::Arity("msetnx"));
    }
    cx.must_be_logical()?;
    let pair = |at: usize| Ok((Key::copied(args.at(at))?, Bytes::copy_from_slice(args.at(at + 1))));
    let pairs = (1..args.len()).step_by(2).map(pair).collect::<Result<Vec<_>, Refusal>>()?;
    let stored = cx.edge.cache.set_all_if_absent(pairs).await?;
    cx.reply.integer(i64::from(stored));
    Ok(())
}
