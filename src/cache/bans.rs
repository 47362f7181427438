//! Invalidation of patterns: opens bans, sweeps what they hide, tells how far that is.
//!
//! A ban takes effect when it is opened (`l2::bans`); the sweep only takes back the room. Each node's job looks for open
//! bans and tries for the right to sweep them, so that a ban whose sweeper dies is swept by another node.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{Cache, feed::Change};
use crate::{
    clock::{Tick, stopwatch_ns},
    error::{CacheError, Kind, Result},
    glob::Glob,
    l1::Purge,
    l2::{Ban, Effort, Flavor, ScanRequest, SweepPage, bans::too_many},
};

/// Keys that a page of a dry run looks at: 1 to 2 ms of a Redis.
const PAGE_KEYS: usize = 2_000;
/// Commands per second of others from which the store counts as used.
const BUSY_RATE: f64 = 500.0;
/// While it is used the sweep rests this many times as long as its last page took: a quarter of the store's time is its.
const REST_BUSY: u32 = 3;
/// ... but no longer than this: a page that took longer waited for something else than the store.
const REST_MAX: Duration = Duration::from_millis(2);
/// The shortest rest that the runtime's timer keeps.
const REST_MIN: Duration = Duration::from_millis(1);
/// Whoever was asked to invalidate sweeps first; other nodes take over when a ban is this old and nobody sweeps.
const OTHERS_AFTER: Duration = Duration::from_secs(1);
/// Time between two questions how much the store is used, and between two words that the sweeper lives.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Entries of L1 looked at between two yields to other tasks.
const PURGE_STEP: usize = 4_096;
/// Time between the first two questions, the shortest in which commands are worth counting.
const LOOK_FIRST: Duration = Duration::from_millis(50);
/// After an error of the store.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Bans whose progress is remembered for those who ask.
const UNDERWAY_MAX: usize = 1_024;

/// Patterns that are remembered for those who ask why a key is gone.
const RECENT_MAX: usize = 64;

/// How far the invalidation of a pattern is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Keys in the store when the sweep began, about.
    pub total: u64,
    /// Of these, looked at by this node, about.
    pub scanned: u64,
    /// Values that this node removed from L2 (with a dry run: that match).
    pub removed: u64,
    /// Copies that this node removed from its L1.
    pub removed_l1: u64,
    /// Nothing is left of what the ban hides. Where another node swept, the counts stay behind.
    pub done: bool,
}

/// An invalidation that has taken effect.
#[derive(Debug)]
pub struct Invalidation {
    /// The ban's number.
    pub ban: u64,
    /// How far its sweep is. Ends when the server does.
    pub progress: watch::Receiver<Progress>,
}

/// Sweeps that this node knows of.
pub(crate) struct Sweeps {
    /// Tells this node's claims from those of others.
    token: u64,
    underway: Mutex<Vec<Underway>>,
    ring: Notify,
    /// Walks through L1 that are not done, by ban.
    purges: Mutex<VecDeque<(u64, Purge)>>,
    purge_ring: Notify,
    /// Patterns that were invalidated lately, open or not, and when; the latest last.
    recent: Mutex<VecDeque<(Glob, Tick)>>,
}

struct Underway {
    ban: u64,
    since: Tick,
    /// It was this node that was asked.
    is_own: bool,
    progress: watch::Sender<Progress>,
}

impl Default for Sweeps {
    fn default() -> Self {
        // Redis's Lua compares it as text.
        Self {
            token: fastrand::u64(1..1 << 52),
            underway: Mutex::default(),
            ring: Notify::new(),
            purges: Mutex::default(),
            purge_ring: Notify::new(),
            recent: Mutex::default(),
        }
    }
}

impl Sweeps {
    /// Something is to be swept.
    pub(crate) fn wake(&self) {
        self.ring.notify_one();
    }

    /// L1 hides what the ban hides; it is to be removed.
    pub(crate) fn purge(&self, ban: u64, purge: Purge) {
        self.purges.lock().push_back((ban, purge));
        self.purge_ring.notify_one();
    }

    /// Knows of a ban from now on.
    pub(crate) fn note(&self, ban: u64, now: Tick) {
        Self::known(&mut self.underway.lock(), ban, now);
    }

