//! [`LoadState`]: what this node knows about the load of a key, for explanations.

use std::time::Duration;

use bytes::Bytes;

use super::{Loads, interest::KnownState};
use crate::clock::Tick;

/// State of the load of a key, with the remaining time of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadState {
    /// A client loads the key.
    Loading {
        /// Time since the grant.
        age: Duration,
        /// Remaining exclusive time.
        ends: Duration,
    },
    /// The last load failed, and no client may load the key yet.
    Failed {
        /// Message of the failed load.
        message: Bytes,
        /// Remaining backoff.
        ends: Duration,
    },
    /// The origin does not have the key.
    Absent {
        /// Remaining time of the negative answer.
        ends: Duration,
    },
}

impl Loads {
    /// Returns the state of the load of a key; `None` if this node knows no load.
    pub(crate) fn state_of(&self, key: &[u8], now: Tick) -> Option<LoadState> {
        let known = self.known(key, now)?;
        let ends = known.until.since(now);
        Some(match known.state {
            KnownState::Loading { since, .. } => LoadState::Loading { age: now.since(since), ends },
            KnownState::Failed { message } => LoadState::Failed { message, ends },
            KnownState::Absent { ends_at, .. } => LoadState::Absent { ends: ends_at.since(now) },
        })
    }
}
