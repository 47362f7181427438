//! OBJECT: encoding, use count and idle time of a key, from L1 where possible.

use super::{DB_L1, op_integer};
use crate::{
    cache::{Flavor, Passing},
    resp::{
        command::Context,
        frame::{Args, write_request},
        reply::Done,
    },
};

/// Maximum length of a string that Redis encodes as `embstr`.
const EMBEDDED_MAX_BYTES: usize = 44;

/// OBJECT ENCODING key
pub(in crate::resp) async fn encoding(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if cx.session.db == 0 && cx.edge.cache.flavor() == Flavor::Redis {
        return cx.ask_redis(args).await;
    }
    let no_touch = std::mem::replace(&mut cx.session.no_touch, true);
    let value = cx.read(args.at(2)).await;
    cx.session.no_touch = no_touch;
    match value? {
        None => cx.reply.null(),
        Some(value) if op_integer(&value) => cx.reply.bulk(b"int"),
        Some(value) if value.len() <= EMBEDDED_MAX_BYTES => cx.reply.bulk(b"embstr"),
        Some(_) => cx.reply.bulk(b"raw"),
    }
    Ok(())
}

/// OBJECT FREQ key: number of reads answered by the L1 copy; 0 for a key without a copy.
pub(in crate::resp) async fn freq(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let resident = cx.edge.cache.resident(args.at(2)).filter(|_| cx.session.db <= DB_L1);
    match resident {
        Some(resident) => cx.reply.count(u64::from(resident.hit.hits)),
        None if cx.describe(args.at(2)).await?.is_some() && cx.session.db == 0 => cx.reply.count(0),
        None => cx.reply.null(),
    }
    Ok(())
}

/// OBJECT IDLETIME key: time since the L1 copy was last read. For a key without a copy, the answer of Redis.
pub(in crate::resp) async fn idletime(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let resident = cx.edge.cache.resident(args.at(2)).filter(|_| cx.session.db <= DB_L1);
    match resident {
        Some(resident) => cx.reply.count(cx.now.since(resident.used_at).as_secs()),
        None if cx.session.db == 0 && cx.edge.cache.flavor() == Flavor::Redis => return cx.ask_redis(args).await,
        None if cx.describe(args.at(2)).await?.is_some() => cx.reply.count(0),
        None => cx.reply.null(),
    }
    Ok(())
}

/// OBJECT REFCOUNT key
pub(in crate::resp) async fn refcount(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    match cx.describe(args.at(2)).await? {
        Some(_) => cx.reply.integer(1),
        None => cx.reply.null(),
    }
    Ok(())
}

impl Context<'_> {
    /// Forwards a read-only request to the L2 Redis.
    pub(super) async fn ask_redis(&mut self, args: Args<'_>) -> Done {
        let key = super::pass_through::keys(self.row, args)?.into_iter().next().map(|(key, _)| key);
        let mut request = Vec::new();
        write_request(&mut request, args.iter());
        let passing = Passing::question(key, self.reply.resp3());
        let reply = self.edge.cache.pass(&request, passing).await?;
        self.reply.whole(&reply);
        Ok(())
    }
}
