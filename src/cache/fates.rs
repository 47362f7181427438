//! What happened to keys lately: who wrote them last, and what their last read came to that L1 did not answer. For whoever
//! asks to have a key explained ([`explain`](super::explain)).
//!
//! It is taken up with all other events, by one job, so that neither reads nor writes pay for it; what the tap had to drop
//! is not known here. Hits are not told one by one: an entry of L1 knows when it was used last.
//!
//! Bounded: a table of [`SLOTS`] keys by hash, in which a later key takes the place of an earlier one.

use std::time::Duration;

use parking_lot::Mutex;

use super::Core;
pub use crate::learn::recorder::Wrote;
use crate::{
    clock::Tick,
    l1::Departure,
    l2::Flavor,
    learn::{
        recorder::{Event, Happened},
        shape::hash_of,
    },
    model::Outcome,
};

/// Keys that are remembered at most: 2.5 MB.
const SLOTS: usize = 16_384;
/// An announcement so soon after a write through this node is taken for its echo.
const ECHO: Duration = Duration::from_secs(1);
/// Seed of the table's hashes, apart from those of shapes.
const SEED: u64 = 11;

/// Who wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A client of this node.
    ThisNode,
    /// Redis announced a change that did not come from here: another node, a client that goes straight to Redis, or the key
    /// expired or was evicted there. Redis does not say which.
    Elsewhere,
}

/// The last write that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWrite {
    /// When.
    pub at: Tick,
    /// By whom.
    pub by: Writer,
    /// What it did; `None` where that is not said.
    pub what: Option<Wrote>,
}

/// The last read that L1 did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    /// When.
    pub at: Tick,
    /// What came of it.
    pub outcome: Outcome,
    /// What had become of the copy in L1, if there had been one.
    pub departure: Option<Departure>,
    /// L2 had it, under a tag that was invalidated.
    pub tag_gone: bool,
    /// The last write that was known then.
    pub write: Option<LastWrite>,
    /// And no read had brought a copy of what was written.
    pub is_first: bool,
}

/// What is remembered of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    hash: u64,
    /// See [`LastWrite`].
    pub write: Option<LastWrite>,
    /// See [`LastRead`].
    pub read: Option<LastRead>,
    /// When L2 last had it under a tag that was invalidated.
    tag_gone_at: Option<Tick>,
    /// When a read last found it in L2, and so brought a copy, if it may live in L1.
    found_at: Option<Tick>,
}

/// All that is remembered.
#[derive(Debug, Default)]
pub(crate) struct Fates(Mutex<Vec<Fate>>);

impl Fates {
    /// What is remembered of a key.
    pub(crate) fn of(&self, key: &[u8]) -> Fate {
        let hash = hash_of(SEED, key);
        let fates = self.0.lock();
        fates.get(hash as usize % SLOTS).filter(|fate| fate.hash == hash).copied().unwrap_or_default()
    }

    /// L2 has an entry of this key whose tags are gone.
    pub(crate) fn tag_gone(&self, key: &[u8], at: Tick) {
        slot(&mut self.0.lock(), key).tag_gone_at = Some(at);
    }

    /// Takes up events. `departure` says why L1 did not answer a read.
    pub(crate) fn note(&self, events: &[Event], flavor: Flavor, departure: impl Fn(&[u8], Tick) -> Option<Departure>) {
        // Workers tell theirs one after the other.
        let mut in_order: Vec<&Event> = events.iter().filter(|event| rank(event.happened).is_some()).collect();
        in_order.sort_by_key(|event| (event.at, rank(event.happened)));
        let mut fates = self.0.lock();
        for event in in_order {
            let (key, at) = (&*event.key, event.at);
            let outcome = match event.happened {
                Happened::Miss => Outcome::Miss,
                Happened::HitL2 => Outcome::HitL2,
                Happened::Failed => Outcome::Error,
                Happened::Written(what) => {
                    slot(&mut fates, key).written(LastWrite { at, by: Writer::ThisNode, what: Some(what) });
                    continue;
                }
                Happened::Invalidated => {
                    // Elsewhere only this process writes.
                    if flavor == Flavor::Redis {
                        slot(&mut fates, key).announced(at);
                    }
                    continue;
                }
                Happened::FirstUse | Happened::Hit(_) => continue,
            };
            // What has left since is not why.
            let departure = departure(key, at).filter(|departure| departure.explains(at));
            let fate = slot(&mut fates, key);
            let tag_gone = outcome == Outcome::Miss && fate.tag_gone_at.take_if(|gone| *gone <= at).is_some();
            let is_first = fate.is_unread();
            if outcome == Outcome::HitL2 {
                fate.found_at = Some(at);
            }
            fate.read = Some(LastRead { at, outcome, departure, tag_gone, write: fate.write, is_first });
        }
    }
}

