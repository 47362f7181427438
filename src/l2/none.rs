//! No L2: L1 is the store.
//!
//! Writes, conditions and increments happen in L1 under the lock of the key's shard. Eviction loses the value. A batch
//! is applied key by key: each key changes atomically, but other clients may see only some keys of the batch changed.

use std::{future::ready, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    Applied, Backend, BanStore, Batch, Described, Flavor, LoadStore, Op, ScanPage, ScanRequest, State, Stored,
    loads::{LoadOp, LoadResult},
};
use crate::{error::Result, glob::Glob, model::Key};

/// The L1 operations that this backend needs; the cache implements them.
pub trait Resident: Send + Sync + 'static {
    /// Runs [`op::apply`](super::op::apply) on the present copy, under the lock of its shard.
    ///
    /// # Errors
    /// Errors of the operation; `TooLarge` for an entry that exceeds the limits of L1.
    fn apply(&self, key: &Key, op: &Op) -> Result<Applied>;
    /// Runs an operation on the load lease of a key, under the lock of its shard.
    ///
    /// # Errors
    /// `TooLarge` for an entry that exceeds the limits of L1.
    fn load(&self, key: &Key, op: &LoadOp) -> Result<LoadResult>;
    /// Describes a key without counting as a use of it.
    fn describe(&self, key: &Key) -> Option<Described>;
    /// Returns one page of the keys for which `keep` returns true.
    fn scan(&self, cursor: u64, count: usize, keep: &dyn Fn(&[u8]) -> bool) -> ScanPage;
    /// Returns the number of entries.
    fn count(&self) -> u64;
    /// Returns any key.
    fn random_key(&self) -> Option<Key>;
    /// Removes every key.
    fn clear(&self);
}

/// Backend that stores entries in a [`Resident`].
pub struct NoneBackend(Box<dyn Resident>);

impl NoneBackend {
    /// Creates a backend that stores entries in `resident`.
    #[must_use]
    pub fn new(resident: impl Resident) -> Arc<Self> {
        Arc::new(Self(Box::new(resident)))
    }

    fn page(&self, request: &ScanRequest) -> Result<ScanPage> {
        let pattern = request.pattern.as_deref().map(Glob::new).transpose()?;
        if request.type_name.as_deref().is_some_and(|name| !name.eq_ignore_ascii_case(b"string")) {
            return Ok(ScanPage::default());
        }
        let keep = |key: &[u8]| pattern.as_ref().is_none_or(|pattern| pattern.matches(key));
        Ok(self.0.scan(request.cursor, request.count, &keep))
    }
}

impl Backend for NoneBackend {
    fn flavor(&self) -> Flavor {
        Flavor::None
    }

    /// Always returns "absent": the caller has searched L1 already, and there is no other store.
    fn get<'a>(&'a self, keys: &'a [Key], _with_life: bool) -> BoxFuture<'a, Vec<Result<Option<Stored>>>> {
        ready(keys.iter().map(|_| Ok(None)).collect()).boxed()
    }

    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, _batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>> {
        ready(ops.iter().map(|(key, op)| self.0.apply(key, op)).collect()).boxed()
    }

    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>> {
        ready(keys.iter().map(|key| Ok(self.0.describe(key))).collect()).boxed()
    }

    fn scan(&self, request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>> {
        ready(self.page(&request)).boxed()
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        ready(Ok(self.0.count())).boxed()
    }

    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>> {
        ready(Ok(self.0.random_key())).boxed()
    }

    fn clear(&self) -> BoxFuture<'_, Result<()>> {
        self.0.clear();
        ready(Ok(())).boxed()
    }

    fn state(&self) -> State {
        State::Up
    }
}

impl BanStore for NoneBackend {}

impl LoadStore for NoneBackend {
    fn load(&self, key: Key, op: LoadOp) -> BoxFuture<'_, Result<LoadResult>> {
        ready(self.0.load(&key, &op)).boxed()
    }
}
