//! Touch on read (sliding expiration): if a policy sets `touch_on_read`, a read extends the key's TTL to that window,
//! like GETEX or the "expire after access" of in-process caches. A touch never shortens a TTL, never adds a TTL to a
//! key without expiry, and never exceeds `max_ttl`.
//!
//! Not every read touches L2. Copies of such keys stay in L1 for at most a sixteenth of the window ([`PARTS`]), so a
//! regularly read key is read from L2 that often. It is touched there if more than a sixteenth of its TTL has passed,
//! so a hit in L1 costs nothing. All nodes together touch a constantly read key 16 times per window, because each node
//! sees the TTL that the others set. A key expires between seven eighths of the window and the whole window after its
//! last read, never later. A touch changes the key's expiry, which Redis announces: the copies on all nodes are
//! dropped, and the next read on each node fills a new one.
//!
//! Touches wait in a queue and are sent to L2 in batches, one after the other; a reader never waits for a touch. A
//! touch that finds the queue full, or fails, is left to the next read of the key. Without an L2, the entry in L1 is
//! touched directly.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    cache::{Applied, Batch, Cache, Core, ExpireOnly, Flavor, Op, op::NewExpiry, policy::Rules, write::Dropped},
    clock::{Tick, stopwatch_ns},
    l1::{Change, Hit},
    l2::Source,
    learn::recorder::{Happened, Wrote},
    model::{Key, Life},
};

/// Number of touches per window.
const PARTS: u32 = 16;
/// Maximum number of keys that wait for a touch on read. Further touches are left to the next read of the key.
const WAITING_MAX: usize = 65_536;
/// Maximum number of keys in one batch of touches.
const BATCH_MAX: usize = 256;

/// Waiting touches, and the results of previous ones.
#[derive(Debug, Default)]
pub(crate) struct TouchQueue {
    /// True if L1 is the store, and at least one policy sets `touch_on_read`.
    in_l1: AtomicBool,
    waiting: Mutex<HashMap<Key, Duration, foldhash::fast::RandomState>>,
    ring: Notify,
    extended: AtomicU64,
    left: AtomicU64,
}

/// Touches since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touches {
    /// Keys whose TTL was extended.
    pub extended: u64,
    /// Keys that were not extended: the queue was full, L2 failed, or the key was deleted meanwhile.
    pub left: u64,
}

/// Returns whether a touch is due for the remaining TTL `left`.
fn is_due(left: Duration, window: Duration) -> bool {
    left < window / PARTS * (PARTS - 1)
}

impl Core {
    /// Applies the touch-on-read settings of new rules.
    pub(in crate::cache) fn apply_touch_policy(&self, rules: &Rules) {
        let any = rules.policies.iter().any(|policy| policy.touch_on_read.is_some());
        self.touch_queue.in_l1.store(any && self.flavor == Flavor::None, Relaxed);
    }

    /// Returns the time at which a copy has to leave L1, so that the next read reaches L2 and can touch the key.
    pub(in crate::cache) fn touch_deadline(&self, rules: &Rules, key: &[u8], expires_at: Tick, now: Tick) -> Tick {
        if expires_at == Tick::FAR || self.flavor == Flavor::None {
            return Tick::FAR;
        }
        rules.touch_on_read_of(key).map_or(Tick::FAR, |window| now.plus((window / PARTS).max(Duration::from_millis(1))))
    }

    /// Returns the touches since start.
    #[must_use]
    pub fn touches(&self) -> Touches {
        Touches { extended: self.touch_queue.extended.load(Relaxed), left: self.touch_queue.left.load(Relaxed) }
    }
}

impl Cache {
    /// Queues a touch if one is due, after a user read found the key in L2 with the TTL `life`.
    pub(in crate::cache) fn queue_touch(&self, key: &[u8], life: Life) {
        let Life::For(left) = life else { return };
        let rules = self.core.rules.load();
        let Some(window) = rules.touch_on_read_of(key).filter(|window| is_due(left, *window)) else { return };
        let Ok(key) = Key::copied(key) else { return };
        let queue = &self.core.touch_queue;
        let mut waiting = queue.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            queue.left.fetch_add(1, Relaxed);
            return;
        }
        waiting.insert(key, window);
        drop(waiting);
        queue.ring.notify_one();
    }

    /// Returns whether hits may require a touch in L1 itself.
    #[inline]
    pub(in crate::cache) fn touches_in_l1(&self) -> bool {
        self.core.touch_queue.in_l1.load(Relaxed)
    }

    /// Touches an entry that a user read found, if L1 is the store.
    #[cold]
    pub(in crate::cache) fn touch_in_l1(&self, key: &[u8], hit: &Hit, now: Tick) {
        let core = &self.core;
        let rules = core.rules.load();
        let Some(window) = rules.touch_on_read_of(key) else { return };
        if hit.expires_at == Tick::FAR || !is_due(hit.expires_at.since(now), window) {
            return;
        }
        let (Some(epoch), Ok(key)) = (core.fence.epoch(Source::ONLY), Key::copied(key)) else { return };
        let until = now.plus(window);
        let extended = core.l1.update(&key, now, epoch, hit.group, |current| {
            let is_longer = current.is_some_and(|current| current.expires_at < until);
            Ok((if is_longer { Change::Reexpire(until) } else { Change::Keep }, is_longer))
        });
        let count = if extended.unwrap_or(false) { &core.touch_queue.extended } else { &core.touch_queue.left };
        count.fetch_add(1, Relaxed);
    }

    /// Waits for keys to touch.
    pub async fn next_touches(&self) -> Vec<(Key, Duration)> {
        let queue = &self.core.touch_queue;
        loop {
            let rung = queue.ring.notified();
            let batch: Vec<(Key, Duration)> = {
                let mut waiting = queue.waiting.lock();
                let keys: Vec<Key> = waiting.keys().take(BATCH_MAX).cloned().collect();
                keys.into_iter().filter_map(|key| waiting.remove_entry(&key)).collect()
            };
            if !batch.is_empty() {
                return batch;
            }
            rung.await;
        }
    }

    /// Extends the TTLs of keys to their windows, in one pipeline.
    pub async fn touch(&self, batch: Vec<(Key, Duration)>) {
        let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
        let ops = batch.into_iter().map(|(key, window)| {
            // Extends only an earlier expiry: a longer TTL, or none, was set on purpose.
            let op = Op::Expire { expiry: NewExpiry::In(window), only: ExpireOnly::IF_LONGER, want_value: false };
            (key, op)
        });
        let ops: Vec<(Key, Op)> = ops.collect();
        let _dropped = (self.core.flavor == Flavor::Redis).then(|| Dropped::new(&self.core, keys.clone()));
        let _access = self.shared_access().await;
        let begun = stopwatch_ns();
        let results = self.l2.apply(ops, Batch::Independent).await;
        let failed = results.iter().filter(|result| result.is_err()).count();
        self.counters.l2_written(keys.len(), failed, (stopwatch_ns() - begun) / 1000);
        let now = self.now();
        for (key, result) in keys.iter().zip(results) {
            let extended = matches!(result, Ok(Applied::Expired { applied: true, .. }));
            if extended {
                // Redis announces the touch as a change, but the value is unchanged.
                self.tap.record(key, Happened::Written(Wrote::Lifetime), self.caller, now);
            }
            let count = if extended { &self.core.touch_queue.extended } else { &self.core.touch_queue.left };
            count.fetch_add(1, Relaxed);
        }
    }
}
