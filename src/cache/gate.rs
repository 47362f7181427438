//! When L1 may answer: for each place below that announces its own changes, the epoch that copies are made in.
//!
//! The coherence protocol wants two counters per primary, `data` and `link`. Both are steps from one epoch of L1 to the
//! next; they differ in what becomes of the old one:
//!
//! * `data` (a flush, slots or a role that changed): the epoch ends, nothing of it is ever answered again.
//! * `link` (the invalidation link is lost): the epoch is suspended. Its copies may be answered as stale while
//!   `l2.serve_stale_for` lasts, and it ends when the fence of its successor opens.
//!
//! The fence moves with the heartbeat of the link, and each hit looks at it, so that a process that was paused heals
//! itself. Over the embedded store, whose only writer we are, and without an L2, one epoch stands open.
//!
//! Changes of one source come from that source's link and from whoever follows the topology; they take a lock that no
//! request takes. Requests read one atomic per key they have missed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{
    Caller, Core,
    events::Event,
    feed::{Change, Gap},
};
use crate::{
    clock::{Tick, millis},
    l1::{Epoch, L1},
    l2::{Ban, ChangeSink, FENCE_SPAN, Flavor, InvalidationSink, Source},
    learn::recorder::Happened,
    model::RESERVED_PREFIX,
};

/// State of the gate.
pub struct Gate {
    sources: Mutex<Vec<State>>,
    /// Each source's epoch, packed, for those who take leases.
    current: Box<[AtomicU64]>,
    invalidations: AtomicU64,
    reconnects: AtomicU64,
    flushes: AtomicU64,
    checked: AtomicU64,
    stale_detected: AtomicU64,
}

/// How L1 is kept true, for operators.
#[derive(Debug, Clone, Default)]
pub struct Coherence {
    /// L1 may answer, for all sources.
    pub open: bool,
    /// Why it stays closed for one although that answers.
    pub refused: Option<String>,
    /// Time since all changes were known to have been heard, ms; the longest of all sources. `None` before the first
    /// proof; 0 where only this process writes.
    pub fence_age_ms: Option<u64>,
    /// Keys announced as changed.
    pub invalidations: u64,
    /// Times that all copies of a source were ended at once.
    pub flushes: u64,
    /// Losses of a link.
    pub reconnects: u64,
    /// Hits that were looked at again.
    pub checked: u64,
    /// Of these, copies that were older than the contract allows.
    pub stale_detected: u64,
}

/// What is known of one source.
#[derive(Default)]
struct State {
    /// It exists: its link was told of.
    known: bool,
    current: Option<Epoch>,
    suspended: Option<Epoch>,
    /// Until when its heartbeat has shown that all changes were heard.
    fence: Option<Tick>,
    /// Until when all changes are known to have been heard.
    heard: Option<Tick>,
    /// Why its copies stay closed although it answers.
    refused: Option<String>,
}

impl State {
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

impl Gate {
    pub(crate) fn new(flavor: Flavor, l1: &L1) -> Self {
        let gate = Self {
            sources: Mutex::new((0..Source::MAX).map(|_| State::default()).collect()),
            current: (0..Source::MAX).map(|_| AtomicU64::new(0)).collect(),
            invalidations: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            stale_detected: AtomicU64::new(0),
        };
        match flavor {
            Flavor::Redis => {}
            Flavor::Embedded | Flavor::None => gate.change(Source::ONLY, |state| {
                state.known = true;
                state.fence = Some(Tick::FAR);
                state.heard = Some(Tick::FAR);
                state.current = l1.begin(Tick::FAR);
            }),
        }
        gate
    }

    /// Changes what is known of a source, and shows its epoch to those who take leases.
    fn change(&self, source: Source, change: impl FnOnce(&mut State)) {
        let mut sources = self.sources.lock();
        let Some(state) = sources.get_mut(source.index()) else { return };
        change(state);
        let bits = state.current.map_or(0, Epoch::to_bits);
        self.current[source.index()].store(bits, Ordering::Release);
    }

    /// The epoch that a copy of what this source holds would be made in; `None` while nobody hears of its changes.
    #[inline]
    #[must_use]
    pub fn epoch(&self, source: Source) -> Option<Epoch> {
        Epoch::from_bits(self.current.get(source.index())?.load(Ordering::Acquire))
    }

    /// Whether L1 may answer: for every source that is known, and there is one.
    #[must_use]
    pub fn open(&self, now: Tick) -> bool {
        let sources = self.sources.lock();
        let mut known = sources.iter().filter(|state| state.known).peekable();
        known.peek().is_some() && known.all(|state| state.current.is_some() && state.fence.is_some_and(|at| now < at))
    }

    /// Whether a link that is up has not been answered for so long that its fence lapsed.
    #[must_use]
    pub fn is_silent(&self, now: Tick) -> bool {
        let lapsed = |state: &State| state.current.is_some() && state.fence.is_some_and(|fence| now >= fence);
        self.sources.lock().iter().any(lapsed)
    }

