//! Redis as L2: each worker owns its data connections, so that a miss wakes no other thread.
//!
//! * [`url`]: which server, checked without I/O. * `connect`, [`tls`]: opens one connection. * `lane`: one data connection,
//!   its queue and its pipelines. * `ops`, `scripts`: each operation as a command. * `errors`: Redis's errors in our words.
//! * [`tracking`]: the invalidation link, one per primary, which keeps L1 true. * `bans`: patterns that were invalidated.
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
//! **Sentinel and Cluster**: one [`Redis`] a process knows the [`topology`]: which primaries there are and which keys are
//! whose. `sentinel` and `cluster` find it out, `links` keeps an invalidation link to each primary, `route` sends
//! operations where their keys are. Each worker has a `group` of connections to each primary, behind a `breaker` that all
//! workers share. A single server is the same with one primary that never changes.
//!
//! **SWAPDB** pushes no invalidation (Redis 7.0): with it, L1 shows the old database for up to `l1.max_age`. Deny it in
//! the ACL of everybody who shares a Redis with Terrace (`-swapdb`).

mod backoff;
mod bans;
mod breaker;
mod cluster;
mod connect;
mod control;
mod errors;
mod group;
mod lane;
mod links;
mod ops;
mod pass;
mod read;
mod route;
mod scripts;
mod sentinel;
mod spread;
pub mod tls;
mod topology;
pub mod tracking;
pub mod url;

use std::{collections::HashMap, sync::Arc, time::Duration};

use ::redis::{Cmd, Value as Reply};
use futures_util::future::{BoxFuture, join_all, try_join_all};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::{
    bans::Log,
    connect::Dialer,
    group::{Group, GroupSettings},
    lane::{Access, Commands, Replies},
    ops::Reading,
    read::Look,
    route::{Answered, Unit},
    scripts::By,
    tls::{Tls, TlsFiles},
    topology::{Map, Primary, Topology},
    tracking::LinkSettings,
    url::{RedisUrl, Target},
};
pub use self::{
    links::Following,
    pass::{Line, elements, text},
};
use super::{
    Applied, Backend, Ban, Batch, Described, Effort, Flavor, Health, InvalidationSink, Op, ScanPage, ScanRequest,
    Source, State, Stored, SweepPage, Tunables,
};
use crate::{
    clock::Clock,
    error::{CacheError, Kind, Result},
    glob::Glob,
    model::Key,
};

/// Deadline of SCAN, DBSIZE and RANDOMKEY, which people and sweeps wait for, not request paths.
const INSPECTION_DEADLINE: Duration = Duration::from_secs(5);
/// Deadline of FLUSHDB ASYNC, which only swaps the database out.
const CLEAR_DEADLINE: Duration = Duration::from_secs(10);
/// RANDOMKEY is asked this often in one pipeline when the first answer was one of Terrace's own records, or hidden by a ban.
const RANDOM_TRIES: usize = 32;

/// Data connections of each worker, by default: a big value on one does not hold up the other.
pub const CONNECTIONS_DEFAULT: usize = 2;
/// Commands that may wait on one connection, by default. At 0.5 M commands/s, what Redis does on one core, a full queue
/// lasts 16 ms, which is within the read deadline.
pub const QUEUE_LIMIT_DEFAULT: usize = 8192;

/// Calls that fail in a row before the breaker opens, by default.
pub const FAILURES_DEFAULT: usize = 5;
/// A SCAN cursor over several primaries: the low bits say which one it is at.
const CURSOR_SOURCE_BITS: u32 = 7;

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct Settings {
    url: RedisUrl,
    tls: Option<Tls>,
    /// Data connections of each worker to each primary, at least 1.
    pub connections: usize,
    /// What CLIENT LIST shows.
    pub client_name: String,
    /// Commands that may wait on one connection; beyond it calls are `Overloaded`.
    pub queue_limit: usize,
    /// Calls that fail in a row before the breaker opens, at least 1.
    pub failures_max: usize,
}

