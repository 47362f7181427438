//! Commands on types other than strings: forwarded to Redis, in the client's protocol. Replies are returned byte for
//! byte.
//!
//! Available in db 0 only, with Redis as L2. No argument may be a key reserved for Terrace.

use bytes::Bytes;

use super::{absent::AbsentRead, element_scan};
use crate::{
    cache::Passing,
    error::Result,
    model::{Key, RESERVED_PREFIX},
    resp::{
        command::{Context, Row},
        frame::{Args, write_request},
        key_spec::places_of_streams,
        keyspace_events::event_of,
        reply::{Done, Refusal},
    },
};

/// Forwards any command on a type other than strings.
pub(in crate::resp) async fn pass(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if let Some(read) = cx.absent_read(args)? {
        return cx.answer_absent(read, args).await;
    }
    let keys = cx.check_passing(args)?;
    cx.pass(args, keys).await
}

/// A key of a request, and `true` if the request writes it.
type Named = (Key, bool);

impl Context<'_> {
    /// Returns the read of a type that the L2 does not store; `None` for other commands, and with Redis as L2.
    ///
    /// # Errors
    /// Another database is selected.
    pub(super) fn absent_read(&self, args: Args<'_>) -> std::result::Result<Option<AbsentRead>, Refusal> {
        if self.edge.cache.refuses_other_types().is_none() {
            return Ok(None);
        }
        self.check_main_db()?;
        Ok(AbsentRead::of(self.row, args))
    }

    /// Answers the read of a type that the L2 does not store.
    pub(super) async fn answer_absent(&mut self, read: AbsentRead, args: Args<'_>) -> Done {
        let keys = keys(self.row, args)?.into_iter().map(|(key, _)| key).collect();
        read.answer(self, args, keys).await
    }

    /// Checks that a command may be forwarded and returns its keys.
    pub(super) fn check_passing(&self, args: Args<'_>) -> std::result::Result<Vec<Named>, Refusal> {
        self.check_main_db()?;
        if let Some(flavor) = self.edge.cache.refuses_other_types() {
            let name = self.row.name.replace('|', " ").to_ascii_uppercase();
            return Err(Refusal::text(format!(
                "ERR {name} requires Redis as L2, but l2.url is \"{flavor}\", which stores strings only; set \
                 l2.url = \"redis://...\" to use the command"
            )));
        }
        Ok(keys(self.row, args)?)
    }

    /// Forwards a request and publishes the events of its writes.
    pub(super) async fn pass(&mut self, args: Args<'_>, keys: Vec<Named>) -> Done {
        let reply = self.forward(args, keys).await?;
        self.reply.whole(&reply);
        Ok(())
    }

    /// Like [`Context::pass`], and returns the reply in place of writing it.
    pub(super) async fn forward(&self, args: Args<'_>, keys: Vec<Named>) -> std::result::Result<Bytes, Refusal> {
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
            runs_script: false,
        };
        let reply = self.edge.cache.pass(&request, passing).await?;
        if took_effect(self.row, &reply) {
            written.iter().for_each(|key| self.edge.cache.tell_wrote(event_of(self.row.name), key));
        }
        Ok(reply)
    }
}

/// Returns the keys of a request.
///
/// # Errors
/// A key is reserved or invalid.
pub(in crate::resp) fn keys(row: &Row, args: Args<'_>) -> Result<Vec<Named>> {
    let mut keys = Vec::new();
    if matches!(row.name, "xread" | "xreadgroup") {
        // The specification of Redis finds the first word STREAMS, which may be the name of a group or consumer.
        let named = |at| Ok((Key::copied(args.at(at))?, false));
        return places_of_streams(args).into_iter().map(named).collect();
    }
    for spec in row.keys {
        // Redis rejects malformed arguments itself.
        for at in spec.places(args).unwrap_or_default() {
            keys.push((Key::copied(args.at(at))?, spec.writes()));
        }
    }
    for at in stored(row, args) {
        keys.push((Key::copied(args.at(at))?, true));
    }
    Ok(keys)
}