    /// All of it, for operators.
    #[must_use]
    pub fn report(&self, now: Tick) -> Coherence {
        let heard: Option<Tick> = self.sources.lock().iter().filter_map(|state| state.heard).min();
        Coherence {
            open: self.open(now),
            refused: self.refused(),
            fence_age_ms: heard.map(|heard| now.0.saturating_sub(heard.0)),
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

    /// Why L1 stays closed for a source although it answers, if that is so.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.sources.lock().iter().find_map(|state| state.refused.clone())
    }

    /// All copies are of the past from now on.
    pub(crate) fn step_all(&self, l1: &L1) {
        for source in Source::all() {
            self.step_data(source, l1);
        }
    }

    /// A step of the `data` counter. The fence goes over to the new epoch: it tells what was heard, which is as before.
    fn step_data(&self, source: Source, l1: &L1) {
        self.change(source, |state| {
            let goes_on = state.current.is_some();
            state.end_all(l1);
            if goes_on {
                state.current = l1.begin(state.fence.unwrap_or(Tick::ZERO));
            }
        });
    }
}

impl ChangeSink for Core {
    fn invalidated(&self, key: &[u8]) {
        self.gate.invalidations.fetch_add(1, Ordering::Relaxed);
        self.l1.invalidate(key);
        if key.starts_with(RESERVED_PREFIX) {
            return self.heard_own(key);
        }
        self.watched.changed(key);
        self.heard.tell(key, Happened::Invalidated, Caller::UNKNOWN, self.clock.now());
        self.events.tell(Event::Invalidated(key));
    }

    fn flushed(&self, source: Source) {
        self.gate.flushes.fetch_add(1, Ordering::Relaxed);
        self.gate.step_data(source, &self.l1);
        self.in_use.lost_records();
        self.watched.all_changed();
        self.events.tell(Event::Flushed);
    }

    fn banned(&self, ban: &Arc<Ban>) {
        self.sweeps.note(ban.number, self.clock.now());
        self.sweeps.remember(ban.glob.clone(), self.clock.now());
        match self.l1.ban(ban.glob.clone(), self.clock.now()) {
            Some(purge) => self.sweeps.purge(ban.number, purge),
            // More at once than L1 tells apart: all copies go.
            None => self.gate.step_all(&self.l1),
        }
        self.watched.all_changed();
        self.events.record(Change::Pattern(ban.glob.clone()));
        self.sweeps.wake();
    }
}

impl InvalidationSink for Core {
    fn listening(&self, source: Source) {
        self.in_use.missed_changes();
        self.gate.change(source, |state| {
            state.known = true;
            if let Some(epoch) = state.current.take() {
                self.l1.end(epoch);
            }
            state.fence = None;
            state.current = self.l1.begin(Tick::ZERO);
        });
        // What changed before was not heard.
        self.events.break_off(Gap::LinkLost);
    }

    fn lost(&self, source: Source, why: &str) {
        self.in_use.missed_changes();
        self.gate.change(source, |state| {
            state.known = true;
            state.fence = None;
            if let Some(epoch) = state.current.take() {
                state.end_suspended(&self.l1);
                self.l1.suspend(epoch);
                state.suspended = Some(epoch);
            }
        });
        self.gate.reconnects.fetch_add(1, Ordering::Relaxed);
        self.events.break_off(Gap::LinkLost);
        tracing::warn!(why, "invalidation link lost; L1 is closed until it is back");
    }

    fn proven(&self, source: Source, until: Tick) {
        self.gate.change(source, |state| {
            state.refused = None;
            let Some(epoch) = state.current else { return };
            state.end_suspended(&self.l1);
            state.fence = Some(until);
            state.heard = Some(Tick(until.0.saturating_sub(millis(FENCE_SPAN))));
            self.l1.extend(epoch, until);
        });
    }

    fn refused(&self, source: Source, why: &str) {
        let opens = self.rules.load().untracked;
        self.gate.change(source, |state| {
            state.refuse(why);
            if opens && state.current.is_none() {
                state.end_suspended(&self.l1);
                state.fence = Some(Tick::FAR);
                state.current = self.l1.begin(Tick::FAR);
            }
        });
    }

    fn not_primary(&self, source: Source, why: &str) {
        self.gate.change(source, |state| state.refuse(why));
    }

    fn gone(&self, source: Source) {
        self.gate.change(source, |state| {
            state.end_all(&self.l1);
            *state = State::default();
        });
        self.events.break_off(Gap::LinkLost);
    }
}

/// The sink that a backend is given.
#[must_use]
pub fn sink(core: &Arc<Core>) -> Arc<dyn InvalidationSink> {
    Arc::clone(core) as Arc<dyn InvalidationSink>
}
