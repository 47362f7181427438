//! Single flight: callers of one process that need the same key share one lookup and one load.
//!
//! A caller never receives a value from before it began, unless the server still accepts that value:
//!
//! * An answer of the server is shared with callers that began before the lookup was sent.
//! * A loaded value is shared with callers that began before the load. If the server stored the value, it is also shared with
//!   callers that began before the value was sent to the server, which stores it only if the key was not written or
//!   invalidated since the load began.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{error::Result, nodes::routing::RouteHash};

/// Number of locks of the map.
const SHARDS: usize = 16;

type Value = Result<Option<Bytes>>;

/// Progress of a flight.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// The server is asked.
    Looking,
    /// The key is being loaded.
    Loading,
    /// The key was loaded, and the server has not answered whether it stored the value.
    Loaded { begun: Instant, value: Value },
    /// The end.
    Done(Outcome),
}

/// Result of a flight.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// The server answered a lookup that was sent at this time or later.
    Answered { sent: Instant, value: Value },
    /// The key was loaded. `valid_at`: a later time at which the value was still valid.
    Loaded { begun: Instant, value: Value, valid_at: Option<Instant> },
    /// The leader left before it had a result.
    Abandoned,
}

/// What a caller does next.
#[derive(Debug)]
pub(super) enum Boarding {
    /// It performs the lookup.
    Lead(Leader),
    /// Another caller does.
    Join(Joiner),
}

#[derive(Debug)]
struct Flight {
    key: Bytes,
    phase: watch::Sender<Phase>,
}

impl Flight {
    fn new(key: &Bytes) -> Self {
        let (phase, _) = watch::channel(Phase::Looking);
        Self { key: key.clone(), phase }
    }
}

/// Flights of a client by key.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    shards: [Mutex<HashMap<Bytes, Arc<Flight>>>; SHARDS],
    len: AtomicUsize,
}

impl Flights {
    fn shard(&self, key: &[u8]) -> &Mutex<HashMap<Bytes, Arc<Flight>>> {
        &self.shards[RouteHash::of(key).bucket(SHARDS)]
    }

    /// Joins the flight of a key, or begins one.
    pub(super) fn board(self: &Arc<Self>, key: &Bytes) -> Boarding {
        let mut shard = self.shard(key).lock();
        if let Some(flight) = shard.get(key) {
            return Boarding::Join(Joiner(flight.phase.subscribe()));
        }
        let flight = Arc::new(Flight::new(key));
        shard.insert(key.clone(), Arc::clone(&flight));
        self.len.fetch_add(1, SeqCst);
        Boarding::Lead(Leader { flights: Some(Arc::clone(self)), flight, sent: Instant::now(), is_done: false })
    }

    /// Returns whether there are no flights.
    pub(crate) fn is_idle(&self) -> bool {
        self.len.load(SeqCst) == 0
    }

    /// Lets later callers of a key begin a flight of their own: the key was changed.
    pub(crate) fn detach(&self, key: &[u8]) {
        if !self.is_idle() && self.shard(key).lock().remove(key).is_some() {
            self.len.fetch_sub(1, SeqCst);
        }
    }

    /// Lets later callers of all keys begin flights of their own.
    pub(crate) fn detach_all(&self) {
        if self.is_idle() {
            return;
        }
        for shard in &self.shards {
            let removed = std::mem::take(&mut *shard.lock());
            self.len.fetch_sub(removed.len(), SeqCst);
        }
    }

    fn remove(&self, flight: &Arc<Flight>) {
        let mut shard = self.shard(&flight.key).lock();
        if shard.get(&flight.key).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            shard.remove(&flight.key);
            self.len.fetch_sub(1, SeqCst);
        }
    }
}

/// The duty to end a flight.
#[derive(Debug)]
pub(super) struct Leader {
    /// `None`: nobody can join.
    flights: Option<Arc<Flights>>,
    flight: Arc<Flight>,
    sent: Instant,
    is_done: bool,
}

impl Leader {
    /// Begins a flight that nobody else joins.
    pub(super) fn alone(key: &Bytes) -> Self {
        Self { flights: None, flight: Arc::new(Flight::new(key)), sent: Instant::now(), is_done: false }
    }

    /// Records that a lookup is sent now.
    pub(super) fn look(&mut self) {
        self.sent = Instant::now();
    }

    /// Returns the time at which the last lookup was sent, or an earlier time.
    pub(super) fn sent(&self) -> Instant {
        self.sent
    }

    /// Records that the load begins now. Returns the time.
    pub(super) fn load(&self) -> Instant {
        let begun = Instant::now();
        self.flight.phase.send_replace(Phase::Loading);
        begun
    }