/// Returns the positions of all destinations of SORT and GEORADIUS, parsed as Redis parses the options when it runs the
/// command. Redis writes the last destination. The specifications find only the first of them, and COMMAND GETKEYS of
/// Redis misses the last one after a destination with the name of an option (`SORT k STORE limit STORE dst`).
pub(in crate::resp) fn stored(row: &Row, args: Args<'_>) -> Vec<usize> {
    let is_sort = row.name == "sort";
    let mut at = match row.name {
        "sort" => 2,
        "georadius" => 6,
        "georadiusbymember" => 5,
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    while at + 1 < args.len() {
        let word = args.at(at);
        let is = |names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
        at += match () {
            () if is(&["store"]) || !is_sort && is(&["storedist"]) => {
                found.push(at + 1);
                2
            }
            () if is_sort && is(&["by", "get"]) || !is_sort && is(&["count"]) => 2,
            () if is_sort && is(&["limit"]) => 3,
            () => 1,
        };
    }
    found
}

/// Returns the positions of the patterns of SORT, whose keys the command reads.
pub(in crate::resp) fn read_patterns(row: &Row, args: Args<'_>) -> Vec<usize> {
    if !matches!(row.name, "sort" | "sort_ro") {
        return Vec::new();
    }
    let is_option = |at: &usize| [&b"by"[..], b"get"].iter().any(|option| args.at(*at).eq_ignore_ascii_case(option));
    (2..args.len().saturating_sub(1)).filter(is_option).map(|at| at + 1).collect()
}

/// Returns `false` for a reply that reports a failure or no change.
fn took_effect(row: &Row, reply: &[u8]) -> bool {
    // The old bit, the number of new fields or members, or the new number: a change that adds nothing is 0 too.
    let zero_is_change = matches!(row.name, "setbit" | "hset" | "hincrby" | "zadd" | "geoadd");
    (zero_is_change || !reply.starts_with(b":0\r\n"))
        && ![&b"-"[..], b"$-1", b"*-1", b"_", b"*0\r\n"].iter().any(|nothing| reply.starts_with(nothing))
}

/// SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC|DESC] [ALPHA] [STORE destination]
pub(in crate::resp) async fn sort(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if let Some(read) = cx.absent_read(args)? {
        return cx.answer_absent(read, args).await;
    }
    let keys = cx.check_passing(args)?;
    check_patterns(args)?;
    cx.pass(args, keys).await
}

/// Rejects SORT patterns that could match keys reserved for Terrace.
fn check_patterns(args: Args<'_>) -> Done {
    for (at, word) in args.iter().enumerate().skip(2) {
        let is_pattern = [&b"by"[..], b"get"].iter().any(|option| word.eq_ignore_ascii_case(option));
        if is_pattern && args.get(at + 1).is_some_and(may_reach_reserved) {
            return Err(Refusal::text(
                "ERR SORT pattern could match reserved keys (__terrace:*); start the pattern with a literal key prefix",
            ));
        }
    }
    Ok(())
}

/// Returns the keys of a command in a transaction; `None` for a command that Terrace rejects but Redis would accept.
pub(super) fn keys_in_transaction(row: &Row, args: Args<'_>) -> Option<Vec<Named>> {
    let names_database = || args.from(3).iter().any(|word| word.eq_ignore_ascii_case(b"db"));
    let is_refused = match row.name {
        "sort" | "sort_ro" => check_patterns(args).is_err(),
        "copy" => names_database(),
        "hscan" | "sscan" | "zscan" => element_scan::rewritten(row, args).is_err(),
        _ => false,
    };
    keys(row, args).ok().filter(|_| !is_refused)
}

/// Returns the position of the destination of SORT that COMMAND GETKEYS of Redis shows: the last one. Unlike the command
/// itself, it does not skip destinations, so that a destination may count as an option.
pub(super) fn shown_store_of_sort(row: &Row, args: Args<'_>) -> Option<usize> {
    let (mut at, mut found) = (2, None);
    while row.name == "sort" && at < args.len() {
        let word = args.at(at);
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if is("store") && at + 1 < args.len() {
            found = Some(at + 1);
        }
        at += match () {
            () if is("limit") => 3,
            () if is("get") || is("by") => 2,
            () => 1,
        };
    }
    found
}

/// Returns `true` if a SORT pattern, in which `*` is replaced by an element, could match a key reserved for Terrace.
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
    use crate::resp::{frame::Owned, table::COMMANDS};

    /// Each destination is checked and counts as written, wherever it is.
    #[test]
    fn all_destinations_are_written_keys() {
        for (request, wanted) in [
            ("sort k by store store d", "d"),
            ("sort k alpha store a store d", "a d"),
            ("sort k store limit store d", "limit d"),
            ("sort k store by store d", "by d"),
            ("sort k get store", ""),
            ("sort k limit store 1 asc", ""),
            ("sort k STORE", ""),
            ("sort_ro k store d", ""),
            ("georadius k 1 2 3 m store a store d", "a a d"),
            ("georadius k 1 2 3 m store a storedist d", "a d a d"),
            ("georadius k 1 2 3 m count 1 storedist a storedist d", "a a d"),
            ("georadius k 1 2 3 m store storedist store d", "storedist store storedist d"),
            ("georadiusbymember k m 3 m store a store d", "a a d"),
        ] {
            let request = Owned::new(request.split(' ').map(str::as_bytes));
            let row = COMMANDS.resolve(request.args()).unwrap().row;
            let written = keys(row, request.args()).unwrap().into_iter().filter(|(_, is_written)| *is_written);
            let names: Vec<_> = written.map(|(key, _)| String::from_utf8_lossy(&key).into_owned()).collect();
            assert_eq!(names.join(" "), wanted, "{request:?}");
        }
        for request in ["sort k by store STORE __terrace:x", "sort k ALPHA STORE a STORE __terrace:x"] {
            let request = Owned::new(request.split(' ').map(str::as_bytes));
            assert!(keys(COMMANDS.resolve(request.args()).unwrap().row, request.args()).is_err(), "{request:?}");
        }
    }

    /// A group or consumer with the name of an option hides no stream.
    #[test]
    fn streams_are_found_as_the_command_finds_them() {
        for request in [
            "xreadgroup count 1 group streams c streams __terrace:x >",
            "xreadgroup group g streams streams __terrace:x >",
            "xread block 0 streams __terrace:x $",
        ] {
            let request = Owned::new(request.split(' ').map(str::as_bytes));
            assert!(keys(COMMANDS.resolve(request.args()).unwrap().row, request.args()).is_err(), "{request:?}");
        }
    }

    #[test]
    fn patterns_that_reach_reserved_keys() {
        for (pattern, reaches) in
            [("weight_*", false), ("*", true), ("__*", true), ("__terrace:x*", true), ("nosort", false), ("#", false)]
        {
            assert_eq!(may_reach_reserved(pattern.as_bytes()), reaches, "{pattern}");
        }
    }
}
