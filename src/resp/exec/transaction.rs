//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! With the embedded store or `none` as L2, a transaction has exclusive access to the cache while its commands run one
//! after the other. With Redis as L2, the commands on keys of db 0 run as one Redis transaction, unchanged, followed by
//! the TTL commands that policies require; their replies go to the client unchanged. The other commands (connection,
//! server, other databases) then run in Terrace, in their order.
//!
//! As in Redis, a failing command does not undo the others. EXEC replies nil after a change of a watched key.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;

use super::{
    element_scan::{self, ElementFilter, filtered},
    integer, keys_of, mismatched, pass_through,
};
use crate::{
    cache::{Flavor, Passing, append_within, elements, invalidate::tags::is_marked},
    clock::millis,
    model::Key,
    resp::{
        command::{Context, Found, Row, Run},
        frame::{Args, Owned, write_request},
        keyspace_events::event_of,
        reply::{Done, OUTPUT_HARD_MAX_BYTES, Refusal},
        run::run,
        transaction_queue::TransactionQueue,
    },
};

/// Returns `true` for a command that MULTI queues; other commands run immediately.
pub(in crate::resp) fn is_queued(row: &Row) -> bool {
    !["exec", "discard", "multi", "watch", "quit", "reset"].contains(&row.name)
}

/// Adds an accepted command to the transaction. Returns the number of queued commands.
pub(in crate::resp) fn queue(transaction: &mut TransactionQueue, found: Found, args: Args<'_>) -> Result<i64, Refusal> {
    if found.row.has("no_multi") {
        transaction.fail();
        return Err(Refusal::text("ERR Command not allowed inside a transaction"));
    }
    transaction.add(found.number, args)
}

/// MULTI
pub(in crate::resp) fn multi(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    if cx.session.transaction.is_some() {
        return Err(Refusal::text("ERR MULTI calls can not be nested"));
    }
    cx.session.transaction = Some(Box::default());
    cx.session.client.queued.store(0, Relaxed);
    cx.reply.ok();
    Ok(())
}

/// DISCARD
pub(in crate::resp) fn discard(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    if cx.session.transaction.is_none() {
        return Err(Refusal::text("ERR DISCARD without MULTI"));
    }
    let _ended = cx.session.end_transaction();
    cx.reply.ok();
    Ok(())
}

/// WATCH key [key ...]
pub(in crate::resp) async fn watch(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if cx.session.transaction.is_some() {
        return Err(Refusal::text("ERR WATCH inside MULTI is not allowed"));
    }
    cx.must_be_logical()?;
    let keys = keys_of(args.from(1))?;
    let mut watch = match cx.session.watch.take() {
        Some(watch) => watch,
        None => Box::new(cx.edge.cache.begin_watch(keys.first(), cx.reply.resp3()).await?),
    };
    let watched = cx.edge.cache.watch(&mut watch, keys).await;
    cx.session.watch = Some(watch);
    watched?;
    cx.reply.ok();
    Ok(())
}

/// UNWATCH
pub(in crate::resp) fn unwatch(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.session.watch = None;
    cx.reply.ok();
    Ok(())
}

