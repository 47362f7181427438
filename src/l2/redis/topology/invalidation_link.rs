//! The invalidation link: one connection per Redis primary that receives every change (client tracking in broadcast mode)
//! and proves, by its heartbeat, that it has received all of them.
//!
//! The protocol is the one of the coherence page (points 1, 3, 6, 8):
//! * A RESP3 connection of its own; `CLIENT TRACKING ON BCAST` for the prefixes that may live in L1, without NOLOOP (our
//!   own writes are announced to us as well); ROLE must say master.
//! * Pushes are handed to the sink inside the connection's driver, in wire order, before a reply behind them is seen.
//! * A PING every 100 ms. When PONG n+1 arrives, L1 may answer until the sending of PING n plus [`FENCE_SPAN`]. Two pings,
//!   because under BCAST a PONG may leave before an invalidation of the same turn of Redis's event loop. Every tenth
//!   ping is a ROLE: a primary that was demoted in place keeps its clients.
//! * In a Redis Cluster the heartbeat is CLUSTER INFO: a member that says that the cluster is down proves nothing, and a new
//!   epoch means that the map is looked at before the fence moves on.
//! * A slow PONG only lets the fence lapse: the connection lives, no push is lost, and the copies are good again when it
//!   comes. A lost connection is told to the sink at once.
//! * Leases that were taken before tracking was on again are void: the sink hears of the new listening before of a fence.
//!
//! Driver, heartbeat and sink run in one task. So a loss that the driver has seen can not be followed by a PONG that was
//! read before it.
//!
//! The link is not told of SWAPDB (Redis pushes nothing): see `redis`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::{Cmd, Pipeline, PushInfo, PushKind, ServerError, Value, aio::MultiplexedConnection};
use bytes::Bytes;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{cluster::Info, map::Primary};
use crate::{
    clock::{Clock, Tick},
    error::{CacheError, Kind, Result},
    l2::{
        FENCE_SPAN, InvalidationSink, Source,
        redis::{
            bans::{records::LOG, state::BanLog},
            client::Redis,
            command::errors,
            connection::{
                backoff::Backoff,
                connect::{self, Dialer, Opened},
            },
            url::Target,
        },
    },
    model::RESERVED_PREFIX,
};

/// Time between pings. The fence so stands 0.9 s ahead while all is well.
const PING_EVERY: Duration = Duration::from_millis(100);
/// A ping unanswered for this long means a half-open connection. Well above Δ: a Redis that is busy for two seconds
/// closes L1 for that time, it must not empty it.
const PONG_WITHIN: Duration = Duration::from_secs(3);
/// Each how many pings one asks for the role.
const ROLE_EVERY: u32 = 10;
/// Time between attempts while Redis refuses what the link needs: people must act first.
const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// Settings of the invalidation links.
#[derive(Debug, Clone, Default)]
pub struct LinkSettings {
    /// Prefixes of the keys that may live in L1; none means all keys. Overlaps are reduced.
    pub prefixes: Vec<Bytes>,
}

/// A running link. Dropping it ends it; the fence then lapses by itself within [`FENCE_SPAN`].
#[derive(Debug)]
pub(crate) struct Link {
    task: JoinHandle<()>,
}

impl Link {
    /// Starts the link on the current runtime, which should not be a worker's.
    pub(crate) fn spawn(
        redis: &Arc<Redis>,
        primary: &Arc<Primary>,
        settings: LinkSettings,
        clock: Clock,
        sink: Arc<dyn InvalidationSink>,
    ) -> Self {
        let client_name = format!("{}-invalidation", redis.dialer().client_name);
        let dialer = Dialer { client_name, ..(**redis.dialer()).clone() };
        let (redis, primary) = (Arc::clone(redis), Arc::clone(primary));
        let beat = if matches!(redis.url().target(), Target::Cluster(_)) { Beat::Cluster } else { Beat::Ping };
        let keeper = Keeper { redis, primary, beat, dialer, settings, clock, sink, policy: None };
        Self { task: tokio::spawn(keeper.run()) }
    }

