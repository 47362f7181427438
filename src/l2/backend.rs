//! [`Backend`]: the operations that every L2 implements.

use futures_util::future::BoxFuture;

use super::{
    bans::BanStore,
    changes::Source,
    entry::{Described, Stored},
    health::{Health, State},
    loads::LoadStore,
    op::{Applied, Op},
    redis::RawConnection,
    scan::{ScanPage, ScanRequest},
};
use crate::{
    error::{CacheError, Kind, Result},
    model::Key,
};

/// Implementations of L2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Redis, shared with others: L1 needs the fence.
    Redis,
    /// The embedded store: only this process writes.
    Embedded,
    /// L1 is the store: no L2 values to promote, and no L1 copies to drop before a write.
    None,
}

impl Flavor {
    /// Returns the name used in statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Embedded => "embedded",
            Self::None => "none",
        }
    }
}

/// Maximum size of the values that one call of [`Backend::get_within`] reads; a single value may be larger.
pub const PARTS_MAX_BYTES: usize = 16 << 20;

/// Isolation of the operations of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// Each operation is applied separately; the operations are pipelined.
    Independent,
    /// No other client sees a part of the batch. An error before the batch begins fails all operations.
    Atomic,
}

/// L2, the tier behind L1.
///
/// The caller has checked keys and limits, has resolved policies into TTLs, and, where the coherence protocol requires
/// it, has voided fill leases and dropped L1 copies. Every future completes by its deadline, whatever the store does.
/// Dropping a future early is allowed; a write whose future was dropped may still happen. Results have the order of the
/// keys or operations.
pub trait Backend: BanStore + LoadStore + Send + Sync + 'static {
    /// Returns the implementation.
    fn flavor(&self) -> Flavor;

    /// Reads strings. Without `with_life` the remaining TTL is not requested and
    /// [`Life::Forever`](crate::model::Life::Forever) is returned.
    ///
    /// Errors: `WrongType`, `TooLarge` (over `value_max`), `Unavailable`, `DeadlineExceeded`, `NoAccess`, `Overloaded`.
    fn get<'a>(&'a self, keys: &'a [Key], with_life: bool) -> BoxFuture<'a, Vec<Result<Option<Stored>>>>;

    /// Reads strings with their remaining TTLs. `None` for a value of at least `part_max` bytes, which is then not
    /// transferred completely: its caller reads it with [`Backend::get`]. A store that cannot read a part of a value
    /// returns values of any size, and `None` after about [`PARTS_MAX_BYTES`].
    ///
    /// Errors as [`Backend::get`].
    fn get_within<'a>(
        &'a self,
        keys: &'a [Key],
        part_max: usize,
    ) -> BoxFuture<'a, Vec<Option<Result<Option<Stored>>>>> {
        let _any_size = part_max;
        Box::pin(async move { self.get(keys, true).await.into_iter().map(Some).collect() })
    }

    /// Applies operations, each as [`op::apply`] defines it.
    ///
    /// After an error of kind `Unknown` the operation may have happened; after any other error it has not.
    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>>;

    /// Describes keys of any type without reading their values. May change the idle time and the access frequency that
    /// Redis keeps.
    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>>;

    /// Returns one page of all keys. A key that is present from the first page to the last is returned at least once. An
    /// unknown cursor starts a new scan.
    fn scan(&self, request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>>;

    /// Returns the number of keys, including expired keys that were not removed yet. Over Redis, whose DBSIZE cannot tell
    /// them apart, the number includes Terrace's own records.
    fn count(&self) -> BoxFuture<'_, Result<u64>>;

    /// Returns a random key; how uniform the choice is depends on the store.
    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>>;

    /// Removes every key; returns once reads find none of them.
    fn clear(&self) -> BoxFuture<'_, Result<()>>;

    /// Returns the source that announces changes of this key. L1 may keep a value that was read from L2 only for the epoch
    /// of that source; the epoch ends before the key moves to another source.
    fn source(&self, _key: &[u8]) -> Source {
        Source::ONLY
    }

    /// Lends a connection for pass-through commands, in RESP2 or RESP3: to the primary that holds `key`, or to any primary.
    ///
    /// Errors: `Unsupported` without Redis; `Unavailable`, `NoAccess`, `Overloaded`.
    fn raw_connection<'a>(&'a self, _key: Option<&'a [u8]>, _resp3: bool) -> BoxFuture<'a, Result<RawConnection>> {
        let message = "L2 is not Redis; this operation requires a Redis URL in l2.url";
        Box::pin(std::future::ready(Err(CacheError::new(Kind::Unsupported, message))))
    }

    /// Lends a connection to each primary, in RESP2 or RESP3.
    ///
    /// Errors: as [`Backend::raw_connection`].
    fn raw_connections(&self, _resp3: bool) -> BoxFuture<'_, Result<Vec<RawConnection>>> {
        Box::pin(async move { self.raw_connection(None, false).await.map(|connection| vec![connection]) })
    }

    /// Returns the id of the store if the store keeps it outside of its keys.
    fn store_id(&self) -> Option<u64> {
        None
    }

    /// Returns the result of the last contact with the store.
    fn state(&self) -> State;

    /// Returns current figures for operators.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Returns whether the store has answered at least once since the start.
    fn reached(&self) -> bool {
        self.state() != State::Connecting
    }
}
