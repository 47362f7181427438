//! Scripts and functions: EVAL, FCALL, SCRIPT, FUNCTION. Redis runs them; replies are returned byte for byte.
//!
//! Declared keys follow the rules of writes. Writes of other keys are noticed when Redis announces them.

use bytes::Bytes;

use super::is;
use crate::{
    cache::{Flavor, Passing, each_element, elements, invalidate::tags::is_marked, text},
    glob::Glob,
    model::Key,
    resp::{
        command::Context,
        frame::{Args, Owned, write_request},
        reply::{Done, Refusal},
    },
};

const NOT_BUSY: &[u8] = b"-NOTBUSY ";

/// EVAL, EVALSHA, EVAL_RO, EVALSHA_RO script|sha1 numkeys [key ...] [arg ...], FCALL, FCALL_RO function numkeys ...
pub(in crate::resp) async fn run(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    cx.check_scripts()?;
    if args.iter().any(is_marked) {
        return Err(Refusal::text("ERR arguments of scripts must not begin with \\x9fTERRACE"));
    }
    let keys = super::pass_through::keys(cx.row, args)?;
    let key = keys.first().map(|(key, _)| key.clone());
    let named = keys.iter().map(|(key, _)| key.clone()).collect();
    let written: Vec<Key> = keys.into_iter().filter_map(|(key, is_written)| is_written.then_some(key)).collect();
    let passing = Passing {
        key,
        named,
        written,
        resp3: cx.reply.resp3(),
        moves_whole: false,
        blocking: false,
        runs_script: true,
    };
    let reply = cx.edge.cache.pass(&request(args), passing).await?;
    cx.reply.whole(&reply);
    Ok(())
}

/// SCRIPT LOAD, SCRIPT FLUSH, FUNCTION LOAD, DELETE, RESTORE: changes that all primaries execute.
pub(in crate::resp) async fn change(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let replies = cx.ask_all(args).await?;
    let failed = replies.iter().find(|reply| reply.starts_with(b"-"));
    cx.answer(failed.or(replies.first()))
}

/// SCRIPT EXISTS sha1 [sha1 ...]: a script exists if all primaries have it.
pub(in crate::resp) async fn exists(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let replies = cx.ask_all(args).await?;
    if replies.len() == 1 || replies.iter().any(|reply| reply.starts_with(b"-")) {
        return cx.answer(replies.iter().find(|reply| reply.starts_with(b"-")).or(replies.first()));
    }
    let found: Vec<Vec<Bytes>> = replies.iter().filter_map(elements).collect();
    let count = args.len() - 2;
    cx.reply.array(count);
    for at in 0..count {
        let is_everywhere = found.iter().all(|primary| primary.get(at).is_some_and(|one| one.starts_with(b":1")));
        cx.reply.integer(i64::from(is_everywhere));
    }
    Ok(())
}

/// SCRIPT KILL, FUNCTION KILL: one primary must have a script to kill.
pub(in crate::resp) async fn kill(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let replies = cx.ask_all(args).await?;
    let done = replies.iter().find(|reply| !reply.starts_with(b"-"));
    let refused = || replies.iter().find(|reply| !reply.starts_with(NOT_BUSY));
    cx.answer(done.or_else(refused).or(replies.first()))
}

/// SCRIPT DEBUG
pub(in crate::resp) fn debug(_cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    Err(Refusal::text("ERR SCRIPT DEBUG is refused: a debugging session needs a connection to Redis itself"))
}

/// FUNCTION DUMP, FUNCTION STATS: the answer of one primary.
pub(in crate::resp) async fn ask(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let replies = cx.ask_all(args).await?;
    cx.answer(replies.first())
}

/// FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE]. Without Redis there are no functions. Redis compares the names only with
/// patterns that it compares fast; other patterns are compared here.
pub(in crate::resp) async fn list_functions(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if cx.edge.cache.flavor() != Flavor::Redis {
        cx.reply.array(0);
        return Ok(());
    }
    let Some((request, glob)) = with_fast_pattern(args)? else { return ask(cx, args).await };
    let replies = cx.ask_all(request.args()).await?;
    let listed = replies.first().map(|reply| matching_libraries(reply, &glob).unwrap_or_else(|| reply.clone()));
    cx.answer(listed.as_ref())
}

/// Returns the request to send in place of a list with a slow pattern, and the pattern; `None` for other requests.
///
/// # Errors
/// The pattern is too long.
fn with_fast_pattern(args: Args<'_>) -> Result<Option<(Owned, Glob)>, Refusal> {
    let Some(at) = (2..args.len().saturating_sub(1)).find(|at| is(args.at(*at), "libraryname")) else {
        return Ok(None);
    };
    let glob = Glob::new(args.at(at + 1))?;
    let (sent, is_same) = glob.for_redis();
    if is_same {
        return Ok(None);
    }
    let words = args.iter().enumerate().map(|(place, word)| if place == at + 1 { &sent[..] } else { word });
    Ok(Some((Owned::new(words), glob)))
}

/// Returns the list with the libraries whose names match; `None` for another reply, such as an error.
fn matching_libraries(reply: &Bytes, glob: &Glob) -> Option<Bytes> {
    let name = |library: &Bytes| text(&each_element(library)?.nth(1)?);
    let kept = each_element(reply)?.filter(|library| name(library).is_some_and(|name| glob.matches(&name)));
    let kept: Vec<Bytes> = kept.collect();
    Some([format!("*{}\r\n", kept.len()).as_bytes(), &kept.concat()].concat().into())
}

/// FUNCTION FLUSH. Without Redis there are no functions.
pub(in crate::resp) async fn flush_functions(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if cx.edge.cache.flavor() != Flavor::Redis {
        cx.reply.ok();
        return Ok(());
    }
    change(cx, args).await
}

impl Context<'_> {
    /// Checks that scripts can run: in db 0, with Redis as L2.
    fn check_scripts(&self) -> Result<(), Refusal> {
        self.check_main_db()?;
        let Some(flavor) = self.edge.cache.refuses_other_types() else { return Ok(()) };
        let name = self.row.name.replace('|', " ").to_ascii_uppercase();
        Err(Refusal::text(format!(
            "ERR {name} requires Redis as L2, which runs the scripts, but l2.url is \"{flavor}\"; set l2.url = \
             \"redis://...\" to use the command"
        )))
    }

    /// Sends a request to all primaries.
    async fn ask_all(&self, args: Args<'_>) -> Result<Vec<Bytes>, Refusal> {
        self.check_scripts()?;
        Ok(self.edge.cache.pass_to_all(&request(args), self.reply.resp3()).await?)
    }

    fn answer(&mut self, reply: Option<&Bytes>) -> Done {
        self.reply.whole(reply.ok_or_else(super::mismatched)?);
        Ok(())
    }
}

fn request(args: Args<'_>) -> Vec<u8> {
    let mut request = Vec::new();
    write_request(&mut request, args.iter());
    request
}
