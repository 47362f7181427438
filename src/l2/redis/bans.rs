//! Bans over Redis: one log for all nodes, a note of each key that is written while a ban is open, and the sweep.
//!
//! **The log** is the hash `__terrace:bans`: field `n` is the greatest number given, each other field the number of an open
//! ban with its pattern. A change of it is announced like any change; whoever hears of it reads it again, and until it has
//! no fence moves on. So L1 never answers for longer than Δ beyond a ban, and no call goes to Redis with a knowledge of
//! the log that is older than Δ: it reads the log first. Where the server of the log cannot be reached but others of
//! the cluster can, calls go on with the bans that are known, since nobody can open another.
//!
//! **Notes.** A write under a key that an open ban matches is preceded, on the same connection, by a script that adds the
//! key to the set `__terrace:fresh:<ban>` and, where it was not in it, removes what stood there. So a noted key holds
//! nothing of before the ban, and reads believe only noted keys. A read looks for the note *before* the value: what is
//! written in between is then a miss, as if it came later; the other way round an old value could pass for a new one. In
//! a cluster a set is `__terrace:fresh:<ban>:{tag}`, with a tag of the key's slot.
//!
//! **Who has not heard.** A node may write before it hears of a ban. Each pipeline with a write therefore ends with a
//! question for the greatest number (in a cluster each primary keeps a copy of it, its *stamp*, which the opening of a
//! ban sets). An answer above what the node knows makes it read the log, clear the keys that the new ban matches, as
//! above, and write once more what was so removed, or what the sweep has removed meanwhile; only then is the write
//! acknowledged.
//!
//! **The sweep** may be another node's in the middle. Each page tells the server until when it may be swept, so that a page
//! that was held up does nothing once another node can have ended the ban.
//!
//! **Lost records** cost misses only: without its note a value of after a ban counts as one of before. A log that is
//! missing or shorter than it was ends all copies in L1 and is written again from what this node knows.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{Cmd, Value as Reply};
use futures_util::future::try_join_all;
use parking_lot::RwLock;
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use super::{
    INSPECTION_DEADLINE, RedisBackend, after, errors,
    lane::{Access, Commands},
    ops,
    route::{self, Unit},
    scripts::{BAN, By, CLEAR_BANNED, KEEP_SWEEP, RESTORE_BANS, SWEEP},
    topology::{SLOTS, slot},
    word,
};
use crate::{
    clock::{Clock, Tick},
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::{
        Applied, Ban, Batch, FENCE_SPAN, InvalidationSink, Op, ScanRequest, Source, SweepPage,
        bans::{OPEN_MAX, OpenBans, matching, overtaken, too_many},
        op::{Condition, SetExpiry},
    },
    model::Key,
};

/// The log.
pub(super) const LOG: &[u8] = b"__terrace:bans";
/// Its field for the greatest number.
const GREATEST: &str = "n";
/// A ban lasts this long at least. A write is sent by a node that knows of all bans of Δ before, and learns of the later ones
/// with its reply, which seldom takes as long as another Δ.
pub(super) const RETIRE_AFTER: Duration = FENCE_SPAN.saturating_mul(2);
/// How long a note outlives its ban: nodes that have not heard of the end still look for it, and a page of a sweep that is
/// late, but not too late, as well.
const NOTE_AFTER_BAN: Duration = Duration::from_secs(10);
/// A sweeper that is not heard of for this long has died.
const SWEEPER_LIFE: Duration = Duration::from_secs(5);
/// How long after the sweeper was heard of a page may still be swept, by the clock of the server that does it. Less than the
/// sweeper's life: what was held up until another sweeper has retired the ban finds no notes, and must do nothing.
const PAGE_WITHIN: Duration = Duration::from_secs(4);
/// Time between two looks that fail.
const LOOK_APART: Duration = Duration::from_millis(50);

/// The log, as this process knows it; shared by its workers.
#[derive(Default)]
pub(super) struct Log {
    pub(super) open: OpenBans,
    clock: Clock,
    /// The greatest number that the log said when it was read.
    known: AtomicU64,
    /// The greatest number met anywhere.
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
    pub(super) fn tell(&self, sink: Arc<dyn InvalidationSink>) {
        *self.sink.write() = Some(sink);
    }

