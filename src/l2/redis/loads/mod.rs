//! Load leases on Redis: one record per key with a load in progress, in the key's slot.
//!
//! **Writes** remove the record first, in the same pipeline: a load that began before the write cannot fill the key after
//! it. Only a deployment that uses leases pays for that: the [mark](super::bans::mark) in the ban log states that leases are in use.
//!
//! **A fill** is one script that compares the record, the fingerprint of the key, the mark and the greatest ban number. A
//! fill whose outcome is unknown is not repeated; the node removes what the fill may have stored.

use std::time::Duration;

use ::redis::{Cmd, Value as Reply};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{
    bans::{
        mark::{MARK_AGE_MIN, Mark},
        records::{LOG, number},
        sweep::time_us,
    },
    command::{
        batch::word,
        errors,
        load_scripts::{ACQUIRE, END_LOAD, FILL, MARK_LOADS},
        ops,
        read::life,
        scripts::By,
    },
    requests::{deadline::after, pipelined_connection::Access, route::Unit},
    topology::slots::{TAGS, slot},
    worker::RedisBackend,
};
use crate::{
    clock::{Tick, millis},
    error::{CacheError, Kind, Result},
    l2::{
        FENCE_SPAN, Op, Stored,
        loads::{Acquire, Acquired, End, EndLoad, Fill, Filled, LeaseFence, LoadOp, LoadResult, LoadStore, Loaded},
    },
    model::{Key, RESERVED_PREFIX},
};

/// Maximum number of times that a fill is sent: again after a ban that does not cover the key.
const FILLS_MAX: usize = 3;

impl LoadStore for RedisBackend {
    fn load(&self, key: Key, op: LoadOp) -> BoxFuture<'_, Result<LoadResult>> {
        Box::pin(async move {
            match op {
                LoadOp::Acquire(request) => {
                    let lease = request.lease;
                    let acquired = self.acquire(&key, request).await;
                    acquired.or_else(|error| unfenced(error, lease)).map(LoadResult::Acquired)
                }
                LoadOp::Fill(fill) => self.fill(&key, &fill).await.map(LoadResult::Filled),
                LoadOp::End(end) => self.end_load(&key, &end).await.map(LoadResult::Ended),
            }
        })
    }
}

impl RedisBackend {
    /// Returns the key of the record of a key, in the key's slot.
    pub(in crate::l2::redis) fn load_record(&self, key: &[u8]) -> Vec<u8> {
        let prefix = match self.is_spread() {
            true => format!("__terrace:load:{{{}}}:", TAGS[usize::from(slot(key))]),
            false => "__terrace:load::".to_owned(),
        };
        [prefix.as_bytes(), key].concat()
    }

    /// Returns the command that removes the record of a key before a write; `None` while leases are not in use, and for
    /// Terrace's own records.
    pub(in crate::l2::redis) fn forgetting(&self, key: &Key) -> Option<Cmd> {
        (self.log().must_forget_loads() && !key.starts_with(RESERVED_PREFIX))
            .then(|| ops::plain("DEL", &self.load_record(key)))
    }

    /// As [`RedisBackend::forgetting`], before an operation. Terrace removes entries with invalid tags; no client has
    /// written such a key.
    pub(in crate::l2::redis) fn forgetting_for(&self, key: &Key, op: &Op) -> Option<Cmd> {
        if matches!(op, Op::Bury { .. }) { None } else { self.forgetting(key) }
    }

