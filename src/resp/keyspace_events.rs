//! Keyspace events with the names of Redis, and channels of Terrace.
//!
//! Writes through this node, on any port, publish to `__keyspace@0__:<key>` (message: the event) and
//! `__keyevent@0__:<event>` (message: the key). Changes that Redis announces, by any writer, publish to
//! `__terrace__:invalidated`. Events cost nothing without subscribers.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Letters of `notify-keyspace-events` that select event classes.
const KINDS: &str = "g$lshzxetdmnA";

/// Keyspace events selected by `notify-keyspace-events`. All are enabled by default, because events without subscribers
/// are not created.
#[derive(Debug)]
pub(super) struct EventSelection {
    pub(super) keyspace: AtomicBool,
    pub(super) keyevent: AtomicBool,
}

impl Default for EventSelection {
    fn default() -> Self {
        Self { keyspace: AtomicBool::new(true), keyevent: AtomicBool::new(true) }
    }
}

impl EventSelection {
    /// Returns the value for CONFIG GET.
    pub(super) fn show(&self) -> String {
        let letters = [(self.keyspace.load(Relaxed), "K"), (self.keyevent.load(Relaxed), "E")];
        let chosen: String = letters.iter().filter_map(|(on, letter)| on.then_some(*letter)).collect();
        if chosen.is_empty() { chosen } else { format!("A{chosen}") }
    }

    /// Parses the letters of Redis. Event classes are not distinguished: any of them enables all events. Returns
    /// `false` for an unknown letter.
    pub(super) fn set(&self, letters: &[u8]) -> bool {
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

/// Returns `true` for channels that only this process publishes on.
pub(super) fn is_local(channel: &[u8]) -> bool {
    [&b"__keyspace@"[..], b"__keyevent@", b"__terrace__:"].iter().any(|prefix| channel.starts_with(prefix))
}

/// Returns the event of a command that Redis executes: the command's name, except where Redis names the effect.
pub(super) fn event_of(command: &'static str) -> &'static str {
    match command {
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