impl Settings {
    /// The defaults for this URL; for one with TLS the files are read.
    ///
    /// # Errors
    /// What is wrong with which file, for people.
    pub fn new(url: RedisUrl, files: TlsFiles<'_>) -> Result<Self, String> {
        let tls = if url.tls() { Some(Tls::new(files)?) } else { None };
        Ok(Self {
            url,
            tls,
            connections: CONNECTIONS_DEFAULT,
            client_name: "terrace".to_owned(),
            queue_limit: QUEUE_LIMIT_DEFAULT,
            failures_max: FAILURES_DEFAULT,
        })
    }
}

/// One Redis, however many servers it is: what all workers of a process share.
#[derive(Debug)]
pub struct Redis {
    url: RedisUrl,
    group: GroupSettings,
    topology: Arc<Topology>,
    log: Arc<Log>,
    tunables: Arc<Tunables>,
}

impl Redis {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(settings: &Settings, tunables: Arc<Tunables>) -> Arc<Self> {
        let Settings { url, tls, connections, client_name, queue_limit, failures_max } = settings.clone();
        let topology = match url.target() {
            Target::Server(endpoint) => Topology::fixed(endpoint.clone()),
            Target::Sentinel { .. } | Target::Cluster(_) => Topology::unknown(),
        };
        let dialer = Arc::new(Dialer::new(&url, tls, &client_name));
        let group = GroupSettings { dialer, connections, queue_limit, failures_max };
        Arc::new(Self { url, group, topology: Arc::new(topology), log: Arc::default(), tunables })
    }

    /// Follows the topology and keeps the invalidation links, on the current runtime, until what it returns is dropped.
    /// Behind Sentinels and in a cluster no primary is known before.
    #[must_use]
    pub fn follow(
        self: &Arc<Self>,
        settings: &LinkSettings,
        clock: &Clock,
        sink: Arc<dyn InvalidationSink>,
    ) -> Following {
        links::follow(self, settings, clock, sink)
    }

    /// The connections of one worker. They live on the runtime that first uses them, which is to be the worker's own; calls
    /// are `Unavailable` until the first connection is up.
    #[must_use]
    pub fn backend(self: &Arc<Self>) -> RedisBackend {
        let pool = pass::Pool::new(Arc::clone(self));
        let backend =
            RedisBackend { redis: Arc::clone(self), groups: Mutex::default(), pool, sweep_until: Mutex::default() };
        backend.connect();
        backend
    }

    pub(super) fn url(&self) -> &RedisUrl {
        &self.url
    }

    fn dialer(&self) -> &Dialer {
        &self.group.dialer
    }

    fn log(&self) -> &Arc<Log> {
        &self.log
    }

    fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }
}

/// Redis behind one worker.
#[derive(Debug)]
pub struct RedisBackend {
    redis: Arc<Redis>,
    groups: Mutex<Groups>,
    pool: Arc<pass::Pool>,
    /// Until when pages of sweeps may be swept, by the clocks of their servers, microseconds.
    sweep_until: Mutex<HashMap<Source, u64>>,
}

/// Connections by primary, as of a version of the map.
#[derive(Debug, Default)]
struct Groups {
    version: u64,
    of: Vec<Arc<Group>>,
}

impl RedisBackend {
    /// Begins connections to all primaries that are known, so that the first call need not.
    fn connect(&self) {
        let primaries = self.redis.topology.map().primaries.clone();
        for primary in primaries {
            self.group(|_| Some(Arc::clone(&primary)));
        }
    }

