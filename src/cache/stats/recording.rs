//! Recordings: user reads of a sample of the keys, for `Admin.RecordReads` and `terrace record`.
//!
//! A recording follows all reads of one key in N, selected by the hash of the key. A worker appends a read to the queue
//! of the recording and never waits: a read that finds the queue full is lost and counted. [`ReadGate`] keeps the cost
//! of reads that nobody records at the one comparison that the size estimate needs anyway.

use std::sync::{
    Arc,
    atomic::{
        AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::whatif::threshold;
use crate::{
    cache::{Cache, Core},
    clock::Tick,
    error::{CacheError, Kind, Result},
    learn::recorder::Caller,
};

/// Maximum number of recordings of reads at the same time.
const RECORDINGS_MAX: usize = 4;
/// Maximum number of recorded reads that wait to be sent to a client (about 3 MB). Further reads are lost.
const WAITING_MAX: usize = 32_768;
/// Maximum size in bytes of the keys of recorded reads that wait to be sent to a client. Further reads are lost.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// The user of a sample of the reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sampler {
    /// The size estimate.
    SizeEstimate,
    /// The recordings.
    Recordings,
}

/// Decides with one relaxed load whether any sampler follows a key.
#[derive(Debug)]
pub(crate) struct ReadGate {
    /// The highest threshold of all samplers: a key with a lower hash may be in a sample.
    threshold: AtomicU32,
    /// Thresholds by [`Sampler`].
    parts: Mutex<[u32; 2]>,
}

impl ReadGate {
    /// Creates a gate for the first sample of the size estimate.
    pub(crate) fn new(size_estimate: u32) -> Self {
        Self { threshold: AtomicU32::new(size_estimate), parts: Mutex::new([size_estimate, 0]) }
    }

    /// Returns false if no sampler follows the key with this hash.
    #[inline]
    pub(crate) fn admits(&self, hash: u32) -> bool {
        hash < self.threshold.load(Relaxed)
    }

    /// Sets the threshold of one sampler.
    pub(crate) fn set(&self, sampler: Sampler, threshold: u32) {
        let mut parts = self.parts.lock();
        parts[sampler as usize] = threshold;
        self.threshold.store(parts[0].max(parts[1]), Relaxed);
    }
}

/// The outcome of a recorded request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// A read of a value with this size in bytes, which expires at this time; [`Tick::FAR`] for never.
    Found(u64, Tick),
    /// A read of a key that no tier has.
    Absent,
    /// A write of a value where L1 is the store, as for [`Recorded::Found`].
    Written(u64, Tick),
}

/// A request of a sampled key.
#[derive(Debug, Clone)]
pub struct RecordedRead {
    /// Copy of the key.
    pub key: Bytes,
    /// Outcome of the request.
    pub outcome: Recorded,
    /// Caller of the request.
    pub caller: Caller,
    /// Time of the request.
    pub at: Tick,
}

/// One recording.
#[derive(Debug)]
struct Recording {
    threshold: u32,
    queue: mpsc::Sender<RecordedRead>,
    /// Size of the keys in the queue in bytes.
    waiting_bytes: AtomicUsize,
    lost: AtomicU64,
}

