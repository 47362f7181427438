//! ACL: the only user is `default`, with permission for all supported commands.

use super::catalog::words;
use crate::resp::{
    command::{Context, readable},
    frame::Args,
    reply::{Done, Refusal},
};

/// The ACL categories of Redis, in its order.
const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// ACL WHOAMI
pub(in crate::resp) fn whoami(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.bulk(b"default");
    Ok(())
}

/// ACL USERS
pub(in crate::resp) fn users(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.array(1);
    cx.reply.bulk(b"default");
    Ok(())
}

/// ACL LIST: as in Redis, but without the hash of the password.
pub(in crate::resp) fn list(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let has_password = cx.edge.settings.load().password.is_some();
    cx.reply.array(1);
    let password = if has_password { "" } else { "nopass " };
    cx.reply.bulk(format!("user default on {password}~* &* +@all").as_bytes());
    Ok(())
}

/// ACL CAT [category]
pub(in crate::resp) fn cat(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let Some(wanted) = args.get(2) else {
        cx.reply.array(CATEGORIES.len());
        CATEGORIES.iter().for_each(|name| cx.reply.bulk(name.as_bytes()));
        return Ok(());
    };
    if args.len() > 3 {
        return Err(Refusal::Syntax);
    }
    let Some(category) = CATEGORIES.iter().find(|name| wanted.eq_ignore_ascii_case(name.as_bytes())) else {
        return Err(Refusal::text(format!("ERR Unknown category '{}'", readable(wanted, 128))));
    };
    let all = cx.edge.commands.rows.iter().flat_map(|row| std::iter::once(row).chain(row.subcommands));
    let names: Vec<&str> =
        all.filter(|row| words(row.categories).any(|own| own == *category)).map(|row| row.name).collect();
    cx.reply.array(names.len());
    names.iter().for_each(|name| cx.reply.bulk(name.as_bytes()));
    Ok(())
}