    /// Ends it, and waits until it has ended: it tells nothing any more.
    pub(crate) async fn end(mut self) {
        self.task.abort();
        // Cancelled, which is what was wanted; a panic was told by the runtime.
        let _ended = (&mut self.task).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `prefixes` without those that another one covers, plus Terrace's own; empty for all keys. Redis refuses overlaps.
fn tracked_prefixes(prefixes: &[Bytes]) -> Vec<Bytes> {
    if prefixes.is_empty() {
        return Vec::new();
    }
    let mut sorted = prefixes.to_vec();
    sorted.push(Bytes::from_static(RESERVED_PREFIX));
    // In byte order whatever covers a prefix stands before it, and only prefixes it covers stand between the two.
    sorted.sort();
    let mut reduced: Vec<Bytes> = Vec::with_capacity(sorted.len());
    for prefix in sorted {
        if reduced.last().is_none_or(|kept| !prefix.starts_with(kept)) {
            reduced.push(prefix);
        }
    }
    if reduced.first().is_some_and(Bytes::is_empty) { Vec::new() } else { reduced }
}

/// Why an attempt or a connection ended.
enum End {
    /// Redis answered, and said no.
    Refused(String),
    /// It is no primary, which a failover may change at any time.
    NotPrimary(String),
    /// It did not answer, or no more.
    Lost(CacheError),
}

impl From<CacheError> for End {
    fn from(error: CacheError) -> Self {
        match error.kind() {
            Kind::NoAccess | Kind::Unsupported => Self::Refused(error.message().to_owned()),
            Kind::InvalidArgument
            | Kind::ReservedPrefix
            | Kind::TooLarge
            | Kind::Overloaded
            | Kind::OutOfMemory
            | Kind::Unavailable
            | Kind::DeadlineExceeded
            | Kind::Unknown
            | Kind::WrongType
            | Kind::NotANumber
            | Kind::Overflow
            | Kind::Internal => Self::Lost(error),
        }
    }
}

/// Keeps the link open.
struct Keeper {
    redis: Arc<Redis>,
    primary: Arc<Primary>,
    /// What is asked of it ten times a second.
    beat: Beat,
    dialer: Dialer,
    settings: LinkSettings,
    clock: Clock,
    sink: Arc<dyn InvalidationSink>,
    /// The last `maxmemory-policy` seen, so that a warning is given once.
    policy: Option<String>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let ears = Arc::new(Ears::new(self.primary.source, Arc::clone(self.redis.log()), Arc::clone(&self.sink)));
            let end = self.connection(&ears, &mut backoff).await;
            let wait = match &end {
                End::Refused(why) => {
                    ears.lose(why);
                    self.sink.refused(self.primary.source, why);
                    REFUSED_RETRY
                }
                End::NotPrimary(why) => {
                    ears.lose(why);
                    self.sink.not_primary(self.primary.source, why);
                    backoff.step()
                }
                End::Lost(error) => {
                    tracing::debug!(%error, redis = %self.primary.endpoint, "no invalidation link");
                    ears.lose(error.message());
                    backoff.step()
                }
            };
            // The primary may be another one by now.
            self.redis.topology().ask();
            sleep(wait).await;
        }
    }

    /// One connection from its opening to its end.
    async fn connection(&mut self, ears: &Arc<Ears>, backoff: &mut Backoff) -> End {
        match self.open(ears).await {
            Ok(opened) => {
                backoff.reset();
                tracing::info!(redis = %self.primary.endpoint, "invalidation link is up");
                self.listen(opened, ears).await
            }
            Err(end) => end,
        }
    }

    async fn open(&mut self, ears: &Arc<Ears>) -> Result<Opened, End> {
        let hearing = Arc::clone(ears);
        let on_push = Box::new(move |push: PushInfo| hearing.hear(&push));
        let mut opened = connect::link(&self.primary.endpoint, &self.dialer, on_push).await?;
        let handshake = self.handshake();
        let replies = match timeout(PONG_WITHIN, connect::ask(&mut opened, &handshake)).await {
            Ok(replies) => replies?,
            Err(_) => return Err(End::Lost(silent())),
        };
        let [_name, tracking, role, pong, policy] =
            <[Value; 5]>::try_from(replies).map_err(|_| errors::unexpected("a pipeline"))?;
        accepted(&tracking, "CLIENT TRACKING", "+client|tracking")?;
        accepted(&role, "ROLE", "+role")?;
        accepted(&pong, "PING", "+ping")?;
        check_role(&role)?;
        self.note_policy(&policy);
        // What was read before this moment was read untracked: nothing of it may be kept. Told before the first fence.
        ears.listening.store(true, Ordering::Release);
        self.redis.log().changed();
        self.sink.listening(self.primary.source);
        Ok(opened)
    }

