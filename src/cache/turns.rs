//! Turns: whoever changes several keys at one instant, over a store that this process alone writes, has them alone.
//!
//! Over the embedded store and `none` every read and write through the facade takes a shared turn, a transaction the
//! exclusive one. Reads that L1 answers take none: while the exclusive turn is taken they go the long way. Over Redis
//! nothing is taken: there a transaction is Redis's own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};

use super::Cache;
use crate::l2::Flavor;

/// The lock, and a sign for those who do not take it.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    lock: Arc<RwLock<()>>,
    taken: Arc<AtomicBool>,
}

/// The exclusive turn, until this goes.
#[derive(Debug)]
pub struct Alone {
    taken: Arc<AtomicBool>,
    _guard: OwnedRwLockWriteGuard<()>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.taken.store(false, Ordering::Release);
    }
}

impl Turns {
    /// Whether somebody has the exclusive turn.
    #[inline]
    pub(crate) fn are_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }
}

impl Cache {
    /// A shared turn; nothing for who has the exclusive one, and over Redis.
    pub(super) async fn turn(&self) -> Option<RwLockReadGuard<'_, ()>> {
        if self.alone || self.core.flavor == Flavor::Redis {
            return None;
        }
        Some(self.core.turns.lock.read().await)
    }

    /// The exclusive turn, and a handle for what is done in it. Over Redis it keeps nobody out.
    pub async fn exclusive(&self) -> (Self, Option<Alone>) {
        let mut inside = self.clone();
        inside.alone = true;
        if self.alone || self.core.flavor == Flavor::Redis {
            return (inside, None);
        }
        let guard = Arc::clone(&self.core.turns.lock).write_owned().await;
        let taken = Arc::clone(&self.core.turns.taken);
        taken.store(true, Ordering::Release);
        (inside, Some(Alone { taken, _guard: guard }))
    }
}
