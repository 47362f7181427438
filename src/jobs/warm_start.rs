//! Warm starts: saves the hot keys to the data directory, and loads them from L2 after a start.
//!
//! The hottest keys are saved every few minutes and when the server drains. The next process loads their values from L2
//! in the background, hottest first and at a rate that causes little load on L2. Loading ends when all keys are loaded,
//! when L1 is full (later keys are colder), or when L2 keeps failing. Nothing is saved while loading runs, because the
//! previous list is more complete.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep},
};

use super::periodic_save;
use crate::{
    cache::{Cache, Core, Flavor, State, warm_up::WarmedKeys},
    clock::stopwatch_ns,
    model::Key,
    persist::hot_keys::{self, HotKey, Loaded},
};

/// Keys per call to L2.
const BATCH: usize = 256;
/// Interval of checks for L2 and the invalidation link at start.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Maximum number of consecutive failed L2 calls of a warm start. The warm start then ends.
const FAILURES_MAX: u32 = 20;
/// Pause after a failed call, multiplied by the number of consecutive failures.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// Interval of progress messages.
const LOG_EVERY_NS: u64 = 5_000_000_000;

/// Settings of warm starts.
#[derive(Debug, Clone)]
pub struct WarmStartSettings {
    /// The data directory.
    pub folder: PathBuf,
    /// Maximum number of saved keys; 0 disables warm starts.
    pub keys_max: usize,
    /// Interval between saves.
    pub every: Duration,
    /// Maximum number of keys loaded per second.
    pub rate: u64,
}

/// Saves the hot keys of one server, and loads them at its start.
pub struct WarmStart {
    cache: Cache,
    settings: WarmStartSettings,
}

impl WarmStart {
    /// Creates the job for the server of this cache.
    #[must_use]
    pub fn new(cache: Cache, settings: WarmStartSettings) -> Self {
        Self { cache, settings }
    }

    fn core(&self) -> &Arc<Core> {
        self.cache.core()
    }

    /// Returns whether the job is disabled. Without an L2 there is nothing to load from.
    fn is_off(&self) -> bool {
        self.settings.keys_max == 0 || self.cache.flavor() == Flavor::None
    }

    /// Loads the saved keys, then saves the hot keys periodically until the future is dropped.
    pub async fn run(&self) {
        if self.is_off() {
            return;
        }
        self.start().await;
        periodic_save::save_every(self.settings.every, || self.save()).await;
    }

    /// Saves the hot keys for the last time.
    pub async fn finish(&self) {
        if !self.is_off() && !periodic_save::save_last(self.save()).await {
            tracing::warn!("abandoned writing the hot key list: it took too long");
        }
    }

    async fn save(&self) {
        if self.core().warm_up_progress().is_running {
            return;
        }
        let keys = self.core().hot_keys(self.settings.keys_max).await;
        // An empty or bypassed L1 has no hot keys.
        if keys.is_empty() {
            return;
        }
        let (count, folder) = (keys.len(), self.settings.folder.clone());
        let saved = spawn_blocking(move || hot_keys::save(&folder, &keys)).await;
        match saved.map_err(std::io::Error::other).flatten() {
            Ok(()) => tracing::debug!(keys = count, "wrote the hot key list"),
            Err(error) => tracing::warn!(%error, "could not write the hot key list; the next start may be cold"),
        }
    }

    async fn start(&self) {
        // Set before the file is read, so that a shutdown in the meantime does not replace the file.
        self.core().set_warm_up_left(Some(0));
        let folder = self.settings.folder.clone();
        let loaded = spawn_blocking(move || hot_keys::load(&folder)).await;
        match loaded.map_err(std::io::Error::other).flatten() {
            Ok(Loaded::Kept(keys)) if !keys.is_empty() => self.pull(keys).await,
            Ok(Loaded::Kept(_) | Loaded::None) => {}
            Ok(Loaded::Damaged(why, aside)) => {
                tracing::warn!(
                    why,
                    aside = %aside.display(),
                    "the hot key list is unusable and was set aside; starting cold"
                );
            }
            Err(error) => tracing::warn!(%error, "could not read the hot key list; starting cold"),
        }
        self.core().set_warm_up_left(None);
    }

    async fn pull(&self, mut keys: Vec<HotKey>) {
        keys.truncate(self.settings.keys_max);
        self.core().set_warm_up_left(Some(keys.len() as u64));
        self.wait_for_l2().await;
        tracing::info!(keys = keys.len(), rate = self.settings.rate, "started warm-up");
        let begun_ns = stopwatch_ns();
        let warmed = self.pull_all(keys).await;
        let WarmedKeys { found, absent, resident, failed } = warmed;
        let took_ms = (stopwatch_ns() - begun_ns) / 1_000_000;
        tracing::info!(found, absent, resident, failed, took_ms, "finished warm-up");
    }

    async fn wait_for_l2(&self) {
        while self.cache.l2_state() != State::Up || !self.cache.l1_availability().0 {
            sleep(LOOK_EVERY).await;
        }
    }

    async fn pull_all(&self, keys: Vec<HotKey>) -> WarmedKeys {
        let (total, evicted) = (keys.len() as u64, self.core().evicted());
        let mut pace = interval(pause(BATCH, self.settings.rate));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut warmed, mut failures, mut logged_ns) = (WarmedKeys::default(), 0, stopwatch_ns());
        for batch in keys.chunks(BATCH) {
            pace.tick().await;
            let batch = batch.iter().map(|hot| hot.key.clone()).collect();
            let Some(done) = self.pull_batch(batch, &mut failures).await else {
                tracing::warn!(
                    "L2 does not answer; warm-up ends, and the remaining keys are loaded when they are read"
                );
                return warmed;
            };
            warmed.add(done);
            self.core().set_warm_up_left(Some(total - warmed.keys().min(total)));
            if self.core().evicted() > evicted {
                tracing::info!("L1 is full; warm-up skips the remaining, colder keys");
                return warmed;
            }
            if stopwatch_ns() - logged_ns >= LOG_EVERY_NS {
                logged_ns = stopwatch_ns();
                tracing::info!(done = warmed.keys(), of = total, "warm-up in progress");
            }
        }
        warmed
    }

    /// Loads one batch, and retries if all its keys fail. Returns `None` after too many consecutive failures.
    async fn pull_batch(&self, batch: Vec<Key>, failures: &mut u32) -> Option<WarmedKeys> {
        loop {
            let done = self.cache.warm(batch.clone()).await;
            if done.failed < done.keys() {
                *failures = 0;
                return Some(done);
            }
            *failures += 1;
            if *failures >= FAILURES_MAX {
                return None;
            }
            sleep(FAILURE_PAUSE * *failures).await;
        }
    }
}

/// Returns the time between two batches of this size at this rate in keys per second.
fn pause(batch: usize, rate: u64) -> Duration {
    let keys = Duration::from_secs(batch as u64);
    (keys / u32::try_from(rate.max(1)).unwrap_or(u32::MAX)).max(Duration::from_micros(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_rate() {
        assert_eq!(pause(256, 256), Duration::from_secs(1));
        assert_eq!(pause(256, 25_600), Duration::from_millis(10));
        assert_eq!(pause(256, u64::MAX), Duration::from_micros(1));
    }
}
