//! Runs one command and records it: counts, durations, MONITOR, SLOWLOG, LATENCY.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    acl_log::Reason,
    command::{Context, Found, Run},
    frame::Args,
    reply::Refusal,
    slow::Ran,
};
use crate::{cache::stats::requests::Port, clock::stopwatch_ns, error::Kind};

/// Runs an accepted request and writes its reply.
pub(super) async fn run(cx: &mut Context<'_>, found: Found, args: Args<'_>) {
    let begun_ns = stopwatch_ns();
    let edge = cx.edge;
    cx.session.client.last_command.store(found.number + 1, Relaxed);
    // As in Redis, MONITOR does not show administrative commands.
    if edge.shared.monitors.any() && !found.row.is_hidden {
        let now = edge.cache.core().clock().unix();
        edge.shared.monitors.show(found.row.name, args, cx.session.db, &cx.session.client, now, edge.shared.account());
    }
    let done = match found.row.run {
        Run::Now(run) => run(cx, args),
        Run::Later(run) => run(cx, args).await,
        Run::Container => Err(Refusal::Arity(found.row.name)),
    };
    let failed = done.is_err();
    if let Err(refusal) = done {
        note_denied(cx, &refusal);
        let _answered = cx.refuse(refusal);
    }
    let took_ns = stopwatch_ns().saturating_sub(begun_ns);
    let failed = cx.count_error() || failed;
    if edge.node.sampled.draw(1) {
        log_request(found.row.name, 1, failed, took_ns);
    }
    let calls = cx.session.counters.of(found.number);
    calls.record(took_ns, 1);
    if !found.row.is_blocking {
        edge.cache.requests_took(Port::Resp, took_ns, 1);
    }
    if failed {
        calls.failed.fetch_add(1, Relaxed);
    }
    let ran = Ran { name: found.row.name, is_fast: found.row.is_fast, args, us: took_ns / 1000 };
    edge.shared.slow.note(ran, &cx.session.client, || edge.cache.core().clock().unix());
}

/// Records in ACL LOG that the facade has rejected a command because of permissions.
fn note_denied(cx: &Context<'_>, refusal: &Refusal) {
    if matches!(refusal, Refusal::Cache(error) if error.kind() == Kind::Denied) {
        cx.session.note_refused(Reason::Command, cx.row.name.as_bytes(), None, cx.row.name, cx.now);
    }
}

/// Logs a sampled request, or a group of equal requests. Never logs a key or a value.
#[cold]
pub(super) fn log_request(command: &str, requests: u64, failed: bool, took_ns: u64) {
    let took_us = took_ns / 1000;
    tracing::info!(target: "terrace::request", port = "resp", command, requests, failed, took_us, "request");
}