    /// The connections to the primary that `find` finds on today's map.
    fn group(&self, find: impl FnOnce(&Map) -> Option<Arc<Primary>>) -> Option<Arc<Group>> {
        let map = self.redis.topology.map();
        let primary = find(&map)?;
        let mut groups = self.groups.lock();
        if groups.version != map.version {
            groups.version = map.version;
            groups.of.retain(|group| map.primaries.iter().any(|primary| Arc::ptr_eq(primary, &group.primary)));
        }
        if let Some(known) = groups.of.iter().find(|group| Arc::ptr_eq(&group.primary, &primary)) {
            return Some(Arc::clone(known));
        }
        let Redis { group, topology, log, tunables, .. } = &*self.redis;
        let group = Arc::new(Group::start(&primary, group, topology, log, tunables));
        groups.of.push(Arc::clone(&group));
        Some(group)
    }

    /// The connections to the one primary that holds all keys; `None` in a cluster.
    fn only(&self) -> Option<Arc<Group>> {
        self.group(|map| map.only().cloned())
    }

    /// Whether keys are spread over primaries. Before the topology of a cluster is known, too.
    fn is_spread(&self) -> bool {
        matches!(self.redis.url.target(), Target::Cluster(_))
    }

    fn tunables(&self) -> &Tunables {
        &self.redis.tunables
    }

    /// Where one primary holds all keys.
    async fn ask(&self, commands: Commands, access: Access, deadline: Instant) -> Result<Replies> {
        let count = commands.len();
        let group = self.only().ok_or_else(|| self.nobody())?;
        let replies = group.ask(commands, access, deadline).await?;
        self.note_refusals(&replies);
        if replies.len() == count { Ok(replies) } else { Err(errors::unexpected("a pipeline")) }
    }

    /// A primary that refuses to be one is no primary any more: somebody is to look.
    fn note_refusals(&self, replies: &[Reply]) {
        let is_demoted = |reply: &Reply| matches!(reply, Reply::ServerError(error) if matches!(error.code(), "READONLY" | "MASTERDOWN" | "CLUSTERDOWN"));
        if replies.iter().any(is_demoted) {
            self.redis.topology.ask();
        }
    }

    /// All primaries' connections, in the order of their sources; an error if none is known.
    fn all_groups(&self) -> Result<Vec<Arc<Group>>> {
        let mut primaries = self.redis.topology.map().primaries.clone();
        primaries.sort_unstable_by_key(|primary| primary.source);
        let groups: Vec<_> = primaries.into_iter().filter_map(|primary| self.group(|_| Some(primary))).collect();
        if groups.is_empty() { Err(self.nobody()) } else { Ok(groups) }
    }

    /// One command to every primary that is not on a request path.
    async fn inspect_all(&self, command: Cmd) -> Result<Vec<Reply>> {
        let deadline = after(INSPECTION_DEADLINE);
        let groups = self.all_groups()?;
        let asked = groups.iter().map(|group| route::one(group, command.clone(), Access::Read, deadline));
        try_join_all(asked).await
    }

    /// A page with what bans hide. Over several primaries one after the other; a key that moves from one to the next
    /// meanwhile may be missed or met twice, as with any client of a cluster.
    async fn scan_all(&self, request: ScanRequest) -> Result<ScanPage> {
        let deadline = after(INSPECTION_DEADLINE);
        if !self.is_spread() {
            let group = self.only().ok_or_else(|| self.nobody())?;
            return read::page(route::one(&group, read::scan_question(&request), Access::Read, deadline).await?);
        }
        let wanted = (request.cursor & ((1 << CURSOR_SOURCE_BITS) - 1)) as usize;
        let mut later = self.all_groups()?.into_iter().filter(|group| group.primary.source.index() >= wanted);
        let Some(group) = later.next() else { return Ok(ScanPage::default()) };
        let source = group.primary.source.index();
        let cursor = if source == wanted { request.cursor >> CURSOR_SOURCE_BITS } else { 0 };
        let question = read::scan_question(&ScanRequest { cursor, ..request });
        let mut page = read::page(route::one(&group, question, Access::Read, deadline).await?)?;
        page.cursor = match (page.cursor, later.next()) {
            (0, None) => 0,
            (0, Some(next)) => next.primary.source.index() as u64,
            (inner, _) => inner << CURSOR_SOURCE_BITS | source as u64,
        };
        Ok(page)
    }