    /// It was this node that was asked: it sweeps first.
    fn own(&self, ban: u64, now: Tick) -> watch::Receiver<Progress> {
        let mut underway = self.underway.lock();
        let known = Self::known(&mut underway, ban, now);
        known.is_own = true;
        known.progress.subscribe()
    }

    fn known(underway: &mut Vec<Underway>, ban: u64, now: Tick) -> &mut Underway {
        let at = underway.iter().position(|underway| underway.ban == ban).unwrap_or_else(|| {
            if underway.len() >= UNDERWAY_MAX {
                // The oldest: most likely done long ago.
                underway.remove(0);
            }
            underway.push(Underway { ban, since: now, is_own: false, progress: watch::Sender::default() });
            underway.len() - 1
        });
        &mut underway[at]
    }

    /// Whether this node may try for the right to sweep a ban.
    fn is_due(&self, ban: u64, now: Tick) -> bool {
        let underway = self.underway.lock();
        let known = underway.iter().find(|underway| underway.ban == ban);
        known.is_none_or(|known| known.is_own || now >= known.since.plus(OTHERS_AFTER))
    }

    fn follow(&self, ban: u64) -> watch::Receiver<Progress> {
        let underway = self.underway.lock();
        let known = underway.iter().find(|underway| underway.ban == ban);
        known.map_or_else(|| watch::Sender::default().subscribe(), |underway| underway.progress.subscribe())
    }

    fn update(&self, ban: u64, change: impl FnOnce(&mut Progress)) {
        if let Some(known) = self.underway.lock().iter().find(|underway| underway.ban == ban) {
            known.progress.send_modify(change);
        }
    }

    /// Bans that are open no more are done.
    fn settle(&self, open: &[Arc<Ban>]) {
        for underway in self.underway.lock().iter() {
            let is_open = open.iter().any(|ban| ban.number == underway.ban);
            if !is_open && !underway.progress.borrow().done {
                underway.progress.send_modify(|progress| progress.done = true);
            }
        }
    }

    /// A pattern takes effect now.
    pub(crate) fn remember(&self, glob: Glob, now: Tick) {
        let mut recent = self.recent.lock();
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((glob, now));
    }

    /// When a pattern that matches a key was invalidated last, as far as is remembered.
    pub(crate) fn last_matching(&self, key: &[u8]) -> Option<Tick> {
        self.recent.lock().iter().rev().find(|(glob, _)| glob.matches(key)).map(|(_, at)| *at)
    }

    /// Since when this node knows of a ban, if it was swept here.
    fn swept_since(&self, ban: u64) -> Option<Tick> {
        let underway = self.underway.lock();
        underway.iter().find(|known| known.ban == ban && known.progress.borrow().done).map(|known| known.since)
    }
}

impl Cache {
    /// Makes all values under keys that match absent, at once and on every node; returns when that has taken effect
    /// here. A value written after that is kept, wherever it is written.
    ///
    /// # Errors
    /// `Overloaded` where too many are under way; as [`Backend::ban`](crate::l2::Backend::ban).
    pub async fn invalidate_pattern(&self, glob: Glob) -> Result<Invalidation> {
        if self.core.flavor == Flavor::None {
            return self.purge_store(glob).await;
        }
        let ban = self.l2.ban(glob).await?;
        let progress = self.core.sweeps.own(ban, self.now());
        self.core.sweeps.wake();
        Ok(Invalidation { ban, progress })
    }

    /// Where L1 is the store.
    async fn purge_store(&self, glob: Glob) -> Result<Invalidation> {
        let total = self.core.l1.usage().entries;
        let mut purge = self.core.l1.ban(glob.clone(), self.now()).ok_or_else(too_many)?;
        self.core.sweeps.remember(glob.clone(), self.now());
        self.core.events.record(Change::Pattern(glob));
        while !purge.is_done() {
            self.core.l1.purge(&mut purge, self.now(), PURGE_STEP);
            tokio::task::yield_now().await;
        }
        self.core.watched.all_changed();
        let removed = purge.removed();
        let progress = Progress { total, scanned: total, removed, removed_l1: removed, done: true };
        Ok(Invalidation { ban: self.core.next_token().0, progress: watch::Sender::new(progress).subscribe() })
    }

