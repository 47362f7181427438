//! An in-memory fake of the cache, for unit tests of applications. Requires the feature `testing`.
//!
//! [`Fake`] has the operations of a server without L2, and [`Fake::client`] returns an ordinary [`Client`]. The code under
//! test therefore needs no trait and no type parameter, and all of the client's own logic is tested with it.
//!
//! ```toml
//! [dev-dependencies]
//! terrace-client = { path = "../terrace/clients/rust", features = ["testing"] }
//! ```
//!
//! ```
//! use std::{io, time::Duration};
//! use terrace_client::{Client, ErrorKind, testing::Fake};
//!
//! const TTL: Duration = Duration::from_secs(300);
//!
//! /// The code under test.
//! async fn user_name(cache: &Client, id: u32) -> terrace_client::Result<Option<String>> {
//!     let load = move || async move { Ok::<_, io::Error>(Some(format!("user {id}").into())) };
//!     let name = cache.get_or_load(format!("user:{id}"), load).ttl(TTL).await?;
//!     Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> terrace_client::Result<()> {
//! let fake = Fake::new();
//! let cache = fake.client();
//!
//! assert_eq!(user_name(&cache, 1).await?.as_deref(), Some("user 1"));
//! assert_eq!(user_name(&cache, 1).await?.as_deref(), Some("user 1"));
//! assert_eq!(fake.loads("user:1"), 1);
//! assert_eq!(fake.entry("user:1").unwrap().expires_in, Some(TTL));
//!
//! // Time passes only when the test says so.
//! fake.advance(TTL);
//! assert!(fake.keys().is_empty());
//! user_name(&cache, 1).await?;
//! assert_eq!(fake.loads("user:1"), 2);
//!
//! // The cache cannot be reached: the value is loaded and not stored.
//! fake.clear();
//! fake.fail(ErrorKind::Unavailable, "connection refused");
//! assert_eq!(user_name(&cache, 1).await?.as_deref(), Some("user 1"));
//! fake.recover();
//! assert!(fake.keys().is_empty());
//!
//! // A write is applied, but its answer is lost.
//! fake.unknown_next(1);
//! let error = cache.increment("visits", 1).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
//! assert_eq!(fake.entry("visits").unwrap().value, "1");
//! # Ok(()) }
//! ```
//!
//! # Time
//!
//! TTLs, leases and back-off follow the manual clock of the fake. Deadlines of operations and loads, [`Fake::delay`] and the
//! heartbeats of [`Client::watch`] follow the clock of tokio, which a test can pause
//! (`#[tokio::test(start_paused = true)]`). A caller that waits for the load of another client waits until either clock has
//! passed its waiting time.
//!
//! # Differences from a server
//!
//! * The fake has no policies, statistics of key groups, prefetch and early refreshes. [`Client::stats`] has the numbers of
//!   reads, loads and entries.
//! * Nothing is evicted. The back-off after failed loads has no jitter.
//! * A client of the fake has no nodes, so it has no near cache.

mod counts;
mod faults;
mod feed;
mod leases;
mod limits;
#[cfg(test)]
mod load_tests;
mod operations;
mod server;
mod state;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

pub use self::counts::OperationKind;
use self::faults::Injected;
pub(crate) use self::{
    feed::Follower,
    server::{BoxFuture, Server},
};
use crate::{
    Client, ClientBuilder, Entry, IntoBytes,
    error::ErrorKind,
    operations::read::entry,
    testing::state::{Meta, State},
};

/// An in-memory cache with a manual clock, injected faults and counts. Clones share the contents.
///
/// See the [module documentation](self) for an example.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    server: Arc<Server>,
}

