//! A scan over all keys: one request and one page.

use std::time::Duration;

use bytes::Bytes;

use crate::{clock::stopwatch_ns, model::Key};

/// Maximum time that a page of a scan occupies its thread. A page then ends early, with the keys found so far and a cursor
/// for the rest. Comparing a pattern with 10,000 keys takes less, unless the keys are long.
pub(crate) const PAGE_TIME_MAX: Duration = Duration::from_millis(5);

/// One request of a scan.
#[derive(Debug, Clone)]
pub struct ScanRequest {
    /// 0 starts a scan; otherwise the cursor of the previous page.
    pub cursor: u64,
    /// Redis glob, matched against whole keys; `None` matches all keys.
    pub pattern: Option<Bytes>,
    /// Approximate number of keys to examine, at least 1.
    pub count: usize,
    /// Return only keys of this type, by its Redis name in any case.
    pub type_name: Option<Bytes>,
}

/// One page of a scan.
#[derive(Debug, Clone, Default)]
pub struct ScanPage {
    /// Cursor of the next page; 0 when the scan is complete.
    pub cursor: u64,
    /// Matching keys, without Terrace's own records.
    pub keys: Vec<Key>,
}

/// The time for which a task has run since it last yielded. A task that compares many texts with patterns yields each
/// time it has run for [`PAGE_TIME_MAX`].
#[derive(Debug)]
pub struct Turn(u64);

impl Turn {
    /// Starts a turn.
    #[must_use]
    pub fn begin() -> Self {
        Self(stopwatch_ns())
    }

    /// Yields to other tasks if the turn was long enough, and then starts the next one.
    pub async fn pause(&mut self) {
        if stopwatch_ns() - self.0 > PAGE_TIME_MAX.as_nanos() as u64 {
            tokio::task::yield_now().await;
            *self = Self::begin();
        }
    }
}
