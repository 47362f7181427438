//! The self-check of coherence: samples hits, and later compares each sample with L2 and with L1.
//!
//! One hit in [`SAMPLE_EVERY`] is sampled. After Δ the sampled key is read from L2. After another Δ L1 is inspected. If
//! the same copy is still in L1 and differs from that L2 value, the copy outlived a change by more than the coherence
//! bound: it is counted, dropped and logged. A key that changes normally in the meantime has no copy, or a different
//! copy, by then, so there are no false alarms.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use crate::{
    cache::{Cache, Core, Flavor, Read, ReadOptions, TierChoice},
    clock::Tick,
    model::{Key, Value},
};

/// Hits between two samples of one worker.
const SAMPLE_EVERY: u64 = 10_000;
/// Maximum number of sampled hits that wait for the coherence self-check. Further hits are not sampled.
const WAITING_MAX: usize = 1_024;
/// The coherence bound Δ, plus time for the invalidation to be processed.
const DELTA: Duration = Duration::from_millis(1_100);

/// Waiting samples, oldest first.
#[derive(Default)]
pub(crate) struct HitSamples {
    hits: Mutex<VecDeque<Sample>>,
    read: Mutex<VecDeque<Sample>>,
}

/// A hit that waits for its check.
struct Sample {
    key: Key,
    /// Time at which the copy was made: distinguishes it from a later copy.
    filled_at: Tick,
    due: Tick,
    /// The value in L2, once it was read.
    in_l2: Option<Value>,
}

fn due(samples: &Mutex<VecDeque<Sample>>, now: Tick) -> Vec<Sample> {
    let mut samples = samples.lock();
    let count = samples.partition_point(|sample| sample.due <= now);
    samples.drain(..count).collect()
}

fn wait(samples: &Mutex<VecDeque<Sample>>, sample: Sample) {
    let mut samples = samples.lock();
    if samples.len() < WAITING_MAX {
        samples.push_back(sample);
    }
}

impl HitSamples {
    /// Adds a sample, unless the lock is taken or the queue is full.
    #[cold]
    fn note(&self, key: &[u8], filled_at: Tick, now: Tick) {
        let (Some(mut hits), Ok(key)) = (self.hits.try_lock(), Key::copied(key)) else { return };
        if hits.len() < WAITING_MAX {
            hits.push_back(Sample { key, filled_at, due: now.plus(DELTA), in_l2: None });
        }
    }
}

#[cfg(test)]
impl HitSamples {
    /// Returns whether a sample waits for its read of L2.
    pub(crate) fn is_waiting_for_l2(&self) -> bool {
        !self.hits.lock().is_empty()
    }
}

impl Core {
    /// Samples one hit in [`SAMPLE_EVERY`]; `before` is the number of hits counted before this one.
    #[inline]
    pub(in crate::cache) fn sample_hit(&self, before: u64, key: &[u8], filled_at: Tick, now: Tick) {
        if before.is_multiple_of(SAMPLE_EVERY) && is_sampled(self.flavor) {
            self.hit_samples.note(key, filled_at, now);
        }
    }
}

impl Cache {
    /// Checks the samples that are due. Returns the number of copies that were older than the coherence bound.
    pub async fn check_samples(&self) -> usize {
        let (now, samples) = (self.now(), &self.core.hit_samples);
        let stale = due(&samples.read, now).into_iter().filter(|sample| self.is_stale(sample)).count();
        self.read_from_l2(due(&samples.hits, now)).await;
        stale
    }

    async fn read_from_l2(&self, hits: Vec<Sample>) {
        if hits.is_empty() {
            return;
        }
        let keys = hits.iter().map(|sample| sample.key.clone()).collect();
        let options = ReadOptions { tier: TierChoice::L2Only, ..ReadOptions::default() };
        for (sample, read) in hits.into_iter().zip(self.get_many(keys, options).await) {
            let in_l2 = match read {
                Ok(Read::Found(found)) => Some(found.value),
                Ok(Read::Missing) => None,
                // L2 failed: this sample cannot be checked.
                Err(_) => continue,
            };
            wait(&self.core.hit_samples.read, Sample { due: self.now().plus(DELTA), in_l2, ..sample });
        }
    }

    /// Returns whether the sampled copy outlived the value that L2 had one Δ ago.
    fn is_stale(&self, sample: &Sample) -> bool {
        self.core.fence.note_check();
        let Some(resident) = self.resident(&sample.key) else { return false };
        if resident.hit.filled_at != sample.filled_at || sample.in_l2.as_ref() == Some(&resident.hit.value) {
            return false;
        }
        self.core.fence.note_stale();
        self.core.l1.invalidate(&sample.key);
        true
    }
}

/// Returns whether hits with this L2 are sampled. If only this process writes, no change can be missed.
fn is_sampled(flavor: Flavor) -> bool {
    match flavor {
        Flavor::Redis => true,
        Flavor::Embedded | Flavor::None => false,
    }
}