    fn handshake(&self) -> Pipeline {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("CLIENT").arg("SETNAME").arg(&self.dialer.client_name);
        let tracking = pipeline.cmd("CLIENT").arg("TRACKING").arg("ON").arg("BCAST");
        for prefix in tracked_prefixes(&self.settings.prefixes) {
            tracking.arg("PREFIX").arg(&prefix[..]);
        }
        pipeline.cmd("ROLE");
        pipeline.cmd("PING");
        pipeline.add_command(connect::policy_question());
        pipeline
    }

    /// Redis may evict Terrace's records under allkeys-*: only bans and notes suffer, and only by misses; but people
    /// should know. CONFIG may be refused: then nothing is said.
    fn note_policy(&mut self, reply: &Value) {
        let Some(policy) = connect::policy_of(reply) else { return };
        if policy.starts_with("allkeys-") && self.policy.as_deref() != Some(policy) {
            tracing::warn!(policy, "Redis's maxmemory-policy may evict Terrace's own records; volatile-* does not");
        }
        self.policy = Some(policy.to_owned());
    }

    /// Whether a member of a cluster may be believed: while it says that the cluster works, nobody else can have taken
    /// its slots but under a higher epoch, of which it will hear; then the map is looked at before the fence moves on.
    async fn is_still_its_own(&self, info: Info) -> bool {
        if !info.works {
            self.redis.topology().ask();
            return false;
        }
        info.epoch <= self.redis.topology().map().epoch || self.redis.topology().refreshed(FENCE_SPAN).await
    }

    /// Drives the connection and its heartbeat until one of them ends.
    async fn listen(&self, opened: Opened, ears: &Ears) -> End {
        let Opened { connection, driver } = opened;
        tokio::select! {
            // First, so that a loss is seen before any PONG that came with it.
            biased;
            () = driver => End::Lost(CacheError::new(Kind::Unavailable, "Redis closed the invalidation link")),
            end = self.heartbeat(connection, ears) => end,
        }
    }

    async fn heartbeat(&self, mut connection: MultiplexedConnection, ears: &Ears) -> End {
        let mut ticks = interval(PING_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut previous: Option<Tick> = None;
        for round in 0_u32.. {
            ticks.tick().await;
            let sent_at = self.clock.now();
            let asks_role = round % ROLE_EVERY == ROLE_EVERY - 1;
            let beat = if asks_role { Beat::Role } else { self.beat };
            match beat_once(&mut connection, beat).await {
                Ok(Heard::Alive) => {}
                Ok(Heard::Cluster(info)) => {
                    if !self.is_still_its_own(info).await {
                        previous = None;
                        continue;
                    }
                }
                Err(end) => return end,
            }
            if let Some(previous) = previous.replace(sent_at)
                && ears.listening.load(Ordering::Acquire)
            {
                self.prove(previous);
            }
        }
        End::Lost(silent())
    }

    /// All changes of before `at` were heard. What L1 answers must have heard of all bans as well, and their log is one
    /// primary's: without it no fence moves on.
    fn prove(&self, at: Tick) {
        let log = self.redis.log();
        if self.redis.topology().map().of_key(LOG).is_some_and(|owner| owner.source == self.primary.source) {
            log.prove(at);
        }
        let until = at.min(log.proven()).plus(FENCE_SPAN);
        if self.clock.now() < until {
            self.sink.proven(self.primary.source, until);
        }
    }
}

/// What a heartbeat asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beat {
    Ping,
    Role,
    /// CLUSTER INFO: the state of the cluster as this member sees it, and its epoch.
    Cluster,
}

/// What it heard.
enum Heard {
    Alive,
    Cluster(Info),
}

/// One heartbeat and its answer.
async fn beat_once(connection: &mut MultiplexedConnection, beat: Beat) -> Result<Heard, End> {
    let mut command = Cmd::new();
    match beat {
        Beat::Ping => command.arg("PING"),
        Beat::Role => command.arg("ROLE"),
        Beat::Cluster => command.arg("CLUSTER").arg("INFO"),
    };
    let reply = match timeout(PONG_WITHIN, connection.send_packed_command(&command)).await {
        Ok(reply) => reply.map_err(|error| errors::from_connection(&error))?,
        Err(_) => return Err(End::Lost(silent())),
    };
    if let Value::ServerError(error) = &reply {
        return Err(errors::from_reply(error).into());
    }
    match beat {
        Beat::Ping => Ok(Heard::Alive),
        Beat::Role => check_role(&reply).map(|()| Heard::Alive),
        Beat::Cluster => Info::of(&reply).map(Heard::Cluster).ok_or_else(|| errors::unexpected("CLUSTER INFO").into()),
    }
}