impl Fate {
    /// No read has brought a copy of what was written last, as far as is known.
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
        // Told by another worker only now, and before the read all the same.
        if let Some(read) = self.read.as_mut().filter(|read| write.at < read.at) {
            (read.write, read.is_first) =
                (Some(write), self.found_at.is_none_or(|found| found < write.at || found == read.at));
        }
    }
}

/// Within a millisecond: a deletion is taken to come before a miss, a write after it, because it fills in what was missing,
/// and before a hit. `None` for what is not of interest.
fn rank(happened: Happened) -> Option<u8> {
    match happened {
        Happened::Written(Wrote::Deletion | Wrote::Lifetime) => Some(0),
        Happened::Miss | Happened::Failed => Some(1),
        Happened::Written(Wrote::Value(_)) | Happened::Invalidated => Some(2),
        Happened::HitL2 => Some(3),
        Happened::FirstUse | Happened::Hit(_) => None,
    }
}

/// The place of a key, empty if it was another's.
fn slot<'f>(fates: &'f mut Vec<Fate>, key: &[u8]) -> &'f mut Fate {
    if fates.is_empty() {
        fates.resize(SLOTS, Fate::default());
    }
    let hash = hash_of(SEED, key);
    let fate = &mut fates[hash as usize % SLOTS];
    if fate.hash != hash {
        *fate = Fate { hash, ..Fate::default() };
    }
    fate
}

impl Core {
    /// Takes up what became of keys.
    pub(crate) fn note_fates(&self, events: &[Event]) {
        self.fates.note(events, self.flavor, |key, at| self.l1.departure(key, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{l1::Left, learn::recorder::Caller, model::Key};

    fn event(key: &str, happened: Happened, at: u64) -> Event {
        Event { key: Key::copied(key.as_bytes()).expect("a key"), happened, caller: Caller::UNKNOWN, at: Tick(at) }
    }

    fn noted(events: &[Event]) -> Fates {
        let fates = Fates::default();
        fates.note(events, Flavor::Redis, |_, _| None);
        fates
    }

    #[test]
    fn the_last_write_is_known_and_its_echo_is_no_other() {
        const VALUE: Happened = Happened::Written(Wrote::Value(None));
        let own = noted(&[event("k", VALUE, 1_000), event("k", Happened::Invalidated, 1_400)]).of(b"k");
        assert_eq!(own.write.map(|write| (write.at, write.by)), Some((Tick(1_000), Writer::ThisNode)));
        // The job may take up the echo first: it comes by another way.
        let own = noted(&[event("k", Happened::Invalidated, 1_001), event("k", VALUE, 1_000)]).of(b"k");
        assert_eq!(own.write.map(|write| write.by), Some(Writer::ThisNode));
        let others = noted(&[event("k", VALUE, 1_000), event("k", Happened::Invalidated, 2_500)]).of(b"k");
        assert_eq!(others.write.map(|write| write.by), Some(Writer::Elsewhere));
        assert_eq!(noted(&[event("k", VALUE, 1)]).of(b"other"), Fate::default());
    }

    #[test]
    fn what_had_ended_explains_a_read_whenever_it_was_removed() {
        let explained = |left, left_at, filled_at| {
            let (at, filled_at) = (Tick(left_at), Tick(filled_at));
            let fates = Fates::default();
            let departure = |_: &[u8], _| Some(Departure { left, at, filled_at, used_at: None });
            fates.note(&[event("k", Happened::Miss, 1_000)], Flavor::None, departure);
            fates.of(b"k").read.is_some_and(|read| read.departure.is_some())
        };
        for left in [Left::Expired, Left::Evicted] {
            assert!(explained(left, 1_000, 10), "{left:?}");
            assert!(!explained(left, 1_500, 1_000), "{left:?}: the read itself brought it");
        }
        assert!(explained(Left::Expired, 1_500, 10), "swept after the read, which it did not answer");
        assert!(!explained(Left::Evicted, 1_500, 10));
    }

    #[test]
    fn it_is_bounded_and_a_later_key_takes_an_earlier_ones_place() {
        let fates = Fates::default();
        for number in 0..4 * SLOTS as u64 {
            fates.note(&[event(&number.to_string(), Happened::Miss, number + 1)], Flavor::Redis, |_, _| None);
        }
        assert_eq!(fates.0.lock().len(), SLOTS);
        let last = (4 * SLOTS - 1).to_string();
        assert_eq!(fates.of(last.as_bytes()).read.map(|read| read.outcome), Some(Outcome::Miss));
    }
}
