//! The log of bans: what this process knows of it, and how it is read, opened and restored.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{Cmd, Value as Reply};
use parking_lot::RwLock;
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use super::{GREATEST, LOG, number};
use crate::{
    clock::{Clock, Tick},
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::{
        Ban, FENCE_SPAN, InvalidationSink,
        bans::{OPEN_MAX, OpenBans, too_many},
        redis::{
            RedisBackend, after, errors,
            lane::Access,
            ops,
            route::Unit,
            scripts::{BAN, By, RESTORE_BANS},
            topology::{SLOTS, slot},
        },
    },
};

/// Time between two looks that fail.
pub(super) const LOOK_APART: Duration = Duration::from_millis(50);

/// The log, as this process knows it; shared by its workers.
#[derive(Default)]
pub(in crate::l2::redis) struct Log {
    pub(in crate::l2::redis) open: OpenBans,
    clock: Clock,
    /// The greatest number that the log said when it was read.
    known: AtomicU64,
    /// The greatest number met anywhere; `known` is never above it.
    heard: AtomicU64,
    /// Steps with each sign that the log has changed.
    changes: AtomicU64,
    /// `changes` as they were when the last look that succeeded was begun.
    seen: AtomicU64,
    /// [`Tick`] when the log was known to be as it is known here.
    proven: AtomicU64,
    /// Looks that have ended.
    looks: AtomicU64,
    /// Why the last one failed.
    reading: Mutex<Option<CacheError>>,
    ring: Notify,
    sink: RwLock<Option<Arc<dyn InvalidationSink>>>,
}

impl Log {
    /// Who is told of bans.
    pub(in crate::l2::redis) fn tell(&self, sink: Arc<dyn InvalidationSink>) {
        *self.sink.write() = Some(sink);
    }

    /// Something announced a change of the log, or that changes were missed.
    pub(in crate::l2::redis) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.ring.notify_one();
    }

    /// A key was announced as changed.
    pub(in crate::l2::redis) fn hear(&self, key: &[u8]) {
        if key == LOG {
            self.changed();
        }
    }

    /// A number was met.
    pub(in crate::l2::redis) fn met(&self, number: u64) {
        if self.heard.fetch_max(number, Ordering::AcqRel) < number && number > self.known() {
            self.changed();
        }
    }

    pub(in crate::l2::redis) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    /// Whether all changes that were announced have been read.
    fn is_read(&self) -> bool {
        self.seen.load(Ordering::Acquire) == self.changes.load(Ordering::Acquire)
    }

    /// All changes of before `at` have been announced.
    pub(in crate::l2::redis) fn prove(&self, at: Tick) {
        if self.is_read() {
            self.proven.fetch_max(at.0, Ordering::AcqRel);
        }
    }

    /// When the log was last known to be as it is known here.
    pub(in crate::l2::redis) fn proven(&self) -> Tick {
        Tick(self.proven.load(Ordering::Acquire))
    }

    /// Whether calls may go by what is known. Where nobody follows the links, what was read once is known until a pipeline
    /// tells otherwise.
    #[inline]
    fn is_current(&self) -> bool {
        let proven = self.proven();
        let is_fresh = || self.clock.now() < proven.plus(FENCE_SPAN) || self.sink.read().is_none();
        self.is_read() && proven != Tick::ZERO && is_fresh()
    }

    /// Takes what the log said when it was asked at `at`, after `changes` signs; `false` if it is not all that it was.
    fn take(&self, said: Said, at: Tick, changes: u64) -> bool {
        if said.greatest < self.heard() {
            return false;
        }
        let new = self.open.replace(said.open);
        // In this order: what is known has been heard of.
        self.heard.fetch_max(said.greatest, Ordering::AcqRel);
        self.known.store(said.greatest, Ordering::Release);
        if let Some(sink) = &*self.sink.read() {
            new.iter().for_each(|ban| sink.banned(ban));
        }
        self.seen.fetch_max(changes, Ordering::AcqRel);
        self.prove(at);
        true
    }
}

/// What the log says.
#[derive(Debug, Default)]
struct Said {
    greatest: u64,
    open: Vec<Arc<Ban>>,
}

impl Said {
    /// HGETALL's reply in RESP2. A field that nobody of ours wrote is left out.
    fn of(reply: Reply) -> Result<Self> {
        let Reply::Array(flat) = ops::checked(reply)? else { return Err(errors::unexpected("HGETALL")) };
        let mut flat = flat.into_iter();
        let mut said = Self::default();
        while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
            let (Reply::BulkString(field), Reply::BulkString(value)) = (field, value) else { continue };
            if field == GREATEST.as_bytes() {
                said.greatest = number(&value).unwrap_or(0);
            } else if let (Some(number), Ok(glob)) = (number(&field), Glob::new(&value)) {
                said.open.push(Arc::new(Ban { number, glob }));
            }
        }
        Ok(said)
    }
}

/// For each slot a number whose digits, as a hash tag, fall into it.
pub(super) static TAGS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
    let mut tags = vec![u32::MAX; SLOTS].into_boxed_slice();
    let mut left = SLOTS;
    for number in 0.. {
        let place = &mut tags[usize::from(slot(number.to_string().as_bytes()))];
        if *place == u32::MAX {
            *place = number;
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    tags
});

