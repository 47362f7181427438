//! Pattern bans: [`BanStore`], and the bans that are open.
//!
//! A ban invalidates all keys that match a pattern at once, however long the removal of their values takes. Bans are
//! numbered in the order of opening. While a ban is open, reads treat a matching value that was written before the ban
//! as absent; a value written later is visible. Each store distinguishes the two in its own way: the embedded store
//! compares write numbers, Redis keeps a note of each key written since the ban (`redis/bans`). A sweep removes the
//! hidden values; when none remains, the ban is retired.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;

use crate::{
    error::{CacheError, Kind, Result},
    glob::Glob,
    model::{Key, RESERVED_PREFIX},
};

/// Maximum number of open pattern bans over all nodes. A read that misses L1 compares its key with each pattern.
pub const OPEN_MAX: usize = 64;

/// One pattern ban.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// The position in the order of bans: later bans have greater numbers.
    pub number: u64,
    /// The pattern, matched against whole keys.
    pub glob: Glob,
}

impl Ban {
    /// Returns true if the ban covers this key. Bans never cover Terrace's own records, because a hidden record could
    /// reappear.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        !key.starts_with(RESERVED_PREFIX) && self.glob.matches(key)
    }
}

/// The result of one page of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepPage {
    /// Cursor of the next page; 0 after the last page.
    pub cursor: u64,
    /// Approximate number of keys examined.
    pub scanned: u64,
    /// Number of values removed.
    pub removed: u64,
    /// Approximate number of commands that the store counts for this page; 0 if it counts none.
    pub commands: u64,
}

/// Share of the store's capacity that a sweep may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Other clients use the store: a page delays them no longer than a few of their own commands would.
    Yielding,
    /// No other client uses the store.
    Full,
}

/// The pattern bans of an L2: opens, sweeps and retires them. A supertrait of [`Backend`](super::Backend).
///
/// The default methods are for stores without bans of their own.
pub trait BanStore: Send + Sync + 'static {
    /// Opens a ban and returns its number. From then on, every call on every node that receives changes treats matching
    /// values that were written before the ban as absent.
    ///
    /// Errors: `Overloaded` if too many bans are open; `Unavailable`; `NoAccess`; `Unknown` if the ban may be open.
    fn ban(&self, _glob: Glob) -> BoxFuture<'_, Result<u64>> {
        Box::pin(std::future::ready(Err(no_bans())))
    }

    /// Returns the open bans that this node knows, oldest first.
    fn open_bans(&self) -> Arc<Vec<Arc<Ban>>> {
        Arc::default()
    }

    /// Returns the minimum time between opening and retiring a ban, however soon its sweep ends. A node that has not
    /// received the ban yet must still be able to read it during that time.
    fn retire_after(&self) -> Duration {
        Duration::ZERO
    }

    /// Acquires or renews the right to sweep a ban; `false` if another node has it. `token` identifies the sweeper.
    fn claim_sweep(&self, _ban: u64, _token: u64) -> BoxFuture<'_, Result<bool>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Removes the values that a ban hides in one page of keys, starting at `cursor`; cursor 0 starts a sweep. The
    /// caller must have acquired or renewed the right to sweep ([`claim_sweep`](Self::claim_sweep)) within the last few
    /// seconds.
    fn sweep<'a>(&'a self, _ban: &'a Ban, _cursor: u64, _effort: Effort) -> BoxFuture<'a, Result<SweepPage>> {
        Box::pin(std::future::ready(Err(no_bans())))
    }

    /// Ends a ban that no longer hides any value.
    fn retire(&self, _ban: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Err(no_bans())))
    }

    /// Prepares keys for a pass-through command: removes the values that open bans hide under them, so that values written
    /// later are visible. Returns the greatest ban number that this node knows.
    fn clear_banned<'a>(&'a self, _keys: &'a [Key]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    /// Returns a request for the greatest ban number, to be sent after a pass-through command that writes `key`, on the same
    /// connection; `None` if the store needs none.
    fn ban_question(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// Evaluates the reply to [`ban_question`](Self::ban_question). Returns the written keys that match a ban above `known`;
    /// the value is `true` if the written value was removed, so that the command has to be sent again.
    fn ban_answer<'a>(
        &'a self,
        _known: u64,
        _answer: &'a [u8],
        _keys: &'a [Key],
    ) -> BoxFuture<'a, Result<HashMap<Key, bool>>> {
        Box::pin(std::future::ready(Ok(HashMap::new())))
    }

    /// Returns the number of commands that the store has processed since it started, for all clients, if it is known: a
    /// sweep slows down while other clients use the store.
    fn commands_done(&self) -> BoxFuture<'_, Option<u64>> {
        Box::pin(std::future::ready(None))
    }
}

fn no_bans() -> CacheError {
    CacheError::new(Kind::Internal, "pattern bans require an L2 store")
}

/// The open bans. Every call reads them without a lock.
#[derive(Debug, Default)]
pub struct OpenBans {
    any: AtomicBool,
    list: ArcSwap<Vec<Arc<Ban>>>,
}

impl OpenBans {
    /// Returns all open bans, oldest first; `None`, without an allocation, if there is none.
    #[inline]
    #[must_use]
    pub fn all(&self) -> Option<Arc<Vec<Arc<Ban>>>> {
        self.any.load(Ordering::Acquire).then(|| self.list.load_full())
    }

    /// Returns whether the ban with this number is open.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.list.load().iter().any(|ban| ban.number == number)
    }

    /// Replaces the list; returns the bans that were not in the previous one.
    pub fn replace(&self, mut bans: Vec<Arc<Ban>>) -> Vec<Arc<Ban>> {
        bans.sort_unstable_by_key(|ban| ban.number);
        let before = self.list.load_full();
        // The pattern counts, too: numbers restart if Redis lost the log while no node knew it.
        let is_new = |ban: &&Arc<Ban>| !before.contains(ban);
        let new = bans.iter().filter(is_new).cloned().collect();
        let any = !bans.is_empty();
        self.list.store(Arc::new(bans));
        self.any.store(any, Ordering::Release);
        new
    }
}

/// Returns the bans that match a key.
pub fn matching<'a>(bans: &'a [Arc<Ban>], key: &'a [u8]) -> impl Iterator<Item = &'a Arc<Ban>> {
    bans.iter().filter(move |ban| ban.matches(key))
}

/// Error for a ban beyond [`OPEN_MAX`].
#[must_use]
pub fn too_many() -> CacheError {
    let message = format!(
        "{OPEN_MAX} pattern invalidations are in progress, which is the maximum; retry when one of them has completed"
    );
    CacheError::new(Kind::Overloaded, message)
}

/// Error for a write whose key was matched by a ban while the write was in flight.
#[must_use]
pub fn overtaken() -> CacheError {
    let message =
        "a pattern that matches the key was invalidated during the write; the written value may have been removed";
    CacheError::new(Kind::Unknown, message)
}
