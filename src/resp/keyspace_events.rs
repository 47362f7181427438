//! Keyspace events with the names of Redis, and channels of Terrace.
//!
//! Writes through this node, on any port, publish to `__keyspace@0__:<key>` (message: the event) and
//! `__keyevent@0__:<event>` (message: the key). Changes that Redis announces, by any writer, publish to
//! `__terrace__:invalidated`. Events cost nothing without subscribers.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Letters of `notify-keyspace-events` in the order in which Redis shows them. The bit of a letter is its position.
const LETTERS: &[u8] = b"g$lshzxetdKEmn";
/// Letters that `A` stands for: all event classes except `m` (misses) and `n` (new keys).
const ALL: &[u8] = b"g$lshzxetd";

/// Returns the bits of letters; 0 for a letter that Redis does not know.
fn bits(letters: &[u8]) -> u32 {
    letters
        .iter()
        .filter_map(|letter| LETTERS.iter().position(|known| known == letter))
        .fold(0, |bits, at| bits | 1 << at)
}

/// Keyspace events selected by `notify-keyspace-events`. All are enabled by default, because events without subscribers
/// are not created.
#[derive(Debug)]
pub(super) struct EventSelection {
    bits: AtomicU32,
}

impl Default for EventSelection {
    fn default() -> Self {
        Self { bits: AtomicU32::new(bits(ALL) | bits(b"KE")) }
    }
}

impl EventSelection {
    /// Returns the value for CONFIG GET. Redis 7.0 does not show `n`.
    pub(super) fn show(&self) -> String {
        let chosen = self.bits.load(Relaxed);
        let has_all = chosen & bits(ALL) == bits(ALL);
        let shown = LETTERS.iter().filter(|letter| {
            let bit = bits(&[**letter]);
            chosen & bit != 0 && **letter != b'n' && !(has_all && bits(ALL) & bit != 0)
        });
        let letters: String = shown.map(|letter| char::from(*letter)).collect();
        if has_all { format!("A{letters}") } else { letters }
    }

    /// Selects events by the letters of Redis. Returns `false` for an unknown letter.
    pub(super) fn set(&self, letters: &[u8]) -> bool {
        if !letters.iter().all(|letter| *letter == b'A' || LETTERS.contains(letter)) {
            return false;
        }
        let all = if letters.contains(&b'A') { bits(ALL) } else { 0 };
        self.bits.store(bits(letters) | all, Relaxed);
        true
    }

    /// Returns whether an event is published per key, and per event.
    pub(super) fn channels_of(&self, event: &str) -> (bool, bool) {
        let chosen = self.bits.load(Relaxed);
        let is_chosen = chosen & bits(&[class_of(event)]) != 0;
        (is_chosen && chosen & bits(b"K") != 0, is_chosen && chosen & bits(b"E") != 0)
    }
}

/// Returns the letter of an event's class, as in the calls of `notifyKeyspaceEvent` of Redis 7.0.
fn class_of(event: &str) -> u8 {
    match event {
        "expired" => b'x',
        "evicted" => b'e',
        "new" => b'n',
        "set" | "setrange" | "append" | "incrby" | "incrbyfloat" | "setbit" | "pfadd" => b'$',
        "sortstore" => b'l',
        "sadd" | "srem" | "spop" | "sinterstore" | "sunionstore" | "sdiffstore" => b's',
        "del" | "expire" | "persist" | "restore" | "rename_from" | "rename_to" | "copy_to" | "move_from"
        | "move_to" => b'g',
        "georadiusstore" | "geosearchstore" => b'z',
        _ => match event.as_bytes().first() {
            Some(b'l' | b'r') => b'l',
            Some(b'h') => b'h',
            Some(b'z') => b'z',
            Some(b'x') => b't',
            _ => b'g',
        },
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
