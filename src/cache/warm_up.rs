//! Warm-up: the hottest keys of L1, and loading keys from L2 before they are requested.
//!
//! Warm-up reads are not user reads: they have no outcome, and nothing is learned from them. Their calls to L2 are
//! counted as load.

use std::{
    cmp::Reverse,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::{Cache, Core, flight::Leader};
use crate::{
    access::Verbs,
    clock::Tick,
    l1::{Leased, Resident},
    l2::{Flavor, PARTS_MAX_BYTES},
    model::Key,
    persist::hot_keys::HotKey,
};

/// L1 entries scanned before the task yields.
const SCAN_STEP: usize = 1_000;

/// Results of warm-up since start.
#[derive(Debug, Default)]
pub(crate) struct WarmUpCounters {
    found: AtomicU64,
    absent: AtomicU64,
    resident: AtomicU64,
    failed: AtomicU64,
    left: AtomicU64,
    is_running: AtomicBool,
}

/// Results for the keys of a warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WarmedKeys {
    /// Keys loaded from L2.
    pub found: u64,
    /// Keys that L2 does not have.
    pub absent: u64,
    /// Keys already in L1, or already in flight.
    pub resident: u64,
    /// Keys that failed: L2 was unavailable, or L1 could not be filled.
    pub failed: u64,
}

/// Progress of the warm-up after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WarmUpProgress {
    /// Keys of all warm-up since start, including warm-up requested by clients.
    pub keys: WarmedKeys,
    /// Saved keys not loaded yet.
    pub left: u64,
    /// True while warm-up is running.
    pub is_running: bool,
}

impl WarmedKeys {
    /// Returns the number of all processed keys.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.found + self.absent + self.resident + self.failed
    }

    /// Adds the results of `other`.
    pub fn add(&mut self, other: Self) {
        self.found += other.found;
        self.absent += other.absent;
        self.resident += other.resident;
        self.failed += other.failed;
    }
}

impl Core {
    /// Returns the hottest keys of L1, hottest first, at most `most`. Heat is the number of reads per second of idle
    /// time: keys that were read often and recently come first.
    pub async fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        self.hot_keys_among(most, |_| true).await
    }

    async fn hot_keys_among(&self, most: usize, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<HotKey> {
        let mut keys: Vec<HotKey> = Vec::new();
        let mut cursor = 0;
        loop {
            let now = self.clock.now();
            cursor = self.l1.scan(cursor, SCAN_STEP, now, |key, resident| {
                if is_wanted(key) {
                    keys.extend(Key::copied(key).map(|key| HotKey { key, heat: heat(resident, now) }));
                }
            });
            // The list grows to twice the size before the colder half is dropped, so that the cost per entry is small.
            if keys.len() >= most.saturating_mul(2).max(SCAN_STEP) {
                keep_hottest(&mut keys, most);
            }
            if cursor == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        keep_hottest(&mut keys, most);
        keys.sort_unstable_by_key(|hot| Reverse(hot.heat));
        keys
    }

    /// Returns the progress of warm-up.
    #[must_use]
    pub fn warm_up_progress(&self) -> WarmUpProgress {
        let counters = &self.warm_up;
        WarmUpProgress {
            keys: WarmedKeys {
                found: counters.found.load(Relaxed),
                absent: counters.absent.load(Relaxed),
                resident: counters.resident.load(Relaxed),
                failed: counters.failed.load(Relaxed),
            },
            left: counters.left.load(Relaxed),
            is_running: counters.is_running.load(Relaxed),
        }
    }

    /// Sets the number of saved keys not loaded yet; `None` when warm-up has ended.
    pub fn set_warm_up_left(&self, left: Option<u64>) {
        self.warm_up.is_running.store(left.is_some(), Relaxed);
        self.warm_up.left.store(left.unwrap_or(0), Relaxed);
    }

    /// Returns the number of entries evicted from L1 to free space. While that number grows, warm-up would replace
    /// hotter keys.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.l1.removals().size
    }
}

impl Cache {
    /// Returns the hottest keys of L1 that the client may know about, hottest first, at most `most`.
    pub async fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        self.core.hot_keys_among(most, |key| self.principal.sees(key)).await
    }
}

fn heat(resident: &Resident, now: Tick) -> u32 {
    const SCALE: u64 = 1_000;
    let idle_s = now.since(resident.used_at).as_secs();
    let heat = (u64::from(resident.hit.hits) + 1) * SCALE / (idle_s + 1);
    u32::try_from(heat).unwrap_or(u32::MAX)
}

fn keep_hottest(keys: &mut Vec<HotKey>, most: usize) {
    if keys.len() > most {
        keys.select_nth_unstable_by_key(most, |hot| Reverse(hot.heat));
        keys.truncate(most);
    }
}

impl Cache {
    /// Loads keys from L2 into L1, in one call. Keys without the permission count as failed.
    pub async fn warm(&self, mut keys: Vec<Key>) -> WarmedKeys {
        let requested = keys.len();
        keys.retain(|key| self.principal.check(Verbs::INVALIDATE, key).is_ok());
        let denied = (requested - keys.len()) as u64;
        let mut warmed = self.load_keys(keys).await;
        warmed.failed += denied;
        let counters = &self.core.warm_up;
        counters.found.fetch_add(warmed.found, Relaxed);
        counters.absent.fetch_add(warmed.absent, Relaxed);
        counters.resident.fetch_add(warmed.resident, Relaxed);
        counters.failed.fetch_add(warmed.failed, Relaxed);
        warmed
    }

    async fn load_keys(&self, keys: Vec<Key>) -> WarmedKeys {
        let mut warmed = WarmedKeys::default();
        if self.core.flavor == Flavor::None {
            // L1 is the store, so a key that is not in L1 does not exist.
            warmed.absent = keys.len() as u64;
            return warmed;
        }
        let _access = self.shared_access().await;
        let sent_at = self.now();
        let led: Vec<Leader> =
            keys.into_iter().filter_map(|key| self.lease_to_warm(key, sent_at, &mut warmed)).collect();
        if led.is_empty() {
            return warmed;
        }
        let wanted: Vec<Key> = led.iter().map(|leader| leader.key.clone()).collect();
        let (answers, _) = self.ask(&wanted, PARTS_MAX_BYTES).await;
        for (leader, answer) in led.into_iter().zip(answers) {
            // The values of one call have a maximum size; the flights of the others end.
            let Some(answer) = answer else {
                warmed.failed += 1;
                continue;
            };
            self.promote(&leader, sent_at, &answer, self.core.group_of(&leader.key));
            match &answer {
                Ok(Some(_)) => warmed.found += 1,
                Ok(None) => warmed.absent += 1,
                Err(_) => warmed.failed += 1,
            }
            leader.land(&answer);
        }
        warmed
    }

    /// Returns the fill lease of a key, unless it is in L1, in flight, or cannot be filled now.
    fn lease_to_warm(&self, key: Key, now: Tick, warmed: &mut WarmedKeys) -> Option<Leader> {
        // Peek first, because taking a lease counts as a use.
        if self.core.l1.peek(&key, now).is_some() {
            warmed.resident += 1;
            return None;
        }
        let epoch = self.fill_epoch(&key, now);
        if epoch.is_none() {
            warmed.failed += 1;
            return None;
        }
        let token = self.core.next_token();
        self.core.flights.register(token);
        match self.core.l1.lease(&key, token, now, epoch, false) {
            Leased::Lead => Some(Leader::new(&self.core, key, token)),
            Leased::Hit(_) | Leased::Join(_) => {
                self.core.flights.end(token);
                warmed.resident += 1;
                None
            }
        }
    }
}
