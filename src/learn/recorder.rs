//! The tap: how workers tell what happens to keys, without ever waiting.
//!
//! Each worker has a ring of its own, [`RING_EVENTS`] long. Its lock is only ever *tried*: the one other who takes it is the
//! job that empties all rings, for as long as two vectors change places. What finds no room, or meets that moment, is
//! dropped and counted. Hits are told by samples: reads that L1 answers must stay as cheap as they are.
//!
//! Only user reads and writes are told of; inspection, scans, warm-up and prefetch itself are not.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use crate::{clock::Tick, model::Key};

/// Events that wait in one worker's ring at most: about 300 KB with keys of 40 bytes.
pub const RING_EVENTS: usize = 4_096;
/// Of hits, one in so many is told, whatever its key: who is read most.
pub const HIT_TURNS: u32 = 64;
/// Of keys, one in so many has each of its hits told: how often a key is read.
pub const HIT_KEYS: u64 = 64;

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// No tier had it.
    Miss,
    /// L2 answered.
    HitL2,
    /// L1 answered with an entry that was prefetched, for the first time.
    FirstUse,
    /// L1 answered; a sample.
    Hit(Sample),
    /// The read failed.
    Failed,
    /// It was written through this node.
    Written(Wrote),
    /// Redis announced that it changed, whoever changed it.
    Invalidated,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    /// It stored a value, or changed one. When the key expires then: [`Tick::FAR`] never, `None` as before.
    Value(Option<Tick>),
    /// It only set when the key expires.
    Lifetime,
    /// It removed the key.
    Deletion,
}

/// Why a hit was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// Every [`HIT_TURNS`]th hit of a worker.
    Turn,
    /// The key is one of those in [`HIT_KEYS`] whose hits are all told.
    Key,
}

/// Whose stream of requests an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Caller(pub u64);

impl Caller {
    /// Nobody in particular: what follows it says nothing.
    pub const UNKNOWN: Self = Self(0);

    /// The caller that a W3C `traceparent` names: `00-<32 hex digits>-<16>-<2>`, by its trace id. Apart from those that
    /// connections are given, which are counted from 1.
    #[must_use]
    pub fn of_trace(traceparent: &[u8]) -> Option<Self> {
        let id = traceparent.get(3..35)?;
        let is_id = traceparent.get(2) == Some(&b'-') && traceparent.get(35) == Some(&b'-');
        if !is_id || !id.iter().all(u8::is_ascii_hexdigit) || id.iter().all(|&digit| digit == b'0') {
            return None;
        }
        Some(Self(super::shape::hash_of(5, id) | 1 << 63))
    }
}

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// The key, in memory of its own.
    pub key: Key,
    /// What happened.
    pub happened: Happened,
    /// Whose request it was.
    pub caller: Caller,
    /// When.
    pub at: Tick,
}

/// Whether each hit of this key is told. The same on every node and after a restart.
#[inline]
#[must_use]
pub fn is_sampled(key: &[u8]) -> bool {
    let tail = key.last_chunk::<8>().map_or_else(
        || key.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        |tail| u64::from_le_bytes(*tail),
    );
    (tail ^ key.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - HIT_KEYS.trailing_zeros()) == 0
}

/// One worker's end.
#[derive(Debug, Default)]
pub struct Tap {
    ring: Mutex<Vec<Event>>,
    dropped: AtomicU64,
    turn: AtomicU32,
}