    /// Something announced a change of the log, or that changes were missed.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.ring.notify_one();
    }

    /// A key was announced as changed.
    pub(super) fn hear(&self, key: &[u8]) {
        if key == LOG {
            self.changed();
        }
    }

    /// A number was met.
    pub(super) fn met(&self, number: u64) {
        if self.heard.fetch_max(number, Ordering::AcqRel) < number && number > self.known() {
            self.changed();
        }
    }

    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    /// Whether all changes that were announced have been read.
    fn is_read(&self) -> bool {
        self.seen.load(Ordering::Acquire) == self.changes.load(Ordering::Acquire)
    }

    /// All changes of before `at` have been announced.
    pub(super) fn prove(&self, at: Tick) {
        if self.is_read() {
            self.proven.fetch_max(at.0, Ordering::AcqRel);
        }
    }

    /// When the log was last known to be as it is known here.
    pub(super) fn proven(&self) -> Tick {
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
        if said.greatest < self.known() || said.greatest < self.heard() {
            return false;
        }
        let new = self.open.replace(said.open);
        self.known.store(said.greatest, Ordering::Release);
        self.heard.fetch_max(said.greatest, Ordering::AcqRel);
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
            let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u64>().ok();
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
static TAGS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
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
pub(super) fn stamp(first_slot: u16) -> Vec<u8> {
    format!("__terrace:ban:{{{}}}", TAGS[usize::from(first_slot)]).into_bytes()
}

/// The question that ends a pipeline with a write, and the number it was answered.
pub(super) fn greatest_question(stamp: Option<&[u8]>) -> Cmd {
    match stamp {
        Some(stamp) => ops::plain("GET", stamp),
        None => {
            let mut command = ops::plain("HGET", LOG);
            command.arg(GREATEST);
            command
        }
    }
}

/// The answer to [`greatest_question`]; 0 where there is none.
pub(super) fn greatest(reply: &Reply) -> u64 {
    if let Reply::BulkString(digits) = reply {
        return std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    }
    0
}

/// What a call knows of bans while it runs.
pub(super) struct Known {
    /// Those that were open when it began, if any.
    pub(super) open: Option<Arc<Vec<Arc<Ban>>>>,
    /// The greatest number that was known then.
    pub(super) greatest: u64,
}

impl Known {
    pub(super) fn open(&self) -> &[Arc<Ban>] {
        self.open.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("known", &self.known).field("open", &self.open).finish_non_exhaustive()
    }
}

impl RedisBackend {
    fn log(&self) -> &Log {
        self.redis.log()
    }

    /// What is known of bans, after a look at the log if that is due.
    pub(super) async fn bans(&self) -> Result<Known> {
        let log = self.log();
        if !log.is_current() {
            self.look().await?;
        }
        // In this order: the list is at least as new as the number.
        let greatest = log.known();
        Ok(Known { greatest, open: log.open.all() })
    }

    /// Reads the log. Calls that need it at the same time share one look, and its failure.
    async fn look(&self) -> Result<()> {
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
        command.arg(log.heard().max(log.known()));
        for ban in log.open.all().iter().flat_map(|open| open.iter()) {
            command.arg(ban.number).arg(&ban.glob.pattern()[..]);
        }
        self.ask_log(command, Access::Write).await.map(drop)
    }

    async fn ask_log(&self, command: Cmd, access: Access) -> Result<Reply> {
        let deadlines = self.tunables().deadlines();
        let within = if access == Access::Read { deadlines.read } else { deadlines.write };
        self.ask_key(LOG, command, access, after(within)).await
    }

    /// One command about one key, where that key is.
    async fn ask_key(&self, key: &[u8], command: Cmd, access: Access, deadline: Instant) -> Result<Reply> {
        let mut answers = self.ask_units(vec![Unit::new(key, vec![command])], access, deadline).await;
        let answered = answers.pop().unwrap_or_else(|| Err(errors::unexpected("a command")))?;
        answered.replies.into_iter().next().map_or_else(|| Err(errors::unexpected("a command")), ops::checked)
    }

    /// Reads the log whenever it changes, for as long as this is polled; what cannot be read is tried again.
    pub(super) async fn follow_bans(&self) {
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

    /// Where the keys written since a ban are noted.
    fn note(&self, ban: u64, slot: u16) -> String {
        match self.is_spread() {
            true => format!("__terrace:fresh:{ban}:{{{}}}", TAGS[usize::from(slot)]),
            false => format!("__terrace:fresh:{ban}"),
        }
    }

    /// Questions whether a key is noted with each ban that matches it.
    pub(super) fn note_questions(&self, open: &[Arc<Ban>], key: &[u8]) -> Commands {
        let questions = matching(open, key).map(|ban| {
            let mut command = ops::plain("SISMEMBER", self.note(ban.number, slot(key)).as_bytes());
            command.arg(key);
            command
        });
        questions.collect()
    }

    /// The script that makes a key one of after all bans that match it, if there are any.
    pub(super) fn clearing(&self, open: &[Arc<Ban>], key: &[u8]) -> Option<Cmd> {
        let notes: Vec<String> = matching(open, key).map(|ban| self.note(ban.number, slot(key))).collect();
        if notes.is_empty() {
            return None;
        }
        Some(CLEAR_BANNED.call_with(By::Text, std::iter::once(key).chain(notes.iter().map(String::as_bytes))))
    }

    /// The scripts that go before operations.
    pub(super) fn clearings(&self, open: &[Arc<Ban>], ops: &[(Key, Op)]) -> Commands {
        ops.iter().filter_map(|(key, _)| self.clearing(open, key)).collect()
    }

    /// What goes with a request that writes this key and that lanes do not carry.
    pub(super) fn question_for(&self, key: &[u8]) -> Vec<u8> {
        let map = self.redis.topology().map();
        let source = map.of_key(key).map(|primary| primary.source);
        greatest_question(source.and_then(|source| map.stamp(source))).get_packed_command()
    }

    /// After such a request: [`RedisBackend::catch_up`] if the answer says so.
    pub(super) async fn after_question(&self, known: u64, answer: &[u8], keys: &[Key]) -> Result<HashMap<Key, bool>> {
        // `$N\r\nDIGITS\r\n`, or nil.
        let digits = answer.split(|byte| *byte == b'\n').nth(1).and_then(|line| line.strip_suffix(b"\r"));
        self.log().met(digits.map_or(0, |digits| greatest(&Reply::BulkString(digits.to_vec()))));
        if !self.unheard(known) {
            return Ok(HashMap::new());
        }
        self.catch_up(known, keys, after(self.tunables().deadlines().write)).await
    }

    /// Makes keys such of after all open bans.
    pub(super) async fn clear_keys(&self, keys: &[Key]) -> Result<u64> {
        let known = self.bans().await?;
        let clearings = keys.iter().filter_map(|key| Some(Unit::new(key, vec![self.clearing(known.open(), key)?])));
        let units: Vec<Unit> = clearings.collect();
        if units.is_empty() {
            return Ok(known.greatest);
        }
        let deadline = after(self.tunables().deadlines().write);
        for answer in self.ask_units(units, Access::Write, deadline).await {
            answer?.replies.into_iter().try_for_each(|reply| ops::checked(reply).map(drop))?;
        }
        Ok(known.greatest)
    }

    /// The results of operations during which a ban was met that was not known: what it has removed is written again.
    pub(super) async fn apply_late(
        &self,
        ops: Vec<(Key, Op)>,
        batch: Batch,
        mut results: Vec<Result<Applied>>,
        known: u64,
        deadline: Instant,
    ) -> Vec<Result<Applied>> {
        let keys: Vec<Key> = ops.iter().map(|(key, _)| key.clone()).collect();
        let cleared = match self.catch_up(known, &keys, deadline).await {
            Ok(cleared) => cleared,
            Err(_) => return results.into_iter().map(|result| result.and_then(|_| Err(overtaken()))).collect(),
        };
        let is_open = |at: &usize| !matches!(&results[*at], Err(error) if says_nothing(error));
        let again: Vec<usize> = match batch {
            Batch::Independent => {
                (0..ops.len()).filter(is_open).filter(|at| cleared.get(&keys[*at]) == Some(&true)).collect()
            }
            // All or nothing: where others have written some of the keys already, nobody can tell.
            Batch::Atomic if cleared.values().all(|gone| *gone) && !cleared.is_empty() => (0..ops.len()).collect(),
            Batch::Atomic => Vec::new(),
        };
        for at in 0..ops.len() {
            let is_doubtful = cleared.get(&keys[at]) == Some(&false) && depends_on_old(&ops[at].1, batch);
            if is_doubtful && results[at].is_ok() {
                results[at] = Err(overtaken());
            }
        }
        let repeated: Vec<(Key, Op)> = again.iter().map(|&at| ops[at].clone()).collect();
        let open = self.log().open.all().unwrap_or_default();
        for (at, result) in again.iter().zip(self.apply_under(&repeated, batch, &open, deadline).await) {
            results[*at] = result;
        }
        results
    }

    /// Of these keys, which hide nothing of before a ban.
    pub(super) async fn unhidden(&self, open: &[Arc<Ban>], keys: Vec<Key>, deadline: Instant) -> Result<Vec<Key>> {
        let (suspects, mut shown): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| matching(open, key).next().is_some());
        let units = suspects.iter().map(|key| Unit::new(key, self.note_questions(open, key))).collect();
        let answers = self.ask_units(units, Access::Read, deadline).await;
        for (key, answer) in suspects.into_iter().zip(answers) {
            if answer?.replies.iter().all(is_noted) {
                shown.push(key);
            }
        }
        Ok(shown)
    }

    /// Whether a ban was met that was not known when a call began.
    pub(super) fn unheard(&self, known: u64) -> bool {
        self.log().heard() > known
    }

    /// After writes during which a ban was met: reads the log and clears the keys that bans opened since `known` match.
    /// For each key that one of them matches, whether what stood there is gone, so that its write has to be done again.
    pub(super) async fn catch_up(&self, known: u64, keys: &[Key], deadline: Instant) -> Result<HashMap<Key, bool>> {
        self.look().await?;
        let open = self.log().open.all().unwrap_or_default();
        let new: Vec<Arc<Ban>> = open.iter().filter(|ban| ban.number > known).cloned().collect();
        if new.len() as u64 != self.log().known().saturating_sub(known) {
            // One of them is over already, and nobody knows what it was.
            return Err(overtaken());
        }
        let mut cleared: HashMap<Key, bool> = HashMap::new();
        let (mut matched, mut units) = (Vec::new(), Vec::new());
        for key in keys {
            if !matched.contains(&key)
                && let Some(clearing) = self.clearing(&new, key)
            {
                matched.push(key);
                units.push(Unit::new(key, vec![clearing]));
            }
        }
        for (key, answer) in matched.into_iter().zip(self.ask_units(units, Access::Write, deadline).await) {
            let reply = answer?.replies.pop().ok_or_else(|| errors::unexpected("a script"))?;
            cleared.insert(key.clone(), ops::integer(&ops::checked(reply)?, "a script")? == 1);
        }
        Ok(cleared)
    }

    /// Opens a ban: in the log, then in each primary's stamp, then here.
    pub(super) async fn open_ban(&self, glob: &Glob) -> Result<u64> {
        self.look().await?;
        let mut command = BAN.call(By::Text, LOG);
        command.arg(&glob.pattern()[..]).arg(OPEN_MAX).arg(self.log().heard().max(self.log().known()));
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

    /// Takes or keeps the right to sweep.
    pub(super) async fn keep_sweep(&self, ban: u64, token: u64) -> Result<bool> {
        // Before the claim, so that it is over before the claim is.
        let until = self.sweep_until().await?;
        let key = format!("__terrace:sweep:{ban}");
        let mut command = KEEP_SWEEP.call(By::Text, key.as_bytes());
        command.arg(token).arg(SWEEPER_LIFE.as_millis() as u64);
        let reply = self.ask_key(key.as_bytes(), command, Access::Write, after(INSPECTION_DEADLINE)).await?;
        let is_ours = ops::integer(&reply, "a script")? == 1;
        if is_ours {
            *self.sweep_until.lock() = until;
        }
        Ok(is_ours)
    }

    /// Until when each primary may sweep a page, by its own clock, microseconds.
    async fn sweep_until(&self) -> Result<HashMap<Source, u64>> {
        let groups = self.all_groups()?;
        let deadline = after(INSPECTION_DEADLINE);
        let asked = groups.iter().map(|group| route::one(group, word("TIME"), Access::Read, deadline));
        let mut until = HashMap::new();
        for (group, reply) in groups.iter().zip(try_join_all(asked).await?) {
            let now = time_us(&reply).ok_or_else(|| errors::unexpected("TIME"))?;
            until.insert(group.primary.source, now + PAGE_WITHIN.as_micros() as u64);
        }
        Ok(until)
    }

    /// Sweeps one page.
    pub(super) async fn sweep_page(&self, ban: &Ban, cursor: u64, count: usize) -> Result<SweepPage> {
        let request = ScanRequest { cursor, pattern: Some(ban.glob.pattern().clone()), count, type_name: None };
        let page = self.scan_all(request).await?;
        let removed = self.sweep_keys(ban, &page.keys).await?;
        Ok(SweepPage { cursor: page.cursor, scanned: count as u64, removed })
    }

    /// Removes those of `keys` that are not noted: all at one instant where one server holds them, each by itself in a
    /// cluster.
    async fn sweep_keys(&self, ban: &Ban, keys: &[Key]) -> Result<u64> {
        if keys.is_empty() {
            return Ok(0);
        }
        let deadline = after(INSPECTION_DEADLINE);
        let units = match self.is_spread() {
            true => {
                keys.chunks(1).map(|key| Unit::new(&key[0], vec![self.sweeping(ban, slot(&key[0]), key)])).collect()
            }
            false => vec![Unit::new(LOG, vec![self.sweeping(ban, 0, keys)])],
        };
        let mut removed = 0;
        for answer in self.ask_units(units, Access::Write, deadline).await {
            let reply = answer?.replies.pop().ok_or_else(|| errors::unexpected("a script"))?;
            removed += u64::try_from(ops::integer(&ops::checked(reply)?, "a script")?).map_err(|_| too_late())?;
        }
        Ok(removed)
    }

    fn sweeping(&self, ban: &Ban, slot: u16, keys: &[Key]) -> Cmd {
        let note = self.note(ban.number, slot);
        let source = self.redis.topology().map().of_slot(slot).map(|primary| primary.source);
        let until = source.and_then(|source| self.sweep_until.lock().get(&source).copied()).unwrap_or(0);
        let mut command =
            SWEEP.call_with(By::Text, std::iter::once(note.as_bytes()).chain(keys.iter().map(|key| &key[..])));
        command.arg(until);
        command
    }

    /// Takes a ban out of the log; its notes go by themselves.
    pub(super) async fn retire_ban(&self, ban: u64) -> Result<()> {
        let mut command = ops::plain("HDEL", LOG);
        command.arg(ban);
        self.ask_log(command, Access::Write).await?;
        self.log().changed();
        self.look().await?;
        let slots = if self.is_spread() { SLOTS as u16 } else { 1 };
        let ends = (0..slots).map(|slot| {
            let note = self.note(ban, slot);
            let mut command = ops::plain("PEXPIRE", note.as_bytes());
            command.arg(NOTE_AFTER_BAN.as_millis() as u64);
            Unit::new(note.as_bytes(), vec![command])
        });
        let units: Vec<Unit> = ends.collect();
        for units in units.chunks(NOTES_AT_ONCE) {
            // A note that stays goes by its own expiry.
            let _told = self.ask_units(units.to_vec(), Access::Write, after(INSPECTION_DEADLINE)).await;
        }
        Ok(())
    }

    /// Commands per second that all primaries together are asked.
    pub(super) async fn commands_per_second(&self) -> Option<u64> {
        let mut command = word("INFO");
        command.arg("stats");
        let replies = self.inspect_all(command).await.ok()?;
        let rate = |reply: Reply| -> Option<u64> {
            let text = ops::optional(reply, "INFO").ok()??.into_bytes();
            let text = std::str::from_utf8(&text).ok()?.to_owned();
            text.lines().find_map(|line| line.strip_prefix("instantaneous_ops_per_sec:"))?.trim().parse().ok()
        };
        replies.into_iter().map(rate).sum()
    }
}

/// Whether nothing was written, or nobody knows.
fn says_nothing(error: &CacheError) -> bool {
    error.says_away() || error.kind() == Kind::Unknown
}

/// Whether what an operation left or said depends on what was there before it.
fn depends_on_old(op: &Op, batch: Batch) -> bool {
    match op {
        Op::Set { condition: Condition::Always, want_old: false, expiry, .. } => {
            batch == Batch::Atomic || matches!(expiry, SetExpiry::Keep { .. })
        }
        Op::Delete { want_old: false } | Op::Bury { .. } => false,
        Op::Set { .. }
        | Op::Delete { .. }
        | Op::Expire { .. }
        | Op::Increment { .. }
        | Op::IncrementFloat { .. }
        | Op::Append { .. }
        | Op::SetRange { .. } => true,
    }
}

/// TIME's answer, microseconds.
fn time_us(reply: &Reply) -> Option<u64> {
    let Reply::Array(parts) = reply else { return None };
    let [Reply::BulkString(seconds), Reply::BulkString(micros)] = &parts[..] else { return None };
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u64>().ok();
    Some(number(seconds)? * 1_000_000 + number(micros)?)
}

fn too_late() -> CacheError {
    CacheError::new(Kind::Unavailable, "the page of a sweep came too late; it is swept again").retry_after(LOOK_APART)
}

/// Notes whose end is told in one go.
const NOTES_AT_ONCE: usize = 1_024;

/// The answer to one of [`RedisBackend::note_questions`]. What cannot be read is no note.
pub(super) fn is_noted(reply: &Reply) -> bool {
    matches!(reply, Reply::Int(1))
}

fn is_ok(reply: &Reply) -> bool {
    matches!(reply, Reply::Okay)
}
