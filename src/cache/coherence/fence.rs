//! The coherence fence: the condition under which L1 may answer. For each source of invalidations, it holds the epoch
//! of new copies.
//!
//! The coherence protocol needs two counters per primary, `data` and `link`. Each step of a counter starts a new epoch
//! of L1. The counters differ in the effect on the previous epoch:
//!
//! * `data` (a flush, slots that moved, a changed role): the epoch ends. Its copies are never returned again.
//! * `link` (the invalidation link is lost): the epoch is suspended. Its copies may be returned as stale while
//!   `l2.serve_stale_for` lasts. It ends when the fence of its successor becomes valid.
//!
//! Each heartbeat of the link extends the fence, and each hit checks it, so a process that was paused recovers by
//! itself. With the embedded store, which only this process writes, and without an L2, one epoch stays valid forever.
//!
//! Changes of one source come from its link and from the topology task. Both take a lock that no request takes.
//! Requests read one atomic per missed key.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{
    cache::{
        Caller, Core,
        invalidate::{
            events::ChangeEvent,
            feed::{FeedChange, Gap},
        },
    },
    clock::{Tick, millis},
    l1::{Epoch, L1},
    l2::{Ban, ChangeSink, FENCE_SPAN, Flavor, InvalidationSink, Source},
    learn::recorder::Happened,
    model::RESERVED_PREFIX,
};

/// The fences of all sources.
pub struct Fence {
    sources: Mutex<Vec<SourceState>>,
    /// The current epoch of each source, packed, for lookups without a lock.
    current: Box<[AtomicU64]>,
    invalidations: AtomicU64,
    reconnects: AtomicU64,
    flushes: AtomicU64,
    checked: AtomicU64,
    stale_detected: AtomicU64,
}

/// Coherence statistics.
#[derive(Debug, Clone, Default)]
pub struct Coherence {
    /// True if L1 may answer keys of all sources.
    pub l1_available: bool,
    /// Reason why a source is refused although it answers, if one is refused.
    pub refused: Option<String>,
    /// Longest time in ms of all sources since every change was known to have been received. `None` before the first
    /// proof; 0 if only this process writes to L2.
    pub fence_age_ms: Option<u64>,
    /// Keys that Redis announced as changed.
    pub invalidations: u64,
    /// Number of times that all copies of a source were dropped at once.
    pub flushes: u64,
    /// Lost invalidation links.
    pub reconnects: u64,
    /// Hits that the self-check compared with L2.
    pub checked: u64,
    /// Compared hits whose copy was older than the coherence bound.
    pub stale_detected: u64,
}

/// The state of one source.
#[derive(Default)]
struct SourceState {
    /// True if the source exists: its link has reported.
    known: bool,
    current: Option<Epoch>,
    suspended: Option<Epoch>,
    /// End of the fence that the last heartbeat extended.
    valid_until: Option<Tick>,
    /// Time up to which all changes are known to be received.
    proven_at: Option<Tick>,
    /// Reason why the source is refused although it answers.
    refused: Option<String>,
}

impl SourceState {
    fn end_suspended(&mut self, l1: &L1) {
        if let Some(epoch) = self.suspended.take() {
            l1.end(epoch);
        }
    }

    fn refuse(&mut self, why: &str) {
        self.known = true;
        if self.refused.as_deref() != Some(why) {
            self.refused = Some(why.to_owned());
        }
    }

    fn end_all(&mut self, l1: &L1) {
        self.end_suspended(l1);
        if let Some(epoch) = self.current.take() {
            l1.end(epoch);
        }
    }
}

impl Fence {
    pub(crate) fn new(flavor: Flavor, l1: &L1) -> Self {
        let fence = Self {
            sources: Mutex::new((0..Source::MAX).map(|_| SourceState::default()).collect()),
            current: (0..Source::MAX).map(|_| AtomicU64::new(0)).collect(),
            invalidations: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            stale_detected: AtomicU64::new(0),
        };
        match flavor {
            Flavor::Redis => {}
            Flavor::Embedded | Flavor::None => fence.change(Source::ONLY, |state| {
                state.known = true;
                state.valid_until = Some(Tick::FAR);
                state.proven_at = Some(Tick::FAR);
                state.current = l1.begin(Tick::FAR);
            }),
        }
        fence
    }

    /// Changes the state of a source and publishes its epoch.
    fn change(&self, source: Source, change: impl FnOnce(&mut SourceState)) {
        let mut sources = self.sources.lock();
        let Some(state) = sources.get_mut(source.index()) else { return };
        change(state);
        let bits = state.current.map_or(0, Epoch::to_bits);
        self.current[source.index()].store(bits, Ordering::Release);
    }

    /// Returns the epoch for copies of this source's keys; `None` while its changes are not received.
    #[inline]
    #[must_use]
    pub fn epoch(&self, source: Source) -> Option<Epoch> {
        Epoch::from_bits(self.current.get(source.index())?.load(Ordering::Acquire))
    }

    /// Returns whether L1 may answer keys of every known source; `false` while no source is known.
    #[must_use]
    pub fn is_valid(&self, now: Tick) -> bool {
        let sources = self.sources.lock();
        let mut known = sources.iter().filter(|state| state.known).peekable();
        known.peek().is_some()
            && known.all(|state| state.current.is_some() && state.valid_until.is_some_and(|at| now < at))
    }

    /// Returns whether a link is up, but its heartbeat has been unanswered until its fence ended.
    #[must_use]
    pub fn is_silent(&self, now: Tick) -> bool {
        let lapsed =
            |state: &SourceState| state.current.is_some() && state.valid_until.is_some_and(|until| now >= until);
        self.sources.lock().iter().any(lapsed)
    }

