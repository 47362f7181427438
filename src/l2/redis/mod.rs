//! Redis as L2: each worker owns its data connections, so that a miss wakes no other thread.
//!
//! * [`url`]: which server, checked without I/O. * `connect`: opens one connection. * `lane`: one data connection, its
//!   queue and its pipelines. * `ops`, `scripts`: each operation as a command. * `errors`: Redis's errors in our words.
//! * [`tracking`]: the invalidation link, one per server, which keeps L1 true.
//!
//! **Reads with a life** send PTTL *before* GET. Time passes between the two, so a life asked first can only come out
//! shorter than the value's own, measured from the moment the reply is read. Asked afterwards, a key that went and was
//! set anew in between would lend its longer life to the old value. A key replaced between PTTL and GET is announced on
//! the invalidation link, which voids the fill's lease; a life of 0 (key gone at PTTL, there at GET) is never kept.
//!
//! **Cost** of a read, CPU of the caller's thread, values of 100 B on loopback, one current-thread runtime, two cores shared
//! with other work (`cargo bench --bench l2_redis`): 64 callers at once 1.45 µs (GET) and 2.05 µs (PTTL and GET), 256
//! callers 1.50 and 2.10, 8 callers 2.3 and 2.8, one caller alone 8.3 and 8.9. The redis crate's own multiplexing takes
//! 1.6 to 1.9 µs with 64 callers, 2.2 with 8 and 6.6 with one (it has neither deadline nor bound there), its explicit
//! pipelines of 16 take 0.75. What remains above those is the caller's own task, its timer and its reply channel.
//!
//! **Sentinel and Cluster** fit in here: a lane opens its connection anew through `connect::data` for each attempt, which is
//! where a Sentinel would be asked for the primary; a Cluster is one group of lanes and one link per primary, chosen by
//! the key's slot in [`RedisBackend`].
//!
//! **SWAPDB** pushes no invalidation (Redis 7.0): with it, L1 shows the old database for up to `l1.max_age`. Deny it in
//! the ACL of everybody who shares a Redis with Terrace (`-swapdb`).

mod backoff;
mod connect;
mod errors;
mod lane;
mod ops;
mod read;
mod scripts;
pub mod tracking;
pub mod url;

use std::{sync::Arc, time::Duration};

use ::redis::{Cmd, Value as Reply};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use self::{
    lane::{Access, Commands, Lane, LaneSettings, Replies},
    ops::Reading,
    scripts::By,
    url::RedisUrl,
};
use super::{Applied, Backend, Batch, Described, Flavor, Op, ScanPage, ScanRequest, State, Stored, Tunables};
use crate::{
    error::{CacheError, Result},
    model::Key,
};

/// Deadline of SCAN, DBSIZE and RANDOMKEY, which people and sweeps wait for, not request paths.
const INSPECTION_DEADLINE: Duration = Duration::from_secs(5);
/// Deadline of FLUSHDB ASYNC, which only swaps the database out.
const CLEAR_DEADLINE: Duration = Duration::from_secs(10);
/// RANDOMKEY is asked this often in one pipeline when the first answer was one of Terrace's own records.
const RANDOM_TRIES: usize = 32;

/// Data connections of each worker, by default: a big value on one does not hold up the other.
pub const CONNECTIONS_DEFAULT: usize = 2;
/// Commands that may wait on one connection, by default. At 0.5 M commands/s, what Redis does on one core, a full queue
/// lasts 16 ms, which is within the read deadline.
pub const QUEUE_LIMIT_DEFAULT: usize = 8192;

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which server and database.
    pub url: RedisUrl,
    /// Data connections of this worker, at least 1.
    pub connections: usize,
    /// What CLIENT LIST shows.
    pub client_name: String,
    /// Commands that may wait on one connection; beyond it calls are `Overloaded`.
    pub queue_limit: usize,
}