/// The key of a primary's copy of the greatest number: one in its first slot.
pub(in crate::l2::redis) fn stamp(first_slot: u16) -> Vec<u8> {
    format!("__terrace:ban:{{{}}}", TAGS[usize::from(first_slot)]).into_bytes()
}

/// What a call knows of bans while it runs.
pub(in crate::l2::redis) struct Known {
    /// Those that were open when it began, if any.
    pub(in crate::l2::redis) open: Option<Arc<Vec<Arc<Ban>>>>,
    /// The greatest number that was known then.
    pub(in crate::l2::redis) greatest: u64,
}

impl Known {
    pub(in crate::l2::redis) fn open(&self) -> &[Arc<Ban>] {
        self.open.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("known", &self.known).field("open", &self.open).finish_non_exhaustive()
    }
}

impl RedisBackend {
    pub(super) fn log(&self) -> &Log {
        self.redis.log()
    }

    /// What is known of bans, after a look at the log if that is due.
    pub(in crate::l2::redis) async fn bans(&self) -> Result<Known> {
        let log = self.log();
        if !log.is_current() {
            self.look().await?;
        }
        // In this order: the list is at least as new as the number.
        let greatest = log.known();
        Ok(Known { greatest, open: log.open.all() })
    }

    /// Reads the log. Calls that need it at the same time share one look, and its failure.
    pub(super) async fn look(&self) -> Result<()> {
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
            // Where the log may not be read, or is none, nobody can have opened a ban.
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
            let said = Said::of(self.ask_log(ops::plain("HGETALL", LOG), Access::Read).await?)?;
            if log.take(said, at, changes) {
                return Ok(());
            }
            self.restore().await?;
        }
        Err(CacheError::new(Kind::Unavailable, "the log of bans changes while it is read").retry_after(LOOK_APART))
    }

    /// The log lost what it held: what was opened and not heard of may be anything, so no copy is answered any more.
    async fn restore(&self) -> Result<()> {
        tracing::warn!(
            "the log of bans (__terrace:bans) was lost or cut; L1 begins afresh and the log is written again"
        );
        let log = self.log();
        if let Some(sink) = &*log.sink.read() {
            self.redis.topology().map().primaries.iter().for_each(|primary| sink.flushed(primary.source));
        }
        let mut command = RESTORE_BANS.call(By::Text, LOG);
        command.arg(log.heard());
        for ban in log.open.all().iter().flat_map(|open| open.iter()) {
            command.arg(ban.number).arg(&ban.glob.pattern()[..]);
        }
        self.ask_log(command, Access::Write).await.map(drop)
    }

    pub(super) async fn ask_log(&self, command: Cmd, access: Access) -> Result<Reply> {
        let deadlines = self.tunables().deadlines();
        let within = if access == Access::Read { deadlines.read } else { deadlines.write };
        self.ask_key(LOG, command, access, after(within)).await
    }

    /// One command about one key, where that key is.
    pub(super) async fn ask_key(&self, key: &[u8], command: Cmd, access: Access, deadline: Instant) -> Result<Reply> {
        let mut answers = self.ask_units(vec![Unit::new(key, vec![command])], access, deadline).await;
        let answered = answers.pop().unwrap_or_else(|| Err(errors::unexpected("a command")))?;
        answered.replies.into_iter().next().map_or_else(|| Err(errors::unexpected("a command")), ops::checked)
    }

    /// Reads the log whenever it changes, for as long as this is polled; what cannot be read is tried again.
    pub(in crate::l2::redis) async fn follow_bans(&self) {
        loop {
            let rung = self.log().ring.notified();
            if self.log().is_read() {
                rung.await;
                continue;
            }
            // Calls meet the same error and tell it.
            let _failed = self.look().await;
            if !self.log().is_read() {
                tokio::time::sleep(LOOK_APART).await;
            }
        }
    }

    /// Opens a ban: in the log, then in each primary's stamp, then here.
    pub(in crate::l2::redis) async fn open_ban(&self, glob: &Glob) -> Result<u64> {
        self.look().await?;
        let mut command = BAN.call(By::Text, LOG);
        command.arg(&glob.pattern()[..]).arg(OPEN_MAX).arg(self.log().heard());
        let number = ops::integer(&self.ask_log(command, Access::Write).await?, "a script")?;
        let number = u64::try_from(number).ok().filter(|number| *number > 0).ok_or_else(too_many)?;
        if self.is_spread() && !self.stamp_all(number).await {
            // Whoever writes there may not be told; but no node goes by an older log than this.
            tokio::time::sleep(FENCE_SPAN).await;
        }
        self.log().met(number);
        self.look().await?;
        Ok(number)
    }

    async fn stamp_all(&self, number: u64) -> bool {
        let stamps = self.redis.topology().map().stamps();
        let units = stamps.iter().map(|stamp| {
            let mut command = ops::plain("SET", stamp);
            command.arg(number);
            Unit::new(stamp, vec![command])
        });
        let deadline = after(self.tunables().deadlines().write);
        let answers = self.ask_units(units.collect(), Access::Write, deadline).await;
        answers.into_iter().all(|answer| answer.is_ok_and(|answered| answered.replies.iter().all(is_ok)))
    }
}

fn is_ok(reply: &Reply) -> bool {
    matches!(reply, Reply::Okay)
}
