//! `terrace simulate`: plays a trace through L1 alone, in this process, and prints the miss ratio: a capacity planner
//! that needs no server.
//!
//! Time is the trace's. All sizes and policies are played in one pass, each through an L1 of its own with fixed seeds:
//! the same trace gives the same figures.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::ValueEnum;
use hashbrown::HashMap;
use serde_json::json;

use super::{
    Failure, Format, Result, say,
    trace::{Request, Trace, TraceError},
};
use crate::{
    clock::Tick,
    l1::{Epoch, Fill, Filled, L1, Leased, PolicyKind, Settings, Token},
    learn::{intervals, intervals::Intervals, recorder::Happened, recorder::Sample, shape::Shapes},
    model::Key,
};
use ttl::{Ledger, Tuner};

mod plot;
mod ttl;

/// Play a trace through L1 alone and print its miss ratio.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The trace: lines of timestamp_seconds,key,size[,ttl[,caller]], plain or zstd.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
    /// Capacities in entries, each of which weighs 1: numbers, or percentages of the trace's unique keys.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = entries, required_unless_present = "l1_size")]
    entries: Vec<Capacity>,
    /// Capacities in bytes, entries with their real weight: sizes, or percentages of the bytes of the unique keys.
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = bytes)]
    l1_size: Vec<Capacity>,
    /// What goes when room is needed.
    #[arg(long, value_name = "POLICY,...", value_delimiter = ',', value_enum, default_value = "learned")]
    l1_policy: Vec<Policy>,
    /// Which expiry entries get: none, the trace's, one for all in seconds, or what a server with ttl = "tune" would learn.
    ///
    /// With anything but ignore, the result also tells the share of requests that were answered later than the TTL recorded
    /// with the value (stale), and for how long how many bytes were held.
    #[arg(long, value_name = "ignore|recorded|tune|SECONDS", value_parser = ttl, default_value = "ignore")]
    ttl: Ttl,
    /// TTL that requests without one are taken to have recorded; without it theirs never ends.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    ttl_none: Option<u64>,
    /// Shortest TTL of --ttl tune, and what entries get before enough is known; as learn.ttl_min.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "5")]
    ttl_min: u64,
    /// Shards of L1; as many as the server would use unless given.
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Also draw the miss-ratio curve.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// As the command line names policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// What is least worth keeping, as learned from the traffic itself.
    Learned,
    /// The least recently used goes.
    Lru,
}

impl Policy {
    fn kind(self) -> PolicyKind {
        match self {
            Self::Learned => PolicyKind::Learned,
            Self::Lru => PolicyKind::Lru,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Lru => "lru",
        }
    }
}

/// Where expiries come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ttl {
    Ignore,
    Recorded,
    Tune,
    Fixed(u64),
}

/// A capacity, as given.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Capacity {
    Exact(u64),
    Percent(f64),
}

/// A capacity in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Entries(u64),
    Bytes(u64),
}

/// One L1 that the trace goes through.
struct Run {
    policy: Policy,
    room: Room,
    l1: L1,
    epoch: Option<Epoch>,
    requests: u64,
    misses: u64,
    ledger: Ledger,
}

/// What the whole trace holds: needed for percentages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Census {
    keys: u64,
    bytes: u64,
}

/// Seed of every simulated L1.
const SEED: u64 = 7;
/// Trace time 0 as a tick, which is never 0.
const START_MS: u64 = 1;
/// Largest value that is kept in simulated memory, bytes. Terrace's own bound is far below.
const VALUE_MAX_BYTES: u64 = 64 << 20;

pub(super) fn run(args: Args) -> Result {
    let runs = simulate(&args)?;
    let name = Trace::name(&args.trace);
    match args.format {
        Format::Text => print_table(&name, &runs),
        Format::Json => runs.iter().for_each(|run| say(run.json(&name))),
    }
    if let Some(path) = &args.plot {
        let drawing = plot::draw(&name, &runs);
        std::fs::write(path, drawing).map_err(|error| Failure::new(format_args!("{}: {error}", path.display())))?;
    }
    Ok(())
}

