//! Benefit and cost of prefetch: `cargo bench --bench prefetch`, or parts of it: `cargo bench --bench prefetch --
//! traces services adversary 3` (3 seeds each).
//!
//! * **traces**: each trace in `TERRACE_TRACES` (default `../shared/traces`) at 1 % and 10 % of its keys, through the
//!   engine of `terrace simulate`: ours with and without prefetch, with background fetches that arrive 1, 4 and 16
//!   requests late. For comparison: LRU without prefetch; the first reads of keys as a fraction of our misses without
//!   prefetch (*first*; only predictions of unseen keys can avoid them); a Markov chain over the same L1; and the
//!   figures of studies that are stored with the traces (`prefetch.csv`, `reference.csv`), each the best for its trace
//!   and size.
//! * **services**: the synthetic workload of `support/services.rs`: how many keys of new objects are in L1 when they
//!   are requested, and how soon prefetch follows a change of the schema. For keys that follow only sometimes, the
//!   output also shows the optimum with known probabilities: for the reads that ours added, and for 5 % more.
//! * **adversary**: random keys, and pairs that are no longer used: reads and memory that are wasted.
//!
//! Figures are medians over the seeds. CPU time is that of this thread per request: a run with prefetch minus a run
//! without.

#[path = "support/adversary.rs"]
mod adversary;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/markov.rs"]
mod markov;
#[path = "support/served.rs"]
mod served;
#[path = "support/services.rs"]
mod services;
#[path = "support/workload.rs"]
mod workload;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use figures::median;
use rustix::time::{ClockId, clock_gettime};
use served::{Served, Withstood};
use services::{Follow, Services};
use terrace::{
    cli::{
        simulate::engine::{Below, Expiry, Figures, Mode, Plan, Playback, Room, Run},
        trace::{Request, Trace},
    },
    l1::PolicyKind,
    learn::prefetch::PrefetchSettings,
};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const PERCENTS: [u64; 2] = [1, 10];
const DELAYS: [u64; 3] = [1, 4, 16];
/// Number of requests and of L1 entries of the synthetic workloads.
const SYNTHETIC: usize = 400_000;
const SYNTHETIC_ENTRIES: u64 = 20_000;
const SEEDS: u64 = 3;

/// Returns the CPU time of this thread in ns.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Returns the median of an odd number of figures.
fn plan(entries: u64, prefetch: Mode, delay: u64, seed: u64) -> Plan {
    let learn = PrefetchSettings::default();
    Plan { room: Room::Entries(entries), policy: PolicyKind::Learned, shards: None, seed, prefetch, delay, learn }
}

/// The directory of the traces: `TERRACE_TRACES`, otherwise next to the repository.
#[expect(clippy::disallowed_methods, reason = "a bench is no server; its one setting comes from the environment")]
fn folder() -> PathBuf {
    std::env::var("TERRACE_TRACES").unwrap_or_else(|_| "../shared/traces".to_owned()).into()
}

/// Outcomes of the requests in an L1, and their CPU time.
fn played(requests: &[Request], plan: Plan) -> (Figures, f64) {
    let mut below = Below::default();
    requests.iter().for_each(|request| below.add(request));
    let mut playback = Playback::new(below, Expiry::default());
    let mut run = [Run::new(plan)];
    let before = cpu_ns();
    requests.iter().for_each(|request| playback.play(request, &mut run, |_, _| {}));
    let ns = (cpu_ns() - before) as f64 / requests.len().max(1) as f64;
    (run[0].figures(), ns)
}