impl Recording {
    fn note(&self, key: &[u8], outcome: Recorded, caller: Caller, at: Tick) {
        let before = self.waiting_bytes.fetch_add(key.len(), Relaxed);
        // The key is copied only when the queue has a place for it.
        let place = self.queue.try_reserve().ok().filter(|_| before + key.len() <= WAITING_BYTES_MAX);
        match place {
            Some(place) => place.send(RecordedRead { key: Bytes::copy_from_slice(key), outcome, caller, at }),
            None => {
                self.waiting_bytes.fetch_sub(key.len(), Relaxed);
                self.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

/// All recordings of a server.
#[derive(Debug, Default)]
pub(crate) struct Recordings {
    /// The highest threshold of all recordings; 0 without a recording.
    threshold: AtomicU32,
    all: ArcSwap<Vec<Arc<Recording>>>,
    /// Serializes changes of the two fields above.
    changes: Mutex<()>,
}

impl Recordings {
    /// Returns true if there is a recording.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.threshold.load(Relaxed) > 0
    }

    /// Adds a request to each recording that follows its key.
    pub(crate) fn note(&self, key: &[u8], hash: u32, outcome: Recorded, caller: Caller, at: Tick) {
        if hash >= self.threshold.load(Relaxed) {
            return;
        }
        for recording in self.all.load().iter().filter(|recording| hash < recording.threshold) {
            recording.note(key, outcome, caller, at);
        }
    }

    /// Replaces the list of recordings by the result of `change`.
    fn change<T>(&self, gate: &ReadGate, change: impl FnOnce(&mut Vec<Arc<Recording>>) -> Result<T>) -> Result<T> {
        let _changes = self.changes.lock();
        let mut all = self.all.load().to_vec();
        let changed = change(&mut all)?;
        let threshold = all.iter().map(|recording| recording.threshold).max().unwrap_or(0);
        self.all.store(Arc::new(all));
        self.threshold.store(threshold, Relaxed);
        gate.set(Sampler::Recordings, threshold);
        Ok(changed)
    }
}

/// A recording in progress. It ends when this value is dropped.
pub struct ReadRecorder {
    core: Arc<Core>,
    recording: Arc<Recording>,
    queue: mpsc::Receiver<RecordedRead>,
}

impl ReadRecorder {
    /// Moves up to `most` recorded requests to `to`, in the order of their time within this call. Never waits.
    pub fn take(&mut self, most: usize, to: &mut Vec<RecordedRead>) {
        to.clear();
        while to.len() < most
            && let Ok(read) = self.queue.try_recv()
        {
            self.recording.waiting_bytes.fetch_sub(read.key.len(), AcqRel);
            to.push(read);
        }
        to.sort_by_key(|read| read.at);
    }

    /// Returns the number of requests that found the queue full, since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.recording.lost.load(Acquire)
    }
}

impl Drop for ReadRecorder {
    fn drop(&mut self) {
        let remove = |all: &mut Vec<Arc<Recording>>| {
            all.retain(|recording| !Arc::ptr_eq(recording, &self.recording));
            Ok(())
        };
        // Removing does not fail.
        let _removed = self.core.recordings.change(&self.core.read_gate, remove);
    }
}

impl Cache {
    /// Starts a recording of all reads of one key in `one_in`.
    ///
    /// # Errors
    /// `Overloaded` if [`RECORDINGS_MAX`] recordings are in progress.
    pub fn record_reads(&self, one_in: u32) -> Result<ReadRecorder> {
        let (sender, queue) = mpsc::channel(WAITING_MAX);
        let recording = Arc::new(Recording {
            threshold: threshold(one_in),
            queue: sender,
            waiting_bytes: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        });
        let core = Arc::clone(self.core());
        core.recordings.change(&core.read_gate, |all| {
            if all.len() == RECORDINGS_MAX {
                let why = format!("{RECORDINGS_MAX} recordings of reads are in progress; no more are allowed");
                return Err(CacheError::new(Kind::Overloaded, why));
            }
            all.push(Arc::clone(&recording));
            Ok(())
        })?;
        Ok(ReadRecorder { core, recording, queue })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_admits_what_any_sampler_follows() {
        let gate = ReadGate::new(10);
        assert!(gate.admits(9) && !gate.admits(10));
        gate.set(Sampler::Recordings, 100);
        assert!(gate.admits(99) && !gate.admits(100));
        gate.set(Sampler::SizeEstimate, 5);
        gate.set(Sampler::Recordings, 0);
        assert!(gate.admits(4) && !gate.admits(5));
    }

    #[test]
    fn a_full_queue_loses_reads_and_counts_them() {
        let (sender, mut queue) = mpsc::channel(WAITING_MAX);
        let (waiting_bytes, lost) = (AtomicUsize::new(0), AtomicU64::new(0));
        let recording = Recording { threshold: 1, queue: sender, waiting_bytes, lost };
        let note = |key: &[u8]| recording.note(key, Recorded::Absent, Caller::UNKNOWN, Tick(1));
        (0..WAITING_MAX + 7).for_each(|_| note(b"k"));
        assert_eq!(recording.lost.load(Relaxed), 7);
        assert_eq!(recording.waiting_bytes.load(Relaxed), WAITING_MAX);
        while let Ok(read) = queue.try_recv() {
            recording.waiting_bytes.fetch_sub(read.key.len(), Relaxed);
        }
        let long = vec![0; 64 << 10];
        (0..WAITING_BYTES_MAX / long.len() + 3).for_each(|_| note(&long));
        assert_eq!(recording.lost.load(Relaxed), 7 + 3);
    }
}