fn simulate(args: &Args) -> Result<Vec<Run>> {
    let is_relative = args.entries.iter().chain(&args.l1_size).any(|capacity| matches!(capacity, Capacity::Percent(_)));
    let census = if is_relative { census(&args.trace)? } else { Census::default() };
    let entries = args.entries.iter().map(|capacity| Room::Entries(capacity.of(census.keys)));
    let sizes = args.l1_size.iter().map(|capacity| Room::Bytes(capacity.of(census.bytes)));
    let rooms: Vec<Room> = entries.chain(sizes).collect();
    let policies = args.l1_policy.iter();
    let mut runs: Vec<Run> =
        policies.flat_map(|&policy| rooms.iter().map(move |&room| Run::new(policy, room, args.shards))).collect();
    let tuner = Tuner::new(args.ttl_min);
    let (ttl, ttl_none) = (args.ttl, args.ttl_none);
    let mut played = Playback { ttl, ttl_none, tuner, zeros: Bytes::new(), now: Tick(START_MS) };
    for request in Trace::open(&args.trace).map_err(Failure::new)? {
        played.play(&request.map_err(Failure::new)?, &mut runs);
    }
    Ok(runs)
}

/// Counts unique keys, and their bytes at each key's largest size.
fn census(path: &Path) -> Result<Census> {
    let mut largest: HashMap<Vec<u8>, u64> = HashMap::new();
    let all: std::result::Result<(), TraceError> = Trace::open(path).map_err(Failure::new)?.try_for_each(|request| {
        let Request { key, size, .. } = request?;
        largest.entry(key).and_modify(|known| *known = size.max(*known)).or_insert(size);
        Ok(())
    });
    all.map_err(Failure::new)?;
    Ok(Census { keys: largest.len() as u64, bytes: largest.values().sum() })
}

/// What is the same for all runs.
struct Playback {
    ttl: Ttl,
    ttl_none: Option<u64>,
    tuner: Tuner,
    /// As many zeros as the largest value so far.
    zeros: Bytes,
    now: Tick,
}

impl Playback {
    fn play(&mut self, request: &Request, runs: &mut [Run]) {
        // Time never goes back, even where a trace is not in order.
        self.now = self.now.max(Tick(START_MS + request.at_ms));
        let ttl_ms = match self.ttl {
            Ttl::Ignore => None,
            Ttl::Recorded => request.ttl_ms.or(self.ttl_none),
            Ttl::Fixed(ms) => Some(ms),
            Ttl::Tune => Some(self.tuner.ttl_ms(&request.key, self.now)),
        };
        let recorded_ms = request.ttl_ms.or(self.ttl_none);
        let expires_at = ttl_ms.map_or(Tick::FAR, |ms| Tick(self.now.0 + ms));
        let key = Key::copied(&request.key).ok();
        for run in runs {
            let value = match run.room {
                Room::Entries(_) => Some(Bytes::new()),
                Room::Bytes(_) => self.value(request.size),
            };
            // What Terrace does not take is a miss each time.
            let copy = key
                .as_ref()
                .zip(value)
                .map(|(key, value)| (key, Fill { value: value.into(), expires_at, deadline: expires_at, group: 0 }));
            let hit = run.request(copy, self.now);
            if self.ttl != Ttl::Ignore {
                run.ledger.note(request, hit, self.now, expires_at, recorded_ms);
            }
        }
    }

    fn value(&mut self, size: u64) -> Option<Bytes> {
        let size = usize::try_from(size).ok().filter(|&size| size as u64 <= VALUE_MAX_BYTES)?;
        if self.zeros.len() < size {
            self.zeros = vec![0; size.next_power_of_two()].into();
        }
        Some(self.zeros.slice(..size))
    }
}

impl Run {
    fn new(policy: Policy, room: Room, shards: Option<usize>) -> Self {
        let (capacity_bytes, max_entries) = match room {
            Room::Entries(entries) => (u64::MAX, Some(entries)),
            Room::Bytes(bytes) => (bytes, None),
        };
        let settings = Settings { capacity_bytes, max_entries, policy: policy.kind() };
        let l1 = match shards {
            Some(shards) => L1::with_shards(settings, shards, Some(SEED)),
            None => L1::seeded(settings, SEED),
        };
        let epoch = l1.begin(Tick::FAR);
        Self { policy, room, l1, epoch, requests: 0, misses: 0, ledger: Ledger::default() }
    }

