//! Load leases: the permission for one client to load a key from its origin and to fill the cache with the result.
//!
//! A lease is a short-lived record of the key. Redis has it as a key of its own (`redis/loads`), the embedded store and
//! `none` in memory ([`local`]). Every write to the key removes the record, so a fill that was loaded before the write
//! finds no record and stores nothing.

pub mod local;
pub mod token;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{entry::Stored, op::SetExpiry};
use crate::{error::Result, model::Key};

/// Time that a record outlives the exclusive time of its lease: a late fill is still accepted if nothing has changed,
/// and a failure is still counted.
pub const GRACE: Duration = Duration::from_secs(60);
/// Time after the first failed load in which no client may load the key; it doubles with each further failure.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Maximum time after a failed load in which no client may load the key, unless the client specifies a longer one.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Maximum size in bytes of the message of a failed load.
pub const MESSAGE_MAX_BYTES: usize = 256;

/// Identifies the client that holds a lease: the nonce of its request.
pub type Holder = [u8; 16];

/// The load leases of an L2. A supertrait of [`Backend`](super::Backend).
pub trait LoadStore: Send + Sync + 'static {
    /// Runs one operation on the lease of a key. A fill changes the key and is announced like any write.
    ///
    /// Errors: as [`Backend::apply`](super::Backend::apply).
    fn load(&self, key: Key, op: LoadOp) -> BoxFuture<'_, Result<LoadResult>>;
}

/// An operation on the lease of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadOp {
    /// Take the lease, unless the value is fresh or another client holds the lease.
    Acquire(Acquire),
    /// Store the result of a load, if the lease is still valid.
    Fill(Fill),
    /// End the lease without a result.
    End(EndLoad),
}

/// Request for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// A value with a shorter remaining TTL needs a refresh.
    pub stale: Duration,
    /// Exclusive time of the lease.
    pub lease: Duration,
    /// The client; a holder receives its own lease again.
    pub holder: Holder,
    /// Number of the lease if a new one begins; random.
    pub generation: u64,
    /// Treat a fresh value as stale.
    pub force: bool,
    /// Ignore the answer that the origin does not have the key, because a tag of the answer is invalid.
    pub ignore_absent: bool,
}

/// Result of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// The fencing values of the lease.
    pub fence: LeaseFence,
    /// What the origin has.
    pub loaded: Loaded,
}

/// The values that tie a fill to its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseFence {
    /// Number of the lease.
    pub generation: u64,
    /// Greatest ban number that the granting node knew; 0 for stores that need none.
    pub ban: u64,
    /// The store's mark that leases are in use; 0 for stores that need none.
    pub mark: u64,
}

/// What a load found in the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// A value.
    Value {
        /// The stored bytes, with a header if the entry has tags.
        stored: Bytes,
        /// Effect on the key's expiry; never [`SetExpiry::Keep`].
        expiry: SetExpiry,
    },
    /// The origin does not have the key.
    Absent {
        /// Time for which readers receive this answer.
        life: Duration,
        /// Header with the tags of the answer; empty without tags.
        head: Bytes,
    },
}

/// End of a lease without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndLoad {
    /// The client that holds the lease; the lease of another client is not changed.
    pub holder: Holder,
    /// Reason of the end.
    pub end: End,
}

/// Reason why a lease ends without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client does not load.
    Released,
    /// The load failed.
    Failed {
        /// Description for other callers.
        message: Bytes,
        /// Time in which no client may load the key; `None`: by the number of failures.
        retry_after: Option<Duration>,
    },
    /// The connection of the client was closed. Other clients may take the lease over; the client may still fill.
    HolderLeft,
}

/// Result of a [`LoadOp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadResult {
    /// Result of [`LoadOp::Acquire`].
    Acquired(Acquired),
    /// Result of [`LoadOp::Fill`].
    Filled(Filled),
    /// Result of [`LoadOp::End`]: the lease was the holder's.
    Ended(bool),
}

/// Result of a request for a lease. `stored` is the present value, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The value needs no refresh.
    Fresh(Stored),
    /// The client holds the lease.
    Granted {
        /// The value that needs a refresh.
        stored: Option<Stored>,
        /// The fencing values; `None` if the store cannot fence a fill now. Nothing is then stored.
        fence: Option<LeaseFence>,
        /// Exclusive time.
        lease: Duration,
        /// The exclusive time of another client has ended.
        taken_over: bool,
    },
    /// Another client loads the key.
    Busy {
        /// The value that needs a refresh.
        stored: Option<Stored>,
        /// Time since the other client received its lease.
        age: Duration,
        /// Remaining exclusive time of the other client.
        left: Duration,
        /// The other client.
        holder: Holder,
    },
    /// A load failed, and no client may load the key yet.
    Failed {
        /// The value that needs a refresh.
        stored: Option<Stored>,
        /// Message of the failed load.
        message: Bytes,
        /// Time until a client may load the key.
        retry_after: Duration,
    },
    /// The origin does not have the key.
    Absent {
        /// Remaining time of this answer.
        life: Duration,
        /// Header with the tags of this answer; empty without tags.
        head: Bytes,
    },
}

/// Result of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// The result was stored.
    Stored {
        /// Time since the lease was granted.
        took: Duration,
        /// The key had another value before.
        differs: bool,
    },
    /// The lease has expired, was released, taken over and filled, or never existed.
    LeaseLost,
    /// The key was changed since the lease was granted.
    Changed,
    /// The key was invalidated since the lease was granted.
    Invalidated,
}

/// Returns the time after the `failures`th failed load in a row in which no client may load the key: 1 s, doubling up to
/// 30 s, ± 10 % by `random` (0 to 1).
#[must_use]
pub fn backoff(failures: u32, random: f64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(5));
    doubled.min(BACKOFF_MAX).mul_f64(0.9 + 0.2 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_its_maximum() {
        for (failures, seconds) in [(0, 1), (1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (7, 30), (u32::MAX, 30)] {
            assert_eq!(backoff(failures, 0.5), Duration::from_secs(seconds), "{failures} failures");
        }
        assert_eq!((backoff(1, 0.0), backoff(1, 1.0)), (Duration::from_millis(900), Duration::from_millis(1_100)));
    }
}
