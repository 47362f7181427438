//! Single flight: one read of L2 serves all concurrent readers of a key.
//!
//! The fill lease in L1's shard decides who leads. This registry maps the token of the lease to the waiters. A flight
//! is registered *before* its lease is taken, so a reader that finds a token in a lease either finds the flight or
//! learns that it has ended. An invalidation removes the lease: readers that joined before may use the value, later
//! readers lead a new flight.
//!
//! A leader that is cancelled, fails or panics does not block its waiters: dropping its `Leader` releases the lease and
//! wakes the waiters, which then retry.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::oneshot;

use crate::{
    clock::Tick,
    error::Result,
    l1::{Epoch, Token},
    l2::Stored,
    model::Key,
};

use super::{Cache, Core};

/// The answer of a flight: the entry in L2, if it exists.
pub(crate) type Answer = Result<Option<Stored>>;

/// Flights in progress.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    waiters: DashMap<Token, Waiters, foldhash::fast::RandomState>,
}

/// The waiters of one flight.
#[derive(Debug, Default)]
struct Waiters {
    senders: Vec<oneshot::Sender<Answer>>,
    /// True if the flight is a prefetch: no client had requested the key when the flight began.
    is_prefetch: bool,
}

impl Flights {
    pub(crate) fn register(&self, token: Token) {
        self.waiters.insert(token, Waiters::default());
    }

    /// Like [`Flights::register`], for a prefetch.
    pub(crate) fn register_prefetch(&self, token: Token) {
        self.waiters.insert(token, Waiters { senders: Vec::new(), is_prefetch: true });
    }

    /// Returns whether the flight is a prefetch; returns `true` only for the first call.
    pub(crate) fn take_prefetch(&self, token: Token) -> bool {
        self.waiters.get_mut(&token).is_some_and(|mut waiters| std::mem::take(&mut waiters.is_prefetch))
    }

    /// Joins the flight. Returns `None` if the flight has ended.
    pub(crate) fn join(&self, token: Token) -> Option<oneshot::Receiver<Answer>> {
        let mut waiters = self.waiters.get_mut(&token)?;
        let (sender, receiver) = oneshot::channel();
        waiters.senders.push(sender);
        Some(receiver)
    }

    /// Returns whether the flight has waiters.
    pub(crate) fn has_waiters(&self, token: Token) -> bool {
        self.waiters.get(&token).is_some_and(|waiters| !waiters.senders.is_empty())
    }

    /// Ends the flight and returns its waiters.
    pub(crate) fn end(&self, token: Token) -> Vec<oneshot::Sender<Answer>> {
        self.waiters.remove(&token).map(|(_, waiters)| waiters.senders).unwrap_or_default()
    }

    /// Returns the number of flights in progress.
    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }
}

/// The leader of one flight.
pub(crate) struct Leader {
    core: Arc<Core>,
    pub(crate) key: Key,
    pub(crate) token: Token,
    done: bool,
}

impl Leader {
    pub(crate) fn new(core: &Arc<Core>, key: Key, token: Token) -> Self {
        Self { core: Arc::clone(core), key, token, done: false }
    }

    /// Passes the answer to all waiters. The caller has already used or released the lease.
    pub(crate) fn land(mut self, answer: &Answer) {
        self.done = true;
        for waiter in self.core.flights.end(self.token) {
            // A waiter that was dropped needs no answer.
            let _gone = waiter.send(answer.clone());
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.done {
            self.core.l1.release(&self.key, self.token);
            // Dropping the senders wakes the waiters, which then retry.
            drop(self.core.flights.end(self.token));
        }
    }
}

impl Cache {
    /// Returns the epoch for a new copy of this key; `None` while the fence of its source is not valid.
    pub(super) fn fill_epoch(&self, key: &[u8], now: Tick) -> Option<Epoch> {
        self.core.fence.epoch(self.l2.source(key)).filter(|&epoch| self.core.l1.is_open(epoch, now))
    }
}
