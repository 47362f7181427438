//! `terrace simulate`: replays a trace through L1 in this process and prints the miss ratio, for capacity planning
//! without a server.
//!
//! The time is the trace's. All sizes and policies are simulated in one pass, each with a separate L1 and fixed seeds,
//! so the same trace gives the same results.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;

use super::{
    Failure, Format, Result,
    record::one_in,
    say,
    trace::{Trace, TraceError},
};
use crate::{
    l1::PolicyKind,
    learn::prefetch::{FetchCounts, PrefetchSettings},
};
use engine::{Below, Expiry, Figures, Mode, Plan, Playback, Room, Run, Ttl};
use fleet::{Fleet, Routing};
use line::{Against, Fixed};

pub mod engine;
mod fleet;
mod line;
mod plot;
mod ttl;

/// Simulate L1 on a trace and print the miss ratio, without a server.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Trace file with lines timestamp_seconds,key,size[,ttl[,caller]], plain or zstd-compressed.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
    /// L1 capacities in entries: numbers, or percentages of the unique keys in the trace. Each entry has weight 1.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = entries)]
    entries: Vec<Capacity>,
    /// L1 capacities in bytes: sizes, or percentages of the total size of the unique keys. Entries have their real weight.
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = bytes)]
    l1_size: Vec<Capacity>,
    /// Share of the keys that the trace contains [default: as in the header of the trace, otherwise 1/1].
    ///
    /// Capacities are specified for all keys. Each is divided by N, because one key in N needs one N-th of the capacity.
    /// Percentages refer to the keys in the trace, so they do not depend on N.
    #[arg(long, value_name = "1/N", value_parser = one_in)]
    sample: Option<u32>,
    /// Eviction policies to simulate.
    #[arg(long, value_name = "POLICY,...", value_delimiter = ',', value_enum, default_value = "learned")]
    l1_policy: Vec<Policy>,
    /// TTL of entries: ignore (no TTL), recorded (from the trace), tune (learned, as with ttl = "tune"), or a fixed number of seconds.
    ///
    /// Except with ignore, the result includes the share of requests answered later than the recorded TTL of the value
    /// (stale) and the memory held, in byte-seconds. With tune, the result compares both with a fixed TTL of equal hit
    /// rate. Use a capacity that fits all keys for this comparison, because evicted entries count as held.
    #[arg(long, value_name = "ignore|recorded|tune|SECONDS", value_parser = ttl, default_value = "ignore")]
    ttl: Ttl,
    /// Prefetch modes to simulate.
    #[arg(long, value_name = "MODE,...", value_delimiter = ',', value_enum, default_value = "off")]
    prefetch: Vec<Mode>,
    /// Delay of background prefetches, in requests. Piggybacked prefetches arrive together with the miss.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    prefetch_delay: u64,
    /// Recorded TTL to assume for requests without one [default: no expiry].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    ttl_none: Option<u64>,
    /// Minimum TTL of --ttl tune, and TTL of entries without enough evidence; the default equals the default of learn.ttl_min.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "300")]
    ttl_min: u64,
    /// Number of L1 shards [default: as in a server of the same capacity].
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Number of nodes over one L2. Capacities are those of all nodes together; each node has an equal part.
    ///
    /// With more than one node, the result includes the hit rate of the fleet and the share of the requests that the
    /// busiest node received. The nodes learn separately. --prefetch-delay counts the requests of one node.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=NODES_MAX))]
    nodes: u32,
    /// Selections of the node of a request to simulate, with more than one node. Nodes have the names node-1, node-2, ...
    #[arg(long, value_name = "ROUTING,...", value_delimiter = ',', value_enum, default_value = "key")]
    routing: Vec<Routing>,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write the miss ratio curve to this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Eviction policies, as named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// Evict the entry with the lowest learned value.
    Learned,
    /// Evict the least recently used entry.
    Lru,
}

impl Policy {
    fn kind(self) -> PolicyKind {
        match self {
            Self::Learned => PolicyKind::Learned,
            Self::Lru => PolicyKind::Lru,
        }
    }
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

/// A capacity, as specified on the command line.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Capacity {
    Exact(u64),
    Percent(f64),
}

