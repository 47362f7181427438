//! Runs the complete requests of a connection in order, and writes all replies to one output buffer.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use super::{Connection, LARGE_BYTES, OUTPUT_FREE_BYTES, REPLY_ROOM_BYTES};
use crate::{
    cache::stats::requests::Port,
    clock::{Tick, stopwatch_ns},
    model::Key,
    resp::{
        Edge,
        acl_log::Reason,
        buffers,
        client_state::Client,
        command::{Context, Found, Row, Run},
        exec::{pubsub, strings::get_pipelined, transaction},
        frame::{Args, Next, Owned, REQUEST_MAX_BYTES, Requests, TooLong},
        mailbox::Unblock,
        permission::{self, Denied, Part},
        reply::Refusal,
        run::{log_request, run},
        session::Replies,
        slow::Ran,
        stop::Stop,
        table::{COMMANDS, GET},
    },
    socket::Socket,
};

/// Number of requests after which the task yields to other connections of the worker.
const TURN_REQUESTS: usize = 1_000;
/// Maximum number of pipelined GET commands in one L2 read.
const GET_RUN_MAX: usize = 256;
/// The blocking command that the drain answers.
const LEASE: &str = "terrace.lease";
/// Methods of HTTP requests, which may have a body with commands.
const HTTP_METHODS: [&[u8]; 9] =
    [b"get", b"put", b"post", b"head", b"delete", b"patch", b"options", b"trace", b"connect"];
/// Minimum interval between log messages about HTTP requests on the RESP port.
const HOSTILE_LOG_INTERVAL: Duration = Duration::from_secs(60);

impl Connection {
    /// Runs all complete requests, until the client has too many unread replies.
    pub(super) async fn run_requests(&mut self) {
        let begun_ns = stopwatch_ns();
        self.use_permissions();
        self.reply.lend_buffer(buffers::lend);
        self.paused = true;
        let mut turn = 0;
        while !self.session.closing && self.may_reply() {
            if turn >= TURN_REQUESTS {
                turn = 0;
                if self.send().is_err() {
                    // The next wait reports it.
                    break;
                }
                tokio::task::yield_now().await;
            }
            turn += self.answer_hits(TURN_REQUESTS - turn);
            if self.starved {
                break;
            }
            match self.requests.next(self.limits) {
                Ok(Next::More) => {
                    self.paused = false;
                    break;
                }
                Ok(Next::Command) if !self.edge.cache.account().may_hold(REPLY_ROOM_BYTES) => {
                    self.starved = true;
                    break;
                }
                Ok(Next::Command) => self.run_one().await,
                Ok(Next::Refused(why)) => self.refuse_request(why),
                Err(fault) => self.fail(&fault),
            }
            turn += 1;
        }
        self.count_hits(begun_ns);
    }

    /// Answers the GETs at the front of the pipeline from L1 and returns their number. First of the three paths of GET
    /// (`table/strings.rs`).
    #[inline]
    fn answer_hits(&mut self, most: usize) -> usize {
        if !self.session.reads_plainly() {
            return 0;
        }
        let mut hits = 0;
        // The caller asks the byte budget for more.
        let free_until = self.reply.pending().len() + OUTPUT_FREE_BYTES;
        while hits < most && matches!(self.requests.next(self.limits), Ok(Next::Command)) {
            let Some(key) = key_of_get(self.requests.args()) else { break };
            let Some(hit) = self.edge.cache.get_from_l1(key, self.now) else { break };
            if hit.value.len() >= LARGE_BYTES && !self.edge.cache.account().may_hold(hit.value.len() as u64) {
                self.starved = true;
                break;
            }
            self.reply.bulk(&hit.value);
            self.requests.consume();
            hits += 1;
            if self.reply.pending().len() > free_until {
                break;
            }
        }
        self.hits += hits as u64;
        hits
    }