fn silent() -> CacheError {
    CacheError::new(Kind::Unavailable, "Redis does not answer on the invalidation link")
}

/// A refusal by name, with the ACL rule that would allow it; other errors (loading, busy) pass by themselves.
fn accepted(reply: &Value, command: &str, rule: &str) -> Result<(), End> {
    let Value::ServerError(error) = reply else { return Ok(()) };
    let mapped = errors::from_reply(error);
    if mapped.kind() == Kind::Unavailable {
        return Err(End::Lost(mapped));
    }
    Err(End::Refused(refusal(error, command, rule)))
}

fn refusal(error: &ServerError, command: &str, rule: &str) -> String {
    let detail = error.details().unwrap_or_default();
    format!("{command} is refused ({} {detail}); the ACL rule {rule} allows it", error.code())
}

/// Only a primary sees every write when it happens.
fn check_role(reply: &Value) -> Result<(), End> {
    let Value::Array(parts) = reply else { return Err(errors::unexpected("ROLE").into()) };
    match parts.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        Some(Value::BulkString(role)) => {
            let role = String::from_utf8_lossy(role);
            Err(End::NotPrimary(format!("ROLE says {role}: L1 needs the primary (master)")))
        }
        Some(_) | None => Err(errors::unexpected("ROLE").into()),
    }
}

/// Hears pushes on behalf of the sink.
struct Ears {
    source: Source,
    log: Arc<BanLog>,
    sink: Arc<dyn InvalidationSink>,
    /// Tracking is on and the loss of this connection was not told yet.
    listening: AtomicBool,
}

impl Ears {
    fn new(source: Source, log: Arc<BanLog>, sink: Arc<dyn InvalidationSink>) -> Self {
        Self { source, log, sink, listening: AtomicBool::new(false) }
    }

    /// Called inside the driver: no waiting, no blocking.
    fn hear(&self, push: &PushInfo) {
        if push.kind == PushKind::Disconnection {
            self.lose("Redis closed the invalidation link");
        } else if push.kind == PushKind::Invalidate {
            self.invalidate(&push.data);
        }
    }

    /// `[[key, ...]]`, or `[nil]` for everything. What is neither is taken for everything: too much is safe.
    fn invalidate(&self, data: &[Value]) {
        let [Value::Array(keys)] = data else { return self.flush() };
        for key in keys {
            if let Value::BulkString(key) = key {
                self.log.hear(key);
                self.sink.invalidated(key);
            } else {
                self.flush();
            }
        }
    }

    fn flush(&self) {
        self.log.changed();
        self.sink.flushed(self.source);
    }

    /// Tells the loss of a connection that was listening, once.
    fn lose(&self, why: &str) {
        if self.listening.swap(false, Ordering::AcqRel) {
            self.sink.lost(self.source, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(prefixes: &[&'static str]) -> Vec<String> {
        let prefixes: Vec<_> = prefixes.iter().map(|prefix| Bytes::from_static(prefix.as_bytes())).collect();
        let reduced = tracked_prefixes(&prefixes);
        reduced.iter().map(|prefix| String::from_utf8_lossy(prefix).into_owned()).collect()
    }

    #[test]
    fn prefixes_are_reduced_until_none_overlaps() {
        assert!(reduced(&[]).is_empty());
        assert!(reduced(&["user:", ""]).is_empty());
        assert_eq!(reduced(&["user:"]), ["__terrace:", "user:"]);
        assert_eq!(reduced(&["user:", "user:1", "us", "z", "user:"]), ["__terrace:", "us", "z"]);
        assert_eq!(reduced(&["a", "ab", "abc", "b", "a\u{1}"]), ["__terrace:", "a", "b"]);
        assert_eq!(reduced(&["__"]), ["__"]);
        assert_eq!(reduced(&["__terrace:bans"]), ["__terrace:"]);
    }
}
