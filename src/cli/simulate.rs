//! `terrace simulate`: plays a trace through L1 alone, in this process, and prints the miss ratio: a capacity planner
//! that needs no server.
//!
//! Time is the trace's. All sizes and policies are played in one pass, each through an L1 of its own with fixed seeds:
//! the same trace gives the same figures.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

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
    l1::{Epoch, Fill, Filled, L1, Leased, PolicyKind, Residence, Settings, Token},
    learn::{
        self, Counts, FETCHES_MAX, Learner, Moment, Presence, World,
        intervals::{self, Intervals},
        recorder::{Caller, Happened, Sample},
        shape::Shapes,
    },
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
    /// Prefetch as a server would: auto fetches what has proven itself, shadow only measures.
    #[arg(long, value_name = "MODE,...", value_delimiter = ',', value_enum, default_value = "off")]
    prefetch: Vec<Mode>,
    /// Requests before a background fetch arrives; what rides with a miss arrives with it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    prefetch_delay: u64,
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

/// As the command line names what prefetch may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Nothing is learned.
    Off,
    /// It is learned and measured, and nothing is fetched.
    Shadow,
    /// What has proven itself is fetched.
    Auto,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Auto => "auto",
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
    ahead: Option<Ahead>,
    requests: u64,
    misses: u64,
    l2_reads: u64,
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
    if args.ttl == Ttl::Tune && args.prefetch.iter().any(|&mode| mode != Mode::Off) {
        return Err(Failure::new("--ttl tune and --prefetch are simulated one at a time: leave one of them out"));
    }
    let is_relative = args.entries.iter().chain(&args.l1_size).any(|capacity| matches!(capacity, Capacity::Percent(_)));
    let is_ahead = args.prefetch.iter().any(|&mode| mode != Mode::Off);
    let below = if is_relative || is_ahead { census(&args.trace)? } else { Below::default() };
    let census = below.census();
    let entries = args.entries.iter().map(|capacity| Room::Entries(capacity.of(census.keys)));
    let sizes = args.l1_size.iter().map(|capacity| Room::Bytes(capacity.of(census.bytes)));
    let rooms: Vec<Room> = entries.chain(sizes).collect();
    let mut runs = Vec::new();
    for &policy in &args.l1_policy {
        for &room in &rooms {
            runs.extend(args.prefetch.iter().map(|&mode| Run::new(policy, room, args, mode)));
        }
    }
    let tuner = Tuner::new(args.ttl_min);
    let (ttl, ttl_none) = (args.ttl, args.ttl_none);
    let mut played = Playback { ttl, ttl_none, tuner, zeros: Bytes::new(), now: Tick(START_MS), below };
    for request in Trace::open(&args.trace).map_err(Failure::new)? {
        played.play(&request.map_err(Failure::new)?, &mut runs);
    }
    Ok(runs)
}

/// What L2 has: each key of the file, at its largest size and with its first expiry.
fn census(path: &Path) -> Result<Below> {
    let mut below = Below::default();
    let all: std::result::Result<(), TraceError> = Trace::open(path).map_err(Failure::new)?.try_for_each(|request| {
        let Request { key, size, ttl_ms, .. } = request?;
        below.0.entry(key).and_modify(|known| known.size = size.max(known.size)).or_insert(Stored { size, ttl_ms });
        Ok(())
    });
    all.map_err(Failure::new)?;
    Ok(below)
}

/// L2 as the simulator has it.
#[derive(Default)]
struct Below(HashMap<Vec<u8>, Stored>);

#[derive(Clone, Copy)]
struct Stored {
    size: u64,
    ttl_ms: Option<u64>,
}

impl Below {
    fn census(&self) -> Census {
        Census { keys: self.0.len() as u64, bytes: self.0.values().map(|stored| stored.size).sum() }
    }
}

/// What is the same for all runs.
struct Playback {
    ttl: Ttl,
    ttl_none: Option<u64>,
    tuner: Tuner,
    /// As many zeros as the largest value so far.
    zeros: Bytes,
    now: Tick,
    below: Below,
}

