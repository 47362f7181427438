//! The tier below L1: one trait, three implementations.
//!
//! * [`redis`]: shared by many nodes; each worker owns its connections.
//! * [`embedded`]: an ordered store in a directory; this process is its only writer.
//! * [`none`]: nothing below; L1 is the store.
//!
//! What an operation means is said once, in [`op`]: the embedded store and `none` run [`op::apply`] under their own
//! lock, Redis has a command or a script for each.

pub mod bans;
pub mod codec;
pub mod embedded;
pub mod none;
pub mod op;
pub mod redis;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use self::redis::{Line, elements, text};
use crate::{
    clock::{Tick, millis},
    error::{CacheError, Kind, Result},
    glob::Glob,
    model::{Key, Life, Value},
};
pub use bans::{Ban, Effort, SweepPage};
pub use op::{Applied, Op};

/// Δ of the coherence contract: a hit reflects every write acknowledged this long before.
pub const FENCE_SPAN: Duration = Duration::from_secs(1);

/// Which implementation this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Redis, shared with others: L1 needs the fence.
    Redis,
    /// The embedded store: only this process writes.
    Embedded,
    /// L1 is the store: nothing to promote from, nothing to drop before a write.
    None,
}

impl Flavor {
    /// As it stands in statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Embedded => "embedded",
            Self::None => "none",
        }
    }
}

/// A place below that announces its own changes: one primary of Redis, or the only store there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(u8);

impl Source {
    /// Where there is one for all keys.
    pub const ONLY: Self = Self(0);
    /// Primaries at most. L1 tells 256 epochs apart, and each primary may have two.
    pub const MAX: usize = 100;

    /// The source of this number, if it is one.
    #[must_use]
    pub fn new(number: usize) -> Option<Self> {
        u8::try_from(number).ok().filter(|_| number < Self::MAX).map(Self)
    }

    /// Its number, under [`Source::MAX`].
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All that there may be.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::MAX).filter_map(Self::new)
    }
}

/// A value and how much longer its key lived when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The payload, which still has its header if there is one.
    pub value: Value,
    /// Remaining life at the moment the store answered.
    pub life: Life,
}

/// A key without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Remaining life.
    pub life: Life,
    /// When it expires by the wall clock, Unix milliseconds; `None` never.
    pub expires_at_ms: Option<u64>,
    /// Bytes of the payload; for other types than strings, 0.
    pub size_bytes: u64,
    /// Redis's name of its type.
    pub type_name: TypeName,
    /// The header before the payload; empty for a plain value.
    pub head: Bytes,
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeName {
    /// The only type outside Redis.
    String,
    /// Redis's `list`.
    List,
    /// Redis's `set`.
    Set,
    /// Redis's `zset`.
    ZSet,
    /// Redis's `hash`.
    Hash,
    /// Redis's `stream`.
    Stream,
    /// A module's type.
    Other,
}

impl TypeName {
    /// As TYPE prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::ZSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Other => "other",
        }
    }
}

/// What to look for in a scan.
#[derive(Debug, Clone)]
pub struct ScanRequest {
    /// 0 begins; later the cursor of the page before.
    pub cursor: u64,
    /// Redis glob over whole keys; `None` matches all.
    pub pattern: Option<Bytes>,
    /// About how many keys to look at, at least 1.
    pub count: usize,
    /// Only keys of this type, as Redis names it (any case).
    pub type_name: Option<Bytes>,
}

/// A part of a scan.
#[derive(Debug, Clone, Default)]
pub struct ScanPage {
    /// 0 when the scan is complete.
    pub cursor: u64,
    /// Matching keys; never reserved ones.
    pub keys: Vec<Key>,
}

/// Whether all operations of a batch happen at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// Each on its own, pipelined.
    Independent,
    /// No other client sees some done and others not. Any error before the batch begins fails all of it.
    Atomic,
}

/// Deadlines of L2 calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For reads; past it [`Kind::DeadlineExceeded`](crate::error::Kind::DeadlineExceeded).
    pub read: Duration,
    /// For writes; past it [`Kind::Unknown`](crate::error::Kind::Unknown).
    pub write: Duration,
}

