//! Pattern bans: creates bans, sweeps the keys they cover, and reports the progress.
//!
//! A ban takes effect when it is created (`l2::bans`); the sweep only frees space. The ban job of each node looks for
//! active bans and tries to claim the sweep, so another node sweeps a ban whose sweeper died.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::feed::FeedChange;
use crate::{
    access::Verbs,
    budget::{Place, PlaceKind},
    cache::Cache,
    clock::{Tick, stopwatch_ns},
    error::{CacheError, Kind, Result},
    glob::Glob,
    l1::Purge,
    l2::{
        Ban, Effort, Flavor, ScanRequest, SweepPage,
        bans::{OPEN_MAX, too_many},
    },
};

/// Keys per page of a dry run: 1 to 2 ms of Redis time.
const PAGE_KEYS: usize = 2_000;
/// Rate of commands of other clients, per second, at which the store counts as busy.
const BUSY_RATE: f64 = 500.0;
/// Pause of a sweep while the store is busy, as a multiple of the duration of the last page. The sweep then takes a
/// quarter of the store's time.
const REST_BUSY: u32 = 3;
/// Maximum pause of a sweep after a page of keys. A page that took longer waited for something other than the store.
const REST_MAX: Duration = Duration::from_millis(2);
/// The shortest pause that the runtime's timer supports.
const REST_MIN: Duration = Duration::from_millis(1);
/// Age of a ban after which other nodes may sweep it if nobody does. Before that, only the node that received the
/// invalidation sweeps.
const OTHERS_AFTER: Duration = Duration::from_secs(1);
/// Time between two measurements of the store's load, and between two renewals of the claim.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// L1 entries scanned between two yields to other tasks.
const PURGE_STEP: usize = 4_096;
/// Time between the first two measurements: the shortest in which a count of commands is meaningful.
const LOOK_FIRST: Duration = Duration::from_millis(50);
/// Pause after an error of the store.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Maximum number of pattern bans whose progress this node remembers.
const KNOWN_BANS_MAX: usize = 1_024;
/// Maximum number of pattern bans in progress that one connection has created.
const OPEN_PER_CONNECTION_MAX: usize = OPEN_MAX / 4;

/// Maximum number of recent pattern bans that `Explain` can name as the reason for a miss.
const RECENT_MAX: usize = 64;

/// Progress of the invalidation of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepProgress {
    /// Approximate number of keys that the store had when the sweep began.
    pub total: u64,
    /// Approximate number of these keys that this node has scanned.
    pub scanned: u64,
    /// Values that this node removed from L2. For a dry run, the number of keys that match.
    pub removed: u64,
    /// Copies that this node removed from its L1.
    pub removed_l1: u64,
    /// True if no key that the ban covers is left. If another node swept, the other counts are too low.
    pub done: bool,
}

/// An invalidation that has taken effect.
#[derive(Debug)]
pub struct Invalidation {
    /// Number of the ban.
    pub ban: u64,
    /// Progress of its sweep. The channel closes when the server stops.
    pub progress: watch::Receiver<SweepProgress>,
}

/// Bans and sweeps that this node knows.
pub(crate) struct BanSweeps {
    /// Distinguishes this node's claims from those of other nodes.
    token: u64,
    known_bans: Mutex<Vec<KnownBan>>,
    ring: Notify,
    /// Unfinished scans of L1, by ban.
    purges: Mutex<VecDeque<(u64, Purge)>>,
    purge_ring: Notify,
    /// Recently invalidated patterns, active or not, with their times; the latest is last.
    recent: Mutex<VecDeque<(Glob, Tick)>>,
}

struct KnownBan {
    ban: u64,
    /// The pattern. If Redis lost the log while no node knew it, numbers restart; a ban is then not taken for an
    /// earlier one with the same number.
    glob: Glob,
    since: Tick,
    /// True if this node received the invalidation.
    is_own: bool,
    progress: watch::Sender<SweepProgress>,
    /// The place of the connection that created the ban, until the sweep is done.
    place: Option<Place>,
}

