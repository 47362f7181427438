//! Warm starts: keeps the hot keys in the data directory, and brings them up from L2 after a start.
//!
//! At the end of a life and every few minutes the hottest keys are written down; the next life pulls their values from L2,
//! hottest first and at a pace that L2 hardly feels, beside its work. It ends when all are there, when L1 is full (what comes
//! later is colder), or when L2 fails for long. While it goes on nothing is written: the old list is better.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    cache::{Cache, Core, Flavor, State, warm::Warmed},
    clock::stopwatch_ns,
    hot::{self, HotKey, Loaded},
    model::Key,
};

/// Keys of one call to L2.
const BATCH: usize = 256;
/// How often it looks whether L2 and the invalidation link have come up.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Calls in a row that brought nothing but errors: then L2 has other troubles.
const FAILURES_MAX: u32 = 20;
/// Pause after one, growing with their number.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// How often progress is logged.
const TELL_EVERY_NS: u64 = 5_000_000_000;
/// The last list may take so long: it holds up the end of the process.
const LAST_SAVE_MAX: Duration = Duration::from_secs(5);

/// Where and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data directory.
    pub folder: PathBuf,
    /// Keys kept at most; 0: none.
    pub keys_max: usize,
    /// How often they are written down.
    pub every: Duration,
    /// Keys pulled a second.
    pub rate: u64,
}

/// Keeps the hot keys of one server, and warms it up.
pub struct Warm {
    cache: Cache,
    settings: Settings,
}

impl Warm {
    /// Of the server whose cache this is.
    #[must_use]
    pub fn new(cache: Cache, settings: Settings) -> Self {
        Self { cache, settings }
    }

    fn core(&self) -> &Arc<Core> {
        self.cache.core()
    }

    /// Without an L2 there is nothing to be pulled from.
    fn is_off(&self) -> bool {
        self.settings.keys_max == 0 || self.cache.flavor() == Flavor::None
    }

    /// Warms up, then keeps the hot keys until it is dropped.
    pub async fn run(&self) {
        if self.is_off() {
            return;
        }
        self.start().await;
        let mut ticks = super::ticks(self.settings.every);
        // At once: nothing is to be written yet.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.save().await;
        }
    }

    /// The last list of this life.
    pub async fn finish(&self) {
        if !self.is_off() && timeout(LAST_SAVE_MAX, self.save()).await.is_err() {
            tracing::warn!("the hot keys are not written: it takes too long");
        }
    }

    async fn save(&self) {
        if self.core().warming().at_work {
            return;
        }
        let keys = self.core().hot_keys(self.settings.keys_max).await;
        // A closed or emptied L1 knows nothing of what is hot.
        if keys.is_empty() {
            return;
        }
        let (count, folder) = (keys.len(), self.settings.folder.clone());
        let saved = spawn_blocking(move || hot::save(&folder, &keys)).await;
        match saved.map_err(std::io::Error::other).flatten() {
            Ok(()) => tracing::debug!(keys = count, "the hot keys are written"),
            Err(error) => tracing::warn!(%error, "the hot keys cannot be written; the next start will be cold"),
        }
    }

    async fn start(&self) {
        // Marked before the file is read, so that a stop meanwhile does not replace it.
        self.core().set_warming(Some(0));
        let folder = self.settings.folder.clone();
        let loaded = spawn_blocking(move || hot::load(&folder)).await;
        match loaded.map_err(std::io::Error::other).flatten() {
            Ok(Loaded::Kept(keys)) if !keys.is_empty() => self.pull(keys).await,
            Ok(Loaded::Kept(_) | Loaded::None) => {}
            Ok(Loaded::Damaged(why, aside)) => {
                tracing::warn!(why, aside = %aside.display(), "the list of hot keys is damaged and set aside; a cold start");
            }
            Err(error) => tracing::warn!(%error, "the list of hot keys cannot be read; a cold start"),
        }
        self.core().set_warming(None);
    }

    async fn pull(&self, mut keys: Vec<HotKey>) {
        keys.truncate(self.settings.keys_max);
        self.core().set_warming(Some(keys.len() as u64));
        self.wait_for_l2().await;
        tracing::info!(keys = keys.len(), rate = self.settings.rate, "warming up");
        let begun_ns = stopwatch_ns();
        let warmed = self.pull_all(keys).await;
        let Warmed { found, absent, resident, failed } = warmed;
        let took_ms = (stopwatch_ns() - begun_ns) / 1_000_000;
        tracing::info!(found, absent, resident, failed, took_ms, "warmed up");
    }

    async fn wait_for_l2(&self) {
        while self.cache.l2_state() != State::Up || !self.cache.l1_open().0 {
            sleep(LOOK_EVERY).await;
        }
    }

    async fn pull_all(&self, keys: Vec<HotKey>) -> Warmed {
        let (total, evicted) = (keys.len() as u64, self.core().evicted());
        let mut pace = interval(pause(BATCH, self.settings.rate));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut warmed, mut failures, mut told_ns) = (Warmed::default(), 0, stopwatch_ns());
        for batch in keys.chunks(BATCH) {
            pace.tick().await;
            let batch = batch.iter().map(|hot| hot.key.clone()).collect();
            let Some(done) = self.pull_batch(batch, &mut failures).await else {
                tracing::warn!("L2 does not answer; the rest comes up as it is asked for");
                return warmed;
            };
            warmed.add(done);
            self.core().set_warming(Some(total - warmed.keys().min(total)));
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

    /// One batch, again while nothing of it comes; `None` once that has happened too often in a row.
    async fn pull_batch(&self, batch: Vec<Key>, failures: &mut u32) -> Option<Warmed> {
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

/// The time between two batches of so many keys at so many keys a second.
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
