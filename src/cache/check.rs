//! The self-check of coherence: now and then a hit is looked at again, below and in L1.
//!
//! One hit in [`SAMPLE_EVERY`] is noted. Once Δ has passed, its key is read from L2; once another Δ has passed, L1 is looked
//! at. If the very copy that was hit is still there and is not what L2 had one Δ before, then it outlived a change by more
//! than the contract allows: that is counted, the copy is dropped, and somebody should hear of it. A key that changes
//! meanwhile in the ordinary way has no copy, or another one, by then; so there is no false alarm.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use super::{Cache, Flavor, Read, ReadOptions, TierChoice};
use crate::{
    clock::Tick,
    model::{Key, Value},
};

/// Hits between two samples of one worker.
pub(crate) const SAMPLE_EVERY: u64 = 10_000;
/// Samples that wait at most; beyond it hits go unsampled.
const WAITING_MAX: usize = 1_024;
/// Δ of the contract, and some time for the message to be taken in.
const DELTA: Duration = Duration::from_millis(1_100);

/// Samples, oldest first.
#[derive(Default)]
pub(crate) struct Samples {
    hits: Mutex<VecDeque<Sample>>,
    read: Mutex<VecDeque<Sample>>,
}

/// A hit that is to be looked at again.
struct Sample {
    key: Key,
    /// When the copy was made: tells it from a later one.
    filled_at: Tick,
    due: Tick,
    /// What L2 had, once it was asked.
    below: Option<Value>,
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

impl Samples {
    /// Notes a hit. A key that cannot be noted at once is not.
    #[cold]
    pub(crate) fn note(&self, key: &[u8], filled_at: Tick, now: Tick) {
        let (Some(mut hits), Ok(key)) = (self.hits.try_lock(), Key::copied(key)) else { return };
        if hits.len() < WAITING_MAX {
            hits.push_back(Sample { key, filled_at, due: now.plus(DELTA), below: None });
        }
    }
}

#[cfg(test)]
impl Samples {
    /// Whether a hit waits for its key to be read.
    pub(crate) fn is_waiting_for_l2(&self) -> bool {
        !self.hits.lock().is_empty()
    }
}

impl Cache {
    /// Looks again at the hits that are due; says how many copies were older than the contract allows.
    pub async fn check_samples(&self) -> usize {
        let (now, samples) = (self.now(), &self.core.samples);
        let stale = due(&samples.read, now).into_iter().filter(|sample| self.is_stale(sample)).count();
        self.read_below(due(&samples.hits, now)).await;
        stale
    }

    async fn read_below(&self, hits: Vec<Sample>) {
        if hits.is_empty() {
            return;
        }
        let keys = hits.iter().map(|sample| sample.key.clone()).collect();
        let options = ReadOptions { tier: TierChoice::L2Only, ..ReadOptions::default() };
        for (sample, read) in hits.into_iter().zip(self.get_many(keys, options).await) {
            let below = match read {
                Ok(Read::Found(found)) => Some(found.value),
                Ok(Read::Missing) => None,
                // Nothing can be said of this one.
                Err(_) => continue,
            };
            wait(&self.core.samples.read, Sample { due: self.now().plus(DELTA), below, ..sample });
        }
    }

    /// Whether the copy that was hit outlived what L2 had one Δ ago.
    fn is_stale(&self, sample: &Sample) -> bool {
        self.core.gate.note_check();
        let Some(resident) = self.resident(&sample.key) else { return false };
        if resident.hit.filled_at != sample.filled_at || sample.below.as_ref() == Some(&resident.hit.value) {
            return false;
        }
        self.core.gate.note_stale();
        self.core.l1.invalidate(&sample.key);
        true
    }
}

/// Whether hits over this L2 are sampled: where nobody else writes, nothing can be missed.
pub(crate) fn is_sampled(flavor: Flavor) -> bool {
    match flavor {
        Flavor::Redis => true,
        Flavor::Embedded | Flavor::None => false,
    }
}