impl KnownBan {
    fn update(&mut self, change: impl FnOnce(&mut SweepProgress)) {
        self.progress.send_modify(change);
        if self.progress.borrow().done {
            self.place = None;
        }
    }
}

impl Default for BanSweeps {
    fn default() -> Self {
        // Redis's Lua compares the token as text.
        Self {
            token: fastrand::u64(1..1 << 52),
            known_bans: Mutex::default(),
            ring: Notify::new(),
            purges: Mutex::default(),
            purge_ring: Notify::new(),
            recent: Mutex::default(),
        }
    }
}

impl BanSweeps {
    /// Wakes the sweep job.
    pub(crate) fn wake(&self) {
        self.ring.notify_one();
    }

    /// Queues the removal of the entries that a ban covers from L1.
    pub(crate) fn purge(&self, ban: u64, purge: Purge) {
        self.purges.lock().push_back((ban, purge));
        self.purge_ring.notify_one();
    }

    /// Adds a ban, unless it is known.
    pub(crate) fn note(&self, ban: &Ban, now: Tick) {
        Self::known(&mut self.known_bans.lock(), ban, now);
    }

    /// Adds a ban that this node created, and that this node sweeps first.
    fn own(&self, ban: &Ban, now: Tick, place: Place) -> watch::Receiver<SweepProgress> {
        let mut known_bans = self.known_bans.lock();
        let known = Self::known(&mut known_bans, ban, now);
        known.is_own = true;
        known.place = Some(place);
        known.progress.subscribe()
    }

    fn known<'a>(known_bans: &'a mut Vec<KnownBan>, ban: &Ban, now: Tick) -> &'a mut KnownBan {
        let fresh = || KnownBan {
            ban: ban.number,
            glob: ban.glob.clone(),
            since: now,
            is_own: false,
            progress: watch::Sender::default(),
            place: None,
        };
        let at = known_bans.iter().position(|known| known.ban == ban.number).unwrap_or_else(|| {
            if known_bans.len() >= KNOWN_BANS_MAX {
                // The oldest ban is most likely done.
                known_bans.remove(0);
            }
            known_bans.push(fresh());
            known_bans.len() - 1
        });
        if known_bans[at].glob != ban.glob {
            known_bans[at].progress.send_modify(|progress| progress.done = true);
            known_bans[at] = fresh();
        }
        &mut known_bans[at]
    }

    /// Returns whether this node may claim the sweep of a ban.
    fn is_due(&self, ban: u64, now: Tick) -> bool {
        let known_bans = self.known_bans.lock();
        let known = known_bans.iter().find(|known_bans| known_bans.ban == ban);
        known.is_none_or(|known| known.is_own || now >= known.since.plus(OTHERS_AFTER))
    }

    fn follow(&self, ban: u64) -> watch::Receiver<SweepProgress> {
        let known_bans = self.known_bans.lock();
        let known = known_bans.iter().find(|known_bans| known_bans.ban == ban);
        known.map_or_else(|| watch::Sender::default().subscribe(), |known_bans| known_bans.progress.subscribe())
    }

    fn update(&self, ban: u64, change: impl FnOnce(&mut SweepProgress)) {
        if let Some(known) = self.known_bans.lock().iter_mut().find(|known_bans| known_bans.ban == ban) {
            known.update(change);
        }
    }

    /// Marks the bans that are no longer active as done.
    fn settle(&self, open: &[Arc<Ban>]) {
        for known_bans in self.known_bans.lock().iter_mut() {
            let is_open = open.iter().any(|ban| ban.number == known_bans.ban);
            if !is_open && !known_bans.progress.borrow().done {
                known_bans.update(|progress| progress.done = true);
            }
        }
    }

    /// Adds a pattern that takes effect now to the recent patterns.
    pub(crate) fn remember(&self, glob: Glob, now: Tick) {
        let mut recent = self.recent.lock();
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((glob, now));
    }

    /// Returns the time at which a pattern that matches the key was last invalidated, if it is among the recent
    /// patterns.
    pub(crate) fn last_matching(&self, key: &[u8]) -> Option<Tick> {
        let recent = self.recent.lock().clone();
        recent.iter().rev().find(|(glob, _)| glob.matches(key)).map(|(_, at)| *at)
    }

    /// Returns the time at which this node learned of a ban, if this node swept it.
    fn swept_since(&self, ban: u64) -> Option<Tick> {
        let known_bans = self.known_bans.lock();
        known_bans.iter().find(|known| known.ban == ban && known.progress.borrow().done).map(|known| known.since)
    }
}