impl Settings {
    /// The defaults for this URL.
    #[must_use]
    pub fn new(url: RedisUrl) -> Self {
        Self {
            url,
            connections: CONNECTIONS_DEFAULT,
            client_name: "terrace".to_owned(),
            queue_limit: QUEUE_LIMIT_DEFAULT,
        }
    }
}

/// Redis behind one worker.
#[derive(Debug)]
pub struct RedisBackend {
    lanes: Vec<Lane>,
    tunables: Arc<Tunables>,
}

impl RedisBackend {
    /// Starts connecting, on the current runtime, which is to be the worker's own; never waits. Calls are
    /// `Unavailable` until the first connection is up.
    #[must_use]
    pub fn start(settings: &Settings, tunables: Arc<Tunables>) -> Self {
        let lane = LaneSettings {
            url: settings.url.clone(),
            client_name: settings.client_name.clone(),
            queue_limit: settings.queue_limit.max(1),
        };
        let lanes = (0..settings.connections.max(1)).map(|_| Lane::start(lane.clone())).collect();
        Self { lanes, tunables }
    }

    async fn ask(&self, commands: Commands, access: Access, deadline: Instant) -> Result<Replies> {
        let count = commands.len();
        let replies = Lane::choose(&self.lanes).ask(commands, access, deadline).await?;
        if replies.len() == count { Ok(replies) } else { Err(errors::unexpected("a pipeline")) }
    }

    /// One command that is not on a request path.
    async fn inspect(&self, command: Cmd) -> Result<Reply> {
        let mut replies = self.ask([command].into_iter().collect(), Access::Read, after(INSPECTION_DEADLINE)).await?;
        replies.pop().map_or_else(|| Err(errors::unexpected("a command")), ops::checked)
    }

    async fn apply_each(&self, ops: &[(Key, Op)]) -> Vec<Result<Applied>> {
        let deadline = after(self.tunables.deadlines().write);
        // Of several operations none may be sent twice: it would run after another on the same key that stood behind it.
        let by = if ops.len() == 1 { By::Digest } else { By::Text };
        let mut ran = self.run(ops, by, deadline).await;
        if by == By::Digest && matches!(&ran, Ok((_, replies)) if replies.iter().any(ops::is_unknown_script)) {
            ran = self.run(ops, By::Text, deadline).await;
        }
        match ran {
            Ok((readings, replies)) => read_all(readings, replies),
            Err(error) => fail_all(ops.len(), &error),
        }
    }

    async fn run(&self, ops: &[(Key, Op)], by: By, deadline: Instant) -> Result<(Vec<Reading>, Replies)> {
        let (commands, readings) = compile(ops, by);
        Ok((readings, self.ask(commands, Access::Write, deadline).await?))
    }

    async fn apply_atomically(&self, ops: &[(Key, Op)]) -> Vec<Result<Applied>> {
        let deadline = after(self.tunables.deadlines().write);
        let (inner, readings) = compile(ops, By::Text);
        let mut commands = Commands::with_capacity(ops.len() + 2);
        commands.push(word("MULTI"));
        commands.extend(inner);
        commands.push(word("EXEC"));
        let replies = match self.ask(commands, Access::Write, deadline).await {
            Ok(replies) => replies,
            Err(error) => return fail_all(ops.len(), &error),
        };
        match executed(replies, ops.len()) {
            Ok(replies) => read_all(readings, replies),
            Err(error) => fail_all(ops.len(), &error),
        }
    }
}

fn read_all(readings: Vec<Reading>, replies: impl IntoIterator<Item = Reply>) -> Vec<Result<Applied>> {
    readings.into_iter().zip(replies).map(|(reading, reply)| ops::read(reading, reply)).collect()
}

/// EXEC's replies; the first refusal on the way there if it did not run.
fn executed(replies: Replies, count: usize) -> Result<Vec<Reply>> {
    let mut refusal = None;
    for reply in replies {
        // EXECABORT comes last and only says that there was a refusal before it.
        if let Reply::ServerError(error) = &reply {
            refusal.get_or_insert_with(|| errors::from_reply(error));
        }
        if let Reply::Array(inner) = reply
            && inner.len() == count
        {
            return Ok(inner);
        }
    }
    Err(refusal.unwrap_or_else(|| errors::unexpected("EXEC")))
}