    /// Shares a loaded value with the callers that began before the load.
    pub(super) fn loaded(&self, begun: Instant, value: &Value) {
        self.flight.phase.send_replace(Phase::Loaded { begun, value: value.clone() });
    }

    /// Ends the flight.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// Returns a joiner of the flight.
    pub(super) fn joiner(&self) -> Joiner {
        Joiner(self.flight.phase.subscribe())
    }

    fn end(&mut self, outcome: Outcome) {
        self.is_done = true;
        // Removed first: a caller that begins after the end must not join.
        if let Some(flights) = &self.flights {
            flights.remove(&self.flight);
        }
        self.flight.phase.send_replace(Phase::Done(outcome));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.is_done {
            self.end(Outcome::Abandoned);
        }
    }
}

/// A caller that waits for a flight.
#[derive(Debug)]
pub(super) struct Joiner(watch::Receiver<Phase>);

impl Joiner {
    /// Waits for a value that a caller may use which began at a time. `None`: the caller has to try again.
    pub(super) async fn value(mut self, began: Instant) -> Option<Value> {
        loop {
            match &*self.0.borrow_and_update() {
                Phase::Loaded { begun, value } if began <= *begun => return Some(value.clone()),
                Phase::Done(outcome) => return outcome.value_for(began),
                Phase::Looking | Phase::Loading | Phase::Loaded { .. } => {}
            }
            // The leader ends the flight before the sender is dropped.
            self.0.changed().await.ok()?;
        }
    }

    /// Returns whether the key is being loaded.
    pub(super) fn is_loading(&self) -> bool {
        match &*self.0.borrow() {
            Phase::Loading | Phase::Loaded { .. } => true,
            Phase::Looking | Phase::Done(_) => false,
        }
    }
}

impl Outcome {
    fn value_for(&self, began: Instant) -> Option<Value> {
        match self {
            Self::Answered { sent, value } if began <= *sent => Some(value.clone()),
            Self::Loaded { begun, value, valid_at } if began <= valid_at.unwrap_or(*begun) => Some(value.clone()),
            Self::Answered { .. } | Self::Loaded { .. } | Self::Abandoned => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: Bytes = Bytes::from_static(b"key");

    fn lead(flights: &Arc<Flights>) -> Leader {
        match flights.board(&KEY) {
            Boarding::Lead(leader) => leader,
            Boarding::Join(_) => panic!("expected to lead"),
        }
    }

    fn join(flights: &Arc<Flights>) -> Joiner {
        match flights.board(&KEY) {
            Boarding::Lead(_) => panic!("expected to join"),
            Boarding::Join(joiner) => joiner,
        }
    }

    async fn later() -> Instant {
        tokio::time::advance(Duration::from_millis(1)).await;
        Instant::now()
    }

    fn value(text: &'static str) -> Value {
        Ok(Some(text.into()))
    }

    fn text(value: Option<Value>) -> Option<String> {
        value.map(|value| String::from_utf8_lossy(&value.expect("a value").expect("present")).into_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_shared_with_callers_from_before_the_lookup() {
        let flights = Arc::new(Flights::default());
        let before = Instant::now();
        later().await;
        let mut leader = lead(&flights);
        leader.look();
        let sent = leader.sent();
        let after = later().await;
        let (early, late) = (join(&flights), join(&flights));
        leader.finish(Outcome::Answered { sent, value: value("one") });
        assert_eq!(text(early.value(before).await).as_deref(), Some("one"));
        assert!(late.value(after).await.is_none());
        assert!(flights.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loaded_value_is_shared_with_later_callers_only_if_it_was_stored_after_they_began() {
        for is_stored in [false, true] {
            let flights = Arc::new(Flights::default());
            let before = Instant::now();
            later().await;
            let leader = lead(&flights);
            let begun = leader.load();
            let during = later().await;
            let [early, late, last] = [join(&flights), join(&flights), join(&flights)];
            leader.loaded(begun, &value("one"));
            assert_eq!(text(early.value(before).await).as_deref(), Some("one"), "before the server has answered");
            let sent = later().await;
            let after = later().await;
            leader.finish(Outcome::Loaded { begun, value: value("one"), valid_at: is_stored.then_some(sent) });
            assert_eq!(text(late.value(during).await).as_deref(), is_stored.then_some("one"));
            assert!(last.value(after).await.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_detaches_a_flight_and_its_end_keeps_the_next_one() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights);
        let waiting = join(&flights);
        flights.detach(b"key");
        let second = lead(&flights);
        drop(first);
        assert!(waiting.value(Instant::now()).await.is_none());
        assert!(matches!(flights.board(&KEY), Boarding::Join(_)), "the second flight goes on");
        flights.detach_all();
        assert!(flights.is_idle());
        drop(second);
        assert!(flights.is_idle());
    }
}
