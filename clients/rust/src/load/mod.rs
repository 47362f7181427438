//! Get-or-load: reads a key, and loads it from its origin if it is absent.
//!
//! ```text
//! caller ──► near cache ──► flight of this process ──► GetOrLease ──► hit, absent, failed
//!              │ hit          │ join                      │ load       │ busy, no node answers
//!              ▼              ▼                           ▼            ▼
//!            value          value                  task: loader, Fill  task: loader, within DIRECT_LOADS_MAX
//! ```
//!
//! * `options`, `loaded`: what callers pass, and what loaders return.
//! * `chain`: loads that load others.
//! * `flights`: callers of one process share lookups and loads.
//! * `one`, `many`: the paths for one key and for many keys.

pub(crate) mod chain;
mod flights;
mod loaded;
mod many;
mod one;
mod options;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

pub(crate) use self::options::setters;
pub use self::{
    loaded::{BoxError, Loaded},
    many::GetOrLoadMany,
    one::GetOrLoad,
    options::{LOAD_TIMEOUT, LoadOptions, OnUnavailable, WAIT},
};
pub(crate) use self::{
    loaded::{BoxFuture, LoadError, Loader},
    many::{Item, ManyLoader},
};
use crate::error::{Error, ErrorKind, Result};

/// Maximum number of loads of a client at a time whose results the cache cannot store, because no node answers or another
/// client loads for too long. An outage of the cache is then no outage of the origin.
pub const DIRECT_LOADS_MAX: usize = 16;
/// Maximum number of loads of a client at a time.
pub const LOADS_MAX: usize = 1_024;
/// Maximum number of loads of a client at a time that refresh values in the background.
pub const REFRESHES_MAX: usize = 64;

/// Returns the error of a key whose last load failed, in this or another process.
fn last_load_failed(message: &str, retry_after: Duration) -> Error {
    Error::load_failed(format!("the last load of the key failed: {message}"), Some(retry_after))
}

/// Returns the error of a load whose task has ended without a result.
fn abandoned() -> Error {
    Error::load_failed("the load was abandoned, because its runtime shuts down", None)
}

/// Returns the reason to load a key without the cache, because another client loads it for longer than the time to wait.
fn busy(wait: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, format!("another client loads the key for longer than {wait:?}"))
}

/// Returns the reason to load a key without the cache, because its value cannot be used and no lease was granted.
fn undecodable() -> Error {
    let text = "the value cannot be decoded, and another client loads the key";
    Error::new(ErrorKind::FailedPrecondition, text)
}

/// Loads of a client.
#[derive(Debug)]
pub(crate) struct Loads {
    pub(crate) flights: Arc<flights::Flights>,
    direct: Arc<Semaphore>,
    all: Arc<Semaphore>,
    refreshes: Arc<Semaphore>,
}

impl Default for Loads {
    fn default() -> Self {
        Self {
            flights: Arc::default(),
            direct: Arc::new(Semaphore::new(DIRECT_LOADS_MAX)),
            all: Arc::new(Semaphore::new(LOADS_MAX)),
            refreshes: Arc::new(Semaphore::new(REFRESHES_MAX)),
        }
    }
}

/// Permission to run a load. Dropping it permits another load.
pub(crate) type Permit = OwnedSemaphorePermit;

impl Loads {
    /// Waits for the permission to load without the cache.
    ///
    /// # Errors
    /// `Unavailable` after the limit, with the reason why the cache is not used.
    async fn direct(&self, limit: Duration, why: &Error) -> Result<Permit> {
        let acquired = timeout(limit, Arc::clone(&self.direct).acquire_owned()).await;
        acquired.ok().and_then(Result::ok).ok_or_else(|| {
            let text =
                format!("{DIRECT_LOADS_MAX} loads without the cache are in progress, the maximum: {}", why.message());
            Error::new(ErrorKind::Unavailable, text).with_retry_after(why.retry_after())
        })
    }

    /// Returns the permission for a load.
    ///
    /// # Errors
    /// `ResourceExhausted` if too many loads are in progress.
    fn any(&self) -> Result<Permit> {
        Arc::clone(&self.all).try_acquire_owned().map_err(|_full| {
            let text = format!("{LOADS_MAX} loads are in progress, the maximum of a client");
            Error::new(ErrorKind::ResourceExhausted, text)
        })
    }

    /// Returns the permission for a refresh in the background; `None` if too many are in progress.
    fn refresh(&self) -> Option<Permit> {
        Arc::clone(&self.refreshes).try_acquire_owned().ok()
    }
}
