//! [`BanLog`]: the log of bans as this process knows it, shared by its workers.

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

/// The log, as this process knows it; shared by its workers.
#[derive(Default)]
pub(crate) struct BanLog {
    pub(crate) open: OpenBans,
    pub(crate) clock: Clock,
    /// The greatest number that the log said when it was read.
    known: AtomicU64,
    /// The greatest number met anywhere; `known` is never above it.
    heard: AtomicU64,
    /// Steps with each sign that the log has changed.
    pub(crate) changes: AtomicU64,
    /// `changes` as they were when the last look that succeeded was begun.
    pub(crate) seen: AtomicU64,
    /// [`Tick`] when the log was known to be as it is known here.
    proven: AtomicU64,
    /// Looks that have ended.
    pub(crate) looks: AtomicU64,
    /// Why the last one failed.
    pub(crate) reading: Mutex<Option<CacheError>>,
    pub(crate) ring: Notify,
    pub(crate) sink: RwLock<Option<Arc<dyn InvalidationSink>>>,
}

impl BanLog {
    /// Sets the receiver of new bans.
    pub(crate) fn tell(&self, sink: Arc<dyn InvalidationSink>) {
        *self.sink.write() = Some(sink);
    }

    /// Something announced a change of the log, or that changes were missed.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.ring.notify_one();
    }

    /// A key was announced as changed.
    pub(crate) fn hear(&self, key: &[u8]) {
        if key == LOG {
            self.changed();
        }
    }

    /// A number was met.
    pub(crate) fn met(&self, number: u64) {
        if self.heard.fetch_max(number, Ordering::AcqRel) < number && number > self.known() {
            self.changed();
        }
    }

    pub(crate) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    /// Whether all changes that were announced have been read.
    pub(crate) fn is_read(&self) -> bool {
        self.seen.load(Ordering::Acquire) == self.changes.load(Ordering::Acquire)
    }

    /// All changes of before `at` have been announced.
    pub(crate) fn prove(&self, at: Tick) {
        if self.is_read() {
            self.proven.fetch_max(at.0, Ordering::AcqRel);
        }
    }

    /// When the log was last known to be as it is known here.
    pub(crate) fn proven(&self) -> Tick {
        Tick(self.proven.load(Ordering::Acquire))
    }

    /// Whether calls may go by what is known. Where nobody follows the links, what was read once is known until a pipeline
    /// tells otherwise.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        let proven = self.proven();
        let is_fresh = || self.clock.now() < proven.plus(FENCE_SPAN) || self.sink.read().is_none();
        self.is_read() && proven != Tick::ZERO && is_fresh()
    }

    /// Takes what the log said when it was asked at `at`, after `changes` signs; `false` if it is not all that it was.
    pub(crate) fn take(&self, said: Said, at: Tick, changes: u64) -> bool {
        if said.greatest < self.heard() {
            return false;
        }
        let new = self.open.replace(said.open);
        // In this order: what is known has been heard of.
        self.heard.fetch_max(said.greatest, Ordering::AcqRel);
        self.known.store(said.greatest, Ordering::Release);
        if let Some(sink) = &*self.sink.read() {
            new.iter().for_each(|ban| sink.banned(ban));
        }
        self.seen.fetch_max(changes, Ordering::AcqRel);
        self.prove(at);
        true
    }
}

/// What the log says.
#[derive(Debug, Default)]
pub(crate) struct Said {
    greatest: u64,
    open: Vec<Arc<Ban>>,
}

impl Said {
    /// HGETALL's reply in RESP2. A field that nobody of ours wrote is left out.
    pub(crate) fn of(reply: Reply) -> Result<Self> {
        let Reply::Array(flat) = ops::checked(reply)? else { return Err(errors::unexpected("HGETALL")) };
        let mut flat = flat.into_iter();
        let mut said = Self::default();
        while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
            let (Reply::BulkString(field), Reply::BulkString(value)) = (field, value) else { continue };
            if field == GREATEST.as_bytes() {
                said.greatest = number(&value).unwrap_or(0);
            } else if let (Some(number), Ok(glob)) = (number(&field), Glob::new(&value)) {
                said.open.push(Arc::new(Ban { number, glob }));
            }
        }
        Ok(said)
    }
}

/// What a call knows of bans while it runs.
pub(crate) struct Known {
    /// Those that were open when it began, if any.
    pub(crate) open: Option<Arc<Vec<Arc<Ban>>>>,
    /// The greatest number that was known then.
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