/// Seed of every simulated L1.
const SEED: u64 = 7;

/// Maximum number of simulated nodes.
const NODES_MAX: i64 = 1_000;

/// Result of one plan.
struct Played {
    fleet: Fleet,
    /// Runs with fixed TTLs, in ascending order; empty unless the TTL is tuned.
    line: Vec<Run>,
    /// The trace contains one key in this many.
    one_in: u32,
}

impl Played {
    /// Returns the unit and amount of the capacity of all nodes for all keys.
    fn capacity(&self) -> (&'static str, u64) {
        let (unit, amount) = self.fleet.plan().room.parts();
        (unit, amount.saturating_mul(u64::from(self.one_in)).saturating_mul(self.fleet.nodes()))
    }

    /// Returns the L1s that a request reaches.
    fn reached(&mut self, key: &[u8]) -> impl Iterator<Item = &mut Run> {
        self.fleet.node(key).into_iter().chain(&mut self.line)
    }
}

pub(super) fn run(args: Args) -> Result {
    let all = simulate(&args)?;
    let name = Trace::name(&args.trace);
    match args.format {
        Format::Text => print_table(&name, &all),
        Format::Json => all.iter().for_each(|played| say(to_json(played, &name))),
    }
    if let Some(path) = &args.plot {
        let drawing = plot::draw(&name, &all);
        std::fs::write(path, drawing).map_err(|error| Failure::new(format_args!("{}: {error}", path.display())))?;
    }
    Ok(())
}

fn simulate(args: &Args) -> Result<Vec<Played>> {
    if args.entries.is_empty() && args.l1_size.is_empty() {
        let why = "no capacity is specified; set --l1-size (bytes, such as 256MiB) or --entries (a number of entries)";
        return Err(Failure::usage(why));
    }
    if args.ttl == Ttl::Tune && args.prefetch.iter().any(|&mode| mode != Mode::Off) {
        return Err(Failure::new("--ttl tune and --prefetch cannot be combined; specify one of them"));
    }
    if args.ttl == Ttl::Tune && args.nodes > 1 {
        return Err(Failure::new("--ttl tune and --nodes cannot be combined; specify one of them"));
    }
    let is_relative = args.entries.iter().chain(&args.l1_size).any(|capacity| matches!(capacity, Capacity::Percent(_)));
    let is_ahead = args.prefetch.iter().any(|&mode| mode != Mode::Off);
    let below = if is_relative || is_ahead { below(&args.trace)? } else { Below::default() };
    let fixed_ms: &[u64] = if args.ttl == Ttl::Tune { &line::MULTIPLES } else { &[] };
    let one_in = args.sample.map_or_else(|| sample(&args.trace), Ok)?;
    let routings = if args.nodes > 1 { &args.routing[..] } else { &[Routing::Key] };
    let mut all = Vec::new();
    for plan in plans(args, &below, one_in) {
        all.extend(routings.iter().map(|&routing| Played {
            fleet: Fleet::new(plan, args.nodes, routing),
            line: fixed_ms.iter().map(|times| Run::fixed(plan, times.saturating_mul(args.ttl_min))).collect(),
            one_in,
        }));
    }
    let mut playback = Playback::new(below, Expiry { ttl: args.ttl, none_ms: args.ttl_none, min_ms: args.ttl_min });
    for request in Trace::open(&args.trace).map_err(Failure::new)? {
        let request = request.map_err(Failure::new)?;
        playback.play(&request, all.iter_mut().flat_map(|played| played.reached(&request.key)), |_, _| {});
    }
    Ok(all)
}

