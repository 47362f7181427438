//! When L1 may answer: the fence and the two counters of the coherence protocol, for one Redis primary.
//!
//! A hit needs `now < fence` and a copy of today's [`Epoch`]. The fence moves with the heartbeat of the invalidation
//! link; the check stands at the hit, so that a process that was paused heals itself. Over the embedded store, whose
//! only writer we are, and without an L2 the gate stands open.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::Core;
use crate::{
    clock::Tick,
    l1::Epoch,
    l2::{Flavor, InvalidationSink},
};

/// State of the gate.
#[derive(Debug)]
pub struct Gate {
    fence: AtomicU64,
    /// Steps on every flush and on every lost link; a copy of an earlier epoch is a miss.
    epoch: AtomicU32,
    /// Why L1 stays closed although Redis answers.
    refused: Mutex<Option<String>>,
    pub(crate) invalidations: AtomicU64,
    pub(crate) reconnects: AtomicU64,
}

impl Gate {
    pub(crate) fn new(flavor: Flavor) -> Self {
        let fence = match flavor {
            Flavor::Redis => Tick::ZERO,
            Flavor::Embedded | Flavor::None => Tick::FAR,
        };
        Self {
            fence: AtomicU64::new(fence.0),
            epoch: AtomicU32::new(1),
            refused: Mutex::new(None),
            invalidations: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
        }
    }

    /// Whether L1 may answer at `now`.
    #[inline]
    #[must_use]
    pub fn open(&self, now: Tick) -> bool {
        now.0 < self.fence.load(Ordering::Acquire)
    }

    /// Today's epoch. Read it before L1 is asked, and again before a fill.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Why L1 stays closed although Redis answers, if it does.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// All copies are of the past from now on.
    pub(crate) fn step_data(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

impl InvalidationSink for Core {
    fn invalidated(&self, key: &[u8]) {
        self.gate.invalidations.fetch_add(1, Ordering::Relaxed);
        self.l1.invalidate(key);
    }

    fn flushed(&self) {
        self.gate.step_data();
    }

    fn lost(&self, why: &str) {
        // The fence first: a reader that sees the new epoch must not find the gate open for copies made before it.
        self.gate.fence.store(0, Ordering::Release);
        self.gate.step_data();
        self.gate.reconnects.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(why, "invalidation link lost; L1 is closed until it is back");
    }

    fn proven(&self, until: Tick) {
        self.gate.refused.lock().take();
        self.gate.fence.store(until.0, Ordering::Release);
    }

    fn refused(&self, why: &str) {
        let mut refused = self.gate.refused.lock();
        if refused.as_deref() != Some(why) {
            tracing::warn!(why, "L1 stays closed: Redis refuses what keeps it true");
            *refused = Some(why.to_owned());
        }
    }
}

/// The sink that a backend is given.
#[must_use]
pub fn sink(core: &Arc<Core>) -> Arc<dyn InvalidationSink> {
    Arc::clone(core) as Arc<dyn InvalidationSink>
}