impl Tap {
    /// Tells what happened. Never waits.
    pub fn tell(&self, key: &[u8], happened: Happened, caller: Caller, at: Tick) {
        let told = self.ring.try_lock().is_some_and(|mut ring| {
            let room = ring.len() < RING_EVENTS;
            if room && let Ok(key) = Key::copied(key) {
                ring.push(Event { key, happened, caller, at });
            }
            room
        });
        if !told {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Tells of a hit, if it is one of the sample.
    #[inline]
    pub fn hit(&self, key: &[u8], caller: Caller, at: Tick) {
        // Only this worker counts here.
        let turn = self.turn.load(Relaxed).wrapping_add(1);
        self.turn.store(turn, Relaxed);
        if turn.is_multiple_of(HIT_TURNS) {
            self.tell(key, Happened::Hit(Sample::Turn), caller, at);
        }
        if is_sampled(key) {
            self.tell(key, Happened::Hit(Sample::Key), caller, at);
        }
    }
}

/// All taps of a server.
#[derive(Debug, Default)]
pub struct Recorder {
    taps: Mutex<Vec<Arc<Tap>>>,
}

impl Recorder {
    /// A tap for one more worker.
    pub fn tap(&self) -> Arc<Tap> {
        let tap = Arc::new(Tap::default());
        self.taps.lock().push(Arc::clone(&tap));
        tap
    }

    /// Empties all rings into `events`, worker by worker, each in order. `events` is left with a bounded number.
    pub fn drain(&self, events: &mut Vec<Event>) {
        for tap in self.taps.lock().iter() {
            let mut full = Vec::new();
            std::mem::swap(&mut *tap.ring.lock(), &mut full);
            events.append(&mut full);
        }
    }

    /// Events that found no room, since start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.taps.lock().iter().map(|tap| tap.dropped.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_and_what_has_no_room_is_counted() {
        let recorder = Recorder::default();
        let (first, second) = (recorder.tap(), recorder.tap());
        for number in 0..RING_EVENTS + 10 {
            first.tell(format!("k{number}").as_bytes(), Happened::Miss, Caller(1), Tick(number as u64 + 1));
        }
        second.tell(b"other", Happened::Written(Wrote::Deletion), Caller(2), Tick(9));
        let mut events = Vec::new();
        recorder.drain(&mut events);
        assert_eq!((events.len(), recorder.dropped()), (RING_EVENTS + 1, 10));
        assert!(events[..RING_EVENTS].is_sorted_by_key(|event| event.at.0));
        assert_eq!(events[RING_EVENTS].happened, Happened::Written(Wrote::Deletion));
        recorder.drain(&mut events);
        assert_eq!(events.len(), RING_EVENTS + 1, "nothing is told twice");
    }

    #[test]
    fn a_trace_id_names_a_caller_and_nothing_else_does() {
        let of = |text: &str| Caller::of_trace(text.as_bytes());
        let id = "0af7651916cd43dd8448eb211c80319c";
        let caller = of(&format!("00-{id}-b7ad6b7169203331-01"));
        assert!(caller.is_some_and(|caller| caller.0 >> 63 == 1));
        assert_eq!(caller, of(&format!("00-{id}-0000000000000001-00")), "another span of the same trace");
        for bad in
            ["", "00", &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), &format!("00-{id}"), &"x".repeat(55)]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_worker_never_waits_for_who_empties_its_ring() {
        let recorder = Recorder::default();
        let tap = recorder.tap();
        let held = tap.ring.lock();
        tap.tell(b"k", Happened::Miss, Caller::UNKNOWN, Tick(1));
        drop(held);
        assert_eq!(recorder.dropped(), 1);
    }

    #[test]
    fn of_hits_a_sample_is_told() {
        let recorder = Recorder::default();
        let tap = recorder.tap();
        let (mut events, mut by_turn, mut by_key) = (Vec::new(), 0, 0);
        for number in 0..64_000 {
            tap.hit(format!("user:{number}").as_bytes(), Caller(1), Tick(1));
            recorder.drain(&mut events);
            for event in events.drain(..) {
                by_turn += u32::from(event.happened == Happened::Hit(Sample::Turn));
                by_key += u32::from(event.happened == Happened::Hit(Sample::Key));
            }
        }
        assert_eq!(by_turn, 1_000);
        assert!((700..1_300).contains(&by_key), "{by_key}");
        let sampled =
            (0..1_000).map(|n| format!("user:{n}")).find(|key| is_sampled(key.as_bytes())).expect("one in 64");
        tap.hit(sampled.as_bytes(), Caller(1), Tick(1));
        recorder.drain(&mut events);
        assert!(events.iter().any(|event| event.happened == Happened::Hit(Sample::Key)), "each of its hits");
    }
}
