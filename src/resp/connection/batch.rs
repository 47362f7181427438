//! The requests of a connection: all that are there, in order, each answered into the one output buffer.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::Connection;
use crate::{
    clock::{Tick, stopwatch_ns},
    model::Key,
    resp::{
        Edge, buffers,
        command::{self, Context, Found, Run},
        exec::strings::get_run,
        frame::{Args, Next, REQUEST_MAX_BYTES, TooLong},
        reply::Refusal,
        table::TABLE,
    },
};

/// Requests run before other connections of the worker get their turn.
const TURN_REQUESTS: usize = 1_000;
/// Most GETs read below at once.
const GET_RUN_MAX: usize = 256;
/// Hostile first lines are logged at most so often.
const HOSTILE_LOG_INTERVAL: Duration = Duration::from_secs(60);

impl Connection {
    /// Runs all complete requests at hand, unless the client has too much to read already.
    pub(super) async fn run_requests(&mut self) {
        let begun_ns = stopwatch_ns();
        self.reply.lend_buffer(buffers::lend);
        self.paused = true;
        let mut turn = 0;
        while !self.session.closing && self.reply.pending().len() <= self.output_pause_bytes {
            if turn >= TURN_REQUESTS {
                turn = 0;
                if self.send().is_err() {
                    // The next wait reports it.
                    break;
                }
                tokio::task::yield_now().await;
            }
            turn += self.run_hits(TURN_REQUESTS - turn);
            match self.requests.next(self.limits) {
                Ok(Next::More) => {
                    self.paused = false;
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

    /// Answers GETs from L1 as long as they stand in front; says how many.
    #[inline]
    fn run_hits(&mut self, most: usize) -> usize {
        if !self.session.reads_plainly() {
            return 0;
        }
        let mut hits = 0;
        while hits < most && matches!(self.requests.next(self.limits), Ok(Next::Command)) {
            let Some(key) = key_of_get(self.requests.args()) else { break };
            let Some(hit) = self.edge.cache.get_resident(key, self.now) else { break };
            self.reply.bulk(&hit.value);
            self.requests.consume();
            hits += 1;
            if self.reply.pending().len() > self.output_pause_bytes {
                break;
            }
        }
        self.hits += hits as u64;
        hits
    }

    /// The time of a batch that its other commands did not take is that of its GETs.
    fn count_hits(&mut self, begun_ns: u64) {
        let hits = std::mem::take(&mut self.hits);
        if hits > 0 {
            let calls = self.session.counters.of(command::GET);
            calls.calls.fetch_add(hits, Relaxed);
            calls.nanoseconds.fetch_add(stopwatch_ns().saturating_sub(begun_ns), Relaxed);
            self.session.client.last_command.store(command::GET + 1, Relaxed);
        }
    }

    async fn run_one(&mut self) {
        if self.session.reads_plainly() && key_of_get(self.requests.args()).is_some() {
            return self.run_gets().await;
        }
        if is_hostile(self.requests.args()) {
            self.session.closing = true;
            return log_hostile(&self.edge, &self.session.client.address, self.now);
        }
        match self.accept() {
            Ok(found) => self.run_found(found).await,
            Err(refusal) => self.reply.error(&refusal.message()),
        }
        self.requests.consume();
        self.count_error(None);
    }

    /// The row of the request at hand, if it may run.
    fn accept(&mut self) -> Result<Found, Refusal> {
        let args = self.requests.args();
        let found = command::resolve(args)?;
        let refusal = if !found.row.accepts(args.len()) {
            Refusal::Arity(found.row.name)
        } else if !self.session.authenticated && !found.row.has("no_auth") {
            Refusal::text("NOAUTH Authentication required.")
        } else {
            return Ok(found);
        };
        self.session.counters.of(found.number).rejected.fetch_add(1, Relaxed);
        Err(refusal)
    }

    async fn run_found(&mut self, found: Found) {
        let begun_ns = stopwatch_ns();
        self.session.client.last_command.store(found.number + 1, Relaxed);
        let (edge, now) = (&*self.edge, self.now);
        let mut cx = Context { edge, session: &mut self.session, reply: &mut self.reply, now, row: found.row };
        let args = self.requests.args();
        let done = match found.row.run {
            Run::Now(run) => run(&mut cx, args),
            Run::Later(run) => run(&mut cx, args).await,
            Run::Container => Err(Refusal::Arity(found.row.name)),
        };
        if let Err(refusal) = done {
            let _answered = cx.refuse(refusal);
        }
        let ended_ns = stopwatch_ns();
        let calls = self.session.counters.of(found.number);
        calls.calls.fetch_add(1, Relaxed);
        calls.nanoseconds.fetch_add(ended_ns.saturating_sub(begun_ns), Relaxed);
        self.limits.before_auth = !self.session.authenticated;
        self.count_error(Some(found.number));
        if matches!(found.row.run, Run::Later(_)) {
            self.now = self.edge.cache.now();
        }
    }

    /// Reads the GET at hand and those that follow it at once.
    async fn run_gets(&mut self) {
        let begun_ns = stopwatch_ns();
        let mut keys = Vec::new();
        while let Some(key) = key_of_get(self.requests.args()) {
            match Key::copied(key) {
                Ok(key) => keys.push(key),
                Err(error) if keys.is_empty() => {
                    self.reply.error(&Refusal::from(error).message());
                    self.requests.consume();
                    return self.count_error(Some(command::GET));
                }
                // Answered in its turn.
                Err(_) => break,
            }
            self.requests.consume();
            if keys.len() >= GET_RUN_MAX || !matches!(self.requests.next(self.limits), Ok(Next::Command)) {
                break;
            }
        }
        let calls = keys.len() as u64;
        let (edge, now, row) = (&*self.edge, self.now, &TABLE[command::GET]);
        let mut cx = Context { edge, session: &mut self.session, reply: &mut self.reply, now, row };
        let failed = get_run(&mut cx, keys).await;
        let counters = self.session.counters.of(command::GET);
        counters.calls.fetch_add(calls, Relaxed);
        counters.failed.fetch_add(failed, Relaxed);
        counters.nanoseconds.fetch_add(stopwatch_ns().saturating_sub(begun_ns), Relaxed);
        self.session.client.last_command.store(command::GET + 1, Relaxed);
        self.now = self.edge.cache.now();
    }

    /// Counts the error the last request was answered with, if it was.
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
            TooLong::Bulk(length) if length > max => {
                format!("ERR value of {length} bytes exceeds max_value ({max} bytes)")
            }
            TooLong::Bulk(_) => "TRYAGAIN too many bytes of requests and answers are under way".to_owned(),
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

/// The key of a GET with the right number of arguments.
#[inline]
fn key_of_get(args: Args<'_>) -> Option<&[u8]> {
    (args.len() == 2 && args.at(0).eq_ignore_ascii_case(b"get")).then(|| args.at(1))
}

/// A browser or a forged request of one: `POST ...`, `Host: ...`, `GET / HTTP/1.1`.
fn is_hostile(args: Args<'_>) -> bool {
    let name = args.at(0);
    name.eq_ignore_ascii_case(b"post")
        || name.eq_ignore_ascii_case(b"host:")
        || args.len() == 3 && name.eq_ignore_ascii_case(b"get") && args.at(2).starts_with(b"HTTP/1")
}

#[cold]
fn log_hostile(edge: &Edge, address: &str, now: Tick) {
    let last = &edge.shared.hostile_logged_at;
    let before = last.load(Relaxed);
    let is_due = before == 0 || now.since(Tick(before)) >= HOSTILE_LOG_INTERVAL;
    if is_due && last.compare_exchange(before, now.0, Relaxed, Relaxed).is_ok() {
        tracing::warn!(
            address,
            "possible attack: POST, Host: or HTTP on the RESP port; somebody may be making a browser talk to it. \
             Closed. Said at most once a minute"
        );
    }
}
