//! Lives that slide: where a policy says `touch_on_read`, a read gives the key that much life again, as GETEX does or the
//! "expire after access" of caches in a process. Never less than it had, nothing to a key without expiry, not beyond `max_ttl`.
//!
//! Not each read goes to L2 for that. Copies of such keys stay in L1 for a sixteenth of the window ([`PARTS`]) at most, so a key
//! that is read comes by L2 that often; and there it is touched if more than a sixteenth of its life is over. So a hit in L1
//! costs nothing, a key that is read all the time is touched 16 times a window by all nodes together (each sees the life that
//! the others gave), and a key expires between seven eighths of the window and all of it after its last read, never later.
//! A touch changes the key's expiry, which Redis announces: copies on all nodes go, and the next read of each brings the new one.
//!
//! Touches wait in a queue and go to L2 together, one batch after the other; a reader never waits for one. What finds no
//! room, or fails, is left to the next read that comes by. Without an L2 the entry in L1 is touched on the spot.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Applied, Batch, Cache, Core, ExpireOnly, Flavor, Op, op::NewExpiry, policy::Rules, write::Dropped};
use crate::{
    clock::{Tick, stopwatch_ns},
    l1::{Change, Hit},
    l2::Source,
    learn::recorder::{Happened, Wrote},
    model::{Key, Life},
};

/// A touch for so many parts of the window.
const PARTS: u32 = 16;
/// Keys that wait to be touched at most: a second of as many reads of L2 as Redis answers.
const WAITING_MAX: usize = 65_536;
/// Keys of one batch.
const BATCH_MAX: usize = 256;

/// Touches that wait, and what became of others.
#[derive(Debug, Default)]
pub(crate) struct Slides {
    /// L1 is the store, and some policy wants touches.
    in_l1: AtomicBool,
    waiting: Mutex<HashMap<Key, Duration, foldhash::fast::RandomState>>,
    ring: Notify,
    extended: AtomicU64,
    left: AtomicU64,
}

/// Touches since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touches {
    /// Keys that live longer by it.
    pub extended: u64,
    /// Keys that were left as they are: no room in the queue, L2 failed, or gone meanwhile.
    pub left: u64,
}

/// Whether so little of the window is left that a touch is due.
fn is_due(left: Duration, window: Duration) -> bool {
    left < window / PARTS * (PARTS - 1)
}

impl Core {
    /// Takes note of rules.
    pub(super) fn slide_by(&self, rules: &Rules) {
        let any = rules.policies.iter().any(|policy| policy.touch_on_read.is_some());
        self.slides.in_l1.store(any && self.flavor == Flavor::None, Relaxed);
    }

    /// When a copy has to come by L2 again so that its key can be touched.
    pub(super) fn slide_deadline(&self, rules: &Rules, key: &[u8], expires_at: Tick, now: Tick) -> Tick {
        if expires_at == Tick::FAR || self.flavor == Flavor::None {
            return Tick::FAR;
        }
        rules.slide_of(key).map_or(Tick::FAR, |window| now.plus((window / PARTS).max(Duration::from_millis(1))))
    }

    /// Touches since start.
    #[must_use]
    pub fn touches(&self) -> Touches {
        Touches { extended: self.slides.extended.load(Relaxed), left: self.slides.left.load(Relaxed) }
    }
}

impl Cache {
    /// A user read found the key in L2 with so much life left.
    pub(super) fn slide(&self, key: &[u8], life: Life) {
        let Life::For(left) = life else { return };
        let rules = self.core.rules.load();
        let Some(window) = rules.slide_of(key).filter(|window| is_due(left, *window)) else { return };
        let Ok(key) = Key::copied(key) else { return };
        let slides = &self.core.slides;
        let mut waiting = slides.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            slides.left.fetch_add(1, Relaxed);
            return;
        }
        waiting.insert(key, window);
        drop(waiting);
        slides.ring.notify_one();
    }

    /// Whether a hit may have to be touched in L1 itself.
    #[inline]
    pub(super) fn slides_in_l1(&self) -> bool {
        self.core.slides.in_l1.load(Relaxed)
    }

    /// Where L1 is the store: a user read found the entry.
    #[cold]
    pub(super) fn slide_resident(&self, key: &[u8], hit: &Hit, now: Tick) {
        let core = &self.core;
        let rules = core.rules.load();
        let Some(window) = rules.slide_of(key) else { return };
        if hit.expires_at == Tick::FAR || !is_due(hit.expires_at.since(now), window) {
            return;
        }
        let (Some(epoch), Ok(key)) = (core.gate.epoch(Source::ONLY), Key::copied(key)) else { return };
        let until = now.plus(window);
        let extended = core.l1.update(&key, now, epoch, hit.group, |current| {
            let is_longer = current.is_some_and(|current| current.expires_at < until);
            Ok((if is_longer { Change::Reexpire(until) } else { Change::Keep }, is_longer))
        });
        let count = if extended.unwrap_or(false) { &core.slides.extended } else { &core.slides.left };
        count.fetch_add(1, Relaxed);
    }

    /// Waits for keys to touch.
    pub async fn next_touches(&self) -> Vec<(Key, Duration)> {
        let slides = &self.core.slides;
        loop {
            let rung = slides.ring.notified();
            let batch: Vec<(Key, Duration)> = {
                let mut waiting = slides.waiting.lock();
                let keys: Vec<Key> = waiting.keys().take(BATCH_MAX).cloned().collect();
                keys.into_iter().filter_map(|key| waiting.remove_entry(&key)).collect()
            };
            if !batch.is_empty() {
                return batch;
            }
            rung.await;
        }
    }

    /// Gives keys their window again, in one pipeline.
    pub async fn touch(&self, batch: Vec<(Key, Duration)>) {
        let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
        let ops = batch.into_iter().map(|(key, window)| {
            // Only what has an expiry, and an earlier one: whoever gave the key more life, or none that ends, is right.
            let op = Op::Expire { expiry: NewExpiry::In(window), only: ExpireOnly::IF_LONGER, want_value: false };
            (key, op)
        });
        let ops: Vec<(Key, Op)> = ops.collect();
        let _dropped = (self.core.flavor == Flavor::Redis).then(|| Dropped::new(&self.core, keys.clone()));
        let _turn = self.turn().await;
        let begun = stopwatch_ns();
        let results = self.l2.apply(ops, Batch::Independent).await;
        let failed = results.iter().filter(|result| result.is_err()).count();
        self.counters.written_below(keys.len(), failed, (stopwatch_ns() - begun) / 1000);
        let now = self.now();
        for (key, result) in keys.iter().zip(results) {
            let extended = matches!(result, Ok(Applied::Expired { applied: true, .. }));
            if extended {
                // What Redis announces of it is no change of the value.
                self.tap.tell(key, Happened::Written(Wrote::Lifetime), self.caller, now);
            }
            let count = if extended { &self.core.slides.extended } else { &self.core.slides.left };
            count.fetch_add(1, Relaxed);
        }
    }
}