    /// Returns the mark, creating it if there is none. `None` while no lease can be fenced.
    async fn usable_mark(&self) -> Result<Option<Mark>> {
        let _known = self.bans().await?;
        let log = self.log();
        if log.mark().is_none() {
            let mut command = MARK_LOADS.call(By::Text, LOG);
            command.arg(format!("{:016x}", fastrand::u64(1..))).arg(log.greatest_seen());
            if let Reply::Int(created @ 1..) = self.ask_log(command, Access::Write).await? {
                let created = created.unsigned_abs();
                if self.is_spread() {
                    // A primary without the number notifies no writer, but a writer's log is never older than this.
                    let _stamped = self.stamp_all(created).await;
                }
                log.saw(created);
                tracing::info!("load leases are in use from now on; writes remove the lease of their key");
            }
            log.changed();
            self.look().await?;
        }
        // The scripts compare the age by Redis's clock. Primaries of a cluster may have different clocks.
        let is_old = |since: Tick| !self.is_spread() || log.clock.now() >= since.plus(MARK_AGE_MIN);
        Ok(log.mark_since().filter(|(_, since)| is_old(*since)).map(|(mark, _)| mark))
    }

    async fn acquire(&self, key: &Key, request: Acquire) -> Result<Acquired> {
        let deadline = after(self.tunables().deadlines().write);
        let mark = self.usable_mark().await?;
        let mut request = request;
        loop {
            let known = self.bans().await?;
            let clearing = self.clearing(known.open(), key);
            let (reply, by_ask) = self
                .run_load(key, clearing, deadline, |by| {
                    self.acquire_command(key, &request, mark.as_ref(), known.greatest, by)
                })
                .await?;
            match self.acquired(key, reply, known.greatest, mark.as_ref())? {
                // The keys of this slot move to a primary whose changes are not announced by the present one.
                Some(Acquired::Granted { stored, lease, taken_over, .. }) if by_ask => {
                    return Ok(Acquired::Granted { stored, fence: None, lease, taken_over });
                }
                Some(acquired) => return Ok(acquired),
                // A ban covers the negative answer.
                None if request.ignore_absent => return Err(errors::unexpected("a script")),
                None => request.ignore_absent = true,
            }
        }
    }

    fn acquire_command(&self, key: &Key, request: &Acquire, mark: Option<&Mark>, greatest: u64, by: By) -> Cmd {
        let record = self.load_record(key);
        let mut command = ACQUIRE.call_with(by, [&key[..], &record[..]].into_iter());
        command.arg(millis(request.stale)).arg(millis(request.lease)).arg(hex(&request.holder));
        command.arg(format!("{:016x}", request.generation)).arg(request.force).arg(request.ignore_absent);
        command.arg(mark.map_or_else(String::new, Mark::id_text)).arg(mark.map_or(0, |mark| mark.created_ms));
        command.arg(millis(MARK_AGE_MIN)).arg(greatest);
        command
    }

    /// Decodes the reply to an acquire; `None` for a negative answer that a ban covers.
    fn acquired(&self, key: &Key, reply: Reply, ban: u64, mark: Option<&Mark>) -> Result<Option<Acquired>> {
        let wrong = || errors::unexpected("a script");
        let Reply::Array(parts) = reply else { return Err(wrong()) };
        let mut parts = parts.into_iter();
        let word = text(parts.next()).ok_or_else(wrong)?;
        if word == "absent" {
            let (Some(left), Some(since), Some(Reply::BulkString(head))) =
                (milliseconds(parts.next()), text(parts.next()), parts.next())
            else {
                return Err(wrong());
            };
            let since = number(since.as_bytes()).ok_or_else(wrong)?;
            let is_covered = self.log().may_cover(key, since, ban);
            return Ok((!is_covered).then(|| Acquired::Absent { life: left, head: head.into() }));
        }
        let value = ops::payload(parts.next().ok_or_else(wrong)?, "a script")?;
        let life = life(parts.next().ok_or_else(wrong)?)?;
        let stored = value.map(|value| Stored { value, life });
        Ok(Some(match word.as_str() {
            "fresh" => Acquired::Fresh(stored.ok_or_else(wrong)?),
            "granted" => {
                let generation = text(parts.next()).ok_or_else(wrong)?;
                let lease = milliseconds(parts.next()).ok_or_else(wrong)?;
                let taken_over = matches!(parts.next(), Some(Reply::Int(1)));
                let ban = text(parts.next()).and_then(|ban| number(ban.as_bytes())).ok_or_else(wrong)?;
                let fence = u64::from_str_radix(&generation, 16).ok().zip(mark);
                let fence = fence.map(|(generation, mark)| LeaseFence { generation, ban, mark: mark.id });
                Acquired::Granted { stored, fence, lease, taken_over }
            }
            "busy" => Acquired::Busy {
                stored,
                age: milliseconds(parts.next()).ok_or_else(wrong)?,
                left: milliseconds(parts.next()).ok_or_else(wrong)?,
                holder: text(parts.next())
                    .and_then(|hex| u128::from_str_radix(&hex, 16).ok())
                    .ok_or_else(wrong)?
                    .to_be_bytes(),
            },
            "failed" => Acquired::Failed {
                stored,
                message: ops::optional(parts.next().ok_or_else(wrong)?, "a script")?.unwrap_or_default().into_bytes(),
                retry_after: milliseconds(parts.next()).ok_or_else(wrong)?,
            },
            _ => return Err(wrong()),
        }))
    }

