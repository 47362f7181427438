//! The recent history of keys: the last writer, and the last read that L1 did not answer. For [`explain`](super).
//!
//! One job adds it from the recorded events, so neither reads nor writes pay for it. Events that the recorder dropped
//! are missing. Hits are not recorded one by one: an L1 entry stores the time of its last use.
//!
//! Bounded: a table of [`SLOTS`] keys by hash, in which a later key replaces an earlier one.

use std::time::Duration;

use parking_lot::Mutex;

pub use crate::learn::recorder::Wrote;
use crate::{
    cache::Core,
    clock::Tick,
    l1::Departure,
    l2::Flavor,
    learn::{
        key_template::stable_hash,
        recorder::{Event, Happened},
    },
    model::Outcome,
};

/// Maximum number of keys: 2.5 MB.
const SLOTS: usize = 16_384;
/// An announcement within this time after a write through this node counts as its echo.
const ECHO: Duration = Duration::from_secs(1);
/// Seed of the table's hashes, apart from those of key templates.
const SEED: u64 = 11;

/// The writer of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A client of this node.
    ThisNode,
    /// Redis announced a change by another writer: another node, a client that writes to Redis directly, or the expiry
    /// or eviction of the key in Redis. Redis does not report which.
    Elsewhere,
}

/// The last known write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWrite {
    /// Time of the write.
    pub at: Tick,
    /// Writer of the key.
    pub by: Writer,
    /// Effect of the write; `None` if unknown.
    pub what: Option<Wrote>,
}

/// The last read that L1 did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    /// Time of the read.
    pub at: Tick,
    /// Outcome of the read.
    pub outcome: Outcome,
    /// Removal of the previous copy from L1, if there was a copy.
    pub departure: Option<Departure>,
    /// True if L2 had the key, under a tag that was invalidated.
    pub tag_gone: bool,
    /// The last write known at the time of the read.
    pub write: Option<LastWrite>,
    /// True if no earlier read had filled a copy of that write.
    pub is_first: bool,
}

/// The history of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyHistory {
    hash: u64,
    /// See [`LastWrite`].
    pub write: Option<LastWrite>,
    /// See [`LastRead`].
    pub read: Option<LastRead>,
    /// Time at which L2 last had the key under a tag that was invalidated.
    tag_gone_at: Option<Tick>,
    /// Time at which a read last found the key in L2. That read filled a copy, if the key may be cached in L1.
    found_at: Option<Tick>,
}

/// The histories of all keys.
#[derive(Debug, Default)]
pub(crate) struct KeyHistories(Mutex<Vec<KeyHistory>>);

impl KeyHistories {
    /// Returns the history of a key.
    pub(crate) fn of(&self, key: &[u8]) -> KeyHistory {
        let hash = stable_hash(SEED, key);
        let histories = self.0.lock();
        histories.get(hash as usize % SLOTS).filter(|history| history.hash == hash).copied().unwrap_or_default()
    }

    /// Records that L2 has an entry of this key with invalid tags.
    pub(crate) fn tag_gone(&self, key: &[u8], at: Tick) {
        slot(&mut self.0.lock(), key).tag_gone_at = Some(at);
    }

    /// Adds events. `departure` returns why L1 did not answer a read.
    pub(crate) fn note(&self, events: &[Event], flavor: Flavor, departure: impl Fn(&[u8], Tick) -> Option<Departure>) {
        // Events are drained one worker after another, so they need sorting.
        let mut in_order: Vec<&Event> = events.iter().filter(|event| rank(event.happened).is_some()).collect();
        in_order.sort_by_key(|event| (event.at, rank(event.happened)));
        let mut histories = self.0.lock();
        for event in in_order {
            let (key, at) = (&*event.key, event.at);
            let outcome = match event.happened {
                Happened::Miss => Outcome::Miss,
                Happened::HitL2 => Outcome::HitL2,
                Happened::Failed => Outcome::Error,
                Happened::Written(what) => {
                    slot(&mut histories, key).written(LastWrite { at, by: Writer::ThisNode, what: Some(what) });
                    continue;
                }
                Happened::Invalidated => {
                    // With other stores, only this process writes.
                    if flavor == Flavor::Redis {
                        slot(&mut histories, key).announced(at);
                    }
                    continue;
                }
                Happened::FirstUse | Happened::Hit(_) => continue,
            };
            // A departure after the read is not the reason.
            let departure = departure(key, at).filter(|departure| departure.explains(at));
            let history = slot(&mut histories, key);
            let tag_gone = outcome == Outcome::Miss && history.tag_gone_at.take_if(|gone| *gone <= at).is_some();
            let is_first = history.is_unread();
            if outcome == Outcome::HitL2 {
                history.found_at = Some(at);
            }
            history.read = Some(LastRead { at, outcome, departure, tag_gone, write: history.write, is_first });
        }
    }
}

impl KeyHistory {
    /// Returns whether no read is known to have filled a copy of the last write.
    pub(crate) fn is_unread(&self) -> bool {
        self.found_at < self.write.map(|write| write.at).or(Some(Tick::ZERO))
    }