    /// Counts the GETs of a batch with the time of the batch that its other commands did not use.
    fn count_hits(&mut self, begun_ns: u64) {
        let hits = std::mem::take(&mut self.hits);
        if hits > 0 {
            let calls = self.session.counters.of(GET);
            let took_ns = stopwatch_ns().saturating_sub(begun_ns);
            calls.record(took_ns, hits);
            self.edge.cache.requests_took(Port::Resp, took_ns, hits);
            if self.edge.node.sampled.draw(hits) {
                log_request("get", hits, false, took_ns);
            }
            self.session.client.last_command.store(GET + 1, Relaxed);
        }
    }

    async fn run_one(&mut self) {
        if self.session.reads_plainly() && key_of_get(self.requests.args()).is_some() {
            return Box::pin(self.read_gets()).await;
        }
        self.use_permissions();
        if is_hostile(self.requests.args()) {
            self.session.closing = true;
            return log_hostile(&self.edge, &self.session.client.address, self.now);
        }
        let mark = self.reply.mark();
        match self.accept() {
            Ok(found) if found.row.is_blocking && self.session.transaction.is_none() => {
                // Boxed, like all rare waits, because the size of an idle connection is the size of its largest state.
                Box::pin(self.run_blocking(found)).await;
            }
            Ok(found) => {
                self.run_found(found).await;
                self.requests.consume();
            }
            Err(refusal) => {
                if let Some(transaction) = &mut self.session.transaction {
                    transaction.fail();
                }
                self.reply.error(&refusal.message());
                self.requests.consume();
            }
        }
        self.count_error(None);
        self.keep_silent(mark);
    }

    /// Discards the reply if CLIENT REPLY disabled it.
    fn keep_silent(&mut self, mark: usize) {
        match self.session.replies {
            Replies::On => {}
            Replies::Off => self.reply.rewind(mark),
            Replies::SkipNext => self.session.replies = Replies::Skip,
            Replies::Skip => {
                self.reply.rewind(mark);
                self.session.replies = Replies::On;
            }
        }
    }

    /// Returns the row of the current request if it may run.
    fn accept(&mut self) -> Result<Found, Refusal> {
        let args = self.requests.args();
        let found = COMMANDS.resolve(args)?;
        let refusal = if !found.row.accepts(args.len()) {
            Refusal::Arity(found.row.name)
        } else if !self.session.is_authenticated() && !found.row.has("no_auth") {
            Refusal::text("NOAUTH Authentication required.")
        } else if self.session.is_limited() && !pubsub::is_allowed(found.row) {
            pubsub::refused(found.row)
        } else if self.session.is_authenticated()
            && let Err(denied) = permission::check(self.edge.cache.principal(), found.row, args)
        {
            self.note_denied(denied, found.row);
            denied.refusal(found.row)
        } else {
            return Ok(found);
        };
        self.session.counters.of(found.number).rejected.fetch_add(1, Relaxed);
        Err(refusal)
    }

    /// Counts a request without permission and records it in ACL LOG.
    #[cold]
    fn note_denied(&self, denied: Denied, row: &'static Row) {
        denied.count(self.edge.cache.principal());
        let reason = match denied.part {
            Part::Command => Reason::Command,
            Part::Key(_) => Reason::Key,
            Part::Channel(_) => Reason::Channel,
        };
        self.session.note_refused(reason, denied.object(row, self.requests.args()), None, row.name, self.now);
    }

    async fn run_found(&mut self, found: Found) {
        let (edge, now) = (&*self.edge, self.now);
        let args = self.requests.args();
        if let Some(transaction) = &mut self.session.transaction
            && transaction::is_queued(found.row)
        {
            match transaction::queue(transaction, found, args) {
                Ok(count) => {
                    self.session.client.queued.store(count, Relaxed);
                    self.reply.simple("QUEUED");
                }
                Err(refusal) => self.reply.error(&refusal.message()),
            }
            return;
        }
        let mut cx = Context { edge, session: &mut self.session, reply: &mut self.reply, now, row: found.row };
        run(&mut cx, found, args).await;
        if found.row.has("no_auth") {
            self.use_permissions();
            self.limits.before_auth = !self.session.is_authenticated();
        }
        if matches!(found.row.run, Run::Later(_)) {
            self.now = self.edge.cache.now();
        }
    }