    async fn fill(&self, key: &Key, fill: &Fill) -> Result<Filled> {
        let deadline = after(self.tunables().deadlines().write);
        for _ in 0..FILLS_MAX {
            let known = self.bans().await?;
            if self.log().mark().is_none_or(|mark| mark.id != fill.fence.mark) {
                return Ok(Filled::LeaseLost);
            }
            if self.log().may_cover(key, fill.fence.ban, known.greatest) {
                return Ok(Filled::Invalidated);
            }
            let Some(limit) = self.fill_limit(key, deadline).await? else { return Ok(Filled::LeaseLost) };
            let clearing = self.clearing(known.open(), key);
            let sent =
                self.run_load(key, clearing, deadline, |by| self.fill_command(key, fill, known.greatest, &limit, by));
            match sent.await {
                Ok((reply, _)) => match filled(reply)? {
                    Some(filled) => return Ok(filled),
                    // A newer ban exists: the log is read again.
                    None => self.log().changed(),
                },
                Err(error) if matches!(error.kind(), Kind::Unknown | Kind::DeadlineExceeded) => {
                    return self.clear_fill(key, error).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Filled::Invalidated)
    }

    /// Returns the time limit of a fill by the clock of the key's primary: the end of the proof that this node knows the
    /// mark and all bans. Empty on a single server, whose script checks both; `None` without a proof.
    async fn fill_limit(&self, key: &Key, deadline: Instant) -> Result<Option<String>> {
        if !self.is_spread() {
            return Ok(Some(String::new()));
        }
        let reply = self.ask_key(key, word("TIME"), Access::Read, deadline).await?;
        let now = time_us(&reply).ok_or_else(|| errors::unexpected("TIME"))?;
        let log = self.log();
        let left = log.proven().plus(FENCE_SPAN).since(log.clock.now());
        Ok((!left.is_zero()).then(|| (now + left.as_micros() as u64).to_string()))
    }

    fn fill_command(&self, key: &Key, fill: &Fill, greatest: u64, limit: &str, by: By) -> Cmd {
        let record = self.load_record(key);
        let (mut names, mut stamp) = (vec![&key[..], &record[..]], Vec::new());
        if self.is_spread() {
            let map = self.redis.topology().map();
            let source = map.of_key(key).map(|primary| primary.source);
            stamp = source.and_then(|source| map.stamp(source)).map(<[u8]>::to_vec).unwrap_or_default();
        } else {
            names.push(LOG);
        }
        let mut command = FILL.call_with(by, names.into_iter());
        command.arg(format!("{:016x}", fill.fence.generation)).arg(format!("{:016x}", fill.fence.mark));
        command.arg(greatest).arg(limit).arg(stamp);
        match &fill.loaded {
            Loaded::Value { stored, expiry } => {
                command.arg("value").arg(&stored[..]);
                ops::add_expiry(&mut command, *expiry);
            }
            Loaded::Absent { life, head } => {
                command.arg("absent").arg(&head[..]).arg(millis(*life).max(1));
            }
        }
        command
    }

    /// Removes what a fill with an unknown outcome stored or will store. The record is removed first, so that a fill that
    /// runs later stores nothing.
    async fn clear_fill(&self, key: &Key, unknown: CacheError) -> Result<Filled> {
        let mut unlink = ops::plain("UNLINK", &self.load_record(key));
        unlink.arg(&key[..]);
        let deadline = after(self.tunables().deadlines().write);
        match self.ask_key(key, unlink, Access::Write, deadline).await {
            Ok(_) => Ok(Filled::Invalidated),
            Err(_) => Err(unknown),
        }
    }

    async fn end_load(&self, key: &Key, ended: &EndLoad) -> Result<bool> {
        let record = self.load_record(key);
        let deadline = after(self.tunables().deadlines().write);
        let command = |by| {
            let mut command = END_LOAD.call(by, &record);
            command.arg(hex(&ended.holder));
            match &ended.end {
                End::Released => command.arg("released"),
                End::HolderLeft => command.arg("left"),
                End::Failed { message, retry_after } => {
                    let pause = retry_after.map_or_else(String::new, |pause| millis(pause).to_string());
                    command.arg("failed").arg(&message[..]).arg(pause).arg(0.9 + 0.2 * fastrand::f64())
                }
            };
            command
        };
        let (reply, _) = self.run_load(key, None, deadline, command).await?;
        Ok(ops::integer(&reply, "a script")? == 1)
    }

    /// Runs a script of a key after `clearing`. Returns its reply, and true if a primary replied that does not own the slot
    /// yet.
    async fn run_load(
        &self,
        key: &Key,
        clearing: Option<Cmd>,
        deadline: Instant,
        command: impl Fn(By) -> Cmd,
    ) -> Result<(Reply, bool)> {
        for by in [By::Digest, By::Text] {
            let unit = match &clearing {
                Some(clearing) => Unit::transaction(slot(key), vec![clearing.clone(), command(by)]),
                None => Unit::single(key, command(by)),
            };
            let answered = self.ask_units(vec![unit], Access::Write, deadline).await.pop();
            let mut answered = answered.unwrap_or_else(|| Err(errors::unexpected("a script")))?;
            let reply = answered.replies.pop().ok_or_else(|| errors::unexpected("a script"))?;
            if by == By::Digest && ops::is_unknown_script(&reply) {
                continue;
            }
            answered.replies.into_iter().try_for_each(|reply| ops::checked(reply).map(drop))?;
            return Ok((ops::checked(reply)?, answered.by_ask));
        }
        Err(errors::unexpected("a script"))
    }
}

/// Grants a lease that cannot be fenced if Redis answers reads but refuses writes; a read must not fail for that.
fn unfenced(error: CacheError, lease: Duration) -> Result<Acquired> {
    if !error.refuses_writes() {
        return Err(error);
    }
    Ok(Acquired::Granted { stored: None, fence: None, lease, taken_over: false })
}

/// Decodes the reply to a fill; `None` if a newer ban exists.
fn filled(reply: Reply) -> Result<Option<Filled>> {
    let wrong = || errors::unexpected("a script");
    let Reply::Array(parts) = reply else { return Err(wrong()) };
    let mut parts = parts.into_iter();
    Ok(match text(parts.next()).ok_or_else(wrong)?.as_str() {
        "stored" => Some(Filled::Stored {
            took: milliseconds(parts.next()).ok_or_else(wrong)?,
            differs: matches!(parts.next(), Some(Reply::Int(1))),
        }),
        "lost" => Some(Filled::LeaseLost),
        "changed" => Some(Filled::Changed),
        "bans" => None,
        _ => return Err(wrong()),
    })
}

fn text(reply: Option<Reply>) -> Option<String> {
    if let Some(Reply::BulkString(bytes)) = reply { String::from_utf8(bytes).ok() } else { None }
}

fn milliseconds(reply: Option<Reply>) -> Option<Duration> {
    if let Some(Reply::Int(number)) = reply { Some(Duration::from_millis(number.max(0).unsigned_abs())) } else { None }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