    /// One read: get, and on a miss insert. Says whether it was a hit.
    fn request(&mut self, copy: Option<(&Key, Fill)>, now: Tick) -> bool {
        self.requests += 1;
        let Some((key, fill)) = copy else {
            self.misses += 1;
            return false;
        };
        if self.l1.get(key, now, true).is_some() {
            return true;
        }
        self.misses += 1;
        let token = Token(self.requests);
        if matches!(self.l1.lease(key, token, now, self.epoch, false), Leased::Lead) {
            // A value over an eighth of L1 is not kept, as on a server.
            let _kept: Filled = self.l1.fill(key, token, fill, now);
        }
        false
    }

    fn miss_ratio(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.misses as f64 / self.requests as f64 }
    }

    /// Requests that were answered later than the TTL that was recorded with the value.
    fn stale_ratio(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.ledger.stale() as f64 / self.requests as f64 }
    }

    fn json(&self, trace: &str) -> serde_json::Value {
        let (unit, amount) = self.room.parts();
        let mut line = json!({ "trace": trace, "policy": self.policy.name() });
        line[unit] = amount.into();
        line["requests"] = self.requests.into();
        line["misses"] = self.misses.into();
        line["miss_ratio"] = self.miss_ratio().into();
        if self.ledger.is_kept() {
            line["stale_ratio"] = self.stale_ratio().into();
            line["byte_seconds"] = self.ledger.byte_seconds().into();
        }
        line
    }
}

impl Room {
    /// Unit and amount.
    fn parts(self) -> (&'static str, u64) {
        match self {
            Self::Entries(entries) => ("entries", entries),
            Self::Bytes(bytes) => ("bytes", bytes),
        }
    }
}

impl Capacity {
    /// Its amount, at least 1, where `whole` is all there is.
    fn of(self, whole: u64) -> u64 {
        match self {
            Self::Exact(amount) => amount,
            Self::Percent(percent) => ((whole as f64 * percent / 100.0) as u64).max(1),
        }
    }
}

fn print_table(trace: &str, runs: &[Run]) {
    let width = trace.len().max(5);
    say(format_args!(
        "{:<width$}  {:<7}  {:>7}  {:>14}  {:>12}  {:>12}  {:>10}",
        "trace", "policy", "unit", "capacity", "requests", "misses", "miss_ratio"
    ));
    for run in runs {
        let (unit, amount) = run.room.parts();
        let (policy, ratio) = (run.policy.name(), run.miss_ratio());
        say(format_args!(
            "{trace:<width$}  {policy:<7}  {unit:>7}  {amount:>14}  {:>12}  {:>12}  {ratio:>10.4}",
            run.requests, run.misses
        ));
        if run.ledger.is_kept() {
            let (stale, byte_seconds) = (run.stale_ratio(), run.ledger.byte_seconds());
            say(format_args!("{:<width$}  of these stale {stale:.4}, held {byte_seconds:.3e} byte-seconds", ""));
        }
    }
}

fn entries(text: &str) -> std::result::Result<Capacity, String> {
    capacity(text, |text| text.parse().ok(), "a number of entries such as 10000, or a percentage such as 1%")
}

fn bytes(text: &str) -> std::result::Result<Capacity, String> {
    let size = |text: &str| text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64());
    capacity(text, size, "a size such as 64MiB, or a percentage such as 1%")
}

fn capacity(text: &str, exact: impl Fn(&str) -> Option<u64>, right: &str) -> std::result::Result<Capacity, String> {
    let capacity = match text.trim().strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|p| *p > 0.0 && *p <= 100.0).map(Capacity::Percent),
        None => exact(text.trim()).filter(|&amount| amount > 0).map(Capacity::Exact),
    };
    capacity.ok_or_else(|| format!("{text:?} is not {right}"))
}

fn ttl(text: &str) -> std::result::Result<Ttl, String> {
    match text {
        "ignore" => Ok(Ttl::Ignore),
        "recorded" => Ok(Ttl::Recorded),
        "tune" => Ok(Ttl::Tune),
        text => match seconds(text) {
            Ok(ms) => Ok(Ttl::Fixed(ms)),
            Err(_) => Err(format!("{text:?} is not ignore, recorded, tune or a number of seconds")),
        },
    }
}

/// Seconds as milliseconds.
fn seconds(text: &str) -> std::result::Result<u64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3.2e9 => Ok((seconds * 1_000.0) as u64),
        Ok(_) | Err(_) => Err(format!("{text:?} is not a number of seconds")),
    }
}

#[cfg(test)]
mod tests;