impl Fake {
    /// Creates an empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a client of this cache, with the default settings.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_with(Client::builder("fake"))
    }

    /// Returns a client of this cache with the settings of a builder, such as deadlines and `retry_writes`. The target and
    /// the settings of connections have no effect.
    #[must_use]
    pub fn client_with(&self, builder: ClientBuilder) -> Client {
        Client::fake(Arc::clone(&self.server), builder.settings())
    }

    /// Moves the manual clock: keys, leases and negative answers expire, and waiting callers whose time is over receive
    /// `busy`.
    pub fn advance(&self, by: Duration) {
        self.server.change(|state| state.advance(by));
    }

    /// Returns the time on the manual clock since the creation of the fake.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.server.state.lock().now
    }

    /// Makes all operations fail until [`recover`](Self::recover). Nothing is applied. Waiting callers fail at once, and
    /// change feeds end.
    pub fn fail(&self, kind: ErrorKind, message: impl Into<String>) {
        let fault = Injected { kind, message: message.into() };
        self.server.change(|state| state.faults.fail(fault));
    }

    /// Makes all operations on a key fail until [`recover`](Self::recover). An operation on many keys fails if it has the
    /// key. Nothing is applied.
    pub fn fail_key(&self, key: impl IntoBytes, kind: ErrorKind, message: impl Into<String>) {
        let fault = Injected { kind, message: message.into() };
        self.server.change(|state| state.faults.fail_key(key.into_bytes(), fault));
    }

    /// Makes the next operations fail, after those of earlier calls. Nothing is applied. The release of a dropped grant does
    /// not count.
    pub fn fail_next(&self, count: usize, kind: ErrorKind) {
        self.server.change(|state| state.faults.fail_next(count, kind));
    }

    /// Applies the next writes, but reports [`ErrorKind::OutcomeUnknown`], as if their answers were lost. Reads,
    /// `get_or_lease` and the release of a dropped grant do not count.
    pub fn unknown_next(&self, count: usize) {
        self.server.change(|state| state.faults.unknown_next(count));
    }

    /// Delays the answer of each operation by a time of tokio's clock. The operation itself is executed at once, so that a
    /// write whose deadline passes has been applied.
    pub fn delay(&self, delay: Duration) {
        self.server.change(|state| state.faults.delay = delay);
    }

    /// Removes all faults and the delay.
    pub fn recover(&self) {
        self.server.change(|state| state.faults = faults::Faults::default());
    }

    /// Returns the number of loads of a key that ended: grants that were filled, with any result, or failed.
    #[must_use]
    pub fn loads(&self, key: impl IntoBytes) -> u64 {
        self.server.state.lock().counts.loads(&key.into_bytes())
    }

    /// Returns the number of loads of all keys that ended.
    #[must_use]
    pub fn total_loads(&self) -> u64 {
        self.server.state.lock().counts.total_loads()
    }

    /// Returns the number of operations of a kind that clients have sent, including those that failed.
    #[must_use]
    pub fn count(&self, kind: OperationKind) -> u64 {
        self.server.state.lock().counts.of(kind)
    }

    /// Returns the number of callers that wait for the loads of others.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.server.waiting()
    }

    /// Returns whether a client holds the load lease of a key.
    #[must_use]
    pub fn is_loading(&self, key: impl IntoBytes) -> bool {
        self.server.state.lock().is_loading(&key.into_bytes())
    }

    /// Returns the keys, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<Bytes> {
        self.server.state.lock().entries.keys().cloned().collect()
    }

    /// Returns an entry with its metadata; `None` if the key does not exist. Does not count as a read.
    #[must_use]
    pub fn entry(&self, key: impl IntoBytes) -> Option<Entry> {
        let state = self.server.state.lock();
        let stored = state.entries.get(&key.into_bytes())?;
        Some(entry(stored.found(state.now, Meta::With)))
    }

    /// Removes all keys, tags and leases. Counts, faults and the clock remain.
    pub fn clear(&self) {
        self.server.change(State::clear);
    }

    /// Sets all counts to 0.
    pub fn reset_counts(&self) {
        self.server.change(State::reset_counts);
    }
}
