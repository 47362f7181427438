//! HSCAN, SSCAN, ZSCAN: forwarded to Redis. Redis compares the elements with patterns that it compares fast; with other
//! patterns, Terrace compares the elements that Redis returns.

use bytes::Bytes;

use super::is;
use crate::{
    cache::elements,
    error::Result,
    glob::Glob,
    resp::{
        command::{Context, Row},
        frame::{Args, Owned},
        pattern_filter::matching,
        reply::{Done, Reply},
    },
};

/// Position of the first option.
const OPTIONS_AT: usize = 3;

/// A pattern that Terrace compares with the elements of a reply.
#[derive(Debug)]
pub(super) struct ElementFilter {
    glob: Glob,
    /// Number of parts of an element in the reply: 2 with a value or score.
    parts: usize,
}

/// A request for Redis, and the filter of its reply, if any.
pub(super) type Rewritten = (Owned, Option<ElementFilter>);

/// HSCAN, SSCAN, ZSCAN key cursor [MATCH pattern] [COUNT count]
pub(in crate::resp) async fn scan(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if let Some(read) = cx.absent_read(args)? {
        return cx.answer_absent(read, args).await;
    }
    let keys = cx.check_passing(args)?;
    let Some((request, filter)) = rewritten(cx.row, args)? else { return cx.pass(args, keys).await };
    let reply = cx.forward(request.args(), keys).await?;
    let reply = filtered(reply, filter).await;
    cx.reply.whole(&reply);
    Ok(())
}

/// Returns the request to send in place of a scan of elements. Returns `None` for other requests, and for scans that
/// Redis may receive as they are.
///
/// # Errors
/// A pattern is too long.
pub(super) fn rewritten(row: &Row, args: Args<'_>) -> Result<Option<Rewritten>> {
    if !matches!(row.name, "hscan" | "sscan" | "zscan") {
        return Ok(None);
    }
    let (mut replaced, mut last, mut has_values) = (Vec::new(), None, row.name != "sscan");
    let mut at = OPTIONS_AT;
    while at < args.len() {
        let (word, value) = (args.at(at), args.get(at + 1));
        at += match (word, value) {
            (word, Some(pattern)) if is(word, "match") => {
                let glob = Glob::new(pattern)?;
                let (sent, is_same) = glob.for_redis();
                // The last pattern has effect.
                last = (!is_same).then_some(glob);
                if !is_same {
                    replaced.push((at + 1, sent));
                }
                2
            }
            (word, _) if is(word, "count") => 2,
            (word, _) => {
                // An option of Redis 7.4. Redis rejects options that it does not know.
                has_values &= !is(word, "novalues");
                1
            }
        };
    }
    if replaced.is_empty() {
        return Ok(None);
    }
    let filter = last.map(|glob| ElementFilter { glob, parts: 1 + usize::from(has_values) });
    Ok(Some((with_replaced(args, &replaced), filter)))
}

/// Replaces arguments, which are in ascending order of their positions.
fn with_replaced(args: Args<'_>, replaced: &[(usize, Bytes)]) -> Owned {
    let mut replaced = replaced.iter().peekable();
    let words = args.iter().enumerate().map(|(at, word)| {
        let other = replaced.next_if(|(place, _)| *place == at);
        other.map_or(word, |(_, word)| &word[..])
    });
    Owned::new(words)
}

/// Removes the elements that do not match from a reply. Errors have none.
pub(super) async fn filtered(reply: Bytes, filter: Option<ElementFilter>) -> Bytes {
    let Some(ElementFilter { glob, parts }) = filter else { return reply };
    let Some([cursor, list]) = elements(&reply).and_then(|parts| <[Bytes; 2]>::try_from(parts).ok()) else {
        return reply;
    };
    let Some(kept) = matching(&list, parts, &glob).await else { return reply };
    let mut reply = Reply::default();
    reply.array(2);
    reply.whole(&cursor);
    reply.whole(&kept);
    reply.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::table::COMMANDS;

    /// Returns the request for Redis, the pattern for Terrace and the number of parts.
    fn sent(request: &str) -> Option<(String, Option<(String, usize)>)> {
        let request = Owned::new(request.split(' ').map(str::as_bytes));
        let row = COMMANDS.resolve(request.args()).unwrap().row;
        let (request, filter) = rewritten(row, request.args()).unwrap()?;
        let readable = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let words: Vec<_> = request.args().iter().map(readable).collect();
        Some((words.join(" "), filter.map(|filter| (readable(filter.glob.pattern()), filter.parts))))
    }

    #[test]
    fn redis_receives_no_slow_pattern() {
        for (request, wanted, filter) in [
            ("hscan k 0 match a*b", "hscan k 0 match a*", Some(("a*b", 2))),
            ("sscan k 0 MATCH *b COUNT 7", "sscan k 0 MATCH * COUNT 7", Some(("*b", 1))),
            ("zscan k 0 count match match \\**b*", "zscan k 0 count match match \\**", Some(("\\**b*", 2))),
            ("hscan k 0 match *b match a*", "hscan k 0 match * match a*", None),
            ("hscan k 0 match a* match *b", "hscan k 0 match a* match *", Some(("*b", 2))),
            ("hscan k 0 novalues match *b", "hscan k 0 novalues match *", Some(("*b", 1))),
            ("hscan k 0 match *b foo", "hscan k 0 match * foo", Some(("*b", 2))),
        ] {
            let filter = filter.map(|(pattern, parts)| (pattern.to_owned(), parts));
            assert_eq!(sent(request), Some((wanted.to_owned(), filter)), "{request}");
        }
        for request in ["hscan k 0", "hscan k 0 match", "hscan k 0 match a*", "hscan k 0 count *b", "hget k *b"] {
            assert_eq!(sent(request), None, "{request}");
        }
    }
}
