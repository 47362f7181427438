//! Bans: patterns whose values are gone at once, however long it takes to remove them.
//!
//! A ban has a number, given in the order of the bans. While it is open, what stood under a matching key before it is as
//! good as absent; what was written since is not. How the two are told apart is the store's own affair: the embedded
//! store compares numbers of writes, Redis keeps a note of each key written since (`redis/bans.rs`). A sweep removes what
//! the ban hides, and when nothing is left the ban is retired.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;

use crate::{
    error::{CacheError, Kind},
    glob::Glob,
    model::RESERVED_PREFIX,
};

/// Bans that may be open at once, over all nodes: a read that misses L1 compares its key with each of them.
pub const OPEN_MAX: usize = 64;

/// A pattern and its place in the order of bans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Later bans have greater numbers.
    pub number: u64,
    /// Over whole keys.
    pub glob: Glob,
}

impl Ban {
    /// Whether it is about this key. Patterns skip Terrace's own records: hidden for a while, one could come back.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        !key.starts_with(RESERVED_PREFIX) && self.glob.matches(key)
    }
}

/// A part of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepPage {
    /// Where the next part begins; 0 when all of the store was looked at.
    pub cursor: u64,
    /// Keys looked at, about.
    pub scanned: u64,
    /// Values removed (with `dry_run`: that would be).
    pub removed: u64,
    /// Commands that the store counts for it, about; 0 where it counts none.
    pub commands: u64,
}

/// How much of the store a sweep takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Others use it: no part of the sweep keeps them waiting for longer than a few of their own commands would.
    Yielding,
    /// Nobody else does.
    Full,
}

/// The bans that are open, read by every call without a lock.
#[derive(Debug, Default)]
pub struct OpenBans {
    any: AtomicBool,
    list: ArcSwap<Vec<Arc<Ban>>>,
}

impl OpenBans {
    /// All of them, oldest first; nothing is allocated where there is none.
    #[inline]
    #[must_use]
    pub fn all(&self) -> Option<Arc<Vec<Arc<Ban>>>> {
        self.any.load(Ordering::Acquire).then(|| self.list.load_full())
    }

    /// Whether this one is open.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.list.load().iter().any(|ban| ban.number == number)
    }

    /// Shows another list from now on; those that were not there before.
    pub fn replace(&self, mut bans: Vec<Arc<Ban>>) -> Vec<Arc<Ban>> {
        bans.sort_unstable_by_key(|ban| ban.number);
        let before = self.list.load_full();
        let is_new = |ban: &&Arc<Ban>| !before.iter().any(|known| known.number == ban.number);
        let new = bans.iter().filter(is_new).cloned().collect();
        let any = !bans.is_empty();
        self.list.store(Arc::new(bans));
        self.any.store(any, Ordering::Release);
        new
    }
}

/// Those of `bans` that match a key.
pub fn matching<'a>(bans: &'a [Arc<Ban>], key: &'a [u8]) -> impl Iterator<Item = &'a Arc<Ban>> {
    bans.iter().filter(move |ban| ban.matches(key))
}

/// Why no further ban is taken.
#[must_use]
pub fn too_many() -> CacheError {
    let message = format!("{OPEN_MAX} patterns are being invalidated already; wait until one of them is swept");
    CacheError::new(Kind::Overloaded, message)
}

/// A write that the invalidation of its key's pattern came in between.
#[must_use]
pub fn overtaken() -> CacheError {
    let message = "the key's pattern was invalidated meanwhile; the write may or may not have survived";
    CacheError::new(Kind::Unknown, message)
}
