//! Events about changed keys: writes through this node, and changes that Redis announces.
//!
//! The facade does not know the consumers of events. The RESP port registers the only listener, and the
//! [`feed`](super::feed) records events while it has followers. Without a consumer, an event costs one load.

use std::sync::{
    OnceLock,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use bytes::Bytes;

use super::feed::{Cause, Feed, FeedChange, Gap, RECORDS};
use crate::{
    cache::{
        Core,
        op::{Applied, NewExpiry, Op, SetExpiry},
    },
    error::Result,
    model::{Key, RESERVED_PREFIX},
};

/// One event about changed keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeEvent<'a> {
    /// A write through this node took effect.
    Wrote {
        /// Name of Redis's keyspace event: `set`, `del`, `expire` ...
        name: &'a str,
        /// The key.
        key: &'a [u8],
    },
    /// Redis announced that the key changed; the writer is unknown.
    Invalidated(&'a [u8]),
    /// A tag was invalidated through any node, or first used, or its id was renewed: entries of the tag may be invalid.
    Tag(&'a [u8]),
    /// All keys may have changed.
    Flushed,
}

type Listener = Box<dyn Fn(ChangeEvent<'_>) + Send + Sync>;

/// The bit of `wanted` that is set while the listener receives events.
const LISTENER: u8 = 1;

/// The listener and the feed, and which of them receive events.
#[derive(Default)]
pub struct Events {
    wanted: AtomicU8,
    listener: OnceLock<Listener>,
    feed: Feed,
}

impl Events {
    /// Registers the only listener; a second one is ignored. The listener is called on threads that must not block.
    pub fn set_listener(&self, listener: impl Fn(ChangeEvent<'_>) + Send + Sync + 'static) {
        let _second = self.listener.set(Box::new(listener));
    }

    /// Starts or stops sending events to the listener.
    pub fn set_listening(&self, wanted: bool) {
        if wanted {
            self.wanted.fetch_or(LISTENER, Relaxed);
        } else {
            self.wanted.fetch_and(!LISTENER, Relaxed);
        }
    }

    /// Returns whether the listener or the feed receives events.
    #[inline]
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        self.wanted.load(Relaxed) != 0
    }

    /// Passes an event to the listener and the feed.
    #[inline]
    pub fn emit(&self, event: ChangeEvent<'_>) {
        let wanted = self.wanted.load(Relaxed);
        if wanted != 0 {
            self.deliver(wanted, event);
        }
    }

    #[cold]
    fn deliver(&self, wanted: u8, event: ChangeEvent<'_>) {
        if wanted & LISTENER != 0
            && let Some(listener) = self.listener.get()
        {
            listener(event);
        }
        if wanted & RECORDS != 0
            && let Some(change) = change(event)
        {
            self.feed.record(change, &self.wanted);
        }
    }

    /// Records the invalidation of a pattern or a tag in the feed.
    pub fn record(&self, change: FeedChange) {
        if self.wanted.load(Relaxed) & RECORDS != 0 {
            self.feed.record(change, &self.wanted);
        }
    }

    /// Records in the feed that changes may have been missed.
    pub(in crate::cache) fn break_off(&self, gap: Gap) {
        if self.wanted.load(Relaxed) & RECORDS != 0 {
            self.feed.break_off(gap, &self.wanted);
        }
    }

    /// Returns the change feed.
    pub(in crate::cache) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// See [`Feed::enter`].
    pub(in crate::cache) fn enter(&self, after: Option<u64>) -> Result<(u64, bool)> {
        self.feed.enter(after, &self.wanted)
    }
}

/// Converts an event into the change that the feed records.
fn change(event: ChangeEvent<'_>) -> Option<FeedChange> {
    match event {
        ChangeEvent::Flushed => Some(FeedChange::All),
        ChangeEvent::Tag(name) => Some(FeedChange::Tag(Bytes::copy_from_slice(name))),
        ChangeEvent::Wrote { key, .. } | ChangeEvent::Invalidated(key) if key.starts_with(RESERVED_PREFIX) => None,
        ChangeEvent::Wrote { name, key } => Some(FeedChange::Key(Bytes::copy_from_slice(key), cause(name))),
        ChangeEvent::Invalidated(key) => Some(FeedChange::Key(Bytes::copy_from_slice(key), Cause::Unknown)),
    }
}

fn cause(name: &str) -> Cause {
    match name {
        "del" | "rename_from" => Cause::Deleted,
        "expire" | "persist" => Cause::Lifetime,
        _ => Cause::Written,
    }
}

/// Events of operations that are not applied yet; empty without a consumer.
pub(in crate::cache) struct PendingEvents(Vec<(Key, Names)>);

/// Names of the events of an operation that takes effect: the first, and the second if there is one.
type Names = (&'static str, Option<&'static str>);

impl PendingEvents {
    pub(in crate::cache) fn of(core: &Core, ops: &[(Key, Op)]) -> Self {
        if !core.events.has_listeners() {
            return Self(Vec::new());
        }
        // Terrace's internal records are not reported.
        let of_clients = ops.iter().filter(|(key, _)| !key.starts_with(RESERVED_PREFIX));
        Self(of_clients.map(|(key, op)| (key.clone(), names(op))).collect())
    }

    pub(in crate::cache) fn emit(self, core: &Core, results: &[Result<Applied>]) {
        for ((key, (name, then)), result) in self.0.into_iter().zip(results) {
            if !result.as_ref().is_ok_and(took_effect) {
                continue;
            }
            for name in [Some(name), then].into_iter().flatten() {
                core.events.emit(ChangeEvent::Wrote { name, key: &key });
            }
        }
    }
}

fn names(op: &Op) -> Names {
    match op {
        Op::Set { expiry: SetExpiry::In(_) | SetExpiry::At(_), .. } => ("set", Some("expire")),
        Op::Set { expiry: SetExpiry::Never | SetExpiry::Keep { .. }, .. } => ("set", None),
        Op::Delete { .. } | Op::Bury { .. } => ("del", None),
        Op::Expire { expiry: NewExpiry::Never, .. } => ("persist", None),
        Op::Expire { .. } => ("expire", None),
        Op::Increment { .. } => ("incrby", None),
        Op::IncrementFloat { .. } => ("incrbyfloat", None),
        Op::Append { .. } => ("append", None),
        Op::SetRange { .. } => ("setrange", None),
    }
}

/// Returns whether an operation changed something.
pub(in crate::cache) fn took_effect(applied: &Applied) -> bool {
    match applied {
        Applied::Set { stored: done, .. }
        | Applied::Deleted { existed: done, .. }
        | Applied::Expired { applied: done, .. } => *done,
        Applied::Number(_) | Applied::Decimal(_) | Applied::Length(_) => true,
    }
}
