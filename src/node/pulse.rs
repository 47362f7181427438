//! Whether the workers still move: each writes the time down every second, and whoever asks for health looks.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use crate::clock::Tick;

/// The pulses of all workers that live.
#[derive(Debug, Default)]
pub struct Pulses(Mutex<Vec<Weak<AtomicU64>>>);

/// One worker's pulse; it stops to count when it is dropped.
#[derive(Debug)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulses {
    /// A worker begins.
    #[must_use]
    pub fn begin(&self, now: Tick) -> Pulse {
        let beat = Arc::new(AtomicU64::new(now.0));
        let mut all = self.0.lock();
        all.retain(|beat| beat.strong_count() > 0);
        all.push(Arc::downgrade(&beat));
        Pulse(beat)
    }

    /// The last beat of the worker that has been silent longest; `None` while there is no worker.
    #[must_use]
    pub fn oldest(&self) -> Option<Tick> {
        self.0.lock().iter().filter_map(Weak::upgrade).map(|beat| Tick(beat.load(Relaxed))).min()
    }
}

impl Pulse {
    /// The worker moves.
    pub fn beat(&self, now: Tick) {
        self.0.store(now.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_beat_of_those_who_live_counts() {
        let pulses = Pulses::default();
        assert_eq!(pulses.oldest(), None);
        let (first, second) = (pulses.begin(Tick(10)), pulses.begin(Tick(20)));
        assert_eq!(pulses.oldest(), Some(Tick(10)));
        first.beat(Tick(30));
        assert_eq!(pulses.oldest(), Some(Tick(20)));
        drop(second);
        assert_eq!(pulses.oldest(), Some(Tick(30)));
        drop(first);
        assert_eq!(pulses.oldest(), None);
    }
}
