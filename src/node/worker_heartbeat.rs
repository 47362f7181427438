//! Worker heartbeats: each worker records the time every second, and the health check reads the oldest record.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use crate::clock::Tick;

/// Heartbeats of all running workers.
#[derive(Debug, Default)]
pub struct Heartbeats(Mutex<Vec<Weak<AtomicU64>>>);

/// Heartbeat of one worker. It no longer counts once it is dropped.
#[derive(Debug)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeats {
    /// Adds a worker.
    #[must_use]
    pub fn begin(&self, now: Tick) -> Heartbeat {
        let beat = Arc::new(AtomicU64::new(now.0));
        let mut all = self.0.lock();
        all.retain(|beat| beat.strong_count() > 0);
        all.push(Arc::downgrade(&beat));
        Heartbeat(beat)
    }

    /// Returns the oldest of the workers' last heartbeats; `None` if there is no worker.
    #[must_use]
    pub fn oldest(&self) -> Option<Tick> {
        self.0.lock().iter().filter_map(Weak::upgrade).map(|beat| Tick(beat.load(Relaxed))).min()
    }
}

impl Heartbeat {
    /// Records that the worker is making progress.
    pub fn beat(&self, now: Tick) {
        self.0.store(now.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_beat_of_those_who_live_counts() {
        let heartbeats = Heartbeats::default();
        assert_eq!(heartbeats.oldest(), None);
        let (first, second) = (heartbeats.begin(Tick(10)), heartbeats.begin(Tick(20)));
        assert_eq!(heartbeats.oldest(), Some(Tick(10)));
        first.beat(Tick(30));
        assert_eq!(heartbeats.oldest(), Some(Tick(20)));
        drop(second);
        assert_eq!(heartbeats.oldest(), Some(Tick(30)));
        drop(first);
        assert_eq!(heartbeats.oldest(), None);
    }
}