    /// Runs a command that may wait for a client-specified time. Ends it when the client disconnects, another client
    /// unblocks or kills it, or the server stops.
    async fn run_blocking(&mut self, found: Found) {
        let request = Owned::new(self.requests.args().iter());
        self.requests.consume();
        let mark = self.reply.mark();
        let client = Arc::clone(&self.session.client);
        let _before = client.mailbox.take_unblock();
        // The drain answers the callers that wait for a load.
        let ends_at_stop = found.row.name != LEASE;
        let Self { edge, session, reply, now, stream, requests, stop, .. } = self;
        let mut cx = Context { edge, session, reply, now: *now, row: found.row };
        client.blocked.store(true, Relaxed);
        let ended = tokio::select! {
            biased;
            () = run(&mut cx, found, request.args()) => None,
            ended = poll_fn(|task| {
                let stop = ends_at_stop.then_some(&mut *stop);
                poll_interruption(&client, stream, requests, stop, task)
            }) => Some(ended),
        };
        client.blocked.store(false, Relaxed);
        if ended.is_some() {
            self.reply.rewind(mark);
        }
        match ended {
            None => {}
            Some(Interruption::Gone) => self.session.closing = true,
            Some(Interruption::Unblocked(Unblock::Timeout)) => self.reply.null_array(),
            Some(Interruption::Unblocked(Unblock::Error)) => {
                self.reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
            }
        }
        self.now = self.edge.cache.now();
    }

    /// Reads the current GET and the GETs after it with one call of the cache. Second of the three paths of GET.
    async fn read_gets(&mut self) {
        let begun_ns = stopwatch_ns();
        let mut keys = Vec::new();
        while let Some(key) = key_of_get(self.requests.args()) {
            match Key::copied(key) {
                Ok(key) => keys.push(key),
                Err(error) if keys.is_empty() => {
                    self.reply.error(&Refusal::from(error).message());
                    self.requests.consume();
                    return self.count_error(Some(GET));
                }
                // The next batch answers it.
                Err(_) => break,
            }
            self.requests.consume();
            if keys.len() >= GET_RUN_MAX || !matches!(self.requests.next(self.limits), Ok(Next::Command)) {
                break;
            }
        }
        let calls = (keys.len() as u64).max(1);
        let noted = keys.clone();
        let (mut failed, mut missed) = (0, 1);
        while !keys.is_empty() {
            let (edge, now, row) = (&*self.edge, self.now, &COMMANDS.rows[GET]);
            let mut cx = Context { edge, session: &mut self.session, reply: &mut self.reply, now, row };
            let (answered, faults) = get_pipelined(&mut cx, keys.clone(), missed).await;
            failed += faults;
            missed = 0;
            keys.drain(..answered);
            // Large values: the client reads some before the next are read from L2.
            if !keys.is_empty() && (self.send().is_err() || self.send_most().await.is_err()) {
                self.session.closing = true;
                break;
            }
        }
        let counters = self.session.counters.of(GET);
        let took_ns = stopwatch_ns().saturating_sub(begun_ns);
        counters.record(took_ns, calls);
        self.edge.cache.requests_took(Port::Resp, took_ns, calls);
        counters.failed.fetch_add(failed, Relaxed);
        if self.edge.node.sampled.draw(calls) {
            log_request("get", calls, failed > 0, took_ns);
        }
        self.session.client.last_command.store(GET + 1, Relaxed);
        self.note_slow_gets(&noted, took_ns / 1000);
        self.now = self.edge.cache.now();
    }

    /// Records slow GETs in SLOWLOG. GETs that were read together have the same duration.
    fn note_slow_gets(&self, keys: &[Key], took_us: u64) {
        let (slow, core) = (&self.edge.shared.slow, self.edge.cache.core());
        if slow.is_slow(took_us) {
            for key in keys {
                let request = Owned::new([&b"GET"[..], key].into_iter());
                let row = &COMMANDS.rows[GET];
                let ran = Ran { name: row.name, is_fast: row.is_fast, args: request.args(), us: took_us };
                slow.note(ran, &self.session.client, || core.clock().unix());
            }
        }
    }