impl Playback {
    fn play(&mut self, request: &Request, runs: &mut [Run]) {
        // Time never goes back, even where a trace is not in order.
        self.now = self.now.max(Tick(START_MS + request.at_ms));
        let key = Key::copied(&request.key).ok();
        let caller = Caller(request.caller.as_deref().map_or(ALONE, caller_of));
        let ttl_ms = match self.ttl {
            Ttl::Tune => Some(self.tuner.ttl_ms(&request.key, self.now)),
            Ttl::Ignore | Ttl::Recorded | Ttl::Fixed(_) => self.ttl_of(request.ttl_ms),
        };
        let recorded_ms = request.ttl_ms.or(self.ttl_none);
        for run in runs {
            // What Terrace does not take is a miss each time.
            let fill = self.fill(run.room, request.size, ttl_ms);
            let expires_at = self.end_of(ttl_ms);
            let hit = run.request(key.as_ref().zip(fill), caller, self);
            if self.ttl != Ttl::Ignore {
                run.ledger.note(request, hit, self.now, expires_at, recorded_ms);
            }
        }
    }

    /// The TTL of a value, as far as it goes by the value alone.
    fn ttl_of(&self, recorded_ms: Option<u64>) -> Option<u64> {
        match self.ttl {
            Ttl::Ignore => None,
            Ttl::Recorded | Ttl::Tune => recorded_ms.or(self.ttl_none),
            Ttl::Fixed(ms) => Some(ms),
        }
    }

    fn end_of(&self, ttl_ms: Option<u64>) -> Tick {
        ttl_ms.map_or(Tick::FAR, |ms| Tick(self.now.0 + ms))
    }

    /// A copy of what L2 has, as an L1 of this kind keeps it.
    fn fill(&mut self, room: Room, size: u64, ttl_ms: Option<u64>) -> Option<Fill> {
        let value = match room {
            Room::Entries(_) => Some(Bytes::new()),
            Room::Bytes(_) => self.value(size),
        };
        let expires_at = self.end_of(ttl_ms);
        value.map(|value| Fill { value: value.into(), expires_at, deadline: expires_at, group: 0 })
    }

