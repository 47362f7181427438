//! Contents of the fake: entries, tags, and the manual clock.
//!
//! Time passes only in [`State::advance`], which removes what has expired. Therefore all contents are valid at any time.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use terrace_proto::{Found, ReadStats, Tier, WatchCause, watch_event::Subject};

use super::{counts::Counts, faults::Faults, feed::Feed, leases::Leases};
use crate::{glob::Glob, operations::to_ms};

/// State of the fake.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Time since the fake was created.
    pub(super) now: Duration,
    pub(super) entries: BTreeMap<Bytes, Stored>,
    /// Ids of the tags in use. An invalidation removes the id.
    tags: HashMap<Bytes, u64>,
    pub(super) leases: Leases,
    pub(super) feed: Feed,
    pub(super) faults: Faults,
    pub(super) counts: Counts,
    pub(super) reads: ReadStats,
    last_id: u64,
}

/// A stored entry.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) value: Bytes,
    /// Sorted.
    pub(super) tags: Vec<Bytes>,
    /// `None`: never.
    pub(super) expires_at: Option<Duration>,
    written_at: Duration,
    hits: u64,
}

/// Metadata that a read returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    Without,
    With,
}

impl Stored {
    /// Returns the remaining TTL.
    pub(super) fn left(&self, now: Duration) -> Option<Duration> {
        self.expires_at.map(|at| at.saturating_sub(now))
    }

    /// Returns the entry as a response has it. Like a server without L2, the fake answers from L1.
    pub(super) fn found(&self, now: Duration, meta: Meta) -> Found {
        let value = Found { value: self.value.clone(), tier: Tier::L1.into(), ..Found::default() };
        if meta == Meta::Without {
            return value;
        }
        Found {
            ttl_ms: self.left(now).map(to_ms),
            // The fake has no policies, so no value of a Get has a stale part.
            fresh_ms: self.left(now).map(to_ms),
            age_ms: Some(to_ms(now.saturating_sub(self.written_at))),
            size: Some(self.value.len() as u64),
            tags: self.tags.clone(),
            l1_hits: Some(self.hits),
            ..value
        }
    }
}

impl State {
    /// Returns a number that was not returned before.
    pub(super) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Moves the clock, and removes what has expired.
    pub(super) fn advance(&mut self, by: Duration) {
        self.now = self.now.saturating_add(by);
        let now = self.now;
        self.entries.retain(|_, entry| entry.expires_at.is_none_or(|at| now < at));
        self.leases.expire(now);
    }

    /// Removes all entries, tags and leases.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.tags.clear();
        self.leases.clear();
        self.feed.push(Subject::Everything(terrace_proto::WatchEverything {}), WatchCause::Unspecified);
    }

    /// Sets all counts to 0.
    pub(super) fn reset_counts(&mut self) {
        (self.counts, self.reads) = (Counts::default(), ReadStats::default());
    }

    /// Reads a key for a user.
    pub(super) fn read(&mut self, key: &[u8], meta: Meta, is_counted: bool) -> Option<Found> {
        let now = self.now;
        let found = self.entries.get_mut(key).map(|entry| {
            entry.hits += u64::from(is_counted);
            entry.found(now, meta)
        });
        if is_counted {
            let count = if found.is_some() { &mut self.reads.hit_l1 } else { &mut self.reads.miss };
            *count += 1;
        }
        found
    }

    /// Stores an entry.
    pub(super) fn put(&mut self, key: &Bytes, value: Bytes, tags: Vec<Bytes>, ttl: Option<Duration>) {
        let expires_at = ttl.map(|ttl| self.now.saturating_add(ttl));
        for tag in &tags {
            self.tag_id(tag);
        }
        let entry = Stored { value, tags, expires_at, written_at: self.now, hits: 0 };
        self.entries.insert(key.clone(), entry);
        self.note(key, WatchCause::Written);
    }

    /// Removes an entry. Returns whether it existed.
    pub(super) fn remove(&mut self, key: &Bytes) -> bool {
        let existed = self.entries.remove(key).is_some();
        if existed {
            self.note(key, WatchCause::Deleted);
        }
        existed
    }

    /// Notes a change of a key.
    pub(super) fn note(&mut self, key: &Bytes, cause: WatchCause) {
        self.feed.push(Subject::Key(key.clone()), cause);
    }

    /// Returns the id of a tag; creates it if the tag is not in use.
    pub(super) fn tag_id(&mut self, tag: &Bytes) -> u64 {
        let id = self.new_id();
        *self.tags.entry(tag.clone()).or_insert(id)
    }

    /// Returns whether tags have these ids.
    pub(super) fn have_ids(&self, tags: &[Bytes], ids: &[u64]) -> bool {
        tags.len() == ids.len() && tags.iter().zip(ids).all(|(tag, id)| self.tags.get(tag) == Some(id))
    }

    /// Removes the entries with a tag, and negative answers. Returns whether the tag was in use.
    pub(super) fn invalidate_tag(&mut self, tag: &Bytes) -> bool {
        self.entries.retain(|_, entry| !entry.tags.contains(tag));
        self.leases.forget_tag(tag);
        self.feed.push(Subject::Tag(tag.clone()), WatchCause::Unspecified);
        self.tags.remove(tag).is_some()
    }

    /// Returns the number of keys that match.
    pub(super) fn count_matching(&self, glob: &Glob) -> u64 {
        self.entries.keys().filter(|key| glob.matches(key)).count() as u64
    }

    /// Removes the entries and leases of keys that match. Returns the number of entries.
    pub(super) fn invalidate_pattern(&mut self, pattern: Bytes, glob: &Glob) -> u64 {
        let removed = self.count_matching(glob);
        self.entries.retain(|key, _| !glob.matches(key));
        self.leases.forget_matching(glob);
        self.feed.push(Subject::Pattern(pattern), WatchCause::Unspecified);
        removed
    }
}
