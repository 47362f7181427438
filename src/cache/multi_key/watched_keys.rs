//! WATCH: the keys that a transaction watches.
//!
//! With Redis, WATCH is executed by Redis, on a connection that the transaction keeps. With a store that only this
//! process writes, each change of a watched key marks its watchers. Without watchers a change costs one load.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::passthrough;
use crate::{
    access::Verbs,
    cache::{Cache, Core},
    error::Result,
    l2::{Flavor, RawConnection},
    model::Key,
};

/// Maximum number of keys that one RESP client watches (`WATCH`).
const KEYS_MAX: usize = 65_536;
/// Approximate memory of a watched key in addition to its bytes: an entry of the list and one of the registry.
const KEY_OVERHEAD_BYTES: usize = 192;

/// All watched keys of this process.
#[derive(Debug, Default)]
pub(crate) struct WatchedKeys {
    count: AtomicUsize,
    keys: Mutex<HashMap<Bytes, Vec<Arc<Mark>>>>,
}

/// The mark that a change sets for one watcher.
#[derive(Debug, Default)]
struct Mark {
    changed: AtomicBool,
    /// True if one of the watcher's keys exists, so a flush changes it.
    any_there: AtomicBool,
}

impl WatchedKeys {
    /// Marks the watchers of a key that changed.
    #[inline]
    pub(crate) fn changed(&self, key: &[u8]) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.mark(key);
        }
    }

    #[cold]
    fn mark(&self, key: &[u8]) {
        for watcher in self.keys.lock().get(key).into_iter().flatten() {
            watcher.changed.store(true, Ordering::Release);
        }
    }

    /// Marks all watchers: every key may have changed.
    pub(crate) fn all_changed(&self) {
        if self.count.load(Ordering::Acquire) > 0 {
            for watcher in self.keys.lock().values().flatten() {
                watcher.changed.fetch_or(watcher.any_there.load(Ordering::Acquire), Ordering::AcqRel);
            }
        }
    }
}

/// The keys that one client watches, until the watch is dropped.
pub struct KeyWatch {
    core: Arc<Core>,
    mark: Arc<Mark>,
    keys: Vec<(Key, bool)>,
    /// Approximate memory of the keys in bytes.
    bytes: usize,
    /// With Redis: the connection that watches.
    line: Option<RawConnection>,
}

impl std::fmt::Debug for KeyWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({} keys)", self.keys.len())
    }
}

impl KeyWatch {
    /// Returns the approximate memory of the watch in bytes. The registry of all watched keys has a copy of each key.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the connection that watches, with Redis. The transaction must run on it.
    pub fn take_line(&mut self) -> Option<RawConnection> {
        self.line.take()
    }

    /// Drops the L1 copies of the watched keys. Redis reported that one of them changed; the push that invalidates its
    /// copy may still be on its way.
    pub fn drop_copies(&self) {
        self.core.drop_copies(self.keys.iter().map(|(key, _)| key));
    }
}

impl Drop for KeyWatch {
    fn drop(&mut self) {
        let mut watched = self.core.watched_keys.keys.lock();
        for (key, _) in &self.keys {
            let Some(watchers) = watched.get_mut(&**key) else { continue };
            watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.mark));
            if watchers.is_empty() {
                watched.remove(&**key);
            }
        }
        self.core.watched_keys.count.store(watched.len(), Ordering::Release);
    }
}

impl Cache {
    /// Begins a watch without keys, for a client that will watch `key`. With Redis, `resp3` selects the protocol of the
    /// replies.
    ///
    /// # Errors
    /// With Redis as [`Cache::line`].
    pub async fn begin_watch(&self, key: Option<&Key>, resp3: bool) -> Result<KeyWatch> {
        let line = if self.core.flavor == Flavor::Redis { Some(self.line(key, resp3).await?) } else { None };
        Ok(KeyWatch { core: Arc::clone(&self.core), mark: Arc::default(), keys: Vec::new(), bytes: 0, line })
    }

    /// Watches further keys.
    ///
    /// # Errors
    /// Errors of L2; `Overloaded` for too many keys.
    pub async fn watch(&self, watch: &mut KeyWatch, keys: Vec<Key>) -> Result<()> {
        keys.iter().try_for_each(|key| self.principal.check(Verbs::READ, key))?;
        if watch.keys.len() + keys.len() > KEYS_MAX {
            let message = format!("too many watched keys; a client watches at most {KEYS_MAX}");
            return Err(crate::error::CacheError::new(crate::error::Kind::Overloaded, message));
        }
        watch.bytes += keys.iter().map(|key| 2 * key.len() + KEY_OVERHEAD_BYTES).sum::<usize>();
        if let Some(line) = &mut watch.line {
            // Without this, the lookup of EXEC would change the watched keys.
            self.bury_dead(&keys).await?;
            let words = std::iter::once(&b"WATCH"[..]).chain(keys.iter().map(|key| &**key)).collect::<Vec<_>>();
            line.ask(&passthrough::request(&words), 1).await?;
            // Another client may have written a key directly to Redis just before. Redis then does not report that
            // write to EXEC, and the push that invalidates the copy may arrive later than the reply to WATCH. A read of
            // the old copy would lose the update.
            self.core.drop_copies(&keys);
            // EXEC resets the state of the connection.
            line.taint();
            watch.keys.extend(keys.into_iter().map(|key| (key, false)));
            return Ok(());
        }
        {
            let mut watched = self.core.watched_keys.keys.lock();
            for key in &keys {
                watched.entry(key.bytes().clone()).or_default().push(Arc::clone(&watch.mark));
            }
            self.core.watched_keys.count.store(watched.len(), Ordering::Release);
        }
        // Records which keys exist, to notice their expiry.
        let described = self.describe(&keys).await;
        let there = described.into_iter().map(|info| info.l2.map(|entry| entry.is_some()));
        for (key, there) in keys.into_iter().zip(there) {
            let there = there?;
            watch.mark.any_there.fetch_or(there, Ordering::AcqRel);
            watch.keys.push((key, there));
        }
        Ok(())
    }

    /// Returns whether a watched key has changed or expired. Do not use it with Redis, where EXEC reports changes.
    ///
    /// # Errors
    /// Errors of L2.
    pub async fn has_changed(&self, watch: &KeyWatch) -> Result<bool> {
        if watch.mark.changed.load(Ordering::Acquire) {
            return Ok(true);
        }
        let there: Vec<Key> = watch.keys.iter().filter(|(_, there)| *there).map(|(key, _)| key.clone()).collect();
        for info in self.describe(&there).await {
            if info.l2?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
