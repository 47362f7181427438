//! Reads, follows, writes and restores the ban log.

use std::{sync::atomic::Ordering, time::Duration};

use ::redis::{Cmd, Value as Reply};
use tokio::time::Instant;

use super::{
    mark::replication_of,
    records::LOG,
    state::{BanLog, Known, LogContents},
};
use crate::{
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::{
        FENCE_SPAN,
        bans::{OPEN_MAX, too_many},
        redis::{
            command::{
                batch::word,
                errors, ops,
                scripts::{BAN, By, RESTORE_BANS},
            },
            requests::{deadline::after, pipelined_connection::Access, route::Unit},
            worker::RedisBackend,
        },
    },
};

/// Time between two failed attempts to read the log.
pub(crate) const LOOK_APART: Duration = Duration::from_millis(50);

impl RedisBackend {
    pub(in crate::l2::redis) fn log(&self) -> &BanLog {
        self.redis.log()
    }

    /// Returns the known bans, after reading the log if the known state may be outdated.
    pub(in crate::l2::redis) async fn bans(&self) -> Result<Known> {
        let log = self.log();
        if !log.is_current() {
            self.look().await?;
        }
        // Order matters: the list must be at least as new as the number.
        let greatest = log.known();
        Ok(Known { greatest, open: log.open.all() })
    }

