//! Commands on other types than strings: Redis answers them, in the client's protocol, byte for byte.
//!
//! They exist in db 0 only, over a Redis only. No key among their arguments may be one of Terrace's own.

use super::{DB_L1, DB_LEARNED};
use crate::{
    cache::Passing,
    error::Result,
    model::{Key, RESERVED_PREFIX},
    resp::{
        command::{Context, Row},
        frame::{Args, write_request},
        keyspace_events::event_of,
        reply::{Done, Refusal},
    },
};

/// Any command on another type than strings.
pub(in crate::resp) async fn pass(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let keys = cx.check_passing(args)?;
    cx.pass(args, keys).await
}

/// A key of a request, and whether the request writes it.
type Named = (Key, bool);

impl Context<'_> {
    /// Whether a command may pass through; its keys.
    pub(super) fn check_passing(&self, args: Args<'_>) -> std::result::Result<Vec<Named>, Refusal> {
        let name = self.row.name.replace('|', " ").to_ascii_uppercase();
        match self.session.db {
            DB_L1 => return Err(Refusal::text(format!("ERR {name} exists in db 0 only: db 1 shows L1"))),
            DB_LEARNED => {
                return Err(Refusal::text(format!("ERR {name} exists in db 0 only: db 2 shows what was learned")));
            }
            _ => {}
        }
        if let Some(flavor) = self.edge.cache.refuses_other_types() {
            return Err(Refusal::text(format!(
                "ERR {name} needs a Redis below: this server's l2.url is \"{flavor}\", which holds strings only; \
                 with l2.url = \"redis://...\" the command passes through to it"
            )));
        }
        Ok(keys(self.row, args)?)
    }

    /// Passes a request through and tells who listens of what it wrote.
    pub(super) async fn pass(&mut self, args: Args<'_>, keys: Vec<Named>) -> Done {
        let key = keys.first().map(|(key, _)| key.clone());
        let named = keys.iter().map(|(key, _)| key.clone()).collect();
        let written: Vec<Key> = keys.into_iter().filter_map(|(key, is_written)| is_written.then_some(key)).collect();
        let mut request = Vec::new();
        write_request(&mut request, args.iter());
        let passing = Passing {
            key,
            named,
            written: written.clone(),
            resp3: self.reply.resp3(),
            moves_whole: false,
            blocking: self.row.is_blocking && !self.session.in_exec,
        };
        let reply = self.edge.cache.pass(&request, passing).await?;
        self.reply.whole(&reply);
        if took_effect(&reply) {
            written.iter().for_each(|key| self.edge.cache.tell_wrote(event_of(self.row.name), key));
        }
        Ok(())
    }
}

/// The keys of a request.
///
/// # Errors
/// A key that clients may not use.
pub(super) fn keys(row: &Row, args: Args<'_>) -> Result<Vec<Named>> {
    let mut keys = Vec::new();
    for spec in row.keys {
        // What is named wrongly Redis refuses itself.
        for at in spec.places(args).unwrap_or_default() {
            keys.push((Key::copied(args.at(at))?, spec.writes()));
        }
    }
    if let Some(at) = stored_by_sort(row, args) {
        keys.push((Key::copied(args.at(at))?, true));
    }
    Ok(keys)
}

/// A reply that says that nothing was done, or that it failed.
fn took_effect(reply: &[u8]) -> bool {
    ![&b"-"[..], b":0\r\n", b"$-1", b"*-1", b"_", b"*0\r\n"].iter().any(|nothing| reply.starts_with(nothing))
}

/// SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC|DESC] [ALPHA] [STORE destination]
pub(in crate::resp) async fn sort(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let keys = cx.check_passing(args)?;
    check_patterns(args)?;
    cx.pass(args, keys).await
}

/// Refuses patterns of SORT that could name Terrace's own keys.
fn check_patterns(args: Args<'_>) -> Done {
    for (at, word) in args.iter().enumerate().skip(2) {
        let is_pattern = [&b"by"[..], b"get"].iter().any(|option| word.eq_ignore_ascii_case(option));
        if is_pattern && args.get(at + 1).is_some_and(may_reach_reserved) {
            return Err(Refusal::text(
                "ERR SORT: a pattern that could name keys under __terrace: is refused; begin it with what the keys \
                 begin with",
            ));
        }
    }
    Ok(())
}

/// The keys of a command of a transaction; `None` for one that Terrace itself refuses, where Redis would not.
pub(super) fn keys_in_transaction(row: &Row, args: Args<'_>) -> Option<Vec<Named>> {
    let names_database = || args.from(3).iter().any(|word| word.eq_ignore_ascii_case(b"db"));
    let is_refused = match row.name {
        "sort" | "sort_ro" => check_patterns(args).is_err(),
        "copy" => names_database(),
        _ => false,
    };
    keys(row, args).ok().filter(|_| !is_refused)
}

/// Place of SORT's destination.
pub(super) fn stored_by_sort(row: &Row, args: Args<'_>) -> Option<usize> {
    let store = |at: &usize| args.at(*at).eq_ignore_ascii_case(b"store");
    (row.name == "sort").then(|| (2..args.len().saturating_sub(1)).find(store)).flatten().map(|at| at + 1)
}

/// Whether a pattern of SORT, whose first `*` stands for any element, could name one of Terrace's own keys.
fn may_reach_reserved(pattern: &[u8]) -> bool {
    match memchr::memchr(b'*', pattern) {
        None => false,
        Some(star) => {
            let prefix = &pattern[..star];
            prefix.starts_with(RESERVED_PREFIX) || RESERVED_PREFIX.starts_with(prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_reach_reserved_keys() {
        for (pattern, reaches) in
            [("weight_*", false), ("*", true), ("__*", true), ("__terrace:x*", true), ("nosort", false), ("#", false)]
        {
            assert_eq!(may_reach_reserved(pattern.as_bytes()), reaches, "{pattern}");
        }
    }
}