/// The tier below L1.
///
/// The caller has checked keys and limits, resolved policies into lives, and voided leases and dropped L1 copies
/// where the coherence protocol wants that. Every future ends by its deadline, whatever the store does; dropping one
/// early is allowed, and a write dropped so may still happen. Results stand in the order of the keys or operations.
pub trait Backend: Send + Sync + 'static {
    /// Which implementation this is.
    fn flavor(&self) -> Flavor;

    /// Reads strings. `with_life` false saves the question for the remaining life (then [`Life::Forever`] is returned).
    ///
    /// Errors: `WrongType`, `TooLarge` (over `value_max`), `Unavailable`, `DeadlineExceeded`, `NoAccess`, `Overloaded`.
    fn get<'a>(&'a self, keys: &'a [Key], with_life: bool) -> BoxFuture<'a, Vec<Result<Option<Stored>>>>;

    /// Applies operations, each as [`op::apply`] defines it.
    ///
    /// An error of kind `Unknown` says that it may have happened; any other that it has not.
    fn apply<'a>(&'a self, ops: Vec<(Key, Op)>, batch: Batch) -> BoxFuture<'a, Vec<Result<Applied>>>;

    /// Describes keys of any type without reading their values; no effect on Redis's idle time or frequency is
    /// promised.
    fn describe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Option<Described>>>>;

    /// One page of all keys. A key present from the first page to the last is returned at least once; an unknown
    /// cursor starts again.
    fn scan(&self, request: ScanRequest) -> BoxFuture<'_, Result<ScanPage>>;

    /// How many keys there are, expired ones that were not removed yet included. Reserved ones may be counted over
    /// Redis, whose DBSIZE cannot tell.
    fn count(&self) -> BoxFuture<'_, Result<u64>>;

    /// Any key, uniformly as far as the store can.
    fn random_key(&self) -> BoxFuture<'_, Result<Option<Key>>>;

    /// Removes every key; ends when a read finds none of them.
    fn clear(&self) -> BoxFuture<'_, Result<()>>;

    /// Opens a ban and returns its number: from now on every call, on every node that hears of changes, finds matching
    /// values of before absent.
    ///
    /// Errors: `Overloaded` where too many are open; `Unavailable`, `NoAccess`; `Unknown`: it may be open.
    fn ban(&self, _glob: Glob) -> BoxFuture<'_, Result<u64>> {
        Box::pin(std::future::ready(Err(no_bans())))
    }

    /// The bans that this node knows to be open, oldest first.
    fn open_bans(&self) -> Arc<Vec<Arc<Ban>>> {
        Arc::default()
    }

    /// How long after its opening a ban may be retired, however soon it is swept: until then a node that has not heard of
    /// it may have to learn what it was.
    fn retire_after(&self) -> Duration {
        Duration::ZERO
    }

    /// Takes or keeps the right to sweep a ban; `false` if another node has it. `token` tells sweepers apart.
    fn claim_sweep(&self, _ban: u64, _token: u64) -> BoxFuture<'_, Result<bool>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Removes what a ban hides among about `count` keys from `cursor` on; 0 begins. By who has the right to, a few seconds after
    /// it was claimed or kept at the latest.
    fn sweep<'a>(&'a self, _ban: &'a Ban, _cursor: u64, _effort: Effort) -> BoxFuture<'a, Result<SweepPage>> {
        Box::pin(std::future::ready(Err(no_bans())))
    }

    /// Ends a ban that hides nothing any more.
    fn retire(&self, _ban: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Err(no_bans())))
    }

    /// Before a command that this trait does not know: what open bans hide under these keys is removed, and what stands
    /// there later is told from it. Returns the greatest number of bans that is known.
    fn clear_banned<'a>(&'a self, _keys: &'a [Key]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    /// A request to send behind such a command that writes `key`, on the same connection.
    fn ban_question(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// The answer to that: of the keys written, those that a ban above `known` matches, and whether what was written is
    /// gone, so that the command has to be sent again.
    fn ban_answer<'a>(
        &'a self,
        _known: u64,
        _answer: &'a [u8],
        _keys: &'a [Key],
    ) -> BoxFuture<'a, Result<HashMap<Key, bool>>> {
        Box::pin(std::future::ready(Ok(HashMap::new())))
    }

    /// Commands that the store has done since it started, for whomever, where that is known: a sweep makes way for others.
    fn commands_done(&self) -> BoxFuture<'_, Option<u64>> {
        Box::pin(std::future::ready(None))
    }

    /// Which source announces changes of this key. What a read then brings may be kept only in that source's epoch:
    /// a key that goes to another source ends it first.
    fn source(&self, _key: &[u8]) -> Source {
        Source::ONLY
    }

    /// A connection of the caller's own that speaks Redis's protocol as it is, in RESP2 or RESP3: to the primary that holds
    /// `key`, or to any.
    ///
    /// Errors: `Unsupported` where there is no Redis; `Unavailable`, `NoAccess`, `Overloaded`.
    fn line<'a>(&'a self, _key: Option<&'a [u8]>, _resp3: bool) -> BoxFuture<'a, Result<Line>> {
        let message = "there is no Redis below (l2.url names none)";
        Box::pin(std::future::ready(Err(CacheError::new(Kind::Unsupported, message))))
    }

    /// Whether the store answered last time, and why not.
    fn state(&self) -> State;

    /// Figures of today, for operators.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Whether the store has answered once since start, even if it does not now.
    fn reached(&self) -> bool {
        self.state() != State::Connecting
    }
}

