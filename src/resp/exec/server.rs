//! Commands about the server: DBSIZE, FLUSHDB and FLUSHALL, TIME, ROLE and other commands with short replies.

use super::{DB_L1, DB_LEARNED, integer, is, keys::must_have_l2};
use crate::{
    node::VERSION,
    resp::{
        command::Context,
        frame::Args,
        reply::{Done, Refusal},
    },
};

/// DBSIZE
pub(in crate::resp) async fn dbsize(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let count = match cx.session.db {
        DB_L1 => cx.edge.cache.count_resident(),
        DB_LEARNED => cx.edge.cache.count_learned(),
        _ => cx.edge.cache.count().await?,
    };
    cx.reply.count(count);
    Ok(())
}

/// FLUSHDB [ASYNC|SYNC], FLUSHALL [ASYNC|SYNC]. FLUSHALL clears db 0 and L1, independent of the selected database.
pub(in crate::resp) async fn flush(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let known = args.get(1).is_none_or(|word| is(word, "async") || is(word, "sync"));
    if !known || args.len() > 2 {
        return Err(Refusal::Syntax);
    }
    if cx.session.db == DB_LEARNED && cx.row.name == "flushdb" {
        cx.must_be_logical()?;
    }
    if cx.session.db == DB_L1 && cx.row.name == "flushdb" {
        must_have_l2(cx)?;
        cx.edge.cache.clear_resident();
    } else {
        if !cx.edge.settings.load().flush {
            let name = cx.row.name.to_ascii_uppercase();
            return Err(Refusal::text(format!(
                "ERR {name} is refused by the setting resp.flush; set it to \"allow\" to permit the command"
            )));
        }
        cx.edge.cache.clear().await?;
    }
    cx.reply.ok();
    Ok(())
}

/// TIME
pub(in crate::resp) fn time(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let now = cx.edge.cache.core().clock().unix().0;
    cx.reply.array(2);
    cx.reply.bulk(itoa::Buffer::new().format(now / 1000).as_bytes());
    cx.reply.bulk(itoa::Buffer::new().format(now % 1000 * 1000).as_bytes());
    Ok(())
}

/// ROLE: a node has no replicas.
pub(in crate::resp) fn role(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.array(3);
    cx.reply.bulk(b"master");
    cx.reply.integer(0);
    cx.reply.array(0);
    Ok(())
}

/// LASTSAVE: the start time, as in Redis before the first snapshot. Terrace writes no snapshots.
pub(in crate::resp) fn lastsave(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let up = cx.now.since(cx.edge.node.started_at).as_secs();
    cx.reply.count((cx.edge.cache.core().clock().unix().0 / 1000).saturating_sub(up));
    Ok(())
}

/// LOLWUT [VERSION version]
pub(in crate::resp) fn lolwut(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.verbatim(&format!("  ____\n _|__|_\n|______|  one terrace above the other\nTerrace ver. {VERSION}\n"));
    Ok(())
}

/// WAIT numreplicas timeout: returns 0 immediately, because a node has no replicas.
pub(in crate::resp) fn wait(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    integer(args.at(1))?;
    let timeout = integer(args.at(2)).map_err(|_| Refusal::text("ERR timeout is not an integer or out of range"))?;
    if timeout < 0 {
        return Err(Refusal::text("ERR timeout is negative"));
    }
    cx.reply.integer(0);
    Ok(())
}

/// READONLY, READWRITE, ASKING, CLUSTER: rejected, because Terrace is not a Redis cluster.
pub(in crate::resp) fn no_cluster(_cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    Err(Refusal::text("ERR This instance has cluster support disabled"))
}

/// MODULE LIST
pub(in crate::resp) fn no_modules(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.array(0);
    Ok(())
}