    fn announced(&mut self, at: Tick) {
        let is_echo = self.write.is_some_and(|write| write.by == Writer::ThisNode && at.since(write.at) <= ECHO);
        if !is_echo {
            self.written(LastWrite { at, by: Writer::Elsewhere, what: None });
        }
    }

    fn written(&mut self, write: LastWrite) {
        self.write = Some(write);
        // The write was drained later, from another worker, but happened before the read.
        if let Some(read) = self.read.as_mut().filter(|read| write.at < read.at) {
            (read.write, read.is_first) =
                (Some(write), self.found_at.is_none_or(|found| found < write.at || found == read.at));
        }
    }
}

/// Returns the order of events within one millisecond. A deletion is assumed to precede a miss. A write is assumed to
/// follow a miss, because it fills the missing key, and to precede a hit. `None` for events that are not recorded in
/// the history.
fn rank(happened: Happened) -> Option<u8> {
    match happened {
        Happened::Written(Wrote::Deletion | Wrote::Lifetime) => Some(0),
        Happened::Miss | Happened::Failed => Some(1),
        Happened::Written(Wrote::Value(_)) | Happened::Invalidated => Some(2),
        Happened::HitL2 => Some(3),
        Happened::FirstUse | Happened::Hit(_) => None,
    }
}

/// Returns the slot of a key; an empty one if another key occupied it.
fn slot<'f>(histories: &'f mut Vec<KeyHistory>, key: &[u8]) -> &'f mut KeyHistory {
    if histories.is_empty() {
        histories.resize(SLOTS, KeyHistory::default());
    }
    let hash = stable_hash(SEED, key);
    let history = &mut histories[hash as usize % SLOTS];
    if history.hash != hash {
        *history = KeyHistory { hash, ..KeyHistory::default() };
    }
    history
}

impl Core {
    /// Adds events to the history of their keys.
    pub(crate) fn note_key_history(&self, events: &[Event]) {
        self.key_history.note(events, self.flavor, |key, at| self.l1.departure(key, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{l1::Left, learn::recorder::Caller, model::Key};

    fn event(key: &str, happened: Happened, at: u64) -> Event {
        Event { key: Key::copied(key.as_bytes()).expect("a key"), happened, caller: Caller::UNKNOWN, at: Tick(at) }
    }

    fn noted(events: &[Event]) -> KeyHistories {
        let histories = KeyHistories::default();
        histories.note(events, Flavor::Redis, |_, _| None);
        histories
    }

    #[test]
    fn the_last_write_is_known_and_its_echo_is_no_other() {
        const VALUE: Happened = Happened::Written(Wrote::Value(None));
        let own = noted(&[event("k", VALUE, 1_000), event("k", Happened::Invalidated, 1_400)]).of(b"k");
        assert_eq!(own.write.map(|write| (write.at, write.by)), Some((Tick(1_000), Writer::ThisNode)));
        // The echo may be processed first, because it arrives on another path.
        let own = noted(&[event("k", Happened::Invalidated, 1_001), event("k", VALUE, 1_000)]).of(b"k");
        assert_eq!(own.write.map(|write| write.by), Some(Writer::ThisNode));
        let others = noted(&[event("k", VALUE, 1_000), event("k", Happened::Invalidated, 2_500)]).of(b"k");
        assert_eq!(others.write.map(|write| write.by), Some(Writer::Elsewhere));
        assert_eq!(noted(&[event("k", VALUE, 1)]).of(b"other"), KeyHistory::default());
    }

    #[test]
    fn what_had_ended_explains_a_read_whenever_it_was_removed() {
        let explained = |left, left_at, filled_at| {
            let (at, filled_at) = (Tick(left_at), Tick(filled_at));
            let histories = KeyHistories::default();
            let departure = |_: &[u8], _| Some(Departure { left, at, filled_at, used_at: None });
            histories.note(&[event("k", Happened::Miss, 1_000)], Flavor::None, departure);
            histories.of(b"k").read.is_some_and(|read| read.departure.is_some())
        };
        for left in [Left::Expired, Left::Evicted] {
            assert!(explained(left, 1_000, 10), "{left:?}");
            assert!(!explained(left, 1_500, 1_000), "{left:?}: the read itself filled the copy");
        }
        assert!(explained(Left::Expired, 1_500, 10), "the copy was swept after the read, and had expired before");
        assert!(!explained(Left::Evicted, 1_500, 10));
    }

    #[test]
    fn it_is_bounded_and_a_later_key_takes_an_earlier_ones_place() {
        let histories = KeyHistories::default();
        for number in 0..4 * SLOTS as u64 {
            histories.note(&[event(&number.to_string(), Happened::Miss, number + 1)], Flavor::Redis, |_, _| None);
        }
        assert_eq!(histories.0.lock().len(), SLOTS);
        let last = (4 * SLOTS - 1).to_string();
        assert_eq!(histories.of(last.as_bytes()).read.map(|read| read.outcome), Some(Outcome::Miss));
    }
}
