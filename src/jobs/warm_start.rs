//! Warm starts: saves the hot keys to the data directory, and loads them from L2 after a start.
//!
//! Every few minutes and when the server drains, the hottest keys are saved. The next process loads their values from L2 in
//! the background, hottest first and at a rate that hardly loads L2. Loading ends when all keys are loaded, when L1 is full
//! (later keys are colder), or when L2 fails for long. Nothing is saved while it runs: the previous list is better.

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
/// Pause after such a call, multiplied by their number.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// Interval of progress messages.
const TELL_EVERY_NS: u64 = 5_000_000_000;

/// Settings of warm starts.
#[derive(Debug, Clone)]
pub struct WarmStartSettings {
    /// The data directory.
    pub folder: PathBuf,
    /// Maximum number of saved keys; 0 for none.
    pub keys_max: usize,
    /// Interval between saves.
    pub every: Duration,
    /// Keys loaded per second.
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

    /// Without an L2 there is nothing to load from.
    fn is_off(&self) -> bool {
        self.settings.keys_max == 0 || self.cache.flavor() == Flavor::None
    }

    /// Loads the saved keys, then saves the hot keys periodically until it is dropped.
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
            tracing::warn!("the hot keys are not written: it takes too long");
        }
    }

    async fn save(&self) {
        if self.core().warm_up_progress().is_running {
            return;
        }
        let keys = self.core().hot_keys(self.settings.keys_max).await;
        // An empty or unavailable L1 has no hot keys.
        if keys.is_empty() {
            return;
        }
        let (count, folder) = (keys.len(), self.settings.folder.clone());
        let saved = spawn_blocking(move || hot_keys::save(&folder, &keys)).await;
        match saved.map_err(std::io::Error::other).flatten() {
            Ok(()) => tracing::debug!(keys = count, "the hot keys are written"),
            Err(error) => tracing::warn!(%error, "the hot keys cannot be written; the next start will be cold"),
        }
    }

    async fn start(&self) {
        // Set before the file is read, so that a stop meanwhile does not replace the file.
        self.core().set_warm_up_left(Some(0));
        let folder = self.settings.folder.clone();
        let loaded = spawn_blocking(move || hot_keys::load(&folder)).await;
        match loaded.map_err(std::io::Error::other).flatten() {
            Ok(Loaded::Kept(keys)) if !keys.is_empty() => self.pull(keys).await,
            Ok(Loaded::Kept(_) | Loaded::None) => {}
            Ok(Loaded::Damaged(why, aside)) => {
                tracing::warn!(why, aside = %aside.display(), "the list of hot keys is damaged and set aside; a cold start");
            }
            Err(error) => tracing::warn!(%error, "the list of hot keys cannot be read; a cold start"),
        }
        self.core().set_warm_up_left(None);
    }

    async fn pull(&self, mut keys: Vec<HotKey>) {
        keys.truncate(self.settings.keys_max);
        self.core().set_warm_up_left(Some(keys.len() as u64));
        self.wait_for_l2().await;
        tracing::info!(keys = keys.len(), rate = self.settings.rate, "warming up");
        let begun_ns = stopwatch_ns();
        let warmed = self.pull_all(keys).await;
        let WarmedKeys { found, absent, resident, failed } = warmed;
        let took_ms = (stopwatch_ns() - begun_ns) / 1_000_000;
        tracing::info!(found, absent, resident, failed, took_ms, "warmed up");
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
        let (mut warmed, mut failures, mut told_ns) = (WarmedKeys::default(), 0, stopwatch_ns());
        for batch in keys.chunks(BATCH) {
            pace.tick().await;
            let batch = batch.iter().map(|hot| hot.key.clone()).collect();
            let Some(done) = self.pull_batch(batch, &mut failures).await else {
                tracing::warn!("L2 does not answer; the rest comes up as it is asked for");
                return warmed;
            };
            warmed.add(done);
            self.core().set_warm_up_left(Some(total - warmed.keys().min(total)));
            if self.core().evicted() > evicted {
                tracing::info!("L1 is full; colder keys stay below");
                return warmed;
            }
            if stopwatch_ns() - told_ns >= TELL_EVERY_NS {
                told_ns = stopwatch_ns();
                tracing::info!(done = warmed.keys(), of = total, "warming up");
            }
        }
        warmed
    }

    /// Loads one batch, and retries while all of it fails; `None` after too many consecutive failures.
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
