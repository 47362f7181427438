//! ACL: the users of the users file, in the notation of Redis.

use std::sync::Arc;

use super::{catalog::words, integer, is};
use crate::{
    access::{DEFAULT_USER, Principal, random_digits},
    clock::Tick,
    resp::{
        acl_log::Entry,
        command::{Context, readable},
        frame::Args,
        permission::{self, Part},
        reply::{Done, Refusal, Reply},
    },
};

/// Default number of entries of ACL LOG, as in Redis.
const LOG_COUNT: i64 = 10;
/// Default size of a generated password in bits, as in Redis.
const GENPASS_BITS: i64 = 256;
/// Maximum size of a generated password in bits, as in Redis.
const GENPASS_BITS_MAX: usize = 4096;

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
    let user = cx.session.client.user();
    cx.reply.bulk(user.as_bytes());
    Ok(())
}

/// Returns the users, sorted. Without users, clients are the user `default`.
fn user_names(cx: &Context<'_>) -> Vec<Arc<str>> {
    let names = cx.edge.access.user_names();
    if names.is_empty() { vec![DEFAULT_USER.into()] } else { names }
}

/// ACL USERS
pub(in crate::resp) fn users(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let names = user_names(cx);
    cx.reply.array(names.len());
    names.iter().for_each(|name| cx.reply.bulk(name.as_bytes()));
    Ok(())
}

/// ACL LIST: as in Redis, but without the hashes of the secrets.
pub(in crate::resp) fn list(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let access = &cx.edge.access;
    let line = |name: &Arc<str>| match access.user(name) {
        Some((principal, _)) => format!("user {name} on {}", principal.in_redis_notation()),
        None if access.has_password() => format!("user {name} on ~* &* +@all"),
        None => format!("user {name} on nopass ~* &* +@all"),
    };
    let lines: Vec<String> = user_names(cx).iter().map(line).collect();
    cx.reply.array(lines.len());
    lines.iter().for_each(|line| cx.reply.bulk(line.as_bytes()));
    Ok(())
}

/// ACL GETUSER username
pub(in crate::resp) fn getuser(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let Some((principal, secrets)) = described(cx, args.at(2)) else {
        cx.reply.null_array();
        return Ok(());
    };
    let words =
        |words: &str, of: fn(&str) -> bool| words.split(' ').filter(|word| of(word)).collect::<Vec<_>>().join(" ");
    let notation = principal.in_redis_notation();
    let keys = words(&notation, |word| word.starts_with(['~', '%']));
    let (channels, commands) =
        (words(&notation, |word| word.starts_with('&')), words(&notation, |word| word.starts_with(['+', '-'])));
    cx.reply.map(6);
    cx.reply.bulk(b"flags");
    let flags: &[&[u8]] = if secrets == Some(0) { &[b"on", b"nopass"] } else { &[b"on"] };
    cx.reply.array(flags.len());
    flags.iter().for_each(|flag| cx.reply.bulk(flag));
    // The hashes are not shown.
    cx.reply.bulk(b"passwords");
    cx.reply.array(0);
    for (name, value) in [("commands", commands), ("keys", keys), ("channels", channels)] {
        cx.reply.bulk(name.as_bytes());
        cx.reply.bulk(value.as_bytes());
    }
    cx.reply.bulk(b"selectors");
    cx.reply.array(0);
    Ok(())
}

/// Returns the permissions of a user; 0 secrets for the user `default` without a password.
fn described(cx: &Context<'_>, name: &[u8]) -> Option<(Arc<Principal>, Option<usize>)> {
    let access = &cx.edge.access;
    let name = std::str::from_utf8(name).ok()?;
    if let Some((principal, secrets)) = access.user(name) {
        return Some((principal, Some(secrets).filter(|secrets| *secrets > 0)));
    }
    let is_default = name == DEFAULT_USER && !access.has_users();
    is_default.then(|| (Principal::system(), (!access.has_password()).then_some(0)))
}