/// Returns the plan of each node per policy, capacity and prefetch mode.
fn plans(args: &Args, below: &Below, one_in: u32) -> Vec<Plan> {
    let part = |capacity: &Capacity, whole| (capacity.of(whole, one_in) / u64::from(args.nodes)).max(1);
    let entries = args.entries.iter().map(|capacity| Room::Entries(part(capacity, below.keys())));
    let sizes = args.l1_size.iter().map(|capacity| Room::Bytes(part(capacity, below.bytes())));
    let rooms: Vec<Room> = entries.chain(sizes).collect();
    let mut plans = Vec::new();
    for policy in &args.l1_policy {
        for &room in &rooms {
            plans.extend(args.prefetch.iter().map(|&prefetch| Plan {
                room,
                policy: policy.kind(),
                shards: args.shards,
                seed: SEED,
                prefetch,
                delay: args.prefetch_delay,
                learn: PrefetchSettings::default(),
            }));
        }
    }
    plans
}

/// Returns N if the header of the trace says that it contains one key in N; else 1.
fn sample(path: &Path) -> Result<u32> {
    let mut trace = Trace::open(path).map_err(Failure::new)?;
    // The header is read with the first request.
    trace.next().transpose().map_err(Failure::new)?;
    Ok(trace.one_in())
}

/// Reads the trace into a simulated L2.
fn below(path: &Path) -> Result<Below> {
    let mut below = Below::default();
    let all: std::result::Result<(), TraceError> = Trace::open(path).map_err(Failure::new)?.try_for_each(|request| {
        below.add(&request?);
        Ok(())
    });
    all.map_err(Failure::new)?;
    Ok(below)
}

/// Returns `part` as a share of the requests.
fn share(part: u64, requests: u64) -> f64 {
    if requests == 0 { 0.0 } else { part as f64 / requests as f64 }
}

fn miss_ratio(fleet: &Fleet) -> f64 {
    let Figures { requests, misses, .. } = fleet.figures();
    share(misses, requests)
}

/// Returns the share of requests answered later than the recorded TTL of the value.
fn stale_ratio(fleet: &Fleet) -> f64 {
    share(fleet.stale(), fleet.figures().requests)
}

/// Returns the share of the requests that the busiest node received.
fn busiest_share(fleet: &Fleet) -> f64 {
    share(fleet.busiest(), fleet.figures().requests)
}

fn policy_name(fleet: &Fleet) -> &'static str {
    match fleet.plan().policy {
        PolicyKind::Learned => "learned",
        PolicyKind::Lru => "lru",
    }
}

fn to_json(played: &Played, trace: &str) -> serde_json::Value {
    let fleet = &played.fleet;
    let (unit, amount) = played.capacity();
    let Figures { requests, misses, l2_reads, counts, learned_bytes, .. } = fleet.figures();
    let FetchCounts { issued, used, late, wasted, .. } = counts;
    let mut line = json!({ "trace": trace, "policy": policy_name(fleet) });
    line[unit] = amount.into();
    if played.one_in > 1 {
        line["one_in"] = played.one_in.into();
    }
    line["requests"] = requests.into();
    line["misses"] = misses.into();
    line["miss_ratio"] = miss_ratio(fleet).into();
    line["issued"] = issued.into();
    line["used"] = used.into();
    line["late"] = late.into();
    line["wasted"] = wasted.into();
    line["precision"] = share(used + late, issued).into();
    line["learned_bytes"] = learned_bytes.into();
    line["prefetch"] = fleet.plan().prefetch.name().into();
    line["l2_reads"] = l2_reads.into();
    if fleet.nodes() > 1 {
        line["nodes"] = fleet.nodes().into();
        line["routing"] = fleet.routing().name().into();
        line["hit_rate"] = (1.0 - miss_ratio(fleet)).into();
        line["busiest_share"] = busiest_share(fleet).into();
    }
    if fleet.has_ledger() {
        line["stale_ratio"] = stale_ratio(fleet).into();
        line["byte_seconds"] = fleet.byte_seconds().into();
    }
    if let Some(Against { fixed, bytes_ratio, is_beaten }) = line::against(fleet, &played.line) {
        line["fixed"] =
            json!({ "ttl_s": fixed.ttl_s, "stale_ratio": fixed.stale_ratio, "byte_seconds": fixed.byte_seconds });
        line["bytes_over_fixed"] = bytes_ratio.into();
        line["beaten_by_fixed"] = is_beaten.into();
    }
    line
}

