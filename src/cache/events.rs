//! What happens to keys, for those who listen: writes through this node, and changes that Redis announces.
//!
//! The facade cannot know who listens; the RESP edge sets the one ear, and the [`feed`](super::feed) records while anybody
//! follows it. While nobody listens an event costs one load.

use std::sync::{
    OnceLock,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use bytes::Bytes;

use super::{
    Core,
    feed::{Cause, Change, Feed, Gap, RECORDS},
    op::{Applied, NewExpiry, Op, SetExpiry},
};
use crate::{
    error::Result,
    model::{Key, RESERVED_PREFIX},
};

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A write through this node took effect; its name is that of Redis's keyspace events.
    Wrote {
        /// `set`, `del`, `expire` ...
        name: &'a str,
        /// The key.
        key: &'a [u8],
    },
    /// Redis announced that the key changed, whoever changed it.
    Invalidated(&'a [u8]),
    /// A tag was invalidated, through whatever node, or first used, or its id renewed: its entries may be gone.
    Tag(&'a [u8]),
    /// Everything may have changed.
    Flushed,
}

type Ear = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// The bit of `wanted` that says that the ear wants to hear.
const EAR: u8 = 1;

/// The ear and the feed, and which of them want to hear.
#[derive(Default)]
pub struct Events {
    wanted: AtomicU8,
    ear: OnceLock<Ear>,
    feed: Feed,
}

impl Events {
    /// Sets the one ear; a second one is not taken. Called on threads that must not wait.
    pub fn set_ear(&self, ear: impl Fn(Event<'_>) + Send + Sync + 'static) {
        let _second = self.ear.set(Box::new(ear));
    }

    /// From now on the ear hears, or not.
    pub fn want(&self, wanted: bool) {
        if wanted {
            self.wanted.fetch_or(EAR, Relaxed);
        } else {
            self.wanted.fetch_and(!EAR, Relaxed);
        }
    }

    /// Whether anybody listens.
    #[inline]
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        self.wanted.load(Relaxed) != 0
    }

    /// Tells the ear and the feed.
    #[inline]
    pub fn tell(&self, event: Event<'_>) {
        let wanted = self.wanted.load(Relaxed);
        if wanted != 0 {
            self.spread(wanted, event);
        }
    }

    #[cold]
    fn spread(&self, wanted: u8, event: Event<'_>) {
        if wanted & EAR != 0
            && let Some(ear) = self.ear.get()
        {
            ear(event);
        }
        if wanted & RECORDS != 0
            && let Some(change) = change(event)
        {
            self.feed.record(change, &self.wanted);
        }
    }

    /// What is no key's affair: a pattern or a tag was invalidated.
    pub fn record(&self, change: Change) {
        if self.wanted.load(Relaxed) & RECORDS != 0 {
            self.feed.record(change, &self.wanted);
        }
    }

    /// Changes may have been missed.
    pub(super) fn break_off(&self, gap: Gap) {
        if self.wanted.load(Relaxed) & RECORDS != 0 {
            self.feed.break_off(gap, &self.wanted);
        }
    }

    /// The record of changes.
    pub(super) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// See [`Feed::enter`].
    pub(super) fn enter(&self, after: Option<u64>) -> Result<(u64, bool)> {
        self.feed.enter(after, &self.wanted)
    }
}

/// What the feed records of an event.
fn change(event: Event<'_>) -> Option<Change> {
    match event {
        Event::Flushed => Some(Change::All),
        Event::Tag(name) => Some(Change::Tag(Bytes::copy_from_slice(name))),
        Event::Wrote { key, .. } | Event::Invalidated(key) if key.starts_with(RESERVED_PREFIX) => None,
        Event::Wrote { name, key } => Some(Change::Key(Bytes::copy_from_slice(key), cause(name))),
        Event::Invalidated(key) => Some(Change::Key(Bytes::copy_from_slice(key), Cause::Unknown)),
    }
}

fn cause(name: &str) -> Cause {
    match name {
        "del" | "rename_from" => Cause::Deleted,
        "expire" | "persist" => Cause::Lifetime,
        _ => Cause::Written,
    }
}

/// What to tell of operations once they are applied; empty while nobody listens.
pub(super) struct Told(Vec<(Key, Names)>);

/// Names of the events of one operation: if it took effect, and after that.
type Names = (&'static str, Option<&'static str>);

impl Told {
    pub(super) fn of(core: &Core, ops: &[(Key, Op)]) -> Self {
        if !core.events.are_wanted() {
            return Self(Vec::new());
        }
        // Records of Terrace's own are nobody's business.
        let of_clients = ops.iter().filter(|(key, _)| !key.starts_with(RESERVED_PREFIX));
        Self(of_clients.map(|(key, op)| (key.clone(), names(op))).collect())
    }

    pub(super) fn tell(self, core: &Core, results: &[Result<Applied>]) {
        for ((key, (name, then)), result) in self.0.into_iter().zip(results) {
            if !result.as_ref().is_ok_and(took_effect) {
                continue;
            }
            for name in [Some(name), then].into_iter().flatten() {
                core.events.tell(Event::Wrote { name, key: &key });
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

/// Whether an operation changed something.
pub(super) fn took_effect(applied: &Applied) -> bool {
    match applied {
        Applied::Set { stored: done, .. }
        | Applied::Deleted { existed: done, .. }
        | Applied::Expired { applied: done, .. } => *done,
        Applied::Number(_) | Applied::Decimal(_) | Applied::Length(_) => true,
    }
}
