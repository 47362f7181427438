//! [`BanLog`]: the state of the ban log that this process knows, shared by its workers.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ::redis::Value as Reply;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::{
    mark::{LOADS, Mark, MarkState},
    records::{GREATEST, LOG, number},
};
use crate::{
    clock::{Clock, Tick},
    error::{CacheError, Result},
    glob::Glob,
    l2::{
        Ban, FENCE_SPAN, InvalidationSink,
        bans::OpenBans,
        redis::command::{errors, ops},
    },
};

/// Maximum number of closed bans that this node remembers, to check the fills of load leases.
const SEEN_BANS_MAX: usize = 1_024;

/// The known state of the ban log, shared by all workers.
#[derive(Default)]
pub(crate) struct BanLog {
    pub(crate) open: OpenBans,
    pub(crate) clock: Clock,
    /// Greatest ban number in the log at the last read.
    known: AtomicU64,
    /// Greatest ban number seen in any reply; `known` never exceeds it.
    greatest_seen: AtomicU64,
    /// Number of signs that the log has changed.
    pub(crate) changes: AtomicU64,
    /// Value of `changes` at the start of the last successful read.
    pub(crate) seen: AtomicU64,
    /// [`Tick`] at which the known state was proven to be current.
    proven: AtomicU64,
    /// Number of completed reads.
    pub(crate) looks: AtomicU64,
    /// Error of the last read.
    pub(crate) reading: AsyncMutex<Option<CacheError>>,
    pub(crate) ring: Notify,
    pub(crate) sink: RwLock<Option<Arc<dyn InvalidationSink>>>,
    loads: Mutex<MarkState>,
    /// Bans that this node has seen, open or not; the latest is last.
    seen_bans: Mutex<VecDeque<Arc<Ban>>>,
}

impl BanLog {
    /// Sets the receiver of new bans.
    pub(crate) fn set_sink(&self, sink: Arc<dyn InvalidationSink>) {
        *self.sink.write() = Some(sink);
    }

    /// Records that the log has changed, or that announcements of changes may have been missed.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.ring.notify_one();
    }

    /// Handles the announcement of a changed key.
    pub(crate) fn key_changed(&self, key: &[u8]) {
        if key == LOG {
            self.changed();
        }
    }

    /// Records a ban number seen in a reply.
    pub(crate) fn saw(&self, number: u64) {
        if self.greatest_seen.fetch_max(number, Ordering::AcqRel) < number && number > self.known() {
            self.changed();
        }
    }

    pub(crate) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    pub(crate) fn greatest_seen(&self) -> u64 {
        self.greatest_seen.load(Ordering::Acquire)
    }

    /// Returns true if all announced changes have been read.
    pub(crate) fn is_read(&self) -> bool {
        self.seen.load(Ordering::Acquire) == self.changes.load(Ordering::Acquire)
    }

    /// Records that all changes before `at` have been announced.
    pub(crate) fn prove(&self, at: Tick) {
        if self.is_read() {
            self.proven.fetch_max(at.0, Ordering::AcqRel);
        }
    }

    /// Returns the time at which the known state was last proven to be current.
    pub(crate) fn proven(&self) -> Tick {
        Tick(self.proven.load(Ordering::Acquire))
    }

    /// Returns true if calls may use the known state. Without invalidation links, a state that was read once stays
    /// current until the reply of a pipeline contradicts it.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        let proven = self.proven();
        let is_fresh = || self.clock.now() < proven.plus(FENCE_SPAN) || self.sink.read().is_none();
        self.is_read() && proven != Tick::ZERO && is_fresh()
    }

    /// Stores the contents of the log that was read at `at`, after `changes` signs. Returns `false` if the log lost
    /// records.
    pub(crate) fn take(&self, contents: LogContents, at: Tick, changes: u64) -> bool {
        if contents.greatest < self.greatest_seen() {
            return false;
        }
        let new = self.open.replace(contents.open);
        // Order matters: `known` must never exceed `greatest_seen`.
        self.greatest_seen.fetch_max(contents.greatest, Ordering::AcqRel);
        self.known.store(contents.greatest, Ordering::Release);
        self.remember(&new);
        // A node that is not notified of changes cannot know that there is no mark.
        let lapsed = at >= self.proven().plus(FENCE_SPAN) || self.sink.read().is_none();
        self.loads.lock().take(contents.mark, at, lapsed);
        if let Some(sink) = &*self.sink.read() {
            new.iter().for_each(|ban| sink.banned(ban));
        }
        self.seen.fetch_max(changes, Ordering::AcqRel);
        self.prove(at);
        true
    }
}

impl BanLog {
    /// Returns the mark of load leases.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.loads.lock().mark
    }

    /// Returns the mark of load leases, and the time at which this node first read it.
    pub(crate) fn mark_since(&self) -> Option<(Mark, Tick)> {
        let loads = self.loads.lock();
        loads.mark.map(|mark| (mark, loads.known_since))
    }

    /// Returns whether a write must remove the load lease of its key.
    pub(crate) fn must_forget_loads(&self) -> bool {
        !self.is_current() || self.loads.lock().must_forget(self.clock.now())
    }

    fn remember(&self, new: &[Arc<Ban>]) {
        let mut seen = self.seen_bans.lock();
        seen.extend(new.iter().cloned());
        let surplus = seen.len().saturating_sub(SEEN_BANS_MAX);
        seen.drain(..surplus);
    }

    /// Returns whether a ban with a number above `since`, up to `until`, may cover the key. A ban that this node does not
    /// know counts as covering.
    pub(crate) fn may_cover(&self, key: &[u8], since: u64, until: u64) -> bool {
        if since >= until {
            return false;
        }
        let is_between = |number: u64| since < number && number <= until;
        let mut known = u64::from(self.mark().is_some_and(|mark| is_between(mark.number)));
        let seen = self.seen_bans.lock();
        for ban in seen.iter().filter(|ban| is_between(ban.number)) {
            if ban.matches(key) {
                return true;
            }
            known += 1;
        }
        known < until - since
    }
}

/// Contents of the log.
#[derive(Debug, Default)]
pub(crate) struct LogContents {
    greatest: u64,
    open: Vec<Arc<Ban>>,
    pub(crate) mark: Option<Mark>,
}

impl LogContents {
    /// Decodes the RESP2 reply of HGETALL. Fields that Terrace did not write are ignored.
    pub(crate) fn of(reply: Reply) -> Result<Self> {
        let Reply::Array(flat) = ops::checked(reply)? else { return Err(errors::unexpected("HGETALL")) };
        let mut flat = flat.into_iter();
        let mut contents = Self::default();
        while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
            let (Reply::BulkString(field), Reply::BulkString(value)) = (field, value) else { continue };
            if field == GREATEST.as_bytes() {
                contents.greatest = number(&value).unwrap_or(0);
            } else if field == LOADS.as_bytes() {
                contents.mark = Mark::of(&value);
            } else if let (Some(number), Ok(glob)) = (number(&field), Glob::new(&value)) {
                contents.open.push(Arc::new(Ban { number, glob }));
            }
        }
        Ok(contents)
    }
}

/// The ban state that a call uses.
pub(crate) struct Known {
    /// Bans that were open at the beginning of the call, if any.
    pub(crate) open: Option<Arc<Vec<Arc<Ban>>>>,
    /// Greatest known ban number at the beginning of the call.
    pub(crate) greatest: u64,
}

impl Known {
    pub(crate) fn open(&self) -> &[Arc<Ban>] {
        self.open.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl std::fmt::Debug for BanLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BanLog").field("known", &self.known).field("open", &self.open).finish_non_exhaustive()
    }
}