fn no_bans() -> CacheError {
    CacheError::new(Kind::Internal, "where there is no L2, nothing is to be swept")
}

/// Figures of L2 that are of today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Primaries of Redis that are known.
    pub primaries: usize,
    /// Of these, how many have an open circuit breaker.
    pub breakers_open: usize,
    /// How often a breaker opened; of primaries that are gone it is forgotten.
    pub breaker_opened: u64,
}

/// What the last contact with L2 said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No contact yet since start.
    Connecting,
    /// It answers.
    Up,
    /// It does not; for people.
    Down(String),
}

/// What has changed below, told to the cache. Called in the order of the changes: implementations neither wait nor block.
pub trait ChangeSink: Send + Sync + 'static {
    /// The key changed or went: drop its copy, void its lease.
    fn invalidated(&self, key: &[u8]);
    /// All of this source may have changed (FLUSHALL, a push without keys, slots that came or went): one step of the
    /// `data` counter.
    fn flushed(&self, source: Source);
    /// A ban was opened: no copy of a matching key that was made before may be answered.
    fn banned(&self, ban: &Arc<Ban>);
}

/// What Redis's invalidation links tell the cache beside changes: how far these can be relied upon. Called in wire order.
pub trait InvalidationSink: ChangeSink {
    /// From now on every change of this source is told. What was read from it before may not be kept.
    fn listening(&self, source: Source);
    /// The source's link is lost or no longer trusted: its fence closes and the `link` counter steps.
    fn lost(&self, source: Source, why: &str);
    /// Copies may be answered until `until` (the fence), as the heartbeat has shown.
    fn proven(&self, source: Source, until: Tick);
    /// The source refuses to announce changes, by name; L1 stays closed for it, unless it may go by age alone.
    fn refused(&self, source: Source, why: &str);
    /// The source is not the one that sees every change when it happens; L1 stays closed for it.
    fn not_primary(&self, source: Source, why: &str);
    /// The source is no more.
    fn gone(&self, source: Source);
}

/// What a reload may change under a running backend.
#[derive(Debug)]
pub struct Tunables {
    read_ms: AtomicU64,
    write_ms: AtomicU64,
    value_max: AtomicU64,
}

impl Tunables {
    /// Deadlines, and the most bytes of a value.
    #[must_use]
    pub fn new(deadlines: Deadlines, value_max: u64) -> Arc<Self> {
        let tunables = Self { read_ms: AtomicU64::new(0), write_ms: AtomicU64::new(0), value_max: AtomicU64::new(0) };
        tunables.set(deadlines, value_max);
        Arc::new(tunables)
    }

    /// Takes effect with the next call.
    pub fn set(&self, deadlines: Deadlines, value_max: u64) {
        self.read_ms.store(millis(deadlines.read), Relaxed);
        self.write_ms.store(millis(deadlines.write), Relaxed);
        self.value_max.store(value_max, Relaxed);
    }

    /// Deadlines of today.
    #[must_use]
    pub fn deadlines(&self) -> Deadlines {
        let of = |ms: &AtomicU64| Duration::from_millis(ms.load(Relaxed));
        Deadlines { read: of(&self.read_ms), write: of(&self.write_ms) }
    }

    /// Most bytes of a value, today.
    #[must_use]
    pub fn value_max(&self) -> usize {
        usize::try_from(self.value_max.load(Relaxed)).unwrap_or(usize::MAX)
    }
}