fn compile(ops: &[(Key, Op)], by: By) -> (Commands, Vec<Reading>) {
    ops.iter().map(|(key, op)| ops::command(key, op, by)).unzip()
}

fn fail_all<T>(count: usize, error: &CacheError) -> Vec<Result<T>> {
    (0..count).map(|_| Err(error.clone())).collect()
}

fn word(name: &str) -> Cmd {
    let mut command = Cmd::with_capacity(1, name.len());
    command.arg(name);
    command
}

fn after(span: Duration) -> Instant {
    Instant::now() + span
}

impl Backend for RedisBackend {
    fn flavor(&self) -> Flavor {
        Flavor::Redis
    }

    fn get<'a>(&'a self, keys: &'a [Key], with_life: bool) -> BoxFuture<'a, Vec<Result<Option<Stored>>>> {
        Box::pin(async move {
            if keys.is_empty() {
                return Vec::new();
            }
            let deadline = after(self.tunables.deadlines().read);
            match self.ask(read::questions(keys, with_life), Access::Read, deadline).await {
                Ok(replies) => read::answers(replies, with_life, self.tunables.value_max()),
                Err(error) => fail_all(keys.len(), &error),
            }
        })
    }

    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>> {
        Box::pin(async move {
            match batch {
                _ if ops.is_empty() => Vec::new(),
                // One command is atomic by itself.
                Batch::Atomic if ops.len() > 1 => self.apply_atomically(&ops).await,
                Batch::Atomic | Batch::Independent => self.apply_each(&ops).await,
            }
        })
    }

    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>> {
        Box::pin(async move {
            if keys.is_empty() {
                return Vec::new();
            }
            let deadline = after(self.tunables.deadlines().read);
            match self.ask(read::description_questions(keys), Access::Read, deadline).await {
                Ok(replies) => read::descriptions(replies),
                Err(error) => fail_all(keys.len(), &error),
            }
        })
    }

    fn scan(&self, request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            let reply = self.inspect(read::scan_question(&request)).await?;
            read::page(reply)
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { ops::unsigned(&self.inspect(word("DBSIZE")).await?, "DBSIZE") })
    }

    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>> {
        Box::pin(async move {
            let deadline = after(INSPECTION_DEADLINE);
            for tries in [1, RANDOM_TRIES] {
                let commands = (0..tries).map(|_| word("RANDOMKEY")).collect();
                for reply in self.ask(commands, Access::Read, deadline).await? {
                    let Some(key) = ops::optional(ops::checked(reply)?, "RANDOMKEY")? else { return Ok(None) };
                    if let Some(key) = read::shown(key) {
                        return Ok(Some(key));
                    }
                }
            }
            // Next to all keys are Terrace's own.
            Ok(None)
        })
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            // ASYNC swaps in an empty database at once and frees the old one in the background: the same result for
            // readers, without stopping Redis for as long as freeing takes. Terrace's own records go too, which never
            // makes a value valid again.
            let mut command = word("FLUSHDB");
            command.arg("ASYNC");
            let replies = self.ask([command].into_iter().collect(), Access::Write, after(CLEAR_DEADLINE)).await?;
            replies.into_iter().try_for_each(|reply| ops::checked(reply).map(drop))
        })
    }

    fn state(&self) -> State {
        let states = || self.lanes.iter().map(Lane::state);
        let is_down = |state: &State| matches!(state, State::Down(_));
        if states().any(|state| state == State::Up) {
            return State::Up;
        }
        states().find(is_down).unwrap_or(State::Connecting)
    }

    fn reached(&self) -> bool {
        self.lanes.iter().any(Lane::reached)
    }
}
