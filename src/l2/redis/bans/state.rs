//! [`BanLog`]: the state of the ban log that this process knows, shared by its workers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ::redis::Value as Reply;
use parking_lot::RwLock;
use tokio::sync::{Mutex, Notify};

use super::records::{GREATEST, LOG, number};
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
    pub(crate) reading: Mutex<Option<CacheError>>,
    pub(crate) ring: Notify,
    pub(crate) sink: RwLock<Option<Arc<dyn InvalidationSink>>>,
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
        if let Some(sink) = &*self.sink.read() {
            new.iter().for_each(|ban| sink.banned(ban));
        }
        self.seen.fetch_max(changes, Ordering::AcqRel);
        self.prove(at);
        true
    }
}

/// Contents of the log.
#[derive(Debug, Default)]
pub(crate) struct LogContents {
    greatest: u64,
    open: Vec<Arc<Ban>>,
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