    /// Reads the log. Concurrent calls share one read and its error.
    pub(in crate::l2::redis) async fn look(&self) -> Result<()> {
        let log = self.log();
        let before = log.looks.load(Ordering::Acquire);
        let mut failed = log.reading.lock().await;
        if log.is_current() {
            return Ok(());
        }
        if log.looks.load(Ordering::Acquire) == before {
            *failed = self.read_log().await.err();
            log.looks.fetch_add(1, Ordering::AcqRel);
        }
        match &*failed {
            None => Ok(()),
            // If the log may not be read, or has another type, no node can have opened a ban.
            Some(error) if matches!(error.kind(), Kind::NoAccess | Kind::WrongType) => {
                log.seen.store(log.changes.load(Ordering::Acquire), Ordering::Release);
                log.prove(log.clock.now());
                Ok(())
            }
            Some(_) if self.is_spread() => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    async fn read_log(&self) -> Result<()> {
        let log = self.log();
        for _ in 0..2 {
            let (changes, at) = (log.changes.load(Ordering::Acquire), log.clock.now());
            let mut contents = LogContents::of(self.ask_log(ops::plain("HGETALL", LOG), Access::Read).await?)?;
            if let Some(mark) = contents.mark
                && self.replication_of_log().await? != Some(mark.replication)
            {
                // A failover brought the mark of another primary.
                contents.mark = None;
            }
            if log.take(contents, at, changes) {
                return Ok(());
            }
            self.restore().await?;
        }
        Err(CacheError::new(Kind::Unavailable, "the ban log changed while it was read").retry_after(LOOK_APART))
    }

    /// Returns the beginning of the replication id of the primary that holds the log.
    async fn replication_of_log(&self) -> Result<Option<u64>> {
        let mut command = word("INFO");
        command.arg("replication");
        let reply = self.ask_log(command, Access::Read).await?;
        Ok(ops::optional(reply, "INFO")?.and_then(|info| replication_of(&info)))
    }

    /// Restores a log that lost records. Unknown bans may have been lost as well, so L1 copies of all primaries become
    /// invalid.
    async fn restore(&self) -> Result<()> {
        tracing::warn!("the ban log (__terrace:bans) in Redis lost records; invalidating L1 and restoring the log");
        let log = self.log();
        if let Some(sink) = &*log.sink.read() {
            self.redis.topology().map().primaries.iter().for_each(|primary| sink.flushed(primary.source));
        }
        self.restore_log().await
    }

    /// Writes the known log again if Redis has an older one or none: numbers never restart.
    async fn restore_log(&self) -> Result<()> {
        let log = self.log();
        let mut command = RESTORE_BANS.call(By::Text, LOG);
        command.arg(log.greatest_seen());
        for ban in log.open.all().iter().flat_map(|open| open.iter()) {
            command.arg(ban.number).arg(&ban.glob.pattern()[..]);
        }
        self.ask_log(command, Access::Write).await.map(drop)
    }

    /// Keeps the log over a flush, so that the numbers of later bans are greater than those of earlier bans even if this
    /// node stops. Open bans stay open: a node that reads the log before it restores it would otherwise stop noting keys
    /// while another node still sweeps.
    pub(in crate::l2::redis) async fn keep_log_after_flush(&self) {
        if self.log().greatest_seen() == 0 {
            return;
        }
        if let Err(error) = self.restore_log().await {
            tracing::debug!(%error, "could not restore the ban log after a flush; retrying at the next use");
            self.log().changed();
        }
    }

    pub(in crate::l2::redis) async fn ask_log(&self, command: Cmd, access: Access) -> Result<Reply> {
        let deadlines = self.tunables().deadlines();
        let within = if access == Access::Read { deadlines.read } else { deadlines.write };
        self.ask_key(LOG, command, access, after(within)).await
    }

    /// Sends one command about one key to the primary that holds the key.
    pub(in crate::l2::redis) async fn ask_key(
        &self,
        key: &[u8],
        command: Cmd,
        access: Access,
        deadline: Instant,
    ) -> Result<Reply> {
        let mut answers = self.ask_units(vec![Unit::single(key, command)], access, deadline).await;
        let answered = answers.pop().unwrap_or_else(|| Err(errors::unexpected("a command")))?;
        answered.replies.into_iter().next().map_or_else(|| Err(errors::unexpected("a command")), ops::checked)
    }

    /// Reads the log whenever it changes, for as long as this future is polled. Failed reads are retried.
    pub(in crate::l2::redis) async fn follow_bans(&self) {
        loop {
            let rung = self.log().ring.notified();
            if self.log().is_read() {
                rung.await;
                continue;
            }
            // Calls that need the log see the same error and report it.
            let _failed = self.look().await;
            if !self.log().is_read() {
                tokio::time::sleep(LOOK_APART).await;
            }
        }
    }

    /// Opens a ban: in the log, then in each primary's stamp, then in this process.
    pub(in crate::l2::redis) async fn open_ban(&self, glob: &Glob) -> Result<u64> {
        self.look().await?;
        let mut command = BAN.call(By::Text, LOG);
        command.arg(&glob.pattern()[..]).arg(OPEN_MAX).arg(self.log().greatest_seen());
        let number = ops::integer(&self.ask_log(command, Access::Write).await?, "a script")?;
        let number = u64::try_from(number).ok().filter(|number| *number > 0).ok_or_else(too_many)?;
        if self.is_spread() && !self.stamp_all(number).await {
            // A primary without the new stamp may not notify writers of the ban; but no node uses a log that is older
            // than this.
            tokio::time::sleep(FENCE_SPAN).await;
        }
        self.log().saw(number);
        self.look().await?;
        Ok(number)
    }

    /// Writes a ban number to each primary's copy. Returns false if a primary did not store it.
    pub(in crate::l2::redis) async fn stamp_all(&self, number: u64) -> bool {
        let stamps = self.redis.topology().map().stamps();
        let units = stamps.iter().map(|stamp| {
            let mut command = ops::plain("SET", stamp);
            command.arg(number);
            Unit::single(stamp, command)
        });
        let deadline = after(self.tunables().deadlines().write);
        let answers = self.ask_units(units.collect(), Access::Write, deadline).await;
        answers.into_iter().all(|answer| answer.is_ok_and(|answered| answered.replies.iter().all(is_ok)))
    }
}

fn is_ok(reply: &Reply) -> bool {
    matches!(reply, Reply::Okay)
}