/// EXEC
pub(in crate::resp) async fn exec(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    if cx.session.transaction.is_none() {
        return Err(Refusal::text("ERR EXEC without MULTI"));
    }
    let mut watch = cx.session.watch.take();
    let Some(transaction) = cx.session.end_transaction() else { return Err(mismatched()) };
    if transaction.failed {
        return Err(Refusal::text("EXECABORT Transaction discarded because of previous errors."));
    }
    let commands = cx.edge.commands;
    let with_row = |(number, request)| Some((commands.by_number(number)?, request));
    let queued: Vec<(Found, Owned)> = transaction.commands.into_iter().filter_map(with_row).collect();
    let mut plan = ExecPlan::new(cx, &queued)?;
    if plan.in_redis.is_empty() && watch.is_none() || cx.edge.cache.flavor() != Flavor::Redis {
        let (cache, _alone) = cx.edge.cache.exclusive().await;
        if let Some(watch) = &watch
            && cx.edge.cache.has_changed(watch).await?
        {
            cx.reply.null_array();
            return Ok(());
        }
        return run_all(cx, cache, &queued, Vec::new()).await;
    }
    let line = watch.as_mut().and_then(|watch| watch.take_line());
    let passing = Passing {
        key: plan.key.take(),
        named: std::mem::take(&mut plan.named),
        written: std::mem::take(&mut plan.written),
        resp3: cx.reply.resp3(),
        moves_whole: false,
        blocking: false,
        runs_script: plan.runs_script,
    };
    let reply = cx.edge.cache.pass_transaction(line, &plan.requests, plan.count, passing).await?;
    let Some(replies) = elements(&reply) else {
        // Nil, or the error of Redis.
        if let Some(watch) = &watch {
            watch.drop_copies();
        }
        cx.reply.whole(&reply);
        return Ok(());
    };
    plan.publish_events(cx, &queued);
    let answers = plan.answers(replies, queued.len()).await;
    let (cache, _) = cx.edge.cache.exclusive().await;
    run_all(cx, cache, &queued, answers).await
}

/// Runs the queued commands that have no reply yet.
async fn run_all(
    cx: &mut Context<'_>,
    cache: crate::cache::Cache,
    queued: &[(Found, Owned)],
    mut answers: Vec<Option<Bytes>>,
) -> Done {
    let edge = cx.edge.with_cache(cache);
    answers.resize(queued.len(), None);
    cx.reply.array(queued.len());
    for ((found, request), answer) in queued.iter().zip(answers) {
        if let Some(answer) = answer {
            cx.reply.whole(&answer);
            cx.count_error();
            continue;
        }
        cx.session.in_exec = true;
        let mut inner = Context { edge: &edge, session: cx.session, reply: cx.reply, now: cx.now, row: found.row };
        run(&mut inner, *found, request.args()).await;
        cx.session.in_exec = false;
        if cx.reply.pending().len() > OUTPUT_HARD_MAX_BYTES {
            // The connection closes: the replies exceed the hard limit.
            break;
        }
    }
    Ok(())
}

/// Commands of a transaction that Redis runs.
#[derive(Default)]
struct ExecPlan {
    /// Positions of the commands that Redis runs among all queued commands.
    in_redis: Vec<usize>,
    requests: Vec<u8>,
    count: usize,
    /// For each request, `true` if its reply goes to the client; `false` for requests that policies add.
    is_answer: Vec<bool>,
    /// First key of the transaction.
    key: Option<Key>,
    named: Vec<Key>,
    written: Vec<Key>,
    /// True if one of the commands is a script.
    runs_script: bool,
    /// Filters of the replies to scans of elements, by the position of the command.
    filters: BTreeMap<usize, ElementFilter>,
}

impl ExecPlan {
    fn new(cx: &Context<'_>, queued: &[(Found, Owned)]) -> Result<Self, Refusal> {
        let mut plan = Self::default();
        let mut db = cx.session.db;
        if cx.edge.cache.flavor() != Flavor::Redis {
            return Ok(plan);
        }
        for (at, (found, request)) in queued.iter().enumerate() {
            let args = request.args();
            if found.row.name == "select" {
                // An invalid index is rejected when the command runs.
                db = integer(args.at(1)).ok().and_then(|index| u8::try_from(index).ok()).unwrap_or(db);
            } else if db == 0
                && runs_in_redis(found.row)
                && let Some(keys) = pass_through::keys_in_transaction(found.row, args)
                && !exceeds_range(cx, found.row, args)
            {
                if args.iter().any(is_marked) {
                    return Err(Refusal::text(
                        "ERR EXEC: transaction not executed: values that begin with \\x9fTERRACE can only be written outside of \
                         transactions",
                    ));
                }
                plan.add(cx, at, found.row, args, keys);
            }
        }
        Ok(plan)
    }

