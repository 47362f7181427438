//! Invalidation of patterns: opens bans, sweeps what they hide, tells how far that is.
//!
//! A ban takes effect when it is opened (`l2::bans`); the sweep only takes back the room. Each node's job looks for open
//! bans and tries for the right to sweep them, so that a ban whose sweeper dies is swept by another node.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{Cache, events::Event};
use crate::{
    clock::{Tick, stopwatch_ns},
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::{Ban, Flavor, ScanRequest, SweepPage},
};

/// Keys that a page of a sweep looks at while others use the store ...
const PAGE_KEYS_BUSY: usize = 200;
/// ... and while nobody does: 1 to 2 ms of a Redis.
const PAGE_KEYS_IDLE: usize = 2_000;
/// Operations per second of others from which the store counts as used.
const BUSY_RATE: u64 = 500;
/// While it is used the sweep rests this many times as long as its last page took: a quarter of the store's time is its.
const REST_BUSY: u32 = 3;
/// Time between two questions how much the store is used, and between two words that the sweeper lives.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After an error of the store.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Bans whose progress is remembered for those who ask.
const UNDERWAY_MAX: usize = 1_024;

/// How far the invalidation of a pattern is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Keys in the store when the sweep began, about.
    pub total: u64,
    /// Of these, looked at by this node, about.
    pub scanned: u64,
    /// Values that this node removed from L2 (with a dry run: that match).
    pub removed: u64,
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
}

struct Underway {
    ban: u64,
    since: Tick,
    progress: watch::Sender<Progress>,
}

impl Default for Sweeps {
    fn default() -> Self {
        // Redis's Lua compares it as text.
        Self { token: fastrand::u64(1..1 << 52), underway: Mutex::default(), ring: Notify::new() }
    }
}

impl Sweeps {
    /// Something is to be swept.
    pub(crate) fn wake(&self) {
        self.ring.notify_one();
    }

    /// Knows of a ban from now on; when that began.
    fn note(&self, ban: u64, now: Tick) -> Tick {
        let mut underway = self.underway.lock();
        if let Some(known) = underway.iter().find(|underway| underway.ban == ban) {
            return known.since;
        }
        if underway.len() >= UNDERWAY_MAX {
            underway.remove(0);
        }
        underway.push(Underway { ban, since: now, progress: watch::Sender::default() });
        now
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
        self.underway.lock().retain(|underway| {
            let is_open = open.iter().any(|ban| ban.number == underway.ban);
            if !is_open {
                underway.progress.send_modify(|progress| progress.done = true);
            }
            is_open
        });
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
            return Ok(self.remove_matching(&glob).await);
        }
        let ban = self.l2.ban(glob).await?;
        self.core.sweeps.note(ban, self.now());
        let progress = self.core.sweeps.follow(ban);
        self.core.sweeps.wake();
        Ok(Invalidation { ban, progress })
    }

    /// Where L1 is the store nothing is hidden first: the matching entries go while nobody else has a turn.
    async fn remove_matching(&self, glob: &Glob) -> Invalidation {
        let (alone, _turn) = self.exclusive().await;
        let mut progress = Progress { total: alone.core.l1.usage().entries, done: true, ..Progress::default() };
        let mut cursor = 0;
        loop {
            let page = alone.scan_resident(cursor, Some(glob), PAGE_KEYS_IDLE);
            for key in &page.keys {
                progress.removed += u64::from(alone.core.l1.invalidate(key));
                alone.core.watched.changed(key);
                alone.core.events.tell(Event::Wrote { name: "del", key });
            }
            cursor = page.cursor;
            if cursor == 0 {
                break;
            }
        }
        progress.scanned = progress.total;
        let ban = alone.core.next_token().0;
        Invalidation { ban, progress: watch::Sender::new(progress).subscribe() }
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

    /// Sweeps the bans whose time has come and that no other node sweeps.
    pub async fn sweep_bans(&self) {
        let sweeps = &self.core.sweeps;
        let open = self.l2.open_bans();
        sweeps.settle(&open);
        for ban in open.iter() {
            let since = sweeps.note(ban.number, self.now());
            if self.now() < since.plus(self.l2.sweep_after()) {
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
        while let Err(error) = self.l2.retire(ban.number).await {
            tracing::debug!(%error, ban = ban.number, "a ban that is swept could not be retired; it is tried again");
            sleep(RETRY_AFTER).await;
        }
        let progress = *self.core.sweeps.follow(ban.number).borrow();
        tracing::info!(
            ban = ban.number,
            removed = progress.removed,
            keys = progress.total,
            ms = (stopwatch_ns() - begun) / 1_000_000,
            "a pattern was swept"
        );
    }

    /// One page, with the rest after it; `None` if the sweep is not this node's any more.
    async fn sweep_page(&self, ban: &Ban, cursor: u64, pace: &mut Pace) -> Result<Option<SweepPage>> {
        if pace.is_due() {
            if !self.l2.claim_sweep(ban.number, self.core.sweeps.token).await? {
                return Ok(None);
            }
            pace.look(self.l2.load().await);
        }
        let begun = stopwatch_ns();
        let page = self.l2.sweep(ban, cursor, pace.keys()).await?;
        pace.rest(Duration::from_nanos(stopwatch_ns() - begun)).await;
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
        let request = ScanRequest { cursor: self.cursor, pattern, count: PAGE_KEYS_IDLE, type_name: None };
        let page = self.cache.scan(request).await?;
        self.cursor = page.cursor;
        self.progress.removed += page.keys.len() as u64;
        self.progress.done = page.cursor == 0;
        let scanned = self.progress.scanned + PAGE_KEYS_IDLE as u64;
        self.progress.scanned = if self.progress.done { self.progress.total } else { scanned.min(self.progress.total) };
        Ok(Some(self.progress))
    }
}

/// How fast a sweep goes.
#[derive(Default)]
struct Pace {
    looked_ns: Option<u64>,
    /// Pages since the last look.
    pages: u64,
    busy: bool,
}

impl Pace {
    fn is_due(&self) -> bool {
        self.looked_ns.is_none_or(|at| stopwatch_ns() - at >= LOOK_EVERY.as_nanos() as u64)
    }

    /// Takes what the store does in a second, the sweep's own pages included; where that is not known it counts as used.
    fn look(&mut self, rate: Option<u64>) {
        let now = stopwatch_ns();
        let since = self.looked_ns.map_or(1_000_000_000, |at| (now - at).max(1));
        // A page is a scan and a script; Redis's rate is an average over some more time than this.
        let own = 3 * self.pages * 1_000_000_000 / since;
        self.busy = rate.is_none_or(|rate| rate.saturating_sub(own) > BUSY_RATE);
        (self.looked_ns, self.pages) = (Some(now), 0);
    }

    fn keys(&self) -> usize {
        if self.busy { PAGE_KEYS_BUSY } else { PAGE_KEYS_IDLE }
    }

    async fn rest(&mut self, took: Duration) {
        self.pages += 1;
        if self.busy {
            sleep(took * REST_BUSY).await;
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