    /// Returns the coherence statistics.
    #[must_use]
    pub fn report(&self, now: Tick) -> Coherence {
        let proven_at: Option<Tick> = self.sources.lock().iter().filter_map(|state| state.proven_at).min();
        Coherence {
            l1_available: self.is_valid(now),
            refused: self.refused(),
            fence_age_ms: proven_at.map(|at| now.0.saturating_sub(at.0)),
            invalidations: self.invalidations.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            checked: self.checked.load(Ordering::Relaxed),
            stale_detected: self.stale_detected.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn note_check(&self) {
        self.checked.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_stale(&self) {
        self.stale_detected.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the reason why a source is refused although it answers, if one is refused.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.sources.lock().iter().find_map(|state| state.refused.clone())
    }

    /// Ends all copies.
    pub(crate) fn step_all(&self, l1: &L1) {
        for source in Source::all() {
            self.step_data(source, l1);
        }
    }

    /// Steps the `data` counter. The fence carries over to the new epoch, because the received changes stay received.
    fn step_data(&self, source: Source, l1: &L1) {
        self.change(source, |state| {
            let goes_on = state.current.is_some();
            state.end_all(l1);
            if goes_on {
                state.current = l1.begin(state.valid_until.unwrap_or(Tick::ZERO));
            }
        });
    }
}

impl ChangeSink for Core {
    fn invalidated(&self, key: &[u8]) {
        self.fence.invalidations.fetch_add(1, Ordering::Relaxed);
        self.l1.invalidate(key);
        if key.starts_with(RESERVED_PREFIX) {
            return self.heard_own(key);
        }
        self.watched_keys.changed(key);
        self.loads.changed(key);
        self.announcements.record(key, Happened::Invalidated, Caller::UNKNOWN, self.clock.now());
        self.events.emit(ChangeEvent::Invalidated(key));
    }

    fn flushed(&self, source: Source) {
        self.fence.flushes.fetch_add(1, Ordering::Relaxed);
        self.fence.step_data(source, &self.l1);
        self.tags_in_use.lost_records();
        self.store_id.doubt();
        self.watched_keys.all_changed();
        self.loads.all_changed();
        self.events.emit(ChangeEvent::Flushed);
    }

    fn banned(&self, ban: &Arc<Ban>) {
        self.ban_sweeps.note(ban, self.clock.now());
        self.ban_sweeps.remember(ban.glob.clone(), self.clock.now());
        match self.l1.ban(ban.glob.clone(), self.clock.now()) {
            Some(purge) => self.ban_sweeps.purge(ban.number, purge),
            // L1 cannot track so many bans at once: all copies are dropped.
            None => self.fence.step_all(&self.l1),
        }
        self.watched_keys.all_changed();
        self.loads.all_changed();
        self.events.record(FeedChange::Pattern(ban.glob.clone()));
        self.ban_sweeps.wake();
    }
}

impl InvalidationSink for Core {
    fn listening(&self, source: Source) {
        self.tags_in_use.missed_changes();
        self.store_id.doubt();
        self.loads.all_changed();
        self.fence.change(source, |state| {
            state.known = true;
            if let Some(epoch) = state.current.take() {
                self.l1.end(epoch);
            }
            state.valid_until = None;
            state.current = self.l1.begin(Tick::ZERO);
        });
        // Earlier changes were not received.
        self.events.break_off(Gap::LinkLost);
    }

    fn lost(&self, source: Source, why: &str) {
        self.tags_in_use.missed_changes();
        self.loads.all_changed();
        self.fence.change(source, |state| {
            state.known = true;
            state.valid_until = None;
            if let Some(epoch) = state.current.take() {
                state.end_suspended(&self.l1);
                self.l1.suspend(epoch);
                state.suspended = Some(epoch);
            }
        });
        self.fence.reconnects.fetch_add(1, Ordering::Relaxed);
        self.events.break_off(Gap::LinkLost);
        tracing::warn!(why, "lost the invalidation link; L1 is bypassed until the link is restored");
    }

    fn proven(&self, source: Source, until: Tick) {
        self.fence.change(source, |state| {
            state.refused = None;
            let Some(epoch) = state.current else { return };
            state.end_suspended(&self.l1);
            state.valid_until = Some(until);
            state.proven_at = Some(Tick(until.0.saturating_sub(millis(FENCE_SPAN))));
            self.l1.extend(epoch, until);
        });
    }

    fn refused(&self, source: Source, why: &str) {
        let by_age_alone = self.rules.load().untracked;
        self.fence.change(source, |state| {
            state.refuse(why);
            if by_age_alone && state.current.is_none() {
                state.end_suspended(&self.l1);
                state.valid_until = Some(Tick::FAR);
                state.current = self.l1.begin(Tick::FAR);
            }
        });
    }

    fn not_primary(&self, source: Source, why: &str) {
        self.fence.change(source, |state| state.refuse(why));
    }

    fn gone(&self, source: Source) {
        self.fence.change(source, |state| {
            state.end_all(&self.l1);
            *state = SourceState::default();
        });
        self.loads.all_changed();
        self.events.break_off(Gap::LinkLost);
    }
}

/// Returns the sink that backends report to.
#[must_use]
pub fn sink(core: &Arc<Core>) -> Arc<dyn InvalidationSink> {
    Arc::clone(core) as Arc<dyn InvalidationSink>
}
