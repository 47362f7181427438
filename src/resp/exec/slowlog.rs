//! SLOWLOG and its subcommands.

use super::integer;
use crate::resp::{
    command::Context,
    frame::Args,
    reply::{Done, Refusal},
};

/// Number of entries that SLOWLOG GET returns without a count, as in Redis.
const COUNT_DEFAULT: i64 = 10;

/// SLOWLOG GET [count]
pub(in crate::resp) fn get(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let out_of_range = || Refusal::text("ERR count should be greater than or equal to -1");
    let count = match (args.get(2), args.len()) {
        (None, _) => COUNT_DEFAULT,
        (Some(text), 3) => integer(text).ok().filter(|count| *count >= -1).ok_or_else(out_of_range)?,
        (Some(_), _) => return Err(Refusal::Arity("slowlog|get")),
    };
    // -1 means all entries.
    let entries = cx.edge.shared.slow.newest(usize::try_from(count).unwrap_or(usize::MAX));
    let reply = &mut *cx.reply;
    reply.array(entries.len());
    for entry in entries {
        reply.array(6);
        reply.count(entry.id);
        reply.count(entry.at.0 / 1000);
        reply.count(entry.us);
        reply.array(entry.arguments.len());
        entry.arguments.iter().for_each(|argument| reply.bulk(argument));
        reply.bulk(entry.address.as_bytes());
        reply.bulk(&entry.name);
    }
    Ok(())
}

/// SLOWLOG LEN
pub(in crate::resp) fn len(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.count(cx.edge.shared.slow.len() as u64);
    Ok(())
}

/// SLOWLOG RESET
pub(in crate::resp) fn reset(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.edge.shared.slow.clear();
    cx.reply.ok();
    Ok(())
}