    async fn random_key_of(&self, group: &Group, open: &[Arc<Ban>], deadline: Instant) -> Result<Option<Key>> {
        for tries in [1, RANDOM_TRIES] {
            let commands = (0..tries).map(|_| word("RANDOMKEY")).collect();
            let mut found = Vec::new();
            for reply in group.ask(commands, Access::Read, deadline).await? {
                let Some(key) = ops::optional(ops::checked(reply)?, "RANDOMKEY")? else { return Ok(None) };
                found.extend(read::shown(key));
            }
            if let Some(key) = self.unhidden(open, found, deadline).await?.into_iter().next() {
                return Ok(Some(key));
            }
        }
        // Next to all keys are Terrace's own, or hidden by a ban.
        Ok(None)
    }

    async fn describe_with(
        &self,
        keys: &[Key],
        look: Look,
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Vec<Result<Option<Described>>> {
        let questions = read::description_questions(keys, look);
        if self.is_spread() || !open.is_empty() {
            let answers = self.ask_each(keys, questions, open, deadline).await;
            let one = |answer: Result<Option<Answered>>| match answer? {
                Some(answered) => read::descriptions(answered.replies, look).pop().unwrap_or(Ok(None)),
                None => Ok(None),
            };
            return answers.into_iter().map(one).collect();
        }
        match self.ask(questions, Access::Read, deadline).await {
            Ok(replies) => read::descriptions(replies, look),
            Err(error) => fail_all(keys.len(), &error),
        }
    }

    async fn apply_under(
        &self,
        ops: &[(Key, Op)],
        batch: Batch,
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Vec<Result<Applied>> {
        match batch {
            _ if ops.is_empty() => Vec::new(),
            Batch::Atomic if self.is_spread() => self.apply_atomically_spread(ops, open, deadline).await,
            Batch::Atomic => self.apply_atomically(ops, open, deadline).await,
            Batch::Independent => {
                let results = if self.is_spread() {
                    self.apply_each_spread(ops, open, deadline).await
                } else {
                    self.apply_each(ops, open, deadline).await
                };
                self.behind_head(ops, results, deadline).await
            }
        }
    }

    /// Redis's INCRBY takes a payload behind a header for no number: then a script that knows headers adds.
    async fn behind_head(
        &self,
        ops: &[(Key, Op)],
        results: Vec<Result<Applied>>,
        deadline: Instant,
    ) -> Vec<Result<Applied>> {
        let is_no_number = |result: &Result<Applied>| matches!(result, Err(error) if error.kind() == Kind::NotANumber);
        let ([(key, op)], [result]) = (ops, &results[..]) else { return results };
        let Some((command, reading)) = ops::behind_head(key, op).filter(|_| is_no_number(result)) else {
            return results;
        };
        let mut answers = self.ask_units(vec![Unit::new(key, vec![command])], Access::Write, deadline).await;
        let reply = answers.pop().and_then(|answer| answer.map(|mut answered| answered.replies.pop()).transpose());
        let reply = reply.unwrap_or_else(|| Err(errors::unexpected("a script")));
        vec![reply.and_then(|reply| ops::read(reading, reply))]
    }

    async fn apply_each(&self, ops: &[(Key, Op)], open: &[Arc<Ban>], deadline: Instant) -> Vec<Result<Applied>> {
        // Of several operations none may be sent twice: it would run after another on the same key that stood behind it.
        let by = if ops.len() == 1 { By::Digest } else { By::Text };
        let mut ran = self.run(ops, by, open, deadline).await;
        if by == By::Digest && matches!(&ran, Ok((_, replies)) if replies.iter().any(ops::is_unknown_script)) {
            ran = self.run(ops, By::Text, open, deadline).await;
        }
        match ran {
            Ok((readings, replies)) => read_all(readings, replies),
            Err(error) => fail_all(ops.len(), &error),
        }
    }

    async fn run(
        &self,
        ops: &[(Key, Op)],
        by: By,
        open: &[Arc<Ban>],
        deadline: Instant,
    ) -> Result<(Vec<Reading>, Replies)> {
        let (commands, readings) = compile(ops, by);
        let mut all = self.clearings(open, ops);
        let clearings = all.len();
        all.extend(commands);
        let mut replies = self.ask(all, Access::Write, deadline).await?;
        replies.drain(..clearings).try_for_each(|reply| ops::checked(reply).map(drop))?;
        Ok((readings, replies))
    }

    async fn apply_atomically(&self, ops: &[(Key, Op)], open: &[Arc<Ban>], deadline: Instant) -> Vec<Result<Applied>> {
        let (inner, readings) = compile(ops, By::Text);
        let mut all = self.clearings(open, ops);
        all.extend(transaction(inner));
        let replies = match self.ask(all, Access::Write, deadline).await {
            Ok(replies) => replies,
            Err(error) => return fail_all(ops.len(), &error),
        };
        match executed(replies, ops.len()) {
            Ok(replies) => read_all(readings, replies),
            Err(error) => fail_all(ops.len(), &error),
        }
    }
}

fn transaction(inner: Commands) -> Commands {
    let mut commands = Commands::with_capacity(inner.len() + 2);
    commands.push(word("MULTI"));
    commands.extend(inner);
    commands.push(word("EXEC"));
    commands
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
    ops.iter().map(|(key, op)| ops::command(key, op, by, ops.len() == 1)).unzip()
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
            let deadline = after(self.tunables().deadlines().read);
            let known = match self.bans().await {
                Ok(known) => known,
                Err(error) => return fail_all(keys.len(), &error),
            };
            let (questions, value_max) = (read::questions(keys, with_life), self.tunables().value_max());
            if self.is_spread() || known.open.is_some() {
                let answers = self.ask_each(keys, questions, known.open(), deadline).await;
                let read = |answer: Result<Option<Answered>>| match answer? {
                    Some(answered) => spread::read_one(answered, with_life, value_max),
                    None => Ok(None),
                };
                return answers.into_iter().map(read).collect();
            }
            match self.ask(questions, Access::Read, deadline).await {
                Ok(replies) => read::answers(replies, with_life, value_max),
                Err(error) => fail_all(keys.len(), &error),
            }
        })
    }

    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>> {
        Box::pin(async move {
            // One command is atomic by itself.
            let batch = if ops.len() > 1 { batch } else { Batch::Independent };
            let deadline = after(self.tunables().deadlines().write);
            let known = match self.bans().await {
                Ok(known) => known,
                Err(error) => return fail_all(ops.len(), &error),
            };
            let results = self.apply_under(&ops, batch, known.open(), deadline).await;
            if !self.unheard(known.greatest) {
                return results;
            }
            self.apply_late(ops, batch, results, known.greatest, deadline).await
        })
    }

    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>> {
        Box::pin(async move {
            if keys.is_empty() {
                return Vec::new();
            }
            let deadline = after(self.tunables().deadlines().read);
            let known = match self.bans().await {
                Ok(known) => known,
                Err(error) => return fail_all(keys.len(), &error),
            };
            let mut described = self.describe_with(keys, Look::Mark, known.open(), deadline).await;
            // Headers are rare, so their bytes are asked for only where one begins; with all else, which may have changed.
            let is_marked = |at: &usize| matches!(&described[*at], Ok(Some(known)) if !known.head.is_empty());
            let marked: Vec<usize> = (0..keys.len()).filter(is_marked).collect();
            if !marked.is_empty() {
                let keys: Vec<Key> = marked.iter().map(|&at| keys[at].clone()).collect();
                let again = self.describe_with(&keys, Look::Head, known.open(), deadline).await;
                marked.into_iter().zip(again).for_each(|(at, again)| described[at] = again);
            }
            described
        })
    }

    fn scan(&self, request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>> {
        Box::pin(async move {
            let known = self.bans().await?;
            let mut page = self.scan_all(request).await?;
            if let Some(open) = &known.open {
                page.keys = self.unhidden(open, page.keys, after(INSPECTION_DEADLINE)).await?;
            }
            Ok(page)
        })
    }

    fn ban(&self, glob: Glob) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { self.open_ban(&glob).await })
    }

    fn open_bans(&self) -> Arc<Vec<Arc<Ban>>> {
        self.redis.log().open.all().unwrap_or_default()
    }

    fn retire_after(&self) -> Duration {
        bans::RETIRE_AFTER
    }

    fn claim_sweep(&self, ban: u64, token: u64) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.keep_sweep(ban, token))
    }

    fn sweep<'a>(&'a self, ban: &'a Ban, cursor: u64, effort: Effort) -> BoxFuture<'a, Result<SweepPage>> {
        Box::pin(self.sweep_page(ban, cursor, effort))
    }

    fn retire(&self, ban: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.retire_ban(ban))
    }

    fn clear_banned<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.clear_keys(keys))
    }

    fn ban_question(&self, key: &[u8]) -> Option<Vec<u8>> {
        Some(self.question_for(key))
    }

    fn ban_answer<'a>(
        &'a self,
        known: u64,
        answer: &'a [u8],
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<HashMap<Key, bool>>> {
        Box::pin(self.after_question(known, answer, keys))
    }

    fn commands_done(&self) -> BoxFuture<'_, Option<u64>> {
        Box::pin(self.total_commands())
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let counts = self.inspect_all(word("DBSIZE")).await?;
            counts.iter().map(|count| ops::unsigned(count, "DBSIZE")).sum()
        })
    }

    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>> {
        Box::pin(async move {
            let deadline = after(INSPECTION_DEADLINE);
            let known = self.bans().await?;
            let mut groups = self.all_groups()?;
            // A primary may be empty: then another one is asked.
            fastrand::shuffle(&mut groups);
            for group in groups {
                if let Some(key) = self.random_key_of(&group, known.open(), deadline).await? {
                    return Ok(Some(key));
                }
            }
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
            let deadline = after(CLEAR_DEADLINE);
            let groups = self.all_groups()?;
            let asked = groups.iter().map(|group| route::one(group, command.clone(), Access::Write, deadline));
            join_all(asked).await.into_iter().try_for_each(|reply| reply.map(drop))
        })
    }

    fn source(&self, key: &[u8]) -> Source {
        self.redis.topology.map().of_key(key).map_or(Source::ONLY, |primary| primary.source)
    }

    fn line<'a>(&'a self, key: Option<&'a [u8]>, resp3: bool) -> BoxFuture<'a, Result<Line>> {
        Box::pin(async move {
            let endpoint = {
                let map = self.redis.topology.map();
                let primary = match key {
                    Some(key) => map.of_key(key),
                    None => map.primaries.first(),
                };
                primary.map(|primary| primary.endpoint.clone()).ok_or_else(|| self.nobody())?
            };
            self.pool.line(&endpoint, resp3).await
        })
    }

    fn state(&self) -> State {
        self.connect();
        let states: Vec<State> = self.groups.lock().of.iter().map(|group| group.state()).collect();
        let worst = states.iter().find(|state| matches!(state, State::Down(_)));
        worst
            .or_else(|| states.iter().find(|state| **state == State::Connecting))
            .or(states.first())
            .cloned()
            .unwrap_or(State::Connecting)
    }

    fn reached(&self) -> bool {
        self.groups.lock().of.iter().any(|group| group.reached())
    }

    fn health(&self) -> Health {
        let map = self.redis.topology.map();
        let breakers = || map.primaries.iter().map(|primary| &primary.breaker);
        Health {
            primaries: map.primaries.len(),
            breakers_open: breakers().filter(|breaker| breaker.is_open()).count(),
            breaker_opened: breakers().map(breaker::Breaker::times_opened).sum(),
        }
    }
}
