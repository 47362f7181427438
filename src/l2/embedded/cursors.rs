//! Cursors of scans: each number maps to the row where its scan continues.
//!
//! A cursor is a random number, so that one from before a restart is unknown and its scan begins again; a counter
//! would name the position of somebody else's scan. Each scan holds two places at most: the cursor a client is about
//! to use, and the one before it, which it repeats when an answer was lost. So a scan in progress is not pushed out
//! by a faster one, only by many that were begun.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Maximum number of remembered scan cursors. A scan with a forgotten cursor starts again.
const CURSORS_MAX: usize = 4096;
/// Cursors are below this: some clients keep them in a double.
const CURSOR_BITS: u32 = 52;

/// The positions of scans under way.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    places: HashMap<u64, Place>,
    /// Oldest first; may name cursors that are gone.
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Place {
    /// The last row that was looked at.
    after: Bytes,
    /// The cursor that led here.
    before: u64,
}

impl Cursors {
    /// The row after which `cursor` goes on; `None` for one that is not known.
    pub(super) fn position(&mut self, cursor: u64) -> Option<Bytes> {
        let place = self.places.get(&cursor)?;
        let (after, before) = (place.after.clone(), place.before);
        self.places.remove(&before);
        Some(after)
    }

    /// A new cursor, reached from `before`, that goes on after this row.
    pub(super) fn remember(&mut self, before: u64, after: Bytes) -> u64 {
        let cursor = fastrand::u64(1..1 << CURSOR_BITS);
        self.places.insert(cursor, Place { after, before });
        self.order.push_back(cursor);
        // A scan leaves one stale name a page, so the names outnumber the places: bounded twice over.
        while self.places.len() > CURSORS_MAX || self.order.len() > 2 * CURSORS_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if self.places.len() > CURSORS_MAX {
                self.places.remove(&oldest);
            } else if self.places.contains_key(&oldest) {
                self.order.push_back(oldest);
            }
        }
        cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_can_be_used_twice_and_its_scan_goes_on() {
        let mut cursors = Cursors::default();
        let first = cursors.remember(0, Bytes::from("a"));
        let second = cursors.remember(first, Bytes::from("b"));
        assert_eq!(cursors.position(first), Some(Bytes::from("a")));
        assert_eq!(cursors.position(second), Some(Bytes::from("b")));
        assert_eq!(cursors.position(first), None, "its successor was used");
        assert_eq!(cursors.position(7), None);
    }

    #[test]
    fn a_fast_scan_does_not_push_out_a_slow_one() {
        let mut cursors = Cursors::default();
        let slow = cursors.remember(0, Bytes::from("slow"));
        let mut fast = 0;
        for _ in 0..5 * CURSORS_MAX {
            fast = cursors.remember(fast, Bytes::from("fast"));
            cursors.position(fast);
        }
        assert_eq!(cursors.position(slow), Some(Bytes::from("slow")));
        assert!(cursors.order.len() <= 2 * CURSORS_MAX + 1);
    }

    #[test]
    fn abandoned_scans_do_not_add_up() {
        let mut cursors = Cursors::default();
        let first = cursors.remember(0, Bytes::from("first"));
        for _ in 0..3 * CURSORS_MAX {
            cursors.remember(0, Bytes::from("abandoned"));
        }
        assert_eq!(cursors.position(first), None);
        assert!(cursors.places.len() <= CURSORS_MAX && cursors.order.len() <= 2 * CURSORS_MAX);
    }
}
