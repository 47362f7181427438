//! Changes of L2 that did not come from this process: their sources, and the traits that receive them.

use std::{sync::Arc, time::Duration};

use super::bans::Ban;
use crate::clock::Tick;

/// Coherence bound: maximum fence age with which L1 answers reads.
pub const FENCE_SPAN: Duration = Duration::from_secs(1);

/// A part of L2 that announces its own changes: one primary of Redis, or the whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(u8);

impl Source {
    /// The source of all keys if there is only one.
    pub const ONLY: Self = Self(0);
    /// Maximum number of sources. L1 distinguishes 256 epochs, and each primary may have two.
    pub const MAX: usize = 100;

    /// Returns the source with this number; `None` from [`Source::MAX`] on.
    #[must_use]
    pub fn new(number: usize) -> Option<Self> {
        u8::try_from(number).ok().filter(|_| number < Self::MAX).map(Self)
    }

    /// Returns the source's number, which is less than [`Source::MAX`].
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Returns all possible sources.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::MAX).filter_map(Self::new)
    }
}

/// Receives changes of L2; the cache implements it. Called in the order of the changes: implementations must not wait or
/// block.
pub trait ChangeSink: Send + Sync + 'static {
    /// The key was changed or removed: the receiver drops its copy and voids its fill lease.
    fn invalidated(&self, key: &[u8]);
    /// All keys of this source may have changed (FLUSHALL, a push without keys, added or removed slots): the receiver
    /// advances the `data` counter by one.
    fn flushed(&self, source: Source);
    /// A ban was opened: the receiver must no longer return earlier copies of matching keys.
    fn banned(&self, ban: &Arc<Ban>);
}

/// Receives the state of the invalidation links to Redis in addition to changes, which determines how far L1 may rely
/// on the links. Called in wire order.
pub trait InvalidationSink: ChangeSink {
    /// From now on every change of this source is announced. Values read from the source before must not be kept.
    fn listening(&self, source: Source);
    /// The source's link is lost or no longer trusted: the receiver closes its fence and advances the `link` counter.
    fn lost(&self, source: Source, why: &str);
    /// The heartbeat has proven that copies may be returned until `until` (the fence).
    fn proven(&self, source: Source, until: Tick);
    /// The source refuses to announce changes; `why` describes the refusal. L1 stays closed for this source unless the
    /// configuration accepts the age limit as the only bound.
    fn refused(&self, source: Source, why: &str);
    /// The source is not a primary and therefore does not see every change when it happens; L1 stays closed for it.
    fn not_primary(&self, source: Source, why: &str);
    /// The source no longer exists.
    fn gone(&self, source: Source);
}