    fn add(&mut self, cx: &Context<'_>, at: usize, row: &Row, args: Args<'_>, keys: Vec<(Key, bool)>) {
        self.in_redis.push(at);
        if row.name == "append" {
            let length_max = cx.edge.cache.core().rules().value_max_of(args.at(1)).to_string();
            self.request(append_within(args.at(1), args.at(2), &length_max).into_iter(), true);
        } else if let Ok(Some((request, filter))) = element_scan::rewritten(row, args) {
            self.request(request.args().iter(), true);
            self.filters.extend(filter.map(|filter| (at, filter)));
        } else {
            self.request(args.iter(), true);
        }
        if self.key.is_none() {
            self.key = keys.first().map(|(key, _)| key.clone());
        }
        self.named.extend(keys.iter().map(|(key, _)| key.clone()));
        let written: Vec<Key> = keys.into_iter().filter_map(|(key, is_written)| is_written.then_some(key)).collect();
        self.runs_script |= is_script(row);
        // As outside of transactions, policies do not change what a script has written.
        for key in written.iter().filter(|_| !is_script(row)) {
            let (default, max) = cx.edge.cache.lives_of(key);
            for (life, only) in [(default, &b"NX"[..]), (max, b"LT")] {
                let Some(life) = life else { continue };
                let ms = millis(life).to_string();
                let words: [&[u8]; 4] = [b"PEXPIRE", key, ms.as_bytes(), only];
                self.request(words.into_iter(), false);
            }
        }
        self.written.extend(written);
    }

    fn request<'a>(&mut self, words: impl ExactSizeIterator<Item = &'a [u8]>, is_answer: bool) {
        write_request(&mut self.requests, words);
        self.is_answer.push(is_answer);
        self.count += 1;
    }

    /// Returns the replies of Redis by the position of their commands among all `count` commands.
    async fn answers(&mut self, replies: Vec<Bytes>, count: usize) -> Vec<Option<Bytes>> {
        let mut answers = vec![None; count];
        let replies = replies.into_iter().zip(&self.is_answer).filter_map(|(reply, is)| is.then_some(reply));
        for (at, reply) in self.in_redis.iter().zip(replies) {
            answers[*at] = Some(filtered(reply, self.filters.remove(at)).await);
        }
        answers
    }

    /// Publishes the events of the writes.
    fn publish_events(&self, cx: &Context<'_>, queued: &[(Found, Owned)]) {
        for (found, request) in self.in_redis.iter().filter_map(|at| queued.get(*at)) {
            if is_script(found.row) {
                continue;
            }
            let keys = pass_through::keys(found.row, request.args()).unwrap_or_default();
            for (key, _) in keys.into_iter().filter(|(_, is_written)| *is_written) {
                cx.edge.cache.tell_wrote(event_of(found.row.name), &key);
            }
        }
    }
}

/// Returns `true` for a SETRANGE whose result would exceed the maximum value size; Terrace rejects it when it runs.
fn exceeds_range(cx: &Context<'_>, row: &Row, args: Args<'_>) -> bool {
    if row.name != "setrange" {
        return false;
    }
    // Redis rejects an invalid offset itself.
    let Some(offset) = integer(args.at(2)).ok().and_then(|offset| u64::try_from(offset).ok()) else { return false };
    let added = args.at(3).len() as u64;
    added > 0 && offset.saturating_add(added) > cx.edge.cache.core().rules().value_max_of(args.at(1))
}

/// Returns `true` for a command that runs a script or a function.
fn is_script(row: &Row) -> bool {
    row.has("no_mandatory_keys")
}

/// Returns `true` for a command on keys that Redis runs.
fn runs_in_redis(row: &Row) -> bool {
    let is_plain = !row.name.contains('|') && !row.name.contains('.') || row.name.starts_with('x');
    is_plain && !row.keys.is_empty() && matches!(row.run, Run::Later(_)) && !row.has("pubsub")
}