impl Cache {
    /// Invalidates all matching keys, at once and on every node. Returns when the invalidation has taken effect on this
    /// node. A value written later is kept, whichever node wrote it.
    ///
    /// # Errors
    /// `Denied` unless the literal prefix of the pattern is within a permitted prefix; `Overloaded` if too many bans are
    /// active; otherwise as [`BanStore::ban`](crate::l2::BanStore::ban).
    pub async fn invalidate_pattern(&self, glob: Glob) -> Result<Invalidation> {
        self.principal.check(Verbs::INVALIDATE, glob.literal_prefix())?;
        if self.core.flavor == Flavor::None {
            return self.purge_store(glob).await;
        }
        let place = self.account.place(PlaceKind::Ban, OPEN_PER_CONNECTION_MAX).ok_or_else(|| {
            let message = format!(
                "{OPEN_PER_CONNECTION_MAX} pattern invalidations of this connection are in progress, which is the maximum; \
                 retry when one of them has completed"
            );
            CacheError::new(Kind::Overloaded, message)
        })?;
        let ban = Ban { number: self.l2.ban(glob.clone()).await?, glob };
        let progress = self.core.ban_sweeps.own(&ban, self.now(), place);
        self.core.ban_sweeps.wake();
        Ok(Invalidation { ban: ban.number, progress })
    }

    /// Invalidates a pattern if L1 is the store.
    async fn purge_store(&self, glob: Glob) -> Result<Invalidation> {
        let total = self.core.l1.usage().entries;
        // A load that began before must not fill a matching key afterwards.
        self.core.loads.local().forget_matching(&glob);
        let mut purge = self.core.l1.ban(glob.clone(), self.now()).ok_or_else(too_many)?;
        self.core.ban_sweeps.remember(glob.clone(), self.now());
        self.core.events.record(FeedChange::Pattern(glob));
        while !purge.is_done() {
            self.core.l1.purge(&mut purge, self.now(), PURGE_STEP);
            tokio::task::yield_now().await;
        }
        self.core.watched_keys.all_changed();
        self.core.loads.all_changed();
        let removed = purge.removed();
        let progress = SweepProgress { total, scanned: total, removed, removed_l1: removed, done: true };
        Ok(Invalidation { ban: self.core.next_token().0, progress: watch::Sender::new(progress).subscribe() })
    }

    /// Removes entries that bans cover from L1, until the future is dropped.
    pub async fn purge_banned(&self) {
        let sweeps = &self.core.ban_sweeps;
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
    pub async fn count_matching(&self, glob: Glob) -> Result<MatchCount<'_>> {
        self.principal.check(Verbs::INVALIDATE, glob.literal_prefix())?;
        let progress = SweepProgress { total: self.count().await?, ..SweepProgress::default() };
        Ok(MatchCount { cache: self, glob, cursor: 0, progress })
    }

    /// Returns the active bans that this node knows.
    #[must_use]
    pub fn active_bans(&self) -> Arc<Vec<Arc<Ban>>> {
        self.l2.open_bans()
    }

    /// Waits until a ban may need a sweep, for at most `patience`.
    pub async fn bans_to_sweep(&self, patience: Duration) {
        let rung = self.core.ban_sweeps.ring.notified();
        // The caller checks the bans in either case.
        let _rung_or_late = tokio::time::timeout(patience, rung).await;
    }