    /// What a fetch of this key brings, if L2 has it.
    fn fetch(&mut self, room: Room, key: &Key) -> Option<Fill> {
        let stored = *self.below.0.get(&**key)?;
        let ttl_ms = self.ttl_of(stored.ttl_ms);
        self.fill(room, stored.size, ttl_ms)
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
    fn new(policy: Policy, room: Room, args: &Args, mode: Mode) -> Self {
        let (capacity_bytes, max_entries) = match room {
            Room::Entries(entries) => (u64::MAX, Some(entries)),
            Room::Bytes(bytes) => (bytes, None),
        };
        let settings = Settings { capacity_bytes, max_entries, policy: policy.kind() };
        let l1 = match args.shards {
            Some(shards) => L1::with_shards(settings, shards, Some(SEED)),
            None => L1::seeded(settings, SEED),
        };
        let epoch = l1.begin(Tick::FAR);
        let ahead = (mode != Mode::Off).then(|| Ahead::new(mode, args.prefetch_delay));
        Self { policy, room, l1, epoch, ahead, requests: 0, misses: 0, l2_reads: 0, ledger: Ledger::default() }
    }

    /// One read: get, and on a miss insert. Says whether it was a hit.
    fn request(&mut self, copy: Option<(&Key, Fill)>, caller: Caller, played: &mut Playback) -> bool {
        self.requests += 1;
        self.land(played);
        let Some((key, fill)) = copy else {
            self.misses += 1;
            self.l2_reads += 1;
            return false;
        };
        match self.l1.get(key, played.now, true) {
            Some(hit) if hit.is_first_use => {
                self.learn(key, caller, Moment::Used, played);
                true
            }
            Some(_) => true,
            None => {
                self.misses += 1;
                self.miss(key, fill, played.now);
                self.learn(key, caller, Moment::Missed, played);
                false
            }
        }
    }

    /// Reads a key that L1 lacks, or joins the fetch under way.
    fn miss(&mut self, key: &Key, fill: Fill, now: Tick) {
        let own = self.token(0);
        let token = match self.l1.lease(key, own, now, self.epoch, false) {
            Leased::Lead => {
                self.l2_reads += 1;
                own
            }
            Leased::Join(other) => other,
            Leased::Hit(_) => return,
        };
        // A value over an eighth of L1 is not kept, as on a server.
        let _kept: Filled = self.l1.fill(key, token, fill, now);
    }

    /// Names a fetch of this request.
    fn token(&self, number: u64) -> Token {
        Token(self.requests * (FETCHES_MAX as u64 + 1) + number)
    }

    /// Background fetches whose time has come.
    fn land(&mut self, played: &mut Playback) {
        while let Some((key, token)) = self.ahead.as_mut().and_then(|ahead| ahead.next_due(self.requests)) {
            self.bring(&key, token, played);
        }
    }

    /// A fetch arrives.
    fn bring(&mut self, key: &Key, token: Token, played: &mut Playback) {
        let filled = match played.fetch(self.room, key) {
            Some(fill) => self.l1.fill_staged(key, token, fill, played.now),
            None => {
                self.l1.release(key, token);
                if let Some(ahead) = &mut self.ahead {
                    ahead.learner.absent(key);
                }
                Filled::Voided
            }
        };
        if let Some(ahead) = &mut self.ahead
            && matches!(filled, Filled::TooLarge | Filled::Expired)
        {
            ahead.learner.unused(key);
        }
    }

    /// Tells the learner, and fetches what it says.
    fn learn(&mut self, key: &Key, caller: Caller, moment: Moment, played: &mut Playback) {
        let Some(ahead) = &mut self.ahead else { return };
        let (l1, now) = (&self.l1, played.now);
        l1.take_unused(|key| ahead.learner.unused(key));
        let presence = |key: &[u8]| match (l1.residence(key, now), ahead.mode) {
            (Residence::Resident, _) => Presence::Resident,
            (Residence::Staged | Residence::InFlight, _) => Presence::Coming,
            (Residence::Absent, Mode::Auto) => Presence::Absent,
            (Residence::Absent, Mode::Shadow | Mode::Off) => Presence::Barred,
        };
        let world = World { presence: &presence, room: l1.room_entries(), displaced: l1.staged().displaced };
        let mut fetches = std::mem::take(&mut ahead.fetches);
        ahead.learner.learn(key, caller, moment, &world, &mut fetches);
        for (number, key) in fetches.drain(..).enumerate() {
            let token = self.token(1 + number as u64);
            self.l2_reads += 1;
            let leased = self.epoch.is_some_and(|epoch| self.l1.lease_ahead(&key, token, now, epoch));
            match (moment, leased) {
                (_, false) => {}
                (Moment::Missed, true) => self.bring(&key, token, played),
                (Moment::Used, true) => {
                    if let Some(ahead) = &mut self.ahead {
                        ahead.due.push_back((self.requests + ahead.delay, key, token));
                    }
                }
            }
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.fetches = fetches;
        }
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
        let learner = self.ahead.as_ref().map(|ahead| &ahead.learner);
        let Counts { issued, used, late, wasted, .. } = learner.map(Learner::counts).unwrap_or_default();
        line["issued"] = issued.into();
        line["used"] = used.into();
        line["late"] = late.into();
        line["wasted"] = wasted.into();
        line["precision"] = if issued == 0 { 0.0 } else { (used + late) as f64 / issued as f64 }.into();
        line["learned_bytes"] = learner.map_or(0, Learner::bytes).into();
        line["prefetch"] = self.ahead.as_ref().map_or(Mode::Off, |ahead| ahead.mode).name().into();
        line["l2_reads"] = self.l2_reads.into();
        if self.ledger.is_kept() {
            line["stale_ratio"] = self.stale_ratio().into();
            line["byte_seconds"] = self.ledger.byte_seconds().into();
        }
        line
    }
}

/// Prefetch over one L1.
struct Ahead {
    mode: Mode,
    delay: u64,
    learner: Learner,
    /// Background fetches under way: when each arrives, in that order.
    due: VecDeque<(u64, Key, Token)>,
    fetches: Vec<Key>,
}

impl Ahead {
    fn new(mode: Mode, delay: u64) -> Self {
        let learner = Learner::new(learn::Settings::default());
        Self { mode, delay, learner, due: VecDeque::new(), fetches: Vec::new() }
    }

    /// A fetch that arrives before this request.
    fn next_due(&mut self, request: u64) -> Option<(Key, Token)> {
        let is_due = self.due.front().is_some_and(|&(at, ..)| at <= request);
        is_due.then(|| self.due.pop_front()).flatten().map(|(_, key, token)| (key, token))
    }
}

/// Whose requests those of a trace without callers are.
const ALONE: u64 = 1;

/// Names a caller of a trace.
fn caller_of(name: &[u8]) -> u64 {
    name.iter().fold(ALONE, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)).max(ALONE + 1)
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
