//! Carries events from workers to the learning job without blocking a worker.
//!
//! Each worker has a tap with a ring of [`RING_EVENTS`] events. A worker only *tries* to lock its ring; the only other user
//! of the lock is the job that drains all rings, which holds it while two vectors are swapped. Events that find no room, or
//! find the lock taken, are dropped and counted. Hits are sampled, so that reads that L1 answers stay cheap.
//!
//! Only reads and writes of clients are recorded, not inspection, scans, warm-up or prefetch.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use crate::{clock::Tick, model::Key};

/// Maximum number of events in the ring of one worker: about 300 KB with keys of 40 bytes.
pub const RING_EVENTS: usize = 4_096;
/// One hit in this many is recorded, whatever its key, to find the keys that are read most.
pub const HIT_TURNS: u32 = 64;
/// One key in this many has all of its hits recorded, to find how often a key is read.
pub const HIT_KEYS: u64 = 64;

/// The event of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// The key was read and no tier had it.
    Miss,
    /// L2 answered a read.
    HitL2,
    /// L1 answered a read with a prefetched entry for the first time.
    FirstUse,
    /// L1 answered a read that was sampled.
    Hit(Sample),
    /// A read failed.
    Failed,
    /// The key was written through this node.
    Written(Wrote),
    /// Redis announced that the key changed, whoever changed it.
    Invalidated,
}

/// The effect of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    /// It stored or changed a value. The new expiry of the key: [`Tick::FAR`] for none, `None` if it is unchanged.
    Value(Option<Tick>),
    /// It changed only the expiry of the key.
    Lifetime,
    /// It removed the key.
    Deletion,
}

/// The reason why a hit was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// Every [`HIT_TURNS`]th hit of a worker.
    Turn,
    /// The key is 1 in [`HIT_KEYS`] whose hits are all recorded.
    Key,
}

/// The stream of requests that an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Caller(pub u64);

impl Caller {
    /// An unknown caller: its events are not related to each other.
    pub const UNKNOWN: Self = Self(0);
    /// Bit that distinguishes the callers that a request names from the callers of connections.
    const REQUEST: u64 = 1 << 63;

    /// Returns the caller that the trace id of a W3C `traceparent` identifies: `00-<32 hex digits>-<16>-<2>`. It differs from
    /// the callers of connections, which are numbered from 1.
    #[must_use]
    pub fn of_trace(traceparent: &[u8]) -> Option<Self> {
        let id = traceparent.get(3..35)?;
        let is_id = traceparent.get(2) == Some(&b'-') && traceparent.get(35) == Some(&b'-');
        if !is_id || !id.iter().all(u8::is_ascii_hexdigit) || id.iter().all(|&digit| digit == b'0') {
            return None;
        }
        Some(Self(super::key_template::stable_hash(5, id) | Self::REQUEST))
    }

    /// Returns the caller of the operations with this context; `None` for 0. It differs from the callers of connections.
    #[must_use]
    pub fn of_context(context: u64) -> Option<Self> {
        (context != 0).then_some(Self(context | Self::REQUEST))
    }
}

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Copy of the key.
    pub key: Key,
    /// The event.
    pub happened: Happened,
    /// Caller of the request.
    pub caller: Caller,
    /// Time of the event.
    pub at: Tick,
}

/// Returns whether all hits of this key are recorded: the same on every node and after a restart.
#[inline]
#[must_use]
pub fn is_sampled(key: &[u8]) -> bool {
    let tail = key.last_chunk::<8>().map_or_else(
        || key.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        |tail| u64::from_le_bytes(*tail),
    );
    (tail ^ key.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - HIT_KEYS.trailing_zeros()) == 0
}

/// The ring of one worker.
#[derive(Debug, Default)]
pub struct Tap {
    ring: Mutex<Vec<Event>>,
    dropped: AtomicU64,
    turn: AtomicU32,
}

impl Tap {
    /// Records an event. Never waits.
    pub fn record(&self, key: &[u8], happened: Happened, caller: Caller, at: Tick) {
        let recorded = self.ring.try_lock().is_some_and(|mut ring| {
            let room = ring.len() < RING_EVENTS;
            if room && let Ok(key) = Key::copied(key) {
                ring.push(Event { key, happened, caller, at });
            }
            room
        });
        if !recorded {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Records a hit if it is sampled.
    #[inline]
    pub fn record_hit(&self, key: &[u8], caller: Caller, at: Tick) {
        // No other worker changes this counter.
        let turn = self.turn.load(Relaxed).wrapping_add(1);
        self.turn.store(turn, Relaxed);
        if turn.is_multiple_of(HIT_TURNS) {
            self.record(key, Happened::Hit(Sample::Turn), caller, at);
        }
        if is_sampled(key) {
            self.record(key, Happened::Hit(Sample::Key), caller, at);
        }
    }
}

/// All taps of a server.
#[derive(Debug, Default)]
pub struct Recorder {
    taps: Mutex<Vec<Arc<Tap>>>,
}

impl Recorder {
    /// Returns a tap for one more worker.
    pub fn tap(&self) -> Arc<Tap> {
        let tap = Arc::new(Tap::default());
        self.taps.lock().push(Arc::clone(&tap));
        tap
    }

    /// Moves the events of all rings to `events`, worker by worker, each in order. Their number is bounded.
    pub fn drain(&self, events: &mut Vec<Event>) {
        for tap in self.taps.lock().iter() {
            let mut full = Vec::new();
            std::mem::swap(&mut *tap.ring.lock(), &mut full);
            events.append(&mut full);
        }
    }

    /// Returns the number of events since start that were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.taps.lock().iter().map(|tap| tap.dropped.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_in_order_and_dropped_events_are_counted() {
        let recorder = Recorder::default();
        let (first, second) = (recorder.tap(), recorder.tap());
        for number in 0..RING_EVENTS + 10 {
            first.record(format!("k{number}").as_bytes(), Happened::Miss, Caller(1), Tick(number as u64 + 1));
        }
        second.record(b"other", Happened::Written(Wrote::Deletion), Caller(2), Tick(9));
        let mut events = Vec::new();
        recorder.drain(&mut events);
        assert_eq!((events.len(), recorder.dropped()), (RING_EVENTS + 1, 10));
        assert!(events[..RING_EVENTS].is_sorted_by_key(|event| event.at.0));
        assert_eq!(events[RING_EVENTS].happened, Happened::Written(Wrote::Deletion));
        recorder.drain(&mut events);
        assert_eq!(events.len(), RING_EVENTS + 1, "no event is drained twice");
    }

    #[test]
    fn only_a_valid_trace_id_identifies_a_caller() {
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
    fn a_worker_never_waits_for_the_job_that_drains_its_ring() {
        let recorder = Recorder::default();
        let tap = recorder.tap();
        let held = tap.ring.lock();
        tap.record(b"k", Happened::Miss, Caller::UNKNOWN, Tick(1));
        drop(held);
        assert_eq!(recorder.dropped(), 1);
    }

    #[test]
    fn hits_are_sampled() {
        let recorder = Recorder::default();
        let tap = recorder.tap();
        let (mut events, mut by_turn, mut by_key) = (Vec::new(), 0, 0);
        for number in 0..64_000 {
            tap.record_hit(format!("user:{number}").as_bytes(), Caller(1), Tick(1));
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
        tap.record_hit(sampled.as_bytes(), Caller(1), Tick(1));
        recorder.drain(&mut events);
        assert!(events.iter().any(|event| event.happened == Happened::Hit(Sample::Key)), "each of its hits");
    }
}