    /// Counts the error reply of the last request, if it was one.
    fn count_error(&mut self, number: Option<usize>) {
        if let Some(code) = self.reply.take_error() {
            self.edge.shared.statistics.error(code);
            if let Some(number) = number {
                self.session.counters.of(number).failed.fetch_add(1, Relaxed);
            }
        }
    }

    fn refuse_request(&mut self, why: TooLong) {
        let settings = self.edge.settings.load();
        let max = settings.value_max;
        let text = match why {
            TooLong::Request => format!("ERR the request exceeds {REQUEST_MAX_BYTES} bytes"),
            TooLong::Bulk(length) => format!("ERR value of {length} bytes exceeds max_value ({max} bytes)"),
        };
        self.reply.error(&text);
        self.requests.consume();
        self.count_error(None);
    }

    fn fail(&mut self, fault: &str) {
        self.reply.error(&format!("ERR Protocol error: {fault}"));
        self.count_error(None);
        self.session.closing = true;
    }
}

/// Reason why a blocking command was interrupted.
enum Interruption {
    /// The client disconnected or was killed, or the server stops.
    Gone,
    /// CLIENT UNBLOCK.
    Unblocked(Unblock),
}

/// Maximum size of the requests that are received from a client while one of its commands blocks.
const BLOCKED_REQUESTS_MAX_BYTES: usize = 64 * 1024;

fn poll_interruption(
    client: &Client,
    stream: &mut Socket,
    requests: &mut Requests,
    stop: Option<&mut Stop>,
    task: &mut TaskContext<'_>,
) -> Poll<Interruption> {
    client.mailbox.register(task);
    if client.mailbox.is_closed() || stop.is_some_and(|stop| stop.poll(task).is_ready()) {
        return Poll::Ready(Interruption::Gone);
    }
    if let Some(how) = client.mailbox.take_unblock() {
        return Poll::Ready(Interruption::Unblocked(how));
    }
    while requests.held_bytes() < BLOCKED_REQUESTS_MAX_BYTES {
        match stream.poll_read_ready(task) {
            Poll::Pending => break,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Interruption::Gone),
        }
        match stream.try_read_buf(requests.buffer()) {
            Ok(0) => return Poll::Ready(Interruption::Gone),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(Interruption::Gone),
        }
    }
    Poll::Pending
}

/// Returns the key of a GET with the right number of arguments.
#[inline]
fn key_of_get(args: Args<'_>) -> Option<&[u8]> {
    (args.len() == 2 && args.at(0).eq_ignore_ascii_case(b"get")).then(|| args.at(1))
}

/// Returns `true` for an HTTP request, such as a forged request of a browser: `POST ...`, `Host: ...`, or a request line
/// with any method, such as `PUT / HTTP/1.0`.
fn is_hostile(args: Args<'_>) -> bool {
    let name = args.at(0);
    name.eq_ignore_ascii_case(b"post")
        || name.eq_ignore_ascii_case(b"host:")
        || args.len() == 3
            && args.at(2).starts_with(b"HTTP/")
            && HTTP_METHODS.iter().any(|method| name.eq_ignore_ascii_case(method))
}

#[cold]
fn log_hostile(edge: &Edge, address: &str, now: Tick) {
    let last = &edge.shared.hostile_logged_at;
    let before = last.load(Relaxed);
    let is_due = before == 0 || now.since(Tick(before)) >= HOSTILE_LOG_INTERVAL;
    if is_due && last.compare_exchange(before, now.0, Relaxed, Relaxed).is_ok() {
        tracing::warn!(
            address,
            "possible cross-protocol attack: received an HTTP request on the RESP port; closed the connection \
             (logged at most once per minute)"
        );
    }
}
