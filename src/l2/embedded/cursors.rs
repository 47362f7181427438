//! Cursors of scans: each number maps to the row where its scan continues.
//!
//! A cursor is a random number, so that a cursor from before a restart is unknown and its scan starts again; a counter
//! could match the position of another scan. Each scan keeps at most two positions: the cursor that the client uses
//! next, and the previous cursor, which the client repeats if a reply was lost. Therefore, a faster scan does not evict
//! a scan in progress; only many abandoned scans do.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Maximum number of remembered scan cursors. A scan with a forgotten cursor starts again.
const CURSORS_MAX: usize = 4096;
/// Bits of a cursor, because some clients store cursors in a double.
const CURSOR_BITS: u32 = 52;

/// Positions of the scans in progress.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    places: HashMap<u64, Place>,
    /// Cursors, oldest first; may contain removed cursors.
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Place {
    /// The last visited row.
    after: Bytes,
    /// The cursor of the previous page.
    before: u64,
}

impl Cursors {
    /// Returns the row after which `cursor` continues; `None` for an unknown cursor.
    pub(super) fn position(&mut self, cursor: u64) -> Option<Bytes> {
        let place = self.places.get(&cursor)?;
        let (after, before) = (place.after.clone(), place.before);
        self.places.remove(&before);
        Some(after)
    }

    /// Returns a new cursor that continues after this row; `before` is the cursor of the previous page.
    pub(super) fn remember(&mut self, before: u64, after: Bytes) -> u64 {
        let cursor = fastrand::u64(1..1 << CURSOR_BITS);
        self.places.insert(cursor, Place { after, before });
        self.order.push_back(cursor);
        // Each page of a scan leaves one stale cursor in `order`, so `order` is longer than `places`; both have a
        // limit.
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
