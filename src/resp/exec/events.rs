//! Keyspace events as Redis names them, and Terrace's own channels.
//!
//! Writes through this node go to `__keyspace@0__:<key>` (message: the event) and `__keyevent@0__:<event>` (message: the
//! key), on whatever port they came; what Redis announces as changed, by whomever, to `__terrace__:invalidated`. They
//! cost nothing while nobody listens.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::{
    cache::events::Event,
    model::RESERVED_PREFIX,
    resp::{Shared, command::Row},
};

/// Where changes that Redis announces go.
const INVALIDATED: &[u8] = b"__terrace__:invalidated";
/// Where tags go whose entries may be gone.
const TAG: &[u8] = b"__terrace__:tag";
/// The letters of `notify-keyspace-events` that name kinds of events.
const KINDS: &str = "g$lshzxetdmnA";

/// What is sent, as `notify-keyspace-events` says; all of it by default, because nothing is made for no listener.
#[derive(Debug)]
pub(in crate::resp) struct Wanted {
    keyspace: AtomicBool,
    keyevent: AtomicBool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { keyspace: AtomicBool::new(true), keyevent: AtomicBool::new(true) }
    }
}

impl Wanted {
    /// As CONFIG GET shows it.
    pub(in crate::resp) fn show(&self) -> String {
        let letters = [(self.keyspace.load(Relaxed), "K"), (self.keyevent.load(Relaxed), "E")];
        let chosen: String = letters.iter().filter_map(|(on, letter)| on.then_some(*letter)).collect();
        if chosen.is_empty() { chosen } else { format!("A{chosen}") }
    }

    /// Takes letters as Redis does. Kinds are not told apart: any of them turns events on.
    pub(in crate::resp) fn set(&self, letters: &[u8]) -> bool {
        let known = |letter: &u8| matches!(letter, b'K' | b'E') || KINDS.as_bytes().contains(letter);
        if !letters.iter().all(known) {
            return false;
        }
        let any = letters.iter().any(|letter| KINDS.as_bytes().contains(letter));
        self.keyspace.store(any && letters.contains(&b'K'), Relaxed);
        self.keyevent.store(any && letters.contains(&b'E'), Relaxed);
        true
    }
}

impl Shared {
    /// Sends an event of the facade to who listens. Never waits.
    pub fn hear(&self, event: Event<'_>) {
        match event {
            Event::Wrote { name, key } => self.wrote(name, key),
            Event::Invalidated(key) if !key.starts_with(RESERVED_PREFIX) => {
                self.hub.publish(INVALIDATED, key);
            }
            Event::Invalidated(_) => {}
            Event::Tag(name) => {
                self.hub.publish(TAG, name);
            }
            Event::Flushed => {
                self.hub.publish(b"__terrace__:flushed", b"");
            }
        }
    }

    fn wrote(&self, name: &str, key: &[u8]) {
        if self.events.keyspace.load(Relaxed) {
            self.hub.publish(&[b"__keyspace@0__:", key].concat(), name.as_bytes());
        }
        if self.events.keyevent.load(Relaxed) {
            self.hub.publish(&[b"__keyevent@0__:", name.as_bytes()].concat(), key);
        }
    }
}

/// Channels that only this process speaks on.
pub(super) fn is_local(channel: &[u8]) -> bool {
    [&b"__keyspace@"[..], b"__keyevent@", b"__terrace__:"].iter().any(|prefix| channel.starts_with(prefix))
}

/// The event of a command that passes through: its name, but for those whose effect has another.
pub(super) fn name_of(row: &Row) -> &'static str {
    match row.name {
        "lpushx" => "lpush",
        "rpushx" => "rpush",
        "blpop" => "lpop",
        "brpop" => "rpop",
        "hmset" | "hsetnx" => "hset",
        "bzpopmin" => "zpopmin",
        "bzpopmax" => "zpopmax",
        "zincrby" => "zincr",
        "hincrby" => "hincrby",
        "sort" => "sortstore",
        "bitop" => "set",
        "bitfield" => "setbit",
        "pfmerge" => "pfadd",
        "geoadd" => "zadd",
        name => name.split('|').next_back().unwrap_or(name),
    }
}