/// Returns a percentage of a number, at least one.
fn part(keys: u64, percent: u64) -> u64 {
    (keys * percent / 100).max(1)
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn traces(seeds: u64) -> Result {
    let folder = folder();
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|file| file.path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.to_string_lossy().ends_with(".csv.zst")).collect();
    files.sort();
    if files.is_empty() {
        println!("no traces in {} (TERRACE_TRACES): skipped", folder.display());
        return Ok(());
    }
    println!(
        "trace                      % |    LRU |   ours | d |   with | with/ours | first | reads % | right |  MiB | CPU ns"
    );
    for file in files {
        let requests: Vec<Request> = Trace::open(&file)?.collect::<std::result::Result<_, _>>()?;
        let mut below = Below::default();
        requests.iter().for_each(|request| below.add(request));
        for percent in PERCENTS {
            compare(&Trace::name(&file), &requests, (percent, below.keys()), seeds);
            studies(&folder, &Trace::name(&file), part(below.keys(), percent))?;
        }
    }
    Ok(())
}

fn compare(name: &str, requests: &[Request], (percent, keys): (u64, u64), seeds: u64) {
    let entries = part(keys, percent);
    let total = requests.len() as u64;
    let lru = Plan { policy: PolicyKind::Lru, shards: Some(1), ..plan(entries, Mode::Off, 1, 1) };
    let lru = ratio(played(requests, lru).0.misses, total);
    let without: Vec<(Figures, f64)> =
        (1..=seeds).map(|seed| played(requests, plan(entries, Mode::Off, 1, seed))).collect();
    let missed = median(without.iter().map(|(figures, _)| ratio(figures.misses, total)));
    let first = median(without.iter().map(|(figures, _)| ratio(keys, figures.misses)));
    for delay in DELAYS {
        let with: Vec<(Figures, f64)> =
            (1..=seeds).map(|seed| played(requests, plan(entries, Mode::Auto, delay, seed))).collect();
        let of = |figure: &dyn Fn(&Figures) -> f64| median(with.iter().map(|(figures, _)| figure(figures)));
        let pairs =
            || with.iter().zip(&without).map(|((with, ns), (without, ns_without))| (with, without, ns - ns_without));
        let over = median(pairs().map(|(with, without, _)| ratio(with.misses, without.misses)));
        let reads = median(pairs().map(|(with, without, _)| (ratio(with.l2_reads, without.l2_reads) - 1.0) * 100.0));
        let ns = median(pairs().map(|(_, _, ns)| ns));
        let right = of(&|figures| ratio(figures.counts.used + figures.counts.late, figures.counts.issued));
        println!(
            "{name:<22} {percent:>3} % | {lru:.4} | {missed:.4} |{delay:>2} | {:.4} | {over:>9.4} | {first:.3} | {reads:>+7.2} | {right:>5.2} | {:>4.1} | {ns:>6.0}",
            of(&|figures| ratio(figures.misses, total)),
            of(&|figures| figures.learned_bytes as f64 / f64::from(1 << 20)),
        );
    }
    let markov: Vec<markov::Outcome> = (1..=seeds).map(|seed| markov::play(requests.iter(), entries, seed)).collect();
    let over = median(markov.iter().zip(&without).map(|(markov, (without, _))| ratio(markov.misses, without.misses)));
    let reads = median(
        markov
            .iter()
            .zip(&without)
            .map(|(markov, (without, _))| (ratio(markov.l2_reads, without.l2_reads) - 1.0) * 100.0),
    );
    let misses = median(markov.iter().map(|markov| ratio(markov.misses, total)));
    println!(
        "{:<22} {:>5} | {:>6} | {:>6} |   | {misses:.4} | {over:>9.4} | {:>5} | {reads:>+7.2} |",
        "  Markov-1", "", "", "", ""
    );
}

/// Returns the best figures of the studies for this trace and size.
fn studies(folder: &Path, name: &str, entries: u64) -> Result {
    let named =
        [("prefetch.csv", "assoc"), ("prefetch.csv", "markov1"), ("reference.csv", "Mithril"), ("reference.csv", "PG")];
    for (file, algorithm) in named {
        let Ok(file) = std::fs::File::open(folder.join(file)) else { continue };
        let mut best: Option<(f64, String)> = None;
        for line in BufReader::new(file).lines() {
            let line = line?;
            let fields: Vec<&str> = line.split(',').collect();
            let &[of, size, what, misses, ..] = &fields[..] else { continue };
            if of != name || size.parse() != Ok(entries) || !what.contains(algorithm) {
                continue;
            }
            let misses: f64 = misses.parse()?;
            if best.as_ref().is_none_or(|(least, _)| misses < *least) {
                best = Some((misses, what.to_owned()));
            }
        }
        if let Some((misses, what)) = best {
            println!("  study, over LRU: {misses:.4} {what}");
        }
    }
    Ok(())
}

