//! The invalidation link: one connection per Redis primary that receives every change (client tracking in broadcast mode)
//! and proves, by its heartbeat, that it has received all of them.
//!
//! The protocol is the one of the coherence page (points 1, 3, 6, 8):
//! * Each link has its own RESP3 connection. It enables `CLIENT TRACKING ON BCAST` for the prefixes that may be cached
//!   in L1, without NOLOOP (Redis also announces Terrace's own writes). ROLE must return master.
//! * Pushes are passed to the sink inside the connection's driver, in wire order, before a later reply is seen.
//! * A PING is sent every 100 ms. When PONG n+1 arrives, L1 may answer until the send time of PING n plus
//!   [`FENCE_SPAN`]. Two pings are required, because with BCAST a PONG may be sent before an invalidation of the same
//!   iteration of Redis's event loop. Every tenth ping is a ROLE, because a primary that was demoted in place keeps its
//!   clients.
//! * In a Redis Cluster, the heartbeat is CLUSTER INFO: a member that reports the cluster as down proves nothing, and
//!   after a new epoch, the map is refreshed before the fence advances.
//! * A slow PONG only lets the fence expire: the connection stays open, no push is lost, and the copies are valid again
//!   when the PONG arrives. The sink is notified immediately of a lost connection.
//! * Fill leases acquired before tracking was enabled again are void: the sink is notified of `listening` before it
//!   receives a fence.
//!
//! Driver, heartbeat and sink run in one task. Therefore, a PONG that was read before a loss cannot be processed after
//! the driver has detected the loss.
//!
//! SWAPDB causes no push (Redis limitation): see `redis`.

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

/// Interval of heartbeats; in normal operation, the fence is 0.9 s ahead.
const PING_EVERY: Duration = Duration::from_millis(100);
/// Deadline of a heartbeat reply; a later reply counts as a half-open connection. It is well above Δ: a Redis that is
/// busy for two seconds must bypass L1 for that time, but must not empty it.
const PONG_WITHIN: Duration = Duration::from_secs(3);
/// Number of heartbeats per ROLE query.
const ROLE_EVERY: u32 = 10;
/// Pause between connection attempts while Redis rejects a command that the link requires, because an operator must act
/// first.
const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// Settings of the invalidation links.
#[derive(Debug, Clone, Default)]
pub struct LinkSettings {
    /// Prefixes of the keys that may be cached in L1; empty = all keys. Overlapping prefixes are reduced.
    pub prefixes: Vec<Bytes>,
}

/// A running link. Dropping it ends the link; the fence then expires within [`FENCE_SPAN`].
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

    /// Ends the link and waits until its task has ended: it sends no further notifications.
    pub(crate) async fn end(mut self) {
        self.task.abort();
        // The task was cancelled, as intended; the runtime has reported a panic.
        let _ended = (&mut self.task).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns `prefixes` without those that another prefix covers, plus Terrace's own prefix; empty for all keys. Redis
/// rejects overlapping prefixes.
fn tracked_prefixes(prefixes: &[Bytes]) -> Vec<Bytes> {
    if prefixes.is_empty() {
        return Vec::new();
    }
    let mut sorted = prefixes.to_vec();
    sorted.push(Bytes::from_static(RESERVED_PREFIX));
    // In byte order, a covering prefix precedes the covered ones, and only covered prefixes are between the two.
    sorted.sort();
    let mut reduced: Vec<Bytes> = Vec::with_capacity(sorted.len());
    for prefix in sorted {
        if reduced.last().is_none_or(|kept| !prefix.starts_with(kept)) {
            reduced.push(prefix);
        }
    }
    if reduced.first().is_some_and(Bytes::is_empty) { Vec::new() } else { reduced }
}

/// Reason why an attempt or a connection ended.
enum End {
    /// Redis rejected a required command.
    Refused(String),
    /// The server is not a primary; a failover may change that at any time.
    NotPrimary(String),
    /// The server did not answer, or the connection was lost.
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
            | Kind::Denied
            | Kind::Internal => Self::Lost(error),
        }
    }
}

