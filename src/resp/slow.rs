//! Slow commands: SLOWLOG entries and LATENCY events. Both are bounded and configured with CONFIG SET.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use super::{client_state::Client, frame::Args, monitors};
use crate::clock::UnixMs;

/// Maximum number of arguments in a SLOWLOG entry.
const ARGUMENTS_MAX: usize = 32;
/// Maximum size of an argument in a SLOWLOG entry.
const ARGUMENT_MAX_BYTES: usize = 128;
/// Maximum size of a client name in a SLOWLOG entry.
const NAME_MAX_BYTES: usize = 64;
/// Maximum memory of all SLOWLOG entries in bytes. The oldest entries are removed first.
const ENTRIES_MAX_BYTES: usize = 8 << 20;
/// SLOWLOG: default threshold in µs, as in Redis. Negative thresholds disable the log.
const SLOWER_THAN_US: i64 = 10_000;
/// Threshold in µs below which GETs have to be measured one by one. GETs answered from L1 never take this long, so that
/// they are otherwise measured in groups.
const FINE_US: i64 = 1_000;
/// SLOWLOG: default number of entries, as in Redis.
const ENTRIES: u64 = 128;
/// Maximum value of `slowlog-max-len`.
pub(super) const ENTRIES_MAX: u64 = 100_000;
/// LATENCY: number of samples kept per event, as in Redis.
const SAMPLES: usize = 160;

/// A finished command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ran<'r> {
    /// Name in the command table.
    pub(super) name: &'static str,
    /// The command takes constant or logarithmic time.
    pub(super) is_fast: bool,
    pub(super) args: Args<'r>,
    pub(super) us: u64,
}

/// One slow command.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) at: UnixMs,
    pub(super) us: u64,
    pub(super) arguments: Vec<Vec<u8>>,
    pub(super) address: String,
    pub(super) name: Vec<u8>,
}

/// Samples of one LATENCY event: Unix time in seconds and duration in milliseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct LatencyEvent {
    pub(super) samples: VecDeque<(u64, u64)>,
    pub(super) max_ms: u64,
}

/// The entries of SLOWLOG, newest first.
#[derive(Debug, Default)]
struct Entries {
    kept: VecDeque<Entry>,
    bytes: usize,
}

impl Entries {
    fn push(&mut self, entry: Entry, most: usize) {
        self.bytes += entry.bytes();
        self.kept.push_front(entry);
        self.truncate(most);
    }

    fn truncate(&mut self, most: usize) {
        while self.kept.len() > most || self.bytes > ENTRIES_MAX_BYTES {
            let Some(oldest) = self.kept.pop_back() else { return };
            self.bytes -= oldest.bytes();
        }
    }
}

impl Entry {
    /// Returns the approximate memory of the entry in bytes.
    fn bytes(&self) -> usize {
        let arguments: usize = self.arguments.iter().map(|argument| argument.len() + size_of::<Vec<u8>>()).sum();
        size_of::<Self>() + arguments + self.address.len() + self.name.len()
    }
}

/// All slow commands and latency events.
#[derive(Debug)]
pub(super) struct Slow {
    pub(super) slower_than_us: AtomicI64,
    pub(super) entries_max: AtomicU64,
    /// LATENCY: minimum duration of an event in ms; 0 disables events.
    pub(super) latency_ms: AtomicU64,
    next_id: AtomicU64,
    entries: Mutex<Entries>,
    events: Mutex<BTreeMap<&'static str, LatencyEvent>>,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            slower_than_us: AtomicI64::new(SLOWER_THAN_US),
            entries_max: AtomicU64::new(ENTRIES),
            latency_ms: AtomicU64::new(0),
            next_id: AtomicU64::new(0),
            entries: Mutex::default(),
            events: Mutex::default(),
        }
    }
}

impl Slow {
    /// Records a finished command if it was slow. Costs two loads in most cases.
    #[inline]
    pub(super) fn note(&self, ran: Ran<'_>, client: &Client, now: impl Fn() -> UnixMs) {
        let us = ran.us;
        let slower_than = self.slower_than_us.load(Relaxed);
        if u64::try_from(slower_than).is_ok_and(|than| us >= than) && ran.name != "exec" {
            self.keep(ran, client, now());
        }
        let latency_ms = self.latency_ms.load(Relaxed);
        if latency_ms > 0 && us / 1000 >= latency_ms {
            let event = if ran.is_fast { "fast-command" } else { "command" };
            self.sample(event, us / 1000, now());
        }
    }