/// ACL DRYRUN username command [arg ...]
pub(in crate::resp) fn dryrun(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let Some((principal, _)) = described(cx, args.at(2)) else {
        return Err(Refusal::text(format!("ERR User '{}' not found", readable(args.at(2), 128))));
    };
    let request = args.from(3);
    let Ok(found) = cx.edge.commands.resolve(request) else {
        return Err(Refusal::text(format!("ERR Command '{}' not found", readable(request.at(0), 128))));
    };
    if !found.row.accepts(request.len()) {
        return Err(Refusal::Arity(found.row.name));
    }
    match permission::check(&principal, found.row, request) {
        Ok(()) => cx.reply.ok(),
        // As in Redis, the reply is not an error.
        Err(denied) => {
            let object = readable(denied.object(found.row, request), usize::MAX);
            let text = match denied.part {
                Part::Command => format!("This user has no permissions to run the '{object}' command"),
                Part::Key(_) => format!("This user has no permissions to access the '{object}' key"),
                Part::Channel(_) => format!("This user has no permissions to access the '{object}' channel"),
            };
            cx.reply.bulk(text.as_bytes());
        }
    }
    Ok(())
}

/// ACL LOG [count | RESET]
pub(in crate::resp) fn log(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let count = match (args.get(2), args.len()) {
        (None, _) => LOG_COUNT,
        (Some(word), 3) if is(word, "reset") => {
            cx.edge.shared.acl_log.clear();
            cx.reply.ok();
            return Ok(());
        }
        (Some(text), 3) => integer(text)?,
        (Some(_), _) => return Err(misused(args)),
    };
    // As in Redis, a negative number is 0.
    let entries = cx.edge.shared.acl_log.newest(usize::try_from(count).unwrap_or(0));
    cx.reply.array(entries.len());
    entries.iter().for_each(|entry| log_entry(cx.reply, entry, cx.now));
    Ok(())
}

fn log_entry(reply: &mut Reply, entry: &Entry, now: Tick) {
    let refused = &entry.refused;
    reply.map(7);
    reply.bulk(b"count");
    reply.count(entry.count);
    let context = if refused.in_transaction { "multi" } else { "toplevel" };
    let texts: [(&str, &[u8]); 4] = [
        ("reason", refused.reason.name().as_bytes()),
        ("context", context.as_bytes()),
        ("object", &refused.object),
        ("username", refused.user.as_bytes()),
    ];
    for (name, text) in texts {
        reply.bulk(name.as_bytes());
        reply.bulk(text);
    }
    reply.bulk(b"age-seconds");
    reply.double(now.since(entry.at).as_secs_f64());
    reply.bulk(b"client-info");
    reply.bulk(&entry.client);
}

/// Returns the error of Redis for a subcommand with too many arguments.
fn misused(args: Args<'_>) -> Refusal {
    let name = readable(args.at(1), 128);
    Refusal::text(format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try ACL HELP."))
}

/// ACL GENPASS [bits]
pub(in crate::resp) fn genpass(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if args.len() > 3 {
        return Err(misused(args));
    }
    let bits = args.get(2).map_or(Ok(GENPASS_BITS), integer)?;
    let Some(bits) = usize::try_from(bits).ok().filter(|bits| (1..=GENPASS_BITS_MAX).contains(bits)) else {
        return Err(Refusal::text(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
        ));
    };
    let digits = bits.div_ceil(4);
    let text = random_digits(digits).map_err(|error| Refusal::text(format!("ERR {error}")))?;
    cx.reply.bulk(text.as_bytes());
    Ok(())
}

/// ACL SETUSER, DELUSER, SAVE, LOAD: users are defined in a file.
pub(in crate::resp) fn refused(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    Err(Refusal::text(match cx.edge.access.file() {
        Some(file) => {
            format!("ERR users are defined in {}; changes of the file take effect within 2 seconds", file.display())
        }
        None => "ERR users are defined in the file of the setting auth.file, which is not set".to_owned(),
    }))
}

/// ACL CAT [category]
pub(in crate::resp) fn cat(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let Some(wanted) = args.get(2) else {
        cx.reply.array(CATEGORIES.len());
        CATEGORIES.iter().for_each(|name| cx.reply.bulk(name.as_bytes()));
        return Ok(());
    };
    if args.len() > 3 {
        return Err(misused(args));
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