/// Keeps one link open.
struct Keeper {
    redis: Arc<Redis>,
    primary: Arc<Primary>,
    /// Regular heartbeat of this link.
    beat: Beat,
    dialer: Dialer,
    settings: LinkSettings,
    clock: Clock,
    sink: Arc<dyn InvalidationSink>,
    /// The last `maxmemory-policy`, so that each change is logged only once.
    policy: Option<String>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let receiver =
                Arc::new(PushReceiver::new(self.primary.source, Arc::clone(self.redis.log()), Arc::clone(&self.sink)));
            let end = self.connection(&receiver, &mut backoff).await;
            let wait = match &end {
                End::Refused(why) => {
                    receiver.lose(why);
                    self.sink.refused(self.primary.source, why);
                    REFUSED_RETRY
                }
                End::NotPrimary(why) => {
                    receiver.lose(why);
                    self.sink.not_primary(self.primary.source, why);
                    backoff.step()
                }
                End::Lost(error) => {
                    tracing::debug!(%error, redis = %self.primary.endpoint, "invalidation link failed; retrying");
                    receiver.lose(error.message());
                    backoff.step()
                }
            };
            // The primary may have changed.
            self.redis.topology().ask();
            sleep(wait).await;
        }
    }

    /// Runs one connection from its opening to its end.
    async fn connection(&mut self, receiver: &Arc<PushReceiver>, backoff: &mut Backoff) -> End {
        match self.open(receiver).await {
            Ok(opened) => {
                backoff.reset();
                tracing::info!(redis = %self.primary.endpoint, "invalidation link connected");
                self.listen(opened, receiver).await
            }
            Err(end) => end,
        }
    }

    async fn open(&mut self, receiver: &Arc<PushReceiver>) -> Result<Opened, End> {
        let for_pushes = Arc::clone(receiver);
        let on_push = Box::new(move |push: PushInfo| for_pushes.receive(&push));
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
        // Values that were read earlier were not tracked and must not be kept. The sink is notified before the first
        // fence.
        receiver.listening.store(true, Ordering::Release);
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

    /// Warns about an allkeys-* eviction policy: Redis may then evict Terrace's records. That causes only misses, but
    /// operators should know. If Redis rejects CONFIG, there is no warning.
    fn note_policy(&mut self, reply: &Value) {
        let Some(policy) = connect::policy_of(reply) else { return };
        if policy.starts_with("allkeys-") && self.policy.as_deref() != Some(policy) {
            tracing::warn!(
                policy,
                "the maxmemory-policy of Redis may evict Terrace's own records; use a volatile-* policy"
            );
        }
        self.policy = Some(policy.to_owned());
    }

    /// Returns true if a cluster member's reply may be trusted. While the member reports a working cluster, another
    /// server can have taken its slots only with a higher epoch, which the member will learn. After a new epoch, the
    /// map is refreshed before the fence advances.
    async fn is_still_its_own(&self, info: Info) -> bool {
        if !info.works {
            self.redis.topology().ask();
            return false;
        }
        info.epoch <= self.redis.topology().map().epoch || self.redis.topology().refreshed(FENCE_SPAN).await
    }

    /// Drives the connection and its heartbeat until one of them ends.
    async fn listen(&self, opened: Opened, receiver: &PushReceiver) -> End {
        let Opened { connection, driver } = opened;
        tokio::select! {
            // First, so that a loss is processed before a PONG that arrived with it.
            biased;
            () = driver => End::Lost(CacheError::new(Kind::Unavailable, "Redis closed the invalidation link")),
            end = self.heartbeat(connection, receiver) => end,
        }
    }

    async fn heartbeat(&self, mut connection: MultiplexedConnection, receiver: &PushReceiver) -> End {
        let mut ticks = interval(PING_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut previous: Option<Tick> = None;
        for round in 0_u32.. {
            ticks.tick().await;
            let sent_at = self.clock.now();
            let asks_role = round % ROLE_EVERY == ROLE_EVERY - 1;
            let beat = if asks_role { Beat::Role } else { self.beat };
            match beat_once(&mut connection, beat).await {
                Ok(BeatReply::Alive) => {}
                Ok(BeatReply::Cluster(info)) => {
                    if !self.is_still_its_own(info).await {
                        previous = None;
                        continue;
                    }
                }
                Err(end) => return end,
            }
            if let Some(previous) = previous.replace(sent_at)
                && receiver.listening.load(Ordering::Acquire)
            {
                self.prove(previous);
            }
        }
        End::Lost(silent())
    }

    /// Advances the fence: all changes before `at` were received. L1 must also know all bans, whose log is on one
    /// primary: without that primary, no fence advances.
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

/// Command of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beat {
    Ping,
    Role,
    /// CLUSTER INFO: the cluster's state as this member sees it, and its epoch.
    Cluster,
}

/// Reply to a heartbeat.
enum BeatReply {
    Alive,
    Cluster(Info),
}

/// Sends one heartbeat and waits for its reply.
async fn beat_once(connection: &mut MultiplexedConnection, beat: Beat) -> Result<BeatReply, End> {
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
        Beat::Ping => Ok(BeatReply::Alive),
        Beat::Role => check_role(&reply).map(|()| BeatReply::Alive),
        Beat::Cluster => {
            Info::of(&reply).map(BeatReply::Cluster).ok_or_else(|| errors::unexpected("CLUSTER INFO").into())
        }
    }
}

fn silent() -> CacheError {
    CacheError::new(Kind::Unavailable, "Redis does not answer on the invalidation link")
}

/// Maps the rejection of a command to a message with the ACL rule that permits the command. Other errors (loading,
/// busy) are temporary.
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
    format!("Redis rejected {command} ({} {detail}); grant the ACL rule {rule}", error.code())
}

/// Checks the reply of ROLE: only a primary sees every write when it happens.
fn check_role(reply: &Value) -> Result<(), End> {
    let Value::Array(parts) = reply else { return Err(errors::unexpected("ROLE").into()) };
    match parts.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        Some(Value::BulkString(role)) => {
            let role = String::from_utf8_lossy(role);
            Err(End::NotPrimary(format!("the Redis server has the role {role}; L1 requires the primary (master)")))
        }
        Some(_) | None => Err(errors::unexpected("ROLE").into()),
    }
}

/// Receives pushes and passes them to the sink.
struct PushReceiver {
    source: Source,
    log: Arc<BanLog>,
    sink: Arc<dyn InvalidationSink>,
    /// Tracking is enabled, and the loss of this connection has not been reported yet.
    listening: AtomicBool,
}

impl PushReceiver {
    fn new(source: Source, log: Arc<BanLog>, sink: Arc<dyn InvalidationSink>) -> Self {
        Self { source, log, sink, listening: AtomicBool::new(false) }
    }

    /// Handles a push. Called inside the driver: must not wait or block.
    fn receive(&self, push: &PushInfo) {
        if push.kind == PushKind::Disconnection {
            self.lose("Redis closed the invalidation link");
        } else if push.kind == PushKind::Invalidate {
            self.invalidate(&push.data);
        }
    }

    /// Handles `[[key, ...]]`, or `[nil]` for all keys. Other data counts as all keys, because extra invalidations are
    /// safe.
    fn invalidate(&self, data: &[Value]) {
        let [Value::Array(keys)] = data else { return self.flush() };
        for key in keys {
            if let Value::BulkString(key) = key {
                self.log.key_changed(key);
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

    /// Reports the loss of a connection that was listening, only once.
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
