//! Passes the events that workers recorded to all learners.

use super::Core;
use crate::learn::recorder::Event;

impl Core {
    /// Drains the events recorded since the last call and passes them to all learners. `events` is a reusable buffer.
    pub fn learn(&self, events: &mut Vec<Event>) {
        events.clear();
        self.recorder.drain(events);
        self.invalidate_ghosts(events);
        self.play_ghosts();
        self.learn_ttls(events);
        self.note_key_history(events);
    }

    /// Returns the number of events that no learner saw, because they were recorded faster than they were drained.
    #[must_use]
    pub fn events_dropped(&self) -> u64 {
        self.recorder.dropped()
    }
}