    /// Returns `true` if SLOWLOG or LATENCY records a command that took `us`.
    #[inline]
    pub(super) fn is_slow(&self, us: u64) -> bool {
        let latency_ms = self.latency_ms.load(Relaxed);
        u64::try_from(self.slower_than_us.load(Relaxed)).is_ok_and(|than| us >= than)
            || latency_ms > 0 && us / 1000 >= latency_ms
    }

    /// Returns `true` if commands shorter than [`FINE_US`] are recorded, so that each has to be measured separately.
    #[inline]
    pub(super) fn is_fine(&self) -> bool {
        (0..FINE_US).contains(&self.slower_than_us.load(Relaxed))
    }

    #[cold]
    fn keep(&self, ran: Ran<'_>, client: &Client, at: UnixMs) {
        let entry = Entry {
            id: self.next_id.fetch_add(1, Relaxed),
            at,
            us: ran.us,
            arguments: shortened(ran.name, ran.args),
            address: client.address.clone(),
            name: client.names.lock().name.iter().copied().take(NAME_MAX_BYTES).collect(),
        };
        let most = usize::try_from(self.entries_max.load(Relaxed)).unwrap_or(usize::MAX);
        self.entries.lock().push(entry, most);
    }

    #[cold]
    fn sample(&self, event: &'static str, ms: u64, at: UnixMs) {
        let mut events = self.events.lock();
        let event = events.entry(event).or_default();
        event.max_ms = event.max_ms.max(ms);
        let second = at.0 / 1000;
        match event.samples.back_mut() {
            // One sample per second, the maximum.
            Some((last, worst)) if *last == second => *worst = (*worst).max(ms),
            Some(_) | None => event.samples.push_back((second, ms)),
        }
        if event.samples.len() > SAMPLES {
            event.samples.pop_front();
        }
    }

    /// Returns the newest entries.
    pub(super) fn newest(&self, count: usize) -> Vec<Entry> {
        self.entries.lock().kept.iter().take(count).cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.lock().kept.len()
    }

    pub(super) fn clear(&self) {
        *self.entries.lock() = Entries::default();
    }

    /// Sets the maximum number of entries and removes excess entries immediately.
    pub(super) fn set_entries_max(&self, most: u64) {
        self.entries_max.store(most, Relaxed);
        self.entries.lock().truncate(usize::try_from(most).unwrap_or(usize::MAX));
    }

    /// Returns all events by name.
    pub(super) fn events(&self) -> BTreeMap<&'static str, LatencyEvent> {
        self.events.lock().clone()
    }

    /// Removes the events with these names, or all, and returns their number.
    pub(super) fn forget(&self, names: &[&[u8]]) -> u64 {
        let mut events = self.events.lock();
        let before = events.len();
        events.retain(|name, _| {
            !names.is_empty() && !names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name.as_bytes()))
        });
        (before - events.len()) as u64
    }
}

fn shortened(name: &str, args: Args<'_>) -> Vec<Vec<u8>> {
    let shown = if args.len() > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { args.len() };
    let mut out: Vec<Vec<u8>> = (0..shown).map(|at| argument(name, args, at)).collect();
    if shown < args.len() {
        out.push(format!("... ({} more arguments)", args.len() - shown).into_bytes());
    }
    out
}

fn argument(name: &str, args: Args<'_>, at: usize) -> Vec<u8> {
    if monitors::is_secret(name, args, at) {
        return b"(redacted)".to_vec();
    }
    let arg = args.at(at);
    match arg.get(..ARGUMENT_MAX_BYTES) {
        Some(head) if arg.len() > ARGUMENT_MAX_BYTES => {
            let mut head = head.to_vec();
            head.extend(format!("... ({} more bytes)", arg.len() - ARGUMENT_MAX_BYTES).bytes());
            head
        }
        Some(_) | None => arg.to_vec(),
    }
}