impl Room {
    /// Returns the unit and the amount.
    fn parts(self) -> (&'static str, u64) {
        match self {
            Self::Entries(entries) => ("entries", entries),
            Self::Bytes(bytes) => ("bytes", bytes),
        }
    }
}

impl Capacity {
    /// Returns the absolute amount to simulate for one key in `one_in`, at least 1. Percentages refer to `whole`, the amount
    /// in the trace.
    fn of(self, whole: u64, one_in: u32) -> u64 {
        match self {
            Self::Exact(amount) => (amount / u64::from(one_in)).max(1),
            Self::Percent(percent) => ((whole as f64 * percent / 100.0) as u64).max(1),
        }
    }
}

fn print_table(trace: &str, all: &[Played]) {
    let width = trace.len().max(5);
    if let Some(one_in) = all.first().map(|played| played.one_in).filter(|&one_in| one_in > 1) {
        say(format_args!(
            "{trace} is a sample of 1/{one_in} of the keys: each capacity was simulated with 1/{one_in} of its size"
        ));
    }
    say(format_args!(
        "{:<width$}  {:<7}  {:<8}  {:>7}  {:>14}  {:>12}  {:>12}  {:>10}",
        "trace", "policy", "prefetch", "unit", "capacity", "requests", "misses", "miss_ratio"
    ));
    for played in all {
        let Played { fleet, line, .. } = played;
        let (unit, amount) = played.capacity();
        let (policy, ratio, prefetch) = (policy_name(fleet), miss_ratio(fleet), fleet.plan().prefetch.name());
        let Figures { requests, misses, .. } = fleet.figures();
        say(format_args!(
            "{trace:<width$}  {policy:<7}  {prefetch:<8}  {unit:>7}  {amount:>14}  {requests:>12}  {misses:>12}  \
             {ratio:>10.4}"
        ));
        if fleet.nodes() > 1 {
            let (nodes, routing, busiest) = (fleet.nodes(), fleet.routing().name(), busiest_share(fleet));
            say(format_args!(
                "{:<width$}  {nodes} nodes, routing {routing}: hit rate {:.4}, busiest node has {busiest:.4} of the requests",
                "",
                1.0 - ratio
            ));
        }
        if fleet.has_ledger() {
            let (stale, byte_seconds) = (stale_ratio(fleet), fleet.byte_seconds());
            say(format_args!("{:<width$}  stale {stale:.4}, held {byte_seconds:.3e} byte-seconds", ""));
        }
        if let Some(Against { fixed, bytes_ratio, is_beaten }) = line::against(fleet, line) {
            let Fixed { ttl_s, stale_ratio, byte_seconds, .. } = fixed;
            say(format_args!(
                "{:<width$}  fixed TTL of equal hit rate: {ttl_s:.1} s, stale {stale_ratio:.4}, held {byte_seconds:.3e} \
                 byte-seconds",
                ""
            ));
            let verdict = if is_beaten {
                "the fixed TTL is better in every respect"
            } else {
                "no fixed TTL is better in every respect"
            };
            say(format_args!(
                "{:<width$}  tuned TTLs hold {bytes_ratio:.3} times the bytes of the fixed TTL: {verdict}",
                ""
            ));
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
    capacity.ok_or_else(|| format!("invalid capacity {text:?}; expected {right}"))
}

fn ttl(text: &str) -> std::result::Result<Ttl, String> {
    match text {
        "ignore" => Ok(Ttl::Ignore),
        "recorded" => Ok(Ttl::Recorded),
        "tune" => Ok(Ttl::Tune),
        text => match seconds(text) {
            Ok(ms) => Ok(Ttl::Fixed(ms)),
            Err(_) => Err(format!("invalid TTL {text:?}; expected ignore, recorded, tune or a number of seconds")),
        },
    }
}

/// Parses seconds and returns milliseconds.
fn seconds(text: &str) -> std::result::Result<u64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3.2e9 => Ok((seconds * 1_000.0) as u64),
        Ok(_) | Err(_) => Err(format!("invalid number of seconds {text:?}; expected more than 0 and at most 3.2e9")),
    }
}

#[cfg(test)]
mod tests;