fn services(seeds: u64) {
    println!(
        "services: keys of new objects       |  often | sometimes |  best | at +5 % | with/ours | reads % | old off | new on | MiB"
    );
    for follow in [Follow::Often, Follow::Sometimes, Follow::Mixed] {
        for (sessions, with_callers) in [(60, true), (60, false), (1_000, true), (1_000, false)] {
            let services = |seed| Services { sessions, with_callers, follow, requests: SYNTHETIC, seed };
            let plan = |seed| plan(SYNTHETIC_ENTRIES, Mode::Auto, 1, seed);
            let all: Vec<Served> = (1..=seeds).map(|seed| served::serve(services(seed), plan(seed))).collect();
            let of = |figure: &dyn Fn(&Served) -> f64| median(all.iter().map(figure));
            let since = |figure: Option<usize>| figure.map_or(f64::NAN, |requests| requests as f64);
            let name =
                format!("{follow:?}, {sessions} sessions, {}", if with_callers { "identified" } else { "anonymous" });
            println!(
                "{name:<35} | {:.4} |    {:.4} | {:.3} | {:>7.3} | {:>9.4} | {:>+7.2} | {:>7} | {:>6} | {:.1}",
                of(&|served| served.often.ratio()),
                of(&|served| served.sometimes.ratio()),
                of(&|served| served.best(served.more_reads())),
                of(&|served| served.best(0.05)),
                of(&|served| ratio(served.with.misses, served.without.misses)),
                of(&|served| served.more_reads() * 100.0),
                of(&|served| since(served.old_off)),
                of(&|served| since(served.new_on)),
                of(&|served| served.with.learned_bytes as f64 / f64::from(1 << 20)),
            );
        }
    }
}

/// Capacity of L1 in the adversary runs in bytes: about a tenth of the bytes that are read.
const ADVERSARY_L1_BYTES: u64 = 8 << 20;

fn adversaries(seeds: u64) {
    println!("adversary                           | reads % | with/ours | staged, maximum, % of L1's bytes");
    type Make = fn(u64) -> Vec<Request>;
    let makers: [(&str, Make); 3] = [
        ("random keys", |seed| adversary::chance(SYNTHETIC, seed)),
        ("abandoned pairs, similar keys", |seed| adversary::pairs(SYNTHETIC, seed, adversary::alike)),
        ("abandoned pairs, unrelated keys", |seed| adversary::pairs(SYNTHETIC, seed, adversary::unlike)),
    ];
    for (name, make) in makers {
        let room = Room::Bytes(ADVERSARY_L1_BYTES);
        let all: Vec<Withstood> = (1..=seeds)
            .map(|seed| served::withstand(&make(seed), Plan { room, ..plan(1, Mode::Auto, 1, seed) }))
            .collect();
        let reads = median(all.iter().map(|of| of.more_reads * 100.0));
        let over = median(all.iter().map(|of| of.misses_over));
        let staged = median(all.iter().map(|of| ratio(of.staged_bytes, ADVERSARY_L1_BYTES) * 100.0));
        println!("{name:<35} | {reads:>+7.2} | {over:>9.4} | {staged:.1}");
    }
}

fn main() -> Result {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let seeds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(SEEDS).max(1);
    let parts: Vec<&str> = words.iter().filter(|word| word.parse::<u64>().is_err()).map(String::as_str).collect();
    let is_wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    if is_wanted("services") {
        services(seeds);
    }
    if is_wanted("adversary") {
        adversaries(seeds);
    }
    if is_wanted("traces") {
        traces(seeds)?;
    }
    Ok(())
}
