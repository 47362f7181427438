//! State that all threads of the store share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::{cursors::Cursors, disk::table::Table};
use crate::{
    clock::Clock,
    l2::{ChangeSink, State, Tunables, bans::OpenBans, loads::local::LocalLoads},
};

/// State shared by all threads of the store.
pub(super) struct StoreState {
    pub(super) clock: Clock,
    pub(super) tunables: Arc<Tunables>,
    pub(super) sink: Arc<dyn ChangeSink>,
    /// `None` while a failed table is not open again.
    pub(super) table: ArcSwapOption<Table>,
    pub(super) cursors: Mutex<Cursors>,
    pub(super) bans: OpenBans,
    pub(super) loads: Arc<LocalLoads>,
    pub(super) state: Mutex<State>,
    pub(super) counters: Counters,
    pub(super) size_max: u64,
    pub(super) sync_always: bool,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) entries: AtomicU64,
    /// Number of Terrace's own records among the entries.
    pub(super) own: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Lower bound of the numbers in order rows.
    pub(super) oldest: AtomicU64,
    /// Exclusive upper bound of the numbers in order rows.
    pub(super) next_written: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) slow_reads: AtomicU64,
    /// Score of recent slow reads; see `reader`.
    pub(super) slow_score: AtomicU64,
    /// Time in [`stopwatch_ns`](crate::clock::stopwatch_ns) until which reads use the pool.
    pub(super) slow_until_ns: AtomicU64,
    /// Number of damaged pieces of the files that were found and removed.
    pub(super) damage: AtomicU64,
    /// Number of clears that wait for the writer.
    pub(super) clears_waiting: AtomicUsize,
    /// True while the writer's thread rebuilds the table.
    pub(super) rebuilding: AtomicBool,
    /// True if a commit happened since the last sync.
    pub(super) dirty: AtomicBool,
}