    /// Walks through L1 for bans that were opened, until it is dropped.
    pub async fn purge_banned(&self) {
        let sweeps = &self.core.sweeps;
        loop {
            let Some((ban, mut purge)) = sweeps.purges.lock().pop_front() else {
                sweeps.purge_ring.notified().await;
                continue;
            };
            self.core.l1.purge(&mut purge, self.now(), PURGE_STEP);
            sweeps.update(ban, |progress| progress.removed_l1 = purge.removed());
            if !purge.is_done() {
                sweeps.purges.lock().push_back((ban, purge));
            }
            tokio::task::yield_now().await;
        }
    }

    /// Counts the keys that a pattern matches, page by page.
    ///
    /// # Errors
    /// As [`Cache::count`].
    pub async fn count_matching(&self, glob: Glob) -> Result<Counting<'_>> {
        let progress = Progress { total: self.count().await?, ..Progress::default() };
        Ok(Counting { cache: self, glob, cursor: 0, progress })
    }

    /// Bans that are open, as this node knows.
    #[must_use]
    pub fn open_bans(&self) -> Arc<Vec<Arc<Ban>>> {
        self.l2.open_bans()
    }

    /// Waits until there may be something to sweep, `patience` at most.
    pub async fn bans_to_sweep(&self, patience: Duration) {
        let rung = self.core.sweeps.ring.notified();
        // Both ends mean the same: look.
        let _rung_or_late = tokio::time::timeout(patience, rung).await;
    }

    /// Sweeps the bans that no other node sweeps, and retires those whose time has come.
    pub async fn sweep_bans(&self) {
        let sweeps = &self.core.sweeps;
        let open = self.l2.open_bans();
        sweeps.settle(&open);
        for ban in open.iter().rev() {
            sweeps.note(ban.number, self.now());
            // What a later ban of the same pattern hides no more, this one does not hide either.
            let is_later = |other: &&Arc<Ban>| other.number > ban.number && other.glob == ban.glob;
            if open.iter().find(is_later).is_some_and(|later| sweeps.swept_since(later.number).is_some()) {
                sweeps.update(ban.number, |progress| progress.done = true);
            }
            if let Some(since) = sweeps.swept_since(ban.number) {
                if self.now() >= since.plus(self.l2.retire_after()) {
                    self.retire_ban(ban).await;
                }
                continue;
            }
            if !sweeps.is_due(ban.number, self.now()) {
                continue;
            }
            match self.l2.claim_sweep(ban.number, sweeps.token).await {
                Ok(true) => self.sweep_ban(ban).await,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, ban = ban.number, "no right to sweep a ban"),
            }
        }
        sweeps.settle(&self.l2.open_bans());
    }

    /// Sweeps one ban to its end, or until another node has it.
    async fn sweep_ban(&self, ban: &Ban) {
        let total = self.l2.count().await.unwrap_or(0);
        self.core.sweeps.update(ban.number, |progress| progress.total = total);
        let (mut pace, mut cursor, begun) = (Pace::default(), 0, stopwatch_ns());
        loop {
            match self.sweep_page(ban, cursor, &mut pace).await {
                Ok(Some(page)) => {
                    cursor = page.cursor;
                    self.core.sweeps.update(ban.number, |progress| {
                        progress.scanned = (progress.scanned + page.scanned).min(progress.total);
                        progress.removed += page.removed;
                    });
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, ban = ban.number, "a page of a sweep failed; it is tried again");
                    sleep(RETRY_AFTER).await;
                    continue;
                }
            }
            if cursor == 0 {
                break;
            }
        }
        self.core.sweeps.update(ban.number, |progress| (progress.scanned, progress.done) = (progress.total, true));
        let progress = *self.core.sweeps.follow(ban.number).borrow();
        tracing::info!(
            ban = ban.number,
            removed = progress.removed,
            keys = progress.total,
            ms = (stopwatch_ns() - begun) / 1_000_000,
            "a pattern was swept"
        );
    }

    async fn retire_ban(&self, ban: &Ban) {
        if let Err(error) = self.l2.retire(ban.number).await {
            tracing::debug!(%error, ban = ban.number, "a ban that is swept could not be retired; it is tried again");
        }
    }

    /// One page, with the rest after it; `None` if the sweep is not this node's any more.
    async fn sweep_page(&self, ban: &Ban, cursor: u64, pace: &mut Pace) -> Result<Option<SweepPage>> {
        if pace.is_due() {
            let is_open = self.l2.open_bans().iter().any(|open| open.number == ban.number);
            if !is_open || !self.l2.claim_sweep(ban.number, self.core.sweeps.token).await? {
                return Ok(None);
            }
            pace.look(self.l2.commands_done().await);
        }
        let begun = stopwatch_ns();
        let page = self.l2.sweep(ban, cursor, pace.effort()).await?;
        pace.rest(Duration::from_nanos(stopwatch_ns() - begun), &page).await;
        Ok(Some(page))
    }
}