    /// Sweeps the bans that no other node sweeps, and retires the bans that are due.
    pub async fn sweep_bans(&self) {
        let sweeps = &self.core.ban_sweeps;
        let open = self.l2.open_bans();
        sweeps.settle(&open);
        for ban in open.iter().rev() {
            sweeps.note(ban, self.now());
            // A later ban of the same pattern that is being swept covers every key of this ban.
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
                // Only the operator of Redis can mend it; the keys stay hidden meanwhile.
                Err(error) if error.kind() == Kind::NoAccess => {
                    tracing::warn!(%error, ban = ban.number, "Redis denied the sweep of a ban; retrying");
                }
                Err(error) => tracing::debug!(%error, ban = ban.number, "could not claim the sweep of a ban"),
            }
        }
        sweeps.settle(&self.l2.open_bans());
    }

    /// Sweeps one ban until it is done, or until another node has claimed it.
    async fn sweep_ban(&self, ban: &Ban) {
        let total = self.l2.count().await.unwrap_or(0);
        self.core.ban_sweeps.update(ban.number, |progress| progress.total = total);
        let (mut pace, mut cursor, begun) = (Pace::default(), 0, stopwatch_ns());
        loop {
            match self.sweep_page(ban, cursor, &mut pace).await {
                Ok(Some(page)) => {
                    cursor = page.cursor;
                    self.core.ban_sweeps.update(ban.number, |progress| {
                        progress.scanned = (progress.scanned + page.scanned).min(progress.total);
                        progress.removed += page.removed;
                    });
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, ban = ban.number, "a page of a sweep failed; retrying");
                    sleep(RETRY_AFTER).await;
                    continue;
                }
            }
            if cursor == 0 {
                break;
            }
        }
        self.core.ban_sweeps.update(ban.number, |progress| (progress.scanned, progress.done) = (progress.total, true));
        let progress = *self.core.ban_sweeps.follow(ban.number).borrow();
        tracing::info!(
            ban = ban.number,
            removed = progress.removed,
            keys = progress.total,
            ms = (stopwatch_ns() - begun) / 1_000_000,
            "swept a pattern"
        );
    }

    async fn retire_ban(&self, ban: &Ban) {
        if let Err(error) = self.l2.retire(ban.number).await {
            tracing::debug!(%error, ban = ban.number, "could not retire a swept ban; retrying");
        }
    }

    /// Sweeps one page and then pauses. Returns `None` if another node has claimed the sweep.
    async fn sweep_page(&self, ban: &Ban, cursor: u64, pace: &mut Pace) -> Result<Option<SweepPage>> {
        if pace.is_due() {
            let is_open = self.l2.open_bans().iter().any(|open| open.number == ban.number);
            if !is_open || !self.l2.claim_sweep(ban.number, self.core.ban_sweeps.token).await? {
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

/// A count of matching keys in progress.
pub struct MatchCount<'a> {
    cache: &'a Cache,
    glob: Glob,
    cursor: u64,
    progress: SweepProgress,
}

impl MatchCount<'_> {
    /// Counts one more page and returns the progress; `None` after the last page.
    ///
    /// # Errors
    /// As [`Cache::scan`].
    pub async fn next(&mut self) -> Result<Option<SweepProgress>> {
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

/// The pace of a sweep.
#[derive(Default)]
struct Pace {
    /// Time of the last measurement, and the store's command count at that time.
    looked: Option<(u64, Option<u64>)>,
    is_compared: bool,
    /// Commands of the sweep itself since the last measurement.
    own: u64,
    busy: bool,
    /// Duration of the last pages that the sweep has not yet paused for.
    owed: Duration,
}

impl Pace {
    fn is_due(&self) -> bool {
        let apart = if self.is_compared { LOOK_EVERY } else { LOOK_FIRST };
        self.looked.is_none_or(|(at, _)| stopwatch_ns() - at >= apart.as_nanos() as u64)
    }

    /// Records the store's command count. The store counts as busy before the second measurement, and if the count is
    /// unknown or was reset.
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

/// Checks that a pattern does not name Terrace's internal keys.
///
/// # Errors
/// `ReservedPrefix`.
pub fn check_pattern(glob: &Glob) -> Result<()> {
    if glob.literal_prefix().starts_with(crate::model::RESERVED_PREFIX) {
        return Err(CacheError::new(
            Kind::ReservedPrefix,
            "reserved prefix: keys that start with __terrace: are internal to Terrace",
        ));
    }
    Ok(())
}
