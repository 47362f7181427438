//! Get-or-load: reads that grant load leases, fills and the ends of leases.
//!
//! * [`lease`]: one read that answers with the value, with a lease, or after another client has loaded the key.
//! * [`fill`]: stores what a client has loaded, if nothing was invalidated meanwhile; ends a lease without a result.
//! * [`limits`]: ranges of durations, for all protocols.
//! * `interest`: the keys whose loads this node follows, and the callers that wait for them.
//! * `open_leases`: the leases of a connection, which end when the connection is lost.
//! * `state`: what explanations show.
//! * [`times`]: what loads cost, from the grant to the fill.
//!
//! The store decides who holds a lease (`l2::loads`). A node only remembers what it has learned from the store, so that
//! the readers of a key whose load is in progress cost the store nothing.

pub mod fill;
mod interest;
pub mod lease;
pub mod limits;
mod open_leases;
mod state;
pub mod times;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{clock::Clock, l2::loads::local::LocalLoads, model::RESERVED_PREFIX};

pub use fill::{FillRequest, LoadedValue};
pub use lease::{Grant, GrantReason, HitLook, LeaseAnswer, LeaseNeeds, LeaseRequest};
pub(crate) use open_leases::OpenLeases;
pub use state::LoadState;
pub use times::{GroupLoads, LoadOutcome};

/// Prefix of the records of leases in Redis, after the reserved prefix.
const RECORD_PREFIX: &[u8] = b"load:";

/// Maximum number of callers that wait for the loads of others, over all connections.
pub const WAITING_MAX: usize = 65_536;

/// The loads of a server.
#[derive(Debug)]
pub(crate) struct Loads {
    /// Leases of a store that only this process writes.
    local: LocalLoads,
    interest: interest::Interests,
    /// Number of callers that wait.
    waiting: AtomicUsize,
    pub(crate) times: times::LoadTimes,
    /// True after the drain has begun: connections that end then do not end their leases.
    is_draining: AtomicBool,
}

impl Loads {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            local: LocalLoads::new(clock),
            interest: interest::Interests::default(),
            waiting: AtomicUsize::new(0),
            times: times::LoadTimes::default(),
            is_draining: AtomicBool::new(false),
        }
    }

    /// Returns the leases of the store `none`.
    pub(crate) fn local(&self) -> &LocalLoads {
        &self.local
    }

    /// Notes that a key or its lease has changed.
    #[inline]
    pub(crate) fn changed(&self, key: &[u8]) {
        self.interest.changed(key);
    }

    /// Notes that an internal record has changed. `name` is its key without the reserved prefix.
    pub(crate) fn record_changed(&self, name: &[u8]) {
        if let Some(key) = key_of_record(name) {
            self.changed(key);
        }
    }

    /// Notes that any key may have changed, or that changes were missed.
    pub(crate) fn all_changed(&self) {
        self.interest.all_changed();
    }

    /// Returns the number of callers that wait for the loads of others.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Begins the drain: leases continue when their connections end, and waiting callers are answered at once.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
        self.all_changed();
    }

    /// Returns whether the drain has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }
}

/// Returns the key whose lease an internal record of this name holds: `load::KEY`, or `load:{TAG}:KEY` in a cluster.
fn key_of_record(name: &[u8]) -> Option<&[u8]> {
    let rest = name.strip_prefix(RECORD_PREFIX)?;
    if let Some(key) = rest.strip_prefix(b":") {
        return Some(key);
    }
    let end = rest.windows(2).position(|pair| pair == b"}:")?;
    rest.get(end + 2..)
}

/// Returns whether a key is a client's.
fn is_of_client(key: &[u8]) -> bool {
    !key.starts_with(RESERVED_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_the_names_of_records() {
        for (name, key) in [
            (&b"load::user:1"[..], Some(&b"user:1"[..])),
            (b"load:{123}:user:1", Some(b"user:1")),
            (b"load:{123}:a}:b", Some(b"a}:b")),
            (b"load::{a}:b", Some(b"{a}:b")),
            (b"load:{123", None),
            (b"tag:load::x", None),
        ] {
            assert_eq!(key_of_record(name), key, "{}", String::from_utf8_lossy(name));
        }
    }
}