/// A count under way.
pub struct Counting<'a> {
    cache: &'a Cache,
    glob: Glob,
    cursor: u64,
    progress: Progress,
}

impl Counting<'_> {
    /// How far it is after one page more; `None` after the last.
    ///
    /// # Errors
    /// As [`Cache::scan`].
    pub async fn next(&mut self) -> Result<Option<Progress>> {
        if self.progress.done {
            return Ok(None);
        }
        let pattern = Some(self.glob.pattern().clone());
        let request = ScanRequest { cursor: self.cursor, pattern, count: PAGE_KEYS, type_name: None };
        let page = self.cache.scan(request).await?;
        self.cursor = page.cursor;
        self.progress.removed += page.keys.len() as u64;
        self.progress.done = page.cursor == 0;
        let scanned = self.progress.scanned + PAGE_KEYS as u64;
        self.progress.scanned = if self.progress.done { self.progress.total } else { scanned.min(self.progress.total) };
        Ok(Some(self.progress))
    }
}

/// How fast a sweep goes.
#[derive(Default)]
struct Pace {
    /// When it was looked, and what the store had done by then.
    looked: Option<(u64, Option<u64>)>,
    is_compared: bool,
    /// Commands of the sweep itself since then.
    own: u64,
    busy: bool,
    /// What the last pages took and was not rested for yet.
    owed: Duration,
}

impl Pace {
    fn is_due(&self) -> bool {
        let apart = if self.is_compared { LOOK_EVERY } else { LOOK_FIRST };
        self.looked.is_none_or(|(at, _)| stopwatch_ns() - at >= apart.as_nanos() as u64)
    }

    /// Takes how many commands the store has done. Before the second look, and where that is not known or began anew, it
    /// counts as used.
    fn look(&mut self, done: Option<u64>) {
        let now = stopwatch_ns();
        let others = || {
            let (at, before) = self.looked?;
            let others = done?.checked_sub(before?)?.saturating_sub(self.own);
            Some(others as f64 * 1e9 / (now - at).max(1) as f64)
        };
        self.busy = others().is_none_or(|rate| rate > BUSY_RATE);
        self.is_compared = self.looked.is_some();
        (self.looked, self.own) = (Some((now, done)), 0);
    }

    fn effort(&self) -> Effort {
        if self.busy { Effort::Yielding } else { Effort::Full }
    }

    async fn rest(&mut self, took: Duration, page: &SweepPage) {
        self.own += page.commands;
        if !self.busy {
            return;
        }
        self.owed += (took * REST_BUSY).min(REST_MAX);
        if self.owed >= REST_MIN {
            sleep(std::mem::take(&mut self.owed)).await;
        }
    }
}

/// Why the invalidation of a pattern is refused that names Terrace's own keys.
///
/// # Errors
/// `ReservedPrefix`.
pub fn check_pattern(glob: &Glob) -> Result<()> {
    if glob.literal_prefix().starts_with(crate::model::RESERVED_PREFIX) {
        return Err(CacheError::new(Kind::ReservedPrefix, "reserved prefix: keys under __terrace: are Terrace's own"));
    }
    Ok(())
}
