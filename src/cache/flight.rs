//! Single flight: one question to L2 for all who want the same key at the same time.
//!
//! The lease in L1's shard decides who leads; this registry maps its token to those who wait. A flight is registered
//! *before* its lease is taken, so whoever reads a token from a lease finds the flight or finds it ended. An
//! invalidation removes the lease: who joined before may take the value, later readers lead a new flight.
//!
//! A leader that is cancelled, fails or panics strands nobody: its `Leader` is dropped, which releases the lease and
//! wakes the waiters to try again.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::oneshot;

use crate::{error::Result, l1::Token, l2::Stored, model::Key};

use super::Core;

/// What a flight brings: the entry below, if there is one.
pub(crate) type Answer = Result<Option<Stored>>;

/// Flights under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    waiters: DashMap<Token, Waiters, foldhash::fast::RandomState>,
}

/// Who waits for a flight.
#[derive(Debug, Default)]
struct Waiters {
    senders: Vec<oneshot::Sender<Answer>>,
    /// Nobody had asked for the key when it began: it was prefetched.
    is_ahead: bool,
}

impl Flights {
    pub(crate) fn register(&self, token: Token) {
        self.waiters.insert(token, Waiters::default());
    }

    /// As [`Flights::register`], for a prefetch.
    pub(crate) fn register_ahead(&self, token: Token) {
        self.waiters.insert(token, Waiters { senders: Vec::new(), is_ahead: true });
    }

    /// Whether the flight is a prefetch; told once, to the first who asks.
    pub(crate) fn take_ahead(&self, token: Token) -> bool {
        self.waiters.get_mut(&token).is_some_and(|mut waiters| std::mem::take(&mut waiters.is_ahead))
    }

    /// Waits for the flight; `None` if it has ended.
    pub(crate) fn join(&self, token: Token) -> Option<oneshot::Receiver<Answer>> {
        let mut waiters = self.waiters.get_mut(&token)?;
        let (sender, receiver) = oneshot::channel();
        waiters.senders.push(sender);
        Some(receiver)
    }

    /// Whether anybody waits for the flight.
    pub(crate) fn has_waiters(&self, token: Token) -> bool {
        self.waiters.get(&token).is_some_and(|waiters| !waiters.senders.is_empty())
    }

    /// Ends the flight and hands over who waited.
    pub(crate) fn end(&self, token: Token) -> Vec<oneshot::Sender<Answer>> {
        self.waiters.remove(&token).map(|(_, waiters)| waiters.senders).unwrap_or_default()
    }

    /// Flights under way now.
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

    /// Gives the answer to all who wait. The lease has been used or released by then.
    pub(crate) fn land(mut self, answer: &Answer) {
        self.done = true;
        for waiter in self.core.flights.end(self.token) {
            // A waiter that went away needs no answer.
            let _gone = waiter.send(answer.clone());
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.done {
            self.core.l1.release(&self.key, self.token);
            // Dropping the senders wakes the waiters, who try again.
            drop(self.core.flights.end(self.token));
        }
    }
}
